"""Lists the tokens that a latent's decoder direction makes likelier: what it writes, not what it
reads.

The output side. A detection score asks where a latent is active, so a low one says no more than
that this latent promotes other words than it reads.

Source: nostalgebraist (2020), interpreting GPT: the logit lens; of a dictionary's directions as in
arXiv 2309.08600.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from pydantic import PositiveInt

from components.config import Config
from components.interpretation.contract import Explainer, LatentEvidence, explainers
from components.interpretation.explanation import Explanation
from components.interpretation.phrase import Term, write


class LogitLensConfig(Config):
    """The tokens that it makes likelier."""

    tokens: PositiveInt = 10
    """Promoted tokens of an explanation, at most."""


@explainers
class LogitLens(Explainer):
    """The tokens that it makes likelier."""

    config: ClassVar[type[Config]] = LogitLensConfig
    free: ClassVar[bool] = True
    reads_logits: ClassVar[bool] = True

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """The most promoted words of each latent, the most promoted first; its windows are not
        looked at."""
        assert isinstance(self.settings, LogitLensConfig)
        for of_latent in evidence:
            if not of_latent.promoted:
                reason = "no promoted tokens: no model with logits, or a direction that is not added to its residual stream"
                yield Explanation(None, reason)
                continue
            listed: list[Term] = []
            for token in of_latent.promoted:
                term = Term(token.strip())
                fits = (
                    len(listed) < self.settings.tokens
                    and len(_said([*listed, term])) <= self.longest
                )
                if fits and term not in listed and term.readable():
                    listed.append(term)
            if listed:
                yield Explanation(_said(listed))
            else:
                yield Explanation(None, "none of the promoted tokens is a word that can be read")


def _said(terms: list[Term]) -> str:
    return f"makes likelier {write(terms)}"
