"""Gemma Scope: `params.npz` with W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec and a
threshold for each latent.

Source: Lieberum et al. 2024, "Gemma Scope" (arXiv:2408.05147), and the release's own tutorial:
JumpReLU, b_dec is not subtracted from the input, no normalisation. The archive is read with
`allow_pickle=False`. The hook point is in the name of the release and of the folder:
`gemma-scope-2b-pt-res/layer_20/...` is `resid_post.20`; `-mlp` the MLP's output behind its norm;
`-att` the heads side by side (`head_out`). Transcoders have the same files and are told by their
name alone.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.dictionary.interchange.contract import Format, Weights, formats
from components.dictionary.interchange.files import checked
from components.errors import DictionaryError

WEIGHTS = "params.npz"
PLACES = {"res": "resid_post", "mlp": "mlp_out", "att": "head_out"}


@formats
class GemmaScope(Format):
    """See the module."""

    peer = "Gemma Scope"
    layouts = ((WEIGHTS,),)

    def read(self, folder: Path) -> Weights:
        """JumpReLU without centring."""
        if re.search(r"gemma-scope-[\w.-]*transcoder", str(folder)):
            raise DictionaryError(f"{folder} is a transcoder; only autoencoders are read")
        tensors = self._tensors(folder)
        tensors["W_enc"] = tensors["W_enc"].T.contiguous()
        # its codes are rectified too: below zero is zero
        tensors["threshold"] = tensors["threshold"].clamp_min(0)
        return Weights(
            "jumprelu", tensors, centred=False, hook_point=_hook_point(folder), model=_model(folder)
        )

    def as_peer(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """The tutorial's `encode` and `decode`."""
        w = {name: tensor.to(x.dtype) for name, tensor in self._tensors(folder).items()}
        pre = x @ w["W_enc"] + w["b_enc"]
        codes = (pre > w["threshold"]) * pre.relu()
        return codes, codes @ w["W_dec"] + w["b_dec"]

    def _tensors(self, folder: Path) -> dict[str, Tensor]:
        (path,) = self.files(folder)
        stored = {re.sub(r"^w_", "W_", name): tensor for name, tensor in _arrays(path).items()}
        if "W_enc" not in stored or "b_dec" not in stored:
            raise DictionaryError(
                f"{path} lacks W_enc or b_dec: found {', '.join(sorted(stored)) or 'none'}; the "
                "file is of another format"
            )
        if stored["W_enc"].ndim != 2 or stored["b_dec"].ndim != 1 or not stored["b_dec"].numel():
            raise DictionaryError(
                f"{path}: wanted W_enc of shape [d_in, d_sae] and b_dec of shape [d_in], found "
                f"{list(stored['W_enc'].shape)} and {list(stored['b_dec'].shape)}"
            )
        d_in = stored["b_dec"].shape[0]
        d_sae = stored["W_enc"].numel() // d_in  # a transposed W_enc is told from its shape, below
        shapes = {
            "W_enc": (d_in, d_sae),
            "W_dec": (d_sae, d_in),
            "b_enc": (d_sae,),
            "b_dec": (d_in,),
        }
        return checked(path, stored, shapes | {"threshold": (d_sae,)})


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of numbers in an archive, by name.

    Raises:
        DictionaryError: another kind of file, a pickle in it, a damaged archive, or arrays of
            something else.
    """
    pickled = (
        "loading it could run any code that is in it, so it is not read; fetch the file again "
        "from the release, whose arrays are plain numbers"
    )
    with path.open("rb") as file:
        begins = file.read(6)
    if not begins.startswith(b"PK"):
        came = "is empty" if not begins else f"begins with {begins!r}, which no npz archive does"
        if begins == b"\x93NUMPY":
            came = "is one array (npy), wanted an archive of several (npz)"
        elif begins.startswith(b"\x80"):
            came = f"is a pickle under another name: {pickled}"
        raise DictionaryError(
            f"{path} {came}"
            + ("" if "fetch" in came else "; fetch the file again from the release")
        )
    arrays = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for name in archive.files:
                # numpy hands out what is no array as bytes
                if not isinstance(array := archive[name], np.ndarray):
                    kind = (
                        "is a pickle under another name"
                        if name.endswith(".pkl")
                        else "is no archive of arrays alone"
                    )
                    raise DictionaryError(f"{path} {kind} (it holds {name}): {pickled}")
                arrays[name] = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError as error:  # torch's word for an array of anything but numbers
        raise DictionaryError(
            f"{path}: {name} holds {array.dtype}, wanted floating-point numbers"
        ) from error
    except ValueError as error:
        if "allow_pickle" in str(error):  # numpy's word for an array of Python objects
            raise DictionaryError(
                f"{path} holds a pickle ({name} is of Python objects): {pickled}"
            ) from error
        raise DictionaryError(
            f"{path} is damaged at {name} ({error}); fetch the file again"
        ) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DictionaryError(
            f"{path} is no npz archive, or a damaged one ({error}); fetch the file again"
        ) from error
    return arrays


def _hook_point(folder: Path) -> str:
    release = re.search(r"gemma-scope-[\w.]+-(?:pt|it)-(res|mlp|att)", str(folder))
    layer = re.search(r"layer_(\d+)", str(folder))
    return f"{PLACES[release[1]]}.{layer[1]}" if release and layer else ""


def _model(folder: Path) -> str:
    release = re.search(r"gemma-scope-([\w.]+)-(pt|it)-", str(folder))
    if not release:
        return ""
    return f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
