"""What a score of a latent itself promises: no explanation is read, and a null of its own stands
beside every value.

A value without its null says nothing: most of these scores are above zero for any direction. So
each latent has both, the mean is given beside the mean of the null, and the difference is paired by
latent.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from components.client.forecast import NOTHING, Most
from components.config import Config
from components.interpretation.contract import LatentRecord
from components.interpretation.services import ReaderServices, ScorerServices
from components.registry import Entry, Registry
from components.report.measure import Measure


@dataclasses.dataclass(frozen=True)
class LatentValue:
    """One latent by one measure.

    Attributes:
        value: None where it failed, with the reason.
        chance: what the null gets for this latent; None where it failed.
        n: what the value is a mean over: prompts, windows, trials.
        n_failed: those that failed, counted in n.
        reason: what failed.
        is_missing: whether somebody was to be asked and was not: no part of any mean.
    """

    value: float | None
    chance: float | None
    n: int
    n_failed: int = 0
    reason: str | None = None
    is_missing: bool = False

    def __post_init__(self) -> None:
        assert (self.value is None) == (self.chance is None), "a value stands beside its null"
        assert self.value is not None or self.reason, "an absent value needs its reason"


@dataclasses.dataclass(frozen=True, eq=False)
class LatentScorerServices(ScorerServices, ReaderServices):
    """What a score of latents may use: the model, the dictionary, text of the explain split, and
    where the settings ask for them a text encoder and a client."""


class LatentScorer(Entry):
    """Scores latents without an explanation. A file in `latent_scorers/` holds one, registered with
    `@latent_scorers`."""

    services: LatentScorerServices
    free: ClassVar[bool] = False
    """Whether running it costs nothing but time on this machine and needs no model, where its
    settings ask no client."""
    measures: ClassVar[tuple[Measure, ...]]
    """What is measured; names begin with the scorer's, and each has a least and a greatest
    value."""
    null: ClassVar[str]
    """What the value is compared with, in a few words."""

    @classmethod
    def embeds(cls, config: Config) -> bool:
        """Whether these settings make it use `services.encoder`."""
        return False

    @classmethod
    def asks(cls, config: Config) -> bool:
        """Whether these settings make it ask `services.client`. Latents then come in random order,
        so that what was asked before a budget was spent is a sample."""
        return False

    @classmethod
    def files(cls, config: Config) -> Sequence[Path]:
        """The files that it reads with these settings; their bytes become part of the artifact's
        key."""
        return ()

    @classmethod
    def most_asked(cls, config: Config) -> Most:
        """What it asks its client for one latent, at most."""
        return NOTHING

    @property
    def reader(self) -> str | None:
        """Who reads texts for it; None where nobody does."""
        return None

    def obstacle(self) -> str | None:
        """Why no latent of this dictionary can be scored: the rows have this reason and no value.
        None where they can."""
        return None

    @abstractmethod
    def score(self, records: Sequence[LatentRecord]) -> Iterator[Mapping[str, LatentValue]]:
        """For each record, in order, its value by each measure; `obstacle` is None."""


latent_scorers: Registry[type[LatentScorer]] = Registry(
    "latent scorer", "components.interpretation.latent_scorers"
)
