"""What a stage will ask of a client, said before it does: nobody is asked for it, and a run that may
cost much waits for a yes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from components.client.client import Client
from components.client.price import Budget, Quotation
from components.device import Execution
from components.errors import ConfigError
from components.store.estimate import Forecast


class Most(NamedTuple):
    """What is asked of a client, at most."""

    calls: int
    """Requests."""
    input_tokens: int
    """Tokens of their prompts, estimated."""
    output_tokens: int
    """Tokens of their answers."""

    def times(self, n: int) -> Most:
        """So many times as much."""
        return Most(*(n * each for each in self))

    def plus(self, other: Most) -> Most:
        """Both together."""
        return Most(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))


NOTHING = Most(0, 0, 0)


def forecast(
    asked: Sequence[tuple[Most, Any, str]], budget: Budget, budget_where: str, execution: Execution
) -> Forecast:
    """What several clients with one budget are asked together.

    Args:
        asked: what is asked at most, the settings of the client, and their section, as errors name
            it.
        budget: of all together.
        budget_where: its section.
        execution: for a model on this machine.

    Raises:
        ConfigError: the settings do not say who is asked.
    """
    quotes = [
        Client(section, budget, execution, where, budget_where).quote_of(*most)
        for most, section, where in asked
        if most.calls
    ]
    unpriced = any(quote.usd is None for quote in quotes)
    whole = Quotation(
        sum(quote.calls for quote in quotes),
        0,
        sum(quote.input_tokens for quote in quotes),
        sum(quote.output_tokens for quote in quotes),
        None if unpriced else sum(quote.usd or 0.0 for quote in quotes),
    )
    limited = _within(whole, budget.usd, budget.calls)
    return Forecast(
        whole.calls,
        whole.input_tokens,
        whole.output_tokens,
        whole.usd,
        limited.needs_leave,
        budget.usd,
        budget.calls,
    )


def refuse_without_leave(stage: str, told: Forecast | None, execution: Execution) -> None:
    """Refuses a run that may cost much, where nobody has said yes to it.

    Raises:
        ConfigError: with the stage, and what it may cost.
    """
    if told and told.needs_leave and not execution.confirmed:
        raise ConfigError(f"{stage}: {told.needs_leave}")


def _within(whole: Quotation, usd: float | None, calls: int | None) -> Quotation:
    """What a budget lets through of it."""
    return dataclasses.replace(
        whole,
        calls=whole.calls if calls is None else min(calls, whole.calls),
        usd=whole.usd if usd is None or whole.usd is None else min(usd, whole.usd),
    )
