"""MLflow's files follow a state folder that was moved or copied.

MLflow writes the absolute address of every run's files into its database. In a folder that has
another name since, old charts would not be found, and new files would be written where the folder
was: after a copy, into the original. So the addresses are rewritten before MLflow is used, by one
statement for each column that holds any.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from flows.stack import environment

log = logging.getLogger(__name__)

FILES = "mlflow-artifacts"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow() -> None:
    """Rewrites the addresses of MLflow's files in this state folder's database, where they name
    another folder."""
    database = environment.state() / "mlflow.db"
    if not database.exists():
        return
    here = (environment.state() / FILES).as_uri()
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
            found = connection.execute(
                "SELECT DISTINCT artifact_location FROM experiments"
            ).fetchall()
            for before in {_root(place) for (place,) in found} - {"", here}:
                for table, column in COLUMNS:
                    _replace(connection, table, column, before, here)
                log.warning(
                    "the state folder was at %s: MLflow's files are looked for in %s now",
                    before,
                    here,
                )
    except sqlite3.Error as error:  # MLflow itself says what is wrong with its database
        log.debug("the addresses in %s cannot be read: %s", database, error)


def _root(place: str | None) -> str:
    """The state folder's part of the address of an experiment that Latentflow made; "" for any
    other."""
    place = (place or "").rstrip("/")
    return place if place.startswith("file:") and Path(place).name == FILES else ""


def _replace(
    connection: sqlite3.Connection, table: str, column: str, before: str, here: str
) -> None:
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    if column in columns:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR "
            f"substr({column}, 1, ?) = ?",
            (here, len(before) + 1, before, len(before) + 1, before + "/"),
        )
