"""What a folder's files make: the head where there is one, nothing left out in silence, end tokens
from wherever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from components.device import Execution
from components.errors import ModelError
from components.model.encoder_model import EncoderModel
from components.model.generation import generate
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from tests import toys

TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4], [1, 5, 8, 13, 16, 20]])
CPU = Execution(device="cpu")
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def load(folder: Path) -> LanguageModel:
    return ModelReference(ModelConfig(path=str(folder))).load(CPU)


def rewrite(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file; None takes one out."""
    content = (json.loads(file.read_text()) if file.exists() else {}) | changes
    file.write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )


def test_a_head_is_kept_though_the_configuration_names_no_class(tmp_path: Path) -> None:
    toys.tiny_reference(tmp_path, "gpt2")
    rewrite(tmp_path / "config.json", architectures=None)
    model = load(tmp_path)
    assert model.capabilities == {"causal_loss", "generation", "gradients"}
    assert torch.equal(model.logits(TOKENS), toys.tiny_model("gpt2").logits(TOKENS))


def test_the_text_part_of_a_model_with_a_vision_tower_has_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = SHAPE | {"num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0}
    gemma = transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    clip = VISION | {"model_type": "clip_vision_model", "projection_dim": 16}
    llava = transformers.LlavaConfig(
        text_config=SHAPE | {"model_type": "llama"}, vision_config=clip
    )
    for network in (
        transformers.Gemma3ForConditionalGeneration(gemma),
        transformers.LlavaForConditionalGeneration(llava),
    ):
        folder = tmp_path / type(network).__name__
        network.eval().save_pretrained(folder)
        model = load(folder)
        assert model.capabilities == {"causal_loss", "generation", "gradients"}
        assert (model.n_layers, model.d_model, model.vocab_size) == (2, 16, 64)
        torch.testing.assert_close(model.logits(TOKENS), network(input_ids=TOKENS).logits)
        assert (
            len(
                generate(model, [[1, 5, 7]], max_new_tokens=3, temperature=0, seeds=[0], stop=[])[0]
            )
            == 3
        )


def test_weights_that_are_not_used_are_told_and_blocks_that_are_left_out_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = transformers.LlamaConfig(**SHAPE, num_labels=3)
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    assert load(tmp_path / "classifier").capabilities == {"gradients"}
    [record] = caplog.records
    assert record.getMessage().endswith(
        "1 weights of its files are not used by LlamaModel: score.weight"
    )
    toys.tiny_network("gpt2").save_pretrained(tmp_path / "fewer")
    rewrite(tmp_path / "fewer" / "config.json", n_layer=2)
    with pytest.raises(
        ModelError,
        match=r"fewer: 11 weights of its files have no place .* \(transformer.h.2.attn.c_attn.weight, .* "
        "asks for fewer layers than there are; use the config.json that came with these weights",
    ):
        load(tmp_path / "fewer")


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
)
def test_an_adapter_is_never_ignored(tmp_path: Path, name: str) -> None:
    toys.tiny_reference(tmp_path / "whole")
    (tmp_path / "whole" / name).write_text("{}")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / name).write_text("{}")
    for folder in ("whole", "alone"):
        reference = ModelReference(ModelConfig(path=str(tmp_path / folder)))
        for ask in (lambda reference: reference.key, lambda reference: reference.load(CPU)):
            with pytest.raises(
                ModelError, match=rf"holds an adapter \({name}\).*merge it into its model first"
            ):
                ask(reference)


def test_a_path_may_begin_at_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    reference = toys.tiny_reference(tmp_path / "models" / "tiny")
    assert ModelReference(ModelConfig(path="~/models/tiny")).key == reference.key
    with pytest.raises(
        ModelError, match="no folder '~/models/other' with a config.json; known: .*/models/tiny"
    ):
        _ = ModelReference(ModelConfig(path="~/models/other")).key


def test_end_tokens_come_from_tokenizer_configuration_and_generation_settings(
    tmp_path: Path,
) -> None:
    reference = toys.tiny_reference(tmp_path)
    before = reference.key
    assert reference.load(CPU).eos == {2}
    rewrite(tmp_path / "generation_config.json", eos_token_id=2)
    same = ModelReference(reference.config)
    assert same.key == before, "what the configuration tells already is no part of the key twice"
    keys = {before}
    for told, ends in ((34, {2, 34}), ([36, 2], {2, 36}), ([34, 36], {2, 34, 36})):
        rewrite(tmp_path / "generation_config.json", eos_token_id=told)
        other = ModelReference(reference.config)
        assert other.load(CPU).eos == ends
        assert other.key not in keys, "other ends make other texts"
        keys.add(other.key)
    rewrite(tmp_path / "generation_config.json", eos_token_id=None)
    rewrite(tmp_path / "config.json", eos_token_id=[2, 35])
    assert load(tmp_path).eos == {2, 35}


def test_text_ends_at_an_end_token_that_only_the_generation_settings_name(tmp_path: Path) -> None:
    reference = toys.tiny_reference(tmp_path)
    asked: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "seeds": [3]}
    [free] = generate(reference.load(CPU), [[1, 4, 6]], **asked, stop=[])
    end = next(token for token in free[1:] if token not in (2, free[0]))
    rewrite(tmp_path / "generation_config.json", eos_token_id=[2, end])
    [ended] = generate(ModelReference(reference.config).load(CPU), [[1, 4, 6]], **asked)
    assert ended == free[: min(free.index(token) for token in (2, end) if token in free)]


@pytest.mark.parametrize("network", ["bert", "distilbert", "modernbert", "masked", "electra"])
def test_a_model_that_looks_ahead_is_loaded_as_an_encoder(tmp_path: Path, network: str) -> None:
    torch.manual_seed(0)
    # as they are made
    small = {name: value for name, value in SHAPE.items() if name != "initializer_range"}
    special = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    distil = transformers.DistilBertConfig(
        vocab_size=64, dim=16, hidden_dim=40, n_layers=2, n_heads=4, max_position_embeddings=64
    )
    made = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**small)),
        "distilbert": lambda: transformers.DistilBertModel(distil),
        "modernbert": lambda: transformers.ModernBertModel(
            transformers.ModernBertConfig(**small, **special)
        ),
        "masked": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**small)),
        "electra": lambda: transformers.ElectraForCausalLM(transformers.ElectraConfig(**small)),
    }
    made[network]().save_pretrained(tmp_path)
    model = load(tmp_path)
    assert isinstance(model, EncoderModel) and model.capabilities == {"gradients"}
    with pytest.raises(
        ModelError, match="looks ahead: later tokens .* read it as an EncoderModel"
    ) as refused:
        LanguageModel(model.network)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("looks_ahead", [True, False])
def test_looking_ahead_is_seen_in_every_type_of_numbers(dtype: str, looks_ahead: bool) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SHAPE, is_decoder=not looks_ahead)
    network = transformers.BertLMHeadModel(config).to(getattr(torch, dtype))
    if looks_ahead:
        with pytest.raises(ModelError, match="BertLMHeadModel looks ahead"):
            LanguageModel(network)
    else:
        assert "generation" in LanguageModel(network).capabilities


def test_what_is_no_language_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)).save_pretrained(
        tmp_path / "pictures"
    )
    with pytest.raises(
        ModelError, match="is not a language model of blocks: its configuration does not say"
    ):
        load(tmp_path / "pictures")
    with pytest.raises(ModelError, match="is not a language model of blocks"):
        _ = ModelReference(ModelConfig(path=str(tmp_path / "pictures"))).shape
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(
        ModelError, match="unknown could not be loaded as a language model: .*wanted config.json"
    ):
        _ = ModelReference(ModelConfig(path=str(tmp_path / "unknown"))).shape
