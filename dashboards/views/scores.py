"""Scores of a report as tables that a page shows. Pure functions of tables, without Streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from pandas.io.formats.style import Styler

from components.report import worth
from components.report.measure import Measures, label
from components.report.order import shortened
from components.report.scores import SINGLE
from components.report.scores import headlines as every_headline
from components.report.tables import REPORT
from components.spelling import PART
from components.store.judgements import UNSTEERED, others
from components.store.readers import read_by_all
from dashboards.measures import NOTHING, estimate, number

UNITS = ("latent", "neuron", "untrained", "probe")
ROLES = (
    *("explanation", "floor", "ceiling", "untrained", "control"),
    *("random", "neurons", "randomised", "randomised_blocks"),
)
"""What a row of the explanation scores is to the reader; latents of controls have a table of
their own, and the control's name as their role."""
METHOD = pl.coalesce("subject", "entry").alias("method")
"""Of rows of steering."""
ROLE = pl.col("role").replace("entry", "explanation")
"""Of the explanation scores, as a reader meets it."""
VISIBLE = (
    pl.element()
    .str.replace("^[Ġ▁]", "")
    .str.replace_all(f"(?:{PART.pattern})+", "‹${0}›")
    # The first byte of each run, then the others: the text's own ‹ and › are never touched.
    .str.replace_all(f"‹{PART.pattern}", "‹${1}")
    .str.replace_all(PART.pattern, " ${1}")
    .str.replace_all("[\nĊ]", "↵")
    .str.strip_chars(" ")
    .replace("", "␣")
)
"""`tokens.visible` over a whole column at once."""
SILENT = {
    "random": "Silent · drawn at random, verified never active inside",
    "same_token": "Silent · holds the token it fires on most, and yet never active inside",
    "neighbour": "Silent · a neighbouring latent is active, and this one never inside",
    "near": "Silent · activations like those of active windows, and yet never active inside",
    None: "Silent · verified never active inside",
}
SCORE_COLUMNS = (
    dict.fromkeys(
        (
            "measure",
            "concepts",
            "value",
            "95% interval",
            "unit",
            "better",
            "baseline",
            "baseline is",
        ),
        pl.String,
    )
    | {"n": pl.Int64, "of": pl.String, "failed": pl.Int64, "seeds": pl.Int32}
    | dict.fromkeys(("split", "note", "dictionary", "hook point", "name", "artifact"), pl.String)
)

CONTRAST_COLUMNS = (
    dict.fromkeys(("method", "against", "budget", "difference", "95% interval"), pl.String)
    | {"targets": pl.Int64, "failed": pl.Int64}
    | dict.fromkeys(("p", "p after Holm", "could be seen", "of", "note"), pl.String)
)


def scores(report: pl.DataFrame, measures: Measures, everything: bool = False) -> pl.DataFrame:
    """The report as a reader's table, in the terminal's order; numbers as text with the decimals
    they bear.

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
                "note": "; ".join(filter(None, (worth.doubt(row), row["reason"]))),
                "dictionary": row["dictionary"] or NOTHING,
                "hook point": row["hook_point"] or NOTHING,
                "name": row["name"],
                "artifact": f"{row['stage']}/{row['artifact']}",
            }
        )
    return pl.DataFrame(rows, schema=SCORE_COLUMNS)


def greyed(table: pl.DataFrame, columns: Sequence[str] = tuple(SCORE_COLUMNS)) -> Styler:
    """Columns of a table of `scores`, the rows grey that nobody should rank with."""
    doubted = table["note"].str.starts_with(worth.DOUBT)
    return (
        table.select(columns)
        .to_pandas()
        .style.apply(
            lambda row: [f"color: {worth.GREY}" if doubted[row.name] else ""] * len(row), axis=1
        )
    )


def headlines(report: pl.DataFrame, measures: Measures) -> list[dict[str, Any]]:
    """The few rows that say how the experiment came out, each with its label, unit and sentence."""
    chosen = []
    for _, measure, row in every_headline(report, measures):
        if row["role"] in ("entry", "baseline"):
            chosen.append(
                row | {"label": label(measure, row), "unit": measure.unit, "about": measure.about}
            )
    return chosen


def concepts_by_kind(report: pl.DataFrame) -> pl.DataFrame:
    """Concepts found: one row for each kind of concept and kind of unit, with the interval."""
    found = report.filter(pl.col("stage") == "evaluate", pl.col("measure") == "concepts_found")
    return (
        found.filter(pl.col("value").is_not_null(), pl.col("subject").is_in(UNITS))
        .with_columns(pl.col("concept_kind").fill_null("all"))
        .select("concept_kind", pl.col("subject").alias("unit_kind"), "value", "low", "high", "n")
    )


def written_with(
    strengths: pl.DataFrame, generations: pl.DataFrame, method: str, concept: str | None
) -> pl.DataFrame:
    """Rows of STRENGTHS with which a method wrote test text for a concept (a steering that belongs
    to none serves all), the smallest budget first.

    Args:
        strengths: the STRENGTHS table.
        generations: the GENERATIONS table.
        method: its name.
        concept: None for a steering that belongs to none.
    """
    of = (
        pl.col("method") == method,
        pl.col("concept").is_null() | pl.col("concept").eq_missing(concept),
    )
    tested = generations.filter(*of, pl.col("split") == "test")
    used = strengths.filter(*of, pl.col("coefficient").is_not_null())
    places = ["replicate", "kl_budget"]
    used = used.join(tested, on=places, how="semi", nulls_equal=True, maintain_order="left")
    return used.sort("kl_budget", "replicate")


def contrasts(against: pl.DataFrame) -> pl.DataFrame:
    """The CONTRASTS table as a reader's: tested families first, largest difference first."""
    order = pl.col("family").replace_strict({"primary": 0, "pairs": 1}, default=2)
    rows = []
    for row in against.sort(
        order, "value", "method", "other", descending=[False, True, False, False], nulls_last=True
    ).iter_rows(named=True):
        value, interval = estimate(row["value"], row["low"], row["high"])
        rows.append(
            {
                "method": row["method"],
                "against": row["other"],
                "budget": number(row["kl_budget"]) if row["kl_budget"] else "own cost",
                "difference": value,
                "95% interval": interval,
                "targets": row["n"],
                "failed": row["n_failed"],
                "p": number(row["p"]),
                "p after Holm": number(row["p_holm"]),
                "could be seen": number(row["visible"]),
                "of": row["measure"] or NOTHING,
                "note": row["reason"] or "",
            }
        )
    return pl.DataFrame(rows, schema=CONTRAST_COLUMNS)


def steering(report: pl.DataFrame) -> pl.DataFrame:
    """The composite by concept, method and KL budget as the report has it, the largest control
    direction beside it.

    Returns:
        concept, concept_kind, method, budget, mean, low, high (over prompts), n, n_failed,
            largest_random, control
        (what that control is); by concept in falling order of its best method.
    """
    of_concepts = report.filter(
        SINGLE, pl.col("stage") == "steer", pl.col("measure") == "composite"
    )
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
        .sort(
            pl.col("mean").max().over("concept", "budget"),
            "concept",
            "method",
            descending=[True, False, False],
        )
    )


def _role_rank() -> pl.Expr:
    return pl.col("role").replace_strict(
        {"top": 0, "quantile": 1, "silent": 2}, default=3, return_dtype=pl.Int8
    )


def side_by_side(
    results: pl.DataFrame, method: str, budget: float | None, split: str = "test"
) -> pl.DataFrame:
    """Steered beside unsteered text of the same prompt and sample, largest composite first,
    failures last.

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
        .sort(
            "composite",
            "uplift",
            "prompt",
            "sample",
            descending=[True, True, False, False],
            nulls_last=True,
        )
        .select(
            "composite",
            "uplift",
            *others(results),
            "unsteered",
            pl.col("text").alias("steered"),
            "reason",
        )
    )


def control_means(report: pl.DataFrame) -> pl.DataFrame:
    """What latents of control dictionaries reach on average, as rows of `scores_of`; empty where
    none was explained."""
    control = (pl.col("role") == "control") & pl.col("subject").is_not_null()
    of_controls = report.filter(
        control, pl.col("measure") == pl.col("scorer"), pl.col("value").is_not_null()
    )
    mean = pl.format("{} dictionary, mean", "subject")
    if of_controls["explainer"].n_unique() > 1:
        mean = pl.format("{} of {}", mean, "explainer")
    return of_controls.select(
        pl.lit(None, dtype=pl.Int32).alias("latent"),
        pl.col("subject").alias("role"),
        mean.alias("explainer"),
        "scorer",
        pl.lit(None, dtype=pl.String).alias("predictor"),
        "value",
        "low",
        "high",
        "n",
        pl.col("n_failed").cast(pl.Int64),
        pl.lit(None, dtype=pl.String).alias("reason"),
    )


def differences_from_controls(
    report: pl.DataFrame, measures: Measures
) -> list[tuple[str, str, bool | None]]:
    """Of every explanation score that stands beside a control dictionary: what it is, the
    difference with its interval or why there is none, and whether the interval leaves out 0 (None
    without one)."""
    told = []
    controls = (
        report.filter(pl.col("role") == "control")["subject"]
        .drop_nulls()
        .unique(maintain_order=True)
        .to_list()
    )
    over = [
        f"{scorer}.over_{control}"
        for control in controls
        for scorer in report["scorer"].drop_nulls().unique()
    ]
    n_readers = report["predictor"].drop_nulls().n_unique()
    for row in report.filter(
        pl.col("stage") == "interpret", pl.col("measure").is_in(over)
    ).iter_rows(named=True):
        value, interval = estimate(row["value"], row["low"], row["high"])
        apart = None if row["low"] is None else not row["low"] <= 0 <= row["high"]
        told_of_it = (
            f"{value} ({interval})" if row["value"] is not None else row["reason"] or NOTHING
        )
        title = label(measures.of(row), row)
        if n_readers > 1 and row["predictor"]:
            title = f"{title}, read by {row['predictor']}"
        told.append((title, told_of_it, apart))
    return told


def strata_of(strata: pl.DataFrame, latent: int) -> pl.DataFrame:
    """One latent's scores over strata of its windows: a row for each, a column for each scorer and
    explainer."""
    mine = strata.filter(pl.col("latent") == latent, pl.col("control").is_null())
    of = pl.format("{} · {}", "scorer", _writer(mine))
    wide = (
        mine.with_columns(of.alias("of"))
        .sort("of")
        .pivot("of", index=["stratum", "n"], values="value")
    )
    order = (
        "strongest",
        "weakest",
        *(f"decile_{number}" for number in range(1, 11)),
        "random",
        "same_token",
        "neighbour",
        "near",
        "macro",
        "silent",
        "active",
        "average_precision",
    )
    rank = pl.col("stratum").replace_strict(
        {name: n for n, name in enumerate(order)}, default=len(order)
    )
    return wide.sort(rank, "stratum").rename({"stratum": "windows", "n": "of them"})


def scores_of(
    explanation_scores: pl.DataFrame, latent: int, control_means: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The scores of one latent with `role` and a title for each row, explanation first, then floor,
    ceiling, control.

    Args:
        explanation_scores: the EXPLANATION_SCORES table.
        latent: which.
        control_means: `control_means` of the report, to stand beside.
    """
    found = explanation_scores.filter(pl.col("latent") == latent)
    found = found.with_columns(_writer(found).alias("explainer"), ROLE)
    if control_means is not None and found.height:
        theirs = control_means.filter(pl.col("scorer").is_in(found["scorer"].unique().to_list()))
        found = pl.concat([found, theirs.select(found.columns)], how="vertical_relaxed")
    return found.with_columns(pl.format("{} · {}", "scorer", "explainer").alias("row")).sort(
        "scorer",
        pl.col("role").replace_strict(
            {role: rank for rank, role in enumerate(ROLES)}, return_dtype=pl.Int8
        ),
        "row",
    )


def failures_of(scores: pl.DataFrame) -> list[tuple[str, str]]:
    """What went wrong with the scores of one latent: who wrote the explanation, and a sentence. A
    score that is there says how many windows failed; one that is not says why there is none.

    Args:
        scores: rows of `scores_of`.
    """
    failed = scores.filter(pl.col("reason").is_not_null())
    return [
        (
            row["explainer"],
            f"no score: {row['reason']}"
            if row["value"] is None
            else f"{row['n_failed']} of {row['n']} failed ({row['reason']})",
        )
        for row in failed.iter_rows(named=True)
    ]


def distribution(
    explanation_scores: pl.DataFrame,
    scorer: str,
    bins: int = 30,
    control_scores: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """How many latents score in each of `bins` equal intervals, by role: role, from, to, latents.

    Roles are explanation, floor and ceiling, and each control dictionary, whose latents others are,
    without its floor.
    """
    of = explanation_scores.select(ROLE, "scorer", "value")
    if control_scores is not None:
        theirs = control_scores.filter(pl.col("role") == "entry").select(
            pl.col("control").alias("role"), "scorer", "value"
        )
        of = pl.concat([of, theirs])
    of = of.filter(pl.col("scorer") == scorer, pl.col("value").is_not_null())
    if of.is_empty():
        return pl.DataFrame(
            schema={"role": pl.String, "from": pl.Float64, "to": pl.Float64, "latents": pl.Int64}
        )
    low, high = float(of["value"].min()), float(of["value"].max())  # type: ignore[arg-type]
    width = (high - low) / bins or 1.0
    rows = []
    for (role,), frame in of.group_by("role", maintain_order=True):
        place = ((frame["value"] - low) / width).floor().clip(0, bins - 1).cast(pl.Int64)
        counts = dict(place.value_counts().iter_rows())
        rows += [
            {
                "role": role,
                "from": low + i * width,
                "to": low + (i + 1) * width,
                "latents": counts.get(i, 0),
            }
            for i in range(bins)
        ]
    return pl.DataFrame(rows)


def explained(
    explanations: pl.DataFrame, explanation_scores: pl.DataFrame, scorer: str
) -> pl.DataFrame:
    """Every explanation with its score, interval, floor (of the same explainer) and ceiling under
    one scorer (means over the predictors that read all latents)."""
    of = read_by_all(explanation_scores.filter(pl.col("scorer") == scorer))
    means = of.group_by("latent", "role", "explainer").agg(pl.col("value", "low", "high").mean())
    frame = explanations.join(
        means.filter(pl.col("role").is_in(["entry", "control"]))
        .drop("role")
        .rename({"value": "score"}),
        on=["latent", "explainer"],
        how="left",
    )
    floor = means.filter(pl.col("role") == "floor")
    frame = frame.join(
        floor.select("latent", "explainer", pl.col("value").alias("floor")),
        on=["latent", "explainer"],
        how="left",
    )
    ceiling = means.filter(pl.col("role") == "ceiling").group_by("latent")
    frame = frame.join(
        ceiling.agg(pl.col("value").mean().alias("ceiling")), on="latent", how="left"
    )
    return frame.select(
        "latent", "explanation", "score", "low", "high", "floor", "ceiling", "explainer", "reason"
    )


def narrowed(
    explained: pl.DataFrame,
    *,
    text: str = "",
    explainers: Sequence[str] = (),
    score: tuple[float, float] | None = None,
    density: tuple[float, float] | None = None,
) -> pl.DataFrame:
    """Explanations that hold every word of `text`, by these explainers (all without any), inside
    these ranges; whatever has no value is outside of every range.

    Args:
        explained: `explained`, with a column density where one is asked for.
        text: words, in either case.
        explainers: names.
        score: lowest and highest, both included; None for all, also those without a score.
        density: likewise.
    """
    found = explained.lazy()
    for word in text.lower().split():
        found = found.filter(
            pl.col("explanation").str.to_lowercase().str.contains(word, literal=True)
        )
    if explainers:
        found = found.filter(pl.col("explainer").is_in(list(explainers)))
    if score:
        found = found.filter(pl.col("score").is_between(*score))
    if density:
        found = found.filter(pl.col("density").is_between(*density))
    return found.collect()


def methods(report: pl.DataFrame) -> list[str]:
    """All methods of steering that a report has rows of, in alphabetical order: by their place here
    they have one colour and one shape on every chart."""
    of_methods = report.filter(
        pl.col("stage") == "steer", pl.col("role").is_in(["entry", "baseline"])
    )
    return sorted(of_methods["entry"].drop_nulls().unique())


def budgets(report: pl.DataFrame) -> pl.DataFrame:
    """Steering over KL budgets, means over concepts: method, budget, concept_kind, what (the
    measure), role, value, low, high, n, n_failed, each with its baseline."""
    means = report.filter(~SINGLE, pl.col("budget").is_not_null(), pl.col("value").is_not_null())
    # a control that several methods went through has a line for each
    several = pl.col("entry").n_unique().over("subject") > 1
    method = pl.when(pl.col("subject").is_not_null() & several).then(
        pl.format("{}_{}", "subject", "entry")
    )
    return means.select(
        method.otherwise(pl.coalesce("subject", "entry")).alias("method"),
        "budget",
        pl.col("concept_kind").fill_null("all"),
        pl.col("measure").alias("what"),
        *("role", "value", "low", "high", "n", "n_failed", "baseline", "baseline_name"),
    ).sort("what", "method", "budget")


def _writer(scores: pl.DataFrame) -> pl.Expr:
    """Of the explanation scores: who wrote the explanation, or what stands in its place.

    Where several explainers were shuffled or several predictors read, it says which.
    """
    n_explainers, n_readers = (
        scores[name].drop_nulls().n_unique() for name in ("explainer", "predictor")
    )
    shuffled = pl.format("shuffled {}", "explainer") if n_explainers > 1 else pl.lit("shuffled")
    writer = pl.when(pl.col("role") == "floor").then(shuffled)
    writer = writer.when(pl.col("role") == "ceiling").then(pl.lit("probe")).otherwise("explainer")
    return (
        pl.concat_str(writer, "predictor", separator=" · ", ignore_nulls=True)
        if n_readers > 1
        else writer
    )
