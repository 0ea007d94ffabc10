"""How scores of steering are named: `steer.<method>.kl_<budget>`, then what was measured, then the concept it is of.

A concept's own name stands behind `concept.`, so that it may be any word ("fluency", "cost"). A budget is written with
as many digits as tell it from every other. Pages and pictures read the names with the patterns below.
"""

from __future__ import annotations

STEERED = r"steer\.(\w+)\.kl_(\d+(?:\.\d+)?(?:e[+-]\d+)?)"
"""Regular expression of the composite's name: method and budget."""
OF_A_CONCEPT = rf"{STEERED}\.concept\.(.+)"
"""Of the composite on one concept: method, budget and concept."""


def name(method: str, budget: float) -> str:
    """The composite's name; names of other measures go on from it."""
    short = f"{budget:g}"
    return f"steer.{method}.kl_{short if float(short) == budget else repr(budget)}"


def of_concept(method: str, budget: float, concept: str) -> str:
    """The name of the composite on one concept."""
    return f"{name(method, budget)}.concept.{concept}"
