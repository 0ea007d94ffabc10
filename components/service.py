"""A service that may be away: asked with a limit on the time, and left alone for a while once it
has cost some.

A server that is not there refuses at once and may be asked again at once. One that takes a
connection and never answers costs the whole limit each time, so after that it is not asked for
minutes. The limit holds whatever the server does, also when it sends a byte now and then: a
question runs on a thread of its own, which is given up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from components.errors import ServiceError

T = TypeVar("T")
SECONDS_THAT_COST_NOTHING = 2.0
TIMES_ITS_COST = 30.0
LONGEST_REST = 300.0


class Service:
    """One server as this process knows it.

    Args:
        name: what it is called in a sentence, with its address.
        seconds: the longest that a question may take.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds
        self._asked_again = float("-inf")

    @property
    def rest(self) -> float:
        """Seconds for which it is still left alone; 0 when it may be asked."""
        return max(0.0, self._asked_again - time.monotonic())

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, within the limit.

        Raises:
            ServiceError: it is left alone now, or does not answer in time.
            Exception: whatever the question raised.
        """
        with self.used():
            found: dict[str, Any] = {}

            def run() -> None:
                try:
                    found["answer"] = question()
                except BaseException as error:
                    found["error"] = error

            asking = threading.Thread(target=run, daemon=True, name=f"asks {self.name}")
            asking.start()
            asking.join(self.seconds)
            if asking.is_alive():
                raise ServiceError(f"{self.name} does not answer within {self.seconds:g} s")
            if "error" in found:
                raise found["error"]
            return found["answer"]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Meanwhile it is used; when that fails and has cost seconds, it is left alone for many
        times as long.

        Raises:
            ServiceError: it is left alone now.
        """
        if self.rest:
            raise ServiceError(
                f"{self.name} did not answer and is asked again in {self.rest:.0f} s"
            )
        started = time.monotonic()
        try:
            yield
        except Exception:
            if (cost := time.monotonic() - started) > SECONDS_THAT_COST_NOTHING:
                self._asked_again = time.monotonic() + min(TIMES_ITS_COST * cost, LONGEST_REST)
            raise
