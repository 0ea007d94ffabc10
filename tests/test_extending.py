"""The examples of docs/extending.md are one file each, and one file is enough: they run in an
experiment, and keep the laws.

One experiment uses all entries of interpretation, evaluation and steering together; another reads
the example of a corpus.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from components.corpus.corpora.world import WorldCorpus, WorldCorpusConfig
from components.report.measure import Measures
from components.report.scores import flat
from components.report.tables import DIFFERENCES
from components.steering.contract import judges
from components.store.artifact import Artifact
from components.store.judgements import judged
from components.store.tables import (
    CONCEPTS,
    DOCUMENTS,
    FURTHER_JUDGES,
    GENERATIONS,
    JUDGEMENTS,
    LABELS,
    PROMPTS,
    STEERED,
    STRENGTHS,
)
from tests.extending import EXAMPLES, REPOSITORY, Example, Tree

pytestmark = pytest.mark.timeout(600)
CORPUS = EXAMPLES["components/corpus/corpora/transcript.py"]
TOGETHER = [example for example in EXAMPLES.values() if example is not CORPUS]
LAWS = ("interpretation", "evaluations", "steering")
SPEAKERS = ("Anna", "Boris", "Clara")


@pytest.fixture(scope="module")
def report(extended: Tree) -> pl.DataFrame:
    overrides = [argument for example in TOGETHER for argument in example.arguments]
    assert len({argument.partition("=")[0] for argument in overrides}) == len(overrides)
    return extended.experiment(*overrides)


@pytest.fixture(scope="module")
def reported(extended: Tree, report: pl.DataFrame) -> Artifact:
    return extended.newest("report")


@pytest.fixture(scope="module")
def steer(extended: Tree, report: pl.DataFrame) -> Artifact:
    return extended.newest("steer")


def test_the_page_has_one_example_of_each_kind() -> None:
    assert [path.rsplit("/", 1)[0].removeprefix("components/") for path in EXAMPLES] == [
        "interpretation/explainers",
        "interpretation/predictors",
        "interpretation/scorers",
        "interpretation/latent_scorers",
        "evaluation/evaluations",
        "steering/methods",
        "steering/judges",
        "corpus/corpora",
    ]


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=lambda example: example.kind)
def test_an_example_has_at_most_fifty_lines(example: Example) -> None:
    assert 0 < example.n_lines <= 50


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=lambda example: example.kind)
def test_an_example_adds_one_file_and_edits_none(extended: Tree, example: Example) -> None:
    assert extended.added[example.path] == [example.path]
    others = "|".join(other.kind for other in EXAMPLES.values() if other is not example)
    assert not re.search(rf"^(from|import) .*\b({others})\b", example.code, re.MULTILINE), (
        "it stands alone"
    )


def test_an_experiment_with_them_leaves_the_sources_as_they_are(
    extended: Tree, report: pl.DataFrame
) -> None:
    assert extended.changes() == []


@pytest.mark.parametrize("example", TOGETHER, ids=lambda example: example.kind)
def test_its_scores_are_in_the_report(report: pl.DataFrame, example: Example) -> None:
    rows = report.filter(
        pl.any_horizontal(pl.col("entry", "scorer", "predictor", "measure") == example.kind)
    )
    assert rows.height and rows["value"].is_not_null().any(), report["name"].to_list()


def test_a_method_that_edits_nothing_is_steered_judged_and_scored(
    report: pl.DataFrame, steer: Artifact
) -> None:
    of_method = pl.col("method") == "say_first"
    strengths = STRENGTHS.read(steer).filter(of_method, pl.col("coefficient").is_not_null())
    assert strengths.height and set(strengths["coefficient"]) == {1.0}
    assert strengths["kl_budget"].is_null().all() and strengths["kl"].is_not_null().all()
    texts = GENERATIONS.read(steer).filter(of_method, pl.col("split") == "test")
    assert texts["text"].is_not_null().any() and texts["kl_reverse"].drop_nulls().gt(0).all()
    rows = report.filter(pl.col("entry") == "say_first", pl.col("value").is_not_null())
    assert {"composite", "uplift", "fluency", "variety", "cost", "cost_written"} <= set(
        rows["measure"]
    )


def test_a_judge_has_a_value_for_every_text_and_a_score_beside_unsteered_text(
    report: pl.DataFrame, steer: Artifact
) -> None:
    results = judged(GENERATIONS.read(steer), JUDGEMENTS.read(steer), steer.facts["measure"])
    assert results.filter(pl.col("text").is_not_null())["variety"].is_between(0, 1).all()
    means = FURTHER_JUDGES.read(steer)
    assert means.height == STEERED.read(steer).height and set(means["judge"]) == {"variety"}
    wanted = results.filter(pl.col("split") == "test", pl.col("method") == "say_first").group_by(
        "concept"
    )
    wanted = wanted.agg(pl.col("variety").fill_null(0.0).mean())
    both = means.filter(pl.col("method") == "say_first").join(wanted, on="concept")
    assert both.height and both["value"].to_list() == pytest.approx(both["variety"].to_list())
    scored = report.filter(pl.col("measure") == "variety", pl.col("value").is_not_null())
    assert set(scored["entry"]) == {
        "say_first",
        "add_direction",
        "mean_difference",
        "random_direction",
        "unsteered_again",
    }
    assert set(scored.filter(pl.col("role") == "entry")["baseline_name"]) == {"unsteered text"}


def test_the_score_of_a_judge_is_named_declared_tracked_and_compared(
    report: pl.DataFrame, reported: Artifact
) -> None:
    tracked = [
        name for name in flat(report) if name.startswith("steer.add_direction.kl_0.2.variety")
    ]
    assert tracked, "MLflow and DVC are told it"
    measure = Measures.read(reported)["steer", "variety"]
    assert (measure.label, measure.unit, measure.least, measure.most) == ("Variety", "share", 0, 1)
    rivals = DIFFERENCES.read(reported).filter(
        pl.col("measure") == "variety", pl.col("entry") == "add_direction"
    )
    assert "unsteered text" in set(rivals["rival"])


def test_the_page_of_steering_shows_what_the_judge_says(
    extended: Tree,
    reported: Artifact,
    steer: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The page is of this tree, which has no such judge."""
    assert "variety" not in judges.names()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("LATENTFLOW_PREFECT_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("LATENTFLOW_STORE", str(extended.store))
    monkeypatch.setattr("dashboards.app.SECONDS_TO_DRAW", 0.0)
    page = AppTest.from_file(
        str(REPOSITORY / "dashboards" / "pages" / "steering.py"), default_timeout=60
    )
    page.query_params["report"] = reported.key
    page.run()
    assert not page.exception and not page.error
    (means,) = [frame.value for frame in page.dataframe if "measure" in frame.value.columns]
    assert any(str(label).startswith("Variety") for label in means["measure"])
    charts = [element.proto.spec for element in page.main if element.type == "vega_lite_chart"]
    assert any("Variety, share" in chart for chart in charts)
    (method,) = [box for box in page.selectbox if box.label == "Method"]
    method.select("say_first").run()
    texts = "".join(element.proto.body for element in page.main if element.type == "html")
    assert ">variety</th>" in texts
    assert any(caption.value.startswith("strength 1 · KL") for caption in page.caption)


def test_they_keep_the_laws(extended: Tree) -> None:
    mine = " or ".join(example.kind for example in TOGETHER)
    chosen = f"({mine}) and not numbers_move"  # golden numbers are of what is shipped
    files = [f"tests/contracts/test_{law}.py" for law in LAWS]
    extended.python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", chosen)


def test_they_are_listed_in_the_form_and_on_the_command_line(extended: Tree) -> None:
    arguments = [argument for example in EXAMPLES.values() for argument in example.arguments]
    told = extended.python("-m", "flows", "params", *arguments)
    assert all(example.kind in told for example in EXAMPLES.values())
    settings = yaml.safe_load(told)["steer"]
    assert settings["method_settings"]["say_first"] == {"n": 3} and settings["judge_settings"][
        "variety"
    ] == {"n": 32}


@pytest.fixture(scope="module")
def talks(extended: Tree) -> list[list[tuple[str, str]]]:
    """Conversations that have been written where the page's command looks for them: speaker and
    words of each line."""
    conversations = []
    stories = WorldCorpus(WorldCorpusConfig()).documents("train", 0, labels=False)
    for number, story in enumerate(itertools.islice(stories, 1500)):
        sentences = [f"{words.strip()}." for words in story.text.split(".") if words.strip()]
        conversations.append(
            [(SPEAKERS[(number + i) % 3], words) for i, words in enumerate(sentences)]
        )
    file = extended.folder / "data" / "scratch" / "talks.txt"
    file.parent.mkdir()
    parts = [
        "\n".join(f"{speaker}: {words}" for speaker, words in lines) for lines in conversations
    ]
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return conversations


@pytest.fixture(scope="module")
def of_talks(extended: Tree, report: pl.DataFrame, talks: list[Any]) -> pl.DataFrame:
    return extended.experiment(*CORPUS.arguments)


def test_a_corpus_is_read_with_its_labels_and_goes_through_the_chain(
    extended: Tree, of_talks: pl.DataFrame, talks: list[list[tuple[str, str]]]
) -> None:
    read = extended.newest("read")
    assert set(CONCEPTS.read(read)["concept"]) == {f"speaker.{name}" for name in SPEAKERS}
    spoken = {
        "\n".join(words for _, words in lines): {speaker for speaker, _ in lines} for lines in talks
    }
    documents = DOCUMENTS.read(read).with_columns(pl.col("text").str.strip_chars())
    assert documents.height > 100 and set(documents["text"]) <= set(spoken)
    labels = LABELS.read(read).join(documents, on="document")
    assert labels["split"].n_unique() > 3 and labels["token"].is_not_null().all()
    for text, concepts in labels.group_by("text").agg(pl.col("concept").unique()).iter_rows():
        assert {concept.removeprefix("speaker.") for concept in concepts} == spoken[text]
    assert PROMPTS.read(read).height == 4
    assert {"evaluate", "interpret", "steer"} == set(of_talks["stage"])
    assert of_talks.filter(pl.col("stage") == "evaluate")["value"].is_not_null().any()
    assert extended.changes() == []
