"""Which concepts a probe decodes: what can be asked of any model and any text.

A probe passes where it ranks rows well (AUROC) and where the lower bound of its average precision
lies above what chance gives by a share of what is left:

    lift = (AP - b) / (1 - b)        b the share of rows that have the concept

An absolute average precision would be a property of one corpus: at natural density a rare concept
that a probe ranks with an AUROC of 0.98 may have an average precision of 0.5. The lower bound keeps
a handful of lucky rows from passing.
"""

from __future__ import annotations

from pydantic import Field

from components.concept.ranking import Ranking
from components.config import Config
from components.statistics import average_precision_interval


class ProbeGate(Config):
    """What a probe must reach on validate, so that a concept counts as decoded from the
    activations."""

    min_auroc: float = Field(default=0.9, ge=0, le=1)
    """Least AUROC of the probe."""
    min_lift: float = Field(default=0.2, ge=0, le=1)
    """Least lower bound (95%) of the probe's average precision above the base rate, as a share of
    what is left above it; 0 asks nothing."""


def lift(ap: float, base_rate: float) -> float:
    """Average precision above the base rate, as a share of what is left above it: 0 at chance, 1 at
    perfection."""
    return (ap - base_rate) / (1 - base_rate) if base_rate < 1 else 0.0


def least_lift(ap: float, n_positive: int, n: int) -> float:
    """The lift at the lower end of the interval of the average precision."""
    low = average_precision_interval(ap, n_positive).low
    assert low is not None, "a concept without positives has no average precision"
    return lift(low, n_positive / n)


def refusal(found: Ranking, n_positive: int, n: int, gate: ProbeGate) -> str | None:
    """Why the probe does not decode the concept, with what was wanted; None where it does.

    Args:
        found: how the probe ranks the rows of validate.
        n_positive: rows with the concept there.
        n: rows there.
        gate: the thresholds.
    """
    if found.ap is None or found.auroc is None:
        return "the validate split has no row with the concept, or none without"
    if found.auroc < gate.min_auroc:
        return f"AUROC {found.auroc:.2f} on validate, wanted {gate.min_auroc:g}"
    least = least_lift(found.ap, n_positive, n)
    if gate.min_lift and least < gate.min_lift:
        return (
            f"average precision {found.ap:.2f} on validate at a base rate of {n_positive / n:.2g} "
            f"over {n_positive} rows with the concept: its lower bound lies {least:.2f} of the "
            f"way above the base rate, wanted {gate.min_lift:g}"
        )
    return None
