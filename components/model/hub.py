"""The Hugging Face hub: what a repository there holds, and a copy of some of its files on this
machine.

Nothing is asked of the hub without leave (`online`); without it only copies that were made earlier
are found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.errors import InputError


def listing(repository: str) -> list[str] | None:
    """Names of all files of a repository's default branch; None where the hub does not tell
    (`snapshot` says why)."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repository)
    except Exception:  # a copy on this machine may still serve
        return None


def snapshot(
    repository: str, patterns: Sequence[str], *, online: bool, revision: str | None = None
) -> Path:
    """The folder that holds those of a repository's files whose names fit one of the patterns.

    Raises:
        InputError: no copy here, and no leave to ask the hub or no answer there; begins as the
            second half of a sentence.
    """
    from huggingface_hub import snapshot_download

    try:
        with _without_bars():
            folder = snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=not online,
            )
    except Exception as error:  # many kinds, and all mean the same to a user
        raise InputError(
            f"the hub did not give it: {first_line(error)}"
            if online
            else f"no copy of the hub's {repository} on this machine, and model.online is false, so nothing is downloaded; "
            "set model.online=true to permit it"
        ) from error
    return Path(folder)


def first_line(error: Exception) -> str:
    """The kind of an error of another library, and the first line of what it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
