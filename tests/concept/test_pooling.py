"""Documents are means over their tokens, and what belongs to none is left out."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from components.concept.pooling import pooling


def test_pooled_codes_are_means_over_the_tokens_of_a_document() -> None:
    codes = sp.csr_matrix(np.array([[1.0, 0], [9, 9], [3, 0], [0, 4]]))
    pool, documents = pooling(np.array([0, -1, 0, 2]))
    assert documents.tolist() == [0, 2]
    np.testing.assert_allclose((pool @ codes).toarray(), [[2, 0], [0, 4]])
