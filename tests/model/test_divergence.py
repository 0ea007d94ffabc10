"""Divergence: nats a token by hand, and strengths that spend the budget they were given."""

from __future__ import annotations

import pytest
import torch

from components.model.divergence import kl_per_token, ruler_of_vectors, strengths_for_budgets
from components.model.intervention import NOTHING, Intervention, add
from tests import toys

TOKENS = torch.randint(3, 30, (4, 10), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(4, 10).bool()
MASK[:, 0] = False
MASK[3, 6:] = False


def unit_directions(n, seed=0, width=16):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def searched(model, hook_point, directions, budgets, unit, **limits):
    measure = ruler_of_vectors(model, {hook_point: directions * unit}, TOKENS, MASK)
    return strengths_for_budgets(measure, len(directions), budgets, **limits)


def test_no_edit_costs_nothing_and_an_edit_costs_what_a_count_by_hand_says():
    model = toys.tiny_model()
    assert (kl_per_token(model, TOKENS, MASK, NOTHING) == 0).all()
    edit = add("resid_post.1", unit_directions(1)[0] * 3)
    p, q = (
        model.logits(TOKENS).double().softmax(-1),
        model.logits(TOKENS, edits=[edit]).double().softmax(-1),
    )
    by_hand = (p * (p / q).log()).sum(-1) * MASK
    ours = kl_per_token(model, TOKENS, MASK, Intervention((edit,)))
    torch.testing.assert_close(ours.double(), by_hand, atol=1e-5, rtol=1e-4)
    assert (ours[~MASK] == 0).all() and (ours[MASK] > 0).all()


@pytest.mark.parametrize(
    ("layout", "hook_point"),
    [
        *[(layout, "resid_post.0") for layout in toys.LAYOUTS],
        *[
            ("llama", hook_point)
            for hook_point in ("resid_post.2", "resid_pre.0", "attn_out.1", "mlp_hidden.1")
        ],
    ],
)
def test_strengths_spend_their_budgets_as_measured_by_a_full_pass(layout, hook_point):
    model = toys.tiny_model(layout)
    directions = unit_directions(3, width=model.width(hook_point))
    budgets, unit = [0.01, 0.1, 0.5], 4.0
    coefficients, kls = searched(model, hook_point, directions, budgets, unit)

    def spent(i, coefficient):
        edit = add(hook_point, directions[i] * unit * float(coefficient))
        return float(kl_per_token(model, TOKENS, MASK, Intervention((edit,))).sum() / MASK.sum())

    assert coefficients[:, :2].isfinite().all()
    for i in range(3):
        for j, budget in enumerate(budgets):
            # norms make large steps all alike, so a budget may lie beyond every strength
            if coefficients[i, j].isnan():
                assert spent(i, 64.0) < budget
            else:
                assert float(kls[i, j]) == pytest.approx(budget, rel=0.031)
                assert spent(i, coefficients[i, j]) == pytest.approx(
                    float(kls[i, j]), rel=2e-3, abs=1e-5
                )


def test_strengths_of_many_directions_are_those_of_each_alone():
    model, budgets = toys.tiny_model(), [0.05, 0.2]
    directions = unit_directions(7, seed=3)
    together, _ = searched(model, "resid_post.1", directions, budgets, 2.0)
    for i in (0, 6):
        alone, _ = searched(model, "resid_post.1", directions[i : i + 1], budgets, 2.0)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-3, atol=0)


def test_a_budget_that_no_strength_reaches_is_absent_not_zero():
    model = toys.tiny_model()
    coefficients, kls = searched(
        model, "resid_post.1", unit_directions(2), [0.01, 1e4], 2.0, maximum=8.0
    )
    assert coefficients[:, 1].isnan().all() and kls[:, 1].isnan().all()
    assert kls[:, 0].isfinite().all() and coefficients[:, 0].isfinite().all()
