"""Gemma Scope: `params.npz` with W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec and a threshold for each latent.

Source: Lieberum et al. 2024, "Gemma Scope" (arXiv:2408.05147), and the release's own tutorial: JumpReLU, b_dec is not
subtracted from the input, no normalisation. The archive is read with `allow_pickle=False`. The hook point is in the name of
the release and of the folder: `gemma-scope-2b-pt-res/layer_20/...` is `resid_post.20`; `-mlp` the MLP's output behind its
norm; `-att` the heads side by side (`head_out`). Transcoders have the same files and are told by their name alone.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.dictionary.interchange.contract import Format, Weights, checked, formats
from components.errors import DictionaryError

WEIGHTS = "params.npz"
PLACES = {"res": "resid_post", "mlp": "mlp_out", "att": "head_out"}


@formats
class GemmaScope(Format):
    """See the module."""

    peer = "Gemma Scope"

    def files(self, folder: Path) -> Sequence[Path]:
        """`params.npz`."""
        if not (folder / WEIGHTS).is_file():
            raise DictionaryError(
                f"no {WEIGHTS} in {folder}; give the folder that holds it, for example layer_20/width_16k/..."
            )
        return (folder / WEIGHTS,)

    def read(self, folder: Path) -> Weights:
        """JumpReLU without centring."""
        if "transcoder" in str(folder):
            raise DictionaryError(f"{folder} is a transcoder; only autoencoders are read")
        tensors = self._tensors(folder)
        tensors["W_enc"] = tensors["W_enc"].T.contiguous()
        tensors["threshold"] = tensors["threshold"].clamp_min(0)  # its codes are rectified too: below zero is zero
        return Weights("jumprelu", tensors, centred=False, hook_point=_hook_point(folder), model=_model(folder))

    def as_peer(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """The tutorial's `encode` and `decode`."""
        w = {name: tensor.to(x.dtype) for name, tensor in self._tensors(folder).items()}
        pre = x @ w["W_enc"] + w["b_enc"]
        codes = (pre > w["threshold"]) * pre.relu()
        return codes, codes @ w["W_dec"] + w["b_dec"]

    def _tensors(self, folder: Path) -> dict[str, Tensor]:
        (path,) = self.files(folder)
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except ValueError as error:  # numpy's word for an array of Python objects
            raise DictionaryError(
                f"{path} holds pickled objects: loading them could run any code that is in them, so they are not read "
                f"({error}); fetch the file again from the release, whose arrays are plain numbers"
            ) from error
        except (zipfile.BadZipFile, OSError) as error:
            raise DictionaryError(f"{path} is no npz archive ({error}); fetch the file again") from error
        found = {
            re.sub(r"^w_", "W_", name): torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()
        }
        if "W_enc" not in found or found["W_enc"].ndim != 2 or "b_dec" not in found:
            raise DictionaryError(
                f"{path} lacks W_enc or b_dec: found {', '.join(sorted(found)) or 'none'}; the file is of another format"
            )
        d_in = found["b_dec"].shape[0]
        d_sae = found["W_enc"].numel() // d_in  # a transposed W_enc is told from its shape, below
        shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
        return checked(path, found, shapes | {"threshold": (d_sae,)})


def _hook_point(folder: Path) -> str:
    release = re.search(r"gemma-scope-[\w.]+-(?:pt|it)-(res|mlp|att)", str(folder))
    layer = re.search(r"layer_(\d+)", str(folder))
    return f"{PLACES[release[1]]}.{layer[1]}" if release and layer else ""


def _model(folder: Path) -> str:
    release = re.search(r"gemma-scope-([\w.]+)-(pt|it)-", str(folder))
    if not release:
        return ""
    return f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
