"""Intervention: the right string tells what a planted direction makes the model write; another
string does not, and every set costs the same."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from components.client.contract import Request
from components.dictionary.architectures.topk import TopK
from components.interpretation.contract import LatentRecord
from components.interpretation.explanation import Explanation
from components.interpretation.openings import neutral
from components.interpretation.predictors.client import ClientPredictor, ClientPredictorConfig
from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.protocol import draw, score
from components.interpretation.scorers.intervention import InterventionConfig, InterventionScorer
from components.interpretation.trials import Answer, Trials
from components.interpretation.windows import Texts, Windows
from components.model.divergence import ruler_of_vectors
from tests.interpretation.planted import finished
from tests.interpretation.pushed import HOOK, SAID, VOCABULARY, Pushed
from tests.interpretation.windows_of import PREDICTOR, Scripted, windows_of

LEXICAL = Lexical(LexicalConfig(), PREDICTOR)
SETTINGS = {"continuations": 6, "tokens": 12, "budget": 2.0}


def shown() -> Windows:
    windows = windows_of(["a b"] * 2, [[1, 0], []])
    return dataclasses.replace(windows, texts=Texts(windows.texts.tokens, VOCABULARY))


def records(latents: range) -> list[LatentRecord]:
    windows = shown()
    return [LatentRecord(n, 0.01 * (n + 1), 0, windows, windows, windows) for n in latents]


@pytest.fixture(scope="module")
def written(pushed: Pushed) -> InterventionScorer:
    """The sets of all planted latents and of as many Gaussian ones."""
    scorer = InterventionScorer(InterventionConfig(**SETTINGS), pushed.services)
    assert scorer.obstacle() is None
    for _ in scorer.prepare(records(range(2 * len(SAID)))):
        pass
    return scorer


def strings(latents: range, shift: int = 0) -> list[Explanation]:
    words = [SAID[(latent + shift) % len(SAID)] for latent in latents]
    return [Explanation(f'the word "{word}"') for word in words]


def mean(scorer: InterventionScorer, latents: range, shift: int = 0) -> tuple[float, float]:
    chosen = records(latents)
    trials = draw(scorer, chosen, 0)
    found = finished(score("x", chosen, trials, strings(latents, shift), scorer, LEXICAL, 0))
    first = [each.strata["first"].value for each in found]
    return float(np.mean([each.value for each in found])), float(np.mean(first))


def test_the_right_string_finds_the_set_of_a_planted_direction(written) -> None:
    value, first = mean(written, range(len(SAID)))
    assert value > 0.95 and first > 0.8


def test_a_string_of_another_latent_is_at_chance_or_below(written) -> None:
    value, first = mean(written, range(len(SAID)), shift=5)
    assert 0.3 < value < 0.6 and first < 0.25


def test_a_word_says_nothing_of_a_random_direction(written) -> None:
    """Sets of Gaussian directions among themselves, so that no planted one is a control."""
    gaussian = range(len(SAID), 2 * len(SAID))
    scorer = InterventionScorer(InterventionConfig(**SETTINGS), written.services)
    for _ in scorer.prepare(records(gaussian)):
        pass
    values, firsts = zip(*(mean(scorer, gaussian, shift) for shift in range(6)), strict=True)
    assert 0.4 < np.mean(values) < 0.6
    assert 0.03 < np.mean(firsts) < 0.2


def test_trials_are_groups_of_one_text_from_each_set(written) -> None:
    trials = written.trials(records(range(1))[0], np.random.default_rng(0))
    assert trials.group is not None and len(trials) == 6
    assert np.bincount(trials.group).tolist() == [10] * 6
    truth = trials.truth.reshape(6, 10)
    assert (truth.sum(axis=1) == 1).all() and (truth == truth[0]).all()
    assert trials.chances == {"first": 0.1} and trials.texts.tokens.shape == (60, 12)


def test_a_model_that_takes_the_first_place_takes_another_set_in_each_opening(written) -> None:
    def first(request: Request) -> str:
        n = len(re.findall(r"^\d+\. ", request.messages[-1].text, re.MULTILINE))
        return json.dumps({"answers": [1] + [0] * (n - 1)})

    services = dataclasses.replace(PREDICTOR, client=Scripted(first))
    reader = ClientPredictor(ClientPredictorConfig(logprobs=0), services)
    trials = written.trials(records(range(1))[0], np.random.default_rng(0))
    (answer,) = reader.predict([trials.question("a word")], "choice")
    assert answer.values is not None
    taken = answer.values.reshape(6, 10)
    assert (taken.sum(1) == 1).all() and len(set(taken.argmax(1).tolist())) > 2


def test_the_other_sets_are_those_of_the_nearest_density(written) -> None:
    others = written._others(records(range(10, 11))[0], np.random.default_rng(0))
    assert len(others) == 9 and set(others) <= set(range(5, 19)) and 10 not in others


def test_a_latent_that_points_nearly_the_same_way_lends_no_set(pushed: Pushed) -> None:
    services = dataclasses.replace(pushed.services)
    changed = services.dictionary  # loaded anew, for this test alone
    assert isinstance(changed, TopK) and changed is not pushed.services.dictionary
    with torch.no_grad():
        changed.W_dec[11] = changed.W_dec[10] + 0.1 * changed.W_dec[11]
    scorer = InterventionScorer(InterventionConfig(**SETTINGS), services)
    chosen = records(range(2 * len(SAID)))
    for _ in scorer.prepare(chosen):
        pass
    assert scorer._others(chosen[10], np.random.default_rng(0))[0] == 9
    for one, other in ((10, 11), (11, 10)):
        assert other not in scorer._others(chosen[one], np.random.default_rng(0))


def test_every_set_costs_the_budget(written, pushed: Pushed) -> None:
    services, model = pushed.services, pushed.services.language_model
    dictionary, explain = services.dictionary, services.explain
    assert dictionary is not None and explain is not None
    unit = torch.nn.functional.normalize(dictionary.decoder_directions()[:4], dim=1)
    strength = written._strengths(HOOK, unit)
    text, counts = neutral(model, explain, 512, 6, 8)
    cost = ruler_of_vectors(model, {HOOK: unit * strength[:, None]}, text, counts)
    assert cost(torch.arange(4), torch.ones(4)).tolist() == pytest.approx([2.0] * 4, rel=0.1)
    assert not counts[:, 0].any() and counts[:, 1:].all()


def test_a_latent_without_a_strength_stands_at_chance_with_the_reason(pushed: Pushed) -> None:
    scorer = InterventionScorer(InterventionConfig(**SETTINGS | {"budget": 1e6}), pushed.services)
    chosen = records(range(3))
    for _ in scorer.prepare(chosen):
        pass
    trials = draw(scorer, chosen, 0)
    assert trials[0].reason == "no strength that was tried costs 1e+06 nats a token"
    found = finished(score("x", chosen, trials, strings(range(3)), scorer, LEXICAL, 0))
    assert {(each.value, each.n, each.n_failed) for each in found} == {(0.5, 0, 0)}
    assert found[0].reason == trials[0].reason


def test_too_few_other_sets_are_said(pushed: Pushed) -> None:
    scorer = InterventionScorer(InterventionConfig(**SETTINGS), pushed.services)
    chosen = records(range(4))
    for _ in scorer.prepare(chosen):
        pass
    assert scorer.trials(chosen[0], np.random.default_rng(0)).reason == (
        "3 other latents wrote a set, wanted 9 (interpret.scorer_settings.intervention.sets)"
    )


def choice(values: list[list[float]], right: int) -> tuple[Answer, Trials]:
    n, sets = len(values), len(values[0])
    truth = np.tile(np.arange(sets) == right, n)
    texts = Texts(np.zeros((n * sets, 1), np.int64), VOCABULARY)
    group = np.repeat(np.arange(n), sets)
    strata = {"first": np.ones(n * sets, bool)}
    chances = {"first": 1 / sets}
    trials = Trials(texts, truth, group=group, strata=strata, chances=chances)
    return Answer(np.array(values, dtype=np.float64).ravel()), trials


def test_a_set_is_ranked_by_the_mean_of_its_texts(pushed: Pushed) -> None:
    scorer = InterventionScorer(InterventionConfig(), pushed.services)
    # means 2, 2.5, 1: the first set is beaten by one and beats one
    found = scorer.score(*choice([[1, 2, 0], [3, 3, 2]], 0), np.random.default_rng(0))
    assert (found.value, found.strata["first"].value) == (0.5, 0.0)
    assert found.strata["first"].chance == pytest.approx(1 / 3)
    assert found.low is not None and found.low <= 0.5 <= (found.high or 0)
    tied = scorer.score(*choice([[1, 1, 1], [2, 2, 2]], 0), None)
    assert (tied.value, tied.strata["first"].value) == (0.5, pytest.approx(1 / 3))
    # by opening less its mean: nothing, 1, -1 and 4/3, -2/3, -2/3
    missing = scorer.score(*choice([[np.nan, 2, 0], [3, 1, 1]], 0), None)
    assert (missing.value, missing.n, missing.n_failed) == (1.0, 2, 1)


def test_without_a_model_it_says_why(pushed: Pushed) -> None:
    bare = dataclasses.replace(pushed.services, model=None)
    why = InterventionScorer(InterventionConfig(), bare).obstacle()
    assert why == "there is no model: the activations came without one"
    many = InterventionScorer(InterventionConfig(continuations=90), pushed.services).obstacle()
    assert many == (
        "the explain split has 80 openings of 8 tokens and 0 other documents, wanted 90 and some "
        "more; read more text into it"
    )
