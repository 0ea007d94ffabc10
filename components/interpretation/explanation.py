"""What an explainer says, whoever wrote it."""

from __future__ import annotations

import dataclasses
import unicodedata

LONGEST = 200
"""Characters of an explanation, at most, unless `interpret.longest` says otherwise."""
LONGEST_OF_ALL = 512
"""Characters of any explanation, at most: what `interpret.longest` may be, and what the explainer
`given` takes."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What an explainer says; at most `LONGEST_OF_ALL` characters.

    Attributes:
        text: None when nothing could be written.
        reason: why not.
        is_missing: whether nobody was asked (a budget that is spent, an endpoint that went away):
            such a latent is left out of means, and does not stand at chance.
        call: key of the request that it answers, in the cache of answers and the table of calls.
        served: the model that wrote it, with its fingerprint; None where none did.
    """

    text: str | None
    reason: str | None = None
    is_missing: bool = False
    call: str | None = None
    served: str | None = None

    def __post_init__(self) -> None:
        assert (self.text is None) == (self.reason is not None), (
            "an explanation is a text, or null with a reason"
        )
        fits = self.text is None or 0 < len(self.text) <= LONGEST_OF_ALL
        assert fits, f"not 1 to {LONGEST_OF_ALL} characters: {self.text!r}"

    @classmethod
    def of(cls, text: str, longest: int = LONGEST) -> Explanation:
        """Whatever somebody wrote, a language model above all; refused with the reason where it
        cannot stand.

        Control characters and lone surrogates become spaces, runs of spaces one space. A text of
        more than `longest` characters is refused, never cut: half a sentence may say the opposite.
        Nothing is raised.
        """
        spaced = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
        shown = " ".join(spaced.split())
        if not any(c.isprintable() and not c.isspace() for c in shown):
            return cls(None, f"nothing that can be read was written ({len(text):,} characters)")
        if len(shown) > longest:
            return cls(None, too_long(len(shown), longest))
        return cls(shown)


def too_long(n: int, longest: int) -> str:
    """Why an explanation of n characters is refused."""
    limit = f"{longest} characters (interpret.longest; {LONGEST_OF_ALL} where it was given)"
    return f"it has {n:,} characters, wanted at most {limit}"
