"""Which latents are active on a text that lies in no corpus.

The text takes the way of a document, so that its codes are those that the stages would have
written: tokenised and packed as `read` does, run and cast as `capture` does, encoded as `encode`
does. A document that stands behind another one in its context has seen that other one; a text read
here comes first.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from components.corpus.encoding import Encoder
from components.dictionary.contract import Dictionary
from components.errors import CapabilityError, InputError
from components.model.language_model import LanguageModel
from components.store.shards import Codes

CONTEXTS_AT_ONCE = 8


class Active(NamedTuple):
    """A latent that is active on a text.

    Attributes:
        latent: its index.
        maximum: its largest activation, in units of the activations.
        token: number of the token where that is.
        n_active: tokens on which it is active.
    """

    latent: int
    maximum: float
    token: int
    n_active: int


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A text, token by token.

    Attributes:
        token: token ids, in the order of the text; special tokens are not among them.
        context: the context that each token was read in; a token sees nothing of earlier contexts.
        codes: sparse codes, a row for each token.
        n_special: special tokens that stood in the text as words; they are no part of it.
    """

    token: Int32[Tensor, " token"]
    context: Int32[Tensor, " token"]
    codes: Codes
    n_special: int = 0

    def activations(self, latent: int) -> Float32[Tensor, " token"]:
        """One latent's activation on every token."""
        mine = self.codes.indices == latent
        found = torch.zeros(len(self.token))
        found[self.codes.row_index()[mine]] = self.codes.values[mine]
        return found

    def strongest(self, n: int) -> list[Active]:
        """The latents with the largest activations anywhere in the text, largest first."""
        order = self.codes.values.argsort(descending=True, stable=True)
        latents, rows, values = (
            self.codes.indices[order],
            self.codes.row_index()[order],
            self.codes.values[order],
        )
        counts = torch.bincount(self.codes.indices.long(), minlength=self.codes.d_sae)
        found: dict[int, Active] = {}
        for latent, row, value in zip(
            latents.tolist(), rows.tolist(), values.tolist(), strict=True
        ):
            if len(found) == n:
                break
            if latent not in found:
                found[latent] = Active(latent, value, row, int(counts[latent]))
        return list(found.values())

    def strongest_by_token(self, n: int) -> list[list[tuple[int, float]]]:
        """For every token its n largest codes as (latent, activation), largest first."""
        bounds = self.codes.offsets.tolist()
        latents, values = self.codes.indices.tolist(), self.codes.values.tolist()
        return [
            sorted(
                zip(latents[first:last], values[first:last], strict=True), key=lambda pair: -pair[1]
            )[:n]
            for first, last in itertools.pairwise(bounds)
        ]


def read_text(
    model: LanguageModel, dictionary: Dictionary, text: str, context_length: int, dtype: torch.dtype
) -> Reading:
    """The codes of every token of a text.

    Args:
        model: the model whose activations the dictionary reads.
        dictionary: the dictionary.
        text: any text; one that is longer than a context is read in several.
        context_length: tokens in one context, special tokens included: that of the corpus.
        dtype: what activations are stored as: that of the capture.

    Raises:
        InputError: a text without a token.
        CapabilityError: the dictionary reads gradients.
    """
    if gradients := [name for name in dictionary.reads if name.startswith("gradient:")]:
        raise CapabilityError(
            f"a text has no gradients before it has a loss, and {dictionary.name} reads "
            f"{gradients[0]}"
        )
    encoder = Encoder.of(model)
    encoded = encoder.encode([text], offsets=False)[0]
    if not encoded.ids:
        only = "nothing but special tokens" if encoded.n_special else "no token"
        raise InputError(f"the text has {only}: wanted at least one word")
    layout = encoder.layout(context_length, padded=not model.causal)
    layout.add(0, encoded.written, encoded.special)
    packed = layout.finish()
    rows: dict[str, list[Tensor]] = {name: [] for name in dictionary.reads}
    kept = torch.from_numpy(packed.document) >= 0
    tokens, mask = torch.from_numpy(packed.token), torch.from_numpy(packed.mask)
    for parts in zip(
        *(whole.split(CONTEXTS_AT_ONCE) for whole in (tokens, kept, mask)), strict=True
    ):
        part, inside, real = parts
        for name, x in model.read(part, dictionary.reads, None if model.causal else real).items():
            rows[name].append(x.to(dtype)[inside.to(x.device)])
    position = torch.from_numpy(packed.position)[kept]
    assert torch.equal(position, torch.arange(len(encoded.ids), dtype=position.dtype)), (
        "contexts hold the text in its order"
    )
    codes = dictionary.encode({name: torch.cat(found) for name, found in rows.items()})
    return Reading(
        tokens[kept].int(), kept.nonzero()[:, 0].int(), codes.to("cpu"), encoded.n_special
    )
