"""How far people and judges agree on which explanations fit: Cohen's kappa, judge by judge.

A person says yes or no. A judge (a scorer with the predictor that reads) gives a number, which is
yes where it is above what 95 of 100 explanations of *other* latents reach with the same judge (the
floor): a threshold that no rating had a part in. The interval is from resampling latents, since
explanations of one latent are rated side by side (`components.report.raters`). People and judges of
steered text: `components.report.text_agreement`.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from components.report.raters import FEWEST_CLUSTERS, clustered_kappa
from components.seeds import numpy_generator

OF_FLOOR = 0.95
FEWEST_FLOOR = 20
"""Floor values below which their 95th percentile means nothing."""
JUDGE = ["scorer", "predictor"]
SCHEMA = {
    "scorer": pl.String,
    "predictor": pl.String,
    "author": pl.String,
    "threshold": pl.Float64,
    "n": pl.Int64,
    "n_latents": pl.Int64,
    "agree": pl.Float64,
    "kappa": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "reason": pl.String,
}


def agreement(
    ratings: pl.DataFrame, scores: pl.DataFrame, interpret: str, seed: int = 0
) -> pl.DataFrame:
    """A row for each person and judge, with a null and its reason where there is no kappa.

    Args:
        ratings: the table RATINGS.
        scores: the table EXPLANATION_SCORES of the artifact.
        interpret: its key; ratings of others are left out.
        seed: of the resampling.

    Returns:
        scorer, predictor, author, threshold (above which the judge says yes), n (ratings with a
            score), n_latents, agree (share of equal answers), kappa, low, high, reason.
    """
    mine = ratings.filter(pl.col("interpret") == interpret)
    # where every window failed the judge has said nothing, and its value is chance
    judged = scores.filter(pl.col("value").is_not_null(), pl.col("n_failed") < pl.col("n"))
    written = judged.filter(pl.col("role").is_in(["entry", "control"]))
    floors = judged.filter(pl.col("role") == "floor")
    rows = []
    for judge in written.select(JUDGE).unique().sort(JUDGE).iter_rows(named=True):
        of = [pl.col(name) == value for name, value in judge.items()]
        floor = floors.filter(*of)["value"]
        threshold = floor.quantile(OF_FLOOR, "linear") if len(floor) >= FEWEST_FLOOR else None
        both = mine.join(
            written.filter(*of).select("latent", "explainer", "value"), on=["latent", "explainer"]
        )
        for (author,), rated in sorted(both.partition_by("author", as_dict=True).items()):
            row = judge | {"author": author, "threshold": threshold, "n": rated.height}
            row |= {"n_latents": rated["latent"].n_unique()}
            if threshold is None:
                row["reason"] = f"the floor has {len(floor)} values, wanted at least {FEWEST_FLOOR}"
            else:
                row |= _agreement(
                    rated["fits"].to_numpy(),
                    (rated["value"] > threshold).to_numpy(),
                    rated["latent"].to_numpy(),
                    numpy_generator(seed, "agreement", *judge.values(), author),
                )
            rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def _agreement(
    fits: Bool[np.ndarray, " row"],
    judged: Bool[np.ndarray, " row"],
    latent: Int[np.ndarray, " row"],
    generator: np.random.Generator,
) -> dict[str, float | str | None]:
    found = clustered_kappa(fits, judged, latent, generator)
    told: dict[str, float | str | None] = {
        "agree": float((fits == judged).mean()),
        "kappa": found.value,
        "low": found.low,
        "high": found.high,
    }
    if found.value is None:
        return told | {"reason": "everything was rated alike, and the judge says the same of all"}
    if found.low is None:
        return told | {
            "reason": f"no interval: {found.n} latents rated, wanted at least {FEWEST_CLUSTERS}"
        }
    return told
