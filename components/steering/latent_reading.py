"""How active latents are over a text, when the unsteered model reads it after a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from components.corpus.encoding import Encoder
from components.dictionary.contract import Dictionary
from components.model.language_model import LanguageModel
from components.steering.conversation import Conversation, opened


def read_latents(
    model: LanguageModel,
    dictionary: Dictionary,
    latents: Sequence[int],
    texts: Sequence[tuple[str, str]],
    rows: int = 64,
    conversation: Conversation | None = None,
) -> list[Float[np.ndarray, "token latent"]]:
    """Activations over the tokens of each text; no rows for a text without a token.

    Texts are tokenized again behind their prompts, special tokens left out. Of a text that does not
    fit the model with its prompt, the prompt's beginning is left out first, then the text's end.

    Args:
        model: the model.
        dictionary: of whose latents.
        latents: numbers of latents, the columns of the result.
        texts: (prompt, text); a prompt may be empty.
        rows: texts that the model reads at a time.
        conversation: what prompts are put into.
    """
    prompts = opened(model, [prompt for prompt, _ in texts], conversation)
    encoded = Encoder.of(model).encode([text for _, text in texts], offsets=False)
    bodies = [list(each.ids) for each in encoded]
    if room := model.context_length:
        bodies = [body[: room - 1] for body in bodies]
        prompts = [
            prompt[-max(1, room - len(body)) :]
            for prompt, body in zip(prompts, bodies, strict=True)
        ]
    column = torch.full((dictionary.d_sae,), -1, dtype=torch.long)
    column[list(latents)] = torch.arange(len(latents))
    found = [np.zeros((len(body), len(latents)), np.float32) for body in bodies]
    order = [i for i, body in enumerate(bodies) if body]
    order.sort(key=lambda i: len(prompts[i]) + len(bodies[i]))
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        whole = [[*prompts[i], *bodies[i]] for i in part]
        width = max(map(len, whole))
        # what is padded on the right changes nothing before it
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in whole])
        inside = torch.zeros(tokens.shape, dtype=torch.bool)
        for number, i in enumerate(part):
            inside[number, len(prompts[i]) : len(whole[number])] = True
        read = model.read(tokens, list(dictionary.reads))
        codes = dictionary.encode({name: x[inside.to(x.device)] for name, x in read.items()})
        dense = torch.zeros(int(inside.sum()), len(latents))
        token = torch.repeat_interleave(torch.arange(len(dense)), codes.offsets.cpu().diff())
        at = column[codes.indices.cpu().long()]
        kept = at >= 0
        dense[token[kept], at[kept]] = codes.values.cpu().float()[kept]
        for i, piece in zip(part, dense.split([len(bodies[i]) for i in part]), strict=True):
            found[i] = piece.numpy()
    return found
