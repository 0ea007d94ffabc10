"""An explanation of each sampled latent, and how well it foretells the latent."""

from __future__ import annotations

from prefect import flow

from components.experiment import ExperimentConfig
from flows import windows
from flows.steps import Chain, Reference


@flow(name="interpret", flow_run_name=windows.name)
def interpret(config: ExperimentConfig) -> Reference:
    """An explanation of each sampled latent, and how well it foretells the latent."""
    with Chain(config) as chain:
        return chain.interpret().reference()
