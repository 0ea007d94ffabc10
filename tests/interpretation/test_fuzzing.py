"""Fuzzing: marks by hand, no cue of place or number left, and everybody who knows nothing at
exactly one half."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pytest

from components.interpretation.contract import LatentRecord, Predictor
from components.interpretation.explanation import Explanation
from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.protocol import draw, score
from components.interpretation.scorers.fuzzing import Fuzzing, FuzzingConfig
from components.interpretation.trials import Answer, LatentScore, Question, Trials, Unit
from components.interpretation.windows import Texts, Windows
from tests.interpretation.planted import NOISE, PHRASES, finished
from tests.interpretation.windows_of import PREDICTOR, SCORER, texts_of, windows_of

FUZZING = Fuzzing(FuzzingConfig(), SCORER)
LEXICAL = Lexical(LexicalConfig(), PREDICTOR)


def trials(windows: Windows, scorer: Fuzzing = FUZZING) -> Trials:
    return scorer.trials(
        LatentRecord(0, 0.1, 0, windows, windows, windows), np.random.default_rng(0)
    )


def scored(
    records: Sequence[LatentRecord], texts: Sequence[str], by: Predictor
) -> list[LatentScore]:
    said = [Explanation(text) for text in texts]
    return finished(score("said", records, draw(FUZZING, records, 0), said, FUZZING, by, 0))


class Of(Predictor):
    """Answers with a number made from the texts and the marks, whatever the explanation is."""

    kind, config = "test", LexicalConfig
    gives = frozenset({"marks"})

    def __init__(self, answer: Callable[[Texts, np.ndarray], np.ndarray]) -> None:
        super().__init__(LexicalConfig(), PREDICTOR)
        self.answer = answer

    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        for question in questions:
            assert unit == "marks" and question.marks is not None
            yield Answer(np.asarray(self.answer(question.texts, question.marks), dtype=np.float64))


class Tokens(Predictor):
    """The lexical predictor where it gives tokens and nothing else."""

    kind, config = "test", LexicalConfig
    gives = frozenset({"tokens"})

    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        assert unit == "tokens"
        yield from LEXICAL.predict(questions, "tokens")


def test_a_token_is_marked_from_three_tenths_of_its_windows_largest_activation() -> None:
    lines = ["a b c d"] * 2 + ["e f g h"] * 2
    windows = windows_of(lines, [[0.0, 10.0, 3.0, 2.9], [4.0, 0.0, 0.0, 1.1], [], []])
    asked = trials(windows)
    assert asked.marks is not None
    right = {tuple(row) for row in asked.marks[asked.truth].tolist()}
    assert right == {(False, True, True, False), (True, False, False, False)}
    strict = trials(windows, Fuzzing(FuzzingConfig(threshold=1.0), SCORER))
    assert strict.marks is not None
    assert (strict.marks.sum(1) == 1).all()


def test_wrong_marks_have_the_number_and_the_places_of_the_right_ones(
    records: dict[int, LatentRecord],
) -> None:
    for latent in [*PHRASES, NOISE]:
        (asked,) = draw(FUZZING, [records[latent]], 0)
        marks, texts = asked.marks, asked.texts
        assert marks is not None and set(asked.strata) == {"silent", "active"}
        assert (marks <= texts.present).all() and (marks.sum(1) < texts.present.sum(1)).all()
        for mask in asked.strata.values():
            right, wrong = (
                sorted(map(tuple, marks[mask & part])) for part in (asked.truth, ~asked.truth)
            )
            assert right == wrong
        shown = {
            tuple(tokens): marked
            for tokens, marked in zip(texts.tokens[asked.truth], marks[asked.truth], strict=True)
        }
        of_active = asked.strata["active"] & ~asked.truth
        for tokens, marked in zip(texts.tokens[of_active], marks[of_active], strict=True):
            assert not (shown[tuple(tokens)] & marked).any()  # other tokens of the same window
        silent = {
            tuple(row)
            for row in records[latent].test.texts.tokens[~records[latent].test.active].tolist()
        }
        of_silent = asked.strata["silent"] & ~asked.truth
        assert {tuple(row) for row in texts.tokens[of_silent].tolist()} <= silent


def _places(of: Callable[..., np.ndarray]) -> Callable[[Texts, np.ndarray], np.ndarray]:
    """The least, the greatest or the mean place of the marks of each window."""
    return lambda _, marks: np.array([of(np.flatnonzero(row)) for row in marks], dtype=np.float64)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _, marks: np.ones(len(marks)),
        lambda _, marks: np.zeros(len(marks)),
        lambda _, marks: np.full(len(marks), np.nan),
        lambda _, marks: marks.sum(1),
        _places(np.min),
        _places(np.max),
        _places(np.mean),
    ],
    ids=["always yes", "always no", "no answer", "number", "first", "last", "middle"],
)
def test_who_looks_at_marks_alone_scores_exactly_one_half(
    records: dict[int, LatentRecord], answer: Callable[[Texts, np.ndarray], np.ndarray]
) -> None:
    chosen = [records[latent] for latent in [*PHRASES, NOISE]]
    for each in scored(chosen, ["anything"] * len(chosen), Of(answer)):
        assert each.value == 0.5
        assert {name: part.value for name, part in each.strata.items()} == {
            "silent": 0.5,
            "active": 0.5,
        }


def test_the_length_of_a_window_tells_hardly_anything(records: dict[int, LatentRecord]) -> None:
    chosen = [records[latent] for latent in PHRASES]
    share = Of(lambda texts, marks: marks.sum(1) / texts.present.sum(1))
    values = [each.value for each in scored(chosen, ["anything"] * len(chosen), share)]
    assert 0.47 < np.mean(values) < 0.53


def test_an_empty_string_and_always_yes_score_exactly_one_half(
    records: dict[int, LatentRecord],
) -> None:
    (asked,) = draw(FUZZING, [records[0]], 0)
    (answer,) = LEXICAL.predict([asked.question("")], "marks")
    assert answer.values is None  # nothing was read: the protocol leaves it at chance
    (told,) = scored([records[0]], ["..."], LEXICAL)
    assert (told.value, told.n_failed, told.reason) == (
        0.5,
        told.n,
        "no word can be read from the explanation",
    )
    assert {part.value for part in told.strata.values()} == {0.5}
    everywhere = asked.question("").marked(np.ones(asked.texts.tokens.shape))
    assert FUZZING.score(Answer(everywhere), asked, None).value == 0.5


def test_a_predictor_of_tokens_is_asked_for_marks_too(records: dict[int, LatentRecord]) -> None:
    chosen, texts = [records[latent] for latent in PHRASES], list(PHRASES.values())
    assert Tokens.answers("marks") and not Tokens.answers("windows") and not Of.answers("tokens")
    assert scored(chosen, texts, Tokens(LexicalConfig(), PREDICTOR)) == scored(
        chosen, texts, LEXICAL
    )


def test_where_every_place_is_the_latents_own_only_silent_windows_are_marked_wrongly() -> None:
    lines = ["the old harbor was far", "a red harbor is near"] * 3 + ["the old sky was far"] * 6
    asked = trials(windows_of(lines, [[0, 0, 1, 0, 0]] * 6 + [[]] * 6))
    assert set(asked.strata) == {"silent"}
    answer = next(LEXICAL.predict([asked.question('the word "harbor"')], "marks"))
    found = FUZZING.score(answer, asked, np.random.default_rng(0))
    assert (found.value, found.n, set(found.strata)) == (1.0, 12, {"silent"})
    assert found.low is not None and found.low < 1


def test_the_score_is_the_mean_of_both_kinds_by_hand() -> None:
    texts = texts_of(["a b"] * 5)
    truth = np.array([True, True, False, False, False])
    strata = {
        "silent": np.array([True, True, True, True, False]),
        "active": np.array([True, False, False, False, True]),
    }
    asked = Trials(texts, truth, marks=np.zeros((5, 2), bool), strata=strata)
    found = FUZZING.score(Answer(np.array([2.0, 0.0, 1.0, 0.0, 3.0])), asked, None)
    assert {name: (part.value, part.n) for name, part in found.strata.items()} == {
        "silent": ((1 + 1 + 0 + 0.5) / 4, 4),
        "active": (0.0, 2),
    }
    assert found.value == (2.5 / 4 + 0) / 2


def test_a_latent_that_is_active_on_every_token_asks_nothing_and_stays_at_chance() -> None:
    windows = windows_of(["a b c"] * 10 + ["d e f"] * 10, [[1, 1, 1]] * 10 + [[]] * 10)
    assert len(trials(windows)) == 0
    record = LatentRecord(0, 0.5, 9, windows, windows, windows)
    (found,) = scored([record], ['the word "a"'], LEXICAL)
    assert (found.value, found.n, found.reason) == (0.5, 0, "no window can be marked wrongly")
