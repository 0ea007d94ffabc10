"""Which captured tokens begin a word, and which word, by the tokenizer's own text of each token.

A token begins a word where its text is letters and a space stands before them, in the token itself
or at the end of the token before it; the start of a document counts as one, punctuation too,
letters, digits and apostrophes do not. The word is those letters in lower case: " The" and "the"
are one. It is the token alone, as all that a causal model has read of the word there: of a word
that is cut into several tokens, the first. Words are of the letters a to z, as in the first-letter
task of Chanin et al. 2024 (arXiv:2409.14507), whose words are the vocabulary's alphabetic tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from components.store.artifact import Artifact
from components.store.tables import VOCABULARY

INSIDE = "'’"  # it's: what follows begins no word


def beginnings(corpus: Artifact, provenance: Mapping[str, Tensor]) -> Shaped[np.ndarray, " row"]:
    """For each row of a captured split the word that its token begins, "" where it begins none.

    Args:
        corpus: artifact of `read`.
        provenance: `token`, `document` and `position` of each row, as a capture gives them. Where
            the row before is not the token before, only a token with its own space begins a word.
    """
    vocabulary = VOCABULARY.read(corpus)
    texts = dict(zip(vocabulary["token"].to_list(), vocabulary["text"].to_list(), strict=True))
    token, document, position = (
        provenance[name].cpu().numpy() for name in ("token", "document", "position")
    )
    known, kind = np.unique(token, return_inverse=True)
    read = [texts.get(number, "") for number in known.tolist()]
    word = (
        np.array([_word(text) for text in read], dtype=np.str_)[kind]
        if len(known)
        else np.zeros(0, np.str_)
    )
    spaced = np.array([text[:1].isspace() for text in read], bool)[kind]
    closed = np.array(
        [text == "" or text[-1].isalnum() or text[-1] in INSIDE for text in read], bool
    )[kind]
    follows = np.zeros(len(token), bool)
    follows[1:] = (document[1:] == document[:-1]) & (position[1:] == position[:-1] + 1)
    free = np.append(True, ~closed[:-1])[: len(token)] & follows
    begins = (document >= 0) & (spaced | free | (position == 0))
    return np.where(begins, word, "")


def _word(text: str) -> str:
    letters = text.strip()
    return letters.lower() if letters.isascii() and letters.isalpha() else ""
