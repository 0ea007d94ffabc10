"""One tiny experiment through a real Prefect server and a real MLflow store, made once and looked at by several tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.config import load
from components.experiment import ExperimentConfig

TINY = {
    "name": "tiny",
    "read": {
        "splits": {
            "train": 16000, "select": 16000, "explain": 10000, "calibrate": 8000, "judge": 16000,
            "validate": 12000, "neutral": 3000, "test": 12000,
        },
        "prompts_validate": 2, "prompts_test": 2, "pairs": 1,
    },
    "train": {"dictionary": {"kind": "topk", "d_sae": 128, "k": 8}, "tokens": 20000, "batch_size": 1024, "dead_after": 8000},
    "interpret": {"latents": 5},
    "steer": {
        "concepts": ["topic.sport", "topic.garden", "topic.kitchen"], "max_concepts_per_family": 1,
        "validate_prompts": 2, "test_prompts": 2, "max_new_tokens": 8, "neutral_tokens": 128, "band_texts": 32,
    },
    "evaluate": {"settings": {"loss_recovered": {"tokens": 3000}}},
}  # fmt: skip


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiment")


@pytest.fixture(scope="session")
def config(room: Path) -> ExperimentConfig:
    return load(ExperimentConfig, {**TINY, "execution": {"store": str(room / "artifacts")}})


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
