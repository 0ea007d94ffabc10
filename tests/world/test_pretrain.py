"""Pretraining: the layout of contexts, determinism, what is written, and what a stopped run leaves
behind."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from components.device import Execution
from components.world.grammar import World
from components.world.pretrain import (
    DOCUMENTS,
    PRETRAIN,
    PretrainConfig,
    export,
    pack_stories,
    story_digest,
)
from components.world.tokenizer import build_tokenizer

TINY = PretrainConfig(
    tokens=1200,
    d_model=16,
    n_layers=1,
    n_heads=2,
    d_mlp=32,
    batch_contexts=2,
    held_out_stories=8,
    learning_rate=1e-2,
)
CPU = Execution(device="cpu", threads=1)


@given(st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=30), min_size=1, max_size=20))
def test_packing_keeps_every_document_whole_and_in_place(documents):
    contexts = pack_stories(documents, 16, bos=1, eos=2, pad=0)
    assert contexts.shape[1] == 16
    assert (contexts[:, 0] == 1).all()
    short = [tuple(d) for d in documents if len(d) <= 14]
    found = []
    for context in contexts.tolist():
        assert 0 not in context[: 16 - context.count(0)]
        inner = context[1 : 16 - context.count(0)]
        for ends, piece in itertools.groupby(inner, key=lambda token: token == 2):
            found += [tuple(piece)] if not ends else []
    for document in short:
        found.remove(document)
    assert int((contexts == 2).sum()) == len(documents)
    assert int((contexts > 2).sum()) == sum(map(len, documents))


def test_the_digest_is_blake2b_of_the_text():
    wanted = hashlib.blake2b(b"The net sank.", digest_size=8).digest()
    assert story_digest("The net sank.").to_bytes(8, "little", signed=True) == wanted


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from components.store.artifact import Store

    reports = []
    store = Store(tmp_path_factory.mktemp("pretrain"))
    artifact, cached = store.ensure(PRETRAIN, TINY, {}, CPU, reports.append)
    assert not cached
    return artifact, reports


def test_it_writes_a_model_that_transformers_loads(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    artifact, _ = made
    model = AutoModelForCausalLM.from_pretrained(artifact.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(artifact.folder)
    assert model.config.vocab_size == len(tokenizer) == artifact.facts["vocabulary"]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    ids = torch.tensor([tokenizer("The sailor saw the harbor.")["input_ids"]])
    assert model(input_ids=ids).logits.isfinite().all()


def test_it_reports_what_it_did(made):
    artifact, reports = made
    provenance = json.loads(artifact.path("provenance.json").read_text())
    assert provenance["config"] == TINY.model_dump(mode="json")
    assert provenance["tokens"] >= TINY.tokens
    assert provenance["steps"] == 3
    assert provenance["curve"][-1]["tokens"] == reports[-1].done == provenance["tokens"]
    assert 0.9 < provenance["entropy"] < 1.3 < provenance["held_out_loss"]


def test_the_documents_it_saw_are_listed_and_are_those_of_its_split(made):
    artifact, _ = made
    seen = set(load_file(artifact.path(DOCUMENTS))["documents"].tolist())
    world = World()
    assert {
        story_digest(s.text) for s in itertools.islice(world.stories("pretrain", 0), 50)
    } <= seen
    for split in ("train", "test"):
        assert not seen & {
            story_digest(s.text) for s in itertools.islice(world.stories(split, 0), 200)
        }


def test_the_same_config_gives_the_same_weights_and_another_seed_others(made, tmp_path):
    from components.store.artifact import Store

    store = Store(tmp_path)
    again, _ = store.ensure(PRETRAIN, TINY, {}, CPU)
    other, _ = store.ensure(PRETRAIN, TINY.model_copy(update={"seed": 1}), {}, CPU)
    wanted, found, different = (
        load_file(a.path("model.safetensors"))["model.layers.0.mlp.up_proj.weight"]
        for a in (made[0], again, other)
    )
    assert torch.equal(wanted, found)
    assert not torch.equal(wanted, different)


def test_a_stopped_run_leaves_nothing_that_counts_as_done(store):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure(PRETRAIN, TINY, {}, CPU, stop)
    assert list(store.artifacts()) == []
    artifact, cached = store.ensure(PRETRAIN, TINY, {}, CPU)
    assert not cached and artifact.facts["steps"] == 3


def test_export_copies_every_file(made, tmp_path):
    artifact, _ = made
    copies = export(artifact, tmp_path / "demo")
    assert sorted(path.name for path in copies) == artifact.files
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "provenance.json",
        "concepts.csv",
        DOCUMENTS,
    } <= {path.name for path in copies}


def test_first_fit_wastes_little():
    world, tokenizer = World(), build_tokenizer()
    documents = [
        tokenizer(s.text)["input_ids"] for s in itertools.islice(world.stories("train", 0), 256)
    ]
    contexts = pack_stories(documents, 256, bos=2, eos=3, pad=0)
    assert float((contexts != 0).float().mean()) > 0.8
