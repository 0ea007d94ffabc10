"""Device slots as Prefect shows them: one global concurrency limit for each slot of this machine,
with leases on disk.

The guard is the operating system's lock (`components/device.py`), which also holds without Prefect.
The limit shows in Prefect which device is taken and spans processes that share a server but no file
system. It is asked for after the lock and never kept waiting for: a lease that a killed run left is
given up by the server after a minute.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from components import device
from components.device import Execution, Slot

log = logging.getLogger(__name__)

SECONDS_OF_A_LEASE = 60.0
SECONDS_FOR_PREFECT = 5.0


def limit(slot: Slot) -> str:
    """The name of a slot's limit: the machine's name is in it, since several machines may share a
    server."""
    return f"device-{socket.gethostname()}-{slot.label}"


@contextlib.contextmanager
def hold(
    settings: Execution, waiting: Callable[[str], None], plain: bool = False
) -> Iterator[Execution]:
    """One slot for as long as the block runs; the settings that compute on it."""
    with device.hold(settings, waiting) as (own, slot):
        shown = contextlib.ExitStack()
        if slot is not None:
            log.info("on %s", slot.name)
            if not plain:
                _show(slot, shown)
        try:
            yield own
        finally:
            with _forgiving(slot):
                shown.close()


def reset(settings: Execution) -> None:
    """The limits of this machine's slots, each with one place, and free where no process holds the
    slot."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    with get_client(sync_client=True) as client:
        for slot in device.slots(settings):
            client.upsert_global_concurrency_limit_by_name(limit(slot), 1)
            if not device.is_held(slot):
                client.update_global_concurrency_limit(
                    limit(slot), GlobalConcurrencyLimitUpdate(active_slots=0)
                )


def _show(slot: Slot, shown: contextlib.ExitStack) -> None:
    with _forgiving(slot):
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name(limit(slot), 1)
        shown.enter_context(
            concurrency(
                limit(slot),
                timeout_seconds=SECONDS_FOR_PREFECT,
                lease_duration=SECONDS_OF_A_LEASE,
                raise_on_lease_renewal_failure=False,
            )
        )


@contextlib.contextmanager
def _forgiving(slot: Slot | None) -> Iterator[None]:
    """The lock is held already: what Prefect shows may lag, the work goes on."""
    try:
        yield
    except Exception as error:
        log.warning(
            "Prefect does not show who holds %s (%s); the system's lock does",
            slot and slot.name,
            error,
        )
