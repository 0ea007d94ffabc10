"""Questions that wait their turn on one thread: numbered, bounded, cancellable between two passes,
limited in time.

A question belongs to who asks about it: one that nobody has looked at for a while is dropped,
waiting or running, so a client that was killed holds up nobody. What was asked and answered lives
in memory only and is never logged.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

from components.errors import LatentflowError

log = logging.getLogger(__name__)

State = Literal["waiting", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


class QueueFull(Exception):
    """As many questions wait as may."""


class Cancelled(Exception):
    """Whoever asked wants no answer any more, or was not heard of again."""


class TimedOut(Exception):
    """It ran for longer than a question may."""


@dataclasses.dataclass(eq=False)
class Ticket:
    """One question on its way.

    Attributes:
        id: names it; not to be guessed.
        kind: what is asked.
        asked: the question itself.
        seconds: longest time that it may run.
        unasked: seconds after which it is dropped when nobody has looked at it.
        state: where it stands.
        message: what is being done, in a few words.
        done: passes made in this part of the work.
        total: passes that this part takes at most; 0 when unknown.
        answer: the result, once done.
        error: what ended it, once failed or cancelled.
        started: when it began to run, on the monotonic clock.
        ended: when it ended.
    """

    kind: str
    asked: Any
    seconds: float
    unasked: float
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    message: str = ""
    done: int = 0
    total: int = 0
    answer: Any = None
    error: BaseException | None = None
    started: float | None = None
    ended: float | None = None

    def __post_init__(self) -> None:
        self.looked_at = time.monotonic()
        self._wanted = True

    def begin(self, message: str, total: int = 0) -> None:
        """A new part of the work."""
        self.message, self.done, self.total = message, 0, total
        self.check()

    def step(self) -> None:
        """To be called before every pass of the model."""
        self.check()
        self.done += 1

    def check(self) -> None:
        """Ends the work here where nobody wants it any more.

        Raises:
            Cancelled: it was cancelled, or nobody has looked at it for too long.
            TimedOut: its time is up.
        """
        now = time.monotonic()
        if not self._wanted:
            raise Cancelled("it was cancelled")
        if now - self.looked_at > self.unasked:
            raise Cancelled(f"nobody asked about it for {self.unasked:.0f} s")
        if self.started is not None and now - self.started > self.seconds:
            raise TimedOut(
                f"it ran for longer than {self.seconds:.0f} s, the most that one question may"
            )

    def drop(self) -> None:
        """Marks it as no longer wanted."""
        self._wanted = False


class Queue:
    """Runs questions one after the other on a thread of its own.

    Args:
        work: (ticket) -> answer.
        waiting: questions that may wait, the running one not counted.
        seconds: longest time that one may run.
        unasked: seconds after which one is dropped when nobody has looked at it.
        kept: answers that are kept until they are fetched, the oldest going first.
    """

    def __init__(
        self,
        work: Callable[[Ticket], Any],
        waiting: int = 8,
        seconds: float = 120,
        unasked: float = 60,
        kept: int = 32,
    ) -> None:
        self._work, self._most, self._seconds, self._unasked, self._kept = (
            work,
            waiting,
            seconds,
            unasked,
            kept,
        )
        self._tickets: dict[str, Ticket] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def add(self, kind: str, asked: Any) -> Ticket:
        """Puts a question at the end.

        Raises:
            QueueFull: as many wait as may.
        """
        with self._changed:
            self._drop_unasked()
            if self.n_waiting >= self._most:
                raise QueueFull(f"{self._most} questions wait already, as many as may")
            ticket = Ticket(kind, asked, self._seconds, self._unasked)
            self._tickets[ticket.id] = ticket
            self._changed.notify_all()
        return ticket

    def look(self, number: str, seconds: float = 0.0) -> Ticket | None:
        """The question of that id, waiting up to `seconds` for its end; None where there is none
        (any more)."""
        end = time.monotonic() + seconds
        with self._changed:
            ticket = self._tickets.get(number)
            while ticket is not None:
                ticket.looked_at = now = time.monotonic()
                if ticket.state in ENDED or now >= end:
                    break
                self._changed.wait(min(end - now, 0.5))
        return ticket

    def cancel(self, number: str) -> Ticket | None:
        """Cancels it: at once where it waits, before the next pass where it runs, not at all where
        it has ended."""
        with self._changed:
            ticket = self._tickets.get(number)
            if ticket is not None and ticket.state not in ENDED:
                ticket.drop()
                if ticket.state == "waiting":
                    self._end(ticket, "cancelled", error=Cancelled("it was cancelled"))
        return ticket

    def position(self, ticket: Ticket) -> int:
        """How many come before it: 0 for the one that runs, or has ended."""
        if ticket.state != "waiting":
            return 0
        before = list(self._tickets.values())
        before = before[: before.index(ticket)]
        return sum(other.state in ("waiting", "running") for other in before)

    @property
    def running(self) -> Ticket | None:
        """The question that runs."""
        return next(
            (ticket for ticket in list(self._tickets.values()) if ticket.state == "running"), None
        )

    @property
    def n_waiting(self) -> int:
        """Questions that wait."""
        return sum(ticket.state == "waiting" for ticket in list(self._tickets.values()))

    def close(self, seconds: float = 5) -> None:
        """Cancels everything and ends the thread."""
        with self._changed:
            self._closed = True
            for ticket in self._tickets.values():
                ticket.drop()
            self._changed.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        while (ticket := self._next()) is not None:
            try:
                ticket.check()
                answer = self._work(ticket)
            except (Cancelled, TimedOut) as error:
                self._finish(
                    ticket, "cancelled" if isinstance(error, Cancelled) else "failed", error=error
                )
            except Exception as error:
                if not isinstance(error, LatentflowError):
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    what = (ticket.id, type(error).__name__, where.filename, where.lineno)
                    # its message may hold what was asked
                    log.error("question %s failed: %s in %s, line %s", *what)
                self._finish(ticket, "failed", error=error.with_traceback(None))
            else:
                self._finish(ticket, "done", answer=answer)

    def _next(self) -> Ticket | None:
        with self._changed:
            while not self._closed:
                self._drop_unasked()
                for ticket in self._tickets.values():
                    if ticket.state == "waiting":
                        ticket.state, ticket.started = "running", time.monotonic()
                        return ticket
                self._changed.wait(1.0)
        return None

    def _finish(
        self, ticket: Ticket, state: State, answer: Any = None, error: BaseException | None = None
    ) -> None:
        with self._changed:
            self._end(ticket, state, answer, error)

    def _end(
        self, ticket: Ticket, state: State, answer: Any = None, error: BaseException | None = None
    ) -> None:
        ticket.state, ticket.answer, ticket.error, ticket.ended = (
            state,
            answer,
            error,
            time.monotonic(),
        )
        ticket.asked = None
        ended = [other for other in self._tickets.values() if other.state in ENDED]
        for old in sorted(ended, key=lambda other: other.ended or 0.0)[: -self._kept]:
            del self._tickets[old.id]
        self._changed.notify_all()

    def _drop_unasked(self) -> None:
        for ticket in list(self._tickets.values()):
            if ticket.state == "waiting":
                try:
                    ticket.check()
                except Cancelled as error:
                    self._end(ticket, "cancelled", error=error)
