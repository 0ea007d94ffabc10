"""A dictionary as an MLflow model, from code: no pickle, only safetensors and JSON beside this
file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class DictionaryModel(mlflow.pyfunc.PythonModel):
    """`predict(activations)` -> reconstructions; `dictionary` is the loaded dictionary itself.

    Where it reads or reconstructs several hook points, their coordinates lie side by side, in its
    own order of names.
    """

    _skip_type_hint_validation = (
        True  # arrays have no schema in MLflow, which would warn about that
    )

    def load_context(self, context: Any) -> None:
        """Loads the dictionary from the logged files."""
        from components.dictionary.contract import Dictionary

        weights, config = Path(context.artifacts["weights"]), Path(context.artifacts["config"])
        assert weights.parent == config.parent
        self.dictionary = Dictionary.load(weights.parent)

    # unannotated: MLflow reads hints as a schema
    def predict(self, context, model_input, params=None):
        """Activations [token, coordinates that are read] -> reconstructions [token, coordinates
        that are written]."""
        import torch

        x = torch.as_tensor(np.asarray(model_input, dtype=np.float32))
        reads, reconstructs = self.dictionary.reads, self.dictionary.reconstructs
        parts = x.split([self.dictionary.widths[name] for name in reads], dim=1)
        with torch.no_grad():
            codes = self.dictionary.encode(dict(zip(reads, parts, strict=True)))
            return torch.cat(
                [self.dictionary.decode(codes, name) for name in reconstructs], dim=1
            ).numpy()


mlflow.models.set_model(DictionaryModel())
