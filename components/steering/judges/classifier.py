"""Classifier: the probability of a label by a sequence classifier of the user's own choice.

Any classifier in Hugging Face form, by folder or hub id: a model of sentiment, toxicity, topics or
refusals. Each target names its label, or one label serves all. It reads the continuation alone,
cut to what the classifier reads. No code that comes with a model is run, and weights are read from
safetensors alone.

What such a model knows is not known here: its gate, where passages are labelled with the target, is
its AUROC on validate passages; a target that no passage is labelled with passes untried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field, PositiveInt

from components.config import Config, execution
from components.model.reference import ModelFiles
from components.model.text_classifier import TextClassifier
from components.report.measure import Measure
from components.statistics import auroc
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges

ALL = "*"
"""The name of the label for targets that have none of their own."""


class ClassifierConfig(Config):
    """Settings of the classifier judge."""

    path: str = ""
    """The classifier: a local folder in Hugging Face form, or a hub id. Its files are not part of
    the key: change the name or the revision when they change."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its default branch when absent."""
    online: bool = execution(False)
    """Whether a hub id that is not on this machine may be downloaded."""
    labels: dict[str, str] = {}
    """Target -> name (or number) of its label; under * that of every target without one of its
    own."""
    min_auroc: float = Field(0.7, ge=0, le=1)
    """The gate: what it must reach on labelled validate passages to judge a target."""
    min_passages: PositiveInt = 5
    """Validate passages with the target, and without, that the gate needs to try it."""


@judges
class Classifier(Judge):
    """A label's probability."""

    config = ClassifierConfig
    measure = Measure(
        "classifier", "By a classifier", "probability", "That the text has the target's label, by a classifier of your choice.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Loads the classifier and tries it.

        Raises:
            ModelError: no such model, or none that classifies.
            ConfigError: a label that it does not have.
        """
        super().fit(material)
        settings = self.settings
        self._refused: dict[str, str] = {}
        self._label: dict[int, int] = {}
        if not settings.path:
            why = "no classifier is named; set steer.judge_settings.classifier.path"
            self._refused = dict.fromkeys(material.concepts, why)
            return
        files = ModelFiles(path=settings.path, revision=settings.revision, online=settings.online)
        self._classifier = TextClassifier(files, self.services.execution)
        for column, name in enumerate(material.concepts):
            label = settings.labels.get(name, settings.labels.get(ALL))
            if label is None:
                self._refused[name] = (
                    "no label of the classifier is given for the target; set "
                    f"steer.judge_settings.classifier.labels.{name}, or that of * for all, to one "
                    f"of {', '.join(self._classifier.labels[:8])}"
                )
            else:
                self._label[column] = self._classifier.number(label)
        self._try(material)

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """Probabilities of the targets' labels."""
        n_targets = len(self.material.targets)
        if why := self.silence():
            return Verdicts.nothing(len(texts), n_targets, why)
        values = np.full((len(texts), n_targets), np.nan)
        found = self._classifier.probabilities([each.text or "" for each in texts]).numpy()
        for column, label in self._label.items():
            values[:, column] = found[:, label]
        gone = np.isnan(found).all(axis=1)
        why = "nothing of the text is a token of the classifier"
        return Verdicts(values, dict.fromkeys(np.flatnonzero(gone).tolist(), why))

    def refusals(self) -> Mapping[str, str]:
        """Targets without a label, and those that it does not tell."""
        return self._refused

    def silence(self) -> str | None:
        """That no target can be judged."""
        return self.all_refused()

    def _try(self, material: Material) -> None:
        """Refuses targets that it does not tell on labelled passages."""
        real = material.validate
        n_with = real.labels.sum(axis=0)
        least = self.settings.min_passages
        tried = [
            column
            for column in self._label
            if min(n_with[column], len(real.texts) - n_with[column]) >= least
        ]
        if not tried:
            return
        found = self._classifier.probabilities(real.texts).numpy().astype(np.float64)
        for column in tried:
            reached = auroc(found[:, self._label[column]], real.labels[:, column])
            if reached is not None and reached < self.settings.min_auroc:
                self._refused[material.concepts[column]] = (
                    f"AUROC {reached:.2f} on {len(real.texts)} validate passages, wanted "
                    f"{self.settings.min_auroc:g}"
                )
