"""From the scores of latents to rows of the scores table: means over latents, and what they stand beside.

Means have Student's interval over latents (it covers better than the bootstrap at every n, tests/test_statistics.py),
cut to what the score can be. An explanation and its floor are paired by latent; a control dictionary has other latents,
so the difference from it is that of two independent samples, with Welch's interval.

Rows of strata stand behind all others, each beside the same stratum of the first control.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.interpretation.contract import Score, Scorer
from components.interpretation.controls import CONTROLS
from components.statistics import Interval, bounded, t_interval, welch, wilson

Row = dict[str, Any]
Key = tuple[str, str, str | None]
"""Explainer or control, scorer, predictor; None for the probe."""
NOBODY = (
    "no latent is active on the split that they are drawn from: the dictionary is dead there (train.tokens, train.lr)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """What one dictionary's sampled latents scored, in the order of the latents.

    Attributes:
        scores: by explainer or control, scorer, predictor.
        floor: explainer -> what its shuffled control is called.
        first: scorer -> the predictor that is not named.
        scorers: by name.
    """

    scores: Mapping[Key, Sequence[Score]]
    floor: Mapping[str, str]
    first: Mapping[str, str]
    scorers: Mapping[str, type[Scorer]]

    def label(self, name: str, scorer: str, predictor: str | None) -> str:
        """The dotted name of a mean."""
        return f"{name}.{scorer}" + ("" if predictor in (None, self.first[scorer]) else f".{predictor}")


def rows(trained: Scored, controls: Mapping[str, Scored | None]) -> Iterator[Row]:
    """Every row but the shares.

    Args:
        trained: of the dictionary that is interpreted.
        controls: of each control dictionary by name; None for one that was not given.
    """
    first = next(iter(trained.floor), "")
    for (name, scorer, predictor), scores in trained.scores.items():
        label, kind = f"interpret.{trained.label(name, scorer, predictor)}", trained.scorers[scorer]
        if name in trained.floor.values():
            yield mean_row(label, scores, kind, kind.chance, "chance")
            continue
        floor = trained.scores[
            trained.floor.get(name, trained.floor[first]), scorer, predictor or trained.first[scorer]
        ]
        yield mean_row(label, scores, kind, mean(floor), "shuffled explanations")
        yield difference_row(f"{label}.over_floor", scores, floor, kind)
        if name in trained.floor:
            for control, theirs in controls.items():
                its_label = f"interpret.{trained.label(_named(control, name, first), scorer, predictor)}"
                yield from _control_rows(control, its_label, label, scores, theirs, (name, scorer, predictor))
    for key in trained.scores:
        if key[0] in trained.floor:
            yield from _strata_rows(trained, key, controls, first)


def shares(*, dead: int, d_sae: int, split: str, skipped: int, n: int) -> Iterator[Row]:
    """Who is not explained: of the dictionary the dead, of the sample those with too few windows."""
    few = "too few windows on explain or test; at chance. More text there (read.splits) or a lower"
    for name, where, n_found, of, reason in (
        ("dead", split, dead, d_sae, "never active on this split; none is sampled"),
        ("skipped", "test", skipped, n, f"{few} interpret.contexts.fewest would keep them" if n else NOBODY),
    ):
        share = wilson(n_found, of)
        ends = {"value": share.value, "low": share.low, "high": share.high, "n": of, "n_failed": 0}
        yield ends | {"name": f"interpret.{name}_share", "split": where, "better": "lower", "reason": reason}


def mean_row(
    name: str, scores: Sequence[Score], scorer: type[Scorer], baseline: float | None, baseline_name: str
) -> Row:
    """The mean over latents as a row of the scores table."""
    n_failed = _n_failed(scores)
    caveat = f"{n_failed} of {len(scores)} latents stand at chance" if n_failed else None
    if n_failed and n_failed == len(scores):
        caveat = f"all {n_failed} latents stand at chance, the first because: {scores[0].reason}"
    return {
        "name": name,
        **_ends(bounded(t_interval(_values(scores)), *scorer.range)),
        "n_failed": n_failed,
        "baseline": baseline,
        "baseline_name": baseline_name,
        "better": "higher",
        "reason": caveat if scores else NOBODY,
    }


def difference_row(name: str, scores: Sequence[Score], floor: Sequence[Score], scorer: type[Scorer]) -> Row:
    """The mean paired difference from the floor as a row of the scores table."""
    return {
        "name": name,
        **_ends(bounded(t_interval(_values(scores) - _values(floor)), *_differences(scorer))),
        "n_failed": _n_failed(scores),
        "baseline": 0.0,
        "baseline_name": "no difference from shuffled explanations",
        "better": "higher",
        "reason": None if scores else NOBODY,
    }


def mean(scores: Sequence[Score]) -> float | None:
    """Mean over latents; None without any."""
    return float(_values(scores).mean()) if scores else None


def _control_rows(
    control: str, its_label: str, label: str, scores: Sequence[Score], theirs: Scored | None, key: Key
) -> Iterator[Row]:
    """The control dictionary's own mean above its own floor, and how far ours lies above it."""
    over = {"name": f"{label}.over_{control}", "baseline": 0.0, "better": "higher"}
    over["baseline_name"] = f"no difference from the {CONTROLS[control]}"
    if theirs is None:
        reason = f"no {CONTROLS[control]} was given to interpret; a run of the chain (latentflow interpret) makes one"
        yield {"name": its_label, "n_failed": 0, "better": "higher", "reason": reason}
        yield over | {"n_failed": 0, "reason": reason}
        return
    name, scorer, predictor = key
    found, floor = theirs.scores[key], theirs.scores[theirs.floor[name], scorer, predictor]
    yield mean_row(its_label, found, theirs.scorers[scorer], mean(floor), "its shuffled explanations")
    difference = bounded(welch(_values(scores), _values(found))[0], *_differences(theirs.scorers[scorer]))
    reason = None if scores and found else NOBODY
    if scores and found and _n_failed(scores) + _n_failed(found) == len(scores) + len(found):
        reason = f"all latents of both stand at chance, the first because: {scores[0].reason}"
    elif difference.low is not None and difference.high is not None and difference.low <= 0 <= difference.high:
        reason = f"the interval holds 0: this score does not tell the dictionary from the {CONTROLS[control]}"
    yield over | {**_ends(difference), "n_failed": _n_failed(scores) + _n_failed(found), "reason": reason}


def _strata_rows(trained: Scored, key: Key, controls: Mapping[str, Scored | None], first: str) -> Iterator[Row]:
    """The strata of one explainer's score beside those of the first control, and everybody's score at natural density."""
    label, kind = f"interpret.{trained.label(*key)}", trained.scorers[key[1]]
    there = {control: theirs.scores[key] for control, theirs in controls.items() if theirs is not None}
    control = next(iter(there), None)
    for stratum in kind.strata:
        others = [score.strata[stratum].value for score in there.get(control or "", ()) if stratum in score.strata]
        beside = (_mean(others), CONTROLS[control] if control else None)
        yield _stratum_row(f"{label}.{stratum}", trained.scores[key], kind, stratum, *beside)
    everybody = {label: trained.scores[key]}
    for name, scores in there.items():
        everybody[f"interpret.{trained.label(_named(name, key[0], first), *key[1:])}"] = scores
    for name, scores in everybody.items() if kind.natural else ():
        chance = _mean([score.strata[kind.natural].chance for score in scores])
        yield _stratum_row(f"{name}.{kind.natural}", scores, kind, kind.natural, chance, "chance at natural density")


def _stratum_row(
    name: str, scores: Sequence[Score], scorer: type[Scorer], stratum: str, baseline: float | None, is_what: str | None
) -> Row:
    having = [score for score in scores if stratum in score.strata]
    absent = f"{len(scores) - len(having)} of {len(scores)} latents have no such window" if scores else NOBODY
    values = np.array([score.strata[stratum].value for score in having], dtype=np.float64)
    return {
        "name": name,
        **_ends(bounded(t_interval(values), *scorer.range)),
        "n_failed": _n_failed(having),
        "baseline": baseline,
        "baseline_name": is_what,
        "better": "higher",
        "reason": None if having and len(having) == len(scores) else absent,
    }


def _named(control: str, explainer: str, first: str) -> str:
    return control if explainer == first else f"{control}.{explainer}"


def _differences(scorer: type[Scorer]) -> tuple[float, float]:
    """The least and the most that a difference of two scores can be."""
    least, most = scorer.range
    return least - most, most - least


def _n_failed(scores: Sequence[Score]) -> int:
    return sum(score.n_failed == score.n for score in scores)


def _values(scores: Sequence[Score]) -> np.ndarray:
    return np.array([score.value for score in scores], dtype=np.float64)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _ends(found: Interval) -> Row:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
