"""Steered text at equal KL cost, judged against honest baselines."""

from __future__ import annotations

from prefect import flow

from components.experiment import ExperimentConfig
from flows import windows
from flows.steps import Chain, Reference


@flow(name="steer", flow_run_name=windows.name)
def steer(config: ExperimentConfig) -> Reference:
    """Steered text at equal KL cost, judged against honest baselines."""
    with Chain(config) as chain:
        return chain.steer().reference()
