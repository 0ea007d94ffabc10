"""Runs sparsify's own class on the cases in a folder; run by the python of the environment that has
eai-sparsify."""

from __future__ import annotations

import sys
from pathlib import Path

# The distribution's module has this file's name: look for it before this folder.
here = sys.path.pop(0)
from sparsify.config import SparseCoderConfig  # noqa: E402
from sparsify.sparse_coder import SparseCoder  # noqa: E402

sys.path.insert(0, here)
import torch  # noqa: E402
from exchange import STEPS, gradients, serve, under  # noqa: E402

NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


def made(weights, settings):
    d_sae, d_in = weights["W_dec"].shape
    config = SparseCoderConfig(num_latents=d_sae, **settings["options"])
    coder = SparseCoder(d_in, config, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in coder.named_parameters():
            parameter.copy_(weights[NAMES[name]])
    return coder


def dense(acts, indices, d_sae):
    return torch.zeros(len(acts), d_sae, dtype=acts.dtype).scatter(1, indices, acts)


def case(tensors, settings):
    weights, x, dead = under(tensors, "w."), tensors["x"], tensors["dead"]
    coder = made(weights, settings)
    parameters = {NAMES[name]: parameter for name, parameter in coder.named_parameters()}
    top, indices, _ = coder.encode(x)
    out = coder(x, dead_mask=dead)
    result = {
        "codes": dense(top, indices, len(weights["W_dec"])),
        "reconstruction": coder.decode(top, indices),
    }
    result["returned"] = out.sae_out
    terms = {"fvu": out.fvu, "auxk_loss": out.auxk_loss, "multi_topk_fvu": out.multi_topk_fvu}
    for name, term in terms.items():
        result[f"loss.{name}"] = term
        result |= gradients(term, parameters, f"grad.{name}")
    coder = made(weights, settings)  # its trainer's step: renormalise, project, Adam; no clip
    optimiser = torch.optim.Adam(coder.parameters(), lr=settings["lr"])
    for _ in range(STEPS):
        coder.set_decoder_norm_to_unit_norm()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
    coder.set_decoder_norm_to_unit_norm()
    for name, parameter in coder.named_parameters():
        result[f"after.{NAMES[name]}"] = parameter
    return result


def trip(folder, back, x, settings):
    coder = SparseCoder.load_from_disk(folder)
    top, indices, _ = coder.encode(x)
    coder.save_to_disk(back)
    return {
        "codes": dense(top, indices, coder.num_latents),
        "reconstruction": coder.decode(top, indices),
    }, {}


with torch.enable_grad():
    serve(Path(sys.argv[1]), case, trip)
