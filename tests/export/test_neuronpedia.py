"""Neuronpedia's folder of an invented experiment: which language model wrote an explanation."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from components.dictionary.architectures.topk import TopK, TopKConfig
from components.export.contract import Findings, export
from components.export.targets.neuronpedia import Neuronpedia
from components.store.artifact import Store
from components.store.tables import CALLS, EXPLANATIONS, WRITERS
from tests.dashboards.conftest import curve, interpretation, make, written

D_SAE, HOOK = 64, "resid_post.2"


@pytest.mark.parametrize("sample", [0, 1])
def test_each_explanation_names_the_model_that_wrote_it(tmp_path: Path, sample: int) -> None:
    store = Store(tmp_path / "artifacts")
    whole = written(store, d_sae=D_SAE).artifacts
    said: dict[tuple[int, str], str | None] = {}

    def trained(folder: Path, random: np.random.Generator) -> None:
        curve(folder, random)
        dictionary = TopK(TopKConfig(d_sae=D_SAE, k=4), (HOOK,), (HOOK,), {HOOK: 32})
        rows = {HOOK: torch.randn(256, 32, generator=torch.Generator().manual_seed(0))}
        dictionary.begin(rows, torch.Generator().manual_seed(0))
        dictionary.save(folder)

    def interpreted(folder: Path, random: np.random.Generator) -> None:
        interpretation(D_SAE)(folder, random)
        texts = pl.read_parquet(folder / EXPLANATIONS.file).drop_nulls("explanation")
        both = list(texts.select("latent", "explainer").iter_rows())
        # two models mix, one of whose servers tells no fingerprint; the last was written by none
        served = [f"judge-{n % 2}" + " (fp_a)" * (n % 2) for n in range(len(both) - 1)]
        said.update(dict(zip(both, [s.partition(" ")[0] for s in served] + [None], strict=True)))
        WRITERS.write(
            folder,
            [
                {"latent": latent, "explainer": by, "served": model, "call": str(n)}
                for n, ((latent, by), model) in enumerate(zip(both[:-1], served, strict=True))
            ],
        )
        latent, by = both[0]
        label = f"explain {by}, latent {latent}"
        CALLS.write(folder, [{"call": "0", "label": label, "served_model": "judge-0"}] * sample)

    corpus, activations = whole["read"], whole["capture"]
    facts = whole["train"].facts
    train = make(store, "train", {"activations": activations}, facts, trained, name="saved")
    given = {"corpus": corpus, "activations": activations, "codes": whole["encode"]}
    interpret = make(store, "interpret", given, {}, interpreted, name=f"asked {sample}")
    findings = Findings(store, whole | {"train": train, "interpret": interpret}, "test")
    export(Neuronpedia(), findings, tmp_path / "out", list(range(D_SAE)))
    rows = [
        json.loads(line)
        for path in sorted((tmp_path / "out").glob("*/*/explanations/*.gz"))
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()
    ]
    named = {(int(row["index"]), row["typeName"]): row["explanationModelName"] for row in rows}
    assert len(set(said.values())) == 3 and named == said
