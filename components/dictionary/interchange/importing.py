"""Another project's files and captured activations -> an artifact of `train`, as if it had been
trained here.

It holds the same files and facts as a trained one (and `imported_from`), so whatever takes a
dictionary takes it. The key rests on the digest of the files, not on where they lie. How well it
reconstructs is measured on held-out activations; a share of variance unexplained above 1 is said
aloud, for it mostly means another hook point or model.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path

from pydantic import Field

from components.config import Config, execution
from components.device import Execution
from components.dictionary.fit import evaluate
from components.dictionary.interchange.contract import formats
from components.dictionary.interchange.exchange import bring
from components.dictionary.train import facts_of
from components.errors import DictionaryError
from components.store.artifact import digest
from components.store.rows import Rows
from components.store.shards import Opening, activations_of
from components.store.stage import Inputs, Parent, Progress, Stage, Work
from components.store.tables import CURVE

log = logging.getLogger(__name__)

CHECKED_ROWS = 256
"""Rows encoded and decoded in both conventions; the peer's codes are dense, 268 MB at 131,072
latents."""
BATCH = 1024


class ImportConfig(Config):
    """One dictionary of another project."""

    format: str = "saelens"
    """Whose layout of files."""
    content: str = ""
    """Digest of the files (`content_of`); the same bytes are the same dictionary, wherever they
    lie."""
    folder: str = execution("")
    """The folder that holds the files."""
    hook_point: str = ""
    """Where it reads; empty takes the file's word."""
    split: str = "train"
    """The split that the activations of the check are from."""
    held_out: str = "validate"
    """The split on which it is measured."""
    seed: int = Field(default=0, ge=0)
    """Which rows the check takes."""


def content_of(format_: str, folder: Path) -> str:
    """The digest of the files that hold a dictionary (24 hexadecimal digits).

    Raises:
        UnknownNameError: no such format.
        DictionaryError: the files are not there, or are pickles.
    """
    parts = [digest(path) for path in formats[format_]().files(folder)]
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=12).hexdigest()


def make(
    folder: Path,
    config: ImportConfig,
    inputs: Inputs,
    settings: Execution | None,
    opening: Opening | None = None,
) -> Work:
    """Writes `dictionary.safetensors`, `dictionary.json` and an empty `curve.parquet`; the facts
    hold the measures.

    Raises:
        DictionaryError: see `bring`; files that changed; a hook point that was not captured.
    """
    source = Path(config.folder)
    if (content := content_of(config.format, source)) != config.content:
        raise DictionaryError(
            f"the files in {source} changed meanwhile (digest {config.content} then, {content} now)"
        )
    format_ = formats[config.format]()
    shards = activations_of(inputs, settings or Execution(), opening)
    weights = format_.read(source)
    hook_point = config.hook_point or weights.hook_point
    if not hook_point:
        raise DictionaryError(
            f"{source} does not say at which hook point its dictionary reads; say it, for example "
            f"train.hook_point={shards.hook_points[0]}"
        )
    if hook_point not in shards.hook_points:
        raise DictionaryError(
            f"the dictionary in {source} reads {hook_point}, but these activations were captured "
            f"at {', '.join(shards.hook_points)}; set capture.hook_points=[{hook_point}], or "
            "train.hook_point to the captured place that is the same"
        )
    sample = Rows(shards, config.split, (hook_point,)).drawn(CHECKED_ROWS, config.seed)[hook_point]
    yield Progress(0, 0, "rows", "comparing with the file's own convention")
    dictionary = bring(format_, source, sample, hook_point)
    yield Progress(0, 0, "rows", f"measuring {dictionary.name} on {config.held_out}")
    held_out = Rows(shards, config.held_out, (hook_point,))
    measured = evaluate(dictionary, held_out.in_order(BATCH))
    if measured["fvu"] > 1:
        log.warning(
            "the imported dictionary reconstructs %s worse than their mean would (fvu %.3g): is "
            "it of this model, at this hook point?",
            hook_point,
            measured["fvu"],
        )
    dictionary.save(folder)
    CURVE.write(folder, CURVE.frame([]))
    sparsity = "".join(f"-{name}{value}" for name, value in weights.options.items() if name == "k")
    name = f"{config.format}-{dictionary.kind}-{dictionary.d_sae}{sparsity}"
    origin = {"imported_from": config.format, "source": config.folder, "model": weights.model}
    return facts_of(dictionary, name, config.held_out, measured) | origin


def _entries(config: ImportConfig) -> dict[str, int]:
    return {f"format.{config.format}": formats.version(config.format)}


def stage(opening: Opening | None = None) -> Stage:
    """The stage; with `opening` it is measured on activations that are not stored."""
    return Stage(
        "train",
        version=1,
        make=functools.partial(make, opening=opening),
        entries=_entries,
        inputs={"activations": Parent("capture")},
    )


IMPORT = stage()
