"""Another concept's labels in the place of a concept's own: a steering that is as good as any, for
something else.

What it reaches is what steering towards anything at all does for the concept. Concepts pass their
labels round in a circle, those of tokens and those of documents each among themselves.

When to use it: to tell 'it writes this concept' from 'it writes some concept'.
"""

from __future__ import annotations

import dataclasses

import polars as pl

from components.seeds import numpy_generator
from components.steering.contract import ControlConfig, Evidence, SteeringControl, controls


class WrongConceptConfig(ControlConfig):
    """Settings of wrong_concept."""


@controls
class WrongConcept(SteeringControl):
    """Another concept's labels."""

    config = WrongConceptConfig

    def spoilt(self, evidence: Evidence) -> Evidence | str:
        """The same text, the labels of each concept under the name of another."""
        concepts = list(evidence.concepts)
        giver = list(range(len(concepts)))
        for unit in dict.fromkeys(concept.unit for concept in concepts):
            own = [i for i, concept in enumerate(concepts) if concept.unit == unit]
            circle = numpy_generator(self.services.seed, "wrong_concept", unit).permutation(own)
            for taker, other in zip(circle.tolist(), [*circle[1:], circle[0]], strict=True):
                giver[taker] = int(other)
        if lonely := [c.name for i, c in enumerate(concepts) if giver[i] == i]:
            return (
                f"{lonely[0]} has no other concept of its kind to take labels from; steer towards "
                "two or more (steer.concepts)"
            )
        name_of = {concepts[other].name: concepts[taker].name for taker, other in enumerate(giver)}
        return dataclasses.replace(
            evidence,
            concepts=[
                # its words too: what ranks by explanations would else ask for the taker
                dataclasses.replace(
                    concepts[other], name=concepts[taker].name, text=concepts[other].words
                )
                for taker, other in enumerate(giver)
            ],
            labels=evidence.labels[:, giver],
            without=None if evidence.without is None else evidence.without[:, giver],
            document_labels=evidence.document_labels[:, giver],
            pairs=evidence.pairs.with_columns(pl.col("concept").replace(name_of)),
        )
