"""One trained tiny model, its corpus, activations and a dictionary with planted directions, shared
by these tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from components.model.language_model import LanguageModel
from components.model.reference import ModelReference
from components.steering.config import SteerConfig
from components.steering.contract import Concept
from components.steering.gate import Split
from components.steering.subject import SteeredSubject
from components.steering.targeting import Ground, Targeted
from components.store.artifact import Artifact, Store
from components.store.shards import ActivationShards
from tests.steering import world

PLANTED = ("topic.animal", "topic.royal", "topic.land", "topic.home", "word.cat", "word.king")
"""Concepts whose difference of means is a latent of the dictionary: the first ones, in this
order."""


@dataclasses.dataclass(frozen=True)
class Bench:
    store: Store
    reference: ModelReference
    model: LanguageModel
    corpus: Artifact
    activations: Artifact
    dictionary: Artifact
    codes: Artifact
    concepts: list[Concept]
    planted: torch.Tensor

    @property
    def inputs(self) -> dict[str, object]:
        names = ("corpus", "activations", "dictionary", "codes")
        return {"model": self.reference} | {name: getattr(self, name) for name in names}

    def targeted(self, config: SteerConfig, **given: Any) -> Targeted:
        """The targets that the section names, found here."""
        subject = SteeredSubject.read(self.inputs)
        return config.targeted.find(
            Ground(subject, self.model, self.codes, config, world.CPU, **given)
        )

    def split(self, name: str = "select") -> Split:
        return Split(
            self.corpus, ActivationShards(self.activations), name, world.HOOK, self.concepts
        )


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder: Path = tmp_path_factory.mktemp("steering")
    store, reference = Store(folder / "store"), world.trained_model(folder / "model")
    model = reference.load()
    corpus = world.corpus(store, world.PROMPTS)
    activations = world.captured(store, corpus, model)
    concepts = [Concept(name, kind, unit) for name, kind, unit, _ in world.CONCEPTS]
    shards = ActivationShards(activations)
    split = Split(corpus, shards, "select", world.HOOK, concepts)
    x, planted = split.tokens().double(), []
    for concept in PLANTED:
        inside = torch.from_numpy(
            split.labels[:, [c.name for c in concepts].index(concept)].toarray().ravel()
        )
        planted.append(x[inside].mean(0) - x[~inside].mean(0))
    directions = torch.nn.functional.normalize(torch.stack(planted), dim=1).float()
    dictionary, codes = world.planted(store, activations, directions)
    return Bench(
        store, reference, model, corpus, activations, dictionary, codes, concepts, directions
    )
