"""The headline of steering: how much of the target a text gained, and whether it is still text, in
one number.

The target is what the judge `steer.measure` says; whether it is still text says the judge
`fluency`. Uplift alone is largest where text breaks: a list of keywords has all of it. So the gain
is normalised and clipped, C = clip((p - p0) / (1 - p0), 0, 1), and joined with the fluency F by the
harmonic mean, which is 0 where either is. The clip makes chance positive: read the composite beside
that of Gaussian directions.

Source: the harmonic mean of concept and fluency is that of Wu et al., AxBench (2025),
arXiv:2501.17148.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

FLUENCY = "fluency"
"""The judge that the gain in the target is joined with."""


def composite(
    probability: Float[np.ndarray, " text"],
    before: Float[np.ndarray, " text"],
    fluency: Float[np.ndarray, " text"],
) -> Float[np.ndarray, " text"]:
    """Harmonic mean of normalised gain and fluency, 0 to 1; NaN where one of the three is.

    Args:
        probability: what the measured judge says of each text.
        before: the same of the plain text of the same prompt and sample; where that is 1, nothing
            was left to gain.
        fluency: 0 to 1.
    """
    left = 1.0 - before
    with np.errstate(invalid="ignore", divide="ignore"):
        gained = np.where(
            left > 0, np.clip((probability - before) / left, 0.0, 1.0), 0.0 * (probability + before)
        )
        total = gained + fluency
        return np.where(total > 0, 2 * gained * fluency / total, 0.0 * total)
