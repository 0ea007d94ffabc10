"""What is known of a dictionary's latents, written down for people and programs without
Latentflow."""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigError
from components.export.contract import Findings, export, targets
from components.store.artifact import Store


def write(what: str, to: Path, format: str, latents: str, store: Store) -> None:
    """Exports the latents of a report, or of a dictionary as its newest report sees it.

    Args:
        what: key of a report or of a dictionary, or name@alias in the MLflow registry.
        to: a new or an empty folder.
        format: a target of `components/export/targets/`.
        latents: numbers with commas between; "" for all.
        store: where the artifacts are.

    Raises:
        ConfigError: numbers that are none.
        InputError: a folder that is not empty, or latents that the dictionary lacks.
        MissingArtifactError: no such report or dictionary.
    """
    if "@" in what:
        from flows.tracking.registry import resolve_dictionary

        what = resolve_dictionary(what)
    try:
        chosen = [int(number) for number in latents.split(",") if number.strip()]
    except ValueError:
        raise ConfigError(
            f"--latents: wanted whole numbers with commas between, such as 1,2,3, got {latents!r}"
        ) from None
    export(targets[format](), Findings.of(store, what), to, chosen)
