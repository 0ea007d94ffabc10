"""From the scores of latents to rows of the scores table: means over latents, and what they stand
beside.

Means have Student's interval over latents (it covers better than the bootstrap at every n,
tests/test_statistics.py), cut to what the score can be. An explanation and its floor are paired by
latent; a control dictionary has other latents, so the difference from it is that of two independent
samples, with Welch's interval.

Rows of strata stand behind all others, each beside the same stratum of the first control.

An explainer that is a control itself (a list of tokens, the same words for every latent) has its
mean and its difference from its floor. It stands against every other explainer, and beside no
control dictionary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.interpretation.contract import (
    Explainer,
    LatentScore,
    Scorer,
    explainers,
    predictors,
)
from components.interpretation.controls import CONTROLS
from components.report.measure import Measure, Measures
from components.statistics import Interval, bounded, t_interval, welch, wilson

Row = dict[str, Any]


class Key(NamedTuple):
    """Whose scores.

    Attributes:
        role: entry; control, an explainer that is one; own_judge, an explainer that tested what it
            wrote with this predictor; floor, who read another latent's explanation; ceiling, the
            probe.
        explainer: who wrote the explanations; None for the probe.
        scorer: how they were scored.
        predictor: who read them; None for the probe.
    """

    role: str
    explainer: str | None
    scorer: str
    predictor: str | None

    def row(self, control: str | None = None) -> Row:
        """As columns of a row of scores.

        Args:
            control: whose latents these are; None for those of the dictionary itself.
        """
        subject = control or {"floor": "shuffled", "ceiling": "probe"}.get(self.role)
        role = "control" if control else self.role
        return {
            "entry": self.explainer,
            "subject": subject,
            **self._asdict(),
            "role": role,
            "measure": self.scorer,
        }


OWN_JUDGE = "own_judge"
"""The role of what a predictor says of explanations that were tested with it while they were
written."""
TESTED = (
    "its own judge: the explainer tested what it wrote with this predictor, so this is no score"
)
ONE_MODEL = "one language model wrote the explanations and read them"
NOBODY = "no latent is active on the split that they are drawn from: the dictionary is dead there (train.tokens, train.lr)"
OF_A_STRATUM = {
    "strongest": "only the active windows of the upper three tenths by activation stand against all silent ones",
    "weakest": "only the active windows of the lower three tenths by activation stand against all silent ones",
    "random": "only the silent windows drawn at random stand against the active ones",
    "same_token": "only the silent windows with the word that the latent fires on most stand against the active ones",
    "macro": "each kind of silent windows counts alike in every latent",
    "silent": "only marks in silent windows stand against the right ones",
    "active": "only marks on other tokens of active windows stand against the right ones",
}
SHARES = (
    Measure(
        "dead_share", "Latents dead in interpretation", "share", "Latents that are never active, so none is sampled.",
        "lower", rank=38, kinds=38, least=0, most=1,
    ),
    Measure(
        "skipped_share", "Latents skipped in interpretation", "share", "Latents that could not be explained.",
        "lower", rank=39, kinds=39, least=0, most=1,
    ),
)  # fmt: skip


def measures(scorers: Iterable[type[Scorer]]) -> Measures:
    """What the scorers declare, and of each its strata, its value at natural density and its
    differences."""
    return Measures.declared(
        "interpret", [*SHARES, *(each for scorer in scorers for each in _measures(scorer))]
    )


def _measures(scorer: type[Scorer]) -> Iterator[Measure]:
    own = scorer.measure
    least, most = _differences(scorer)
    yield own
    apart = {"unit": "difference", "least": least, "most": most, "part_of": own.name}
    for control, called in CONTROLS.items():
        about = f"Score minus that of the {called}; other latents, so unpaired."
        label = f"{own.label}, over the {called}"
        yield _derived(
            own,
            f"over_{control}",
            label=label,
            about=about,
            rank=10 + own.rank,
            short=f"{own.short} over {control}" if own.short else "",
            **apart,
        )
    about = "Score minus that of another latent's explanation."
    yield _derived(
        own,
        "over_floor",
        label=f"{own.label}, over the floor",
        about=about,
        rank=40 + own.rank,
        short="",
        **apart,
    )
    for stratum in scorer.strata:
        about = (
            f"The score where {OF_A_STRATUM.get(stratum, 'only some of what was asked counts')}."
        )
        label = f"{own.label}, {stratum.replace('_', ' ')} windows"
        part = {"label": label, "about": about, "rank": 30, "part_of": own.name, "short": ""}
        yield _derived(own, stratum, **part)
    if scorer.natural:
        about = "Over windows, each counted as often as the split has such."
        label = f"{own.label}, {scorer.natural.replace('_', ' ')}"
        yield _derived(own, scorer.natural, label=label, about=about, rank=20, short="")


def _derived(own: Measure, name: str, **changes: Any) -> Measure:
    changes["kinds"] = changes["rank"]
    return dataclasses.replace(own, name=f"{own.name}.{name}", **changes)


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """What one dictionary's sampled latents scored, in the order of the latents.

    Attributes:
        scores: by whose they are.
        first: the first explainer, and of each scorer the first predictor: the floor that a probe
            stands beside.
        scorers: by name.
    """

    scores: Mapping[Key, Sequence[LatentScore]]
    first: tuple[str, Mapping[str, str]]
    scorers: Mapping[str, type[Scorer]]

    def floor(self, key: Key) -> Sequence[LatentScore]:
        """What stands below these scores."""
        explainer, predictors = self.first
        predictor = key.predictor or predictors[key.scorer]
        return self.scores[Key("floor", key.explainer or explainer, key.scorer, predictor)]


def beside_controls(explainer: type[Explainer]) -> bool:
    """Whether an explainer explains the latents of control dictionaries too."""
    return explainer.role == "entry" and explainer.any_dictionary


def rows(
    trained: Scored, controls: Mapping[str, Scored | None], is_one_model: bool = False
) -> Iterator[Row]:
    """Every row but the shares.

    Args:
        trained: of the dictionary that is interpreted.
        controls: of each control dictionary by name; None for one that was not given.
        is_one_model: whether one language model wrote explanations and read them, which rows of
            such explainers and predictors say.
    """
    for row in _rows(trained, controls):
        writer, reader = row["explainer"], row["predictor"]
        ours = is_one_model and row["role"] == "entry" and writer and reader
        if ours and explainers[writer].asks and predictors[reader].asks:
            yield row | {"reason": _both(row["reason"], ONE_MODEL)}
        else:
            yield row


def _rows(trained: Scored, controls: Mapping[str, Scored | None]) -> Iterator[Row]:
    for key, scores in trained.scores.items():
        scorer = trained.scorers[key.scorer]
        if key.role == "floor":
            yield key.row() | mean_row(scores, scorer, scorer.chance, "chance")
            continue
        floor = trained.floor(key)
        for row in (
            mean_row(scores, scorer, mean(floor), "shuffled explanations"),
            difference_row(scores, floor, scorer),
        ):
            tested = key.role == OWN_JUDGE
            yield key.row() | row | ({"reason": _both(TESTED, row["reason"])} if tested else {})
        if key.role == "entry":  # neither a control nor its own judge
            for control, theirs in controls.items():
                yield from _control_rows(control, key, scores, theirs)
    for key in trained.scores:
        if key.role == "entry":
            yield from _strata_rows(trained, key, controls)


def shares(*, dead: int, d_sae: int, split: str, skipped: int, n: int) -> Iterator[Row]:
    """Who is not explained: of the dictionary the dead, of the sample those with too few
    windows."""
    few = "too few windows on explain or test; at chance. More text there (read.splits) or a lower"
    for measure, where, n_found, of, reason in (
        (SHARES[0], split, dead, d_sae, "never active on this split; none is sampled"),
        (
            SHARES[1],
            "test",
            skipped,
            n,
            f"{few} interpret.contexts.fewest would keep them" if n else NOBODY,
        ),
    ):
        share = wilson(n_found, of)
        ends = {"value": share.value, "low": share.low, "high": share.high, "n": of, "n_failed": 0}
        yield ends | {"measure": measure.name, "split": where, "reason": reason}


def mean_row(
    scores: Sequence[LatentScore], scorer: type[Scorer], baseline: float | None, baseline_name: str
) -> Row:
    """The mean over latents, as columns of a row of scores."""
    asked, n_failed = _asked(scores), _n_failed(scores)
    caveat = f"{n_failed} of {len(asked)} latents stand at chance" if n_failed else None
    if n_failed and n_failed == len(asked):
        caveat = f"all {n_failed} latents stand at chance, the first because: {asked[0].reason}"
    return {
        **_ends(bounded(t_interval(_values(scores)), *_range(scorer))),
        "n_failed": n_failed,
        "baseline": baseline,
        "baseline_name": baseline_name,
        "reason": _both(_missing(scores), caveat) if scores else NOBODY,
    }


def difference_row(
    scores: Sequence[LatentScore], floor: Sequence[LatentScore], scorer: type[Scorer]
) -> Row:
    """The mean paired difference from the floor, as columns of a row of scores."""
    both = [
        (ours, theirs)
        for ours, theirs in zip(scores, floor, strict=True)
        if not (ours.is_missing or theirs.is_missing)
    ]
    ours, theirs = [pair[0] for pair in both], [pair[1] for pair in both]
    return {
        "measure": f"{scorer.measure.name}.over_floor",
        **_ends(bounded(t_interval(_values(ours) - _values(theirs)), *_differences(scorer))),
        "n_failed": _n_failed(ours),
        "baseline": 0.0,
        "baseline_name": "no difference from shuffled explanations",
        "reason": _both(_missing(scores), None) if scores else NOBODY,
    }


def mean(scores: Sequence[LatentScore]) -> float | None:
    """Mean over latents; None without any."""
    return float(_values(scores).mean()) if _asked(scores) else None


def _control_rows(
    control: str, key: Key, scores: Sequence[LatentScore], theirs: Scored | None
) -> Iterator[Row]:
    """The control dictionary's own mean above its own floor, and how far ours lies above it."""
    over = key.row() | {"measure": f"{key.scorer}.over_{control}", "baseline": 0.0}
    over["baseline_name"] = f"no difference from the {CONTROLS[control]}"
    if theirs is None or key not in theirs.scores:
        reason = f"{key.explainer} holds explanations of one dictionary, and none of the {CONTROLS[control]}"
        if theirs is None:
            reason = f"no {CONTROLS[control]} was given to interpret; a run of the chain (latentflow interpret) makes one"
        yield key.row(control) | {"n_failed": 0, "reason": reason}
        yield over | {"n_failed": 0, "reason": reason}
        return
    scorer, others = theirs.scorers[key.scorer], theirs.scores[key]
    n_asked, n_failed = len(_asked(scores)) + len(_asked(others)), _n_failed(scores)
    n_failed += _n_failed(others)
    yield key.row(control) | mean_row(
        others, scorer, mean(theirs.floor(key)), "its shuffled explanations"
    )
    difference = bounded(welch(_values(scores), _values(others))[0], *_differences(scorer))
    reason = None if scores and others else NOBODY
    if missing := _missing([*scores, *others]):
        reason = missing
    elif n_asked and n_failed == n_asked:
        reason = f"all latents of both stand at chance, the first because: {scores[0].reason}"
    elif (
        difference.low is not None
        and difference.high is not None
        and difference.low <= 0 <= difference.high
    ):
        reason = f"the interval holds 0: this score does not tell the dictionary from the {CONTROLS[control]}"
    yield over | {
        **_ends(difference),
        "n_failed": n_failed,
        "reason": reason,
    }


def _strata_rows(trained: Scored, key: Key, controls: Mapping[str, Scored | None]) -> Iterator[Row]:
    """The strata of one explainer's score beside those of the first control, and everybody's score
    at natural density."""
    scorer = trained.scorers[key.scorer]
    there = {
        control: theirs.scores[key]
        for control, theirs in controls.items()
        if theirs and key in theirs.scores
    }
    control = next(iter(there), None)
    for stratum in scorer.strata:
        others = [
            score.strata[stratum].value
            for score in there.get(control or "", ())
            if stratum in score.strata
        ]
        beside = (_mean(others), CONTROLS[control] if control else None)
        yield key.row() | _stratum_row(trained.scores[key], scorer, stratum, *beside)
    if scorer.natural is None:
        return
    for whose, scores in {None: trained.scores[key], **there}.items():
        chance = _mean([score.strata[scorer.natural].chance for score in _asked(scores)])
        natural = _stratum_row(scores, scorer, scorer.natural, chance, "chance at natural density")
        yield key.row(whose) | natural


def _stratum_row(
    scores: Sequence[LatentScore],
    scorer: type[Scorer],
    stratum: str,
    baseline: float | None,
    is_what: str | None,
) -> Row:
    asked = _asked(scores)
    having = [score for score in asked if stratum in score.strata]
    without = len(asked) - len(having)
    absent = f"{without} of {len(asked)} latents have no such window" if without else None
    values = np.array([score.strata[stratum].value for score in having], dtype=np.float64)
    return {
        "measure": f"{scorer.measure.name}.{stratum}",
        **_ends(bounded(t_interval(values), *_range(scorer))),
        "n_failed": _n_failed(having),
        "baseline": baseline,
        "baseline_name": is_what,
        "reason": _both(_missing(scores), absent) if scores else NOBODY,
    }


def _range(scorer: type[Scorer]) -> tuple[float, float]:
    least, most = scorer.measure.least, scorer.measure.most
    assert least is not None and most is not None, f"scorer {scorer.kind} has no range"
    return least, most


def _differences(scorer: type[Scorer]) -> tuple[float, float]:
    """The least and the most that a difference of two scores can be."""
    least, most = _range(scorer)
    return least - most, most - least


def _asked(scores: Sequence[LatentScore]) -> list[LatentScore]:
    """Without those about which nobody was asked."""
    return [score for score in scores if not score.is_missing]


def _missing(scores: Sequence[LatentScore]) -> str | None:
    """How many latents nobody was asked about, and why."""
    missing = [score for score in scores if score.is_missing]
    if not missing:
        return None
    n = f"{len(missing)} of {len(scores)} latents are missing"
    return f"{n}, the first because: {missing[0].reason}"


def _both(*reasons: str | None) -> str | None:
    return "; ".join(reason for reason in reasons if reason) or None


def _n_failed(scores: Sequence[LatentScore]) -> int:
    return sum(score.n_failed == score.n for score in _asked(scores))


def _values(scores: Sequence[LatentScore]) -> np.ndarray:
    return np.array([score.value for score in _asked(scores)], dtype=np.float64)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _ends(found: Interval) -> Row:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
