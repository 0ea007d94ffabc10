"""The judges on a trained tiny model: what they accept, what they refuse, and what cannot game
them."""

from __future__ import annotations

import numpy as np
import pytest

from components.steering.composite import composite
from components.steering.config import SteerConfig
from components.steering.contract import Continuation, JudgeServices
from components.steering.material import read_material
from components.steering.panel import Panel
from components.steering.writer import Job, Prompt, Writer, continuation
from tests.steering.conftest import Bench
from tests.steering.world import CPU, evidence, finish

GOOD = "the cat ran . the dog sat . the dog saw . the cat ate ."
NOUN = "cat"


@pytest.fixture(scope="module")
def writer(bench: Bench) -> Writer:
    return Writer(bench.model, 16, 1.0, 0, 64)


@pytest.fixture(scope="module")
def plain(writer: Writer) -> list[Continuation]:
    return finish(writer.write([Job(Prompt(i, (1, 4, 21 + i % 2)), i) for i in range(60)]))[0]


@pytest.fixture(scope="module")
def panel(bench: Bench, writer: Writer, plain: list[Continuation]) -> Panel:
    prompts = [Prompt(0, (1, 4, 21))]
    config, dictionary = (
        SteerConfig(max_new_tokens=16, max_concepts_per_family=4),
        evidence().dictionary,
    )
    assert dictionary is not None
    material = read_material(bench.targeted(config), writer, prompts, plain, config)
    return Panel.fitted(config, material, JudgeServices(CPU, 0, bench.model, dictionary))


def values(panel: Panel, judge: str, texts: list[Continuation]) -> np.ndarray:
    """What a judge says of each text for the first concept; NaN where there is no text."""
    return panel.verdicts(texts)[judge].values[:, 0]


def read(writer: Writer, text: str) -> Continuation:
    """A text as if it had been written after a prompt."""
    ids = writer.model.tokenizer(text)["input_ids"]
    return continuation(text, len(ids), float(writer.losses([(1, 4, 21)], [ids])[0]))


def reached(panel: Panel, plain: float, text: Continuation) -> float:
    """The composite of a text; 0 for no text, as a mean over generations counts it."""
    probability, fluency = (values(panel, name, [text]) for name in ("concept", "fluency"))
    return float(np.nan_to_num(composite(probability, np.array([plain]), fluency))[0])


def test_real_text_of_the_concept_is_recognised_and_other_text_is_not(
    writer: Writer, panel: Panel
) -> None:
    other = "the king ran . the queen sat . the queen saw . the king ate ."
    with_it, without = values(panel, "concept", [read(writer, GOOD), read(writer, other)])
    assert with_it > 0.8
    assert without < 0.2
    assert values(panel, "fluency", [read(writer, GOOD)])[0] > 0.8


def test_concepts_that_text_does_not_tell_are_refused_with_the_reason(panel: Panel) -> None:
    refused = panel.judges["concept"].refusals()
    assert set(refused) == {"topic.noise", "word.blue"}
    assert refused["topic.noise"].startswith("AUROC 0.") and refused["topic.noise"].endswith(
        "wanted 0.9"
    )
    assert refused["word.blue"].startswith("0 of ") and "at least 5" in refused["word.blue"]
    assert panel.judges["fluency"].refusals() == {}


@pytest.mark.parametrize(
    "text",
    [
        "cat dog dog cat dog cat cat dog cat dog dog cat dog cat cat dog",  # a list of keywords
        " ".join([NOUN] * 16),  # one word of the concept repeated
        "the cat ran . "
        + "three under red he , two in ? blue tree she on",  # a good beginning, then noise
        # the words of a good text, shuffled
        "dog the ate the . the ran sat . the dog saw cat the . cat .",
        "",  # nothing
        "the king ran . the queen sat . the queen saw . the king ate .",  # another topic
    ],
)
def test_tricks_score_below_an_honest_text(
    text: str, writer: Writer, panel: Panel, plain: list[Continuation]
) -> None:
    before = float(np.nanmean(values(panel, "concept", plain)))
    honest = reached(panel, before, read(writer, GOOD))
    assert reached(panel, before, read(writer, text)) < honest - 0.1


def test_unsteered_text_is_fluent_and_gains_nothing_over_itself(
    writer: Writer, panel: Panel, plain: list[Continuation]
) -> None:
    assert values(panel, "fluency", plain).mean() > 0.9
    before = values(panel, "concept", plain)
    assert all(reached(panel, p, text) == 0 for p, text in zip(before, plain, strict=True))


def test_repetition_is_no_way_to_be_fluent(writer: Writer, panel: Panel) -> None:
    assert values(panel, "fluency", [read(writer, " ".join([NOUN] * 16))])[0] < 0.2


def test_no_text_has_no_value_of_any_judge_but_the_reason(writer: Writer, panel: Panel) -> None:
    nothing = Continuation(None, 0, None, "the model ended at once")
    verdicts = panel.verdicts([read(writer, GOOD), nothing])
    assert set(verdicts) == {"concept", "fluency"}
    for verdict in verdicts.values():
        assert np.isnan(verdict.values[1]).all() and not np.isnan(verdict.values[0, 0])
        assert verdict.reasons == {1: "the model ended at once"}


@pytest.mark.parametrize(
    ("probability", "before", "fluency", "wanted"),
    [
        (0.6, 0.2, 1.0, 2 * 0.5 / 1.5),  # half of what was left to gain
        (1.0, 0.5, 0.5, 2 * 0.5 / 1.5),
        (0.1, 0.2, 1.0, 0.0),  # a fall is no gain
        (0.9, 0.2, 0.0, 0.0),  # all of the words and none of the text
        (1.0, 1.0, 1.0, 0.0),  # nothing was left to gain
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 1.0, 1.0),
    ],
)
def test_the_composite_is_the_harmonic_mean_of_the_share_gained_and_fluency(
    probability: float, before: float, fluency: float, wanted: float
) -> None:
    found = composite(np.array([probability]), np.array([before]), np.array([fluency]))
    assert found[0] == pytest.approx(wanted)


def test_what_was_not_judged_has_no_composite() -> None:
    known, nothing = np.array([0.5, 0.5, 0.5]), np.full(3, np.nan)
    for given in ((nothing, known, known), (known, nothing, known), (known, known, nothing)):
        assert np.isnan(composite(*given)).all()
    assert np.isnan(composite(np.array([np.nan]), np.array([1.0]), np.array([1.0])))[0]
