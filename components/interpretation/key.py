"""Whose scores: what tells the rows of one explainer, scorer and predictor apart."""

from __future__ import annotations

from typing import Any, NamedTuple

Row = dict[str, Any]


class Key(NamedTuple):
    """Whose scores.

    Attributes:
        role: entry; control, an explainer that is one; own_judge, an explainer that tested what it
            wrote with this predictor; floor, who read another latent's explanation; ceiling, the
            probe.
        explainer: who wrote the explanations; None for the probe.
        scorer: how they were scored.
        predictor: who read them; None for the probe.
    """

    role: str
    explainer: str | None
    scorer: str
    predictor: str | None

    def row(self, control: str | None = None) -> Row:
        """As columns of a row of scores.

        Args:
            control: whose latents these are; None for those of the dictionary itself.
        """
        subject = control or {"floor": "shuffled", "ceiling": "probe"}.get(self.role)
        role = "control" if control else self.role
        return {
            "entry": self.explainer,
            "subject": subject,
            **self._asdict(),
            "role": role,
            "measure": self.scorer,
        }


OWN_JUDGE = "own_judge"
"""The role of what a predictor says of explanations that were tested with it while they were
written."""
