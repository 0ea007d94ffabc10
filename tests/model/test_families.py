"""Every causal family that can be made small is right or refused in one sentence: the sum, reading,
padding."""

from __future__ import annotations

import itertools

import pytest
import torch

from components.errors import CapabilityError, HookPointError
from components.model.hook_point import KINDS
from components.model.intervention import add, replace
from components.model.language_model import LanguageModel
from tests import families

TOKENS = torch.tensor([[5, 9, 17, 33, 12, 41, 8], [7, 22, 14, 51, 6, 30, 19]])
REFUSED = {
    **dict.fromkeys(
        ("hrm_text", "longcat_flash", "reformer", "xlm"), "block names mean nothing in it"
    ),
    **dict.fromkeys(("cpmant", "prophetnet"), "which is no vector for each token"),
    **dict.fromkeys(
        ("deepseek_v4", "gemma3n_text", "hy_v4", "qwen4_exp_text"), "is no single residual stream"
    ),
}
"""Families without `resid_pre` and `resid_post`, and what is said of them."""


@pytest.fixture(params=families.FAMILIES, scope="module")
def model(request):
    return families.model(request.param)


def one_sentence(error: Exception) -> None:
    text = str(error)
    assert 40 < len(text) < 600 and "\n" not in text and not text.endswith(("None", "inf")), text


def places(model: LanguageModel) -> list[str]:
    """The canonical names that this model does not refuse, of its first two blocks."""
    found = []
    for kind, layer in itertools.product(KINDS, range(2)):
        try:
            found.append(model.hook_point(f"{kind}.{layer}").name)
        except HookPointError as error:
            one_sentence(error)
    return found


def test_nearly_all_families_are_here():
    assert len(families.FAMILIES) >= 160 and len(families.LEFT_OUT) < 20
    assert all(reason for reason in families.LEFT_OUT.values())


def test_hook_points_are_what_their_names_say(model, request):
    family = request.node.callspec.params["model"]
    names = places(model)
    if family in REFUSED:
        with pytest.raises(HookPointError, match=REFUSED[family]):
            model.hook_point("resid_post.1")
        return
    assert {"resid_pre.0", "resid_post.0", "resid_pre.1", "resid_post.1"} <= set(names)
    x = model.read(TOKENS, names)
    for name in names:
        assert x[name].shape == (*TOKENS.shape, model.width(name))
        if name.endswith(".0"):
            alone = model.read(TOKENS, [name])[name]
            assert torch.equal(alone, x[name]), f"{name} read alone and read beside others differ"
    steps = torch.linspace(-1, 1, model.d_model)
    for layer in range(2):
        attention, mlp, pre, post = (
            f"{kind}.{layer}" for kind in ("attn_out", "mlp_out", "resid_pre", "resid_post")
        )
        parts = [name for name in (attention, mlp) if name in names]
        if len(parts) == 2:
            torch.testing.assert_close(
                x[pre] + x[attention] + x[mlp], x[post], atol=1e-5, rtol=1e-5
            )
        # what is added there arrives in the residual stream, and nothing else does
        for part in parts if layer == 1 else ():
            held = (
                [replace(mlp, lambda _, there=x[mlp]: there)]
                if part == attention and mlp in parts
                else []
            )
            if part == mlp or held:
                moved = model.read(TOKENS, [post], edits=[add(part, steps), *held])[post]
                torch.testing.assert_close(moved, x[post] + steps, atol=1e-5, rtol=1e-5)


def test_padding_changes_no_row(model, request):
    if request.node.callspec.params["model"] in REFUSED:
        pytest.skip("it has no residual stream")
    text = TOKENS[:1, :4]
    wanted = model.read(text, ["resid_post.1"])["resid_post.1"]
    for n_before, n_behind in ((0, 3), (3, 0), (1, 2)):
        row = torch.nn.functional.pad(text, (n_before, n_behind))
        mask = torch.nn.functional.pad(torch.ones_like(text), (n_before, n_behind))
        padded, masks = torch.cat([row, TOKENS[1:]]), torch.cat([mask, torch.ones_like(TOKENS[1:])])
        try:
            found = model.read(padded, ["resid_post.1"], masks)["resid_post.1"]
        except CapabilityError as error:
            assert n_before, "padding on the right is never looked at"
            one_sentence(error)
            continue
        torch.testing.assert_close(found[:1, n_before : n_before + 4], wanted, atol=1e-4, rtol=1e-4)
