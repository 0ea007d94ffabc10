from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import flatten
from dashboards import measures

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "refs" / "metrics.json"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (0.00871, "0.00871"),
        (-0.5, "−0.5"),
        (1536, "1,536"),
        (0.00004, "4.0e−05"),
        (16.0, "16"),
    ],
)
def test_a_number_reads_well(value: float | None, text: str) -> None:
    assert measures.number(value) == text


def test_a_negative_zero_has_no_sign() -> None:
    assert measures.number(-0.001, 2) == "0.00"


def test_decimals_follow_the_width_of_the_interval() -> None:
    assert measures.estimate(0.87123, 0.861, 0.882) == ("0.871", "0.861 to 0.882")
    assert measures.estimate(0.999213, 0.99904, 0.99941) == ("0.99921", "0.99904 to 0.99941")


def test_a_value_without_an_interval_says_so() -> None:
    assert measures.estimate(0.5, None, None) == ("0.5", "–")
    assert measures.estimate(None, None, None) == ("–", "–")


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e3))
def test_a_written_interval_is_within_a_twentieth_of_its_width(value: float, half: float) -> None:
    _, text = measures.estimate(value, value - half, value + half)
    low, high = (float(part.replace("−", "-").replace(",", "")) for part in text.split(" to "))
    slack = max(0.1 * half, 1e-6)
    assert abs(low - (value - half)) <= slack
    assert abs(high - (value + half)) <= slack


def test_known_scores_have_a_label_a_unit_and_a_sentence() -> None:
    for name, label in {
        "evaluate.fvu": "Variance unexplained (FVU)",
        "evaluate.loss_recovered.mean_ablation": "Loss recovered, mean ablation",
        "evaluate.concepts_found.latent": "Concepts found: latent",
        "steer.add_direction.kl_0.1.composite": "Steered, KL 0.1: add direction",
        "interpret.log_odds.detection": "Explained, detection: log odds",
        "interpret.shuffled.other.simulation": "Explained, simulation: shuffled.other",
        "interpret.log_odds.detection.over_floor": "Over the floor, detection: log odds",
        "interpret.log_odds.detection.over_untrained": "Over the untrained dictionary, detection: log odds",
        "interpret.untrained.detection": "Explained, detection: untrained",
        "interpret.log_odds.detection.weakest": "Explained, detection, weakest tenths: log odds",
        "interpret.log_odds.simulation.same_token": "Explained, simulation, against same token windows: log odds",
        "interpret.log_odds.detection.macro": "Explained, detection, macro mean: log odds",
        "interpret.log_odds.detection.average_precision": "Explained, detection, average precision: log odds",
        "interpret.untrained.simulation.natural_density": "Explained, simulation, natural density: untrained",
        "interpret.dead_share": "Latents dead in interpretation",
        "steer.gate.passed": "Concepts that can be judged",
        "steer.add_direction.kl_0.1.share_above_random": "Above every random, KL 0.1: add direction",
        "steer.add_direction.kl_0.1.cost": "Cost on other text, KL 0.1: add direction",
        "steer.add_direction.kl_0.1.cost_whole": "Cost over whole contexts, KL 0.1: add direction",
        "steer.add_direction.kl_0.1.cost_written": "Cost on steered text, KL 0.1: add direction",
        "steer.add_direction.kl_0.1.cost_written_reverse": "Reverse cost on steered text, KL 0.1: add direction",
        "steer.add_direction.kl_0.1": "Uplift, KL 0.1: add direction",
        "steer.add_direction.kl_0.1.over_untrained": "Over the untrained dictionary, KL 0.1: add direction",
        "steer.untrained.kl_1e-05.composite": "Steered, KL 1e-05: untrained",
        "steer.untrained.kl_123456.7.composite": "Steered, KL 123456.7: untrained",
        "steer.add_direction.kl_1e-05.composite.concept.fluency": "Steered to fluency, KL 1e-05: add direction",
        "evaluate.concepts_auroc.probe": "Mean AUROC over concepts: probe",
    }.items():
        assert measures.measure(name).label == label
        assert measures.measure(name).about


def test_every_score_of_the_reference_report_is_known_and_a_mean_over_concepts_is_not_called_one_concept() -> None:
    names = flatten(json.loads(REFERENCE.read_text()))
    by_kind = {
        name: name.rpartition(".")[0]
        for name in names
        if name.endswith((".token", ".surface", ".contextual", ".document"))
    }
    of_one = {name for name in by_kind.values() if ".concept." in name}
    whole = {name.removesuffix(".value") for name in names if name not in by_kind} | set(by_kind.values()) - of_one
    assert len(whole) > 40
    for name in whole:
        said = measures.measure(name)
        assert said.about and said.unit, name
        assert "One concept" not in said.about, name
    assert len(of_one) > 80
    assert all("One concept" in measures.measure(name).about for name in of_one)


def test_an_unknown_score_keeps_its_name() -> None:
    assert measures.measure("evaluate.something.new").label == "evaluate.something.new"
