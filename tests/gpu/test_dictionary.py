"""Dictionaries on a device that is not the CPU: the branches taken there give the CPU's numbers,
and nothing waits in them.
"""

from __future__ import annotations

import itertools

import polars as pl
import pytest
import torch

from components.device import Execution
from components.dictionary import estimate
from components.dictionary import stream as streams
from components.dictionary.architectures.batch_topk import BatchTopKConfig
from components.dictionary.architectures.matching_pursuit import MatchingPursuitConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary, architectures, untrained
from components.dictionary.encode import ENCODE, EncodeConfig
from components.dictionary.kernels import product, sparse
from components.dictionary.learner import Learner, LongestSilence
from components.dictionary.nonlinearities import largest, largest_of, largest_of_batch
from components.dictionary.settings import TrainConfig
from components.dictionary.stream import Stream
from components.dictionary.train import TRAIN, make
from components.store.shards import ActivationShards
from tests import toys
from tests.planted import HOOK, directions, rows
from tests.stand_in_gpu import OnGpu, stand_in_gpu

D_IN, D_SAE, K, BATCH, UPDATES = 24, 64, 3, 64, 8
PLANTED = directions()
ROWS = rows(BATCH * UPDATES, PLANTED)
SPLITS = {"train": {HOOK: ROWS}, "validate": {HOOK: rows(200, PLANTED, seed=2)}}
TRAINED = [kind for kind, entry in architectures.items() if entry.learns != "nothing"]


def options_of(kind):
    config = architectures[kind].config
    return config(
        **{
            name: value
            for name, value in {"d_sae": D_SAE, "k": K}.items()
            if name in config.model_fields
        }
    )


def learner(options, sample, **changes):
    settings = {"tokens": BATCH * UPDATES, "batch_size": BATCH, "dead_after": 2 * BATCH} | changes
    dictionary = untrained(
        options, HOOK, {HOOK: D_IN}, {HOOK: sample}, torch.Generator().manual_seed(0)
    )
    return Learner(dictionary, TrainConfig(dictionary=options, **settings))


def pre(n=9, d=2048):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_update_gives_the_cpus_numbers_and_waits_for_nothing(kind, precision):
    """Latents die on the way, so that the terms which revive them are made too."""
    with stand_in_gpu() as gpu:
        here = learner(options_of(kind), ROWS, precision=precision)
        there = learner(options_of(kind), ROWS.to("cuda"), precision=precision)
        batches = ROWS.to("cuda").split(BATCH)
        gpu.looks.clear()
        gpu.queued = 0
        for on_cpu, on_gpu in zip(ROWS.split(BATCH), batches, strict=True):
            here.learn({HOOK: on_cpu})
            there.learn({HOOK: on_gpu})
        assert gpu.looks == []
        assert gpu.queued == UPDATES, "the longest silence of each update, and nothing else"
        assert here.silent.tolist() == there.silent.tolist()
        ours, theirs = there.metrics(), here.metrics()
        for one in (here, there):
            one.finish()
        weights = [[x.cpu() for x in one.dictionary.state_dict().values()] for one in (there, here)]
    # a term for dead latents, by a host that did not know that there were none
    made_there = ours.keys() - theirs.keys()
    assert {ours.pop(name) for name in made_there} <= {0.0}
    assert ours == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_a_latent_that_died_is_revived_there_too():
    """The host hears of the longest silence some updates late, and until then lets the term be
    made."""
    options = TopKConfig(d_sae=D_SAE, k=K)
    with stand_in_gpu():
        here, there = learner(options, ROWS), learner(options, ROWS.to("cuda"))
        assert not there.silent.is_cpu and here.silent.is_cpu
        for one in (here, there):
            one.silent[:5] = 2**40
            one.longest.forget()
            one.learn({HOOK: ROWS[:BATCH].to(one.silent.device)})
        terms = [one.metrics()["loss.auxk"] for one in (here, there)]
    assert terms[0] > 0
    assert terms[1] == pytest.approx(terms[0], rel=1e-5)


def test_the_longest_silence_is_read_after_it_has_arrived():
    with stand_in_gpu() as gpu:
        longest, silent = LongestSilence(), torch.zeros(6, dtype=torch.int64).to("cuda")
        bounds = []
        for step in range(8):
            bounds.append(longest.at_most(10))
            silent = silent + 10 * (step + 1)
            longest.send(silent)
        assert gpu.looks == [("copy to the device", gpu.looks[0][1])], "the zeros of this test"
    assert bounds == [float("inf")] * 3 + [10 + 20, 30 + 20, 60 + 20, 100 + 20, 150 + 20]


@pytest.mark.parametrize("rows_in_window", [1, 3, 100])
def test_a_stream_gives_the_same_batches_and_waits_for_none(store, monkeypatch, rows_in_window):
    """Windows that hold less than a batch, more than one, all: what is left of one goes into the
    next."""
    monkeypatch.setattr(streams, "BLOCK", 8)
    monkeypatch.setattr(streams, "WINDOW_BYTES", rows_in_window * 8 * 4 * D_IN)
    shards = ActivationShards(toys.activations(store, SPLITS, rows_per_shard=100))
    wanted = list(itertools.islice(Stream(shards, "train", (HOOK,), 0).batches(50, 30), 40))
    with stand_in_gpu() as gpu:
        batches = Stream(shards, "train", (HOOK,), 0, "cuda").batches(50, 30)
        got = list(itertools.islice(batches, 40))
        assert all(isinstance(batch[HOOK], OnGpu) for batch in got)
        assert gpu.looks == [] and gpu.queued > 0
        assert all(
            torch.equal(ours[HOOK].cpu(), theirs[HOOK])
            for ours, theirs in zip(got, wanted, strict=True)
        )


def test_selections_there_choose_what_they_choose_here():
    x, chosen = pre(), torch.arange(2048) % 3 == 0
    with stand_in_gpu() as gpu:
        there, of = x.to("cuda"), chosen.to("cuda")
        gpu.looks.clear()
        selected = [largest(there, 5), largest_of(there, of, 7), *largest_of_batch(there, 40)]
        few = largest_of(there, of & (torch.arange(2048, device="cuda") < 6), 7)
        assert gpu.looks == []
        of_row, of_chosen, *of_batch = (x.cpu() for x in selected)
        few = few.cpu()
    assert of_row.sort().values.equal(largest(x, 5).sort().values)
    assert of_chosen.sort().values.equal(largest_of(x, chosen, 7).sort().values)
    assert all(
        ours.equal(theirs) for ours, theirs in zip(of_batch, largest_of_batch(x, 40), strict=True)
    )
    assert few.shape == (9, 7), "as many as were asked for: the caller masks what is not chosen"
    assert {0, 3} <= set(few[0].tolist())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_product_there_rounds_its_factors_and_sums_in_float32(precision):
    x, W_enc, b_enc = pre(9, 16), pre(32, 16), pre(1, 32)[0]
    with stand_in_gpu(), product.in_precision(precision):
        here = product.affine(x, W_enc, b_enc)
        there = product.affine(x.to("cuda"), W_enc.to("cuda"), b_enc.to("cuda")).cpu()
    torch.testing.assert_close(there, here)


@pytest.mark.parametrize("at_once", [64, 1 << 30])
def test_choosing_there_in_blocks_is_choosing_here(monkeypatch, at_once):
    monkeypatch.setattr(sparse, "ENTRIES_AT_ONCE_ELSEWHERE", at_once)
    x, encoder = pre(9, 16), (pre(32, 16), pre(1, 32)[0], pre(1, 16)[0])
    choice = lambda part: part.topk(3, dim=1).indices  # noqa: E731
    with stand_in_gpu():
        there = sparse.choose(x.to("cuda"), *(part.to("cuda") for part in encoder), choice)
        there = [part.cpu() for part in there]
    torch.testing.assert_close(there, list(sparse.choose(x, *encoder, choice)))


def test_a_pursuit_that_is_done_everywhere_goes_on_without_effect():
    """On the CPU it stops; where asking would wait it takes all its steps, and later values are
    zero."""
    x = PLANTED[:6] * 2
    options = MatchingPursuitConfig(d_sae=len(PLANTED), k=4, tolerance=1e-3)
    dictionary = untrained(
        options, HOOK, {HOOK: D_IN}, {HOOK: ROWS}, torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        dictionary.W_dec.copy_(PLANTED)
        dictionary.b_dec.zero_()
    codes = dictionary.encode(x)
    with stand_in_gpu():
        there = dictionary.to("cuda").encode(x.to("cuda")).to("cpu")
    assert codes.offsets.diff().tolist() == [1] * 6
    assert there.indices.equal(codes.indices) and there.offsets.equal(codes.offsets)


@pytest.mark.parametrize("options", [TopKConfig(d_sae=48, k=3), BatchTopKConfig(d_sae=48, k=3)])
@pytest.mark.parametrize("changes", [{}, {"normalise": "whiten", "convergence": "measured"}])
def test_train_and_encode_give_what_the_cpu_gives(store, tmp_path, options, changes):
    """The stages as they are: stream, curve, checkpoints, whitening, statistics, neighbours."""
    activations = toys.activations(store, SPLITS, rows_per_shard=100)
    settings = {
        "tokens": 4000,
        "batch_size": 200,
        "lr": 3e-3,
        "dead_after": 600,
        "log_every": 5,
        "checkpoint_every": 6,
    }
    config = TrainConfig(dictionary=options, **settings, **changes)
    here, _ = store.ensure(TRAIN, config, {"activations": activations}, Execution(device="cpu"))
    codes, _ = store.ensure(
        ENCODE,
        EncodeConfig(splits=("validate",)),
        {"activations": activations, "dictionary": here},
        Execution(device="cpu"),
    )
    with stand_in_gpu() as gpu:
        folder = tmp_path / "there"
        folder.mkdir()
        facts = finish(make(folder, config, {"activations": activations}, Execution(device="cuda")))
        assert gpu.peak > 0, "it ran on the device"
        dictionary = Dictionary.load(here, "cuda")
        assert dictionary.like.is_cuda
        (tmp_path / "codes").mkdir()
        inputs = {"activations": activations, "dictionary": here}
        said = finish(
            ENCODE.make(
                tmp_path / "codes",
                EncodeConfig(splits=("validate",)),
                inputs,
                Execution(device="cuda"),
            )
        )
    assert facts["fvu"] == pytest.approx(here.facts["fvu"], rel=0.02)
    assert said["l0"] == pytest.approx(codes.facts["l0"])
    for name in ("latents", "neighbours"):
        ours, theirs = (
            pl.read_parquet(folder / f"{name}.parquet")
            for folder in (tmp_path / "codes", codes.folder)
        )
        assert ours.select("latent").equals(theirs.select("latent"))
        column = "n_active" if name == "latents" else "cosine"
        assert ours[column].to_list() == pytest.approx(theirs[column].to_list(), abs=1e-4)


def test_a_run_that_stopped_there_goes_on_there(store, tmp_path):
    activations = toys.activations(store, SPLITS, rows_per_shard=100)
    config = TrainConfig(
        dictionary=TopKConfig(d_sae=48, k=3), tokens=4000, batch_size=200, checkpoint_every=4
    )
    with stand_in_gpu():
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        whole.mkdir()
        broken.mkdir()
        inputs, settings = {"activations": activations}, Execution(device="cuda")
        finish(make(whole, config, inputs, settings))
        work = make(broken, config.model_copy(update={"log_every": 1}), inputs, settings)
        for _ in range(10):
            next(work)
        work.close()
        assert (broken / ".checkpoint" / "state.safetensors").exists()
        finish(make(broken, config, inputs, settings))
    ours, theirs = Dictionary.load(broken), Dictionary.load(whole)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_estimate_of_an_update_holds_on_the_device(monkeypatch):
    """Bytes that live there on the way from a batch to the gradients, a block of pre-activations
    after another."""
    d_in, batch = 64, 512
    options = TopKConfig(d_sae=2048, k=8)
    config = TrainConfig(dictionary=options, tokens=100 * batch, batch_size=batch)
    for module in (sparse, estimate):
        monkeypatch.setattr(module, "ENTRIES_AT_ONCE_ELSEWHERE", batch * options.d_sae // 4)
    with stand_in_gpu() as gpu:
        x = torch.randn(batch, d_in).to("cuda")
        one = Learner(
            untrained(options, HOOK, {HOOK: d_in}, {HOOK: x}, torch.Generator().manual_seed(0)),
            config,
        )
        one.learn({HOOK: x})
        one.optimiser.zero_grad(set_to_none=True)
        before, gpu.peak = gpu.bytes, gpu.bytes
        one.learn({HOOK: x})
        made = gpu.peak - before
        said = estimate.held(config, one.dictionary, Execution(device="cuda"))
        whole = estimate.held(config, one.dictionary, Execution(device="cpu", threads=1))
    gradients = 4 * (2 * options.d_sae * d_in + options.d_sae + d_in)
    assert 0.5 * (said + gradients) <= made <= said + gradients
    assert said < whole, "the CPU's blocks are larger than those that this test sets"


def test_a_probe_times_the_device_it_will_run_on(store):
    activations = toys.activations(store, SPLITS, rows_per_shard=100)
    config = TrainConfig(dictionary=TopKConfig(d_sae=48, k=3), tokens=4000, batch_size=100)
    with stand_in_gpu() as gpu:
        seconds, _ = estimate.formula(
            config, {"activations": activations}, Execution(device="cuda")
        ).probe(1.0)
        assert gpu.peak > 0
    assert seconds > 0


def finish(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
