"""A model whose attention looks both ways (BERT and its kin): activations are read and edited, no
text is written.

What such a model computes for a token depends on every token of its row. So each pass is told which
tokens are real, and a row holds one document: others would be read as its context. Padding lies on
the right, because such models count their positions from the first column. That padding changes no
real token is tried once for each model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.device import to_device
from components.errors import CapabilityError
from components.model import trial
from components.model.intervention import Places
from components.model.language_model import LanguageModel


class EncoderModel(LanguageModel):
    """A model whose attention looks both ways; attributes and methods are those of `LanguageModel`.

    Whatever predicts a next token (logits, losses, generation, a pass that is resumed) is refused
    with the reason.
    """

    causal = False

    def __init__(
        self, network: nn.Module, tokenizer: Any = None, causal: bool | None = None
    ) -> None:
        super().__init__(network, tokenizer, causal)
        for name, module in network.named_modules():
            if not (name.endswith("position_embeddings") and isinstance(module, nn.Embedding)):
                continue
            # RoBERTa and its kin count from behind the padding token's number, and never use the
            # places before it.
            if module.padding_idx is not None:
                self.context_length = module.num_embeddings - module.padding_idx - 1

    def obstacle(self, capability: str) -> str | None:
        """Why the model cannot do this; None where it can."""
        if capability == "gradients":
            return None
        return "its attention looks both ways, so it predicts no next token"

    @property
    def ignores_padding(self) -> bool:
        """Whether a text has the same activations before padding as alone, given which tokens are
        real."""
        return self.tried("padding", self._is_blind_to_padding)

    def _check(self, causal: bool) -> None:
        """A causal network is read correctly too: a mask never changes what it computes."""

    def _pass(self, tokens: Tensor, mask: Tensor | None) -> Any:
        real = torch.ones_like(tokens) if mask is None else mask
        if not bool((real[:, 1:] <= real[:, :-1]).all()):
            raise CapabilityError(
                f"{type(self.network).__name__} counts positions from the first column; pad on "
                "the right"
            )
        if not bool(real.all()) and not self.ignores_padding:
            raise CapabilityError(
                f"{type(self.network).__name__} has other numbers for a text with padding behind "
                "it, though it is told which tokens are real; give it rows of one length"
            )
        real = to_device(real, self.device).long()
        position = torch.where(real.bool(), real.cumsum(1) - 1, -1)
        return self.forward(
            tokens, Places(position, real.sum(1)), use_cache=False, **self._masked(real)
        )

    def _masked(self, real: Tensor) -> dict[str, Tensor]:
        return {"attention_mask": real} if self.takes("attention_mask") else {}

    def _is_blind_to_padding(self) -> bool:
        whole = trial.tokens(self.network, 1)
        n_real = whole.shape[1] // 2
        real = (torch.arange(whole.shape[1], device=self.device) < n_real).long()[None]
        padded = trial.outcome(self.network, whole, **self._masked(real))
        alone = trial.outcome(self.network, whole[:, :n_real], **self._masked(real[:, :n_real]))
        return trial.agree(padded[:, :n_real], alone, self.dtype)


def model_of(network: nn.Module, tokenizer: Any = None) -> LanguageModel:
    """The network as the kind of model that it is: whether it is causal is tried, since names and
    settings say too little.

    Raises:
        ModelError: the network needs more than token ids.
    """
    network.eval()
    if trial.is_causal(network):
        return LanguageModel(network, tokenizer, causal=True)
    return EncoderModel(network, tokenizer, causal=False)
