"""Numbers of steering. Where one moves on purpose, raise the version of the stage or entry beside
it."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from components.steering.concepts import pick_concepts
from components.steering.config import SteerConfig
from components.steering.contract import Candidate, judges, methods
from components.steering.neutral import Neutral
from components.steering.steer import STEER
from components.steering.strength import calibrate
from components.steering.vector import AddVector
from components.steering.writer import Job, Prompt, Writer
from tests import toys
from tests.contracts.test_steering import TEXTS, judge
from tests.steering.world import evidence, finish, method

VERSIONS = {
    "steer": 9,
    "add_direction": 1,
    "linear_probe": 1,
    "logit_bias": 2,
    "mean_difference": 1,
    "paired_difference": 1,
    "prompt": 2,
    "random_direction": 2,
    "several_latents": 1,
    "whitened_mean_difference": 1,
    "concept": 2,
    "fluency": 3,
    "relevance": 2,
    "classifier": 1,
    "concept_masked": 1,
    "grammar": 1,
    "meaning": 1,
    "pattern": 1,
    "readback": 1,
}
PROPOSED = {
    "add_direction": [0.0, 0.0, 1.0],
    "mean_difference": [0.039117, 0.040946, 0.990866],
    "random_direction": [0.335180, 0.133801, 0.751404],
    "whitened_mean_difference": [0.030544, 0.027605, 0.996292],
    "several_latents": [0.002344, 0.012076, 0.992267],
    "paired_difference": [-0.178495, 0.614069, 0.300446],
}
PROBED = [-0.017499, 0.032938, 0.99875]
PASSAGES = [[9, 6, 6, 9], [9, 9, 9, 9]]
WORDS = [6, 9]
RANKED = [2, 1, 5]
JUDGED = {"concept": [0.910322, 0.029683], "fluency": [1.0, 0.0]}
STRENGTH = 0.620610
WRITTEN = ["small ? small two small", "big bird red queen saw"]
PICKED = ["word.1", "word.3", "word.7", "word.10"]


def proposed(name: str) -> list[Candidate]:
    return list(method(name).candidates(evidence()))


def test_results_move_only_with_a_version() -> None:
    versions = {"steer": STEER.version}
    for registry in (methods, judges):
        versions |= {name: registry.version(name) for name in registry.names() if name in VERSIONS}
    assert versions == VERSIONS
    for name, vector in PROPOSED.items():
        steering = proposed(name)[0].steering
        assert isinstance(steering, AddVector)
        assert steering.vector[:3].tolist() == pytest.approx(vector, abs=1e-4)
    assert [c.steering.tensors()[""].tolist() for c in proposed("logit_bias") if c.steering] == [
        [[WORDS[0]]],
        [[WORDS[1]]],
    ]
    probe = proposed("linear_probe")[0].steering
    assert isinstance(probe, AddVector)
    assert probe.vector[:3].tolist() == pytest.approx(PROBED, abs=1e-2)
    passages = [c.steering.tensors()[""].tolist()[:4] for c in proposed("prompt") if c.steering]
    assert passages[:2] == PASSAGES
    assert [
        candidate.latent for candidate in proposed("add_direction") if candidate.concept == "mark"
    ][:3] == RANKED
    for name, scores in JUDGED.items():
        assert judge(name).judge(TEXTS).values[:, 0].tolist() == pytest.approx(scores, abs=1e-3)


def test_text_and_strengths_move_only_with_a_version() -> None:
    model, vector = (
        toys.tiny_model("llama"),
        torch.nn.functional.normalize(torch.arange(1.0, 17.0), dim=0),
    )
    steering = AddVector("resid_post.1", vector, 4.0)
    tokens = torch.arange(60).reshape(4, 15) % 29 + 4
    strengths, _ = finish(
        calibrate(model, [steering], Neutral(tokens, torch.ones_like(tokens) > 0), [0.1])
    )
    assert float(strengths[0, 0, 0]) == pytest.approx(STRENGTH, rel=0.02)
    jobs = [Job(Prompt(0, (1, 4, 6)), sample, steering, 1.0) for sample in range(2)]
    written, _ = finish(Writer(model, 6, 1.0, 0, 8).write(jobs))
    assert [text.text for text in written] == WRITTEN


def test_the_concepts_picked_move_only_with_a_version() -> None:
    shared = {"concept_kind": "surface", "unit": "token", "family": "words"}
    inventory = pl.DataFrame([{"concept": f"word.{i}", **shared} for i in range(12)])
    assert [
        concept.name for concept in pick_concepts(inventory, SteerConfig(max_concepts_per_family=4))
    ] == PICKED
