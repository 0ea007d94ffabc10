"""What a manifest says of the machine and of the code that made an artifact."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def git_commit() -> str | None:
    """The commit this code runs from, with '+' when the tree differs from it; None outside a
    repository."""

    def answer(*arguments: str) -> str:
        command, here = ["git", *arguments], Path(__file__).parent
        ran = subprocess.run(command, cwd=here, capture_output=True, check=True)
        return ran.stdout.decode("utf-8", errors="replace").strip()

    try:
        return answer("rev-parse", "HEAD") + (
            "+" if answer("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far.

    On Linux the kernel's own line: getrusage's maximum begins at that of whoever started the
    process.
    """
    with contextlib.suppress(OSError):
        if found := re.search(
            r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")
        ):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that can change a number."""
    names = (
        "torch",
        "transformers",
        "numpy",
        "polars",
        "scikit-learn",
        "safetensors",
        "tokenizers",
    )
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
