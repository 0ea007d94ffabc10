from __future__ import annotations

import dataclasses

import polars as pl
import pytest
import torch

from components.steering.choice import Steered, choose, contested
from components.steering.contract import Candidate
from components.steering.vector import AddVector
from components.steering.writer import Prompt
from components.store import tables
from tests.steering.world import results

DIRECTION = AddVector("resid_post.0", torch.tensor([1.0, 0.0]), 1.0)


def steered(
    method: str, concept: str | None, replicate: int, strength: float | None = 1.0
) -> Steered:
    reason = None if strength else "nothing"
    kl = 0.1 if strength else None
    return Steered(
        method, Candidate(concept, replicate, DIRECTION), 0.1, strength, kl, reason=reason
    )


def generations(
    rows: list[tuple[str, str, int, int, float | None]],
    split: str = "validate",
    measure: str = "composite",
) -> pl.DataFrame:
    names = ("concept", "method", "replicate", "prompt", measure)
    shared = {"split": split, "kl_budget": 0.1, "sample": 0}
    return results([dict(zip(names, row, strict=True)) | shared for row in rows])


def test_the_largest_composite_on_validate_prompts_wins_whatever_the_uplift() -> None:
    rivals = [steered("m", "c", 0), steered("m", "c", 1)]
    seen = generations([("c", "m", 0, 0, 0.1), ("c", "m", 1, 0, 0.3)])
    broken = seen.with_columns(uplift=pl.Series([0.9, 0.2]))
    assert choose(broken, rivals, []) == [rivals[1]]


def test_where_no_composite_was_judged_the_larger_uplift_wins() -> None:
    rivals = [steered("m", "c", 0), steered("m", "c", 1)]
    seen = generations([("c", "m", 0, 0, 0.1), ("c", "m", 1, 0, 0.3)], measure="uplift")
    assert choose(seen, rivals, []) == [rivals[1]]


def test_of_what_lowers_its_target_the_lowest_wins() -> None:
    rivals = [
        dataclasses.replace(s, candidate=dataclasses.replace(s.candidate, sign=-1))
        for s in (steered("m", "c", 0), steered("m", "c", 1))
    ]
    seen = generations([("c", "m", 0, 0, -0.1), ("c", "m", 1, 0, -0.4)], measure="uplift")
    for composite in (None, 0.0):
        judged = seen.with_columns(pl.lit(composite, pl.Float64).alias("composite"))
        assert choose(judged, rivals, []) == [rivals[1]]


def test_the_largest_mean_on_validate_prompts_wins() -> None:
    rivals = [steered("m", "c", 0), steered("m", "c", 1)]
    seen = generations(
        [("c", "m", 0, 0, 0.1), ("c", "m", 0, 1, 0.2), ("c", "m", 1, 0, 0.3), ("c", "m", 1, 1, 0.1)]
    )
    assert choose(seen, rivals, []) == [rivals[1]]


def test_a_failed_generation_counts_as_nothing_gained() -> None:
    rivals = [steered("m", "c", 0), steered("m", "c", 1)]
    seen = generations(
        [
            ("c", "m", 0, 0, 0.2),
            ("c", "m", 0, 1, 0.2),
            ("c", "m", 1, 0, 0.3),
            ("c", "m", 1, 1, None),
        ]
    )
    assert choose(seen, rivals, []) == [rivals[0]]


def test_a_tie_goes_to_the_better_on_select() -> None:
    rivals = [steered("m", "c", 1), steered("m", "c", 0)]
    assert choose(generations([]), rivals, []) == [rivals[1]]


def test_only_candidates_with_a_rival_are_contested() -> None:
    alone, pair = steered("m", "a", 0), [steered("m", "b", 0), steered("m", "b", 1)]
    broken = [steered("m", "c", 0), steered("m", "c", 1, None)]
    controls = [steered("r", None, 0), steered("r", None, 1)]
    everything = [alone, *pair, *broken, *controls]
    assert contested(everything, ["r"]) == pair
    assert set(choose(generations([]), everything, ["r"])) == {alone, pair[0], broken[0], *controls}


def test_generations_of_the_test_split_are_refused() -> None:
    with pytest.raises(AssertionError, match="only validate prompts choose"):
        choose(generations([("c", "m", 0, 0, 0.1)], split="test"), [steered("m", "c", 0)], [])


def test_a_candidate_without_strength_has_no_jobs_and_a_row_with_the_reason() -> None:
    absent = steered("m", "c", 0, None)
    assert absent.jobs([Prompt(0, (1, 2))], 2) == []
    assert tables.STRENGTHS.frame([absent.row()])["reason"].to_list() == ["nothing"]
    assert [
        (job.prompt.number, job.sample) for job in steered("m", "c", 0).jobs([Prompt(3, (1,))], 2)
    ] == [
        (3, 0),
        (3, 1),
    ]
