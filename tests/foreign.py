"""Folders as other projects write them, of given weights: real files in their layouts, random
numbers in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_SAE, K = 12, 20, 4
NORM = 7.0


def numbers(seed: int = 0, d_in: int = D_IN, d_sae: int = D_SAE) -> dict[str, Tensor]:
    """Weights by our names: encoder and decoder [d_sae, d_in], biases, thresholds, gates."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "W_enc": draw(d_sae, d_in) / math.sqrt(d_in),
        "W_dec": draw(d_sae, d_in) / math.sqrt(d_in),
        "b_enc": 0.3 * draw(d_sae),
        "b_dec": draw(d_in),
        "threshold": 0.5 * draw(d_sae).abs(),
        "b_gate": 0.3 * draw(d_sae),
        "b_mag": 0.3 * draw(d_sae),
        "r_mag": 0.3 * draw(d_sae),
    }


def write(folder: Path, tensors: dict[str, Tensor], **configs: Any) -> Path:
    """Tensors by file name and settings by file name, `__` for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in configs.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(content))
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        folder / "sae_weights.safetensors",
    )
    return folder


def saelens(folder: Path, architecture: str, w: dict[str, Tensor], /, **changes: Any) -> Path:
    """SAELens 6."""
    latent = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(
        architecture, ("b_enc",)
    )
    tensors = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"], "b_dec": w["b_dec"]} | {
        name: w[name] for name in latent
    }
    d_sae, d_in = w["W_enc"].shape
    config = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.18.0",
            "model_name": "toy",
            "hook_name": "blocks.1.hook_resid_post",
        },
    }
    if architecture == "topk":
        config["k"] = K
    return write(folder, tensors, cfg__json=config | changes)


def sparsify(folder: Path, w: dict[str, Tensor], **changes: Any) -> Path:
    """sparsify."""
    d_sae, d_in = w["W_enc"].shape
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": d_sae,
        "k": K,
    }
    config |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": d_in}
    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
    write(folder, {name: w[own] for name, own in names.items()}, cfg__json=config | changes)
    (folder / "sae_weights.safetensors").rename(folder / "sae.safetensors")
    return folder


def dictionary_learning(
    folder: Path, dict_class: str, w: dict[str, Tensor], /, **changes: Any
) -> Path:
    """dictionary_learning, its `ae.pt` converted."""
    d_sae, d_in = w["W_enc"].shape
    linear = {
        "encoder.weight": w["W_enc"],
        "decoder.weight": w["W_dec"].T,
        "encoder.bias": w["b_enc"],
    }
    plain = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    k, one = torch.tensor(K, dtype=torch.int32), w["threshold"].mean()
    tensors = {
        "AutoEncoder": linear | {"bias": w["b_dec"]},
        "AutoEncoderNew": linear | {"decoder.bias": w["b_dec"]},
        "AutoEncoderTopK": linear | {"b_dec": w["b_dec"], "k": k, "threshold": torch.tensor(-1.0)},
        "BatchTopKSAE": linear | {"b_dec": w["b_dec"], "k": k, "threshold": one},
        "MatryoshkaBatchTopKSAE": plain
        | {"k": k, "threshold": one, "group_sizes": torch.tensor([8, d_sae - 8])},
        "JumpReluAutoEncoder": plain | {"threshold": w["threshold"]},
        "GatedAutoEncoder": {
            "encoder.weight": w["W_enc"],
            "decoder.weight": w["W_dec"].T,
            "decoder_bias": w["b_dec"],
            "gate_bias": w["b_gate"],
            "mag_bias": w["b_mag"],
            "r_mag": w["r_mag"],
        },
    }[dict_class]
    trainer = {
        "dict_class": dict_class,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "layer": 1,
        "lm_name": "toy",
    }
    trainer |= {"submodule_name": "resid_post_layer_1"} | changes
    write(folder, tensors, config__json={"trainer": trainer, "buffer": {"ctx_len": 128}})
    (folder / "sae_weights.safetensors").rename(folder / "ae.safetensors")
    return folder


def gemma_scope(folder: Path, w: dict[str, Tensor], **changes: np.ndarray) -> Path:
    """Gemma Scope."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: w[name].numpy() for name in ("W_dec", "b_enc", "b_dec", "threshold")}
    np.savez(folder / "params.npz", **(arrays | {"W_enc": w["W_enc"].T.numpy()} | changes))
    return folder


def llama_scope(folder: Path, act_fn: str, w: dict[str, Tensor], /, **changes: Any) -> Path:
    """Llamascopium."""
    d_sae, d_in = w["W_enc"].shape
    hook = "blocks.1.hook_resid_post"
    config = {
        "sae_type": "sae",
        "d_model": d_in,
        "d_sae": d_sae,
        "act_fn": act_fn,
        "norm_activation": "dataset-wise",
    }
    config |= {
        "sparsity_include_decoder_norm": True,
        "top_k": K,
        "use_decoder_bias": True,
        "use_glu_encoder": False,
    }
    config |= {"hook_point_in": hook, "hook_point_out": hook}
    tensors = {"W_E": w["W_enc"].T, "b_E": w["b_enc"], "W_D": w["W_dec"], "b_D": w["b_dec"]}
    tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(NORM)
    if act_fn == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = w["threshold"].log()
    return write(folder, tensors, config__json=config | changes)


def llama_scope_release(folder: Path, w: dict[str, Tensor], threshold: float = 0.4) -> Path:
    """Llama Scope as released."""
    d_sae, d_in = w["W_enc"].shape
    config = {
        "d_model": d_in,
        "d_sae": d_sae,
        "act_fn": "jumprelu",
        "jump_relu_threshold": threshold,
    }
    config |= {
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": NORM, "out": NORM},
    }
    config |= {
        "hook_point_in": "blocks.1.hook_resid_post",
        "hook_point_out": "blocks.1.hook_resid_post",
    }
    tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"]}
    tensors |= {"decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}
    write(folder / "checkpoints", tensors)
    (folder / "checkpoints" / "sae_weights.safetensors").rename(
        folder / "checkpoints" / "final.safetensors"
    )
    (folder / "hyperparams.json").write_text(json.dumps(config))
    return folder
