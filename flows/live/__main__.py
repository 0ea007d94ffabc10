"""Serves the live worker: `python -m flows.live`."""

from __future__ import annotations

import argparse
import logging
import os
import sys

import uvicorn

from components.errors import ServiceError
from components.store.artifact import Store
from flows.live.service import LOOPBACK, application
from flows.stack import environment, processes


def main() -> None:
    """Serves until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m flows.live", description="The live worker.")
    parser.add_argument(
        "--host", choices=LOOPBACK, default="127.0.0.1", help="only this machine may ask"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    processes.refuse_port("live")
    uvicorn.run(
        application(Store(os.environ["LATENTFLOW_STORE"])),
        host=arguments.host,
        port=environment.port("live"),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        ws="none",
    )


if __name__ == "__main__":
    try:
        main()
    except ServiceError as error:
        sys.exit(str(error))
