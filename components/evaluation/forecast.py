"""What evaluating will cost: the parts that take long are run on made-up numbers of the real widths.

The probe of all concepts takes most of the time on a small corpus, because it makes at least 300 steps; then the choice
of a unit for each concept, and the passes of the model with the reconstruction spliced in. An evaluation that is not
among those known here is not foretold, and the plan says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from components.concept.probe import fit_probe
from components.device import Execution, resolve
from components.evaluation.contract import TEST
from components.evaluation.evaluate import EvaluateConfig, possible
from components.evaluation.units import LATENT, UNTRAINED, Readings, choose
from components.model.reference import ModelReference
from components.store.forecast import Forecast, Foreteller, Timing, lower

FOUND, RECOVERED, RECONSTRUCTION = "concepts_found", "loss_recovered", "reconstruction"
READ = (FOUND, "absorption", "sparse_probing")
"""Evaluations that hold codes and activations of two splits at once, or codes of two dictionaries."""
PASSES = 5  # clean, ablated twice, spliced, the untrained dictionary spliced
STEPS, BATCH, EPOCHS = 300, 4096, 8  # of the probe
SHARE = 0.02  # of tokens that carry a concept, as in the embedded world
ROWS = 2048
UNITS = 128


def formula(config: EvaluateConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """The larger of the readings of one split (activations, codes by row and by latent, labels) and the model's logits."""
    codes, listed = inputs["codes"].facts, possible(config, inputs)
    n_concepts, d_in = _n_concepts(inputs), codes["d_in"]
    parts: dict[str, dict[str, int]] = {}
    for name in (name for name in READ if name in listed):
        n = min(max(codes["rows"].values()), getattr(config.settings, name).tokens)
        entries = round(n * max(codes["l0"].values()))
        parts[name] = {
            "activations": 2 * 4 * n * d_in,
            "codes": 2 * 36 * entries,
            "labels": round(24 * SHARE * n * n_concepts) + 8 * 16_384 * n_concepts,
        }
    if RECOVERED in listed:
        model, tokens = inputs["model"], _recovered(config).batch_tokens
        parts[RECOVERED] = {"model": model.n_bytes, "logits": 4 * 4 * tokens * model.shape.vocab_size}
    if RECONSTRUCTION in listed:
        n = codes["rows"].get(TEST, 0)
        parts[RECONSTRUCTION] = {"codes": round(16 * n * codes["l0"].get(TEST, 0.0)), "tokens": 32 * n}
    most = max(parts.values(), key=lambda part: sum(part.values()), default={})
    return Forecast(most, {"tables": 60_000 + 80 * n_concepts})


def probe(config: EvaluateConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """Steps of the probe, the choice among units, one pass of the model."""
    codes, listed, n_concepts = inputs["codes"].facts, possible(config, inputs), _n_concepts(inputs)
    total, ran, grown = 0.0, [], []
    if FOUND in listed and n_concepts:
        n = min(max(codes["rows"].values()), _found(config).tokens)
        fitting, choosing = _concepts(codes, n_concepts, n, resolve(settings.device))
        total += fitting + choosing
        ran.append(f"the probe of {n_concepts} concepts {fitting:.1f} s, choosing units {choosing:.1f} s")
        grown.append(f"{n:,} tokens a split")
    if RECOVERED in listed:
        tokens = min(_recovered(config).tokens, codes["rows"].get(TEST, 0))
        context_length = inputs["corpus"].facts["context_length"]
        loading, by_token = _passes(inputs["model"], context_length, settings)
        total += loading
        if by_token is None:
            ran.append(f"loaded the model in {loading:.1f} s")
            grown.append("no pass of the model, which predicts no next token")
        else:
            total += PASSES * tokens * by_token
            ran.append(f"a pass at {1 / by_token:,.0f} tokens a second")
            grown.append(f"{PASSES} passes over {tokens:,} tokens")
    if RECONSTRUCTION in listed:
        n = codes["rows"].get(TEST, 0)
        by_row = _decoding(codes)
        total += 2 * n * by_row
        grown.append(f"{n:,} rows rebuilt twice")
    unknown = sorted(set(listed) - {FOUND, RECOVERED, RECONSTRUCTION})
    if unknown:
        grown.append(f"without {', '.join(unknown)}, which nobody foretells")
    return Timing(total, "; ".join(ran), "in proportion to " + ", ".join(grown))


EVALUATE_FORETELLER = Foreteller(
    formula, probe, for_memory=(lower("settings.loss_recovered.batch_tokens"),), on_device=True
)


def _n_concepts(inputs: Mapping[str, Any]) -> int:
    return inputs["corpus"].facts["n_concepts"] if inputs.get("corpus") else 0


def _found(config: EvaluateConfig) -> Any:
    return getattr(config.settings, FOUND)


def _recovered(config: EvaluateConfig) -> Any:
    return getattr(config.settings, RECOVERED)


def _concepts(codes: Mapping[str, Any], n_concepts: int, n: int, where: torch.device) -> tuple[float, float]:
    """Seconds of the probe's steps and of the choice among all units, on n tokens."""
    generator = np.random.default_rng(0)
    labels = sp.random(ROWS, n_concepts, SHARE, "csc", random_state=generator)
    x = torch.randn(ROWS, codes["d_in"], generator=torch.Generator().manual_seed(0)).to(where)
    taken = {}
    for batch in (32, 160):  # a step's seconds are a line in its rows
        started = time.perf_counter()
        fit_probe(x, sp.csc_matrix(labels), batch=batch)
        taken[batch] = (time.perf_counter() - started) / max(EPOCHS * math.ceil(ROWS / batch), STEPS)
    slope = max(0.0, (taken[160] - taken[32]) / 128)
    rows = min(n, BATCH)
    steps = max(EPOCHS * math.ceil(n / BATCH), STEPS)
    fitting = steps * max(taken[160], taken[32] + slope * (rows - 32))
    density = max(codes["l0"].values()) / codes["d_sae"]
    units, coordinates = min(UNITS, codes["d_sae"]), min(16, codes["d_in"])
    few = Readings(x[:, :coordinates].cpu().numpy(), {LATENT: sp.random(ROWS, units, density, "csc")}, labels)
    none = Readings(x[:, :1].cpu().numpy(), {LATENT: sp.random(ROWS, units, density, "csc")}, labels)
    seconds = {}
    for name, given in (("both", few), ("latents", none)):
        started = time.perf_counter()
        for _ in choose(given):
            pass
        seconds[name] = time.perf_counter() - started
    by_coordinate = max(0.0, seconds["both"] - seconds["latents"]) / max(1, coordinates - 1)
    by_unit = max(0.0, seconds["latents"] - by_coordinate) / units
    whole = len((LATENT, UNTRAINED)) * codes["d_sae"] * by_unit + codes["d_in"] * by_coordinate
    return fitting, whole * max(1.0, n / ROWS)


def _passes(reference: ModelReference, context_length: int, settings: Execution) -> tuple[float, float | None]:
    """Seconds to load the model, and seconds a token of a pass that ends in logits; None for a model without a head."""
    started = time.perf_counter()
    model = reference.load(settings)
    loading = time.perf_counter() - started
    if model.obstacle("causal_loss"):
        return loading, None
    tokens = torch.randint(model.vocab_size, (4, context_length))
    model.losses(tokens[:1])
    started = time.perf_counter()
    model.losses(tokens).sum().item()
    return loading, (time.perf_counter() - started) / tokens.numel()


def _decoding(codes: Mapping[str, Any]) -> float:
    """Seconds a row to rebuild it and to measure its error in float64."""
    k = max(1, round(max(codes["l0"].values())))
    table = torch.randn(codes["d_sae"], codes["d_in"])
    index = torch.randint(codes["d_sae"], (ROWS, k))
    started = time.perf_counter()
    rebuilt = torch.nn.functional.embedding_bag(index, table, mode="sum").double()
    (rebuilt - rebuilt.mean(0)).square().sum(1)
    return (time.perf_counter() - started) / ROWS
