"""The judge of relevance on a model whose text depends on its prompt."""

from __future__ import annotations

import numpy as np

from components.steering.contract import Concept, Continuation, JudgeServices, Material, Passages
from components.steering.judges.relevance import Relevance, RelevanceConfig
from tests.steering.conftest import Bench
from tests.steering.world import CPU, evidence


def material(prompts: list[str]) -> Material:
    none = Passages([], np.zeros((0, 2), bool), np.zeros(0))
    plain = [Continuation("the cat", 2, 1.0, prompt=prompt) for prompt in prompts]
    return Material(
        [Concept("one", "surface", "token"), Concept("two", "surface", "token")],
        none,
        none,
        none,
        plain,
        0,
    )


def judge(bench: Bench, prompts: list[str]) -> Relevance:
    dictionary = evidence().dictionary
    assert dictionary is not None
    services = JudgeServices(CPU, 0, bench.model, dictionary)
    fitted = Relevance(RelevanceConfig(), services)
    fitted.fit(material(prompts))
    return fitted


TOPICS = [
    "the cat and the dog",
    "the king and the queen",
    "the tree and the river",
    "the house and the bird",
]
FITTING = {
    TOPICS[0]: "ran . the dog sat . the cat ate .",
    TOPICS[1]: "ran . the queen sat . the king ate .",
    TOPICS[2]: "ran . the river sat . the tree ate .",
    TOPICS[3]: "ran . the bird sat . the house ate .",
}


def values(of: Relevance, pairs: list[tuple[str, str]]) -> list[float]:
    texts = [Continuation(text, 8, 1.0, prompt=prompt) for prompt, text in pairs]
    said = of.judge(texts).values
    assert (said[:, 0] == said[:, 1]).all()
    return said[:, 0].tolist()


def test_text_that_goes_on_from_its_prompt_is_relevant(bench: Bench) -> None:
    of = judge(bench, TOPICS)
    assert np.mean(values(of, list(FITTING.items()))) > 0.9


def test_text_of_another_prompt_is_not(bench: Bench) -> None:
    of = judge(bench, TOPICS)
    swapped = [(TOPICS[i], FITTING[TOPICS[i - 1]]) for i in range(len(TOPICS))]
    # the prompt that it belongs to wins; of the two others chance decides
    assert max(values(of, swapped)) < 0.5


def test_a_text_is_judged_alike_alone_and_among_others(bench: Bench) -> None:
    of = judge(bench, TOPICS)
    pairs = list(FITTING.items())
    assert values(of, pairs) == [values(of, [pair])[0] for pair in pairs]


def test_too_few_prompts_are_said(bench: Bench) -> None:
    of = judge(bench, TOPICS[:2])
    assert "validate_prompts" in (of.silence() or "")
    said = of.judge([Continuation("the cat", 2, 1.0, prompt=TOPICS[0])])
    assert np.isnan(said.values).all() and "wanted at least 3" in said.reasons[0]
