"""Llama Scope, in its two layouts; JumpReLU, ReLU and TopK autoencoders; b_D is not subtracted from
the input.

    Llamascopium    config.json, sae_weights.safetensors: W_E [d_in, d_sae], b_E, W_D [d_sae, d_in], b_D,
                    activation_function.log_jumprelu_threshold,
                    dataset_average_activation_norm.<hook point>
    the release     hyperparams.json, checkpoints/final.safetensors: encoder and decoder as linear layers, one threshold

Source: OpenMOSS Language-Model-SAEs, `llamascopium/models/sae.py` and `sparse_dictionary.py`; for
the release SAELens 6.54 `pretrained_sae_loaders.py`, whose reading of its threshold (in units of
plain activations, hence times the scale) is followed. With `norm_activation: dataset-wise` rows are
multiplied by sqrt(d_in) / their mean norm on the way in and divided on the way out: W_enc is
multiplied, W_dec and b_dec are divided, so the codes stay the project's. With
`sparsity_include_decoder_norm` the nonlinearity sees u ||d||: thresholds are divided by the norms;
a TopK selection takes the norms into the encoder, and its codes are then the project's times ||d||.
Refused: any other `sae_type`, transcoders, a gated encoder (`use_glu_encoder`), rows normalised one
by one or batch by batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.dictionary.interchange.contract import Format, Weights, formats
from components.dictionary.interchange.files import (
    checked,
    number,
    read_json,
    read_tensors,
    section,
    text,
    whole,
)
from components.errors import DictionaryError

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
RELEASED_CONFIG, RELEASED_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
OURS = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk"}
THRESHOLD = "activation_function.log_jumprelu_threshold"


@formats
class LlamaScope(Format):
    """See the module."""

    peer = "Llama Scope"
    layouts = ((RELEASED_CONFIG, RELEASED_WEIGHTS), (CONFIG, WEIGHTS))

    def read(self, folder: Path) -> Weights:
        """Scale and norms folded; see the module."""
        config = self._config(folder)
        w = self._tensors(folder, config)
        scale, norm = config["scale"], w["W_D"].norm(dim=1)
        W_enc, b_enc, W_dec = w["W_E"].T * scale, w["b_E"], w["W_D"] / scale
        tensors = {"b_dec": w["b_D"] / scale}
        if config["act_fn"] == "jumprelu":
            tensors["threshold"] = w["threshold"] / norm if config["by_norm"] else w["threshold"]
        elif config["act_fn"] == "topk" and config["by_norm"]:
            W_enc, b_enc, W_dec = W_enc * norm[:, None], b_enc * norm, W_dec / norm[:, None]
        return Weights(
            OURS[config["act_fn"]],
            {"W_enc": W_enc.contiguous(), "b_enc": b_enc, "W_dec": W_dec, **tensors},
            {"k": config["top_k"]} if config["act_fn"] == "topk" else {},
            centred=False,
            hook_point=config["hook_point_in"],
            model=config["model_name"],
        )

    def as_peer(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """`SparseAutoEncoder.encode` and `decode` between the two normalisations; TopK codes times
        ||d||."""
        config = self._config(folder)
        w = {name: tensor.to(x.dtype) for name, tensor in self._tensors(folder, config).items()}
        norm = w["W_D"].norm(dim=1) if config["by_norm"] else torch.ones_like(w["b_E"])
        pre = ((x * config["scale"]) @ w["W_E"] + w["b_E"]) * norm
        if config["act_fn"] == "topk":
            values, indices = pre.relu().topk(config["top_k"], dim=1)
            codes = torch.zeros_like(pre).scatter(1, indices, values)
            return codes, ((codes / norm) @ w["W_D"] + w["b_D"]) / config["scale"]
        codes = (
            pre * (pre > w["threshold"]) if config["act_fn"] == "jumprelu" else pre.relu()
        ) / norm
        return codes, (codes @ w["W_D"] + w["b_D"]) / config["scale"]

    def _config(self, folder: Path) -> dict[str, Any]:
        """Either layout's configuration, with `scale` and `by_norm` besides."""
        released = (folder / RELEASED_CONFIG).is_file()
        path = folder / (RELEASED_CONFIG if released else CONFIG)
        config = {
            "sae_type": "sae",
            "hook_point_out": None,
            "norm_activation": "inference",
        } | read_json(path)
        config["act_fn"] = str(config.get("act_fn", "relu")).lower()
        if config["sae_type"] != "sae":
            raise DictionaryError(
                f"{path}: sae_type {config['sae_type']!r} has no counterpart here; read is: sae"
            )
        if config["hook_point_out"] not in (None, config.get("hook_point_in")):
            raise DictionaryError(
                f"{path} is a transcoder ({config.get('hook_point_in')} to "
                f"{config['hook_point_out']}); only autoencoders "
                "are read"
            )
        if config["act_fn"] not in OURS:
            raise DictionaryError(
                f"{path}: activation {config['act_fn']!r} has no counterpart here; read are: "
                f"{', '.join(OURS)}"
            )
        if config.get("use_glu_encoder"):
            raise DictionaryError(
                f"{path}: its encoder is gated (use_glu_encoder), which has no counterpart here"
            )
        if config["norm_activation"] not in ("dataset-wise", "inference", "none", None):
            raise DictionaryError(
                f"{path}: its activations are normalised {config['norm_activation']}, which no "
                "weights can fold"
            )
        for name in ("hook_point_in", "model_name"):
            config[name] = text(path, config, name)
        if config["act_fn"] == "topk":
            whole(path, config, "top_k")
        if config["act_fn"] == "jumprelu" and released:
            number(path, config, "jump_relu_threshold")
        d_in = whole(path, config, "d_model")
        config["d_sae"] = config.get("d_sae") or int(
            d_in * number(path, {"expansion_factor": 1} | config, "expansion_factor")
        )
        whole(path, config, "d_sae")
        config["by_norm"] = bool(config.get("sparsity_include_decoder_norm")) and not released
        config["scale"] = self._scale(folder, config, released)
        return config

    def _scale(self, folder: Path, config: Mapping[str, Any], released: bool) -> float:
        """sqrt(d_in) over the mean norm of the activations it was trained on."""
        if config["norm_activation"] != "dataset-wise":
            return 1.0
        if released:
            norms = section(folder / RELEASED_CONFIG, config, "dataset_average_activation_norm")
            norm = number(folder / RELEASED_CONFIG, norms, "in") if norms else None
        else:
            name = f"dataset_average_activation_norm.{config['hook_point_in']}"
            stored = read_tensors(folder / WEIGHTS).get(name)
            norm = stored.item() if stored is not None and stored.numel() == 1 else None
        if not norm or norm <= 0:
            raise DictionaryError(
                f"{folder}: its activations are scaled by their mean norm, which is not in the "
                "files (dataset_average_activation_norm)"
            )
        return math.sqrt(config["d_model"]) / norm

    def _tensors(self, folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        d_in, d_sae = config["d_model"], config["d_sae"]
        if (folder / RELEASED_CONFIG).is_file():
            path = folder / RELEASED_WEIGHTS
            shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,)}
            shapes |= {"decoder.weight": (d_in, d_sae), "decoder.bias": (d_in,)}
            stored = checked(path, read_tensors(path), shapes)
            w = {"W_E": stored["encoder.weight"].T, "b_E": stored["encoder.bias"]}
            w |= {"W_D": stored["decoder.weight"].T, "b_D": stored["decoder.bias"]}
            if config["act_fn"] == "jumprelu":
                w["threshold"] = torch.full(
                    (d_sae,), float(config["jump_relu_threshold"]) * config["scale"]
                )
            return w
        path = folder / WEIGHTS
        shapes = {"W_E": (d_in, d_sae), "b_E": (d_sae,), "W_D": (d_sae, d_in)}
        if config.get("use_decoder_bias", True):
            shapes["b_D"] = (d_in,)
        if config["act_fn"] == "jumprelu":
            shapes[THRESHOLD] = (d_sae,)
        w = checked(path, read_tensors(path), shapes)
        w.setdefault("b_D", torch.zeros(d_in))
        if THRESHOLD in w:
            w["threshold"] = w.pop(THRESHOLD).exp()
        return w
