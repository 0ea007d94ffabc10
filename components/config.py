"""Configuration: frozen pydantic models, unknown keys refused, one sentence under each field,
dotted names everywhere.

A field that cannot change a result (device, threads, workers, addresses, limits, verbosity) is
declared with `execution(...)` and never enters an artifact key. A union of entries is declared with
`union_of(registry)`: pydantic validates it by its `kind`, and the JSON schema says `anyOf`
(Prefect's form draws that as tabs, and `oneOf` as raw JSON).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from components.errors import ConfigError, UnknownNameError, quoted, shortened
from components.registry import Registry, nearest

LARGEST_INTEGER = 2**53 - 1
"""What JSON, a browser's form and SQLite hold exactly; a larger one in a run makes Prefect's lists
unreadable."""
LARGEST_NUMBER = 1e12
"""Beyond every sensible setting, and far enough within float32 to be squared there."""
MOST_FAULTS = 10
"""Faults that one error tells; a list of a million wrong values is as wrong after the first
ones."""
INSIDE = {
    "schema",
    "fields",
    "choices",
    "items_schema",
    "keys_schema",
    "values_schema",
    "definitions",
    "steps",
}
"""Where a pydantic schema holds others."""
LARGEST = {"int": LARGEST_INTEGER, "float": LARGEST_NUMBER}


def _any_of(schema: Any) -> None:
    """Rewrites `oneOf` with a discriminator to plain `anyOf`, the default's option first, through
    the whole schema, in place: Prefect's form fills in the fields of the first option, whatever the
    default is."""
    if isinstance(schema, dict):
        if "oneOf" in schema:
            told, default = schema.pop("discriminator", {}), schema.get("default") or {}
            first = told.get("mapping", {}).get(default.get(told.get("propertyName")))
            options = schema.pop("oneOf")
            schema["anyOf"] = sorted(options, key=lambda option: option.get("$ref") != first)
        for value in schema.values():
            _any_of(value)
    elif isinstance(schema, list):
        for value in schema:
            _any_of(value)


def _bounded(schema: Any, cls: type) -> None:
    """Bounds every number in the pydantic schema of `cls` on the sides that its field leaves open,
    in place."""
    if isinstance(schema, list):
        for part in schema:
            _bounded(part, cls)
    if not isinstance(schema, dict) or schema.get("cls", cls) is not cls:
        return  # a section inside has done it for itself
    kind = schema.get("type")
    if kind in LARGEST:
        if not schema.keys() & {"le", "lt"}:
            schema["le"] = LARGEST[kind]
        if not schema.keys() & {"ge", "gt"}:
            schema["ge"] = -LARGEST[kind]
        if kind == "float":
            schema["allow_inf_nan"] = False
    elif kind == "any":
        untyped = core_schema.no_info_after_validator_function(_plain, core_schema.any_schema())
        schema.update(untyped)
    elif schema.get("function", {}).get("function") is not _plain:
        for name in INSIDE & schema.keys():
            inside = schema[name]
            several = name in ("fields", "choices") and isinstance(inside, dict)
            _bounded(list(inside.values()) if several else inside, cls)


def _plain(value: Any) -> Any:
    """A value of no declared type (an entry's own settings), if every window can hold it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _plain(name)
            _plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _plain(inner)
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError(f"an integer must lie within {LARGEST_INTEGER} of 0")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number must be finite")
    elif not isinstance(value, str | int | float | BaseModel | None):
        raise ValueError(f"wanted text, numbers, lists and mappings, not {type(value).__name__}")
    return value


class Config(BaseModel):
    """One section of an experiment: frozen, strict about unknown keys, hashable by its canonical
    form.

    No number is without bounds: where a field sets none, an integer lies within 2^53 - 1 of zero
    and a float is finite.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        schema = handler(source)
        _bounded(schema, cls)
        return schema

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        schema = handler(core_schema)
        _any_of(schema)
        return schema

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON schema with unions as `anyOf`."""
        schema = super().model_json_schema(*args, **kwargs)
        _any_of(schema)
        return schema


ConfigT = TypeVar("ConfigT", bound=Config)


def execution(default: Any, **kwargs: Any) -> Any:
    """A field that says how to run, not what to compute: it never enters an artifact key."""
    return Field(default=default, json_schema_extra={"execution": True}, **kwargs)


def _is_execution(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and bool(extra.get("execution"))


def union_of(registry: Registry[Any]) -> Any:
    """The type 'the config of any entry of this registry', discriminated by `kind`.

    Each entry carries its config class as `entry.config`, with a field `kind: Literal["<file
    name>"]`.
    """
    configs = [entry.config for _, entry in registry.items()]
    if len(configs) == 1:
        return configs[0]
    return Annotated[functools.reduce(operator.or_, configs), Field(discriminator="kind")]


def names_of(registry: Registry[Any]) -> Any:
    """The type 'a name in this registry', drawn as a select."""
    return Literal[tuple(registry.names())]  # type: ignore[valid-type]


class _Described(Config):
    """A section that is made, not written: pydantic need not look for its source, which takes it a
    quarter of a second, through all modules."""

    model_config = ConfigDict(use_attribute_docstrings=False)


def settings_of(registry: Registry[Any]) -> Any:
    """The type 'the settings of every entry of this registry, by its name': a section with a typed
    section for each.

    Typed, so that a default that is spelled out is no other setting and every window can draw a
    field for it.
    """
    return create_model(
        "".join(word.title() for word in registry.noun.split()) + "Settings",
        __base__=_Described,
        __doc__=f"Settings of each {registry.noun}, by its name.",
        **{
            name: (
                entry.config,
                Field(
                    entry.config(),
                    description=" ".join(
                        (entry.config.__doc__ or name).partition("\n\n")[0].split()
                    ),
                ),
            )
            for name, entry in registry.items()
        },
    )


def refuse_unused(registry: Registry[Any], names: Sequence[str], settings: BaseModel) -> None:
    """Refuses a list with a name twice, and settings of an entry that is not listed: they would
    change nothing.

    Raises:
        ConfigError: either of them.
    """
    if len(set(names)) < len(names):
        article = "an" if registry.noun[0] in "aeiou" else "a"
        raise ConfigError(f"{article} {registry.noun} is listed twice: {', '.join(names)}")
    changed = [name for name in canonical(settings) if name not in names]
    if changed:
        raise ConfigError(
            f"settings for {', '.join(changed)}; {registry.noun}s listed: {', '.join(names)}"
        )


def flatten(config: BaseModel | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config -> {dotted name: leaf}. Lists are leaves; an empty mapping is a leaf."""
    mapping = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def canonical(config: BaseModel) -> dict[str, Any]:
    """The result-bearing fields that differ from their defaults, nested; `kind` is always kept.

    This is what enters an artifact key: adding a field with a default rekeys nothing.
    """
    kept: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        if _is_execution(field):
            continue
        value = getattr(config, name)
        default = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            inner = canonical(value)
            if inner or type(value) is not type(default):
                kept[name] = inner
        elif name == "kind" or value != default:
            kept[name] = config.model_dump(mode="json")[name]
    return kept


@functools.cache
def warn_once(logger: logging.Logger, sentence: str) -> None:
    """Says a sentence once in a process: one run validates the same settings several times."""
    logger.warning("%s", sentence)


def parse(text: str) -> Any:
    """One value from a command line: YAML, so that 1e-3, true, null and [a, b] mean what they look
    like."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        # also a month 13, or an integer of 5,000 digits
        return text
    if isinstance(value, str) and value == text.strip():  # what was quoted stays text
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as text
        except ValueError:
            return value
    return value


class Typed(str):
    """A value as it was typed; `override` parses it, unless a string was wanted."""


def assignments(arguments: list[str]) -> dict[str, Typed]:
    """`["train.dictionary.k=64"]` -> {"train.dictionary.k": "64"}.

    Raises:
        ConfigError: an argument without `=`.
    """
    overrides = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"wanted name=value, got {quoted(argument)}; for example train.dictionary.k=64"
            )
        overrides[name] = Typed(text)
    return overrides


def override(config: ConfigT, overrides: Mapping[str, Any]) -> ConfigT:
    """A new config with dotted names replaced. Setting a `kind` resets its section to the new
    kind's defaults.

    What was typed on a command line is parsed; where that gives a number and a string was wanted (a
    name `2024`, an artifact key of digits), it is what was typed; `null` stays null.

    Raises:
        UnknownNameError: a dotted name that is not in the config (the nearest names are listed).
        ConfigError: a value of the wrong type or out of range, with its dotted name.
    """
    kinds = {dotted: given for dotted, given in overrides.items() if dotted.endswith(".kind")}
    nested = config.model_dump(mode="json")
    new_kind: set[str] = set()
    # kinds first, outer before inner: they reset their sections. All is validated at once, since a
    # kind may be right only with another value that is given beside it
    ordered = sorted(kinds, key=lambda dotted: dotted.count("."))
    for dotted in [*ordered, *(name for name in overrides if name not in kinds)]:
        given = overrides[dotted]
        value = parse(given) if isinstance(given, Typed) else given
        *sections, last = dotted.split(".")
        section: dict[str, Any] = nested
        for depth, part in enumerate(sections):
            at = ".".join(sections[: depth + 1])
            if any(at.startswith(f"{reset}.") for reset in new_kind):
                section.setdefault(part, {})
            if not isinstance(section.get(part), dict):
                raise _unknown(config, dotted, at)
            section = section[part]
        if last == "kind" and section.get("kind") != value:
            section.clear()
            new_kind.add(".".join(sections))
        section[last] = value
    try:
        return type(config).model_validate(nested)
    except ValidationError as error:
        texts = {name: str(overrides[name]) for name in _wanted_as_text(config, error, overrides)}
        if texts:
            return override(config, {**overrides, **texts})
        if kinds and len(kinds) < len(overrides):
            with contextlib.suppress(ConfigError):
                # it knows the names of the new kinds, and no other value can be in their way
                config = override(type(config)(), kinds)
        raise explain(config, error) from None


def _wanted_as_text(
    config: BaseModel, error: ValidationError, overrides: Mapping[str, Any]
) -> Iterator[str]:
    """Names of what was typed and parsed to no string, where a string was wanted."""
    faults = [fault["loc"] for fault in error.errors() if fault["type"] == "string_type"]
    places = [".".join(_without_tags(config, [str(part) for part in place])) for place in faults]
    for name, value in overrides.items():
        # below: a member of a union
        inside = any(place == name or place.startswith(f"{name}.") for place in places)
        if (
            inside
            and isinstance(value, Typed)
            and (not value or not isinstance(parse(value), list | dict | None))
        ):
            yield name


def load(kind: type[ConfigT], nested: Mapping[str, Any]) -> ConfigT:
    """A config from nested plain data (a YAML file), with errors by dotted name.

    Raises:
        UnknownNameError: a key that the config does not have.
        ConfigError: a value of the wrong type or out of range.
    """
    try:
        return kind.model_validate(nested)
    except ValidationError as error:
        raise explain(kind(), error) from None


def _unknown(config: BaseModel, dotted: str, at: str) -> UnknownNameError:
    near = _nearest_parameters(config, dotted)
    return UnknownNameError(f"no parameter {quoted(dotted)} (nothing at {quoted(at)}); {near}")


def _nearest_parameters(config: BaseModel, dotted: str) -> str:
    head = dotted.rpartition(".")[0]
    known = list(flatten(config))
    siblings = [name for name in known if head and name.startswith(f"{head}.")]
    return nearest(dotted, siblings or known)


def explain(config: BaseModel, error: ValidationError) -> ConfigError:
    """One pydantic error list as one sentence for each fault, each with its dotted name."""
    faults = error.errors(include_url=False)
    sentences = []
    for fault in faults[:MOST_FAULTS]:
        dotted = ".".join(_without_tags(config, [str(part) for part in fault["loc"]]))
        if fault["type"] == "extra_forbidden":
            sentences.append(
                f"no parameter {quoted(dotted)}; {_nearest_parameters(config, dotted)}"
            )
        else:
            sentences.append(
                f"{shortened(dotted)}: {shortened(fault['msg'])}, got {quoted(fault.get('input'))}"
            )
    if len(faults) > MOST_FAULTS:
        sentences.append(f"and {len(faults) - MOST_FAULTS} more")
    unknown = any(fault["type"] == "extra_forbidden" for fault in faults)
    return (UnknownNameError if unknown else ConfigError)("; ".join(sentences))


def _without_tags(config: BaseModel, path: list[str]) -> list[str]:
    """Drops the union tags that pydantic writes into locations (train.dictionary.topk.k ->
    train.dictionary.k)."""
    kept: list[str] = []
    model: Any = type(config)
    for part in path:
        fields = getattr(model, "model_fields", None)
        if fields is not None and part in fields:
            kept.append(part)
            model = fields[part].annotation
            continue
        members = {
            get_args(m.model_fields["kind"].annotation)[0]: m
            for m in _members(model)
            if "kind" in m.model_fields
        }
        if part in members:
            model = members[part]
            continue
        if re.fullmatch(r"constrained-\w+|literal\[.*\]|none|int|float|str|bool", part):
            continue  # a member of a union of plain values; no parameter is called so
        kept.append(part)
    return kept


def _members(annotation: Any) -> list[Any]:
    if hasattr(annotation, "model_fields"):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return [member for part in get_args(annotation) for member in _members(part)]
