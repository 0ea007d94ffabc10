"""Preference: whether a language model takes the steered text for better than the plain text of the
same prompt and sample.

Both orders are asked about, because models prefer the first or the second text whatever they say.
1: the text was preferred both times; 0: the plain text was; 0.5, a tie: the answers contradict each
other, or both texts are the same, about which nobody is asked. So the mean is the share won, ties
being half, and what steers with nothing has 0.5; `unsteered_again` says what luck gives.

Source: ours; pairwise comparison in both orders after Zheng et al. (2023), arXiv:2306.05685, section
3.4 (a win only where both orders agree).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from components.client.contract import Reply, Request
from components.client.forecast import Most
from components.report.measure import Measure
from components.steering.asking import TARGET_TOKENS, AskingConfig, AskingJudge, Opinion
from components.steering.contract import Continuation, judges
from components.store.judgements import UNPAIRED

ROOM = 24
"""Tokens of an answer, without what a model thinks before it."""
TIE = 0.5


class Preferred(BaseModel):
    """The better of two texts."""

    model_config = ConfigDict(extra="forbid")
    better: Literal["A", "B"]


class PreferenceConfig(AskingConfig):
    """Settings of the comparison with plain text by a language model."""


@judges
class Preference(AskingJudge):
    """Steered against plain text, in both orders."""

    config = PreferenceConfig
    names: ClassVar = ("preference",)
    shows: ClassVar = {"preference": ("target", "prompt", "first", "second")}
    measure = Measure(
        "preference", "Preferred to plain text", "share",
        "Comparisons with the plain text of the same prompt that the text wins by a language model, "
        "asked in both orders; ties are half.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    @classmethod
    def most_asked(cls, settings: Any, text: int, prompt: int) -> Most:
        """Two calls."""
        (own,) = cls.read(settings).values()
        shown = own.tokens + 2 * text + prompt + TARGET_TOKENS
        return Most(1, shown, ROOM + settings.reasoning).times(2)

    def requests(self, text: Continuation, target: str) -> list[Request] | Opinion:
        """The text first, then second."""
        own, plain = text.text or "", text.plain
        if plain is None:
            return Opinion({}, UNPAIRED)
        if own == plain:
            return Opinion({self.kind: TIE})
        return [
            Request(
                self.prompts["preference"].messages(
                    target=target, prompt=text.prompt, first=first, second=second
                ),
                ROOM + self.settings.reasoning,
                schema=Preferred,
                label="judge preference",
            )
            for first, second in ((own, plain), (plain, own))
        ]

    def opinion(self, replies: Sequence[Reply]) -> Opinion:
        """1, 0 or a tie."""
        if why := next((reply.reason for reply in replies if reply.value is None), None):
            return Opinion({}, why)
        first, second = (reply.value.better for reply in replies)
        won = (first == "A") + (second == "B")
        return Opinion({self.kind: won / 2})
