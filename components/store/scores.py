"""What is known of a score by its dotted name: its place in the table, its range, and the setting behind an absent value.

Declared once. The terminal, Prefect's and MLflow's table, the README and the pages sort by `place`; no table of scores holds
an interval beyond `clipped`. A score that nobody declared comes after the others of its stage and has no range.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

STAGES = ("evaluate", "interpret", "steer")
KINDS = ("all", "token", "surface", "contextual", "document")
"""Kinds of concepts in reading order; `all` and `token` (all but document) hold others."""
HOLDING = ("all", "token")
BUDGET = r"kl_\d+(?:\.\d+)?(?:e[+-]?\d+)?"
"""A KL budget as part of a score's name, nats a token."""
RIVALS = {
    "neuron": "raw neurons",
    "untrained": "the untrained dictionary",
    "random_decoder": "a random decoder",
    "random_model": "the model with random weights",
    "shuffled": "shuffled explanations",
    "random_direction": "random directions",
    "mean_difference": "mean difference",
    "logit_bias": "a bias on logits",
    "unsteered": "unsteered text",
}
"""Controls and competitors, by the part of a score's name that says so. A probe is a ceiling, not a rival."""
CEILINGS = ("probe",)
STRATA = r"strongest|weakest|random|same_token|macro"
"""Parts of a latent's windows that an explanation score is told over besides, as the last part of its name."""
CONTROLS = r"shuffled|untrained|random\w*|probe"


@dataclasses.dataclass(frozen=True)
class Known:
    """A declared score.

    Attributes:
        pattern: regular expression for the whole dotted name.
        tier: 0 belongs in the shortest table, 1 goes in while there is room, and so on; the row over all concepts.
        kinds: the tier of its rows of one kind of concept.
        low: least value that it can take; None for no bound.
        high: greatest, likewise.
    """

    pattern: str
    tier: int
    kinds: int
    low: float | None = None
    high: float | None = None


KNOWN = (
    Known(r"evaluate\.fvu", 0, 0, 0),
    Known(r"evaluate\.loss_recovered\.mean_ablation", 0, 0),
    Known(r"evaluate\.cross_entropy_rise", 0, 0),
    Known(r"evaluate\.l0", 0, 0, 0),
    Known(r"evaluate\.dead_share", 0, 0, 0, 1),
    Known(r"evaluate\.loss_recovered\..+", 3, 3),
    Known(r"evaluate\.cross_entropy\..+", 4, 4, 0),
    Known(r"evaluate\.concepts_(gated|decodable)", 1, 3, 0, 1),
    Known(r"evaluate\.concepts_found\.latent", 0, 0, 0, 1),
    Known(r"evaluate\.concepts_found\.probe", 3, 4, 0, 1),
    Known(r"evaluate\.concepts_found\..+", 1, 3, 0, 1),
    Known(r"evaluate\.concepts_found_normalised\.latent", 1, 3),
    Known(r"evaluate\.concepts_(found_absolute|share)\.latent", 1, 3, 0, 1),
    Known(r"evaluate\.concepts_(ap|auroc)\.latent", 2, 4, 0, 1),
    Known(r"evaluate\.concepts_(found_absolute|share|ap|auroc)\..+", 3, 4, 0, 1),
    Known(r"evaluate\.sparse_probing\..+", 1, 3, 0, 1),
    Known(r"evaluate\.absorption", 0, 3, 0, 1),
    Known(r"evaluate\.absorption\..+", 2, 4, 0, 1),
    Known(r"evaluate\.description_length.*", 1, 3, 0),
    Known(r"evaluate\.first_letter\.main_latents", 2, 3, 0),
    Known(r"evaluate\.first_letter.*", 1, 3, 0, 1),
    Known(rf"interpret\.(?!({CONTROLS})\b)\w+\.(detection|fuzzing)", 0, 0, 0, 1),
    Known(rf"interpret\.(?!({CONTROLS})\b)\w+\.simulation", 0, 0, -1, 1),
    Known(r"interpret\.(untrained|random\w*)\.(detection|fuzzing)", 0, 0, 0, 1),
    Known(r"interpret\.(untrained|random\w*)\.simulation", 0, 0, -1, 1),
    Known(r"interpret\.probe\.(detection|fuzzing)", 0, 0, 0, 1),
    Known(r"interpret\.probe\.simulation", 0, 0, -1, 1),
    Known(r"interpret\.shuffled(\.\w+)*\.(detection|fuzzing)", 3, 3, 0, 1),
    Known(r"interpret\.shuffled(\.\w+)*\.simulation", 3, 3, -1, 1),
    Known(r"interpret\.[\w.]+\.detection\.over_untrained", 1, 1, -1, 1),
    Known(r"interpret\.[\w.]+\.simulation\.over_untrained", 1, 1, -2, 2),
    Known(rf"interpret\.(?!({CONTROLS})\b)\w+\.\w+\.(average_precision|natural_density)", 2, 2, -1, 1),
    Known(r"interpret\.\w+_share", 3, 3, 0, 1),
    Known(rf"interpret\.[\w.]+\.detection\.({STRATA})", 3, 3, 0, 1),
    Known(rf"interpret\.[\w.]+\.simulation\.({STRATA})", 3, 3, -1, 1),
    Known(r"interpret\.[\w.]+\.(average_precision|natural_density)", 4, 4, -1, 1),
    Known(r"interpret\.[\w.]+\.detection\.over_floor", 4, 4, -1, 1),
    Known(r"interpret\.[\w.]+\.simulation\.over_floor", 4, 4, -2, 2),
    Known(r"steer\.gate\.passed", 0, 3, 0, 1),
    Known(rf"steer\.(?!random_)\w+\.{BUDGET}\.composite", 0, 0, 0, 1),
    Known(rf"steer\.(?!random_)\w+\.{BUDGET}", 1, 2, -1, 1),
    Known(rf"steer\.(?!random_)\w+\.{BUDGET}\.fluency", 1, 2, 0, 1),
    Known(rf"steer\.(?!random_)\w+\.{BUDGET}\.over_untrained", 0, 0, -1, 1),
    Known(rf"steer\.\w+\.{BUDGET}\.share_above_random", 2, 3, 0, 1),
    Known(rf"steer\.random_\w+\.{BUDGET}\.composite", 2, 4, 0, 1),
    Known(rf"steer\.random_\w+\.{BUDGET}", 2, 4, -1, 1),
    Known(rf"steer\.random_\w+\.{BUDGET}\.fluency", 3, 4, 0, 1),
    Known(rf"steer\.\w+\.{BUDGET}\.cost\w*", 2, 3, 0),
)
"""In reading order; the first that matches holds."""
UNDECLARED = Known(r".*", 2, 4)
SINGLE = pl.col("unit_of_replication").fill_null("") == "prompt"
"""Rows of single concepts: in the full table only."""


@functools.cache
def known(name: str) -> tuple[int, Known]:
    """Where a score stands in the reading order, and what is declared of it."""
    found = next(((place, each) for place, each in enumerate(KNOWN) if re.fullmatch(each.pattern, name)), None)
    return found or (len(KNOWN), UNDECLARED)


def clipped(scores: pl.DataFrame) -> pl.DataFrame:
    """The same rows, no interval beyond the range that its score can take: Student's interval of a share may leave it.

    The value itself is never moved; of a single concept's rows, whose last part is the user's, only uplift is known.
    """
    if scores.is_empty():
        return scores
    names = scores["name"].unique().to_list()
    single = Known("", 4, 4, -1, 1)
    bounds = pl.DataFrame(
        [{"name": name, "_low": known(name)[1].low, "_high": known(name)[1].high} for name in names],
        schema={"name": pl.String, "_low": pl.Float64, "_high": pl.Float64},
    )
    of_steering = SINGLE & pl.col("name").str.starts_with("steer.")
    least = pl.when(of_steering).then(single.low).otherwise(pl.col("_low"))
    most = pl.when(of_steering).then(single.high).otherwise(pl.col("_high"))
    low = pl.min_horizontal(pl.max_horizontal("low", least), "value")  # a bound that is null bounds nothing
    high = pl.max_horizontal(pl.min_horizontal("high", most), "value")
    return (
        scores.join(bounds, on="name", how="left", maintain_order="left")
        .with_columns(
            pl.when(pl.col("low").is_not_null()).then(low).alias("low"),
            pl.when(pl.col("high").is_not_null()).then(high).alias("high"),
        )
        .drop("_low", "_high")
    )


def placed(report: pl.DataFrame) -> pl.DataFrame:
    """The rows in reading order, with the column `tier`: stage, measure, who was measured, kind of concept; single concepts
    last in their stage.

    A kind of concept that is the only one is told once: the row over all concepts goes where a row of the same score with
    the same value stands beside it.
    """
    numbered = report.with_row_index("_row")
    names = numbered["name"].unique().to_list()
    places = {name: known(name)[0] for name in names}
    single = SINGLE & (pl.col("stage") == "steer")
    kind = pl.col("concept_kind").fill_null("all")
    budget = pl.col("name").str.extract(rf"\.({BUDGET})(?:\.|$)")
    numbered = numbered.with_columns(budget.alias("_budget"))
    budgets = numbered.drop_nulls("_budget")["_budget"].unique(maintain_order=True).to_list()
    tiers = [
        {"name": name, "_tier": known(name)[1].tier, "_kinds": known(name)[1].kinds, "_place": places[name]}
        for name in names
    ]
    tier_of = pl.DataFrame(tiers, schema={"name": pl.String, "_tier": pl.Int64, "_kinds": pl.Int64, "_place": pl.Int64})
    later = pl.col("_budget").replace_strict(_ranks(budgets), default=0, return_dtype=pl.Int64) * 2
    order = {"stage": STAGES, "concept_kind": KINDS}
    ranks = [
        pl.col(name).replace_strict(_ranks(listed), default=len(listed), return_dtype=pl.Int64)
        for name, listed in order.items()
    ]
    key = ["name", "split", "dictionary", "hook_point"]
    numbered = numbered.join(tier_of, on="name", how="left", maintain_order="left")
    narrow = ~kind.is_in(HOLDING)
    of_tokens = narrow & (kind != "document")
    only = {  # the one kind that a holding one holds, by its value
        "all": pl.when(narrow.sum().over(key) == 1).then(pl.col("value").filter(narrow).first().over(key)),
        "token": pl.when(of_tokens.sum().over(key) == 1).then(pl.col("value").filter(of_tokens).first().over(key)),
    }
    alone = {"all": narrow.sum().over(key) == 1, "token": of_tokens.sum().over(key) == 1}
    same = [(pl.col("concept_kind") == name) & alone[name] & pl.col("value").eq_missing(only[name]) for name in HOLDING]
    repeated = pl.any_horizontal(same)
    whole = kind.is_in(HOLDING) | alone["all"]
    tier = pl.when(single).then(9).when(whole).then("_tier").otherwise("_kinds") + later.fill_null(0)
    return (
        numbered.with_columns(tier.alias("tier"), repeated.alias("_repeated"))
        .filter(~pl.col("_repeated"))
        .with_columns(pl.col("_row").min().over("name").alias("_first"))
        .sort(ranks[0], single, "_place", "_first", ranks[1], "_row", maintain_order=True)
        .drop("_row", "_repeated", "_budget", "_tier", "_kinds", "_place", "_first")
    )


ROWS, TIERS = 30, 3
"""Rows that the short table has at most, and the last tier of scores that may fill it (`components.store.scores`)."""


def ordered(frame: pl.DataFrame) -> pl.DataFrame:
    """Every row that has a value, in reading order; the kind of concept that is the only one is told once."""
    return placed(frame).drop("tier").filter(pl.col("value").is_not_null())


def headline(frame: pl.DataFrame, most: int = ROWS) -> pl.DataFrame:
    """The rows of the short table, at most so many, in reading order; single concepts and absent values have none."""
    rows = placed(frame).filter(pl.col("value").is_not_null(), ~(SINGLE & (pl.col("stage") == "steer")))
    return rows.filter(pl.col("tier") <= TIERS).filter(pl.col("tier").rank("ordinal") <= most).drop("tier")


def absent(frame: pl.DataFrame) -> list[str]:
    """For each reason a line: which scores have no value, why, and the setting that would change it."""
    rows = placed(frame).filter(pl.col("value").is_null())
    lines = []
    measured = set(frame.filter(pl.col("value").is_not_null())["stage"])
    for (stage, reason), lacking in rows.group_by("stage", "reason", maintain_order=True):
        names = lacking["name"].unique(maintain_order=True).to_list()
        of_stage = rows.filter(pl.col("stage") == stage)["reason"].n_unique() == 1 and stage not in measured
        what = f"all of {stage}" if of_stage and stage != "evaluate" else _together(names)
        why = reason or f"the stage {stage} gives no reason"
        change = setting(str(stage), names[0], str(reason or ""))
        lines.append((why, change, what))
    merged: dict[tuple[str, str | None], list[str]] = {}
    for why, change, what in lines:
        merged.setdefault((why, change), []).append(what)
    return [f"{', '.join(what)}: {why}" + (f"; {change}" if change else "") for (why, change), what in merged.items()]


def caveats(frame: pl.DataFrame) -> list[str]:
    """For each remark on a row that has a value: which scores, and what a reader of them must know."""
    rows = placed(frame).filter(pl.col("value").is_not_null(), pl.col("reason").is_not_null(), pl.col("tier") <= 1)
    told: dict[str, list[str]] = {}
    for row in rows.to_dicts():
        told.setdefault(row["reason"], []).append(title(row))
    return [f"{_together(names)}: {reason}" for reason, names in told.items()]


SETTINGS = (
    (r"labels no concept", "label concepts with read.word_lists or read.corpus.label_columns"),
    (r"the capture ha\w+ no (token of the )?\w+ split", "list the split in capture.splits"),
    (r"the capture holds no token|no next token|no rows", "list test in capture.splits and raise read.splits.test"),
    (r"no \w+ (of|in) .*(has it|has the concept)", "raise read.splits, or label commoner concepts"),
    (r"no latent is (alive|active)", "train longer (train.tokens) or at another sparsity (train.dictionary)"),
    (r"too few windows", "raise read.splits.explain and read.splits.test"),
    (r"no neutral text", "raise read.splits.neutral, or lower steer.neutral_tokens"),
    (r"no control direction", "list random_direction in steer.methods"),
    (r"no usable direction|no direction of it|no strength", "raise the budgets in steer.kl_budgets"),
    (r"does not generate text|predicts no next token|does not spell", "take another model (model.path)"),
)
"""What a reason says, and the setting that would change it."""
UNGATED = {
    "evaluate.concepts_": "lower evaluate.settings.concepts_found.gate.min_lift, or raise read.splits",
    "evaluate.sparse_probing": "lower evaluate.settings.sparse_probing.gate.min_lift, or raise read.splits",
    "evaluate.absorption": "lower evaluate.settings.absorption.gate.min_lift, or raise read.splits",
    "steer.": "lower steer.gate.min_lift, or raise read.splits",
}
"""Where no concept passed the gate: the gate of each score."""
SETTING = r"\b(?:model|read|capture|train|encode|interpret|steer|evaluate|execution)\.[a-z_]+"


def setting(stage: str, name: str, reason: str) -> str | None:
    """Which setting would give an absent value, or None where the reason itself names one."""
    if re.search(SETTING, reason):
        return None
    if re.search(r"passed the gate|concepts has a value", reason):
        return next((what for prefix, what in UNGATED.items() if name.startswith(prefix)), None)
    if found := next((what for said, what in SETTINGS if re.search(said, reason)), None):
        return found
    return f"its settings: `latentflow params`, section {stage}"


def part(name: str, parts: Iterable[str]) -> str | None:
    """The first part of a dotted name that is one of these."""
    listed = set(parts)
    return next((piece for piece in name.split(".") if piece in listed), None)


def title(row: Mapping[str, Any]) -> str:
    """What a row is called in a sentence."""
    return row["name"] + (f" ({row['concept_kind']})" if row["concept_kind"] else "")


def plain(text: str) -> str:
    """Text for a markdown table or list: a name that the user gave is never markup.

    An underscore between letters is none in markdown, and stays readable.
    """
    return re.sub(r"[\\`*\[\]<>|$~]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"\\{found[0]}", text.replace("\n", " "))


def _together(names: Sequence[str]) -> str:
    """A list of scores for one line: those that differ in their last parts under the first of them."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _ranks(listed: tuple[str, ...] | list[str]) -> dict[str, int]:
    return {name: rank for rank, name in enumerate(listed)}
