"""Neuronpedia's bulk folder: JSON lines, those of latents compressed, as its importer reads them.

    <model>/<layer>-<set>/   release.jsonl model.jsonl sourceset.jsonl source.jsonl   (a row each)
                             features/ activations/ explanations/   batch-N.jsonl.gz
                             scores.jsonl.gz notes.jsonl.gz ratings.jsonl.gz          (ours)

Source: the folder that Neuronpedia's importer and SAEDashboard's converter read and write; the
names of fields are theirs. The importer takes no scores, so they lie in a file of ours beside, and so do people's notes; a
label that somebody typed is an explanation without a method, as one typed there is. What
no stage computes is [] or absent: histograms of logits, correlations, `decoder_weights_dist`.
Silent windows are left out: an activation there has at least one token above 0. An interval holds
the share `binContains` of a latent's active windows; -1 in `binMin`, `binMax` and `binContains`
marks the strongest windows, as SAEDashboard has it. How many layers the model has is not kept, so
`layers` is 0, SAEDashboard's default.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, SupportsFloat

import numpy as np
import polars as pl

from components.export.contract import Findings, Target, targets
from components.model.hook_point import lens_name
from components.store.artifact import Artifact
from components.store.notes import Notes
from components.store.tables import (
    CONTEXTS,
    EXPLANATION_SCORES,
    EXPLANATIONS,
    NEIGHBOURS,
    WRITERS,
)

LONGEST = 512
"""Characters of an explanation that Neuronpedia takes; `interpret.longest` allows no more."""
BATCH = 256
"""Latents of a file."""
ALIGNED = 3
INTERVALS = 10
"""Tenths of a latent's active windows by their largest activation: interpret draws from each."""
FEATURE = (
    "modelId", "layer", "index", "sourceSetName", "maxActApprox", "hasVector", "vector",
    "vectorDefaultSteerStrength", "hookName", "frac_nonzero", "pos_str", "pos_values", "neg_str",
    "neg_values", "freq_hist_data_bar_heights", "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "neuron_alignment_indices",
    "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
    "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices",
    "correlated_features_pearson", "correlated_features_l1", "topkCosSimIndices",
    "topkCosSimValues", "decoder_weights_dist", "createdAt",
)  # fmt: skip
ACTIVATION = (
    "id", "modelId", "layer", "index", "tokens", "values", "maxValue", "maxValueTokenIndex",
    "minValue", "binMin", "binMax", "binContains", "qualifyingTokenIndex", "dataSource", "createdAt",
)  # fmt: skip
EXPLANATION = (
    "id", "modelId", "layer", "index", "description", "typeName", "explanationModelName", "notes",
    "createdAt",
)  # fmt: skip


@targets
class Neuronpedia(Target):
    """Features, activations and explanations as Neuronpedia's importer reads them."""

    about: ClassVar[str] = "Neuronpedia's bulk folder"

    def write(self, findings: Findings, folder: Path, latents: Sequence[int] | None) -> None:
        """Writes `<model>/<layer>-<set>/` below the folder, a batch of latents at a time."""
        place = _Place(findings)
        inside = folder / place.model / place.layer
        inside.mkdir(parents=True)
        for name, row in place.rows().items():
            (inside / f"{name}.jsonl").write_text(_line(row) + "\n", encoding="utf-8")
        numbers = np.arange(findings.d_sae) if latents is None else np.array(latents)
        directions = _directions(findings)
        for number, start in enumerate(range(0, len(numbers), BATCH)):
            some = numbers[start : start + BATCH].tolist()
            for name, rows in (
                ("features", _features(findings, place, some, directions)),
                ("activations", _activations(findings, place, some)),
                ("explanations", _explanations(findings, place, some)),
            ):
                _write(inside / name / f"batch-{number}.jsonl.gz", rows)
        interpret = findings.artifacts.get("interpret")
        if interpret is not None:
            wanted = pl.col("latent").is_in(numbers.tolist())
            scores = EXPLANATION_SCORES.scan(interpret).filter(wanted).sort(EXPLANATION_SCORES.key)
            _write(inside / "scores.jsonl.gz", scores.collect().iter_rows(named=True))
        notes, wanted = place.notes, pl.col("latent").is_in(numbers.tolist())
        _write(inside / "notes.jsonl.gz", notes.notes().filter(wanted).to_dicts())
        _write(inside / "ratings.jsonl.gz", notes.ratings().filter(wanted).to_dicts())


class _Place:
    """What the rows of one dictionary share.

    Attributes:
        model: name of the model.
        layer: `<layer>-<set>`, the source.
        made: when the codes were made.
    """

    def __init__(self, findings: Findings) -> None:
        facts, encode = findings.artifacts["train"].facts, findings.artifacts["encode"]
        point = encode.facts["hook_point"]
        kind, _, block = point.partition(".")
        self.number = int(block) if block.isdecimal() else 0
        self.set = _name(f"{kind if block.isdecimal() else point}-{facts['name']}")
        self.model, self.layer = _name(findings.model), f"{self.number}-{self.set}"
        self.made, self.hook = encode.manifest["made"]["at"], lens_name(point)
        self.split, self.dictionary = findings.split, findings.artifacts["train"].key
        self.about = f"Dictionary {facts['name']} at {point}, {facts['d_sae']} latents"
        self.notes = Notes(findings.store, self.dictionary)
        corpus = findings.artifacts.get("read")
        self.dataset = (corpus.config.get("corpus") or {}).get("kind") if corpus else None

    def shared(self, latent: int) -> dict[str, Any]:
        """What every row of a latent begins with."""
        return {"modelId": self.model, "layer": self.layer, "index": str(latent)}

    def rows(self) -> dict[str, dict[str, Any]]:
        """The files of one row, without whoever publishes them (`creatorId`), who alone knows
        that."""
        release = f"latentflow-{self.model}-{self.dictionary[:12]}"
        made = {"createdAt": self.made}
        return {
            "release": {"name": release, "description": self.about, "descriptionShort": self.about, "urls": [],
                        "visibility": "PUBLIC", "defaultSourceSetName": self.set, "defaultSourceId": self.layer, **made},
            "model": {"id": self.model, "displayName": self.model, "displayNameShort": self.model, "instruct": False,
                      "visibility": "PUBLIC", "inferenceEnabled": False, "layers": 0,
                      "defaultSourceSetName": self.set, "defaultSourceId": self.layer, "updatedAt": self.made, **made},
            "sourceset": {"modelId": self.model, "name": self.set, "description": self.about, "releaseName": release,
                          "type": "latentflow", "visibility": "PUBLIC", "hasDashboards": True, "urls": [], **made},
            "source": {"modelId": self.model, "id": self.layer, "setName": self.set, "visibility": "PUBLIC",
                       "hasDashboards": True, "inferenceEnabled": False, "dataset": self.dataset,
                       "notes": f"latentflow train/{self.dictionary}; densities of the split {self.split}", **made},
        }  # fmt: skip


def _features(
    findings: Findings, place: _Place, latents: Sequence[int], directions: np.ndarray
) -> Iterator[dict[str, Any]]:
    wanted = pl.col("latent").is_in(latents)
    near = NEIGHBOURS.scan(findings.artifacts["encode"]).filter(wanted).sort("latent", "rank")
    nearest = dict(near.collect().partition_by("latent", as_dict=True).items())
    empty: list[Any] = []
    for row in findings.latents().filter(wanted).sort("latent").collect().iter_rows(named=True):
        latent, top = row["latent"], row["maximum"] or 0.0
        direction = directions[latent]
        largest = np.argsort(-np.abs(direction), kind="stable")[:ALIGNED]
        neighbours = nearest.get((latent,))
        width = top / max(1, len(row["histogram"] or ()))
        values = {
            **place.shared(latent),
            "sourceSetName": place.set,
            "maxActApprox": top,
            "hasVector": True,
            "vector": [_short(value) for value in direction],
            "vectorDefaultSteerStrength": top,
            "hookName": place.hook,
            "frac_nonzero": row["density"],
            "pos_str": row["promoted"] or empty,
            "pos_values": row["promoted_logits"] or empty,
            "neg_str": row["suppressed"] or empty,
            "neg_values": row["suppressed_logits"] or empty,
            "freq_hist_data_bar_heights": (row["histogram"] or empty) if top else empty,
            "freq_hist_data_bar_values": [
                _short((number + 0.5) * width) for number in range(len(row["histogram"] or ()))
            ]
            if top
            else empty,
            "neuron_alignment_indices": largest.tolist(),
            "neuron_alignment_values": [_short(value) for value in direction[largest]],
            "neuron_alignment_l1": [
                _short(value / max(np.abs(direction).sum(), 1e-30))
                for value in np.abs(direction[largest])
            ],
            "topkCosSimIndices": empty if neighbours is None else neighbours["neighbour"].to_list(),
            "topkCosSimValues": empty if neighbours is None else neighbours["cosine"].to_list(),
            "createdAt": place.made,
        }
        yield {name: values.get(name, empty) for name in FEATURE}


def _activations(
    findings: Findings, place: _Place, latents: Sequence[int]
) -> Iterator[dict[str, Any]]:
    interpret = findings.artifacts.get("interpret")
    if interpret is None or CONTEXTS.file not in interpret.files:
        return
    active = (pl.col("role") != "silent") & (pl.col("maximum") > 0)
    of = CONTEXTS.scan(interpret).filter(pl.col("latent").is_in(latents), active)
    reach = pl.col("maximum").min().over("latent", "role", "quantile").alias("from")
    most = pl.col("maximum").max().over("latent", "role", "quantile").alias("to")
    rows = of.with_columns(reach, most).sort(
        "latent", "maximum", "window", descending=[False, True, False]
    )
    for row in rows.collect().iter_rows(named=True):
        at = int(np.argmax(row["activations"]))
        top = row["role"] == "top"
        yield {
            "id": f"{interpret.key[:12]}-{row['latent']:x}-{row['window']:x}",
            **place.shared(row["latent"]),
            "tokens": row["tokens"],
            "values": [_short(value) for value in row["activations"]],
            "maxValue": _short(row["maximum"]),
            "maxValueTokenIndex": at,
            "minValue": _short(min(row["activations"])),
            "binMin": -1 if top else _short(row["from"]),
            "binMax": -1 if top else _short(row["to"]),
            "binContains": -1 if top else 1 / INTERVALS,
            "qualifyingTokenIndex": at,
            "dataSource": f"{row['split']}, document {row['document']}",
            "createdAt": place.made,
        }


def _explanations(
    findings: Findings, place: _Place, latents: Sequence[int]
) -> Iterator[dict[str, Any]]:
    typed = place.notes.notes().filter(
        pl.col("latent").is_in(latents), pl.col("label").is_not_null()
    )
    for row in typed.iter_rows(named=True):
        yield {
            "id": f"{place.dictionary[:12]}-{row['latent']:x}-by-{_name(row['author'])}",
            **place.shared(row["latent"]),
            "description": row["label"],
            "typeName": None,
            "explanationModelName": None,
            "notes": f"typed by {row['author'] or 'a person'}",
            "createdAt": row["at"],
        }
    interpret = findings.artifacts.get("interpret")
    if interpret is None:
        return
    of = EXPLANATIONS.scan(interpret).filter(
        pl.col("latent").is_in(latents), pl.col("explanation").is_not_null()
    )
    models = _models(interpret)
    for row in of.sort("latent", "explainer").collect().iter_rows(named=True):
        assert len(row["explanation"]) <= LONGEST, "interpret.longest allows no more"
        yield {
            "id": f"{interpret.key[:12]}-{row['latent']:x}-{row['explainer']}",
            **place.shared(row["latent"]),
            "description": row["explanation"],
            "typeName": row["explainer"],
            "explanationModelName": models.get((row["latent"], row["explainer"])),
            "notes": f"latentflow interpret/{interpret.key}",
            "createdAt": interpret.manifest["made"]["at"],
        }


def _models(interpret: Artifact) -> dict[tuple[int, str], str]:
    """Latent and explainer -> the model that wrote that explanation, without the fingerprint of its
    server."""
    if WRITERS.file not in interpret.files:
        return {}
    written = WRITERS.read(interpret).drop_nulls("served")
    return {
        # `served` is "model (fingerprint)", or the model alone where the server tells none
        (row["latent"], row["explainer"]): re.sub(r" \([^()]*\)$", "", row["served"])
        for row in written.iter_rows(named=True)
    }


def _directions(findings: Findings) -> np.ndarray:
    """Decoder directions, in activation units."""
    from components.dictionary.contract import Dictionary

    return Dictionary.load(findings.artifacts["train"]).decoder_directions().float().cpu().numpy()


def _short(value: SupportsFloat) -> float:
    """Six significant digits: what float32 bears, in fewer bytes."""
    return float(f"{float(value):.6g}")


def _name(text: str) -> str:
    """A name that may stand in an address and in a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one row a line, compressed; nothing where there are none. The same rows are the same
    bytes."""
    lines = iter(rows)
    first = next(lines, None)
    if first is None:
        return
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        file.write((_line(first) + "\n").encode())
        for row in lines:
            file.write((_line(row) + "\n").encode())


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)
