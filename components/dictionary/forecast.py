"""What training and encoding a dictionary will cost.

Training holds weights, their gradients and Adam's two moments, the rows of a window of the stream, a few tensors of
(rows, d_sae) and a few numbers for each latent that a token uses: how many tensors, and whether their rows are a batch or
the blocks of it that are multiplied at once, each architecture says (`dense`, `in_blocks`). The largest of four phases
counts: the first values (a sample in float64), an update, a checkpoint (all of the state once more, as bytes), the
measurement at the end. The sizes of the weights come from the architecture itself, built without memory.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from components import device
from components.device import Execution
from components.dictionary.contract import Batch, architectures, untrained
from components.dictionary.encode import COSINES, EncodeConfig
from components.dictionary.encode import SHARD_ROWS as CODE_ROWS
from components.dictionary.encode import make as make_codes
from components.dictionary.fit import evaluate
from components.dictionary.kernels import product
from components.dictionary.kernels.sparse import ENTRIES_AT_ONCE_ELSEWHERE, most_revived
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.dictionary.stream import _WINDOW_BYTES as WINDOW
from components.dictionary.train import HELD_OUT_ROWS_IN_CURVE, SAMPLE_ROWS, wired
from components.errors import DictionaryError
from components.registry import nearest
from components.seeds import torch_generator
from components.store.artifact import Artifact, Store
from components.store.forecast import Forecast, Foreteller, Knob, Timing, below, lower, stand_in, watch
from components.store.shards import PROVENANCE, write_activations

FLOAT = 4
ENCODED = 1 << 24  # entries of one encoder product outside training
USED = 120  # bytes for a latent that a token uses: index, value, gradient, order by latent, what the allocator keeps
CURVE_POINT = 100  # bytes of a point of all curves on disk


def weights(config: TrainConfig, hook_point: str, widths: Mapping[str, int]) -> tuple[int, int]:
    """Numbers in the dictionary, and those of them that gradients change; nothing is allocated."""
    architecture = architectures[config.dictionary.kind]
    with torch.device("meta"):
        dictionary = architecture(config.dictionary, *wired(config, hook_point), widths)
    learnt = sum(p.numel() for p in dictionary.parameters() if p.requires_grad)
    rivals = architecture.rivals(config.dictionary)
    return rivals * sum(tensor.numel() for tensor in dictionary.state_dict().values()), (
        rivals * learnt if architecture.learns == "gradients" else 0
    )


def latents(config: TrainConfig, hook_point: str, widths: Mapping[str, int]) -> int:
    """Latents of the dictionary; some architectures take their number from the width of what they read."""
    return architectures[config.dictionary.kind].size(config.dictionary, _d_in(config, hook_point, widths))


def _d_in(config: TrainConfig, hook_point: str, widths: Mapping[str, int]) -> int:
    """Width of what it reads first."""
    return widths[wired(config, hook_point)[0][0]]


def memory(configs: Sequence[TrainConfig], activations: Any, settings: Execution) -> dict[str, int]:
    """Bytes of memory by what they hold, in the phase that takes most, of dictionaries that learn side by side.

    What each keeps adds up; the stream is there once, and of what is made on the way the most that any one makes.

    Args:
        configs: one section for each dictionary, of one stream.
        activations: the artifact of capture, or a foretold one.
        settings: where to run; with `threads` 0 as many as torch has now.
    """
    hook_point, widths, n_rows, dtype = _subject(configs[0], activations)
    width, batch = sum(widths.values()), configs[0].batch
    summed = dict.fromkeys(("weights", "gradients", "optimiser", "statistics"), 0)
    most = dict.fromkeys(("directions", "measured", "update", "checkpoint"), 0)
    for config in configs:
        n, learnt = weights(config, hook_point, widths)
        d_sae, d_in = latents(config, hook_point, widths), _d_in(config, hook_point, widths)
        gathered = architectures[config.dictionary.kind].gathers(config.dictionary, d_in)
        # a second dictionary, that measures convergence, learns beside the weights of the first alone
        times = 2 if config.convergence == "measured" and learnt else 1
        state = {"weights": times * FLOAT * n, "gradients": FLOAT * learnt, "optimiser": 2 * FLOAT * learnt}
        for name, n_bytes in (state | {"statistics": gathered}).items():
            summed[name] += n_bytes
        of_point = 2 * FLOAT * min(ENCODED, HELD_OUT_ROWS_IN_CURVE * d_sae)
        made = {
            "directions": FLOAT * n,
            "measured": 2 * FLOAT * min(ENCODED, batch * d_sae),
            "update": max(held(config, d_sae, d_in, settings), of_point),
            "checkpoint": FLOAT * (n + 2 * learnt) + gathered,
        }
        most = {name: max(most[name], n_bytes) for name, n_bytes in made.items()}
    window = min(n_rows * width * dtype.itemsize, WINDOW)
    window = max(window, min(n_rows, batch) * width * dtype.itemsize)
    # what came from disk, shuffled, merged with the rest of the window before; the batch in the dictionary's dtype
    stream = {"stream": 3 * window, "batch": 6 * FLOAT * batch * width}
    sample = min(SAMPLE_ROWS, n_rows) * width * (dtype.itemsize + FLOAT + 3 * 8)
    phases = [
        {"weights": summed["weights"], "sample": sample, "directions": most["directions"]},
        {"weights": summed["weights"], "pre-activations": most["measured"], "batch": 24 * batch * width},
    ]
    if any(config.updates for config in configs):
        state = {name: n_bytes for name, n_bytes in summed.items() if n_bytes or name != "statistics"}
        phases.append(state | stream | {"pre-activations": most["update"]})
        phases.append(state | stream | {"checkpoint": most["checkpoint"]})
    return max(phases, key=lambda phase: sum(phase.values()))


def held(config: TrainConfig, d_sae: int, d_in: int, settings: Execution) -> int:
    """Bytes that an update makes on the way from the batch to the gradients."""
    architecture, n = architectures[config.dictionary.kind], config.batch
    rows = n
    if architecture.in_blocks and device.resolve(settings.device).type == "cpu":
        threads = settings.threads or torch.get_num_threads()
        rows = min(n, threads * product.block(n, d_sae, threads))
    elif architecture.in_blocks:
        rows = min(n, max(1, ENTRIES_AT_ONCE_ELSEWHERE // d_sae))
    revived = most_revived(d_sae, d_in) if getattr(config.dictionary, "auxk_coefficient", 0) else 0
    used = min(d_sae, architecture.used(config.dictionary) + revived)
    return architecture.dense * FLOAT * rows * d_sae + USED * n * used


def formula(config: TrainConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """Memory of the largest phase, the dictionary on disk, and beside it two checkpoints while it learns."""
    hook_point, widths, _, _ = _subject(config, inputs["activations"])
    n, learnt = weights(config, hook_point, widths)
    reads, reconstructs = wired(config, hook_point)
    d_sae, d_in = latents(config, hook_point, widths), _d_in(config, hook_point, widths)
    points = config.updates // config.log_every + 1
    gathered = architectures[config.dictionary.kind].gathers(config.dictionary, d_in)
    state = FLOAT * (n + 2 * learnt) + 8 * d_sae + gathered
    return Forecast(
        memory([config], inputs["activations"], settings),
        {"dictionary": FLOAT * n, "curve": CURVE_POINT * points if config.updates else 0},
        {"checkpoints": (3 if config.convergence == "measured" else 2) * state if config.updates else 0},
        {
            "d_sae": d_sae,
            "architecture": config.dictionary.kind,
            "d_in": d_in,
            "hook_point": reads[0],
            "reads": list(reads),
            "reconstructs": list(reconstructs),
            "l0": getattr(config.dictionary, "k", min(d_in, d_sae)),
        },
    )


def probe(config: TrainConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """First values, a few updates, a point of the curve, a checkpoint and a batch of the measurement, on random rows."""
    hook_point, widths, n_rows, dtype = _subject(config, inputs["activations"])
    where = device.resolve(settings.device)
    steps = config.updates
    ends = time.perf_counter() + seconds
    # A batch that would take longer than the probe may is cut, and time taken to grow with its rows.
    batch = config.batch
    sample = _rows(min(SAMPLE_ROWS, n_rows), widths, dtype, where)
    started = time.perf_counter()
    dictionary = untrained(config.dictionary, hook_point, widths, sample, torch_generator(0, "probe"))
    start = time.perf_counter() - started
    learner = Learner(dictionary, config.model_copy(update={"lr": config.lr if config.lr != "search" else None}))
    small = _part(sample, min(batch, 256))
    if steps:
        _seconds(lambda: learner.learn(small), where)
        guess = _seconds(lambda: learner.learn(small), where) / min(batch, 256)
        while batch > 256 and guess * batch * 3 > max(0.0, ends - time.perf_counter()):
            batch //= 2
    rows = _rows(batch, widths, dtype, where)
    made, plain, revived = 0, 0.0, 0.0
    if steps:
        plain = _repeated(lambda: learner.learn(rows), where, ends - (ends - time.perf_counter()) * 0.6)
        _kill(learner)  # from here on what revives the dead takes part
        revived = _repeated(lambda: _kept_dead(learner, rows), where, ends - (ends - time.perf_counter()) * 0.5)
        made = learner.step
    scale = config.batch / batch
    before = min(steps, config.silence // config.batch)
    learning = scale * (before * plain + (steps - before) * max(plain, revived)) * config.relative_cost
    held = _rows(HELD_OUT_ROWS_IN_CURVE, widths, dtype, torch.device("cpu"))
    point = _seconds(lambda: evaluate(dictionary, [held]), where)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _seconds(lambda: learner.save(Path(folder) / "state.safetensors"), where) if steps else 0.0
    streaming = _streaming(rows, batch) * (config.tokens * config.relative_cost if steps else 0)
    held_out = _held_out(config, inputs["activations"].facts)
    measuring = point * held_out / HELD_OUT_ROWS_IN_CURVE
    between = steps / config.log_every * point + steps // config.checkpoint_every * checkpoint
    total = start + learning + streaming + between + measuring
    return Timing(
        total,
        f"{made} updates of {batch:,} rows at {plain * 1e3:.1f} ms, {revived * 1e3:.1f} ms with a twentieth of the latents dead"
        if steps
        else f"first values in {start:.1f} s",
        f"{steps:,} updates{_beside(config)}, with dead latents after the first {before:,}; a curve every {config.log_every}, a checkpoint "
        f"every {config.checkpoint_every}, {held_out:,} held-out rows"
        + ("" if scale == 1 else f"; a batch taken as {scale:g} times what was run"),
    )


def _beside(config: TrainConfig) -> str:
    """What is learnt beside the dictionary, for the plan."""
    parts = []
    if config.lr == "search":
        parts.append(f"{100 * config.search_share:.0f}% as many to search a rate")
    if config.convergence == "measured":
        parts.append("half as many to measure convergence")
    return f" and {' and '.join(parts)}" if parts and config.updates else ""


TRAIN_FORETELLER = Foreteller(
    formula, probe, for_memory=(Knob("batch_size", lambda config, _: below(config.batch)[:-1]), lower("dictionary.d_sae")),
    for_disk=(lower("dictionary.d_sae"),), on_device=True,
)  # fmt: skip


def codes_formula(config: EncodeConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """Sparse shards by the dictionary's L0, which of a dictionary that is not trained yet is its k, or else d_in."""
    activations, trained = inputs["activations"].facts, inputs["dictionary"].facts
    rows = {split: _count(activations, split) for split in config.splits}
    d_sae, d_in, l0 = trained["d_sae"], trained["d_in"], trained["l0"]
    n_rows, splits = sum(rows.values()), len(rows)
    entries = round(n_rows * l0)
    documents = sum(activations["splits"][split].get("documents", -(-rows[split] // 120)) for split in rows)
    # documents share few latents among their tokens: about a sixth of their entries are new, and never all latents
    pooled = documents * min(d_sae, (n_rows / max(1, documents)) * l0 / 6)
    model = inputs.get("model")
    promoted = model is not None
    shard = min(CODE_ROWS, max(rows.values()))
    held = round(shard * l0)
    memory = {
        "weights": 2 * FLOAT * 2 * d_sae * d_in,
        "model": model.n_bytes if promoted else 0,
        "pre-activations": 2 * FLOAT * max(min(ENCODED, config.batch * d_sae), min(COSINES, d_sae * d_sae)),
        "codes": 200 * held,
        "pooled": round(48 * pooled),
        "logits": 4 * FLOAT * min(256, d_sae) * model.shape.vocab_size if promoted else 0,
        "latents": d_sae * splits * (8 * 20 + 40 * 20 * promoted),
    }
    disk = {
        "codes": 8 * (n_rows + splits) + 8 * entries,
        "latents": d_sae * splits * (30 + 40 * promoted),
        "neighbours": 6 * 10 * d_sae,
        "pooled": round(10 * pooled),
    }
    facts = {"d_sae": d_sae, "d_in": d_in, "rows": rows, "l0": dict.fromkeys(rows, float(l0)), "entries": entries}
    return Forecast(memory, disk, facts=facts)


def codes_probe(config: EncodeConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """Encode itself on a batch of random rows in two splits; neighbours and promoted tokens are made once in full."""
    activations, trained = inputs["activations"].facts, inputs["dictionary"]
    n_rows = sum(_count(activations, split) for split in config.splits)
    d_in, d_sae = trained.facts["d_in"], trained.facts["d_sae"]
    widths = {name: activations["hook_points"][name]["d_in"] for name in trained.facts["reads"]}
    dtype = getattr(torch, activations["dtype"])
    n = min(config.batch, 4096, 1 << max(8, 28 - (d_in * d_sae).bit_length()))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        rows = {split: _rows(n, widths, dtype, torch.device("cpu")) for split in ("a", "b")}
        stage_inputs: dict[str, Any] = {"activations": stand_in_activations(store, rows), "model": inputs.get("model")}
        stage_inputs["dictionary"] = (
            trained if isinstance(trained, Artifact) else stand_in_dictionary(store, trained.facts)
        )
        small = config.model_copy(update={"splits": ("a", "b")})
        marks: dict[str, float] = {}
        near, done, end = 0, False, 0.0
        (Path(folder) / "made").mkdir()
        for elapsed, progress in watch(make_codes(Path(folder) / "made", small, stage_inputs, settings), math.inf):
            end, done = elapsed, progress is None
            if progress is not None:
                marks[progress.message] = elapsed
                near = progress.done if progress.message == "neighbours" else near
            if elapsed > seconds and "encoding b" in marks:  # the first split is whole, however long it took
                break
    encoding = marks["encoding b"] - marks["encoding a"]
    statistics = marks.get("statistics of b", end) - marks.get("statistics of a", end)
    by_row = (encoding + statistics) / n
    fixed = (
        marks["encoding a"] - encoding + max(0.0, marks.get("statistics of a", end) - marks["encoding b"] - statistics)
    )
    neighbours = end - marks.get("statistics of b", end)
    if not done and near:
        neighbours *= d_sae / near
    return Timing(
        max(0.0, fixed) + by_row * n_rows + neighbours,
        f"encoded {2 * n:,} rows, with their statistics, at {1 / by_row:,.0f} a second; "
        f"{near:,} latents' neighbours and tokens",
        f"in proportion to {n_rows:,} rows and {d_sae:,} latents",
    )


ENCODE_FORETELLER = Foreteller(codes_formula, codes_probe, for_memory=(lower("batch"),), on_device=True)


def stand_in_activations(
    store: Store, rows: Mapping[str, Batch], provenance: Mapping[str, Any] | None = None
) -> Artifact:
    """An artifact of capture with these rows; by default every 120 of them are one document."""
    columns: dict[str, dict[str, Any]] = {}
    for number, (split, batch) in enumerate(rows.items()):
        n = len(next(iter(batch.values())))
        at = torch.arange(n)
        document = at // 120 + number * (n // 120 + 1)
        plain = {"token": at % 97, "document": document, "position": at % 120, "context": document, "offset": at % 120}
        columns[split] = {**plain, **(provenance or {})}

    def write(folder: Path) -> None:
        for split, batch in rows.items():
            write_activations(folder, split, 0, batch, {name: columns[split][name] for name in PROVENANCE})

    first = next(iter(rows.values()))
    facts = {
        "hook_points": {name: {"d_in": x.shape[1], "mean_norm": 1.0} for name, x in first.items()},
        "splits": {split: {"rows": len(next(iter(batch.values())))} for split, batch in rows.items()},
        "dtype": str(next(iter(first.values())).dtype).removeprefix("torch."),
    }
    return stand_in(store, "capture", Execution(), write, facts)


def stand_in_dictionary(store: Store, facts: Mapping[str, Any]) -> Artifact:
    """A TopK dictionary of that size and sparsity: what encoding costs depends on little else."""
    from components.dictionary.architectures.topk import TopKConfig

    options = TopKConfig(d_sae=facts["d_sae"], k=max(1, round(facts["l0"])))
    widths = {facts["hook_point"]: facts["d_in"]}
    sample = _rows(256, widths, torch.float32, torch.device("cpu"))
    dictionary = untrained(options, facts["hook_point"], widths, sample, torch_generator(0, "probe"))
    return stand_in(store, "train", Execution(), dictionary.save, {"name": dictionary.name, **facts})


def _subject(config: TrainConfig, activations: Any) -> tuple[str, dict[str, int], int, torch.dtype]:
    """Hook point, widths by name, rows of the split and the stored dtype, from the facts of a capture."""
    facts = activations.facts
    hook_point = config.hook_point or next(iter(facts["hook_points"]))
    reads, reconstructs = wired(config, hook_point)
    widths = {}
    for name in dict.fromkeys((*reads, *reconstructs)):
        place = name.rpartition("gradient:")[2]
        if place not in facts["hook_points"]:
            raise DictionaryError(
                f"train.hook_point wants activations at {place}, and capture.hook_points gives "
                f"{', '.join(facts['hook_points'])}; {nearest(place, facts['hook_points'])}"
            )
        widths[name] = facts["hook_points"][place]["d_in"]
    return hook_point, widths, _count(facts, config.split), getattr(torch, facts["dtype"])


def _count(facts: Mapping[str, Any], split: str) -> int:
    if split not in facts["splits"]:
        raise DictionaryError(
            f"the capture will have no split {split!r}; {nearest(split, facts['splits'])}; add it to capture.splits"
        )
    return facts["splits"][split]["rows"]


def _held_out(config: TrainConfig, facts: Mapping[str, Any]) -> int:
    return _count(facts, config.held_out)


def _rows(n: int, widths: Mapping[str, int], dtype: torch.dtype, where: torch.device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(n, width, generator=generator).to(where, dtype) for name, width in widths.items()}


def _part(batch: Batch, n: int) -> dict[str, torch.Tensor]:
    return {name: rows[:n] for name, rows in batch.items()}


def _kept_dead(learner: Learner, rows: Batch) -> None:
    learner.learn(rows)
    _kill(learner)


def _kill(learner: Learner) -> None:
    """A twentieth of the latents counts as dead."""
    learner.silent[: max(1, len(learner.silent) // 20)] = 2**40
    learner.longest.forget()


def _seconds(work: Any, where: torch.device) -> float:
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    started = time.perf_counter()
    work()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter() - started


def _repeated(work: Any, where: torch.device, ends: float) -> float:
    """The median of at least two and at most ten runs after one that does not count."""
    work()
    taken = [_seconds(work, where)]
    while len(taken) < 10 and (len(taken) < 2 or time.perf_counter() < ends):
        taken.append(_seconds(work, where))
    return sorted(taken)[len(taken) // 2]


def _streaming(rows: Batch, n: int) -> float:
    """Seconds a row to gather, check and merge the rows of a window."""
    index = torch.randperm(n)

    def once() -> None:
        for x in rows.values():
            here = x.cpu()[index.sort().indices][index]
            assert len(here.isfinite().all(dim=1)) == n
            torch.cat([here, here[:1]])

    return _seconds(once, torch.device("cpu")) / n
