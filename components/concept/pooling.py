"""Documents as means over their tokens: how codes and activations of tokens become those of
documents."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int


def pooling(
    document: Int[np.ndarray, " row"],
) -> tuple[sp.csr_matrix, Int[np.ndarray, " document"]]:
    """[document, row] with 1 / tokens of the document, and the documents' numbers, ascending; -1 is
    no document."""
    rows = np.flatnonzero(document >= 0)
    present, member, counts = np.unique(document[rows], return_inverse=True, return_counts=True)
    shape = (len(present), len(document))
    return sp.csr_matrix(
        ((1 / counts)[member].astype(np.float32), (member, rows)), shape=shape
    ), present
