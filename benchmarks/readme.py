"""Writes the result table of the README from the latest report in the store; nothing in it is typed by hand.

python benchmarks/readme.py
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from components.store.artifact import Artifact, Store  # noqa: E402
from components.store.report import against_us  # noqa: E402
from components.store.tables import REPORT  # noqa: E402
from flows import environment  # noqa: E402

BEGIN, END = "<!-- result -->", "<!-- end of result -->"
KINDS = ("all", "surface", "contextual", "document")
PLAIN = {
    "evaluate.fvu": "fraction of variance unexplained (FVU)",
    "evaluate.l0": "active latents a token (L0)",
    "evaluate.dead_share": "share of dead latents",
    "evaluate.loss_recovered.mean_ablation": "loss recovered, against mean ablation",
    "evaluate.cross_entropy_rise": "rise of cross-entropy, nats a token",
    "interpret.log_odds.detection": "explanation, detection AUROC",
    "interpret.log_odds.simulation": "explanation, simulation r",
    "steer.add_direction.kl_0.1.composite": "steering by a latent, composite of gain and fluency",
    "steer.add_direction.kl_0.1": "steering by a latent, uplift alone",
    "steer.add_direction.kl_0.1.fluency": "steering by a latent, fluency",
    "steer.untrained.kl_0.1.composite": "steering by a latent of the untrained dictionary, composite",
    "steer.add_direction.kl_0.1.over_untrained": "the difference of the two, by concept",
    "steer.add_direction.kl_0.1.share_above_random": "steering by a latent, share above the largest Gaussian",
    "steer.add_direction.kl_0.1.cost": "steering by a latent, KL on other neutral text, nats a token",
    "steer.add_direction.kl_0.1.cost_written_reverse": "steering by a latent, KL(steered, plain) on the steered text",
    "steer.mean_difference.kl_0.1.composite": "steering by mean difference, composite of gain and fluency",
    "steer.mean_difference.kl_0.1": "steering by mean difference, uplift alone",
    "steer.mean_difference.kl_0.1.fluency": "steering by mean difference, fluency",
    "steer.mean_difference.kl_0.1.share_above_random": "steering by mean difference, share above the largest Gaussian",
    "steer.mean_difference.kl_0.1.cost": "steering by mean difference, KL on other neutral text, nats a token",
    "steer.mean_difference.kl_0.1.cost_written_reverse": "steering by mean difference, KL(steered, plain) on the steered text",
}
UNITS = {"latent": "latents", "untrained": "untrained dictionary", "neuron": "raw neurons", "probe": "linear probe"}


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 0.9995 or value > 1.0005 else f"{value:.4f}"


def interval(row: dict) -> str:
    return (
        f"{number(row['value'])} ({number(row['low'])} to {number(row['high'])})"
        if row["low"] is not None
        else number(row["value"])
    )


def result(report: Artifact) -> str:
    frame = REPORT.read(report)
    rows = {(row["name"], row["concept_kind"]): row for row in frame.to_dicts()}
    train = Store(report.folder.parent.parent).get(**report.manifest["inputs"]["train"])
    some = next(iter(rows.values()))
    lines = [
        f"What `make demo` prints, in short (dictionary `{some['dictionary']}` at `{some['hook_point']}`, one training seed, "
        f"{train.facts['tokens'] / 1e6:.1f} M tokens; test split, 95% intervals):",
        "",
        "| measure | value | n | baseline |",
        "|---|---|---|---|",
    ]
    for name, plain in PLAIN.items():
        for kind in (None, *KINDS):
            row = rows.get((name, kind))
            if row is None or (kind not in (None, "document") and name.startswith("steer")):
                continue
            what = plain + (f" ({kind} concepts)" if kind else "")
            baseline = "" if row["baseline"] is None else f"{number(row['baseline'])} {row['baseline_name']}"
            lines.append(f"| {what} | {interval(row)} | {row['n']} {row['unit_of_replication']}s | {baseline} |")
    gate = rows["steer.gate.passed", "all"]
    lines += ["", f"Steering: {gate['reason']}; of these {round(gate['value'] * gate['n'])} are steered and judged."]
    lines += [
        "",
        "Concepts found: of those that a linear probe decodes, the share for which the unit chosen on one split reaches an",
        "average precision of 0.8 on another, at natural density.",
        "",
    ]
    lines += ["| unit | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
    for unit, plain in UNITS.items():
        cells = []
        for kind in KINDS:
            row = rows[f"evaluate.concepts_found.{unit}", kind]
            cells.append(f"{round(row['value'] * row['n'])} of {row['n']}" if row["value"] is not None else "–")
        lines.append(f"| {plain} | {' | '.join(cells)} |")
    against = against_us(frame)
    lines += ["", "What came out against us:" if against else "Nothing came out against us.", ""]
    lines += [f"- {sentence}" for sentence in against]
    return "\n".join(lines)


def main() -> None:
    reports = sorted(
        Store(environment.store()).artifacts("report"), key=lambda artifact: artifact.manifest["made"]["at"]
    )
    if not reports:
        sys.exit("no report in the store; `make demo` makes one")
    readme = REPOSITORY / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if END in rest else rest
    readme.write_text(f"{before}{BEGIN}\n\n{result(reports[-1])}\n\n{END}{after}")


if __name__ == "__main__":
    main()
