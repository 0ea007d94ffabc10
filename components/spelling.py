"""Tokens that stand for bytes, as text: a character of several bytes may be several tokens.

Byte-level tokenizers (GPT-2) write each byte as a stand-in letter, tokenizers with byte fallback
(Llama) write `<0xE6>`. Here every byte that is part of a character and not the whole of it is
written `<0xE6>`, whatever the tokenizer; what is whole is text. So neighbouring tokens can be put
together again (`groups`), by whoever shows or explains them.

Source of the stand-ins: `bytes_to_unicode` of GPT-2 (Radford et al. 2019,
https://github.com/openai/gpt-2).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

PART = re.compile("<0x([89A-F][0-9A-F])>")
"""A byte that is part of a character. Bytes below 0x80 are characters of their own, so they never
stand like this."""
_FALLBACK = re.compile("<0x([0-9A-F]{2})>")
_ESCAPED = re.compile("[\udc80-\udcff]")
_RUN = re.compile("(?:<0x[89A-F][0-9A-F]>)+")


def spelled(raw: bytes) -> str:
    """Bytes as text, each byte that is no whole character as `<0xE6>`."""
    return _ESCAPED.sub(
        lambda found: f"<0x{ord(found[0]) - 0xDC00:02X}>", raw.decode("utf-8", "surrogateescape")
    )


def whole(texts: Sequence[str]) -> str:
    """Texts of neighbouring tokens as one text, their parts put together where they make
    characters."""
    joined = "".join(texts)
    return spelled(_raw(joined)) if PART.search(joined) else joined


def groups(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Runs of tokens as (first, end): tokens that share a character stand together, every other one
    alone."""
    cuts = set(range(len(texts) + 1))
    first = 0
    while first < len(texts):
        end = first
        while end < len(texts) and PART.search(texts[end]):
            end += 1
        if end - first > 1:
            cuts -= _inside([_raw(text) for text in texts[first:end]], first)
        first = end + 1
    return list(itertools.pairwise(sorted(cuts)))


def marked(text: str) -> str:
    """A text for a reader, who sees bytes that make no character as ‹E6 97›."""
    return _RUN.sub(lambda run: f"‹{' '.join(PART.findall(run[0]))}›", text)


class Bytes:
    """Which tokens of a tokenizer stand for bytes, and for which.

    Args:
        backend: the fast tokenizer (of the `tokenizers` library); None where there is none, and
            then no token does.
    """

    def __init__(self, backend: Any) -> None:
        state: Mapping[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
        kinds = {kind for name in ("decoder", "pre_tokenizer") for kind in _kinds(state.get(name))}
        self._level = "ByteLevel" in kinds
        self._fallback = "ByteFallback" in kinds or bool(
            state.get("model", {}).get("byte_fallback")
        )
        self._added = {token["content"] for token in state.get("added_tokens", ())}

    def text(self, token: str | None) -> str | None:
        """A token, as the tokenizer writes it, as text; None where it does not stand for bytes."""
        if token is None or token in self._added:
            return None
        if self._level and (raw := _of_stand_ins(token)) is not None:
            return spelled(raw)
        if self._fallback and (byte := _FALLBACK.fullmatch(token)):
            return spelled(bytes([int(byte[1], 16)]))
        return None


@cache
def _stand_ins() -> dict[str, int]:
    """Stand-in letter -> byte: what can be printed stands for itself, the rest for letters from 256
    on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }


def _of_stand_ins(token: str) -> bytes | None:
    known = _stand_ins()
    return (
        bytes(known[letter] for letter in token)
        if all(letter in known for letter in token)
        else None
    )


def _kinds(section: Any) -> set[str]:
    """The types of a section of tokenizer.json and of all that it is made of."""
    if isinstance(section, Mapping):
        return {str(section.get("type"))}.union(*map(_kinds, section.values()))
    return set().union(*map(_kinds, section)) if isinstance(section, list) else set()


def _raw(text: str) -> bytes:
    escaped = PART.sub(lambda part: chr(0xDC00 + int(part[1], 16)), text)
    return escaped.encode("utf-8", "surrogateescape")


def _inside(raws: Sequence[bytes], first: int) -> set[int]:
    """The boundaries between tokens that lie inside a character, the tokens counted from
    `first`."""
    raw, ends = b"".join(raws), {}
    at = 0
    for number, part in enumerate(raws, first + 1):
        at += len(part)
        ends[at] = number
    inside, at = set(), 0
    while at < len(raw):
        lead = raw[at]
        n = 1 if lead < 0xC2 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        try:
            raw[at : at + n].decode()
        except UnicodeDecodeError:
            n = 1
        inside |= {ends[place] for place in range(at + 1, at + n) if place in ends}
        at += n
    return inside
