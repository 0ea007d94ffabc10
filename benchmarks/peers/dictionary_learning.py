"""Runs dictionary_learning's own classes on the cases in a folder; run by the python of the
environment that has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

here = sys.path.pop(0)  # the distribution's module has this file's name
from dictionary_learning import dictionary as classes  # noqa: E402
from dictionary_learning.trainers import (  # noqa: E402  # noqa: E402
    batch_top_k,
    gdm,
    jumprelu,
    matryoshka_batch_top_k,
    standard,
    top_k,
)

sys.path.insert(0, here)
import torch  # noqa: E402
from exchange import STEPS, gradients, serve, under  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

TRAINERS = {
    "AutoEncoder": standard.StandardTrainerAprilUpdate,
    "AutoEncoderTopK": top_k.TopKTrainer,
    "GatedAutoEncoder": gdm.GatedSAETrainer,
    "BatchTopKSAE": batch_top_k.BatchTopKTrainer,
    "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
    "JumpReluAutoEncoder": jumprelu.JumpReluTrainer,
}
LOADERS = {
    "AutoEncoderTopK": top_k.AutoEncoderTopK,
    "BatchTopKSAE": batch_top_k.BatchTopKSAE,
    "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k.MatryoshkaBatchTopKSAE,
}
NAMES = {
    "bias": "b_dec",
    "decoder_bias": "b_dec",
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
}


def turned(name):
    return name in ("decoder.weight", "W_enc")


def made(weights, settings):
    d_sae, d_in = weights["W_dec"].shape
    common = {
        "steps": 10,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "layer": 0,
        "lm_name": "",
        "device": "cpu",
    }
    warm = {"warmup_steps": 0, "lr": settings["lr"]}
    trainer = (
        getattr(standard, settings["trainer"])
        if "trainer" in settings
        else TRAINERS[settings["architecture"]]
    )
    trainer = trainer(**common, **warm, **settings["options"])
    trainer.ae.double()
    with torch.no_grad():
        for name, parameter in trainer.ae.named_parameters():
            ours = weights[NAMES.get(name, name)]
            parameter.copy_(ours.T if turned(name) else ours)
        if "threshold" in weights and "threshold" in dict(trainer.ae.named_buffers()):
            trainer.ae.threshold.copy_(weights["threshold"].reshape(()))
    return trainer


def silence(trainer, dead):
    if hasattr(trainer, "num_tokens_since_fired"):
        trainer.num_tokens_since_fired[dead] = trainer.dead_feature_threshold


def case(tensors, settings):
    weights, x, dead = under(tensors, "w."), tensors["x"], tensors["dead"]
    trainer = made(weights, settings)
    silence(trainer, dead)
    log = trainer.loss(x, step=1, logging=True)
    codes = log.f  # as the loss had them
    rebuilt = log.x_hat if hasattr(log, "x_hat") else log.recon
    result = {"codes": codes, "reconstruction": rebuilt}
    for name, value in log.losses.items():
        result[f"loss.{'total' if name == 'loss' else name}"] = torch.tensor(
            value, dtype=torch.float64
        )
    if settings["architecture"] in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        result["inference"] = trainer.ae.encode(x, use_threshold=True)
    trainer = made(weights, settings)
    silence(trainer, dead)
    parameters = dict(trainer.ae.named_parameters())
    for name, grad in gradients(trainer.loss(x, step=1), parameters, "").items():
        own = name.removeprefix(".")
        result[f"grad.total.{NAMES.get(own, own)}"] = grad.T if turned(own) else grad
    trainer = made(weights, settings)
    silence(trainer, dead)
    for _ in range(STEPS):
        trainer.update(1, x)
    for own, parameter in trainer.ae.named_parameters():
        result[f"after.{NAMES.get(own, own)}"] = parameter.T if turned(own) else parameter
    return result


def trip(folder, back, x, settings):
    kind = settings["dict_class"]
    torch.save(load_file(folder / "ae.safetensors"), folder / "ae.pt")
    cls = LOADERS.get(kind) or getattr(classes, kind)
    options = {"normalize_decoder": False} if kind == "AutoEncoder" else {}
    autoencoder = cls.from_pretrained(str(folder / "ae.pt"), **options)
    codes = autoencoder.encode(x)
    back.mkdir(parents=True, exist_ok=True)
    torch.save(autoencoder.state_dict(), back / "ae.pt")
    (back / "config.json").write_text(
        (folder / "config.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    subprocess.run([sys.executable, "-c", settings["convert"]], cwd=back, check=True)
    return {"codes": codes, "reconstruction": autoencoder.decode(codes)}, {}


serve(Path(sys.argv[1]), case, trip)
