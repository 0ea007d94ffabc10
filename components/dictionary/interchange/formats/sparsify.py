"""sparsify: one folder for each hook point, with `cfg.json` and `sae.safetensors`; weights [d_sae,
d_in], TopK.

Source: sparsify 1.3 `sparse_coder.py` and `config.py`. W_dec is stored [d_sae, d_in], as here, and
is not transposed; b_dec is subtracted from the input unless the coder transcodes, whatever
`normalize_decoder` says (SAELens's loader gets both wrong; see docs/peers.md). sparsify rectifies
before it selects, which differs from selecting first only in zeros. Refused: transcoders, skip
connections, GroupMax.

The folder's name is the module's, which is the only place that says where the coder belongs:
`layers.10` or `h.10` is that block's output, `layers.10.mlp` its MLP's. Where norms stand behind
the parts of a block (Gemma 2 and 3, OLMo 2) sparsify reads before them and `mlp_out` behind: name
the place then, `train.hook_point=module:model.layers.10.mlp:output`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from components.dictionary.interchange.contract import Format, Weights, formats
from components.dictionary.interchange.files import (
    checked,
    read_json,
    read_tensors,
    whole,
    write_files,
)
from components.errors import DictionaryError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_MODULE = re.compile(r"(?:layers|h|blocks|layer)[._](\d+)(?:[._](mlp|self_attn|attn|attention))?")


@formats
class Sparsify(Format):
    """See the module."""

    peer = "sparsify"
    layouts = ((CONFIG, WEIGHTS),)
    exports: ClassVar[Mapping[str, str]] = {"topk": "topk"}

    def read(self, folder: Path) -> Weights:
        """The same layout under other names."""
        config = self._config(folder)
        tensors = {NAMES[name]: tensor for name, tensor in self._tensors(folder, config).items()}
        model = folder.parent / "config.json"
        return Weights(
            "topk",
            tensors,
            {"k": config["k"]},
            hook_point=str(config.get("hook_point") or hook_point(folder.name)),
            model=str(
                config.get("model")
                or (read_json(model).get("model") if model.is_file() else "")
                or ""
            ),
        )

    def as_peer(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """`SparseCoder.encode` and `SparseCoder.decode`."""
        config = self._config(folder)
        w = {name: tensor.to(x.dtype) for name, tensor in self._tensors(folder, config).items()}
        pre = torch.nn.functional.linear(
            x - w["b_dec"], w["encoder.weight"], w["encoder.bias"]
        ).relu()
        values, indices = pre.topk(config["k"], dim=1)
        codes = torch.zeros_like(pre).scatter(1, indices, values)
        return codes, codes @ w["W_dec"] + w["b_dec"]

    def write(self, weights: Weights, folder: Path) -> None:
        """The folder that `SparseCoder.load_from_disk` reads."""
        config: dict[str, Any] = {
            "activation": "topk",
            "expansion_factor": max(1, weights.d_sae // weights.d_in),
            "normalize_decoder": True,
            "num_latents": weights.d_sae,
            "k": weights.options["k"],
            "multi_topk": False,
            "skip_connection": False,
            "transcode": False,
            "d_in": weights.d_in,
            "hook_point": weights.hook_point,  # sparsify passes over what it does not know
            "model": weights.model,
        }
        write_files(
            folder,
            {
                WEIGHTS: {name: weights.tensors[ours] for name, ours in NAMES.items()},
                CONFIG: config,
            },
        )

    def _config(self, folder: Path) -> dict[str, Any]:
        path = folder / CONFIG
        config = read_json(path)
        if config.get("transcode"):
            raise DictionaryError(f"{path} is a transcoder; only autoencoders are read")
        if config.get("skip_connection"):
            raise DictionaryError(f"{path} has a skip connection, which no dictionary here has")
        if (activation := config.get("activation", "topk")) != "topk":
            raise DictionaryError(
                f"{path}: activation {activation!r} has no counterpart here; read is: topk"
            )
        if config.get("signed"):
            raise DictionaryError(
                f"{path}: its codes are signed; read is: topk of rectified pre-activations"
            )
        whole(path, config, "k")
        d_in = whole(path, config, "d_in")
        if config.get("num_latents"):
            config["d_sae"] = whole(path, config, "num_latents")
        else:
            config["d_sae"] = d_in * whole(
                path, {"expansion_factor": 32} | config, "expansion_factor"
            )
        return config

    def _tensors(self, folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        d_in, d_sae = config["d_in"], config["d_sae"]
        shapes = {
            "encoder.weight": (d_sae, d_in),
            "encoder.bias": (d_sae,),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
        }
        return checked(folder / WEIGHTS, read_tensors(folder / WEIGHTS), shapes)


def hook_point(module: str) -> str:
    """`layers.10` -> `resid_post.10`, `h.3.mlp` -> `mlp_out.3`; empty for any other module."""
    if not (match := _MODULE.fullmatch(module)):
        return ""
    kind = {None: "resid_post", "mlp": "mlp_out"}.get(match[2], "attn_out")
    return f"{kind}.{match[1]}"
