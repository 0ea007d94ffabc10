"""One planted corpus and one interpretation of it, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from components.config import override
from components.interpretation.config import InterpretConfig
from components.interpretation.contexts import choose, cut_splits
from components.interpretation.contract import LatentRecord
from components.interpretation.interpret import INTERPRET
from components.interpretation.sample import sample_latents
from components.interpretation.tiling import ContextsConfig
from components.interpretation.windows import Vocabulary
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.shards import ActivationShards, CodeShards
from tests.client.servers import Server, serving
from tests.interpretation.knowing import knows
from tests.interpretation.planted import D_SAE, WORDS, Planted, finished, plant
from tests.interpretation.pushed import Pushed, push


@pytest.fixture(scope="session")
def planted_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(Path(tmp_path_factory.mktemp("planted")))


@pytest.fixture(scope="session")
def planted(planted_store: Store) -> Planted:
    return plant(planted_store)


@pytest.fixture(scope="session")
def interpreted(planted_store: Store, planted: Planted) -> Artifact:
    return planted_store.ensure(INTERPRET, InterpretConfig(), planted.inputs)[0]


@pytest.fixture(scope="session")
def offline(
    planted_store: Store, planted: Planted, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """Every explainer that needs no model, by two scorers; what is given are the planted phrases of
    the first ten latents."""
    known = tmp_path_factory.mktemp("known") / "known.parquet"
    phrases = [
        {"latent": latent, "text": phrase}
        for latent, phrase in planted.phrases.items()
        if latent < 10
    ]
    pl.DataFrame(phrases).write_parquet(known)
    named = [
        "log_odds",
        "logistic",
        "logit_lens",
        "concept_match",
        "given",
        "token_lookup",
        "constant",
    ]
    config = InterpretConfig(explainers=named, scorers=["detection", "fuzzing"])
    config = override(config, {"explainer_settings.given.path": str(known)})
    return planted_store.ensure(INTERPRET, config, planted.inputs)[0]


@pytest.fixture(scope="session")
def records(planted: Planted) -> dict[int, LatentRecord]:
    """Every sampled latent with its windows, by latent."""
    return records_of(planted)


def records_of(planted: Planted) -> dict[int, LatentRecord]:
    """Latent -> its windows."""
    codes, activations = (
        CodeShards(planted.inputs["codes"]),
        ActivationShards(planted.inputs["activations"]),
    )
    sample = sample_latents(tables.LATENTS.read(planted.inputs["codes"]), D_SAE, 100, 0)
    vocabulary = Vocabulary([f" {word}" for word in WORDS])
    chosen = finished(
        choose(codes, cut_splits(activations, vocabulary, ContextsConfig()), sample, 0)
    )
    return {record.latent: record for record in chosen.records()}


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """A model that can be pushed along planted directions, with its dictionary and text."""
    folder = tmp_path_factory.mktemp("pushed")
    return push(Store(folder / "store"), folder / "model")


@pytest.fixture
def server() -> Iterator[Server]:
    """An endpoint played by rules that know what is planted."""
    with serving() as running:
        running.script = knows
        yield running
