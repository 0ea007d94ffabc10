"""A run that is told to stop does stop: a signal that was swallowed comes again, and a served run
ends within seconds.

Python runs a signal's handler between two instructions of the main thread, wherever that is. Inside
a destructor or the callback of a weak reference nobody can catch what the handler raises: Python
prints it and goes on, and so would the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from prefect.exceptions import TerminationSignal

SECONDS_TO_STOP = 3.0
SECONDS_UNTIL_AGAIN = 0.05

SIGNALS: dict[type[BaseException], signal.Signals] = {
    KeyboardInterrupt: signal.SIGINT,
    TerminationSignal: signal.SIGTERM,
}


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Meanwhile Ctrl-C and a cancellation that Python could not raise are sent again, until they
    reach the run."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type in SIGNALS:
            _after(
                SECONDS_UNTIL_AGAIN,
                signal.pthread_kill,
                threading.main_thread().ident,
                SIGNALS[unraisable.exc_type],
            )
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def end_soon() -> None:
    """The process of a served run that is being stopped has a few seconds left, then it ends as it
    is.

    Whatever the store holds under its final name is complete at any moment, so there is nothing to
    wait for. Status 0: the runner would call any other a crash, and this run is cancelled.
    """
    _after(SECONDS_TO_STOP, os._exit, 0)


def _after(seconds: float, act: Callable[..., object], *arguments: object) -> None:
    timer = threading.Timer(seconds, act, arguments)
    timer.daemon = True
    timer.start()
