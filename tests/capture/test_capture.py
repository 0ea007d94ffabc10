"""Capture: every kept token's activations, whatever the batching, the interruptions and the
drops."""

from __future__ import annotations

import collections
import shutil

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from components.capture.capture import CAPTURE, CaptureConfig, make
from components.config import override
from components.device import Execution
from components.errors import CorpusError, HookPointError, InputError, NoSpaceError
from components.store.shards import ActivationShards
from tests import toys

CPU = Execution(device="cpu")
N, LENGTH = 11, 12


def contexts(n=N, length=LENGTH, seed=0):
    """`[bos] document [eos] document [eos] pad`, in the read artifact's form."""
    generator = torch.Generator().manual_seed(seed)
    token = torch.zeros(n, length, dtype=torch.int32)
    document, position = torch.full_like(token, -1), torch.full_like(token, -1)
    for i in range(n):
        token[i, 0], at = 1, 1
        for j in range(2):
            size = int(torch.randint(1, (length - 2) // 2, (1,), generator=generator))
            token[i, at : at + size] = torch.randint(
                4, 30, (size,), generator=generator, dtype=torch.int32
            )
            document[i, at : at + size] = 2 * i + j
            position[i, at : at + size] = torch.arange(size)
            token[i, at + size] = 2
            at += size + 1
    return {"token": token, "document": document, "position": position}


def corpus(store, splits=("train", "test"), seed=0, **shape):
    def write(folder):
        (folder / "contexts").mkdir(exist_ok=True)
        for number, split in enumerate(splits):
            save_file(contexts(seed=number, **shape), folder / f"contexts/{split}.safetensors")

    return toys.artifact(store, "read", write, {"splits": list(splits)}, seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toys.tiny_reference(tmp_path_factory.mktemp("models") / "tiny")


def config(**changes):
    defaults = {"splits": ("train", "test"), "contexts_per_shard": 3, "batch_size": 2}
    return CaptureConfig(**(defaults | {"hook_points": ("resid_post.1", "mlp_hidden.0")} | changes))


def capture(store, model, **changes):
    return store.ensure(CAPTURE, config(**changes), {"model": model, "corpus": corpus(store)}, CPU)[
        0
    ]


def test_every_kept_token_has_the_activations_of_a_plain_pass(store, model):
    artifact = capture(store, model)
    shards = ActivationShards(artifact)
    loaded = model.load(CPU)
    for number, split in enumerate(("train", "test")):
        given = contexts(seed=number)
        kept = given["document"] >= 0
        assert shards.n_rows(split) == int(kept.sum())
        x = loaded.read(
            given["token"],
            ["resid_post.1", "mlp_hidden.0"],
            attention_mask=(given["token"] > 0).long(),
        )
        everything = torch.arange(shards.n_rows(split))
        for name in x:
            torch.testing.assert_close(
                shards.rows(split, name, everything), x[name][kept], atol=1e-5, rtol=1e-5
            )
        provenance = shards.provenance(split)
        for name in ("token", "document", "position"):
            assert torch.equal(provenance[name], given[name][kept])
        assert torch.equal(
            given["token"][provenance["context"], provenance["offset"]], provenance["token"]
        )
    train = shards.rows("train", "resid_post.1", torch.arange(shards.n_rows("train")))
    assert shards.mean_norm("resid_post.1") == pytest.approx(
        float(train.norm(dim=1).double().mean()), rel=1e-6
    )
    assert shards.d_in("mlp_hidden.0") == 40 and artifact.facts["dtype"] == "float32"
    assert artifact.facts["model"] == model.key and artifact.facts["tokens_per_second"] > 0
    assert artifact.facts["splits"]["test"]["contexts"] == N


def test_the_numbers_are_those_of_version_1(store, model):
    """When this fails and the change is meant, raise the version of the stage with the numbers."""
    facts = capture(store, model).facts
    assert CAPTURE.version == 1 and facts["splits"]["train"] == {
        "rows": 59,
        "contexts": 11,
        "dropped": 0,
    }
    norms = {name: fact["mean_norm"] for name, fact in facts["hook_points"].items()}
    assert norms == pytest.approx({"resid_post.1": 6.731889, "mlp_hidden.0": 3.061127}, rel=1e-4)


LLAMA4 = {
    "head_dim": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "intermediate_size_mlp": 40,
}
LLAMA4 |= {"interleave_moe_layer_step": 1, "attention_chunk_size": 64}


@pytest.mark.parametrize(
    ("layout", "changes", "name", "path"),
    [
        ("qwen3", {"head_dim": 8}, None, "model.layers.1.self_attn.q_norm"),  # [b, t, heads, width]
        ("llama4_text", LLAMA4, "mlp_out.1", "model.layers.1.feed_forward"),  # [b * t, width]
        ("llama", {}, None, "model.rotary_emb"),  # [1, t, width]
    ],
)
def test_what_is_not_row_token_width_is_stored_by_token(
    store, tmp_path, layout, changes, name, path
):
    reference, seen = toys.tiny_reference(tmp_path / layout, layout, **changes), []
    name = name or f"module:{path}:output"
    artifact = capture(store, reference, hook_points=(name,))
    network = reference.load(CPU).network
    network.get_submodule(path).register_forward_hook(lambda *args: seen.append(args[-1]))
    given = contexts()
    with torch.no_grad():
        network(given["token"].long())
    tensor = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
    wanted = tensor.reshape(
        -1, LENGTH, tensor.numel() // (LENGTH * (1 if len(tensor) == 1 else N))
    ).expand(N, -1, -1)
    shards = ActivationShards(artifact)
    rows = shards.rows("train", name, torch.arange(shards.n_rows("train")))
    torch.testing.assert_close(rows, wanted[given["document"] >= 0], atol=1e-5, rtol=1e-5)
    assert shards.d_in(name) == wanted.shape[2]


def test_batching_and_sharding_change_no_number(store, model):
    wanted = ActivationShards(capture(store, model))
    other = ActivationShards(capture(store, model, contexts_per_shard=100, batch_size=7))
    index = torch.arange(wanted.n_rows("train"))
    for name in wanted.hook_points:
        torch.testing.assert_close(
            other.rows("train", name, index),
            wanted.rows("train", name, index),
            atol=1e-5,
            rtol=1e-5,
        )
    assert wanted.artifact.key != other.artifact.key
    assert config(batch_size=5).model_dump() != config().model_dump()
    assert capture(store, model, batch_size=5).key == wanted.artifact.key  # how, not what


def test_special_tokens_are_kept_on_request_and_padding_never(store, model):
    given = contexts()
    shards = ActivationShards(capture(store, model, drop_special=False))
    ended = (given["token"] == 2).sum() + (given["token"] == 1).sum()
    assert shards.n_rows("train") == int((given["document"] >= 0).sum() + ended)
    assert set(
        shards.provenance("train")["token"][shards.provenance("train")["document"] < 0].tolist()
    ) == {1, 2}


def test_outlier_norms_are_dropped_and_counted(store, model):
    whole = ActivationShards(capture(store, model, hook_points=("resid_post.1",)))
    x = whole.rows("train", "resid_post.1", torch.arange(whole.n_rows("train")))
    limit = 1.1 * float(x.norm(dim=1).median())
    artifact = capture(store, model, hook_points=("resid_post.1",), drop_outlier_norms=1.1)
    shards = ActivationShards(artifact)
    kept = x[x.norm(dim=1) <= limit]
    assert 0 < len(kept) < len(x)
    torch.testing.assert_close(shards.rows("train", "resid_post.1", torch.arange(len(kept))), kept)
    assert artifact.facts["splits"]["train"]["dropped"] == len(x) - len(kept)


def test_limited_tokens_take_the_first_whole_contexts(store, model):
    shards = ActivationShards(capture(store, model, tokens={"train": 20}))
    per_context = (contexts()["document"] >= 0).sum(1)
    n = next(n for n in range(N) if int(per_context[:n].sum()) >= 20)
    assert shards.n_rows("train") == int(per_context[:n].sum())
    assert shards.n_rows("test") == int((contexts(seed=1)["document"] >= 0).sum())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_chosen_dtype_is_what_lies_on_disk(store, model, dtype):
    shards, whole = (
        ActivationShards(capture(store, model, dtype=dtype)),
        ActivationShards(capture(store, model)),
    )
    index = torch.arange(whole.n_rows("train"))
    x = shards.rows("train", "resid_post.1", index)
    assert x.dtype == getattr(torch, dtype)
    torch.testing.assert_close(x, whole.rows("train", "resid_post.1", index).to(x.dtype))


@pytest.mark.parametrize("drop_outlier_norms", [None, 1.3])
def test_an_interrupted_capture_computes_only_what_is_missing_and_ends_the_same(
    store, model, tmp_path, monkeypatch, drop_outlier_norms
):
    chosen = config(drop_outlier_norms=drop_outlier_norms)
    inputs = {"model": model, "corpus": corpus(store)}
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    facts = finish(make(whole, chosen, inputs, CPU))
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(files) == 8
    shutil.copytree(whole, torn)
    for name in files[3:]:
        (torn / name).unlink()
    # cut short as no crash of ours would leave it
    (torn / files[2]).write_bytes((whole / files[2]).read_bytes()[:-9])
    (torn / f".{files[3].parent}-{files[3].name}").write_bytes(b"half a shard")
    ran = collections.Counter()
    from components.capture import capture as module

    real = module._write
    monkeypatch.setattr(module, "_write", lambda folder, split, number, *rest: (
        ran.update([f"{split.name}/{number:05}.safetensors"]), real(folder, split, number, *rest))[-1])  # fmt: skip
    resumed = finish(make(torn, chosen, inputs, CPU))
    assert set(ran) == {str(name) for name in files[2:]} and max(ran.values()) == 1
    assert {k: v for k, v in resumed.items() if k != "tokens_per_second"} == {
        k: v for k, v in facts.items() if k != "tokens_per_second"
    }
    for name in files:
        assert (torn / name).read_bytes() == (whole / name).read_bytes()
    # nothing was left to measure
    assert finish(make(torn, chosen, inputs, CPU))["tokens_per_second"] is None


def finish(work, messages=None):
    while True:
        try:
            progress = next(work)
            if messages is not None:
                messages.append(progress)
        except StopIteration as end:
            return end.value


def test_bytes_on_disk_come_first_and_are_what_is_written(store, model, tmp_path):
    messages = []
    finish(make(tmp_path, config(), {"model": model, "corpus": corpus(store)}, CPU), messages)
    tensors = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert messages[0].done == 0 and messages[0].metrics["bytes"] == pytest.approx(
        tensors, abs=8 * 1000
    )
    assert "tokens at 2 hook points: 0 MiB on disk; 0 of " in messages[0].message
    assert (
        messages[-1].done == messages[-1].total == messages[0].total
        and messages[-1].unit == "tokens"
    )
    assert messages[-1].metrics["tokens_per_second"] > 0


def test_a_capture_that_the_disk_cannot_hold_is_refused_before_it_starts(
    store, model, tmp_path, monkeypatch
):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 66 * 2**20))
    big = corpus(store, splits=("train",), n=2000, length=100, seed=5)
    with pytest.raises(NoSpaceError, match=r"capture would write \d+ MiB \([\d,]+ tokens\), and the disk of .* has 66 MiB "
                       "free; lower capture.tokens, take fewer hook points or capture.dtype=float16"):  # fmt: skip
        finish(make(tmp_path, config(splits=("train",)), {"model": model, "corpus": big}, CPU))
    assert not list(tmp_path.rglob("train"))


def test_an_error_while_writing_is_raised_not_lost(store, model, tmp_path):
    (tmp_path / "train").write_text("a file where the folder of the split should be")
    with pytest.raises(OSError):
        finish(make(tmp_path, config(), {"model": model, "corpus": corpus(store)}, CPU))


def test_inputs_that_do_not_fit_are_refused(store, model):
    with pytest.raises(
        CorpusError, match="has no split 'tset'; known: test, train; did you mean 'test'"
    ):
        capture(store, model, splits=("tset",))
    with pytest.raises(HookPointError, match="no hook point 'resid_post.9'"):
        capture(store, model, hook_points=("resid_post.9",))
    with pytest.raises(
        InputError, match="contexts of 200 tokens do not fit the model's 128 positions"
    ):
        store.ensure(
            CAPTURE, config(), {"model": model, "corpus": corpus(store, length=200, seed=3)}, CPU
        )

    def write(folder):
        (folder / "contexts").mkdir()
        given = contexts()
        save_file(given | {"token": given["token"] + 900}, folder / "contexts/train.safetensors")
        save_file(
            given | {"document": torch.full_like(given["token"], -1)},
            folder / "contexts/test.safetensors",
        )

    strange = toys.artifact(store, "read", write, {}, seed=9)
    with pytest.raises(
        InputError,
        match="split 'train' holds token 929, and the model knows ids below 38; read the",
    ):
        store.ensure(CAPTURE, config(splits=("train",)), {"model": model, "corpus": strange}, CPU)
    with pytest.raises(CorpusError, match="split 'test' of the corpus .* has no token to capture"):
        store.ensure(CAPTURE, config(splits=("test",)), {"model": model, "corpus": strange}, CPU)


@pytest.mark.parametrize("name", ["hook_points", "splits"])
def test_nothing_to_capture_and_the_same_thing_twice_are_refused(name):
    with pytest.raises(
        ValidationError, match=f"capture.{name} lists something twice: train, train; name each once"
    ):
        CaptureConfig(**{name: ("train", "train")})
    with pytest.raises(ValidationError, match="at least 1 item"):
        CaptureConfig(**{name: ()})


def test_the_configuration_is_reached_by_dotted_names():
    changed = override(
        CaptureConfig(), {"tokens.train": 1000, "hook_points": ["resid_post.0"], "dtype": "float16"}
    )
    assert changed.tokens == {"train": 1000} and changed.hook_points == ("resid_post.0",)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(store, model, tmp_path):
    inputs = {"model": model, "corpus": corpus(store)}
    finish(make(tmp_path, config(), inputs, Execution(device="cuda")))
    from components.store.shards import read_shard

    cpu = ActivationShards(capture(store, model))
    rows = read_shard(tmp_path, "train", 0)["x.resid_post.1"]
    torch.testing.assert_close(
        rows, cpu.rows("train", "resid_post.1", torch.arange(len(rows))), atol=1e-3, rtol=1e-3
    )
