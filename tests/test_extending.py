"""The examples of docs/extending.md are one file each, and one file is enough: they run in an experiment, and keep the laws.

One experiment uses all entries of interpretation and evaluation together.
"""

from __future__ import annotations

import pytest

from tests.extending import EXAMPLES, Example, Tree

ROOMS = ("components/interpretation/", "components/evaluation/")
TOGETHER = [example for example in EXAMPLES.values() if example.path.startswith(ROOMS)]
LAWS = ("tests/contracts/test_interpretation.py", "tests/contracts/test_evaluations.py")


@pytest.fixture(scope="module")
def report(extended: Tree):
    overrides = [argument for example in TOGETHER for argument in example.arguments]
    assert len({argument.partition("=")[0] for argument in overrides}) == len(overrides)
    return extended.experiment(*overrides)


def test_the_page_has_one_example_of_each_kind() -> None:
    assert [example.path.rsplit("/", 1)[0] for example in TOGETHER] == [
        "components/interpretation/explainers",
        "components/interpretation/predictors",
        "components/interpretation/scorers",
        "components/evaluation/evaluations",
    ]


@pytest.mark.parametrize("example", TOGETHER, ids=lambda example: example.kind)
def test_an_example_has_at_most_fifty_lines(example: Example) -> None:
    assert 0 < example.n_lines <= 50


@pytest.mark.parametrize("example", TOGETHER, ids=lambda example: example.kind)
def test_its_scores_are_in_the_report(report, example: Example) -> None:
    rows = report.filter(report["name"].str.contains(rf"\.{example.kind}(\.|$)"))
    assert rows.height and rows["value"].is_not_null().any(), report["name"].to_list()


def test_they_keep_the_laws(extended: Tree) -> None:
    mine = " or ".join(example.kind for example in TOGETHER)
    chosen = f"({mine}) and not numbers_move"  # golden numbers are of what is shipped
    extended.python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *LAWS, "-k", chosen)


def test_they_are_listed_in_the_form_and_on_the_command_line(extended: Tree) -> None:
    told = extended.python("-m", "flows", "params", *(argument for each in TOGETHER for argument in each.arguments))
    assert all(example.kind in told for example in TOGETHER)
