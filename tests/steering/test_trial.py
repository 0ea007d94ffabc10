"""A trial by hand uses the stage's own directions and measures."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.contract import Dictionary
from components.errors import InputError
from components.model.divergence import ruler_of_vectors, strengths_for_budgets
from components.steering.neutral import Neutral
from components.steering.trial import at_budget, at_coefficient, mixture
from components.steering.vector import AddVector
from components.store.shards import ActivationShards
from tests.steering import world
from tests.steering.conftest import Bench


@pytest.fixture(scope="module")
def dictionary(bench: Bench) -> Dictionary:
    return Dictionary.load(bench.dictionary)


def test_one_latent_of_weight_one_is_what_add_direction_adds(
    bench: Bench, dictionary: Dictionary
) -> None:
    unit = ActivationShards(bench.activations).mean_norm(world.HOOK)
    wanted = AddVector.along(world.HOOK, dictionary.decoder_directions()[3], unit)
    found = mixture(dictionary, {3: 1.0}, unit)
    assert wanted is not None and torch.equal(found.vector, wanted.vector)
    assert (found.hook_point, found.unit) == (world.HOOK, unit)


def test_a_mixture_weighs_directions_of_norm_one(dictionary: Dictionary) -> None:
    rows = torch.nn.functional.normalize(dictionary.decoder_directions()[[0, 5]], dim=1)
    wanted = 2 * rows[0] - 0.5 * rows[1]
    torch.testing.assert_close(
        mixture(dictionary, {0: 2, 5: -0.5}, 1.0).vector, wanted / wanted.norm()
    )
    torch.testing.assert_close(mixture(dictionary, {5: -3}, 1.0).vector, -rows[1])


@pytest.mark.parametrize(
    ("weights", "words"), [({24: 1.0}, "it has 0 to 23"), ({0: 0.0}, "add up to no direction")]
)
def test_a_mixture_that_cannot_be_is_refused(
    dictionary: Dictionary, weights: dict[int, float], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        mixture(dictionary, weights, 1.0)


def test_the_cost_of_a_coefficient_is_that_of_the_search_for_a_budget(
    bench: Bench, dictionary: Dictionary
) -> None:
    (neutral, _), steering = Neutral.read(bench.corpus, 300, 25), mixture(dictionary, {1: 1.0}, 4.0)
    found = at_budget(bench.model, steering, 0.3, neutral)
    vectors = {world.HOOK: 4.0 * steering.vector[None]}
    measure = ruler_of_vectors(bench.model, vectors, neutral.tokens, neutral.mask)
    strength, kl = strengths_for_budgets(measure, 1, [0.3])
    assert found.coefficient == pytest.approx(float(strength)) and found.kl == pytest.approx(
        float(kl)
    )
    again = at_coefficient(bench.model, steering, found.coefficient, neutral)
    assert again.kl == pytest.approx(found.kl, rel=1e-4)


def test_without_neutral_text_a_coefficient_has_no_cost_and_a_budget_is_refused(
    bench: Bench, dictionary: Dictionary
) -> None:
    steering = mixture(dictionary, {1: 1.0}, 4.0)
    assert at_coefficient(bench.model, steering, 0.5, None).kl is None
    with pytest.raises(InputError, match="no neutral text"):
        at_budget(bench.model, steering, 0.1, None)


def test_a_budget_that_no_strength_costs_is_refused(bench: Bench, dictionary: Dictionary) -> None:
    with pytest.raises(InputError, match="no strength that was tried costs 1000 nats"):
        at_budget(
            bench.model,
            mixture(dictionary, {1: 1.0}, 4.0),
            1000,
            Neutral.read(bench.corpus, 100, 25)[0],
        )
