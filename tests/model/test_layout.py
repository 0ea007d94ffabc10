"""Which list holds the blocks, what a block's parts add, and how the activations of any module
lie."""

from __future__ import annotations

import re

import pytest
import torch
import transformers

from components.errors import HookPointError
from components.model.arrangement import Arrangement
from components.model.intervention import add
from components.model.language_model import LanguageModel
from tests import families, toys

TOKENS = torch.arange(4, 20).reshape(2, 8)
TEXT = {"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.25}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip


def seeing(kind):
    """A model with a vision tower of as many blocks as its text part has."""
    torch.manual_seed(0)
    if kind == "llava":
        vision = VISION | {"model_type": "clip_vision_model", "projection_dim": 16}
        return transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(text_config=TEXT, vision_config=vision)
        )
    vision = VISION | {"image_size": [28, 28], "patch_size": [14, 14]}
    config = transformers.InternVLConfig(text_config=TEXT, vision_config=vision, image_token_id=60)
    return transformers.InternVLForConditionalGeneration(config)


@pytest.mark.parametrize("kind", ["llava", "internvl"])
def test_a_vision_tower_of_the_same_depth_is_not_the_blocks(kind):
    network = seeing(kind).eval()
    assert any("vision" in name and name.endswith("1") for name, _ in network.named_modules())
    x = LanguageModel(network).read(TOKENS, ["resid_pre.0", "resid_post.0", "resid_pre.1"])
    hidden = network(TOKENS, output_hidden_states=True).hidden_states
    for name, wanted in zip(x, (hidden[0], hidden[1], hidden[1]), strict=True):
        torch.testing.assert_close(x[name], wanted)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_lists_of_attentions_are_not_the_blocks(n_layers):
    model = families.model("xlm", n_layers=n_layers)
    with pytest.raises(
        HookPointError,
        match=r"XLMWithLMHeadModel has no list of . blocks that hand the residual stream",
    ):
        model.read(TOKENS, ["resid_post.0"])
    name = "module:transformer.layer_norm2.0:output"
    wanted = model.network(TOKENS, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(model.read(TOKENS, [name])[name], wanted)


@pytest.mark.parametrize("layout", ["llama", "gpt2", "gemma2"])
def test_a_single_block_is_found(layout):
    model = toys.tiny_model(layout, num_hidden_layers=1)
    x = model.read(TOKENS, ["resid_pre.0", "attn_out.0", "mlp_out.0", "resid_post.0"])
    pre, attention, mlp, post = x.values()
    torch.testing.assert_close(pre + attention + mlp, post)


@pytest.mark.parametrize(
    ("family", "changes", "attention", "mlp"),
    [
        ("llama", {}, "self_attn", "mlp"),
        ("gemma2", {}, "post_attention_layernorm", "post_feedforward_layernorm"),
        ("glm4", {}, "post_self_attn_layernorm", "post_mlp_layernorm"),
        ("bloom", {}, "self_attention.dense", "mlp.dense_4h_to_h"),
        ("mpt", {}, "attn", "ffn.down_proj"),
        ("falcon", {"new_decoder_architecture": True}, "self_attention", "mlp"),
        ("falcon", {"parallel_attn": False, "multi_query": False}, "self_attention", "mlp"),
        ("gpt_neox", {"use_parallel_residual": False}, "attention", "mlp"),
        ("granite", {"residual_multiplier": 1.0}, "self_attn", "mlp"),
        ("opt", {}, "self_attn", "fc2"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_placed_where_they_add_up(family, changes, attention, mlp, dtype):
    model = LanguageModel(families.network(family, **changes).to(dtype))
    for kind, wanted in (("attn_out", attention), ("mlp_out", mlp)):
        assert (
            model.hook_point(f"{kind}.1").path
            == f"{model.hook_point('resid_post.1').path}.{wanted}"
        )


@pytest.mark.parametrize(
    ("family", "changes", "dtype"),
    [
        ("granite", {}, torch.float32),
        ("granite", {"residual_multiplier": 0.99}, torch.bfloat16),
        ("minicpm3", {}, torch.bfloat16),  # its factor is 0.99 at two layers
        ("bloom", {"apply_residual_connection_post_layernorm": True}, torch.float32),
        ("openai-gpt", {"initializer_range": 0.02}, torch.float32),
        ("falcon_h1", {}, torch.float32),
    ],
)
def test_parts_that_do_not_add_up_are_refused_with_the_reason(family, changes, dtype):
    model = LanguageModel(families.network(family, **changes).to(dtype))
    for kind in ("attn_out", "mlp_out"):
        with pytest.raises(
            HookPointError,
            match=rf"^{kind}.1 has no place in this \w+: .* resid_post.1 \(the nearest miss it by [\d.e-]+ of its norm.*"
            r"; module:\S+:output is what the module itself gives$",
        ):
            model.hook_point(f"{kind}.1")
    assert model.hook_point("resid_post.1").width == 16


def test_what_a_model_overwrites_later_is_read_as_it_was():
    model = families.model("falcon")
    alone = model.read(TOKENS, ["mlp_out.0"])["mlp_out.0"]
    for _ in range(2):
        x = model.read(TOKENS, ["mlp_out.0", "attn_out.0", "resid_post.1"])
        assert torch.equal(x["mlp_out.0"], alone)


def test_gradients_at_a_place_that_a_model_overwrites_agree_with_finite_differences():
    model = families.model("falcon")
    model.network.double()

    def objective(logits):
        return logits[0, -1, 5] - logits[0, -1, 7]

    x, gradients = model.gradients(TOKENS, ["mlp_out.0", "resid_pre.1"], objective)
    torch.testing.assert_close(x["mlp_out.0"], model.read(TOKENS, ["mlp_out.0"])["mlp_out.0"])
    direction = torch.randn(16).double()
    up, down = (
        objective(model.logits(TOKENS, edits=[add("mlp_out.0", s * 1e-3 * direction)]))
        for s in (1, -1)
    )
    slope = (gradients["mlp_out.0"][0] @ direction).sum().float()
    torch.testing.assert_close(slope, (up - down) / 2e-3, atol=1e-2, rtol=1e-2)


def raw(model, path, side="output"):
    """The tensor of a module, as torch's own hook gives it."""
    seen = []
    module = model.network.get_submodule(path)
    hook = module.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    model.network(TOKENS)
    hook.remove()
    given, made = seen[0]
    return given if side == "input" else made if isinstance(made, torch.Tensor) else made[0]


@pytest.mark.parametrize(
    ("family", "path", "shape"),
    [
        ("qwen3", "model.layers.1.self_attn.q_norm", (2, 8, 4, 4)),  # heads apart
        ("qwen3", "model.layers.1.self_attn.k_norm", (2, 8, 2, 4)),
        ("llama4_text", "model.layers.1.feed_forward", (16, 16)),  # rows and tokens in one axis
        ("mixtral", "model.layers.0.mlp.gate", (16, 4)),  # router logits
        ("opt", "model.decoder.layers.0.fc1", (16, 40)),
        ("llama", "model.rotary_emb", (1, 8, 4)),  # the same for every row
    ],
)
def test_activations_are_row_token_width_whatever_the_tensor_looks_like(family, path, shape):
    model = families.model(family)
    tensor, name = raw(model, path), f"module:{path}:output"
    assert tensor.shape == shape
    wanted = tensor.reshape(tensor.shape[0] if tensor.shape[0] == 1 else 2, 8, -1).expand(2, -1, -1)
    assert torch.equal(model.read(TOKENS, [name])[name], wanted)
    assert model.width(name) == wanted.shape[2]
    step = torch.linspace(-1, 1, wanted.shape[2])
    edit = add(name, step, positions=[3])
    moved = model.read(TOKENS, [name], edits=[edit])[name]
    torch.testing.assert_close(moved[:, 3], wanted[:, 3] + step)
    assert torch.equal(moved[:, :3], wanted[:, :3])
    logits, edited = model.logits(TOKENS), model.logits(TOKENS, edits=[edit])
    if family != "mixtral":  # nothing reads the logits of its router
        assert not torch.allclose(edited[:, 3:], logits[:, 3:])
    assert torch.allclose(edited[:, :3], logits[:, :3], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        (
            "llama",
            "module:model.embed_tokens:input",
            "holds int64 numbers, and no activations; name a module",
        ),
        ("hrm_text", "module:model.L_module.layers.0:output", "is no one place: its module runs "),
        (
            "bloom",
            "module:transformer.h.0.self_attention.attention_dropout:output",
            "holds [3, 4, 5, 5] where 3 rows of 5 tokens pass, which is no vector for each token; "
            "name a module",
        ),
        (
            "llama",
            "module:model.layers:output",
            "the pass never came to module:model.layers:output; name a module",
        ),
    ],
)
def test_what_holds_no_vector_for_each_token_is_refused(family, name, message):
    model = families.model(family)
    for ask in (model.hook_point, model.width, lambda name: model.read(TOKENS, [name])):
        with pytest.raises(HookPointError, match=re.escape(message)):
            ask(name)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 5, 7), (0, 1)),
        ((3, 5, 2, 7), (0, 1)),
        ((3, 2, 5, 7), (0, 2)),
        ((5, 3, 7), (1, 0)),
        ((2, 3, 5, 7), (1, 2)),
        ((15, 7), (0,)),
        ((15, 2, 7), (0,)),
        ((1, 5, 7), (0, 1)),
        ((3, 2, 5, 5), None),  # an attention pattern
        ((3, 3, 5), None),
        ((3, 5), None),
        ((15,), None),
        ((4, 7), None),
        ((3, 9, 7), None),
    ],
)
def test_arrangements_are_told_apart_and_undone(shape, axes):
    x = torch.randn(shape)
    found = Arrangement.of(x, 3, 5)
    if axes is None:
        assert found is None
        return
    assert found is not None and found.axes == axes
    rows = found.by_token(x, 3, 5)
    assert rows is not None and rows.shape[:2] == (3, 5)
    # the last token of the last row
    at = dict(zip(axes, (2, 4), strict=True)) if len(axes) == 2 else {0: 2 * 5 + 4}
    at = {axis: min(number, shape[axis] - 1) for axis, number in at.items()}
    assert torch.equal(
        rows[2, 4], x[tuple(at.get(axis, slice(None)) for axis in range(x.ndim))].flatten()
    )
    back = found.back(rows + 1, x)
    assert torch.equal(back, (x + 1).expand_as(back))
    assert found.by_token(x, 3, 6) is None
