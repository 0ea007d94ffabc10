"""A sweep as a list of dictionaries: every one once, its sparsity by the option that its
architecture declares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from components.config import override
from components.device import Execution
from components.dictionary.architectures.ica import IcaConfig
from components.dictionary.architectures.jumprelu import JumpReluConfig
from components.dictionary.architectures.neurons import NeuronsConfig
from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import architectures
from components.dictionary.estimate import memory
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN, stream_of
from components.errors import ConfigError, NoMemoryError, NoSpaceError, UnknownNameError
from components.evaluation.evaluate import EVALUATE, EvaluateConfig
from components.experiment import ExperimentConfig
from components.store.artifact import key_of
from components.store.estimate import Planned, fitting
from components.sweep import SWEEP_ESTIMATOR, SweepConfig, cells, formula, groups
from tests.planted import HOOK

SECTION = TrainConfig(tokens=1000, batch_size=100)
CPU = Execution(device="cpu", threads=1)
CAPTURED = Planned(
    "capture",
    "0" * 24,
    {
        "hook_points": {HOOK: {"d_in": 256}},
        "splits": {
            "train": {"rows": 4000, "documents": 40},
            "validate": {"rows": 500, "documents": 5},
        },
        "dtype": "float32",
    },
)


def timing(stage, config, inputs, settings, seconds):
    return stage.estimator.formula(config, inputs, settings).probe(seconds)


def there(*keys):
    """A store that holds these keys."""
    return SimpleNamespace(find=lambda stage, key: key in keys or None)


GIVEN = {
    "activations": CAPTURED, "train": SECTION, "stage": TRAIN, "evaluate": EvaluateConfig(), "store": there(), "timing": timing,
    "shared": {"activations": CAPTURED, "corpus": Planned("read", "0" * 24, {"n_concepts": 100})},
}  # fmt: skip
WIDE = SweepConfig(
    dictionaries={"topk": TopKConfig(k=4), "relu": ReluConfig(), "basis": NeuronsConfig(k=3)}, widths=[4096, 65536],
    sparsities={"topk": [4], "relu": [5]}, seeds=[0, 1], together=4,
)  # fmt: skip


def test_every_combination_once_and_every_baseline_once():
    chosen = {
        "relu": ReluConfig(d_sae=8),
        "topk": TopKConfig(d_sae=8, k=2),
        "basis": NeuronsConfig(k=3),
    }
    sweep = SweepConfig(
        dictionaries=chosen, widths=[64, 128], sparsities={"relu": [1, 2], "topk": [4, 8, 8]}, seeds=[3, 4], rates={"relu": 0.01}
    )  # fmt: skip
    found = cells(SECTION, sweep)
    by_label = {label: [cell for cell in found if cell.label == label] for label in chosen}
    assert {label: len(listed) for label, listed in by_label.items()} == {
        "relu": 8,
        "topk": 8,
        "basis": 1,
    }
    relu = by_label["relu"][0]
    assert (relu.sparsity_name, relu.sparsity, relu.config.lr) == ("l1", 1.0, 0.01)
    assert relu.name == "relu-64-l1=1-seed3" and len({cell.name for cell in found}) == len(found)
    topk = by_label["topk"][-1].config
    assert (topk.dictionary.k, topk.dictionary.d_sae, topk.seed, topk.lr, topk.tokens) == (
        8,
        128,
        4,
        "search",
        1000,
    )
    assert isinstance(topk.dictionary.k, int)
    assert by_label["basis"][0].is_baseline and by_label["basis"][0].config.seed == 3


def test_sparsities_that_are_close_have_names_of_their_own():
    chosen = {"relu": ReluConfig(d_sae=8)}
    found = cells(
        SECTION, SweepConfig(dictionaries=chosen, sparsities={"relu": [1, 1.0000001]}, seeds=[0])
    )
    assert [cell.name for cell in found] == ["relu-8-l1=1-seed0", "relu-8-l1=1.0000001-seed0"]


def test_without_a_word_every_architecture_takes_part_at_half_once_and_twice_its_own_sparsity():
    found = cells(SECTION, SweepConfig(seeds=[0]))
    every = {name: entry for name, entry in architectures.items() if not entry.from_file}
    assert {cell.label for cell in found} == set(every)
    for name, entry in every.items():
        own, values = entry.config(), [cell.sparsity for cell in found if cell.label == name]
        sparsity = getattr(own, entry.sparsity_of(own), None)
        assert sparsity is not None, (
            f"{name} declares sparsity = {entry.sparsity!r}, which its config does not have"
        )
        assert values == ([sparsity] if entry.baseline else [sparsity / 2, sparsity, sparsity * 2])


def test_the_options_may_say_what_sets_the_sparsity():
    """JumpReLU aims at an L0; under the tanh penalty its coefficient is what makes codes
    sparser."""
    chosen = {
        "aims": JumpReluConfig(d_sae=8),
        "tanh": JumpReluConfig(d_sae=8, penalty="tanh", coefficient=2),
    }
    found = cells(SECTION, SweepConfig(dictionaries=chosen, widths=[8], seeds=[0]))
    assert [(cell.label, cell.sparsity_name, cell.sparsity) for cell in found] == [
        ("aims", "target_l0", 16.0), ("aims", "target_l0", 32.0), ("aims", "target_l0", 64.0),
        ("tanh", "coefficient", 1.0), ("tanh", "coefficient", 2.0), ("tanh", "coefficient", 4.0),
    ]  # fmt: skip
    assert [cell.config.dictionary.coefficient for cell in found if cell.label == "tanh"] == [
        1.0,
        2.0,
        4.0,
    ]


def test_dictionaries_of_one_seed_share_a_stream_and_those_of_another_do_not():
    found = cells(SECTION, SweepConfig(seeds=[0, 1]))
    streams = {
        stream_of(cell.config): {
            other.config.seed
            for other in found
            if stream_of(other.config) == stream_of(cell.config)
        }
        for cell in found
    }
    assert sorted(map(sorted, streams.values())) == [[0], [1]]


def test_what_a_sweep_cannot_mean_is_refused_with_words():
    dictionaries = {"topk": TopKConfig(d_sae=16, k=4)}
    with pytest.raises(
        UnknownNameError,
        match="sweep.sparsities names 'topkk', which is no label; .*did you mean 'topk'",
    ):
        cells(SECTION, SweepConfig(dictionaries=dictionaries, sparsities={"topkk": [2]}))
    with pytest.raises(ConfigError, match="sweep: topk with {'k': 32"):
        cells(SECTION, SweepConfig(dictionaries=dictionaries, sparsities={"topk": [32]}))


def test_a_sweep_is_a_section_with_dotted_names():
    config = override(
        ExperimentConfig(), {"sweep.widths": [256], "sweep.dictionaries": {"a": {"kind": "relu"}}}
    )
    assert config.sweep.widths == [256] and isinstance(config.sweep.dictionaries["a"], ReluConfig)


def test_memory_is_that_of_the_largest_group_and_of_as_many_as_run_at_once():
    todo = {cell.name: cell for cell in cells(SECTION, WIDE)}
    listed = [[todo[name].config for name in names] for names in groups(todo, WIDE.together)]
    sums = sorted(sum(memory(configs, CAPTURED, CPU).values()) for configs in listed)
    said = formula(WIDE, GIVEN, CPU)
    assert len(todo) == 9 and len(listed) == 3 and said.memory_bytes == sums[-1]
    side_by_side = CPU.model_copy(update={"devices": ["cpu:0", "cpu:1"]})
    assert formula(WIDE, GIVEN, side_by_side).memory_bytes == sums[-1] + sums[-2]
    weights = sum(
        2 * width * 256 + width + 256
        for cell in todo.values()
        if (width := getattr(cell.config.dictionary, "d_sae", 0))
    )
    n_bytes = 4 * (weights + 256)  # the raw basis keeps its bias; curves come on top
    assert n_bytes < said.disk["dictionaries"] < 1.001 * n_bytes


def test_what_is_in_the_store_is_neither_counted_nor_timed():
    keys = [key_of(TRAIN, cell.config, {"activations": CAPTURED}) for cell in cells(SECTION, WIDE)]
    measured = [
        key_of(
            EVALUATE, EvaluateConfig(), GIVEN["shared"] | {"dictionary": Planned("train", key, {})}
        )
        for key in keys
    ]
    given = GIVEN | {
        "store": there(*keys, *measured[:-1]),
        "timing": lambda *_, **__: (600.0, "", ""),
    }
    said = formula(WIDE, given, CPU)
    assert (said.memory_bytes, said.disk_bytes, said.facts["to_make"]) == (0, 0, 1)
    seconds, told = said.probe(1.0)
    assert seconds == 600 and "9 dictionaries (9 of them in the store), about 10 minutes of" in told


def test_a_group_that_does_not_fit_is_refused_with_what_does(monkeypatch):
    wanted = formula(WIDE, GIVEN, CPU).memory_bytes
    monkeypatch.setattr(
        "components.device.memory_free", lambda name="auto": ("this machine", int(0.7 * wanted))
    )
    with pytest.raises(
        NoMemoryError, match=r"^sweep wants .* of memory on this machine \(.*weights"
    ) as caught:
        fitting("sweep", SWEEP_ESTIMATOR, WIDE, GIVEN, CPU, 2**40)
    advised = str(caught.value).partition("nearest that fits: ")[2].split(", or ")
    assert [advice.partition("=")[0] for advice in advised] == ["sweep.together", "sweep.widths"]
    together, widths = (advice.partition("=")[2] for advice in advised)
    for changes in (
        {"together": int(together)},
        {"widths": [int(width) for width in widths.strip("'[]").split(",")]},
    ):
        fitting("sweep", SWEEP_ESTIMATOR, override(WIDE, changes), GIVEN, CPU, 2**40)
    assert widths.startswith("'[4096, ")  # quoted for the shell; the narrow one is kept
    with pytest.raises(NoMemoryError):
        fitting(
            "sweep",
            SWEEP_ESTIMATOR,
            override(WIDE, {"together": int(together) + 1}),
            GIVEN,
            CPU,
            2**40,
        )


def test_a_width_below_k_is_no_advice(monkeypatch):
    config = override(
        WIDE, {"sparsities": {"topk": [4000], "relu": [5]}, "widths": [4096], "together": 1}
    )
    monkeypatch.setattr("components.device.memory_free", lambda name="auto": ("this machine", 10))
    with pytest.raises(
        NoMemoryError, match=r"no value of sweep\.together or sweep\.widths alone makes it fit$"
    ):
        fitting("sweep", SWEEP_ESTIMATOR, config, GIVEN, CPU, 2**40)


def test_dictionaries_that_the_disk_cannot_hold_are_refused():
    with pytest.raises(
        NoSpaceError, match=r"^sweep wants .* of disk in .*nearest that fits: sweep\.widths='\["
    ):
        fitting("sweep", SWEEP_ESTIMATOR, WIDE, GIVEN, CPU, 600 * 2**20)


def test_time_grows_with_the_tokens_and_with_the_number_of_dictionaries():
    config = SweepConfig(
        dictionaries={"topk": TopKConfig(k=4), "ica": IcaConfig(k=4)}, widths=[64, 256, 1024], sparsities={"topk": [4]}, seeds=[0],
        limit=3,
    )  # fmt: skip
    short, long = (
        formula(
            config, GIVEN | {"train": SECTION.model_copy(update={"tokens": tokens})}, CPU
        ).probe(2.0)
        for tokens in (100_000, 10_000_000)
    )
    assert 5 < long[0] / short[0] < 400
    assert "4 dictionaries, about " in long[1] and "more than the 3 that are trained" in long[1]
    assert "--yes" not in formula(override(config, {"confirmed": True}), GIVEN, CPU).probe(0.1)[1]
