"""Every score of one experiment in one table, and in plain sentences what came out for us, against us, or undecided.

The stage copies the SCORES tables of whatever artifacts it is given, adds where each row came from, and chooses
nothing: a score that was measured is in the table, good or bad. Beside it stands the table of differences, ours against
each rival, item by item (`components.store.differences`). What has no value is told in a line with its reason and the
setting that would change it. The terminal, Prefect, MLflow, README and pages read what is written here. Polars only, no torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from components.config import Config
from components.errors import InputError
from components.store import tables
from components.store.artifact import Artifact, Facts, Inputs, Parent, Progress, Stage, Work
from components.store.differences import LEVEL, compared
from components.store.scores import (
    CEILINGS,
    HOLDING,
    KINDS,
    RIVALS,
    SINGLE,
    STAGES,
    STRATA,
    absent,
    caveats,
    headline,
    part,
    placed,
    plain,
    title,
)

CONSTANTS = ("chance", "no difference", "unsteered")
"""How the names of baselines begin that are numbers by definition, not measurements."""


class ReportConfig(Config):
    """Nothing to choose: every score is reported."""


@dataclasses.dataclass(frozen=True)
class Told:
    """What an experiment says beside its table, in sentences.

    Attributes:
        for_us: what came out for the dictionary.
        against_us: what came out against it.
        undecided: comparisons of which no difference can be told at this n.
        training: whether training had converged, in one sentence; None where the train artifact does not say.
    """

    for_us: Sequence[str] = ()
    against_us: Sequence[str] = ()
    undecided: Sequence[str] = ()
    training: str | None = None

    @classmethod
    def of(cls, report: Artifact) -> Told:
        """What a report artifact holds; a report of an older version says less."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: report.facts[name] for name in names if report.facts.get(name) is not None})


def make(folder: Path, config: ReportConfig, inputs: Inputs, settings: Any) -> Work:
    """Writes report.parquet, differences.parquet, report.json (a list of rows) and report.md.

    Optional inputs: `train`, whose facts say whether training had converged, and `corpus`, whose inventory says which
    concepts belong together.

    Raises:
        InputError: no input has scores, or two artifacts measured the same score.
    """
    scored = {role: given for role, given in inputs.items() if given is not None and _holds(given, tables.SCORES)}
    if not scored:
        raise InputError(
            f"a report wants artifacts with {tables.SCORES.file} (evaluate, interpret, steer); got {', '.join(inputs) or 'none'}"
        )
    parts = []
    for role in sorted(scored, key=lambda role: (_rank(STAGES, scored[role].stage), role)):
        artifact = scored[role]
        origin = {"stage": artifact.stage, "artifact": artifact.key}
        parts.append(
            tables.SCORES.read(artifact).with_columns(pl.lit(text).alias(name) for name, text in origin.items())
        )
        yield Progress(len(parts), len(scored), "artifacts")
    frame = pl.concat(parts)
    _refuse_repeats(frame)
    frame = tables.REPORT.write(folder, frame)
    corpus = inputs.get("corpus")
    inventory = tables.CONCEPTS.read(corpus) if corpus is not None and _holds(corpus, tables.CONCEPTS) else None
    families = {} if inventory is None else dict(inventory.select("concept", "family").drop_nulls().iter_rows())
    differences = compared(frame, {artifact.stage: artifact for artifact in scored.values()}, families)
    tables.DIFFERENCES.write(folder, differences)
    told = tell(frame, differences, getattr(inputs.get("train"), "facts", {}))
    _write(folder / "report.json", json.dumps(frame.to_dicts(), indent=1, allow_nan=False) + "\n")
    _write(folder / "report.md", markdown(frame, told))
    named = frame["dictionary"].drop_nulls().unique(maintain_order=True).to_list()
    facts: Facts = {"n_scores": frame.height, "dictionaries": named, **dataclasses.asdict(told)}
    return facts


REPORT = Stage(
    "report",
    version=2,
    make=make,
    inputs={
        "corpus": Parent("read", optional=True),
        "train": Parent("train", optional=True),
        "encode": Parent("encode", optional=True),
    },
    gathers=True,
    computes=False,
)


def markdown(frame: pl.DataFrame, told: Told) -> str:
    """The short table, how training ended, what came out for and against us, and why values are absent."""
    lines = [
        "| score | kind | value | 95% interval | n | failed | baseline | better |",
        "|---|---|---:|---|---:|---:|---|---|",
    ]
    for row in headline(frame).to_dicts():
        cells = [row["name"], row["concept_kind"] or "", number(row["value"]), interval(row), replicates(row)]
        cells += [str(row["n_failed"] or 0), _baseline(row), row["better"] or ""]
        lines.append(f"| {' | '.join(map(plain, cells))} |")
    if told.training:
        lines += ["", plain(told.training)]
    for heading, sentences, nothing in (
        ("Against us", told.against_us, "Nothing: no rival does better beyond what chance explains."),
        ("For us", told.for_us, "Nothing: no rival does worse beyond what chance explains."),
        ("No difference can be told at this n", told.undecided, ""),
        ("Not measured", absent(frame), ""),
        ("To know of these rows", caveats(frame), ""),
    ):
        listed = [f"- {plain(sentence)}" for sentence in sentences] or ([nothing] if nothing else [])
        lines += ["", f"**{heading}**", "", *listed] if listed else []
    return "\n".join(lines) + "\n"


def tell(frame: pl.DataFrame, differences: pl.DataFrame, trained: Mapping[str, Any]) -> Told:
    """Sentences of every difference by item, and of what has no items: there two intervals, or a baseline, are compared.

    A rival is a row of the same name but for the part that says who was measured (`concepts_found.neuron` beside
    `concepts_found.latent`), of the same kind, split, dictionary and hook point. Rows of rivals and ceilings are no scores
    of ours. Single concepts are counted and named, not told one by one.

    Args:
        frame: the REPORT table.
        differences: the DIFFERENCES table.
        trained: the facts of the train artifact; `converged` and `convergence` where it says so.
    """
    told: dict[str, list[str]] = {"for us": [], "against us": [], "undecided": []}
    training = _training(trained)
    if training and trained.get("converged") is False:
        told["against us"].append(training)
    names = {row["name"] for row in frame.filter(SINGLE).to_dicts()}
    whole = differences.filter(~pl.col("name").is_in(list(names))).to_dicts()
    for outcome, sentence in _by_item(whole):
        told[outcome].append(sentence)
    for outcome, sentence in _by_interval(frame, whole):
        told[outcome].append(sentence)
    singles = differences.filter(pl.col("name").is_in(list(names)))
    for outcome, sentence in _single_concepts(singles, frame.filter(~SINGLE)["name"].unique().to_list()):
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
    """(outcome, sentence) for each score, rival and outcome, its kinds of concepts in one sentence."""
    grouped: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["name"], row["rival"], row["outcome"], row["hook_point"]), []).append(row)
    for (name, rival, outcome, _), found in grouped.items():
        first = found[0]
        verb = {"for us": "better than", "against us": "worse than", "undecided": "not told apart from"}[outcome]
        how = "paired" if first["paired"] else "unpaired, since their latents are not ours"
        holm = f", Holm over {first['n_tests']}" if (first["n_tests"] or 1) > 1 else ""
        parts = "; ".join(_difference(row) for row in sorted(found, key=lambda row: _rank(KINDS, row["concept_kind"])))
        yield outcome, f"{name}: {verb} {rival} ({how}{holm}): {parts}"


def _difference(row: Mapping[str, Any]) -> str:
    kind = f"{row['concept_kind']} " if row["concept_kind"] else ""
    ends = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    p = "" if row["p_holm"] is None else f", p {row['p_holm']:.2g}"
    told = f"{kind}{number(row['ours'])} against {number(row['theirs'])}, difference {row['difference']:+.3g}{ends}{p}"
    told += f", {replicates(row)}"
    if row["n_families"] is not None and row["n_families"] < row["n"]:
        clustered = row["n_clusters"] == row["n_families"]
        told += f" in {row['n_families']} families" + ("" if clustered else ", too few to resample whole")
    if row["outcome"] == "undecided":
        small = row["paired"] and 2.0 ** (1 - row["n_clusters"]) > LEVEL  # signs that all agree are one flip in so many
        seen = row["detectable"]
        told += ", n too small to see any" if small else f", {seen:.2g} would be seen" if seen else ""
    return told


def _by_interval(frame: pl.DataFrame, paired: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(outcome, sentence) for rivals and baselines of which there are no items to pair."""
    rows = placed(frame).filter(pl.col("value").is_not_null(), ~SINGLE).to_dicts()
    rivals: dict[tuple, list[tuple[str, dict[str, Any]]]] = {}
    for row in rows:
        if who := part(row["name"], RIVALS):
            rivals.setdefault(_place(row, who), []).append((who, row))
    known = {(_key(row), row["rival"]) for row in paired}
    compared_scores = {_key(row) for row in paired}
    compared_names = {row["name"] for row in paired}
    for row in rows:
        ours = row["better"] in ("higher", "lower") and not part(row["name"], (*RIVALS, *CEILINGS))
        if not ours or re.search(r"\.over_\w+$", row["name"]):  # a difference itself
            continue
        stem = re.sub(rf"\.({STRATA})$", "", row["name"])
        if stem != row["name"] and stem in compared_names:  # a part of what was compared
            continue
        if row["concept_kind"] in HOLDING and row["name"] in compared_names and _key(row) not in compared_scores:
            continue  # a mean that weighs kinds in its own way; its kinds were compared
        theirs = [
            (RIVALS[who], rival)
            for piece in row["name"].split(".")
            for who, rival in rivals.get(_place(row, piece), [])
        ]
        largest = any(key == _key(row) and who.startswith("largest") for key, who in known)
        for who, rival in theirs:
            of_largest = largest and who == RIVALS["random_direction"]  # the largest of them stands against us already
            if (_key(row), who) not in known and not of_largest:
                yield _two_intervals(row, who, rival)
        baseline = row["baseline"]
        beside = any(math.isclose(rival["value"], baseline) for _, rival in theirs) if baseline is not None else True
        ceiling = any(word in (row["baseline_name"] or "") for word in CEILINGS)
        if (
            not beside
            and not ceiling
            and row["value"] != baseline
            and not (_key(row) in compared_scores and _is_rival(row["baseline_name"]))
        ):
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
    constant = "" if name.startswith(CONSTANTS) else "unpaired, the baseline has no interval of its own; "
    return _outcome(
        row, baseline, outside
    ), f"{said} ({constant}{where} our 95% interval {interval(row)}, over {replicates(row)})"


def _outcome(row: Mapping[str, Any], other: float, apart: bool) -> str:
    better = row["value"] > other if row["better"] == "higher" else row["value"] < other
    return "undecided" if not apart else "for us" if better else "against us"


def _single_concepts(differences: pl.DataFrame, wholes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """For each score and control, on how many single concepts ours does better and worse, and on which."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in differences.to_dicts():
        score = max((name for name in wholes if row["name"].startswith(f"{name}.")), key=len, default="")
        grouped.setdefault((score, row["rival"]), []).append(row)
    for (score, rival), rows in grouped.items():
        for outcome, verb in (("for us", "better"), ("against us", "worse")):
            hits = [
                row["name"].removeprefix(f"{score}.").removeprefix("concept.")
                for row in rows
                if row["outcome"] == outcome
            ]
            if hits:
                how = f"paired by prompt, Holm over {rows[0]['n_tests']}"
                yield (
                    outcome,
                    f"{score}: {verb} than the {rival} on {len(hits)} of {len(rows)} single concepts ({how}): {', '.join(hits)}",
                )
        if all(row["outcome"] == "undecided" for row in rows):
            yield (
                "undecided",
                f"{score}: not told apart from the {rival} on any of {len(rows)} single concepts (paired by prompt, Holm over {rows[0]['n_tests']})",
            )


def _is_rival(name: str | None) -> bool:
    """Whether a baseline is somebody whom the table of differences holds, whatever it is called there."""
    told = {"largest", "untrained dictionary", *(rival.removeprefix("the ") for rival in RIVALS.values())}
    return any(word in (name or "") for word in told)


def _place(row: Mapping[str, Any], piece: str) -> tuple:
    """What a row has in common with its rivals: the name with one part left open, and everything else of the key."""
    open_name = tuple("*" if each == piece else each for each in row["name"].split("."))
    return (open_name, *_key(row)[1:])


def _key(row: Mapping[str, Any]) -> tuple:
    return tuple(row[column] for column in ("name", "concept_kind", "split", "dictionary", "hook_point"))


def _refuse_repeats(frame: pl.DataFrame) -> None:
    repeated = frame.filter(pl.struct(tables.REPORT.key).is_duplicated())
    if repeated.height:
        name, artifacts = repeated["name"][0], ", ".join(repeated["artifact"].unique(maintain_order=True).to_list())
        raise InputError(
            f"one report wants each score once; {name!r} for the same dictionary and hook point came from {artifacts}; "
            "make a report for each experiment"
        )


def _holds(given: Any, table: tables.Table) -> bool:
    return table.file in getattr(given, "files", ())


def _rank(known: Sequence[str], name: str | None) -> int:
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
    return f"{row['n']} {row['unit_of_replication'] or 'replicate'}" + ("" if row["n"] == 1 else "s")


def _baseline(row: Mapping[str, Any]) -> str:
    return "" if row["baseline"] is None else f"{row['baseline']:.3g} ({row['baseline_name']})"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
