"""Loading, keys, capabilities, losses, gradients, and the proof against what others published."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.device import Execution
from components.errors import CapabilityError, ConfigError, HookPointError, ModelError
from components.model.generation import generate
from components.model.intervention import add
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference, locate
from tests import toys

TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4], [1, 5, 8, 13, 16, 20]])
CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return toys.tiny_reference(tmp_path_factory.mktemp("models") / "tiny")


def test_a_folder_gives_the_model_that_was_written(reference, capfd, caplog):
    model = reference.load(CPU)
    assert torch.equal(model.logits(TOKENS), toys.tiny_model().logits(TOKENS))
    assert model.tokenizer("the cat sat", add_special_tokens=False).input_ids == [4, 6, 13 - 1]
    assert (model.d_model, model.n_layers, model.vocab_size, model.dtype) == (
        16,
        3,
        len(toys.WORDS),
        torch.float32,
    )
    assert model.capabilities == {"causal_loss", "generation", "gradients"} and model.eos == {2}
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_the_key_follows_the_bytes_and_the_dtype_and_nothing_else(reference, tmp_path):
    copy = tmp_path / "another name"
    shutil.copytree(reference.folder, copy)
    same = ModelReference(ModelConfig(path=str(copy), online=True))
    assert re.fullmatch("[0-9a-f]{24}", reference.key) and same.key == reference.key
    (copy / "README.md").write_text("not part of the model")
    assert same.key == reference.key
    assert ModelReference(ModelConfig(path=str(copy), dtype="bfloat16")).key != reference.key
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    assert same.key == reference.key, "one reference carries one key, whatever happens to the files"
    assert ModelReference(same.config).key != reference.key


def test_half_precision_stays_near_full_precision(reference):
    model = ModelReference(ModelConfig(path=reference.config.path, dtype="bfloat16")).load(CPU)
    x = model.read(TOKENS, ["resid_post.2"])["resid_post.2"]
    wanted = reference.load(CPU).read(TOKENS, ["resid_post.2"])["resid_post.2"]
    assert x.dtype == torch.bfloat16 and (x.float() - wanted).norm() < 0.05 * wanted.norm()


def test_an_unknown_model_names_the_nearest_and_says_how_to_download(reference):
    wrong = reference.folder.parent / "tinny"
    with pytest.raises(
        ModelError,
        match=f"no folder '{wrong}' with a config.json; known: .*; did you mean '.*/tiny'?",
    ):
        _ = ModelReference(ModelConfig(path=str(wrong))).key
    with pytest.raises(
        ModelError, match=r"model.online is false, so nothing is downloaded; set model.online=true"
    ):
        _ = ModelReference(ModelConfig(path="somebody/no-such-model")).key
    # the tests run with the hub switched off
    with pytest.raises(ModelError, match="the hub did not give it"):
        _ = ModelReference(ModelConfig(path="somebody/no-such-model", online=True)).key


def test_files_that_are_not_a_whole_model_are_refused(reference, tmp_path):
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name
        shutil.copytree(reference.folder, folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])
        with pytest.raises(
            ModelError,
            match=f"{folder} could not be loaded as a language model: .*wanted config.json",
        ):
            ModelReference(ModelConfig(path=str(folder))).load(CPU)
    deeper = tmp_path / "deeper"
    shutil.copytree(reference.folder, deeper)
    config = json.loads((deeper / "config.json").read_text()) | {"num_hidden_layers": 4}
    config.pop("layer_types", None)
    (deeper / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError,
        match=r"lacks 9 weights that its config.json asks for \(model.layers.3.input_layernorm",
    ):
        ModelReference(ModelConfig(path=str(deeper))).load(CPU)


def test_a_model_without_tokenizer_or_head_says_so_when_they_are_needed(tmp_path):
    toys.tiny_network().model.save_pretrained(tmp_path)
    reference = ModelReference(ModelConfig(path=str(tmp_path)))
    with pytest.raises(ModelError, match=r"holds no tokenizer \(tokenizer.json\)"):
        reference.tokenizer()
    model = reference.load(CPU)
    assert model.tokenizer is None and model.capabilities == {"gradients"}
    wanted = toys.tiny_model().read(TOKENS, ["resid_post.1"])["resid_post.1"]
    assert torch.equal(model.read(TOKENS, ["resid_post.1"])["resid_post.1"], wanted)
    with pytest.raises(
        CapabilityError,
        match="this needs a model with the capability causal_loss; LlamaModel has gradients",
    ):
        model.logits(TOKENS)


def test_a_device_that_is_not_here_is_refused(reference):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match="sees no CUDA device here; use auto or cpu"):
        reference.load(Execution(device="cuda"))


def test_reading_stops_at_the_last_hook_point_needed():
    model = toys.tiny_model()
    model.hook_point("attn_out.1")  # which runs a few tokens when it is first asked for
    ran = []
    for layer, block in enumerate(model.network.model.layers):
        block.mlp.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    model.read(TOKENS, ["resid_post.0", "attn_out.1"])
    assert ran == [0]


def test_a_module_that_the_pass_never_calls_is_told():
    model = toys.tiny_model()
    with pytest.raises(HookPointError, match="the pass never came to module:model.layers:output"):
        model.read(TOKENS, ["module:model.layers:output"])


def test_losses_are_the_cross_entropy_of_transformers_and_zero_on_padding():
    model = toys.tiny_model()
    theirs = model.network(TOKENS, labels=TOKENS).loss
    torch.testing.assert_close(model.losses(TOKENS).mean(), theirs)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
    losses = model.losses(TOKENS, mask)
    assert ((losses == 0) == ~(mask[:, 1:] & mask[:, :-1]).bool()).all()
    torch.testing.assert_close(losses[1, 2:], model.losses(TOKENS[1:, 2:])[0], atol=1e-5, rtol=1e-5)


def test_gradients_agree_with_finite_differences():
    model = toys.tiny_model()
    model.network.double()

    def objective(logits):
        return logits[0, -1, 5] - logits[0, -1, 7]

    x, gradients = model.gradients(TOKENS, ["resid_post.0", "resid_post.1"], objective)
    direction = torch.randn(16).double()
    for name, gradient in gradients.items():
        assert gradient.shape == x[name].shape == (2, 6, 16)
        up, down = (
            objective(model.logits(TOKENS, edits=[add(name, s * 1e-3 * direction)]))
            for s in (1, -1)
        )
        slope = (gradient[0] @ direction).sum().float()
        torch.testing.assert_close(slope, (up - down) / 2e-3, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("layout", toys.LAYOUTS)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_pass_resumed_at_a_block_ends_where_the_whole_pass_ends(layout, layer):
    model = toys.tiny_model(layout)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    residual = model.read(TOKENS, [f"resid_post.{layer - 1}" if layer else "resid_pre.0"], mask)
    vector = torch.randn(16)
    resumed = model.resume(TOKENS, layer, next(iter(residual.values())) + vector, mask)
    whole = model.logits(TOKENS, mask, edits=[add(next(iter(residual)), vector)])
    torch.testing.assert_close(resumed[mask.bool()], whole[mask.bool()])
    assert torch.equal(model.logits(TOKENS), toys.tiny_model(layout).logits(TOKENS))


def test_direction_logits_are_the_unembedding():
    model = toys.tiny_model()
    weight = model.network.lm_head.weight
    torch.testing.assert_close(model.direction_logits(torch.eye(16)), weight.T)


def test_the_activations_that_a_gpt2_publisher_computed(shared):
    folder = shared / "models/nano-sort-gpt2"
    published = load_file(folder / "reference_activations.safetensors")
    # theirs is one row for all
    published["pos_emb"] = published["pos_emb"].expand_as(published["x"])
    model = ModelReference(ModelConfig(path=str(folder))).load(CPU)
    tokens = published.pop("idx").long()
    h = "module:transformer.h.0"
    names = {
        "tok_emb": "module:transformer.wte:output",
        "pos_emb": "module:transformer.wpe:output",
        "x": "resid_pre.0",
        "ln1": f"{h}.ln_1:output",
        "qkv": f"{h}.attn.c_attn:output",
        "y": "head_out.0",
        "yProj": "attn_out.0",
        "attnResid": f"{h}.ln_2:input",
        "ln2": f"{h}.ln_2:output",
        "fc": f"{h}.mlp.c_fc:output",
        "gelu": "mlp_hidden.0",
        "mlp": "mlp_out.0",
        "mlpResid": "resid_post.0",
        "block0": "resid_post.0",
        "block1": "resid_post.1",
        "block2": "resid_post.2",
        "ln_f": "module:transformer.ln_f:output",
        "lm_head": "module:lm_head:output",
    }
    x = model.read(tokens, list(set(names.values())))
    ours = {name: x[point] for name, point in names.items()}
    q, k, v = (part.unflatten(-1, (3, 16)).transpose(1, 2) for part in ours["qkv"].chunk(3, dim=-1))
    later = torch.ones(11, 11).triu(1).bool()
    att = (q @ k.transpose(2, 3) / 4).masked_fill(later, -torch.inf)
    ours |= {
        "q": q,
        "k": k,
        "v": v,
        "att": att,
        "attSm": att.softmax(-1),
        "probs": model.logits(tokens).softmax(-1),
    }
    assert len(published) == 24 and set(ours) == set(published)
    for name, wanted in published.items():
        torch.testing.assert_close(
            ours[name], wanted, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", ["stories260k", "babyllama-105"])
def test_the_logits_of_an_independent_forward_pass(shared, name):
    folder = shared / "models" / name
    published = load_file(folder / "reference_logits.safetensors")
    model = ModelReference(ModelConfig(path=str(folder))).load(CPU)
    tokens, logits = sorted(published.values(), key=lambda value: value.ndim)
    torch.testing.assert_close(
        model.logits(tokens.reshape(1, -1)).squeeze(), logits.squeeze().float(), atol=5e-5, rtol=0
    )


@pytest.mark.parametrize("layout", toys.LAYOUTS)
def test_what_is_done_to_keep_a_gpu_busy_changes_no_number(layout):
    network = toys.tiny_network(layout)
    torch.testing.assert_close(
        network(TOKENS, use_cache=True).logits, network(TOKENS, use_cache=False).logits
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", toys.LAYOUTS)
def test_cuda_agrees_with_the_cpu(layout):
    network = toys.tiny_network(layout)
    wanted = LanguageModel(network).logits(TOKENS)
    ours = LanguageModel(network.to("cuda")).logits(TOKENS)
    torch.testing.assert_close(ours.cpu(), wanted, atol=1e-3, rtol=1e-3)


def test_a_watched_model_tells_of_every_pass_and_stops_where_it_is_told() -> None:
    model, seen = toys.tiny_model(), []

    def before_pass() -> None:
        seen.append(len(seen))
        if len(seen) == 4:
            raise KeyError("enough")

    with model.watched(before_pass), pytest.raises(KeyError, match="enough"):
        generate(model, [[1, 5]], max_new_tokens=9, temperature=0, seeds=[0])
    assert seen == [0, 1, 2, 3]
    model.logits(torch.tensor([[1, 5]]))
    assert len(seen) == 4, "outside it is not watched"


def test_a_model_is_located_by_its_bytes(tmp_path: Path) -> None:
    reference = toys.tiny_reference(tmp_path / "here")
    other = toys.tiny_reference(tmp_path / "other", seed=1)
    places = [ModelConfig(path=str(tmp_path / "gone")), other.config, reference.config]
    assert locate(reference.key, places).folder == tmp_path / "here"
    with pytest.raises(
        ModelError, match=rf"gone \(float32\): no model; .*other \(float32\): model {other.key}"
    ):
        locate(reference.key, places[:2])


def test_names_that_have_moved_are_still_found_where_they_stood() -> None:
    from components.model import language_model

    assert language_model.ModelConfig is ModelConfig
    assert language_model.ModelReference is ModelReference
    with pytest.raises(ImportError, match="ModelPath"):
        from components.model.language_model import ModelPath  # noqa: F401
