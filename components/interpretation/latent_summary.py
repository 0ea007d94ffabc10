"""Scores of latents themselves: asked for, as rows of the table of latents, and as rows of the
scores table.

Means have Student's interval over latents, and the difference from the null is paired by latent. A
latent that failed stands at the null: at its mean over the others, so its difference is 0. Of a
control dictionary the mean stands beside its own null, and the difference from ours is that of two
independent samples, with Welch's interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from components.interpretation.contract import LatentRecord
from components.interpretation.controls import CONTROLS
from components.interpretation.latent_contract import LatentScorer, LatentValue
from components.report.measure import Measure
from components.statistics import Interval, bounded, t_interval, welch
from components.store.stage import Progress

Row = dict[str, Any]
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
        values: dict[str, list[LatentValue]] = {each.name: [] for each in kind.measures}
        for number, found in enumerate(scorer.score(records), 1):
            assert found.keys() == values.keys(), f"{kind.kind} measured {', '.join(found)}"
            for name, value in found.items():
                values[name].append(value)
            yield Progress(number, len(records), "latents", f"latents: {kind.kind}")
        assert all(len(of) == len(records) for of in values.values()), "one value for each latent"
        return cls(kind, reader, values)

    def imputed(self, measure: str) -> tuple[Float[np.ndarray, " latent"], np.ndarray, int]:
        """Values, their nulls, and how many failed: those stand at the mean null of the others in
        both, or at 0 where all failed."""
        values = self.values[measure]
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
    trained: Sequence[LatentScores], controls: Mapping[str, Sequence[LatentScores] | None]
) -> Iterator[Row]:
    """Rows of the scores table.

    Args:
        trained: of the dictionary that is interpreted, scorer by scorer.
        controls: of each control dictionary by name, alike; None for one that was not given.
    """
    for number, ours in enumerate(trained):
        for measure in ours.scorer.measures:
            yield from _own(ours, measure)
            for control, theirs in controls.items():
                yield from _beside(control, ours, theirs and theirs[number], measure)


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
                } | dataclasses.asdict(value)


def _own(ours: LatentScores, measure: Measure) -> Iterator[Row]:
    row = _row(ours.scorer, ours.reader, measure.name)
    over = row | {"measure": f"{measure.name}.over_null"}
    if ours.reason:
        yield row | _missing(ours.reason)
        yield over | _missing(ours.reason)
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
    control: str, ours: LatentScores, theirs: LatentScores | None, measure: Measure
) -> Iterator[Row]:
    """The control dictionary's own mean beside its own null, and how far ours lies above it."""
    row = _row(ours.scorer, ours.reader, measure.name)
    mine = row | {"subject": control, "role": "control"}
    over = row | {"measure": f"{measure.name}.over_{control}"}
    reason = (theirs.reason if theirs else f"no {CONTROLS[control]} was given") or ours.reason
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


def _caveat(scores: LatentScores, measure: str) -> str | None:
    failed = [each for each in scores.values[measure] if each.value is None]
    if not failed:
        return None
    n = len(scores.values[measure])
    return f"{len(failed)} of {n} latents stand at the null, the first because: {failed[0].reason}"


def _range(measure: Measure) -> tuple[float, float]:
    assert measure.least is not None and measure.most is not None, f"{measure.name} has no range"
    return measure.least, measure.most


def _ends(found: Interval) -> Row:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
