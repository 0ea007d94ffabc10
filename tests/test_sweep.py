"""A sweep as a list of dictionaries: every one once, its sparsity by the option that its architecture declares."""

from __future__ import annotations

import pytest

from components.config import override
from components.dictionary.architectures.neurons import NeuronsConfig
from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import architectures
from components.dictionary.train import TrainConfig, stream_of
from components.errors import ConfigError, UnknownNameError
from components.experiment import ExperimentConfig
from components.sweep import SweepConfig, cells

TRAIN = TrainConfig(tokens=1000, batch_size=100)


def test_every_combination_once_and_every_baseline_once():
    chosen = {"relu": ReluConfig(d_sae=8), "topk": TopKConfig(d_sae=8, k=2), "basis": NeuronsConfig(k=3)}
    sweep = SweepConfig(
        dictionaries=chosen, widths=[64, 128], sparsities={"relu": [1, 2], "topk": [4, 8, 8]}, seeds=[3, 4], rates={"relu": 0.01}
    )  # fmt: skip
    found = cells(TRAIN, sweep)
    by_label = {label: [cell for cell in found if cell.label == label] for label in chosen}
    assert {label: len(listed) for label, listed in by_label.items()} == {"relu": 8, "topk": 8, "basis": 1}
    relu = by_label["relu"][0]
    assert (relu.sparsity_name, relu.sparsity, relu.config.lr) == ("l1", 1.0, 0.01)
    assert relu.name == "relu-64-l1=1-seed3" and len({cell.name for cell in found}) == len(found)
    topk = by_label["topk"][-1].config
    assert (topk.dictionary.k, topk.dictionary.d_sae, topk.seed, topk.lr, topk.tokens) == (8, 128, 4, None, 1000)
    assert isinstance(topk.dictionary.k, int)
    assert by_label["basis"][0].is_baseline and by_label["basis"][0].config.seed == 3


def test_without_a_word_every_architecture_takes_part_at_half_once_and_twice_its_own_sparsity():
    found = cells(TRAIN, SweepConfig(seeds=[0]))
    assert {cell.label for cell in found} == set(architectures.names())
    for name, entry in architectures.items():
        own, values = entry.config(), [cell.sparsity for cell in found if cell.label == name]
        sparsity = getattr(own, entry.sparsity, None)
        assert sparsity is not None, f"{name} declares sparsity = {entry.sparsity!r}, which its config does not have"
        assert values == ([sparsity] if entry.baseline else [sparsity / 2, sparsity, sparsity * 2])


def test_dictionaries_of_one_seed_share_a_stream_and_those_of_another_do_not():
    found = cells(TRAIN, SweepConfig(seeds=[0, 1]))
    streams = {
        stream_of(cell.config): {
            other.config.seed for other in found if stream_of(other.config) == stream_of(cell.config)
        }
        for cell in found
    }
    assert sorted(map(sorted, streams.values())) == [[0], [1]]


def test_what_a_sweep_cannot_mean_is_refused_with_words():
    dictionaries = {"topk": TopKConfig(d_sae=16, k=4)}
    with pytest.raises(
        UnknownNameError, match="sweep.sparsities names 'topkk', which is no label; .*did you mean 'topk'"
    ):
        cells(TRAIN, SweepConfig(dictionaries=dictionaries, sparsities={"topkk": [2]}))
    with pytest.raises(ConfigError, match="sweep: topk with {'k': 32"):
        cells(TRAIN, SweepConfig(dictionaries=dictionaries, sparsities={"topk": [32]}))


def test_a_sweep_is_a_section_with_dotted_names():
    config = override(ExperimentConfig(), {"sweep.widths": [256], "sweep.dictionaries": {"a": {"kind": "relu"}}})
    assert config.sweep.widths == [256] and isinstance(config.sweep.dictionaries["a"], ReluConfig)
