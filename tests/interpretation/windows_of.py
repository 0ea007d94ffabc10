"""Windows written by hand: text and activations, one window for each line; and what entries are
made with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.device import Execution
from components.interpretation.contract import (
    ExplainerServices,
    LatentRecord,
    PredictorServices,
    Scorer,
    ScorerServices,
    Trials,
)
from components.interpretation.windows import Texts, Vocabulary, Windows
from components.model.text_encoder import TextEncoderConfig, TextEncoderReference


def texts_of(lines: Sequence[str], vocabulary: Vocabulary | None = None) -> Texts:
    """Space-separated words as windows, padded to the longest."""
    rows = [line.split() for line in lines]
    vocabulary = vocabulary or Vocabulary(sorted({word for row in rows for word in row}))
    ids = {text: number for number, text in enumerate(vocabulary.texts)}
    tokens = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = [ids[word] for word in row]
    return Texts(tokens, vocabulary)


def windows_of(lines: Sequence[str], activations: Sequence[Sequence[float]]) -> Windows:
    """Windows with these activations; a window without any is silent. Each is of its own
    document."""
    texts = texts_of(lines)
    values = np.zeros(texts.tokens.shape, np.float32)
    for number, row in enumerate(activations):
        values[number, : len(row)] = row
    active = values.any(1)
    role = np.where(active, "quantile", "silent")
    number = np.arange(len(lines))
    stratum = np.where(active, "", "random")
    where = (number, np.zeros_like(number))
    return Windows(
        texts, values, *where, role, np.where(active, 0, -1), stratum, np.ones(len(lines))
    )


CPU = Execution(device="cpu")
ENCODER = TextEncoderReference(TextEncoderConfig())
"""Looked for when it is first used."""
EXPLAINER, PREDICTOR = ExplainerServices(CPU, 0, ENCODER), PredictorServices(CPU, 0, ENCODER)
SCORER = ScorerServices(CPU, 0)


def trials_of(scorer: Scorer, windows: Windows) -> Trials:
    """What the scorer asks of a latent with these windows in its test split."""
    return scorer.trials(
        LatentRecord(0, 0.1, 0, windows, windows, windows), np.random.default_rng(0)
    )
