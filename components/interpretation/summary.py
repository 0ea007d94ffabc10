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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.interpretation import natural_density
from components.interpretation.contract import (
    Explainer,
    LatentScore,
    Scorer,
    explainers,
    predictors,
)
from components.interpretation.controls import CONTROLS, ControlName
from components.report.measure import Measure, Measures
from components.seeds import numpy_generator
from components.statistics import (
    Interval,
    auroc,
    auroc_interval,
    bounded,
    cluster_bootstrap,
    t_interval,
    welch,
    wilson,
)

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
LEAST_ROOM = 0.05
"""Between floor and probe, for the normalised score; below, its unit is noise."""
OF_A_STRATUM = {
    "strongest": "only the active windows of the upper three tenths by activation stand against all silent ones",
    "weakest": "only the active windows of the lower three tenths by activation stand against all silent ones",
    "neighbour": "only the silent windows in which a neighbouring latent is active stand against the active ones",
    "near": "only the silent windows whose mean activation vector is closest stand against the active ones",
    "random": "only the silent windows drawn at random stand against the active ones",
    "same_token": "only the silent windows with the word that the latent fires on most stand against the active ones",
    "macro": "each kind of silent windows that every latent has counts alike",
    **{
        f"decile_{n}": f"only the active windows of tenth {n} by activation (1 the strongest) stand against all silent ones"
        for n in range(1, 11)
    },
    "silent": "only marks in silent windows stand against the right ones",
    "active": "only marks on other tokens of active windows stand against the right ones",
}
OF_ANOTHER_KIND = {
    "spearman": ("Spearman", "Spearman's r over the same tokens: only the order counts."),
    "first": (
        "picked first",
        "How often the latent's own set of continuations comes first of all.",
    ),
}
"""What a scorer tells beside its score, over the same trials: label and about."""
SHARES = (
    Measure(
        "dead_share", "Latents dead in interpretation", "share", "Latents that are never active, so none is sampled.",
        "lower", rank=38, kinds=38, least=0, most=1,
    ),
    Measure(
        "skipped_share", "Latents skipped in interpretation", "share", "Latents that could not be explained.",
        "lower", rank=39, kinds=39, least=0, most=1,
    ),
    Measure(
        "rare_share", "Latents too rare to be explained", "share",
        "Sampled latents that are active in too few windows.",
        "lower", rank=39, kinds=39, least=0, most=1,
    ),
    Measure(
        "ubiquitous_share", "Latents that no text is without", "share",
        "Sampled latents that are active in over a third of windows; detection says nothing there.",
        "lower", rank=39, kinds=39, least=0, most=1,
    ),
)  # fmt: skip


def measures(
    scorers: Iterable[type[Scorer]],
    controls: Collection[ControlName] = tuple(CONTROLS),
    others: Iterable[Measure] = (),
) -> Measures:
    """What the scorers declare, and of each its strata, its value at natural density and its
    differences; and other measures of the stage.

    Args:
        scorers: those listed.
        controls: those listed.
        others: of scorers of latents.
    """
    of_scorers = (each for scorer in scorers for each in _measures(scorer, controls))
    return Measures.declared("interpret", [*SHARES, *of_scorers, *others])


def _measures(scorer: type[Scorer], controls: Collection[ControlName]) -> Iterator[Measure]:
    own = scorer.measure
    least, most = _differences(scorer)
    yield own
    apart = {"unit": "difference", "least": least, "most": most, "part_of": own.name}
    for control in controls:
        called = CONTROLS[control]
        # headlines are few: of the controls the one that every run has
        short = f"{own.short} over {control}" if own.short and control == "untrained" else ""
        yield _derived(
            own,
            f"over_{control}",
            label=f"{own.label}, over the {called}",
            about=f"Score minus that of the {called}; other latents, so unpaired.",
            rank=10 + own.rank,
            short=short,
            **apart,
        )
        yield _derived(
            own,
            f"above_{control}",
            label=f"{own.label}, share of pairs above the {called}",
            about=f"How often a latent scores higher than one of the {called}; a tie counts half.",
            unit="share",
            least=0,
            most=1,
            rank=40 + own.rank,
            short="",
            part_of=own.name,
        )
    yield _derived(
        own,
        "normalised",
        label=f"{own.label}, normalised",
        about="0 is the floor, 1 the probe; a ratio of means, never compared between dictionaries.",
        unit="ratio",
        least=None,
        most=None,
        better="neither",
        rank=20 + own.rank,
        short="",
        part_of=own.name,
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
        label = f"{stratum.replace('_', ' ')} windows"
        label, about = OF_ANOTHER_KIND.get(stratum, (label, about))
        label = f"{own.label}, {label}"
        part = {"label": label, "about": about, "rank": 30, "part_of": own.name, "short": ""}
        yield _derived(own, stratum, **part)
    if scorer.natural:
        about = "Over windows as often as the split has such."
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
    trained: Scored,
    controls: Mapping[ControlName, Scored | None],
    seed: int,
    is_one_model: bool = False,
) -> Iterator[Row]:
    """Every row but the shares.

    Args:
        trained: of the dictionary that is interpreted.
        controls: of each listed control by name; None for one that was not given.
        seed: of the resamples.
        is_one_model: whether one language model wrote explanations and read them, which rows of
            such explainers and predictors say.
    """
    for row in _rows(trained, controls, seed):
        writer, reader = row["explainer"], row["predictor"]
        ours = is_one_model and row["role"] == "entry" and writer and reader
        if ours and explainers[writer].asks and predictors[reader].asks:
            yield row | {"reason": _both(row["reason"], ONE_MODEL)}
        else:
            yield row


def _rows(
    trained: Scored, controls: Mapping[ControlName, Scored | None], seed: int
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
            reason = {"reason": _both(TESTED, row.get("reason"))} if tested else {}
            yield key.row() | row | reason
        if key.role == "entry":  # neither a control nor its own judge
            for control, theirs in controls.items():
                yield from _control_rows(control, key, scores, theirs)
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
        ends = {"value": share.value, "low": share.low, "high": share.high, "n": of, "n_failed": 0}
        yield ends | {"measure": measure.name, "split": where, "reason": reason}


def mean_row(
    scores: Sequence[LatentScore], scorer: type[Scorer], baseline: float | None, baseline_name: str
) -> Row:
    """The mean over latents, as columns of a row of scores."""
    values, n_failed = _values(scores), _n_failed(scores)
    return {
        **_ends(bounded(t_interval(values), *_range(scorer))),
        "n_failed": n_failed,
        "baseline": baseline,
        "baseline_name": baseline_name,
        "reason": _both(_missing(scores), _caveat(scores, len(values), n_failed)),
    }


def _caveat(scores: Sequence[LatentScore], n: int, n_failed: int) -> str | None:
    """What a reader of a mean over n of these has to know."""
    if not scores:
        return NOBODY
    told = []
    if nulls := [score.reason for score in scores if score.value is None]:
        told.append(f"{len(nulls)} of {len(scores)} latents have none: {nulls[0]}")
    if n_failed and n_failed == n:
        first = next(score.reason for score in scores if score.value is not None)
        told.append(f"all {n_failed} latents stand at chance, the first because: {first}")
    elif n_failed:
        told.append(f"{n_failed} of {n} latents stand at chance")
    return "; ".join(told) or None


def difference_row(
    scores: Sequence[LatentScore], floor: Sequence[LatentScore], scorer: type[Scorer]
) -> Row:
    """The mean paired difference from the floor, as columns of a row of scores."""
    both = [
        (ours, theirs)
        for ours, theirs in zip(scores, floor, strict=True)
        if _asked([ours]) and _asked([theirs])
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


def normalised_row(
    scores: Sequence[LatentScore],
    floor: Sequence[LatentScore],
    probe: Sequence[LatentScore],
    scorer: type[Scorer],
    generator: np.random.Generator,
) -> Row:
    """Mean above the floor as a share of the probe's, over the latents that have all three, as
    columns of a row of scores."""
    whole = [
        each for each in zip(scores, floor, probe, strict=True) if len(_asked(each)) == len(each)
    ]
    scores, floor, probe = ([each[place] for each in whole] for place in range(3))
    row: Row = {
        "measure": f"{scorer.measure.name}.normalised",
        "baseline": 0.0,
        "baseline_name": "shuffled explanations, by definition",
        "n": len(scores),
        "n_failed": _n_failed(scores),
    }
    if not scores:
        return row | {"reason": NOBODY}
    above, room = _values(scores) - _values(floor), _values(probe) - _values(floor)
    if room.mean() < LEAST_ROOM:
        little = f"the probe is {room.mean():.3f} above the floor, wanted at least {LEAST_ROOM}"
        return row | {"reason": f"{little}: there is nothing to normalise by"}
    return row | _ends(cluster_bootstrap(above, room, np.arange(len(above)), generator))


def mean(scores: Sequence[LatentScore]) -> float | None:
    """Mean over latents; None without any."""
    return _mean(_values(scores).tolist())


def _control_rows(
    control: ControlName, key: Key, scores: Sequence[LatentScore], theirs: Scored | None
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
        reason = _why_absent(control, key, given=theirs is not None)
        yield from (
            row | {"n_failed": 0, "reason": reason} for row in (key.row(control), over, above)
        )
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
    failed = {"n_failed": n_failed}
    yield over | failed | _ends(difference) | {"reason": reason}
    ours, other = _values(scores), _values(others)
    share = auroc(np.concatenate([ours, other]), np.repeat([True, False], [len(ours), len(other)]))
    pairs = Interval(None, None, None, len(ours) + len(other))
    if share is not None:
        pairs = auroc_interval(share, len(ours), len(other))
    yield above | failed | _ends(pairs) | {"reason": None if share is not None else NOBODY}


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
        beside = (_mean(others), CONTROLS[control] if control else None)
        yield key.row() | _stratum_row(trained.scores[key], scorer, stratum, *beside)
    if scorer.natural is None:
        return
    for whose, scores in {None: trained.scores[key], **there}.items():
        yield key.row(whose) | _natural_row(scores, scorer, scorer.natural)


def _natural_row(scores: Sequence[LatentScore], scorer: type[Scorer], name: str) -> Row:
    """The score at natural density, of each latent or of all together."""
    if pooled := [score.pooled for score in scores if score.pooled is not None]:
        interval, chance = natural_density.together(pooled)
        n = sum(len(part.active) for part in pooled)
        return {
            "measure": f"{scorer.measure.name}.{name}",
            **_ends(interval),
            "n_failed": _n_failed(scores),
            "baseline": chance,
            "baseline_name": "chance at natural density",
            "reason": f"of all latents together, on {n:,} windows: this predictor is too dear to "
            "be asked about the pool for each",
        }
    parts = [score.strata[name].chance for score in scores if name in score.strata]
    return _stratum_row(scores, scorer, name, _mean(parts), "chance at natural density")


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
    """Those that have a score: without those about which nobody was asked, and without nulls."""
    return [score for score in scores if not score.is_missing and score.value is not None]


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
    """Of the latents that have one: who answers does not change which these are."""
    return np.array([score.value for score in _asked(scores)], dtype=np.float64)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _ends(found: Interval) -> Row:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
