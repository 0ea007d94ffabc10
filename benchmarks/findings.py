"""What a sweep found, with intervals, as docs/findings.md: `python benchmarks/findings.py [key of a
compare artifact]`.

Reads the newest comparison of the store (or the one named), chooses nothing and rounds; every
number comes from its table.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import polars as pl

from components.report import frontiers
from components.report.measure import Measures
from components.report.tables import CELLS, COMPARISON
from components.store.artifact import Artifact, Store

TO = Path(__file__).resolve().parents[1] / "docs" / "findings.md"
QUESTIONS = {
    "concepts found": "finds most concepts",
    "absorption": "absorbs least",
    "seed stability": "is most stable over seeds",
    "FVU": "reconstructs best",
    "loss recovered": "keeps most of the model's predictions",
}
"""What a measure is called for short, and the question that it answers."""


def main() -> None:
    """Writes the file and says where."""
    store = Store(os.environ.get("LATENTFLOW_STORE") or "data/artifacts")
    found = sorted(store.artifacts("compare"), key=lambda comparison: comparison.age)
    chosen = (
        [artifact for artifact in found if artifact.key.startswith(sys.argv[1])]
        if sys.argv[1:]
        else found
    )
    if not chosen:
        sys.exit(
            f"no comparison in {store.root}; run `latentflow sweep --params examples/sweep.yaml` "
            "first"
        )
    TO.write_text(document(chosen[-1], store), encoding="utf-8")
    sys.stdout.write(f"written to {TO}\n")


def document(artifact: Artifact, store: Store) -> str:
    """The whole page."""
    comparison, cells = COMPARISON.read(artifact), CELLS.read(artifact)
    facts = artifact.facts
    lines = [
        "# Findings",
        "",
        f"Written by `benchmarks/findings.py` from `compare/{artifact.key}`: "
        f"{facts['n_dictionaries']} dictionaries of {', '.join(facts['labels'])}; "
        f"{facts['n_seeds']} seeds, each replicating first values and order of tokens. Measured "
        "on the test split; intervals are 95% (Student's, over seeds). Curves are read at a "
        "matched L0 between their sparsities, never beyond them.",
        "",
        "## Who does best at equal sparsity",
        "",
    ]
    measures = Measures.read(artifact)
    best = frontiers.best(comparison, measures)
    for title, question in QUESTIONS.items():
        rows = best.filter(pl.col("measure") == title).to_dicts() if best.height else []
        lines.append(
            f"**Which {question}?** "
            + (" ".join(map(_sentence, rows)) or "Nothing was measured at a matched L0.")
        )
        lines.append("")
    lines += ["## How far this carries", "", *limits(artifact, store, comparison, measures), ""]
    lines += ["## At matched L0", "", *_table(frontiers.headline(comparison, measures)), ""]
    lines += [
        "Baselines stand at their own L0 and were run once. Empty: the curve does not reach that "
        "L0, or nothing was measured.",
        "",
        "## Every setting",
        "",
        *_table(settings(comparison, measures)),
        "",
        "## Concepts found, by kind",
        "",
        *_table(kinds(comparison)),
        "",
    ]
    if absent := reasons(cells):
        lines += ["## What was not measured", "", *absent, ""]
    return "\n".join(lines)


def limits(
    artifact: Artifact, store: Store, comparison: pl.DataFrame, measures: Measures
) -> list[str]:
    """What a reader must know before quoting an order of architectures."""
    given = artifact.manifest["inputs"]
    trained = [
        store.get("train", reference["key"])
        for role, reference in given.items()
        if role.startswith("train.")
    ]
    learnt = [one for one in trained if one.facts["lr"] is not None]
    facts = learnt[0].facts
    rates: dict[str, list[float]] = {}
    for one in learnt:
        rates.setdefault(one.facts["architecture"], []).append(one.facts["lr"])
    searched = all(one.facts["rates_tried"] for one in learnt)
    used = ", ".join(
        f"`{kind}` {min(found):.2g} to {max(found):.2g}" for kind, found in sorted(rates.items())
    )
    open_ones: dict[str, list[Artifact]] = {}
    for one in learnt:
        open_ones.setdefault(one.facts["architecture"], []).append(one)
    converged = ", ".join(
        f"`{kind}` {sum(bool(one.facts['converged']) for one in ones)} of {len(ones)}"
        for kind, ones in sorted(open_ones.items())
    )
    whole = frontiers.titled(comparison, measures)
    baselines = whole.filter(pl.col("is_baseline"), pl.col("title") == "absorption").sort("value")
    little = ", ".join(
        f"`{label}` {value:.2g}"
        for label, value in baselines.select("label", "value").head(3).iter_rows()
    )
    return [
        f"- Every dictionary saw {facts['tokens']:,} tokens, {facts['steps']:,} updates of "
        f"{facts['batch_size']:,}. Said to have converged (half of the tokens give an FVU at most "
        f"10% higher, estimated from the curve): {converged}. Of what had not, more tokens can "
        "change the order.",
        f"- Learning rates: {used}"
        + (
            "; each was searched on the split validate, three or four short runs for each "
            "dictionary, at equal cost."
            if searched
            else "; not all were searched, so another tuning can change the order."
        ),
        "- A dictionary that says little absorbs little and is easily stable: read absorption and "
        "stability beside concepts found and loss recovered. Of the baselines the least "
        f"absorption is that of {little}.",
        "- Absorption is counted where a latent more special than the concept carries it. Where "
        "only a broader latent does, the concept was not absorbed but left to its parent: that is "
        "`carried by a broader latent`, and the field's rate is the sum of both.",
        "- Where a curve falls off between two of its sparsities, values at a matched L0 between "
        "them are those of no dictionary that was trained; `Every setting` has those that were.",
        "- Intervals are over training seeds on one model and one corpus, and not corrected for "
        "the number of comparisons.",
    ]


def settings(comparison: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """Every setting with its sparsity and L0: what the charts draw."""
    rows = (
        frontiers.titled(comparison, measures)
        .filter(pl.col("at_l0").is_null())
        .with_columns(frontiers.said())
    )
    index = ["label", "d_sae", "sparsity_name", "sparsity", "l0"]
    wide = rows.pivot("title", index=index, values="said", aggregate_function="first").sort(
        "label", "d_sae", "l0"
    )
    order = rows["title"].unique(maintain_order=True).to_list()
    return wide.select(*index[:-1], pl.col("l0").round(1).alias("L0"), *order)


def kinds(comparison: pl.DataFrame) -> pl.DataFrame:
    """Share of the gated concepts of each kind that one latent finds, of each label at each matched
    L0."""
    own = pl.col("is_baseline") | pl.col("at_l0").is_not_null()
    found = (pl.col("measure") == "concepts_found") & (pl.col("role") == "entry")
    rows = comparison.filter(found, own).with_columns(frontiers.said())
    wide = rows.pivot(
        "concept_kind", index=["label", "d_sae", "l0"], values="said", aggregate_function="first"
    )
    return wide.sort("l0", "label").with_columns(pl.col("l0").round(1)).rename({"l0": "L0"})


def reasons(cells: pl.DataFrame) -> list[str]:
    """Why values are absent, each reason once with how many values it explains."""
    absent = cells.filter(pl.col("value").is_null()).group_by("name", "reason").len().sort("name")
    return [f"- `{name}`, {count} values: {reason}" for name, reason, count in absent.iter_rows()]


def _sentence(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    said = f"At L0 {row['L0']:g}: `{row['best']}`, {row['value']:.3g}{interval}"
    if row["next"] is None:
        return f"{said}; no other curve reaches that L0."
    apart = {
        True: "their intervals are apart",
        False: "their intervals meet",
        None: "without intervals",
    }[row["apart"]]
    return f"{said}, before `{row['next']}`, {row['next_value']:.3g}; {apart} ({row['compared']} compared)."


def _table(frame: pl.DataFrame) -> list[str]:
    rows = [
        [
            "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
            for value in row
        ]
        for row in frame.iter_rows()
    ]
    return [f"| {' | '.join(row)} |" for row in (frame.columns, ["---"] * frame.width, *rows)]


if __name__ == "__main__":
    main()
