"""What a score is worth: strings of known order, and correlation over latents."""

from __future__ import annotations

import numpy as np
import pytest

from components.device import Execution
from components.interpretation import truth, worth
from components.interpretation.contract import LatentRecord, predictors, scorers
from components.interpretation.services import PredictorServices, ScorerServices
from tests.interpretation.planted import SETS, WORDS, finished, set_words


def strings() -> dict[int, dict[str, str]]:
    """Of the latents that fire on three words each."""

    def words(*numbers: int) -> str:
        return "the words " + " and ".join(f'"{WORDS[number]}"' for number in numbers)

    texts = {}
    for latent in range(SETS):
        own, other = set_words(latent), set_words((latent + 1) % SETS)
        texts[latent] = {
            "right": words(*own),
            "broader": words(*own, *other),
            "narrower": words(own[0]),
            "sibling": words(*other),
            "shuffled": words(*set_words((latent + 5) % SETS)),
        }
    return texts


@pytest.mark.parametrize("scorer", ["detection", "simulation", "fuzzing"])
def test_every_score_of_planted_words_orders_what_is_right(
    records: dict[int, LatentRecord], scorer: str
) -> None:
    texts = strings()
    execution = Execution(device="cpu")
    judge = scorers[scorer](scorers[scorer].config(), ScorerServices(execution, 0))
    lexical = predictors["lexical"]
    reader = lexical(lexical.config(), PredictorServices(execution, 0))
    chosen = [records[latent] for latent in texts]
    work = worth.score_strings(chosen, list(texts.values()), judge, reader, 0)
    scores = finished(work)
    told = worth.discrimination(scores, [str(latent) for latent in texts])
    assert told.n_latents == SETS
    assert told.share.value is not None and told.share.value > 0.9
    shuffled = told.by_pair["right", "shuffled"]
    assert shuffled.value == 1.0


def test_no_order_is_found_in_scores_drawn_at_random() -> None:
    generator = np.random.default_rng(0)
    scores = [dict(zip(truth.KINDS, generator.random(5), strict=True)) for _ in range(400)]
    told = worth.discrimination(scores, [str(n) for n in range(400)])
    assert told.share.value == pytest.approx(0.5, abs=0.03)


def test_a_string_without_a_score_makes_no_pair_and_is_counted() -> None:
    scores = [{"right": 0.9, "shuffled": None}, {"right": 0.8, "shuffled": 0.5}]
    told = worth.discrimination(scores, ["a", "b"])
    assert (told.n_latents, told.n_failed) == (1, 1)


def test_two_draws_that_agree_correlate() -> None:
    generator = np.random.default_rng(1)
    truth_of = generator.random(200)
    first, second = (truth_of + 0.1 * generator.random(200) for _ in range(2))
    found = worth.agreement(list(first), list(second))
    assert found.value is not None and found.low is not None
    assert found.value > found.low > worth.LEAST_RELIABILITY
    noise = worth.agreement(list(first), list(generator.random(200)))
    assert noise.low is not None and noise.high is not None
    assert noise.low < 0 < noise.high


@pytest.mark.parametrize("second", [[1.0] * 20, [None] * 20, list(range(5)) + [None] * 15])
def test_agreement_is_absent_where_nothing_can_be_said(second: list[float | None]) -> None:
    assert worth.agreement([float(n) for n in range(20)], second).value is None


def test_what_density_alone_makes_is_no_agreement() -> None:
    generator = np.random.default_rng(2)
    density = generator.random(500)
    first, second = (density + 0.05 * generator.random(500) for _ in range(2))
    plain = worth.agreement(list(first), list(second))
    partial = worth.partial_agreement(list(first), list(second), list(density))
    assert plain.value is not None and plain.value > 0.9
    assert partial is not None and abs(partial) < 0.15
