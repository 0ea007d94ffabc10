"""From a deployment's JSON schema to the fields of a form, and from what was filled in to
parameters: pure functions.

Everything has its dotted name, as on the command line. A union is a field `<section>.kind`;
choosing another kind resets its section to that kind's defaults. What the schema does not describe
(free mappings) is taken as YAML.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from components.errors import ConfigError, UnknownNameError

Schema = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Field:
    """One parameter as a form asks for it.

    Attributes:
        name: dotted.
        about: one sentence.
        form: integer, number, boolean, text, choice, choices (several of them), kind (of a union)
            or yaml.
        default: the schema's.
        choices: for choice, choices and kind.
        minimum: the least value allowed; None without.
        maximum: the largest.
    """

    name: str
    about: str
    form: str
    default: Any
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


def fields(
    schema: Schema, values: Mapping[str, Any], parameter: str = "config"
) -> dict[str, Field]:
    """Every field of one parameter, by dotted name, for the kinds that `values` holds.

    Args:
        schema: of the deployment.
        values: nested values of that parameter.
        parameter: its name.
    """
    node = schema.get("properties", {}).get(parameter)
    if node is None:
        return {}
    return {field.name: field for field in _walk(schema, node, "", values)}


def value_of(values: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value under a dotted name."""
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return default
        found = found[part]
    return found


def changed(values: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested values with others under their dotted names; another `kind` empties its
    section first."""
    result = copy.deepcopy(dict(values))
    for name in sorted(assignments, key=lambda name: (not name.endswith(".kind"), name)):
        *path, last = name.split(".")
        section = result
        for part in path:
            inner = section.get(part)
            section[part] = dict(inner) if isinstance(inner, Mapping) else {}
            section = section[part]
        if last == "kind" and section.get("kind") != assignments[name]:
            section.clear()
        section[last] = assignments[name]
    return result


def parsed(text: str, known: Mapping[str, Field]) -> dict[str, Any]:
    """Assignments from lines of `name=value`, values as YAML.

    Raises:
        ConfigError: a line without `=`, or a value that is not YAML.
        UnknownNameError: a dotted name that is no parameter; the nearest are listed.
    """
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise ConfigError(f"line {number}: wanted name=value, got {line.strip()[:80]!r}")
        if name not in known and not any(
            name.startswith(f"{free.name}.")
            for free in known.values()
            if free.form in ("yaml", "kind")
        ):
            near = difflib.get_close_matches(name, known, 3, 0.5)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise UnknownNameError(f"line {number}: no parameter {name[:80]!r}{hint}")
        try:
            found[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            # also a month 13, or an integer of 5,000 digits
            raise ConfigError(
                f"line {number}: the value of {name} is not YAML: {value[:80]!r}"
            ) from None
    return found


def _walk(schema: Schema, node: Schema, name: str, values: Any) -> Iterator[Field]:
    node = _resolved(schema, node)
    if members := _kinds(schema, node):
        kind = values.get("kind") if isinstance(values, Mapping) else None
        kind = kind if kind in members else next(iter(members))
        about = str(node.get("description", ""))
        yield Field(
            f"{name}.kind", about, "kind", (node.get("default") or {}).get("kind"), tuple(members)
        )
        node = members[kind]
    inner = {
        part: each
        for part, each in node.get("properties", {}).items()
        if "const" not in _resolved(schema, each)
    }
    if "properties" in node:
        for part, each in inner.items():
            below = values.get(part) if isinstance(values, Mapping) else None
            yield from _walk(schema, each, f"{name}.{part}" if name else part, below)
    elif not members:
        yield _field(schema, node, name)


def _field(schema: Schema, node: Schema, name: str) -> Field:
    given = {
        "name": name,
        "about": str(node.get("description", "")),
        "default": node.get("default"),
    }
    kind = node.get("type")
    if "enum" in node:
        return Field(form="choice", choices=tuple(node["enum"]), **given)
    if kind == "array":
        items = _resolved(schema, node.get("items", {}))
        if choices := items.get("enum") or ([items["const"]] if "const" in items else []):
            return Field(form="choices", choices=tuple(choices), **given)
    if kind in ("integer", "number"):
        step = 1 if kind == "integer" else 0
        low = node.get(
            "minimum", node["exclusiveMinimum"] + step if "exclusiveMinimum" in node else None
        )
        return Field(form=kind, minimum=low, maximum=node.get("maximum"), **given)
    return Field(form={"boolean": "boolean", "string": "text"}.get(str(kind), "yaml"), **given)


def _kinds(schema: Schema, node: Schema) -> dict[str, Schema]:
    """The members of a union by their kind; {} where it is none."""
    members = [_resolved(schema, each) for each in node.get("anyOf", node.get("oneOf", []))]
    kinds = {each.get("properties", {}).get("kind", {}).get("const"): each for each in members}
    return {str(kind): each for kind, each in kinds.items() if kind is not None}


def _resolved(schema: Schema, node: Schema) -> dict[str, Any]:
    """The node with what it refers to, its own words first."""
    reference = node.get("$ref") or next(
        (each["$ref"] for each in node.get("allOf", []) if "$ref" in each), None
    )
    if reference is None:
        return dict(node)
    target = schema.get("definitions", schema.get("$defs", {}))[reference.rsplit("/", 1)[-1]]
    return {**target, **{key: value for key, value in node.items() if key not in ("$ref", "allOf")}}
