"""Export to the layout of SAELens 6: `cfg.json` and `sae_weights.safetensors`, the activation scale folded in.

With scale s a dictionary computes codes z' = f((s x - b_dec) W_enc + b_enc) and gives z = z' / s, in activation units.
For the architectures listed here f is positively homogeneous, so dividing both biases by s gives the same z from x
itself, and the decoder stays as it is. The export ends with a numeric check: the written file is read back and evaluated
by its own convention (weights [d_in, d_sae], b_dec subtracted from the input, no normalisation) against this dictionary.

Source: SAELens 6.18 `saes/sae.py`, `saes/standard_sae.py`, `saes/topk_sae.py` (layout and field names).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.dictionary.contract import Dictionary
from components.errors import DictionaryError

PEERS = {"topk": "topk", "relu": "standard"}
TOLERANCE = 1e-4


def export(dictionary: Dictionary, folder: Path, x: Float[Tensor, "token d_in"], model_name: str = "") -> None:
    """Writes the folder that `SAE.load_from_disk` reads.

    Args:
        dictionary: what to export.
        folder: where to.
        x: a few activations for the check.
        model_name: the model they come from, for the metadata.

    Raises:
        DictionaryError: an architecture without a counterpart, or an export that does not compute the same.
    """
    if dictionary.kind not in PEERS:
        raise DictionaryError(f"SAELens has no counterpart of {dictionary.kind!r}; it has one of: {', '.join(PEERS)}")
    weights = {name: tensor.detach().float().cpu() for name, tensor in dictionary.state_dict().items()}
    tensors = {
        "W_enc": weights["W_enc"].T.contiguous(),
        "b_enc": weights["b_enc"] / dictionary.scale,
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"] / dictionary.scale,
    }
    config: dict[str, Any] = {
        "architecture": PEERS[dictionary.kind],
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.18.0", "model_name": model_name, "hook_name": dictionary.hook_point},
    }
    if dictionary.kind == "topk":
        config |= {"k": dictionary.options.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))
    _check(dictionary, folder, x)


def read_as_peer(folder: Path, x: Float[Tensor, "token d_in"]) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction of x by the file's own convention, computed from the file alone."""
    config = json.loads((folder / "cfg.json").read_text())
    weights = load_file(folder / "sae_weights.safetensors")
    pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    if config["architecture"] == "topk":
        values, indices = pre.topk(config["k"], dim=1)
        pre = torch.zeros_like(pre).scatter(1, indices, values)
    codes = pre.relu()
    return codes, codes @ weights["W_dec"] + weights["b_dec"]


def _check(dictionary: Dictionary, folder: Path, x: Tensor) -> None:
    x = x.float().cpu()
    codes = dictionary.encode(x)
    ours, theirs = (codes.dense().cpu(), dictionary.decode(codes).float().cpu()), read_as_peer(folder, x)
    for what, mine, peer in zip(("codes", "reconstructions"), ours, theirs, strict=True):
        deviation = (mine - peer).norm() / mine.norm().clamp_min(torch.finfo(torch.float32).tiny)
        if not deviation <= TOLERANCE:
            raise DictionaryError(
                f"the export of {dictionary.name} to {folder} does not compute the same: {what} differ by "
                f"{deviation:.2g} of their norm, at most {TOLERANCE:g} was wanted; do not use the files"
            )
