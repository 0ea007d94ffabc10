"""MLflow traces: calls of a language model (what was asked, what it answered, what that scored and
what it cost), and steered text beside plain text with what each judge said of it.

Calls are the artifact's own sample (`interpret.client.sample`, `steer.client.sample`); steered texts
are drawn here, at most `steer.traces`. Both are written once for each artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import AssessmentError, AssessmentSource, AssessmentSourceType
from mlflow.entities.trace_location import MlflowExperimentLocation

from components.seeds import numpy_generator
from components.store.artifact import Artifact
from components.store.judgements import AGAIN, UNSTEERED
from components.store.lineage import source
from components.store.tables import (
    CALLS,
    EXPLANATION_SCORES,
    EXPLANATIONS,
    GENERATIONS,
    JUDGEMENTS,
    PROMPTS,
    STRENGTHS,
    WRITERS,
)

TAG = "artifact"
COUNTED = ("input_tokens", "cached_tokens", "reasoning_tokens", "output_tokens", "usd", "seconds")
SAID = ("call", "replicate", "served_model", "fingerprint", "estimated")
STEERED_WITH = (
    *("method", "target", "kl_budget", "coefficient", "scale", "latent", "sign", "replicate"),
    *("prompt", "sample", "generation", "kl", "kl_reverse"),
)
"""What the trace of a steered text says of it, beside prompt and texts."""
VERDICTS = pl.List(
    pl.Struct({"judge": pl.String, "value": pl.Float64, "reason": pl.String, "before": pl.Float64})
)


def log_calls(client: MlflowClient, experiment: str, run: str, artifact: Artifact) -> int:
    """Writes the calls of an artifact as traces of a run; returns how many were written.

    Nothing is written of an artifact that has no calls, or whose calls are there already.
    """
    if CALLS.file not in artifact.files:
        return 0
    if _is_there(client, experiment, artifact):
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


def log_generations(
    client: MlflowClient, experiment: str, run: str, artifact: Artifact, most: int
) -> int:
    """Writes a sample of the steered test texts of an artifact as traces of a run; returns how many
    were written.

    A trace has the prompt, what was steered with, the steered text and the plain text of the same
    prompt and sample; each judge's verdict is an assessment, a number whose source is the judge.
    Nothing is written of an artifact that has no steered text, or whose traces are there already.

    Args:
        client: whose tracking store is the one of this process.
        experiment: id.
        run: id.
        artifact: of the stage `steer`.
        most: texts, at most; each method at each budget has its share.
    """
    wanted = {GENERATIONS.file, JUDGEMENTS.file, STRENGTHS.file}
    if not most or not wanted <= set(artifact.files) or _is_there(client, experiment, artifact):
        return 0
    drawn = _drawn(artifact, most)
    for row in drawn.iter_rows(named=True):
        _trace(row, experiment, run, artifact)
    mlflow.flush_trace_async_logging()
    return drawn.height


def _trace(row: Mapping[str, Any], experiment: str, run: str, artifact: Artifact) -> None:
    """One steered text. Its verdicts are entered while the trace is open, so that it is written
    whole, at once."""
    budget = "own cost" if row["kl_budget"] is None else f"KL {row['kl_budget']:g}"
    steered = {name: row[name] for name in STEERED_WITH if row[name] is not None}
    with mlflow.start_span(
        f"{row['method']}, {budget}, {row['target']}",
        span_type="STEERED",
        attributes=steered,
        trace_destination=MlflowExperimentLocation(experiment),
        run_id=run,
    ) as span:
        mlflow.update_current_trace(tags={TAG: artifact.key, "stage": artifact.stage})
        span.set_inputs({"prompt": row["opening"], "target": row["target"]})
        span.set_outputs({"steered": row["text"], "plain": row["plain"], "reason": row["reason"]})
        span.set_status("ERROR" if row["reason"] else "OK")
        for said in row["verdicts"]:
            _assess(span.trace_id, said)


def _assess(trace: str, said: Mapping[str, Any]) -> None:
    """A judge's verdict on the text of an open trace."""
    absent = AssessmentError("NO_VALUE", said["reason"] or "the judge gives no reason")
    mlflow.log_feedback(
        trace_id=trace,
        name=said["judge"],
        value=said["value"],
        error=absent if said["value"] is None else None,
        source=AssessmentSource(AssessmentSourceType.CODE, said["judge"]),
        metadata={} if said["before"] is None else {"plain_text": f"{said['before']:.6g}"},
    )


def _drawn(artifact: Artifact, most: int) -> pl.DataFrame:
    """Steered test texts, as many of each method at each budget as there is room for, with prompt,
    plain text, strength, target and verdicts.

    What belongs to no target (a control) is judged for all, and shown for one that is drawn.
    """
    rng = numpy_generator(int(artifact.config.get("seed", 0)), "traces")
    test = GENERATIONS.scan(artifact).filter(pl.col("split") == "test")
    steered = test.filter(~pl.col("method").is_in([UNSTEERED, AGAIN])).collect()
    steered = steered.sort("generation")
    order = pl.Series("order", rng.permutation(steered.height))
    turn = pl.int_range(pl.len()).over("method", "kl_budget")
    steered = steered.with_columns(order).sort("order").with_columns(turn.alias("turn"))
    drawn = steered.sort("turn", "order").head(most).drop("turn", "order")
    plain = test.filter(pl.col("method") == UNSTEERED).collect()
    at = ["prompt", "sample"]
    texts = plain.select(*at, pl.col("text").alias("plain"), pl.col("generation").alias("before"))
    drawn = drawn.join(texts, on=at, how="left", maintain_order="left")
    place = ["concept", "method", "replicate", "kl_budget"]
    strengths = STRENGTHS.read(artifact).select(*place, "coefficient", "latent", "sign")
    drawn = drawn.join(strengths, on=place, how="left", nulls_equal=True, maintain_order="left")
    drawn = drawn.join(_openings(artifact), on="prompt", how="left", maintain_order="left")
    numbers = pl.concat([drawn["generation"], drawn["before"]]).drop_nulls().unique()
    said = JUDGEMENTS.scan(artifact).filter(pl.col("generation").is_in(numbers.implode()))
    judged = said.select("generation", "concept", "judge", "value", "reason").collect()
    verdicts = _by_text(judged)
    scales = artifact.facts.get("scales", {})
    targets, found = [], []
    for row in drawn.iter_rows(named=True):
        of_text = verdicts.get(row["generation"], {})
        concepts = sorted(of_text)
        drawn_target = concepts[int(rng.integers(len(concepts)))] if concepts else None
        target = row["concept"] or drawn_target
        before = verdicts.get(row["before"], {}).get(target, {})
        targets.append(target)
        found.append(
            [
                {**verdict, "before": before.get(judge, {}).get("value")}
                for judge, verdict in of_text.get(target, {}).items()
            ]
        )
    return drawn.with_columns(
        pl.Series("target", targets, pl.String),
        pl.Series("verdicts", found, VERDICTS),
        pl.col("method")
        .replace_strict(scales, default=None, return_dtype=pl.String)
        .alias("scale"),
    )


def _by_text(judged: pl.DataFrame) -> dict[int, dict[str, dict[str, dict[str, Any]]]]:
    """Text -> target -> judge -> its verdict."""
    found: dict[int, dict[str, dict[str, dict[str, Any]]]] = {}
    for row in judged.iter_rows(named=True):
        of_target = found.setdefault(row["generation"], {}).setdefault(row["concept"], {})
        of_target[row["judge"]] = {name: row[name] for name in ("judge", "value", "reason")}
    return found


def _openings(artifact: Artifact) -> pl.DataFrame:
    """Number of a prompt -> its text; none where the corpus is gone from the store."""
    corpus = source(artifact, "corpus")
    prompts = PROMPTS.frame([]) if corpus is None else PROMPTS.read(corpus)
    return prompts.select("prompt", pl.col("text").alias("opening"))


def _is_there(client: MlflowClient, experiment: str, artifact: Artifact) -> bool:
    """Whether the traces of an artifact were written before."""
    wanted = f"tags.{TAG} = '{artifact.key}'"
    return bool(client.search_traces(locations=[experiment], filter_string=wanted, max_results=1))


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
