"""The page docs/which-score.md, from what `which_score.py` measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import polars as pl

from benchmarks.truth_subjects import FOLLOWS, LEAST_AP
from components.interpretation import truth, worth
from components.interpretation.controls import CONTROLS
from components.report.tables import SCORES
from components.statistics import Interval
from components.store import tables
from components.store.artifact import Artifact

Rows = list[dict[str, Any]]


class Measured(NamedTuple):
    """What was measured of one experiment.

    Attributes:
        title: its name.
        interpret: the artifact.
        discrimination: of the world: subjects x scorer x predictor.
        reliability: scorer x predictor.
        between: Spearman with truth, density partialled out.
        seconds: what the whole took.
    """

    title: str
    interpret: Artifact
    discrimination: Rows
    reliability: Rows
    between: Rows
    seconds: float


def document(world: Measured, real: Measured) -> Iterator[str]:
    """The page, line by line."""
    yield from _head(world, real)
    yield from _verdicts(world, real)
    yield from _pairs(world)
    yield from _kinds(world)
    yield from _between(world)
    yield from _with_intervention(real)
    for measured in (world, real):
        yield from _explainers(measured)
        yield from _controls(measured)
    yield from _examples(real)


def _head(world: Measured, real: Measured) -> Iterator[str]:
    planted_there, matched_there = (
        max(
            (row["told"].n_latents for row in world.discrimination if row["subjects"] == name),
            default=0,
        )
        for name in ("planted", "matched")
    )
    yield "# Which score of an explanation can be trusted"
    yield ""
    yield (
        f"Written by `benchmarks/which_score.py` from `interpret/{world.interpret.key}` ({world.title}) and "
        f"`interpret/{real.interpret.key}` ({real.title}); every number is measured on the test split, intervals are 95%."
    )
    yield ""
    yield (
        "A score is worth something if it tells a right explanation of a latent from a wrong one, and if it says the same when "
        "windows are drawn again. Both are asked here. On the embedded world the right string is known: "
        f"{planted_there} labelled concepts take the place of latents (*planted*), and {matched_there} latents of the trained "
        f"dictionary follow a concept (*matched*: average precision of at least {FOLLOWS:g} on select). Of each there are up to "
        "five strings: right, broader (a relative beside it), narrower (a part), a sibling's, and a stranger's "
        "(`components/interpretation/truth.py`). Share of pairs in order: chance 0.5; intervals over families of concepts."
    )
    yield ""


def _verdicts(world: Measured, real: Measured) -> Iterator[str]:
    yield "## What each score is worth"
    yield ""
    yield (
        "| score | read by | pairs in order, planted | pairs in order, matched | two draws agree, "
        f"{world.title} | two draws agree, {real.title} | worth ranking with |"
    )
    yield "|---|---|---|---|---|---|---|"
    for scorer, predictor in _cells(world.reliability):
        shares, reliable = _asked(world, real, scorer, predictor)
        cells = [ends(row["told"].share) if row else "–" for row in shares]
        cells += [ends(row["agreement"]) if row else "–" for row in reliable]
        worthy = f"no: {lacks}" if (lacks := verdict(shares, reliable)) else "yes"
        yield f"| {scorer} | {predictor} | {' | '.join(cells)} | {worthy} |"
    yield ""
    yield (
        f"Worth ranking with: the interval of pairs in order lies above 0.5 wherever it was asked, and two draws of windows agree "
        f"(Spearman over latents, explanations kept) at {worth.LEAST_RELIABILITY} or more in both."
    )
    yield ""


def lacking(world: Measured, real: Measured) -> dict[str, dict[str, str]]:
    """Scorer -> predictor -> what the score lacks, for those that lack something."""
    found: dict[str, dict[str, str]] = {}
    for scorer, predictor in _cells(world.reliability):
        if lacks := verdict(*_asked(world, real, scorer, predictor)):
            found.setdefault(scorer, {})[predictor] = lacks
    return found


def verdict(shares: Iterable[Any], reliable: Iterable[Any]) -> str:
    """What keeps a score from being worth ranking with; empty where it tells right from wrong and
    says the same again."""
    lacks = []
    asked = [row["told"].share for row in shares if row and row["told"].share.value is not None]
    if any(share.low is None or share.low <= 0.5 for share in asked):
        lacks.append("not shown to tell right from wrong")
    drawn = [row["agreement"] for row in reliable if row]
    if any(each.value is None or each.value < worth.LEAST_RELIABILITY for each in drawn):
        lacks.append("changes with the draw")
    if not asked:
        lacks.append("was not asked about strings")
    return ", ".join(lacks)


def _asked(
    world: Measured, real: Measured, scorer: str, predictor: str
) -> tuple[list[dict[str, Any] | None], list[dict[str, Any] | None]]:
    """What planted and matched strings said of a score, and the two draws of each experiment."""
    shares = [
        _one(world.discrimination, scorer, predictor, subjects=name, concept_kind="all")
        for name in ("planted", "matched")
    ]
    return shares, [_one(each.reliability, scorer, predictor) for each in (world, real)]


def _pairs(world: Measured) -> Iterator[str]:
    for subjects in ("planted", "matched"):
        rows = [
            r
            for r in world.discrimination
            if r["subjects"] == subjects and r["concept_kind"] == "all"
        ]
        if not rows:
            continue
        yield f"## Which pairs are told apart, {subjects}"
        yield ""
        yield (
            "| score | read by | "
            + " | ".join(f"{a} over {b}" for a, b in truth.ORDER)
            + " | no score |"
        )
        yield "|---" * (len(truth.ORDER) + 3) + "|"
        for row in rows:
            cells = [ends(row["told"].by_pair[pair]) for pair in truth.ORDER]
            yield f"| {row['scorer']} | {row['predictor']} | {' | '.join(cells)} | {row['told'].n_failed} |"
        yield ""


def _kinds(world: Measured) -> Iterator[str]:
    rows = [r for r in world.discrimination if r["subjects"] == "planted"]
    kinds = sorted({r["concept_kind"] for r in rows} - {"all"})
    yield "## By kind of concept, planted: pairs in order"
    yield ""
    yield f"| score | read by | {' | '.join(kinds)} |"
    yield "|---" * (len(kinds) + 2) + "|"
    for scorer, predictor in _cells(rows):
        cells = [
            ends(row["told"].share)
            if (row := _one(rows, scorer, predictor, concept_kind=kind))
            else "–"
            for kind in kinds
        ]
        yield f"| {scorer} | {predictor} | {' | '.join(cells)} |"
    yield ""


def _between(world: Measured) -> Iterator[str]:
    yield "## Between latents"
    yield ""
    yield (
        "Spearman, over latents taken at equal distances of how well they rank the concept that suits them best (average "
        f"precision from {LEAST_AP:g} on select), of the score of that concept's string and of the average precision on test; "
        "then the same with density's rank regressed out."
    )
    yield ""
    yield "| score | read by | agreement | without density | n |"
    yield "|---|---|---|---|---|"
    for row in world.between:
        partial = "–" if row["partial"] is None else f"{row['partial']:.2f}"
        agreement = row["agreement"]
        yield f"| {row['scorer']} | {row['predictor']} | {ends(agreement)} | {partial} | {agreement.n} |"
    yield ""


def _with_intervention(real: Measured) -> Iterator[str]:
    """How far the cheap scores agree with what steering does."""
    scores = tables.EXPLANATION_SCORES.read(real.interpret).filter(
        (pl.col("role") == "entry") & (pl.col("n_failed") < pl.col("n"))
    )
    explainer = scores["explainer"].drop_nulls().unique(maintain_order=True).to_list()[:1]
    mine = scores.filter(pl.col("explainer").is_in(explainer))
    wide = {
        key: dict(part.select("latent", "value").iter_rows())
        for key, part in mine.partition_by("scorer", "predictor", as_dict=True).items()
    }
    targets = [key for key in wide if key[0] == "intervention"]
    yield f"## Cheap scores against intervention, {real.title}"
    yield ""
    if not targets:
        yield "No latent has a score of intervention."
        yield ""
        return
    yield (
        f"Spearman over latents of the scores of {explainer[0]}'s explanations. Where no interval leaves 0, the cheap score says "
        "nothing of what steering along the latent does."
    )
    yield ""
    yield "| score | read by | " + " | ".join(f"intervention by {key[1]}" for key in targets) + " |"
    yield "|---" * (len(targets) + 2) + "|"
    for key, values in wide.items():
        if key in targets:
            continue
        cells = []
        for target in targets:
            latents = sorted(set(values) & set(wide[target]))
            agreement = worth.agreement(
                [values[i] for i in latents], [wide[target][i] for i in latents]
            )
            cells.append(f"{ends(agreement)}, n {agreement.n}")
        yield f"| {key[0]} | {key[1]} | {' | '.join(cells)} |"
    yield ""


def _explainers(measured: Measured) -> Iterator[str]:
    """Raw and normalised scores by explainer."""
    scores = SCORES.read(measured.interpret).filter(pl.col("role").is_in(["entry", "control"]))
    scores = scores.filter(pl.col("explainer").is_not_null() & pl.col("subject").is_null())
    yield f"## Explainers, {measured.title}"
    yield ""
    yield (
        "Raw mean over latents, then the normalised score: (score - floor) / (probe - floor), a ratio of means. It is never "
        "compared between dictionaries."
    )
    yield ""
    yield "| explainer | score | read by | raw | over the floor | normalised | failed |"
    yield "|---|---|---|---|---|---|---|"
    for key, rows in _by(scores, "explainer", "scorer", "predictor"):
        of = {row["measure"]: row for row in rows}
        raw = of.get(key[1])
        if raw is None:
            continue
        cells = [
            _row_ends(of.get(name))
            for name in (key[1], f"{key[1]}.over_floor", f"{key[1]}.normalised")
        ]
        yield f"| {' | '.join(map(str, key))} | {' | '.join(cells)} | {raw['n_failed']} of {raw['n']} |"
    yield ""


def _controls(measured: Measured) -> Iterator[str]:
    """Trained latents beside those of control dictionaries."""
    scores = SCORES.read(measured.interpret)
    yield f"## Trained against controls, {measured.title}"
    yield ""
    yield (
        "Score of the trained dictionary minus that of a control, latents drawn, explained and scored alike (other latents, so "
        "unpaired)."
    )
    yield ""
    yield "| explainer | score | read by | trained | control | control's score | trained minus control |"
    yield "|---|---|---|---|---|---|---|"
    of = {
        (row["explainer"], row["scorer"], row["predictor"], row["measure"], row["subject"]): row
        for row in scores.iter_rows(named=True)
    }
    for (explainer, scorer, predictor, measure, subject), row in of.items():
        for control, called in CONTROLS.items():
            if subject is not None or measure != f"{scorer}.over_{control}":
                continue
            place = (explainer, scorer, predictor)
            theirs = of.get((*place, scorer, control))
            if theirs is None or theirs["value"] is None:
                continue  # controls are explained by one explainer, and not all can be steered along
            cells = [_row_ends(of.get((*place, scorer, None))), called, _row_ends(theirs)]
            yield f"| {' | '.join(map(str, place))} | {' | '.join(cells)} | {_row_ends(row)} |"
    yield ""


def _examples(real: Measured, n: int = 10) -> Iterator[str]:
    """The best and the worst explanations of the real model's latents."""
    explainer = "log_odds"
    texts = tables.EXPLANATIONS.read(real.interpret).filter(pl.col("explainer") == explainer)
    scores = tables.EXPLANATION_SCORES.read(real.interpret).filter(
        (pl.col("role") == "entry") & (pl.col("explainer") == explainer) & (pl.col("predictor") == "lexical")
        & (pl.col("n_failed") < pl.col("n"))
    )  # fmt: skip
    wide = scores.pivot("scorer", index="latent", values="value").join(texts, on="latent")
    if "detection" not in wide.columns:
        return
    ranked = wide.drop_nulls("detection").sort("detection", "latent", descending=[True, False])
    names = [
        name
        for name in ("detection", "fuzzing", "simulation", "intervention")
        if name in wide.columns
    ]
    for title, part in (("Ten good ones", ranked.head(n)), ("Ten bad ones", ranked.tail(n))):
        yield f"## {title}, {real.title}, by {explainer}"
        yield ""
        yield "| latent | explanation | " + " | ".join(names) + " |"
        yield "|---" * (len(names) + 2) + "|"
        for row in part.iter_rows(named=True):
            cells = ["–" if row[name] is None else f"{row[name]:.2f}" for name in names]
            text = row["explanation"].replace("|", "\\|").replace("\n", " ")
            yield f"| {row['latent']} | {text} | {' | '.join(cells)} |"
        yield ""


def _cells(rows: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["scorer"], row["predictor"]) for row in rows))


def _one(rows: Rows, scorer: str, predictor: str, **more: str) -> dict[str, Any] | None:
    wanted = {"scorer": scorer, "predictor": predictor} | more
    matching = (row for row in rows if all(row[name] == value for name, value in wanted.items()))
    return next(matching, None)


def _by(frame: pl.DataFrame, *columns: str) -> Iterator[tuple[tuple[Any, ...], Rows]]:
    for key, part in frame.partition_by(columns, as_dict=True, maintain_order=True).items():
        yield key, part.to_dicts()


def _row_ends(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    return ends(Interval(row["value"], row["low"], row["high"], row["n"]), 3)


def ends(interval: Interval, digits: int = 2) -> str:
    """Value and interval as a cell."""
    if interval.value is None:
        return "–"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
