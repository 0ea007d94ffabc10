"""What interpreting will cost: the stage itself on made-up text, for a few latents and for a few more.

Only entries that declare themselves free are run: a forecast asks no endpoint and loads no model. What the others take is
not told, and the forecast says whose that is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.capture.arrays import NO_TEXT
from components.device import Execution
from components.dictionary.encode import ENCODE, EncodeConfig
from components.dictionary.forecast import stand_in_activations, stand_in_dictionary
from components.interpretation.contexts import SPLITS
from components.interpretation.contract import explainers, predictors, scorers
from components.interpretation.controls import CONTROLS
from components.interpretation.interpret import InterpretConfig, make
from components.store import tables
from components.store.artifact import Store
from components.store.forecast import Forecast, Foreteller, Timing, stand_in, watch

FEW, MORE = 4, 12
ROWS = 12_000
D_IN, D_SAE, WORDS = 16, 256, 2000
WINDOWS = 300  # of one latent, all roles together
WINDOW = 32 * 80  # bytes of one in memory, its rows of the tables included


def formula(config: InterpretConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """Codes of three splits in memory by rows and by latents, and the windows of the sample.

    Dictionaries are read one after the other, and the windows of a control are not written.
    """
    if not inputs.get("corpus"):
        return Forecast({}, {"tables": 30_000})
    read = _read(inputs)
    codes = inputs["codes"].facts
    rows = sum(min(codes["rows"].get(split, 0), config.contexts.rows) for split in SPLITS)
    entries = max(round(sum(f["rows"].get(split, 0) * f["l0"].get(split, 0.0) for split in SPLITS)) for f in read)
    windows = WINDOWS * config.latents
    memory = {"codes": 32 * entries, "tokens": 100 * rows, "windows": windows * WINDOW}
    return Forecast(memory, {"windows": 40 * windows, "tables": 450 * len(read) * config.latents + 30_000})


def probe(config: InterpretConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """A small dictionary as dense as the real one, on random words, by the entries that are free to run."""
    if not inputs.get("corpus"):
        return Timing(0.0, "nothing is interpreted", NO_TEXT)
    run, costly = _free(config)
    codes = inputs["codes"].facts
    rows = {split: min(codes["rows"].get(split, 0), config.contexts.rows) for split in SPLITS}
    n = max(1000, min(ROWS, *rows.values()))
    density = max(codes["l0"].values(), default=1.0) / codes["d_sae"]
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        store, settings = Store(folder), settings.model_copy(update={"device": "cpu"})
        batches = {split: {"x": torch.randn(n, D_IN, generator=generator)} for split in SPLITS}
        words = {"token": torch.randint(WORDS, (n,), generator=generator)}
        activations = stand_in_activations(store, batches, words)
        facts = {"d_sae": D_SAE, "d_in": D_IN, "l0": max(1.0, density * D_SAE), "hook_point": "x"}
        given = {"activations": activations, "dictionary": stand_in_dictionary(store, facts)}
        encoded, _ = store.ensure(ENCODE, EncodeConfig(splits=SPLITS), given, settings)
        vocabulary = [{"token": token, "text": f" word{token}"} for token in range(WORDS)]
        corpus = stand_in(store, "read", config, lambda to: tables.VOCABULARY.write(to, vocabulary), {})
        given = {"corpus": corpus, "activations": activations, "codes": encoded}
        given |= {role: encoded for role in CONTROLS if inputs.get(role) is not None}
        taken = {}
        for latents in (FEW, MORE):
            to = Path(folder) / f"made-{latents}"
            to.mkdir()
            work = make(to, run.model_copy(update={"latents": latents}), given, settings)
            taken[latents] = [elapsed for elapsed, _ in watch(work, seconds / 2)][-1]
    each = max(0.0, (taken[MORE] - taken[FEW]) / (MORE - FEW))
    once = max(0.0, taken[FEW] - FEW * each)
    beside = " and as many of a control" if len(_read(inputs)) > 1 else ""
    return Timing(
        once * max(1.0, sum(rows.values()) / (n * len(rows))) + each * config.latents,
        f"interpreted {FEW} and {MORE} made-up latents{beside}: {each * 1e3:.0f} ms each",
        f"in proportion to {config.latents:,} latents, the rest to {sum(rows.values()):,} rows"
        + (f"; without {', '.join(costly)}, which a plan does not run: not declared free" if costly else ""),
    )


def _read(inputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Facts of the codes of every dictionary that is interpreted: the dictionary's own, then the controls'."""
    return [inputs[role].facts for role in ("codes", *CONTROLS) if inputs.get(role) is not None]


def _free(config: InterpretConfig) -> tuple[InterpretConfig, list[str]]:
    """The section with the free entries alone, or the usual ones where none is, and the names of all others."""
    usual, lists, costly = InterpretConfig(), {}, []
    for role, registry in (("explainers", explainers), ("scorers", scorers), ("predictors", predictors)):
        listed = getattr(config, role)
        lists[role] = [name for name in listed if _is_free(registry[name])] or getattr(usual, role)
        costly += [f"{registry.noun} {name}" for name in listed if not _is_free(registry[name])]
    gives = {unit for name in lists["predictors"] for unit in predictors[name].gives}
    if any(scorers[name].needs not in gives for name in lists["scorers"]):  # who read for them is not free
        lists["predictors"] = list(dict.fromkeys([*lists["predictors"], *usual.predictors]))
    return config.model_copy(update=lists), costly


def _is_free(entry: type) -> bool:
    # its own word, never an inherited one: who builds upon a free entry may ask an endpoint on top
    return vars(entry).get("free", False)


INTERPRET_FORETELLER = Foreteller(formula, probe)
