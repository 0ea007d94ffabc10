"""What a run has asked and got: counts, tokens, cost, who answered, and a sample of calls kept
whole.

Everything here is over the replies that the run has got, whoever has paid for them, so a run that
was killed and goes on tells the same; only `asked` and `paid` are of this process. The sample is
the calls with the smallest keys: keys are hashes, so it is a random sample, and the same one
whatever the order and however often the run was interrupted. Half of it is kept for calls that say
so (`Request.is_sampled_first`): explanations, which people want to see the prompt of, would be lost
among a hundred times as many readings.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
from collections import Counter
from typing import Any

from components.client.contract import Reply, Request, Response, Usage

log = logging.getLogger(__name__)


class Account:
    """What came of all requests of a run.

    Attributes:
        replies: requests that something came of, or that were refused.
        asked: those that were sent now.
        usage: tokens by kind, of all.
        usd: what they cost; None once one has no known price.
        paid: what those cost that were sent now; None likewise.
        failures: kind of reason -> how many.
        served: "model (fingerprint)" -> how many.
        left_out: settings that a server did not take.
    """

    def __init__(self, sample: int) -> None:
        """`sample` is how many calls are kept whole."""
        self.replies = self.asked = self.estimated = 0
        self.usage: Counter[str] = Counter()
        self.usd: float | None = 0.0
        self.paid: float | None = 0.0
        self.failures: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.left_out: set[str] = set()
        self._sample = sample
        # by whether the sample takes them first
        self._kept: dict[bool, list[tuple[int, dict[str, Any]]]] = {True: [], False: []}
        self._in_sample: set[str] = set()

    def add(self, request: Request, reply: Reply, response: Response | None) -> None:
        """Counts one."""
        self.replies += 1
        if reply.reason:
            self.failures[reply.reason.partition(":")[0]] += 1
        if response is None:
            return
        used = dataclasses.asdict(reply.usage)
        self.estimated += used.pop("estimated")
        self.usage.update(used)
        self.usd = None if self.usd is None or reply.cost is None else self.usd + reply.cost
        if not reply.cached:
            self.asked += 1
            self.paid = None if self.paid is None or reply.cost is None else self.paid + reply.cost
        self._serve(response)
        self._keep(request, reply, response)

    def _serve(self, response: Response) -> None:
        name = response.served_model + (
            f" ({response.fingerprint})" if response.fingerprint else ""
        )
        if self.served and name not in self.served and len(self.served) < 10:
            log.warning(
                "answers of different models mix: %s, and now %s", ", ".join(self.served), name
            )
        self.served[name] += 1
        if new := set(response.left_out) - self.left_out:
            log.warning(
                "%s does not take %s and is asked without",
                response.served_model,
                ", ".join(sorted(new)),
            )
            self.left_out |= new

    def _keep(self, request: Request, reply: Reply, response: Response) -> None:
        order, kept = -int(reply.key, 16), self._kept[request.is_sampled_first]
        if not self._sample or reply.key in self._in_sample:
            return
        if len(kept) == self._sample and order < kept[0][0]:
            return
        row = {
            "call": reply.key,
            "label": request.label,
            "replicate": request.replicate,
            "prompt": request.text,
            "answer": response.content,
            "reason": reply.reason,
            **{
                f"{kind}_tokens": getattr(reply.usage, kind)
                for kind in ("input", "cached", "reasoning", "output")
            },
            "estimated": reply.usage.estimated,
            "usd": reply.cost,
            "served_model": reply.served_model,
            "fingerprint": reply.fingerprint,
            "seconds": response.seconds,
        }
        self._in_sample.add(reply.key)
        if len(kept) < self._sample:
            heapq.heappush(kept, (order, row))
        else:
            self._in_sample.discard(heapq.heappushpop(kept, (order, row))[1]["call"])

    def rows(self) -> list[dict[str, Any]]:
        """The sample, rows of `CALLS`, by key."""
        first, others = (
            sorted(self._kept[which], reverse=True, key=_order) for which in (True, False)
        )
        # more than half where there are not enough others
        chosen = first[: max(self._sample // 2, self._sample - len(others))]
        chosen += others[: self._sample - len(chosen)]
        return [row for _, row in sorted(chosen, reverse=True, key=_order)]

    def facts(self) -> dict[str, Any]:
        """For a manifest: numbers and names only."""
        return {
            "replies": self.replies,
            "asked": self.asked,
            "tokens": {
                field.name: self.usage[field.name] for field in dataclasses.fields(Usage)[:-1]
            },
            "estimated": self.estimated,
            "usd": self.usd,
            "paid": self.paid,
            "failures": dict(sorted(self.failures.items())),
            "served": dict(sorted(self.served.items())),
            "left_out": sorted(self.left_out),
        }


def _order(kept: tuple[int, dict[str, Any]]) -> int:
    return kept[0]
