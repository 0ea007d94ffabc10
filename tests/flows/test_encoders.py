"""Experiments on models whose attention looks both ways: every stage runs, and what does not apply
says why."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing

from components.config import assignments, override
from components.device import Execution
from components.errors import InputError
from components.experiment import ExperimentConfig
from components.model.reference import REPOSITORY, ModelReference
from components.report.tables import REPORT
from components.store.shards import ActivationShards
from flows.chain import Chain
from flows.parameters import reference
from tests.flows.conftest import TINY, commands

pytestmark = pytest.mark.timeout(600)
CPU = Execution(device="cpu", threads=1)
FEWER = {f"read.splits.{name}": 6000 for name in ("select", "judge", "validate", "test")}
OFF = {
    f"read.splits.{name}": 0
    for name in ("select", "explain", "calibrate", "judge", "validate", "neutral", "test")
}
POINT = "resid_post.1"
PACKED = {"read.contexts": "packed", "read.splits.train": 1000, "capture.splits": ["train"], **OFF}


def bert(folder: Path) -> Path:
    """A random BERT with the embedded world's words."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(REPOSITORY / "data" / "demo")
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        **shape,
        max_position_embeddings=128,
        initializer_range=0.25,
        pad_token_id=0,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentence_encoder(folder: Path) -> Path:
    """The same with the mark of a class before each text, in the folder of a sentence encoder with
    mean pooling."""
    bert(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"cls_token": "<bos>", "sep_token": "<eos>"})
    around = [("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=around
    )
    tokenizer.save_pretrained(folder)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    return folder


@pytest.fixture(scope="module", params=[bert, sentence_encoder])
def config(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ExperimentConfig:
    """The very command of the page, on a small model and little text."""
    room = tmp_path_factory.mktemp(request.param.__name__)
    command = next(each for each in commands("other-models.md") if "read.contexts=padded" in each)
    return override(
        reference(TINY),
        {
            **FEWER,
            **assignments(command[2:]),
            "model.path": str(request.param(room / "model")),
            "execution.store": str(room / "artifacts"),
            "execution.threads": 1,
        },
    )


@pytest.fixture(scope="module")
def chain(config: ExperimentConfig) -> Chain:
    with Chain(config, plain=True) as made:
        made.artifact("report")
    return made


def test_every_stage_runs_and_what_does_not_apply_says_why(chain: Chain) -> None:
    frame = REPORT.read(chain.artifact("report"))
    assert set(frame["stage"]) == {"evaluate", "interpret", "steer"}
    steered = frame.filter(stage="steer")
    assert steered["value"].null_count() == steered.height > 0
    assert steered["reason"].unique().to_list() == ["the model does not generate text"]
    absent = frame.filter(pl.col("name").str.contains("loss_recovered|cross_entropy"))
    assert absent["value"].null_count() == absent.height > 0
    assert absent["reason"].unique().to_list() == [
        "the model predicts no next token (capability causal_loss)"
    ]
    told = frame.filter(~pl.col("name").is_in(absent["name"].to_list()), pl.col("stage") != "steer")
    measured = told.filter(pl.col("measure").is_in(["fvu", "concepts_found", "detection"]))
    nulls = measured.filter(pl.col("value").is_null())
    # of this tiny model every latent of the control may be active nearly everywhere
    assert set(nulls["subject"]) <= {"untrained"}
    assert nulls["reason"].str.contains("active in over a third").all()


def test_a_document_has_the_activations_that_it_has_alone(chain: Chain) -> None:
    corpus, shards = chain.artifact("read"), ActivationShards(chain.artifact("capture"))
    contexts = load_file(corpus.path("contexts/test.safetensors"))
    model = ModelReference(chain.config.model).load(CPU)
    provenance = shards.provenance("test")
    rows = shards.rows("test", POINT, torch.arange(shards.n_rows("test")))
    assert len(set(contexts["mask"].sum(1).tolist())) > 3, "documents of several lengths"
    for context in range(0, len(contexts["token"]), 7):
        length = int(contexts["mask"][context].sum())
        alone = model.read(contexts["token"][context : context + 1, :length], [POINT])[POINT][0]
        inside = provenance["context"] == context
        documents = provenance["document"][inside]
        assert (documents == documents[0]).all(), "a context holds one document"
        torch.testing.assert_close(
            rows[inside], alone[provenance["offset"][inside]], atol=1e-5, rtol=1e-5
        )


def test_packed_contexts_are_refused_before_anything_is_captured(config: ExperimentConfig) -> None:
    with (
        Chain(override(config, PACKED), plain=True) as chain,
        pytest.raises(InputError, match=r"BertModel looks both ways, and documents that share a context .* packed: set "
                      r"read.contexts=padded"),
    ):  # fmt: skip
        chain.artifact("capture")
