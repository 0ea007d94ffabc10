"""Right strings score above 0.95 and shuffled ones at chance, on the planted features of two
worlds, by every offline explainer that can say them and every scorer of strings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.interpretation.contract import LatentEvidence, LatentRecord, explainers, scorers
from components.interpretation.controls import shuffled
from components.interpretation.explanation import Explanation
from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.protocol import draw, explain, score
from components.store.artifact import Store
from tests.interpretation.conftest import records_of
from tests.interpretation.planted import PHRASES, SENSE, SETS, finished, plant
from tests.interpretation.windows_of import EXPLAINER, PREDICTOR, SCORER

SAYS = {"token_lookup": range(SETS), "logistic": [latent for latent in PHRASES if latent != SENSE]}
"""What can be said by each: a list of words; words and the word before them."""


@pytest.fixture(scope="module")
def worlds(
    records: dict[int, LatentRecord], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[int, LatentRecord]]:
    other = plant(Store(Path(tmp_path_factory.mktemp("other"))), seed=1)
    return [records, records_of(other)]


def values(
    chosen: list[LatentRecord], said: list[Explanation], scorer: str, trials: list | None = None
) -> np.ndarray:
    asked = scorers[scorer](scorers[scorer].config(), SCORER)
    lexical = Lexical(LexicalConfig(), PREDICTOR)
    drawn = trials or draw(asked, chosen, 0)
    return np.array(
        [each.value for each in finished(score("said", chosen, drawn, said, asked, lexical, 0))]
    )


@pytest.mark.parametrize("scorer", ["detection", "fuzzing"])
@pytest.mark.parametrize("explainer", SAYS)
def test_what_an_explainer_says_is_told_from_what_it_says_of_others(
    worlds: list[dict[int, LatentRecord]], explainer: str, scorer: str
) -> None:
    right, wrong = [], []
    entry = explainers[explainer](explainers[explainer].config(), EXPLAINER)
    for number, records in enumerate(worlds):
        chosen = [records[latent] for latent in SAYS[explainer]]
        evidence = [LatentEvidence(record.latent, record.explain) for record in chosen]
        said = finished(explain(explainer, entry, chosen, evidence))
        right += values(chosen, said, scorer).tolist()
        wrong += values(
            chosen, shuffled(chosen, said, np.random.default_rng(number)), scorer
        ).tolist()
    assert len(right) >= 16
    assert np.mean(right) > 0.95
    assert 0.45 < np.mean(wrong) < 0.55


def test_fuzzing_tells_every_planted_phrase_from_the_others(
    records: dict[int, LatentRecord],
) -> None:
    chosen, said = (
        [records[latent] for latent in PHRASES],
        [Explanation(phrase) for phrase in PHRASES.values()],
    )
    assert values(chosen, said, "fuzzing").min() > 0.95


def test_a_list_of_tokens_cannot_say_what_stands_before(records: dict[int, LatentRecord]) -> None:
    after = [latent for latent in PHRASES if latent >= SETS]
    chosen = [records[latent] for latent in after]
    evidence = [LatentEvidence(record.latent, record.explain) for record in chosen]
    said = {}
    for name in ("token_lookup", "logistic"):
        entry = explainers[name](explainers[name].config(), EXPLAINER)
        said[name] = finished(explain(name, entry, chosen, evidence))
    listed, contexts = (values(chosen, said[name], "detection") for name in said)
    assert (contexts >= listed).all() and contexts.mean() > listed.mean() + 0.15
