"""An imported dictionary on a corpus that was only read: interpreted from the running model as from
disk, and the rest of the experiment says what it lacks."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from components.config import override
from components.errors import DictionaryError
from components.experiment import ExperimentConfig
from components.report.tables import REPORT, SCORES
from components.store import tables
from components.store.artifact import Artifact
from components.store.shards import NOT_STORED
from flows import interchange
from flows.chain import Chain
from flows.plan import plan

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]
MORE = {
    "interpret.scorers": ["detection", "fuzzing", "simulation"],
    "interpret.latent_scorers": ["input_score", "output_score"],
    "interpret.dictionary_scorers": ["round_trip"],
    "interpret.dictionary_scorer_settings.round_trip.dimensions": 2,
    "interpret.latents": 12,
}
TABLES = (
    tables.CONTEXTS,
    tables.COOCCURRING,
    tables.EXPLANATIONS,
    tables.EXPLANATION_SCORES,
    tables.CONTROL_SCORES,
    tables.EXPLANATION_STRATA,
    tables.LATENT_SCORES,
)


@pytest.fixture(scope="module")
def folder(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of ours in SAELens' layout."""
    to = tmp_path_factory.mktemp("peer") / "saelens"
    with Chain(config, plain=True) as chain:
        interchange.write(chain.artifact("train").key, to, "saelens", config)
    return to


def brought(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """The experiment with the dictionary of that folder in place of its own."""
    with Chain(config, plain=True) as chain:
        key = interchange.bring(chain, "saelens", folder).key
    return override(config, {"dictionary": key, **MORE})


@pytest.fixture(scope="module")
def stored(config: ExperimentConfig, folder: Path) -> dict[str, Artifact]:
    """From disk, by stage."""
    with Chain(brought(config, folder), plain=True) as chain:
        return {stage: chain.artifact(stage) for stage in ("encode", "interpret", "evaluate")}


@pytest.fixture(scope="module")
def only_read(
    config: ExperimentConfig, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExperimentConfig:
    """In a store of its own, where nothing is captured; the dictionary is brought there."""
    store = str(tmp_path_factory.mktemp("only_read") / "artifacts")
    changes = {"execution.store": store, "capture.from_model": True}
    return brought(override(config, changes), folder)


@pytest.fixture(scope="module")
def planned(only_read: ExperimentConfig) -> dict[str, tuple[str, str]]:
    """By label: the key that the plan gives, and what it says of the work."""
    return {step.label: (step.key, str(step.timing)) for step in plan(only_read, 4.0)}


@pytest.fixture(scope="module")
def running(
    only_read: ExperimentConfig, planned: dict[str, tuple[str, str]]
) -> dict[str, Artifact]:
    """From the running model, by stage; planned before it is made."""
    stages = ("capture", "encode", "interpret", "steer", "evaluate", "report")
    with Chain(only_read, plain=True) as chain:
        return {stage: chain.artifact(stage) for stage in stages}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_explanations_and_scores_are_those_from_disk(
    table, stored: dict[str, Artifact], running: dict[str, Artifact]
) -> None:
    ours, theirs = (table.read(each["interpret"]) for each in (running, stored))
    assert theirs.height and ours.equals(theirs)


def test_every_row_of_scores_is_the_one_from_disk(
    stored: dict[str, Artifact], running: dict[str, Artifact]
) -> None:
    ours, theirs = (SCORES.read(each["interpret"]) for each in (running, stored))
    assert ours.equals(theirs)
    assert ours.filter(pl.col("name") == "interpret.log_odds.simulation")["value"].null_count() == 0


def test_no_activation_and_no_code_is_in_the_store(
    only_read: ExperimentConfig, running: dict[str, Artifact]
) -> None:
    store = Path(only_read.execution.store)
    assert not list(store.rglob("[0-9]*.safetensors"))
    assert running["capture"].files == []
    there = {path.parent.parent.name for path in store.rglob("manifest.json")}
    assert there == {"read", "train", *running}


def test_statistics_of_latents_are_those_from_disk(
    stored: dict[str, Artifact], running: dict[str, Artifact]
) -> None:
    """Of explain, from which latents are drawn; histograms would take another pass."""
    ours, theirs = (tables.LATENTS.read(each["encode"]) for each in (running, stored))
    assert ours["histogram"].null_count() == ours.height
    theirs = theirs.filter(pl.col("split") == "explain")
    assert ours.drop("histogram").equals(theirs.drop("histogram"))
    near = [tables.NEIGHBOURS.read(each["encode"]) for each in (running, stored)]
    assert near[0].equals(near[1])


def test_the_report_says_what_needs_stored_activations(
    stored: dict[str, Artifact], running: dict[str, Artifact]
) -> None:
    rows = REPORT.read(running["report"])
    assert set(rows["stage"]) == {"evaluate", "interpret", "steer"}
    steered = rows.filter(pl.col("stage") == "steer")
    assert steered["value"].null_count() == steered.height and set(steered["reason"]) == {
        NOT_STORED
    }
    recovered = pl.col("entry") == "loss_recovered"
    measured = rows.filter(pl.col("stage") == "evaluate")
    absent = measured.filter(~recovered)
    assert set(absent["entry"]) == {"concepts_found", "reconstruction"}
    assert absent["value"].null_count() == absent.height and set(absent["reason"]) == {NOT_STORED}
    ours = measured.filter(recovered).select("name", "value", "low", "high", "baseline")
    theirs = SCORES.read(stored["evaluate"]).filter(recovered)
    assert ours.equals(theirs.select(ours.columns)) and ours["value"].null_count() == 0


def test_the_plan_finds_the_keys_and_tells_the_passes(
    planned: dict[str, tuple[str, str]], running: dict[str, Artifact]
) -> None:
    for stage, artifact in running.items():
        if stage != "report":
            assert planned[stage][0] == artifact.key
    rows = running["capture"].facts["splits"]
    n = sum(rows[split]["rows"] for split in ("explain", "calibrate", "test"))
    told = planned["interpret"][1]
    assert (
        f"{n:,} tokens of explain, calibrate and test, each of which passes the model once" in told
    )
    assert (
        f"of which the {rows['explain']['rows']:,} tokens of explain pass" in planned["encode"][1]
    )
    assert running["interpret"].facts["tokens_run"] >= n


def test_training_is_refused_with_what_to_do(
    config: ExperimentConfig, only_read: ExperimentConfig
) -> None:
    with (
        Chain(override(only_read, {"dictionary": ""}), plain=True) as chain,
        pytest.raises(
            DictionaryError, match=r"capture.from_model stores none; set .*dictionary=<key>"
        ),
    ):
        chain.artifact("train")
