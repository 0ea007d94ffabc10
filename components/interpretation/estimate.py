"""What the stage `interpret` will cost, before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.capture.arrays import NO_TEXT
from components.device import Execution
from components.interpretation.activity import KEPT
from components.interpretation.asked import forecast, readers_of_latents
from components.interpretation.config import InterpretConfig
from components.interpretation.contexts import SPLITS
from components.interpretation.contract import explainers, predictors, scorers
from components.interpretation.controls import OF_DIRECTIONS
from components.interpretation.dictionary_contract import dictionary_scorers
from components.interpretation.directions import ENTRIES_HELD
from components.interpretation.latent_contract import latent_scorers
from components.interpretation.neighbours import AT_ONCE, ROWS, USED
from components.interpretation.searched import SEARCHED
from components.store.estimate import Estimate
from components.store.shards import is_stored

WINDOWS = 420  # of one latent, all roles together
WINDOW = 32 * 80  # bytes of one in memory, its rows of the tables included
SHARD_ROWS = 65_536  # of the codes
ONCE, BY_LATENT = 1.5, 0.05  # seconds, on one core of a server


def _codes(facts: Mapping[str, Any], rows: int, config: InterpretConfig) -> int:
    """What a pass over one split keeps of the sampled latents and of those next to them, and what
    it works with."""
    d_sae, l0 = facts["d_sae"], max(facts["l0"].values(), default=0.0)
    watched = min(d_sae, (1 + 2 * USED) * config.latents)
    searched = min(rows, SEARCHED * config.contexts.width)
    kept = 16 * 2 * KEPT * watched
    activity = 8 * searched * l0 * watched / d_sae
    means = 4 * searched / config.contexts.width * facts.get("d_in", 0)
    counted = 12 * min(rows, ROWS) * l0 + 16 * AT_ONCE * d_sae
    block = 60 * min(rows, SHARD_ROWS) * l0
    return round(kept + activity + means + counted + block)


def _from_model(
    read: Sequence[Mapping[str, Any]],
    rows: Sequence[int],
    config: InterpretConfig,
    inputs: Mapping[str, Any],
) -> dict[str, int]:
    """What is held beside where codes come from the running model: what is kept of them, and model
    and dictionaries."""
    windows = [min(n // config.contexts.width, SEARCHED) for n in rows]
    kept, weights = 0, 0
    for facts in read:
        d_sae, l0 = facts["d_sae"], max(facts["l0"].values(), default=0.0)
        sampled = min(1.0, config.latents / d_sae) * l0
        everywhere = config.contexts.width * sum(windows) + ROWS
        kept += round(8 * sum(rows) * (1 + sampled) + 8 * everywhere * l0)
        weights += 4 * 2 * d_sae * facts["d_in"]
    model = inputs.get("model")
    return {
        "gathered codes": kept,
        "mean vectors": 4 * sum(windows) * read[0]["d_in"],
        "dictionaries": weights,
        "model": model.n_bytes if model else 0,
        "forward pass": inputs["activations"].facts["pass_bytes"],
    }


def _passes(
    rows: Sequence[int], inputs: Mapping[str, Any], settings: Execution, seconds: float
) -> tuple[float, str]:
    """How long the splits take to pass the model once each, for all dictionaries of one model
    together, and that in words."""
    n, model = sum(rows), inputs.get("model")
    if model is None:
        return 0.0, "passes of a model that is not given are not counted"
    length, places = (
        inputs["corpus"].facts["context_length"],
        tuple(inputs["activations"].facts["hook_points"]),
    )
    loading, by_token, paced = model.pace(settings, length, seconds, places)
    return loading + by_token * n, paced


def formula(config: InterpretConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """What a pass over the codes keeps, by latents; tokens; and the windows of the sample.

    Dictionaries are read one after the other, and the windows of a control are not written.
    Directions in the place of a dictionary are as often active as its latents.
    """
    if inputs.get("corpus") is None:
        return Estimate(
            {}, {"tables": 30_000}, probe=lambda _: (0.0, f"nothing is interpreted: {NO_TEXT}")
        )
    stored = is_stored(inputs["codes"])
    given = [inputs[name].facts for name in config.controls if inputs.get(name) is not None]
    read = [inputs["codes"].facts, *given]
    rows = [min(read[0]["rows"].get(split, 0), config.contexts.rows) for split in SPLITS]
    projected = [name for name in config.controls if name in OF_DIRECTIONS and stored]
    windows = WINDOWS * max(config.latents, config.of_control if given or projected else 0)
    n_latents = config.latents + (len(given) + len(projected)) * config.of_control
    memory = {
        "codes": max(_codes(each, max(rows), config) for each in read),
        # what is known of each token, and what is known of one split while it is cut
        "tokens": 8 * sum(rows) + 60 * max(rows),
        "windows": windows * WINDOW,
    }
    if projected:
        held = read[0]["rows"].get("explain", 0) * config.of_control
        memory["projections"] = 3 * 4 * min(ENTRIES_HELD, held)  # in parts, joined, turned
    if not stored:
        memory |= _from_model(read, rows, config, inputs)
    disk = {"windows": 40 * windows, "tables": 450 * n_latents + 30_000}
    listed = (
        (explainers, config.explainers),
        (scorers, config.scorers),
        (predictors, config.predictors),
        (latent_scorers, config.latent_scorers),
        (dictionary_scorers, config.dictionary_scorers),
    )
    # its own word, never an inherited one: who builds upon a free entry may ask an endpoint on top
    costly = [
        f"{of.noun} {name}"
        for of, names in listed
        for name in names
        if not vars(of[name]).get("free", False)
        or (of is latent_scorers and name in readers_of_latents(config))
    ]
    told = "as long as on a core elsewhere"
    told += (
        f"; without {', '.join(costly)}, which a plan does not run: not declared free"
        if costly
        else ""
    )
    work, alike = (n_latents, "latents, those of controls included"), [names for _, names in listed]

    if not stored:
        splits = f"{', '.join(SPLITS[:-1])} and {SPLITS[-1]}"
        work = (sum(rows), f"tokens of {splits}, each of which passes the model once")

    def probe(seconds: float) -> tuple[float, str]:
        taken = ONCE + BY_LATENT * n_latents
        if stored:
            return taken, told
        passing, paced = _passes(rows, inputs, settings, seconds)
        return taken + passing, f"{told}; {paced}"

    return Estimate(
        memory,
        disk,
        work=work,
        alike=(alike, stored),
        probe=probe,
        forecast=forecast(config, settings, len(read) - 1),
    )
