"""Ours against each rival, item by item: pairs where both have the same items, one correction over each measure's tests.

Items come from the stages' own tables: concepts of `concepts_found` and of `steered`, latents of `explanation_scores`, prompts
of `generations`. A difference is believed only of a score whose items average to it; what else is compared has
intervals of two scores and no more (`components.store.report`).

Concepts of one family succeed or fail together (word.*, topic.*@the), so signs are flipped and intervals taken over whole
families. Fewer than six families can never reach 5%; then each concept stands alone, and the row says how many families
there are. Latents of another dictionary are no pairs of ours: Welch's test.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from components.seeds import numpy_generator
from components.statistics import clustered_t_interval, detectable, holm, sign_flip_test, welch
from components.store import tables
from components.store.artifact import Artifact
from components.store.judgements import judged
from components.store.scores import BUDGET, CEILINGS, RIVALS, SINGLE, known, part, placed

OTHER_LATENTS = ("untrained", "random_decoder", "random_model")
"""Rivals whose latents are not ours."""
FEWEST_CLUSTERS = 6
"""With five, flipping all signs the same way is 1 in 16, above 5%."""
LEVEL = 0.05
Row = dict[str, Any]


def cluster_of(concept: str) -> str:
    """The group of concepts that succeed or fail together, by name: what stands before the first dot and after `@`.

    A name without either, as of a word list, is a group of its own.
    """
    stem, _, place = concept.partition("@")
    first, dot, _ = stem.partition(".")
    return f"{first}.*" + (f"@{place}" if place else "") if dot else concept


def compared(
    scores: pl.DataFrame, artifacts: Mapping[str, Artifact], families: Mapping[str, str], seed: int = 0
) -> pl.DataFrame:
    """The DIFFERENCES table of one experiment.

    Args:
        scores: the REPORT table.
        artifacts: stage -> artifact, those that have scores.
        families: concept -> its family in the inventory; {} where there is none.
        seed: of the flips where not all are tried.
    """
    rows: list[Row] = []
    if "evaluate" in artifacts:
        rows += _pairs(scores, concepts(artifacts["evaluate"], scores), families, seed)
    if "interpret" in artifacts:
        rows += _pairs(scores, explained(artifacts["interpret"], scores), {}, seed)
    if "steer" in artifacts:
        rows += _pairs(scores, steered(artifacts["steer"], scores), families, seed)
        rows += single(artifacts["steer"], scores, seed)
    return tables.DIFFERENCES.frame([{k: v for k, v in row.items() if k != "measure"} for row in corrected(rows)])


def corrected(rows: list[Row]) -> list[Row]:
    """The rows with Holm's p over each measure, what could be detected, and the outcome."""
    for measure in {row["measure"]: None for row in rows}:
        family = [row for row in rows if row["measure"] == measure and row["p"] is not None]
        adjusted = holm(np.array([row["p"] for row in family], dtype=np.float64))
        for row, p in zip(family, adjusted, strict=True):
            row |= {"p_holm": float(p), "n_tests": len(family)}
    for row in rows:
        interval, freedom = row.pop("interval"), row.pop("freedom")
        row["detectable"] = detectable(interval, freedom, row.get("n_tests", 1)) if freedom else None
        least, most = (getattr(known(row["name"])[1], end) for end in ("low", "high"))
        if least is not None and most is not None:  # a difference of shares lies in -1 to 1
            span = most - least
            row["low"] = None if row["low"] is None else max(row["low"], -span)
            row["high"] = None if row["high"] is None else min(row["high"], span)
            row["detectable"] = row["detectable"] if (row["detectable"] or 0) <= span else None
        told = row.get("p_holm") is not None and row["p_holm"] < LEVEL
        better = row["difference"] > 0 if row["better"] == "higher" else row["difference"] < 0
        row["outcome"] = ("for us" if better else "against us") if told else "undecided"
    return rows


def concepts(evaluate: Artifact, scores: pl.DataFrame) -> Iterator[tuple[Row, pl.DataFrame]]:
    """Each score by concept of `concepts_found`, with its items, for every kind of unit."""
    if tables.CONCEPTS_FOUND.file not in evaluate.files:
        return
    found = tables.CONCEPTS_FOUND.read(evaluate)
    pattern = re.compile(r"evaluate\.concepts_(\w+)\.(\w+)")
    for row in _rows(scores, "evaluate"):
        if not (match := pattern.fullmatch(row["name"])) or match[1] not in found.columns:
            continue
        value = pl.col(match[1]).cast(pl.Float64)
        value = value.fill_null(0.0) if match[1].startswith("found") else value  # as its share counts it
        own = _of_kind(found.filter(pl.col("unit_kind") == match[2]), row["concept_kind"])
        for asked in _asked(found, evaluate):
            items = own.filter(pl.col("concept").is_in(asked))
            items = items.select(pl.col("concept").alias("item"), value.alias("value")).drop_nulls()
            if items.height == row["n"] and _averages(items, row):
                yield row | {"measure": match[1], "who": match[2]}, items
                break


def _asked(found: pl.DataFrame, evaluate: Artifact) -> Iterator[list[str]]:
    """The concepts that a score may be over: those that the probe decodes well, at all, or by the absolute standard."""
    for column in ("decodable", "gate"):
        if column in found.columns:
            yield found.filter(pl.col(column))["concept"].unique().to_list()
    threshold = (evaluate.config.get("settings") or {}).get("concepts_found", {}).get("ap_threshold")
    if threshold is not None:
        probes = found.filter(pl.col("unit_kind") == "probe", pl.col("validate_ap") >= threshold)
        yield probes["concept"].to_list()


def _of_kind(items: pl.DataFrame, kind: str | None) -> pl.DataFrame:
    if kind in (None, "all"):
        return items
    return items.filter(pl.col("concept_kind") != "document" if kind == "token" else pl.col("concept_kind") == kind)


def explained(interpret: Artifact, scores: pl.DataFrame) -> Iterator[tuple[Row, pl.DataFrame]]:
    """Each explanation score with its latents."""
    if tables.EXPLANATION_SCORES.file not in interpret.files:
        return
    table = tables.EXPLANATION_SCORES.read(interpret).with_columns(pl.lit(None, pl.String).alias("control"))
    controls = tables.TABLES.get("control_scores")
    if controls is not None and controls.file in interpret.files:
        table = pl.concat([table, controls.read(interpret).select(table.columns)])
    rows = {row["name"]: row for row in _rows(scores, "interpret")}
    key = ("control", "explainer", "scorer", "predictor")
    for (control, explainer, scorer, predictor), of in table.group_by(key, maintain_order=True):
        items = of.select(pl.col("latent").cast(pl.String).alias("item"), "value").drop_nulls("value")
        first = explainer if control is None else control
        whos = [first] if control is None else [control, f"{control}.{explainer}"]
        names = [f"interpret.{who}.{scorer}{last}" for who in whos for last in ("", f".{predictor}")]
        for name in names:
            if name in rows and _averages(items, rows[name]):
                yield rows[name] | {"measure": scorer, "who": str(first).split(".")[0]}, items
                break


def steered(steer: Artifact, scores: pl.DataFrame) -> Iterator[tuple[Row, pl.DataFrame]]:
    """Each score of a steering method with its concepts; what has no steering counts as the score counts it, as 0.

    Beside each, on the same concepts: the largest control direction, and for fluency plain text.
    """
    if tables.STEERED.file not in steer.files:
        return
    table = tables.STEERED.read(steer)
    pattern = re.compile(rf"steer\.(\w+)\.({BUDGET})(?:\.(composite|fluency))?")
    for row in _rows(scores, "steer"):
        match = pattern.fullmatch(row["name"])
        column = (match[3] or "uplift") if match else ""
        if not match or (match[1].startswith("random_") and column != "fluency"):
            continue  # the largest of the control's directions stands against us, concept by concept
        at = (pl.col("kl_budget") / float(match[2].removeprefix("kl_")) - 1).abs() < 1e-9
        own = _of_kind(table.filter(pl.col("method") == match[1], at), row["concept_kind"])
        about = {"measure": column, "open": f"steer.*.{match[2]}.{column}"}
        yield row | about | {"who": match[1]}, _items(own, pl.col(column).fill_null(0.0))
        if match[1] in RIVALS:
            continue
        if column == "fluency":
            yield row | about | {"who": "unsteered"}, _items(own, pl.col("fluency_unsteered"))
        elif row["baseline_name"] is not None:
            yield row | about | {"who": _largest(row["baseline_name"])}, _items(own, pl.col(f"{column}_largest"))


def _largest(baseline_name: str) -> str:
    """What the largest control direction on a concept is called; a score's baseline may be another thing of them."""
    return baseline_name if baseline_name.startswith("largest") else "largest of the Gaussian directions"


def _items(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    return rows.select(pl.col("concept").alias("item"), value.alias("value")).drop_nulls("value")


def single(steer: Artifact, scores: pl.DataFrame, seed: int) -> Iterator[Row]:
    """Each steered concept against the largest of its control directions, paired by prompt."""
    if tables.JUDGEMENTS.file not in steer.files or tables.STEERED.file not in steer.files:
        return
    table = tables.STEERED.read(steer)
    texts = tables.GENERATIONS.scan(steer).filter(pl.col("split") == "test").drop("text").collect()
    generations = judged(texts, tables.JUDGEMENTS.read(steer), steer.facts["measure"])
    generations = generations.filter(pl.col("kl_budget").is_not_null())
    by = ["concept", "method", "replicate", "kl_budget"]
    for row in _single(scores).drop_nulls("baseline").iter_rows(named=True):
        method, budget = row["score"].split(".")[1], re.search(BUDGET, row["score"])
        if budget is None or method in RIVALS:
            continue
        column = "composite" if row["score"].endswith(".composite") else "uplift"
        value = pl.col(column).fill_null(0.0).mean()
        at = (pl.col("kl_budget") / float(budget[0].removeprefix("kl_")) - 1).abs() < 1e-9
        here = generations.filter(at, pl.col("concept") == row["item"])
        prompts = here.group_by([*by, "prompt"]).agg(value.alias("value"))
        random = prompts.filter(pl.col("method").str.starts_with("random_"))
        # Directions that only stand in for a method's candidates are no rivals: the largest is the one that the table names.
        of = table.filter(at, pl.col("method") == method, pl.col("concept") == row["item"])[f"{column}_largest"]
        if of.is_empty() or of[0] is None:
            continue
        means = random.group_by(by).agg(pl.col("value").mean()).filter((pl.col("value") - of[0]).abs() < 1e-9).sort(by)
        theirs = random.join(means.head(1).select(by), on=by).select("prompt", pl.col("value").alias("theirs"))
        pairs = prompts.filter(pl.col("method") == method).join(theirs, on="prompt").sort("prompt")
        if pairs.is_empty():
            continue
        told = {"measure": f"single.{row['score']}", "rival": _largest(row["baseline_name"]), "better": row["better"]}
        place = {column: row[column] for column in ("name", "concept_kind", "split", "dictionary", "hook_point")}
        values = (pairs["value"].to_numpy(), pairs["theirs"].to_numpy(), pairs["prompt"].to_numpy())
        found = _paired(*values, numpy_generator(seed, "flips", row["name"]))
        yield place | told | {"unit_of_replication": "prompt", "n_families": None} | found


def _pairs(
    scores: pl.DataFrame, given: Iterator[tuple[Row, pl.DataFrame]], families: Mapping[str, str], seed: int
) -> Iterator[Row]:
    """Every score of ours against every rival of the same measure, kind, split, dictionary and hook point."""
    listed = [(row, items.sort("item")) for row, items in given]
    for ours, own in listed:
        if ours["better"] not in ("higher", "lower") or part(ours["name"], (*RIVALS, *CEILINGS)):
            continue
        if ours["who"] not in ours["name"].split(".") or not _averages(own, ours):
            continue
        for theirs, rival in listed:
            if not _rivals(ours, theirs):
                continue
            generator = numpy_generator(seed, "flips", ours["name"], ours["concept_kind"] or "", theirs["who"])
            place = {column: ours[column] for column in ("name", "concept_kind", "split", "dictionary", "hook_point")}
            told = place | {"measure": f"{ours['stage']}.{ours['measure']}", "better": ours["better"]}
            told["rival"] = RIVALS.get(theirs["who"], theirs["who"])
            told["unit_of_replication"] = ours["unit_of_replication"]
            if ours["unit_of_replication"] == "latent" and theirs["who"] in OTHER_LATENTS:
                yield told | {"n_families": None} | _unpaired(own["value"].to_numpy(), rival["value"].to_numpy())
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
                | _paired(pairs["value"].to_numpy(), pairs["value_theirs"].to_numpy(), cluster, generator)
            )


def _rivals(ours: Row, theirs: Row) -> bool:
    """Whether a row stands against one of ours: the same name but for who was measured."""
    if theirs["who"] in CEILINGS or theirs["who"] == ours["who"]:
        return False
    same = all(ours[column] == theirs[column] for column in ("concept_kind", "split", "dictionary", "hook_point"))
    if not same or _open(ours) != _open(theirs):
        return False
    return theirs["who"] in RIVALS or (theirs["name"] == ours["name"] and theirs["who"] not in ours["name"].split("."))


def _open(row: Row) -> str:
    return row.get("open") or ".".join("*" if piece == row["who"] else piece for piece in row["name"].split("."))


def _paired(ours: np.ndarray, theirs: np.ndarray, cluster: np.ndarray, generator: np.random.Generator) -> Row:
    difference = ours - theirs
    interval = clustered_t_interval(difference, cluster)
    if np.ptp(difference) <= 1e-12 * max(
        1.0, float(np.abs(ours).max())
    ):  # an interval without width would claim to be sure
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
    return _row(ours, theirs, interval, p, freedom) | {"paired": False, "n": interval.n, "n_clusters": interval.n}


def _row(ours: np.ndarray, theirs: np.ndarray, interval: Any, p: float | None, freedom: float | None) -> Row:
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


def _rows(scores: pl.DataFrame, stage: str) -> list[Row]:
    """The measured scores of a stage, single concepts left out."""
    return placed(scores).filter(pl.col("stage") == stage, pl.col("value").is_not_null(), ~SINGLE).to_dicts()


def _single(scores: pl.DataFrame) -> pl.DataFrame:
    """The rows of single concepts with `score`, the score that they are part of, and `item`, the concept."""
    steer = scores.filter(pl.col("stage") == "steer")
    wholes = sorted(steer.filter(~SINGLE)["name"].unique().to_list(), key=len, reverse=True)
    found = steer.filter(SINGLE)
    names = [next((w for w in wholes if name.startswith(f"{w}.")), None) for name in found["name"]]
    items = [
        name.removeprefix(f"{whole}.").removeprefix("concept.") if whole else None
        for name, whole in zip(found["name"], names, strict=True)
    ]
    columns = [pl.Series("score", names, pl.String), pl.Series("item", items, pl.String)]
    return found.with_columns(columns).drop_nulls("item")


def _averages(items: pl.DataFrame, row: Row) -> bool:
    """Whether these items are what the score was made from."""
    mean = items["value"].mean()
    return isinstance(mean, float) and abs(mean - row["value"]) <= 1e-6 * max(1.0, abs(mean))
