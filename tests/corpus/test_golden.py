"""Numbers of reading. Where one moves on purpose, raise the version of the stage or corpus beside
it."""

from __future__ import annotations

from safetensors.numpy import load_file

from components.corpus.contract import corpora
from components.corpus.read import READ
from components.store import tables
from components.store.artifact import Store
from tests.corpus.test_read import WORLD, of_world

VERSIONS = {"read": 2, "world": 1}
SUMS = {
    "train": (230786, 43902),
    "select": (131660, 22906),
    "judge": (142511, 26445),
    "validate": (120215, 23203),
    "neutral": (88173, 17858),
    "test": (154508, 28858),
}
"""Of tokens and of positions, over all contexts of a split."""
LABELS = {"main.male@stop": 133, "sentiment.negative@the": 129, "class.determiner": 238}
PAIRS = 372
PROMPTS = [
    "It was Sunday, the day before ",
    "It was Friday, the day before ",
    "It was Wednesday, the day befo",
]


def test_results_move_only_with_a_version(store: Store) -> None:
    assert {"read": READ.version, "world": corpora.version("world")} == VERSIONS
    config = of_world(pairs=1, prompts_validate=2, prompts_test=2)
    made, _ = store.ensure(READ, config, {"model": WORLD})
    for split, sums in SUMS.items():
        contexts = load_file(made.path(f"contexts/{split}.safetensors"))
        assert (
            tuple(int(contexts[name].astype("int64").sum()) for name in ("token", "position"))
            == sums
        )
    counts = dict(tables.LABELS.read(made).group_by("concept").len().iter_rows())
    assert {concept: counts[concept] for concept in LABELS} == LABELS
    assert tables.PAIRS.read(made).height == PAIRS
    assert [text[:30] for text in tables.PROMPTS.read(made)["text"][:3]] == PROMPTS
