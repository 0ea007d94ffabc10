"""What every test shares: quiet offline settings before anything is imported, the shared folder, a
store."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
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
from xdist.scheduler import LoadScopeScheduling

from tests import checked

checked.install()  # before anything of components/ is imported

from components.store.artifact import Store  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


ONE_EXPERIMENT = tuple(
    f"tests/flows/test_{name}.py"
    for name in (
        "arrays",
        "experiment",
        "exporting",
        "from_model",
        "hook_points",
        "interchange",
        "own_text",
        "reaping",
        "replicate",
        "runs_page",
        "tracking",
        "up",
    )
)
"""Tests that look at one experiment (the fixture `first`), go on in its store or use its server."""
LONGEST = (
    *ONE_EXPERIMENT,
    "tests/flows/test_sweep.py",
    "tests/test_extending.py",
    "tests/contracts/test_wirings.py",
    "tests/flows/test_terminal.py",
    "tests/flows/test_encoders.py",
    "tests/flows/",
    "tests/contracts/test_architectures.py",
)
"""What begins first, longest first: a long file that began last would keep one process alone."""


class ByFile(LoadScopeScheduling):
    """Several processes share the tests by file; what looks at one experiment stays in one process,
    so that it is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "one experiment" if file in ONE_EXPERIMENT else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Which test goes to which process (`-n`): in the order of collection, not by how many tests a
    file has."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first."""
    items.sort(
        key=lambda item: next(
            (place for place, path in enumerate(LONGEST) if item.nodeid.startswith(path)),
            len(LONGEST),
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Imports leave millions of objects that stay: looking through them for rubbish again and again
    was a third of collection. They are set aside; then rubbish is collected as ever."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_device_slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither wait for the device slots of what else runs on this machine, nor for one
    another's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTFLOW_DEVICE_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the repository; tests that need it skip where it is
    absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip(
            f"needs the folder {folder.name}/models beside the repository, which is not here"
        )
    return folder


@pytest.fixture(scope="session")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A copy of the sources that holds the examples of docs/extending.md
    (`tests.extending.Tree`)."""
    from tests.extending import Tree

    return Tree.planted(tmp_path_factory.mktemp("extended"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty artifact store."""
    return Store(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole experiment of a tiny trained model, made by the real stages
    (`tests.workers.Tiny`)."""
    from tests.workers import made

    return made(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def live_worker(tiny_experiment: Any) -> Iterator[Any]:
    """A real live worker over that experiment (`tests.workers.Live`)."""
    from tests.workers import serving

    with serving(tiny_experiment.store) as live:
        yield live
