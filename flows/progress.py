"""How far a stage is: a bar in a terminal, a progress artifact in Prefect's UI, a log line
otherwise."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from components.store.stage import Progress
from flows.terminal import aside

log = logging.getLogger(__name__)

SECONDS_BETWEEN_UPDATES = 2.0

_drawing = threading.Lock()


def progress_bar(
    label: str, progress_artifact: bool = False
) -> Callable[[], contextlib.AbstractContextManager[Callable[[Progress], None]]]:
    """A reporter of progress: a rich bar in a terminal, a Prefect progress artifact in the UI, a
    log line otherwise."""

    @contextlib.contextmanager
    def reporter() -> Iterator[Callable[[Progress], None]]:
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
        )
        # a terminal shows one bar at a time; tasks side by side log instead
        alone = _drawing.acquire(blocking=False)
        bar = RichProgress(
            *columns,
            TimeElapsedColumn(),
            console=aside,
            transient=True,
            disable=not (alone and sys.stderr.isatty()),
        )
        shown = bar.add_task(label, total=None, unit="")
        live: dict[str, Any] = {"at": 0.0, "id": None, "message": ""}

        def show(progress: Progress) -> None:
            numbers = " ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            description = " ".join(part for part in (label, progress.message, numbers) if part)
            bar.update(
                shown,
                completed=progress.done,
                total=progress.total or None,
                unit=progress.unit,
                description=description,
            )
            if progress.message and progress.message != live["message"]:
                live["message"] = progress.message
                log.info("%s: %s", label, progress.message)
            now = time.monotonic()
            if progress_artifact and progress.total and now - live["at"] >= SECONDS_BETWEEN_UPDATES:
                live["at"] = now
                publish(min(100.0, 100.0 * progress.done / progress.total), description)

        def publish(share: float, description: str) -> None:
            try:
                if live["id"] is None:
                    # all that Prefect takes
                    key = re.sub("[^a-z0-9]+", "-", f"{label} progress".lower())
                    live["id"] = create_progress_artifact(share, key=key, description=description)
                else:
                    update_progress_artifact(live["id"], share, description=description)
            except (
                Exception
            ) as error:  # a server that is away costs a bar in a window, not the stage
                log.warning("Prefect did not take the progress of %s (%s)", label, error)

        try:
            with bar:
                yield show
        finally:
            if alone:
                _drawing.release()
        if live["id"] is not None:
            publish(100.0, label)

    return reporter
