"""Steerings as one file of tensors: every one that was proposed, to steer with it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from safetensors import safe_open
from safetensors.torch import save_file

from components.dictionary.contract import Dictionary
from components.errors import MissingArtifactError, UnknownNameError
from components.registry import nearest
from components.steering.contract import Candidate, Steering, methods
from components.store import tables
from components.store.artifact import Artifact
from components.store.lineage import source

FILE = "directions.safetensors"


def save(folder: Path, candidates: Sequence[tuple[str, Candidate]]) -> None:
    """Writes each steering as `<method>/<concept>/<replicate>`, of a control
    `<method>/<replicate>`; its parts, where it has several, behind a slash.
    """
    tensors = {}
    for method, candidate in candidates:
        for part, tensor in (candidate.steering.tensors() if candidate.steering else {}).items():
            name = _name(method, candidate.concept, candidate.replicate)
            # one may serve several concepts, and a file of tensors refuses shared bytes
            tensors[f"{name}/{part}" if part else name] = tensor.detach().clone().contiguous()
    save_file(tensors, folder / f".{FILE}")
    (folder / f".{FILE}").rename(folder / FILE)


def restored(
    steer: Artifact, method: str, concept: str | None, replicate: int | None = None
) -> Steering:
    """A steering that the stage `steer` used, by default the one that its validate prompts chose.

    Args:
        steer: its artifact.
        method: the steering method, as tables call it.
        concept: None for a control, whose steerings belong to no concept.
        replicate: which of the method's candidates.

    Raises:
        UnknownNameError: the artifact holds no such steering; what it holds of that method, or
            which methods.
    """
    with safe_open(steer.path(FILE), framework="pt") as file:
        names = set(file.keys())
        if replicate is None:
            replicate = _chosen(steer, method, concept)
        name = _name(method, concept, replicate)
        parts = {key: "" if key == name else key.removeprefix(f"{name}/") for key in names}
        tensors = {
            part: file.get_tensor(key)
            for key, part in parts.items()
            if part != key and "/" not in part
        }
    if tensors:
        facts = steer.facts
        units = facts.get("units") or {facts["hook_point"]: facts["unit"]}
        entry_of = {name: entry for entry, name in facts.get("untrained", {}).items()}
        entry_of |= {name: entry for name, (entry, _) in facts.get("spoilt", {}).items()}
        steering = methods[entry_of.get(method, method)].steering.restored(tensors, units)
        bare = method in facts.get("untrained", {}).values()
        return steering.joined(lambda: _dictionary(steer, bare))
    listed = sorted({key.partition("/")[0] for key in names})
    if method not in listed:
        raise UnknownNameError(
            f"artifact steer/{steer.key} holds no direction of {method!r}; "
            f"{nearest(method, listed)}"
        )
    concepts = sorted(
        {key.split("/", 1)[1].rpartition("/")[0] for key in names if key.startswith(f"{method}/")}
        - {""}
    )
    what = f"{concept!r} (number {replicate})" if concept else f"no concept (number {replicate})"
    raise UnknownNameError(
        f"artifact steer/{steer.key} holds no direction of {method} for {what}; "
        f"{nearest(concept or '', concepts)}"
    )


def _dictionary(steer: Artifact, untrained: bool) -> Dictionary:
    """The dictionary that the stage steered through, or the untrained one beside it.

    Raises:
        MissingArtifactError: it is not in the store of the artifact.
    """
    codes = source(steer, "untrained") if untrained else steer
    found = source(codes, "dictionary") if codes else None
    if found is None:
        raise MissingArtifactError(
            f"artifact steer/{steer.key} steers through a dictionary that is not in its store; make "
            "the stage train again, or copy its artifact there"
        )
    return Dictionary.load(found)


def _name(method: str, concept: str | None, replicate: int) -> str:
    return "/".join(part for part in (method, concept, str(replicate)) if part)


def _chosen(steer: Artifact, method: str, concept: str | None) -> int:
    """The candidate whose text the test prompts saw (at the lowest budget); 0 where none was
    written."""
    texts = tables.GENERATIONS.scan(steer).filter(
        pl.col("method") == method,
        pl.col("concept").eq_missing(pl.lit(concept)),
        pl.col("split") == "test",
    )
    first = texts.sort("kl_budget", "replicate").select("replicate").head(1).collect()
    return int(first["replicate"][0]) if first.height else 0
