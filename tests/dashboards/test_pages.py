"""Pages run headless on an invented experiment: what they show, deep links, and a sentence for
every fault."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from components.report.blind_texts import blind_texts
from components.report.tables import COMPARISON
from components.store import maps
from components.store.artifact import Store, digest
from components.store.notes import Notes
from components.store.tables import CALLS, GENERATIONS, HOOK_POINTS, WRITERS
from dashboards import listing, runs
from dashboards.__main__ import read_ahead
from dashboards.markdown import code
from tests.dashboards import conftest
from tests.dashboards.conftest import make
from tests.dashboards.pages import PAGES
from tests.report.rows import MEASURES

APP = Path(__file__).resolve().parents[2] / "dashboards" / "app.py"
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
    said = [
        *app.title,
        *app.header,
        *app.subheader,
        *app.markdown,
        *app.caption,
        *app.info,
        *app.warning,
        *app.error,
    ]
    html = [element.proto.body for element in app.main if element.type == "html"]
    return "\n".join([*(element.value for element in said), *(m.label for m in app.metric), *html])


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_names_the_command_that_fills_it(
    open_page: Open, store: Store, page: str
) -> None:
    app = open_page(page, store)
    assert not app.exception
    assert "`make demo`" in app.info[0].value
    assert not app.markdown  # a string left alone in a page would be printed


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_a_whole_experiment_without_complaint(
    open_page: Open, experiment: Any, page: str
) -> None:
    app = open_page(page, experiment)
    assert not app.exception
    assert not app.error
    assert not app.warning
    assert not app.info


def test_the_overview_says_what_came_out_with_intervals_and_baselines(
    open_page: Open, experiment: Any
) -> None:
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
    stamp.write_text(
        stamp.read_text().replace(newer.report.manifest["made"]["at"], "2999-01-01T00:00:00Z")
    )
    linked = open_page("overview", store, report=own_experiment.report.key)
    assert linked.title[0].value == "topk-64-k16"
    app = open_page("overview", store)
    assert app.title[0].value == "newer"
    app.selectbox(key="experiment").set_value(own_experiment.report.key).run()
    assert app.title[0].value == "topk-64-k16"
    assert app.query_params["report"] == own_experiment.report.key


def test_every_page_answers_at_its_name_and_the_overview_at_the_start_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        st,
        "navigation",
        lambda sections: seen.extend(page for pages in sections.values() for page in pages),
    )
    monkeypatch.setattr(st, "set_page_config", lambda **_: None)
    AppTest.from_file(str(APP.parent / "pages" / "overview.py"), default_timeout=60).run()
    assert sorted(page.url_path for page in seen) == sorted(["", "runs", *PAGES])
    visible = [page.url_path for page in seen if page.visibility == "visible"]
    assert sorted(visible) == sorted(["", "runs", *(name for name in PAGES if name != "overview")])


def test_an_unknown_report_is_a_sentence_and_the_newest_is_shown(
    open_page: Open, experiment: Any
) -> None:
    app = open_page("overview", experiment, report="<b>no such")
    assert "No report `<b>no such`" in app.warning[0].value
    assert experiment.report.key in words(app)


def test_a_latent_opens_from_a_link_with_its_tokens_escaped(
    open_page: Open, experiment: Any
) -> None:
    app = open_page("latents", experiment, latent=2)
    assert app.header[0].value == "Latent 2"
    said = words(app)
    assert "the word &#x27;garden&#x27; after" in said
    assert "Interval 0" in said
    assert "Silent" in said
    assert "&lt;b&gt;sailor&lt;/b&gt;" in said
    assert "<b>sailor" not in said
    strata, concepts, near = (app.dataframe[number].value for number in (1, 2, 3))
    assert strata["windows"].tolist() == ["strongest", "weakest", "macro"]
    assert (
        strata["detection · log_odds"] > 0.3
    ).all()  # not those of the control's latent of that number
    assert "Orange triangle: the mean over latents of a dictionary that learnt nothing" in said
    assert "`random`, `same_token`, `neighbour`, `near`: all active ones against one kind" in said
    assert "`macro`: the mean over the kinds that every latent has." in said
    assert near["latent"].tolist() == [3, 4, 5, 6, 7]
    assert near["explanation"].tolist()[0] == "the word 'market' after 'the'"
    assert concepts["concept"].tolist() == ["topic.garden"]
    assert {"AP on test", "neuron", "untrained", "probe"} <= set(concepts.columns)


def test_a_dead_latent_is_told_as_such(open_page: Open, experiment: Any) -> None:
    said = words(open_page("latents", experiment, latent=5))
    assert "no explanation: no context: the latent is dead" in said
    assert "it is never active" in said


@pytest.mark.parametrize("latent", ["64", "-1", "<b>x</b>", "1" * 300, "+1", "`a`", "1.5", "²"])
def test_an_unknown_latent_in_a_link_is_a_sentence(
    open_page: Open, experiment: Any, latent: str
) -> None:
    app = open_page("latents", experiment, latent=latent)
    assert not app.exception
    assert (
        f"No latent {code(latent[:20])} in this dictionary; it has 0 to 63." in app.warning[0].value
    )


def test_the_buttons_step_through_the_latents_and_the_address_follows(
    open_page: Open, experiment: Any
) -> None:
    app = open_page("latents", experiment, latent=0)
    previous, following, *_ = app.button
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


def test_a_token_finds_latents_that_promote_it_and_latents_that_fire_on_it(
    open_page: Open, experiment: Any
) -> None:
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
    (turn,) = [field for field in app.number_input if field.label.startswith("Page")]
    turn.set_value(2).run()
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
        ("train", "training", "latentflow train"),
        ("encode", "training", "latentflow encode"),
    ],
)
def test_a_missing_artifact_names_the_command(
    open_page: Open, own_experiment: Any, stage: str, page: str, command: str
) -> None:
    shutil.rmtree(own_experiment.artifacts[stage].folder)
    app = open_page(page, own_experiment)
    assert not app.exception
    assert f"`{command}`" in words(app)


@pytest.mark.parametrize(
    ("budget", "length"), [(1e-5, 40), (2.5e-7, 600), (0.1, 600), (50.0, 512), (1000.0, 100_000)]
)
def test_steering_at_any_budget_and_length_is_shown_and_can_be_tried(
    open_page: Open, store: Store, write_experiment: Callable[..., Any], budget: float, length: int
) -> None:
    experiment = write_experiment(store, budget=budget, max_new_tokens=length)
    app = open_page("steering", experiment)
    assert not app.exception and not app.error
    said = words(app)
    assert "Over KL budgets" in said and "Texts side by side" in said, (
        "the budget's scores are found by their names"
    )
    assert app.number_input(key="nats").value == min(20.0, budget)
    assert app.number_input(key="length").value == min(512, length)


def test_success_stands_against_cost_and_fluency_and_the_battery_beside(
    open_page: Open, own_experiment: Any
) -> None:
    app = open_page("steering", own_experiment)
    assert not app.exception and not app.error
    said = words(app)
    assert "What steering reaches, and what it costs" in said
    assert "as dots 5 single control steerings" in said
    assert "Battery: the law holds against 2 of 4 tricks, smallest lower bound" in said
    (points,) = (each.value for each in app.dataframe if "none better for its" in each.value)
    assert list(points["method"]) == ["add_direction", "mean_difference", "random_direction"]
    (tried,) = (each.value for each in app.dataframe if "real minus it" in each.value)
    assert list(tried["law"]) == ["–", "holds", "not shown", "BROKEN", "holds", "–"]


def test_what_steering_brings_of_other_concepts_is_a_map(
    open_page: Open, own_experiment: Any
) -> None:
    app = open_page("steering", own_experiment)
    assert not app.exception and not app.error
    said = words(app)
    assert "What else steering brings" in said
    own, others = re.search(r"On the diagonal (\S+) in the mean, beside it (\S+);", said).groups()  # type: ignore[union-attr]
    assert float(own) == pytest.approx(0.46, abs=0.1)
    assert abs(float(others.replace("−", "-"))) < 1e-6
    places = app.selectbox(key="off-target-place")
    assert places.options == ["add_direction, KL budget 0.1", "mean_difference, KL budget 0.1"]


def test_an_earlier_run_has_no_battery_and_no_costs_and_the_page_says_so(
    open_page: Open, store: Store, write_experiment: Callable[..., Any], monkeypatch: Any
) -> None:
    earlier = conftest.steering

    def without(folder: Path, random: Any, budget: float = 0.1) -> None:
        earlier(folder, random, budget)
        for name in ("battery", "steered"):
            (folder / f"{name}.parquet").unlink()

    monkeypatch.setattr(conftest, "steering", without)
    app = open_page("steering", write_experiment(store))
    assert not app.exception and not app.error
    said = words(app)
    assert "This run has no gaming battery: `steer.battery` is off, or an earlier version" in said
    assert "No cost is known: the artifact has no table of methods by concept" in said


def test_the_hook_point_sweep_stands_on_the_page_where_there_was_one(
    open_page: Open, store: Store, write_experiment: Callable[..., Any], monkeypatch: Any
) -> None:
    earlier, invented = conftest.steering, conftest.make

    def swept(folder: Path, random: Any, budget: float = 0.1) -> None:
        earlier(folder, random, budget)
        HOOK_POINTS.write(folder, conftest.swept_rows())

    def with_facts(store: Store, stage: str, inputs: Any, facts: Any, write: Any, **config: Any):
        chosen = {"m": "late", "spoilt_m": "late", "r": {"early": 2, "late": 1}}
        told = {"hook_point_sweep": {"tried": ["early", "late"], "chosen": chosen}}
        spoilt = {"spoilt": {"spoilt_m": ["m", "spoilt"]}}
        more = told | spoilt if stage == "steer" else {}
        return invented(store, stage, inputs, {**facts, **more}, write, **config)

    monkeypatch.setattr(conftest, "steering", swept)
    monkeypatch.setattr(conftest, "make", with_facts)
    app = open_page("steering", write_experiment(store))
    assert not app.exception and not app.error
    said = words(app)
    assert "Which hook point" in said and "Steered: `m` at `late`, `spoilt_m` at `late`." in said
    (told,) = (each.value for each in app.dataframe if "targets without text" in each.value)
    assert list(told["chosen"]) == ["–", "chosen", "–", "chosen", "by 2 of 3", "by 1 of 3"]


def test_without_a_hook_point_sweep_the_page_says_nothing_of_one(
    open_page: Open, experiment: Any
) -> None:
    assert "Which hook point" not in words(open_page("steering", experiment))


def test_damaged_bytes_are_a_sentence_not_a_traceback(open_page: Open, own_experiment: Any) -> None:
    file = own_experiment.artifacts["encode"].folder / "latents.parquet"
    file.write_bytes(b"x" * file.stat().st_size)
    app = open_page("latents", own_experiment)
    assert not app.exception
    assert "is damaged" in app.error[0].value


def test_an_artifact_that_vanishes_while_shown_is_a_sentence(
    open_page: Open, own_experiment: Any
) -> None:
    app = open_page("steering", own_experiment)
    shutil.rmtree(own_experiment.artifacts["steer"].folder)
    st.cache_resource.clear()  # what was read is forgotten; the list of experiments is read anew
    app.run()
    assert not app.exception
    assert "`latentflow steer`" in words(app)


def test_runs_are_compared_with_intervals_and_what_was_set_differently(
    open_page: Open, own_experiment: Any, write_experiment: Callable[..., Any]
) -> None:
    store = Store(own_experiment.report.folder.parent.parent)
    write_experiment(store, seed=2, name="newer")
    app = open_page("compare", store)
    assert len(app.multiselect(key="compared").value) == 2
    headlines, scores, differ = (table.value for table in app.dataframe)
    assert headlines["Variance unexplained (FVU)"].tolist() == [0.00871, 0.00871]
    assert scores.iloc[0]["measure"] == "Variance unexplained (FVU), share"
    assert "0.0087 (0.0081 to 0.0093)" in scores.iloc[0].tolist()
    assert "train.seed" in differ["parameter"].tolist()
    one = own_experiment.report.key
    linked = open_page("compare", store, compare=f"{one},nosuch")
    assert linked.multiselect(key="compared").value == [one]
    assert "Not in this store: 1 of the reports" in linked.warning[0].value
    assert "train.dictionary.k=16" in words(linked)


def test_a_run_without_any_result_is_a_sentence_on_every_page(
    open_page: Open, own_experiment: Any, write_report: Callable[..., Any]
) -> None:
    bare = write_report(own_experiment, rows=[])
    for page in PAGES:
        app = open_page(page, own_experiment, report=bare.key, compare=bare.key)
        assert not app.exception, page
        assert not app.error, page
    assert "This run has no score" in words(open_page("overview", own_experiment, report=bare.key))
    assert "Without any score, so left out" in words(
        open_page("compare", own_experiment, compare=bare.key)
    )
    assert "This run has no score" in words(open_page("lineage", own_experiment, report=bare.key))


def test_a_number_leads_to_the_artifact_that_measured_it_and_its_files(
    open_page: Open, experiment: Any
) -> None:
    app = open_page("lineage", experiment)
    assert app.header[0].value == f"report {experiment.report.key[:8]}"
    app.selectbox(key=f"number {experiment.report.key}").set_value(0).run()
    evaluate = experiment.artifacts["evaluate"]
    assert app.query_params["artifact"] == f"evaluate/{evaluate.key}"
    assert app.header[0].value == f"evaluate {evaluate.key[:8]}"
    said = words(app)
    assert evaluate.key in said and "95% interval 0.0081 to 0.0093" in said
    files = next(table.value for table in app.dataframe if "digest" in table.value.columns)
    assert files["digest"].tolist() == [
        file["digest"] for file in evaluate.manifest["files"].values()
    ]


def test_an_unknown_artifact_in_a_link_is_a_sentence(open_page: Open, experiment: Any) -> None:
    app = open_page("lineage", experiment, artifact="train/<b>no")
    assert not app.exception
    assert "No artifact `train/<b>no` behind this report" in app.warning[0].value
    assert app.header[0].value == f"report {experiment.report.key[:8]}"


@pytest.mark.parametrize("page", PAGES)
def test_a_store_from_a_newer_version_is_a_sentence(
    open_page: Open, own_experiment: Any, page: str
) -> None:
    manifest = own_experiment.report.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99', 1))
    app = open_page(page, own_experiment)
    assert not app.exception
    assert "has format 99, this version reads up to 1; update Latentflow" in app.error[0].value


@pytest.mark.parametrize("page", ["overview", "latents", "steering", "explanations", "training"])
def test_a_table_of_another_version_is_a_sentence(
    open_page: Open, own_experiment: Any, page: str
) -> None:
    tables = {"overview": ("report", "report"), "latents": ("encode", "latents"), "steering": ("steer", "strengths"),
              "explanations": ("interpret", "explanation_scores"), "training": ("encode", "latents")}  # fmt: skip
    stage, table = tables[page]
    artifact = own_experiment.artifacts[stage]
    path = artifact.folder / f"{table}.parquet"
    pl.DataFrame({"another": [1]}).write_parquet(path)
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    manifest["files"][path.name] = {"bytes": path.stat().st_size, "digest": digest(path)}
    (artifact.folder / "manifest.json").write_text(json.dumps(manifest))
    app = open_page(page, own_experiment)
    assert not app.exception
    assert "earlier version of Latentflow wrote the table" in app.error[0].value
    assert pl.read_parquet(path).columns == ["another"]  # its bytes stay


def test_without_prefect_the_runs_page_says_how_to_start_it_even_on_an_empty_store(
    open_page: Open, store: Store
) -> None:
    app = open_page("runs", store)
    assert not app.exception
    assert "Prefect does not answer at http://127.0.0.1:9" in app.info[0].value
    assert "`make up` starts it" in app.info[0].value


def test_a_sweep_is_shown_at_matched_l0_and_chosen_by_the_address(
    open_page: Open, store: Store, tmp_path: Path
) -> None:
    assert "No sweep in this store" in words(open_page("compare", store))
    own = Store(tmp_path / "swept")
    rows = [
        {"label": label, "architecture": label, "is_baseline": label == "pca", "d_sae": 8, "sparsity_name": "k",
         "sparsity": k, "at_l0": at, "l0": float(at or k), "stage": "evaluate", "measure": "fvu", "role": "entry", "value": 1 / k, "low": 1 / k - 0.01,
         "high": 1 / k + 0.01, "n": 3, "n_failed": 0, "better": "lower"}
        for label in ("topk", "relu", "pca") for k, at in ((4, None), (8, None), (6, 6.0)) if label != "pca" or k == 4
    ]  # fmt: skip
    facts = {"n_dictionaries": 5, "labels": ["topk", "relu", "pca"], **MEASURES.facts()}
    swept = make(own, "compare", {}, facts, lambda folder, _: COMPARISON.write(folder, rows))
    app = open_page("compare", own, sweep=swept.key)
    assert app.selectbox(key="swept").value == swept.key
    matched, best = app.dataframe[0].value, app.dataframe[1].value
    assert set(matched["label"]) == {"topk", "relu", "pca"} and "FVU" in matched.columns
    assert best["apart"].to_list() == [False]


def test_the_server_reads_the_newest_list_of_latents_before_anyone_asks(
    experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_STORE", str(experiment.report.folder.parent.parent))
    read_ahead()
    (shown, *_) = runs.experiments()
    monkeypatch.setattr(runs, "table", lambda *_: pytest.fail("a table is read again"))
    monkeypatch.setattr(runs, "scan", lambda *_: pytest.fail("a table is read again"))
    assert listing.read(shown).frame.height == 64


def test_the_page_of_latents_lets_the_browser_draw_its_list_first_once_a_session(
    open_page: Open, experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("dashboards.app.SECONDS_TO_DRAW", 0.25)
    monkeypatch.setattr("dashboards.app.time", SimpleNamespace(sleep=waited.append))
    app = open_page("latents", experiment)
    assert waited == [0.25]
    app.run()
    assert waited == [0.25]


def test_the_page_of_explanations_says_whether_the_scores_are_apart_from_the_control(
    open_page: Open, experiment: Any
) -> None:
    app = open_page("explanations", experiment)
    said = [text.value for text in app.text]
    app.segmented_control[0].set_value("simulation").run()
    said += [text.value for text in app.text]
    over = "over the untrained dictionary: log odds"
    assert f"Explained, detection, {over}: 0.100 (0.070 to 0.130), apart from the control" in said
    assert f"Explained, simulation, {over}: 0.01 (−0.02 to 0.13), not told from the control" in said
    assert "Untrained: latents of a dictionary that learnt nothing" in words(app)


@pytest.mark.parametrize("page", ["explanations", "latents"])
def test_what_was_interpreted_without_a_control_is_still_shown(
    open_page: Open, own_experiment: Any, page: str
) -> None:
    manifest = own_experiment.artifacts["interpret"].folder / "manifest.json"
    content = json.loads(manifest.read_text())
    for name in ("control_scores.parquet", "explanation_strata.parquet"):
        del content["files"][name]
    manifest.write_text(json.dumps(content))
    app = open_page(page, own_experiment)
    assert not app.exception
    assert "Untrained: latents" not in words(app)


def kept(experiment: Any) -> Notes:
    store = Store(experiment.report.folder.parent.parent)
    return Notes(store, experiment.artifacts["train"].key)


def test_a_note_is_kept_found_by_the_search_and_shown_to_others(
    open_page: Open, own_experiment: Any
) -> None:
    app = open_page("latents", own_experiment, latent=3)
    app.text_input(key="who").set_value("Ann").run()
    (label,) = [field for field in app.text_input if field.label == "Label"]
    (tags,) = [field for field in app.text_input if field.label == "Tags"]
    label.set_value("places *to shop*")
    tags.set_value("odd, later")
    (keep,) = [button for button in app.button if button.label == "Keep"]
    keep.click().run()
    assert not app.exception and not app.error
    row = kept(own_experiment).notes().row(0, named=True)
    assert (row["latent"], row["author"], row["label"]) == (3, "Ann", "places *to shop*")
    assert row["tags"] == ["later", "odd"]
    found = open_page("latents", own_experiment, words="shop later", latent=3)
    assert found.dataframe[0].value["latent"].tolist() == [3]
    assert "Ann: places \\*to shop\\* · later · odd" in words(found), (
        "another browser, no name given"
    )
    assert "None of the 64 latents" in words(open_page("latents", own_experiment, words="shop x"))


def unmarked(source: str) -> str:
    """What a reader of this markdown sees."""
    return source.replace("\\", "")


def test_explanations_are_rated_without_their_authors_and_agreement_stands_below(
    open_page: Open, own_experiment: Any
) -> None:
    app = open_page("rate", own_experiment)
    assert "log_odds" not in words(app)
    assert "0 of 60 latents rated by you" in words(app)
    assert "Agreement" not in words(app)
    shown = app.markdown[0].value
    app.segmented_control[0].set_value("fits")
    (keep,) = [button for button in app.button if button.label == "Keep and go on"]
    keep.click().run()
    assert not app.exception and not app.error
    row = kept(own_experiment).ratings().row(0, named=True)
    assert (row["explanation"], row["fits"], row["explainer"]) == (
        unmarked(shown),
        True,
        "log_odds",
    )
    assert row["interpret"] == own_experiment.artifacts["interpret"].key
    assert "1 of 60 latents rated by you" in words(app)
    table = app.dataframe[0].value
    assert table["scorer"].tolist() == ["detection", "simulation"]
    assert table["ratings"].tolist() == [1, 1] and table["kappa"].isna().all()
    again = open_page("rate", own_experiment)
    assert again.markdown[0].value == app.markdown[0].value, (
        "the order is the same in another browser"
    )


def test_a_latent_may_be_skipped_and_no_answer_is_kept_for_it(
    open_page: Open, own_experiment: Any
) -> None:
    app = open_page("rate", own_experiment)
    first = app.markdown[0].value
    (keep,) = [button for button in app.button if button.label == "Keep and go on"]
    keep.click().run()
    assert "Say of at least one explanation" in words(app)
    (skip,) = [button for button in app.button if button.label == "Skip this latent"]
    skip.click().run()
    assert not app.exception and app.markdown[0].value != first
    assert kept(own_experiment).ratings().is_empty()


def answer(app: AppTest, target: str = "yes", fluent: str = "yes", goes_on: str = "no") -> AppTest:
    """Answers the three questions about the text that is shown, and goes on."""
    for control, said in zip(app.segmented_control, (target, fluent, goes_on), strict=True):
        control.set_value(said)
    (keep,) = [button for button in app.button if button.label == "Keep and go on"]
    return keep.click().run()


def rated_texts(experiment: Any) -> pl.DataFrame:
    return kept(experiment).text_ratings()


def test_texts_are_rated_one_after_the_other_and_a_reload_goes_on_with_the_next(
    open_page: Open, own_experiment: Any
) -> None:
    steer = own_experiment.artifacts["steer"]
    app = open_page("rate", own_experiment, what="texts")
    assert not app.exception and not app.error and not app.info
    assert (
        app.query_params["steer"] == steer.key and app.selectbox(key="texts of").value == steer.key
    )
    said = words(app)
    assert "0 of 108 texts rated by you" in said and "Is the target" not in said
    assert [control.label for control in app.segmented_control] == [
        "Is the target in the text?", "Is it fluent?", "Does it go on from its beginning?",
    ]  # fmt: skip
    assert app.segmented_control[0].options == ["yes", "no", "cannot say"]
    answer(app, "cannot say")
    row = rated_texts(own_experiment).row(0, named=True)
    assert (row["steer"], row["author"]) == (steer.key, "")
    assert (row["has_target"], row["fluent"], row["goes_on"]) == (None, True, False)
    assert escape(row["text"]) in said and f"Target: **{row['concept']}**" in said
    assert "1 of 108 texts rated by you" in words(app)
    again = open_page("rate", own_experiment, what="texts", steer=steer.key)
    assert [unmarked(each.value) for each in again.markdown] == [
        unmarked(each.value) for each in app.markdown
    ], "another browser goes on with the same text"
    assert "1 of 108 texts rated by you" in words(again)


def test_nothing_on_the_page_says_what_wrote_a_text_or_what_a_judge_says(
    open_page: Open, own_experiment: Any
) -> None:
    generations = GENERATIONS.read(own_experiment.artifacts["steer"])
    app = open_page("rate", own_experiment, what="texts")
    for _ in range(12):
        shown = words(app) + str([control.key for control in app.segmented_control])
        for told in (*generations["method"].unique(), "composite", "0.95", "KL", "budget"):
            assert told not in shown, told
        answer(app)
    methods = generations.join(rated_texts(own_experiment), on="generation")["method"]
    assert set(methods) == set(generations["method"])
    assert methods.to_list().count("unsteered") == 4


def test_a_text_is_skipped_or_all_three_questions_are_answered(
    open_page: Open, own_experiment: Any
) -> None:
    app = open_page("rate", own_experiment, what="texts")
    first = app.markdown[0].value + words(app)
    app.segmented_control[0].set_value("yes")
    (keep,) = [button for button in app.button if button.label == "Keep and go on"]
    keep.click().run()
    assert "Answer all three questions" in words(app) and rated_texts(own_experiment).is_empty()
    (skip,) = [button for button in app.button if button.label == "Skip this text"]
    skip.click().run()
    assert not app.exception and app.markdown[0].value + words(app) != first
    assert rated_texts(own_experiment).is_empty() and "0 of 108" in words(app)


def test_a_second_person_rates_the_same_texts_by_another_name(
    open_page: Open, own_experiment: Any
) -> None:
    for name, target in (("Ann", "yes"), ("Bob", "no")):
        app = open_page("rate", own_experiment, what="texts")
        app.text_input(key="who").set_value(name).run()
        assert "0 of 108" in words(app)
        answer(app, target)
    told = rated_texts(own_experiment)
    assert told.select("author", "has_target").rows() == [("Ann", True), ("Bob", False)]
    assert told.select("generation", "concept").n_unique() == 1


def rate_all(experiment: Any, most: int, author: str = "") -> None:
    """A person who says what the texts are made of: whether the topic's name is in them."""
    steer = experiment.artifacts["steer"]
    for row in blind_texts(steer).head(most).iter_rows(named=True):
        kept(experiment).rate_text(
            steer.key, row["generation"], row["concept"], text=row["text"], goes_on=True, fluent=True,
            has_target=row["concept"].removeprefix("topic.") in row["text"], author=author,
        )  # fmt: skip


def test_agreement_with_each_judge_stands_below_after_enough_ratings_and_on_the_steering_page(
    open_page: Open, own_experiment: Any
) -> None:
    steering = words(open_page("steering", own_experiment))
    assert "No person has rated texts of this run yet" in steering
    assert f"(rate?what=texts&steer={own_experiment.artifacts['steer'].key})" in steering
    rate_all(own_experiment, 19)
    app = open_page("rate", own_experiment, what="texts")
    assert "once one person has rated 20 texts; so far it is 19" in words(app)
    assert not app.dataframe
    rate_all(own_experiment, 60)
    kept(own_experiment).rate_text(
        own_experiment.artifacts["steer"].key, 0, "topic.harbour", text="t", author="Bob",
        has_target=True, fluent=True, goes_on=True,
    )  # fmt: skip
    for page, query in (("rate", {"what": "texts"}), ("steering", {})):
        app = open_page(page, own_experiment, **query)
        assert not app.exception and not app.error
        assert "Agreement with each judge stands here once" not in words(app)
        (table,) = [each.value for each in app.dataframe if "95% of AUROC" in each.value]
        assert table["judge"].tolist() == ["concept", "fluency", "composite"]
        assert table["beside"].tolist() == ["target", "fluent", "target and fluent"]
        assert set(table["person"]) == {"no name"}, "Bob has rated one text"
        assert table["texts"].tolist() == [60, 60, 60] and float(table["AUROC"][0]) > 0.8
        assert "no interval: 6 targets rated" in table["note"][0]
        assert table["note"][1] == "the person said yes of every text"
        assert not [each for each in app.dataframe if "and" in each.value], "one person alone"
    rate_all(own_experiment, 40, "Cy")
    app = open_page("rate", own_experiment, what="texts")
    (pairs,) = [each.value for each in app.dataframe if "and" in each.value]
    assert set(zip(pairs["person"], pairs["and"], strict=True)) == {("no name", "Cy")}
    assert pairs["texts"].tolist() == [40] * 3 and pairs["kappa"].tolist()[0] == "1"


def test_a_link_names_a_steer_artifact_and_another_experiment_its_own(
    open_page: Open, own_experiment: Any, write_experiment: Callable[..., Any]
) -> None:
    store = Store(own_experiment.report.folder.parent.parent)
    other = write_experiment(store, seed=2, name="other")
    steer = other.artifacts["steer"].key
    app = open_page("rate", store, report=own_experiment.report.key, what="texts", steer=steer)
    assert not app.exception and app.selectbox(key="texts of").value == steer
    answer(app)
    assert kept(other).text_ratings()["steer"].to_list() == [steer]
    assert kept(own_experiment).text_ratings().is_empty()
    app.selectbox(key="experiment").set_value(other.report.key).run()
    app.selectbox(key="experiment").set_value(own_experiment.report.key).run()
    own = own_experiment.artifacts["steer"].key
    assert app.selectbox(key="texts of").value == own and app.query_params["steer"] == own
    app.selectbox(key="texts of").set_value(steer).run()
    assert app.query_params["steer"] == steer and "1 of 108" in words(app)
    lost = open_page("rate", store, what="texts", steer="<b>no")
    assert "No steer artifact `<b>no` in this store" in lost.warning[0].value


def test_texts_that_cannot_be_rated_are_a_sentence(open_page: Open, own_experiment: Any) -> None:
    shutil.rmtree(own_experiment.artifacts["read"].folder)
    st.cache_data.clear()  # another test may have drawn the texts of this artifact
    app = open_page("rate", own_experiment, what="texts")
    assert not app.exception and "`latentflow read` makes it again" in app.info[0].value
    shutil.rmtree(own_experiment.artifacts["steer"].folder)
    app = open_page("rate", own_experiment, what="texts")
    assert not app.exception and "`latentflow steer` makes one" in app.info[0].value


def test_what_is_rated_is_chosen_on_the_page(open_page: Open, own_experiment: Any) -> None:
    app = open_page("rate", own_experiment)
    app.radio(key="rated").set_value("texts").run()
    assert app.query_params["what"] == "texts" and "0 of 108 texts" in words(app)
    app.radio(key="rated").set_value("explanations").run()
    assert "0 of 60 latents rated by you" in words(app)


def with_map(experiment: Any) -> None:
    d_sae = experiment.artifacts["train"].facts["d_sae"]
    frame = pl.DataFrame({"latent": range(d_sae), "x": [n / d_sae for n in range(d_sae)]})
    frame = frame.with_columns(y=pl.col("x") ** 2, share_x=pl.lit(0.04), share_y=pl.lit(0.031))
    store = Store(experiment.report.folder.parent.parent)
    maps.write(store, experiment.artifacts["train"].key, frame)


def test_a_map_that_nobody_made_says_who_makes_it(
    open_page: Open, own_experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_LIVE_URL", "http://127.0.0.1:9")
    app = open_page("map", own_experiment)
    assert "Nobody has looked at the map" in words(app)
    app.button[0].click().run()
    assert not app.exception and "No live worker answers" in words(app)


def test_the_map_says_what_is_drawn_and_what_is_not(open_page: Open, own_experiment: Any) -> None:
    with_map(own_experiment)
    app = open_page("map", own_experiment)
    assert not app.exception and not app.warning
    assert "64 of 64 latents" in words(app) and "hold 4.0% and 3.1% of the variance" in words(app)
    assert "never active" in words(app)
    app.segmented_control(key="colour").set_value("score").run()
    assert not app.exception and "Score: detection of log\\_odds" in words(app)
    app.segmented_control(key="colour").set_value("concept").run()
    assert "topic (6)" in words(app) and "best for none" in words(app)
    app.text_input(key="map words").set_value("harbour").run()
    assert "11 of 64 latents" in words(app)
    app.text_input(key="map words").set_value("nonsense").run()
    assert "No latent passes these filters" in words(app)


def test_explanations_are_filtered_by_words_score_and_density(
    open_page: Open, experiment: Any
) -> None:
    app = open_page("explanations", experiment)
    every = app.dataframe[1].value
    assert every["floor"].notna().sum() == every["score"].notna().sum() == 60
    app.text_input(key="said").set_value("HARBOUR word").run()
    assert not app.exception
    assert set(app.dataframe[1].value["latent"]) == {n for n in range(0, 64, 6) if n % 16 != 5}
    app.text_input(key="said").set_value("").run()
    app.slider[0].set_value((0.8, app.slider[0].max)).run()
    shown = app.dataframe[1].value
    assert shown["score"].min() >= 0.8 and len(shown) == (every["score"] >= 0.8).sum()
    app.select_slider(key="explained density").set_value(("1e-2", "1")).run()
    assert app.dataframe[1].value["density"].min() >= 0.01
    app.text_input(key="said").set_value("nonsense").run()
    assert "None of the 64 rows passes these filters" in words(app)


def test_latents_are_filtered_by_score(open_page: Open, experiment: Any) -> None:
    app = open_page("latents", experiment)
    assert len(app.dataframe[0].value) == 64
    app.number_input(key="least score").set_value(0.8).run()
    shown = app.dataframe[0].value
    assert 0 < len(shown) < 64 and shown["score"].min() >= 0.8


def test_the_prompt_and_the_answer_behind_an_explanation_are_shown(
    open_page: Open, own_experiment: Any
) -> None:
    interpret = own_experiment.artifacts["interpret"]
    row = {"replicate": 0, "prompt": "system: say what <b>this</b> is", "answer": "the *harbour*",
           "input_tokens": 900, "output_tokens": 12, "usd": 0.0012, "served_model": "a-model"}  # fmt: skip
    asked = [
        row | {"call": "1", "label": "explain max_activating, latent 2"},
        row | {"call": "2", "label": "explain contrastive, latent 20", "answer": "another"},
        row | {"call": "3", "label": "detection, latent 2", "answer": "yes"},
    ]
    CALLS.write(interpret.folder, asked)
    writers = [(2, "max_activating", "1"), (3, "contrastive", "4"), (3, "max_activating", "5")]
    served = {"served": "a-model (fp)"}
    WRITERS.write(
        interpret.folder,
        [{"latent": n, "explainer": by, "call": call} | served for n, by, call in writers],
    )
    manifest = json.loads((interpret.folder / "manifest.json").read_text())
    for table in (CALLS, WRITERS):
        file = interpret.folder / table.file
        manifest["files"][table.file] = {"bytes": file.stat().st_size, "digest": digest(file)}
    (interpret.folder / "manifest.json").write_text(json.dumps(manifest))
    app = open_page("latents", own_experiment, latent=2)
    assert not app.exception
    assert [part.label for part in app.expander] == ["What a-model was asked as max\\_activating"]
    assert [part.value for part in app.code] == ["system: say what <b>this</b> is", "the *harbour*"]
    assert "900 tokens in, 12 out, 0.0012 USD." in words(app)
    other = open_page("latents", own_experiment, latent=3)
    assert not other.code
    lost = (
        "The prompt of contrastive, max\\_activating for this latent is not in the sample of calls"
    )
    assert lost in words(other)
    # no language model was asked about it: log-odds have no prompt
    nobody = open_page("latents", own_experiment, latent=4)
    assert not nobody.code and "sample of calls" not in words(nobody)
