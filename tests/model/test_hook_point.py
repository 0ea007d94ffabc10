"""Hook points mean the same in every layout, and a name that means nothing is told with the nearest
one."""

from __future__ import annotations

import re
from collections import namedtuple

import pytest
import torch
from torch import nn

from components.errors import HookPointError
from components.model.arrangement import Arrangement
from components.model.hook_point import KINDS, HookPoint, attach, find, translate
from components.model.intervention import add
from components.model.layout import Layout
from tests import toys

TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4, 7, 30], [1, 5, 8, 13, 16, 20, 22, 33]])


@pytest.fixture(params=toys.LAYOUTS, scope="module")
def model(request):
    return toys.tiny_model(request.param)


def test_what_attention_and_mlp_add_is_what_the_block_adds(model):
    names = [f"{kind}.{layer}" for kind in KINDS for layer in range(3)]
    x = model.read(TOKENS, names)
    for layer in range(3):
        added = x[f"attn_out.{layer}"] + x[f"mlp_out.{layer}"]
        torch.testing.assert_close(
            x[f"resid_pre.{layer}"] + added, x[f"resid_post.{layer}"], atol=1e-5, rtol=1e-5
        )
        assert added.abs().max() > 0.1
    assert torch.equal(x["resid_post.0"], x["resid_pre.1"])


def test_head_out_and_mlp_hidden_are_what_the_projections_read(model):
    x = model.read(TOKENS, ["head_out.1", "mlp_hidden.1"])
    for name in x:
        point = model.hook_point(name)
        projection = model.network.get_submodule(point.path)
        through = model.read(TOKENS, [f"module:{point.path}:output"])[f"module:{point.path}:output"]
        torch.testing.assert_close(projection(x[name]), through)
    assert x["head_out.1"].shape[-1] == 16 and x["mlp_hidden.1"].shape[-1] in (40, 64)
    assert model.width("mlp_hidden.1") == x["mlp_hidden.1"].shape[-1]


def test_the_residual_stream_agrees_with_the_hidden_states_of_transformers(model):
    hidden = model.network(TOKENS, output_hidden_states=True).hidden_states
    x = model.read(TOKENS, ["resid_pre.0", "resid_post.0", "resid_post.1"])
    for name, wanted in zip(x, hidden[:3], strict=True):
        torch.testing.assert_close(x[name], wanted)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.2.hook_resid_post", "resid_post.2"),
        ("blocks.0.hook_resid_pre", "resid_pre.0"),
        ("blocks.1.hook_attn_out", "attn_out.1"),
        ("blocks.1.attn.hook_z", "head_out.1"),
        ("blocks.11.hook_mlp_out", "mlp_out.11"),
        ("blocks.1.mlp.hook_post", "mlp_hidden.1"),
        ("blocks.1.hook_pattern", "blocks.1.hook_pattern"),
    ],
)
def test_transformer_lens_names_are_translated(theirs, ours):
    assert translate(theirs) == ours


def test_reading_by_a_transformer_lens_name_answers_by_that_name():
    model = toys.tiny_model()
    name = "blocks.1.hook_resid_post"
    assert torch.equal(
        model.read(TOKENS, [name])[name], model.read(TOKENS, ["resid_post.1"])["resid_post.1"]
    )
    assert model.hook_point(name).name == "resid_post.1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resid_pst.1", "no hook point 'resid_pst.1' in this LlamaForCausalLM; known: resid_pre, attn_out, head_out, "
         "mlp_out, mlp_hidden, resid_post, each with .0 to .2, and module:<path>:<input|output>; "
         "did you mean 'resid_post.1'?"),
        ("resid_post.3", "no hook point 'resid_post.3': this LlamaForCausalLM has blocks 0 to 2; known: "),
        ("resid_post", "no hook point 'resid_post' in this LlamaForCausalLM"),
        ("blocks.0.hook_resid_past", "no hook point 'blocks.0.hook_resid_past' in this LlamaForCausalLM"),
        ("module:model.layers.0.mpl:output", "no module 'model.layers.0.mpl' in this LlamaForCausalLM (45 modules); "
         "nearest: model.layers.0.mlp, "),
        ("module:model.layers.0.mlp", "no hook point 'module:model.layers.0.mlp' in this LlamaForCausalLM"),
    ],
)  # fmt: skip
def test_an_unknown_hook_point_lists_the_nearest(name, message):
    with pytest.raises(HookPointError, match=re.escape(message)):
        toys.tiny_model().hook_point(name)


class Strange(nn.Module):
    """One block that is a linear map and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 2))])
        self.norm = nn.LayerNorm(2)

    def forward(self, tokens):
        return self.norm(self.layers[0](torch.stack([tokens, tokens**2], dim=2).float()))


def test_a_network_without_blocks_or_attention_says_what_it_has():
    linear, strange = nn.Linear(2, 2), Strange()
    with pytest.raises(
        HookPointError, match="Linear has no list of 3 blocks, so block names mean nothing in it"
    ):
        _ = Layout(linear, 3, 2, TOKENS, linear).blocks
    with pytest.raises(
        HookPointError,
        match=r"cannot tell where mlp_out is: layers.0 \(Sequential\) has none of mlp, .*",
    ):
        find(Layout(strange, 1, 2, TOKENS, strange), "mlp_out.0")


@pytest.mark.parametrize("layout", toys.LAYOUTS)
def test_an_edit_keeps_the_kind_of_object_that_a_module_returns(layout):
    model = toys.tiny_model(layout)
    body = model.network.base_model_prefix
    outputs = []
    point = f"module:{body}:output"
    handle = model.network.base_model.register_forward_hook(lambda *call: outputs.append(call[-1]))
    # attached later, so it acts on what the line above has seen
    with model.edited(add(point, torch.ones(16))):
        edited = model.logits(TOKENS)
    handle.remove()
    moved = outputs[-1].last_hidden_state + 1  # those before are of the trial
    capped = getattr(model.network.config, "final_logit_softcapping", None)
    wanted = model.network.get_output_embeddings()(moved)
    wanted = wanted if capped is None else capped * (wanted / capped).tanh()
    torch.testing.assert_close(edited, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [list, tuple, dict, "named"])
def test_what_a_module_returns_is_rebuilt_as_it_was(kind):
    named = namedtuple("named", "first second third")
    x, y = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    given = (
        {"a": None, "b": x, "c": y}
        if kind is dict
        else named(None, x, y)
        if kind == "named"
        else kind([None, x, y])
    )

    class Returns(torch.nn.Module):
        def forward(self):
            return given

    network = torch.nn.Sequential(Returns())
    place = HookPoint("module:0:output", "0", "output", Arrangement(), 3, None)
    handle = attach(network, place, lambda x: x + 5)
    output = network[0]()
    handle.remove()
    values = list(output.values()) if kind is dict else list(output)
    assert type(output) is type(given) and values[0] is None and values[2] is y
    assert torch.equal(values[1], x + 5) and torch.equal(x, torch.zeros(1, 2, 3)), (
        "what was returned is left as it was"
    )
