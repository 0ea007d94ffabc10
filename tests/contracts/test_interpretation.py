"""Laws for every explainer, predictor and scorer: in order, in bounds, and nobody drops out.

Entries that need a service or a model join with doubles of those; what stands here needs neither.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from components.config import Config
from components.interpretation.contract import (
    Explainer,
    LatentEvidence,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.latent_contract import latent_scorers
from components.interpretation.trials import Answer, Question, Unit
from components.interpretation.windows import Windows
from tests.interpretation.windows_of import EXPLAINER, PREDICTOR, SCORER, trials_of, windows_of

SERVICES = {"explainer": EXPLAINER, "predictor": PREDICTOR, "scorer": SCORER}
REGISTRIES = (explainers, predictors, scorers, latent_scorers)
EVERY_ENTRY = [(registry, name) for registry in REGISTRIES for name in registry.names()]
OF_WINDOWS = [name for name in scorers.names() if scorers[name].needs != "choice"]
"""Scorers whose trials are windows of the test split; those of a choice are texts that a model has
to write first (tests/interpretation/test_intervention.py)."""
CASES = [
    (name, unit)
    for name in predictors.names()
    for unit in sorted(predictors[name].gives)
    if name != "language_model"  # wants one that reads prose: test_language_model.py
]


def windows(seed: int = 0, n: int = 40) -> Windows:
    """Half of the windows hold the word on which the latent fires."""
    random = np.random.default_rng(seed)
    lines, activations = [], []
    for number in range(n):
        words = random.choice(["the", "old", "sea", "sky", "was", "far"], 12).tolist()
        values = [0.0] * 12
        if number % 2:
            words[5], values[5] = "harbor", float(random.uniform(1, 2))
        lines.append(" ".join(words))
        activations.append(values if number % 2 else [])
    return windows_of(lines, activations)


def entry(registry, name: str, **settings: str):
    return registry[name](registry[name].config(**settings), SERVICES[registry.noun])


@pytest.fixture
def explainer(request: pytest.FixtureRequest, tmp_path: Path) -> Explainer:
    """The explainer of that name; one that needs a file has one, which tells of the first
    latent."""
    settings = {}
    if request.param == "given":
        settings = {"path": str(tmp_path / "known.csv")}
        (tmp_path / "known.csv").write_text(
            'latent,text\n7,"the word ""harbor"""\n', encoding="utf-8"
        )
    return entry(explainers, request.param, **settings)


@pytest.mark.parametrize(("registry", "name"), EVERY_ENTRY)
def test_an_entry_says_what_it_is_and_needs_no_settings(registry, name: str) -> None:
    found = registry[name]
    assert found.__doc__ and found.config.__doc__
    assert isinstance(found.config(), Config)
    assert isinstance(found.version, int)


@pytest.mark.parametrize("explainer", explainers.names(), indirect=True)
def test_an_explainer_says_one_short_thing_of_each_latent_in_order(explainer: Explainer) -> None:
    shown = windows(0)
    harbor = shown.texts.words == shown.texts.vocabulary.find("harbor")
    label = {"word.harbor": harbor, "word.sea": ~harbor}
    evidence = [
        LatentEvidence(7, shown, (" harbor", " sea"), (" sky",), lambda _: label),
        LatentEvidence(3, windows_of(["a b"] * 4, [[1, 0], [], [0, 1], []])),
    ]
    said = list(explainer.explain(evidence))
    assert len(said) == 2
    assert all(each.text is None or 0 < len(each.text) <= explainer.longest for each in said)
    assert said == list(explainer.explain(evidence))
    assert said[0].text is not None
    if explainer.kind == "constant":
        assert said[0] == said[1]
    else:
        assert "harbor" in said[0].text


@pytest.mark.parametrize("name", [name for name in explainers.names() if name != "given"])
def test_an_explainer_that_may_write_little_writes_little_or_nothing(name: str) -> None:
    kind = explainers[name]
    shown = windows(0)
    label = {"word." + "harbor" * 9: shown.activations > 0}
    evidence = LatentEvidence(7, shown, (" harbor" * 3, " sea"), (), lambda _: label)
    short = kind(kind.config(), dataclasses.replace(EXPLAINER, longest=40))
    (said,) = short.explain([evidence])
    assert said.reason if said.text is None else len(said.text) <= 40


@pytest.mark.parametrize(("name", "unit"), CASES)
def test_a_predictor_answers_each_question_in_order_in_the_unit_asked_for(
    name: str, unit: Unit
) -> None:
    texts = windows().texts
    marks = (
        np.arange(texts.tokens.size).reshape(texts.tokens.shape) % 3 == 0
        if unit == "marks"
        else None
    )
    group = np.arange(len(texts.tokens)) // 4 if unit == "choice" else None
    questions = [Question(f'the word "{word}"', texts, marks, group) for word in ("harbor", "sky")]
    answers = list(entry(predictors, name).predict(questions, unit))
    assert len(answers) == 2
    shape = texts.tokens.shape if unit == "tokens" else (len(texts.tokens),)
    for answer in answers:
        assert answer.values is not None and answer.values.shape == shape
    (alone,) = entry(predictors, name).predict(questions[1:], unit)
    np.testing.assert_array_equal(alone.values, answers[1].values)


@pytest.mark.parametrize("name", OF_WINDOWS)
def test_a_scorer_puts_the_truth_above_chance_and_a_guess_at_chance(name: str) -> None:
    scorer = entry(scorers, name)
    trials = trials_of(scorer, windows())
    truth = trials.truth.astype(np.float64)
    guess = np.random.default_rng(0).random(truth.shape)
    random = np.random.default_rng(0)
    best, none = (scorer.score(Answer(values), trials, random) for values in (truth, guess))
    assert best.value > 0.95
    assert abs(none.value - scorer.chance) < 0.2
    for found in (best, none):
        assert found.n == len(trials) and found.n_failed == 0
        assert found.low is not None and found.high is not None
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("name", OF_WINDOWS)
def test_a_scorer_counts_windows_without_an_answer_and_leaves_them_at_chance(name: str) -> None:
    scorer = entry(scorers, name)
    shown = trials_of(scorer, windows())
    truth = shown.truth.astype(np.float64)
    half = truth.copy()
    n = len(truth) // 2
    half[:n] = np.nan
    found = scorer.score(Answer(half, "timed out"), shown, np.random.default_rng(0))
    assert (found.n, found.n_failed, found.reason) == (len(shown), n, "timed out")
    assert (
        scorer.chance
        < found.value
        < scorer.score(Answer(truth), shown, np.random.default_rng(0)).value
    )
    nothing = scorer.score(
        Answer(np.full_like(truth, np.nan), "timed out"), shown, np.random.default_rng(0)
    )
    assert (nothing.value, nothing.n_failed, nothing.reason) == (
        scorer.chance,
        len(shown),
        "timed out",
    )


@pytest.mark.parametrize("name", latent_scorers.names())
def test_a_latent_scorer_declares_measures_of_its_own_name_with_a_range(name: str) -> None:
    kind = latent_scorers[name]
    assert kind.null and kind.measures
    for measure in kind.measures:
        assert measure.name.startswith(f"{name}.")
        assert measure.least is not None and measure.most is not None
