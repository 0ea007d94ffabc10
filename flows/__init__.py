"""Flows arrange: they know components, Prefect and tracking; nothing imports them."""

import logging

from flows.stack import environment

environment.apply()
# what they say is read in a terminal and on the run's page in Prefect
for _name in ("components", "flows"):
    logging.getLogger(_name).setLevel(logging.INFO)
