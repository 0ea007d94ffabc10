"""The settings of the stage `interpret`, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from components.client.client import NOBODY, ClientConfig
from components.client.price import Budget
from components.config import Config, execution, names_of, refuse_unused, settings_of
from components.interpretation import asked
from components.interpretation.contract import explainers, predictors, scorers
from components.interpretation.controls import CONTROLS, ControlName
from components.interpretation.dictionary_contract import dictionary_scorers
from components.interpretation.explanation import LONGEST, LONGEST_OF_ALL
from components.interpretation.latent_contract import latent_scorers
from components.interpretation.tiling import ContextsConfig
from components.store.artifact import content_number

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


def _once(names: list[ControlName]) -> list[ControlName]:
    """In reading order, each once."""
    return [name for name in CONTROLS if name in names]


class InterpretConfig(Config):
    """Explanations of latents and their scores."""

    latents: PositiveInt = 100
    """Alive latents that are explained, equally many from each tenth by density."""
    explainers: list[ExplainerName] = Field(default=["log_odds", "token_lookup"], min_length=1)
    """Who writes explanations; the first is what probe and strata stand beside."""
    scorers: Annotated[list[ScorerName], AfterValidator(sorted)] = Field(
        default=["detection", "simulation"], min_length=1
    )
    """What is measured; their order has no meaning."""
    predictors: list[PredictorName] = Field(default=["lexical"], min_length=1)
    """Who reads explanations."""
    controls: Annotated[list[ControlName], AfterValidator(_once)] = ["untrained"]
    """What is explained and scored beside the dictionary: untrained, random (random directions),
    neurons (coordinates of the hook point), randomised and randomised_blocks (dictionaries of the
    model with drawn weights: each captures, trains and encodes once more). Their order has no
    meaning."""
    control_latents: PositiveInt | None = None
    """Latents of each control; as many as `latents` when absent."""
    control_explainers: Literal["all", "first"] = "all"
    """Which explainers explain controls: all that can, or the first of those."""
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
    # No part of the canonical settings: who answers is in the key where an entry asks (`entries`).
    client: ClientConfig = execution(NOBODY)
    """The language model that writes explanations, for explainers that ask one."""
    judge: ClientConfig = execution(NOBODY)
    """The language model that reads explanations, and windows for scorers of latents, where they ask
    one; none: that of `client`."""
    budget: Budget = execution(Budget())
    """How much a run may cost. Before it is set, nothing leaves this machine."""
    seed: int = 0
    """Draws the latents, the windows, the trials, the shuffled explanations and the resamples."""

    @property
    def of_control(self) -> int:
        """Latents of each control."""
        return self.control_latents or self.latents

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
        for name in self.explainers:
            shown = getattr(getattr(self.explainer_settings, name), "weighted", 0)
            if shown > self.contexts.weighted:
                raise ValueError(
                    f"interpret.explainer_settings.{name}.weighted is {shown}, and only "
                    f"{self.contexts.weighted} such windows are drawn; raise "
                    f"interpret.contexts.weighted to {shown}"
                )
        asked.refuse_nobody(self)
        asked.warn_of_unasked(self)
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
    reading = (
        (explainers, config.explainers, config.explainer_settings),
        (predictors, config.predictors, config.predictor_settings),
        (latent_scorers, config.latent_scorers, config.latent_scorer_settings),
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
    by_settings = [
        latent_scorers[name].embeds(getattr(config.latent_scorer_settings, name))
        for name in config.latent_scorers
    ] + [
        dictionary_scorers[name].embeds(getattr(config.dictionary_scorer_settings, name))
        for name in config.dictionary_scorers
    ]
    return any(reader.embeds for reader in readers) or any(by_settings)


def beside(control: ControlName) -> Callable[[InterpretConfig], bool]:
    """The rule by which a control is an input: it is listed."""
    return lambda config: control in config.controls
