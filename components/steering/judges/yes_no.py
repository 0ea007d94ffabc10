"""Yes or no: whether a language model says that the text talks about the target.

It reads the continuation alone, never the prompt. Where the server gives log-probabilities, the value
is P(yes) / (P(yes) + P(no)) at the first token of the answer; else 1 or 0. An answer that is neither
yes nor no leaves the text without a value, counted as 0.

Source: ours, the plainest question of its kind; graded as detection is (delphi, arXiv:2410.13928).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from components.client.contract import MOST_LOGPROBS, Reply, Request
from components.client.forecast import Most
from components.client.reading import graded
from components.errors import quoted
from components.report.measure import Measure
from components.steering.asking import TARGET_TOKENS, AskingConfig, AskingJudge, Opinion
from components.steering.contract import Continuation, judges

ROOM = 8
"""Tokens of an answer, without what a model thinks before it."""
_YES_OR_NO = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)


class YesNoConfig(AskingConfig):
    """Settings of the question of yes or no to a language model."""

    logprobs: int = Field(10, ge=0, le=MOST_LOGPROBS)
    """Alternatives whose log-probabilities are asked for, which grade the answer; 0: none."""


@judges
class YesNo(AskingJudge):
    """Whether the text talks about the target."""

    config = YesNoConfig
    names: ClassVar = ("yes_no",)
    shows: ClassVar = {"yes_no": ("target", "text")}
    measure = Measure(
        "yes_no", "Said to be of the target", "probability",
        "That a language model says yes to the text talking about the target.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    @classmethod
    def most_asked(cls, settings: Any, text: int, prompt: int) -> Most:
        """One call."""
        (own,) = cls.read(settings).values()
        return Most(1, own.tokens + text + TARGET_TOKENS, ROOM + settings.reasoning)

    def requests(self, text: Continuation, target: str) -> list[Request]:
        """One question."""
        return [
            Request(
                self.prompts["yes_no"].messages(target=target, text=text.text or ""),
                ROOM + self.settings.reasoning,
                # among what it thinks before, a yes is no answer
                logprobs=None if self.settings.reasoning else self.settings.logprobs or None,
                label="judge yes_no",
            )
        ]

    def opinion(self, replies: Sequence[Reply]) -> Opinion:
        """How much of a yes it is."""
        (reply,) = replies
        if reply.text is None:
            return Opinion({}, reply.reason)
        said = graded(reply) if _YES_OR_NO.fullmatch(reply.text) else None
        if said is None:
            return Opinion({}, f"not as asked: wanted yes or no, got {quoted(reply.text)}")
        return Opinion({self.kind: said})
