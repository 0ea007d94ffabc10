"""The judges on a trained tiny model: what they accept, what they refuse, and what cannot game them."""

from __future__ import annotations

import numpy as np
import pytest

from components.steering.contract import Continuation, Judge
from components.steering.judges.concept import ConceptConfig, ConceptJudge
from components.steering.judges.fluency import Fluency, FluencyConfig
from components.steering.protocol import Job, Prompt, Writer, continuation
from components.steering.steer import SteerConfig, _material
from tests.steering.conftest import Bench
from tests.steering.world import finish

GOOD = "the cat ran . the dog sat . the dog saw . the cat ate ."
NOUN = "cat"


@pytest.fixture(scope="module")
def writer(bench: Bench) -> Writer:
    return Writer(bench.model, 16, 1.0, 0, 64)


@pytest.fixture(scope="module")
def plain(writer: Writer) -> list[Continuation]:
    return finish(writer.write([Job(Prompt(i, (1, 4, 21 + i % 2)), i) for i in range(60)]))[0]


@pytest.fixture(scope="module")
def panel(bench: Bench, writer: Writer, plain: list[Continuation]) -> tuple[ConceptJudge, Fluency]:
    prompts = [Prompt(0, (1, 4, 21))]
    material = _material(bench.corpus, bench.concepts, writer, prompts, plain, SteerConfig(max_new_tokens=16))
    return ConceptJudge(ConceptConfig(), material), Fluency(FluencyConfig(), material)


def read(writer: Writer, text: str) -> Continuation:
    """A text as if it had been written after a prompt."""
    ids = writer.model.tokenizer(text)["input_ids"]
    return continuation(text, len(ids), float(writer.losses([(1, 4, 21)], [ids])[0]))


def composite(writer: Writer, panel: tuple[ConceptJudge, Fluency], plain: float, text: Continuation) -> float:
    """Harmonic mean of uplift (of what was left to gain) and fluency; 0 for no text."""
    said = [float(judge.scores([text])[0, 0]) for judge in panel]
    if np.isnan(said).any():
        return 0.0
    gained, fluent = float(np.clip((said[0] - plain) / (1 - plain), 0, 1)), said[1]
    return 0.0 if min(gained, fluent) == 0 else 2 / (1 / gained + 1 / fluent)


def test_real_text_of_the_concept_is_recognised_and_other_text_is_not(
    writer: Writer, panel: tuple[ConceptJudge, Fluency]
) -> None:
    other = "the king ran . the queen sat . the queen saw . the king ate ."
    with_it, without = panel[0].scores([read(writer, GOOD), read(writer, other)])[:, 0]
    assert with_it > 0.8
    assert without < 0.2
    assert panel[1].scores([read(writer, GOOD)])[0, 0] > 0.8


def test_concepts_that_text_does_not_tell_are_refused_with_the_reason(panel: tuple[ConceptJudge, Fluency]) -> None:
    refused = panel[0].refusals()
    assert set(refused) == {"topic.noise", "word.blue"}
    assert refused["topic.noise"].startswith("AUROC 0.") and refused["topic.noise"].endswith("wanted 0.9")
    assert refused["word.blue"].startswith("0 of ") and "at least 5" in refused["word.blue"]
    assert panel[1].refusals() == {}


@pytest.mark.parametrize(
    "text",
    [
        "cat dog dog cat dog cat cat dog cat dog dog cat dog cat cat dog",  # a list of keywords
        " ".join([NOUN] * 16),  # one word of the concept repeated
        "the cat ran . " + "three under red he , two in ? blue tree she on",  # a good beginning, then noise
        "dog the ate the . the ran sat . the dog saw cat the . cat .",  # the words of a good text, shuffled
        "",  # nothing
        "the king ran . the queen sat . the queen saw . the king ate .",  # another topic
    ],
)
def test_tricks_score_below_an_honest_text(
    text: str, writer: Writer, panel: tuple[ConceptJudge, Fluency], plain: list[Continuation]
) -> None:
    before = float(np.nanmean(panel[0].scores(plain)[:, 0]))
    honest = composite(writer, panel, before, read(writer, GOOD))
    assert composite(writer, panel, before, read(writer, text)) < honest - 0.1


def test_unsteered_text_is_fluent_and_gains_nothing_over_itself(
    writer: Writer, panel: tuple[ConceptJudge, Fluency], plain: list[Continuation]
) -> None:
    assert panel[1].scores(plain)[:, 0].mean() > 0.9
    before = panel[0].scores(plain)[:, 0]
    assert all(composite(writer, panel, p, text) == 0 for p, text in zip(before, plain, strict=True))


def test_repetition_is_no_way_to_be_fluent(writer: Writer, panel: tuple[ConceptJudge, Fluency]) -> None:
    assert panel[1].scores([read(writer, " ".join([NOUN] * 16))])[0, 0] < 0.2


def test_no_text_has_no_score_of_any_judge(panel: tuple[Judge, ...]) -> None:
    nothing = Continuation(None, 0, None, "the model ended at once")
    assert all(np.isnan(judge.scores([nothing])).all() for judge in panel)
