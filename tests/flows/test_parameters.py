"""One declaration of every parameter, reached under one dotted name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.config import flatten
from components.dictionary.contract import architectures
from components.errors import ConfigError, UnknownNameError
from components.experiment import ExperimentConfig
from flows import parameters
from flows.stack import environment

REPOSITORY = Path(__file__).resolve().parents[2]


def test_defaults_give_way_to_the_file_and_the_file_to_overrides(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train: {tokens: 5, seed: 7}\n")
    config = parameters.resolve(["train.tokens=9"], file)
    assert (config.train.tokens, config.train.seed) == (9, 7)
    assert config.train.clip == ExperimentConfig().train.clip


def test_setting_a_kind_takes_that_kinds_defaults() -> None:
    config = parameters.resolve(["train.dictionary.kind=relu"])
    assert config.train.dictionary == architectures["relu"].config()


def test_an_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"no parameter 'train\.dictionary\.kk'.*did you mean 'train\.dictionary\.k'",
    ):
        parameters.resolve(["train.dictionary.kk=3"])


def test_a_wrong_value_is_refused_with_its_dotted_name() -> None:
    with pytest.raises(ConfigError, match=r"train\.dictionary\.k: Input should be .*got 0"):
        parameters.resolve(["train.dictionary.k=0"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no parameter file .*nowhere\.yaml"):
        parameters.resolve([], tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_mapping_is_refused_and_the_pages_take_the_usual_store(
    tmp_path: Path,
) -> None:
    file = tmp_path / "params.yaml"
    for text, wanted in (
        ("[train]", "wanted a mapping of sections, got list"),
        ("a: [", "is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=wanted):
            parameters.resolve([], file)
        assert environment.store(file) == Path("data/artifacts").absolute()
    file.write_text("")
    assert parameters.resolve([], file) == ExperimentConfig()
    file.write_text("execution: {store: elsewhere}")
    assert environment.store(file) == Path("elsewhere").absolute()


def test_an_artifact_key_is_text_whatever_its_digits_look_like() -> None:
    for key in ("1234567890e1234567890123", "123456789012345678901234"):
        assert parameters.resolve([f"dictionary={key}", "name=2024"]).dictionary == key


def test_params_yaml_and_the_examples_are_legal() -> None:
    for file in [REPOSITORY / "params.yaml", *(REPOSITORY / "examples").glob("*.yaml")]:
        parameters.reference(file)


def test_params_yaml_says_every_parameter() -> None:
    written = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert set(flatten(written)) == set(flatten(parameters.reference(REPOSITORY / "params.yaml")))


def test_the_form_draws_unions_as_tabs_and_describes_every_field() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.experiment import experiment

    schema = parameter_schema(experiment.fn).model_dump()
    assert "oneOf" not in str(schema)
    definitions = schema["definitions"]
    kinds = [
        option["$ref"].rpartition("/")[2]
        for option in definitions["TrainConfig"]["properties"]["dictionary"]["anyOf"]
    ]
    assert {definitions[kind]["properties"]["kind"]["const"] for kind in kinds} == set(
        architectures.names()
    )
    for name, definition in definitions.items():
        for field, about in definition.get("properties", {}).items():
            described = about.get("description") or definitions.get(
                about.get("$ref", "").rpartition("/")[2], {}
            ).get("description")
            assert field == "kind" or described, f"{name}.{field} has no sentence"
