"""Faults made for real during an experiment: nothing is lost, and whoever has to act is told what
to do.

`benchmarks/faults.py` makes them all and writes docs/reliability.md; these are the ones that fit
into CI.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import faults
from components.experiment import ExperimentConfig

pytestmark = [pytest.mark.faults, pytest.mark.flow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def bench(
    config: ExperimentConfig, first: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> faults.Bench:
    """The undisturbed run is the one that the other tests of flows look at."""
    return faults.Bench(tmp_path_factory.mktemp("faults"), Path(config.execution.store), away=3.0)


def outcome(bench: faults.Bench, name: str) -> faults.Outcome:
    try:
        return faults.FAULTS[name](bench)
    except faults.CannotTry as reason:
        pytest.skip(str(reason))


def test_a_killed_flow_is_found_crashed_and_finished_by_the_same_command(
    bench: faults.Bench,
) -> None:
    found = outcome(bench, "flow killed")
    assert found.lost == "nothing"
    assert "the killed run is Crashed in Prefect" in found.happened


def test_a_killed_prefect_server_is_started_again_and_the_run_goes_on(bench: faults.Bench) -> None:
    found = outcome(bench, "Prefect killed")
    assert (found.happened, found.lost) == (
        "the run started the server again and went on",
        "nothing",
    )


def test_a_read_only_store_is_a_sentence(bench: faults.Bench) -> None:
    found = outcome(bench, "store read-only")
    assert found.lost == "nothing"
    assert found.happened.startswith("status 2: ReadOnlyStoreError: the store ")
    assert "make it writable or set execution.store to another folder" in found.happened


def test_a_full_disk_is_a_sentence_and_the_next_run_continues(bench: faults.Bench) -> None:
    found = outcome(bench, "disk full")
    assert found.lost == "nothing"
    assert found.happened.startswith("status 2: NoSpaceError: the disk holding ")
    assert "free space or set execution.store to another disk" in found.happened


def test_mlflow_that_was_away_gets_what_it_missed(bench: faults.Bench) -> None:
    found = outcome(bench, "MLflow lost")
    assert found.lost == "nothing"
    assert found.happened.startswith("the run went on")
