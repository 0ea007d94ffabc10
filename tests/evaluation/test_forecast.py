"""The forecast of evaluating: an evaluation that reads whole splits counts, whichever it is."""

from __future__ import annotations

import pytest

from components.config import override
from components.device import Execution
from components.evaluation.evaluate import EvaluateConfig
from components.evaluation.forecast import formula
from components.store.forecast import Foretold

ROWS, D_IN = 50_000, 768
CODES = Foretold(
    "encode",
    "0" * 24,
    {"rows": {"select": ROWS, "test": ROWS}, "d_in": D_IN, "d_sae": 1536, "l0": {"select": 32.0, "test": 32.0}},
)
CORPUS = Foretold("read", "0" * 24, {"n_concepts": 20})
GIVEN = {"codes": CODES, "corpus": CORPUS, "model": None}


@pytest.mark.parametrize("name", ["concepts_found", "absorption", "sparse_probing"])
def test_readings_of_two_splits_are_counted(name):
    said = formula(EvaluateConfig(evaluations=[name]), GIVEN, Execution(device="cpu")).memory
    assert said["activations"] == 2 * ROWS * D_IN * 4 and said["codes"] > 2 * ROWS * 32 * 8
    cut = override(EvaluateConfig(evaluations=[name]), {f"settings.{name}.tokens": 1000})
    assert formula(cut, GIVEN, Execution(device="cpu")).memory["activations"] == 2 * 1000 * D_IN * 4
