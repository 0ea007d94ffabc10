"""Calls of a language model as MLflow traces: what was asked, what it answered, what that scored and
what it cost.

Made of the artifact's own sample of calls (`interpret.client.sample`, `steer.client.sample`), once
for each artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow
import polars as pl
from mlflow import MlflowClient

from components.store.artifact import Artifact
from components.store.tables import CALLS, EXPLANATION_SCORES, EXPLANATIONS, WRITERS

TAG = "artifact"
COUNTED = ("input_tokens", "cached_tokens", "reasoning_tokens", "output_tokens", "usd", "seconds")
SAID = ("call", "replicate", "served_model", "fingerprint", "estimated")


def log_calls(client: MlflowClient, experiment: str, run: str, artifact: Artifact) -> int:
    """Writes the calls of an artifact as traces of a run; returns how many were written.

    Nothing is written of an artifact that has no calls, or whose calls are there already.
    """
    if CALLS.file not in artifact.files:
        return 0
    wanted = f"tags.{TAG} = '{artifact.key}'"
    if client.search_traces(locations=[experiment], filter_string=wanted, max_results=1):
        return 0
    calls, scores = CALLS.read(artifact), _scores(artifact)
    for call in calls.iter_rows(named=True):
        attributes = {name: call[name] for name in (*COUNTED, *SAID) if call[name] is not None}
        attributes |= scores.get(call["call"], {})
        span = client.start_trace(
            call["label"] or "call",
            span_type="LLM",
            inputs={"prompt": call["prompt"]},
            attributes=attributes,
            tags={TAG: artifact.key, "stage": artifact.stage},
            experiment_id=experiment,
            run_id=run,
        )
        client.end_trace(
            span.trace_id,
            outputs={"answer": call["answer"], "reason": call["reason"]},
            status="ERROR" if call["reason"] else "OK",
        )
    mlflow.flush_trace_async_logging()
    return calls.height


def _scores(artifact: Artifact) -> Mapping[str, Mapping[str, Any]]:
    """Call -> the explanation that was read off it, why there is none, and its scores."""
    if WRITERS.file not in artifact.files:
        return {}
    said = WRITERS.read(artifact).join(
        EXPLANATIONS.read(artifact), on=["latent", "explainer"], how="left"
    )
    scored = EXPLANATION_SCORES.read(artifact).filter(pl.col("role") != "floor")
    found: dict[str, dict[str, Any]] = {}
    for row in said.iter_rows(named=True):
        told = {"latent": row["latent"], "explainer": row["explainer"], "reason": row["reason"]}
        found[row["call"]] = {name: value for name, value in told.items() if value is not None}
    joined = said.join(scored, on=["latent", "explainer"]).select(
        "call", "scorer", "predictor", "value"
    )
    for call, scorer, predictor, value in joined.drop_nulls("value").iter_rows():
        found[call][f"score.{scorer}.{predictor}"] = value
    return found
