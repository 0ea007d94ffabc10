"""Judges that need no label: readback by a latent, meaning by words, patterns of the user's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.config import load
from components.dictionary.contract import Dictionary
from components.errors import ConfigError
from components.steering.config import SteerConfig
from components.steering.contract import Concept, Continuation, JudgeServices, Material
from components.steering.judges.meaning import Meaning, MeaningConfig
from components.steering.judges.pattern import Pattern, PatternConfig
from components.steering.judges.readback import Readback, ReadbackConfig
from components.steering.latent_reading import read_latents
from components.steering.material import read_material
from components.steering.writer import Job, Prompt, Writer
from tests.steering.conftest import Bench
from tests.steering.world import CPU, finish

ANIMAL = "the cat ran . the dog sat . the dog saw . the cat ate ."
ROYAL = "the king ran . the queen sat . the queen saw . the king ate ."
PROMPT = "it was big"
TARGETS = {5: (4, "the cat"), 6: (5, "the king"), 2: (2, "a tree , a river"), 3: (3, "the house")}
"""Column of a concept of the tiny world -> its latent, and what it is in words."""


@pytest.fixture(scope="module")
def services(bench: Bench) -> JudgeServices:
    return JudgeServices(CPU, 0, bench.model, Dictionary.load(bench.dictionary))


@pytest.fixture(scope="module")
def material(bench: Bench) -> Material:
    """Two words and two topics as targets, with the latents that were planted for them."""
    writer = Writer(bench.model, 16, 1.0, 0, 64)
    prompts = [Prompt.of(bench.model, 0, PROMPT)]
    plain = finish(writer.write([Job(prompts[0], sample) for sample in range(60)]))[0]
    config = SteerConfig(max_new_tokens=16)
    given = read_material(bench.targeted(config), writer, prompts, plain, config)
    labels = {
        split: dataclasses.replace(
            getattr(given, split), labels=getattr(given, split).labels[:, list(TARGETS)]
        )
        for split in ("judge", "calibrate", "validate")
    }
    targets = [
        dataclasses.replace(bench.concepts[column], latent=latent, text=text)
        for column, (latent, text) in TARGETS.items()
    ]
    return dataclasses.replace(given, targets=targets, **labels)


def read(*texts: str) -> list[Continuation]:
    return [Continuation(text, 16, 1.0, prompt=PROMPT) for text in texts]


def test_a_latent_is_read_alike_alone_and_in_a_batch_and_without_its_prompts_tokens(
    services: JudgeServices,
) -> None:
    given = (services.model, services.dictionary, [0, 1])
    pairs = [(PROMPT, ANIMAL), ("", ROYAL), (PROMPT, ""), ("then", "the cat")]
    together = read_latents(*given, pairs, rows=3)
    assert [each.shape for each in together] == [(16, 2), (16, 2), (0, 2), (2, 2)]
    for pair, each in zip(pairs, together, strict=True):
        np.testing.assert_allclose(read_latents(*given, [pair])[0], each, atol=1e-4)


def test_text_that_has_the_target_is_read_back_and_other_text_is_not(
    services: JudgeServices, material: Material
) -> None:
    judge = Readback(ReadbackConfig(silent=0.0), services)
    judge.fit(material)
    with_it, without = judge.judge(read(ANIMAL, ROYAL)).values
    assert with_it[0] > 0.5 > without[0]
    assert without[1] > 0.5 > with_it[1]


def test_more_than_real_text_has_counts_no_more(
    services: JudgeServices, material: Material
) -> None:
    judge = Readback(ReadbackConfig(silent=0.0), services)
    judge.fit(material)
    assert judge.judge(read("cat dog " * 8)).values[0, 0] <= 1.0


def test_a_latent_that_plain_text_has_is_refused_and_one_that_is_none(
    services: JudgeServices, material: Material
) -> None:
    targets = [*material.targets[:3], Concept("bare", "surface", "token")]
    judge = Readback(ReadbackConfig(silent=1.0), services)
    judge.fit(dataclasses.replace(material, targets=targets))
    refused = judge.refusals()
    assert "wanted 100%" in refused[targets[0].name]
    assert "names no latent" in refused["bare"]
    assert np.isnan(judge.judge(read(ANIMAL)).values[0, 3])


def test_without_any_latent_it_is_silent_and_says_why(
    services: JudgeServices, material: Material
) -> None:
    bare = [dataclasses.replace(target, latent=None) for target in material.targets]
    judge = Readback(ReadbackConfig(), services)
    judge.fit(dataclasses.replace(material, targets=bare))
    assert "names no latent" in (judge.silence() or "")
    assert "names no latent" in judge.judge(read(ANIMAL)).reasons[0]


def test_the_targets_words_fit_its_text_most(services: JudgeServices, material: Material) -> None:
    judge = Meaning(MeaningConfig(), services)
    judge.fit(material)
    assert judge.refusals() == {}
    with_it, without = judge.judge(read(ANIMAL, ROYAL)).values
    assert with_it[0] == without[1] == 1.0
    assert with_it[1] < 0.5


def test_a_target_without_words_or_with_words_that_tell_nothing_is_refused(
    services: JudgeServices, material: Material
) -> None:
    odd = [
        dataclasses.replace(material.targets[0], text=None),
        dataclasses.replace(material.targets[1], text="the tree"),
        *material.targets[2:],
    ]
    judge = Meaning(MeaningConfig(min_distractors=2), services)
    judge.fit(dataclasses.replace(material, targets=odd))
    refused = judge.refusals()
    assert "no words" in refused[odd[0].name]
    assert "its words do not tell" in refused[odd[1].name]
    few = Meaning(MeaningConfig(), services)
    few.fit(dataclasses.replace(material, targets=odd))
    assert "wanted at least 3" in few.refusals()[odd[2].name]
    assert few.silence() is not None


def test_a_pattern_is_found_or_not_and_a_target_without_one_has_none(
    services: JudgeServices, material: Material
) -> None:
    first, second = material.targets[0].name, material.targets[1].name
    judge = Pattern(PatternConfig(expressions={first: r"\bCAT\b", second: "(?-i:KING)"}), services)
    judge.fit(material)
    values = judge.judge(read(ANIMAL, ROYAL)).values
    assert values[:, 0].tolist() == [1.0, 0.0] and values[:, 1].tolist() == [0.0, 0.0]
    assert np.isnan(values[:, 2]).all() and "no expression" in judge.refusals()["topic.land"]
    everyone = Pattern(PatternConfig(expressions={"*": "queen"}), services)
    everyone.fit(material)
    assert everyone.judge(read(ANIMAL, ROYAL)).values.tolist() == [[0.0] * 4, [1.0] * 4]


def test_what_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(ConfigError, match="no regular expression"):
        load(PatternConfig, {"expressions": {"*": "(unclosed"}})
