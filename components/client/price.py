"""What calls cost: prices, a budget that is never passed, and what a run would cost at most.

The budget counts what the answers of a run cost, also those that lie in the cache since a run
before: so a run that was killed and is started again stops where it would have stopped. A request
is admitted if what is spent and the most that every open request can cost leave room for the most
that it can cost; where that fails only because of open ones, it waits for them. So who is admitted
depends on the order of the requests and on costs, not on which answer came first.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

from pydantic import Field

from components.config import Config

if TYPE_CHECKING:  # it imports this module
    from components.client.contract import Usage

USD_WITHOUT_LEAVE = 5.0
CALLS_WITHOUT_LEAVE = 10_000
"""A run that may cost more, or ask more often, wants `--yes`."""
MILLION = 1e6


class Price(Config):
    """What a model costs, in USD for a million tokens of each kind."""

    model: str = ""
    """The model's name, as it is asked for."""
    input: float = Field(0.0, ge=0)
    """Tokens of the prompt."""
    cached: float | None = Field(None, ge=0)
    """Tokens of the prompt that the server still knew; as `input` when absent."""
    output: float = Field(0.0, ge=0)
    """Tokens of the answer."""
    reasoning: float | None = Field(None, ge=0)
    """Tokens written before the answer; as `output` when absent."""

    def of(self, usage: Usage) -> float:
        """USD for these tokens."""
        cached = self.input if self.cached is None else self.cached
        reasoning = self.output if self.reasoning is None else self.reasoning
        parts = (
            usage.input * self.input,
            usage.cached * cached,
            usage.output * self.output,
            usage.reasoning * reasoning,
        )
        return sum(parts) / MILLION

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """USD at most for so many tokens, of whichever kinds they turn out to be."""
        read, written = max(self.input, self.cached or 0), max(self.output, self.reasoning or 0)
        return (input_tokens * read + output_tokens * written) / MILLION


FREE = Price()


class Budget(Config):
    """How much a run may cost. Nothing leaves this machine before one of these is set."""

    usd: float | None = Field(None, gt=0)
    """Money; needs the price of the model."""
    calls: int | None = Field(None, ge=1)
    """Answers, whoever has paid for them."""

    @property
    def is_set(self) -> bool:
        """Whether there is any."""
        return self.usd is not None or self.calls is not None


class Purse:
    """What is spent and reserved of a budget; several clients may share one.

    Attributes:
        budget: how much there is.
        closed: why nothing more is bought; None as long as there is room.
        usd: spent.
        calls: admitted.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.closed: str | None = None
        self.usd = 0.0
        self.calls = 0
        self._reserved = 0.0
        self._lock = threading.Lock()

    def reserve(self, most: float) -> bool:
        """Whether one more call of at most so many USD fits beside what is spent and open; if so,
        room is kept for it."""
        usd, calls = self.budget.usd, self.budget.calls
        with self._lock:
            if calls is not None and self.calls >= calls:
                return False
            if usd is not None and self.usd + self._reserved + most > usd * (1 + 1e-12):
                return False
            self.calls += 1
            self._reserved += most
            return True

    def close(self) -> None:
        """Nothing more is bought, also nothing cheaper: what is asked is then a beginning, not a
        choice by price."""
        usd, calls = self.budget.usd, self.budget.calls
        if calls is not None and self.calls >= calls:
            self.closed = f"the budget of {calls:,} calls is spent"
        else:
            self.closed = f"the budget of {usd:g} USD is spent ({self.usd:.4g}, and the next call may cost more than is left)"

    def settle(self, most: float, usd: float | None) -> None:
        """A call for which room was kept has cost so much; None gives all of it back, since nothing
        came of the call."""
        with self._lock:
            self._reserved = max(0.0, self._reserved - most)
            if usd is None:
                self.calls -= 1
            else:
                self.usd += usd


@dataclasses.dataclass(frozen=True)
class Quotation:
    """What a run would ask, said before it.

    Attributes:
        calls: requests that would be sent.
        cached: requests whose answers lie in the cache.
        input_tokens: of the prompts to be sent, estimated.
        output_tokens: of their answers at most.
        usd: what that costs at most; None where no price is known.
    """

    calls: int
    cached: int
    input_tokens: int
    output_tokens: int
    usd: float | None

    @property
    def needs_leave(self) -> str | None:
        """Why a person has to say yes to it first; None where nobody has to."""
        if self.usd is not None and self.usd > USD_WITHOUT_LEAVE:
            return (
                f"this may cost {self.usd:,.2f} USD, more than {USD_WITHOUT_LEAVE:g}; say --yes "
                "(execution.confirmed=true) to go on"
            )
        if self.calls > CALLS_WITHOUT_LEAVE:
            return (
                f"this makes {self.calls:,} calls, more than {CALLS_WITHOUT_LEAVE:,}; say --yes "
                "(execution.confirmed=true) to go on"
            )
        return None
