"""What our side and a peer's side of the comparison hand each other: tensors and settings in
safetensors, no pickle.

Imported by both: needs safetensors and torch only. Weights go by our names and in our layouts,
encoder and decoder [d_sae, d_in]; a peer's script turns them into its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

STEPS = 3


def write(path: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(held, path, {"settings": json.dumps(settings)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        return tensors, json.loads(file.metadata()["settings"])


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def gradients(
    term: Tensor, parameters: dict[str, Tensor], prefix: str, turned: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Of one loss term, by parameter; zero where the term does not reach it."""
    if not term.requires_grad:
        return {
            f"{prefix}.{name}": torch.zeros_like(p.T if name in turned else p)
            for name, p in parameters.items()
        }
    found = torch.autograd.grad(
        term, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    result = {}
    for (name, parameter), grad in zip(parameters.items(), found, strict=True):
        whole = torch.zeros_like(parameter) if grad is None else grad
        result[f"{prefix}.{name}"] = whole.T if name in turned else whole
    return result


def serve(folder: Path, case, trip) -> None:
    """Runs `case(tensors, settings)` on every file of cases and `trip(folder, x, settings)` on
    every exported folder."""
    for path in sorted((folder / "cases").glob("*.safetensors")):
        tensors, settings = read(path)
        write(folder / "results" / path.name, case(tensors, settings), {})
    for path in sorted((folder / "trips").glob("*.safetensors")):
        tensors, settings = read(path)
        name = path.name.removesuffix(".safetensors")
        found, told = trip(
            folder / "exported" / name, folder / "back" / name, tensors["x"], settings
        )
        write(folder / "tripped" / path.name, found, told)
