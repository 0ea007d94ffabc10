"""Where a run's parameters come from: defaults < params.yaml < overrides on dotted names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from components.config import assignments, load, override
from components.errors import ConfigError
from components.experiment import ExperimentConfig


def reference(path: Path = Path("params.yaml")) -> ExperimentConfig:
    """The defaults with the given file over them; the defaults alone when the file is not there."""
    if not path.exists():
        return ExperimentConfig()
    try:
        nested: Any = (
            yaml.safe_load(path.read_text()) or {}
        )  # empty: `latentflow params > params.yaml` is being written
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(nested, dict):
        raise ConfigError(f"{path}: wanted a mapping of sections, got {type(nested).__name__}")
    return load(ExperimentConfig, nested)


def resolve(arguments: list[str], path: Path | None = None) -> ExperimentConfig:
    """The parameters of one run from its command line.

    Raises:
        ConfigError: the file that was named is not there, or a value cannot be used.
        UnknownNameError: a dotted name that is no parameter.
    """
    if path is not None and not path.exists():
        raise ConfigError(f"no parameter file {path}; `latentflow params` prints one")
    return override(reference(path or Path("params.yaml")), assignments(arguments))
