"""What lies behind an artifact, whether or not all of it is still there."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.config import Config
from components.errors import MissingArtifactError
from components.store import lineage
from components.store.artifact import Artifact, Store
from components.store.stage import Inputs, Progress, Stage, Work


class NamedConfig(Config):
    """Artifacts that differ by their name alone."""

    name: str = ""


def make(folder: Path, config: NamedConfig, inputs: Inputs, settings: object) -> Work:
    """Writes nothing."""
    yield Progress(1, 1, "artifacts")
    return {}


class Chain:
    """Two dictionaries on one capture, their codes, and what a report gathers."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.read = self.made("read")
        self.capture = self.made("capture", corpus=self.read)
        self.train, self.other = (
            self.made("train", name, activations=self.capture) for name in ("ours", "untrained")
        )
        self.encode = self.made("encode", "ours", dictionary=self.train)
        self.control = self.made("encode", "untrained", dictionary=self.other)
        self.evaluate = self.made("evaluate", codes=self.encode, untrained=self.control)
        self.report = self.made("report", train=self.train, evaluate=self.evaluate)

    def made(self, stage: str, name: str = "", **inputs: Artifact) -> Artifact:
        """An artifact of one stage."""
        return self.store.ensure(Stage(stage, 1, make), NamedConfig(name=name), inputs)[0]


def places(*artifacts: Artifact) -> set[lineage.Place]:
    return {(artifact.stage, artifact.key) for artifact in artifacts}


def test_the_closure_is_everything_an_artifact_was_made_from(store: Store) -> None:
    chain = Chain(store)
    everything = (
        chain.read,
        chain.capture,
        chain.train,
        chain.other,
        chain.encode,
        chain.control,
        chain.evaluate,
    )
    assert set(lineage.closure(store, [chain.report])) == places(*everything, chain.report)
    assert set(lineage.closure(store, [chain.train])) == places(
        chain.read, chain.capture, chain.train
    )


def test_a_whole_closure_with_a_gap_is_refused(store: Store) -> None:
    chain = Chain(store)
    store.delete("read", chain.read.key)
    assert set(lineage.closure(store, [chain.capture])) == places(chain.capture)
    with pytest.raises(
        MissingArtifactError, match=f"no artifact read/{chain.read.key} in .*; run the stage again"
    ):
        lineage.closure(store, [chain.capture], whole=True)


def test_a_trail_reaches_what_is_not_in_the_store(store: Store) -> None:
    chain = Chain(store)
    manifests = [chain.train.manifest, chain.capture.manifest]
    assert lineage.trail(manifests, ("train", chain.train.key)) == places(
        chain.train, chain.capture, chain.read
    )


def test_behind_a_report_the_nearest_artifact_stands_for_its_stage_and_the_control_for_none(
    store: Store,
) -> None:
    chain = Chain(store)
    behind = lineage.behind(store, chain.report)
    assert (
        behind.artifacts["train"].key == chain.train.key
        and behind.artifacts["encode"].key == chain.encode.key
    )
    assert set(behind.artifacts) == {"report", "train", "evaluate", "capture", "encode", "read"}
    store.delete("read", chain.read.key)
    assert lineage.behind(store, chain.report).missing == ("read",)
    everything = lineage.closure(store, [chain.report]).values()
    assert lineage.controls(everything) == {
        chain.control.key: "untrained",
        chain.other.key: "untrained",
    }


def test_a_control_of_other_activations_has_those_of_its_own_and_shares_the_text(
    store: Store,
) -> None:
    chain = Chain(store)
    capture = chain.made("capture", "drawn weights", corpus=chain.read)
    train = chain.made("train", "drawn weights", activations=capture)
    codes = chain.made("encode", "drawn weights", dictionary=train, activations=capture)
    ours = chain.made("interpret", codes=chain.encode, randomised=codes)
    report = chain.made("report", "both", train=chain.train, interpret=ours)
    assert lineage.behind(store, report).artifacts["capture"].key == chain.capture.key
    everything = lineage.closure(store, [report]).values()
    assert lineage.controls(everything) == dict.fromkeys(
        (codes.key, train.key, capture.key), "randomised"
    )


def test_an_input_that_is_gone_or_was_never_given_has_no_source(store: Store) -> None:
    chain = Chain(store)
    source = lineage.source(chain.encode, "dictionary")
    assert source is not None and source.key == chain.train.key
    assert lineage.source(chain.encode, "gate") is None
    store.delete("train", chain.train.key)
    assert lineage.source(chain.encode, "dictionary") is None
