"""From the tables of an artifact to what a page draws: pure functions over frames, no files and no widgets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from components.report.measure import Measure, Measures, label
from components.report.order import ordered, shortened
from components.report.scores import SINGLE, whole
from components.report.scores import headlines as every_headline
from components.report.tables import REPORT
from components.spelling import PART
from components.store.judgements import UNSTEERED, others
from components.store.lineage import inputs, trail
from dashboards.measures import NOTHING, estimate, number
from dashboards.tokens import visible, whole_at

UNITS = ("latent", "neuron", "untrained", "probe")
ROLES = ("explanation", "floor", "ceiling", "untrained")
"""What a row of the explanation scores is to the reader; latents of a control dictionary have a table of their own, and
the dictionary's name as their role."""
METHOD = pl.coalesce("subject", "entry").alias("method")
"""Of rows of steering."""
WRITER = pl.coalesce(
    pl.col("role").replace_strict({"floor": "shuffled", "ceiling": "probe"}, default=None, return_dtype=pl.String),
    "explainer",
).alias("explainer")
"""Of the explanation scores: who wrote the explanation, or what stands in its place."""
ROLE = pl.col("role").replace("entry", "explanation")
"""Of the explanation scores, as a reader meets it."""
VISIBLE = (
    pl.element()
    .str.replace("^[Ġ▁]", "")
    .str.replace_all(PART.pattern, "‹$1›")
    .str.replace_all("›‹", " ", literal=True)
    .str.replace_all("[\nĊ]", "↵")
    .str.strip_chars(" ")
    .replace("", "␣")
)
"""`tokens.visible` over a whole column at once."""
SILENT = {
    "random": "Silent · drawn at random, verified never active inside",
    "same_token": "Silent · holds the token it fires on most, and yet never active inside",
    None: "Silent · verified never active inside",
}
SCORE_COLUMNS = (
    dict.fromkeys(
        ("measure", "concepts", "value", "95% interval", "unit", "better", "baseline", "baseline is"), pl.String
    )
    | {"n": pl.Int64, "of": pl.String, "failed": pl.Int64, "seeds": pl.Int32}
    | dict.fromkeys(("split", "note", "dictionary", "hook point", "name", "artifact"), pl.String)
)


def scores(report: pl.DataFrame, measures: Measures, everything: bool = False) -> pl.DataFrame:
    """The report as a reader's table, in the terminal's order; numbers as text with the decimals they bear.

    Args:
        report: the REPORT table.
        measures: what its stages declare.
        everything: also the rows that the short table leaves out, at its end.
    """
    short = shortened(report, measures)
    rest = report.join(short, on=REPORT.key, how="anti", nulls_equal=True)
    shown = pl.concat([short, rest]) if everything else short
    rows = []
    for row in shown.iter_rows(named=True):
        known = measures.of(row)
        value, interval = estimate(row["value"], row["low"], row["high"])
        rows.append(
            {
                "measure": label(known, row),
                "concepts": row["concept_kind"] or NOTHING,
                "value": value,
                "95% interval": interval,
                "unit": known.unit or NOTHING,
                "better": row["better"] or NOTHING,
                "baseline": number(row["baseline"]),
                "baseline is": row["baseline_name"] or NOTHING,
                "n": row["n"],
                "of": row["unit_of_replication"] or NOTHING,
                "failed": row["n_failed"],
                "seeds": row["n_seeds"],
                "split": row["split"] or NOTHING,
                "note": row["reason"] or "",
                "dictionary": row["dictionary"] or NOTHING,
                "hook point": row["hook_point"] or NOTHING,
                "name": row["name"],
                "artifact": f"{row['stage']}/{row['artifact']}",
            }
        )
    return pl.DataFrame(rows, schema=SCORE_COLUMNS)


def headlines(report: pl.DataFrame, measures: Measures) -> list[dict[str, Any]]:
    """The few rows that say how the experiment came out, each with its label, unit and sentence."""
    chosen = []
    for _, measure, row in every_headline(report, measures):
        if row["role"] in ("entry", "baseline"):
            chosen.append(row | {"label": label(measure, row), "unit": measure.unit, "about": measure.about})
    return chosen


def concepts_by_kind(report: pl.DataFrame) -> pl.DataFrame:
    """Concepts found: one row for each kind of concept and kind of unit, with the interval."""
    found = report.filter(pl.col("stage") == "evaluate", pl.col("measure") == "concepts_found")
    return (
        found.filter(pl.col("value").is_not_null(), pl.col("subject").is_in(UNITS))
        .with_columns(pl.col("concept_kind").fill_null("all"))
        .select("concept_kind", pl.col("subject").alias("unit_kind"), "value", "low", "high", "n")
    )


def panels(curve: pl.DataFrame, points: int = 400) -> dict[str, pl.DataFrame]:
    """Training curves by what they measure (`loss` holds `loss.reconstruction` too), thinned to `points` each."""
    first = ("fvu", "l0", "dead_share", "loss", "learning_rate")
    found: dict[str, pl.DataFrame] = {}
    for (name,), series in curve.sort("step").group_by("name", maintain_order=True):
        every = max(1, math.ceil(series.height / points))
        kept = series.with_row_index("row").filter((pl.col("row") % every == 0) | (pl.col("row") == series.height - 1))
        panel = str(name).split(".")[0]
        found[panel] = pl.concat([found[panel], kept.drop("row")]) if panel in found else kept.drop("row")
    return dict(sorted(found.items(), key=lambda item: first.index(item[0]) if item[0] in first else len(first)))


def steering(report: pl.DataFrame) -> pl.DataFrame:
    """The composite by concept, method and KL budget as the report has it, the largest control direction beside it.

    Returns:
        concept, concept_kind, method, budget, mean, low, high (over prompts), n, n_failed, largest_random, control
        (what that control is); by concept in falling order of its best method.
    """
    of_concepts = report.filter(SINGLE, pl.col("stage") == "steer", pl.col("measure") == "composite")
    return (
        of_concepts.filter(pl.col("value").is_not_null())
        .select(
            "concept",
            "concept_kind",
            METHOD,
            "budget",
            pl.col("value").alias("mean"),
            "low",
            "high",
            "n",
            "n_failed",
            pl.col("baseline").alias("largest_random"),
            pl.col("baseline_name").alias("control"),
        )
        .sort(pl.col("mean").max().over("concept", "budget"), "concept", "method", descending=[True, False, False])
    )


def latent_list(
    latents: pl.DataFrame | pl.LazyFrame,
    explanations: pl.DataFrame | pl.LazyFrame | None = None,
    explanation_scores: pl.DataFrame | pl.LazyFrame | None = None,
    concepts_found: pl.DataFrame | pl.LazyFrame | None = None,
    *,
    split: str,
    explainer: str | None = None,
    scorer: str | None = None,
) -> pl.DataFrame:
    """One row for each latent: statistics, what is said of it, how well, and the concepts it is the best latent for.

    Frames may be lazy scans: only what the list shows is read. Promoted tokens stay as the tokenizer has them; the rows
    that are drawn get them from `readable`.
    """
    columns = ("latent", "density", "maximum", "mean_active", pl.col("promoted").list.head(4))
    frame = latents.lazy().filter(pl.col("split") == split).select(*columns)
    if explanations is not None:
        said = explanations.lazy().filter(pl.col("explainer") == explainer).select("latent", "explanation")
        frame = frame.join(said, on="latent", how="left")
    else:
        frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias("explanation"))
    if explanation_scores is not None:
        entry = pl.col("role") == "entry"
        of = explanation_scores.lazy().filter(entry, pl.col("explainer") == explainer, pl.col("scorer") == scorer)
        frame = frame.join(of.group_by("latent").agg(pl.col("value").mean().alias("score")), on="latent", how="left")
    else:
        frame = frame.with_columns(pl.lit(None, dtype=pl.Float64).alias("score"))
    if concepts_found is not None:
        best = concepts_found.lazy().filter(pl.col("unit_kind") == "latent", pl.col("gate"))
        best = best.sort("ap", "concept", descending=[True, False]).group_by(
            pl.col("unit").alias("latent"), maintain_order=True
        )
        concepts = best.agg(pl.col("concept")).with_columns(pl.col("concept").list.join(", "))
        frame = frame.join(concepts, on="latent", how="left")
    else:
        frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias("concept"))
    words = pl.concat_str(["explanation", "concept"], separator="\n", ignore_nulls=True)
    return frame.with_columns(words.str.to_lowercase().alias("words")).collect()


def readable(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of a list with its tokens as a reader sees them, and a dash where nothing is said."""
    return rows.with_columns(pl.col("promoted").list.eval(VISIBLE), pl.col("explanation", "concept").fill_null(NOTHING))


def promoted_tokens(latents: pl.DataFrame | pl.LazyFrame, split: str) -> pl.DataFrame:
    """Of each latent the tokens whose logits it raises most, as `narrowed` searches them: latent, tokens."""
    shown = pl.col("promoted").list.eval(VISIBLE)
    of = latents.lazy().filter(pl.col("split") == split, pl.col("promoted").is_not_null())
    return of.select("latent", _sought(shown).alias("tokens")).collect()


def peak_tokens(contexts: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Of each latent the tokens on which its strongest windows peak, as `narrowed` searches them: latent, tokens."""
    strongest = contexts.lazy().filter(pl.col("role") == "top")
    at = pl.col("activations").list.arg_max()
    peaks = strongest.select("latent", pl.col("tokens").list.get(at, null_on_oob=True).alias("token")).collect()
    divided = strongest.filter(pl.col("tokens").list.get(at, null_on_oob=True).str.contains(PART.pattern))
    characters = [  # a token that is part of a character is also found by that character
        {"latent": latent, "token": text}
        for latent, tokens, number in divided.select("latent", "tokens", at.alias("at")).collect().iter_rows()
        if (text := whole_at(tokens, number)) is not None
    ]
    return (
        pl.concat([peaks, pl.DataFrame(characters, schema=peaks.schema)])
        .unique()
        .sort("latent", "token")
        .group_by("latent", maintain_order=True)
        .agg(pl.col("token").drop_nulls())
        .select("latent", _sought(pl.col("token").list.eval(VISIBLE)).alias("tokens"))
    )


def _sought(tokens: pl.Expr) -> pl.Expr:
    """A list of tokens as one text in which a whole token is found as the token between two line breaks."""
    return "\n" + tokens.list.join("\n").str.to_lowercase() + "\n"


def narrowed(
    frame: pl.DataFrame,
    *,
    text: str = "",
    token: str = "",
    index: pl.DataFrame | None = None,
    density: tuple[float, float] | None = None,
    minimum: float = 0.0,
    sort: str = "density",
    descending: bool = True,
) -> pl.DataFrame:
    """The latents whose words contain every word of `text`, inside a range of density, with at least that maximum.

    Args:
        frame: `latent_list`.
        text: words of the explanation or of a concept.
        token: a whole token of the index.
        index: `promoted_tokens`, `peak_tokens`, or both; wanted where a token is.
        density: lowest and highest share of tokens, both included.
        minimum: of the largest activation.
        sort: a column of the list; absent values come last in either direction.
        descending: the largest first.
    """
    found = frame.lazy()
    for word in text.lower().split():
        found = found.filter(pl.col("words").str.contains(word, literal=True))
    if wanted := token.strip().lower():
        assert index is not None
        holds = index.filter(pl.col("tokens").str.contains(f"\n{wanted}\n", literal=True))
        found = found.filter(pl.col("latent").is_in(holds["latent"].unique().implode()))
    if density:
        found = found.filter(pl.col("density").is_between(*density))
    if minimum > 0:
        found = found.filter(pl.col("maximum") >= minimum)
    return found.sort(sort, "latent", descending=[descending, False], nulls_last=True).collect()


def page_of(frame: pl.DataFrame, number: int, rows: int = 100) -> pl.DataFrame:
    """One page of a frame, counted from 1, from the end when negative."""
    start = (number - 1) * rows if number > 0 else max(0, -(-frame.height // rows) + number) * rows
    return frame.slice(start, rows)


def neighbours(near: pl.DataFrame, listing: pl.DataFrame) -> pl.DataFrame:
    """The nearest latents of one with what is known of them: latent, cosine, explanation, density, promoted."""
    known = listing.select(pl.col("latent").alias("neighbour"), "explanation", "concept", "density", "promoted")
    return (
        near.sort("rank")
        .join(known, on="neighbour", how="left", maintain_order="left")
        .select(pl.col("neighbour").alias("latent"), "cosine", "explanation", "concept", "density", "promoted")
    )


def intervals(contexts: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Windows of one latent by interval of activation, strongest first, the verified silent ones last."""
    groups = []
    ordered = contexts.sort("maximum", "window", descending=[True, False])
    kinds = ordered.select("role", "quantile", "stratum").unique(maintain_order=True)
    for role, quantile, stratum in kinds.sort(_role_rank(), "quantile", "stratum").iter_rows():
        same = {"role": role, "quantile": quantile, "stratum": stratum}
        rows = ordered.filter(
            pl.col(name).eq_missing(pl.lit(value, dtype=ordered.schema[name])) for name, value in same.items()
        )
        low, high = number(rows["maximum"][-1]), number(rows["maximum"][0])
        reach = f"largest activation {low}" + (f" to {high}" if high != low else "")
        titles = {
            "top": f"Strongest · {reach}",
            "quantile": f"Interval {quantile} · {reach}",
            "silent": SILENT.get(stratum),
        }
        groups.append((f"{titles.get(role) or SILENT[None]} · {_count(rows.height, 'window')}", rows))
    return groups


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _role_rank() -> pl.Expr:
    return pl.col("role").replace_strict({"top": 0, "quantile": 1, "silent": 2}, default=3, return_dtype=pl.Int8)


def histogram(latent: Mapping[str, Any]) -> pl.DataFrame:
    """The bins of one latent's activations: from, to, tokens; empty bins left out, and no rows for a dead latent."""
    counts = latent["histogram"] or []
    width = (latent["maximum"] or 0.0) / max(1, len(counts))
    bins = [{"from": i * width, "to": (i + 1) * width, "tokens": count} for i, count in enumerate(counts) if count]
    return pl.DataFrame(bins, schema={"from": pl.Float64, "to": pl.Float64, "tokens": pl.Int64})


def logits(latent: Mapping[str, Any]) -> pl.DataFrame:
    """The tokens whose logits a step along the decoder direction raises and lowers most: token, logit, side, rank."""
    rows = [
        {"token": visible(token), "logit": value, "side": side, "rank": rank}
        for side in ("promoted", "suppressed")
        for rank, (token, value) in enumerate(
            zip(latent[side] or (), latent[f"{side}_logits"] or (), strict=False)  # equal length, or both null
        )
    ]
    return pl.DataFrame(rows, schema={"token": pl.String, "logit": pl.Float64, "side": pl.String, "rank": pl.Int64})


def concepts_of(concepts_found: pl.DataFrame, latent: int) -> pl.DataFrame:
    """The concepts for which this latent was chosen on select, beside what the other kinds of unit reach on test."""
    mine = concepts_found.filter(pl.col("unit_kind") == "latent", pl.col("unit") == latent)
    others = concepts_found.filter(pl.col("unit_kind") != "latent", pl.col("concept").is_in(mine["concept"].to_list()))
    wide = mine.select(
        "concept", "concept_kind", "sign", "found", "gate", "n_positive", "n",
        pl.col("select_ap").alias("AP on select"), pl.col("ap").alias("AP on test"), pl.col("auroc").alias("AUROC"),
    )  # fmt: skip
    for unit in UNITS[1:]:
        of = others.filter(pl.col("unit_kind") == unit).select("concept", pl.col("ap").alias(unit))
        wide = wide.join(of, on="concept", how="left")
    return wide.sort("AP on test", descending=True, nulls_last=True)


def parameters(configs: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Every parameter under its dotted name, the stage's name in front: parameter, value."""
    rows: list[dict[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                walk(f"{prefix}.{name}", inner)
        else:
            rows.append({"parameter": prefix, "value": value if isinstance(value, str) else json.dumps(value)})

    for stage, config in configs.items():
        walk(stage, config)
    return pl.DataFrame(rows, schema={"parameter": pl.String, "value": pl.String})


def lineage(manifests: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The artifacts behind a report, in the order they were made: stage, key, inputs, size, seconds, when, commit."""
    rows = [
        {
            "stage": manifest["stage"],
            "key": manifest["key"],
            "made from": ", ".join(f"{role}: {stage}/{key[:8]}" for role, (stage, key) in inputs(manifest).items()),
            "MB": sum(file["bytes"] for file in manifest["files"].values()) / 1e6,
            "seconds": manifest["made"]["seconds"],
            "made at (UTC)": manifest["made"]["at"].replace("T", " ").rstrip("Z"),
            "commit": (manifest["made"]["git_commit"] or NOTHING)[:10],
        }
        for manifest in manifests
    ]
    kinds = {"MB": pl.Float64, "seconds": pl.Float64}
    names = ("stage", "key", "made from", "MB", "seconds", "made at (UTC)", "commit")
    frame = pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in names})
    return frame.sort("made at (UTC)", maintain_order=True)


def side_by_side(results: pl.DataFrame, method: str, budget: float | None, split: str = "test") -> pl.DataFrame:
    """Steered beside unsteered text of the same prompt and sample, largest composite first, failures last.

    Args:
        results: texts with their judgements (`components.store.judgements.judged`).
        method: the steering method; one that has no strength stands at every budget.
        budget: nats a token.
        split: validate or test.

    Returns:
        composite, uplift, one column for each other judge, unsteered, steered, reason.
    """
    at = (pl.col("kl_budget") == budget) | pl.col("kl_budget").is_null()
    of_split = results.filter(pl.col("split") == split)
    before = of_split.filter(pl.col("method") == UNSTEERED).select(
        "prompt", "sample", pl.col("text").alias("unsteered")
    )
    return (
        of_split.filter(pl.col("method") == method, at)
        .join(before, on=["prompt", "sample"], how="left")
        .sort("composite", "uplift", "prompt", "sample", descending=[True, True, False, False], nulls_last=True)
        .select("composite", "uplift", *others(results), "unsteered", pl.col("text").alias("steered"), "reason")
    )


def control_means(report: pl.DataFrame) -> pl.DataFrame:
    """What latents of control dictionaries reach on average, as rows of `scores_of`; empty where none was explained."""
    of_controls = report.filter(pl.col("role") == "control", pl.col("measure") == pl.col("scorer"))
    return of_controls.filter(pl.col("value").is_not_null()).select(
        pl.lit(None, dtype=pl.Int32).alias("latent"),
        pl.col("subject").alias("role"),
        pl.format("{} dictionary, mean", "subject").alias("explainer"),
        "scorer",
        pl.lit(None, dtype=pl.String).alias("predictor"),
        "value",
        "low",
        "high",
        "n",
        pl.col("n_failed").cast(pl.Int64),
        pl.lit(None, dtype=pl.String).alias("reason"),
    )


def differences_from_controls(report: pl.DataFrame, measures: Measures) -> list[tuple[str, str, bool | None]]:
    """Of every explanation score that stands beside a control dictionary: what it is, the difference with its interval or
    why there is none, and whether the interval leaves out 0 (None without one)."""
    told = []
    controls = report.filter(pl.col("role") == "control")["subject"].unique(maintain_order=True).to_list()
    over = [f"{scorer}.over_{control}" for control in controls for scorer in report["scorer"].drop_nulls().unique()]
    for row in report.filter(pl.col("stage") == "interpret", pl.col("measure").is_in(over)).iter_rows(named=True):
        value, interval = estimate(row["value"], row["low"], row["high"])
        apart = None if row["low"] is None else not row["low"] <= 0 <= row["high"]
        told_of_it = f"{value} ({interval})" if row["value"] is not None else row["reason"] or NOTHING
        told.append((label(measures.of(row), row), told_of_it, apart))
    return told


def strata_of(strata: pl.DataFrame, latent: int) -> pl.DataFrame:
    """One latent's scores over strata of its windows: a row for each, a column for each scorer and explainer."""
    mine = strata.filter(pl.col("latent") == latent, pl.col("control").is_null())
    of = pl.format("{} · {}", "scorer", WRITER)
    wide = mine.with_columns(of.alias("of")).sort("of").pivot("of", index=["stratum", "n"], values="value")
    order = ("strongest", "weakest", "random", "same_token", "macro", "average_precision", "natural_density")
    rank = pl.col("stratum").replace_strict({name: n for n, name in enumerate(order)}, default=len(order))
    return wide.sort(rank, "stratum").rename({"stratum": "windows", "n": "of them"})


def scores_of(explanation_scores: pl.DataFrame, latent: int, control_means: pl.DataFrame | None = None) -> pl.DataFrame:
    """The scores of one latent with `role` and a title for each row, explanation first, then floor, ceiling, control.

    Args:
        explanation_scores: the EXPLANATION_SCORES table.
        latent: which.
        control_means: `control_means` of the report, to stand beside.
    """
    found = explanation_scores.filter(pl.col("latent") == latent).with_columns(WRITER, ROLE)
    if control_means is not None and found.height:
        theirs = control_means.filter(pl.col("scorer").is_in(found["scorer"].unique().to_list()))
        found = pl.concat([found, theirs.select(found.columns)], how="vertical_relaxed")
    return found.with_columns(pl.format("{} · {}", "scorer", "explainer").alias("row")).sort(
        "scorer",
        pl.col("role").replace_strict({role: rank for rank, role in enumerate(ROLES)}, return_dtype=pl.Int8),
        "row",
    )


def distribution(
    explanation_scores: pl.DataFrame, scorer: str, bins: int = 30, control_scores: pl.DataFrame | None = None
) -> pl.DataFrame:
    """How many latents score in each of `bins` equal intervals, by role: role, from, to, latents.

    Roles are explanation, floor and ceiling, and each control dictionary, whose latents others are, without its floor.
    """
    of = explanation_scores.select(ROLE, "scorer", "value")
    if control_scores is not None:
        theirs = control_scores.filter(pl.col("role") == "entry").select(
            pl.col("control").alias("role"), "scorer", "value"
        )
        of = pl.concat([of, theirs])
    of = of.filter(pl.col("scorer") == scorer, pl.col("value").is_not_null())
    if of.is_empty():
        return pl.DataFrame(schema={"role": pl.String, "from": pl.Float64, "to": pl.Float64, "latents": pl.Int64})
    low, high = float(of["value"].min()), float(of["value"].max())  # type: ignore[arg-type]
    width = (high - low) / bins or 1.0
    rows = []
    for (role,), frame in of.group_by("role", maintain_order=True):
        place = ((frame["value"] - low) / width).floor().clip(0, bins - 1).cast(pl.Int64)
        counts = dict(place.value_counts().iter_rows())
        rows += [
            {"role": role, "from": low + i * width, "to": low + (i + 1) * width, "latents": counts.get(i, 0)}
            for i in range(bins)
        ]
    return pl.DataFrame(rows)


def explained(explanations: pl.DataFrame, explanation_scores: pl.DataFrame, scorer: str) -> pl.DataFrame:
    """Every explanation with its score, interval, floor and ceiling under one scorer (means over predictors)."""
    of = explanation_scores.filter(pl.col("scorer") == scorer)
    means = of.group_by("latent", "role", "explainer").agg(pl.col("value", "low", "high").mean())
    frame = explanations.join(
        means.filter(pl.col("role") == "entry").drop("role").rename({"value": "score"}),
        on=["latent", "explainer"],
        how="left",
    )
    for name in ("floor", "ceiling"):
        control = means.filter(pl.col("role") == name).group_by("latent").agg(pl.col("value").mean().alias(name))
        frame = frame.join(control, on="latent", how="left")
    return frame.select("latent", "explanation", "score", "low", "high", "floor", "ceiling", "explainer", "reason")


def compared(reports: Mapping[str, pl.DataFrame], measures: Measures) -> pl.DataFrame:
    """The scores of several experiments in one long frame, `run` (its label) in front; single concepts left out."""
    frames = [
        ordered(report, measures).filter(~SINGLE).select(pl.lit(run).alias("run"), pl.all())
        for run, report in reports.items()
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema={"run": pl.String, **REPORT.schema})


def side_by_run(scores: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """One row for each measure, one column for each run: value and 95% interval as text, a dash where not measured."""
    rows: dict[tuple[str, str | None], dict[str, str]] = {}
    for row in scores.iter_rows(named=True):
        known = measures.of(row)
        called = label(known, row) + (f", {known.unit}" if known.unit else "")
        value, interval = estimate(row["value"], row["low"], row["high"])
        cells = rows.setdefault((row["name"], row["concept_kind"]), {"measure": called})
        cells["concepts"] = row["concept_kind"] or NOTHING
        cells["better"] = row["better"] or NOTHING
        cells[row["run"]] = value if NOTHING in (value, interval) else f"{value} ({interval})"
    labels = scores["run"].unique(maintain_order=True).to_list()
    columns = ("measure", "concepts", "better", *labels)
    return pl.DataFrame(
        [{name: cells.get(name, NOTHING) for name in columns} for cells in rows.values()],
        schema={name: pl.String for name in columns},
    )


def run_list(scores: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """One row for each run and the headline measures as numbers, so that a click on a column sorts the runs."""
    rows: dict[str, dict[str, Any]] = {}
    for run in scores["run"].unique(maintain_order=True).to_list():
        rows[run] = {"run": run}
        for row in headlines(scores.filter(pl.col("run") == run).drop("run"), measures):
            rows[run].setdefault(row["label"], row["value"])
    return pl.DataFrame(list(rows.values()), infer_schema_length=None)


def frontier(scores: pl.DataFrame, measures: Measures, measure: Measure) -> pl.DataFrame:
    """One measure of the dictionaries against L0, with both intervals, for every run that measured both.

    Returns:
        run, dictionary, architecture, hook_point, l0, l0_low, l0_high, value, low, high, n; sorted by L0.
    """
    key = ["run", "dictionary", "hook_point", "split"]
    ours = whole(scores.filter(pl.col("role") == "entry", pl.col("value").is_not_null()), measures)
    l0 = ours.filter(pl.col("stage") == "evaluate", pl.col("measure") == "l0").select(
        *key, pl.col("value").alias("l0"), pl.col("low").alias("l0_low"), pl.col("high").alias("l0_high")
    )
    return (
        ours.filter(pl.col("stage") == "evaluate", pl.col("measure") == measure.name)
        .select(*key, "value", "low", "high", "n")
        .join(l0, on=key, nulls_equal=True)
        .with_columns(pl.col("dictionary").fill_null("").str.split("-").list.first().alias("architecture"))
        .sort("l0", "run")
    )


def differences(configs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pl.DataFrame:
    """The parameters that are not the same in every run: parameter, then a column for each run.

    Args:
        configs: run -> stage -> config.
    """
    frames = [parameters(stages).rename({"value": run}) for run, stages in configs.items()]
    if not frames:
        return pl.DataFrame(schema={"parameter": pl.String})
    wide = frames[0]
    for frame in frames[1:]:
        wide = wide.join(frame, on="parameter", how="full", coalesce=True)
    wide = wide.with_columns(pl.exclude("parameter").fill_null(NOTHING))
    differ = pl.concat_list(pl.exclude("parameter")).list.n_unique() > 1
    return wide.filter(differ).sort("parameter")


def densities(latents: pl.DataFrame | pl.LazyFrame, split: str, per_decade: int = 5) -> pl.DataFrame:
    """How many latents are active on which share of tokens, in logarithmic bins; dead latents are in none of them.

    Returns:
        from, to (shares of tokens), latents.
    """
    alive = latents.lazy().filter(pl.col("split") == split, pl.col("density") > 0)
    place = (pl.col("density").log10() * per_decade).floor().cast(pl.Int32)
    counts = alive.group_by(place.alias("bin")).len("latents").sort("bin").collect()
    edge = pl.col("bin").cast(pl.Float64) / per_decade
    return counts.select(
        pl.lit(10.0).pow(edge).alias("from"), pl.lit(10.0).pow(edge + 1 / per_decade).alias("to"), "latents"
    )


def dead(facts: Mapping[str, Any]) -> pl.DataFrame:
    """Dead latents split by split, from the facts of an encode artifact: split, tokens, dead, share, L0."""
    d_sae, rows = facts.get("d_sae") or 0, facts.get("rows") or {}
    counted = facts.get("dead_latents") or {}
    return pl.DataFrame(
        [
            {
                "split": split,
                "tokens": n,
                "dead latents": counted.get(split),
                "share": counted[split] / d_sae if d_sae and split in counted else None,
                "L0": (facts.get("l0") or {}).get(split),
            }
            for split, n in rows.items()
        ],
        schema={
            "split": pl.String,
            "tokens": pl.Int64,
            "dead latents": pl.Int64,
            "share": pl.Float64,
            "L0": pl.Float64,
        },
    )


def budgets(report: pl.DataFrame) -> pl.DataFrame:
    """Steering over KL budgets, means over concepts: method, budget, concept_kind, what (the measure), value, low, high,
    n, n_failed, each with its baseline."""
    means = report.filter(~SINGLE, pl.col("budget").is_not_null(), pl.col("value").is_not_null())
    return means.select(
        METHOD,
        "budget",
        pl.col("concept_kind").fill_null("all"),
        pl.col("measure").alias("what"),
        *("value", "low", "high", "n", "n_failed", "baseline", "baseline_name"),
    ).sort("what", "method", "budget")


def curves(budgets: pl.DataFrame, declared: Measures) -> list[Measure]:
    """The measures of `budgets` that are worth a chart, in reading order: no costs, no differences."""
    drawn = [declared["steer", name] for name in set(budgets["what"]) if ("steer", name) in declared]
    drawn = [measure for measure in drawn if measure.better != "neither" and not measure.part_of]
    return sorted(drawn, key=lambda measure: (measure.rank, measure.name))


def graph(
    manifests: Sequence[Mapping[str, Any]], chosen: tuple[str, str], address: str, dark: bool, untrained: set[str]
) -> str:
    """The artifacts behind a report as a graph in the DOT language, what the chosen one rests on drawn strongly.

    Args:
        manifests: of every artifact.
        chosen: (stage, key).
        address: of a node's page; `{stage}/{key}` is put behind it.
        dark: whether the page's theme is dark.
        untrained: keys of the control's artifacts.
    """
    text, faint, fill, edge = (
        ("#fafafa", "#8a8f98", "#17456b", "#c8ccd2") if dark else ("#1a1c20", "#8a8f98", "#cfe5f5", "#3b3f45")
    )
    strong = trail(manifests, chosen)
    known = {(manifest["stage"], manifest["key"]): manifest for manifest in manifests}
    outside = {place for manifest in manifests for place in inputs(manifest).values()} - set(known)
    lines = [
        "digraph { rankdir=LR; bgcolor=transparent; nodesep=0.18; ranksep=0.35;",
        'node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11, margin="0.14,0.07"];',
        "edge [arrowsize=0.6];",
    ]
    for (stage, key), manifest in known.items():
        made = manifest["made"]
        size = sum(file["bytes"] for file in manifest["files"].values())
        on = (stage, key) in strong
        what = f"{stage} (untrained)" if key in untrained else stage
        label = f"{what}\\n{key[:8]}\\n{readable_seconds(made['seconds'])}, {readable_bytes(size)}"
        colour, words = (edge, text) if on else (faint, faint)
        width = 2.4 if (stage, key) == chosen else 1.2 if on else 0.7
        lines.append(
            f'"{stage}/{key}" [label="{label}", color="{colour}", fontcolor="{words}", penwidth={width}, '
            f'fillcolor="{fill if (stage, key) == chosen else "transparent"}", tooltip="{stage}/{key}", '
            f'URL="{address}{stage}/{key}", target="_self"];'
        )
    for stage, key in sorted(outside):
        note = "given, not made here" if stage == "model" else "not in this store"
        lines.append(
            f'"{stage}/{key}" [label="{stage}\\n{key[:8]}\\n{note}", style="rounded,dashed", color="{faint}", '
            f'fontcolor="{text if (stage, key) in strong else faint}", tooltip="{stage}/{key}"];'
        )
    for (stage, key), manifest in known.items():
        for place in set(inputs(manifest).values()):
            on = (stage, key) in strong and place in strong
            lines.append(
                f'"{place[0]}/{place[1]}" -> "{stage}/{key}" [color="{edge if on else faint}", '
                f"penwidth={1.4 if on else 0.5}];"
            )
    return "\n".join([*lines, "}"])


def files(manifest: Mapping[str, Any]) -> pl.DataFrame:
    """The files of an artifact: file, bytes, digest (blake2b as the manifest has it)."""
    rows = [
        {"file": name, "MB": file["bytes"] / 1e6, "digest": file["digest"]} for name, file in manifest["files"].items()
    ]
    return pl.DataFrame(rows, schema={"file": pl.String, "MB": pl.Float64, "digest": pl.String})


def flat(facts: Mapping[str, Any]) -> pl.DataFrame:
    """Nested facts under dotted names: fact, value."""
    return parameters({"": facts}).select(pl.col("parameter").str.strip_prefix(".").alias("fact"), pl.col("value"))


def readable_bytes(n: float) -> str:
    """A size with its unit: "4.1 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def readable_seconds(seconds: float) -> str:
    """A duration with its unit: "0.4 s", "2 min 5 s", "3 h 12 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
