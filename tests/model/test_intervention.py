"""Edits change exactly the tokens they name, in every layout and padding, and leave nothing
behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import HookPointError
from components.model.intervention import Edit, Places, add, replace
from tests import toys

TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4], [1, 5, 8, 13, 16, 20]])
POINT = "resid_post.1"


def padded(rows, side):
    """Rows of different lengths as tokens and mask, padding on one side."""
    width = max(map(len, rows))
    tokens, mask = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.long),
    )
    for i, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        tokens[i, part], mask[i, part] = torch.tensor(row), 1
    return tokens, mask


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


@pytest.fixture(params=toys.LAYOUTS, scope="module")
def model(request):
    return toys.tiny_model(request.param)


@pytest.mark.parametrize(
    "kind", ["resid_pre", "attn_out", "head_out", "mlp_out", "mlp_hidden", "resid_post"]
)
def test_the_edited_place_is_original_plus_vector_and_what_lies_before_is_untouched(model, kind):
    point = f"{kind}.1"
    vector = torch.randn(model.width(point))
    plain = model.read(TOKENS, ["resid_post.0", point, "resid_post.2"])
    edited = model.read(
        TOKENS, ["resid_post.0", point, "resid_post.2"], edits=[add(point, vector, [2, -1])]
    )
    torch.testing.assert_close(edited["resid_post.0"], plain["resid_post.0"])
    wanted = plain[point].clone()
    wanted[:, [2, 5]] += vector
    torch.testing.assert_close(edited[point], wanted)
    # causal: earlier tokens unmoved
    assert torch.equal(edited["resid_post.2"][:, :2], plain["resid_post.2"][:, :2])
    assert not torch.allclose(
        edited["resid_post.2"][:, 2:], plain["resid_post.2"][:, 2:], atol=1e-3
    )


def test_several_edits_and_reads_in_one_pass_compose(model):
    first, second = torch.randn(16), torch.randn(16)
    edits = [
        add("resid_post.0", first),
        add("resid_post.0", second),
        replace("resid_post.1", torch.zeros_like),
    ]
    x = model.read(TOKENS, ["resid_post.0", "resid_post.1", "resid_post.2"], edits=edits)
    plain = model.read(TOKENS, ["resid_post.0"])["resid_post.0"]
    torch.testing.assert_close(x["resid_post.0"], plain + first + second)
    assert (x["resid_post.1"] == 0).all() and x["resid_post.2"].isfinite().all()


def test_rows_take_their_own_vectors(model):
    vectors = torch.randn(2, 16)
    together = model.logits(TOKENS, edits=[add(POINT, vectors)])
    for row in range(2):
        alone = model.logits(TOKENS[row : row + 1], edits=[add(POINT, vectors[row])])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "positions", ["all", "prompt", [0, 2], [-1], torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]]).bool()]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_edit(model, side, positions):
    rows = [[1, 4, 6, 12, 15, 4], [1, 5, 8]]
    vector = torch.randn(16) * 2
    tokens, mask = padded(rows, side)
    together = model.logits(tokens, mask, edits=[add(POINT, vector, positions)])
    for i, row in enumerate(rows):
        own = positions[i : i + 1] if isinstance(positions, torch.Tensor) else positions
        alone = model.logits(torch.tensor([row]), edits=[add(POINT, vector, own)])[0]
        torch.testing.assert_close(together[i][mask[i].bool()], alone, atol=1e-4, rtol=1e-4)


def test_generated_positions_are_none_in_a_pass_over_given_text(model):
    vector = torch.randn(16)
    assert torch.equal(
        model.logits(TOKENS, edits=[add(POINT, vector, "generated")]), model.logits(TOKENS)
    )


@given(st.integers(1, 5), st.integers(0, 3), st.lists(st.integers(-5, 9), max_size=4))
@settings(max_examples=60, deadline=None)
def test_chosen_positions_agree_with_a_count_by_hand(n_prompt, n_pad, wanted):
    """A row of n_pad pads, n_prompt given tokens and three generated ones."""
    position = torch.tensor([[-1] * n_pad + list(range(n_prompt + 3))])
    places = Places(position, torch.tensor([n_prompt]))
    real = [n for n in position[0].tolist() if n >= 0]
    by_hand = {
        "all": set(real),
        "prompt": set(range(n_prompt)),
        "generated": set(range(n_prompt, n_prompt + 3)),
    }
    for name, chosen in by_hand.items():
        assert set(position[0][places.chosen(name)[0, :, 0]].tolist()) == chosen
    listed = {p if p >= 0 else p + n_prompt for p in wanted} & set(real)
    assert set(position[0][places.chosen(wanted)[0, :, 0]].tolist()) == listed


def test_an_exception_in_an_edit_leaves_the_model_as_it_was(model):
    before = model.logits(TOKENS)

    def fails(x, mask):
        raise RuntimeError("inside the edit")

    edits = [add("resid_post.0", torch.randn(16)), Edit("attn_out.1", fails)]
    with pytest.raises(RuntimeError, match="inside the edit"):
        model.logits(TOKENS, edits=edits)
    with pytest.raises(RuntimeError, match="inside the edit"):
        model.read(TOKENS, ["resid_post.2"], edits=edits)
    with pytest.raises(RuntimeError, match="inside the edit"):
        model.resume(TOKENS, 1, torch.zeros(2, 6, 16), edits=edits)
    with pytest.raises(HookPointError), model.edited(*edits, add("resid_past.0", torch.zeros(16))):
        pass
    with pytest.raises(KeyError), model.edited(*edits):
        raise KeyError
    assert n_hooks(model) == 0 and torch.equal(model.logits(TOKENS), before)


def test_edits_in_a_context_hold_for_every_pass_inside():
    model = toys.tiny_model()
    vector = torch.randn(16)
    with model.edited(add(POINT, vector)):
        inside = model.logits(TOKENS)
    assert torch.equal(inside, model.logits(TOKENS, edits=[add(POINT, vector)]))
    assert not torch.equal(inside, model.logits(TOKENS))


def test_an_edit_that_changes_the_shape_is_told():
    model = toys.tiny_model()
    with pytest.raises(
        HookPointError,
        match=r"the edit at resid_post.1 got activations \[2, 6, 16\] and returned \[2, 6, 3\]",
    ):
        model.logits(TOKENS, edits=[replace(POINT, lambda x: x[..., :3])])
