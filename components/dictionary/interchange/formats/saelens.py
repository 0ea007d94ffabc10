"""SAELens 6: `cfg.json` and `sae_weights.safetensors`; weights [d_in, d_sae], encoder first.

Source: SAELens 6.54 `saes/sae.py`, `saes/standard_sae.py`, `saes/topk_sae.py`,
`saes/jumprelu_sae.py`, `saes/gated_sae.py`, and `loading/pretrained_sae_loaders.py` for the flat
configuration of versions before 6. A TopK dictionary of those versions calls itself `standard` with
`activation_fn_str: topk`; it is read as TopK (SAELens issue 553: read as ReLU it is silently
wrong). BatchTopK and Matryoshka dictionaries are JumpReLU ones outside training, in SAELens as
here, and are written as such: the threshold broadcast, the decoder's norms folded into the encoder.

With `rescale_acts_by_decoder_norm` a TopK dictionary selects on u ||d|| and decodes z / ||d||; the
norms are folded. Refused: activations normalised at run time (`layer_norm`,
`constant_norm_rescale`), a scale that was never folded (`expected_average_only_in`), transcoders,
and architectures without a counterpart.
"""

from __future__ import annotations

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
    section,
    text,
    whole,
    write_files,
)
from components.errors import DictionaryError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
WRITTEN_AS = "6.54.0"
OURS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
FLAT = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
"""Names of the configuration before version 6, where they changed."""


@formats
class SAELens(Format):
    """See the module."""

    peer = "SAELens"
    layouts = ((CONFIG, WEIGHTS),)
    exports: ClassVar[Mapping[str, str]] = {
        "relu": "standard",
        "topk": "topk",
        "gated": "gated",
        "jumprelu": "jumprelu",
        "batch_topk": "jumprelu",
        "matryoshka": "jumprelu",
    }

    def read(self, folder: Path) -> Weights:
        """Transposed encoder; TopK's decoder norms folded where SAELens rescales by them."""
        config = self._config(folder)
        theirs = self._tensors(folder, config)
        W_enc, W_dec = theirs.pop("W_enc").T, theirs.pop("W_dec")
        if config.get("rescale_acts_by_decoder_norm"):
            norm = W_dec.norm(dim=1)
            W_enc, W_dec, theirs["b_enc"] = (
                W_enc * norm[:, None],
                W_dec / norm[:, None],
                theirs["b_enc"] * norm,
            )
        if "threshold" in theirs:
            # SAELens rectifies first: below zero is zero
            theirs["threshold"] = theirs["threshold"].clamp_min(0)
        metadata = section(folder / CONFIG, config, "metadata") or config
        return Weights(
            OURS[config["architecture"]],
            {"W_enc": W_enc.contiguous(), "W_dec": W_dec, **theirs},
            {"k": config["k"]} if config["architecture"] == "topk" else {},
            centred=config["apply_b_dec_to_input"],
            hook_point=text(folder / CONFIG, metadata, "hook_name"),
            model=text(folder / CONFIG, metadata, "model_name"),
        )

    def as_peer(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """`SAE.encode` and `SAE.decode`."""
        config = self._config(folder)
        w = {name: tensor.to(x.dtype) for name, tensor in self._tensors(folder, config).items()}
        inner = x - w["b_dec"] if config["apply_b_dec_to_input"] else x
        architecture, norm = config["architecture"], w["W_dec"].norm(dim=1)
        rescale = bool(config.get("rescale_acts_by_decoder_norm"))
        if architecture == "gated":
            open_ = inner @ w["W_enc"] + w["b_gate"] > 0
            codes = open_ * (inner @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
        else:
            pre = inner @ w["W_enc"] + w["b_enc"]
            if architecture == "topk":
                pre = pre * norm if rescale else pre
                values, indices = pre.topk(config["k"], dim=1)
                codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
            else:
                codes = (
                    pre.relu() * (pre > w["threshold"])
                    if architecture == "jumprelu"
                    else pre.relu()
                )
        return codes, (codes / norm if rescale else codes) @ w["W_dec"] + w["b_dec"]

    def write(self, weights: Weights, folder: Path) -> None:
        """The folder that `SAE.load_from_disk` reads."""
        tensors = dict(weights.tensors)
        if weights.architecture in ("batch_topk", "matryoshka"):
            norm = tensors["W_dec"].norm(dim=1)
            tensors["W_enc"], tensors["b_enc"] = (
                tensors["W_enc"] * norm[:, None],
                tensors["b_enc"] * norm,
            )
            tensors["W_dec"] = tensors["W_dec"] / norm[:, None]
            tensors["threshold"] = tensors["threshold"] * norm
        architecture = self.exports[weights.architecture]
        tensors["W_enc"] = tensors["W_enc"].T
        names = _shapes(architecture, weights.d_in, weights.d_sae)
        config: dict[str, Any] = {
            "architecture": architecture,
            "d_in": weights.d_in,
            "d_sae": weights.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": WRITTEN_AS,
                "model_name": weights.model,
                "hook_name": weights.hook_point,
            },
        }
        if architecture == "topk":
            config |= {"k": weights.options["k"], "rescale_acts_by_decoder_norm": False}
        write_files(folder, {WEIGHTS: {name: tensors[name] for name in names}, CONFIG: config})

    def _config(self, folder: Path) -> dict[str, Any]:
        """The configuration in the terms of version 6.

        Raises:
            DictionaryError: what has no counterpart here.
        """
        path = folder / CONFIG
        config = read_json(path)
        version = text(path, section(path, config, "metadata") or config, "sae_lens_version") or "0"
        major = version.split(".", maxsplit=1)[0]
        if not major.isdecimal():
            raise DictionaryError(f"{path}: wanted sae_lens_version as 6.54.0, found {version!r}")
        if int(major) < 6:
            config = {FLAT.get(name, name): value for name, value in config.items()}
            config.setdefault("architecture", "standard")
            if config.get("activation_fn", "relu") == "topk":
                config |= {
                    "architecture": "topk",
                    "k": section(path, config, "activation_fn_kwargs").get("k"),
                }
            elif config.get("activation_fn", "relu") != "relu":
                raise DictionaryError(
                    f"{path}: activation function {config['activation_fn']!r} has no counterpart "
                    "here"
                )
            if config.get("finetuning_scaling_factor"):
                raise DictionaryError(
                    f"{path}: its codes are scaled after training (finetuning_scaling_factor)"
                )
        architecture = text(path, config, "architecture")
        if architecture not in OURS:
            raise DictionaryError(
                f"{path}: architecture {architecture!r} has no counterpart here; read are: "
                f"{', '.join(OURS)}"
            )
        config["apply_b_dec_to_input"] = bool(config.get("apply_b_dec_to_input", True))
        normalised = config.get("normalize_activations") or "none"
        if normalised not in ("none", False):
            raise DictionaryError(
                f"{path}: its activations are normalised ({normalised}), "
                + (
                    "and the scale is not in the file: save it with SAELens's "
                    "save_inference_model, which folds the scale"
                    if normalised in ("expected_average_only_in", True)
                    else "token by token, which no weights can fold; no dictionary here does that"
                )
            )
        for name in ("d_in", "d_sae", "k") if architecture == "topk" else ("d_in", "d_sae"):
            whole(path, config, name)
        return config

    def _tensors(self, folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        stored = read_tensors(folder / WEIGHTS)
        if "topk_threshold" in stored:
            raise DictionaryError(
                f"{folder / WEIGHTS} is a training checkpoint (it has topk_threshold); save it "
                "with SAELens's save_inference_model first"
            )
        return checked(
            folder / WEIGHTS,
            stored,
            _shapes(config["architecture"], config["d_in"], config["d_sae"]),
        )


def _shapes(architecture: str, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    latent = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(
        architecture, ("b_enc",)
    )
    return {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)} | dict.fromkeys(
        latent, (d_sae,)
    )
