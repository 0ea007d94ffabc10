"""Why a question gets no answer, as a sentence for people and a kind for programs."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from components.errors import LatentflowError, MissingArtifactError, ModelError, StoreError
from components.live import Kind, Problem
from flows.live.queue import Cancelled, TimedOut

TEXT_BYTES = 50_000
"""The longest text, in UTF-8: about 12,000 tokens."""


class Refusal(LatentflowError):
    """A question that is not taken."""

    def __init__(
        self, status: int, kind: Kind, error: str, wanted: Any = None, came: Any = None
    ) -> None:
        super().__init__(error)
        self.status, self.problem = (
            status,
            Problem(error=error, kind=kind, wanted=wanted, came=came),
        )


def bounded(text: str) -> None:
    """Refuses a text that is too long.

    Raises:
        Refusal: with how long it may be.
    """
    if (size := len(text.encode("utf-8", "replace"))) > TEXT_BYTES:
        problem = too_long(size)
        raise Refusal(413, problem.kind, problem.error, problem.wanted, problem.came)


def too_long(size: int | None) -> Problem:
    """What is said of a text of so many bytes; None where nobody knows how many."""
    came = "more" if size is None else f"{size:,} bytes"
    return Problem(
        error=f"a text may have {TEXT_BYTES:,} bytes at most, and {came} came; nothing was read: paste a part of it",
        kind="text_too_long",
        wanted=TEXT_BYTES,
        came=size,
    )


def problem_of(error: BaseException) -> tuple[int, Problem]:
    """Status and body of what went wrong."""
    if isinstance(error, Refusal):
        return error.status, error.problem
    kinds: list[tuple[type[BaseException], int, Kind]] = [
        (Cancelled, 409, "cancelled"),
        (TimedOut, 504, "timed_out"),
        (MissingArtifactError, 404, "unknown_artifact"),
        (ModelError, 404, "model_not_found"),
        (StoreError, 500, "store"),
        (LatentflowError, 422, "bad_request"),
    ]
    for kind, status, name in kinds:
        if isinstance(error, kind):
            return status, Problem(error=str(error), kind=name)
    said = f"the live worker could not answer ({type(error).__name__}); its log says where"
    return 500, Problem(error=said, kind="internal")


def json_of(status: int, problem: Problem) -> JSONResponse:
    """A refusal as an HTTP answer."""
    return JSONResponse(problem.model_dump(), status_code=status)
