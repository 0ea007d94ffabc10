"""Ours against each rival, item by item: pairs where both have the same items, one correction over
each measure's tests.

Items come from the stages' own tables: concepts of `concepts_found` and of `steered`, latents of
`explanation_scores`, prompts of `generations`. A difference is believed only of a score whose items
average to it; what else is compared has intervals of two scores and no more
(`components.report.sentences`).

Concepts of one family succeed or fail together (word.*, topic.*@the), so signs are flipped and
intervals taken over whole families. Fewer than six families can never reach 5%; then each concept
stands alone, and the row says how many families there are. Latents of another dictionary are no
pairs of ours: Welch's test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from components.report.measure import Measures
from components.report.names import name_of
from components.report.order import placed
from components.report.scores import RIVALS, SINGLE
from components.report.tables import DIFFERENCES, PLACE
from components.seeds import numpy_generator
from components.statistics import clustered_t_interval, detectable, holm, sign_flip_test, welch
from components.store import tables
from components.store.artifact import Artifact
from components.store.judgements import COMPOSITE, PANEL, judged, method_of, with_falls

ITEMS = {
    "concepts_found": "found",
    "concepts_found_absolute": "found_absolute",
    "concepts_share": "share",
    "concepts_ap": "ap",
    "concepts_auroc": "auroc",
}
"""Measures by concept, and their column in the table `concepts_found`."""
OTHER_LATENTS = (
    *("untrained", "random", "neurons", "randomised", "randomised_blocks"),
    *("random_decoder", "random_model"),
)
"""Subjects whose latents are not ours."""
OVER_PLAIN = (COMPOSITE, "uplift", PANEL)
"""Measures of what a text has more than plain text: plain text's own is 0 by construction, and a
direction that belongs to no target has little of it. Neither plain text nor the plain mean of a
control is a rival there."""
FEWEST_CLUSTERS = 6
"""With five, flipping all signs the same way is 1 in 16, above 5%."""
LEVEL = 0.05
WORDS = {
    "neuron": "raw neurons",
    "neurons": "raw neurons",
    "untrained": "the untrained dictionary",
    "random": "random directions",
    "randomised": "the dictionary of the model with random weights",
    "randomised_blocks": "the dictionary of the model with random blocks",
    "random_decoder": "a random decoder",
    "random_model": "the model with random weights",
    "shuffled": "shuffled explanations",
}
"""Subjects, as they are called in a sentence."""
Row = dict[str, Any]
Items = tuple[Row, pl.DataFrame]
"""A score, and what it is a mean of: item, value. `rival` is set where the score stands beside
another thing than a row."""


def cluster_of(concept: str) -> str:
    """The group of concepts that succeed or fail together, by name: what stands before the first
    dot and after `@`.

    A name without either, as of a word list, is a group of its own.
    """
    stem, _, place = concept.partition("@")
    first, dot, _ = stem.partition(".")
    return f"{first}.*" + (f"@{place}" if place else "") if dot else concept


def compared(
    scores: pl.DataFrame,
    measures: Measures,
    artifacts: Mapping[str, Artifact],
    families: Mapping[str, str],
    seed: int = 0,
) -> pl.DataFrame:
    """The DIFFERENCES table of one experiment.

    Args:
        scores: the REPORT table.
        measures: what its stages declare.
        artifacts: stage -> artifact, those that have scores.
        families: concept -> its family in the inventory; {} where there is none.
        seed: of the flips where not all are tried.
    """
    means = placed(scores, measures).filter(pl.col("value").is_not_null(), ~SINGLE)
    of = {stage: means.filter(pl.col("stage") == stage).to_dicts() for stage in artifacts}
    rows: list[Row] = []
    if "evaluate" in artifacts:
        rows += _pairs(concepts(artifacts["evaluate"], of["evaluate"]), families, seed)
    if "interpret" in artifacts:
        rows += _pairs(explained(artifacts["interpret"], of["interpret"]), {}, seed)
    if "steer" in artifacts:
        rows += _pairs(steered(artifacts["steer"], of["steer"]), families, seed)
        rows += single(artifacts["steer"], scores, seed)
    return DIFFERENCES.frame(
        [{k: v for k, v in row.items() if k != "family"} for row in corrected(rows, measures)]
    )


def corrected(rows: list[Row], measures: Measures) -> list[Row]:
    """The rows with Holm's p over each family of tests, what could be detected, and the outcome."""
    for family in {row["family"]: None for row in rows}:
        tested = [row for row in rows if row["family"] == family and row["p"] is not None]
        adjusted = holm(np.array([row["p"] for row in tested], dtype=np.float64))
        for row, p in zip(tested, adjusted, strict=True):
            row |= {"p_holm": float(p), "n_tests": len(tested)}
    for row in rows:
        interval, freedom, measure = row.pop("interval"), row.pop("freedom"), measures.of(row)
        row["detectable"] = (
            detectable(interval, freedom, row.get("n_tests", 1)) if freedom else None
        )
        # a difference of shares lies in -1 to 1
        if measure.least is not None and measure.most is not None:
            span = measure.most - measure.least
            row["low"] = None if row["low"] is None else max(row["low"], -span)
            row["high"] = None if row["high"] is None else min(row["high"], span)
            row["detectable"] = row["detectable"] if (row["detectable"] or 0) <= span else None
        told = row.get("p_holm") is not None and row["p_holm"] < LEVEL
        better = row["difference"] > 0 if row["better"] == "higher" else row["difference"] < 0
        row["outcome"] = ("for us" if better else "against us") if told else "undecided"
    return rows


def concepts(evaluate: Artifact, rows: Sequence[Row]) -> Iterator[Items]:
    """Each score by concept of `concepts_found`, with its items, for every kind of unit."""
    if tables.CONCEPTS_FOUND.file not in evaluate.files:
        return
    found = tables.CONCEPTS_FOUND.read(evaluate)
    for row in rows:
        if (column := ITEMS.get(row["measure"])) is None:
            continue
        value = pl.col(column).cast(pl.Float64)
        # as its share counts it
        value = value.fill_null(0.0) if column.startswith("found") else value
        own = _of_kind(found.filter(pl.col("unit_kind") == row["subject"]), row["concept_kind"])
        for asked in _asked(found, evaluate):
            items = own.filter(pl.col("concept").is_in(asked))
            items = items.select(pl.col("concept").alias("item"), value.alias("value")).drop_nulls()
            if items.height == row["n"] and _averages(items, row):
                yield row, items
                break


def _asked(found: pl.DataFrame, evaluate: Artifact) -> Iterator[list[str]]:
    """The concepts that a score may be over: those that the probe decodes well, at all, or by the
    absolute standard."""
    for column in ("decodable", "gate"):
        yield found.filter(pl.col(column))["concept"].unique().to_list()
    threshold = (
        (evaluate.config.get("settings") or {}).get("concepts_found", {}).get("ap_threshold")
    )
    if threshold is not None:
        probes = found.filter(pl.col("unit_kind") == "probe", pl.col("validate_ap") >= threshold)
        yield probes["concept"].to_list()


def _of_kind(items: pl.DataFrame, kind: str | None) -> pl.DataFrame:
    if kind in (None, "all"):
        return items
    return items.filter(
        pl.col("concept_kind") != "document" if kind == "token" else pl.col("concept_kind") == kind
    )


def explained(interpret: Artifact, rows: Sequence[Row]) -> Iterator[Items]:
    """Each explanation score with its latents."""
    if tables.EXPLANATION_SCORES.file not in interpret.files:
        return
    table = tables.EXPLANATION_SCORES.read(interpret).with_columns(
        pl.lit(None, pl.String).alias("control")
    )
    if tables.CONTROL_SCORES.file in interpret.files:
        table = pl.concat([table, tables.CONTROL_SCORES.read(interpret).select(table.columns)])
    for row in rows:
        if row["measure"] != row["scorer"]:  # a stratum, or a difference
            continue
        of = {column: row[column] for column in ("role", "explainer", "scorer", "predictor")} | {
            "control": None
        }
        # of another dictionary, not an explainer that is a control
        if row["role"] == "control" and row["subject"]:
            of |= {"role": "entry", "control": row["subject"]}
        here = table.filter(
            pl.col(column).eq_missing(pl.lit(value, pl.String)) for column, value in of.items()
        )
        items = here.select(pl.col("latent").cast(pl.String).alias("item"), "value").drop_nulls(
            "value"
        )
        if _averages(items, row):
            yield row, items


def steered(steer: Artifact, rows: Sequence[Row]) -> Iterator[Items]:
    """Each score of a steering method with its concepts; what has no steering counts as the score
    counts it, as 0.

    Beside each, on the same concepts: the largest control direction, for composite and uplift; for
    what a judge says, plain text. The composite of three has neither: its rivals are other methods
    here, and controls in the table `contrasts` (`components.report.headline`).
    """
    if tables.STEERED.file not in steer.files:
        return
    reached = _reached(steer)
    for row in rows:
        measure = row["measure"]
        of_judge = measure not in OVER_PLAIN
        if measure not in reached or (row["role"] == "floor" and not of_judge):
            continue
        own = _of_kind(_of_method(reached[measure], steer, row), row["concept_kind"])
        yield row, _items(own, pl.col("value").fill_null(0.0))
        if row["role"] != "entry":
            continue
        if of_judge:
            yield (
                row | {"rival": "unsteered text", "drawn": "unsteered"},
                _items(own, pl.col("rival")),
            )
        elif measure != PANEL and row["baseline_name"] is not None:
            yield row | {"rival": _largest(row["baseline_name"])}, _items(own, pl.col("rival"))


def _reached(steer: Artifact) -> dict[str, pl.DataFrame]:
    """Measure -> its value on each concept, and the rival's: the largest control direction's, or
    plain text's."""
    table, place = tables.STEERED.read(steer), ("concept", "concept_kind", "method", "kl_budget")
    rivals = {
        "composite": "composite_largest",
        "uplift": "uplift_largest",
        "fluency": "fluency_unsteered",
    }
    reached = {
        name: table.select(*place, pl.col(name).alias("value"), pl.col(rival).alias("rival"))
        for name, rival in rivals.items()
    }
    if tables.FURTHER_JUDGES.file in steer.files:
        for (judge,), part in tables.FURTHER_JUDGES.read(steer).group_by("judge"):
            reached[str(judge)] = part.select(*place, "value", pl.col("unsteered").alias("rival"))
    return reached


def _of_method(table: pl.DataFrame, steer: Artifact, row: Row) -> pl.DataFrame:
    """The rows of one method at one budget; the untrained dictionary, and a method under a control,
    have names of their own."""
    return table.filter(
        pl.col("method") == method_of(row, steer.facts),
        pl.col("kl_budget").eq_missing(pl.lit(row["budget"], pl.Float64)),
    )


def _largest(baseline_name: str) -> str:
    """What the largest control direction on a concept is called; a score's baseline may be another
    thing of them."""
    return (
        baseline_name
        if baseline_name.startswith(("largest", "lowest"))
        else "largest of the Gaussian directions"
    )


def _items(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    return rows.select(pl.col("concept").alias("item"), value.alias("value")).drop_nulls("value")


def single(steer: Artifact, scores: pl.DataFrame, seed: int) -> Iterator[Row]:
    """Each steered concept against the largest of its control directions, paired by prompt."""
    if tables.JUDGEMENTS.file not in steer.files or tables.STEERED.file not in steer.files:
        return
    table = tables.STEERED.read(steer)
    if table.is_empty():
        return  # nothing was steered, and so no judge named
    texts = tables.GENERATIONS.scan(steer).filter(pl.col("split") == "test").drop("text").collect()
    generations = judged(texts, tables.JUDGEMENTS.read(steer), steer.facts["measure"])
    generations = generations.filter(pl.col("kl_budget").is_not_null())
    of_steer = scores.filter(pl.col("stage") == "steer")
    floors = of_steer.filter(pl.col("role") == "floor")["entry"].unique().to_list()
    by = ["concept", "method", "replicate", "kl_budget"]
    ours = of_steer.filter(
        SINGLE, pl.col("role") == "entry", pl.col("measure").is_in(["composite", "uplift"])
    )
    for row in ours.drop_nulls(["value", "baseline"]).iter_rows(named=True):
        column = row["measure"]
        value = pl.col(column).fill_null(0.0).mean()
        here = generations.filter(
            pl.col("kl_budget") == row["budget"], pl.col("concept") == row["concept"]
        )
        if row["entry"] in steer.facts.get("lowering", ()):
            here = with_falls(here)  # as the largest that stands beside it was found
        prompts = here.group_by([*by, "prompt"]).agg(value.alias("value"))
        random = prompts.filter(pl.col("method").is_in(floors))
        # Directions that only stand in for a method's candidates are no rivals: the largest is the
        # one that the table names.
        of = _of_method(table, steer, row).filter(pl.col("concept") == row["concept"])[
            f"{column}_largest"
        ]
        if of.is_empty() or of[0] is None:
            continue
        means = (
            random.group_by(by)
            .agg(pl.col("value").mean())
            .filter((pl.col("value") - of[0]).abs() < 1e-9)
            .sort(by)
        )
        theirs = random.join(means.head(1).select(by), on=by).select(
            "prompt", pl.col("value").alias("theirs")
        )
        pairs = (
            prompts.filter(pl.col("method") == row["entry"])
            .join(theirs, on="prompt")
            .sort("prompt")
        )
        if pairs.is_empty():
            continue
        told = {
            "family": f"single {name_of(row | {'concept': None})}",
            "rival": _largest(row["baseline_name"]),
        }
        values = (pairs["value"].to_numpy(), pairs["theirs"].to_numpy(), pairs["prompt"].to_numpy())
        paired = _paired(*values, numpy_generator(seed, "flips", row["name"]))
        yield _place(row) | told | {"unit_of_replication": "prompt", "n_families": None} | paired


def _pairs(scored: Iterator[Items], families: Mapping[str, str], seed: int) -> Iterator[Row]:
    """Every score of ours against every rival of the same measure, settings, kind, split,
    dictionary and hook point."""
    listed = [(row, items.sort("item")) for row, items in scored]
    for ours, own in listed:
        judged = ours["role"] == "entry" and ours["better"] in ("higher", "lower")
        if not judged or "rival" in ours or not _averages(own, ours):
            continue
        for theirs, rival in listed:
            if not is_rival(theirs, ours):
                continue
            generator = numpy_generator(
                seed, "flips", ours["name"], ours["concept_kind"] or "", _drawn_for(theirs)
            )
            told = {
                "family": f"{ours['stage']} {ours['measure']}",
                "rival": theirs.get("rival") or called(theirs),
            }
            told = _place(ours) | told | {"unit_of_replication": ours["unit_of_replication"]}
            if ours["unit_of_replication"] == "latent" and theirs["subject"] in OTHER_LATENTS:
                yield (
                    told
                    | {"n_families": None}
                    | _unpaired(own["value"].to_numpy(), rival["value"].to_numpy())
                )
                continue
            pairs = own.join(rival, on="item", suffix="_theirs").sort("item")
            if pairs.is_empty():
                continue
            groups, cluster = None, np.arange(pairs.height)
            if ours["unit_of_replication"] == "concept":
                named = [f"{families.get(item, '')} {cluster_of(item)}" for item in pairs["item"]]
                groups = len(set(named))
                cluster = np.array(named) if groups >= FEWEST_CLUSTERS else cluster
            yield (
                told
                | {"n_families": groups}
                | _paired(
                    pairs["value"].to_numpy(), pairs["value_theirs"].to_numpy(), cluster, generator
                )
            )


OPEN = ("entry", "subject", "role", "explainer", "concept")
"""What may differ between a score and its rivals'."""


def place(row: Mapping[str, Any]) -> tuple:
    """What a score has in common with its rivals."""
    return tuple(row[column] for column in PLACE if column not in OPEN)


def is_rival(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a row stands against one of ours: measured alike, and of the same entry unless it is
    an entry of its own."""
    if place(theirs) != place(ours):
        return False
    if theirs.get("rival"):
        return theirs["name"] == ours["name"]
    return theirs["role"] in RIVALS and (
        theirs["subject"] is None or theirs["entry"] == ours["entry"]
    )


def called(row: Mapping[str, Any]) -> str:
    """What a rival is called in a sentence."""
    subject = row["subject"]
    if subject:
        return WORDS.get(subject) or subject.replace("_", " ")
    return row["entry"].replace("_", " ") + ("s" if row["role"] == "floor" else "")


def _drawn_for(theirs: Row) -> str:
    """What names the draws of one comparison."""
    return str(theirs.get("drawn") or theirs.get("rival") or theirs["subject"] or theirs["entry"])


def _place(row: Row) -> Row:
    return {column: row[column] for column in (*PLACE, "name", "better")}


def _paired(
    ours: np.ndarray, theirs: np.ndarray, cluster: np.ndarray, generator: np.random.Generator
) -> Row:
    difference = ours - theirs
    interval = clustered_t_interval(difference, cluster)
    # an interval without width would claim to be sure
    if np.ptp(difference) <= 1e-12 * max(1.0, float(np.abs(ours).max())):
        interval = dataclasses.replace(interval, low=None, high=None)
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], weights=difference)
    p = sign_flip_test(sums, generator) if len(sums) > 1 else None
    return _row(ours, theirs, interval, p, interval.n - 1) | {
        "paired": True,
        "n": len(difference),
        "n_clusters": interval.n,
    }


def _unpaired(ours: np.ndarray, theirs: np.ndarray) -> Row:
    interval, p, freedom = welch(ours, theirs)
    return _row(ours, theirs, interval, p, freedom) | {
        "paired": False,
        "n": interval.n,
        "n_clusters": interval.n,
    }


def _row(
    ours: np.ndarray, theirs: np.ndarray, interval: Any, p: float | None, freedom: float | None
) -> Row:
    return {
        "ours": float(np.mean(ours)),
        "theirs": float(np.mean(theirs)),
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "p": p,
        "interval": interval,
        "freedom": freedom,
    }


def _averages(items: pl.DataFrame, row: Row) -> bool:
    """Whether these items are what the score was made from."""
    mean = items["value"].mean()
    return isinstance(mean, float) and abs(mean - row["value"]) <= 1e-6 * max(1.0, abs(mean))
