"""A flow for each stage of the chain: it makes that stage's artifact, and whatever this one needs.

The report's and the experiment's flows do more than that and have files of their own.
"""

from __future__ import annotations

from typing import Any

from prefect import Flow, flow

from components.experiment import STAGES, ExperimentConfig, about
from flows.chain import Chain
from flows.stack import windows
from flows.steps import Reference


def _flow(stage: str) -> Flow[Any, Any]:
    def run(config: ExperimentConfig) -> Reference:
        with Chain(config) as chain:
            return chain.artifact(stage).reference()

    run.__name__ = run.__qualname__ = stage
    run.__doc__ = about(stage)
    return flow(name=stage, flow_run_name=windows.name)(run)


# Prefect looks a flow up by its name
globals().update({stage: _flow(stage) for stage in STAGES if stage != "report"})
