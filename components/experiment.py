"""The one declaration of every parameter: a section for each stage, the same dotted names everywhere.

`train.dictionary.k` is a field of the Prefect form, an argument of the command line, a line of `params.yaml`, a
parameter in MLflow and an entry of the manifest.
"""

from __future__ import annotations

from components.capture.capture import CAPTURE, CaptureConfig
from components.capture.forecast import CAPTURE_FORETELLER
from components.capture.splice import opened
from components.config import Config, execution
from components.corpus.forecast import READ_FORETELLER
from components.corpus.read import READ, ReadConfig
from components.device import Execution
from components.dictionary.encode import ENCODE, EncodeConfig
from components.dictionary.forecast import ENCODE_FORETELLER, TRAIN_FORETELLER
from components.dictionary.interchange.importing import IMPORT
from components.dictionary.settings import TrainConfig
from components.dictionary.train import stage as training
from components.evaluation.compare import COMPARE
from components.evaluation.evaluate import EVALUATE, EvaluateConfig
from components.evaluation.forecast import EVALUATE_FORETELLER
from components.evaluation.gate import GATE
from components.interpretation.forecast import INTERPRET_FORETELLER
from components.interpretation.interpret import INTERPRET, InterpretConfig
from components.model.language_model import ModelConfig
from components.steering.forecast import STEER_FORETELLER
from components.steering.steer import STEER, SteerConfig
from components.store.artifact import Stage
from components.store.forecast import Foreteller
from components.store.replicates import REPLICATE
from components.store.report import REPORT, ReportConfig
from components.sweep import SweepConfig

TRAIN = training(opened)
"""The stage that trains; a model can take part in it here, where both are known."""

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (READ, CAPTURE, TRAIN, ENCODE, INTERPRET, STEER, EVALUATE, REPORT)
}
BESIDE: dict[str, Stage] = {GATE.name: GATE, COMPARE.name: COMPARE, REPLICATE.name: REPLICATE, "import": IMPORT}
"""Stages outside the chain of one experiment: what many dictionaries share, where they meet, and who comes from elsewhere."""

FORETELLERS: dict[str, Foreteller] = {
    READ.name: READ_FORETELLER,
    CAPTURE.name: CAPTURE_FORETELLER,
    TRAIN.name: TRAIN_FORETELLER,
    ENCODE.name: ENCODE_FORETELLER,
    INTERPRET.name: INTERPRET_FORETELLER,
    STEER.name: STEER_FORETELLER,
    EVALUATE.name: EVALUATE_FORETELLER,
}
"""What each stage will cost; a report costs nothing."""


class ExperimentConfig(Config):
    """One experiment: a chain of stages over one model."""

    name: str = execution("demo", min_length=1, max_length=60)
    """What the run is called in Prefect and MLflow."""
    dictionary: str = execution("")
    """Use this trained dictionary instead of training one: name@alias in the MLflow registry, or an artifact key."""
    model: ModelConfig = ModelConfig()
    """The language model that is looked into."""
    read: ReadConfig = ReadConfig()
    """Documents, splits, labels and prompts."""
    capture: CaptureConfig = CaptureConfig()
    """Activations at hook points."""
    train: TrainConfig = TrainConfig()
    """The dictionary."""
    encode: EncodeConfig = EncodeConfig()
    """Sparse codes and the statistics of latents."""
    interpret: InterpretConfig = InterpretConfig()
    """Explanations and their scores."""
    steer: SteerConfig = SteerConfig()
    """Steering methods, budgets and judges."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured of the dictionary."""
    report: ReportConfig = ReportConfig()
    """The table at the end."""
    sweep: SweepConfig = SweepConfig()
    """Which dictionaries `latentflow sweep` trains beside one another."""
    execution: Execution = Execution()
    """How to run; changes no result."""
