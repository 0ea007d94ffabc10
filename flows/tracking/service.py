"""MLflow as a service that may be away: what it is asked, and what is left alone while it does not
answer."""

from __future__ import annotations

import functools
import logging
import textwrap
from collections.abc import Callable
from typing import TypeVar

import mlflow
from mlflow import MlflowClient

from components.errors import ServiceError, shortened
from components.service import Service

log = logging.getLogger(__name__)
# its traceback beside our sentence
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

Value = TypeVar("Value")
SECONDS_TO_ANSWER = 5.0
SECONDS_TO_LIST = 20.0


@functools.cache
def _service(uri: str) -> Service:
    return Service(f"MLflow at {uri}", SECONDS_TO_ANSWER)


def service() -> Service:
    """The tracking server as this process knows it: whether it answers, or is left alone."""
    return _service(mlflow.get_tracking_uri())


def answered(look: Callable[[], Value], what: str, advice: str) -> Value:
    """What MLflow says to a command that needs it.

    Raises:
        ServiceError: it says nothing, or an error.
    """
    uri = mlflow.get_tracking_uri()
    try:
        return Service(f"MLflow at {uri}", SECONDS_TO_LIST).ask(look)
    except Exception as error:  # whatever it is, a client's or a database's
        raise ServiceError(
            f"MLflow could not say {what} ({uri}: {_said(error)}); {advice}"
        ) from error


def forgiving(what: str, act: Callable[[], object]) -> bool:
    """Does something in MLflow, and says whether it was done; MLflow owns numbers, not results, so
    no failure matters.

    A server is first asked whether it answers at all. While it is left alone nothing is tried, and
    nothing said again.
    """
    asked = service()
    if asked.rest:
        return False
    try:
        if mlflow.get_tracking_uri().startswith("http"):
            asked.ask(lambda: MlflowClient().search_experiments(max_results=1))
        with asked.used():
            act()
    except (
        Exception
    ) as error:  # whatever it is, a database's or a client's: a run does not end by it
        later = f"; it is asked again after {asked.rest:.0f} s" if asked.rest else ""
        told = _said(error)
        log.warning(
            "MLflow could not %s (%s)%s; the artifacts in the store are complete", what, told, later
        )
        return False
    return True


def _said(error: BaseException) -> str:
    """The first cause of an error, in a line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return textwrap.shorten(shortened(str(error)), 160)
