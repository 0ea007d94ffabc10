"""What every test shares: quiet offline settings before anything is imported, the shared folder, a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "true",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
)

import pytest

from components.store.artifact import Store

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the repository; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip(f"needs the folder {folder.name}/models beside the repository, which is not here")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty artifact store."""
    return Store(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole experiment of a tiny trained model, made by the real stages (`tests.workers.Tiny`)."""
    from tests.workers import made

    return made(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def live_worker(tiny_experiment: Any) -> Iterator[Any]:
    """A real live worker over that experiment (`tests.workers.Live`)."""
    from tests.workers import serving

    with serving(tiny_experiment.store) as live:
        yield live
