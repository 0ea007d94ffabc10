"""MLflow's server in one process: the same command line as `mlflow server`, half the time to start
and half the memory.

MLflow's command makes the database ready and then starts uvicorn as a child, so MLflow is imported
twice and both processes stay. Here uvicorn runs where the command ran. Only the call that starts
the child is replaced; an MLflow in which it has another name starts its child as before.
"""

from __future__ import annotations

import os
from typing import Any

import mlflow.server
from mlflow.cli import cli


def _serve(command: list[str], extra_env: dict[str, str] | None = None, **_: Any) -> None:
    """Runs `[python, -m, uvicorn, *arguments]` in this process until a signal stops it."""
    import uvicorn.main

    os.environ.update(extra_env or {})
    uvicorn.main.main(command[command.index("uvicorn") + 1 :], prog_name="uvicorn")


if __name__ == "__main__":
    setattr(mlflow.server, "_exec_cmd", _serve)  # noqa: B010, pyright takes an assignment for a mistake
    cli(prog_name="mlflow")
