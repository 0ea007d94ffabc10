"""The tables of scores: what a stage measured, one experiment's report, differences, and means over
training seeds.

What a score is of stands in the columns PLACE, each with one meaning; `name` is made from them
(`components.report.scores`) and never read back into parts. Numbers among them are numbers. Polars
only, no torch.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from components.report.names import named
from components.store.table import Table
from components.store.tables import TABLES as OF_STAGES

Columns = dict[str, tuple[Any, str]]

_PLACE: Columns = {
    "stage": (pl.String, "the stage that measured it"),
    "entry": (
        pl.String,
        "whose score it is: evaluation, explainer or steering method; null where none is meant",
    ),
    "measure": (pl.String, "what is measured, as its entry declares it"),
    "subject": (
        pl.String,
        "what was measured beside the entry itself, or which of several: latent, neuron, "
        "untrained, probe, shuffled",
    ),
    "role": (
        pl.String,
        "what the row is to the reader: entry, floor, ceiling, control, baseline (a competitor), or "
        "own_judge (a reader with which the explanations were tested while they were written)",
    ),
    "explainer": (pl.String, "who wrote the explanations"),
    "scorer": (pl.String, "how explanations were scored"),
    "predictor": (pl.String, "who read the explanations"),
    "budget": (pl.Float64, "KL budget of the steering, nats a token"),
    "k": (pl.Int64, "units that a probe may use"),
    "concept": (pl.String, "the one concept that is meant; null for all others"),
    "concept_kind": (
        pl.String,
        "all, token, surface, contextual or document; null where no concept is meant",
    ),
    "split": (pl.String, "the split it was measured on"),
    "dictionary": (pl.String, "architecture and size, as topk-1536-k16"),
    "hook_point": (pl.String, "canonical hook point"),
}
PLACE = tuple(_PLACE)
"""What a score is of: the key of every table of scores."""
_NAME: Columns = {
    "name": (pl.String, "the columns above in one dotted name, as MLflow and DVC show it")
}
_VALUE: Columns = {
    "value": (pl.Float64, "the estimate; null with a reason"),
    "low": (pl.Float64, "95% interval, lower end"),
    "high": (pl.Float64, "95% interval, upper end"),
    "n": (pl.Int64, "replicates that the estimate rests on, failures included"),
    "n_failed": (pl.Int64, "replicates that failed, counted in n"),
    "unit_of_replication": (
        pl.String,
        "what one replicate is: token, document, latent, concept, prompt",
    ),
    "n_seeds": (pl.Int32, "training seeds behind it"),
    "baseline": (pl.Float64, "what a named trivial or competing method gets"),
    "baseline_name": (pl.String, "its name"),
    "better": (pl.String, "higher, lower, or neither"),
    "reason": (pl.String, "why the value is null, or a caveat"),
}
SCORES = Table(
    "scores", "*", "Every score of one stage.", {**_PLACE, **_NAME, **_VALUE}, PLACE, named
)
REPORT = Table(
    "report",
    "report",
    "Every score of one experiment, with the artifact it came from.",
    {**_PLACE, **_NAME, **_VALUE, "artifact": (pl.String, "key of the artifact of that stage")},
    PLACE,
    named,
)
DIFFERENCES = Table(
    "differences",
    "report",
    "What is measured of the dictionary against each rival, item by item, with one correction "
    "over each score's tests.",
    {
        **_PLACE,
        **_NAME,
        "rival": (pl.String, "who stands against it"),
        "better": (pl.String, "higher or lower"),
        "ours": (pl.Float64, "our mean over the items"),
        "theirs": (pl.Float64, "the rival's"),
        "difference": (pl.Float64, "ours minus theirs"),
        "low": (
            pl.Float64,
            "95% Student interval of the difference over clusters, lower end; not corrected",
        ),
        "high": (pl.Float64, "upper end"),
        "paired": (pl.Boolean, "whether both have the same items"),
        "n": (pl.Int64, "items: pairs, or those of both sides"),
        "unit_of_replication": (pl.String, "what one item is: concept, latent, prompt, question"),
        "n_clusters": (
            pl.Int64,
            "groups of items that were resampled whole; n where each stands alone",
        ),
        "n_families": (
            pl.Int64,
            "families that the concepts belong to; null where no concept is meant",
        ),
        "p": (
            pl.Float64,
            "of no difference: signs of whole clusters flipped, or Welch's test where there are "
            "no pairs",
        ),
        "n_tests": (
            pl.Int64,
            "tests corrected together: every rival, method, budget and kind of concept of one "
            "measure",
        ),
        "p_holm": (pl.Float64, "p after Holm over those"),
        "detectable": (pl.Float64, "difference seen with 80% power at this n and correction"),
        "outcome": (pl.String, "for us, against us, or undecided"),
    },
    (*PLACE, "rival"),
)
REPLICATES = Table(
    "replicates",
    "replicate",
    "Every score of one experiment under several training seeds.",
    {
        **_PLACE,
        **_NAME,
        "value": (pl.Float64, "mean over seeds; null with a reason"),
        "low": (pl.Float64, "95% Student interval over seeds, lower end"),
        "high": (pl.Float64, "upper end"),
        "n": (pl.Int64, "seeds, failures included"),
        "n_failed": (pl.Int64, "seeds without a value"),
        "seeds": (pl.List(pl.Int64), "training seeds"),
        "values": (pl.List(pl.Float64), "the value of each"),
        "n_items": (pl.Int64, "what each value rests on, in the first seed's report"),
        "unit_of_replication": (
            pl.String,
            "what one of those is: token, document, latent, concept",
        ),
        "better": (pl.String, "higher, lower, or neither"),
        "baseline": (
            pl.Float64,
            "mean over seeds of what a named trivial or competing method gets",
        ),
        "baseline_name": (pl.String, "its name"),
        "reason": (pl.String, "why a value is null"),
    },
    PLACE,
    named,
)
_SETTING: Columns = {
    "label": (pl.String, "what the sweep calls the dictionary"),
    "architecture": (pl.String, "its architecture"),
    "is_baseline": (pl.Boolean, "whether it is run once, for comparison"),
    "d_sae": (pl.Int32, "number of latents"),
    "sparsity_name": (pl.String, "the option that sets its sparsity; null where it has none"),
    "sparsity": (pl.Float64, "its value; null at a matched L0"),
}
SETTING = tuple(_SETTING)
"""Which dictionary of a sweep."""
_MEASURED: Columns = {name: column for name, column in _PLACE.items() if name != "dictionary"}
MEASURED = tuple(_MEASURED)
"""What a score of a sweep is of, whichever the dictionary."""
CELLS = Table(
    "cells",
    "compare",
    "Every score of every dictionary of a sweep.",
    {
        **_SETTING,
        "seed": (pl.Int64, "training seed"),
        **_MEASURED,
        **_NAME,
        "value": (pl.Float64, "the score; null with a reason"),
        "low": (pl.Float64, "95% interval over the replicates of this one dictionary, lower end"),
        "high": (pl.Float64, "upper end"),
        "n": (pl.Int64, "those replicates"),
        "better": (pl.String, "higher, lower, or neither"),
        "train": (pl.String, "key of the dictionary's artifact"),
        "evaluate": (pl.String, "key of its evaluation"),
        "reason": (pl.String, "why the value is null, or a caveat"),
    },
    ("label", "d_sae", "sparsity", "seed", *MEASURED),
    named,
)
COMPARISON = Table(
    "comparison",
    "compare",
    "Scores over seeds: of every setting of a sweep, and of every curve at matched L0.",
    {
        **_SETTING,
        "at_l0": (pl.Float64, "the L0 that the curve was read at; null for a setting's own row"),
        "l0": (pl.Float64, "mean L0 on test over the seeds"),
        **_MEASURED,
        **_NAME,
        "value": (pl.Float64, "mean over seeds; null with a reason"),
        "low": (pl.Float64, "95% Student interval over seeds, lower end; null for one seed"),
        "high": (pl.Float64, "upper end"),
        "n": (pl.Int64, "seeds, failures included"),
        "n_failed": (pl.Int64, "seeds without a value, or whose curve does not reach that L0"),
        "better": (pl.String, "higher, lower, or neither"),
        "reason": (pl.String, "why the value is null, or a caveat"),
    },
    ("label", "d_sae", "sparsity", "at_l0", *MEASURED),
    named,
)
TABLES: dict[str, Table] = {
    **OF_STAGES,
    **{table.name: table for table in (SCORES, REPORT, DIFFERENCES, REPLICATES, CELLS, COMPARISON)},
}
"""Every table of the product, by name."""
