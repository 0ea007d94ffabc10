"""A dictionary on disk: `dictionary.safetensors` for its tensors, `dictionary.json` for what they
mean.

Only these two files are read. A pickle can run any code when it is loaded, so none ever is: whoever
gives one is told so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.errors import DictionaryError
from components.store.artifact import Artifact

FORMAT = 1
WEIGHTS, DESCRIPTION = "dictionary.safetensors", "dictionary.json"
DESCRIBES = (
    "format",
    "architecture",
    "options",
    "reads",
    "reconstructs",
    "widths",
    "scales",
    "dtype",
)
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


def write(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes `dictionary.safetensors`, then `dictionary.json`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, text = folder / f".{WEIGHTS}.writing", folder / f".{DESCRIPTION}.writing"
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, weights
    )
    weights.rename(folder / WEIGHTS)
    text.write_text(
        json.dumps({"format": FORMAT} | dict(description), indent=1, allow_nan=False),
        encoding="utf-8",
    )
    text.rename(folder / DESCRIPTION)


def read(
    source: Path | str | Artifact, device: torch.device | str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of the dictionary in a folder or in an artifact of `train` (its bytes
    verified).

    Raises:
        DictionaryError: no dictionary there, a pickle, a newer format, or a description that lacks
            something.
    """
    folder = source.folder if isinstance(source, Artifact) else Path(source)
    _refuse_pickle(folder)
    path = source.path if isinstance(source, Artifact) else folder.joinpath
    try:
        description = json.loads(path(DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(path(WEIGHTS), device=str(device))
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        raise DictionaryError(
            f"no dictionary in {folder}: wanted {DESCRIPTION} and {WEIGHTS} ({error}); give the "
            "folder that `Dictionary.save` or the train stage wrote, or import a peer's file first"
        ) from error
    if lacking := [
        name for name in DESCRIBES if not isinstance(description, dict) or name not in description
    ]:
        raise DictionaryError(
            f"{folder / DESCRIPTION} is damaged: it lacks {', '.join(lacking)}; take the file "
            "from where the dictionary was saved, or train it again"
        )
    if description["format"] > FORMAT:
        raise DictionaryError(
            f"{folder} has format {description['format']}, this version reads up to {FORMAT}"
        )
    return description, tensors


def _refuse_pickle(folder: Path) -> None:
    """A pickle runs code when it is read, so none is; says so where one was given instead of
    safetensors."""
    if folder.is_dir():
        weights = folder / WEIGHTS
        others = (
            ()
            if weights.exists()
            else (path for path in sorted(folder.iterdir()) if path.suffix in PICKLES)
        )
    else:
        weights, others = folder, ()
    for path in (weights, *others):
        if path.is_file() and (path.suffix in PICKLES or is_pickle(path)):
            raise DictionaryError(
                f"{path} is a pickle, which can run any code when it is read, so it is not read: "
                f"wanted a folder with {DESCRIPTION} and {WEIGHTS}. Where you trust its origin, "
                "read it elsewhere (with torch's weights_only), write its tensors with "
                "safetensors.torch.save_file, and import those"
            )


def is_pickle(path: Path) -> bool:
    """By its first bytes; the header of a safetensors file may begin like a pickle, but has its
    brace at the ninth byte."""
    with path.open("rb") as file:
        head = file.read(9)
    return head.startswith((b"\x80", b"PK\x03\x04")) and head[8:] != b"{"
