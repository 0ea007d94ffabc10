"""What is served and what a worker runs are the same flows."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from prefect.flows import load_flow_from_entrypoint

from components.experiment import STAGES
from flows.stack import deployments

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_experiment_the_sweep_and_every_stage_are_served() -> None:
    assert deployments.names() == ["experiment", *STAGES, "sweep"]


def test_prefect_yaml_deploys_the_same_entrypoints_to_a_process_pool() -> None:
    written = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    assert {given["entrypoint"] for given in written} == {
        deployments.entrypoint(name) for name in deployments.names()
    }
    assert {given["work_pool"]["name"] for given in written} == {"gpu"}


def test_every_entrypoint_is_a_flow_without_hooks() -> None:
    # the served runner does not import flows to look for hooks: a flow that gains one must change
    # that
    for name in deployments.names():
        flow = deployments.flow_of(name)
        assert (
            load_flow_from_entrypoint(str(REPOSITORY / deployments.entrypoint(name))).name
            == flow.name
        )
        assert flow.name == name
        assert not flow.on_cancellation_hooks and not flow.on_crashed_hooks


def test_the_description_of_what_is_served_travels_as_json_with_its_form() -> None:
    described = json.loads(json.dumps(deployments.describe()))
    assert described["limit"] >= 1
    assert described["parameters"]["config"]["train"]["dictionary"]["kind"] == "topk"
    for given in described["deployments"]:
        assert "anyOf" in str(given["schema"]) and "oneOf" not in str(given["schema"])
