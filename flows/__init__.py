"""Flows arrange: they know components, Prefect and tracking; nothing imports them."""

from flows import environment

environment.apply()
