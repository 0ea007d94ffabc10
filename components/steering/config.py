"""The section `steer` of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from components.concept.gate import ProbeGate
from components.config import Config, execution, names_of, refuse_unused, settings_of
from components.errors import ConfigError
from components.registry import Registry
from components.steering.comparison import UNTRAINED
from components.steering.composite import FLUENCY
from components.steering.contract import SteeringControl, SteeringMethod, controls, judges, methods
from components.steering.measures import MEASURES
from components.store.judgements import TAKEN, UNSTEERED

if TYPE_CHECKING:
    MethodName = ControlName = JudgeName = str
    MethodSettings = ControlSettings = JudgeSettings = Any
else:
    MethodName, ControlName, JudgeName = names_of(methods), names_of(controls), names_of(judges)
    MethodSettings, JudgeSettings = settings_of(methods), settings_of(judges)
    ControlSettings = settings_of(controls)


class SteerConfig(Config):
    """Steering methods, their strengths, and who judges."""

    methods: list[MethodName] = Field(
        default=["add_direction", "mean_difference", "random_direction"], min_length=1
    )
    """What is steered with; random_direction is the control that the others are compared with."""
    controls: list[ControlName] = []
    """What methods know is spoilt in these ways, and each goes through the whole protocol once
    more: what it still reaches is chance."""
    judges: list[JudgeName] = Field(default=["concept", "fluency"], min_length=1)
    """Who judges the text; the composite needs fluency beside the judge that measures."""
    measure: JudgeName = "concept"
    """The judge that measures: what steered text has more of its value than unsteered text is the
    uplift."""
    method_settings: MethodSettings = Field(default_factory=MethodSettings)
    """Settings of each method, by its name."""
    control_settings: ControlSettings = Field(default_factory=ControlSettings)
    """Settings of each control, by its name."""
    judge_settings: JudgeSettings = Field(default_factory=JudgeSettings)
    """Settings of each judge, by its name."""
    kl_budgets: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=[0.1], min_length=1
    )
    """What steering may cost on neutral text, nats a token; methods are compared at equal cost."""
    concepts: list[str] = Field(default=["*"], min_length=1)
    """Patterns of the names of concepts to steer towards, such as topic.*."""
    max_concepts_per_family: NonNegativeInt = 4
    """Concepts of tokens taken from each family, drawn by the seed; concepts of documents are all
    taken."""
    gate: ProbeGate = ProbeGate()
    """When a probe decodes a concept, so that it is steered towards."""
    validate_prompts: PositiveInt = 24
    """Prompts, at most, that choose among the candidates of a method."""
    test_prompts: PositiveInt = 48
    """Prompts, at most, that are reported."""
    n_samples: PositiveInt = 1
    """Continuations of each prompt."""
    max_new_tokens: PositiveInt = 32
    """Longest continuation."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling; 0 takes the likeliest token."""
    neutral_tokens: PositiveInt = 2048
    """Tokens of neutral text on which strengths are set; what they cost is then measured on other
    neutral text."""
    neutral_length: PositiveInt = 64
    """Tokens taken from the beginning of each neutral context."""
    band_texts: PositiveInt = 256
    """Unsteered continuations of validate prompts, and real passages, whose loss sets the fluency
    band."""
    seed: int = 0
    """Draws the concepts, the text, the control directions and the resamples."""
    batch_size: PositiveInt = execution(256)
    """Continuations written at a time."""

    @model_validator(mode="after")
    def _fits(self) -> SteerConfig:
        if taken := [
            name for name in self.methods if name == UNSTEERED or name.startswith(UNTRAINED)
        ]:
            raise ConfigError(
                f"a steering method may not be called {taken[0]!r}: tables call a control so; "
                "rename its file"
            )
        if taken := sorted(set(self.judges) & (TAKEN | {measure.name for measure in MEASURES})):
            raise ConfigError(
                f"a judge may not be called {taken[0]!r}: tables call another thing so; rename "
                "its file"
            )
        for registry, names, settings in self.tables():
            refuse_unused(registry, names, settings)
        if len(set(self.kl_budgets)) < len(self.kl_budgets):
            raise ConfigError(f"a KL budget is listed twice: {self.kl_budgets}")
        if self.measure not in self.judges:
            raise ConfigError(
                f"uplift is what the judge {self.measure!r} says; judges listed: "
                f"{', '.join(self.judges)}"
            )
        return self

    @property
    def beside(self) -> list[str]:
        """Judges beside the one that measures; fluency also where it is not listed: its score is
        then absent."""
        return [name for name in dict.fromkeys([FLUENCY, *self.judges]) if name != self.measure]

    def tables(self) -> list[tuple[Registry[Any], list[str], Any]]:
        """Methods, controls and judges: the registry, the names that are listed, and the settings
        of each entry."""
        return [
            (methods, self.methods, self.method_settings),
            (controls, self.controls, self.control_settings),
            (judges, self.judges, self.judge_settings),
        ]

    def control_kinds(self) -> dict[str, tuple[type[SteeringControl], Any]]:
        """The controls of methods that are listed: class and settings of each, by its name."""
        settings = self.control_settings
        return {name: (controls[name], getattr(settings, name)) for name in self.controls}

    def spoilt(self) -> dict[str, tuple[str, str]]:
        """What goes through controls, by its name in tables: (method, control)."""
        listed = {name: kind for name, (kind, _) in self.method_kinds().items()}
        return {
            called: (method, control)
            for control, (kind, settings) in self.control_kinds().items()
            for method, called in kind.over(settings, listed).items()
        }

    @property
    def reads_explanations(self) -> bool:
        """Whether a method ranks latents by what was said of them."""
        return any(
            getattr(settings, "reads_explanations", False)
            for _, settings in self.method_kinds().values()
        )

    def method_kinds(self) -> dict[str, tuple[type[SteeringMethod], Any]]:
        """The methods that are listed: class and settings of each, by its name."""
        return {name: (methods[name], getattr(self.method_settings, name)) for name in self.methods}
