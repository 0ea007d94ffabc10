"""Runs SAELens's own classes on the cases in a folder; run by the python of the environment that
has sae-lens."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from exchange import STEPS, gradients, serve, under
from sae_lens import SAE
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainStepInput

warnings.filterwarnings("ignore")
TURNED = ("W_enc",)


def made(weights, settings):
    cls, config = get_sae_training_class(settings["architecture"])
    d_sae, d_in = weights["W_dec"].shape
    sae = cls(config(d_in=d_in, d_sae=d_sae, dtype="float64", device="cpu", **settings["options"]))
    with torch.no_grad():
        for name, tensor in weights.items():
            if name == "threshold" and not hasattr(sae, name):
                continue  # BatchTopK begins its own at zero
            getattr(sae, name).copy_(tensor.T if name in TURNED else tensor)
    return sae


def forward(sae, x, dead, settings):
    inputs = TrainStepInput(
        sae_in=x,
        coefficients=settings.get("coefficients", {}),
        dead_neuron_mask=dead,
        n_training_steps=0,
        is_logging_step=False,
    )
    return sae.training_forward_pass(inputs)


def case(tensors, settings):
    weights, x, dead = under(tensors, "w."), tensors["x"], tensors["dead"]
    sae = made(weights, settings)
    parameters = dict(sae.named_parameters())
    out = forward(sae, x, dead, settings)
    result = {"codes": out.feature_acts, "reconstruction": out.sae_out, "loss.total": out.loss}
    inner = [term for name, term in out.losses.items() if name.startswith("inner_mse_loss")]
    terms = {
        name: term for name, term in out.losses.items() if not name.startswith("inner_mse_loss")
    }
    if inner:
        terms["inner_mse_loss"] = torch.stack(inner).sum()
    for name, term in terms.items():
        result[f"loss.{name}"] = term
        result |= gradients(term, parameters, f"grad.{name}", TURNED)
    sae = made(weights, settings)  # its trainer's step: clip, Adam; no constraint on the decoder
    optimiser = torch.optim.Adam(sae.parameters(), lr=settings["lr"], betas=(0.9, 0.999))
    for _ in range(STEPS):
        forward(sae, x, torch.zeros_like(dead), settings).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    for name, parameter in sae.named_parameters():
        result[f"after.{name}"] = parameter.T if name in TURNED else parameter
    return result


def trip(folder, back, x, settings):
    if settings.get("loader") == "sparsify":  # what SAELens makes of sparsify's files
        from sae_lens.loading.pretrained_sae_loaders import sparsify_disk_loader

        try:
            sae = SAE.load_from_disk(
                folder / settings["inside"], converter=sparsify_disk_loader, dtype="float32"
            )
            codes = sae.encode(x)
            told = {"subtracts": sae.cfg.apply_b_dec_to_input, "W_dec": list(sae.W_dec.shape)}
            return {"codes": codes}, told
        except Exception as error:
            return {}, {"error": f"{type(error).__name__}: {str(error).splitlines()[-1].strip()}"}
    sae = SAE.load_from_disk(folder)
    codes = sae.encode(x)
    sae.save_model(back)
    return {"codes": codes, "reconstruction": sae.decode(codes)}, {}


serve(Path(sys.argv[1]), case, trip)
