"""The stage `compare`: the scores of a sweep's dictionaries -> one table with intervals over seeds,
at matched L0.

Equal coefficients are not equal sparsities, so architectures are compared at equal L0: for each
seed the scores of one label and width are a curve over the L0 that its dictionaries have on test,
read at the wanted L0 by straight lines in log L0 between neighbouring points. Nothing is
extrapolated: a curve that does not reach an L0 has no value there, with the range that it covers as
the reason. Intervals are Student's over seeds.

Seed stability is measured here, where several seeds meet: latents of two dictionaries are matched
one to one so that the summed cosine of their decoder directions is largest (Hungarian method), and
a dictionary's stability is the mean matched cosine with each other seed of its setting. Twins of
one dictionary (cosine above 0.95) count once, dead latents count. Stabilities of a setting share
pairs, so the interval over seeds is too narrow; the table says so. Source: Paulo & Belrose 2025
(arXiv:2501.16615).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from components.config import Config
from components.device import Execution
from components.dictionary.contract import Dictionary
from components.report.measure import Measure, Measures
from components.report.report import scores_of
from components.report.scores import bounded
from components.report.tables import CELLS, COMPARISON, MEASURED, SETTING
from components.statistics import Interval, t_interval
from components.store.artifact import Artifact
from components.store.stage import Inputs, Progress, Stage, Work

STABILITY = Measure(
    "stability",
    "Seed stability",
    "cosine",
    "Mean cosine of decoder directions matched one to one with those of another training seed.",
    rank=7,
    least=-1,
    most=1,
    short="seed stability",
)
SHARED_PAIRS = "seeds share pairs: the interval is too narrow"
TWINS = 0.95
"""Cosine above which two decoder directions of one dictionary count as the same."""
MOST_MATCHED = 16_384
"""Latents up to which dictionaries are matched; beyond, the table of cosines alone is a
gibibyte."""
IS_L0 = (pl.col("stage") == "evaluate") & (pl.col("measure") == "l0")


class Compared(Config):
    """One dictionary of the comparison; its artifacts are the inputs train.<number> and
    evaluate.<number>."""

    label: str
    """What the sweep calls it."""
    sparsity_name: str | None = None
    """The option that sets its sparsity."""
    sparsity: float | None = None
    """That option's value."""
    seed: int = 0
    """Its training seed."""
    is_baseline: bool = False
    """Whether it was run once."""


class CompareConfig(Config):
    """Which dictionaries stand beside one another."""

    cells: tuple[Compared, ...] = ()
    """The dictionaries."""
    at_l0: tuple[float, ...] = (16.0, 32.0, 64.0)
    """Numbers of active latents a token at which curves are read."""


def make(folder: Path, config: CompareConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes cells.parquet and comparison.parquet."""
    rows: list[dict[str, Any]] = []
    for number, cell in enumerate(config.cells):
        rows += _rows(cell, inputs[f"train.{number}"], inputs[f"evaluate.{number}"])
    done = 0
    same = _same_setting(config.cells, inputs)
    for numbers in same:
        trained = {number: inputs[f"train.{number}"] for number in numbers}
        for number, (value, reason) in stabilities(trained).items():
            cell, artifact = config.cells[number], trained[number]
            row = {
                "stage": COMPARE.name,
                "measure": STABILITY.name,
                "role": "entry",
                "value": value,
                "reason": reason,
            }
            row |= {"n": len(numbers) - 1 if value is not None else 0, "better": STABILITY.better}
            row |= {"hook_point": artifact.facts["hook_point"]}
            rows.append(
                _setting(cell, artifact) | row | _keys(artifact, inputs[f"evaluate.{number}"])
            )
        done += len(numbers)
        yield Progress(done, len(config.cells), "dictionaries", "matching seeds")
    cells = CELLS.write(folder, rows)
    declared = Measures.read(*(inputs[f"evaluate.{number}"] for number in range(len(config.cells))))
    measures = Measures({**declared, (COMPARE.name, STABILITY.name): STABILITY})
    both = pl.concat([over_seeds(cells), *(at_l0(cells, level) for level in config.at_l0)])
    frame = COMPARISON.write(folder, bounded(COMPARISON.frame(both), measures))
    return {
        "labels": cells["label"].unique(maintain_order=True).to_list(),
        "n_dictionaries": len(config.cells),
        "n_seeds": cells["seed"].n_unique(),
        "n_scores": frame.height,
        **measures.facts(),
    }


COMPARE = Stage("compare", version=4, make=make, computes=False)


def stabilities(trained: Mapping[int, Artifact]) -> dict[int, tuple[float | None, str | None]]:
    """For each dictionary of one setting its mean matched cosine with each other; or why there is
    none."""
    if len(trained) < 2:
        return dict.fromkeys(trained, (None, "one seed only"))
    sizes = {artifact.facts["d_sae"] for artifact in trained.values()}
    if max(sizes) > MOST_MATCHED:
        return dict.fromkeys(
            trained, (None, f"{max(sizes)} latents are more than are matched ({MOST_MATCHED})")
        )
    directions = {
        number: merged(Dictionary.load(artifact).decoder_directions())
        for number, artifact in trained.items()
    }
    numbers, found = list(directions), {number: [] for number in directions}
    for i, one in enumerate(numbers):
        for other in numbers[i + 1 :]:
            cosine = matched_cosine(directions[one], directions[other])
            found[one].append(cosine)
            found[other].append(cosine)
    return {number: (float(np.mean(cosines)), None) for number, cosines in found.items()}


def merged(directions: Float[Tensor, "row d_in"]) -> Float[Tensor, "distinct d_in"]:
    """Rows of norm 1, twins once: a row that has a cosine above TWINS with an earlier one is left
    out.

    Matching one to one rewards twins: a dictionary that says the same thing many times finds a
    partner for each.
    """
    rows = torch.nn.functional.normalize(directions.double(), dim=1)
    kept: list[int] = []
    for number in range(len(rows)):
        if not kept or (rows[kept] @ rows[number]).max() <= TWINS:
            kept.append(number)
    return rows[kept]


def matched_cosine(one: Float[Tensor, "row d_in"], other: Float[Tensor, "row2 d_in"]) -> float:
    """Mean cosine of rows matched one to one, so that it is largest, over the larger of the two
    numbers of rows.

    A zero row has cosine 0 with all, and so has a row that finds no partner.
    """
    # here: a third of a second that describing the flows need not wait for
    from scipy.optimize import linear_sum_assignment

    normal = torch.nn.functional.normalize
    cosine = (normal(one.double(), dim=1) @ normal(other.double(), dim=1).T).cpu().numpy()
    return float(cosine[linear_sum_assignment(cosine, maximize=True)].sum() / max(cosine.shape))


def over_seeds(cells: pl.DataFrame) -> pl.DataFrame:
    """Mean and interval over seeds of every score of every setting."""
    l0 = cells.filter(IS_L0).group_by(SETTING).agg(pl.col("value").mean().alias("l0"))
    rows = []
    for key, part in cells.group_by([*SETTING, *MEASURED], maintain_order=True):
        reasons = part["reason"].drop_nulls().unique(maintain_order=True).to_list()
        row = dict(zip((*SETTING, *MEASURED), key, strict=True)) | {"better": part["better"][0]}
        rows.append(row | _interval(part["value"], reasons, row["measure"]))
    frame = pl.DataFrame(rows, schema_overrides=dict(COMPARISON.schema), infer_schema_length=None)
    return COMPARISON.frame(frame.join(l0, on=SETTING, how="left", nulls_equal=True))


def at_l0(cells: pl.DataFrame, level: float) -> pl.DataFrame:
    """Mean and interval over seeds of every score of every curve at one L0."""
    curve = [name for name in SETTING if name != "sparsity"]
    own = cells.filter(IS_L0).select(*SETTING, "seed", l0=pl.col("value"))
    points = cells.filter(~pl.col("is_baseline"), ~IS_L0)
    points = points.join(own, on=[*SETTING, "seed"], how="inner", nulls_equal=True)
    rows = []
    for key, part in points.group_by([*curve, *MEASURED], maintain_order=True):
        values, ranges = [], []
        for _, seed in part.group_by("seed", maintain_order=True):
            known = seed.drop_nulls("value")
            values.append(interpolate(known["l0"].to_list(), known["value"].to_list(), level))
            ranges += known["l0"].to_list()
        row = dict(zip((*curve, *MEASURED), key, strict=True)) | {
            "better": part["better"][0],
            "at_l0": level,
            "l0": level,
        }
        span = (
            f"the curves run from L0 {min(ranges):.3g} to {max(ranges):.3g}"
            if ranges
            else "no value on any curve"
        )
        rows.append(
            row
            | _interval(
                pl.Series(values, dtype=pl.Float64),
                [f"{span}; nothing is extrapolated"],
                row["measure"],
            )
        )
    return COMPARISON.frame(
        pl.DataFrame(rows, schema_overrides=dict(COMPARISON.schema), infer_schema_length=None)
    )


def interpolate(l0: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """The value at an L0, on straight lines in log L0 between neighbouring points; None outside
    them."""
    points = sorted((at, value) for at, value in zip(l0, values, strict=True) if at > 0)
    for at, value in points:
        if at == level:
            return value
    for (low, below), (high, above) in itertools.pairwise(points):
        if low < level < high:
            share = np.log(level / low) / np.log(high / low)
            return float(below + share * (above - below))
    return None


def _interval(values: pl.Series, reasons: Iterable[str], measure: str) -> dict[str, Any]:
    known = values.drop_nulls()
    found: Interval = t_interval(known.to_numpy())
    why = "; ".join(reasons) or None
    caveat = SHARED_PAIRS if measure == STABILITY.name and found.low is not None else None
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": len(values),
        "n_failed": len(values) - len(known),
        "reason": (why or "no value") if len(known) < len(values) else caveat,
    }


def _rows(cell: Compared, trained: Artifact, evaluated: Artifact) -> Iterable[dict[str, Any]]:
    shared = _setting(cell, trained) | _keys(trained, evaluated)
    columns = [*MEASURED, "value", "low", "high", "n", "better", "reason"]
    return [shared | row for row in scores_of(evaluated).select(columns).to_dicts()]


def _setting(cell: Compared, trained: Artifact) -> dict[str, Any]:
    facts = {"architecture": trained.facts["architecture"], "d_sae": trained.facts["d_sae"]}
    return cell.model_dump() | facts


def _keys(trained: Artifact, evaluated: Artifact) -> dict[str, str]:
    return {"train": trained.key, "evaluate": evaluated.key}


def _same_setting(cells: Sequence[Compared], inputs: Inputs) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault(
            (cell.label, cell.sparsity, inputs[f"train.{number}"].facts["d_sae"]), []
        ).append(number)
    return list(groups.values())
