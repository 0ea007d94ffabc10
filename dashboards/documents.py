"""On a latent's page, where activations come from a file: the documents it is strongest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import streamlit as st

from components.store.tables import NAMES, POOLED
from dashboards import runs
from dashboards.markdown import code, plain
from dashboards.runs import Experiment

TOP = 10


def section(shown: Experiment, row: Mapping[str, Any]) -> None:
    """The documents of the shown split with the largest mean activation of one latent.

    Args:
        shown: an experiment whose activations come from a file.
        row: the latent's row of the latents table.
    """
    st.subheader("Where it fires", anchor="contexts")
    capture, encode = shown.artifacts["capture"], shown.artifacts["encode"]
    of_file = capture.config["arrays"]
    pooled = runs.rows(POOLED, encode, latent=row["latent"], split=row["split"])
    names = runs.table(NAMES, capture) if NAMES.file in capture.files else None
    rows = strongest(pooled, names, None if of_file["provenance"] else of_file["rows_per_document"])
    if rows.is_empty():
        st.caption(f"On no row of {plain(row['split'])}.")
    else:
        st.dataframe(
            rows,
            hide_index=True,
            column_config={"mean": st.column_config.NumberColumn("mean activation", format="%.3g")},
        )
    more = (
        "" if of_file["provenance"] else "; capture.arrays.provenance takes a table that says more"
    )
    st.caption(
        f"The {rows.height} strongest of {pooled.height:,} documents of {plain(row['split'])} on "
        "which it is active, by its mean over their rows. No text: the activations come from "
        f"{code(of_file['path'])}; {plain(capture.facts['note'])}{more}."
    )


def strongest(
    pooled: pl.DataFrame, names: pl.DataFrame | None, rows_per_document: int | None
) -> pl.DataFrame:
    """Columns document and mean of the documents with the largest means.

    Args:
        pooled: rows of the table POOLED, of one latent and split.
        names: the table NAMES; None where documents have numbers.
        rows_per_document: consecutive rows of the file that stand for a document; None with a
            table.
    """
    number = pl.col("document")
    called = number.cast(pl.String)
    if rows_per_document:
        first = number * rows_per_document
        called = pl.format("rows {} to {}", first, first + rows_per_document - 1)
    top = pooled.sort("mean", "document", descending=[True, False]).head(TOP)
    if names is not None:
        top = top.join(names, on="document", how="left", maintain_order="left")
        called = pl.col("name")
    return top.select(called.alias("document"), "mean")
