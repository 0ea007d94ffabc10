"""What the characters of a text are to a word: scripts without spaces between words, and marks that
belong to a letter.

Where words are not parted by spaces, a word list marks substrings, and openings are counted in
characters.
"""

from __future__ import annotations

import unicodedata

_RANGES = (
    ("\u0e00", "\u0fff"),  # Thai, Lao, Tibetan
    ("\u1000", "\u109f"),  # Burmese
    ("\u1780", "\u17ff"),  # Khmer
    ("\u1950", "\u19ff"),  # Tai Le, New Tai Lue, Khmer symbols
    ("\u1a20", "\u1aaf"),  # Tai Tham
    ("\u1b00", "\u1b7f"),  # Balinese
    ("\u3005", "\u3007"),  # ideographic iteration mark, closing mark and zero
    ("\u3041", "\u30ff"),  # Hiragana, Katakana
    ("\u3100", "\u312f"),  # Bopomofo
    ("\u31f0", "\u31ff"),  # Katakana extensions
    ("\u3400", "\u4dbf"),  # Han, extension A
    ("\u4e00", "\u9fff"),  # Han
    ("\ua000", "\ua4cf"),  # Yi
    ("\ua980", "\ua9ff"),  # Javanese, Burmese extension B
    ("\uaa60", "\uaadf"),  # Burmese extension A, Tai Viet
    ("\uf900", "\ufaff"),  # Han, compatibility
    ("\uff66", "\uff9f"),  # Katakana of half width
    ("\U0001b000", "\U0001b16f"),  # Kana supplement and extensions
    ("\U00020000", "\U000323af"),  # Han, extensions B to H
)
UNSPACED = "".join(f"{first}-{last}" for first, last in _RANGES)
"""Their characters, as they stand inside the brackets of a regular expression."""
MARKS = "".join(
    chr(code) for code in range(0x300, 0xFE30) if unicodedata.category(chr(code))[0] == "M"
)
"""Accents, vowel signs and other marks, likewise: Python's `\\w` takes none of them for part of a
word."""
