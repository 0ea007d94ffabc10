"""Documents into packed contexts, splits, labels and prompts."""

from __future__ import annotations

from prefect import flow

from components.experiment import ExperimentConfig
from flows import windows
from flows.steps import Chain, Reference


@flow(name="read", flow_run_name=windows.name)
def read(config: ExperimentConfig) -> Reference:
    """Documents into packed contexts, splits, labels and prompts."""
    with Chain(config) as chain:
        return chain.read().reference()
