"""Every causal family continues text and resumes a pass as whole passes would, in whatever way its
layout allows."""

from __future__ import annotations

import pytest
import torch

from components.errors import HookPointError, ModelError
from components.model.generation import generate
from components.model.intervention import add
from components.model.language_model import LanguageModel
from tests import families

PROMPTS = [[5, 9, 11, 40, 7, 23], [6, 8, 33], [12, 13, 60, 44]]
TOKENS = torch.tensor([[4, 9, 11, 40, 7, 23, 5, 8], [5, 8, 33, 12, 13, 60, 44, 7]])
NEW = 5
LOOKS_AHEAD = ("cpmant", "xlnet")
NO_RESIDUAL_STREAM = (  # no block names in it, so no block to resume at
    *(
        "deepseek_v4",
        "gemma3n_text",
        "hrm_text",
        "hy_v4",
        "longcat_flash",
        "prophetnet",
        "qwen4_exp_text",
        "reformer",
        "xlm",
    ),
)
OFFSETS = (
    "its forward pass counts positions from the padding id, and generate gives it positions from 0"
)
NO_POSITIONS = "behind padding its positions are those of the padded row"
# what transformers' own generate does otherwise than its own whole passes, without and behind
# padding
THEIRS = {
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm"), OFFSETS),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod"), OFFSETS),
    **dict.fromkeys(
        ("bart", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart"),
        NO_POSITIONS,
    ),
    **dict.fromkeys(("prophetnet", "reformer", "rwkv", "trocr"), NO_POSITIONS),
    "deepseek_v32": "behind padding its index of keys is not what it is alone",
    "moshi": "its cache forgets what lies before the window, and its whole passes do not",
    "xlm": "generate puts a mask token behind the text, as for a model that looks ahead",
    "xlstm": "its cache is of another shape than its blocks ask for",
    **dict.fromkeys(
        (
            "bailing_hybrid",
            "bamba",
            "granitemoehybrid",
            "jamba",
            "kimi_linear",
            "lfm3",
            "qwen3_5_moe_text",
            "qwen3_5_text",
        ),
        "two blocks are too few for one that attends",
    ),
    **dict.fromkeys(
        ("qwen3_next", "qwen4_exp_text", "recurrent_gemma"),
        "two blocks are too few for one that attends",
    ),
}


def greedily(model: LanguageModel, prompt: list[int]) -> list[int]:
    """The continuation by whole passes over one row."""
    row = list(prompt)
    for _ in range(NEW):
        row.append(int(model.logits(torch.tensor([row]))[0, -1].argmax()))
    return row[len(prompt) :]


def by_transformers(model: LanguageModel) -> list[list[int]]:
    """What transformers' own generate writes, its rows padded on the left."""
    width = max(map(len, PROMPTS))
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    model.network.generation_config.forced_eos_token_id = None  # BART's kin end every text by force
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.network.generate(tokens, attention_mask=mask, **settings)[:, width:].tolist()


def before_padding(rows: list[list[int]]) -> list[list[int]]:
    """Up to a padding token that the model wrote itself: some layouts embed it as 0 or do not count
    it."""
    return [row[: row.index(0)] if 0 in row else row for row in rows]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_family_continues_and_resumes_as_by_whole_passes(family: str) -> None:
    network = families.network(family)
    if family in LOOKS_AHEAD:
        with pytest.raises(ModelError, match="looks ahead"):
            LanguageModel(network)
        return
    model = LanguageModel(network)
    settings = {"max_new_tokens": NEW, "temperature": 0, "stop": []}
    wanted = before_padding([greedily(model, prompt) for prompt in PROMPTS])
    together = generate(model, PROMPTS, seeds=[0] * 3, **settings)
    assert before_padding(together) == wanted
    alone = [generate(model, [prompt], seeds=[0], **settings)[0] for prompt in PROMPTS]
    assert before_padding(alone) == wanted
    if family not in THEIRS:
        assert before_padding(by_transformers(model)) == wanted
    if family in NO_RESIDUAL_STREAM:
        with pytest.raises(HookPointError):
            model.resume(TOKENS, 1, torch.zeros(*TOKENS.shape, model.d_model))
        return
    whole = model.logits(TOKENS)
    for layer in range(model.n_layers + 1):
        point = f"resid_pre.{layer}" if layer < model.n_layers else f"resid_post.{layer - 1}"
        x = model.read(TOKENS, [point])[point]
        torch.testing.assert_close(model.resume(TOKENS, layer, x), whole, atol=1e-4, rtol=1e-4)
        step = torch.linspace(-1, 1, x.shape[-1])
        moved = model.logits(TOKENS, edits=[add(point, step)])
        torch.testing.assert_close(
            model.resume(TOKENS, layer, x + step), moved, atol=1e-3, rtol=1e-3
        )
        assert (moved - whole).norm() > 1e-3 * whole.norm()
