"""The whole chain: read, capture, train, encode, interpret, steer, evaluate, report."""

from __future__ import annotations

from prefect import flow

from components.experiment import STAGES, ExperimentConfig
from flows import plan
from flows.chain import Chain
from flows.report import publish
from flows.stack import windows
from flows.steps import Reference
from flows.terminal import aside


@flow(name="experiment", flow_run_name=windows.name)
def experiment(config: ExperimentConfig) -> Reference:
    """From text, or from activations in a file, to the report; what is made already is found."""
    with Chain(config) as chain:
        chain.fetch()  # as a task, seen and tried again; the plan would download in silence
        plan.say(config, aside)
        for stage in STAGES:
            if stage not in chain.missing:
                chain.artifact(stage)
        artifact = chain.artifact("report")
        publish(artifact)
        return artifact.reference()
