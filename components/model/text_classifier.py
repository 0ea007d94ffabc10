"""Texts as probabilities of labels, by a sequence classifier of Hugging Face form.

Weights are safetensors and no code of a model is run (`components.model.loading`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from components import device
from components.errors import ConfigError
from components.model import loading
from components.model.reference import ModelFiles, ModelReference
from components.registry import nearest

ROWS = 32
"""Texts at a time."""


class TextClassifier:
    """Gives each text the probability of every label.

    Attributes:
        labels: names of the labels, as the model's configuration has them.
        max_tokens: longest text, special tokens included; what is longer is cut.
    """

    def __init__(self, files: ModelFiles, execution: device.Execution) -> None:
        """Loads it.

        Args:
            files: which model.
            execution: where to run.

        Raises:
            ModelError: no such model, or none that classifies.
        """
        folder = ModelReference(files).folder
        self._device = device.resolve(execution.device)
        self._network = loading.sequence_classifier(folder).eval().to(self._device)
        self._tokenizer = loading.tokenizer(folder)
        config = self._network.config
        self.labels = [str(config.id2label[i]) for i in range(config.num_labels)]
        # labels that do not exclude one another, and a single one, have a probability each
        self._apart = config.problem_type == "multi_label_classification" or len(self.labels) == 1
        positions = getattr(config, "max_position_embeddings", None) or 512
        self.max_tokens = min(positions, self._tokenizer.model_max_length, 4096)

    def number(self, label: str) -> int:
        """The number of a label by its name, or by its number as text.

        Raises:
            ConfigError: it has no such label.
        """
        if label in self.labels:
            return self.labels.index(label)
        if label.isdigit() and int(label) < len(self.labels):
            return int(label)
        raise ConfigError(f"the classifier has no label {label!r}; {nearest(label, self.labels)}")

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> Float[torch.Tensor, "text label"]:
        """The probability of each label, on the CPU; NaN for a text without a token."""
        found = torch.full((len(texts), len(self.labels)), torch.nan)
        given = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
        ids = given["input_ids"] if texts else []
        order = sorted((i for i, row in enumerate(ids) if row), key=lambda i: len(ids[i]))
        pad = self._tokenizer.pad_token_id
        # without a token for padding, texts of one length alone share a pass
        for part in _batches(order, [len(row) for row in ids], mixed=pad is not None):
            width = max(len(ids[i]) for i in part)
            rows = [ids[i] + [pad or 0] * (width - len(ids[i])) for i in part]
            mask = [[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in part]
            logits = self._network(
                input_ids=torch.tensor(rows, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
            ).logits.float()
            found[part] = (logits.sigmoid() if self._apart else logits.softmax(dim=-1)).cpu()
        return found


def _batches(order: Sequence[int], lengths: Sequence[int], mixed: bool) -> list[list[int]]:
    batches: list[list[int]] = []
    for i in order:
        last = batches[-1] if batches else None
        if last and len(last) < ROWS and (mixed or lengths[last[0]] == lengths[i]):
            last.append(i)
        else:
            batches.append([i])
    return batches
