"""Whose latents are interpreted: the dictionary's, those of a control dictionary, or directions in
their place."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from components.device import Execution
from components.dictionary.encode import promoted_tokens
from components.interpretation.config import InterpretConfig
from components.interpretation.contract import explainers
from components.interpretation.controls import CONTROLS, ControlName
from components.interpretation.directions import (
    DirectionCodes,
    gaussian_directions,
    signed_coordinates,
)
from components.interpretation.relatives import Relatives, close, relatives
from components.interpretation.sample import Sample, sample_latents
from components.model.reference import ModelReference
from components.seeds import numpy_generator
from components.store import tables
from components.store.artifact import Artifact
from components.store.lineage import source
from components.store.shards import ActivationShards, CodeShards


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is interpreted.

    Attributes:
        control: which control it is; None for the dictionary itself.
        codes: where its latents are active.
        statistics: rows of the latents table, as far as they are known.
        sample: the latents that are looked at.
        relatives: of each of them those that are much alike.
        dictionary: the artifact of `train`; None where there is none.
    """

    control: ControlName | None
    codes: CodeShards | DirectionCodes
    statistics: pl.DataFrame
    sample: Sample
    relatives: Relatives
    dictionary: Artifact | None

    @property
    def mark(self) -> str:
        """What stands before messages about it."""
        return f"{CONTROLS[self.control]}: " if self.control else ""

    @classmethod
    def of_codes(
        cls, codes: CodeShards, config: InterpretConfig, control: ControlName | None = None
    ) -> Subject:
        """A dictionary by its codes; of a control as many latents as a control has."""
        encoded = codes.artifact
        statistics, sample = tables.LATENTS.read(encoded), sample_of(encoded, config, control)
        there = tables.NEIGHBOURS.file in encoded.files
        near = tables.NEIGHBOURS.read(encoded) if there else None
        alike = _relatives(codes, sample, config, near)
        return cls(control, codes, statistics, sample, alike, source(encoded, "dictionary"))

    @classmethod
    def of_directions(
        cls,
        control: ControlName,
        trained: Subject,
        activations: ActivationShards,
        hook_point: str,
        config: InterpretConfig,
        model: ModelReference | None,
        settings: Execution,
    ) -> Subject:
        """Random directions, or coordinates, each as often active as a latent of the sample.

        Args:
            control: which of them.
            trained: the dictionary itself, from whose sample densities are taken, the rarest to the
                most frequent in equal steps where a control has fewer.
            activations: what is projected.
            hook_point: where.
            config: the section `interpret`.
            model: for the tokens that a direction promotes, where an explainer reads them.
            settings: where to run.
        """
        generator = numpy_generator(config.seed, "control", control)
        rarest_first = np.argsort(trained.sample.density, kind="stable")
        n, d = min(config.of_control, len(rarest_first)), activations.d_in(hook_point)
        draw = gaussian_directions if control == "random" else signed_coordinates
        directions = draw(n, d, generator)
        latents = np.arange(len(directions))
        steps = np.linspace(0, len(rarest_first) - 1, len(directions)).round().astype(np.int64)
        matched = generator.permutation(rarest_first[steps])
        codes = DirectionCodes(
            activations,
            hook_point,
            directions,
            trained.sample.density[matched],
            trained.sample.split,
            config.contexts.rows,
        )
        decile = trained.sample.decile[matched]
        sample = Sample(latents, codes.density, decile, 0, trained.sample.split)
        columns = {
            "latent": latents,
            "density": codes.density,
            "split": [sample.split] * len(latents),
        }
        if any(explainers[name].reads_logits for name in config.explainers):
            columns |= promoted_tokens(directions, hook_point, model, settings) or {}
        statistics = tables.LATENTS.frame(pl.DataFrame(columns))
        alike = _relatives(codes, sample, config, close(directions.numpy()))
        return cls(control, codes, statistics, sample, alike, None)


def sample_of(
    encoded: Artifact, config: InterpretConfig, control: ControlName | None = None
) -> Sample:
    """The latents of a dictionary that are looked at; of a control as many as a control has."""
    n = config.latents if control is None else config.of_control
    return sample_latents(tables.LATENTS.read(encoded), encoded.facts["d_sae"], n, config.seed)


def _relatives(
    codes: CodeShards | DirectionCodes,
    sample: Sample,
    config: InterpretConfig,
    neighbours: pl.DataFrame | None,
) -> Relatives:
    if not len(sample.latents):
        return ()
    shards = codes.iterate("explain")
    return relatives(sample.latents, shards, codes.d_sae, config.contexts.rows, neighbours)
