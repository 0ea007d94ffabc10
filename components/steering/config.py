"""The section `steer` of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from components.client.client import NOBODY, ClientConfig
from components.client.price import Budget
from components.concept.gate import ProbeGate
from components.config import Config, execution, names_of, refuse_unused, settings_of, union_of
from components.errors import ConfigError
from components.model.hook_point import translate
from components.registry import Registry
from components.steering import answers, asked, questions
from components.steering.answers import AnswersConfig
from components.steering.comparison import UNTRAINED
from components.steering.composite import FLUENCY, RELEVANCE
from components.steering.contract import SteeringControl, SteeringMethod, controls, judges, methods
from components.steering.conversation import ChatConfig
from components.steering.measures import MEASURES, PANEL_MEASURE
from components.steering.questions import QuestionsConfig
from components.steering.targeting import Targets, targets
from components.steering.targets.labels import LabelsConfig
from components.steering.vector import ROLES
from components.store.judgements import PANEL, TAKEN, UNSTEERED

if TYPE_CHECKING:
    MethodName = ControlName = JudgeName = str
    MethodSettings = ControlSettings = JudgeSettings = TargetsChoice = Any
else:
    MethodName, ControlName, JudgeName = names_of(methods), names_of(controls), names_of(judges)
    MethodSettings, JudgeSettings = settings_of(methods), settings_of(judges)
    ControlSettings = settings_of(controls)
    TargetsChoice = union_of(targets)


def embeds(config: SteerConfig) -> bool:
    """Whether a judge gives texts vectors, one that is listed or one that chooses the texts of the
    targets."""
    return any(judges[name].embeds for name in (*config.judges, *config.targeted.judges))


def _parts(judge: str) -> list[str]:
    return [measure.name for measure in judges[judge].parts]


class SteerConfig(Config):
    """Steering methods, their strengths, and who judges."""

    targets: TargetsChoice = LabelsConfig()
    """What is steered towards: labelled concepts, latents of the dictionary, sets of texts, or
    latents that a sentence names."""
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
    panel: list[JudgeName] = []
    """Judges of the target, all of which the composite `panel` asks for beside relevance and
    fluency; empty: the one that measures."""
    method_settings: MethodSettings = Field(default_factory=MethodSettings)
    """Settings of each method, by its name."""
    hook_point_sweep: list[str] = []
    """Hook points at which methods are tried whose steerings come from activations alone, and every
    control of them; text after validate prompts chooses one for each. Empty: no sweep."""
    control_settings: ControlSettings = Field(default_factory=ControlSettings)
    """Settings of each control, by its name."""
    judge_settings: JudgeSettings = Field(default_factory=JudgeSettings)
    """Settings of each judge, by its name."""
    # No part of the canonical settings: who answers is in the key where a judge asks (`asked`).
    client: ClientConfig = execution(NOBODY)
    """The language model that judges ask, those that ask one."""
    budget: Budget = execution(Budget())
    """How much a run may cost. Before it is set, nothing leaves this machine."""
    kl_budgets: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=[0.2], min_length=1
    )
    """What steering may cost: KL(steered, plain) of the predictions of the tokens that it writes
    after validate prompts, nats a token; methods are compared at equal cost."""
    headline_budget: float = Field(0.2, gt=0, allow_inf_nan=False)
    """The budget at which methods are tested together; where kl_budgets lacks it, none is."""
    concepts: list[str] = Field(default=["*"], min_length=1)
    """Patterns of the names of concepts to steer towards, such as topic.*."""
    max_concepts_per_family: NonNegativeInt = 2
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
    """Tokens of neutral text on which the search for strengths begins; side effects are then
    measured on other neutral text."""
    neutral_length: PositiveInt = 64
    """Tokens taken from the beginning of each neutral context."""
    battery: bool = True
    """Whether the judges are tried on texts that are made to please them (the gaming battery); it
    changes no other table."""
    band_texts: PositiveInt = 256
    """Unsteered continuations of validate prompts, and real passages, whose loss sets the fluency
    band."""
    chat: ChatConfig = ChatConfig()
    """Prompts as messages of a conversation, for models that were made for it."""
    answers: AnswersConfig = AnswersConfig()
    """Multiple-choice items on which chosen steerings are tried, too."""
    questions: QuestionsConfig = QuestionsConfig()
    """Multiple-choice questions about other things: what chosen steerings cost in accuracy."""
    seed: int = 0
    """Draws the concepts, the text, the control directions and the resamples."""
    batch_size: PositiveInt = execution(512)
    """Continuations written at a time."""
    traces: NonNegativeInt = execution(100)
    """Steered continuations of a run, at most, that are shown in MLflow as traces with what each
    judge said of them."""

    @field_validator("hook_point_sweep")
    @classmethod
    def _canonical(cls, names: list[str]) -> list[str]:
        """Canonical names, so that one place has one key whatever it was called."""
        return [translate(name) for name in names]

    @model_validator(mode="after")
    def _fits(self) -> SteerConfig:
        if taken := [name for name in self.methods if name.startswith((UNSTEERED, UNTRAINED))]:
            raise ConfigError(
                f"a steering method may not be called {taken[0]!r}: tables call a control so; "
                "rename its file"
            )
        measured = (*MEASURES, PANEL_MEASURE, *answers.MEASURES, *questions.MEASURES)
        if taken := sorted(set(self.judges) & (TAKEN | {measure.name for measure in measured})):
            raise ConfigError(
                f"a judge may not be called {taken[0]!r}: tables call another thing so; rename "
                "its file"
            )
        for registry, names, settings in self.tables():
            refuse_unused(registry, names, settings)
            for name in names:
                place = getattr(getattr(settings, name), "positions", None)
                if place in ROLES and not self.chat.messages:
                    raise ConfigError(
                        f"{registry.noun} {name}: positions={place} says a role, and prompts are no "
                        "messages; set steer.chat.messages=true, or positions to all, prompt, "
                        "generated or a list"
                    )
        if len(set(self.kl_budgets)) < len(self.kl_budgets):
            raise ConfigError(f"a KL budget is listed twice: {self.kl_budgets}")
        if self.measure not in self.judges:
            raise ConfigError(
                f"uplift is what the judge {self.measure!r} says; judges listed: "
                f"{', '.join(self.judges)}"
            )
        self._refuse_asking()
        self._refuse_panel()
        self.targeted.check(self)
        self._refuse_sweep()
        asked.warn_of_unasked(self)
        return self

    def _refuse_asking(self) -> None:
        for name in dict.fromkeys([self.measure, *self.panel]):
            if judges[name].asks:
                where = "steer.measure" if name == self.measure else "steer.panel"
                raise ConfigError(
                    f"{where} names {name}, which asks a language model: such a judge reads test "
                    "text alone and stands beside the others; list it in steer.judges, and another "
                    f"one in {where}"
                )

    def _refuse_panel(self) -> None:
        if not self.panel:
            return
        if parts := sorted({FLUENCY, RELEVANCE} & set(self.panel)):
            raise ConfigError(
                f"steer.panel lists {', '.join(parts)}, which the composite has in any case; list "
                "judges of the target alone"
            )
        wanted = {FLUENCY, RELEVANCE, *self.panel}
        if absent := sorted(wanted - set(self.judges)):
            raise ConfigError(
                f"steer.panel needs the judges {', '.join(sorted(wanted))}, and steer.judges does "
                f"not list {', '.join(absent)}; add them"
            )

    def _refuse_sweep(self) -> None:
        if not self.hook_point_sweep:
            return
        if len(set(self.hook_point_sweep)) < len(self.hook_point_sweep):
            raise ConfigError(
                f"steer.hook_point_sweep lists something twice: {', '.join(self.hook_point_sweep)}; "
                "name each once"
            )
        movable = {n: of for n, of in self.method_kinds().items() if of[0].any_hook_point}
        if all(kind.control for kind, _ in movable.values()):
            able = [n for n, kind in methods.items() if kind.any_hook_point and not kind.control]
            raise ConfigError(
                "steer.hook_point_sweep has no method to choose a hook point for: of steer.methods "
                f"({', '.join(self.methods)}) none steers from activations alone; list one that "
                f"does ({', '.join(able)}), or leave the sweep empty"
            )
        if settled := [n for n, (_, settings) in movable.items() if settings.hook_points]:
            raise ConfigError(
                f"steer.hook_point_sweep chooses where {settled[0]} steers, and "
                f"steer.method_settings.{settled[0]}.hook_points says where already; leave one of "
                "them empty"
            )

    @property
    def has_panel(self) -> bool:
        """Whether the composite of three is made: relevance and fluency are both listed."""
        return {FLUENCY, RELEVANCE} <= set(self.judges)

    @property
    def of_target(self) -> list[str]:
        """The judges of the target in the composite of three."""
        return self.panel or [self.measure]

    @property
    def beside(self) -> list[str]:
        """Judges beside the one that measures; fluency also where it is not listed: its score is
        then absent. The composite of three stands among them as one more."""
        listed = [part for name in self.judges for part in (name, *_parts(name))]
        names: list[str] = [FLUENCY, *listed, *([PANEL] if self.has_panel else [])]
        return [name for name in dict.fromkeys(names) if name != self.measure]

    @property
    def targeted(self) -> Targets:
        """The kind of target with its settings."""
        return targets[self.targets.kind](self.targets)

    def tables(self) -> list[tuple[Registry[Any], list[str], Any]]:
        """Methods, controls and judges: the registry, the names that are listed, and the settings
        of each entry."""
        choosing = [name for name in self.targeted.judges if name not in self.judges]
        return [
            (methods, self.methods, self.method_settings),
            (controls, self.controls, self.control_settings),
            (judges, [*self.judges, *choosing], self.judge_settings),
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

    @property
    def lowers(self) -> bool:
        """Whether a method is meant to lower its targets."""
        return any(
            not kind.control and getattr(settings, "sign", 1) < 0
            for kind, settings in self.method_kinds().values()
        )

    def method_kinds(self) -> dict[str, tuple[type[SteeringMethod], Any]]:
        """The methods that are listed: class and settings of each, by its name."""
        return {name: (methods[name], getattr(self.method_settings, name)) for name in self.methods}
