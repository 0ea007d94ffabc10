"""What a score measures, and how it is spoken of: declared by the entry that measures it, read by
everybody else.

Every stage that writes scores puts the measures of its entries into its manifest's facts; `report`
and `compare` hand them on. So the terminal, MLflow, DVC and the pages label, sort, bound and draw
scores of entries that they have never heard of, and without importing one. Polars only, no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from components.report.names import BY_ENTRY, number
from components.store.artifact import Artifact

FACT = "measures"
"""The name in a manifest's facts."""
TENS = 10
"""Ranks of one tier of the short table."""
Better = Literal["higher", "lower", "neither"]


@dataclasses.dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Attributes:
        name: as in the column `measure` and in dotted names, unique in its stage.
        label: what a reader calls it.
        unit: of value and interval.
        about: one sentence.
        better: which direction is better, unless a row says otherwise.
        rank: place in the reading order of its stage. Ranks 0 to 9 belong in the shortest table, 10
            to 19 go in while there is room, and so on; from 40 on only in the full one.
        kinds: rank of its rows of one kind of concept; None: 20 more than `rank`.
        least: least value that it can take; None for no bound.
        most: greatest, likewise.
        short: what its headline is called in MLflow (in lower case, with underscores), as a column
            of runs and sweeps, and above charts; "" where it is no headline.
        over: the kind of concepts that its headline is over, where that was measured.
        part_of: the measure of which it is a stratum or a difference, and with which it is
            compared; "" for none.
    """

    name: str
    label: str
    unit: str
    about: str
    better: Better = "higher"
    rank: int = 20
    kinds: int | None = None
    least: float | None = None
    most: float | None = None
    short: str = ""
    over: str = "all"
    part_of: str = ""

    def tier(self, of_a_kind: bool) -> int:
        """How late its rows come into the short table."""
        rank = (
            self.rank
            if not of_a_kind
            else self.rank + 2 * TENS
            if self.kinds is None
            else self.kinds
        )
        return rank // TENS


UNKNOWN = Measure("", "", "", "", rank=999)
"""What is known of a measure that nobody declared."""


class Measures(Mapping[tuple[str, str], Measure]):
    """Measures by stage and name; `of(row)` answers for any row, also for one that nobody
    declared."""

    def __init__(self, declared: Mapping[tuple[str, str], Measure]) -> None:
        self._declared = dict(declared)

    @classmethod
    def declared(cls, stage: str, measures: Iterable[Measure]) -> Measures:
        """Those of one stage.

        Raises:
            AssertionError: two of one name that are not alike.
        """
        of_stage: dict[tuple[str, str], Measure] = {}
        for measure in measures:
            other = of_stage.setdefault((stage, measure.name), measure)
            assert other == measure, f"{stage}: two measures are called {measure.name}"
        return cls(of_stage)

    @classmethod
    def read(cls, *artifacts: Artifact) -> Measures:
        """Those that these artifacts' facts declare."""
        rows = [row for artifact in artifacts for row in artifact.facts.get(FACT, ())]
        return cls({(row["stage"], row["name"]): Measure(**_fields(row)) for row in rows})

    def facts(self) -> dict[str, Any]:
        """As part of a manifest's facts."""
        return {
            FACT: [
                {"stage": stage, **dataclasses.asdict(measure)}
                for (stage, _), measure in self.items()
            ]
        }

    def of(self, row: Mapping[str, Any]) -> Measure:
        """The measure of a row of scores."""
        stage, name = row["stage"], row["measure"]
        return self._declared.get((stage, name)) or dataclasses.replace(
            UNKNOWN, name=name, label=f"{stage}.{name}"
        )

    def __getitem__(self, key: tuple[str, str]) -> Measure:
        return self._declared[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of a measure, as far as this version knows it."""
    known = {field.name for field in dataclasses.fields(Measure)}
    return {name: value for name, value in row.items() if name in known}


def label(measure: Measure, row: Mapping[str, Any]) -> str:
    """What a reader calls a row: the measure, its settings, who was measured, and on which
    concept."""
    said = [measure.label]
    if row["budget"] is not None:
        said.append(f"KL {number(row['budget'])}")
    if row["k"] is not None:
        said.append(f"k = {row['k']}")
    entry = row["entry"] if row["stage"] in BY_ENTRY else None
    subject = f"{row['subject']} ({entry})" if row["subject"] and entry else row["subject"] or entry
    who = f": {subject.replace('_', ' ')}" if subject else ""
    return ", ".join(said) + who + (f", on {row['concept']}" if row["concept"] is not None else "")
