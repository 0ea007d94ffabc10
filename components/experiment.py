"""The one declaration of the stages and of every parameter: a section for each stage, the same
dotted names everywhere.

`train.dictionary.k` is a field of the Prefect form, an argument of the command line, a line of
`params.yaml`, a parameter in MLflow and an entry of the manifest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import model_validator

from components.capture.capture import CAPTURE, CaptureConfig
from components.capture.running import opened as activations_opened
from components.capture.splice import opened, passes
from components.config import Config, execution, refuse_unused
from components.corpus.read import READ, ReadConfig
from components.device import Execution
from components.dictionary.encode import EncodeConfig
from components.dictionary.encode import stage as encoding
from components.dictionary.interchange.importing import stage as importing
from components.dictionary.settings import TrainConfig
from components.dictionary.train import stage as training
from components.errors import ConfigError
from components.evaluation.compare import COMPARE
from components.evaluation.contract import evaluations
from components.evaluation.evaluate import EVALUATE, EvaluateConfig
from components.evaluation.gate import GATE
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.model.hook_point import translate
from components.model.randomised import Randomise
from components.model.reference import ModelConfig
from components.model.text_encoder import TextEncoderConfig
from components.report.replicates import REPLICATE
from components.report.report import REPORT, ReportConfig
from components.steering.steer import STEER, SteerConfig
from components.store.stage import GIVEN, Parent, Stage
from components.sweep import SweepConfig

TRAIN = training(opened, passes, activations_opened)
"""The stage that trains; a model can take part in it here, where both are known."""
ENCODE, IMPORT = encoding(activations_opened), importing(activations_opened)
"""Here these can read activations that are not stored, from the running model."""


class ExperimentConfig(Config):
    """One experiment: a chain of stages over one model.

    A field with a stage beside its type is that stage's section, and puts the stage into the chain
    at this place; the sentence below is what every window says of it. Nothing else lists the
    stages.
    """

    name: str = execution("demo", min_length=1, max_length=60)
    """What the run is called in Prefect and MLflow."""
    dictionary: str = execution("")
    """Use this trained dictionary instead of training one: name@alias in the MLflow registry, or an
    artifact key."""
    model: ModelConfig = ModelConfig()
    """The language model that is looked into."""
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    """The model that gives texts vectors, for entries that compare meanings."""
    read: Annotated[ReadConfig, READ] = ReadConfig()
    """Documents into packed contexts, splits, labels and prompts."""
    capture: Annotated[CaptureConfig, CAPTURE] = CaptureConfig()
    """Activations of the model at the hook points, on every split."""
    train: Annotated[TrainConfig, TRAIN] = TrainConfig()
    """A sparse dictionary of those activations."""
    encode: Annotated[EncodeConfig, ENCODE] = EncodeConfig()
    """Sparse codes of the dictionary and the statistics of its latents."""
    interpret: Annotated[InterpretConfig, INTERPRET] = InterpretConfig()
    """An explanation of each sampled latent, and how well it predicts the latent."""
    steer: Annotated[SteerConfig, STEER] = SteerConfig()
    """Steered text at equal KL cost, judged against honest baselines."""
    evaluate: Annotated[EvaluateConfig, EVALUATE] = EvaluateConfig()
    """What the dictionary keeps, loses and finds."""
    report: Annotated[ReportConfig, REPORT] = ReportConfig()
    """Every score of an experiment in one table."""
    sweep: SweepConfig = SweepConfig()
    """Which dictionaries `latentflow sweep` trains beside one another."""
    execution: Execution = Execution()
    """How to run; changes no result."""

    @model_validator(mode="after")
    def _fits(self) -> ExperimentConfig:
        # a sweep reads the same settings
        listed = sorted({*self.evaluate.evaluations, *self.sweep.evaluations})
        refuse_unused(evaluations, listed, self.evaluate.settings)
        if self.train.splice.share and self.capture.arrays.path:
            raise ConfigError(
                "train.splice.share wants the model to take part in training, and with "
                "capture.arrays.path there is none; set train.splice.share=0"
            )
        captured = [translate(name) for name in self.capture.hook_points]
        absent = [name for name in self.steer.hook_point_sweep if name not in captured]
        if absent and not self.capture.arrays.path:  # there nothing is steered
            raise ConfigError(
                f"steer.hook_point_sweep wants {', '.join(absent)}, and capture.hook_points captures "
                f"{', '.join(captured)} alone; add it there, or take it out of the sweep"
            )
        drawn = [name for name in self.interpret.controls if name in RANDOMISED]
        if drawn and self.model.randomise != "none":
            raise ConfigError(
                f"interpret.controls lists {', '.join(drawn)}, and model.randomise="
                f"{self.model.randomise} makes the model itself one with drawn weights; take them "
                "out of interpret.controls, or set model.randomise=none"
            )
        return self


STAGES: dict[str, Stage] = {
    stage.name: stage
    for field in ExperimentConfig.model_fields.values()
    for stage in field.metadata
    if isinstance(stage, Stage)
}
"""The chain of an experiment, in order."""
BESIDE: dict[str, Stage] = {
    GATE.name: GATE,
    COMPARE.name: COMPARE,
    REPLICATE.name: REPLICATE,
    "import": IMPORT,
}
"""Stages outside that chain: what several dictionaries share, where they meet, and which come from
another project."""

RANDOMISED: dict[str, Randomise] = {
    "randomised": "all",
    "randomised_blocks": "all_but_embeddings",
}
"""Controls that look into a model with drawn weights, and which of its weights are drawn."""
MADE_ANEW = {"untrained": "train", **dict.fromkeys(RANDOMISED, "capture")}
"""Control -> the first stage that is made once more for it. What comes before is shared: the same
text and splits."""


def about(stage: str) -> str:
    """What a stage of the chain makes, in a sentence."""
    return ExperimentConfig.model_fields[stage].description or ""


def stage_of(name: str) -> Stage:
    """The stage of that name, in the chain or beside it."""
    return STAGES.get(name) or BESIDE[name]


def without(config: ExperimentConfig) -> frozenset[str]:
    """What an experiment does not have: activations from a file take the place of model and text,
    and where there is no text none has a vector."""
    return frozenset({*GIVEN, READ.name} if config.capture.arrays.path else ())


def parents(name: str, missing: Collection[str] = ()) -> Mapping[str, Parent]:
    """What an experiment gives a stage, by role: of what is optional, that which it makes itself.

    Args:
        name: of the stage.
        missing: what the experiment is `without`.
    """
    stage = stage_of(name)
    scores = {
        each.name: Parent(each.name) for each in STAGES.values() if each.scored and stage.gathers
    }
    roles = {**stage.inputs, **scores}
    missing = {*BESIDE, *missing}
    given = {
        role: not parent.optional
        or (
            parent.stage not in missing
            and not (parent.control in RANDOMISED and "model" in missing)
        )
        for role, parent in roles.items()
    }
    return {role: parent for role, parent in roles.items() if given[role]}


def rests_on(name: str, ancestor: str) -> bool:
    """Whether the artifact of one stage is made from that of another, through however many
    between."""
    if name == ancestor:
        return True
    return name not in GIVEN and any(
        rests_on(parent.stage, ancestor) for parent in parents(name).values()
    )
