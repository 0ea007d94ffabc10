"""One tiny experiment through a real Prefect server and a real MLflow store, made once and looked
at by several tests."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.config import override
from components.experiment import ExperimentConfig
from flows.parameters import reference

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "examples" / "tiny.yaml"


def commands(page: str) -> list[list[str]]:
    """The commands of a page of docs/, each divided as a shell divides it."""
    shown = re.findall(
        r"^```sh\n(.*?)\n```$",
        (REPOSITORY / "docs" / page).read_text("utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return [shlex.split(each) for each in shown]


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiment")


@pytest.fixture(scope="session")
def config(room: Path) -> ExperimentConfig:
    # One thread, as `benchmarks/faults.py` runs what it compares with this: sums depend on it in
    # the last digit.
    return override(
        reference(TINY), {"execution.store": str(room / "artifacts"), "execution.threads": 1}
    )


@pytest.fixture(scope="session")
def servers(room: Path) -> Iterator[None]:
    """An ephemeral Prefect server and an MLflow database of their own."""
    import mlflow
    from prefect.testing.utilities import prefect_test_harness

    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["LATENTFLOW_STATE"] = str(room / "state")
    (room / "state").mkdir()
    mlflow.set_tracking_uri(f"sqlite:///{room / 'state' / 'mlflow.db'}")
    with prefect_test_harness(server_startup_timeout=240):
        yield
    if before:
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="session")
def first(config: ExperimentConfig, servers: None) -> dict[str, str]:
    """The reference of the report of the first run."""
    from flows.experiment import experiment

    return experiment(config)
