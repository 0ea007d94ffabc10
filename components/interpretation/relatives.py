"""Which sampled latents are so alike that the explanation of one may be right of the other.

A floor is what a wrong explanation gets. The explanation of a twin or of a near neighbour is not
wrong, so such a latent may not lend it. Two latents are relatives where the cosine of their decoder
directions exceeds 0.5, or where they are active on the same tokens: the correlation of their
patterns (active or not; the phi coefficient) exceeds 0.5. Unlike the share of common tokens, it is
0 for two frequent latents that meet by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import scipy.sparse
from jaxtyping import Float, Int

from components.interpretation.neighbours import patterns
from components.store.shards import Codes

COSINE = 0.5
"""Of decoder directions."""
PHI = 0.5
"""Of activation patterns."""
Relatives = Sequence[frozenset[int]]
"""For each sampled latent the numbers, in the sample, of those that are alike."""


def relatives(
    latents: Int[np.ndarray, " latent"],
    codes: Iterable[Codes],
    d_sae: int,
    limit: int,
    neighbours: pl.DataFrame | None,
) -> Relatives:
    """The relatives of each sampled latent among the others.

    Args:
        latents: the sample.
        codes: of one split (explain), in order.
        d_sae: latents of the dictionary.
        limit: tokens that are read, at most.
        neighbours: pairs of latents with their cosine (tables.NEIGHBOURS); None where nobody knows.
    """
    pairs = [*_together(latents, codes, limit)]
    if neighbours is not None:
        near = neighbours.filter(pl.col("cosine") > COSINE)
        number = np.full(d_sae, -1)
        number[latents] = np.arange(len(latents))
        both = np.stack([number[near["latent"].to_numpy()], number[near["neighbour"].to_numpy()]])
        pairs += both[:, (both >= 0).all(0)].T.tolist()
    alike: list[set[int]] = [set() for _ in latents]
    for one, other in pairs:
        if one != other:
            alike[one].add(other)
            alike[other].add(one)
    return [frozenset(each) for each in alike]


def close(directions: Float[np.ndarray, "latent d"]) -> pl.DataFrame:
    """Pairs of directions with their cosine, as `relatives` takes them; of unit vectors."""
    cosines = directions @ directions.T
    one, other = np.nonzero(np.triu(cosines > COSINE, k=1))
    return pl.DataFrame({"latent": one, "neighbour": other, "cosine": cosines[one, other]})


def _together(
    latents: Int[np.ndarray, " latent"], codes: Iterable[Codes], limit: int
) -> Iterator[tuple[int, int]]:
    """Pairs whose patterns correlate."""
    common = scipy.sparse.csr_matrix((len(latents), len(latents)))
    n_rows = 0
    for pattern in patterns(codes, limit):
        active = pattern[:, latents].astype(np.float64)
        common = common + active.T @ active
        n_rows += active.shape[0]
    share = common.diagonal() / max(1, n_rows)
    spread = np.sqrt(share * (1 - share))
    met = scipy.sparse.triu(common, k=1).tocoo()
    excess = met.data / max(1, n_rows) - share[met.row] * share[met.col]
    alike = excess > PHI * spread[met.row] * spread[met.col]
    yield from zip(met.row[alike].tolist(), met.col[alike].tolist(), strict=True)
