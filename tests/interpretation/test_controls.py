"""Controls: shuffled explanations come from elsewhere in the same decile; the probe learns what
there is to learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import Ridge

from components.interpretation.contract import LatentRecord
from components.interpretation.controls import shuffled
from components.interpretation.explanation import Explanation
from components.interpretation.ngrams import incidences
from components.interpretation.probe import DESIGNS, Block, NgramProbe, ridge
from components.interpretation.scorers.detection import Detection, DetectionConfig
from components.interpretation.scorers.simulation import Simulation, SimulationConfig
from components.interpretation.trials import Question
from tests.interpretation.planted import AFTER, BIGRAM, NOISE, PHRASES, SENSE
from tests.interpretation.windows_of import SCORER, windows_of

EMPTY = windows_of(["a"], [[1.0]])


def records_of(deciles: list[int]) -> list[LatentRecord]:
    return [
        LatentRecord(latent, 0.1, decile, EMPTY, EMPTY, EMPTY)
        for latent, decile in enumerate(deciles)
    ]


def explanations_of(said: list[bool]) -> list[Explanation]:
    return [
        Explanation(str(n)) if text else Explanation(None, "none") for n, text in enumerate(said)
    ]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=30),
    st.integers(0, 9),
)
def test_nobody_is_read_with_their_own_explanation(rows: list[tuple[int, bool]], seed: int) -> None:
    deciles, said = [decile for decile, _ in rows], [text for _, text in rows]
    given_to = shuffled(records_of(deciles), explanations_of(said), np.random.default_rng(seed))
    for number, explanation in enumerate(given_to):
        others = [n for n, text in enumerate(said) if text and n != number]
        if not others:
            assert explanation.text is None and explanation.reason
            continue
        donor = int(explanation.text or -1)
        assert donor in others
        if any(deciles[n] == deciles[number] for n in others):
            assert deciles[donor] == deciles[number]


def test_inside_a_decile_every_explanation_is_used_once() -> None:
    given_to = shuffled(records_of([0] * 9), explanations_of([True] * 9), np.random.default_rng(0))
    assert sorted(int(explanation.text or -1) for explanation in given_to) == list(range(9))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "c", None])), max_size=25),
    st.sets(st.tuples(st.integers(0, 24), st.integers(0, 24))),
    st.integers(0, 9),
)
def test_no_relative_lends_its_explanation_and_nobody_gets_its_own_words(
    rows: list[tuple[int, str | None]], pairs: set[tuple[int, int]], seed: int
) -> None:
    deciles, texts = [decile for decile, _ in rows], [text for _, text in rows]
    alike = [
        frozenset(other for other in range(len(rows)) if {(n, other), (other, n)} & pairs)
        for n in range(len(rows))
    ]
    own = [Explanation(text, None if text else "none") for text in texts]
    lent = shuffled(records_of(deciles), own, np.random.default_rng(seed), alike)
    for number, explanation in enumerate(lent):
        lenders = [
            n for n, text in enumerate(texts)
            if text and n != number and n not in alike[number] and text != texts[number]
        ]  # fmt: skip
        assert explanation.text in ({texts[n] for n in lenders} or {None})
        if inside := {texts[n] for n in lenders if deciles[n] == deciles[number]}:
            assert explanation.text in inside


def test_of_two_families_in_a_decile_each_gets_the_others_explanations() -> None:
    halves = [frozenset(set(range(5 * half, 5 * half + 5)) - {n}) for half in (0, 1) for n in range(5 * half, 5 * half + 5)]  # fmt: skip
    for seed in range(10):
        random = np.random.default_rng(seed)
        lent = shuffled(records_of([0] * 10), explanations_of([True] * 10), random, halves)
        given_to = [int(explanation.text or -1) for explanation in lent]
        assert all((n < 5) != (number < 5) for number, n in enumerate(given_to))


@pytest.mark.parametrize("latent", [0, BIGRAM, AFTER, SENSE])
def test_the_probe_finds_a_planted_rule(latent: int, records: dict[int, LatentRecord]) -> None:
    record = records[latent]
    probe = NgramProbe.fit(record)
    random = np.random.default_rng(0)
    detection = Detection(DetectionConfig(), SCORER)
    simulation = Simulation(SimulationConfig(), SCORER)
    for scorer, least in ((detection, 0.9), (simulation, 0.75)):
        trials = scorer.trials(record, random)
        assert (
            scorer.score(probe.answer(trials.question(""), scorer.needs), trials, random).value
            > least
        )


def test_the_probe_finds_no_rule_where_there_is_none(records: dict[int, LatentRecord]) -> None:
    record = records[NOISE]
    scorer = Detection(DetectionConfig(), SCORER)
    trials = scorer.trials(record, np.random.default_rng(0))
    answer = NgramProbe.fit(record).answer(trials.question(""), "windows")
    assert 0.3 < scorer.score(answer, trials, np.random.default_rng(0)).value < 0.7


def test_the_probe_takes_earlier_words_only_where_they_carry_over(
    records: dict[int, LatentRecord],
) -> None:
    assert "near" not in NgramProbe.fit(records[BIGRAM]).keys


def test_the_probe_never_sees_the_test_activations(records: dict[int, LatentRecord]) -> None:
    record = records[0]
    blind = dataclasses.replace(record.test, activations=np.zeros_like(record.test.activations))
    question = Question("", record.test.texts)
    first = NgramProbe.fit(record).answer(question, "tokens").values
    second = (
        NgramProbe.fit(dataclasses.replace(record, test=blind)).answer(question, "tokens").values
    )
    assert first is not None and second is not None
    np.testing.assert_array_equal(first, second)


def test_the_planted_phrases_are_all_in_the_sample(records: dict[int, LatentRecord]) -> None:
    assert set(PHRASES) <= set(records)


@pytest.mark.parametrize("latent", [0, AFTER, SENSE])
def test_the_probe_is_the_ridge_regression_of_scikit_learn(
    latent: int, records: dict[int, LatentRecord]
) -> None:
    windows = records[latent].explain
    there = np.flatnonzero(windows.texts.present)
    for shapes in DESIGNS:
        weights = ridge({shape: Block.of(windows, shape) for shape in shapes}, windows)
        columns = []
        for shape in shapes:
            # every token on which a condition holds, also of `near`
            token, key = incidences(windows.texts, shape)
            keys = Block.of(windows, shape).keys
            ordered = np.argsort(keys)
            place = np.searchsorted(keys, key, sorter=ordered).clip(max=len(keys) - 1)
            holds = keys[ordered[place]] == key
            entries = np.ones(holds.sum()), (token[holds], ordered[place[holds]])
            columns.append(sparse.csr_array(entries, (windows.texts.tokens.size, len(keys))))
        design = sparse.csr_matrix(sparse.hstack(columns))[there]
        exact = Ridge(alpha=1.0, solver="sparse_cg", tol=1e-10).fit(
            design, windows.activations.ravel()[there]
        )
        found = design @ np.concatenate([weights[shape] for shape in shapes])
        assert np.corrcoef(found, design @ exact.coef_)[0, 1] > 0.9999
        assert (
            np.abs(
                found - found.mean() - design @ exact.coef_ + (design @ exact.coef_).mean()
            ).max()
            < 0.02
        )
