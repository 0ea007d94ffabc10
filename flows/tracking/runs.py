"""The runs that MLflow holds: listed for a terminal, and ended where their process is gone."""

from __future__ import annotations

import time
from collections.abc import Collection

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Run

from flows.tracking.headlines import LISTED
from flows.tracking.service import answered, forgiving
from flows.tracking.view import EXPERIMENT


def runs(limit: int = 20) -> pl.DataFrame:
    """The latest experiments: name, when (UTC), status, report key and headline numbers.

    Raises:
        ServiceError: MLflow does not answer.
    """

    def look() -> list[Run]:
        client = MlflowClient()
        found = client.get_experiment_by_name(EXPERIMENT)
        wanted = "tags.git_commit != ''"
        return client.search_runs([found.experiment_id], wanted, max_results=limit) if found else []

    uri = mlflow.get_tracking_uri()
    advice = (
        "unset MLFLOW_TRACKING_URI for this folder's own runs"
        if uri.startswith("http")
        else "see whether it is whole"
    )
    rows = []
    for run in answered(look, "which runs there are", f"start it again, or {advice}"):
        headline = {name: value for name, value in run.data.metrics.items() if name in LISTED}
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.info.start_time / 1000))
        rows.append(
            {
                "run": run.info.run_id[:8],
                "name": run.info.run_name,
                "at (UTC)": at,
                "status": run.info.status,
                "report": run.data.tags.get("report"),
                **headline,
            }
        )
    return (
        pl.DataFrame(rows, infer_schema_length=None)
        if rows
        else pl.DataFrame(schema={"run": pl.String})
    )


def reap(flow_runs: Collection[str]) -> None:
    """Ends, as KILLED, the runs that these flow runs left running."""

    def end() -> None:
        client = MlflowClient()
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            return
        for run in client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'"):
            parent = (
                client.get_run(run.data.tags["mlflow.parentRunId"])
                if "mlflow.parentRunId" in run.data.tags
                else run
            )
            if parent.data.tags.get("prefect.flow_run") in flow_runs:
                client.set_terminated(run.info.run_id, "KILLED")

    forgiving("end runs whose process is gone", end)
