"""The memory of gradients that one update frees is kept for the next while dictionaries learn.

The C library of Linux (glibc) gives every freed block above 32 MiB back to the system, which then
has to find, clear and map each of its pages again for the next update: at 16,384 x 512 latents
25,000 page faults an update, a fifteenth of its time. Only blocks up to the size of a gradient are
kept: larger ones would tear holes that nothing else fits into. Nothing changes in what is computed,
and nothing at all on other systems.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator

USUAL = 32 << 20
"""Bytes of the largest block that the library comes to keep by itself."""
_SPARE = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # their numbers in malloc.h
_lock = threading.Lock()
_inside: list[int] = []


@contextlib.contextmanager
def kept(n_bytes: int) -> Iterator[None]:
    """Meanwhile blocks up to so many bytes are kept; at the end what is free is given back. Several
    may be inside at once."""
    if n_bytes + _SPARE <= USUAL:
        yield
        return
    with _lock:
        _inside.append(n_bytes)
        _keep(max(_inside) + _SPARE)
    try:
        yield
    finally:
        with _lock:
            _inside.remove(n_bytes)
            _keep(max(_inside) + _SPARE if _inside else USUAL)
            _call("malloc_trim", 0)


def _keep(n_bytes: int) -> None:
    _call("mallopt", _MMAP_THRESHOLD, n_bytes)
    _call("mallopt", _TRIM_THRESHOLD, 2 * n_bytes)


def _call(name: str, *arguments: int) -> None:
    # musl has neither
    if sys.platform == "linux" and (function := getattr(ctypes.CDLL(None), name, None)):
        function(*arguments)
