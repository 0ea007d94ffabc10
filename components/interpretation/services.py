"""What entries of interpretation may use, by their kind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from components.client.client import Client
from components.device import resolve
from components.dictionary.contract import Dictionary
from components.dictionary.encode import RESIDUAL_WRITERS
from components.interpretation.explanation import LONGEST
from components.interpretation.tiling import Tiling
from components.model.language_model import LanguageModel
from components.model.latent_semantics import LatentSemantics
from components.model.reference import ModelReference
from components.model.text_encoder import TextEncoder, TextEncoderReference
from components.registry import Services
from components.store.artifact import Artifact

if TYPE_CHECKING:
    from components.interpretation.contract import Predictor


@dataclasses.dataclass(frozen=True, eq=False)
class ReaderServices(Services):
    """What explainers and predictors alike may use.

    Attributes:
        text_encoder: gives texts vectors; None where no listed entry asks for it (`embeds`).
        client: answers prompts: of an explainer `interpret.client`, of a predictor
            `interpret.judge`; None where no listed entry asks (`asks`).
        texts: gives texts of the explain split, for an encoder that is fitted on them.
    """

    text_encoder: TextEncoderReference | None = None
    client: Client | None = None
    texts: Callable[[], Sequence[str]] = tuple

    @functools.cached_property
    def encoder(self) -> TextEncoder | LatentSemantics:
        """The text encoder itself, loaded when it is first asked for."""
        assert self.text_encoder is not None, (
            "an entry that uses the text encoder says so: embeds = True"
        )
        return self.text_encoder.ready(self.execution, self.texts, self.seed)


@dataclasses.dataclass(frozen=True, eq=False)
class PredictorServices(ReaderServices):
    """What a predictor may use.

    Attributes:
        model: the model that is looked into; None where the activations came without one.
    """

    model: ModelReference | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ExplainerServices(ReaderServices):
    """What an explainer may use.

    Attributes:
        predictor: the first of the listed that is asked about windows, for an explainer that tests
            what it wrote; None where there is none.
        longest: characters of an explanation, at most.
    """

    predictor: Predictor | None = None
    longest: int = LONGEST


@dataclasses.dataclass(frozen=True, eq=False)
class ScorerServices(Services):
    """What a scorer may use.

    Attributes:
        model: the model that is looked into; None where the activations came without one.
        trained: the artifact of the dictionary whose latents are scored; None where only its codes
            are here.
        explain: the explain split, for beginnings of documents that a model reads or goes on from.
    """

    model: ModelReference | None = None
    trained: Artifact | None = None
    explain: Tiling | None = None

    @functools.cached_property
    def dictionary(self) -> Dictionary | None:
        """The dictionary itself, loaded when it is first asked for."""
        return (
            Dictionary.load(self.trained, resolve(self.execution.device)) if self.trained else None
        )

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The model itself, loaded when it is first asked for."""
        assert self.model is not None, "ask `obstacle` first"
        return self.model.load(self.execution)

    def obstacle(self, capability: str) -> str | None:
        """Why latents cannot be pushed inside the model; None where they can.

        Args:
            capability: what the model must be able to do (`LanguageModel.obstacle`).
        """
        if self.model is None:
            return "there is no model: the activations came without one"
        if self.dictionary is None or self.explain is None:
            return "only codes are here, neither the dictionary nor text that the model could read"
        hook_point = next(iter(self.dictionary.writes), "")
        if hook_point.partition(".")[0] not in RESIDUAL_WRITERS:
            return (
                f"the dictionary writes to {hook_point or 'no hook point'}, which is not added to "
                "the residual stream"
            )
        return self.language_model.obstacle(capability)
