"""One seed, independent named generators, the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import torch

from components.seeds import derive, numpy_generator, torch_generator


def test_a_derived_seed_is_the_same_on_every_machine_and_in_every_process() -> None:
    assert derive(0, "train", 3) == 8993725632678224540
    code = "from components.seeds import derive; print(derive(0, 'train', 3))"
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(told.stdout) == derive(0, "train", 3)


def test_every_name_and_every_seed_has_a_stream_of_its_own() -> None:
    seeds = {
        derive(seed, *names)
        for seed in range(10)
        for names in [(), ("a",), ("b",), ("a", "b"), ("ab",), ("a", 1)]
    }
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_names_are_kept_apart() -> None:
    assert derive(0, "a", "b") != derive(0, "ab") != derive(0, "a b")


def test_generators_start_over_the_same_and_differ_by_name() -> None:
    assert numpy_generator(1, "x").random() == numpy_generator(1, "x").random()
    assert numpy_generator(1, "x").random() != numpy_generator(1, "y").random()
    first, again, other = (torch.rand(3, generator=torch_generator(1, name)) for name in "xxy")
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_streams_of_neighbouring_seeds_are_not_alike() -> None:
    draws = np.array([numpy_generator(seed, "x").random(500) for seed in range(8)])
    assert np.abs(np.corrcoef(draws) - np.eye(8)).max() < 0.2
