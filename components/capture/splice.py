"""A dictionary inside the model's forward pass: what its reconstruction does to the predictions, as
a loss to learn from.

    KL(plain || spliced), or the spliced model's cross-entropy of the next token, in nats a token

Rows come as whole contexts, since what is written at one token acts on the tokens behind it. The
reconstruction stands at the tokens whose activations were captured; other tokens (special ones,
outliers, padding) keep theirs. A dictionary of several hook points is spliced at one after another,
as loss recovered does it (a later one would hide an earlier one), and the mean is taken. KL is the
mean over predictions made at these tokens, cross-entropy over those of them whose next token
belongs to the same document. Logits are held for a bounded number of contexts at a time: the
gradient is taken part by part with respect to the reconstruction, and handed on as if the whole had
been one pass.

Source: Braun et al. 2024, "Identifying Functionally Important Features with End-to-End Sparse
Dictionary Learning" (arXiv:2405.12241); Karvonen 2025, "Revisiting End-To-End Sparse Autoencoder
Training: A Short Finetune Is All You Need" (arXiv:2503.17272), without its low-rank adapters.
Deviation: fixed weights, where the second scales KL to the size of the reconstruction loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from components.device import Execution
from components.errors import CapabilityError
from components.model.intervention import Edit, Places, replace
from components.model.language_model import LanguageModel

LOGITS_AT_ONCE = 1 << 27
"""Logits held at a time: 512 MiB in float32, several times that while the gradient is taken."""
LOGITS = 4
"""Tensors of that size at the peak: the plain distribution, a divergence and gradients; two more
for each hook point."""
KEPT = 22
"""Tensors of the width of the residual stream that a block keeps for the gradient, for each hook
point."""


def opened(
    config: Any, names: Sequence[str], inputs: Mapping[str, Any], settings: Execution
) -> Splice:
    """The model's part in training one dictionary.

    Args:
        config: the section `train`.
        names: what the dictionary reconstructs.
        inputs: `model`, `corpus`.
        settings: where to run.

    Raises:
        CapabilityError: a model that predicts no next token or gives no gradients; a dictionary
            that reconstructs what a forward pass does not hold.
    """
    model = inputs["model"].load(settings)
    for capability in ("causal_loss", "gradients"):
        model.require(capability)
    if amiss := [name for name in names if name.startswith(("gradient:", "error:"))]:
        raise CapabilityError(
            "train.splice puts reconstructions into the model's forward pass, which holds no "
            f"{', '.join(amiss)}; set train.splice.share=0, or train a dictionary that "
            "reconstructs activations"
        )
    for name in names:
        model.hook_point(name)
    contexts = load_file(inputs["corpus"].path(f"contexts/{config.split}.safetensors"))
    return Splice(model, contexts["token"], contexts["document"], config.splice.weights)


def passes(config: Any, n_names: int, inputs: Mapping[str, Any]) -> tuple[dict[str, int], float]:
    """Bytes that the model's part in an update holds, and how often a token passes the model:
    backwards counts twice.

    Args:
        config: the section `train`.
        n_names: hook points that the dictionary reconstructs.
        inputs: `model`, `corpus`; made or planned.
    """
    model, length = inputs["model"], inputs["corpus"].facts["context_length"]
    shape, itemsize = model.shape, getattr(torch, model.config.dtype).itemsize
    n = (
        min(-(-config.batch // length), max(1, LOGITS_AT_ONCE // (length * shape.vocab_size)))
        * length
    )
    holds = {
        "model": model.n_bytes,
        "model's logits": (LOGITS + 2 * n_names) * 4 * n * shape.vocab_size,
        "model's passes": KEPT * n_names * n * shape.n_layers * shape.d_model * itemsize,
    }
    return holds, 3 * n_names + (config.splice.kl > 0)


class Splice:
    """What a model says of a reconstruction.

    Args:
        model: the model.
        token: of every context of the split.
        document: likewise; -1 where a token belongs to none.
        weights: of `kl` and `cross_entropy`; a term that is not named is not computed.
    """

    def __init__(
        self,
        model: LanguageModel,
        token: Int[Tensor, "context column"],
        document: Int[Tensor, "context column"],
        weights: Mapping[str, float],
    ) -> None:
        self.model, self.token, self.document, self.weights = model, token, document, weights

    def __call__(
        self, batch: Mapping[str, Tensor], reconstruction: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Weighted loss terms by name.

        Args:
            batch: `context` and `offset` of every row; rows of one context stand together.
            reconstruction: rows by hook point, in activation units.

        Raises:
            CapabilityError: no gradient comes back from the predictions to where the reconstruction
                stands.
        """
        context, offset = batch["context"].long(), batch["offset"].long()
        begins = torch.cat(
            [torch.ones(1, dtype=torch.bool), (context.diff() != 0) | (offset.diff() <= 0)]
        )
        contexts, counts = (
            context[begins],
            begins.nonzero()[:, 0].diff(append=torch.tensor([len(context)])),
        )
        at_once = max(1, LOGITS_AT_ONCE // (self.token.shape[1] * self.model.vocab_size))
        n_counted = {
            "kl": len(context),
            "cross_entropy": int(self._is_followed(context, offset).sum()),
        }
        sums = {name: torch.zeros((), device=self.model.device) for name in self.weights}
        gradients: list[list[Tensor]] = []
        first = 0
        for part, rows in zip(contexts.split(at_once), counts.split(at_once), strict=True):
            here = slice(first, first + int(rows.sum()))
            first = here.stop
            leaves = {name: x[here].detach().requires_grad_() for name, x in reconstruction.items()}
            row = torch.repeat_interleave(rows)
            terms = self._terms(part, row, offset[here], leaves)
            terms = {
                name: weight * terms[name] / max(1, n_counted[name])
                for name, weight in self.weights.items()
            }
            gradients.append(self._gradients(torch.stack(list(terms.values())).sum(), leaves))
            sums = {name: total + terms[name].detach() for name, total in sums.items()}
        carrier = torch.zeros((), device=self.model.device)
        for x, parts in zip(reconstruction.values(), zip(*gradients, strict=True), strict=True):
            product = (x * torch.cat(parts)).sum()
            carrier = carrier + (product - product.detach())  # zero, with the gradient of the whole
        return {
            name: total + (carrier if i == 0 else 0) for i, (name, total) in enumerate(sums.items())
        }

    def _terms(
        self,
        contexts: Tensor,
        row: Tensor,
        offset: Tensor,
        rebuilt: Mapping[str, Float[Tensor, "row width"]],
    ) -> dict[str, Float[Tensor, ""]]:
        """Sums over the tokens of these contexts; `row` and `offset` say where each row of
        `rebuilt` stands."""
        token = self.token[contexts].to(self.model.device)
        place = row.to(token.device), offset.to(token.device)
        kept = torch.zeros_like(token, dtype=torch.bool)
        kept[place] = True
        plain = self.model.logits(token)[place].log_softmax(-1) if "kl" in self.weights else None
        followed = self._is_followed(contexts[row], offset).to(token.device)
        target = token.roll(-1, dims=1)[place][followed].long()
        terms = {name: torch.zeros((), device=token.device) for name in self.weights}
        for name, x in rebuilt.items():
            spliced = self._pass(token, _edit(name, x, place, kept))[place].log_softmax(-1)
            if plain is not None:
                terms["kl"] = terms["kl"] + kl_div(
                    spliced, plain, reduction="sum", log_target=True
                ) / len(rebuilt)
            if "cross_entropy" in self.weights:
                lost = cross_entropy(spliced[followed], target, reduction="sum")
                terms["cross_entropy"] = terms["cross_entropy"] + lost / len(rebuilt)
        return terms

    def _is_followed(
        self, context: Int[Tensor, " row"], offset: Int[Tensor, " row"]
    ) -> Bool[Tensor, " row"]:
        """Whether the next token belongs to the same document."""
        document = self.document[context]
        here = document.gather(1, offset[:, None])[:, 0]
        last = offset + 1 == document.shape[1]
        behind = document.gather(1, torch.where(last, offset, offset + 1)[:, None])[:, 0]
        return (here >= 0) & (here == behind) & ~last

    def _pass(self, token: Tensor, edit: Edit) -> Float[Tensor, "b t V"]:
        position = torch.arange(token.shape[1], device=token.device).expand(len(token), -1)
        places = Places(position, position.max(dim=1).values + 1)
        with torch.enable_grad(), self.model.edited(edit):
            return self.model.forward(token, places, use_cache=False).logits.float()

    def _gradients(self, loss: Tensor, leaves: Mapping[str, Tensor]) -> list[Tensor]:
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is None:
                raise CapabilityError(
                    f"train.splice needs gradients from the model's predictions back to {name}, "
                    f"and {type(self.model.network).__name__} gives none: it computes without "
                    "them, or its predictions do not depend on that place; name a hook point that "
                    "acts on what comes later, or set train.splice.share=0"
                )
        return [gradient for gradient in gradients if gradient is not None]


def _edit(
    hook_point: str, rebuilt: Tensor, place: tuple[Tensor, Tensor], kept: Bool[Tensor, "b t"]
) -> Edit:
    """The reconstruction in place of the activations at the kept tokens."""
    return replace(hook_point, lambda x: x.index_put(place, rebuilt.to(x.device, x.dtype)), kept)
