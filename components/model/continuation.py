"""Rows of text that grow token by token, and what the model predicts behind each.

What went before is kept in the model's own cache where that gives what whole passes give: tried
once for each model, with padding in front and without, because caches go by several names or none,
and not every layout counts positions behind padding. Else whole rows are read again at every step,
moved to the left: what stands behind a text is nothing that a causal model sees, so no mask is
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.model import trial
from components.model.intervention import Places
from components.model.roomy_cache import give_room

if TYPE_CHECKING:
    from components.model.language_model import LanguageModel

_STEPS = 4  # of a trial
# names under which networks take and return what they keep
_CACHES = ("past_key_values", "cache_params", "state")


class ContinuedRows:
    """Rows of text that a model continues.

    Args:
        model: the model, able to generate.
        prompts: token ids of each row; none is empty.
        cached: whether to use the model's cache; found by a trial when absent.
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], cached: bool | None = None
    ) -> None:
        lengths = [len(prompt) for prompt in prompts]
        self._model, self._most_padding = model, max(lengths) - min(lengths)
        left = [[0] * (max(lengths) - len(prompt)) + list(prompt) for prompt in prompts]
        self._tokens = torch.tensor(left, device=model.device)
        self._n_prompt = torch.tensor(lengths, device=model.device)
        self._n_pad = max(lengths) - self._n_prompt
        self._n_cached, self._cache = 0, {}
        self._is_cached = (
            can_cache(model, padded=self._most_padding > 0) if cached is None else cached
        )

    def next_logits(self) -> Float[Tensor, "row V"]:
        """Logits of the token behind the last one of each row, float32."""
        with torch.no_grad():
            return (self._from_cache() if self._is_cached else self._from_whole_rows()).float()

    @property
    def tokens(self) -> Int64[Tensor, "row n"]:
        """Every token so far, -1 for padding, which lies on the left."""
        columns = torch.arange(self._tokens.shape[1], device=self._tokens.device)
        return self._tokens.where(columns >= self._n_pad[:, None], -1)

    def append(self, tokens: Int64[Tensor, " row"]) -> None:
        """Adds one token to each row."""
        self._tokens = torch.cat([self._tokens, tokens[:, None].to(self._tokens)], dim=1)

    def _from_cache(self) -> Tensor:
        n_tokens = self._tokens.shape[1]
        columns = torch.arange(n_tokens, device=self._model.device)
        real = columns >= self._n_pad[:, None]
        position = torch.where(real, columns - self._n_pad[:, None], -1)[:, self._n_cached :]
        kwargs: dict[str, Any] = {"use_cache": True, **self._cache}
        if self._most_padding:
            kwargs["attention_mask"] = real.long()
        if self._model.takes("position_ids"):
            kwargs["position_ids"] = position.clamp(min=0)
        if self._model.takes("logits_to_keep"):
            kwargs["logits_to_keep"] = 1
        # padding stands before the given tokens alone
        whole = self._n_cached > 0 or not self._most_padding
        places = Places(position, self._n_prompt, whole)
        output = self._model.forward(self._tokens[:, self._n_cached :], places, **kwargs)
        name = next(name for name in _CACHES if output.get(name) is not None)
        if not self._cache:
            give_room(output[name])
        self._n_cached, self._cache = n_tokens, {name: output[name]}
        return output.logits[:, -1]

    def _from_whole_rows(self) -> Tensor:
        n_tokens, n_rows = self._tokens.shape[1], len(self._tokens)
        columns = torch.arange(n_tokens, device=self._model.device).expand(n_rows, -1)
        tokens = self._tokens.gather(1, (columns + self._n_pad[:, None]) % n_tokens)
        last = n_tokens - 1 - self._n_pad
        position = torch.where(columns <= last[:, None], columns, -1)
        kwargs: dict[str, Any] = {"use_cache": False}
        if self._model.takes("logits_to_keep"):
            kwargs["logits_to_keep"] = self._most_padding + 1
        logits = self._model.forward(tokens, Places(position, self._n_prompt), **kwargs).logits
        # counted from the end
        return logits[torch.arange(n_rows, device=logits.device), last - n_tokens]


def can_cache(model: LanguageModel, *, padded: bool) -> bool:
    """Whether the model's cache gives what whole passes give, with or without padding in front of
    some rows."""
    return model.tried(
        "cache behind padding" if padded else "cache", lambda: _agrees(model, padded)
    )


def _agrees(model: LanguageModel, padded: bool) -> bool:
    rows = trial.tokens(model.network, 2).tolist()
    end = len(rows[0]) - _STEPS
    prompts = [rows[0][:end], rows[1][end // 2 if padded else 0 : end]]
    by_cache, by_rows = (ContinuedRows(model, prompts, cached) for cached in (True, False))
    try:
        for step in range(_STEPS + 1):
            if not trial.agree(by_cache.next_logits(), by_rows.next_logits(), model.dtype):
                return False
            for continuation in (by_cache, by_rows) if step < _STEPS else ():
                continuation.append(torch.tensor([row[end + step] for row in rows]))
    except Exception:  # without a cache, or with one of another kind, networks fail in many ways
        return False
    return True
