"""Why scores have no value, what to know of those that have one, and which setting would change it.
Polars only, no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from components.report.measure import Measures
from components.report.order import placed


def absent(frame: pl.DataFrame, measures: Measures) -> list[str]:
    """For each reason a line: which scores have no value, why, and the setting that would change
    it."""
    rows = placed(frame, measures).filter(pl.col("value").is_null())
    lines = []
    measured = set(frame.filter(pl.col("value").is_not_null())["stage"])
    for (stage, reason), lacking in rows.group_by("stage", "reason", maintain_order=True):
        names = lacking["name"].unique(maintain_order=True).to_list()
        of_stage = (
            rows.filter(pl.col("stage") == stage)["reason"].n_unique() == 1
            and stage not in measured
        )
        what = f"all of {stage}" if of_stage and stage != "evaluate" else _together(names)
        why = reason or f"the stage {stage} gives no reason"
        change = setting(lacking.row(0, named=True))
        lines.append((why, change, what))
    merged: dict[tuple[str, str | None], list[str]] = {}
    for why, change, what in lines:
        merged.setdefault((why, change), []).append(what)
    return [
        f"{', '.join(what)}: {why}" + (f"; {change}" if change else "")
        for (why, change), what in merged.items()
    ]


def caveats(frame: pl.DataFrame, measures: Measures) -> list[str]:
    """For each remark on a row that has a value: which scores, and what a reader of them must
    know."""
    rows = placed(frame, measures).filter(
        pl.col("value").is_not_null(), pl.col("reason").is_not_null(), pl.col("tier") <= 1
    )
    told: dict[str, list[str]] = {}
    for row in rows.to_dicts():
        told.setdefault(row["reason"], []).append(title(row))
    return [f"{_together(names)}: {reason}" for reason, names in told.items()]


SETTINGS = (
    (r"labels no concept", "label concepts with read.word_lists or read.corpus.label_columns"),
    (r"the capture ha\w+ no (token of the )?\w+ split", "list the split in capture.splits"),
    (
        r"the capture holds no token|no next token|no rows",
        "list test in capture.splits and raise read.splits.test",
    ),
    (r"no \w+ (of|in) .*(has it|has the concept)", "raise read.splits, or label commoner concepts"),
    (
        r"no latent is (alive|active)",
        "train longer (train.tokens) or at another sparsity (train.dictionary)",
    ),
    (r"too few windows", "raise read.splits.explain and read.splits.test"),
    (r"no neutral text", "raise read.splits.neutral, or lower steer.neutral_tokens"),
    (r"no control direction", "list random_direction in steer.methods"),
    (
        r"no usable direction|no direction of it|no strength",
        "raise the budgets in steer.kl_budgets",
    ),
    (
        r"does not generate text|predicts no next token|does not spell",
        "take another model (model.path)",
    ),
)
"""What a reason says, and the setting that would change it."""
UNGATED = {
    "evaluate": "lower evaluate.settings.{entry}.gate.min_lift, or raise read.splits",
    "steer": "lower steer.gate.min_lift, or raise read.splits",
}
"""Where no concept passed the gate: the gate of each stage's scores."""
SETTING = r"\b(?:model|read|capture|train|encode|interpret|steer|evaluate|execution)\.[a-z_]+"


def setting(row: Mapping[str, Any]) -> str | None:
    """Which setting would give an absent value, or None where the reason itself names one."""
    reason = row["reason"] or ""
    if re.search(SETTING, reason):
        return None
    if re.search(r"passed the gate|concepts has a value", reason):
        return UNGATED.get(row["stage"], "").format(entry=row["entry"]) or None
    if advice := next((what for said, what in SETTINGS if re.search(said, reason)), None):
        return advice
    return f"its settings: `latentflow params`, section {row['stage']}"


def title(row: Mapping[str, Any]) -> str:
    """What a row is called in a sentence."""
    return row["name"] + (f" ({row['concept_kind']})" if row["concept_kind"] else "")


def plain(text: str) -> str:
    """Text for a markdown table or list: a name that the user gave is never markup.

    An underscore between letters is none in markdown, and stays readable.
    """
    return re.sub(
        r"[\\`*\[\]<>|$~]|(?<![^\W_])_|_(?![^\W_])",
        lambda found: f"\\{found[0]}",
        text.replace("\n", " "),
    )


def _together(names: Sequence[str]) -> str:
    """A list of scores for one line: those that differ in their last parts under the first of
    them."""
    return (
        ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
    )
