"""A sparse dictionary of those activations."""

from __future__ import annotations

from prefect import flow

from components.experiment import ExperimentConfig
from flows import windows
from flows.steps import Chain, Reference


@flow(name="train", flow_run_name=windows.name)
def train(config: ExperimentConfig) -> Reference:
    """A sparse dictionary of those activations."""
    with Chain(config) as chain:
        return chain.train().reference()
