"""The cache of answers: one SQLite file, a row for each request, written before its answer is used.

It is a store of its own: an answer that was paid is worth keeping when the artifact that it went
into is deleted. A row holds the whole request and the whole response as JSON, so a colleague who is
given the file replays a run without a key, and anybody can read it (`sqlite3 replies.sqlite "select
request, response from replies"`). Keys and addresses with secrets never come here: a key is no part
of a request, and addresses that hold one are refused.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.client.contract import Response
from components.errors import ConfigError, StoreError
from components.paths import expanded

VERSION = 1
SECONDS_FOR_A_LOCK = 60.0
FILE = "replies.sqlite"


class Replies:
    """The open cache."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    def get(self, keys: Sequence[str]) -> dict[str, Response]:
        """The responses that are there, by key."""
        kept = {}
        for start in range(0, len(keys), 500):  # SQLite takes so many arguments everywhere
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(
                f"SELECT key, response FROM replies WHERE key IN ({marks})", part
            )
            kept.update((key, Response.from_json(text)) for key, text in rows)
        return kept

    def put(self, key: str, request: str, response: Response) -> None:
        """Writes one; when this returns, no end of this process loses it.

        Raises:
            StoreError: the disk does not take it.
        """
        try:
            with self._connection:
                self._connection.execute(
                    "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, datetime('now'))",
                    (key, request, response.to_json()),
                )
        except sqlite3.Error as error:
            raise StoreError(
                f"{self._path} could not keep an answer that was paid: {error}; nothing more is "
                "asked"
            ) from error


@contextlib.contextmanager
def opened(folder: str, *, to_write: bool) -> Iterator[Replies]:
    """The cache in a folder, which is made where it is to be written.

    Raises:
        ConfigError: not a folder that can be used so, or a file of another kind or of a newer
            version.
    """
    path = expanded(folder) / FILE
    try:
        if to_write:
            path.parent.mkdir(parents=True, exist_ok=True)
        there = f"{path.resolve().as_uri()}?mode={'rwc' if to_write else 'ro'}"
        is_there = to_write or path.is_file()
        address = there if is_there else "file:empty?mode=memory"  # nothing was kept yet
        connection = sqlite3.connect(address, uri=True, timeout=SECONDS_FOR_A_LOCK)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error
    with contextlib.closing(connection):
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and (to_write or not is_there):
                _make(connection)
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        if version > VERSION:
            raise ConfigError(
                f"a newer Latentflow wrote the cache of answers {path}; use that, or set "
                "client.replies"
            )
        yield Replies(connection, path)


def _unusable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"the cache of answers {path} cannot be used: {error}; set client.replies to a folder "
        "where it can be written"
    )


def _make(connection: sqlite3.Connection) -> None:
    # one file at all times (no write-ahead log beside it), so that copying it while nobody writes
    # copies everything
    connection.execute("PRAGMA journal_mode=DELETE")
    with connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS replies "
            "(key TEXT PRIMARY KEY, request TEXT NOT NULL, response TEXT NOT NULL, written TEXT "
            "NOT NULL) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA user_version={VERSION}")
