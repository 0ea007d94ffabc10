"""What every test shares: quiet offline settings before anything is imported, the shared folder, a
store."""

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
from xdist.scheduler import LoadScopeScheduling

from tests import checked

checked.install()  # before anything of components/ is imported

from components.store.artifact import Store  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


class ByFile(LoadScopeScheduling):
    """Several processes share the tests by file; flows share one Prefect server and one experiment,
    so a process.

    The sweep trains dictionaries of its own, and the terminal's tests run commands without Prefect,
    both long: neither looks at another experiment, so they are as good beside them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = ("tests/flows/test_sweep.py", "tests/flows/test_terminal.py")
        shares = file.startswith("tests/flows/") and file not in alone
        return "tests/flows" if shares else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Which test goes to which process (`-n`): in the order of collection, not by how many tests a
    file has."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, or one process would end long after the others."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/flows/"))


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
