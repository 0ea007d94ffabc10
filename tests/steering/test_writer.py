from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.divergence import kl_per_token
from components.model.intervention import Edit, Intervention, logits_under
from components.steering.contract import Steering
from components.steering.neutral import Neutral
from components.steering.passages import contexts
from components.steering.strength import calibrate, costs
from components.steering.vector import AddVector
from components.steering.writer import TOKENS_AT_ONCE, Job, Prompt, Writer, continuation
from tests.steering.conftest import Bench
from tests.steering.world import HOOK, finish


@dataclasses.dataclass(frozen=True, eq=False)
class Clamp(Steering):
    """A steering that is no vector added: sets the projection on a direction to the strength."""

    hook_point: str
    direction: Tensor

    @property
    def together(self) -> str:
        return self.hook_point

    @classmethod
    def intervention(cls, rows: Sequence[Clamp], strengths: Float[Tensor, " row"]) -> Intervention:
        directions = torch.stack([row.direction for row in rows])

        def function(x: Tensor, mask: Tensor) -> Tensor:
            along = (x * directions[:, None]).sum(-1, keepdim=True)
            wanted = torch.where(strengths[:, None, None] == 0, along, strengths[:, None, None])
            return x + (wanted - along) * directions[:, None]

        return Intervention((Edit(rows[0].hook_point, function),))

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Clamp:
        return cls(next(iter(units)), tensors[""])

    def tensors(self) -> dict[str, Tensor]:
        return {"": self.direction}


@pytest.fixture
def writer(bench: Bench) -> Writer:
    return Writer(bench.model, 16, 1.0, 0, 7)


PROMPTS = [Prompt(0, (1, 4)), Prompt(1, (1, 4, 11)), Prompt(2, (1, 16, 17))]


def random(bench: Bench, seed: int) -> AddVector:
    vector = torch.randn(bench.model.d_model, generator=torch.Generator().manual_seed(seed))
    found = AddVector.along(HOOK, vector, 5.0)
    assert found is not None
    return found


def jobs(bench: Bench, strength: float) -> list[Job]:
    kinds: list[Any] = [
        None,
        random(bench, 1),
        random(bench, 2),
        Clamp(HOOK, random(bench, 1).vector),
    ]
    return [
        Job(prompt, sample, kind, strength)
        for kind in kinds
        for prompt in PROMPTS
        for sample in range(2)
    ]


def test_strength_zero_writes_exactly_the_unsteered_text(bench: Bench, writer: Writer) -> None:
    written, _ = finish(writer.write(jobs(bench, 0.0)))
    plain = [text.text for text in written[:6]]
    assert all(text is not None for text in plain)
    assert [text.text for text in written] == plain * 4


def test_strong_steering_writes_other_text_from_the_same_luck(bench: Bench, writer: Writer) -> None:
    written, _ = finish(writer.write(jobs(bench, 4.0)))
    assert all(written[i].text != written[6 + i].text for i in range(6))
    again, _ = finish(writer.write(jobs(bench, 4.0)))
    assert written == again


def test_batches_do_not_change_what_a_row_says_and_are_reported(
    bench: Bench, writer: Writer
) -> None:
    everything = jobs(bench, 1.0)
    small, counted = finish(writer.write(everything))
    large, _ = finish(
        dataclasses.replace(writer, batch_size=1000).write(list(reversed(everything)))
    )
    assert [text.text for text in small] == [text.text for text in reversed(large)]
    assert sum(counted) == len(everything)
    assert max(counted) <= 7


def test_a_steering_that_serves_several_concepts_is_written_once(
    bench: Bench, writer: Writer
) -> None:
    shared, own = random(bench, 1), random(bench, 1)
    asked = [
        Job(PROMPTS[0], 0, steering, strength)
        for steering in (shared, shared, own)
        for strength in (0.5, 1.0)
    ]
    written, counted = finish(writer.write(asked))
    assert sum(counted) == 4, "two strengths of each steering"
    assert written[0] == written[2] == written[4] and written[1] == written[3] == written[5]


def test_another_seed_writes_other_text(bench: Bench, writer: Writer) -> None:
    plain = [Job(prompt, sample) for prompt in PROMPTS for sample in range(2)]
    one, other = (
        finish(writer.write(plain))[0],
        finish(dataclasses.replace(writer, seed=1).write(plain))[0],
    )
    assert [text.text for text in one] != [text.text for text in other]
    assert one[0].text != one[1].text, "samples of one prompt differ"


def test_a_row_has_the_same_loss_whatever_rows_share_its_pass(bench: Bench, writer: Writer) -> None:
    rng = np.random.default_rng(0)
    prompts, new = rng.integers(4, 28, (300, 5)).tolist(), rng.integers(4, 28, (300, 11)).tolist()
    assert 2 * TOKENS_AT_ONCE < 300 * 16
    together = writer.losses(prompts, new)
    apart = [writer.losses(prompts[i : i + 1], new[i : i + 1]) for i in range(300)]
    # to the last bit on some machines; products of matrices may round by the number of rows
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-5)


def test_losses_of_many_rows_are_those_of_batches_though_a_row_is_read_once(
    bench: Bench, writer: Writer
) -> None:
    rng = np.random.default_rng(0)
    kinds = [
        (tuple(rng.integers(4, 28, 3).tolist()), tuple(rng.integers(4, 28, n).tolist()))
        for n in (0, 1, 5, 6, 9)
    ]
    rows = [kinds[i] for i in rng.integers(0, len(kinds), 70)]
    prompts, new = [prompt for prompt, _ in rows], [text for _, text in rows]
    in_batches = [writer.losses(prompts[i : i + 7], new[i : i + 7]) for i in range(0, 70, 7)]
    together = writer.losses_of_many(prompts, new)
    np.testing.assert_allclose(together, np.concatenate(in_batches), rtol=1e-5)
    passes = []
    with bench.model.watched(lambda: passes.append(1)):
        alike = writer.losses_of_many([prompts[0]] * 70, [kinds[4][1]] * 70)
    assert len(passes) == 1 and len(set(alike.tolist())) == 1


def test_the_loss_is_that_of_the_continuation_alone_under_the_unsteered_model(
    bench: Bench, writer: Writer
) -> None:
    prompts, new = [[1, 4], [1, 4, 11, 6]], [[6, 10, 27], [12]]
    found = writer.losses(prompts, new)
    for i in range(2):
        tokens = torch.tensor([prompts[i] + new[i]])
        wanted = bench.model.losses(tokens)[0, len(prompts[i]) - 1 :].mean()
        assert found[i] == pytest.approx(float(wanted), abs=1e-5)
    assert np.isnan(writer.losses([[1, 4], [1]], [[], [4]])).tolist() == [True, False]


def test_what_a_steering_costs_on_the_text_that_it_wrote_is_measured_both_ways(
    bench: Bench, writer: Writer
) -> None:
    asked = jobs(bench, 1.0)
    written, _ = finish(writer.write(asked, side_effects=True))
    plainly, _ = finish(writer.write(asked))
    assert [text.text for text in written] == [text.text for text in plainly]
    assert all(text.kl is None and text.kl_reverse is None for text in plainly)
    compared = 0
    for job, text in zip(asked, written, strict=True):
        if job.steering is None:
            assert (text.kl, text.kl_reverse) == pytest.approx((0.0, 0.0), abs=1e-6)
            continue
        assert text.text is not None and text.kl is not None and text.kl_reverse is not None
        new = bench.model.tokenizer(text.text)["input_ids"]
        if len(new) < text.n_tokens:  # it wrote special tokens too, which the text does not show
            continue
        compared += 1
        tokens = torch.tensor([[*job.prompt.tokens, *new]])
        intervention = type(job.steering).intervention([job.steering], torch.tensor([job.strength]))
        plain = bench.model.logits(tokens).log_softmax(-1)[0]
        steered = logits_under(bench.model, tokens, intervention).log_softmax(-1)[0]
        of_text = slice(len(job.prompt.tokens) - 1, tokens.shape[1] - 1)
        forward = (
            torch.nn.functional.kl_div(steered, plain, log_target=True, reduction="none")
            .sum(-1)[of_text]
            .mean()
        )
        reverse = (
            torch.nn.functional.kl_div(plain, steered, log_target=True, reduction="none")
            .sum(-1)[of_text]
            .mean()
        )
        assert text.kl == pytest.approx(float(forward), rel=1e-3, abs=1e-6)
        assert text.kl_reverse == pytest.approx(float(reverse), rel=1e-3, abs=1e-6)
    assert compared >= 6


def test_nothing_written_has_no_loss_and_no_cost(bench: Bench, writer: Writer) -> None:
    assert np.isnan(writer.losses([[1], [1, 4]], [[], []])).all()
    assert writer.losses([], []).shape == (0,)


@pytest.mark.parametrize(
    "given, reason",
    [
        (("", 0, float("nan")), "the model ended at once"),
        (("  ", 3, 1.0), "only white space"),
        (("a dog", 2, float("inf")), "its loss under the unsteered model is not finite"),
    ],
)
def test_no_usable_text_is_null_with_a_reason(given: tuple[str, int, float], reason: str) -> None:
    found = continuation(*given)
    assert (found.text, found.nll, found.reason) == (None, None, reason)


def whole(bench: Bench, neutral: Neutral, steering: Steering, strength: float) -> float:
    """The cost of one steering by whole passes, alone."""
    rows = torch.full((len(neutral.tokens),), strength)
    intervention = type(steering).intervention([steering] * len(rows), rows)
    kl = kl_per_token(bench.model, neutral.tokens, neutral.mask, intervention)
    return float(kl.sum() / neutral.mask.sum())


def rise_of_loss(bench: Bench, neutral: Neutral, steering: Steering, strength: float) -> float:
    """How much the cross-entropy of the text's own next tokens rises, by whole passes, alone."""
    rows = torch.full((len(neutral.tokens),), strength)
    intervention = type(steering).intervention([steering] * len(rows), rows)
    counts = neutral.mask[:, :-1] & neutral.mask[:, 1:]
    plain, steered = (
        torch.nn.functional.cross_entropy(logits[:, :-1][counts], neutral.tokens[:, 1:][counts])
        for logits in (
            bench.model.logits(neutral.tokens),
            logits_under(bench.model, neutral.tokens, intervention),
        )
    )
    return float(steered - plain)


def test_strengths_meet_every_budget_within_five_percent(bench: Bench) -> None:
    neutral, _ = Neutral.read(bench.corpus, 300, 24)
    steerings = [random(bench, seed) for seed in range(5)]
    found, counted = finish(calibrate(bench.model, steerings, neutral, [0.05, 0.2], batch=2))
    assert counted == [2, 2, 1]
    for steering, strengths in zip(steerings, found, strict=True):
        for budget, (strength, kl) in zip([0.05, 0.2], strengths.tolist(), strict=True):
            measured = whole(bench, neutral, steering, strength)
            assert measured == pytest.approx(budget, rel=0.05)
            assert kl == pytest.approx(measured, rel=1e-3)


def test_a_steering_that_is_no_vector_is_set_to_the_budget_too(bench: Bench) -> None:
    neutral, _ = Neutral.read(bench.corpus, 300, 24)
    mixed = [Clamp(HOOK, random(bench, 1).vector), random(bench, 1)]
    found, counted = finish(calibrate(bench.model, mixed, neutral, [0.3]))
    assert sum(counted) == 2
    np.testing.assert_allclose(found[:, 0, 1], 0.3, rtol=0.05)


def test_a_budget_out_of_reach_has_no_strength(bench: Bench) -> None:
    neutral, _ = Neutral.read(bench.corpus, 300, 24)
    idle = Clamp(HOOK, torch.zeros(bench.model.d_model))
    found, _ = finish(calibrate(bench.model, [idle], neutral, [0.1]))
    assert np.isnan(found).all()


def test_costs_are_those_of_a_full_pass_for_vectors_and_for_any_other_steering(
    bench: Bench,
) -> None:
    neutral, _ = Neutral.read(bench.corpus, 300, 24)
    vector, clamp = random(bench, 1), Clamp(HOOK, random(bench, 1).vector)
    found, counted = finish(
        costs(bench.model, [(vector, 0.5), (clamp, 0.3), (vector, 1.0)], neutral)
    )
    assert sum(counted) == 3
    for (steering, strength), cost in zip(
        [(vector, 0.5), (clamp, 0.3), (vector, 1.0)], found, strict=True
    ):
        assert cost[0] == pytest.approx(whole(bench, neutral, steering, strength), rel=1e-3)
        assert cost[1] == pytest.approx(rise_of_loss(bench, neutral, steering, strength), abs=1e-5)
    nothing = Neutral(neutral.tokens[:0], neutral.mask[:0])
    assert np.isnan(finish(costs(bench.model, [(vector, 0.5)], nothing))[0]).all()


def test_costs_are_measured_on_other_documents_than_strengths_are_set_on(bench: Bench) -> None:
    setting, elsewhere = Neutral.read(bench.corpus, 100, 25)
    assert len(elsewhere.tokens) > 0
    parts = contexts(bench.corpus, "neutral")
    document, token = parts["document"], parts["token"][:, :25].long()
    at = [int((token == row).all(1).nonzero()[0]) for row in elsewhere.tokens]
    met = set(document[: len(setting.tokens), :25].flatten().tolist()) - {-1}
    assert met.isdisjoint(set(document[at, :25].flatten().tolist()))


def test_whole_contexts_are_of_documents_on_which_no_strength_was_set(bench: Bench) -> None:
    setting, whole = Neutral.read(bench.corpus, 100, 12)[0], Neutral.whole(bench.corpus, 100, 12)
    parts = contexts(bench.corpus, "neutral")
    document, token = parts["document"], parts["token"].long()
    assert whole.tokens.shape == (3, token.shape[1]), (
        "about as many tokens as asked for, whole contexts"
    )
    at = [int((token == row).all(1).nonzero()[0]) for row in whole.tokens]
    met = set(document[: len(setting.tokens), :12].flatten().tolist()) - {-1}
    assert met.isdisjoint(set(document[at].flatten().tolist()))
    assert torch.equal(whole.mask, document[at] >= 0)


def test_strengths_leave_text_to_measure_on_where_the_split_is_small(bench: Bench) -> None:
    setting, elsewhere = Neutral.read(bench.corpus, 10**6, 25)
    assert len(setting.tokens) == len(contexts(bench.corpus, "neutral")["token"]) // 2
    assert len(elsewhere.tokens) > 0


def test_neutral_text_counts_tokens_of_documents_only(bench: Bench) -> None:
    neutral, _ = Neutral.read(bench.corpus, 100, 25)
    assert neutral.tokens.shape == (4, 25)
    assert not neutral.mask[:, 0].any(), "the first token of a context belongs to no document"
    assert neutral.mask[:, 1:20].all()
