"""Serves the experiment and every stage as deployments, their forms filled with the reference
parameters.

Two processes, for memory's sake. One, short-lived, imports the flows (and with them torch), clears
away what a dead machine left (its runs are Crashed, its device slots free), prints what is to be
served, and ends. The other holds Prefect alone; each run it starts is a process of its own that
imports what it needs.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.stack import environment, processes, reaping, server

if TYPE_CHECKING:
    from prefect import Flow

MODULES = {
    "experiment": "experiment",
    "report": "report",
    "sweep": "sweep",
    "replicate": "replicate",
    "import_": "interchange",
}
"""Where the flows are that do more than make the artifact of one stage."""
NAME = "local"


def ready() -> Path:
    """The file that is there while the deployments are served."""
    return server.folder() / "serving"


def describe() -> dict[str, Any]:
    """What is served: each flow's entrypoint, form (JSON schema) and reference parameters, and how
    many runs at once."""
    from components import device
    from flows.parameters import reference

    config = reference()
    deployments = []
    for name in names():
        flow = flow_of(name)
        deployments.append(
            {
                "flow_name": flow.name,
                "entrypoint": entrypoint(name),
                "description": flow.description,
                "version": flow.version,
                "schema": flow.parameters.model_dump(mode="json"),
            }
        )
    return {
        "parameters": {"config": config.model_dump(mode="json")},
        "limit": max(1, len(device.slots(config.execution))),
        "deployments": deployments,
    }


def names() -> list[str]:
    """What is served: the experiment, each of its stages, and the sweep."""
    from components.experiment import STAGES

    return ["experiment", *STAGES, "sweep"]


def entrypoint(name: str) -> str:
    """Where a worker or the runner finds a flow, from the root of the repository; prefect.yaml has
    the same."""
    return f"flows/{MODULES.get(name, 'stages')}.py:{name}"


def flow_of(name: str) -> Flow[Any, Any]:
    """The flow itself."""
    return getattr(importlib.import_module(f"flows.{MODULES.get(name, 'stages')}"), name)


async def serve(described: dict[str, Any]) -> None:
    """Serves until told to stop, as many runs at once as there are device slots."""
    import prefect.runner.runner
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner
    from prefect.utilities.callables import ParameterSchema

    async def without_hooks(flow_run: Any, **_: Any) -> Flow:
        return Flow(fn=lambda: None, name="without hooks")

    # When a run is cancelled or crashes the runner imports its flow, in this process, to look for
    # hooks. There are none, and the import (torch) would cost the cancelling several seconds and
    # this process half a gigabyte.
    prefect.runner.runner.load_flow_from_flow_run = without_hooks

    runner = Runner(name="latentflow", limit=described["limit"], pause_on_shutdown=False)
    for given in described["deployments"]:
        schema = given.pop("schema")
        deployment = RunnerDeployment(
            name=NAME, parameters=described["parameters"], tags=["latentflow"], **given
        )
        # else the flow is imported here
        deployment._parameter_openapi_schema = ParameterSchema.model_validate(schema)
        deployment._path = str(Path.cwd())
        # one by one: together they wait for SQLite's lock, for minutes
        await runner.aadd_deployment(deployment)
    ready().touch()
    try:
        await runner.start()
    finally:
        ready().unlink(missing_ok=True)


def _prepare() -> None:
    from flows.parameters import reference
    from flows.stack.slots import reset

    described = describe()
    # imports ran while it started
    while not processes.answers(f"{environment.address('prefect')}/api/health"):
        time.sleep(0.2)
    reaping.reap()
    reset(reference().execution)
    sys.stdout.write(json.dumps(described) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if "--describe" in sys.argv:
        _prepare()
    else:
        command = [sys.executable, "-m", "flows.stack.deployments", "--describe"]
        describing = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
        )
        import prefect.runner  # noqa: F401, both processes import at once

        assert describing.stdout is not None
        described = describing.stdout.readline()
        if not described:
            sys.exit(describing.wait())
        threading.Thread(target=describing.wait, daemon=True).start()  # its end takes a second
        asyncio.run(serve(json.loads(described)))
