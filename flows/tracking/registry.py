"""Dictionaries in MLflow's registry: registered once for each artifact, found by name@alias."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.errors import ConfigError, UnknownNameError, quoted
from components.registry import nearest
from components.store.artifact import Artifact
from flows.stack import environment
from flows.tracking.service import answered
from flows.tracking.view import EXPERIMENT

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers where there is no such model or alias; any other code says that it could not
look."""


def resolve_dictionary(name: str) -> str:
    """The artifact key of a dictionary given as name@alias (MLflow registry) or as a key.

    Raises:
        UnknownNameError: no such name or alias in the registry; the known ones are listed.
        ConfigError: the registered version carries no artifact key.
        ServiceError: MLflow does not answer.
    """
    model, at, alias = name.partition("@")
    if not at:
        return name

    def look() -> Any:
        client = MlflowClient()
        try:
            return client.get_model_version_by_alias(model, alias)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            return [
                f"{m.name}@{a}"
                for m in client.search_registered_models()
                for a in (m.aliases or {})
            ]

    version = answered(
        look,
        f"which dictionary {quoted(name)} is",
        "start it again, or give the dictionary's artifact key, which needs no registry",
    )
    if isinstance(version, list):
        raise UnknownNameError(
            f"no dictionary {quoted(name)} in the MLflow registry; {nearest(name, version)}"
        )
    key = version.tags.get("artifact")
    if not key:
        raise ConfigError(
            f"{name} (version {version.version}) has no tag `artifact`: it was not registered by "
            "Latentflow"
        )
    return key


def register(client: MlflowClient, run: str, artifact: Artifact) -> None:
    """The dictionary in the registry, once for each artifact: name as in its facts, alias
    `champion` on the latest."""
    name = str(artifact.facts["name"])
    # two runs of one dictionary register it once
    with FileLock(environment.state() / "mlflow-registry.lock"):
        _register_once(client, name, run, artifact)


def _register_once(client: MlflowClient, name: str, run: str, artifact: Artifact) -> None:
    found = client.search_model_versions(f"name = '{name}' and tags.artifact = '{artifact.key}'")
    if found:
        client.set_registered_model_alias(name, "champion", found[0].version)
        return
    with _run_as(run):
        model = mlflow.pyfunc.log_model(
            name="dictionary",
            python_model=str(Path(__file__).parent / "pyfunc.py"),
            artifacts={
                "weights": str(artifact.path("dictionary.safetensors")),
                "config": str(artifact.path("dictionary.json")),
            },
            pip_requirements=["latentflow"],
        )
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    version = client.create_model_version(
        name,
        model.model_uri,
        run_id=run,
        model_id=model.model_id,  # a server takes no `models:/` source without it
        tags={"artifact": artifact.key, "hook_point": str(artifact.facts["hook_point"])},
        description=f"{name} at {artifact.facts['hook_point']}; weights in safetensors, loaded from code, no pickle",
    )
    client.set_registered_model_alias(name, "champion", version.version)


@contextlib.contextmanager
def _run_as(run: str) -> Iterator[None]:
    """The fluent interface (log_model needs it) on an existing run, left unfinished for the client
    to end."""
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_id=run):
        yield
