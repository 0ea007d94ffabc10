"""Pages run headless on an invented experiment: what they show, deep links, and a sentence for every fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from components.store.artifact import Store

APP = Path(__file__).resolve().parents[2] / "dashboards" / "app.py"
PAGES = ("overview", "compare", "training", "latents", "explanations", "steering", "lineage")
Open = Callable[..., AppTest]


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Open:
    """Opens a page of the application on a store, with a query as the address would have it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("LATENTFLOW_PREFECT_URL", "http://127.0.0.1:9")  # nobody answers there

    def opened(page: str, shown: Any, **query: Any) -> AppTest:
        root = shown.root if isinstance(shown, Store) else shown.report.folder.parent.parent
        monkeypatch.setenv("LATENTFLOW_STORE", str(root))
        app = AppTest.from_file(str(APP.parent / "pages" / f"{page}.py"), default_timeout=60)
        for name, value in query.items():
            app.query_params[name] = str(value)
        return app.run()

    return opened


def words(app: AppTest) -> str:
    """Everything the page says in text."""
    said = [*app.title, *app.header, *app.subheader, *app.markdown, *app.caption, *app.info, *app.warning, *app.error]
    html = [element.proto.body for element in app.main if element.type == "html"]
    return "\n".join([*(element.value for element in said), *(m.label for m in app.metric), *html])


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_names_the_command_that_fills_it(open_page: Open, store: Store, page: str) -> None:
    app = open_page(page, store)
    assert not app.exception
    assert "`make demo`" in app.info[0].value
    assert not app.markdown  # a string left alone in a page would be printed


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_a_whole_experiment_without_complaint(open_page: Open, experiment: Any, page: str) -> None:
    app = open_page(page, experiment)
    assert not app.exception
    assert not app.error
    assert not app.warning
    assert not app.info


def test_the_overview_says_what_came_out_with_intervals_and_baselines(open_page: Open, experiment: Any) -> None:
    app = open_page("overview", experiment)
    fvu = app.metric[0]
    assert (fvu.label, fvu.value) == ("Variance unexplained (FVU)", "0.0087")
    assert "is not known: Prefect does not answer" in app.caption[0].value
    assert "95%: 0.0081 to 0.0093" in app.caption[1].value
    assert "mean activation: 1" in app.caption[1].value
    assert "evaluate.concepts_found.probe" in app.dataframe[0].value["name"].tolist()
    assert f"report `{experiment.report.key}`" in words(app)


def test_the_newest_experiment_is_shown_first_a_link_or_a_choice_opens_another(
    open_page: Open, own_experiment: Any, write_experiment: Callable[..., Any]
) -> None:
    store = Store(own_experiment.report.folder.parent.parent)
    newer = write_experiment(store, seed=2, name="newer")
    stamp = newer.report.folder / "manifest.json"
    stamp.write_text(stamp.read_text().replace(newer.report.manifest["made"]["at"], "2999-01-01T00:00:00Z"))
    linked = open_page("overview", store, report=own_experiment.report.key)
    assert linked.title[0].value == "topk-64-k16"
    app = open_page("overview", store)
    assert app.title[0].value == "newer"
    app.selectbox(key="experiment").set_value(own_experiment.report.key).run()
    assert app.title[0].value == "topk-64-k16"
    assert app.query_params["report"] == own_experiment.report.key


def test_an_unknown_report_is_a_sentence_and_the_newest_is_shown(open_page: Open, experiment: Any) -> None:
    app = open_page("overview", experiment, report="<b>no such")
    assert "No report `bnosuch`" in app.warning[0].value
    assert experiment.report.key in words(app)


def test_a_latent_opens_from_a_link_with_its_tokens_escaped(open_page: Open, experiment: Any) -> None:
    app = open_page("latents", experiment, latent=2)
    assert app.header[0].value == "Latent 2"
    said = words(app)
    assert "the word &#x27;garden&#x27; after" in said
    assert "Interval 0" in said
    assert "Silent" in said
    assert "&lt;b&gt;sailor&lt;/b&gt;" in said
    assert "<b>sailor" not in said
    near, concepts = app.dataframe[1].value, app.dataframe[2].value
    assert near["latent"].tolist() == [3, 4, 5, 6, 7]
    assert near["explanation"].tolist()[0] == "the word 'market' after 'the'"
    assert concepts["concept"].tolist() == ["topic.garden"]
    assert {"AP on test", "neuron", "untrained", "probe"} <= set(concepts.columns)


def test_a_dead_latent_is_told_as_such(open_page: Open, experiment: Any) -> None:
    said = words(open_page("latents", experiment, latent=5))
    assert "no explanation: no context: the latent is dead" in said
    assert "it is never active" in said


@pytest.mark.parametrize("latent", ["64", "-1", "<b>x</b>", "1" * 300])
def test_an_unknown_latent_in_a_link_is_a_sentence(open_page: Open, experiment: Any, latent: str) -> None:
    app = open_page("latents", experiment, latent=latent)
    assert not app.exception
    assert "it has 0 to 63" in app.warning[0].value
    assert "<" not in app.warning[0].value


def test_the_buttons_step_through_the_latents_and_the_address_follows(open_page: Open, experiment: Any) -> None:
    app = open_page("latents", experiment, latent=0)
    previous, following = app.button
    assert previous.disabled
    following.click().run()
    assert app.header[0].value == "Latent 1"
    assert app.query_params["latent"] == "1"


def test_searching_narrows_the_list(open_page: Open, experiment: Any) -> None:
    app = open_page("latents", experiment)
    app.text_input[0].set_value("harbour nonsense").run()
    assert "None of the 64 latents" in app.info[0].value
    app.text_input[0].set_value("word: seven").run()
    assert app.dataframe[0].value["latent"].tolist() == [6]


def test_a_search_has_a_deep_link(open_page: Open, experiment: Any) -> None:
    app = open_page("latents", experiment, words="harbour", sort="number")
    assert app.dataframe[0].value["latent"].tolist()[:2] == [0, 6]
    assert app.text_input(key="words").value == "harbour"


def test_a_token_finds_latents_that_promote_it_and_latents_that_fire_on_it(open_page: Open, experiment: Any) -> None:
    promoted = open_page("latents", experiment, token="harbour3").dataframe[0].value["latent"]
    assert set(promoted) == set(range(3, 64, 6))
    fired = open_page("latents", experiment, token="harbour").dataframe[0].value["latent"]
    assert set(fired) == {n for n in range(0, 64, 6) if n % 16 != 5}


def test_codes_without_neighbours_say_how_to_get_them(open_page: Open, own_experiment: Any) -> None:
    manifest = own_experiment.artifacts["encode"].folder / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["files"]["neighbours.parquet"]
    manifest.write_text(json.dumps(content))
    app = open_page("latents", own_experiment)
    assert not app.exception
    assert "encoded before neighbours were kept" in words(app)


def test_no_page_of_the_list_holds_more_than_a_hundred_rows(
    open_page: Open, store: Store, write_experiment: Callable[..., Any]
) -> None:
    write_experiment(store, d_sae=130, seed=130)
    app = open_page("latents", store)
    assert len(app.dataframe[0].value) == 100
    app.number_input[1].set_value(2).run()
    assert len(app.dataframe[0].value) == 30


def test_pages_are_reached_through_the_application_and_remember_the_latent(
    open_page: Open, experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_STORE", str(experiment.report.folder.parent.parent))
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params["latent"] = "7"
    app.run()
    app.switch_page("pages/latents.py").run()
    assert app.header[0].value == "Latent 7"
    app.query_params.clear()  # as a change of page does
    app.run()
    assert app.header[0].value == "Latent 7"
    assert app.query_params["latent"] == "7"


@pytest.mark.parametrize(
    ("stage", "page", "command"),
    [
        ("encode", "latents", "latentflow encode"),
        ("interpret", "explanations", "latentflow interpret"),
        ("interpret", "latents", "latentflow interpret"),
        ("steer", "steering", "latentflow steer"),
        ("steer", "overview", "latentflow experiment"),
    ],
)
def test_a_missing_artifact_names_the_command(
    open_page: Open, own_experiment: Any, stage: str, page: str, command: str
) -> None:
    shutil.rmtree(own_experiment.artifacts[stage].folder)
    app = open_page(page, own_experiment)
    assert not app.exception
    assert f"`{command}`" in words(app)


def test_damaged_bytes_are_a_sentence_not_a_traceback(open_page: Open, own_experiment: Any) -> None:
    file = own_experiment.artifacts["encode"].folder / "latents.parquet"
    file.write_bytes(b"x" * file.stat().st_size)
    app = open_page("latents", own_experiment)
    assert not app.exception
    assert "is damaged" in app.error[0].value


def test_an_artifact_that_vanishes_while_shown_is_a_sentence(open_page: Open, own_experiment: Any) -> None:
    app = open_page("steering", own_experiment)
    shutil.rmtree(own_experiment.artifacts["steer"].folder)
    st.cache_resource.clear()  # what was read is forgotten; the list of experiments is read anew
    app.run()
    assert not app.exception
    assert "`latentflow steer`" in words(app)
