"""Every address and switch that reaches Latentflow through the environment, in one table.

Applied when `flows` is imported, before any tool reads its settings: telemetry of all tools off,
servers on loopback, state under one folder, the classic Prefect interface. A variable that is
already set is respected, except telemetry.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from components.errors import ConfigError, quoted, shortened
from components.paths import expanded

log = logging.getLogger(__name__)

ALWAYS = {
    "DO_NOT_TRACK": "true",  # MLflow knows only this spelling
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
}
UNFIT = "%?#"
"""Characters that mean something else in an address; SQLAlchemy, MLflow and Prefect do not agree on
how to escape them."""
PORTS = {"prefect": 4200, "mlflow": 5001, "streamlit": 8501, "live": 8600}


def state() -> Path:
    """The folder that holds every server's state (absolute)."""
    return Path(os.path.abspath(expanded(os.environ.get("LATENTFLOW_STATE") or "data/state")))


def refuse_state() -> None:
    """Refuses a state folder that the servers could not use; only they need one.

    Raises:
        ConfigError: its path holds a character that an address of a database or file ends at, or
            reads as another.
    """
    if odd := sorted(set(UNFIT) & set(str(state()))):
        raise ConfigError(
            f"the state folder {quoted(str(state()))} has {' and '.join(odd)} in its path, which "
            "the addresses of Prefect's and MLflow's databases cannot hold; set LATENTFLOW_STATE "
            f"to a folder without, for example {Path.home() / 'latentflow-state'}, or run with "
            "--plain"
        )


def written(params: Path = Path("params.yaml")) -> dict[str, Any]:
    """The sections that a parameter file writes out; none when it is not there, or empty.

    Raises:
        ConfigError: it is not YAML, or no mapping.
    """
    if not params.exists():
        return {}
    try:
        nested = yaml.safe_load(params.read_text(encoding="utf-8"))
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # an integer of 5,000 digits, a month 13, no UTF-8
        raise ConfigError(f"{params} is not YAML: {shortened(str(error))}") from None
    if nested is None:  # `latentflow params > params.yaml` is being written
        return {}
    if not isinstance(nested, dict):
        raise ConfigError(f"{params}: wanted a mapping of sections, got {type(nested).__name__}")
    return nested


def store(params: Path = Path("params.yaml")) -> Path:
    """The artifact store of this folder's parameters (absolute), without importing anything
    heavy."""
    try:
        return expanded(written(params)["execution"]["store"]).absolute()
    except (OSError, ConfigError, KeyError, TypeError):
        # whoever needs the parameters says what is wrong with them
        return Path("data/artifacts").absolute()


def warn_of_another_store(used: Path) -> None:
    """One line where a run's store is not the one that the pages show."""
    shown = expanded(os.environ.get("LATENTFLOW_STORE") or store())
    if used.resolve() != shown.resolve():
        log.warning(
            "this run keeps its artifacts in %s, and the pages show %s: to see it there, set "
            "execution.store in params.yaml, or LATENTFLOW_STORE, and start `latentflow up` again",
            used,
            shown,
        )


def port(tool: str) -> int:
    """The port of `prefect`, `mlflow`, `streamlit` or `live`, from LATENTFLOW_<TOOL>_PORT; MLflow's
    own 5000 is AirPlay's, so 5001.

    Raises:
        ConfigError: the variable holds no port number.
    """
    variable = f"LATENTFLOW_{tool.upper()}_PORT"
    given = os.environ.get(variable, str(PORTS[tool]))
    if not given.isdecimal() or not 0 < int(given) < 65536:
        raise ConfigError(f"{variable}: wanted a port from 1 to 65535, got {given!r}")
    return int(given)


def host() -> str:
    """The address that servers bind to: loopback unless `latentflow up --host` says otherwise."""
    return os.environ.get("LATENTFLOW_HOST", "127.0.0.1")


def is_loopback(name: str) -> bool:
    """Whether only this machine can reach a server bound to `name`."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def address(tool: str) -> str:
    """The address at which this machine reaches a tool's server."""
    name = "127.0.0.1" if host() in ("0.0.0.0", "::") else host()
    return f"http://{f'[{name}]' if ':' in name else name}:{port(tool)}"


def login() -> tuple[str, str] | None:
    """Name and password from LATENTFLOW_AUTH (`name:password`), with which Prefect and MLflow then
    ask for them.

    Raises:
        ConfigError: it is not `name:password`, or shorter than MLflow accepts.
    """
    given = os.environ.get("LATENTFLOW_AUTH")
    if not given:
        return None
    name, colon, password = given.partition(":")
    if not (name and colon and len(password) >= 12):
        raise ConfigError(
            "LATENTFLOW_AUTH: wanted name:password with a password of at least 12 characters"
        )
    return name, password


def defaults() -> dict[str, str]:
    """What is set unless the user set it."""
    folder = state()
    return {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect' / 'prefect.db'}",
        # the new interface asks a foreign host from the browser
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # leases in memory die with the server and leave their slots held
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # a minute: long enough for a server that is started again
        "PREFECT_CLIENT_MAX_RETRIES": "6",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # what a run says is read on its page too
        "PREFECT_LOGGING_EXTRA_LOGGERS": "components,flows,flows.run",
        "PREFECT_CLI_PROMPT": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        # MLflow is asked again after the next stage; no stage waits minutes
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "LATENTFLOW_STORE": str(store()),
        "LATENTFLOW_DEVICE_LOCKS": str(Path(tempfile.gettempdir()) / "latentflow-devices"),
        "TOKENIZERS_PARALLELISM": "false",
        # two spinning threads fall to a fifth of their speed beside other work
        "OMP_WAIT_POLICY": "PASSIVE",
        **dict.fromkeys(
            ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"),
            os.environ.get("LATENTFLOW_AUTH", ""),
        ),
    }


def apply() -> None:
    """Writes the table into this process's environment, for it and for its children."""
    os.environ.update(ALWAYS)
    for name, value in defaults().items():
        if value:
            os.environ.setdefault(name, value)
    state().mkdir(parents=True, exist_ok=True)
