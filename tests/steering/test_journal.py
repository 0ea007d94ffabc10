"""What an interrupted run has written is not written again, and the table is the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.dictionary.architectures.topk import TopK, TopKConfig
from components.steering import writer
from components.steering.contract import Steering
from components.steering.journal import FILE, Journal
from components.steering.methods.clamp_latent import ClampLatent
from components.steering.methods.scale_latent import ScaleLatent
from components.steering.steer import STEER
from components.steering.vector import AddVector
from tests.steering import world
from tests.steering.conftest import Bench
from tests.steering.test_steer import CONFIG, CPU

SMALL = CONFIG.model_copy(update={"max_concepts_per_family": 1, "batch_size": 64})


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each batch that the model writes."""
    sizes: list[int] = []

    def counted(model: Any, prompts: Any, **settings: Any) -> Any:
        sizes.append(len(prompts))
        return generate(model, prompts, **settings)

    generate = writer.generate
    monkeypatch.setattr(writer, "generate", counted)
    return sizes


def test_a_run_that_was_killed_writes_nothing_twice_and_ends_in_the_same_tables(
    bench: Bench, tmp_path: Path, batches: list[int]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    steps = sum(1 for _ in STEER.make(whole, SMALL, bench.inputs, CPU))
    undisturbed = list(batches)
    for share in (0.2, 0.5, 0.8):
        work = STEER.make(killed, SMALL, bench.inputs, CPU)
        for _ in range(int(share * steps)):
            next(work)
        work.close()
        with (killed / FILE).open("a") as file:  # the line at which the kill came
            file.write('{"key": "half of a')
    for _ in STEER.make(killed, SMALL, bench.inputs, CPU):
        pass
    assert batches[len(undisturbed) :] == undisturbed
    tables = sorted(path.name for path in whole.iterdir() if path.is_file())
    assert "generations.parquet" in tables and "directions.safetensors" in tables
    for name in tables:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_working_files_end_with_the_work(bench: Bench) -> None:
    artifact, _ = bench.store.ensure(STEER, SMALL, bench.inputs, CPU)
    assert not (artifact.folder / FILE).parent.exists()


def test_numbers_that_are_not_finite_are_remembered(tmp_path: Path) -> None:
    made = Journal(tmp_path / "folder" / "file").remember(["x"], lambda: [math.nan, math.inf])
    again = Journal(tmp_path / "folder" / "file").remember(["x"], never)
    assert math.isnan(again[0]) and again[1] == made[1] == math.inf


def test_a_line_that_is_no_line_of_a_journal_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Journal(path).remember(["x"], lambda: 1)
    path.write_text("[]\n" + path.read_text() + "7\n", encoding="utf-8")
    assert Journal(path).remember(["x"], never) == 1


def dictionary(seed: int) -> TopK:
    made = TopK(TopKConfig(d_sae=16, k=2), (world.HOOK,), (world.HOOK,), {world.HOOK: 8})
    random = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random)
    return made


LATENTS, MOST, VECTOR = torch.tensor([3]), torch.tensor([1.0]), torch.ones(8)
FIRST, SECOND = dictionary(0), dictionary(1)


@pytest.mark.parametrize(
    "other",
    [
        ClampLatent(world.HOOK, LATENTS, MOST, "all", SECOND),
        ClampLatent(world.HOOK, LATENTS, MOST, "generated", FIRST),
        ClampLatent(world.HOOK, LATENTS + 1, MOST, "all", FIRST),
        ScaleLatent(world.HOOK, LATENTS, MOST, "all", FIRST),
        ScaleLatent(world.HOOK, LATENTS, MOST, "all", FIRST, suppresses=True),
        AddVector(world.HOOK, VECTOR, 1.0),
        AddVector(world.HOOK, VECTOR, 2.0),
    ],
)
def test_a_steering_is_known_by_all_that_it_holds(other: Steering, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "file")
    steering = ClampLatent(world.HOOK, LATENTS, MOST, "all", FIRST)
    journal.remember([steering, 1.0], lambda: "this")
    assert journal.remember([other, 1.0], lambda: "other") == "other"
    assert journal.remember([steering, 2.0], lambda: "stronger") == "stronger"
    same = ClampLatent(world.HOOK, LATENTS.clone(), MOST.clone(), "all", dictionary(0))
    assert Journal(tmp_path / "file").remember([same, 1.0], never) == "this"


def test_what_holds_something_that_cannot_be_told_is_made_anew(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, eq=False)
    class Odd(AddVector):
        read: Callable[[], None] = never

    journal, odd = Journal(tmp_path / "file"), Odd(world.HOOK, VECTOR, 1.0)
    assert [journal.remember([odd], lambda: 1), journal.remember([odd], lambda: 2)] == [1, 2]


def never() -> Any:
    raise AssertionError("this was made before")
