"""The dashboards' page of runs against a real Prefect server: what is served, a refusal in words, a
start, a stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from streamlit.testing.v1 import AppTest

from components.errors import ServiceError
from dashboards import parameters, workflow
from tests.dashboards.test_markdown import HOSTILE, seen

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]
PAGE = Path(__file__).resolve().parents[2] / "dashboards" / "pages" / "runs.py"


@pytest.fixture
def prefect(servers: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The identity of the experiment's deployment on the test session's own server."""
    from flows.experiment import experiment
    from flows.parameters import reference

    monkeypatch.setenv("LATENTFLOW_PREFECT_URL", str(PREFECT_API_URL.value()).removesuffix("/api"))
    st.cache_resource.clear()
    config = {"config": reference().model_dump(mode="json")}
    yield str(
        experiment.to_deployment(name="local", parameters=config, tags=["latentflow"]).apply()
    )


def served() -> workflow.Deployment:
    (found,) = [each for each in workflow.deployments() if each.flow == "experiment"]
    return found


def test_a_deployment_is_read_with_its_schema_and_its_values(prefect: str) -> None:
    deployment = served()
    assert deployment.id == prefect
    assert not deployment.served  # nobody serves it in this test
    known = parameters.fields(deployment.schema, deployment.parameters["config"])
    default, *others = known["train.dictionary.kind"].choices
    assert default == "topk" and others == sorted(others)
    assert known["train.dictionary.k"].form == "integer"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("train.tokens", -5, "config.train.tokens.*-5 is less than the minimum of 0"),
        # in a union Prefect names the section, and its values
        ("train.dictionary.k", 0, "config.train.dictionary'.*'k': 0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_dotted_path(
    prefect: str, name: str, value: int, said: str
) -> None:
    deployment = served()
    config = parameters.changed(deployment.parameters["config"], {name: value})
    with pytest.raises(ServiceError, match=f"Prefect refuses.*{said}"):
        workflow.start(deployment, {"config": config})


def test_a_run_is_started_found_waiting_and_stopped(prefect: str) -> None:
    deployment = served()
    config = parameters.changed(
        deployment.parameters["config"], {"name": "from the page", "train.dictionary.kind": "relu"}
    )
    identity = workflow.start(deployment, {"config": config})
    run = workflow.flow_run(identity)
    assert (run.flow, run.state, run.finished) == ("experiment", "SCHEDULED", False)
    assert identity in [each.id for each in workflow.unfinished()] and identity in [
        each.id for each in workflow.recent()
    ]
    assert (
        workflow.tasks(identity) == []
        and workflow.progress(identity) is None
        and workflow.report_of(identity) is None
    )
    with get_client(sync_client=True) as client:
        held = client.read_flow_run(identity).parameters["config"]
    assert held["train"]["dictionary"]["kind"] == "relu" and "k" not in held["train"]["dictionary"]
    workflow.cancel(identity)
    assert workflow.flow_run(identity).state in ("CANCELLING", "CANCELLED")


def test_a_cancel_that_prefect_rejects_says_why(prefect: str, first: dict[str, str]) -> None:
    done = next(run for run in workflow.recent(50) if run.state == "COMPLETED")
    with pytest.raises(
        ServiceError,
        match="^Prefect does not cancel this run: .*(final|terminal|completed|CANCELLING)",
    ):
        workflow.cancel(done.id)


def test_the_name_of_a_run_is_no_markup(
    prefect: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATENTFLOW_STORE", str(tmp_path / "artifacts"))
    deployment = served()
    identity = workflow.start(deployment, {"config": deployment.parameters["config"]})
    with get_client(sync_client=True) as client:
        client.update_flow_run(identity, name=HOSTILE)
    app = AppTest.from_file(str(PAGE), default_timeout=60)
    app.query_params["run"] = identity
    app.run()
    assert not app.exception
    shown = [element.value for element in app.markdown if "smile" in element.value]
    overview = AppTest.from_file(str(PAGE.with_name("overview.py")), default_timeout=60).run()
    shown += [element.value for element in overview.info if "smile" in element.value]
    workflow.cancel(identity)
    assert len(shown) == 3 and all(HOSTILE in seen(source) for source in shown), shown


def test_an_unknown_flow_run_is_a_sentence(prefect: str) -> None:
    with pytest.raises(
        ServiceError, match="knows no flow run 00000000-0000-0000-0000-000000000000"
    ):
        workflow.flow_run("00000000-0000-0000-0000-000000000000")


def test_the_page_fills_the_form_names_a_wrong_line_and_starts_what_it_shows(
    prefect: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATENTFLOW_STORE", str(tmp_path / "artifacts"))
    app = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not app.exception
    app.selectbox(key="experiment train.dictionary.kind").set_value("relu").run()
    app.number_input(key="experiment train.seed").set_value(7).run()
    app.text_area(key="more experiment").set_value("train.token=5").run()
    assert "no parameter 'train.token'; nearest: train.tokens" in app.error[0].value
    start = next(button for button in app.button if button.label == "Start the run")
    assert start.disabled
    app.text_area(key="more experiment").set_value("interpret.contexts.top=9").run()
    assert app.code[0].value == (
        "latentflow experiment train.dictionary.kind=relu train.dictionary.d_sae=1024 "
        "train.seed=7 interpret.contexts.top=9"
    )
    next(button for button in app.button if button.label == "Start the run").click().run()
    assert not app.exception and not app.error
    identity = app.query_params["run"]
    with get_client(sync_client=True) as client:
        held = client.read_flow_run(identity).parameters["config"]
    assert held["train"]["seed"] == 7 and held["interpret"]["contexts"]["top"] == 9
    assert held["train"]["dictionary"]["kind"] == "relu"
    said = "\n".join(element.value for element in [*app.markdown, *app.caption])
    assert "Scheduled" in said and "Waiting for the process that serves it" in said
    workflow.cancel(identity)


def test_a_finished_run_is_followed_to_its_report(prefect: str, first: dict[str, str]) -> None:
    ended = [
        run for run in workflow.recent(50) if run.flow == "experiment" and run.state == "COMPLETED"
    ]
    done = next(run for run in ended if workflow.report_of(run.id) == first["key"])
    assert {"read", "train", "report"} <= {stage.name for stage in workflow.tasks(done.id)}
    assert done.seconds > 0 and done.finished
    assert os.environ["LATENTFLOW_PREFECT_URL"] in done.address
