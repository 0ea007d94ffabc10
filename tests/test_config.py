"""One declaration, one dotted name: what is accepted, what is refused and with which words, what
enters a key."""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, model_validator

from components.config import (
    Config,
    assignments,
    canonical,
    execution,
    flatten,
    load,
    names_of,
    override,
    parse,
    union_of,
)
from components.corpus.contract import corpora
from components.dictionary.contract import architectures
from components.errors import ConfigError, StoreError, UnknownNameError, quoted
from components.experiment import ExperimentConfig
from components.seeds import numpy_generator, torch_generator
from flows.parameters import resolve


class CircleConfig(Config):
    """A circle."""

    kind: Literal["circle"] = "circle"
    """A circle."""
    radius: PositiveInt = 3
    """From the middle to the rim."""
    colour: str = "red"
    """Of the rim."""


class SquareConfig(Config):
    """A square."""

    kind: Literal["square"] = "square"
    """A square."""
    side: PositiveInt = 2
    """Of one side."""
    colour: str = "blue"
    """Of the rim."""


class PaperConfig(Config):
    """What is drawn on."""

    width: int = Field(10, ge=1, le=99)
    """In millimetres."""
    tags: dict[str, int] = {}
    """Names and numbers."""


class DrawingConfig(Config):
    """A drawing."""

    shape: Annotated[CircleConfig | SquareConfig, Field(discriminator="kind")] = CircleConfig()
    """What is drawn."""
    paper: PaperConfig = PaperConfig()
    """What on."""
    order: list[str] = ["a"]
    """In which order."""
    threads: int = execution(1)
    """How many at once."""


DRAWING = DrawingConfig()


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        DRAWING.threads = 2  # type: ignore[misc]


def test_flat_names_are_dotted_and_lists_and_empty_mappings_are_leaves() -> None:
    assert flatten(DRAWING) == {
        "shape.kind": "circle", "shape.radius": 3, "shape.colour": "red",
        "paper.width": 10, "paper.tags": {}, "order": ["a"], "threads": 1,
    }  # fmt: skip


# ---- overrides ----


def test_an_override_replaces_one_leaf_and_leaves_the_given_config_alone() -> None:
    changed = override(DRAWING, {"paper.width": 20, "shape.radius": 5})
    assert (changed.paper.width, changed.shape) == (20, CircleConfig(radius=5))
    assert DRAWING.paper.width == 10
    assert override(DRAWING, {}) == DRAWING


def test_another_kind_resets_its_section_and_the_same_kind_does_not() -> None:
    painted = override(DRAWING, {"shape.colour": "green", "shape.radius": 9})
    assert override(painted, {"shape.kind": "square"}).shape == SquareConfig()
    assert override(painted, {"shape.kind": "circle"}).shape == painted.shape


@pytest.mark.parametrize("order", [["shape.kind", "shape.side"], ["shape.side", "shape.kind"]])
def test_a_kind_and_its_fields_may_come_in_any_order(order: list[str]) -> None:
    values = {"shape.kind": "square", "shape.side": 7}
    assert override(DRAWING, {name: values[name] for name in order}).shape == SquareConfig(side=7)


def test_a_field_of_another_kind_is_refused_with_the_names_of_this_kind() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"no parameter 'shape.radius'; known: shape.colour, shape.kind, shape.side",
    ):
        override(DRAWING, {"shape.kind": "square", "shape.radius": 3})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "paper.widht",
            r"no parameter 'paper.widht'; known: paper.tags, paper.width; did you mean 'paper.width'\?",
        ),
        (
            "papers.width",
            r"no parameter 'papers.width' \(nothing at 'papers'\); known: .*did you mean 'paper.width'\?",
        ),
        ("order.first", r"no parameter 'order.first' \(nothing at 'order'\)"),
        ("thread", r"no parameter 'thread'; known: .*did you mean 'threads'\?"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        override(DRAWING, {name: 1})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("paper.width", 0, r"^paper.width: Input should be greater than or equal to 1, got 0$"),
        ("paper.width", "wide", r"^paper.width: Input should be a valid integer.*, got 'wide'$"),
        ("shape.radius", -1, r"^shape.radius: Input should be greater than 0, got -1$"),
        ("shape.kind", "triangle", r"shape: Input tag 'triangle' .* 'circle', 'square'"),
    ],
)
def test_a_value_out_of_range_is_told_by_its_dotted_name(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        override(DRAWING, {name: value})


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"shape.radius: .*; paper.width: "):
        override(DRAWING, {"paper.width": 0, "shape.radius": 0})


def test_a_file_of_parameters_is_read_with_the_same_errors() -> None:
    assert load(DrawingConfig, {"shape": {"kind": "square"}}).shape == SquareConfig()
    with pytest.raises(
        UnknownNameError, match=r"no parameter 'paper.hight'; known: paper.tags, paper.width"
    ):
        load(DrawingConfig, {"paper": {"hight": 3}})


# ---- the command line ----


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1e-3", 0.001), ("-2.5E4", -25000.0), ("true", True), ("null", None), ("[a, 2]", ["a", 2]),
        ("{a: 1}", {"a": 1}), ("relu", "relu"), ("resid_post.2", "resid_post.2"), ("a: b: c", "a: b: c"), ("", None),
        ("'1e-3'", "1e-3"), (" 1e-3 ", 0.001),
    ],
)  # fmt: skip
def test_a_value_means_what_it_looks_like(text: str, value: object) -> None:
    assert parse(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none())
def test_what_python_writes_of_a_plain_value_is_read_back(value: object) -> None:
    assert parse(json.dumps(value)) == value


def test_arguments_are_names_and_values() -> None:
    assert assignments(["a.b=1", "c=x=y", "d="]) == {"a.b": "1", "c": "x=y", "d": ""}
    for wrong in ("width", "=3"):
        with pytest.raises(
            ConfigError,
            match=rf"wanted name=value, got '{wrong}'; for example train.dictionary.k=64",
        ):
            assignments([wrong])


def typed(*arguments: str) -> DrawingConfig:
    return override(DRAWING, assignments(list(arguments)))


def test_what_was_typed_is_parsed_by_override() -> None:
    drawn = typed(
        "shape.kind=square", "shape.side=7", "paper.tags={a: 1}", "order=[b, a]", "threads=2"
    )
    assert drawn == DrawingConfig(
        shape=SquareConfig(side=7), paper=PaperConfig(tags={"a": 1}), order=["b", "a"], threads=2
    )
    with pytest.raises(
        ConfigError, match=r"^paper.width: Input should be less than or equal to 99, got 100.0$"
    ):
        typed("paper.width=1e2")


def test_a_kind_may_need_another_value_that_is_given_with_it() -> None:
    class FoldedConfig(DrawingConfig):
        """A drawing whose squares need thick paper."""

        @model_validator(mode="after")
        def thick(self) -> Self:
            """Refuses a square on thin paper."""
            if self.shape.kind == "square" and self.paper.width < 20:
                raise ValueError("squares need thick paper")
            return self

    told = {"shape.side": 7, "shape.kind": "square", "paper.width": 30}
    for names in (list(told), list(reversed(told))):
        drawn = override(FoldedConfig(), {name: told[name] for name in names})
        assert drawn.shape == SquareConfig(side=7) and drawn.paper.width == 30
    with pytest.raises(ConfigError, match="squares need thick paper"):
        override(FoldedConfig(), {"shape.kind": "square", "shape.side": 7})
    with pytest.raises(UnknownNameError, match=r"no parameter 'shape.sid'; .*'shape.side'"):
        override(DRAWING, {"shape.kind": "square", "shape.sid": 7})


def test_the_reference_takes_each_kind_of_dictionary_from_a_command_line() -> None:
    for kind in architectures:
        given = [f"train.dictionary.kind={kind}", "train.normalise=scale"]
        config = resolve(given, Path(__file__).resolve().parents[1] / "params.yaml")
        assert config.train.dictionary.kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "2024",
        "1234567890e1234567890123",
        "123456789012345678901234",
        "true",
        "",
        "007",
        "2026-01-02",
        "1e3",
    ],
)
def test_a_string_that_looks_like_something_else_is_taken_as_it_was_typed(text: str) -> None:
    assert typed(f"shape.colour={text}", "threads=3") == DrawingConfig(
        shape=CircleConfig(colour=text), threads=3
    )


def test_a_list_or_nothing_where_a_string_is_wanted_is_refused_as_what_it_is() -> None:
    with pytest.raises(
        ConfigError, match=r"^shape.colour: Input should be a valid string, got None$"
    ):
        typed("shape.colour=null")
    with pytest.raises(
        ConfigError, match=r"^shape.colour: Input should be a valid string, got \['red', 'blue'\]$"
    ):
        typed("shape.colour=[red, blue]")
    with pytest.raises(ConfigError, match=r"order.1: Input should be a valid string, got 2$"):
        typed("order=[a, 2]", "paper.width=0")


def test_a_member_of_a_union_may_be_a_string_too() -> None:
    class WordsConfig(Config):
        lists: dict[str, str | list[str]] = {}

    assert override(WordsConfig(), assignments(["lists.years=2024"])).lists == {"years": "2024"}


# ---- keys and schemas ----


def test_only_choices_that_differ_from_their_defaults_enter_a_key() -> None:
    assert canonical(DRAWING) == {"shape": {"kind": "circle"}}
    assert canonical(override(DRAWING, {"paper.width": 20, "threads": 8})) == {
        "shape": {"kind": "circle"},
        "paper": {"width": 20},
    }


def test_another_kind_enters_a_key_even_with_all_its_defaults() -> None:
    assert canonical(override(DRAWING, {"shape.kind": "square"})) == {"shape": {"kind": "square"}}


def test_a_list_enters_a_key_whole_and_a_default_written_out_does_not() -> None:
    assert canonical(override(DRAWING, {"order": ["b", "a"]}))["order"] == ["b", "a"]
    assert canonical(override(DRAWING, {"order": ["a"]})) == canonical(DRAWING)


def test_unions_are_any_of_everywhere_so_that_forms_draw_them() -> None:
    schema = json.dumps(DrawingConfig.model_json_schema())
    assert "anyOf" in schema and "oneOf" not in schema and "discriminator" not in schema


def test_a_union_begins_with_its_default_which_forms_fill_in() -> None:
    class AnotherConfig(Config):
        shape: Annotated[CircleConfig | SquareConfig, Field(discriminator="kind")] = SquareConfig()

    for holder, wanted in ((DrawingConfig, "CircleConfig"), (AnotherConfig, "SquareConfig")):
        options = holder.model_json_schema()["properties"]["shape"]["anyOf"]
        assert options[0]["$ref"].rpartition("/")[2] == wanted and len(options) == 2


def test_every_field_has_its_sentence_in_the_schema() -> None:
    definitions = DrawingConfig.model_json_schema()["$defs"] | {
        "": DrawingConfig.model_json_schema()
    }
    assert all(
        field["description"] for one in definitions.values() for field in one["properties"].values()
    )


def test_entries_of_a_registry_are_the_members_of_its_union_and_its_names() -> None:
    class HolderConfig(Config):
        corpus: union_of(corpora) = corpora["text"].config()
        names: list[names_of(corpora)] = []

    assert override(HolderConfig(), {"corpus.kind": "jsonl"}).corpus.kind == "jsonl"
    with pytest.raises(ConfigError, match=r"corpus: Input tag 'csv' .*'jsonl'.*'parquet'"):
        override(HolderConfig(), {"corpus.kind": "csv"})
    with pytest.raises(ConfigError, match="names.0: Input should be 'huggingface', 'jsonl'"):
        override(HolderConfig(), {"names": ["csv"]})


# ---- nothing is without bounds ----


def numbers(schema: object, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number in a JSON schema, with where it stands."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield at, schema
        for name, inner in schema.items():
            yield from numbers(inner, f"{at}.{name}")
    elif isinstance(schema, list):
        for place, inner in enumerate(schema):
            yield from numbers(inner, f"{at}.{place}")


def all_configs() -> list[type[Config]]:
    """Every section and every entry's settings that the components declare."""
    import components

    for module in pkgutil.walk_packages(components.__path__, "components."):
        importlib.import_module(module.name)

    def below(cls: type[Config]) -> Iterator[type[Config]]:
        for inner in cls.__subclasses__():
            yield inner
            yield from below(inner)

    return sorted(
        {cls for cls in below(Config) if cls.__module__.startswith("components.")},
        key=lambda c: c.__name__,
    )


def test_every_number_of_every_section_has_bounds_that_all_windows_can_hold() -> None:
    found = 0
    for cls in all_configs():
        for at, number in numbers(cls.model_json_schema()):
            found += 1
            low = number.get("minimum", number.get("exclusiveMinimum"))
            high = number.get("maximum", number.get("exclusiveMaximum"))
            assert low is not None and high is not None, f"{cls.__name__}{at} is open: {number}"
            assert -(2**53) < low <= high < 2**53, f"{cls.__name__}{at}: {number}"
    assert found > 200


@pytest.mark.parametrize(
    "typed",
    [
        "train.seed=1180591620717411303424", "read.seed=-9007199254740992", "sweep.seeds=[1, 9007199254740992]",
        "train.seed=" + "1" * 5000, "train.seed=0x" + "f" * 100_000, "capture.tokens={train: 9223372036854775808}",
        "train.lr=.inf", "train.lr=.nan", "train.lr=1e400", "train.clip=1e300", "steer.kl_budgets=[.inf]",
        "steer.method_settings={add_direction: {n_candidates: 9007199254740992}}",
        "steer.method_settings={add_direction: {n_candidates: .nan}}",
        "steer.method_settings={add_direction: {n_candidates: 2020-01-01}}", 'name="\\ud83d"',
        "train.seed=2020-13-45", "train.seed=" + "[" * 100_000,
    ],
    ids=lambda typed: typed[:40],
)  # fmt: skip
def test_a_value_that_a_window_could_not_hold_is_refused_in_a_short_sentence(typed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        override(ExperimentConfig(), assignments([typed]))
    assert str(refused.value).startswith(typed.partition("=")[0])
    assert len(str(refused.value)) < 1000


def test_the_largest_seed_goes_through_json_and_sqlite_and_the_generators_unchanged() -> None:
    largest = override(ExperimentConfig(), {"train.seed": 2**53 - 1}).train.seed
    assert json.loads(json.dumps(largest)) == int(float(largest)) == largest
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        assert database.execute("SELECT ?", (largest,)).fetchone() == (largest,)
    for seed in (largest, -largest):
        assert 0 <= numpy_generator(seed, "x").integers(10) < 10
        assert torch_generator(seed, "x").initial_seed() >= 0


# ---- errors quote the beginning ----


LONG = "word " * 600_000


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        ("a value", {"train.seed": LONG}), ("a kind", {"train.dictionary.kind": LONG}), ("a name", {LONG: 1}),
        ("a nested name", {f"train.{LONG}.x": 1}), ("a list", {"sweep.seeds": ["x"] * 100_000}),
        ("a mapping", {"read.word_lists": {LONG: 3}}), ("a choice", {"capture.dtype": LONG}),
    ],
)  # fmt: skip
def test_an_error_quotes_the_beginning_of_something_endless(
    fault: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as refused:
        override(ExperimentConfig(), changes)
    told = str(refused.value)
    assert len(told) < 5000, fault
    assert ("word word" in told) == (fault != "a list")


def test_any_error_keeps_its_beginning_and_its_advice() -> None:
    told = str(StoreError(f"wanted a short name, got {LONG}; give another"))
    assert told.startswith("wanted a short name, got word") and told.endswith("; give another")
    assert "2,9" in told and len(told) < 4100
    assert str(StoreError("short")) == "short"
    assert quoted(10**5000) == "int too long to be shown"
    assert quoted("x" * 201) == f"'{'x' * 200}'... (201 characters)"
