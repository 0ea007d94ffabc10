"""Means over readers are of the same readers for every latent."""

from __future__ import annotations

import polars as pl
import pytest

from components.store.readers import read_by_all


@pytest.mark.parametrize("lazy", [False, True])
def test_a_reader_of_a_sample_is_left_out_and_one_beside_whom_nobody_read_more_is_not(
    lazy: bool,
) -> None:
    rows = [
        {"role": role, "explainer": "log_odds", "scorer": scorer, "predictor": predictor}
        | {"latent": latent, "value": None if missing else 0.5}
        for role in ("entry", "floor")
        for scorer, predictor, read in (
            ("detection", "lexical", 4),
            ("detection", "text_encoder", 4),
            ("detection", "language_model", 2),
            ("intervention", "language_model", 2),
        )
        for latent in range(4)
        for missing in [latent >= read]
    ]
    frame = pl.DataFrame(rows)
    kept = read_by_all(frame.lazy()).collect() if lazy else read_by_all(frame)
    assert kept.columns == frame.columns
    readers = {tuple(row) for row in kept.select("scorer", "predictor").unique().iter_rows()}
    assert readers == {
        ("detection", "lexical"),
        ("detection", "text_encoder"),
        ("intervention", "language_model"),
    }
    assert kept.height == 3 * 2 * 4
