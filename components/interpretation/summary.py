"""From the scores of latents to rows of the scores table: means over latents, and what they stand
beside.

Means have Student's interval over latents (it covers better than the bootstrap at every n,
tests/test_statistics.py), cut to what the score can be. An explanation and its floor are paired by
latent; a control dictionary has other latents, so the difference from it is that of two independent
samples, with Welch's interval. The same difference without its unit is the share of pairs of a
latent and a control's latent in which ours scores higher.

The normalised score puts floor and probe at 0 and 1: a ratio of means over latents, unclipped, with
a bootstrap interval (a mean of ratios would be ruled by latents that no probe can read). It is of
one dictionary: what its own probe reaches is its unit, so two dictionaries' are not compared.

Rows of strata stand behind all others, each beside the same stratum of the first control.

An explainer that is a control itself (a list of tokens, the same words for every latent) has its
mean and its difference from its floor. It stands against every other explainer, and beside no
control dictionary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from components.interpretation import natural_density
from components.interpretation.averages import (
    NOBODY,
    asked_of,
    both,
    difference_row,
    ends,
    mean,
    mean_of,
    mean_row,
    missing_of,
    n_failed_of,
    normalised_row,
    nothing_of,
    values_of,
)
from components.interpretation.contract import Explainer, Scorer, explainers, predictors
from components.interpretation.controls import CONTROLS, ControlName
from components.interpretation.declared import SHARES, differences_of, range_of
from components.interpretation.key import OWN_JUDGE, Key, Row
from components.interpretation.trials import LatentScore
from components.seeds import numpy_generator
from components.statistics import (
    Interval,
    auroc,
    auroc_interval,
    bounded,
    t_interval,
    welch,
    wilson,
)

TESTED = (
    "its own judge: the explainer tested what it wrote with this predictor, so this is no score"
)
ONE_MODEL = "one language model wrote the explanations and read them"


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
    trained: Scored,
    controls: Mapping[ControlName, Scored | None],
    seed: int,
    is_one_model: bool = False,
    unread: Mapping[ControlName, str] = MappingProxyType({}),
) -> Iterator[Row]:
    """Every row but the shares.

    Args:
        trained: of the dictionary that is interpreted.
        controls: of each listed control by name; None for one that was not given.
        seed: of the resamples.
        is_one_model: whether one language model wrote explanations and read them, which rows of
            such explainers and predictors say.
        unread: why controls were not read that could not be.
    """
    for row in _rows(trained, controls, seed, unread):
        writer, reader = row["explainer"], row["predictor"]
        ours = is_one_model and row["role"] == "entry" and writer and reader
        if ours and explainers[writer].asks and predictors[reader].asks:
            yield row | {"reason": both(row.get("reason"), ONE_MODEL)}
        else:
            yield row


def _rows(
    trained: Scored,
    controls: Mapping[ControlName, Scored | None],
    seed: int,
    unread: Mapping[ControlName, str],
) -> Iterator[Row]:
    for key, scores in trained.scores.items():
        scorer = trained.scorers[key.scorer]
        if key.role == "floor":
            yield key.row() | mean_row(scores, scorer, scorer.chance, "chance")
            continue
        floor = trained.floor(key)
        beside = [
            mean_row(scores, scorer, mean(floor), "shuffled explanations"),
            difference_row(scores, floor, scorer),
        ]
        probe = trained.scores.get(Key("ceiling", None, key.scorer, None))
        if key.role != "ceiling" and probe is not None:
            generator = numpy_generator(seed, "normalised", *map(str, key))
            beside.append(normalised_row(scores, floor, probe, scorer, generator))
        for row in beside:
            tested = key.role == OWN_JUDGE
            reason = {"reason": both(TESTED, row.get("reason"))} if tested else {}
            yield key.row() | row | reason
        if key.role == "entry":  # neither a control nor its own judge
            for control, theirs in controls.items():
                yield from _control_rows(control, key, scores, theirs, unread.get(control))
    for key in trained.scores:
        if key.role == "entry":
            yield from _strata_rows(trained, key, controls)


def shares(
    *, dead: int, d_sae: int, split: str, skipped: int, rare: int, ubiquitous: int, n: int
) -> Iterator[Row]:
    """Who is not explained: of the dictionary the dead; of the sample those with too few windows,
    of these those that are rare, and those that are active everywhere."""
    few = "too few windows on explain or test; at chance. More text there (read.splits) or a lower"
    skips = f"{few} interpret.contexts.fewest would keep them" if n else NOBODY
    rarely = "too few active windows on explain or test; skipped, at chance" if n else NOBODY
    everywhere = "active in over a third of test windows; detection is null" if n else NOBODY
    for measure, where, n_found, of, reason in (
        (SHARES[0], split, dead, d_sae, "never active on this split; none is sampled"),
        (SHARES[1], "test", skipped, n, skips),
        (SHARES[2], "test", rare, n, rarely),
        (SHARES[3], "test", ubiquitous, n, everywhere),
    ):
        share = wilson(n_found, of)
        columns = {
            "value": share.value,
            "low": share.low,
            "high": share.high,
            "n": of,
            "n_failed": 0,
        }
        yield columns | {"measure": measure.name, "split": where, "reason": reason}


def _control_rows(
    control: ControlName,
    key: Key,
    scores: Sequence[LatentScore],
    theirs: Scored | None,
    unread: str | None,
) -> Iterator[Row]:
    """The control's own mean above its own floor, how far ours lies above it, and how often."""
    apart = {
        "over": (0.0, f"no difference from the {CONTROLS[control]}"),
        "above": (0.5, f"as often above the {CONTROLS[control]} as below"),
    }
    over, above = (
        key.row()
        | {
            "measure": f"{key.scorer}.{name}_{control}",
            "baseline": baseline,
            "baseline_name": called,
        }
        for name, (baseline, called) in apart.items()
    )
    if theirs is None or key not in theirs.scores:
        reason = unread or _why_absent(control, key, given=theirs is not None)
        yield from (
            row | {"n_failed": 0, "reason": reason} for row in (key.row(control), over, above)
        )
        return
    scorer, others = theirs.scorers[key.scorer], theirs.scores[key]
    n_asked, n_failed = len(asked_of(scores)) + len(asked_of(others)), n_failed_of(scores)
    n_failed += n_failed_of(others)
    yield key.row(control) | mean_row(
        others, scorer, mean(theirs.floor(key)), "its shuffled explanations"
    )
    difference = bounded(welch(values_of(scores), values_of(others))[0], *differences_of(scorer))
    reason = lacking = nothing_of(scores, others)
    if missing := missing_of([*scores, *others]):
        reason = missing
    elif n_asked and n_failed == n_asked:
        reason = f"all latents of both stand at chance, the first because: {scores[0].reason}"
    elif (
        difference.low is not None
        and difference.high is not None
        and difference.low <= 0 <= difference.high
    ):
        reason = f"the interval holds 0: this score does not tell the dictionary from the {CONTROLS[control]}"
    failed = {"n_failed": n_failed}
    yield over | failed | ends(difference) | {"reason": reason}
    ours, other = values_of(scores), values_of(others)
    share = auroc(np.concatenate([ours, other]), np.repeat([True, False], [len(ours), len(other)]))
    pairs = Interval(None, None, None, len(ours) + len(other))
    if share is not None:
        pairs = auroc_interval(share, len(ours), len(other))
    yield above | failed | ends(pairs) | {"reason": lacking}


def _why_absent(control: ControlName, key: Key, given: bool) -> str:
    """Why a control has no scores of an explainer."""
    called = f"the {CONTROLS[control]}"
    if not given:
        return (
            f"no codes of {called} were given to interpret; a run of the chain (latentflow "
            "interpret) makes them"
        )
    if not explainers[key.explainer or ""].any_dictionary:
        return f"{key.explainer} holds explanations of one dictionary, and none of {called}"
    return f"only the first explainer explains {called} (interpret.control_explainers)"


def _strata_rows(
    trained: Scored, key: Key, controls: Mapping[ControlName, Scored | None]
) -> Iterator[Row]:
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
        beside = (mean_of(others), CONTROLS[control] if control else None)
        yield key.row() | _stratum_row(trained.scores[key], scorer, stratum, *beside)
    if scorer.natural is None:
        return
    for whose, scores in {None: trained.scores[key], **there}.items():
        yield key.row(whose) | _natural_row(scores, scorer, scorer.natural)


def _natural_row(scores: Sequence[LatentScore], scorer: type[Scorer], name: str) -> Row:
    """The score at natural density, of each latent or of all together."""
    if pooled := [score.pooled for score in scores if score.pooled is not None]:
        asked = [part for part in pooled if len(part.active)]
        interval, chance = natural_density.together(asked)
        n, n_missing = sum(len(part.active) for part in asked), len(pooled) - len(asked)
        missing = f"; nobody was asked about those of {n_missing} latents" if n_missing else ""
        told = (
            f"of all latents together, on {n:,} windows: this predictor is too dear to be asked "
            f"about the pool for each{missing}"
        )
        if interval.value is None:
            told += "; no latent is active in its windows (interpret.contexts.pool)"
        return {
            "measure": f"{scorer.measure.name}.{name}",
            **ends(interval),
            "n_failed": n_failed_of(scores),
            "baseline": chance,
            "baseline_name": "chance at natural density",
            "reason": both(missing_of(scores), told),
        }
    parts = [score.strata[name].chance for score in scores if name in score.strata]
    return _stratum_row(scores, scorer, name, mean_of(parts), "chance at natural density")


def _stratum_row(
    scores: Sequence[LatentScore],
    scorer: type[Scorer],
    stratum: str,
    baseline: float | None,
    is_what: str | None,
) -> Row:
    asked = asked_of(scores)
    having = [score for score in asked if stratum in score.strata]
    without = len(asked) - len(having)
    absent = f"{without} of {len(asked)} latents have no such window" if without else None
    values = np.array([score.strata[stratum].value for score in having], dtype=np.float64)
    return {
        "measure": f"{scorer.measure.name}.{stratum}",
        **ends(bounded(t_interval(values), *range_of(scorer))),
        "n_failed": n_failed_of(having),
        "baseline": baseline,
        "baseline_name": is_what,
        "reason": both(missing_of(scores), absent or nothing_of(scores)),
    }
