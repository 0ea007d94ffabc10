"""Where a run's parameters come from: defaults < params.yaml < overrides on dotted names."""

from __future__ import annotations

from pathlib import Path

from components.config import assignments, load, override
from components.errors import ConfigError
from components.experiment import ExperimentConfig
from flows.stack import environment


def reference(path: Path = Path("params.yaml")) -> ExperimentConfig:
    """The defaults with the given file over them; the defaults alone when the file is not there."""
    return load(ExperimentConfig, environment.written(path))


def resolve(arguments: list[str], path: Path | None = None) -> ExperimentConfig:
    """The parameters of one run from its command line.

    Raises:
        ConfigError: the file that was named is not there, or a value cannot be used.
        UnknownNameError: a dotted name that is no parameter.
    """
    if path is not None and not path.exists():
        raise ConfigError(f"no parameter file {path}; `latentflow params` prints one")
    return override(reference(path or Path("params.yaml")), assignments(arguments))
