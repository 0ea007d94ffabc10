"""dictionary_learning: `config.json` and `ae.pt`. The latter is a pickle, so `ae.safetensors` is
read and written instead.

Source: dictionary_learning 0.1 `dictionary.py` and `trainers/`. `dict_class` says what it is:

    AutoEncoder             relu, b_dec subtracted        decoder [d_in, d_sae]
    AutoEncoderNew          relu, not subtracted          decoder [d_in, d_sae]
    GatedAutoEncoder        gated, subtracted             decoder [d_in, d_sae]
    AutoEncoderTopK         topk, subtracted              decoder [d_in, d_sae]
    BatchTopKSAE            batch_topk, subtracted        decoder [d_in, d_sae]
    MatryoshkaBatchTopKSAE  matryoshka, subtracted        W_enc [d_in, d_sae], W_dec [d_sae, d_in]
    JumpReluAutoEncoder     jumprelu, not subtracted      W_enc [d_in, d_sae], W_dec [d_sae, d_in]

A threshold of -1 means that training never set it; such a BatchTopK or Matryoshka dictionary is
refused, since what it encodes with outside training is not known. To read a file, write the tensors
of `ae.pt`, or of a backup under that name, to `ae.safetensors` where the pickle is trusted (the
error says how). To use an exported one there:

    autoencoder = AutoEncoderTopK(d_in, d_sae, k)
    autoencoder.load_state_dict(safetensors.torch.load_file("ae.safetensors"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate, pairwise
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

CONFIG, WEIGHTS = "config.json", "ae.safetensors"
OURS = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
    "JumpReluAutoEncoder": "jumprelu",
}
LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
NAMES = {
    "AutoEncoder": LINEAR | {"bias": "b_dec"},
    "AutoEncoderNew": LINEAR | {"decoder.bias": "b_dec"},
    "GatedAutoEncoder": {
        "encoder.weight": "W_enc",
        "decoder.weight": "W_dec",
        "decoder_bias": "b_dec",
        "gate_bias": "b_gate",
        "mag_bias": "b_mag",
        "r_mag": "r_mag",
    },
    "AutoEncoderTopK": LINEAR | {"b_dec": "b_dec"},
    "BatchTopKSAE": LINEAR | {"b_dec": "b_dec", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": PLAIN | {"threshold": "threshold"},
    "JumpReluAutoEncoder": PLAIN | {"threshold": "threshold"},
}
"""Their tensors by class, under our names; k and group_sizes besides."""
NOT_CENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")
SHARED = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
"""Those that share a budget over a batch in training and encode by one threshold afterwards."""
_RESIDUAL = re.compile(r"resid_post_layer_\d+|resid_post|residual_stream|resid")


@formats
class DictionaryLearning(Format):
    """See the module."""

    peer = "dictionary_learning"
    layouts = ((CONFIG, WEIGHTS),)
    exports: ClassVar[Mapping[str, str]] = {
        "relu": "AutoEncoder",
        "gated": "GatedAutoEncoder",
        "topk": "AutoEncoderTopK",
        "batch_topk": "BatchTopKSAE",
        "matryoshka": "MatryoshkaBatchTopKSAE",
        "jumprelu": "JumpReluAutoEncoder",
    }

    def read(self, folder: Path) -> Weights:
        """Encoder [d_sae, d_in] and decoder [d_sae, d_in], whichever way round they are stored."""
        trainer = self._trainer(folder)
        kind, theirs = trainer["dict_class"], self._tensors(folder, trainer)
        tensors = {ours: theirs[name] for name, ours in NAMES[kind].items()}
        turned = "W_enc" if "W_enc" in theirs else "W_dec"
        tensors[turned] = tensors[turned].T.contiguous()
        options: dict[str, Any] = {}
        if "k" in theirs:
            options["k"] = int(theirs["k"])
        if "group_sizes" in theirs:
            sizes = theirs["group_sizes"].tolist()
            options["prefixes"] = tuple(end / trainer["dict_size"] for end in accumulate(sizes))
            options["weights"] = (1 / len(sizes),) * len(sizes)
        if kind == "JumpReluAutoEncoder":
            # it rectifies too: below zero is zero
            tensors["threshold"] = tensors["threshold"].clamp_min(0)
        return Weights(
            OURS[kind],
            tensors,
            options,
            centred=kind not in NOT_CENTRED,
            hook_point=_hook_point(trainer),
            model=str(trainer.get("lm_name") or ""),
        )

    def as_peer(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """`encode` and `decode` of the class that `config.json` names."""
        trainer = self._trainer(folder)
        kind, theirs = trainer["dict_class"], self._tensors(folder, trainer)
        w = {
            name: tensor.to(x.dtype)
            for name, tensor in theirs.items()
            if tensor.is_floating_point()
        }
        b_dec = next(
            w[name] for name in ("bias", "decoder.bias", "decoder_bias", "b_dec") if name in w
        )
        encoder = w["W_enc"].T if "W_enc" in w else w["encoder.weight"]
        decoder = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
        projected = torch.nn.functional.linear(x if kind in NOT_CENTRED else x - b_dec, encoder)
        if kind == "GatedAutoEncoder":
            codes = (projected + w["gate_bias"] > 0) * (
                w["r_mag"].exp() * projected + w["mag_bias"]
            ).relu()
        else:
            codes = (projected + w["b_enc" if "b_enc" in w else "encoder.bias"]).relu()
        if kind == "AutoEncoderTopK":
            values, indices = codes.topk(int(theirs["k"]), dim=1)
            codes = torch.zeros_like(codes).scatter(1, indices, values)
        elif "threshold" in w:
            codes = codes * (codes > w["threshold"])
        return codes, codes @ decoder + b_dec

    def write(self, weights: Weights, folder: Path) -> None:
        """`config.json`, and the tensors of the class's `state_dict` in `ae.safetensors`."""
        kind = self.exports[weights.architecture]
        ours = dict(weights.tensors)
        if kind in NOT_CENTRED:
            ours["b_enc"] = weights.uncentred_bias()
        turned = "W_enc" if NAMES[kind].get("W_enc") else "W_dec"
        ours[turned] = ours[turned].T
        tensors = {name: ours[own] for name, own in NAMES[kind].items()}
        trainer: dict[str, Any] = {
            "dict_class": kind,
            "activation_dim": weights.d_in,
            "dict_size": weights.d_sae,
            "layer": None,
            "lm_name": weights.model,
            "submodule_name": weights.hook_point,
        }
        if "k" in weights.options:
            tensors["k"] = torch.tensor(weights.options["k"], dtype=torch.int32)
            trainer["k"] = weights.options["k"]
        if kind == "AutoEncoderTopK":
            tensors["threshold"] = torch.tensor(-1.0)
        if kind == "MatryoshkaBatchTopKSAE":
            ends = [0, *(round(share * weights.d_sae) for share in weights.options["prefixes"])]
            sizes = [end - start for start, end in pairwise(ends)]
            tensors["group_sizes"], trainer["group_sizes"] = torch.tensor(sizes), sizes
        if "threshold" in tensors and kind in SHARED:
            tensors["threshold"] = tensors["threshold"].reshape(())
        write_files(folder, {WEIGHTS: tensors, CONFIG: {"trainer": trainer, "buffer": {}}})

    def _trainer(self, folder: Path) -> dict[str, Any]:
        path = folder / CONFIG
        trainer = section(path, read_json(path), "trainer")
        if (kind := text(path, trainer, "dict_class")) not in OURS:
            raise DictionaryError(
                f"{path}: dict_class {kind!r} has no counterpart here; read are: {', '.join(OURS)}"
            )
        return trainer

    def _tensors(self, folder: Path, trainer: Mapping[str, Any]) -> dict[str, Tensor]:
        path, kind = folder / WEIGHTS, trainer["dict_class"]
        stored = read_tensors(path)
        d_in, d_sae = (
            whole(folder / CONFIG, trainer, name) for name in ("activation_dim", "dict_size")
        )
        linear = "W_enc" not in NAMES[kind]
        shapes: dict[str, tuple[int, ...]] = {}
        for name, ours in NAMES[kind].items():
            encoder, decoder = (
                ((d_sae, d_in), (d_in, d_sae)) if linear else ((d_in, d_sae), (d_sae, d_in))
            )
            one = () if kind in SHARED and ours == "threshold" else (d_sae,)
            shapes[name] = {"W_enc": encoder, "W_dec": decoder, "b_dec": (d_in,)}.get(ours, one)
        tensors = checked(path, stored, shapes)
        for name in ("k", "group_sizes"):
            needed = (name == "k" and "k" in trainer) or (
                name == "group_sizes" and kind == "MatryoshkaBatchTopKSAE"
            )
            if needed and name not in stored:
                raise DictionaryError(
                    f"{path} lacks {name}; the file is of another format or incomplete"
                )
            if name in stored:
                tensors[name] = stored[name].flatten()
        if kind == "AutoEncoderTopK" and "k" not in tensors:
            raise DictionaryError(f"{path} lacks k; the file is of another format or incomplete")
        if "k" in tensors and (len(came := tensors["k"].tolist()) != 1 or came[0] % 1 != 0):
            raise DictionaryError(f"{path}: wanted k as one whole number, found {came}")
        if "group_sizes" in tensors:
            came = tensors["group_sizes"].tolist()
            if sum(came) != d_sae or any(size < 1 or size % 1 != 0 for size in came):
                raise DictionaryError(
                    f"{path}: wanted group_sizes as whole numbers above 0 that add up to "
                    f"dict_size = {d_sae}, found {came}"
                )
        if kind in SHARED and tensors["threshold"] < 0:
            raise DictionaryError(
                f"{path}: its threshold is {tensors['threshold'].item():g}, so training stopped "
                "before it was ever set (dictionary_learning begins after threshold_start_step); "
                "train it further, or set it from activations"
            )
        return tensors


def _hook_point(trainer: Mapping[str, Any]) -> str:
    """The residual stream behind `layer`, where the submodule's name says no other place; our own
    names as they are."""
    name, layer = str(trainer.get("submodule_name") or ""), trainer.get("layer")
    if isinstance(layer, int) and _RESIDUAL.fullmatch(name):
        return f"resid_post.{layer}"
    return name if re.fullmatch(r"\w+\.\d+|module:.+", name) else ""
