"""The settings of the stage `interpret`, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from components.client.client import NOBODY, ClientConfig
from components.client.price import Budget
from components.config import Config, execution, names_of, refuse_unused, settings_of
from components.corpus.contract import content_number
from components.interpretation import asked
from components.interpretation.contract import (
    LONGEST,
    LONGEST_OF_ALL,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.tiling import ContextsConfig

if TYPE_CHECKING:
    ExplainerName = ScorerName = PredictorName = str
    ExplainerSettings = ScorerSettings = PredictorSettings = Config
else:
    ExplainerName, ScorerName, PredictorName = (
        names_of(explainers),
        names_of(scorers),
        names_of(predictors),
    )
    ExplainerSettings, ScorerSettings, PredictorSettings = map(
        settings_of, (explainers, scorers, predictors)
    )


class InterpretConfig(Config):
    """Explanations of latents and their scores."""

    latents: PositiveInt = 100
    """Alive latents that are explained, equally many from each tenth by density."""
    explainers: list[ExplainerName] = Field(default=["log_odds"], min_length=1)
    """Who writes explanations."""
    scorers: Annotated[list[ScorerName], AfterValidator(sorted)] = Field(
        default=["detection", "simulation"], min_length=1
    )
    """What is measured; their order has no meaning."""
    predictors: list[PredictorName] = Field(default=["lexical"], min_length=1)
    """Who reads explanations."""
    longest: int = Field(default=LONGEST, ge=40, le=LONGEST_OF_ALL)
    """Characters of an explanation, at most; a longer one is refused with the reason, never cut.
    512 where it was given."""
    explainer_settings: ExplainerSettings = ExplainerSettings()
    """Settings of each explainer, by its name."""
    scorer_settings: ScorerSettings = ScorerSettings()
    """Settings of each scorer, by its name."""
    predictor_settings: PredictorSettings = PredictorSettings()
    """Settings of each predictor, by its name."""
    contexts: ContextsConfig = ContextsConfig()
    """Which windows stand for a latent."""
    # No part of the canonical settings: who answers is in the key where an entry asks (`entries`).
    client: ClientConfig = execution(NOBODY)
    """The language model that writes explanations, for explainers that ask one."""
    judge: ClientConfig = execution(NOBODY)
    """The language model that reads explanations, for predictors that ask one; none: that of
    `client`."""
    budget: Budget = execution(Budget())
    """How much a run may cost. Before it is set, nothing leaves this machine."""
    seed: int = 0
    """Draws the latents, the windows, the trials, the shuffled explanations and the resamples."""

    @model_validator(mode="after")
    def _fits(self) -> InterpretConfig:
        refuse_unused(explainers, self.explainers, self.explainer_settings)
        refuse_unused(scorers, self.scorers, self.scorer_settings)
        refuse_unused(predictors, self.predictors, self.predictor_settings)
        for name in self.scorers:
            if not able(self, name):
                wanted = f"scorer {name!r} needs a predictor that gives {scorers[name].needs}"
                raise ValueError(f"{wanted}; predictors listed: {', '.join(self.predictors)}")
        asked.refuse_nobody(self)
        return self


def able(config: InterpretConfig, scorer: str) -> list[str]:
    """The listed predictors that give what the scorer needs."""
    return [name for name in config.predictors if predictors[name].answers(scorers[scorer].needs)]


def entries(config: InterpretConfig) -> Mapping[str, int]:
    """The versions of the listed entries, and the bytes that they read."""
    listed = (
        (explainers, config.explainers),
        (scorers, config.scorers),
        (predictors, config.predictors),
    )
    used = {
        f"{registry.noun}.{name}": registry.version(name)
        for registry, names in listed
        for name in names
    }
    reading = (
        (explainers, config.explainers, config.explainer_settings),
        (predictors, config.predictors, config.predictor_settings),
    )
    for registry, names, settings in reading:
        for name in names:  # other bytes under the same path make another result
            if files := registry[name].files(getattr(settings, name)):
                used[f"{registry.noun}.{name}.bytes"] = content_number(files)
    return {**used, **asked.numbers(config)}


def embeds(config: InterpretConfig) -> bool:
    """Whether a listed entry uses the text encoder."""
    readers = [explainers[name] for name in config.explainers] + [
        predictors[name] for name in config.predictors
    ]
    return any(reader.embeds for reader in readers)
