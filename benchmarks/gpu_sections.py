"""The sections of `gpu.py`, each with its budget in seconds. Each yields its figures one after
another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import capture as capture_benchmark
from benchmarks import train_step
from benchmarks.gpu_agreement import agreement
from benchmarks.gpu_bench import WAITS, Bench, Figure, at_least, at_most
from benchmarks.gpu_subjects import (
    NAME,
    a_learner,
    capture_once,
    fast_llama,
    forecast,
    options_of,
    rows,
    saved,
    steered,
)
from components.config import Config
from components.dictionary.contract import architectures
from components.dictionary.nonlinearities import coarse_to_fine
from components.dictionary.settings import TrainConfig
from components.dictionary.stream import Stream
from components.model.language_model import LanguageModel
from components.store.artifact import Store
from components.store.shards import PROVENANCE, ActivationShards, write_activations
from components.store.stage import Progress, Stage


class Rows(Config):
    """Which rows a made-up capture holds."""

    n: int
    """How many."""


def ceilings(bench: Bench) -> Iterator[Figure]:
    """The fastest product and copy of this device: what other figures are to be seen against."""
    n = bench.of(8192, 256)
    x = torch.randn(n, n, device=bench.device, dtype=torch.bfloat16)
    y = torch.randn(n, n, device=bench.device, dtype=torch.bfloat16)
    yield Figure("bfloat16 product", 2 * n**3 / bench.seconds(lambda: x @ y, 10) / 1e12, "TFLOP/s")
    source = torch.randn(bench.of(1 << 30, 1 << 18), device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source), 5)
    yield Figure("copy, read and written", 8 * source.numel() / seconds / 1e12, "TB/s")


def product(bench: Bench) -> Iterator[Figure]:
    """A TopK update over the encoder's product alone, and sparsify's where it is installed."""
    shapes = bench.of(
        [(512, 16384, 32, 4096), (768, 24576, 64, 4096), (4096, 131072, 64, 8192)],
        [(32, 256, 4, 64)],
    )
    for shape in shapes:
        d_in, d_sae, k, batch = shape
        name, times = f"({', '.join(map(str, shape))})", bench.of(10, 2)
        x = rows(batch, d_in, bench.device)
        factors = x.bfloat16(), torch.randn(d_sae, d_in, device=bench.device, dtype=torch.bfloat16)
        alone = bench.seconds(lambda factors=factors: factors[0] @ factors[1].T, times)
        yield Figure(f"{name}: product alone, bfloat16", 1000 * alone, "ms")
        del factors
        pre = torch.randn(batch, d_sae, device=bench.device)
        plain = bench.seconds(lambda pre=pre, k=k: pre.topk(k, dim=1, sorted=False), times)
        fine = bench.seconds(lambda pre=pre, k=k: coarse_to_fine(pre, k), times)
        yield Figure(f"{name}: selection by torch.topk, as in the update", 1000 * plain, "ms")
        yield Figure(f"{name}: selection from coarse to fine", 1000 * fine, "ms")
        del pre
        for precision in ("bfloat16", "float32"):
            learner = a_learner(
                options_of("topk", d_sae, k),
                x,
                tokens=1000 * batch,
                batch_size=batch,
                precision=precision,
            )
            step = bench.seconds(lambda learner=learner, x=x: learner.learn({NAME: x}), times)
            parts = bench.slowest_parts(lambda learner=learner, x=x: learner.learn({NAME: x}))
            details = {"slowest_ms": parts}
            yield Figure(f"{name}: update, {precision}", 1000 * step, "ms", details=details)
            if precision == "bfloat16":
                yield Figure(f"{name}: update over product", step / alone)
            del learner
            bench.tidy()
        yield from _sparsify(bench, shape, name, x, times)


def _sparsify(
    bench: Bench, shape: tuple[int, int, int, int], name: str, x: Tensor, times: int
) -> Iterator[Figure]:
    """One update, weights in float32, Adam."""
    with contextlib.suppress(ImportError):
        step = train_step.sparsify(*shape[:3], x)
        yield Figure(f"{name}: sparsify's update", 1000 * bench.seconds(step, times), "ms")


def waits(bench: Bench) -> Iterator[Figure]:
    """Whether the host waits for the device in an inner loop, by iteration."""
    n = bench.of(8, 1)
    x = rows(bench.of(4096, 64), bench.of(512, 16), bench.device)
    for kind in architectures:
        if architectures[kind].learns != "nothing":
            options = options_of(kind, bench.of(8192, 64), bench.of(32, 4))
            learner = a_learner(options, x, tokens=10**9, batch_size=len(x), dead_after=3 * len(x))
            # what tells the host of the longest silence is read when the device is long past it
            silence = {"cudaEventSynchronize": 1, "Memcpy DtoH": 1}
            yield _waiting(
                bench,
                f"update of {kind}",
                lambda n, one=learner: _learn(one, itertools.repeat(x, n)),
                n,
                silence,
            )
    with _streamed(bench, x.cpu()) as stream:
        options = options_of("topk", bench.of(8192, 64), 4)
        learner = a_learner(options, x, tokens=10**9, batch_size=len(x))
        batches = (batch[NAME] for batch in stream.batches(len(x)))
        work = lambda n: _learn(learner, itertools.islice(batches, n))  # noqa: E731
        yield _waiting(bench, "update of topk from the stream", work, n, silence)
    yield from _waits_of_a_model(bench)


def _waits_of_a_model(bench: Bench) -> Iterator[Figure]:
    reference, layer = saved(bench, fast_llama(bench), "bfloat16", bench.device), bench.of(8, 0)
    point, length, store = f"resid_post.{layer}", bench.of(256, 16), Store(bench.folder / "store")
    batch = bench.of(32, 8)

    def captured(n: int) -> None:
        corpus = capture_benchmark.corpus(store, f"waits-{n}", n * batch, length, 128)
        capture_once(bench, reference, corpus, point, bench.device)

    # a batch goes to the host without a wait, and what writes it waits for it behind the loop
    yield _waiting(
        bench,
        "batch of capture",
        captured,
        bench.of(8, 1),
        {"cudaEventSynchronize": 1, "Memcpy DtoH": 1},
    )
    model = reference.load(bench.settings)
    step = torch.randn(model.d_model)
    even, ragged = [[1, 2, 3, 4]] * 8, [[1, 2, 3, 4], [5, 6, 7]] * 4
    for how, prompts, added, asks in (
        ("plain", even, None, 0.2),
        ("steered", even, step, 0.2),
        ("padded", ragged, None, 1.2),
    ):
        work = functools.partial(steered, model, point, prompts, step=added)
        # at every eighth token: are all rows done? transformers asks at each: is any row padded?
        allowed = {"cudaStreamSynchronize": asks, "Memcpy DtoH": asks}
        yield _waiting(bench, f"token of {how} text", work, bench.of(32, 4), allowed)


def _waiting(
    bench: Bench,
    what: str,
    loop: Callable[[int], object],
    n: int,
    allowed: dict[str, float],
) -> Figure:
    """Waits of one iteration beyond those that are meant; on the CPU, which has none, its looks."""
    counts = bench.waits(loop, n)
    details = {"by_name": counts, "allowed": allowed}
    if not bench.is_gpu:
        return Figure(f"looks of the host in one {what}", sum(counts.values()), details=details)
    beyond = sum(max(0.0, counts[name] - allowed.get(name, 0)) for name in WAITS)
    figure = at_most(f"waits of the host in one {what}, beyond what is meant", beyond, 0.01)
    return dataclasses.replace(figure, details=details)


def _learn(learner: Any, batches: Any) -> None:
    for x in batches:
        learner.learn({NAME: x})


@contextlib.contextmanager
def _streamed(bench: Bench, x: Tensor) -> Iterator[Stream]:
    """The rows as captured activations, read in shuffled batches."""

    def write(folder: Path, config: Any, inputs: Any, settings: Any) -> Iterator[Progress]:
        columns = dict.fromkeys(PROVENANCE, torch.arange(len(x)))
        write_activations(folder, "train", 0, {NAME: x}, columns)
        yield Progress(1, 1, "files")
        return {"hook_points": {NAME: {"d_in": x.shape[1]}}}

    store, stage = Store(bench.folder / "store"), Stage("capture", 1, write)
    artifact, _ = store.ensure(stage, Rows(n=len(x)), {})
    yield Stream(ActivationShards(artifact), "train", (NAME,), 0, bench.device)


def training(bench: Bench) -> Iterator[Figure]:
    """Tokens a second of TopK updates: of rows on the device, and of rows from disk, shuffled."""
    d_in, d_sae, k, batch = bench.of((2048, 65536, 64, 8192), (16, 128, 4, 64))
    x = rows(bench.of(1 << 18, 1 << 10), d_in, bench.device).bfloat16().cpu()
    options, n = options_of("topk", d_sae, k), bench.of(20, 4)
    speed = {}
    for precision in ("float32", "bfloat16"):
        resident = x[:batch].to(bench.device)
        settings = {"tokens": 10**9, "batch_size": batch, "precision": precision}
        learner = a_learner(options, resident.float(), **settings)
        work = lambda one=learner, rows=resident: one.learn({NAME: rows})  # noqa: E731
        speed[precision] = batch / bench.seconds(work, n)
        shape = f"TopK ({d_in}, {d_sae}, {k}, {batch})"
        yield Figure(f"{shape}, {precision}", speed[precision], "tokens/s")
    with _streamed(bench, x) as stream:
        batches = (part[NAME] for part in stream.batches(batch))
        seconds = bench.seconds(lambda: _learn(learner, itertools.islice(batches, n)), 1, rounds=1)
    streamed = n * batch / seconds
    yield Figure("the same from the stream", streamed, "tokens/s")
    yield Figure("the stream's speed over that of rows on the device", streamed / speed["bfloat16"])


def memory(bench: Bench) -> Iterator[Figure]:
    """The most memory that updates take, against what is said before a run."""
    d_in, d_sae, k, batch = bench.of((1024, 32768, 32, 8192), (64, 4096, 8, 512))
    for kind in bench.of(("topk", "batch_topk", "jumprelu", "gated", "relu"), ("topk", "relu")):
        options = options_of(kind, d_sae, k)
        settings = {"tokens": 1000 * batch, "batch_size": batch}
        x = rows(batch, d_in, bench.device)

        def work(options: Any = options, settings: Any = settings, x: Tensor = x) -> None:
            there = x.clone()
            learner = a_learner(options, there, **settings)
            _learn(learner, itertools.repeat(there, 3))

        peak = bench.peak_bytes(work)
        said = forecast(TrainConfig(dictionary=options, **settings), d_in, batch, bench.settings)
        yield Figure(f"{kind}: forecast", said / 2**20, "MiB")
        figure = at_most(f"{kind}: peak over forecast", peak / said, 1.0, peak_bytes=peak)
        yield _on_a_gpu(bench, figure)


def capturing(bench: Bench) -> Iterator[Figure]:
    """Tokens a second of capture, writing included, against the bare pass cut at the same block."""
    reference = saved(bench, fast_llama(bench), "bfloat16", bench.device)
    block, n_tokens = bench.of(8, 0), bench.of(1 << 19, 1 << 10)
    length, batch = bench.of((512, 64), (16, 8))
    sizes = {"length": length, "batch": batch, "within": bench.folder}
    turns = bench.of(3, 1)
    measured = capture_benchmark.measure(
        "gpu",
        reference,
        block,
        n_tokens,
        turns,
        bench.settings,
        **sizes,
    )
    yield Figure("bare pass", measured["bare_tokens_per_second"], "tokens/s")
    yield Figure("capture", measured["capture_tokens_per_second"], "tokens/s", details=measured)
    ratio, to_reach = measured["ratio"], capture_benchmark.TO_REACH
    yield _on_a_gpu(bench, at_least("capture over bare pass", ratio, to_reach))


def _on_a_gpu(bench: Bench, figure: Figure) -> Figure:
    """The figure; elsewhere nothing is wanted of it: small sizes measure the machine's other
    work."""
    return figure if bench.is_gpu else dataclasses.replace(figure, wanted="", holds=None)


def generation(bench: Bench) -> Iterator[Figure]:
    """New tokens a second, plain and steered."""
    reference = saved(bench, fast_llama(bench), "bfloat16", bench.device)
    model: LanguageModel = reference.load(bench.settings)
    n_tokens, point = bench.of(64, 8), f"resid_post.{bench.of(8, 0)}"
    step = torch.randn(model.d_model)
    for n_rows in bench.of((16, 128), (2,)):
        prompts, speeds = [[1, 2, 3, 4, 5, 6, 7, 8]] * n_rows, {}
        for how, added in (("plain", None), ("steered", step)):
            work = functools.partial(steered, model, point, prompts, n_tokens, added)
            speeds[how] = n_rows * n_tokens / bench.seconds(work, 1, rounds=bench.of(3, 1))
            yield Figure(f"{how} text, {n_rows} rows", speeds[how], "tokens/s")
        yield Figure(f"steered over plain, {n_rows} rows", speeds["steered"] / speeds["plain"])


SECTIONS: dict[str, tuple[Callable[[Bench], Iterator[Figure]], float]] = {
    "ceilings": (ceilings, 20),
    "agreement": (agreement, 90),
    "product": (product, 90),
    "waits": (waits, 70),
    "training": (training, 60),
    "memory": (memory, 30),
    "capture": (capturing, 60),
    "generation": (generation, 40),
}
"""Name -> (section, its budget in seconds), the most telling first: a run may be cut short."""
