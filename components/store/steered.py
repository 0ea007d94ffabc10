"""How scores of steering are named: `steer.<method>.kl_<budget>` (uplift), then what else was measured, then of what.

The headline is `.composite`. A concept's own name stands behind `.composite.concept.`, so that it may be any word
("fluency", "cost"). A budget is written with as many digits as tell it from every other. Pages and pictures read the names
with the patterns below.
"""

from __future__ import annotations

STEERED = r"steer\.(\w+)\.kl_(\d+(?:\.\d+)?(?:e-?\d+)?)"
"""Regular expression of the name that every score of one method and budget begins with: method and budget."""
COMPOSITE = rf"{STEERED}\.composite"
"""Of the headline."""
OF_A_CONCEPT = rf"{COMPOSITE}\.concept\.(.+)"
"""Of the composite on one concept: method, budget and concept."""


def name(method: str, budget: float | None) -> str:
    """What every score of one method and budget begins with, and the name of its uplift; of one that has no strength the
    name holds no budget.
    """
    if budget is None:
        return f"steer.{method}"
    short = f"{budget:g}"
    told = short if float(short) == budget else repr(budget)
    return f"steer.{method}.kl_{told.replace('e+', 'e')}"  # MLflow takes no plus in a name


def composite(method: str, budget: float | None) -> str:
    """The name of the headline."""
    return f"{name(method, budget)}.composite"


def of_concept(method: str, budget: float | None, concept: str) -> str:
    """The name of the composite on one concept."""
    return f"{composite(method, budget)}.concept.{concept}"
