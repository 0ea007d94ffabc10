"""A text as token ids, the same wherever a text is taken in: by `read`, by the live worker, as a
prompt.

A special token that stands in a text as a word (`<|endoftext|>` between stories, chat marks) is
read by the model as what it is, and is no part of the document: it has no position there, no label,
and is counted. Lone surrogates are replaced. The model's own first, last and padding token count
only where its embedding has a row for them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool

from components.corpus.contract import sound
from components.corpus.packing import Packer, Padder
from components.errors import CorpusError
from components.spelling import Bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """One text.

    Attributes:
        written: token ids as the model reads them.
        special: which of them are special tokens that stood in the text; None where none is.
        source: what the tokenizer gave, with an offset for each of its own tokens.
        kept: which tokens of `source` are in `written` and not special; None for all.
    """

    written: list[int]
    special: Bool[np.ndarray, " token"] | None
    source: Any
    kept: Bool[np.ndarray, " token"] | None

    @functools.cached_property
    def ids(self) -> list[int]:
        """The tokens of the text, without special ones."""
        if self.special is None:
            return self.written
        return [
            token for token, out in zip(self.written, self.special.tolist(), strict=True) if not out
        ]

    @functools.cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """First character, and character after the last, of each of `ids`; only where offsets were
        asked for."""
        offsets = self.source.offsets
        return (
            offsets
            if self.kept is None
            else [offsets[place] for place in np.flatnonzero(self.kept)]
        )

    @property
    def n_special(self) -> int:
        """Special tokens that stood in the text."""
        return 0 if self.kept is None else int((~self.kept).sum())


class Encoder:
    """A fast tokenizer that neither cuts nor pads, for a model of a known size.

    Args:
        tokenizer: the model's tokenizer.
        n_rows: rows of the model's embedding; None where nobody knows.

    Attributes:
        tokenizer: as transformers has it.
        backend: the fast one of the `tokenizers` library, a copy.
        bos: first token of a context; None for none.
        eos: token after a document; None for none.
        pad: token for what stays empty.

    Raises:
        CorpusError: the tokenizer has no fast form, so nobody could say which characters a token
            covers.
    """

    def __init__(self, tokenizer: Any, n_rows: int | None = None) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CorpusError(
                "reading needs a fast tokenizer (tokenizer.json), and the model's is "
                f"{type(tokenizer).__name__}; save it with transformers as a fast tokenizer"
            )
        self.backend = type(backend).from_str(backend.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.tokenizer = tokenizer
        self._limit = 2**31 if n_rows is None else n_rows
        self.bos, self.eos = self._row(tokenizer.bos_token_id), self._row(tokenizer.eos_token_id)
        # Nobody reads padding, so any row does where the tokenizer's own has none (a [PAD] that was
        # added to it later).
        self.pad = next(
            token for token in (self._row(tokenizer.pad_token_id), self.eos, 0) if token is not None
        )
        added = self.backend.get_added_tokens_decoder()
        unknown = tokenizer.unk_token_id
        self._special = {token for token, known in added.items() if known.special} | set(
            tokenizer.all_special_ids
        )
        self._unknown = (unknown, tokenizer.unk_token) if unknown in self._special else None
        self._largest = max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self._fits = self._largest < self._limit

    @classmethod
    def of(cls, model: Any) -> Encoder:
        """The encoder of a loaded language model, made once."""
        if model not in _of_model:
            _of_model[model] = cls(model.tokenizer, model.vocab_size)
        return _of_model[model]

    @functools.cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Tokens that stand before and behind a text that is read alone, such as [CLS] and [SEP].

        They are those that the tokenizer itself writes; where it writes none, its first and its
        last token.
        """
        text = "a"
        bare = self.backend.encode(text, add_special_tokens=False).ids
        whole = self.backend.encode(text, add_special_tokens=True).ids
        for start in range(len(whole) - len(bare) + 1):
            if len(whole) > len(bare) and whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        around = [
            next((row for token in tokens if (row := self._row(token)) is not None), None)
            for tokens in (
                (self.bos, self.tokenizer.cls_token_id),
                (self.eos, self.tokenizer.sep_token_id),
            )
        ]
        first, last = ([] if token is None else [token] for token in around)
        return first, last

    def layout(self, context_length: int, padded: bool) -> Packer | Padder:
        """What puts documents into contexts of this length: several in one, or padded, each
        alone."""
        if padded:
            return Padder(*self.frame, self.pad, context_length)
        return Packer(self.bos, self.eos, self.pad, context_length)

    def encode(self, texts: Sequence[str], offsets: bool = True) -> list[Encoded]:
        """Each text as tokens, without special tokens of the tokenizer's own making.

        Args:
            texts: any texts.
            offsets: whether `Encoded.offsets` are wanted; without, it is faster.

        Raises:
            CorpusError: the tokenizer writes a token that the model has no row for.
        """
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        texts = [sound(text) for text in texts]
        sources = encode(texts, add_special_tokens=False)
        return [self._encoded(text, source) for text, source in zip(texts, sources, strict=True)]

    def vocabulary(self) -> list[dict[str, Any]]:
        """Each token as it reads after another one: only then does every kind of tokenizer show the
        space it carries.

        Bytes that are no whole character read `<0xE6>` (`components.spelling`), special tokens as
        they are written in the tokenizer, and ids that no token has read as nothing.
        """
        encoder, ids = self.backend, range(self._largest + 1)
        before = next((token for token in ids if encoder.decode([token]).strip().isalpha()), 0)
        alone = encoder.decode([before], skip_special_tokens=False)
        both = encoder.decode_batch([[before, token] for token in ids], skip_special_tokens=False)
        added, parts = encoder.get_added_tokens_decoder(), Bytes(encoder)
        rows = []
        for token, text in enumerate(both):
            written = encoder.id_to_token(token)
            read = parts.text(written)
            if read is None:
                read = written if "�" in text or token in added else text.removeprefix(alone)
            rows.append({"token": token, "text": read or ""})
        return rows

    def _row(self, token: int | None) -> int | None:
        return token if token is not None and token < self._limit else None

    def _encoded(self, text: str, source: Any) -> Encoded:
        ids: list[int] = source.ids
        special, source = self._specials(text, ids, source)
        if special is None and (self._fits or max(ids, default=0) < self._limit):
            return Encoded(ids, None, source, None)
        special = np.zeros(len(ids), bool) if special is None else special
        there = np.array([token < self._limit for token in ids])
        if not (there | special).all():
            self._refuse_unknown_row(ids[int((there | special).argmin())])
        if there.all():
            return Encoded(ids, special, source, ~special)
        # A special token that stands in the text and that the model has no row for cannot be read,
        # only left out.
        written = [token for token, has_row in zip(ids, there.tolist(), strict=True) if has_row]
        return Encoded(written, special[there] if special[there].any() else None, source, ~special)

    def _specials(
        self, text: str, ids: list[int], source: Any
    ) -> tuple[Bool[np.ndarray, " token"] | None, Any]:
        """Which tokens are special ones that stand in the text. The unknown token is one only where
        it is written out."""
        if self._special.isdisjoint(ids):
            return None, source
        marks = np.array([token in self._special for token in ids])
        if self._unknown is not None and self._unknown[0] in ids:
            unknown, content = self._unknown
            unread = np.array([token == unknown for token in ids])
            if content in text:
                source = self.backend.encode(text, add_special_tokens=False)
                literal = [text[first:end].strip() == content for first, end in source.offsets]
                unread &= ~np.array(literal)
            marks &= ~unread
        return (marks if marks.any() else None), source

    def _refuse_unknown_row(self, token: int) -> NoReturn:
        raise CorpusError(
            f"the tokenizer writes token {token} ({self.backend.id_to_token(token)!r}), and the "
            f"model's embedding has {self._limit} rows (ids below {self._limit}); put the "
            "tokenizer beside the model that it was trained with, or give the model rows for the "
            "added tokens (resize_token_embeddings) and save it"
        )


_of_model: WeakKeyDictionary[Any, Encoder] = WeakKeyDictionary()
"""An encoder lives as long as its model: it holds the tokenizer, so a table by tokenizer would keep
both for ever."""
