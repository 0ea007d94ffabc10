"""What Prefect runs, and how a run is started and stopped, over its REST API: the only file that
speaks to Prefect.

Dashboards never import Prefect. The address comes from LATENTFLOW_PREFECT_URL (or PREFECT_API_URL),
the password, where the server wants one, from PREFECT_API_AUTH_STRING. Every function raises
`ServiceError` with a sentence that a page shows.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from collections.abc import Mapping
from typing import Any

import httpx
import streamlit as st

from components.errors import ServiceError

SECONDS = 3.0
"""How long a page waits for Prefect's answer."""
UNFINISHED = ("RUNNING", "PENDING", "CANCELLING", "PAUSED", "SCHEDULED")
READING = ("/filter", "/history")
"""How the addresses of questions end that change nothing and may be asked again."""
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
TAG = "latentflow"
REPORT_IN_LINK = re.compile(r"[?&]report=([0-9a-f]{24})")


@dataclasses.dataclass(frozen=True)
class FlowRun:
    """One run of a flow.

    Attributes:
        id: Prefect's id.
        name: what the run is called.
        flow: the flow's name.
        state: RUNNING, COMPLETED, ... (Prefect's type of state).
        state_name: what Prefect calls it ("Late", "Cached").
        message: what the state says, "" when nothing.
        started: when it started, ISO 8601 in UTC; None before.
        seconds: how long it has run.
    """

    id: str
    name: str
    flow: str
    state: str
    state_name: str
    message: str
    started: str | None
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether nothing will follow."""
        return self.state in FINAL

    @property
    def address(self) -> str:
        """Its page in Prefect."""
        return f"{url()}/runs/flow-run/{self.id}"


@dataclasses.dataclass(frozen=True)
class TaskRun:
    """One stage of a flow run, with its latest progress where it reports any.

    Attributes:
        name: the stage's label.
        state_name: Completed, Cached, Running, Failed, ...
        seconds: how long it has run.
        message: what the state says.
    """

    name: str
    state_name: str
    seconds: float
    message: str


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A flow that is served: what a run can be started of.

    Attributes:
        id: Prefect's id.
        flow: the flow's name.
        schema: JSON schema of its parameters.
        parameters: what they are unless changed.
        served: whether a process answers for it now.
    """

    id: str
    flow: str
    schema: Mapping[str, Any]
    parameters: Mapping[str, Any]
    served: bool


def url() -> str:
    """Where a browser finds Prefect."""
    api = os.environ.get("PREFECT_API_URL", "").removesuffix("/").removesuffix("/api")
    return os.environ.get("LATENTFLOW_PREFECT_URL") or api or "http://127.0.0.1:4200"


def recent(limit: int = 15) -> list[FlowRun]:
    """The latest flow runs, newest first; those that wait or run before all others."""
    return _flow_runs({}, limit)


def unfinished() -> list[FlowRun]:
    """The flow runs that wait or run now."""
    return _flow_runs({"flow_runs": {"state": {"type": {"any_": list(UNFINISHED)}}}}, 20)


def flow_run(identity: str) -> FlowRun:
    """One flow run.

    Raises:
        ServiceError: Prefect does not know it, or does not answer.
    """
    found = _flow_runs({"flow_runs": {"id": {"any_": [identity]}}}, 1)
    if not found:
        raise ServiceError(
            f"Prefect at {url()} knows no flow run {identity}; it may belong to another state "
            "folder"
        )
    return found[0]


def tasks(identity: str) -> list[TaskRun]:
    """The stages of a flow run in the order they began."""
    wanted = {
        "flow_runs": {"id": {"any_": [identity]}},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": 100,
    }
    return [
        TaskRun(
            name=task["name"],
            state_name=task["state_name"] or "Pending",
            seconds=_seconds(task),
            message=(task.get("state") or {}).get("message") or "",
        )
        for task in _ask("task_runs/filter", wanted)
    ]


def progress(identity: str) -> tuple[float, str] | None:
    """The latest progress of a flow run: percent and what is done; None where nothing reports
    any."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [identity]}, "type": {"any_": ["progress"]}}}
    found = _ask("artifacts/filter", wanted | {"sort": "UPDATED_DESC", "limit": 1})
    return (float(found[0]["data"]), found[0]["description"] or "") if found else None


def report_of(identity: str) -> str | None:
    """The key of the report that a flow run made, read off the link it left; None when it made
    none."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [identity]}, "key": {"any_": ["dashboard"]}}}
    for artifact in _ask("artifacts/filter", wanted | {"limit": 5}):
        if match := REPORT_IN_LINK.search(str(artifact["data"])):
            return match.group(1)
    return None


def deployments() -> list[Deployment]:
    """Every served flow, the experiment first."""
    found = _ask("deployments/filter", {"deployments": {"tags": {"all_": [TAG]}}, "limit": 100})
    names = _flow_names([each["flow_id"] for each in found])
    served = [
        Deployment(
            id=each["id"],
            flow=names.get(each["flow_id"], each["name"]),
            schema=each.get("parameter_openapi_schema") or {},
            parameters=each.get("parameters") or {},
            served=each.get("status", "READY") == "READY" and not each.get("paused"),
        )
        for each in found
    ]
    return sorted(served, key=lambda each: (each.flow != "experiment", each.flow))


def start(deployment: Deployment, parameters: Mapping[str, Any]) -> str:
    """Starts a run and returns its id.

    Raises:
        ServiceError: Prefect refuses a parameter (its sentence names the dotted path), or does not
            answer.
    """
    body = {"parameters": dict(parameters), "state": {"type": "SCHEDULED"}, "tags": [TAG]}
    return _ask(f"deployments/{deployment.id}/create_flow_run", body)["id"]


def cancel(identity: str) -> None:
    """Asks a flow run to stop; what is complete stays in the store.

    Raises:
        ServiceError: Prefect will not (a run that has ended, for one), or does not answer.
    """
    answer = _ask(
        f"flow_runs/{identity}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    )
    # one that waits is ended at once
    if (answer.get("state") or {}).get("type") not in ("CANCELLING", "CANCELLED"):
        reason = (answer.get("details") or {}).get("reason") or "it gives no reason"
        raise ServiceError(f"Prefect does not cancel this run: {reason}")


def _flow_runs(wanted: Mapping[str, Any], limit: int) -> list[FlowRun]:
    found = _readable({**wanted, "sort": "EXPECTED_START_TIME_DESC", "limit": limit})
    names = _flow_names([run["flow_id"] for run in found if run["flow_id"]])
    return [
        FlowRun(
            id=run["id"],
            name=run["name"],
            flow=names.get(run["flow_id"], "flow"),
            state=run["state_type"] or "PENDING",
            state_name=run["state_name"] or "Pending",
            message=(run.get("state") or {}).get("message") or "",
            started=run["start_time"],
            seconds=_seconds(run),
        )
        for run in found
    ]


def _readable(wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A page of flow runs; where Prefect cannot give it, one by one, and what it cannot read at all
    as a row that says so.

    A value that its JSON cannot hold makes Prefect fail over every list that the run is in.
    """
    try:
        return _ask("flow_runs/filter", wanted)
    except Unreadable:
        rows = _ask("ui/flow_runs/history", wanted)
    found = []
    for row in rows:
        try:
            found.append(_ask(f"flow_runs/{row['id']}", None))
        except Unreadable:
            state = {
                "message": f"Prefect cannot read this run; `prefect flow-run delete {row['id']}` removes it."
            }
            unread = {
                "flow_id": None,
                "state_name": "Unreadable",
                "state": state,
                "start_time": row["timestamp"],
            }
            found.append(
                {"id": row["id"], "name": row["id"], "state_type": row["state_type"], **unread}
            )
    return found


def _seconds(run: Mapping[str, Any]) -> float:
    """Prefect's total counts finished states only; its estimate adds the one that lasts."""
    return max(float(run.get("total_run_time") or 0), float(run.get("estimated_run_time") or 0))


def ago(started: str | None) -> str:
    """When something started, for a reader: "2026-11-24 07:20 UTC"."""
    if not started:
        return "not yet"
    at = datetime.datetime.fromisoformat(started.replace("Z", "+00:00"))
    return f"{at.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _flow_names(identities: list[str]) -> dict[str, str]:
    if not identities:
        return {}
    wanted = {"flows": {"id": {"any_": sorted(set(identities))}}, "limit": 200}
    return {flow["id"]: flow["name"] for flow in _ask("flows/filter", wanted)}


class Unreadable(ServiceError):
    """Prefect failed over its own data."""


def _ask(path: str, body: Mapping[str, Any] | None) -> Any:
    """One POST, or a GET where there is no body.

    Raises:
        Unreadable: Prefect's answer is an error of its own.
        ServiceError: no answer, or a refusal; the refusal's own sentence is kept.
    """
    password = os.environ.get("PREFECT_API_AUTH_STRING")
    user, _, secret = (password or "").partition(":")
    try:
        request = _client().build_request(
            "GET" if body is None else "POST",
            f"{url()}/api/{path}",
            json=None if body is None else dict(body),
        )
        login = (user, secret) if password else httpx.USE_CLIENT_DEFAULT
        try:
            answer = _client().send(request, auth=login)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # a kept connection that Prefect has closed, as after a fault
            if not path.endswith(READING) and body is not None:
                raise
            answer = _client().send(request, auth=login)
    except httpx.HTTPError as error:
        raise ServiceError(
            f"Prefect does not answer at {url()} ({type(error).__name__}); `make up` starts it"
        ) from None
    if answer.status_code in (401, 403):
        raise ServiceError(
            f"Prefect at {url()} wants a password: set PREFECT_API_AUTH_STRING to user:password"
        )
    if answer.is_error:
        raise (Unreadable if answer.is_server_error else ServiceError)(
            f"Prefect refuses: {_said(answer)}"
        )
    return answer.json() if answer.content else None


def _said(answer: httpx.Response) -> str:
    try:
        detail = answer.json()
    except ValueError:
        return f"status {answer.status_code}"
    if isinstance(detail, Mapping):
        detail = (
            detail.get("detail")
            or detail.get("exception_message")
            or detail.get("exception_detail")
            or detail
        )
    return str(detail)[:600]


@st.cache_resource(show_spinner=False)
def _client() -> httpx.Client:
    # loopback: no proxy of the environment in between
    return httpx.Client(timeout=SECONDS, trust_env=False)
