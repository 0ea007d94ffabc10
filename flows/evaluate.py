"""What the dictionary keeps, loses and finds."""

from __future__ import annotations

from prefect import flow

from components.experiment import ExperimentConfig
from flows import windows
from flows.steps import Chain, Reference


@flow(name="evaluate", flow_run_name=windows.name)
def evaluate(config: ExperimentConfig) -> Reference:
    """What the dictionary keeps, loses and finds."""
    with Chain(config) as chain:
        return chain.evaluate().reference()
