"""A real stack, or a command line, on a state folder and ports of its own: what the tests of the
stack and its faults start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from flows.stack import processes

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = REPOSITORY / "examples" / "tiny.yaml"


class Room:
    """A folder with a state, a store and free ports."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.store = folder / "artifacts"
        self.ports = {
            tool: processes.free_port() for tool in ("prefect", "mlflow", "streamlit", "live")
        }
        forgotten = (
            "PREFECT_API_URL",
            "PREFECT_HOME",
            "PREFECT_API_DATABASE_CONNECTION_URL",
            "MLFLOW_TRACKING_URI",
        )
        self.environment = {
            name: value for name, value in os.environ.items() if name not in forgotten
        }
        self.environment |= {
            f"LATENTFLOW_{tool.upper()}_PORT": str(port) for tool, port in self.ports.items()
        }
        self.environment |= {
            "LATENTFLOW_STATE": str(folder / "state"),
            "LATENTFLOW_STORE": str(self.store),
            "LATENTFLOW_DEVICE_LOCKS": str(folder / "locks"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "400",
            **variables,
        }

    def start(self, *arguments: str, log: str = "log") -> subprocess.Popen[str]:
        """`latentflow` with these arguments, its output in a file of the folder."""
        with (self.folder / log).open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "flows", *arguments],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    def run(self, *arguments: str, seconds: float = 200) -> tuple[int, str]:
        """The same, to its end: status and output."""
        process = self.start(*arguments, log="run.log")
        try:
            process.wait(seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, self.text("run.log")

    def text(self, log: str = "log") -> str:
        return (self.folder / log).read_text()

    def until(self, ready: Any, seconds: float = 150, log: str = "log") -> float:
        """Waits until `ready()` is true; how long that took."""
        began = time.monotonic()
        while not ready():
            assert time.monotonic() - began < seconds, (
                f"waited {seconds} s in vain:\n{self.text(log)[-4000:]}"
            )
            time.sleep(0.1)
        return time.monotonic() - began

    def up(self) -> subprocess.Popen[str]:
        """A stack that is up."""
        process = self.start("up", log="up.log")
        self.until(
            lambda: "up after" in self.text("up.log") or process.poll() is not None, log="up.log"
        )
        assert process.poll() is None, self.text("up.log")[-4000:]
        return process

    def child(self, name: str) -> int:
        """The pid of one child of the stack."""
        return json.loads((self.folder / "state" / "stack.json").read_text())["children"][name][
            "pid"
        ]

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Prefect's API: GET without a body, else POST."""
        address = f"http://127.0.0.1:{self.ports['prefect']}/api/{path}"
        login = self.environment.get("PREFECT_API_AUTH_STRING")
        options = {"timeout": 30, "auth": tuple(login.split(":")) if login else None}
        # 503 is SQLite that was locked for a moment; Prefect's own client asks again too
        for _ in range(20):
            answer = (
                httpx.get(address, **options)
                if body is None
                else httpx.post(address, json=body, **options)
            )
            if answer.status_code != 503:
                break
            time.sleep(0.5)
        answer.raise_for_status()
        return answer.json()

    def fill_form(self, deployment: str, config: dict[str, Any]) -> None:
        """Gives a deployment other parameters to start from."""
        address = f"http://127.0.0.1:{self.ports['prefect']}/api/deployments/{deployment}"
        httpx.patch(address, json={"parameters": {"config": config}}, timeout=30).raise_for_status()

    def trigger(self, flow: str, **sections: Any) -> str:
        """Starts a run of a served deployment on the tiny experiment; its id."""
        wanted = {"flows": {"name": {"any_": [flow]}}}
        self.until(lambda: self.api("deployments/filter", wanted), 60, "up.log")
        deployment = self.api("deployments/filter", wanted)[0]["id"]
        config = yaml.safe_load(TINY.read_text())
        config |= {
            "execution": {"store": str(self.store), "threads": 1, "devices": ["cpu:0", "cpu:1"]}
        } | sections
        body = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
        return self.api(f"deployments/{deployment}/create_flow_run", body)["id"]

    def state(self, run: str) -> dict[str, Any]:
        """The state of a flow run."""
        return self.api(f"flow_runs/{run}")["state"]

    def until_ended(self, run: str, seconds: float = 150) -> dict[str, Any]:
        """Waits until a flow run has ended; its state."""
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        self.until(lambda: self.state(run)["type"] in ended, seconds, "up.log")
        return self.state(run)

    def close(self) -> None:
        """Stops whatever is left of this folder."""
        self.run("down", seconds=60)
        for record in (
            self.folder / "state" / "prefect" / "server.json",
            *(self.folder / "state" / "prefect" / "users").glob("*"),
        ):
            if found := processes.read_record(record):
                processes.stop_all([found["pid"]])
