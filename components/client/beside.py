"""Asynchronous work for a caller that blocks: on a thread with an event loop of its own, so that it
makes no difference whether the caller runs inside one (a notebook, an asynchronous flow) or not."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """Work that runs beside the caller, from now on.

    Args:
        work: the coroutine.
        lock: held while it runs.
        when_done: called at its end, on its thread.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, T],
        lock: threading.Lock,
        when_done: Callable[[], Any] | None = None,
    ) -> None:
        self._outcome: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self._lock, self._when_done = lock, when_done
        # in the caller's context, so that what is logged belongs to the caller's task
        run = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=run, args=(self._run,), daemon=True, name="asks a client"
        )
        self._thread.start()

    def result(self) -> T:
        """What the work gave, once it is done.

        Raises:
            Exception: whatever it raised.
        """
        self._thread.join()
        if error := self._outcome.get("error"):
            raise error
        return self._outcome["result"]

    def cancel(self) -> None:
        """Ends the work where it waits, and returns when it has ended."""
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._lock:
                self._outcome["result"] = self._loop.run_until_complete(self._task)
        except BaseException as error:
            self._outcome["error"] = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            if self._when_done:
                self._when_done()
