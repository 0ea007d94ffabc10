"""Vectors of texts: what the folder of a sentence encoder says, alone as in a batch, and a sentence
for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from components.device import Execution
from components.errors import InputError, ModelError
from components.model import text_encoder
from components.model.reference import ModelConfig, ModelReference
from components.model.text_encoder import TextEncoder, TextEncoderConfig, TextEncoderReference
from tests import families, toys

CPU = Execution(device="cpu")
TEXTS = [
    "the cat sat",
    "a big red dog ran on the river .",
    "he",
    "she saw the king and then the queen , in a small house !",
]
WORDS = len(toys.WORDS)


def folder(
    path: Path, family: str = "bert", pooling: dict[str, Any] | None = None, **files: Any
) -> Path:
    """A random sentence encoder in the form of sentence-transformers: transformer, pooling,
    normalisation."""
    families.encoder(family, vocab_size=WORDS).save_pretrained(path)
    tokenizer = toys.tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    tokenizer.save_pretrained(path)
    listed = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": number, "path": place, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, place) in enumerate(listed)
    ]
    described = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling or {"pooling_mode_mean_tokens": True},
    } | files
    for name, content in described.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


def load(path: Path) -> TextEncoder:
    return TextEncoderReference(TextEncoderConfig(path=str(path))).load_encoder(CPU)


def tokens_of(path: Path, text: str) -> torch.Tensor:
    """The last activations of one text alone, by transformers itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    network = transformers.AutoModel.from_pretrained(path)
    with torch.no_grad():
        return network(input_ids=torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0]


def test_a_vector_is_the_mean_of_the_tokens_at_length_one(tmp_path: Path) -> None:
    encoder = load(folder(tmp_path))
    assert (encoder.pooling, encoder.normalise, encoder.width) == (("mean",), True, 16)
    vectors = encoder.embed(TEXTS)
    assert vectors.shape == (4, 16) and vectors.dtype == torch.float32
    for vector, text in zip(vectors, TEXTS, strict=True):
        wanted = tokens_of(tmp_path, text).mean(0)
        torch.testing.assert_close(vector, wanted / wanted.norm(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "fnet"])
@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_a_vector_does_not_depend_on_its_company(
    tmp_path: Path, family: str, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(folder(tmp_path, family))
    alone = torch.cat([encoder.embed([text]) for text in TEXTS])
    monkeypatch.setattr(text_encoder, "BATCH_TOKENS", batch_tokens)
    torch.testing.assert_close(encoder.embed(TEXTS), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        encoder.embed([*TEXTS[::-1], *TEXTS])[3:5], alone[[0, 0]], atol=1e-5, rtol=1e-5
    )
    assert encoder.embed([]).shape == (0, 16)


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda x: x[0]),
        ({"pooling_mode_max_tokens": True}, lambda x: x.amax(0)),
        ({"pooling_mode_lasttoken": True}, lambda x: x[-1]),
        ({"pooling_mode": "mean"}, lambda x: x.mean(0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda x: x.sum(0) / len(x) ** 0.5),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            lambda x: torch.cat([x[0], x.mean(0)]),
        ),
    ],
)
def test_tokens_are_pooled_as_the_folder_says(
    tmp_path: Path, pooling: dict[str, Any], wanted: Any
) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": place} for kind, place in (
        ("Transformer", ""), ("Pooling", "1_Pooling"))]  # fmt: skip
    encoder = load(folder(tmp_path, pooling=pooling, **{"modules.json": modules}))
    for vector, text in zip(encoder.embed(TEXTS), TEXTS, strict=True):
        torch.testing.assert_close(vector, wanted(tokens_of(tmp_path, text)), atol=1e-5, rtol=1e-5)


def test_length_case_and_prompt_are_those_of_the_folder(tmp_path: Path) -> None:
    usual = {"max_seq_length": 5, "do_lower_case": True}
    prompts = {"prompts": {"query": "the king "}, "default_prompt_name": "query"}
    files = {"sentence_bert_config.json": usual, "config_sentence_transformers.json": prompts}
    encoder = load(folder(tmp_path / "said", **files))
    plain = load(folder(tmp_path / "plain"))
    assert encoder.max_tokens == 5 and plain.max_tokens == 64
    torch.testing.assert_close(encoder.embed(["SAW a dog"]), plain.embed(["the king saw"]))


def test_any_model_with_a_tokenizer_is_an_encoder_by_its_mean(tmp_path: Path) -> None:
    reference = toys.tiny_reference(tmp_path)
    vector = load(tmp_path).embed(["the cat sat"])[0]
    network = reference.load(CPU).network
    hidden = network.model(input_ids=torch.tensor([[4, 6, 12]])).last_hidden_state[0]
    torch.testing.assert_close(vector, hidden.mean(0))
    with pytest.raises(InputError, match="text 1 has no token, so it has no vector"):
        load(tmp_path).embed(["the cat", ""])


def test_the_key_follows_how_tokens_are_pooled(tmp_path: Path) -> None:
    path = folder(tmp_path)
    config = ModelConfig(path=str(path))
    before, model = TextEncoderReference(config).key, ModelReference(config).key
    (path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert TextEncoderReference(config).key != before != model
    assert ModelReference(config).key == model


def test_what_is_not_known_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError,
        match="pools by 'weightedmean_tokens', which is not known here; known: cls, last",
    ):
        load(folder(tmp_path / "weighted", pooling={"pooling_mode_weightedmean_tokens": True}))
    dense = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    with pytest.raises(
        ModelError,
        match=r"modules.json lists 2_Dense: a Dense, which is not known here; known: Transf",
    ):
        load(folder(tmp_path / "dense", **{"modules.json": dense}))
    path = folder(tmp_path / "broken")
    (path / "modules.json").write_text("[")
    with pytest.raises(ModelError, match="modules.json is no JSON"):
        load(path)
    bare = folder(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load(bare)
