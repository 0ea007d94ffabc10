"""Models whose attention looks both ways: the right masks, in every family, and one sentence for
what they cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from components.device import Execution
from components.errors import CapabilityError, ModelError
from components.model.encoder_model import EncoderModel, model_of
from components.model.generation import generate
from components.model.intervention import add
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from tests import families

CPU = Execution(device="cpu")
TOKENS = torch.tensor(
    [[5, 9, 17, 33, 12, 41, 8], [7, 22, 14, 51, 6, 30, 19], [40, 3, 28, 11, 60, 25, 2]]
)
LENGTHS = torch.tensor([4, 7, 2])
MASK = (torch.arange(7) < LENGTHS[:, None]).long()
FAMILIES = (
    "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm",
    "eurobert", "flaubert", "gte", "ibert", "jina_embeddings_v3", "luke", "megatron-bert", "modernbert", "mpnet",
    "nomic_bert", "rembert", "roberta", "roberta-prelayernorm", "roformer", "t5", "umt5",
)  # fmt: skip
REFUSED = ("convbert", "fnet", "mobilebert", "nystromformer")
"""Families in which padding changes the real tokens, whatever mask they are given."""


def encoder(family: str, **changes: Any) -> LanguageModel:
    return model_of(families.encoder(family, **changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_padding_or_on_its_neighbours(family: str) -> None:
    model = encoder(family)
    assert isinstance(model, EncoderModel) and not model.causal
    names = ["resid_pre.0", "resid_post.0", "resid_post.1"]
    together = model.read(TOKENS, names, MASK)
    others = model.read(TOKENS.where(MASK.bool(), 50), names, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model.read(TOKENS[row : row + 1, :length], names)
        for name in names:
            torch.testing.assert_close(
                together[name][row, :length], alone[name][0], atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(
                others[name][row, :length], alone[name][0], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_reads_its_padding_is_given_rows_of_one_length(family: str) -> None:
    model = encoder(family)
    name = f"module:{next(path for path, module in model.network.named_modules() if '0' in path)}:output"
    with pytest.raises(
        CapabilityError, match="has other numbers for a text with padding behind it"
    ):
        model.read(TOKENS, [name], MASK)
    assert model.read(TOKENS, [name], torch.ones_like(TOKENS))[name].shape[:2] == TOKENS.shape


def test_what_is_read_is_what_transformers_computes_with_that_mask() -> None:
    model = encoder("bert")
    wanted = model.network(input_ids=TOKENS, attention_mask=MASK).last_hidden_state
    found = model.read(TOKENS, ["resid_post.1"], MASK)["resid_post.1"]
    assert torch.equal(found[MASK.bool()], wanted[MASK.bool()])
    unmasked = model.network(input_ids=TOKENS).last_hidden_state
    assert not torch.allclose(found[MASK.bool()], unmasked[MASK.bool()], atol=1e-2), (
        "the mask matters here"
    )


def test_an_edit_changes_the_real_tokens_of_its_positions_and_no_padding() -> None:
    model, step = encoder("eurobert"), torch.linspace(-1, 1, 16)
    plain = model.read(TOKENS, ["resid_post.0"], MASK)["resid_post.0"]
    moved = model.read(TOKENS, ["resid_post.0"], MASK, edits=[add("resid_post.0", step, [1, -1])])[
        "resid_post.0"
    ]
    changed = (moved - plain).abs().sum(2) > 1e-6
    assert changed.nonzero().tolist() == [[0, 1], [0, 3], [1, 1], [1, 6], [2, 1]]
    torch.testing.assert_close(moved[0, 3], plain[0, 3] + step)


def test_what_an_encoder_cannot_do_is_said_in_one_sentence() -> None:
    model = encoder("bert")
    assert model.capabilities == {"gradients"}
    for ask in (
        lambda: model.logits(TOKENS),
        lambda: generate(model, [[5, 9]], max_new_tokens=1, temperature=0, seeds=[0]),
        lambda: model.resume(TOKENS, 1, torch.zeros(3, 7, 16)),
    ):
        with pytest.raises(
            CapabilityError,
            match="BertModel has gradients: its attention looks both ways, so it pred",
        ):
            ask()
    with pytest.raises(
        CapabilityError, match="BertModel counts positions from the first column; pad on the right"
    ):
        model.read(TOKENS, ["resid_post.1"], MASK.flip(1))


def test_places_before_the_padding_number_are_no_places_for_text() -> None:
    assert encoder("roberta", pad_token_id=1).context_length == 64 - 2
    assert encoder("bert", pad_token_id=1).context_length == 64


def test_a_folder_gives_the_kind_of_model_that_it_holds(tmp_path: Path) -> None:
    for family in ("bert", "t5"):
        network = families.encoder(family)
        network.save_pretrained(tmp_path / family)
        model = ModelReference(ModelConfig(path=str(tmp_path / family))).load(CPU)
        assert isinstance(model, EncoderModel) and model.n_layers == 2
        wanted = encoder(family).read(TOKENS, ["resid_post.1"], MASK)["resid_post.1"]
        torch.testing.assert_close(
            model.read(TOKENS, ["resid_post.1"], MASK)["resid_post.1"], wanted
        )


def test_of_a_t5_the_encoder_is_read_and_a_bart_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    t5 = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=4, d_ff=40, num_layers=3, num_decoder_layers=1, num_heads=4
    )
    t5.decoder_start_token_id = 0
    whole = transformers.T5ForConditionalGeneration(t5).eval()
    whole.save_pretrained(tmp_path / "t5")
    reference = ModelReference(ModelConfig(path=str(tmp_path / "t5")))
    model = reference.load(CPU)
    assert isinstance(model, EncoderModel) and model.n_layers == reference.shape.n_layers == 3
    wanted = whole.encoder(
        input_ids=TOKENS, attention_mask=MASK, output_hidden_states=True
    ).hidden_states[2]
    found = model.read(TOKENS, ["resid_post.1"], MASK)["resid_post.1"]
    torch.testing.assert_close(found[MASK.bool()], wanted[MASK.bool()])
    small = {
        f"{part}_{name}": n
        for part in ("encoder", "decoder")
        for name, n in (("layers", 2), ("ffn_dim", 24))
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = transformers.BartConfig(
        vocab_size=64, d_model=16, max_position_embeddings=64, **small, **heads
    )
    with pytest.raises(
        ModelError, match="has an encoder and a decoder, each with a text of its own"
    ):
        model_of(transformers.BartModel(bart))
