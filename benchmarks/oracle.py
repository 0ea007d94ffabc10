"""Our dictionaries against the classes of SAELens, sparsify and dictionary_learning, under copied
weights.

    make oracle                                     builds the peers' environments, runs this, writes docs/peers.md
    python benchmarks/oracle.py [--peers FOLDER]    the comparison; exit status 1 when anything deviates

Weights, a batch and which latents are dead go to each peer's own python in safetensors; back come
its codes, reconstruction, loss terms, gradients by term, and its weights after three of its
trainer's optimiser steps, all float64. Where a peer defines a term otherwise, ours is multiplied by
the constant that the table states; nothing else is done to either side. Then dictionaries are
exported, loaded by the peer's own loader, saved by its own saver and imported again. A deviation is
the largest difference over the largest value (for weights after steps: over the largest change).
What a case declares and a side does not give deviates infinitely; what cannot be compared has a row
with the reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks" / "peers")]

from exchange import STEPS, read, under, write  # noqa: E402

from components.dictionary.contract import Dictionary, Moment, architectures  # noqa: E402
from components.dictionary.interchange.contract import formats  # noqa: E402
from components.dictionary.interchange.exchange import bring, export  # noqa: E402
from components.dictionary.interchange.files import conversion  # noqa: E402
from components.dictionary.learner import Learner  # noqa: E402
from components.dictionary.settings import TrainConfig  # noqa: E402

HOOK = "resid_post.1"
D_IN, D_SAE, N, N_DEAD = 16, 128, 64, 40
LR = 1e-3
TOLERANCE = 1e-5
BOUNDS = (1e-10, 1e-6, 1e-3)
"""What docs/peers.md says of a deviation: below which of these it lies. Rounding differs by machine
and by version, and no deviation that was measured lies within a factor of two of one of them, so
the page stays as it is where nothing changed."""
DOC = REPOSITORY / "docs" / "peers.md"
BEGIN, END = "<!-- oracle -->", "<!-- /oracle -->"
DISTRIBUTIONS = {
    "saelens": "sae-lens",
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
}
Factor = Callable[[Any], float]


def one(c: Any) -> float:
    return 1.0


def variance(c: Any) -> float:
    """Of the batch: sum of squared deviations from its mean, by token."""
    return c.variance


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of a peer's loss as a sum of ours, each times a constant of the batch.

    Attributes:
        theirs: what the peer calls it; `total` is all of it.
        ours: our term -> constant.
        stated: the constant in words, for the table.
        without: parameters whose gradient is known to differ there, with the reason.
        gradient: whether the peer gives the term's gradient, and not its value alone.
    """

    theirs: str
    ours: Mapping[str, Factor]
    stated: str = "as it is"
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)
    gradient: bool = True


@dataclasses.dataclass(frozen=True)
class Case:
    """One architecture that a peer has too.

    Attributes:
        peer: which.
        theirs: what it calls the architecture.
        kind: what we call it.
        options: ours.
        settings: the peer's.
        terms: its loss terms.
        scale: the peer's whole loss over ours, for the three steps; Adam is told a clip and an
            epsilon smaller by it.
        clip: the norm at which the peer's trainer clips.
        betas: Adam's, of the peer.
        unit_rows: whether the peer's trainer keeps decoder rows at norm 1.
        step_options: options of ours for the three steps.
        dead_in_steps: whether latents are dead in the three steps too.
        note: what the table says of the steps.
        no_steps: why the steps cannot be compared; empty where they are.
        encodes_otherwise: whether the peer's class itself encodes by a threshold outside training.
        tolerance: of the weights after the steps.
        zero: weights that are zero in this case.
        variant: what tells it from another case of the same architecture.
    """

    peer: str
    theirs: str
    kind: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    terms: tuple[Term, ...]
    scale: Factor = one
    clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    unit_rows: bool = True
    step_options: Callable[[Any], Mapping[str, Any]] = lambda c: {}
    dead_in_steps: bool = False
    note: str = ""
    no_steps: str = ""
    encodes_otherwise: bool = False
    tolerance: float = 1e-5
    zero: tuple[str, ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.peer}-{self.theirs}" + (f"-{self.variant}" if self.variant else "")

    def numbers(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        weights, x, dead = numbers()
        return weights | {name: torch.zeros_like(weights[name]) for name in self.zero}, x, dead


def value(theirs: str, ours: Mapping[str, Factor], stated: str = "as it is") -> Term:
    """A term of which the peer gives the value alone."""
    return Term(theirs, ours, stated, gradient=False)


AUXK = 1 / 32
SAELENS_AUXK = Term(
    "auxiliary_reconstruction_loss",
    {"auxk": lambda c: c.spread / AUXK},
    "times the variance of the error, over our coefficient",
)
DL_PROJECTION = "its projection divides by norm + 1e-6, its AuxK is float32"
CASES = (
    Case(
        "saelens",
        "standard",
        "relu",
        {"l1": 0.5, "l1_warm_up": 0.0},
        {"options": {"l1_coefficient": 0.5}, "coefficients": {"l1": 0.5}},
        (Term("mse_loss", {"reconstruction": one}), Term("l1_loss", {"l1": one})),
        unit_rows=False,
    ),
    Case(
        "saelens",
        "topk",
        "topk",
        {"k": 8, "auxk_coefficient": AUXK},
        {"options": {"k": 8, "aux_loss_coefficient": 1.0, "rescale_acts_by_decoder_norm": False}},
        (
            Term("mse_loss", {"reconstruction": variance}, "times the batch's variance"),
            SAELENS_AUXK,
        ),
        scale=variance,
        unit_rows=False,
        note="without the constraint on the decoder, which SAELens does not have; no latent dead",
    ),
    Case(
        "saelens",
        "gated",
        "gated",
        {"l1": 0.5, "l1_warm_up": 0.0},
        {"options": {"l1_coefficient": 0.5}, "coefficients": {"l1": 0.5}},
        (
            Term("mse_loss", {"reconstruction": one}),
            Term(
                "l1_loss", {"l1": one}, without={"W_dec": "weighted by norms that ours keeps at 1"}
            ),
            Term(
                "auxiliary_reconstruction_loss",
                {"gate": one},
                without=dict.fromkeys(
                    ("W_dec", "b_dec"), "SAELens lets the auxiliary term move the decoder"
                ),
            ),
        ),
        no_steps="its decoder moves by the auxiliary term",
    ),
    Case(
        "saelens",
        "jumprelu",
        "jumprelu",
        {"penalty": "l0", "coefficient": 1.0, "warm_up": 0.0, "bandwidth": 0.5},
        {
            "options": {
                "jumprelu_bandwidth": 0.5,
                "jumprelu_sparsity_loss_mode": "step",
                "l0_coefficient": 0.3,
            },
            "coefficients": {"l0": 0.3},
        },
        (
            Term("mse_loss", {"reconstruction": variance}, "times the batch's variance"),
            Term(
                "l0_loss",
                {"sparsity": lambda c: 0.3 * D_IN},
                "times d_in and its coefficient over ours",
            ),
        ),
        scale=variance,
        unit_rows=False,
        step_options=lambda c: {"coefficient": 0.3 * D_IN / c.variance},
        note="without the constraint on the decoder; its thresholds are float32",
        tolerance=1e-4,
    ),
    Case(
        "saelens",
        "jumprelu",
        "jumprelu",
        {"penalty": "tanh", "coefficient": 1.0, "warm_up": 0.0, "bandwidth": 0.5},
        {
            "options": {
                "jumprelu_bandwidth": 0.5,
                "jumprelu_sparsity_loss_mode": "tanh",
                "l0_coefficient": 0.3,
            },
            "coefficients": {"l0": 0.3},
        },
        (
            Term("mse_loss", {"reconstruction": variance}, "times the batch's variance"),
            Term(
                "l0_loss",
                {"sparsity": lambda c: 0.3 * D_IN},
                "times d_in and its coefficient over ours",
                {"W_dec": "weighted by norms that ours keeps at 1"},
            ),
        ),
        no_steps="its penalty weighs by norms",
        variant="tanh",
    ),
    Case(
        "saelens",
        "batchtopk",
        "batch_topk",
        {"k": 8, "auxk_coefficient": AUXK},
        {"options": {"k": 8.0, "aux_loss_coefficient": 1.0, "rescale_acts_by_decoder_norm": False}},
        (
            Term("mse_loss", {"reconstruction": variance}, "times the batch's variance"),
            SAELENS_AUXK,
        ),
        scale=variance,
        unit_rows=False,
        note="without the constraint on the decoder; no latent dead",
    ),
    Case(
        "saelens",
        "matryoshka_batchtopk",
        "matryoshka",
        {"k": 8, "auxk_coefficient": AUXK, "weights": (1.0,) * 5},
        {
            "options": {
                "k": 8.0,
                "aux_loss_coefficient": 1.0,
                "rescale_acts_by_decoder_norm": False,
                "matryoshka_widths": [8, 16, 32, 64, 128],
                "use_matryoshka_aux_loss": False,
            }
        },
        (
            Term(
                "mse_loss",
                {"reconstruction": variance},
                "times the batch's variance, every weight 1",
            ),
            Term(
                "inner_mse_loss",
                {"prefixes": variance},
                "times the batch's variance, every weight 1",
            ),
            SAELENS_AUXK,
        ),
        scale=variance,
        unit_rows=False,
        note="without the constraint on the decoder; no latent dead",
    ),
    Case(
        "saelens",
        "matching_pursuit",
        "matching_pursuit",
        {"k": 6, "tolerance": 0.0},
        {"options": {"max_iterations": 6, "residual_threshold": 0.0, "decoder_init_norm": 1.0}},
        (Term("mse_loss", {"reconstruction": variance}, "times the batch's variance"),),
        scale=variance,
        unit_rows=False,
        note="without the constraint on the decoder",
    ),
    Case(
        "sparsify",
        "topk",
        "topk",
        {"k": 8, "auxk_coefficient": AUXK},
        {"options": {"k": 8}},
        (
            Term("fvu", {"reconstruction": one}),
            Term(
                "auxk_loss",
                {"auxk": lambda c: c.spread / c.variance / AUXK},
                "times the variance of the error over the batch's, over our coefficient",
                dict.fromkeys(
                    ("W_enc", "b_enc", "b_dec"), "sparsify's encoder takes no gradient from AuxK"
                ),
            ),
        ),
        clip=None,
    ),
    Case(
        "sparsify",
        "topk",
        "topk",
        {"k": 8, "auxk_coefficient": AUXK, "multi_topk_coefficient": 1 / 8},
        {"options": {"k": 8, "multi_topk": True}},
        (
            Term("fvu", {"reconstruction": one}),
            Term(
                "multi_topk_fvu",
                {"multi_topk": lambda c: 8.0},
                "over our coefficient",
                dict.fromkeys(
                    ("W_enc", "b_enc", "b_dec"),
                    "sparsify's encoder takes no gradient from Multi-TopK",
                ),
            ),
        ),
        no_steps="its encoder takes no gradient from Multi-TopK",
        variant="multi",
    ),
    Case(
        "dictionary_learning",
        "AutoEncoder",
        "relu",
        {"l1": 0.5, "l1_warm_up": 0.0},
        {"options": {"l1_penalty": 0.5, "sparsity_warmup_steps": None}},
        (
            value("mse_loss", {"reconstruction": one}),
            value("sparsity_loss", {"l1": lambda c: 1 / 0.5}, "over the coefficient"),
            Term("total", {"reconstruction": one, "l1": one}),
        ),
        unit_rows=False,
    ),
    Case(
        "dictionary_learning",
        "AutoEncoder",
        "relu",
        {"decoder": "unit", "l1": 0.5, "l1_warm_up": 0.0},
        {
            "trainer": "StandardTrainer",
            "options": {"l1_penalty": 0.5, "sparsity_warmup_steps": None},
        },
        (
            value("mse_loss", {"reconstruction": one}),
            value("sparsity_loss", {"l1": lambda c: 1 / 0.5}, "over the coefficient"),
            Term(
                "total",
                {"reconstruction": one, "l1": one},
                without={
                    "W_dec": "our penalty's part along the rows, which the step projects away"
                },
            ),
        ),
        clip=None,
        variant="unit",
    ),
    Case(
        "dictionary_learning",
        "AutoEncoderTopK",
        "topk",
        {"k": 8, "auxk_coefficient": AUXK},
        {"options": {"k": 8, "auxk_alpha": AUXK}},
        (
            value("l2_loss", {"reconstruction": variance}, "times the batch's variance"),
            value("auxk_loss", {"auxk": lambda c: 1 / AUXK}, "over the coefficient"),
            Term(
                "total",
                {"reconstruction": variance, "auxk": one},
                "reconstruction times the batch's variance",
            ),
        ),
        scale=variance,
        step_options=lambda c: {"auxk_coefficient": AUXK / c.variance},
        dead_in_steps=True,
        tolerance=2e-4,
        note=DL_PROJECTION,
    ),
    Case(
        "dictionary_learning",
        "BatchTopKSAE",
        "batch_topk",
        {"k": 8, "auxk_coefficient": AUXK},
        {"options": {"k": 8, "auxk_alpha": AUXK}},
        (
            value("l2_loss", {"reconstruction": variance}, "times the batch's variance"),
            value("auxk_loss", {"auxk": lambda c: 1 / AUXK}, "over the coefficient"),
            Term(
                "total",
                {"reconstruction": variance, "auxk": one},
                "reconstruction times the batch's variance",
            ),
        ),
        scale=variance,
        step_options=lambda c: {"auxk_coefficient": AUXK / c.variance},
        dead_in_steps=True,
        tolerance=2e-4,
        note=DL_PROJECTION,
        encodes_otherwise=True,
    ),
    Case(
        "dictionary_learning",
        "MatryoshkaBatchTopKSAE",
        "matryoshka",
        {"k": 8, "auxk_coefficient": AUXK, "weights": (1 / 25,) * 5},
        {
            "options": {
                "k": 8,
                "auxk_alpha": AUXK,
                "group_fractions": [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2],
            }
        },
        (
            value(
                "l2_loss",
                {"reconstruction": variance, "prefixes": variance},
                "times the batch's variance, every weight 1/25",
            ),
            value("auxk_loss", {"auxk": lambda c: 1 / AUXK}, "over the coefficient"),
            Term(
                "total",
                {"reconstruction": variance, "prefixes": variance, "auxk": one},
                "reconstruction times the batch's variance, every weight 1/25",
            ),
        ),
        scale=variance,
        step_options=lambda c: {"auxk_coefficient": AUXK / c.variance},
        dead_in_steps=True,
        tolerance=2e-4,
        note=DL_PROJECTION,
        encodes_otherwise=True,
    ),
    Case(
        "dictionary_learning",
        "GatedAutoEncoder",
        "gated",
        {"l1": 0.5, "l1_warm_up": 0.0},
        {"options": {"l1_penalty": 0.5, "sparsity_warmup_steps": None}},
        (
            value("mse_loss", {"reconstruction": one}),
            value("sparsity_loss", {"l1": lambda c: 1 / 0.5}, "over the coefficient"),
            value("aux_loss", {"gate": one}),
            Term("total", {"reconstruction": one, "l1": one, "gate": one}),
        ),
        clip=None,
        betas=(0.0, 0.999),
    ),
    Case(
        "dictionary_learning",
        "JumpReluAutoEncoder",
        "jumprelu",
        {
            "penalty": "l0_target",
            "target_l0": 20.0,
            "coefficient": 1.0,
            "warm_up": 0.0,
            "bandwidth": 0.1,
        },
        {
            "options": {
                "bandwidth": 0.1,
                "sparsity_penalty": 1.0,
                "target_l0": 20.0,
                "sparsity_warmup_steps": None,
            }
        },
        (
            value("l2_loss", {"reconstruction": variance}, "times the batch's variance"),
            Term(
                "total",
                {"reconstruction": variance, "sparsity": one},
                "reconstruction times the batch's variance",
                {
                    "threshold": "its step sees codes, not pre-activations",
                    "b_dec": "not subtracted from its input",
                },
            ),
        ),
        no_steps="its input is not centred, and its thresholds move by another gradient",
        zero=("b_dec",),
    ),
)


def numbers(seed: int = 3) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights by our names, a batch, and which latents are dead: those have small positive
    pre-activations."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dead = torch.zeros(D_SAE).bool()
    dead[torch.randperm(D_SAE, generator=generator)[:N_DEAD]] = True
    weights = {
        "W_enc": draw(D_SAE, D_IN) / D_IN**0.5 * (1 - 0.9 * dead[:, None].double()),
        "W_dec": torch.nn.functional.normalize(draw(D_SAE, D_IN), dim=1),
        "b_enc": 0.1 * draw(D_SAE) + 0.4 * dead,
        "b_dec": 0.3 * draw(D_IN),
        "b_gate": 0.1 * draw(D_SAE),
        "b_mag": 0.1 * draw(D_SAE),
        "r_mag": 0.2 * draw(D_SAE),
        "threshold": 0.2 + 0.2 * torch.rand(D_SAE, generator=generator, dtype=torch.float64),
    }
    return weights, 2 * draw(N, D_IN) + 0.5, dead


def built(kind: str, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Dictionary:
    architecture = architectures[kind]
    made = architecture(
        architecture.config(d_sae=D_SAE, **options), (HOOK,), (HOOK,), {HOOK: D_IN}
    ).double()  # type: ignore[call-arg]
    state = made.state_dict()
    held = {name: weights[name] for name in state}
    for name, tensor in state.items():
        if held[name].shape != tensor.shape:  # one threshold for all latents
            held[name] = held[name].mean().reshape(tensor.shape)
    made.load_state_dict(held)
    return made


def ours(case: Case) -> tuple[dict[str, Tensor], Any]:
    """What a peer's script returns, by our classes, and the constants of the batch."""
    weights, x, dead = case.numbers()
    dictionary = built(case.kind, case.options, weights)
    learnt = {
        name: parameter
        for name, parameter in dictionary.named_parameters()
        if parameter.requires_grad
    }
    moment = Moment(10**6, 10**6, dead, torch.Generator().manual_seed(0))
    codes = dictionary.encode(x).dense().double()  # before a training batch moves a threshold
    outcome = dictionary.loss({HOOK: x}, moment)
    error = (x - outcome.reconstruction[HOOK]).detach()
    constants = SimpleNamespace(
        variance=float((x - x.mean(0)).square().sum() / N),
        spread=float((error - error.mean(0)).square().sum() / N),
    )
    result = {
        "reconstruction": outcome.reconstruction[HOOK],
        "fired": outcome.fired,
        "codes": codes,
    }
    for term in case.terms:
        parts = [(outcome.losses[name], factor(constants)) for name, factor in term.ours.items()]
        result[f"loss.{term.theirs}"] = torch.stack([factor * loss for loss, factor in parts]).sum()
        for name, parameter in learnt.items():
            grads = [
                torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)[0]
                for loss, _ in parts
            ]
            scaled = [f * g for g, (_, f) in zip(grads, parts, strict=True) if g is not None]
            result[f"grad.{term.theirs}.{name}"] = sum(scaled, torch.zeros_like(parameter))

    scale = case.scale(constants)
    dictionary = built(case.kind, dict(case.options) | dict(case.step_options(constants)), weights)
    clip = 1e12 if case.clip is None else case.clip / scale
    config = TrainConfig(
        dictionary=dictionary.options,
        tokens=STEPS * N,
        batch_size=N,
        lr=LR,
        warm_up=0,
        decay=0,
        clip=clip,
        dead_after=10_000_000,
    )
    learner = Learner(dictionary, config)
    if not case.unit_rows:
        learner.recipe = dataclasses.replace(learner.recipe, unit_rows=())
    # a penalty without warm-up is at its weight from the second update on
    learner.step, learner.steps = (1, 1 + STEPS)
    learner.optimiser.param_groups[0] |= {"eps": 1e-8 / scale, "betas": case.betas}
    if case.dead_in_steps:
        learner.silent[dead] = 10_000_000
    for _ in range(0 if case.no_steps else STEPS):
        learner.learn({HOOK: x})
    before = built(case.kind, case.options, weights).state_dict()
    for name, parameter in dictionary.named_parameters():
        if parameter.requires_grad:
            result[f"after.{name}"] = parameter.detach() - before[name]
    return result, constants


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; a quantity that cannot be compared has no deviation, and its reason is
    stated."""

    peer: str
    architecture: str
    quantity: str
    deviation: float | None
    stated: str
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        return self.deviation is None or self.deviation <= self.tolerance

    @property
    def told(self) -> str:
        return "not compared" if self.deviation is None else f"{self.deviation:.1e}"

    @property
    def bounded(self) -> str:
        """The same without the digits that no two machines share."""
        if self.deviation is None:
            return self.told
        return next((f"{bound:.0e}" for bound in BOUNDS if self.deviation < bound), self.told)


def compare(case: Case, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[Row]:
    """Every quantity that the case declares; gradients and weights by parameter, the worst one
    told."""
    weights, *_ = case.numbers()
    shown = " ".join(filter(None, (f"{case.theirs} / {case.kind}", case.variant)))
    rows = []
    if architectures[case.kind].trains_as_it_encodes:
        rows.append(Row(case.peer, shown, "codes", between(mine, theirs, "codes"), "as they are"))
    else:
        fired = {"fired": (theirs["codes"] > 0).sum(0).double()} if "codes" in theirs else {}
        rows.append(
            Row(case.peer, shown, "latents used", between(mine, fired, "fired"), "as they are")
        )
        if case.encodes_otherwise:
            found = between({"inference": mine["codes"]}, theirs, "inference")
            rows.append(Row(case.peer, shown, "codes", found, "as they are"))
    rows.append(
        Row(case.peer, shown, "reconstruction", between(mine, theirs, "reconstruction"), "as it is")
    )
    learnt = sorted(under(dict(mine), "after."))
    for term in case.terms:
        found = between(mine, theirs, f"loss.{term.theirs}")
        rows.append(Row(case.peer, shown, f"loss {term.theirs}", found, term.stated))
        if not term.gradient:
            continue
        names = [name for name in learnt if name not in term.without]
        stated = term.stated
        if term.without:
            stated += "; " + "; ".join(
                f"not {', '.join(name for name, why in term.without.items() if why == reason)}: "
                f"{reason}"
                for reason in dict.fromkeys(term.without.values())
            )
        found = max(between(mine, theirs, f"grad.{term.theirs}.{name}") for name in names)
        rows.append(
            Row(case.peer, shown, f"gradient of {term.theirs} ({', '.join(names)})", found, stated)
        )
    quantity = f"{STEPS} steps ({', '.join(learnt)})"
    if case.no_steps:
        return [*rows, Row(case.peer, shown, f"{STEPS} steps", None, case.no_steps)]
    moved = {
        f"after.{name}": value - weights[name]
        for name, value in under(dict(theirs), "after.").items()
    }
    found = max(between(mine, moved, f"after.{name}") for name in learnt)
    return [
        *rows,
        Row(case.peer, shown, quantity, found, case.note or "its trainer's step", case.tolerance),
    ]


def between(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], name: str) -> float:
    """The deviation of one quantity; infinite where a side lacks it."""
    return largest(mine[name], theirs[name]) if name in mine and name in theirs else float("inf")


def largest(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape or not (ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    difference, size = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    return difference / size if size else difference


TRIPS: Mapping[str, tuple[str, ...]] = {
    peer: tuple(formats[peer].exports) for peer in ("saelens", "sparsify", "dictionary_learning")
}
TRIP_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "topk": {"k": 8},
    "batch_topk": {"k": 8},
    "matryoshka": {"k": 8},
}
SCALE = 0.37


def trip_dictionary(kind: str) -> Dictionary:
    weights, _, _ = numbers(seed=5)
    dictionary = built(kind, TRIP_OPTIONS.get(kind, {}), weights).float()
    dictionary.scales[HOOK] = SCALE
    return dictionary


def rows_for_trips() -> Tensor:
    return (2 * torch.randn(200, D_IN, generator=torch.Generator().manual_seed(8)) + 0.5) / SCALE


def prepare_trips(folder: Path, peer: str) -> None:
    x, format_ = rows_for_trips(), formats[peer]()
    for kind in TRIPS[peer]:
        target = folder / "exported" / kind
        export(format_, trip_dictionary(kind), target, x, "toy")
        settings = {"dict_class": format_.exports[kind]}
        if peer == "dictionary_learning":
            settings["convert"] = conversion("ae.pt", "ae.safetensors")
        write(folder / "trips" / f"{kind}.safetensors", {"x": x}, settings)


def compare_trips(folder: Path, peer: str) -> list[Row]:
    rows, x = [], rows_for_trips()
    format_ = formats[peer]()
    for kind in TRIPS[peer]:
        dictionary = trip_dictionary(kind)
        codes = dictionary.encode(x)
        theirs, _ = read(folder / "tripped" / f"{kind}.safetensors")
        shown = f"{format_.exports[kind]} / {kind}"
        deviations = {
            "codes": largest(codes.dense(), theirs["codes"]),
            "reconstruction": largest(dictionary.decode(codes), theirs["reconstruction"]),
        }
        for quantity, found in deviations.items():
            rows.append(
                Row(
                    peer,
                    shown,
                    f"exported, {quantity} by its own loader",
                    found,
                    "activation scale folded",
                )
            )
        back = bring(format_, folder / "back" / kind, x, HOOK)
        found = largest(codes.dense(), back.encode(x).dense())
        rows.append(Row(peer, shown, "saved by it and imported, codes", found, "as they are"))
    return rows


@dataclasses.dataclass(frozen=True)
class Fault:
    """What a peer does otherwise than the sources say.

    Attributes:
        peer: which.
        file: what its script wrote that shows it, in the peer's folder.
        about: one sentence, with where it is to be seen.
        seen: (what the file holds, what it tells) -> what this run saw of it; None when it is gone.
    """

    peer: str
    file: str
    about: str
    seen: Callable[[Mapping[str, Tensor], Mapping[str, Any]], str | None]


def _auxk_without_encoder(theirs: Mapping[str, Tensor], told: Mapping[str, Any]) -> str | None:
    encoder, decoder = (
        theirs[f"grad.auxk_loss.{name}"].abs().max().item() for name in ("W_enc", "W_dec")
    )
    return (
        None
        if encoder
        else f"largest gradient of AuxK in the encoder {encoder:g}, in the decoder {decoder:.2g}"
    )


def _returns_the_wide_one(theirs: Mapping[str, Tensor], told: Mapping[str, Any]) -> str | None:
    off = largest(theirs["reconstruction"], theirs["returned"])
    return (
        None
        if off <= TOLERANCE
        else f"what it returns differs from what its k latents decode to by {off:.2g}"
    )


def _sparsify_by_saelens(theirs: Mapping[str, Tensor], told: Mapping[str, Any]) -> str | None:
    if "error" in told:
        return f"loading fails with {told['error'].rstrip('.')}"
    off = largest(trip_dictionary("topk").encode(rows_for_trips()).dense(), theirs["codes"])
    return (
        None
        if off <= TOLERANCE
        else f"codes off by {off:.2g}, b_dec subtracted: {told['subtracts']}"
    )


def _auxiliary_moves_decoder(theirs: Mapping[str, Tensor], told: Mapping[str, Any]) -> str | None:
    moved = theirs["grad.auxiliary_reconstruction_loss.W_dec"].abs().max().item()
    return f"largest gradient of that term in the decoder {moved:.2g}" if moved else None


def _one_sided(theirs: Mapping[str, Tensor], told: Mapping[str, Any]) -> str | None:
    case = next(case for case in CASES if case.name == "dictionary_learning-JumpReluAutoEncoder")
    mine, _ = ours(case)
    off = largest(mine["grad.total.threshold"], theirs["grad.total.threshold"])
    return (
        None
        if off <= TOLERANCE
        else f"the thresholds' gradient differs from the estimate on pre-activations by {off:.2g} of its size"
    )


def _averaged_again(theirs: Mapping[str, Tensor], told: Mapping[str, Any]) -> str | None:
    case = next(case for case in CASES if case.name == "dictionary_learning-MatryoshkaBatchTopKSAE")
    once = dataclasses.replace(
        case, options={**case.options, "weights": (1 / 5,) * 5}, no_steps="not asked for"
    )
    ratio = (theirs["loss.l2_loss"] / ours(once)[0]["loss.l2_loss"]).item()
    return (
        None
        if abs(ratio - 1) < 1e-3
        else f"its reconstruction term is {ratio:.3g} of the sum weighted by 1/5"
    )


FAULTS = (
    Fault(
        "sparsify",
        "results/sparsify-topk",
        "AuxK and Multi-TopK train the decoder only: the fused encoder's backward "
        "(`FusedEncoder.backward` in `sparsify/fused_encoder.py`) never reads `grad_preacts`, the "
        "gradient of the pre-activations it returned.",
        _auxk_without_encoder,
    ),
    Fault(
        "sparsify",
        "results/sparsify-topk-multi",
        "With Multi-TopK `SparseCoder.forward` (`sparsify/sparse_coder.py`) returns the "
        "reconstruction from the 4k largest latents, which its trainer then puts into the model "
        "under the losses `ce` and `kl`.",
        _returns_the_wide_one,
    ),
    Fault(
        "saelens",
        "tripped/sparsify-by-saelens",
        "Its loader of sparsify's files (`sparsify_disk_loader` in "
        "`sae_lens/loading/pretrained_sae_loaders.py`) transposes "
        "`W_dec`, which sparsify stores [d_sae, d_in] already, and "
        "(`get_sparsify_config_from_disk`) subtracts b_dec unless "
        "`normalize_decoder`, where sparsify subtracts it unless `transcode`.",
        _sparsify_by_saelens,
    ),
    Fault(
        "saelens",
        "results/saelens-gated",
        "The auxiliary term of a gated dictionary moves the decoder "
        "(`GatedTrainingSAE.calculate_aux_loss` in `sae_lens/saes/gated_sae.py`); in the paper "
        "(arXiv:2404.16014, equation 8) the decoder is frozen there.",
        _auxiliary_moves_decoder,
    ),
    Fault(
        "dictionary_learning",
        "results/dictionary_learning-JumpReluAutoEncoder",
        "The L0 step of JumpReLU is applied to codes instead of pre-activations "
        "(`JumpReluTrainer.loss` in `trainers/jumprelu.py`), so latents just below their "
        "threshold never count (its issue 55).",
        _one_sided,
    ),
    Fault(
        "dictionary_learning",
        "results/dictionary_learning-MatryoshkaBatchTopKSAE",
        "The Matryoshka loss weighs every prefix by 1/n and then takes the mean over the n "
        "prefixes (`MatryoshkaBatchTopKTrainer.loss` in `trainers/matryoshka_batch_top_k.py`), so "
        "reconstruction weighs n times less beside AuxK than its group weights say.",
        _averaged_again,
    ),
)


def run_peer(python: Path, peer: str, folder: Path) -> str:
    """Runs the peer's script; returns the version of its distribution."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("PYTHONPATH", None)
    script = REPOSITORY / "benchmarks" / "peers" / f"{peer}.py"
    done = subprocess.run(
        [python, "-W", "ignore", script, folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise SystemExit(f"{peer}'s side failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    code = f"from importlib.metadata import version as v; print(v('{DISTRIBUTIONS[peer]}'), v('torch'))"
    told = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
        errors="replace",
    ).stdout.split()
    return f"{DISTRIBUTIONS[peer]} {told[0]} (torch {told[1]})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=REPOSITORY / ".venv-peers",
        help="folder of their environments",
    )
    parser.add_argument(
        "--only", choices=list(DISTRIBUTIONS), help="one peer; docs/peers.md is then left as it is"
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    arguments = parser.parse_args()
    peers = [arguments.only] if arguments.only else list(DISTRIBUTIONS)
    torch.set_num_threads(1)
    rows, versions, seen = [], {}, []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for peer in peers:
            python = arguments.peers / DISTRIBUTIONS[peer] / "bin" / "python"
            if not python.exists():
                raise SystemExit(f"no {python}; `make peers` builds the peers' environments")
            folder = root / peer
            (folder / "cases").mkdir(parents=True)
            cases = [case for case in CASES if case.peer == peer]
            for case in cases:
                weights, x, dead = case.numbers()
                state = built(case.kind, case.options, weights).state_dict()
                tensors = {f"w.{name}": tensor for name, tensor in state.items()} | {
                    "x": x,
                    "dead": dead,
                }
                write(
                    folder / "cases" / f"{case.name}.safetensors",
                    tensors,
                    {"architecture": case.theirs, "lr": LR, **case.settings},
                )
            prepare_trips(folder, peer)
            if peer == "saelens":  # what it makes of sparsify's files
                by = folder / "exported" / "sparsify-by-saelens" / "layers.1"
                export(formats["sparsify"](), trip_dictionary("topk"), by, rows_for_trips())
                settings = {"loader": "sparsify", "inside": "layers.1"}
                write(
                    folder / "trips" / "sparsify-by-saelens.safetensors",
                    {"x": rows_for_trips()},
                    settings,
                )
            versions[peer] = run_peer(python, peer, folder)
            for case in cases:
                theirs, _ = read(folder / "results" / f"{case.name}.safetensors")
                rows += compare(case, ours(case)[0], theirs)
            rows += compare_trips(folder, peer)
        for fault in FAULTS:
            if fault.peer in peers:
                seen.append(
                    (fault, fault.seen(*read(root / fault.peer / f"{fault.file}.safetensors")))
                )
    _tell(rows, seen, arguments.json)
    gone = [fault for fault, what in seen if what is None]
    for fault in gone:
        sys.stderr.write(
            f"no longer seen, so it is to go from benchmarks/oracle.py: {fault.about}\n"
        )
    off = [row for row in rows if not row.holds]
    if not arguments.only and not off and not gone:
        _document(rows, seen, versions)
    sys.exit(1 if off or gone else 0)


def _tell(rows: list[Row], seen: list[tuple[Fault, str | None]], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
        return
    for row in rows:
        mark = " " if row.holds else "!"
        sys.stdout.write(
            f"{mark} {row.peer:<20} {row.architecture:<36} {row.quantity:<70} {row.told}\n"
        )
    for fault, what in seen:
        sys.stdout.write(f"  {fault.peer}: {what}\n")


def _document(
    rows: list[Row], seen: list[tuple[Fault, str | None]], versions: Mapping[str, str]
) -> None:
    """The generated part of docs/peers.md."""
    lines = [
        f"Measured against {', '.join(versions.values())}; ours with torch "
        f"{torch.__version__.split('+')[0]}.",
        "",
    ]
    lines += [
        "| peer | theirs / ours | quantity | ours is taken | largest deviation below |",
        "|---|---|---|---|---:|",
    ]
    lines += [
        f"| {row.peer} | {row.architecture} | {row.quantity} | {row.stated} | {row.bounded} |"
        for row in rows
    ]
    lines += ["", "### Differences that are the peer's", ""]
    lines += [
        f"- **{fault.peer}.** {fault.about} Seen in this run: {what}." for fault, what in seen
    ]
    text = DOC.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOC.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
