"""One list of requests on its way: looked up, admitted in order, sent beside one another, written,
counted.

The first request is sent alone, and until one has been answered: what a server does not take is
learnt from it, and a key or a model that cannot work is said before hundreds of requests find out.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence

from components.client.account import Account
from components.client.contract import Reply, Request, Responder, Response, Unanswered, key_of
from components.client.price import Purse
from components.client.reading import read
from components.client.replies import Replies
from components.errors import ConfigError, LatentflowError
from components.model.hub import first_line
from components.store.stage import Progress

log = logging.getLogger(__name__)
FAILURES_IN_A_ROW = 8
"""So many requests without an answer, and none with one between them: the server is gone, and is
left alone. A prompt that it did not take counts only before it has ever answered: a server that
refuses some prompts is there for the others."""
FAILURES_AT_FIRST = 2
"""The same before it has ever answered, where requests go one by one and each may have waited for
long."""


@dataclasses.dataclass(eq=False)
class Standing:
    """What a client knows from one round to the next.

    Attributes:
        responder: who is asked.
        budget_where: the section of the budget, as errors name it.
        purse: what may be spent, and is.
        account: what came of it.
        replay: whether only the cache answers.
        counted: keys whose cost is in purse and account already.
        is_checked: whether the responder said that it can be asked.
        has_answered: whether it has answered anything.
        failed_in_a_row: requests that speak for a server that is gone, since the last answer.
        stopped: why nothing more is sent.
    """

    responder: Responder
    budget_where: str
    purse: Purse
    account: Account
    replay: bool
    counted: set[str] = dataclasses.field(default_factory=set)
    is_checked: bool = False
    has_answered: bool = False
    failed_in_a_row: int = 0
    stopped: str | None = None

    def permit(self) -> None:
        """Makes sure that the responder may be asked, before it is.

        Raises:
            ConfigError: nothing says how much it may cost.
        """
        where, price, budget = self.budget_where, self.responder.price, self.purse.budget
        if self.responder.leaves and not budget.is_set:
            raise ConfigError(
                f"{where} is not set, and before it is, nothing leaves this machine: set "
                f"{where}.usd or {where}.calls"
            )
        if budget.usd is not None and price is None:
            raise ConfigError(
                f"{where}.usd needs the price of the model {self.responder.model!r}, and "
                f"{self.responder.where}.prices does not have it: add [{{model: "
                f"{self.responder.model}, input: <USD for a million tokens>, output: ...}}], or "
                f"set {where}.calls instead"
            )

    def most(self, request: Request) -> float:
        """USD that a request can cost."""
        price = self.responder.price
        return price.most(request.most_input_tokens, request.max_tokens) if price else 0.0


@dataclasses.dataclass(eq=False)
class Pending:
    """A request on its way.

    Attributes:
        request: the request.
        key: its key.
        canonical: what the key is the hash of.
        places: where its reply goes; several where the same is asked several times.
        most: USD that are reserved for it.
    """

    request: Request
    key: str
    canonical: str
    places: list[int]
    most: float = 0.0


class Round:
    """One list of requests.

    Args:
        standing: of the client.
        cache: its cache, open.
        requests: what is asked.
        tell: called with the progress.
    """

    def __init__(
        self,
        standing: Standing,
        cache: Replies,
        requests: Sequence[Request],
        tell: Callable[[Progress], None],
    ) -> None:
        self._standing, self._responder, self._cache, self._tell = (
            standing,
            standing.responder,
            cache,
            tell,
        )
        self._replies: list[Reply | None] = [None] * len(requests)
        self._asked: dict[str, Pending] = {}
        for place, request in enumerate(requests):
            canonical = request.canonical(self._responder.identity)
            key = key_of(canonical)
            self._asked.setdefault(key, Pending(request, key, canonical, [])).places.append(place)
        self._group: list[Pending] = []
        self._open: set[Pending] = set()  # for which room is kept in the purse
        self._on_their_way: set[asyncio.Task[None]] = set()
        self._stack = contextlib.AsyncExitStack()
        self._is_open = False
        self._n_done = 0

    async def run(self) -> list[Reply]:
        """The replies, in order."""
        kept = self._cache.get(list(self._asked))
        async with self._stack:
            try:
                for each in self._asked.values():
                    await self._take(each, kept.pop(each.key, None))
                await self._send()
                while self._on_their_way:
                    await self._wait()
            finally:
                for task in self._on_their_way:
                    task.cancel()
                await asyncio.gather(*self._on_their_way, return_exceptions=True)
                for each in self._open:
                    self._standing.purse.settle(each.most, None)
        self._progress()
        assert None not in self._replies
        return [reply for reply in self._replies if reply is not None]

    async def _take(self, each: Pending, response: Response | None) -> None:
        """Answers a request from the cache, refuses it, or puts it on its way."""
        if response is not None and each.key in self._standing.counted:
            self._came(each, response, cached=True)
            return
        each.most = self._cost(response) or 0.0 if response else self._standing.most(each.request)
        if reason := await self._obstacle(each, response):
            self._give(each, Reply(None, f"not asked: {reason}", again=True, key=each.key), None)
            return
        if response is not None:
            self._came(each, response, cached=True)
            return
        self._open.add(each)
        self._group.append(each)
        if len(self._group) == self._responder.batch:
            await self._send()

    async def _obstacle(self, each: Pending, response: Response | None) -> str | None:
        """Why a request is not answered; None once room is kept for it. Waits where that depends on
        what others cost."""
        standing = self._standing
        if response is None and standing.replay:
            return f"{self._responder.where}.replay is on, and the cache has no answer to it"
        while True:
            if response is None and standing.stopped:
                return standing.stopped
            if standing.purse.closed or standing.purse.reserve(each.most):
                return standing.purse.closed
            await self._send()
            if self._on_their_way:
                await self._wait()
            else:
                standing.purse.close()

    async def _send(self) -> None:
        """Puts the group on its way, as soon as there is a place for it."""
        if not self._group:
            return
        if not self._is_open:
            self._standing.permit()
            await self._stack.enter_async_context(self._responder.opened())
            self._is_open = True
        if not self._standing.is_checked:
            await self._responder.check()
            self._standing.is_checked = True
        at_once = self._responder.concurrency if self._standing.has_answered else 1
        while len(self._on_their_way) >= at_once:
            await self._wait()
        group, self._group = self._group, []
        if self._standing.stopped:
            for each in group:
                self._refused(each, Unanswered(f"not asked: {self._standing.stopped}"))
            return
        self._on_their_way.add(asyncio.create_task(self._respond(group)))
        if not self._standing.has_answered:
            await self._wait()

    async def _wait(self) -> None:
        done, self._on_their_way = await asyncio.wait(
            self._on_their_way, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()

    async def _respond(self, group: Sequence[Pending]) -> None:
        # another run may have paid since this one looked
        meanwhile = self._cache.get([each.key for each in group])
        for each in group:
            if each.key in meanwhile:
                self._came(each, meanwhile[each.key], cached=True)
        group = [each for each in group if each.key not in meanwhile]
        outcomes: Sequence[Response | Unanswered] = []
        try:
            if group:
                requests, keys = [each.request for each in group], [each.key for each in group]
                outcomes = await self._responder.respond(requests, keys)
        except LatentflowError:
            raise
        except Exception as error:  # whatever a server brings about in a library, it is a failure of these requests
            outcomes = [Unanswered(f"no answer: {first_line(error)}")] * len(group)
        for each, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Unanswered):
                self._refused(each, outcome)
            else:
                self._cache.put(each.key, each.canonical, outcome)
                self._standing.has_answered, self._standing.failed_in_a_row = True, 0
                self._came(each, outcome, cached=False)
            self._progress()  # not of what lies in the cache, which comes faster than anybody reads

    def _came(self, each: Pending, response: Response, *, cached: bool) -> None:
        """A response is there, and in the cache."""
        self._open.discard(each)
        cost = self._cost(response)
        reply = dataclasses.replace(
            read(each.request, response), cost=cost, cached=cached, key=each.key
        )
        if each.key not in self._standing.counted:
            self._standing.counted.add(each.key)
            self._standing.purse.settle(each.most, cost or 0.0)
            self._give(each, reply, response)
        else:  # paid and counted before in this run
            self._give(each, _free(reply), None)

    def _refused(self, each: Pending, refusal: Unanswered) -> None:
        standing, reason = self._standing, refusal.reason
        self._open.discard(each)
        standing.purse.settle(each.most, None)
        if refusal.stops and not standing.has_answered:
            raise ConfigError(reason.partition(": ")[2])
        is_silent = reason.startswith("no answer") and not standing.has_answered
        standing.failed_in_a_row += reason.startswith("no answer") or (
            reason.startswith("not taken") and not standing.has_answered
        )
        is_gone = standing.failed_in_a_row >= (
            FAILURES_AT_FIRST if is_silent else FAILURES_IN_A_ROW
        )
        if standing.stopped is None and (refusal.stops or is_gone):
            times = "" if refusal.stops else f" ({standing.failed_in_a_row} requests in a row)"
            standing.stopped = f"asking has stopped{times}: {reason}"
            log.warning("%s: %s", self._responder.where, standing.stopped)
        self._give(each, Reply(None, reason, again=True, key=each.key), None)

    def _give(self, each: Pending, reply: Reply, response: Response | None) -> None:
        for number, place in enumerate(each.places):
            same = (
                reply
                if number == 0 or reply.again
                else dataclasses.replace(_free(reply), cached=True)
            )
            self._replies[place] = same
            self._standing.account.add(each.request, same, response if number == 0 else None)
        self._n_done += len(each.places)

    def _progress(self) -> None:
        account = self._standing.account
        metrics = {"asked": float(account.asked), "failures": float(account.failures.total())}
        metrics |= {} if account.usd is None else {"usd": account.usd}
        self._tell(Progress(self._n_done, len(self._replies), "answers", "asking", metrics))

    def _cost(self, response: Response) -> float | None:
        price = self._responder.price
        return None if price is None else price.of(response.usage)


def _free(reply: Reply) -> Reply:
    """The same reply, whose cost is counted elsewhere."""
    return dataclasses.replace(reply, usage=type(reply.usage)(), cost=0.0)
