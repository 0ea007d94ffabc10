"""Interventions: prefixes, functions on logits, weights and decodings, in text that is read and in
text that is written."""

from __future__ import annotations

import contextlib

import pytest
import torch

from components.errors import InputError
from components.model.divergence import kl_per_token, ruler, ruler_of_vectors
from components.model.generation import generate
from components.model.intervention import NOTHING, Edit, Intervention, add, logits_under
from tests import toys

TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4], [1, 5, 8, 13, 16, 20]])
PROMPTS = [[1, 4, 6, 12, 15, 4], [1, 5, 8], [1], [1, 20, 21, 22]]
SAMPLED = {"max_new_tokens": 6, "temperature": 1.0, "seeds": [5, 6, 7, 8], "stop": []}
PREFIX = ((7, 9, 11), (), (13,), (7, 9))


@pytest.fixture(params=toys.LAYOUTS, scope="module")
def model(request):
    return toys.tiny_model(request.param)


def biased(step):
    """Raises one token by a constant for each row; strength 0 is no change."""

    def function(logits, tokens):
        raised = torch.zeros(logits.shape[-1])
        raised[17] = 1.0
        return logits + step * raised

    return Intervention(logits=function)


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


@pytest.mark.parametrize(
    "nothing",
    [
        NOTHING,
        Intervention((add("resid_post.1", torch.zeros(4, 16)),)),
        biased(0.0),
        Intervention(prefix=((),) * 4),
    ],
    ids=["empty", "added nothing", "biased by nothing", "prefixed by nothing"],
)
def test_what_changes_nothing_gives_bitwise_the_plain_logits_and_text(model, nothing):
    four = TOKENS.repeat(2, 1)
    assert torch.equal(logits_under(model, four, nothing), model.logits(four))
    assert generate(model, PROMPTS, intervention=nothing, **SAMPLED) == generate(
        model, PROMPTS, **SAMPLED
    )


def test_a_prefix_stands_behind_the_first_token_and_before_the_rows_own(model):
    wanted = generate(
        model, [[1, *p, *row[1:]] for p, row in zip(PREFIX, PROMPTS, strict=True)], **SAMPLED
    )
    assert generate(model, PROMPTS, intervention=Intervention(prefix=PREFIX), **SAMPLED) == wanted
    logits = logits_under(model, TOKENS, Intervention(prefix=((7, 9, 11), (13,))))
    for row, prefix in enumerate(((7, 9, 11), (13,))):
        text = torch.tensor([[1, *prefix, *TOKENS[row, 1:].tolist()]])
        torch.testing.assert_close(
            logits[row], model.logits(text)[0, len(prefix) :], atol=1e-5, rtol=1e-5
        )


def test_a_prefix_stands_behind_what_a_template_puts_before_a_message(model):
    head, prefix = (8, 3), ((7, 9, 11), (13,))
    rows = torch.tensor([[*head, 4, 6, 12], [1, 4, 6, 12, 5]])  # the second is no message
    intervention = Intervention(prefix=prefix, behind=head)
    wanted = [[*head, 7, 9, 11, 4, 6, 12], [1, 13, 4, 6, 12, 5]]
    assert intervention.prefixed(model, rows.tolist()) == wanted
    logits = logits_under(model, rows, intervention)
    first, second = (model.logits(torch.tensor([row]))[0] for row in wanted)
    # before the prefix nothing has changed; its own predictions are nobody's
    torch.testing.assert_close(logits[0], first[[0, 4, 5, 6, 7]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1], second[1:], atol=1e-5, rtol=1e-5)
    written = generate(model, rows[:1].tolist(), intervention=Intervention(
        prefix=prefix[:1], behind=head), **{**SAMPLED, "seeds": SAMPLED["seeds"][:1]})  # fmt: skip
    assert written == generate(model, wanted[:1], **{**SAMPLED, "seeds": SAMPLED["seeds"][:1]})


def test_a_prefix_stands_first_where_a_row_does_not_begin_with_the_models_first_token(model):
    logits = logits_under(model, torch.tensor([[4, 6, 12]]), Intervention(prefix=((7, 9),)))
    torch.testing.assert_close(
        logits[0], model.logits(torch.tensor([[7, 9, 4, 6, 12]]))[0, 2:], atol=1e-5, rtol=1e-5
    )


def test_a_prefix_that_does_not_fit_beside_the_text_is_refused(model):
    whole = torch.full((2, 126), 5)
    logits_under(model, whole, Intervention(prefix=((7, 9), (7,))))
    told = "a text of 126 tokens and 3 that stand before it do not fit the model's 128 positions"
    with pytest.raises(InputError, match=told):
        logits_under(model, whole, Intervention(prefix=((7, 9, 11), (7,))))
    with pytest.raises(InputError, match=r"124 tokens \(up to 3 of them put before it"):
        long = [[1] + [5] * 120]
        generate(
            model, long, intervention=Intervention(prefix=((7, 9, 11),)), **SAMPLED | {"seeds": [5]}
        )


def seen_tokens(texts):
    """A function on logits that remembers the tokens it was given and forbids what came directly
    before."""

    def function(logits, tokens):
        texts.append(tokens.tolist())
        last = tokens[:, -logits.shape[1] :].clamp(min=0)
        return logits.scatter(2, last[:, :, None], -1e9)

    return Intervention(prefix=PREFIX, logits=function)


def test_a_function_on_logits_sees_every_token_so_far_the_same_in_text_read_and_written(model):
    texts: list = []
    new = generate(model, PROMPTS, intervention=seen_tokens(texts), **{**SAMPLED, "temperature": 0})
    whole = [
        [1, *p, *row[1:], *written] for p, row, written in zip(PREFIX, PROMPTS, new, strict=True)
    ]
    longest = max(len(row) for row in whole)
    for step, rows in enumerate(texts):
        for row, text in zip(rows, whole, strict=True):
            so_far = text[: len(text) - SAMPLED["max_new_tokens"] + step]
            assert row == [-1] * (longest - SAMPLED["max_new_tokens"] + step - len(so_far)) + so_far
    # each token is the likeliest in a pass over the whole text too
    for i, row in enumerate(PROMPTS):
        read = torch.tensor([row + new[i]])
        intervention = seen_tokens([])
        alone = Intervention(prefix=PREFIX[i : i + 1], logits=intervention.logits)
        assert logits_under(model, read, alone)[0, len(row) - 1 : -1].argmax(-1).tolist() == new[i]


def test_batching_padding_and_the_cache_move_no_logit_under_an_intervention(model):
    vectors = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    met: list = []

    def remember(logits, tokens):
        met.append(logits[:, -1].clone())
        return logits + 0.5

    def of(rows):
        edits = (add("resid_post.0", vectors[rows]), add("attn_out.1", vectors[rows] / 2))
        return Intervention(edits, tuple(PREFIX[i] for i in rows), remember)

    new = generate(model, PROMPTS, intervention=of([0, 1, 2, 3]), **{**SAMPLED, "temperature": 0})
    together = torch.stack(met, dim=1)  # [row, step, V]
    for i, row in enumerate(PROMPTS):
        plain = Intervention(of([i]).edits, (PREFIX[i],))
        alone = logits_under(model, torch.tensor([row + new[i]]), plain)[0, len(row) - 1 : -1]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-5)


def test_edits_at_several_hook_points_with_a_prefix_count_it_as_given_tokens(model):
    vector = torch.randn(16, generator=torch.Generator().manual_seed(3))
    edits = (add("resid_post.0", vector, [2]), add("resid_post.1", vector, "prompt"))
    ours = logits_under(model, TOKENS[:1], Intervention(edits, ((7, 9),)))
    text = torch.tensor([[1, 7, 9, *TOKENS[0, 1:].tolist()]])
    torch.testing.assert_close(ours, model.logits(text, edits=edits)[:, 2:], atol=1e-5, rtol=1e-5)


@contextlib.contextmanager
def silenced(model):
    """Weights exchanged for as long as the context is open."""
    weight = model.network.get_output_embeddings().weight
    before = weight.detach().clone()
    weight.data.zero_()
    try:
        yield
    finally:
        weight.data.copy_(before)


def test_weights_are_exchanged_while_the_intervention_is_applied_and_no_longer():
    model = toys.tiny_model()
    plain = model.logits(TOKENS)
    exchanged = Intervention(weights=silenced)
    assert (logits_under(model, TOKENS, exchanged) == 0).all()
    assert set(
        generate(
            model, [[1, 4]], intervention=exchanged, **{**SAMPLED, "seeds": [1], "temperature": 0}
        )[0]
    ) == {0}
    assert torch.equal(model.logits(TOKENS), plain)


def test_another_decoding_writes_by_calls_of_the_plain_one():
    model = toys.tiny_model()

    def best_of_two(write, prompts, seeds):
        """The candidate with more of token 5."""
        drawn = [write(prompts, seeds), write(prompts, [seed + 100 for seed in seeds])]
        return [max(rows, key=lambda row: row.count(5)) for rows in zip(*drawn, strict=True)]

    ours = generate(
        model, PROMPTS, intervention=Intervention(prefix=PREFIX, decoding=best_of_two), **SAMPLED
    )
    seeds = ([5, 6, 7, 8], [105, 106, 107, 108])
    drawn = [
        generate(
            model, PROMPTS, intervention=Intervention(prefix=PREFIX), **{**SAMPLED, "seeds": s}
        )
        for s in seeds
    ]
    assert ours == [max(rows, key=lambda row: row.count(5)) for rows in zip(*drawn, strict=True)]
    assert ours != drawn[0] or ours != drawn[1]


def fails(*_):
    raise RuntimeError("inside")


@pytest.mark.parametrize(
    "broken",
    [
        Intervention(
            (add("resid_post.0", torch.ones(16)), Edit("attn_out.1", fails)), weights=silenced
        ),
        Intervention((add("resid_post.0", torch.ones(16)),), logits=fails, weights=silenced),
    ],
    ids=["edit", "logits"],
)
def test_after_an_exception_the_model_is_as_before(broken):
    model = toys.tiny_model()
    plain = model.logits(TOKENS)
    with pytest.raises(RuntimeError, match="inside"):
        generate(model, PROMPTS, intervention=broken, **SAMPLED)
    with pytest.raises(RuntimeError, match="inside"):
        logits_under(model, TOKENS, broken)
    assert n_hooks(model) == 0 and torch.equal(model.logits(TOKENS), plain)


def test_a_ruler_measures_many_interventions_as_each_alone():
    model, mask = toys.tiny_model(), torch.ones(2, 6).bool()
    mask[:, 0] = False
    vectors = torch.randn(5, 16, generator=torch.Generator().manual_seed(4))
    prefixes = [(7, 9), (), (13,), (4,), ()]

    def intervention(numbers, strengths):
        edits = (
            add("resid_post.0", vectors[numbers] * strengths[:, None]),
            add("mlp_out.1", vectors[numbers]),
        )
        return Intervention(
            edits,
            tuple(prefixes[i] for i in numbers.tolist()),
            biased(strengths[:, None, None]).logits,
        )

    strengths = torch.linspace(0.5, 2, 5)
    measured = ruler(model, TOKENS, mask, intervention)(torch.arange(5), strengths)
    for i in range(5):
        alone = intervention(torch.full((2,), i), strengths[i].repeat(2))
        kl = kl_per_token(model, TOKENS, mask, alone).sum() / mask.sum()
        assert float(measured[i]) == pytest.approx(float(kl), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "places", [["resid_post.0", "resid_post.1"], ["attn_out.1", "resid_pre.0"], ["resid_post.2"]]
)
def test_the_fast_ruler_of_vectors_at_several_hook_points_is_the_ruler_of_any_intervention(places):
    model, mask = toys.tiny_model(), torch.ones(2, 6).bool()
    vectors = {
        p: torch.randn(3, 16, generator=torch.Generator().manual_seed(i))
        for i, p in enumerate(places)
    }

    def intervention(numbers, strengths):
        return Intervention(
            tuple(add(p, x[numbers] * strengths[:, None]) for p, x in vectors.items())
        )

    numbers, strengths = torch.tensor([2, 0, 1]), torch.tensor([0.3, 1.0, 2.0])
    fast = ruler_of_vectors(model, vectors, TOKENS, mask)(numbers, strengths)
    slow = ruler(model, TOKENS, mask, intervention)(numbers, strengths)
    torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-6)
