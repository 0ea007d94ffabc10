"""The section `agreement` of `gpu.py`: a device gives the numbers that the CPU gives, within
tolerances that are said.

Everything here is in float32. What rounding may move is a choice: a latent or a token whose rival
is as near as rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks import capture as capture_benchmark
from benchmarks.gpu_bench import Bench, Figure, at_least, at_most, difference
from benchmarks.gpu_subjects import (
    CPU,
    NAME,
    a_learner,
    capture_once,
    exact_llama,
    options_of,
    rows,
    saved,
    steered,
)
from components.device import Execution
from components.dictionary.contract import Dictionary, architectures
from components.model.reference import ModelReference
from components.seeds import torch_generator
from components.store.artifact import Store
from components.store.shards import read_shard


def agreement(bench: Bench) -> Iterator[Figure]:
    """The CPU's numbers: capture, encode, steered text, an update of each architecture."""
    reference, point = (
        saved(bench, exact_llama(bench), "float32", CPU),
        f"resid_post.{bench.of(3, 0)}",
    )
    length = bench.of(128, 32)
    corpus = capture_benchmark.corpus(Store(bench.folder / "store"), "agreement", 64, length, 128)
    here, there = (
        read_shard(folder, "train", 0)
        for where in (CPU, bench.device)
        for folder in [capture_once(bench, reference, corpus, point, where)]
    )
    same = all(torch.equal(here[name], there[name]) for name in ("token", "position"))
    x = f"x.{point}"
    yield at_most(
        "captured activations",
        difference(there[x], here[x]),
        1e-4,
        rows=len(here[x]),
        provenance_equal=same,
    )
    yield from _encodes_alike(bench, here[x])
    yield from _writes_alike(bench, reference, point, here[x])
    for kind, entry in architectures.items():
        if not entry.from_file:
            yield from _learns_alike(bench, kind)


def _encodes_alike(bench: Bench, x: Tensor) -> Iterator[Figure]:
    learner = a_learner(options_of("topk", bench.of(8192, 128), 16), x, tokens=0)
    here, there = learner.dictionary, copy.deepcopy(learner.dictionary).to(bench.device)
    ours, theirs = there.encode(x.to(bench.device)).to("cpu"), here.encode(x)
    there_chosen, here_chosen = (
        set(zip(codes.row_index().tolist(), codes.indices.tolist(), strict=True))
        for codes in (ours, theirs)
    )  # fmt: skip
    share = len(there_chosen & here_chosen) / max(1, len(here_chosen))
    yield at_least("latents chosen alike", share, 0.999)
    yield at_most(
        "reconstruction from codes",
        difference(there.decode(ours.to(bench.device)), here.decode(theirs)),
        1e-3,
    )


def _writes_alike(
    bench: Bench,
    reference: ModelReference,
    point: str,
    x: Tensor,
) -> Iterator[Figure]:
    """Strength 0 is plain text on one device; at strength 1, the mean norm, both write the same."""
    direction = torch.randn(x.shape[1], generator=torch_generator(0, "step"))
    step = direction / direction.norm() * x.norm(dim=1).mean()
    n_tokens, vocab = bench.of(64, 12), reference.shape.vocab_size
    generator = torch_generator(0, "prompts")
    prompts = torch.randint(vocab, (bench.of(32, 4), 8), generator=generator).tolist()
    here, there = (reference.load(Execution(device=str(where))) for where in (CPU, bench.device))
    plain, at_zero = (steered(there, point, prompts, n_tokens, size) for size in (None, 0 * step))
    yield at_least("tokens at strength 0 that are those of plain text", _alike(at_zero, plain), 1.0)
    for strength in (0.0, 1.0):
        scaled = strength * step
        ours, theirs = (steered(each, point, prompts, n_tokens, scaled) for each in (there, here))
        changed = 1 - _alike(ours, plain)
        yield at_least(
            f"tokens at strength {strength:g} that are the CPU's",
            _alike(ours, theirs),
            0.97,
            changed=changed,
        )


def _alike(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    rows_of_both = zip(ours, theirs, strict=True)
    pairs = [pair for both in rows_of_both for pair in zip(*both, strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)


def _learns_alike(bench: Bench, kind: str) -> Iterator[Figure]:
    d_in, batch, updates = bench.of(256, 16), bench.of(1024, 64), bench.of(20, 8)
    data = rows((updates + 1) * batch, d_in)
    options = options_of(kind, bench.of(4096, 64), bench.of(16, 4))
    learners = []
    for where in (CPU, bench.device):
        settings = {"tokens": updates * batch, "batch_size": batch, "dead_after": 3 * batch}
        learners.append(a_learner(options, data[-batch:].to(where), **settings))
    here, there = learners
    there.dictionary.load_state_dict(here.dictionary.state_dict())
    gradients: dict[str, float] = {}
    for number, part in enumerate(data[: updates * batch].split(batch)):
        here.learn({NAME: part})
        there.learn({NAME: part.to(bench.device)})
        if number == 0:
            gradients = {
                name: difference(there.learnt[name].grad, weights.grad)
                for name, weights in here.learnt.items()
                if weights.grad is not None
            }
    loss = [learner.metrics()["loss"] for learner in (there, here)]
    here.finish()
    there.finish()
    x = data[-batch:]
    ours, theirs = _rebuilt(there.dictionary, x.to(bench.device)), _rebuilt(here.dictionary, x)
    if gradients:
        worst, apart = max(gradients.values()), abs(loss[0] - loss[1]) / abs(loss[1])
        yield at_most(f"{kind}: gradients of an update", worst, 1e-2, by_parameter=gradients)
        yield at_most(f"{kind}: mean loss of {updates} updates", apart, 1e-2)
    yield at_most(f"{kind}: reconstruction after {updates} updates", difference(ours, theirs), 5e-2)


def _rebuilt(dictionary: Dictionary, x: Tensor) -> Tensor:
    return dictionary.decode(dictionary.encode(x))
