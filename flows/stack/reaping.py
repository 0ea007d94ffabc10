"""What dead processes left in Prefect: runs that look alive and are not, found by their locks and
set to Crashed.

Nothing here may keep a command from its work: a run that cannot be read or set is left out and
named.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from filelock import FileLock, Timeout

from components.errors import shortened
from flows.stack import environment, processes, server

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import FlowRun

log = logging.getLogger(__name__)

UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
PAGE = 200
ENDED_LOOKED_AT = 50
GONE = (
    "The process of this run is gone: it was killed, or its machine went down. "
    "Start it again: what was finished is found, the rest continues."
)


def run_lock(flow_run: str) -> FileLock:
    """Held by the process that runs a flow run; the system frees it when the process dies, however
    it dies."""
    locks = environment.state() / "runs"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{flow_run}.lock")


def reap(served: bool = True) -> list[str]:
    """Sets runs to Crashed that were unfinished before and whose process is gone; their names.

    A run whose lock is there and free had a process, which is gone. One that never had a lock
    counts when it is from before. Before is when the server started. While a stack serves (`served`
    is false) its runs are its runner's to watch, and one that was just started has no process yet:
    then only runs of a command line count, and before is when this process began.

    Their runs in MLflow end as well, and those of runs that were cancelled too fast to say so. Runs
    of a work pool are left to their workers, which may be on another machine.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    found = server.own()
    if found is None:  # somebody else's server: PREFECT_API_URL
        return []
    since = found["created"] if served else processes.identity()["created"]
    before = datetime.fromtimestamp(since, UTC)
    names: list[str] = []
    ended: set[str] = set()
    with _forgiving("look for runs whose process is gone"), get_client(sync_client=True) as client:
        unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}})
        for run in list(_pages(client, unfinished)):
            if run.work_pool_name or (run.deployment_id and not served):
                continue
            if _is_gone(run, before):
                with _forgiving(f"set run {run.name} to Crashed"):
                    _crash(client, run)
                    names.append(run.name)
        stopped = FlowRunFilter.model_validate(
            {"state": {"type": {"any_": ("CANCELLED", "CRASHED")}}}
        )
        ended = {str(run.id) for run in _page(client, stopped, 0, ENDED_LOOKED_AT)}
    if ended:
        from flows.tracking import runs

        runs.reap(ended)
    if names:
        log.warning(
            "runs left unfinished by a process that is gone are now Crashed: %s", ", ".join(names)
        )
    return names


def _is_gone(run: FlowRun, before: datetime) -> bool:
    """Whether no process runs it any more."""
    held = run_lock(str(run.id))
    had_a_process = Path(held.lock_file).exists()
    if not had_a_process and run.state and run.state.timestamp and run.state.timestamp > before:
        return False
    try:
        held.acquire(timeout=0)
    except Timeout:
        return False
    held.release()
    Path(held.lock_file).unlink(missing_ok=True)
    return True


def _crash(client: SyncPrefectClient, run: FlowRun) -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter
    from prefect.states import Crashed

    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}}),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=GONE), force=True)
    client.set_flow_run_state(run.id, Crashed(message=GONE), force=True)


def _pages(client: SyncPrefectClient, wanted: FlowRunFilter) -> Iterator[FlowRun]:
    start = 0
    while True:
        page = _page(client, wanted, start, PAGE)
        yield from page
        start += PAGE
        if not _ids(client, wanted, start, 1):
            return


def _page(client: SyncPrefectClient, wanted: FlowRunFilter, start: int, most: int) -> list[FlowRun]:
    """Flow runs, the latest first; where Prefect cannot give the page they are read one by one, and
    what it fails over named."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import PrefectHTTPStatusError

    latest = FlowRunSort.START_TIME_DESC
    try:
        return client.read_flow_runs(flow_run_filter=wanted, sort=latest, limit=most, offset=start)
    except (
        PrefectHTTPStatusError,
        ValueError,
    ) as error:  # a value that JSON cannot hold makes its page unreadable
        log.debug("a page of flow runs cannot be read: %s", error)
    runs, faulty = [], []
    for identity in _ids(client, wanted, start, most):
        try:
            runs += client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(identity)]))
            )
        except (PrefectHTTPStatusError, ValueError):
            faulty.append(identity)
            with contextlib.suppress(PrefectHTTPStatusError, ValueError):
                # another way through Prefect, which may work
                runs.append(client.read_flow_run(UUID(identity)))
    if faulty:
        log.warning(
            "Prefect cannot list %d of its own flow runs (%s), so its pages fail too; `prefect "
            "flow-run delete <id>` removes one, and its artifacts stay in the store",
            len(faulty),
            ", ".join(faulty[:5]),
        )
    return runs


def _ids(client: SyncPrefectClient, wanted: FlowRunFilter, start: int, most: int) -> list[str]:
    """The ids alone, which Prefect gives whatever else a run holds."""
    body = {
        "flow_runs": wanted.model_dump(mode="json", exclude_unset=True),
        "sort": "START_TIME_DESC",
        "limit": most,
        "offset": start,
    }
    return [row["id"] for row in client.request("POST", "/ui/flow_runs/history", json=body).json()]


@contextlib.contextmanager
def _forgiving(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is: a command does its own work all the same
        log.warning(
            "Prefect could not %s (%s: %s)", what, type(error).__name__, shortened(str(error))
        )
