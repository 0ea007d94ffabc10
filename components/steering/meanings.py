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
from components.model.latent_semantics import LatentSemantics
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
        encoder = inputs["text_encoder"]
        if not encoder.is_fitted_here:
            return cls(told, lambda texts: encoder.load_encoder(settings).embed(texts))
        documents = tables.DOCUMENTS.read(inputs["corpus"]).filter(pl.col("split") == "select")
        texts = [*told["explanation"].to_list(), *documents["text"].to_list()]
        return cls(told, LatentSemantics(texts, config.seed).embed)

    def of(self, explainer: str = "") -> dict[int, str]:
        """Latent -> what this explainer says of it; by default the first in the table."""
        if self.explanations.is_empty():
            return {}
        name = explainer or self.explanations["explainer"][0]
        own = self.explanations.filter(pl.col("explainer") == name)
        return dict(own.select("latent", "explanation").iter_rows())
