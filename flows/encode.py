"""Sparse codes of the dictionary and the statistics of its latents."""

from __future__ import annotations

from prefect import flow

from components.experiment import ExperimentConfig
from flows import windows
from flows.steps import Chain, Reference


@flow(name="encode", flow_run_name=windows.name)
def encode(config: ExperimentConfig) -> Reference:
    """Sparse codes of the dictionary and the statistics of its latents."""
    with Chain(config) as chain:
        return chain.encode().reference()
