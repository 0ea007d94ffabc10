"""Paths as a user writes them: `~` is the home folder wherever a path is taken, not only where a
shell reads it."""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigError


def expanded(path: Path | str) -> Path:
    """The path with `~` or `~name` at its beginning replaced.

    Raises:
        ConfigError: nobody of that name has a home folder here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{str(path)!r}: no home folder of that name is known here; write the whole path"
        ) from None
