"""How fast a server may be asked, and how long to wait when it says not now.

Requests and tokens a minute are kept by even spacing (the generic cell rate algorithm without a
burst), so no window of a minute holds more than the limit. What an answer took is known behind it:
a turn is given for the most, and the rest handed back. When the server wants a pause, everybody
pauses, and comes back one by one, further apart each time that it says so and nearer again with
each answer: so a limit that nobody has set is found.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Mapping

MINUTE = 60.0
LONGEST_BACKOFF = 60.0
SHORTEST_GAP, LONGEST_GAP, NEARER = 0.05, 1.0, 0.8
"""Seconds between requests after a server's first wish for a pause, the most of them, and their
change with an answer."""


class Pace:
    """When the next request may be sent.

    Args:
        requests_per_minute: None for no limit.
        tokens_per_minute: of prompts and answers; None for no limit.
    """

    def __init__(
        self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        self._each = MINUTE / requests_per_minute if requests_per_minute else 0.0
        self._token = MINUTE / tokens_per_minute if tokens_per_minute else 0.0
        self._gap = 0.0
        self._next = self._next_tokens = self._paused = -math.inf

    async def turn(self, tokens: int) -> None:
        """Waits until a request of so many tokens may be sent."""
        while True:
            now = time.monotonic()
            at = max(self._next, self._next_tokens, self._paused)
            if at <= now:
                break
            # whoever wakes first goes, and the others wait for their turn
            await asyncio.sleep(at - now)
        self._next = now + max(self._each, self._gap)
        self._next_tokens = now + tokens * self._token

    def answered(self, unused: int) -> None:
        """A request was answered, and so many tokens of its turn were not used."""
        self._next_tokens -= unused * self._token
        self._gap = self._gap * NEARER if self._gap > SHORTEST_GAP / 10 else 0.0

    def pause(self, seconds: float) -> None:
        """The server wants a pause: nobody sends anything for so long."""
        now = time.monotonic()
        if now >= self._paused:  # one wish for many requests, however many of them are told
            self._gap = min(max(2 * self._gap, SHORTEST_GAP), LONGEST_GAP)
        self._paused = max(self._paused, now + seconds)


def backoff(first: float, attempt: int) -> float:
    """Seconds to wait after that many failed attempts (0 after the first), spread so that not all
    come back at once."""
    return min(first * 2.0**attempt, LONGEST_BACKOFF) * random.uniform(0.75, 1.0)


def asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (`retry-after-ms`, `retry-after` in seconds or as a date);
    None if it does not."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
