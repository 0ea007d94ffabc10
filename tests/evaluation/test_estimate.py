"""The estimate of evaluating: an evaluation that reads whole splits counts, whichever it is."""

from __future__ import annotations

import pytest

from components.config import override
from components.device import Execution
from components.evaluation.evaluate import EvaluateConfig, formula
from components.store.estimate import Planned

ROWS, D_IN = 50_000, 768
GIVEN = {
    "dictionary": Planned("train", "0" * 24, {"d_in": D_IN, "d_sae": 1536, "l0": 32.0}),
    "activations": Planned(
        "capture", "0" * 24, {"splits": {"select": {"rows": ROWS}, "test": {"rows": ROWS}}}
    ),
    "corpus": Planned("read", "0" * 24, {"n_concepts": 20}),
    "model": None,
}


@pytest.mark.parametrize("name", ["concepts_found", "absorption", "sparse_probing"])
def test_readings_of_two_splits_are_counted(name):
    said = formula(EvaluateConfig(evaluations=[name]), GIVEN, Execution(device="cpu")).memory
    assert said["activations"] == 2 * ROWS * D_IN * 4 and said["codes"] > 2 * ROWS * 32 * 8
    cut = override(EvaluateConfig(evaluations=[name]), {f"settings.{name}.tokens": 1000})
    assert formula(cut, GIVEN, Execution(device="cpu")).memory["activations"] == 2 * 1000 * D_IN * 4


def test_an_evaluation_of_which_nothing_is_known_is_named():
    config = EvaluateConfig(evaluations=["concepts_found", "absorption"])
    seconds, told = formula(config, GIVEN, Execution(device="cpu")).probe(2.0)
    assert seconds > 0 and "without absorption" in told
