"""Texts as vectors without a model: TF-IDF of words, brought to few dimensions by a truncated SVD
(latent semantic analysis), fitted on texts of the corpus itself.

Words that stand in the same texts get like vectors; a word that the corpus never has gets none, and a
text of such words alone is the null vector.

Source: Deerwester et al. (1990), J. ASIS 41, 391-407; scikit-learn's TfidfVectorizer (sublinear
counts) and TruncatedSVD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from components.errors import InputError

WIDTH = 100
WORD = r"(?u)\w+"


class LatentSemantics:
    """Gives every text a vector.

    Attributes:
        width: numbers in a vector.
    """

    def __init__(self, texts: Sequence[str], seed: int, width: int = WIDTH) -> None:
        """Fits it.

        Args:
            texts: of the corpus; none that anything is scored on.
            seed: of the stage.
            width: numbers in a vector, at most; fewer where texts or words are fewer.

        Raises:
            InputError: texts without two different words.
        """
        # here, since scikit-learn takes two seconds that few experiments need
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._words = TfidfVectorizer(token_pattern=WORD, sublinear_tf=True)
        try:
            counted = self._words.fit_transform(texts)
        except ValueError:  # an empty vocabulary
            counted = None
        if counted is None or min(counted.shape) < 2:
            raise InputError("latent semantics wants two texts with two different words, at least")
        self.width = min(width, min(counted.shape) - 1)
        self._svd = TruncatedSVD(self.width, random_state=seed % 2**32).fit(counted)

    def embed(self, texts: Sequence[str]) -> Float32[Tensor, "text width"]:
        """The vector of each text, in order."""
        if not texts:
            return torch.empty(0, self.width)
        vectors = self._svd.transform(self._words.transform(texts))
        return torch.from_numpy(vectors).float()
