"""Steerings that are no added vectors: several hook points, no strength at all, and what measuring
them costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.divergence import kl_per_token
from components.model.intervention import Intervention, add
from components.steering.contract import Steering
from components.steering.methods.logit_bias import RaiseWords
from components.steering.neutral import Neutral
from components.steering.strength import calibrate, costs
from components.steering.vector import AddVector
from components.steering.writer import Job, Prompt, Writer
from tests.steering.conftest import Bench
from tests.steering.world import finish

PLACES = ("resid_post.0", "attn_out.1")


@dataclasses.dataclass(frozen=True, eq=False)
class Everywhere(Steering):
    """A vector at each of two hook points; `fast` says whether it tells so."""

    vectors: Mapping[str, Tensor]
    fast: bool = True

    @property
    def together(self) -> Hashable:
        return tuple(self.vectors)

    @classmethod
    def intervention(
        cls, rows: Sequence[Everywhere], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        stacked = {
            name: torch.stack([row.vectors[name] for row in rows]) for name in rows[0].vectors
        }
        return Intervention(tuple(add(name, strengths[:, None] * x) for name, x in stacked.items()))

    def added(self, strength: float = 1.0) -> Mapping[str, Tensor]:
        return (
            {name: strength * vector for name, vector in self.vectors.items()} if self.fast else {}
        )

    def tensors(self) -> Mapping[str, Tensor]:
        return self.vectors

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Everywhere:
        return cls(tensors)


@dataclasses.dataclass(frozen=True, eq=False)
class Opening(Steering):
    """Tokens before the prompt: there is no half of them."""

    graded = False
    tokens: tuple[int, ...]

    @classmethod
    def intervention(
        cls, rows: Sequence[Opening], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        return Intervention(prefix=tuple(row.tokens for row in rows))

    def tensors(self) -> Mapping[str, Tensor]:
        return {"": torch.tensor(self.tokens)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Opening:
        return cls(tuple(tensors[""].tolist()))


def everywhere(bench: Bench, seed: int, fast: bool = True) -> Everywhere:
    generator = torch.Generator().manual_seed(seed)
    return Everywhere(
        {name: torch.randn(bench.model.width(name), generator=generator) for name in PLACES}, fast
    )


@pytest.fixture(scope="module")
def neutral(bench: Bench) -> Neutral:
    return Neutral.read(bench.corpus, 300, 24)[0]


def alone(bench: Bench, neutral: Neutral, steering: Steering, strength: float) -> float:
    rows = [steering] * len(neutral.tokens)
    intervention = type(steering).intervention(rows, torch.full((len(rows),), strength))
    kl = kl_per_token(bench.model, neutral.tokens, neutral.mask, intervention)
    return float(kl.sum() / neutral.mask.sum())


def test_steerings_of_several_hook_points_meet_their_budgets_by_either_ruler(
    bench: Bench, neutral: Neutral
) -> None:
    for fast in (True, False):
        steerings = [everywhere(bench, seed, fast) for seed in range(3)]
        found, counted = finish(calibrate(bench.model, steerings, neutral, [0.05, 0.2], batch=2))
        assert counted == [2, 1]
        for steering, measured in zip(steerings, found, strict=True):
            for budget, (strength, kl) in zip((0.05, 0.2), measured.tolist(), strict=True):
                assert kl == pytest.approx(budget, rel=0.1)
                assert alone(bench, neutral, steering, strength) == pytest.approx(kl, rel=1e-3)


def test_a_bias_on_logits_is_set_to_its_budget(bench: Bench, neutral: Neutral) -> None:
    steerings = [RaiseWords.of(words) for words in ([[6], [7]], [[9]], [[12], [13, 14]])]
    found, _ = finish(calibrate(bench.model, steerings, neutral, [0.1, 0.5]))
    np.testing.assert_allclose(found[:, :, 1], [[0.1, 0.5]] * 3, rtol=0.1)
    assert (found[:, 1, 0] > found[:, 0, 0]).all()


def test_a_steering_without_strength_is_measured_as_it_is_and_none_is_searched(
    bench: Bench, neutral: Neutral
) -> None:
    steerings = [Opening((6, 9)), Opening(()), Opening((12,))]
    found, counted = finish(calibrate(bench.model, steerings, neutral, [0.1, 0.5]))
    assert counted == [3]
    assert (found[:, :, 0] == 1).all()
    for steering, measured in zip(steerings, found, strict=True):
        assert (
            measured[0, 1]
            == measured[1, 1]
            == pytest.approx(alone(bench, neutral, steering, 1.0), abs=1e-5)
        )
    assert abs(found[1, 0, 1]) < 1e-6 < found[0, 0, 1]


def test_texts_under_steerings_of_every_kind_are_written_in_one_go_each_as_alone(
    bench: Bench,
) -> None:
    writer = Writer(bench.model, 8, 1.0, 0, 16)
    vector = AddVector(
        "resid_post.0", torch.nn.functional.normalize(torch.ones(bench.model.d_model), dim=0), 5.0
    )
    kinds = [None, vector, everywhere(bench, 0), Opening((6, 9)), RaiseWords.of([[6], [7]])]
    prompts = [Prompt(0, (1, 4), text="the"), Prompt(1, (1, 4, 11), text="the small")]
    jobs = [
        Job(prompt, sample, kind, 1.0)
        for kind in kinds
        for prompt in prompts
        for sample in range(2)
    ]
    together, _ = finish(writer.write(jobs, side_effects=True))
    single = [finish(writer.write([job], side_effects=True))[0][0] for job in jobs]
    assert [text.text for text in together] == [text.text for text in single]
    for ours, theirs in zip(together, single, strict=True):
        assert (ours.kl, ours.kl_reverse) == pytest.approx(
            (theirs.kl, theirs.kl_reverse), rel=1e-3, abs=1e-5
        )
    assert [text.prompt for text in together[:4]] == ["the", "the", "the small", "the small"]


def test_many_steerings_in_one_pass_are_measured_faster_than_one_after_another(
    bench: Bench, neutral: Neutral
) -> None:
    steerings = [(everywhere(bench, seed, fast=False), 0.5) for seed in range(32)]

    def seconds(work: object) -> float:
        started = time.perf_counter()
        finish(work)  # type: ignore[arg-type]
        return time.perf_counter() - started

    few = Neutral(neutral.tokens[:2], neutral.mask[:2])
    ratios = []
    for _ in range(5):
        single = seconds(costs(bench.model, steerings, few, batch=1))
        ratios.append(single / seconds(costs(bench.model, steerings, few)))
    assert np.median(ratios) > 3, ratios
