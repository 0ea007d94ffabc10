"""Flows arrange: they know components, Prefect and tracking; nothing imports them."""

import logging

from flows.stack import environment

environment.apply()
for _name in (
    "components",
    "flows",
):  # what they say is read in a terminal and on the run's page in Prefect
    logging.getLogger(_name).setLevel(logging.INFO)
