"""A sequence classifier of Hugging Face form as a judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from components.errors import ConfigError, ModelError
from components.steering.contract import Concept, Continuation, Material, Passages
from tests import toys
from tests.steering.world import fitted

CATS = ["the cat ran .", "a cat sat .", "cat cat saw the cat ."]
KINGS = ["the king ran .", "a king sat .", "king king saw the king ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was trained to tell cats from kings."""
    tokenizer = toys.tokenizer()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, num_labels=2,
        id2label={0: "cats", 1: "kings"}, label2id={"cats": 0, "kings": 1},
    )  # fmt: skip
    network = transformers.LlamaForSequenceClassification(config)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(15):
        loss = torch.zeros(())
        for texts, label in ((CATS, 0), (KINGS, 1)):
            for text in texts:
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                loss = loss + network(input_ids=ids, labels=torch.tensor([label])).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("classifier")
    network.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def material() -> Material:
    labels = np.zeros((12, 3), bool)
    labels[:6, 0] = True
    passages = Passages((CATS * 2) + (KINGS * 2), labels, np.ones(12))
    targets = [Concept(name, "surface", "token") for name in ("cat", "king", "other")]
    return Material(targets, passages, passages, passages, [], 0)


def read(*texts: str) -> list[Continuation]:
    return [Continuation(text, 4, 1.0) for text in texts]


def test_labels_go_by_name_or_number_and_what_has_none_is_refused(folder: Path) -> None:
    labels = {"cat": "cats", "king": "1"}
    judge = fitted("classifier", material(), path=str(folder), labels=labels)
    values = judge.judge(read("the cat ran .", "the king sat .")).values
    assert values[0, 0] > 0.8 and values[1, 0] < 0.2
    np.testing.assert_allclose(values[:, 0] + values[:, 1], 1.0, atol=1e-5)
    assert "no label" in judge.refusals()["other"] and np.isnan(values[:, 2]).all()


def test_a_target_that_it_does_not_tell_on_labelled_passages_is_refused(folder: Path) -> None:
    judge = fitted("classifier", material(), path=str(folder), labels={"*": "kings"})
    assert set(judge.refusals()) == {"cat"} and "wanted 0.7" in judge.refusals()["cat"]


def test_what_is_no_classifier_or_has_no_such_label_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no label 'dogs'"):
        fitted("classifier", material(), path=str(folder), labels={"cat": "dogs"})
    toys.tiny_network("llama").save_pretrained(tmp_path)
    toys.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no sequence classifier"):
        fitted("classifier", material(), path=str(tmp_path), labels={"*": "0"})


def test_without_a_classifier_it_is_silent_and_says_what_to_set() -> None:
    assert "classifier.path" in (fitted("classifier", material()).silence() or "")
