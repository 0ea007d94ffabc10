"""The form is read off the real configuration's schema, and what it holds becomes parameters under
dotted names."""

from __future__ import annotations

from typing import Any

import pytest

from components.errors import ConfigError, UnknownNameError
from components.experiment import ExperimentConfig
from dashboards.parameters import changed, fields, parsed, value_of

DEFAULTS = ExperimentConfig().model_dump(mode="json")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    inner = ExperimentConfig.model_json_schema()
    definitions = inner.pop("$defs")
    return {
        "properties": {"config": {"$ref": "#/definitions/Experiment"}},
        "$defs": {**definitions, "Experiment": inner},
    }


def test_every_field_has_its_form_its_choices_and_its_range(schema: dict[str, Any]) -> None:
    known = fields(schema, DEFAULTS)
    assert known["name"].form == "text"
    assert known["train.tokens"].form == "integer" and known["train.tokens"].minimum == 0
    assert known["train.dictionary.k"].minimum == 1  # the schema says more than 0
    assert known["train.warm_up"].form == "number" and known["train.warm_up"].maximum == 1
    assert known["model.online"].form == "boolean"
    assert known["capture.hook_points"].form == "yaml"
    assert (
        known["steer.methods"].form == "choices"
        and "mean_difference" in known["steer.methods"].choices
    )
    assert known["train.dictionary.kind"].form == "kind" and {"relu", "topk"} <= set(
        known["train.dictionary.kind"].choices
    )
    assert known["train.tokens"].about.startswith("Tokens to learn from")


def test_another_kind_brings_its_own_fields(schema: dict[str, Any]) -> None:
    assert "train.dictionary.k" in fields(schema, DEFAULTS)
    relu = changed(DEFAULTS, {"train.dictionary.kind": "relu"})
    assert relu["train"]["dictionary"] == {"kind": "relu"}
    known = fields(schema, relu)
    assert "train.dictionary.k" not in known
    assert "train.dictionary.d_sae" in known
    ExperimentConfig.model_validate(relu)


def test_what_the_form_holds_is_a_configuration_again(schema: dict[str, Any]) -> None:
    known = fields(schema, DEFAULTS)
    answers = {name: value_of(DEFAULTS, name, field.default) for name, field in known.items()}
    assert changed(DEFAULTS, answers) == DEFAULTS


def test_a_kind_is_set_before_the_fields_it_brings_and_nothing_given_is_touched() -> None:
    new = changed(
        DEFAULTS, {"train.dictionary.d_sae": 7, "train.dictionary.kind": "relu", "train.seed": 3}
    )
    assert new["train"]["dictionary"] == {"kind": "relu", "d_sae": 7}
    assert new["train"]["seed"] == 3
    assert DEFAULTS["train"]["dictionary"]["kind"] == "topk"


def test_lines_are_read_as_yaml_under_dotted_names(schema: dict[str, Any]) -> None:
    known = fields(schema, DEFAULTS)
    text = "train.lr=0.001\n\n# a comment\ncapture.hook_points = [resid_post.1, mlp_out.1]\ncapture.tokens.train=5"
    assert parsed(text, known) == {
        "train.lr": 0.001,
        "capture.hook_points": ["resid_post.1", "mlp_out.1"],
        "capture.tokens.train": 5,
    }


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        (
            "train.token=5",
            UnknownNameError,
            "line 1: no parameter 'train.token'; nearest: train.tokens",
        ),
        ("train.tokens 5", ConfigError, "line 1: wanted name=value, got 'train.tokens 5'"),
        ("train.tokens=[5", ConfigError, "line 1: the value of train.tokens is not YAML"),
    ],
)
def test_a_wrong_line_is_named(
    schema: dict[str, Any], line: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said.replace("[", r"\[")):
        parsed(line, fields(schema, DEFAULTS))


def test_a_flow_without_that_parameter_has_no_fields(schema: dict[str, Any]) -> None:
    assert fields(schema, {}, parameter="other") == {}
