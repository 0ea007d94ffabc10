"""What a score of a whole dictionary by its explanations promises: one value for each explainer,
beside what shuffled explanations get and what the latents themselves get.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from components.config import Config
from components.interpretation.contract import LatentRecord
from components.interpretation.controls import CONTROLS
from components.interpretation.directions import DirectionCodes
from components.interpretation.explanation import Explanation
from components.interpretation.latent_contract import LatentScorerServices
from components.registry import Entry, Registry
from components.report.measure import Measure
from components.statistics import ABSENT, Interval
from components.store.shards import ActivationShards, CodeShards
from components.store.stage import Progress

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class DictionaryScorerServices(LatentScorerServices):
    """What a score of a dictionary may use.

    Attributes:
        activations: that the codes are of.
        codes: of the dictionary, or of directions in its place.
    """

    activations: ActivationShards | None = None
    codes: CodeShards | DirectionCodes | None = None


@dataclasses.dataclass(frozen=True)
class DictionaryValue:
    """One dictionary by the explanations of one explainer.

    Attributes:
        value: the score; its n counts replicates.
        shuffled: the same with explanations shuffled over the latents.
        over: the difference, paired by replicate.
        ceiling: what the latents themselves get, without a string between.
        reason: why there is none.
    """

    value: Interval = ABSENT
    shuffled: float | None = None
    over: Interval = ABSENT
    ceiling: Interval = ABSENT
    reason: str | None = None


class DictionaryScorer(Entry):
    """Scores a dictionary by its explanations. A file in `dictionary_scorers/` holds one,
    registered with `@dictionary_scorers`."""

    services: DictionaryScorerServices
    free: ClassVar[bool] = False
    measure: ClassVar[Measure]
    """What is measured; its name is the scorer's."""
    unit: ClassVar[str]
    """What one replicate is."""

    @classmethod
    def embeds(cls, config: Config) -> bool:
        """Whether these settings make it use `services.encoder`."""
        return False

    @property
    def reader(self) -> str | None:
        """Who reads the explanations; None where nobody does."""
        return None

    @abstractmethod
    def score(
        self, records: Sequence[LatentRecord], explanations: Sequence[Explanation]
    ) -> DictionaryValue:
        """The score by one explainer's explanations, in the order of the records."""


dictionary_scorers: Registry[type[DictionaryScorer]] = Registry(
    "dictionary scorer", "components.interpretation.dictionary_scorers"
)


@dataclasses.dataclass(frozen=True, eq=False)
class DictionaryScores:
    """What one scorer found of one dictionary.

    Attributes:
        scorer: that measured.
        reader: who read the explanations.
        values: by explainer.
    """

    scorer: type[DictionaryScorer]
    reader: str | None
    values: Mapping[str, DictionaryValue]

    @classmethod
    def of(
        cls,
        scorer: DictionaryScorer,
        records: Sequence[LatentRecord],
        written: Mapping[str, Sequence[Explanation]],
    ) -> Generator[Progress, None, DictionaryScores]:
        """Scores the dictionary by each explainer."""
        values = {}
        for number, (name, explanations) in enumerate(written.items(), 1):
            values[name] = scorer.score(records, explanations)
            yield Progress(number, len(written), "explainers", f"dictionary: {scorer.kind}")
        return cls(type(scorer), scorer.reader, values)


def measures(scorer: type[DictionaryScorer]) -> Iterator[Measure]:
    """What the scorer declares, and its difference from shuffled explanations."""
    own = scorer.measure
    yield own
    yield dataclasses.replace(
        own,
        name=f"{own.name}.over_floor",
        label=f"{own.label}, over the floor",
        about="Score minus that of explanations shuffled over the latents.",
        unit="difference",
        least=None,
        most=None,
        rank=own.rank + 10,
        kinds=own.rank + 10,
        short="",
        part_of=own.name,
    )


def rows(
    trained: Sequence[DictionaryScores],
    controls: Mapping[str, Sequence[DictionaryScores] | None],
    roles: Mapping[str, str],
) -> Iterator[Row]:
    """Rows of the scores table.

    Args:
        trained: of the dictionary that is interpreted, scorer by scorer.
        controls: of each control dictionary by name, alike; None for one that was not given.
        roles: of each explainer.
    """
    for number, ours in enumerate(trained):
        for name, value in ours.values.items():
            row = _row(ours, name) | {"role": roles[name]}
            yield row | _ends(value.value, value) | _shuffled(value)
            over = row | {"measure": f"{ours.scorer.kind}.over_floor", "baseline": 0.0}
            over["baseline_name"] = "no difference from shuffled explanations"
            yield over | _ends(value.over, value)
            for control, theirs in controls.items():
                other = theirs and theirs[number].values.get(name)
                if other:
                    beside = row | {"subject": control, "role": "control"}
                    assert control in CONTROLS
                    yield beside | _ends(other.value, other) | _shuffled(other)
        first = next(iter(ours.values.values()), None)
        if first is not None:
            row = _row(ours, None) | {"role": "ceiling", "subject": "strengths"}
            yield row | _ends(first.ceiling, first) | _shuffled(first)


def _row(scores: DictionaryScores, explainer: str | None) -> Row:
    kind = scores.scorer.kind
    row = {"scorer": kind, "measure": kind, "entry": explainer, "explainer": explainer}
    return row | {"predictor": scores.reader, "unit_of_replication": scores.scorer.unit}


def _ends(found: Interval, value: DictionaryValue) -> Row:
    ends = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
    return ends | {"n_failed": 0, "reason": value.reason}


def _shuffled(value: DictionaryValue) -> Row:
    return {"baseline": value.shuffled, "baseline_name": "shuffled explanations"}
