"""Explanations of latents, and what gives texts their vectors: what is there where interpretation
ran before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import polars as pl
from jaxtyping import Float32
from torch import Tensor

from components.device import Execution
from components.store import tables
from components.store.stage import Inputs

if TYPE_CHECKING:  # it needs the contract, and that holds these
    from components.steering.config import SteerConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Meanings:
    """What was said of latents.

    Attributes:
        explanations: columns latent, explainer, explanation; none is null.
        embed: texts -> vectors.
    """

    explanations: pl.DataFrame
    embed: Callable[[Sequence[str]], Float32[Tensor, "text width"]]
    _vectors: dict[str, Tensor] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, inputs: Inputs, settings: Execution, config: SteerConfig) -> Meanings | None:
        """From the inputs of the stage; None where nothing asks for them, or interpretation is no
        part of the experiment.

        An encoder that is fitted on the corpus is fitted on the explanations and the texts of the
        select split.
        """
        given = inputs.get("interpreted") and inputs.get("text_encoder")
        if not (config.reads_explanations and given):
            return None
        columns = ["latent", "explainer", "explanation"]
        told = tables.EXPLANATIONS.read(inputs["interpreted"]).select(columns).drop_nulls()

        def texts() -> list[str]:
            documents = tables.DOCUMENTS.read(inputs["corpus"]).filter(pl.col("split") == "select")
            return [*told["explanation"].to_list(), *documents["text"].to_list()]

        return cls(told, inputs["text_encoder"].ready(settings, texts, config.seed).embed)

    def of(self, explainer: str = "") -> dict[int, str]:
        """Latent -> what this explainer says of it; by default the first in the table."""
        if self.explanations.is_empty():
            return {}
        name = explainer or self.explanations["explainer"][0]
        own = self.explanations.filter(pl.col("explainer") == name)
        return dict(own.select("latent", "explanation").iter_rows())

    def vectors(self, explainer: str) -> Float32[Tensor, "latent width"]:
        """Of what this explainer says, in the order of `of`; given once, whoever asks."""
        if explainer not in self._vectors:
            self._vectors[explainer] = self.embed(list(self.of(explainer).values()))
        return self._vectors[explainer]
