"""Asks a client many things: in order, beside one another, each paid once, within a budget, and
never with an exception from what a server does.

    client = Client(config.client, config.budget)     # asks nothing yet
    client.check()                                    # refuses what cannot work, in a sentence
    client.refuse_too_long(requests, "explain")       # and what the model cannot read
    client.quote(requests).needs_leave                # what it may cost, before it does
    replies = client.ask(requests)                    # or: replies = yield from client.asking(requests)

Everything that came back from a server is written into the cache before anybody sees it. What
raises: settings that cannot work, seen before or at the first request that was not in the cache;
and a disk that does not take what was paid. Work runs on a thread with an event loop of its own, so
it makes no difference whether the caller has one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from components.client import replies as cache
from components.client.account import Account
from components.client.beside import Beside
from components.client.clients.none import NoneConfig
from components.client.contract import Reply, Request, clients, key_of
from components.client.price import Budget, Purse, Quotation
from components.client.round import Round, Standing
from components.config import union_of
from components.device import Execution
from components.registry import Services
from components.store.stage import Progress

if TYPE_CHECKING:
    ClientConfig = Any
else:
    ClientConfig = union_of(clients)
NOBODY = NoneConfig()
"""The default of a section of type `ClientConfig`: the settings of any client, by `kind`."""
Asking = Generator[Progress, None, list[Reply]]


class Client:
    """Who answers prompts.

    Attributes:
        is_set: whether anybody answers at all.
        account: what was asked and got so far.
    """

    def __init__(
        self,
        config: Any = NOBODY,
        budget: Budget | Purse | None = None,
        execution: Execution | None = None,
        where: str = "client",
        budget_where: str = "budget",
    ) -> None:
        """Asks nothing yet.

        Args:
            config: settings of one of `clients`.
            budget: what the run may cost; a purse is shared with other clients.
            execution: where a model on this machine runs.
            where: the section of these settings, as errors name it.
            budget_where: that of the budget.
        """
        self._config = config
        purse = budget if isinstance(budget, Purse) else Purse(budget or Budget())
        self._responder = clients[config.kind](config, Services(execution or Execution(), 0))
        self._responder.where = where
        self._askers: set[str] = set()
        self._lock = threading.Lock()  # one round after another: purse and pace are of all
        self.is_set = config.kind != "none"
        self.account = Account(config.sample)
        self._standing = Standing(self._responder, budget_where, purse, self.account, config.replay)

    @property
    def model(self) -> str:
        """The model that is asked for.

        Raises:
            ConfigError: the settings do not name one.
        """
        return self._responder.model

    @property
    def leaves(self) -> bool:
        """Whether prompts leave this machine.

        Raises:
            ConfigError: the settings do not say where they go.
        """
        return self._responder.leaves

    def check(self) -> None:
        """Makes sure that it can be asked. It asks the server what it serves, and pays nothing; a
        replay asks nobody.

        Raises:
            ConfigError: no endpoint there, no key, a model that is not served, no budget.
        """

        async def checked() -> None:
            async with self._responder.opened():
                await self._responder.check()
            self._standing.is_checked = True

        if not self._config.replay:
            self._standing.permit()
            Beside(checked(), self._lock).result()

    def refuse_too_long(self, requests: Sequence[Request], asker: str) -> None:
        """Refuses requests of which one is longer than the model takes, as far as `check` found out
        how long that is. Asks nobody.

        Each asker's first requests alone are looked at: what it asks later, when others have been
        answered and paid, comes back as `not taken` where it is too long, each request for itself.

        Args:
            requests: all that are to be asked now.
            asker: who asks them, one name for all that are alike.

        Raises:
            ConfigError: one does not fit.
        """
        is_first = asker not in self._askers
        self._askers.add(asker)
        if is_first and self._standing.is_checked:
            with self._lock:
                self._responder.refuse_too_long(requests)

    def quote(self, requests: Sequence[Request]) -> Quotation:
        """What these requests would cost; nothing is asked.

        Raises:
            ConfigError: the settings do not say who is asked.
        """
        identity = self._responder.identity
        by_key = {key_of(request.canonical(identity)): request for request in requests}
        with cache.opened(self._config.replies, to_write=False) as replies:
            kept = replies.get(list(by_key))
        asks = self.is_set and not self._config.replay
        new = [request for key, request in by_key.items() if asks and key not in kept]
        read, written = sum(each.input_tokens for each in new), sum(each.max_tokens for each in new)
        return self.quote_of(len(new), read, written, len(requests) - len(new))

    def quote_of(
        self, calls: int, input_tokens: int, output_tokens: int, cached: int = 0
    ) -> Quotation:
        """What so many calls and tokens would cost, before there are prompts.

        Raises:
            ConfigError: the settings do not say who is asked.
        """
        price = self._responder.price
        usd = None if price is None else price.most(input_tokens, output_tokens)
        return Quotation(calls, cached, input_tokens, output_tokens, usd)

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies, in the order of the requests.

        Raises:
            ConfigError: as `check`, at the first request that is not in the cache.
            StoreError: the disk does not take what was paid.
        """
        asking = self.asking(requests)
        while True:
            try:
                next(asking)
            except StopIteration as end:
                return end.value

    def asking(self, requests: Sequence[Request]) -> Asking:
        """As `ask`, telling how far it is. Closing it early cancels what is on its way."""
        told: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()

        async def answered() -> list[Reply]:
            with cache.opened(
                self._config.replies, to_write=self.is_set and not self._config.replay
            ) as replies:
                return await Round(self._standing, replies, requests, told.put).run()

        work = Beside(answered(), self._lock, lambda: told.put(None))
        try:
            while (progress := told.get()) is not None:
                yield progress
            return work.result()
        finally:
            work.cancel()
