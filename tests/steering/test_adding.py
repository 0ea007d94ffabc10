"""The examples of docs/extending.md for steering: one file each, and one file is enough.

One experiment steers by the example and by `logit_bias`, which edits nothing, and is judged by the example too.
"""

from __future__ import annotations

import polars as pl
import pytest

from components.store.artifact import Artifact, Store
from components.store.judgements import judged
from components.store.tables import GENERATIONS, JUDGEMENTS, STEERED, STRENGTHS
from tests.extending import EXAMPLES, Example, Tree

pytestmark = pytest.mark.timeout(600)
HERE = [example for example in EXAMPLES.values() if example.path.startswith("components/steering/")]
LAWS = "tests/contracts/test_steering.py"


@pytest.fixture(scope="module")
def report(extended: Tree) -> pl.DataFrame:
    overrides = [argument for example in HERE for argument in example.arguments]
    return extended.experiment(*overrides)


@pytest.fixture(scope="module")
def steer(extended: Tree, report: pl.DataFrame) -> Artifact:
    (artifact,) = Store(extended.folder / "artifacts").artifacts("steer")
    return artifact


def test_the_page_has_an_example_of_a_method_and_of_a_judge() -> None:
    assert [example.path.rsplit("/", 1)[0] for example in HERE] == [
        "components/steering/methods",
        "components/steering/judges",
    ]


@pytest.mark.parametrize("example", HERE, ids=lambda example: example.kind)
def test_an_example_is_short(example: Example) -> None:
    assert 0 < example.n_lines <= {"say_first": 50, "variety": 30}[example.kind]


@pytest.mark.parametrize("method", ["say_first", "logit_bias"])
def test_a_method_that_edits_nothing_is_steered_judged_and_scored(
    report: pl.DataFrame, steer: Artifact, method: str
) -> None:
    strengths = STRENGTHS.read(steer).filter(pl.col("method") == method, pl.col("coefficient").is_not_null())
    assert strengths.height and strengths["kl"].is_not_null().all()
    if method == "say_first":
        assert strengths["kl_budget"].null_count() == strengths.height and set(strengths["coefficient"]) == {1.0}
    else:
        assert (strengths["kl"] / strengths["kl_budget"]).is_between(0.9, 1.1).all()
    texts = GENERATIONS.read(steer).filter(pl.col("method") == method, pl.col("split") == "test")
    assert texts["text"].is_not_null().any() and texts["kl_reverse"].drop_nulls().gt(0).all()
    rows = report.filter(pl.col("name").str.starts_with(f"steer.{method}."), pl.col("value").is_not_null())
    assert {"composite", "uplift", "cost", "cost_written"} <= set(rows["measure"])


def test_a_judge_has_a_value_for_every_text_and_concept_and_a_score(report: pl.DataFrame, steer: Artifact) -> None:
    results = judged(GENERATIONS.read(steer), JUDGEMENTS.read(steer), steer.facts["measure"])
    written = results.filter(pl.col("text").is_not_null())
    assert written["variety"].is_between(0, 1).all()
    means = STEERED.read(steer).filter(pl.col("measure") == "variety", pl.col("value").is_not_null())
    assert set(means["method"]) >= {"say_first", "add_direction", "random_direction"}
    rows = report.filter(pl.col("measure") == "variety", pl.col("value").is_not_null())
    assert set(rows["entry"]) >= {"say_first", "add_direction", "random_direction"}


def test_they_keep_the_laws(extended: Tree) -> None:
    chosen = " or ".join(example.kind for example in HERE)
    extended.python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", LAWS, "-k", chosen)


def test_they_are_listed_in_the_form_and_on_the_command_line(extended: Tree) -> None:
    told = extended.python("-m", "flows", "params", *(argument for each in HERE for argument in each.arguments))
    assert "steer.method_settings.say_first.n" in told and "steer.judge_settings.variety.n" in told
