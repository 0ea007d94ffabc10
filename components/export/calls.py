"""The prompts and answers behind explanations, where a language model wrote them: the table `calls`
that lies beside the explanations.

It is a sample, so not every explanation has its call there. A label is `explain <explainer>, latent
<n>`; other labels are of scores.
"""

from __future__ import annotations

import polars as pl

from components.store.artifact import Artifact

FILE = "calls.parquet"
LABEL = r"^explain (?<explainer>[^,]+), latent (?<latent>\d+)\b"


def of_explanations(interpret: Artifact) -> pl.LazyFrame:
    """Calls that wrote explanations: columns of the table, and explainer and latent in front; no
    rows where there is no table."""
    if FILE not in interpret.files:
        return pl.LazyFrame(schema={"explainer": pl.String, "latent": pl.Int32})
    calls = pl.scan_parquet(interpret.path(FILE))
    parts = pl.col("label").str.extract_groups(LABEL)
    explainer, latent = (parts.struct.field(name) for name in ("explainer", "latent"))
    calls = calls.select(explainer, latent.cast(pl.Int32), pl.all())
    return calls.filter(pl.col("latent").is_not_null()).sort("latent", "explainer", "replicate")
