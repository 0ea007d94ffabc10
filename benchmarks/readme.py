"""Writes the result block of the README from the newest replicates in the store; nothing in it is
typed by hand.

latentflow replicate && python benchmarks/readme.py

Without replicates the newest report is written, and the block says that it is of one training seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import polars as pl  # noqa: E402

from components.report.measure import Measures, label  # noqa: E402
from components.report.order import shortened  # noqa: E402
from components.report.reasons import plain  # noqa: E402
from components.report.scores import KINDS  # noqa: E402
from components.report.sentences import Told  # noqa: E402
from components.report.tables import REPLICATES, REPORT  # noqa: E402
from components.store.artifact import Artifact, Store  # noqa: E402
from flows.stack import environment  # noqa: E402

BEGIN, END = "<!-- result -->", "<!-- end of result -->"
ROWS = 24
"""Rows of the table, the headlines first (`components.report.order`)."""
UNITS = {
    "latent": "latents",
    "untrained": "untrained dictionary",
    "neuron": "raw neurons",
    "probe": "linear probe",
}
SENTENCES = (
    ("against us", "against_us", None),
    ("for us", "for_us", 16),
    ("undecided, no difference can be told at this n", "undecided", 14),
)
"""Headings, and how many sentences of each stand here; what is against us is never cut."""


def number(value: float | None) -> str:
    """Three significant digits, four where a share is near 1."""
    if value is None:
        return "–"
    return f"{value:.4f}" if 0.9995 <= abs(value) <= 1.0005 and abs(value) != 1 else f"{value:.3g}"


def interval(row: dict) -> str:
    """Value and 95% interval."""
    ends = "" if row["low"] is None else f" ({number(row['low'])} to {number(row['high'])})"
    return number(row["value"]) + ends


def result(store: Store, replicates: Artifact | None, reports: list[Artifact]) -> str:
    """The whole block.

    Args:
        store: where the train artifact lies.
        replicates: the table over seeds; None for the one report.
        reports: the report of each seed.
    """
    frame = REPORT.read(reports[0]) if replicates is None else REPLICATES.read(replicates)
    measures = Measures.read(replicates or reports[0])
    train = store.get(**reports[0].manifest["inputs"]["train"])
    seeds = [] if replicates is None else replicates.facts["seeds"]
    how = (
        f"mean and 95% interval over {len(seeds)} training seeds"
        if seeds
        else "one training seed, 95% intervals"
    )
    lines = [
        f"What `{'latentflow replicate' if seeds else 'make demo'}` prints, in short (dictionary "
        f"`{train.facts['name']}` at `{train.facts['hook_point']}`, "
        f"{train.facts['tokens'] / 1e6:.1f} M tokens; test split, {how}):",
        "",
        "| measure | "
        + ("mean | " + " | ".join(f"seed {seed}" for seed in seeds) if seeds else "value")
        + " | n | baseline |",
        "|---|---|" + "---|" * len(seeds) + "---|---|",
    ]
    for row in shortened(frame, measures, ROWS).to_dicts():
        known = measures.of(row)
        what = label(known, row) + (
            f" ({row['concept_kind']} concepts)" if row["concept_kind"] else ""
        )
        n = row["n_items"] if seeds else row["n"]
        baseline = (
            "" if row["baseline"] is None else f"{number(row['baseline'])} {row['baseline_name']}"
        )
        cells = [what + (f", {known.unit}" if known.unit else ""), interval(row)]
        cells += map(number, row["values"]) if seeds else []
        cells += [f"{n} {row['unit_of_replication']}s", baseline]
        lines.append(f"| {' | '.join(map(plain, cells))} |")
    told = Told.of(reports[0])
    if told.training:
        lines += ["", plain(told.training) + "."]
    lines += concepts(REPORT.read(reports[0]), seeds)
    of = f" (training seed {seeds[0]})" if seeds else ""
    for heading, name, most in SENTENCES:
        sentences = getattr(told, name)
        lines += [
            "",
            f"What came out {heading}{of}:" if sentences else f"Nothing came out {heading}{of}.",
            "",
        ]
        lines += [f"- {plain(sentence)}" for sentence in sentences[:most]]
        if most is not None and len(sentences) > most:
            lines.append(f"- {len(sentences) - most} more: `latentflow report --all`")
    return "\n".join(lines).rstrip()


def concepts(frame: pl.DataFrame, seeds: list[int]) -> list[str]:
    """The table of concepts found, by kind of concept and of unit; nothing where none was
    measured."""
    measured = frame.filter(pl.col("measure") == "concepts_found", pl.col("value").is_not_null())
    rows = {(row["subject"], row["concept_kind"]): row for row in measured.to_dicts()}
    kinds = [kind for kind in KINDS if any(of == kind for _, of in rows)]
    if not rows:
        return []
    of = f" (training seed {seeds[0]})" if seeds else ""
    lines = ["", f"Concepts found{of}, of those that a linear probe decodes:", ""]
    lines += ["| unit | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for unit, called in UNITS.items():
        found = [rows.get((unit, kind)) for kind in kinds]
        cells = [f"{round(row['value'] * row['n'])} of {row['n']}" if row else "–" for row in found]
        lines.append(f"| {called} | {' | '.join(cells)} |")
    return lines


def newest(store: Store, stage: str) -> Artifact | None:
    """The artifact of a stage that was made last."""
    return max(store.artifacts(stage), key=lambda artifact: artifact.age, default=None)


def main() -> None:
    """Writes the block between its marks."""
    store = Store(environment.store())
    replicates, report = newest(store, "replicate"), newest(store, "report")
    if report is None:
        sys.exit(
            "no report in the store; `make demo` makes one, `latentflow replicate` one for each "
            "of three training seeds"
        )
    reports = (
        [report]
        if replicates is None
        else [store.get("report", key) for key in replicates.facts["reports"]]
    )
    readme = REPOSITORY / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if END in rest else rest
    readme.write_text(
        f"{before}{BEGIN}\n\n{result(store, replicates, reports)}\n\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
