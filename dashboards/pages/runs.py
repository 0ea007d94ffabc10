"""Start a run with a form, and follow it: Prefect runs it, this page only asks."""

from __future__ import annotations

import json
import re
from typing import Any

import streamlit as st
import yaml

from components.errors import LatentflowError, ServiceError
from dashboards import parameters, runs, selection, views, workflow
from dashboards.app import show_alone
from dashboards.markdown import code, plain, sentence
from dashboards.parameters import Field

MAIN = (
    "name",
    "model.path",
    "read.seed",
    "capture.hook_points",
    "train.dictionary",
    "train.tokens",
    "train.seed",
    "interpret.latents",
    "interpret.explainers",
    "interpret.scorers",
    "steer.methods",
    "steer.kl_budgets",
    "steer.max_concepts_per_family",
    "evaluate.evaluations",
    "execution.device",
)
"""The parameters, or whole sections, that have a field; every other is a line of text away."""
MARKS = {
    "COMPLETED": "✓",
    "FAILED": "✗",
    "CRASHED": "✗",
    "CANCELLED": "■",
    "RUNNING": "▶",
    "PENDING": "…",
    "SCHEDULED": "…",
    "CANCELLING": "■",
    "PAUSED": "‖",
}


def page() -> None:
    """The run that is followed, the form, and the latest runs."""
    st.title("Runs")
    try:
        deployments = workflow.deployments()
        recent = workflow.recent()
    except ServiceError as error:
        st.info(f"{sentence(error)}. The command line needs no server: `latentflow experiment`.")
        return
    if followed := selection.chosen("run"):
        _follow(followed)
    left, right = st.columns([1.35, 1], gap="large")
    with left:
        st.subheader("Start a run", anchor="start")
        _form(deployments)
    with right:
        st.subheader("Latest runs", anchor="latest")
        _recent(recent)


@st.fragment(run_every=2)
def _follow(identity: str) -> None:
    """One flow run, asked for again every two seconds until it is finished."""
    with st.container(border=True):
        try:
            run, stages = workflow.flow_run(identity), workflow.tasks(identity)
            moving = None if run.finished else workflow.progress(identity)
            report = workflow.report_of(identity) if run.state == "COMPLETED" else None
        except ServiceError as error:
            st.warning(sentence(error))
            st.button("Follow no run", on_click=selection.forget, args=("run",))
            return
        head, stop = st.columns([5, 1], vertical_alignment="center")
        head.markdown(
            f"**{MARKS.get(run.state, '·')} {plain(run.name)}** · {plain(run.flow)} · "
            f"{plain(run.state_name)} · started {workflow.ago(run.started)} · "
            f"{views.lineage.readable_seconds(run.seconds)} · [open in Prefect]({run.address})"
        )
        if run.finished:
            stop.button("Close", on_click=selection.forget, args=("run",), width="stretch")
        elif stop.button(
            "Cancel",
            width="stretch",
            help="What is complete stays in the store; a run continues there.",
        ):
            try:
                workflow.cancel(identity)
            except ServiceError as error:
                st.warning(sentence(error))
        if moving and not run.finished:
            st.progress(min(1.0, moving[0] / 100), text=plain(moving[1]))
        if stages:
            st.markdown(
                " → ".join(
                    f"{plain(stage.name)}: {plain(stage.state_name.lower())}"
                    + (
                        f", {views.lineage.readable_seconds(stage.seconds)}"
                        if stage.seconds >= 0.1
                        else ""
                    )
                    for stage in stages
                )
            )
        elif run.state == "SCHEDULED":
            st.caption("Waiting for the process that serves it; it takes one run at a time.")
        if run.state in ("FAILED", "CRASHED") and run.message:
            st.error(sentence(run.message))
        if run.state == "COMPLETED":
            st.markdown(
                f"[Read what came out](./?report={report})" if report else "It made no report."
            )


def _form(deployments: list[workflow.Deployment]) -> None:
    if not deployments:
        st.info(
            "Prefect serves no flow of Latentflow. `make up` serves the experiment and every stage."
        )
        return
    by_flow = {each.flow: each for each in deployments}
    flow = st.selectbox("What to run", list(by_flow), key="flow", bind="query-params")
    deployment = by_flow[flow]
    if not deployment.served:
        st.warning(
            "No process answers for this flow now, so a run would wait. `make up` serves it."
        )
    values = dict(deployment.parameters.get("config") or {})
    known = parameters.fields(deployment.schema, values)
    if not known:
        st.info(
            "This flow takes no parameter `config`, so there is nothing to fill in here; its form "
            "is in Prefect."
        )
        return
    answers: dict[str, Any] = {}
    for main in MAIN:
        for name in [name for name in known if name == main or name.startswith(f"{main}.")]:
            if name.endswith(".kind"):
                answers |= _ask(known[name], values, flow)
                values = parameters.changed(values, answers)
                known = parameters.fields(deployment.schema, values)
    places = [
        name for name in known if any(name == main or name.startswith(f"{main}.") for main in MAIN)
    ]
    places = [name for name in places if not name.endswith(".kind")]
    for start in range(0, len(places), 2):
        for column, name in zip(st.columns(2), places[start : start + 2], strict=False):
            with column:
                answers |= _ask(known[name], values, flow)
    more = st.text_area(
        "Any other parameter, one `name=value` a line",
        placeholder="train.lr=0.001\ninterpret.contexts.top=40",
        key=f"more {flow}",
        help="Dotted names as on the command line and in params.yaml; values as YAML.",
    )
    try:
        lines = parameters.parsed(more, known)
    except LatentflowError as error:
        st.error(sentence(error))
        lines = None
    given = answers | (lines or {})
    served = deployment.parameters.get("config") or {}
    unless = {
        name: parameters.value_of(
            served if name.endswith(".kind") else values, name, known[name].default
        )
        for name in given
        if name in known
    }
    overrides = {
        name: value for name, value in given.items() if name not in unless or unless[name] != value
    }
    command = " ".join(
        [f"latentflow {flow}", *(f"{name}={_shell(value)}" for name, value in overrides.items())]
    )
    st.caption("The same from the command line:")
    st.code(command, language="bash", wrap_lines=True)
    if st.button("Start the run", type="primary", disabled=lines is None):
        config = parameters.changed(served, given)
        try:
            identity = workflow.start(deployment, {**deployment.parameters, "config": config})
        except ServiceError as error:
            st.error(sentence(error))
            return
        selection.choose("run", identity)
        st.rerun()


def _ask(field: Field, values: dict[str, Any], flow: str) -> dict[str, Any]:
    """One widget; {name: value} of what it holds, or {} while what is written cannot be read."""
    value = parameters.value_of(values, field.name, field.default)
    key = f"{flow} {field.name}"
    common: dict[str, Any] = {
        "label": code(field.name),
        "help": sentence(field.about) or None,
        "key": key,
    }
    if field.form in ("choice", "kind"):
        choices = list(field.choices)
        return {
            field.name: st.selectbox(
                options=choices, index=choices.index(value) if value in choices else 0, **common
            )
        }
    if field.form == "choices":
        held = [each for each in value or [] if each in field.choices]
        return {field.name: st.multiselect(options=list(field.choices), default=held, **common)}
    if field.form == "boolean":
        return {field.name: st.toggle(value=bool(value), **common)}
    if field.form in ("integer", "number") and isinstance(value, int | float):
        whole = field.form == "integer"
        kind = int if whole else float
        return {
            field.name: st.number_input(
                min_value=None if field.minimum is None else kind(field.minimum),
                max_value=None if field.maximum is None else kind(field.maximum),
                value=kind(value),
                step=1 if whole else None,
                format=None if whole else "%g",
                **common,
            )
        }
    if field.form == "text" and isinstance(value, str):
        return {field.name: st.text_input(value=value, **common)}
    written = st.text_input(
        value=yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip(), **common
    )
    try:
        return {field.name: yaml.safe_load(written)}
    except (yaml.YAMLError, ValueError, RecursionError):
        st.error("This is not YAML.")
        return {}


def _shell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if re.fullmatch(r"[\w./:@-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _recent(recent: list[workflow.FlowRun]) -> None:
    if not recent:
        st.info("Prefect has no run yet. Start one here, or with `latentflow experiment`.")
        return
    for run in recent:
        name, follow = st.columns([3, 1.1], vertical_alignment="center")
        name.markdown(
            f"{MARKS.get(run.state, '·')} **{plain(run.name)}** · {plain(run.flow)} · "
            f"{plain(run.state_name)}  \n"
            f"<small>{workflow.ago(run.started)} · "
            f"{views.lineage.readable_seconds(run.seconds)}</small>",
            unsafe_allow_html=True,
        )
        follow.button(
            "Follow",
            key=f"follow {run.id}",
            on_click=selection.choose,
            args=("run", run.id),
            width="stretch",
        )
    st.caption(
        f"Every run and its logs: [Prefect]({workflow.url()}/runs). Numbers: "
        f"[MLflow]({runs.mlflow_url()})."
    )


show_alone(page)
