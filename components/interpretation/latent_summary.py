"""Scores of latents themselves: asked for, as rows of the table of latents, and as rows of the
scores table.

Means have Student's interval over latents, and the difference from the null is paired by latent. A
latent that failed stands at the null: at its mean over the others, so its difference is 0. One about
which nobody was asked is missing, and no part of any mean. Of a control dictionary the mean stands
beside its own null, and the difference from ours is that of two independent samples, with Welch's
interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from components.interpretation.contract import LatentRecord
from components.interpretation.controls import CONTROLS
from components.interpretation.latent_contract import LatentScorer, LatentValue
from components.interpretation.protocol import order_of
from components.report.measure import Measure
from components.statistics import Interval, bounded, t_interval, welch
from components.store.stage import Progress

Row = dict[str, Any]
FIGURES = ("value", "chance", "n", "n_failed", "reason")
NOBODY = "no latent is active on the split that they are drawn from: none was scored"


@dataclasses.dataclass(frozen=True, eq=False)
class LatentScores:
    """What one scorer found of one dictionary's sampled latents.

    Attributes:
        scorer: that measured.
        reader: who read texts for it, where somebody did.
        values: by measure, in the order of the latents; empty where none could be scored.
        reason: why none could be.
    """

    scorer: type[LatentScorer]
    reader: str | None
    values: Mapping[str, Sequence[LatentValue]]
    reason: str | None = None

    @classmethod
    def of(
        cls, scorer: LatentScorer, records: Sequence[LatentRecord]
    ) -> Generator[Progress, None, LatentScores]:
        """Scores every record."""
        kind, reader = type(scorer), scorer.reader
        if reason := scorer.obstacle():
            return cls(kind, reader, {}, reason)
        if not records:
            return cls(kind, reader, {}, NOBODY)
        names = dict.fromkeys(each.name for each in kind.measures).keys()
        order = order_of(records, kind.asks(scorer.settings), scorer.services.seed)
        found: list[Mapping[str, LatentValue]] = []
        for each in scorer.score([records[number] for number in order]):
            assert each.keys() == names, f"{kind.kind} measured {', '.join(each)}"
            found.append(each)
            yield Progress(len(found), len(records), "latents", f"latents: {kind.kind}")
        assert len(found) == len(records), "one value for each latent"
        by_number = dict(zip(order, found, strict=True))
        in_order = [by_number[number] for number in range(len(records))]
        return cls(kind, reader, {name: [each[name] for each in in_order] for name in names})

    def imputed(self, measure: str) -> tuple[Float[np.ndarray, " latent"], np.ndarray, int]:
        """Values, their nulls, and how many failed: those stand at the mean null of the others in
        both, or at 0 where all failed. Latents that are missing are left out."""
        values = [each for each in self.values[measure] if not each.is_missing]
        chances = [each.chance for each in values if each.chance is not None]
        at_chance = float(np.mean(chances)) if chances else 0.0
        value, chance = (
            np.array([at_chance if each is None else each for each in column], dtype=np.float64)
            for column in ([v.value for v in values], [v.chance for v in values])
        )
        return value, chance, len(values) - len(chances)


def measures(scorers: Iterable[type[LatentScorer]]) -> Iterator[Measure]:
    """What the scorers declare, and of each its difference from its null and from the controls."""
    for own in (measure for scorer in scorers for measure in scorer.measures):
        yield own
        most = _range(own)[1] - _range(own)[0]
        apart = {"unit": "difference", "least": -most, "most": most, "part_of": own.name}
        apart |= {"short": "", "rank": own.rank + 10, "kinds": own.rank + 10}
        yield dataclasses.replace(
            own,
            name=f"{own.name}.over_null",
            label=f"{own.label}, over its null",
            about="Score minus that of its null, latent by latent.",
            **apart,
        )
        for control, called in CONTROLS.items():
            yield dataclasses.replace(
                own,
                name=f"{own.name}.over_{control}",
                label=f"{own.label}, over the {called}",
                about=f"Score minus that of the {called}; other latents, so unpaired.",
                **apart,
            )


def rows(
    trained: Sequence[LatentScores],
    controls: Mapping[str, Sequence[LatentScores] | None],
    unread: Mapping[Any, str] = MappingProxyType({}),
) -> Iterator[Row]:
    """Rows of the scores table.

    Args:
        trained: of the dictionary that is interpreted, scorer by scorer.
        controls: of each control dictionary by name, alike; None for one that was not given.
        unread: why controls were not read that could not be.
    """
    for number, ours in enumerate(trained):
        for measure in ours.scorer.measures:
            yield from _own(ours, measure)
            for control, theirs in controls.items():
                why = unread.get(control)
                yield from _beside(control, ours, theirs and theirs[number], measure, why)


def absent(scorers: Iterable[type[LatentScorer]], reason: str) -> Iterator[Row]:
    """The rows of a stage that scored nothing."""
    for scorer in scorers:
        yield from (
            _row(scorer, None, measure.name) | _missing(reason) for measure in scorer.measures
        )


def latent_rows(
    control: str | None, latents: Sequence[int], scores: Sequence[LatentScores]
) -> Iterator[Row]:
    """Rows of the table of single latents."""
    for each in scores:
        for measure, values in each.values.items():
            for latent, value in zip(latents, values, strict=True):
                yield {
                    "control": control,
                    "latent": latent,
                    "scorer": each.scorer.kind,
                    "measure": measure,
                    "reader": each.reader,
                } | {name: getattr(value, name) for name in FIGURES}


def _own(ours: LatentScores, measure: Measure) -> Iterator[Row]:
    row = _row(ours.scorer, ours.reader, measure.name)
    over = row | {"measure": f"{measure.name}.over_null"}
    if reason := _absence(ours, measure.name):
        yield row | _missing(reason)
        yield over | _missing(reason)
        return
    value, chance, n_failed = ours.imputed(measure.name)
    yield row | {
        **_ends(bounded(t_interval(value), *_range(measure))),
        "n_failed": n_failed,
        "baseline": float(chance.mean()),
        "baseline_name": ours.scorer.null,
        "reason": _caveat(ours, measure.name),
    }
    yield over | {
        **_ends(t_interval(value - chance)),
        "n_failed": n_failed,
        "baseline": 0.0,
        "baseline_name": f"no difference from {ours.scorer.null}",
        "reason": _caveat(ours, measure.name),
    }


def _beside(
    control: str,
    ours: LatentScores,
    theirs: LatentScores | None,
    measure: Measure,
    unread: str | None,
) -> Iterator[Row]:
    """The control dictionary's own mean beside its own null, and how far ours lies above it."""
    row = _row(ours.scorer, ours.reader, measure.name)
    mine = row | {"subject": control, "role": "control"}
    over = row | {"measure": f"{measure.name}.over_{control}"}
    not_given = unread or f"no {CONTROLS[control]} was given"
    absence = _absence(theirs, measure.name) if theirs else not_given
    reason = absence or _absence(ours, measure.name)
    if theirs is None or reason:
        yield from (each | _missing(reason or "") for each in (mine, over))
        return
    (value, _, n_failed), (other, chance, n_other) = (
        each.imputed(measure.name) for each in (ours, theirs)
    )
    yield mine | {
        **_ends(bounded(t_interval(other), *_range(measure))),
        "n_failed": n_other,
        "baseline": float(chance.mean()),
        "baseline_name": ours.scorer.null,
        "reason": _caveat(theirs, measure.name),
    }
    difference = welch(value, other)[0]
    held = None not in (difference.low, difference.high)
    same = held and difference.low <= 0 <= difference.high  # type: ignore[operator]
    caveat = "the interval holds 0: this score does not tell the dictionary from the"
    yield over | {
        **_ends(difference),
        "n_failed": n_failed + n_other,
        "baseline": 0.0,
        "baseline_name": f"no difference from the {CONTROLS[control]}",
        "reason": f"{caveat} {CONTROLS[control]}" if same else None,
    }


def _row(scorer: type[LatentScorer], reader: str | None, measure: str) -> Row:
    return {"scorer": scorer.kind, "predictor": reader, "role": "entry", "measure": measure}


def _missing(reason: str) -> Row:
    return {"n_failed": 0, "reason": reason}


def _absence(scores: LatentScores, measure: str) -> str | None:
    """Why there is no value of any latent; None where there is one."""
    values = scores.values.get(measure, ())
    nobody = any(each.is_missing for each in values) and all(each.value is None for each in values)
    return scores.reason or (_caveat(scores, measure) if nobody else None)


def _caveat(scores: LatentScores, measure: str) -> str | None:
    values = scores.values[measure]
    missing = [each for each in values if each.is_missing]
    failed = [each for each in values if each.value is None and not each.is_missing]
    told = (("are missing", missing), ("stand at the null", failed))
    return (
        "; ".join(
            f"{len(those)} of {len(values)} latents {what}, the first because: {those[0].reason}"
            for what, those in told
            if those
        )
        or None
    )


def _range(measure: Measure) -> tuple[float, float]:
    assert measure.least is not None and measure.most is not None, f"{measure.name} has no range"
    return measure.least, measure.most


def _ends(found: Interval) -> Row:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
