"""Explanations found by meaning: the cosine of a text's vector and each explanation's.

The encoder is the one that the experiment was read with, where it is on this machine, else the one
of params.yaml or `auto`. Vectors of one experiment's explanations stay in memory until another is
asked about; equal texts are embedded once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import polars as pl

from components.errors import ModelError
from components.live import Match, Meaning
from components.store.artifact import Artifact
from components.store.lineage import inputs
from components.store.tables import EXPLANATIONS
from flows.live.queue import Ticket
from flows.stack import environment

if TYPE_CHECKING:
    from torch import Tensor

    from components.model.text_encoder import TextEncoder, TextEncoderReference

AT_ONCE = 256


class Meanings:
    """One encoder, and the vectors of one experiment's explanations."""

    def __init__(self) -> None:
        self._reference: TextEncoderReference | None = None
        self._encoder: TextEncoder | None = None
        self._wanted: str | None = None
        self._of: tuple[str, str] | None = None
        self._rows = pl.DataFrame()
        self._vectors: Tensor | None = None

    def answer(self, interpret: Artifact, ticket: Ticket, started: float) -> Meaning:
        """The explanations nearest to the text that is asked about; `started` is on the monotonic
        clock.

        Raises:
            ModelError: no text encoder is on this machine.
        """
        import torch

        encoder, reference = self._load(interpret, ticket)
        if self._of != (interpret.key, reference.key):
            self._embed(interpret, encoder, ticket)
            self._of = interpret.key, reference.key
        ticket.begin("comparing")
        asked = torch.nn.functional.normalize(encoder.embed([ticket.asked.text]), dim=1)[0]
        assert self._vectors is not None
        cosines = (self._vectors @ asked).numpy()
        found = self._rows.with_columns(cosine=cosines[self._rows["text"].to_numpy()])
        found = found.sort("cosine", "latent", "explainer", descending=[True, False, False])
        return Meaning(
            matches=[Match(**row) for row in found.drop("text").head(ticket.asked.top).to_dicts()],
            n=found.height,
            encoder=_name(reference),
            seconds=time.monotonic() - started,
        )

    def _load(
        self, interpret: Artifact, ticket: Ticket
    ) -> tuple[TextEncoder, TextEncoderReference]:
        from components.config import load
        from components.device import Execution
        from components.model.text_encoder import TextEncoderConfig, TextEncoderReference

        wanted = inputs(interpret.manifest).get("text_encoder", (None, None))[1]
        if self._encoder and self._reference and self._wanted == wanted:
            return self._encoder, self._reference
        ticket.begin("loading the text encoder")
        nested = environment.written()
        places = [load(TextEncoderConfig, nested.get("text_encoder") or {}), TextEncoderConfig()]
        there, refusal = [], None
        for place in places:
            reference = TextEncoderReference(place)
            try:
                there.append((reference.key, reference))
            except ModelError as error:
                refusal = refusal or error
        if not there:
            raise refusal or ModelError("no text encoder is on this machine")
        reference = next((each for key, each in there if key == wanted), there[0][1])
        encoder = reference.load_encoder(load(Execution, nested.get("execution") or {}))
        self._reference, self._encoder, self._wanted, self._of = reference, encoder, wanted, None
        return encoder, reference

    def _embed(self, interpret: Artifact, encoder: TextEncoder, ticket: Ticket) -> None:
        """Vectors of length 1 of every distinct explanation."""
        import torch

        rows = EXPLANATIONS.read(interpret).filter(pl.col("explanation").is_not_null())
        texts = rows["explanation"].unique(maintain_order=True)
        number = pl.DataFrame({"explanation": texts, "text": range(len(texts))})
        rows = rows.join(number, on="explanation", maintain_order="left")
        ticket.begin("reading the explanations", -(-len(texts) // AT_ONCE))
        parts = [torch.zeros(0, encoder.width)]
        for start in range(0, len(texts), AT_ONCE):
            ticket.step()
            some = [text if text.strip() else "." for text in texts[start : start + AT_ONCE]]
            parts.append(torch.nn.functional.normalize(encoder.embed(some), dim=1))
        self._rows = rows.select("latent", "explainer", "explanation", "text")
        self._vectors = torch.cat(parts)


def _name(reference: TextEncoderReference) -> str:
    """What a reader knows it by."""
    from components.model.text_encoder import AUTO

    path = reference.config.path
    return "all-MiniLM-L6-v2" if path == AUTO else path.rstrip("/").rpartition("/")[2]
