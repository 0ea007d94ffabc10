"""A dictionary as an MLflow model, from code: no pickle, only safetensors and JSON beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class DictionaryModel(mlflow.pyfunc.PythonModel):
    """`predict(activations)` -> reconstructions; `dictionary` is the loaded dictionary itself."""

    _skip_type_hint_validation = True  # arrays have no schema in MLflow, which would warn about that

    def load_context(self, context: Any) -> None:
        """Loads the dictionary from the logged files."""
        from components.dictionary.contract import Dictionary

        weights, config = Path(context.artifacts["weights"]), Path(context.artifacts["config"])
        assert weights.parent == config.parent
        self.dictionary = Dictionary.load(weights.parent)

    def predict(self, context, model_input, params=None):  # unannotated: MLflow reads hints as a schema
        """Activations [token, d_in] -> reconstructions [token, d_in]."""
        import torch

        x = torch.as_tensor(np.asarray(model_input, dtype=np.float32))
        with torch.no_grad():
            return self.dictionary.decode(self.dictionary.encode(x)).numpy()


mlflow.models.set_model(DictionaryModel())
