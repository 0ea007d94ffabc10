"""The map of a dictionary, made when it is first asked for."""

from __future__ import annotations

import time

import polars as pl

from components.live import Map
from components.store import maps
from components.store.artifact import Artifact, Store
from flows.live.queue import Ticket


def answer(store: Store, train: Artifact, ticket: Ticket, started: float) -> Map:
    """Makes the map where there is none; `started` is on the monotonic clock."""
    known = maps.read(store, train.key)
    n = train.facts["d_sae"]
    if known is None or known.height != n:
        ticket.begin("loading the dictionary")
        from components.dictionary.contract import Dictionary
        from components.dictionary.plane import BLOCK, plane

        directions = Dictionary.load(train).decoder_directions()
        ticket.begin("drawing the map", 2 * -(-n // BLOCK))
        at, shares = plane(directions, ticket.step)
        frame = pl.DataFrame({"latent": range(n), "x": at[:, 0].numpy(), "y": at[:, 1].numpy()})
        frame = frame.with_columns(
            share_x=pl.lit(float(shares[0])), share_y=pl.lit(float(shares[1]))
        )
        maps.write(store, train.key, frame)
    return Map(dictionary=train.key, n=n, seconds=time.monotonic() - started)
