"""The stage: every evaluation into one table, controls found through the codes, settings by
name."""

from __future__ import annotations

import json

import pytest
import torch

from components.concept.probe import VERSION
from components.config import Config, canonical, flatten, override
from components.device import Execution
from components.errors import ConfigError, UnknownNameError
from components.evaluation.contract import ABSENT, Score, evaluations
from components.evaluation.evaluate import EVALUATE, EvaluateConfig, measures_of
from components.experiment import ExperimentConfig
from components.report.scores import write
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import key_of
from components.store.shards import write_codes
from components.store.stage import Progress, Stage
from tests import toys
from tests.evaluation import bench

CONCEPTS = [("first", "surface", "token"), ("even", "document", "document")]
LABELS = {
    "first": lambda split, token, document: token == token[:, 1:2],
    "even": lambda split, token, document: document % 2 == 0,
}


class Toy(Config):
    name: str = ""
    """Which of several."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Artifacts by role as the stages before would leave them, in a store of their own."""
    from components.store.artifact import Store

    store, model = (
        Store(tmp_path_factory.mktemp("store")),
        toys.tiny_reference(tmp_path_factory.mktemp("tiny")),
    )
    grids = {
        split: bench.contexts(toys.tiny_model(), number)
        for number, split in enumerate(bench.SPLITS)
    }
    x = {split: bench.kept(toys.tiny_model(), grid) for split, grid in grids.items()}
    activations = bench.capture(store, grids, x)
    made = {}
    for name, kept in (("trained", torch.ones(bench.D_IN)), ("untrained", torch.zeros(bench.D_IN))):
        dictionary = bench.linear(kept)

        def train(folder, config, given, settings, dictionary=dictionary):
            dictionary.save(folder)
            yield Progress(1, 1, "steps")
            return {"name": f"relu-32-{config.name}", "n_seeds": 1, "hook_point": bench.HOOK_POINT}

        def encode(folder, config, given, settings, dictionary=dictionary):
            for split, rows in x.items():
                write_codes(folder, split, 0, dictionary.encode(rows))
            yield Progress(1, 1, "shards")
            return {"d_sae": dictionary.d_sae}

        trained, _ = store.ensure(
            Stage("train", 1, train), Toy(name=name), {"activations": activations}
        )
        given = {"activations": activations, "dictionary": trained}
        made[name] = trained, store.ensure(Stage("encode", 1, encode), Toy(name=name), given)[0]
    return {
        "model": model,
        "corpus": bench.corpus(store, grids, CONCEPTS, LABELS),
        "activations": activations,
        "dictionary": made["trained"][0],
        "codes": made["trained"][1],
        "untrained": made["untrained"][1],
    }


def test_the_stage_writes_every_score_with_its_controls(store, inputs):
    artifact, hit = store.ensure(EVALUATE, EvaluateConfig(), inputs, Execution(device="cpu"))
    scores = {(row["name"], row["concept_kind"]): row for row in SCORES.read(artifact).to_dicts()}
    assert not hit and artifact.facts["n_scores"] == len(scores)
    assert scores["evaluate.fvu", None]["value"] == pytest.approx(0, abs=1e-9)
    # found through the manifest of the untrained codes
    assert scores["evaluate.fvu", None]["baseline"] > 0.9
    assert scores["evaluate.loss_recovered.mean_ablation", None]["value"] == pytest.approx(
        1, abs=1e-5
    )
    assert scores["evaluate.cross_entropy_rise", None]["baseline"] > 0.5
    assert scores["evaluate.concepts_gated", "all"]["n"] == 2
    units = {row["unit_kind"] for row in tables.CONCEPTS_FOUND.read(artifact).to_dicts()}
    assert units == {"latent", "neuron", "untrained", "probe"}
    # two concepts, six contexts: none is decoded
    assert scores["evaluate.concepts_found.latent", "all"]["value"] is None
    assert (
        "evaluate.settings.concepts_found.gate"
        in scores["evaluate.concepts_found.latent", "all"]["reason"]
    )
    for row in scores.values():
        assert (row["dictionary"], row["hook_point"]) == ("relu-32-trained", bench.HOOK_POINT)
        assert (row["split"], row["n_seeds"]) == ("test", 1)
    assert tables.CONCEPTS_FOUND.read(artifact).height == 8
    json.dumps(dict(artifact.facts), allow_nan=False)


def test_without_the_control_its_rows_and_baselines_are_absent(store, inputs):
    config = EvaluateConfig(evaluations=["reconstruction", "concepts_found"])
    artifact, _ = store.ensure(
        EVALUATE, config, {**inputs, "untrained": None}, Execution(device="cpu")
    )
    scores = {row["name"]: row for row in SCORES.read(artifact).to_dicts()}
    assert (
        scores["evaluate.fvu"]["baseline"] is None
        and scores["evaluate.fvu"]["baseline_name"] is None
    )
    assert (
        "evaluate.concepts_found.untrained" not in scores
        and "evaluate.loss_recovered.zero_ablation" not in scores
    )


def test_results_are_the_same_again(store, tmp_path, inputs):
    from components.store.artifact import Store

    again = Store(tmp_path / "another")
    frames = [
        SCORES.read(place.ensure(EVALUATE, EvaluateConfig(), inputs, Execution(device="cpu"))[0])
        for place in (store, again)
    ]
    assert frames[0].equals(frames[1])


def test_settings_have_dotted_names_and_only_choices_enter_the_key(inputs):
    config = EvaluateConfig()
    assert {
        "settings.concepts_found.ap_threshold",
        "settings.loss_recovered.tokens",
        "seed",
    } <= set(flatten(config))
    stricter = override(config, {"settings.concepts_found.ap_threshold": 0.9})
    smaller = override(config, {"settings.loss_recovered.batch_tokens": 64})
    assert (
        canonical(stricter) == {"settings": {"concepts_found": {"ap_threshold": 0.9}}}
        and canonical(smaller) == {}
    )
    key = key_of(EVALUATE, config, inputs)
    assert key_of(EVALUATE, smaller, inputs) == key != key_of(EVALUATE, stricter, inputs)
    entries = {f"evaluation.{name}": evaluations.version(name) for name in config.evaluations}
    assert EVALUATE.entries(config) == entries | {"probe": VERSION}


def test_what_changes_no_result_changes_no_key(inputs):
    key = key_of(EVALUATE, EvaluateConfig(), inputs)
    turned = EvaluateConfig(
        evaluations=["reconstruction", "loss_recovered", "concepts_found", "reconstruction"]
    )
    told = override(EvaluateConfig(), {"settings.concepts_found.ap_threshold": 0.8})
    assert key_of(EVALUATE, turned, inputs) == key_of(EVALUATE, told, inputs) == key
    unused = override(EvaluateConfig(), {"settings.absorption.tokens": 7})
    assert key_of(EVALUATE, unused.measuring(unused.evaluations), inputs) == key
    assert unused.measuring(["absorption"]).settings == unused.settings


def test_settings_of_an_evaluation_that_nobody_lists_are_refused():
    for_a_sweep = {"sweep.evaluations": ["absorption"], "evaluate.settings.absorption.tokens": 7}
    assert override(ExperimentConfig(), for_a_sweep).evaluate.settings.absorption.tokens == 7
    with pytest.raises(
        ConfigError,
        match="settings for first_letter; evaluations listed: absorption, concepts_found",
    ):
        override(ExperimentConfig(), {"evaluate.settings.first_letter.words": 7})


def test_unknown_evaluations_and_settings_are_refused():
    with pytest.raises(
        ConfigError, match=r"evaluations.0: Input should be .*'reconstruction'.*got 'reconstuction'"
    ):
        override(EvaluateConfig(), {"evaluations": ["reconstuction"]})
    with pytest.raises(
        UnknownNameError, match="did you mean 'settings.concepts_found.ap_threshold'"
    ):
        override(EvaluateConfig(), {"settings.concepts_found.ap_treshold": 0.9})
    with pytest.raises(ConfigError, match="evaluations"):
        override(EvaluateConfig(), {"evaluations": []})


def test_an_absent_value_without_a_reason_is_our_mistake(store, tmp_path):
    grids, x = {"test": bench.plain(1, 2)}, {"test": torch.randn(2, 2)}
    given = bench.subject(store, tmp_path, bench.linear(torch.ones(2)), grids=grids, x=x)
    row = Score("fvu", ABSENT, "document").row("reconstruction", given)
    with pytest.raises(AssertionError, match="an absent value needs its reason: .*'fvu'"):
        write(tmp_path, "evaluate", [row], measures_of(["reconstruction"]))
