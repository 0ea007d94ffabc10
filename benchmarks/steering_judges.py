"""How far each judge of steering agrees with the grammar of the embedded world, and what fools it.

    python benchmarks/steering_judges.py [--params params.yaml] [--prompts 8] [--to FILE]
    [section.field=value ...]

The stage `steer` of that experiment wrote the texts (made first, where it is not there). Here every
judge that needs no labels at hand, and the judges of labels, read the same texts after test prompts;
the grammar, which knows what each sentence says, is the truth. A row is a target, a method and a
budget: the mean over its texts, text that a judge cannot judge counting as 0. Agreement is
Spearman's rank correlation with the grammar, over all rows and within a target (mean over targets);
its interval resamples targets. A target that is a labelled concept is read back by the latent that
ranks it best on the select split.

What fools a judge is the gaming battery: tricks to which it gives as much as to real text.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from jaxtyping import Float  # noqa: E402
from scipy.stats import rankdata  # noqa: E402
from steering_pilot import _finished, _with_words  # noqa: E402

from components.dictionary.contract import Dictionary  # noqa: E402
from components.seeds import numpy_generator  # noqa: E402
from components.steering.battery import Outcome, drawn_cells, run_battery  # noqa: E402
from components.steering.config import SteerConfig  # noqa: E402
from components.steering.contract import Concept, JudgeServices  # noqa: E402
from components.steering.material import read_material, read_prompts  # noqa: E402
from components.steering.panel import Panel  # noqa: E402
from components.steering.subject import SteeredSubject  # noqa: E402
from components.steering.targeting import Ground  # noqa: E402
from components.steering.targets.labels import Labelled  # noqa: E402
from components.steering.writer import Job, Writer, continuation  # noqa: E402
from components.store import tables  # noqa: E402
from components.store.artifact import Artifact  # noqa: E402
from flows.chain import Chain  # noqa: E402
from flows.parameters import resolve  # noqa: E402

TRUTH = "grammar"
JUDGES = ["concept", "concept_masked", "readback", "meaning", "relevance", "fluency", TRUTH]
RESAMPLES = 2000
ROW = ("target", "method", "kl_budget")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of one judge with the grammar.

    Attributes:
        rows, targets: compared.
        over_all: rank correlation over all rows, with its 95% interval over targets.
        within: mean over targets of the correlation within a target, likewise.
    """

    rows: int
    targets: int
    over_all: tuple[float, float, float]
    within: tuple[float, float, float]


def main() -> None:
    """Measures, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=REPOSITORY / "params.yaml")
    parser.add_argument("--to", type=Path, default=None)
    parser.add_argument("--prompts", type=int, default=8, help="test prompts whose texts are read")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    config = resolve(list(arguments.overrides), arguments.params)
    with Chain(config, plain=True) as chain:
        values, outcomes, n_texts = _measured(chain, arguments.prompts)
    said = lines(values, outcomes, n_texts)
    sys.stdout.write("\n".join(said) + "\n")
    if arguments.to:
        arguments.to.write_text("\n".join(said) + "\n", encoding="utf-8")


def _measured(chain: Chain, n_prompts: int) -> tuple[pl.DataFrame, Sequence[Outcome], int]:
    """Rows with what every judge says in the mean, the battery, and the number of texts."""
    artifact, config = chain.artifact("steer"), chain.config
    inputs = chain.inputs("steer", config.steer)
    model = chain.model.load(config.execution)
    steer = SteerConfig.model_validate(
        config.steer.model_dump()
        | {"judges": JUDGES, "measure": "concept", "panel": [], "judge_settings": {}}
    )
    subject = SteeredSubject.read(inputs)
    ground = Ground(subject, model, inputs["codes"], steer, config.execution)
    targeted = Labelled(ground, _targets(artifact))
    writer = Writer(model, steer.max_new_tokens, steer.temperature, steer.seed, steer.batch_size)
    prompts = {
        split: read_prompts(subject.corpus, model, split, steer) for split in ("validate", "test")
    }
    n = -(-steer.band_texts // len(prompts["validate"]))
    jobs = [Job(prompt, sample) for sample in range(n) for prompt in prompts["validate"]]
    plain = _finished(writer.write(jobs))
    material = read_material(targeted, writer, prompts["validate"], plain, steer)
    material = dataclasses.replace(
        material, targets=[_with_words(chain, target) for target in material.targets]
    )
    services = JudgeServices(
        config.execution,
        steer.seed,
        model,
        Dictionary.load(chain.artifact("train")),
        chain.given("text_encoder"),
    )
    panel = Panel.fitted(steer, material, services)
    columns = [i for i, name in enumerate(material.concepts) if name not in panel.refusals()]
    cells = drawn_cells(material, columns, writer)
    unsteered = _finished(writer.write([Job(cell.prompt) for cell in cells]))
    outcomes = run_battery(panel, material, cells, unsteered, writer)

    texts = tables.GENERATIONS.read(artifact).filter(
        pl.col("split") == "test",
        pl.col("kl_budget").is_not_null() | (pl.col("method") == "prompt"),
    )
    opening = {prompt.number: prompt.text for prompt in prompts["test"][:n_prompts]}
    texts = texts.filter(pl.col("prompt").is_in(list(opening)))
    read = [
        continuation(
            row["text"] or "", row["n_tokens"], row["nll"] or 0.0, prompt=opening[row["prompt"]]
        )
        for row in texts.iter_rows(named=True)
    ]
    verdicts = panel.verdicts(read)
    column_of = {name: i for i, name in enumerate(material.concepts)}
    judged = []
    for number, row in enumerate(
        texts.select(pl.col("concept").alias("target"), *ROW[1:]).iter_rows(named=True)
    ):
        # text of a control belongs to no target, and is read for each
        for name in [row["target"]] if row["target"] else [material.concepts[i] for i in columns]:
            if name not in column_of:
                continue
            said = {judge: verdicts[judge].values[number, column_of[name]] for judge in JUDGES}
            judged.append({**row, "target": name, **said})
    refused = {judge: panel.judges[judge].refusals() for judge in JUDGES}
    frame = pl.DataFrame(judged, infer_schema_length=None).with_columns(
        pl.when(pl.col("target").is_in(list(refused[judge])))
        .then(None)
        .otherwise(pl.col(judge).fill_nan(0.0))
        .alias(judge)
        for judge in JUDGES
    )
    means = frame.group_by(ROW).agg(pl.col(JUDGES).mean()).sort(ROW)
    return means, outcomes, len(read)


def _targets(artifact: Artifact) -> list[Concept]:
    """The targets that passed the gate, each with the latent that ranks it best on select."""
    best = {
        row["concept"]: row["latent"]
        for row in tables.STRENGTHS.read(artifact)
        .filter(pl.col("method") == "add_direction", pl.col("replicate") == 0)
        .iter_rows(named=True)
    }
    passed = tables.TARGETS.read(artifact).filter(pl.col("passed"))
    return [
        Concept(row["concept"], row["concept_kind"], row["unit"], best.get(row["concept"]))
        for row in passed.iter_rows(named=True)
    ]


def agreement(rows: pl.DataFrame, judge: str) -> Agreement | None:
    """Rank correlation of a judge with the grammar; None where it judges fewer than three targets.

    Args:
        rows: one for each target, method and budget.
        judge: a column of them.
    """
    there = rows.filter(pl.col(judge).is_not_null() & pl.col(TRUTH).is_not_null())
    parts = [
        part.select(judge, TRUTH).to_numpy()
        for _, part in there.group_by("target", maintain_order=True)
    ]
    if len(parts) < 3:
        return None
    rng = numpy_generator(0, "judges", judge)
    drawn = [rng.integers(len(parts), size=len(parts)) for _ in range(RESAMPLES)]
    within = np.array([_spearman(part) for part in parts])

    def span(values: Sequence[float]) -> tuple[float, float]:
        low, high = np.nanpercentile(values, [2.5, 97.5])
        return float(low), float(high)

    return Agreement(
        there.height,
        len(parts),
        (
            _spearman(np.concatenate(parts)),
            *span([_spearman(np.concatenate([parts[i] for i in sample])) for sample in drawn]),
        ),
        (
            float(np.nanmean(within)),
            *span([float(np.nanmean(within[sample])) for sample in drawn]),
        ),
    )


def _spearman(pairs: Float[np.ndarray, "row 2"]) -> float:
    """Of two columns; NaN where one is constant."""
    ranks = np.stack([rankdata(pairs[:, 0]), rankdata(pairs[:, 1])])
    if (ranks.std(axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def lines(rows: pl.DataFrame, outcomes: Sequence[Outcome], n_texts: int) -> list[str]:
    """The table in Markdown."""
    fooled: Mapping[str, list[str]] = {
        judge: [
            each.trick for each in outcomes if each.judge == judge and each.n_cells and each.falls
        ]
        for judge in JUDGES
    }
    written = [
        f"{n_texts:,} texts after test prompts; {rows.height} rows of a target, a method and a budget.",
        "",
        "| judge | rows | targets | over all rows | within a target | tricks that it takes for real text |",
        "|---|---|---|---|---|---|",
    ]
    for judge in JUDGES:
        if judge == TRUTH:
            written.append(f"| {judge} | | | the truth | | {', '.join(fooled[judge]) or 'none'} |")
            continue
        found = agreement(rows, judge)
        if found is None:
            written.append(f"| {judge} | 0 | | judges fewer than three of these targets | | |")
            continue
        told = [
            f"{mean:.2f} ({low:.2f} to {high:.2f})"
            for mean, low, high in (found.over_all, found.within)
        ]
        written.append(
            f"| {judge} | {found.rows} | {found.targets} | {told[0]} | {told[1]} | "
            f"{', '.join(fooled[judge]) or 'none'} |"
        )
    return written


if __name__ == "__main__":
    main()
