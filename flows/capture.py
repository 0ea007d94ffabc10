"""Activations of the model at the hook points, on every split."""

from __future__ import annotations

from prefect import flow

from components.experiment import ExperimentConfig
from flows import windows
from flows.steps import Chain, Reference


@flow(name="capture", flow_run_name=windows.name)
def capture(config: ExperimentConfig) -> Reference:
    """Activations of the model at the hook points, on every split."""
    with Chain(config) as chain:
        return chain.capture().reference()
