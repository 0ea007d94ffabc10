"""A small real tokenizer and a model reference that has nothing but it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SAMPLE = (
    "Once upon a time there was a little fox, and the fox said: “naïve café!” 1 2 3 over the lazy "
    "dog\n" * 4
)


def byte_level(bos: bool = True) -> Any:
    """A byte-level BPE tokenizer: tokens carry their space, and rare characters are several
    tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE], trainer)
    special = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", **special
    )


class Reference:
    """What `read` needs of a model: a key, a tokenizer, and perhaps a folder."""

    stage, key = "model", "0" * 24

    def __init__(self, tokenizer: Any, folder: Path | None = None) -> None:
        self._tokenizer = tokenizer
        if folder is not None:
            self.folder = folder

    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer
