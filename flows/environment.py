"""Every address and switch that reaches Latentflow through the environment, in one table.

Applied when `flows` is imported, before any tool reads its settings: telemetry of all tools off, servers on loopback,
state under one folder, the classic Prefect interface. A variable that is already set is respected, except telemetry.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

ALWAYS = {
    "DO_NOT_TRACK": "true",  # MLflow knows only this spelling
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
}


def state() -> Path:
    """The folder that holds every server's state (absolute)."""
    return Path(os.environ.get("LATENTFLOW_STATE", "data/state")).absolute()


def store(params: Path = Path("params.yaml")) -> Path:
    """The artifact store of this folder's parameters (absolute), without importing anything heavy."""
    try:
        nested = yaml.safe_load(params.read_text())
        return Path(nested["execution"]["store"]).absolute()
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return Path("data/artifacts").absolute()


def port(tool: str) -> int:
    """The port of `prefect`, `mlflow`, `streamlit` or `live`; MLflow's own 5000 is taken by AirPlay on macOS, so 5001."""
    defaults = {"prefect": 4200, "mlflow": 5001, "streamlit": 8501, "live": 8600}
    return int(os.environ.get(f"LATENTFLOW_{tool.upper()}_PORT", defaults[tool]))


def address(tool: str) -> str:
    """The loopback address of a tool's server."""
    return f"http://127.0.0.1:{port(tool)}"


def defaults() -> dict[str, str]:
    """What is set unless the user set it."""
    folder = state()
    return {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect' / 'prefect.db'}",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the new interface asks a foreign host from the browser
        "PREFECT_SERVER_UI_API_URL": f"{address('prefect')}/api",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "LATENTFLOW_STORE": str(store()),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # two spinning threads fall to a fifth of their speed beside other work
    }


def apply() -> None:
    """Writes the table into this process's environment, for it and for its children."""
    os.environ.update(ALWAYS)
    for name, value in defaults().items():
        os.environ.setdefault(name, value)
    state().mkdir(parents=True, exist_ok=True)
