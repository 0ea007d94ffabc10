"""Where tensors live: `auto` is CUDA when there is one, else the CPU. The only place that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.config import Config, execution
from components.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Execution(Config):
    """How to run: nothing here can change a result, so nothing here enters an artifact key."""

    device: str = execution("auto")
    """auto, cpu, cuda, or cuda:<number>."""
    threads: int = execution(0, ge=0)
    """CPU threads for torch; 0 takes every core."""
    store: str = execution("data/artifacts")
    """Folder of the artifact store."""


def resolve(name: str = "auto") -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: CUDA was asked for and this machine or this torch has none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"execution.device is {name!r}, but torch {torch.__version__} sees no CUDA device here; use auto or cpu"
        )
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"execution.device: wanted auto, cpu, cuda or cuda:<number>, got {name!r}") from None
