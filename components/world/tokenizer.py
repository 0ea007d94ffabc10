"""A word-level tokenizer in Hugging Face form: one token for every word and punctuation mark of the
world.

Word-level, because byte-level BPE of this size splits almost half of the content words, and a
concept should lie on one token. Decoding gives back normal English: the word-piece decoder joins
with spaces and pulls punctuation to the left, and two replacements do the same for quotation marks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.model import loading
from components.world.grammar import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"


def build_tokenizer(world: World | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a world's vocabulary; it adds no special tokens by itself (packing does)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = [PAD, UNKNOWN, BOS, EOS, *(world or World()).vocabulary()]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=True),
            decoders.Replace(" :", ":"),
            decoders.Replace(" ”", "”"),
            decoders.Fuse(),
            decoders.Replace("“ ", "“"),
        ]
    )
    special = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": BOS, "eos_token": EOS}
    return loading.new_tokenizer(tokenizer, **special, clean_up_tokenization_spaces=False)
