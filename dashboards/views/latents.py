"""Latents of a dictionary: the list, its filters, and what one of them shows. Pure functions of
tables, without Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from components.spelling import PART
from components.store.readers import read_by_all
from dashboards.measures import NOTHING, number
from dashboards.tokens import visible, whole_at
from dashboards.views.scores import SILENT, UNITS, VISIBLE, _role_rank


def latent_list(
    latents: pl.DataFrame | pl.LazyFrame,
    explanations: pl.DataFrame | pl.LazyFrame | None = None,
    explanation_scores: pl.DataFrame | pl.LazyFrame | None = None,
    concepts_found: pl.DataFrame | pl.LazyFrame | None = None,
    *,
    split: str,
    explainer: str | None = None,
    scorer: str | None = None,
    names: Sequence[str] = (),
) -> pl.DataFrame:
    """One row for each latent: statistics, what is said of it, how well, the concepts it is the
    best latent for, and its name where the dictionary has names.

    Frames may be lazy scans: only what the list shows is read. Promoted tokens stay as the
    tokenizer has them; the rows that are drawn get them from `readable`.
    """
    columns = ("latent", "density", "maximum", "mean_active", pl.col("promoted").list.head(4))
    frame = latents.lazy().filter(pl.col("split") == split).select(*columns)
    if explanations is not None:
        said = (
            explanations.lazy()
            .filter(pl.col("explainer") == explainer)
            .select("latent", "explanation")
        )
        frame = frame.join(said, on="latent", how="left")
    else:
        frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias("explanation"))
    if explanation_scores is not None:
        written = pl.col("role").is_in(["entry", "control"])
        of = explanation_scores.lazy().filter(
            written, pl.col("explainer") == explainer, pl.col("scorer") == scorer
        )
        of = read_by_all(of)
        frame = frame.join(
            of.group_by("latent").agg(pl.col("value").mean().alias("score")),
            on="latent",
            how="left",
        )
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
    called = pl.LazyFrame({"name": names}, schema={"name": pl.String}).with_row_index("latent")
    number = pl.col("latent").cast(frame.collect_schema()["latent"])
    frame = frame.join(called.with_columns(number), on="latent", how="left")
    words = pl.concat_str(["name", "explanation", "concept"], separator="\n", ignore_nulls=True)
    return frame.with_columns(words.str.to_lowercase().alias("words")).collect()


def readable(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of a list with its tokens as a reader sees them, and a dash where nothing is
    said."""
    return rows.with_columns(
        pl.col("promoted").list.eval(VISIBLE), pl.col("explanation", "concept").fill_null(NOTHING)
    )


def promoted_tokens(latents: pl.DataFrame | pl.LazyFrame, split: str) -> pl.DataFrame:
    """Of each latent the tokens whose logits it raises most, as `narrowed` searches them: latent,
    tokens."""
    shown = pl.col("promoted").list.eval(VISIBLE)
    of = latents.lazy().filter(pl.col("split") == split, pl.col("promoted").is_not_null())
    return of.select("latent", _sought(shown).alias("tokens")).collect()


def peak_tokens(contexts: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Of each latent the tokens on which its strongest windows peak, as `narrowed` searches them:
    latent, tokens."""
    strongest = contexts.lazy().filter(pl.col("role") == "top")
    at = pl.col("activations").list.arg_max()
    peaks = strongest.select(
        "latent", pl.col("tokens").list.get(at, null_on_oob=True).alias("token")
    ).collect()
    divided = strongest.filter(
        pl.col("tokens").list.get(at, null_on_oob=True).str.contains(PART.pattern)
    )
    characters = [  # a token that is part of a character is also found by that character
        {"latent": latent, "token": text}
        for latent, tokens, number in divided.select("latent", "tokens", at.alias("at"))
        .collect()
        .iter_rows()
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
    """A list of tokens as one text in which a whole token is found as the token between two line
    breaks."""
    return "\n" + tokens.list.join("\n").str.to_lowercase() + "\n"


def narrowed(
    frame: pl.DataFrame,
    *,
    text: str = "",
    noted: pl.DataFrame | None = None,
    token: str = "",
    index: pl.DataFrame | None = None,
    density: tuple[float, float] | None = None,
    minimum: float = 0.0,
    least: float | None = None,
    sort: str = "density",
    descending: bool = True,
) -> pl.DataFrame:
    """The latents whose words contain every word of `text`, inside a range of density, with at
    least that maximum.

    Args:
        frame: `latent_list`.
        text: words of the name, the explanation, a concept or somebody's note.
        noted: the words of notes: latent, noted (`dashboards.notes.searched`).
        token: a whole token of the index.
        index: `promoted_tokens`, `peak_tokens`, or both; wanted where a token is.
        density: lowest and highest share of tokens, both included.
        minimum: of the largest activation.
        least: of the score; None also for latents without one.
        sort: a column of the list; absent values come last in either direction.
        descending: the largest first.
    """
    found = frame.lazy()
    for word in text.lower().split():
        holds = pl.col("words").str.contains(word, literal=True)
        if noted is not None and noted.height:
            of_note = noted.filter(pl.col("noted").str.contains(word, literal=True))["latent"]
            holds = holds | pl.col("latent").is_in(of_note.implode())
        found = found.filter(holds)
    if wanted := token.strip().lower():
        assert index is not None
        holds = index.filter(pl.col("tokens").str.contains(f"\n{wanted}\n", literal=True))
        found = found.filter(pl.col("latent").is_in(holds["latent"].unique().implode()))
    if density:
        found = found.filter(pl.col("density").is_between(*density))
    if minimum > 0:
        found = found.filter(pl.col("maximum") >= minimum)
    if least is not None:
        found = found.filter(pl.col("score") >= least)
    return found.sort(sort, "latent", descending=[descending, False], nulls_last=True).collect()


def page_of(frame: pl.DataFrame, number: int, rows: int = 100) -> pl.DataFrame:
    """One page of a frame, counted from 1, from the end when negative."""
    start = (number - 1) * rows if number > 0 else max(0, -(-frame.height // rows) + number) * rows
    return frame.slice(start, rows)


def neighbours(near: pl.DataFrame, listing: pl.DataFrame) -> pl.DataFrame:
    """The nearest latents of one with what is known of them: latent, cosine, explanation, density,
    promoted."""
    known = listing.select(
        pl.col("latent").alias("neighbour"), "explanation", "concept", "density", "promoted"
    )
    return (
        near.sort("rank")
        .join(known, on="neighbour", how="left", maintain_order="left")
        .select(
            pl.col("neighbour").alias("latent"),
            "cosine",
            "explanation",
            "concept",
            "density",
            "promoted",
        )
    )


def intervals(contexts: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Windows of one latent by interval of activation, strongest first, the verified silent ones
    last."""
    groups = []
    ordered = contexts.sort("maximum", "window", descending=[True, False])
    kinds = ordered.select("role", "quantile", "stratum").unique(maintain_order=True)
    for role, quantile, stratum in kinds.sort(_role_rank(), "quantile", "stratum").iter_rows():
        same = {"role": role, "quantile": quantile, "stratum": stratum}
        rows = ordered.filter(
            pl.col(name).eq_missing(pl.lit(value, dtype=ordered.schema[name]))
            for name, value in same.items()
        )
        low, high = number(rows["maximum"][-1]), number(rows["maximum"][0])
        reach = f"largest activation {low}" + (f" to {high}" if high != low else "")
        titles = {
            "top": f"Strongest · {reach}",
            "weighted": f"Drawn by strength, interval {quantile} · {reach}",
            "quantile": f"Interval {quantile} · {reach}",
            "silent": SILENT.get(stratum),
        }
        groups.append(
            (f"{titles.get(role) or SILENT[None]} · {_count(rows.height, 'window')}", rows)
        )
    return groups


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def histogram(latent: Mapping[str, Any]) -> pl.DataFrame:
    """The bins of one latent's activations: from, to, tokens; empty bins left out, and no rows for
    a dead latent."""
    counts = latent["histogram"] or []
    width = (latent["maximum"] or 0.0) / max(1, len(counts))
    bins = [
        {"from": i * width, "to": (i + 1) * width, "tokens": count}
        for i, count in enumerate(counts)
        if count
    ]
    return pl.DataFrame(bins, schema={"from": pl.Float64, "to": pl.Float64, "tokens": pl.Int64})


def logits(latent: Mapping[str, Any]) -> pl.DataFrame:
    """The tokens whose logits a step along the decoder direction raises and lowers most: token,
    logit, side, rank."""
    rows = [
        {"token": visible(token), "logit": value, "side": side, "rank": rank}
        for side in ("promoted", "suppressed")
        for rank, (token, value) in enumerate(
            # equal length, or both null
            zip(latent[side] or (), latent[f"{side}_logits"] or (), strict=False)
        )
    ]
    return pl.DataFrame(
        rows, schema={"token": pl.String, "logit": pl.Float64, "side": pl.String, "rank": pl.Int64}
    )


def concepts_of(concepts_found: pl.DataFrame, latent: int) -> pl.DataFrame:
    """The concepts for which this latent was chosen on select, beside what the other kinds of unit
    reach on test."""
    mine = concepts_found.filter(pl.col("unit_kind") == "latent", pl.col("unit") == latent)
    others = concepts_found.filter(
        pl.col("unit_kind") != "latent", pl.col("concept").is_in(mine["concept"].to_list())
    )
    wide = mine.select(
        "concept", "concept_kind", "sign", "found", "gate", "n_positive", "n",
        pl.col("select_ap").alias("AP on select"), pl.col("ap").alias("AP on test"), pl.col("auroc").alias("AUROC"),
    )  # fmt: skip
    for unit in UNITS[1:]:
        of = others.filter(pl.col("unit_kind") == unit).select("concept", pl.col("ap").alias(unit))
        wide = wide.join(of, on="concept", how="left")
    return wide.sort("AP on test", descending=True, nulls_last=True)
