"""The estimate of training and encoding, held to what really is allocated and written."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.config import override
from components.device import Execution
from components.dictionary.architectures.neurons import NeuronsConfig
from components.dictionary.architectures.pca import PcaConfig
from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import MULTI, TopKConfig
from components.dictionary.contract import architectures, untrained
from components.dictionary.encode import ENCODE, EncodeConfig
from components.dictionary.estimate import empty, formula, held, memory, numbers
from components.dictionary.kernels import product
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN
from components.errors import DictionaryError, NoMemoryError, NoSpaceError
from components.store.estimate import Planned, fitting
from tests import toys
from tests.planted import HOOK, directions, rows

D_IN, D_SAE, BATCH = 64, 1024, 512
CPU = Execution(device="cpu")
CONFIG = TrainConfig(
    dictionary=TopKConfig(d_sae=D_SAE, k=8), tokens=8 * BATCH, batch_size=BATCH, log_every=4
)
LARGE = TrainConfig(
    dictionary=ReluConfig(d_sae=2**17), tokens=8 * BATCH, batch_size=8192, log_every=4
)
CAPTURED = Planned(
    "capture",
    "0" * 24,
    {
        "hook_points": {HOOK: {"d_in": D_IN}},
        "splits": {
            "train": {"rows": 4000, "documents": 40},
            "validate": {"rows": 500, "documents": 5},
        },
        "dtype": "float32",
    },
)


class Live(TorchDispatchMode):
    """Bytes of tensors that operators made and that still live, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.known.add(storage.data_ptr())
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.gone, storage.data_ptr(), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def gone(self, pointer: int, n_bytes: int) -> None:
        self.known.discard(pointer)
        self.now -= n_bytes


def begun(config):
    sample = {HOOK: torch.randn(1000, D_IN, generator=torch.Generator().manual_seed(0))}
    return Learner(
        untrained(config.dictionary, HOOK, {HOOK: D_IN}, sample, torch.Generator().manual_seed(0)),
        config,
    ), sample


def of(kind):
    config = architectures[kind].config
    chosen: dict[str, Any] = {"d_sae": D_SAE} if "d_sae" in config.model_fields else {}
    if architectures[kind].from_file:
        chosen |= {"path": toys.vectors(D_SAE, D_IN)}
    options = config(**chosen)
    return CONFIG.model_copy(update={"dictionary": options})


@pytest.mark.parametrize("kind", architectures.names())
def test_weights_gradients_and_moments_are_what_a_learner_really_holds(kind):
    config = of(kind)
    learner, sample = begun(config)
    learner.learn({HOOK: sample[HOOK][:BATCH]})
    parts = memory([config], CAPTURED, CPU)
    state = learner.dictionary.state_dict()
    n, learnt = numbers(config, empty(config, CAPTURED.facts))
    gathered = architectures[kind].gathers(config.dictionary, D_IN)
    # and a count
    assert 4 * n + gathered == pytest.approx(sum(tensor.nbytes for tensor in state.values()), abs=8)
    assert parts.get("statistics", 0) in (0, gathered)
    gradients = sum(w.grad.nbytes for w in learner.learnt.values() if w.grad is not None)
    moments = sum(
        learner.optimiser.state[w][name].nbytes
        for w in learner.learnt.values()
        for name in ("exp_avg", "exp_avg_sq")
        if w in learner.optimiser.state
    )
    assert 4 * learnt == gradients and 8 * learnt == moments
    if "gradients" in parts:
        assert (parts["weights"], parts["gradients"], parts["optimiser"]) == (
            4 * n,
            gradients,
            moments,
        )


FORMS = {kind: of(kind) for kind in architectures.names()} | {
    f"topk, {MULTI}k at {k}": CONFIG.model_copy(
        update={"dictionary": TopKConfig(d_sae=D_SAE, k=k, multi_topk_coefficient=0.125)}
    )
    for k in (8, 64)
}


@pytest.mark.parametrize("form", FORMS)
def test_what_an_update_allocates_is_estimated(form, monkeypatch):
    """Gradients, and all that is made between the batch and them."""
    # blocks that a wider dictionary left are none of it
    monkeypatch.setattr(product, "_scratch", threading.local())
    config, kind = FORMS[form], FORMS[form].dictionary.kind
    learner, sample = begun(config)
    batch = {HOOK: sample[HOOK][:BATCH]}
    learner.learn(batch)
    d_sae = learner.dictionary.d_sae
    learner.silent[: d_sae // 4] = 2**40  # what revives dead latents takes part
    for weight in learner.learnt.values():
        weight.grad = None
    with Live() as live:
        learner.learn(batch)
    _, learnt = numbers(config, empty(config, CAPTURED.facts))
    said = 4 * (learnt + 6 * BATCH * D_IN) + held(config, learner.dictionary, CPU)
    said += architectures[kind].gathers(config.dictionary, D_IN)
    assert live.peak <= 1.05 * said, (
        f"{kind} holds {live.peak / said:.2f} times what its `dense` says; raise it"
    )


def test_a_dictionary_and_its_codes_take_the_disk_that_is_estimated(store):
    planted = directions(d=D_IN)
    splits = {"train": {HOOK: rows(4000, planted)}, "validate": {HOOK: rows(500, planted, seed=2)}}
    activations = toys.activations(store, splits)
    trained, _ = store.ensure(TRAIN, CONFIG, {"activations": activations}, CPU)
    said = formula(CONFIG, {"activations": CAPTURED}, CPU)
    real = {name: file["bytes"] for name, file in trained.manifest["files"].items()}
    assert said.disk["dictionary"] == pytest.approx(real["dictionary.safetensors"], abs=2000)
    assert said.disk["curve"] < 10 * real["curve.parquet"]
    assert {name: trained.facts[name] for name in ("d_sae", "d_in", "hook_point")} == {
        name: said.facts[name] for name in ("d_sae", "d_in", "hook_point")
    }
    config = EncodeConfig(splits=("validate",))
    made, _ = store.ensure(ENCODE, config, {"activations": activations, "dictionary": trained}, CPU)
    given = {"activations": CAPTURED, "dictionary": Planned("train", "0", said.facts)}
    said = ENCODE.estimator.formula(config, given, CPU)
    real = {name: file["bytes"] for name, file in made.manifest["files"].items()}
    assert said.disk["codes"] == pytest.approx(real["validate/00000.safetensors"], rel=0.1)


def test_a_checkpoint_takes_the_disk_that_is_estimated(tmp_path):
    learner, sample = begun(CONFIG)
    learner.learn({HOOK: sample[HOOK][:BATCH]})
    learner.save(tmp_path / "state.safetensors")
    said = formula(CONFIG, {"activations": CAPTURED}, CPU)
    assert said.scratch["checkpoints"] / 2 == pytest.approx(
        (tmp_path / "state.safetensors").stat().st_size, abs=4000
    )


def test_memory_that_lacks_names_the_largest_batch_and_width_that_fit(monkeypatch):
    wanted = formula(LARGE, {"activations": CAPTURED}, CPU).memory_bytes
    monkeypatch.setattr(
        "components.device.memory_free", lambda name="auto": ("this machine", int(0.7 * wanted))
    )
    with pytest.raises(NoMemoryError) as caught:
        fitting("train", TRAIN.estimator, LARGE, {"activations": CAPTURED}, CPU, 2**40)
    said = str(caught.value)
    assert (
        said.startswith("train wants ")
        and "of memory on this machine (" in said
        and "there is" in said
    )
    advised = [part.split("=") for part in said.partition("nearest that fits: ")[2].split(", or ")]
    assert [name for name, _ in advised] == ["train.batch_size", "train.dictionary.d_sae"]
    for name, value in advised:
        other = override(LARGE, {name.removeprefix("train."): int(value)})
        fitting("train", TRAIN.estimator, other, {"activations": CAPTURED}, CPU, 2**40)
        above = override(LARGE, {name.removeprefix("train."): int(int(value) * 1.13) + 1})
        with pytest.raises(NoMemoryError):
            fitting("train", TRAIN.estimator, above, {"activations": CAPTURED}, CPU, 2**40)


def test_a_width_below_k_is_no_advice(monkeypatch):
    config = LARGE.model_copy(update={"dictionary": TopKConfig(d_sae=2**17, k=2**17)})
    wanted = formula(config, {"activations": CAPTURED}, CPU).memory_bytes
    monkeypatch.setattr(
        "components.device.memory_free", lambda name="auto": ("this machine", int(0.7 * wanted))
    )
    with pytest.raises(NoMemoryError, match=r"nearest that fits: train\.batch_size=\d+$"):
        fitting("train", TRAIN.estimator, config, {"activations": CAPTURED}, CPU, 2**40)


def test_a_size_that_follows_from_the_width_is_no_advice(monkeypatch):
    config = LARGE.model_copy(update={"dictionary": PcaConfig(k=8)})
    said = formula(config, {"activations": CAPTURED}, CPU)
    assert (said.facts["d_sae"], said.facts["l0"]) == (2 * D_IN, 8)
    monkeypatch.setattr(
        "components.device.memory_free",
        lambda name="auto": ("this machine", said.memory_bytes // 2),
    )
    with pytest.raises(NoMemoryError, match="train wants ") as caught:
        fitting("train", TRAIN.estimator, config, {"activations": CAPTURED}, CPU, 2**40)
    assert "d_sae" not in str(caught.value)


def test_what_learns_nothing_needs_no_update_and_no_checkpoint():
    config = CONFIG.model_copy(update={"dictionary": NeuronsConfig(k=8)})
    said = formula(config, {"activations": CAPTURED}, CPU)
    assert said.scratch["checkpoints"] == 0 and said.disk == {"dictionary": 4 * D_IN, "curve": 0}


def test_disk_that_lacks_names_the_width_that_fits():
    with pytest.raises(
        NoSpaceError,
        match=r"train wants .* of disk in .*nearest that fits: train\.dictionary\.d_sae=",
    ):
        fitting("train", TRAIN.estimator, CONFIG, {"activations": CAPTURED}, CPU, 65 * 2**20)


def test_a_hook_point_that_will_not_be_captured_is_refused():
    config = CONFIG.model_copy(update={"hook_point": "resid_post.7"})
    with pytest.raises(
        DictionaryError, match=r"wants activations at resid_post\.7, and capture.hook_points gives"
    ):
        formula(config, {"activations": CAPTURED}, CPU)


def test_the_probe_says_seconds_in_proportion_to_the_updates():
    short, long = (
        formula(
            CONFIG.model_copy(update={"tokens": n * BATCH}), {"activations": CAPTURED}, CPU
        ).probe(2.0)
        for n in (20, 2000)
    )
    assert 10 < long[0] / short[0] < 400 and short[0] > 0
    assert "then 512 rows in" in long[1]


def test_dictionaries_of_one_stream_share_it_and_add_their_states():
    topk, dense, basis = (
        of(kind).model_copy(update={"batch_size": 4096}) for kind in ("topk", "relu", "neurons")
    )
    alone, relu = memory([topk], CAPTURED, CPU), memory([dense], CAPTURED, CPU)
    several = memory([topk, topk.model_copy(update={"seed": 1}), dense, basis], CAPTURED, CPU)
    assert several["weights"] == 2 * alone["weights"] + relu["weights"] + 4 * D_IN
    for name in ("gradients", "optimiser"):
        assert several[name] == 2 * alone[name] + relu[name]
    for name in ("stream", "batch"):
        assert several[name] == alone[name] == relu[name]
    # the largest, once
    assert several["pre-activations"] == relu["pre-activations"] > alone["pre-activations"]


BLOCKS = """
import json, sys
import psutil, torch
from components.device import Execution
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.estimate import memory
from components.dictionary.kernels import product
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN
from components.store.artifact import Store
from tests import toys
from tests.planted import HOOK
torch.set_num_threads(1)
plane = torch.eye(2, 64)
splits = {name: {HOOK: torch.randn(n, 2) @ plane + 3 * torch.eye(64)[5]} for name, n in (("train", 20000), ("validate", 500))}
config = TrainConfig(dictionary=TopKConfig(d_sae=16384), tokens=3 * 8192, batch_size=8192, dead_after=8192, log_every=3)
alone = Execution(device="cpu", threads=1)
activations = toys.activations(Store(sys.argv[1]), splits, rows_per_shard=20000)
small = config.model_copy(update={"dictionary": TopKConfig(d_sae=256), "batch_size": 256, "tokens": 1024})
Store(sys.argv[1]).ensure(TRAIN, small, {"activations": activations}, alone)  # what libraries hold after their first call
before = psutil.Process().memory_info().rss
made, _ = Store(sys.argv[1]).ensure(TRAIN, config, {"activations": activations}, alone)
print(json.dumps({
    "real": made.manifest["made"]["peak_memory_bytes"] - before,
    "said": sum(memory([config], activations, alone).values()),
    "block": product.block(8192, 16384, 1),
    "dead": made.facts["dead_share"],
}))
"""


def test_memory_of_blocks_is_estimated_from_above_and_from_below(tmp_path):
    """Of a whole process: batches of four blocks, in a plane, so that nearly all latents are dead
    and learn as such."""
    command = [sys.executable, "-c", BLOCKS, str(tmp_path)]
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["block"] * 4 == 8192 and found["dead"] > 0.9
    assert found["real"] / 1.2 < found["said"] < 1.3 * found["real"], found
