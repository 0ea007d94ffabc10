"""What the stage `interpret` will cost, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.capture.arrays import NO_TEXT
from components.device import Execution
from components.interpretation.config import InterpretConfig
from components.interpretation.contexts import SPLITS
from components.interpretation.contract import explainers, predictors, scorers
from components.interpretation.controls import CONTROLS
from components.interpretation.dictionary_contract import dictionary_scorers
from components.interpretation.latent_contract import latent_scorers
from components.store.estimate import Estimate

WINDOWS = 300  # of one latent, all roles together
WINDOW = 32 * 80  # bytes of one in memory, its rows of the tables included
ONCE, BY_LATENT = 1.5, 0.03  # seconds, on one core of a server


def formula(config: InterpretConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """Codes of three splits in memory by rows and by latents, and the windows of the sample.

    Dictionaries are read one after the other, and the windows of a control are not written.
    """
    if inputs.get("corpus") is None:
        return Estimate(
            {}, {"tables": 30_000}, probe=lambda _: (0.0, f"nothing is interpreted: {NO_TEXT}")
        )
    read = [inputs[role].facts for role in ("codes", *CONTROLS) if inputs.get(role) is not None]
    rows = sum(min(read[0]["rows"].get(split, 0), config.contexts.rows) for split in SPLITS)
    entries = max(
        round(sum(f["rows"].get(split, 0) * f["l0"].get(split, 0.0) for split in SPLITS))
        for f in read
    )
    windows, n_latents = WINDOWS * config.latents, len(read) * config.latents
    memory = {"codes": 32 * entries, "tokens": 100 * rows, "windows": windows * WINDOW}
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
    ]
    told = "as long as on a core elsewhere"
    told += (
        f"; without {', '.join(costly)}, which a plan does not run: not declared free"
        if costly
        else ""
    )
    work, alike = (n_latents, "latents, those of controls included"), [names for _, names in listed]
    return Estimate(
        memory, disk, {}, {}, work, (alike,), lambda _: (ONCE + BY_LATENT * n_latents, told)
    )
