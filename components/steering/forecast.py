"""What steering will cost: tokens as the stage itself counts them, at speeds measured on a few."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import polars as pl
import torch

from components.capture.arrays import NO_TEXT
from components.device import Execution
from components.steering.concepts import pick_concepts
from components.steering.config import SteerConfig
from components.steering.meter import Meter
from components.steering.neutral import Neutral
from components.steering.strength import calibrate
from components.steering.vector import AddVector
from components.steering.writer import LOGITS_AT_ONCE, Job, Prompt, Writer
from components.store import tables
from components.store.artifact import Artifact
from components.store.forecast import Forecast, Foreteller, Timing, lower

PROMPT = 8  # tokens of an opening, where the corpus is not read yet
DIRECTIONS = 4
JOBS = 32
GENERATION = 120  # bytes a continuation on disk
TABLES = 15_000  # bytes on disk of tables without rows
JUDGED = 40  # bytes on disk of what all judges say of one text for one concept
ROW = 400  # and in memory, while it is put together and written


def formula(config: SteerConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """The largest of logits of what was written, a batch that is being written, and the evidence of the select split."""
    if not inputs.get("corpus"):
        return Forecast({}, {"tables": TABLES})
    model, codes = inputs["model"], inputs["codes"].facts
    meter, n_concepts, _ = _work(config, inputs)
    meter.plan(n_concepts)
    shape, itemsize = model.shape, getattr(torch, model.config.dtype).itemsize
    length = PROMPT + config.max_new_tokens
    texts = max(config.band_texts, config.batch_size)
    cache = 2 * shape.n_layers * shape.d_model * length * config.batch_size * itemsize
    neutral = 4 * config.neutral_tokens * shape.vocab_size
    largest = max(
        {"logits": 3 * 4 * min(LOGITS_AT_ONCE, texts * length * shape.vocab_size), "cache": 0},
        {"logits": 3 * 8 * config.batch_size * shape.vocab_size, "cache": 2 * cache},
        {"logits": 4 * neutral + 3 * 2**25, "cache": 0},
        key=lambda part: sum(part.values()),
    )
    rows = max((codes["rows"].get(split, 0) for split in ("select", "validate")), default=0)
    dictionaries = 1 + (inputs.get("untrained") is not None)
    evidence = 2 * 4 * rows * codes["d_in"] + round(30 * rows * max(codes["l0"].values())) * dictionaries
    return Forecast(
        {"model": model.n_bytes, **largest, "evidence": evidence, "rows": ROW * meter.rows},
        {
            "directions": 4 * codes["d_in"] * meter.directions,
            "generations": GENERATION * meter.texts + JUDGED * meter.rows,
            "scores": 200 * n_concepts,
        },
    )


def probe(config: SteerConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """Writes a few short continuations and finds the strength of a few random directions."""
    if not inputs.get("corpus"):
        return Timing(0.0, "nothing is steered", NO_TEXT)
    meter, n_concepts, source = _work(config, inputs)
    meter.plan(n_concepts)
    started = time.perf_counter()
    model = inputs["model"].load(settings)
    loading = time.perf_counter() - started
    if "generation" not in model.capabilities:
        return Timing(
            loading, f"loaded the model in {loading:.1f} s", "the model does not generate, so nothing is steered"
        )
    activations = inputs["activations"].facts
    hook_point = inputs["dictionary"].facts["hook_point"]
    d_in = activations["hook_points"][hook_point]["d_in"]
    generator = torch.Generator().manual_seed(0)
    n, new = min(JOBS, config.batch_size), min(8, config.max_new_tokens)
    drawn = torch.randint(model.vocab_size, (n, PROMPT), generator=generator).tolist()
    writer = Writer(model, new, config.temperature, 0, n)
    jobs = [Job(Prompt(number, tuple(tokens))) for number, tokens in enumerate(drawn)]
    writing = _seconds(writer.write(jobs, side_effects=True))
    # a step of the model takes as long for a few rows as for many while it is bound by its overhead: so by the batch
    batches = -(-meter.texts // config.batch_size)
    few = Writer(model, new, config.temperature, 0, max(1, n // 4))
    half = _seconds(few.write(jobs[: max(1, n // 4)], side_effects=True))
    by_row = max(0.0, (writing - half) / (n - max(1, n // 4))) if n > 1 else writing
    overhead = max(0.0, writing - n * by_row)
    steps = config.max_new_tokens / new
    generating = steps * (batches * overhead + meter.texts * by_row)
    length = min(config.neutral_length, 32)
    tokens = torch.randint(model.vocab_size, (4, length), generator=generator)
    neutral = Neutral(tokens, torch.ones_like(tokens, dtype=torch.bool))
    directions = torch.nn.functional.normalize(torch.randn(DIRECTIONS, d_in, generator=generator), dim=1)
    norm = float(activations["hook_points"][hook_point].get("mean_norm") or d_in**0.5)
    steerings = [AddVector(hook_point, row, norm) for row in directions]
    measuring = _seconds(calibrate(model, steerings, neutral, config.kl_budgets[:1]))
    by_direction = measuring / DIRECTIONS * (config.neutral_tokens / tokens.numel()) * len(config.kl_budgets)
    strengths = by_direction * meter.directions
    return Timing(
        loading + generating + strengths,
        f"loaded the model in {loading:.1f} s; {n} texts of {new} tokens in {writing:.1f} s; the strength of {DIRECTIONS} "
        f"directions in {measuring:.1f} s",
        f"at most {meter.texts:,} texts of {config.max_new_tokens} tokens and {meter.directions:,} directions on "
        f"{config.neutral_tokens:,} tokens, for {n_concepts} concepts {source}; concepts that do not pass the gate cost "
        "nothing more; judges and probes are not counted",
    )


STEER_FORETELLER = Foreteller(formula, probe, for_memory=(lower("batch_size"), lower("neutral_tokens")), on_device=True)


def _work(config: SteerConfig, inputs: Mapping[str, Any]) -> tuple[Meter, int, str]:
    """What is to be done, by the stage's own account, for how many concepts, and how that number is known."""
    corpus = inputs["corpus"]
    n_prompts = {"validate": config.validate_prompts, "test": config.test_prompts}
    if isinstance(corpus, Artifact):
        inventory = tables.CONCEPTS.read(corpus)
        n_concepts, source = (len(pick_concepts(inventory, config)) if inventory.height else 0), "of the corpus"
        found = tables.PROMPTS.read(corpus)
        n_prompts = {split: min(n, found.filter(pl.col("split") == split).height) for split, n in n_prompts.items()}
    else:
        inventory = pl.DataFrame(corpus.facts["inventory"])
        n_concepts, source = (len(pick_concepts(inventory, config)) if inventory.height else 0), "of the corpus to come"
        n_prompts = {split: min(n, corpus.facts["prompts"][split]) for split, n in n_prompts.items()}
    prompts = {split: [Prompt(i, (0,) * PROMPT) for i in range(max(1, n))] for split, n in n_prompts.items()}
    return Meter(config, prompts, inputs.get("untrained") is not None), n_concepts, source


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    for _ in work:
        pass
    return time.perf_counter() - started
