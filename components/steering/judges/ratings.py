"""Ratings: AxBench's score, three ratings by a language model and their harmonic mean.

    concept      is the target in the text?
    relevance    does the text belong to its prompt?
    fluency      is it text?

Each is 0, 1 or 2; the value of a text is their harmonic mean, 0 where one is 0. All are halved here,
as judges say 0 to 1: AxBench's numbers are twice as large. It is not `panel`, which is made of other
judges and of what a text gained over plain text; a rating is of the text alone, so read it beside
what plain text has. `ratings` is the harmonic mean; `ratings_concept`, `ratings_relevance` and
`ratings_fluency` stand beside it.

Where the server gives log-probabilities, a rating is its mean over 0, 1 and 2, each by its
probability at the place of the number. An answer that is not as asked leaves the text without a
value, counted as 0.

Source: Wu et al., AxBench (2025), arXiv:2501.17148, section 3.2: three ratings in prompts of their
own, harmonic mean, answers that cannot be read as 0. Deviations: the rating is asked for without
reasons before it, as JSON; it is graded; the wording is ours (prompts/ratings_*.txt).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from components.client.contract import MOST_LOGPROBS, Reply, Request
from components.client.forecast import NOTHING, Most
from components.client.reading import expected
from components.report.measure import Measure
from components.steering.asking import TARGET_TOKENS, AskingConfig, AskingJudge, Opinion
from components.steering.composite import harmonic
from components.steering.contract import Continuation, judges

PARTS = ("ratings_concept", "ratings_relevance", "ratings_fluency")
HIGHEST = 2
ROOM = 24
"""Tokens of an answer, without what a model thinks before it."""


class Rating(BaseModel):
    """A rating."""

    model_config = ConfigDict(extra="forbid")
    rating: Literal[0, 1, 2]


class RatingsConfig(AskingConfig):
    """Settings of the ratings by a language model."""

    logprobs: int = Field(5, ge=0, le=MOST_LOGPROBS)
    """Alternatives whose log-probabilities are asked for, which grade a rating; 0: none."""


def _part(name: str, label: str, about: str) -> Measure:
    return Measure(
        name, label, "0 to 1", f"{about}, by a language model: AxBench's 0, 1 or 2, halved.",
        rank=22, kinds=32, least=0, most=1, part_of="ratings",
    )  # fmt: skip


@judges
class Ratings(AskingJudge):
    """Three ratings and their harmonic mean."""

    config = RatingsConfig
    names: ClassVar = PARTS
    shows: ClassVar = {
        "ratings_concept": ("target", "text"),
        "ratings_relevance": ("prompt", "text"),
        "ratings_fluency": ("text",),
    }
    measure = Measure(
        "ratings", "Ratings (AxBench)", "0 to 1",
        "Harmonic mean of three ratings by a language model: concept, relevance, fluency; half of "
        "AxBench's number.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip
    parts = (
        _part(PARTS[0], "Rated concept", "That the concept is in the text"),
        _part(PARTS[1], "Rated relevance", "That the text belongs to its prompt"),
        _part(PARTS[2], "Rated fluency", "That the text is fluent"),
    )

    @classmethod
    def most_asked(cls, settings: Any, text: int, prompt: int) -> Most:
        """Three calls."""
        sizes = {"text": text, "prompt": prompt, "target": TARGET_TOKENS}
        asked = NOTHING
        for name, own in cls.read(settings).items():
            shown = own.tokens + sum(sizes[value] for value in cls.shows[name])
            asked = asked.plus(Most(1, shown, ROOM + settings.reasoning))
        return asked

    def requests(self, text: Continuation, target: str) -> list[Request]:
        """One for each rating."""
        values = {"text": text.text or "", "prompt": text.prompt, "target": target}
        return [self._request(name, values) for name in PARTS]

    def opinion(self, replies: Sequence[Reply]) -> Opinion:
        """Their harmonic mean, where all three can be read."""
        ratings = {name: _rating(reply) for name, reply in zip(PARTS, replies, strict=True)}
        values = {name: value for name, value in ratings.items() if value is not None}
        if len(values) < len(PARTS):
            lacking = next(i for i, name in enumerate(PARTS) if name not in values)
            return Opinion(values, f"{PARTS[lacking]}: {replies[lacking].reason}")
        whole = harmonic([np.array([values[name]]) for name in PARTS])
        return Opinion({self.kind: float(whole[0]), **values})

    def _request(self, name: str, values: Mapping[str, str]) -> Request:
        shown = {value: values[value] for value in self.shows[name]}
        return Request(
            self.prompts[name].messages(**shown),
            ROOM + self.settings.reasoning,
            schema=Rating,
            logprobs=self.settings.logprobs or None,
            label=f"judge {name}",
        )


def _rating(reply: Reply) -> float | None:
    """The rating of an answer, 0 to 1, graded where that can be."""
    if reply.value is None:
        return None
    rating = reply.value.rating
    (graded,) = expected(reply, [rating], HIGHEST) or [float(rating)]
    return graded / HIGHEST
