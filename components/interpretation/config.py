"""The settings of the stage `interpret`, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from components.config import Config, names_of, refuse_unused, settings_of
from components.corpus.contract import content_number
from components.interpretation.contract import (
    LONGEST,
    LONGEST_OF_ALL,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.dictionary_contract import dictionary_scorers
from components.interpretation.latent_contract import latent_scorers
from components.interpretation.tiling import ContextsConfig

if TYPE_CHECKING:
    ExplainerName = ScorerName = PredictorName = LatentScorerName = DictionaryScorerName = str
    ExplainerSettings = ScorerSettings = PredictorSettings = LatentScorerSettings = Config
    DictionaryScorerSettings = Config
else:
    ExplainerName, ScorerName, PredictorName, LatentScorerName = map(
        names_of, (explainers, scorers, predictors, latent_scorers)
    )
    ExplainerSettings, ScorerSettings, PredictorSettings, LatentScorerSettings = map(
        settings_of, (explainers, scorers, predictors, latent_scorers)
    )
    DictionaryScorerName = names_of(dictionary_scorers)
    DictionaryScorerSettings = settings_of(dictionary_scorers)


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
    latent_scorers: Annotated[list[LatentScorerName], AfterValidator(sorted)] = []
    """What is measured of a latent itself, without an explanation; their order has no meaning."""
    dictionary_scorers: Annotated[list[DictionaryScorerName], AfterValidator(sorted)] = []
    """What is measured of the whole dictionary by its explanations; their order has no meaning."""
    longest: int = Field(default=LONGEST, ge=40, le=LONGEST_OF_ALL)
    """Characters of an explanation, at most; a longer one is refused with the reason, never cut.
    512 where it was given."""
    explainer_settings: ExplainerSettings = ExplainerSettings()
    """Settings of each explainer, by its name."""
    scorer_settings: ScorerSettings = ScorerSettings()
    """Settings of each scorer, by its name."""
    predictor_settings: PredictorSettings = PredictorSettings()
    """Settings of each predictor, by its name."""
    latent_scorer_settings: LatentScorerSettings = LatentScorerSettings()
    """Settings of each latent scorer, by its name."""
    dictionary_scorer_settings: DictionaryScorerSettings = DictionaryScorerSettings()
    """Settings of each dictionary scorer, by its name."""
    contexts: ContextsConfig = ContextsConfig()
    """Which windows stand for a latent."""
    seed: int = 0
    """Draws the latents, the windows, the trials, the shuffled explanations and the resamples."""

    @model_validator(mode="after")
    def _fits(self) -> InterpretConfig:
        refuse_unused(explainers, self.explainers, self.explainer_settings)
        refuse_unused(scorers, self.scorers, self.scorer_settings)
        refuse_unused(predictors, self.predictors, self.predictor_settings)
        refuse_unused(latent_scorers, self.latent_scorers, self.latent_scorer_settings)
        refuse_unused(dictionary_scorers, self.dictionary_scorers, self.dictionary_scorer_settings)
        for name in self.scorers:
            if not able(self, name):
                wanted = f"scorer {name!r} needs a predictor that gives {scorers[name].needs}"
                raise ValueError(f"{wanted}; predictors listed: {', '.join(self.predictors)}")
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
        (latent_scorers, config.latent_scorers),
        (dictionary_scorers, config.dictionary_scorers),
    )
    used = {
        f"{registry.noun}.{name}": registry.version(name)
        for registry, names in listed
        for name in names
    }
    for name in config.explainers:  # other bytes under the same path are other explanations
        if files := explainers[name].files(getattr(config.explainer_settings, name)):
            used[f"explainer.{name}.bytes"] = content_number(files)
    return used


def embeds(config: InterpretConfig) -> bool:
    """Whether a listed entry uses the text encoder."""
    readers = [explainers[name] for name in config.explainers] + [
        predictors[name] for name in config.predictors
    ]
    by_settings = [
        latent_scorers[name].embeds(getattr(config.latent_scorer_settings, name))
        for name in config.latent_scorers
    ] + [
        dictionary_scorers[name].embeds(getattr(config.dictionary_scorer_settings, name))
        for name in config.dictionary_scorers
    ]
    return any(reader.embeds for reader in readers) or any(by_settings)
