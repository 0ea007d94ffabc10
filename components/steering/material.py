"""What judges are fitted on, and the openings that are continued: read from the corpus, measured by
the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from components.corpus.encoding import Encoder
from components.errors import InputError
from components.model.language_model import LanguageModel
from components.steering.contract import Continuation, Material, Passages
from components.steering.conversation import opened
from components.steering.targeting import Targeted
from components.steering.writer import Prompt, Writer
from components.store import tables
from components.store.artifact import Artifact

if TYPE_CHECKING:
    from components.steering.config import SteerConfig


def read_prompts(
    corpus: Artifact, model: LanguageModel, split: str, config: SteerConfig
) -> list[Prompt]:
    """The first prompts of a split, as many as are asked for.

    Raises:
        InputError: the corpus has none.
    """
    table = tables.PROMPTS.read(corpus).filter(pl.col("split") == split).sort("prompt")
    if table.is_empty():
        raise InputError(
            f"steering needs prompts of the split {split!r}, and artifact "
            f"{corpus.stage}/{corpus.key} has none; set read.prompts_{split} above 0"
        )
    n = config.validate_prompts if split == "validate" else config.test_prompts
    conversation = config.chat.conversation(model)
    return [
        Prompt.of(model, row["prompt"], row["text"], conversation)
        for row in table.head(n).to_dicts()
    ]


def read_material(
    targeted: Targeted,
    writer: Writer,
    prompts: Sequence[Prompt],
    unsteered: Sequence[Continuation],
    config: SteerConfig,
) -> Material:
    """Real passages of three splits, and the loss of as many of them as set the fluency band."""
    tokenizer, opening = writer.model.tokenizer, _opening(writer, prompts)
    passages = {}
    for split in ("judge", "calibrate", "validate"):
        pieces = targeted.cut(split, opening, config.max_new_tokens)
        nll = np.full(len(pieces.tokens), np.nan)
        measured = list(pieces.openings)[: config.band_texts] if split == "judge" else []
        if measured:
            openings = _opened(writer, [pieces.openings[i] for i in measured])
            nll[measured] = writer.losses(openings, [pieces.tokens[i] for i in measured])
        passages[split] = Passages(
            decoded(tokenizer, pieces.tokens), pieces.labels, nll, decoded(tokenizer, pieces.before)
        )
    return Material(targeted.concepts, **passages, unsteered=unsteered, seed=config.seed)


def read_passages(
    targeted: Targeted,
    split: str,
    writer: Writer,
    prompts: Sequence[Prompt],
    config: SteerConfig,
) -> Passages:
    """Real passages of a split that begin where a continuation of a document's opening begins, with
    that opening: one of each document."""
    pieces = targeted.cut(split, _opening(writer, prompts), config.max_new_tokens)
    first, tokenizer = list(pieces.openings), writer.model.tokenizer
    return Passages(
        decoded(tokenizer, [pieces.tokens[i] for i in first]),
        pieces.labels[first],
        np.full(len(first), np.nan),
        decoded(tokenizer, [pieces.openings[i] for i in first]),
    )


def _opening(writer: Writer, prompts: Sequence[Prompt]) -> int:
    """Tokens that a prompt has of its own, in the middle."""
    encoded = Encoder.of(writer.model).encode([prompt.text for prompt in prompts], offsets=False)
    return int(np.median([len(each.ids) for each in encoded]))


def _opened(writer: Writer, openings: Sequence[Sequence[int]]) -> list[list[int]]:
    """Openings of documents where prompts stand."""
    if writer.conversation is None:
        first = Encoder.of(writer.model).bos
        return [[*([] if first is None else [first]), *opening] for opening in openings]
    texts = decoded(writer.model.tokenizer, openings)
    return opened(writer.model, texts, writer.conversation)


def decoded(tokenizer: Any, tokens: Sequence[Sequence[int]]) -> list[str]:
    """Each of several pieces as text."""
    # of no pieces it would make one empty text
    return tokenizer.batch_decode(tokens, skip_special_tokens=True) if tokens else []


def too_short(material: Material) -> str | None:
    """That no judge has text to learn from, where that is so."""
    if material.judge.texts and material.calibrate.texts and material.validate.texts:
        return None
    return (
        "no document goes on for half a continuation behind its opening, so there is no real text "
        "to judge by; lower steer.max_new_tokens"
    )
