"""What came out for us, against us, or undecided, in plain sentences: made of the differences by
item, of steering's own table of contrasts, and where there are no items of two intervals, or of a
value and its baseline. Polars only, no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from components.report.differences import LEVEL, OVER_PLAIN, called, is_rival, place
from components.report.headline import OVER_CONTROLS, against_controls, compared_measures
from components.report.measure import Measures
from components.report.names import name_of
from components.report.order import placed
from components.report.reasons import title
from components.report.scores import HOLDING, KINDS, SINGLE
from components.report.tables import PLACE
from components.store.artifact import Artifact
from components.store.tables import CONTRASTS

CONSTANTS = ("chance", "no difference", "unsteered")
"""How the names of baselines begin that are numbers by definition, not measurements."""
CEILINGS = ("probe",)
"""Words in the names of baselines that nobody is expected to reach."""


@dataclasses.dataclass(frozen=True)
class Told:
    """What an experiment says beside its table, in sentences.

    Attributes:
        for_us: what came out for the dictionary.
        against_us: what came out against it.
        undecided: comparisons of which no difference can be told at this n.
        training: whether training had converged, in one sentence; None where the train artifact
            does not say.
    """

    for_us: Sequence[str] = ()
    against_us: Sequence[str] = ()
    undecided: Sequence[str] = ()
    training: str | None = None

    @classmethod
    def of(cls, report: Artifact) -> Told:
        """What a report artifact holds; a report of an older version says less."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(
            **{name: report.facts[name] for name in names if report.facts.get(name) is not None}
        )


def tell(
    frame: pl.DataFrame,
    measures: Measures,
    differences: pl.DataFrame,
    trained: Mapping[str, Any],
    contrasts: pl.DataFrame | None = None,
) -> Told:
    """Sentences of every difference by item, of steering's headline, and of what has no items:
    there two intervals, or a baseline, are compared.

    Only rows of the role `entry` are scores of ours. Single concepts are counted and named, not
    told one by one.

    Args:
        frame: the REPORT table.
        measures: what its stages declare.
        differences: the DIFFERENCES table.
        trained: the facts of the train artifact; `converged` and `convergence` where it says so.
        contrasts: the CONTRASTS table; None where nothing was steered.
    """
    contrasts = CONTRASTS.frame([]) if contrasts is None else contrasts
    told: dict[str, list[str]] = {"for us": [], "against us": [], "undecided": []}
    training = _training(trained)
    if training and trained.get("converged") is False:
        told["against us"].append(training)
    whole = differences.filter(~SINGLE).to_dicts()
    of_steer = [row["stage"] == "steer" for row in whole]
    sentences = [
        *_by_item([row for row, here in zip(whole, of_steer, strict=True) if not here]),
        *against_controls(contrasts, frame),
        *_by_item([row for row, here in zip(whole, of_steer, strict=True) if here]),
        *_by_interval(frame, measures, whole, compared_measures(contrasts)),
        *_single_concepts(differences.filter(SINGLE)),
    ]
    for outcome, sentence in sentences:
        told[outcome].append(sentence)
    return Told(told["for us"], told["against us"], told["undecided"], training)


def _training(facts: Mapping[str, Any]) -> str | None:
    if "converged" not in facts:
        return None
    state = {True: "training had converged", False: "training had not converged"}
    begin = state.get(facts["converged"], "whether training had converged is not known")
    told = facts.get("convergence") or facts.get("converged_reason") or ""
    return told if told.startswith(begin) else f"{begin}: {told}" if told else begin


def _by_item(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(outcome, sentence) for each score, rival and outcome, its kinds of concepts in one
    sentence."""
    grouped: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(
            (row["name"], row["rival"], row["outcome"], row["hook_point"]), []
        ).append(row)
    for (name, rival, outcome, _), found in grouped.items():
        first = found[0]
        verb = {
            "for us": "better than",
            "against us": "worse than",
            "undecided": "not told apart from",
        }[outcome]
        how = "paired" if first["paired"] else "unpaired, since their latents are not ours"
        holm = f", Holm over {first['n_tests']}" if (first["n_tests"] or 1) > 1 else ""
        parts = "; ".join(
            _difference(row)
            for row in sorted(found, key=lambda row: rank(KINDS, row["concept_kind"]))
        )
        yield outcome, f"{name}: {verb} {rival} ({how}{holm}): {parts}"


def _difference(row: Mapping[str, Any]) -> str:
    kind = f"{row['concept_kind']} " if row["concept_kind"] else ""
    ends = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    p = "" if row["p_holm"] is None else f", p {row['p_holm']:.2g}"
    told = f"{kind}{number(row['ours'])} against {number(row['theirs'])}, difference {row['difference']:+.3g}{ends}{p}"
    told += f", {replicates(row)}"
    if row["n_families"] is not None and row["n_families"] < row["n"]:
        clustered = row["n_clusters"] == row["n_families"]
        told += f" in {row['n_families']} families" + (
            "" if clustered else ", too few to resample whole"
        )
    if row["outcome"] == "undecided":
        # signs that all agree are one flip in so many
        small = row["paired"] and 2.0 ** (1 - row["n_clusters"]) > LEVEL
        seen = row["detectable"]
        told += (
            ", n too small to see any" if small else f", {seen:.2g} would be seen" if seen else ""
        )
    return told


def _by_interval(
    frame: pl.DataFrame,
    measures: Measures,
    paired: Sequence[Mapping[str, Any]],
    over_controls: set[str],
) -> Iterator[tuple[str, str]]:
    """(outcome, sentence) for rivals and baselines of which there are no items to pair, and which
    no contrast of these measures with controls tells already."""
    rows = placed(frame, measures).filter(pl.col("value").is_not_null(), ~SINGLE).to_dicts()
    by_place: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        by_place.setdefault(place(row), []).append(row)
    known = {(_key(row), row["rival"]) for row in paired}
    compared_scores = {_key(row) for row in paired}
    compared_measures = {_of_any_kind(row) for row in paired}
    for row in rows:
        if row["role"] != "entry" or row["better"] not in ("higher", "lower"):
            continue
        part_of = measures.of(row).part_of
        if part_of and _of_any_kind(row | {"measure": part_of}) in compared_measures:
            continue
        if row["measure"] == OVER_CONTROLS and over_controls:
            continue
        holding = row["concept_kind"] in HOLDING
        if holding and _of_any_kind(row) in compared_measures and _key(row) not in compared_scores:
            continue  # a mean that weighs kinds in its own way; its kinds were compared
        rivals = [rival for rival in by_place[place(row)] if is_rival(rival, row)]
        for rival in rivals:
            by_construction = rival["role"] == "floor" and row["measure"] in OVER_PLAIN
            if (_key(row), called(rival)) not in known and not by_construction:
                yield _two_intervals(row, called(rival), rival)
        baseline = row["baseline"]
        beside = (
            any(math.isclose(rival["value"], baseline) for rival in rivals)
            if baseline is not None
            else True
        )
        ceiling = any(word in (row["baseline_name"] or "") for word in CEILINGS)
        told = _key(row) in compared_scores and _is_rival(row["baseline_name"], paired)
        told = told or (row["stage"] == "steer" and row["measure"] in over_controls)
        if not beside and not ceiling and row["value"] != baseline and not told:
            yield _baseline_outcome(row)


def _two_intervals(row: Mapping[str, Any], who: str, rival: Mapping[str, Any]) -> tuple[str, str]:
    said = f"{title(row)}: ours {number(row['value'])}, {who} {number(rival['value'])}"
    if row["low"] is None or rival["low"] is None:
        return "undecided", f"{said} (unpaired; one of them has no interval)"
    apart = row["low"] > rival["high"] or row["high"] < rival["low"]
    beyond = "apart" if apart else "meet"
    return _outcome(
        row, rival["value"], apart
    ), f"{said} (unpaired; their 95% intervals {beyond}: {interval(row)} and {interval(rival)})"


def _baseline_outcome(row: Mapping[str, Any]) -> tuple[str, str]:
    name, baseline = row["baseline_name"] or "the baseline", row["baseline"]
    said = f"{title(row)}: ours {number(row['value'])}, {name} {number(baseline)}"
    if row["low"] is None:
        return "undecided", f"{said} (over {replicates(row)}; ours has no interval)"
    outside = baseline < row["low"] or baseline > row["high"]
    where = "outside" if outside else "inside"
    constant = (
        "" if name.startswith(CONSTANTS) else "unpaired, the baseline has no interval of its own; "
    )
    return _outcome(
        row, baseline, outside
    ), f"{said} ({constant}{where} our 95% interval {interval(row)}, over {replicates(row)})"


def _outcome(row: Mapping[str, Any], other: float, apart: bool) -> str:
    better = row["value"] > other if row["better"] == "higher" else row["value"] < other
    return "undecided" if not apart else "for us" if better else "against us"


def _single_concepts(differences: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """For each score and control, on how many single concepts ours does better and worse, and on
    which."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in differences.to_dicts():
        grouped.setdefault((name_of(row | {"concept": None}), row["rival"]), []).append(row)
    for (score, rival), rows in grouped.items():
        how = f"paired by prompt, Holm over {rows[0]['n_tests']}"
        for outcome, verb in (("for us", "better"), ("against us", "worse")):
            hits = [row["concept"] for row in rows if row["outcome"] == outcome]
            if hits:
                told = f"{score}: {verb} than the {rival} on {len(hits)} of {len(rows)} single concepts ({how})"
                yield outcome, f"{told}: {', '.join(hits)}"
        if all(row["outcome"] == "undecided" for row in rows):
            told = f"{score}: not told apart from the {rival} on any of {len(rows)} single concepts ({how})"
            yield "undecided", told


def _is_rival(name: str | None, paired: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a baseline is somebody whom the table of differences holds, whatever it is called
    there."""
    rivals = {
        "largest",
        "untrained dictionary",
        *(row["rival"].removeprefix("the ") for row in paired),
    }
    return any(word in (name or "") for word in rivals)


def _key(row: Mapping[str, Any]) -> tuple:
    return tuple(row[column] for column in PLACE)


def _of_any_kind(row: Mapping[str, Any]) -> tuple:
    return tuple(row[column] for column in PLACE if column != "concept_kind")


def rank(known: Sequence[str], name: str | None) -> int:
    """The place in a list; after all others for what it does not hold."""
    return known.index(name) if name in known else len(known)


def number(value: float | None) -> str:
    """Four digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def interval(row: Mapping[str, Any]) -> str:
    """The 95% interval of a score, or a dash."""
    return "–" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"


def replicates(row: Mapping[str, Any]) -> str:
    """How many of what a score rests on."""
    if row["n"] is None:
        return "–"
    return f"{row['n']} {row['unit_of_replication'] or 'replicate'}" + (
        "" if row["n"] == 1 else "s"
    )
