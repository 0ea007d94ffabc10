"""The log-odds explainer names what stands out, from explain windows alone, or says why it
cannot."""

from __future__ import annotations

import numpy as np
import pytest

from components.interpretation.contract import LatentEvidence, LatentRecord
from components.interpretation.explainers.log_odds import LogOdds, LogOddsConfig, _z
from components.interpretation.explanation import LONGEST, Explanation
from components.interpretation.phrase import read
from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.trials import Question
from tests.interpretation.planted import NOISE, PHRASES
from tests.interpretation.windows_of import EXPLAINER, PREDICTOR, texts_of, windows_of


def explain(lines: list[str], activations: list[list[float]], **settings: float) -> Explanation:
    explainer = LogOdds(LogOddsConfig(**settings), EXPLAINER)
    return next(explainer.explain([LatentEvidence(0, windows_of(lines, activations))]))


def test_z_is_the_one_worked_out_by_hand() -> None:
    # 3 of 4 active and 1 of 4 other tokens: odds 3.5/1.5 and 1.5/3.5.
    found = _z(np.array([3.0, 0.0]), np.array([1.0, 0.0]), 4, 4)
    assert found[0] == pytest.approx(2 * np.log(3.5 / 1.5) / np.sqrt(2 / 3.5 + 2 / 1.5))
    assert found[1] == 0.0


@pytest.mark.parametrize("latent", PHRASES)
def test_the_planted_words_are_found(latent: int, records: dict[int, LatentRecord]) -> None:
    explainer = LogOdds(LogOddsConfig(), EXPLAINER)
    found = next(explainer.explain([LatentEvidence(latent, records[latent].explain)]))
    assert found.text is not None
    assert set(read(PHRASES[latent])) <= set(read(found.text))


def test_explanations_are_short_whatever_is_asked(records: dict[int, LatentRecord]) -> None:
    explainer = LogOdds(LogOddsConfig(terms=100, gain=0, z=0, documents=1), EXPLAINER)
    found = next(explainer.explain([LatentEvidence(NOISE, records[NOISE].explain)]))
    assert found.text is not None
    assert LONGEST / 2 < len(found.text) <= LONGEST


def test_words_that_cannot_be_shown_give_no_explanation() -> None:
    found = explain(["a \ufffd b"] * 9 + ["a c b"] * 9, [[0, 1, 0]] * 9 + [[]] * 9, documents=1)
    assert found.text is None or "\ufffd" not in found.text
    found = explain(["\ufffd"] * 9 + ["c"] * 9, [[1]] * 9 + [[]] * 9)
    assert found == Explanation(
        None,
        "no readable word stands out where it is active, with a z of at least 2 in 2 documents "
        "(interpret.explainer_settings.log_odds.z, .documents)",
    )


def test_words_that_do_not_follow_the_activation_are_no_explanation() -> None:
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(list("abcdef"), 20)) for _ in range(60)]
    activations = [(random.random(20) * (random.random(20) < 0.3)).tolist() for _ in range(30)] + [
        []
    ] * 30
    found = explain(lines, activations, least=0.9)
    assert found.text is None
    assert found.reason is not None
    assert found.reason.startswith(
        "no words follow its activation: the best reach a correlation of 0."
    )


def test_a_word_of_one_document_is_no_evidence() -> None:
    lines, activations = ["a x"] + ["b c"] * 20, [[0, 9]] + [[1, 0]] * 10 + [[]] * 10
    found = explain(lines, activations)
    assert found.text is None or '"x"' not in found.text


def test_a_character_of_several_tokens_is_one_word() -> None:
    # 日 and 月 as bytes: they begin alike, so no single byte tells one from the other.
    sun, moon = ["<0xE6>", "<0x97>", "<0xA5>"], ["<0xE6>", "<0x9C>", "<0x88>"]
    lines = [" ".join(["a", *sun, "b"])] * 10 + [" ".join(["a", *moon, "b"])] * 10
    found = explain(lines, [[0, 1, 2, 3, 0]] * 10 + [[]] * 10)
    assert found.text == 'the word "日"'
    texts = windows_of(lines, [[1]] * 20).texts
    answer = next(
        Lexical(LexicalConfig(), PREDICTOR).predict([Question(found.text, texts)], "tokens")
    )
    assert answer.values is not None
    assert (answer.values == np.array([[0, 1, 1, 1, 0]] * 10 + [[0] * 5] * 10)).all()


def test_what_stands_before_a_character_stands_before_all_of_it() -> None:
    texts = texts_of(["a <0xE6> <0x97> <0xA5> b"])
    names = texts.vocabulary.words
    assert [names[word] for word in texts.words[0]] == ["a", "日", "日", "日", "b"]
    assert [names[word] if word >= 0 else None for word in texts.left[0]] == [
        None,
        "a",
        "a",
        "a",
        "日",
    ]


def test_a_byte_that_makes_no_character_is_not_explained() -> None:
    found = explain(["a <0x97> b"] * 9 + ["a c b"] * 9, [[0, 1, 0]] * 9 + [[]] * 9)
    assert found.text is None or "0x" not in found.text
