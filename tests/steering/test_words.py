"""Words of several tokens: how text is cut into them, and how their logits are raised."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch

from components.steering.contract import Concept
from components.steering.methods.logit_bias import RaiseWords
from components.steering.words import Words, begins_word
from tests import toys
from tests.steering.world import evidence, method

READ = [" the", " sea", "side", ".", " sky", "\n", "海", "岸", "<0xE6>", "e"]


def test_words_begin_at_spaces_and_marks_and_single_signs_of_scripts_without_spaces() -> None:
    token = np.array([0, 1, 2, 3, 4, 5, 9, 6, 7, 1, 8, 8])
    begins = begins_word(READ, token)
    parts = np.split(token, np.flatnonzero(begins)[1:])
    assert [part.tolist() for part in parts] == [
        [0], [1, 2], [3], [4], [5], [9], [6], [7], [1, 8, 8],
    ]  # fmt: skip


def test_words_end_with_their_document() -> None:
    model = toys.tiny_model()
    token, document = np.array([6, 7, 6, 6]), np.array([0, 0, 0, 1])
    words = Words.of(model, token, document)
    assert words.spelt == [(6,), (7,)] and words.texts == ["cat", "dog"]
    assert words.word_of.tolist() == [0, 1, 0, 0] and words.sayable.all()


def raised(rows: list[RaiseWords], tokens: torch.Tensor, t: int, step: float) -> list[list[set]]:
    """Which tokens are raised by exactly the strength, for each row and prediction."""
    logits = torch.randn(len(rows), t, 20, generator=torch.Generator().manual_seed(0))
    function = RaiseWords.intervention(rows, torch.full((len(rows),), step)).logits
    assert function is not None
    change = function(logits, tokens) - logits
    assert set(change.round(decimals=4).unique().tolist()) <= {0.0, step}
    return [[set(at.nonzero()[:, 0].tolist()) for at in row] for row in change.abs() > step / 2]


def test_a_word_goes_on_only_where_it_was_begun() -> None:
    rows = [RaiseWords.of([[3, 4, 5], [3, 6], [7]]), RaiseWords.of([[4, 4, 9]])]
    tokens = torch.tensor([[1, 3, 4, 5, 3, 6], [4, 4, 4, 1, 3, 4]])
    assert raised(rows, tokens, 6, 2.0) == [
        [{3, 7}, {3, 7, 4, 6}, {3, 7, 5}, {3, 7}, {3, 7, 4, 6}, {3, 7}],
        [{4}, {4, 9}, {4, 9}, {4}, {4}, {4}],
    ]


def test_one_step_of_writing_raises_what_the_same_place_in_a_text_does() -> None:
    rows = [RaiseWords.of([[3, 4, 5], [8]]), RaiseWords.of([[4, 4, 9]])]
    tokens = torch.tensor([[-1, 3, 4], [4, 4, 4]])
    assert raised(rows, tokens, 1, 1.0) == [[{3, 8, 5}], [{4, 9}]]
    # padding is no token of a word, nor is what lies before the first
    assert raised(rows, torch.tensor([[-1], [-1]]), 1, 1.0) == [[{3, 8}], [{4}]]


def test_lists_of_words_come_from_several_sources_and_for_latents_too() -> None:
    rng = np.random.default_rng(0)
    inside = rng.random(200) < 0.3
    # 5 and 9 mostly with the concept; 30 always, and seldom
    token = np.where(
        inside & (rng.random(200) < 0.8), rng.choice([5, 9], 200), rng.integers(20, 25, 200)
    )
    token[np.flatnonzero(~inside)[:6]] = [5, 9, 5, 9, 5, 9]
    token[np.flatnonzero(inside)[:2]] = 30
    labels = scipy.sparse.csc_matrix(np.stack([inside, inside], axis=1))
    codes = np.zeros((200, 6))
    codes[token == 22, 1] = 2.0
    target = [Concept("latent.1", "latent", "token", latent=1), Concept("mark", "set", "token")]
    given = evidence(
        token=token, labels=labels, concepts=target, codes=scipy.sparse.csr_matrix(codes)
    )
    found = list(method("logit_bias", n_words=2).candidates(given))
    lists = {
        (c.concept, c.replicate): c.steering.words[:, 0].tolist()  # type: ignore[union-attr]
        for c in found
    }
    assert set(lists["mark", 0][:2]) == {5, 9}, "by log-odds"
    assert 30 in lists["mark", 1], "by lookup"
    assert lists["latent.1", 1] == [22], "where the latent is active"
    for name in ("mark", "latent.1"):
        own = [frozenset(words) for (concept, _), words in lists.items() if concept == name]
        assert len(own) == len(set(own)), "no two lists alike"


def test_the_lens_gives_words_of_the_direction() -> None:
    model = toys.tiny_model()
    given = evidence(d_in=model.d_model)
    row = model.network.get_output_embeddings().weight[12]
    x = torch.randn(200, model.d_model, generator=torch.Generator().manual_seed(0)) * 0.01
    x[given.labels[:, 0].toarray().ravel()] += 5 * row
    given = evidence(d_in=model.d_model, batches=lambda place: iter([(0, x)]))
    lens = method("logit_bias", sources=["logit_lens"], n_words=4)
    (found,) = [c for c in lens.candidates(given) if c.concept == "mark"]
    assert 12 in found.steering.words[:, 0].tolist()  # type: ignore[union-attr]
