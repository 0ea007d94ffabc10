"""Which latents are looked at: alive ones, equally many from each stratum of density."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from components.seeds import numpy_generator

TENTHS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """The latents that are looked at.

    Attributes:
        latents: indices, ascending.
        density: share of tokens on which each is active.
        decile: tenth of the alive latents by density, 0 the rarest.
        n_dead: latents of the dictionary that are never active; none of them is sampled.
        split: where density and death were read.
    """

    latents: Int[np.ndarray, " latent"]
    density: Float[np.ndarray, " latent"]
    decile: Int[np.ndarray, " latent"]
    n_dead: int
    split: str


def sample_latents(statistics: pl.DataFrame, d_sae: int, n: int, seed: int) -> Sample:
    """One alive latent from each of n equal strata by density; all of them where there are fewer.

    Args:
        statistics: rows of the latents table; the explain split is used where it is there, else the
            first.
        d_sae: latents of the dictionary; those without a row are dead.
        n: how many to draw.
        seed: of the stage.
    """
    splits = statistics["split"].unique().sort().to_list()
    split = "explain" if "explain" in splits else next(iter(splits), "")
    alive = statistics.filter((pl.col("split") == split) & (pl.col("n_active") > 0)).sort(
        "density", "latent"
    )
    generator = numpy_generator(seed, "latents")
    strata = np.array_split(np.arange(alive.height), max(1, min(n, alive.height)))
    index = np.array(
        [generator.choice(stratum) for stratum in strata if len(stratum)], dtype=np.int64
    )
    latents = alive["latent"].to_numpy().astype(np.int64)[index]
    order = np.argsort(latents)
    density = alive["density"].to_numpy().astype(np.float64)[index]
    decile = index * TENTHS // max(1, alive.height)
    return Sample(latents[order], density[order], decile[order], d_sae - alive.height, split)
