"""A linear probe for many concepts at once: logistic regression on dense activations.

Notable: the optimiser works in whitened coordinates and starts from linear discriminant analysis
(Fisher 1936; one covariance for all concepts), because what a model knows of context lies in
directions of little variance, where plain gradient descent on activations never arrives. A few
epochs of Adam then finish what the shared covariance got wrong. Classes are not rebalanced: scores
are read by average precision at natural density. The weights are folded back, so a probe is a
matrix and a bias on raw activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.seeds import torch_generator

VERSION = 1
"""Of the fit; part of the key of every stage that gates by a probe."""


LEAST = -50.0
"""Log-odds below which probabilities are not told apart (2e-22): those below -80 are denormal
numbers, with which a product of matrices takes a hundred times as long."""


class Probe:
    """Log-odds of concepts, linear in activations.

    Attributes:
        weight: [concept, d_in] on raw activations.
        bias: [concept]
        concepts: names of the rows, or () where nobody named them.
    """

    def __init__(
        self,
        weight: Float[Tensor, "concept d_in"],
        bias: Float[Tensor, " concept"],
        concepts: Sequence[str] = (),
    ) -> None:
        self.weight, self.bias, self.concepts = weight, bias, tuple(concepts)

    def scores(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row concept"]:
        """Log-odds of every concept on every row, float32."""
        return torch.addmm(self.bias, x.to(self.weight), self.weight.T)

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        temporary = path.with_name(f".{path.name}.writing")
        tensors = {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}
        save_file(tensors, temporary, {"concepts": "\n".join(self.concepts)})
        temporary.rename(path)

    @classmethod
    def load(cls, path: Path) -> Probe:
        """What `save` wrote."""
        with safe_open(path, "pt") as file:
            named = (file.metadata() or {}).get("concepts", "")
            return cls(
                file.get_tensor("weight"),
                file.get_tensor("bias"),
                named.split("\n") if named else (),
            )


def fit_probe(
    x: Float[Tensor, "row d_in"],
    labels: scipy.sparse.csc_matrix,
    concepts: Sequence[str] = (),
    *,
    epochs: int = 8,
    batch: int = 4096,
    learning_rate: float = 0.25,
    decay: float | None = None,
) -> Probe:
    """Fits one logistic regression for each column of `labels`, all together.

    The order of rows is the same in every fit: whichever stage asks whether a probe decodes a
    concept hears the same.

    Args:
        x: activations, of any float type, on any device; the probe stays there.
        labels: which row carries which concept.
        concepts: names of the columns.
        epochs: passes over the rows; where rows are few, more, so that there are at least 300
            steps.
        batch: rows in a step.
        learning_rate: of Adam in whitened coordinates, falling to 0 along a cosine.
        decay: penalty on half the squared weights in whitened coordinates; one row's worth (1 /
            rows) when None.
    """
    assert labels.get_shape()[0] == x.shape[0], "one row of labels for each row of activations"
    n_rows, device = x.shape[0], x.device
    rows = scipy.sparse.csr_matrix(labels)
    decay = 1 / max(n_rows, 1) if decay is None else decay
    mean, whiten = _whitening(x)
    weight, bias = _discriminant(x, mean, whiten, rows)
    first, second = (
        [torch.zeros_like(p) for p in (weight, bias)],
        [torch.zeros_like(p) for p in (weight, bias)],
    )
    generator = torch_generator(0, "probe")
    steps = max(epochs * math.ceil(n_rows / batch), 300 if n_rows else 0)
    order = torch.empty(0, dtype=torch.long)
    for step in range(1, steps + 1):
        if len(order) == 0:
            order = torch.randperm(n_rows, generator=generator)
        index, order = order[:batch], order[batch:]
        z = (x[index.to(device)].float() - mean) @ whiten
        y = torch.from_numpy(rows[index.numpy()].toarray()).to(device, torch.float32)
        logits = torch.addmm(bias, z, weight).clamp_(min=LEAST)
        error = logits.sigmoid_().sub_(y).div_(len(index))
        gradients = (torch.addmm(weight, z.T, error, beta=decay), error.sum(0))
        rate = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        for p, gradient, m, v in zip((weight, bias), gradients, first, second, strict=True):
            m.lerp_(gradient, 0.1)
            v.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
            scale = (v / (1 - 0.99**step)).sqrt_().add_(1e-8)
            p.addcdiv_(m, scale, value=-rate / (1 - 0.9**step))
    folded = (whiten @ weight).T.contiguous()
    return Probe(folded, bias - folded @ mean, concepts)


def _whitening(
    x: Float[Tensor, "row d_in"],
) -> tuple[Float[Tensor, " d_in"], Float[Tensor, "d_in d_in"]]:
    """Mean, and the map that gives centred rows unit covariance; directions of almost no variance
    are left small."""
    n_rows, d_in = x.shape
    total = torch.zeros(d_in, dtype=torch.float64, device=x.device)
    for part in x.split(65536):
        total += part.double().sum(0)
    mean = (total / max(n_rows, 1)).float()
    covariance = torch.zeros(d_in, d_in, dtype=torch.float64, device=x.device)
    for part in x.split(65536):
        centred = part.float() - mean
        covariance += (centred.T @ centred).double()
    values, vectors = torch.linalg.eigh(covariance / max(n_rows, 1))
    floor = 1e-6 * values.mean().clamp(min=1e-30)
    return mean, (vectors * (values.clamp(min=0) + floor).rsqrt()).float()


def _discriminant(
    x: Float[Tensor, "row d_in"], mean: Tensor, whiten: Tensor, labels: scipy.sparse.csr_matrix
) -> tuple[Float[Tensor, "d_in concept"], Float[Tensor, " concept"]]:
    """Linear discriminant analysis in whitened coordinates, the total covariance standing in for
    the one within.

    With w the difference of class means there, w / (1 - p (1 - p) w.w) is the direction under the
    covariance within.
    """
    n_rows, n_concepts = x.shape[0], labels.get_shape()[1]
    positives = np.asarray(labels.sum(0), np.float64).ravel()
    share = (
        torch.from_numpy(np.clip(positives, 0.5, max(n_rows - 0.5, 0.5)) / max(n_rows, 1))
        .float()
        .to(x.device)
    )
    total = torch.zeros(x.shape[1], n_concepts, device=x.device)
    for start in range(0, n_rows, 16384):
        z = (x[start : start + 16384].float() - mean) @ whiten
        y = torch.from_numpy(labels[start : start + 16384].toarray()).to(x.device, torch.float32)
        total += z.T @ y
    # the mean of positives
    above = total / torch.from_numpy(np.maximum(positives, 1.0)).float().to(x.device)
    difference = above / (1 - share)
    spread = share * (1 - share) * difference.square().sum(0)
    weight = difference / (1 - spread).clamp(min=0.05)
    middle = (above + (above - difference)) / 2
    return weight, (share / (1 - share)).log() - (weight * middle).sum(0)
