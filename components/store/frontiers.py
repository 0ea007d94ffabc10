"""What a sweep says, read off its table: which kind is best at equal sparsity, and each kind's curve as a chart.

Pure functions of the table `comparison`, so that the terminal, MLflow, the page and docs/findings.md say the same. Polars
and altair only, no torch.
"""

from __future__ import annotations

import altair as alt
import polars as pl

MEASURES = {
    "evaluate.fvu": "FVU",
    "evaluate.loss_recovered.mean_ablation": "loss recovered",
    "evaluate.concepts_found.latent": "concepts found",
    "evaluate.sparse_probing.k1": "sparse probing, k = 1",
    "evaluate.sparse_probing.k5": "sparse probing, k = 5",
    "evaluate.absorption": "absorption",
    "evaluate.absorption.silent": "main latents silent",
    "evaluate.absorption.main_f1": "main latents, F1",
    "compare.stability": "seed stability",
    "evaluate.dead_share": "dead latents",
    "evaluate.description_length": "bits a token",
}
"""The scores by which dictionaries are compared, in reading order, and what they are called for short."""
FRONTIERS = ("evaluate.fvu", "evaluate.loss_recovered.mean_ablation", "evaluate.concepts_found.latent")
COLOURS = ("#2b83ba", "#e08a00", "#00a37a", "#c2669b", "#d95f02", "#6a5acd", "#8c6d31", "#17a2b8", "#b22222", "#666666",
           "#7fae3a", "#3b3b98", "#ad8a56")  # fmt: skip
"""As many as a sweep has labels; shapes and the legend say the same."""


SHORT = ("FVU", "loss recovered", "concepts found", "absorption", "seed stability", "dead latents")
"""The measures that a terminal has room for."""


def headline(comparison: pl.DataFrame) -> pl.DataFrame:
    """One row for each label, width and matched L0 (baselines: their own L0), one column for each measure: mean and half
    the width of the interval as text."""
    rows = whole(comparison).filter(pl.col("is_baseline") | pl.col("at_l0").is_not_null())
    rows = rows.with_columns(pl.col("name").replace_strict(MEASURES).alias("measure"), said())
    wide = rows.pivot(
        "measure", index=["label", "d_sae", "is_baseline", "l0"], values="said", aggregate_function="first"
    )
    order = [name for name in MEASURES.values() if name in wide.columns]
    return wide.sort("is_baseline", "l0", "label").select("label", "d_sae", pl.col("l0").round(1).alias("L0"), *order)


def best(comparison: pl.DataFrame) -> pl.DataFrame:
    """At each matched L0, for each measure, the label that does best, the next, and whether their intervals are apart."""
    rows = whole(comparison).filter(pl.col("at_l0").is_not_null(), pl.col("value").is_not_null())
    found = []
    for (name, level, d_sae), part in rows.group_by(["name", "at_l0", "d_sae"], maintain_order=True):
        ranked = part.sort("value", descending=part["better"][0] == "higher")
        first = ranked.row(0, named=True)
        second = ranked.row(1, named=True) if ranked.height > 1 else None
        found.append(
            {
                "measure": MEASURES[name],  # type: ignore[index]
                "L0": level,
                "d_sae": d_sae,
                "better": first["better"],
                "best": first["label"],
                "value": first["value"],
                "low": first["low"],
                "high": first["high"],
                "next": second and second["label"],
                "next_value": second and second["value"],
                "apart": second and _apart(first, second),
                "compared": ranked.height,
            }
        )
    order = {measure: rank for rank, measure in enumerate(MEASURES.values())}
    frame = pl.DataFrame(found, infer_schema_length=None)
    if frame.is_empty():
        return frame
    return frame.sort(pl.col("measure").replace_strict(order), "d_sae", "L0")


def whole(comparison: pl.DataFrame) -> pl.DataFrame:
    """The rows of the measures by which dictionaries are compared, over all kinds of concepts.

    Concepts found are told over those of tokens, where there are any: random latents find those of documents too.
    """
    found, kind = pl.col("name") == "evaluate.concepts_found.latent", pl.col("concept_kind").fill_null("all")
    of_tokens = found & (kind == "token")
    narrower = found if comparison.filter(of_tokens).height else pl.lit(False)
    rows = of_tokens | ((kind == "all") & ~narrower)
    return comparison.filter(pl.col("name").is_in(list(MEASURES)), rows)


def points(comparison: pl.DataFrame, name: str) -> pl.DataFrame:
    """The settings' own rows of one measure, with a value and an L0: what a frontier is drawn through."""
    rows = whole(comparison).filter(pl.col("name") == name, pl.col("at_l0").is_null())
    return rows.filter(pl.col("value").is_not_null(), pl.col("l0") > 0).sort("label", "d_sae", "l0")


def frontier(comparison: pl.DataFrame, name: str) -> alt.LayerChart | alt.FacetChart | None:
    """One measure against L0: a line for each label and width through its sparsities, bars for the interval over seeds,
    a single mark for each baseline; None where nothing was measured."""
    drawn = points(comparison, name)
    if drawn.is_empty():
        return None
    several = drawn.filter(~pl.col("is_baseline"))["d_sae"].n_unique() > 1
    title = pl.format("{} {}", "label", "d_sae") if several else pl.col("label")
    drawn = drawn.with_columns(title.alias("dictionary"), pl.col("low", "high").fill_null(pl.col("value")))
    kinds = drawn["dictionary"].unique(maintain_order=True).to_list()
    below = alt.Legend(orient="bottom", columns=2, symbolLimit=0)  # beside a narrow chart the last of many are cut off
    colour = alt.Color(
        "dictionary:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds, range=list(COLOURS)), legend=below
    )
    base = alt.Chart(
        drawn.select("dictionary", "is_baseline", "l0", "value", "low", "high", "n", "sparsity_name", "sparsity")
    ).encode(
        x=alt.X("l0:Q", title="active latents a token (L0)", scale=alt.Scale(type="log", nice=False, padding=12)),
        color=colour,
        tooltip=[
            "dictionary:N", alt.Tooltip("l0:Q", format=".3g"), alt.Tooltip("value:Q", format=".4g"),
            alt.Tooltip("low:Q", format=".4g"), alt.Tooltip("high:Q", format=".4g"), "n:Q", "sparsity_name:N", "sparsity:Q",
        ],
    )  # fmt: skip
    over_decades = name == "evaluate.fvu"  # an untrained dictionary's is a hundred times that of a good one
    scale = alt.Scale(type="log", nice=False) if over_decades else alt.Scale(zero=False)
    y = alt.Y("value:Q", title=MEASURES[name], scale=scale)
    lines = base.transform_filter("!datum.is_baseline").mark_line(strokeWidth=1.5).encode(y=y)
    rules = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=MEASURES[name], scale=scale), y2="high:Q")
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=y, shape=alt.Shape("is_baseline:N", legend=None, scale=alt.Scale(domain=[False, True], range=["circle", "diamond"]))
    )  # fmt: skip
    return alt.layer(lines, rules, marks).properties(height=480, title=MEASURES[name])


def said() -> pl.Expr:
    """Mean and half the width of the interval, as text."""
    value = pl.col("value").map_elements(lambda number: f"{number:.3g}", return_dtype=pl.String)
    reach = ((pl.col("high") - pl.col("low")) / 2).map_elements(lambda number: f"{number:.1g}", return_dtype=pl.String)
    return pl.when(pl.col("low").is_null()).then(value).otherwise(pl.format("{} ± {}", value, reach)).alias("said")


def _apart(one: dict, other: dict) -> bool | None:
    """Whether two intervals do not meet; None where one has none."""
    if one["low"] is None or other["low"] is None:
        return None
    return one["low"] > other["high"] or one["high"] < other["low"]
