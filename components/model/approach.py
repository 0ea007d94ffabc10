"""The residual stream as it comes to the first edit, kept while text is generated.

An edit changes nothing before it, so what the unedited model predicts on text that was written
under edits needs only the blocks behind the first of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.model.continuation import can_cache
from components.model.divergence import entry
from components.model.intervention import Edit, Intervention
from components.model.language_model import LanguageModel


class Approach:
    """Of one batch.

    Args:
        model: the model.
        intervention: under which the text is generated.
        prompts: token ids of each row.
    """

    def __init__(
        self, model: LanguageModel, intervention: Intervention, prompts: Sequence[Sequence[int]]
    ) -> None:
        lengths = [len(prompt) for prompt in prompts]
        self._model, self._intervention = model, intervention
        # generation pads on the left
        self._n_pad = torch.tensor([max(lengths) - n for n in lengths], device=model.device)
        self._block = 0
        moves_text = intervention.prefix or intervention.weights or intervention.decoding
        # without a cache rows are read again at every step, and lie otherwise
        if (
            intervention.edits
            and not moves_text
            and can_cache(model, padded=max(lengths) > min(lengths))
        ):
            self._block, _ = entry(model, [edit.hook_point for edit in intervention.edits])
        self._passed: list[Tensor] = []

    @property
    def known(self) -> bool:
        """Whether there is anything to keep: an edit behind the first block, and the same tokens
        and weights with and without it."""
        return self._block > 0

    def kept(self) -> Intervention:
        """The intervention, which keeps what comes to its first edit."""

        def keep(x: Tensor, mask: Tensor) -> Tensor:
            self._passed.append(x.clone())  # a later operation in place would change it
            return x

        # the first of the edits at its place: it sees what none of them has changed
        edit = Edit(f"resid_post.{self._block - 1}", keep)
        return dataclasses.replace(self._intervention, edits=(edit, *self._intervention.edits))

    def logits(self, rows: Sequence[int], tokens: Int[Tensor, "row t"]) -> Float[Tensor, "row t V"]:
        """What the unedited model predicts behind each token of some rows, float32.

        Args:
            rows: numbers of rows of the batch.
            tokens: prompt and what was written, padding on the right; of the last token that was
                written, and of padding, the predictions mean nothing.
        """
        if len(self._passed) > 1:  # several parts of a batch may be asked for
            self._passed = [torch.cat(self._passed, dim=1)]
        (stream,) = self._passed
        at = self._n_pad[list(rows)][:, None] + torch.arange(tokens.shape[1], device=stream.device)
        of = torch.tensor(list(rows), device=stream.device)[:, None]
        return self._model.resume(
            tokens, self._block, stream[of, at.clamp(max=stream.shape[1] - 1)]
        )
