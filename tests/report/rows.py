"""Rows of scores for tests: every column said, none read out of a name; and what the real entries
declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from components.config import Config
from components.evaluation.compare import STABILITY
from components.evaluation.contract import evaluations
from components.evaluation.evaluate import measures_of
from components.evaluation.evaluations.concepts_found import ROLES
from components.interpretation.contract import scorers
from components.interpretation.declared import measures as of_interpretation
from components.report import tables
from components.report.measure import Measures
from components.report.scores import write
from components.steering import measures as of_steering
from components.store.artifact import Artifact, Store
from components.store.stage import Progress, Stage

PLACE = {"dictionary": "topk-8-k2", "hook_point": "resid_post.1", "split": "test"}


def declared() -> Measures:
    """What every registered entry declares."""
    of_scorers = of_interpretation(entry for _, entry in scorers.items())
    of_sweeps = Measures.declared("compare", [STABILITY])
    return Measures(
        {
            **measures_of(evaluations.names()),
            **of_scorers,
            **of_steering.declared(["fluency", "panel"]),
            **of_sweeps,
        }
    )


MEASURES = declared()


def score(
    measure: str, value: float | None, stage: str = "evaluate", **others: Any
) -> dict[str, Any]:
    """A score of the entry itself; an absent value gives its reason, unless another is given."""
    reason = {} if value is not None else {"reason": "none was given"}
    better = MEASURES.of({"stage": stage, "measure": measure}).better
    about = {"n": 10, "unit_of_replication": "document", "better": better, "role": "entry"}
    return {
        "stage": stage,
        "measure": measure,
        "value": value,
        **about,
        **PLACE,
        **reason,
        **others,
    }


def found(
    value: float | None, unit: str = "latent", measure: str = "concepts_found", **others: Any
) -> dict[str, Any]:
    """A score by concept, of one kind of unit."""
    about = {
        "entry": "concepts_found",
        "subject": unit,
        "role": ROLES[unit],
        "unit_of_replication": "concept",
    }
    return score(measure, value, **{**about, **others})


def explained(
    value: float | None, scorer: str = "detection", part: str = "", **others: Any
) -> dict[str, Any]:
    """A score of an explainer, or one of its parts (`over_floor`, `weakest`, ...)."""
    role = others.get("role", "entry")
    explainer = others.pop("explainer", None if role == "ceiling" else "log_odds")
    subject = {"floor": "shuffled", "ceiling": "probe", "control": "untrained"}.get(role)
    about = {"entry": explainer, "explainer": explainer, "scorer": scorer, "subject": subject}
    about |= {
        "unit_of_replication": "latent",
        "predictor": None if role == "ceiling" else "lexical",
    }
    return score(f"{scorer}.{part}" if part else scorer, value, "interpret", **{**about, **others})


def steered(
    value: float | None,
    measure: str = "uplift",
    method: str = "add_direction",
    budget: float = 0.1,
    **others: Any,
) -> dict[str, Any]:
    """A score of a steering method."""
    about = {
        "entry": method,
        "budget": budget,
        "unit_of_replication": "prompt" if others.get("concept") else "concept",
    }
    return score(measure, value, "steer", **{**about, **others})


def report_frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """Rows as the REPORT table has them."""
    return tables.REPORT.frame([{"artifact": "0" * 24, **row} for row in rows])


class Made(Config):
    rows: list[dict] = []
    """The scores to write."""


def scored(store: Store, stage: str, *rows: dict[str, Any]) -> Artifact:
    """An artifact of a stage that wrote these scores."""

    def make(folder: Path, config: Made, inputs: Any, settings: Any):
        write(folder, stage, config.rows, MEASURES)
        yield Progress(1, 1, "scores")
        return MEASURES.facts()

    return store.ensure(Stage(stage, 1, make), Made(rows=list(rows)), {})[0]
