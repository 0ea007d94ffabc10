"""How a flow run introduces itself in Prefect: a name and tags that carry its choices, links to the
other two windows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect.artifacts import create_link_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from components.experiment import ExperimentConfig
from flows.stack import environment, reaping, stopping

log = logging.getLogger(__name__)


def choices(config: ExperimentConfig) -> dict[str, str]:
    """What tells one run from another, in a word each: model, hook point, dictionary (or how many
    kinds of them)."""
    dictionary = config.train.dictionary
    size = [str(getattr(dictionary, name)) for name in ("d_sae",) if hasattr(dictionary, name)]
    sparsity = [f"k{getattr(dictionary, name)}" for name in ("k",) if hasattr(dictionary, name)]
    trained = "-".join([dictionary.kind, *size, *sparsity])
    source = config.capture.arrays.path or config.model.path
    return {
        "model": Path(source).name or source,
        "hook_point": config.train.hook_point or ",".join(config.capture.hook_points),
        "dictionary": (_kinds(config) if flow_run.flow_name == "sweep" else config.dictionary)
        or trained,
    }


def _kinds(config: ExperimentConfig) -> str:
    return ",".join(config.sweep.dictionaries) or "every architecture"


def name() -> str:
    """The name of a flow run: what it was called, then its choices."""
    config = flow_run.parameters["config"]
    if not isinstance(config, ExperimentConfig):
        config = ExperimentConfig.model_validate(config)
    return " · ".join([config.name, *choices(config).values()])


def tags(config: ExperimentConfig) -> set[str]:
    """The same choices as tags, which Prefect filters by."""
    return {
        "latentflow",
        config.name,
        *(f"{what}:{value}" for what, value in choices(config).items()),
    }


@contextlib.contextmanager
def introduced(config: ExperimentConfig, mlflow_page: str | None) -> Iterator[None]:
    """Tags and links on the current flow run; its lock is held meanwhile, so that nobody takes it
    for dead.

    Args:
        config: the experiment.
        mlflow_page: the path of its run's page in MLflow, when it has one.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    run = context.flow_run
    held: FileLock = reaping.run_lock(str(run.id))
    with contextlib.suppress(Timeout):
        held.acquire(timeout=0)
    try:
        with _forgiving("tag the flow run"), get_client(sync_client=True) as client:
            client.update_flow_run(run.id, tags=set(run.tags) | tags(config))
        if mlflow_page:
            link(
                "mlflow",
                f"{environment.address('mlflow')}/{mlflow_page}",
                "This run's numbers in MLflow",
            )
        link(
            "streamlit",
            environment.address("streamlit"),
            "What is running and what came out, in Streamlit",
        )
        yield
    except TerminationSignal:
        if run.deployment_id:
            stopping.end_soon()
        raise
    finally:
        held.release()
        Path(held.lock_file).unlink(missing_ok=True)


def link(key: str, address: str, text: str) -> None:
    """A link artifact of the current flow run."""
    with _forgiving(f"link {key}"):
        create_link_artifact(address, key=key, link_text=text)


@contextlib.contextmanager
def _forgiving(what: str) -> Iterator[Any]:
    """What Prefect shows is no reason to lose a run."""
    try:
        yield
    except Exception as error:
        log.warning("Prefect could not %s (%s)", what, error)
