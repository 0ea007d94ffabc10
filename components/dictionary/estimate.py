"""What training a dictionary will cost.

Training holds weights, their gradients and Adam's two moments, the rows of a window of the stream,
a few tensors of (rows, d_sae) and a few numbers for each latent that a token uses: how many
tensors, and whether their rows are a batch or the blocks of it that are multiplied at once, each
architecture says (`dense`, `in_blocks`). Beside these stands the largest of what is made on the
way: an update, or a checkpoint (all of the state once more, as bytes). The sizes of the weights
come from the architecture itself, built without memory. Where a model takes part, whoever stands
above this package says what its passes hold and how many they are (`Passes`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from components import device
from components.device import Execution
from components.dictionary.contract import Batch, Dictionary, architectures, untrained
from components.dictionary.kernels import product
from components.dictionary.kernels.sparse import ENTRIES_AT_ONCE_ELSEWHERE, most_revived
from components.dictionary.learner import Learner
from components.dictionary.settings import HELD_OUT_ROWS_IN_CURVE, SAMPLE_ROWS, TrainConfig, wired
from components.dictionary.stream import WINDOW_BYTES
from components.errors import DictionaryError
from components.registry import nearest
from components.seeds import torch_generator
from components.store.estimate import Estimate
from components.store.shards import is_stored

FLOAT = 4
ENCODED = 1 << 24  # entries of one encoder product outside training
# bytes for a latent that a token uses: index, value, gradient, order by latent, what the allocator
# keeps
USED = 120
CURVE_POINT = 100  # bytes of a point of all curves on disk
MODEL = "model"
"""What begins the names of memory that a model takes."""

Passes = Callable[[TrainConfig, int, Mapping[str, Any]], tuple[Mapping[str, int], float]]
"""(section, names that are reconstructed, inputs) -> bytes that a model holds while it takes part
in an update by what they hold, and passes of the model for each token of these updates."""


def empty(config: TrainConfig, facts: Mapping[str, Any]) -> Dictionary:
    """The dictionary of a section, without memory, for activations of these facts.

    Raises:
        DictionaryError: a hook point that is not captured.
    """
    reads, reconstructs = wired(config, config.hook_point or next(iter(facts["hook_points"])))
    widths = {}
    for name in (*reads, *reconstructs):
        place = name.rpartition("gradient:")[2]
        if place not in facts["hook_points"]:
            raise DictionaryError(
                f"train.hook_point wants activations at {place}, and capture.hook_points gives "
                f"{', '.join(facts['hook_points'])}; {nearest(place, facts['hook_points'])}"
            )
        widths[name] = facts["hook_points"][place]["d_in"]
    with torch.device("meta"):
        return architectures[config.dictionary.kind](config.dictionary, reads, reconstructs, widths)


def numbers(config: TrainConfig, dictionary: Dictionary) -> tuple[int, int]:
    """Numbers in a dictionary and in rivals that learn beside it, and those of them that gradients
    change."""
    rivals = dictionary.rivals(config.dictionary)
    learnt = sum(p.numel() for p in dictionary.parameters() if p.requires_grad) * bool(
        config.updates
    )
    n = sum(tensor.numel() for tensor in dictionary.state_dict().values())
    return rivals * n, rivals * learnt * (dictionary.learns == "gradients")


def rows_of(facts: Mapping[str, Any], split: str) -> int:
    """Rows of a split, by the facts of a capture.

    Raises:
        DictionaryError: it is not captured.
    """
    if split not in facts["splits"]:
        raise DictionaryError(
            f"the capture will have no split {split!r}; {nearest(split, facts['splits'])}; add it "
            "to capture.splits"
        )
    return facts["splits"][split]["rows"]


def memory(configs: Sequence[TrainConfig], activations: Any, settings: Execution) -> dict[str, int]:
    """Bytes of memory by what they hold, of dictionaries that learn side by side.

    What each keeps adds up; the stream is there once, and of what is made on the way the most that
    any one makes.

    Args:
        configs: one section for each dictionary, of one stream.
        activations: the artifact of capture, or a planned one.
        settings: where to run; with `threads` 0 as many as torch has now.
    """
    itemsize, n_rows = (
        getattr(torch, activations.facts["dtype"]).itemsize,
        rows_of(activations.facts, configs[0].split),
    )
    parts, most, batch, width = Counter(), Counter(), configs[0].batch, 0
    for config in configs:
        dictionary = empty(config, activations.facts)
        (n, learnt), gathered = (
            numbers(config, dictionary),
            dictionary.gathers(config.dictionary, dictionary.d_in),
        )
        width = sum(dictionary.widths.values())
        # a second dictionary, that measures convergence, learns beside the weights of the first
        # alone
        parts["weights"] += FLOAT * n * (1 + (config.convergence == "measured" and learnt > 0))
        parts += {
            "gradients": FLOAT * learnt,
            "optimiser": 2 * FLOAT * learnt,
            "statistics": gathered,
        }
        update = held(config, dictionary, settings) * bool(config.updates)
        most |= {
            "pre-activations": max(update, 2 * FLOAT * min(ENCODED, batch * dictionary.d_sae)),
            "checkpoint": FLOAT * (n + 2 * learnt) + gathered,
        }
    window = min(n_rows * itemsize * width, max(WINDOW_BYTES, batch * itemsize * width))
    # before learning the sample of the first values, in float64; then what came from disk,
    # shuffled, and merged with the rest of the window before
    sample = min(SAMPLE_ROWS, n_rows) * width * (itemsize + FLOAT + 3 * 8)
    stream = max(3 * window * any(config.updates for config in configs), sample)
    return {
        **parts,
        "stream": stream,
        "batch": 6 * FLOAT * batch * width,
        **dict(most.most_common(1)),
    }


def held(config: TrainConfig, dictionary: Dictionary, settings: Execution) -> int:
    """Bytes that an update makes on the way from the batch to the gradients."""
    n, d_sae = config.batch, dictionary.d_sae
    rows = n
    if dictionary.in_blocks and device.resolve(settings.device).type == "cpu":
        threads = settings.threads or torch.get_num_threads()
        rows = min(n, threads * product.block(n, d_sae, threads))
    elif dictionary.in_blocks:
        rows = min(n, max(1, ENTRIES_AT_ONCE_ELSEWHERE // d_sae))
    revives = getattr(config.dictionary, "auxk_coefficient", 0)
    used = dictionary.used(config.dictionary) + (
        most_revived(d_sae, dictionary.d_in) if revives else 0
    )
    return dictionary.dense * FLOAT * rows * d_sae + USED * n * min(d_sae, used)


def formula(
    config: TrainConfig,
    inputs: Mapping[str, Any],
    settings: Execution,
    passes: Passes | None = None,
) -> Estimate:
    """Memory while it learns, the dictionary on disk, and beside it two checkpoints."""
    activations, updates, model = inputs["activations"], config.updates, inputs.get(MODEL)
    dictionary = empty(config, activations.facts)
    (n, learnt), d_in, d_sae = numbers(config, dictionary), dictionary.d_in, dictionary.d_sae
    takes, n_passes = memory([config], activations, settings), 0.0
    if passes and model:
        of_model, n_passes = passes(config, len(dictionary.reconstructs), inputs)
        takes |= of_model
    state = FLOAT * (n + 2 * learnt) + 8 * d_sae + dictionary.gathers(config.dictionary, d_in)
    points = (updates // config.log_every + 1) * bool(updates)
    # a row that is learnt passes forwards and backwards, one that is measured forwards alone
    measured = points * HELD_OUT_ROWS_IN_CURVE + rows_of(activations.facts, config.held_out)
    work = config.batch * updates * config.relative_cost + measured / 3

    def probe(seconds: float) -> tuple[float, str]:
        n_rows, where = (
            min(SAMPLE_ROWS, rows_of(activations.facts, config.split)),
            device.resolve(settings.device),
        )
        rows = {
            name: torch.randn(n_rows, width, device=where)
            for name, width in dictionary.widths.items()
        }
        started = time.perf_counter()
        begun = untrained(
            config.dictionary, dictionary.hook_point, dictionary.widths, rows, torch_generator(0)
        )
        once = time.perf_counter() - started
        learner = Learner(begun, config.model_copy(update={"lr": None}))

        def learn(batch: Batch) -> None:
            learner.learn(batch)
            # a twentieth counts as dead, so that it is revived
            learner.silent[: max(1, d_sae // 20)] = 2**40
            learner.longest.forget()

        by_row, n = pace(learn if updates else begun.encode, rows, config.batch, seconds)
        total, told = (
            once + by_row * work,
            f"first values in {once:.1f} s, then {n:,} rows in {by_row * n:.2g} s",
        )
        if model and n_passes:
            loading, by_token, of_model = model.pace(
                settings, inputs["corpus"].facts["context_length"], seconds
            )
            spliced = (updates - config.spliced_from) * config.batch * config.relative_cost
            total, told = total + loading + by_token * n_passes * spliced, f"{told}; {of_model}"
        if not is_stored(activations):
            told += f"; {config.split} passes the model once, as far as it is sampled, and "
            told += f"{config.held_out} twice, which is not counted"
        return total, told

    return Estimate(
        takes,
        {"dictionary": FLOAT * n, "curve": CURVE_POINT * points},
        {"checkpoints": (3 if config.convergence == "measured" else 2) * state * bool(updates)},
        {
            "d_sae": d_sae,
            "architecture": dictionary.kind,
            "d_in": d_in,
            "hook_point": dictionary.hook_point,
            "reads": list(dictionary.reads),
            "reconstructs": list(dictionary.reconstructs),
            "l0": getattr(config.dictionary, "k", min(d_in, d_sae)),
        },
        (work, f"rows in {updates:,} updates"),
        (dictionary.kind, d_sae, d_in, bool(updates), config.splice, model and model.key),
        probe,
    )


def pace(work: Callable[[Batch], Any], rows: Batch, most: int, seconds: float) -> tuple[float, int]:
    """Seconds of work on a row, from some `seconds` of it, and on how many rows at once: `most`, or
    what time allows."""

    def run(n: int) -> float:
        started = time.perf_counter()
        work({name: x[:n] for name, x in rows.items()})
        assert all(x[0].cpu().ndim for x in rows.values())  # a GPU is waited for here
        return (time.perf_counter() - started) / n

    n = min(most, *map(len, rows.values()))
    few = min(n, 256)
    run(few)
    n = max(few, min(n, int(seconds / 4 / run(few))))
    return min(run(n) for _ in range(3)), n
