"""A run that is told to stop does stop, wherever the signal meets it."""

from __future__ import annotations

import signal
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from prefect.exceptions import TerminationSignal

from flows.stack import stopping


class Held:
    """What can be referred to weakly."""


@pytest.fixture
def raising() -> Iterator[None]:
    """SIGTERM raises what it raises in a flow run."""

    def handler(number: int, frame: object) -> None:
        raise TerminationSignal(signal=number)

    before = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, before)


def in_a_callback(act: Callable[[], object]) -> None:
    """`act` runs in the callback of a weak reference, where Python drops whatever is raised."""
    held = Held()
    reference = weakref.ref(held, lambda _: act())
    del held
    assert reference() is None


@pytest.mark.parametrize(
    ("name", "error"), [("SIGTERM", TerminationSignal), ("SIGINT", KeyboardInterrupt)]
)
def test_a_signal_that_a_weak_reference_swallowed_comes_again(
    raising: None, name: str, error: type[BaseException]
):
    began = time.monotonic()
    with stopping.heeded(), pytest.raises(error):
        in_a_callback(lambda: signal.raise_signal(signal.Signals[name]))
        time.sleep(20)
    assert time.monotonic() - began < 10


def test_one_that_is_swallowed_again_still_arrives(raising: None) -> None:
    with stopping.heeded(), pytest.raises(TerminationSignal):
        in_a_callback(lambda: signal.raise_signal(signal.SIGTERM))
        in_a_callback(lambda: time.sleep(20))
        time.sleep(20)


def test_other_errors_of_destructors_are_told_as_before_and_stop_nothing() -> None:
    told: list[type[BaseException]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", lambda found: told.append(found.exc_type))
        with stopping.heeded():
            in_a_callback(lambda: 1 / 0)
            time.sleep(2 * stopping.SECONDS_UNTIL_AGAIN)
    assert told == [ZeroDivisionError]
