"""Scores of explanations by several readers, averaged."""

from __future__ import annotations

from typing import TypeVar

import polars as pl

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def read_by_all(scores: Frame) -> Frame:
    """The rows of EXPLANATION_SCORES whose predictor read as many latents as any other for the same
    role, explainer and scorer.

    Where one predictor read a sample of the latents, a mean over predictors would be of other
    predictors for the latents that it read than for the others.
    """
    of = ["role", "explainer", "scorer"]
    n_read = pl.col("value").count().over([*of, "predictor"])
    counted = scores.with_columns(n_read.alias("n_read"))
    return counted.filter(pl.col("n_read") == pl.col("n_read").max().over(of)).drop("n_read")
