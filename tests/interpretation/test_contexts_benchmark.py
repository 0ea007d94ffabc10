"""The benchmark of contexts in small, and what it is there to show: more text, and no more held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import contexts as benchmark
from components.interpretation import activity, searched
from components.interpretation.contexts import cut_splits
from components.interpretation.tiling import ContextsConfig
from components.interpretation.windows import Vocabulary
from components.store.shards import ActivationShards, CodeShards

D_SAE = 48


def test_the_benchmark_gathers_contexts_of_every_latent(tmp_path: Path) -> None:
    found = benchmark.measured(tmp_path, 40_000, D_SAE, timed=8192)
    assert found["latents"] == D_SAE and found["tokens"] == 40_000
    assert found["windows"] > 100 * (D_SAE - found["skipped"])
    assert found["seconds"] > 0 and found["forward_seconds"] > 0 and found["encoder_seconds"] > 0
    beside = found["forward_seconds"] + found["encoder_seconds"]
    assert found["times"] == pytest.approx(found["seconds"] / beside)
    assert 0 <= found["memory_mb"] < 1000


def bytes_held(folder: Path, n_tokens: int) -> int:
    activations, encoded = benchmark.shards(folder, n_tokens, D_SAE)
    vocabulary = Vocabulary([f" w{number}" for number in range(benchmark.VOCABULARY)])
    cut = cut_splits(ActivationShards(activations), vocabulary, ContextsConfig())
    found = activity.read(CodeShards(encoded), cut["explain"], np.arange(D_SAE), 0)
    kept = (found.strongest, found.sample, found.weighted)
    arrays = [column for each in kept for column in (each.offsets, each.row, each.value)]
    return sum(array.nbytes for array in (*arrays, found.offsets, found.place))


def test_what_a_pass_keeps_grows_with_the_latents_and_not_with_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searched, "SEARCHED", 200)
    few, more = (bytes_held(tmp_path / str(n), n) for n in (40_000, 120_000))
    assert few > 50_000
    assert more < 1.1 * few


def test_the_benchmark_gathers_them_from_the_running_model(tmp_path: Path) -> None:
    found = benchmark.measured(tmp_path, 12_000, D_SAE, timed=0, sampled=12, from_model=True)
    assert found["latents"] == 12 and found["windows"] > 100 * (12 - found["skipped"])
    assert found["seconds_passes"] > 0 and found["seconds_statistics"] > 0
    assert not list(tmp_path.rglob("[0-9]*.safetensors"))
