"""Types and shapes of `components/`, checked at every call: 3 microseconds instead of 17, with
shapes 39 instead of 61.

`--jaxtyping-packages` decorates each function with `jaxtyping.jaxtyped`, which binds the arguments
to the signature in Python and checks them twice, before and after the call: a fifth of the
processor time of a sweep. Here beartype's own compiled check stands around the function, in a
context in which the name of an axis means one length. What is checked is the same: every argument
and what is returned, the shapes of one call against one another.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jaxtyping
from jaxtyping import _decorator

_jaxtyped = jaxtyping.jaxtyped
_ONE_CALL = _jaxtyped("context")


def install() -> None:
    """Has `--jaxtyping-packages` decorate so; before anything of `components/` is imported."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped


def jaxtyped(fn: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Takes the place of `jaxtyping.jaxtyped`."""
    if fn is None:
        return partial(jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(fn) or _is_lazy(fn):
        # a class, a property or the like, whose functions come here again; and a generator, whose
        # arguments are to be checked when it is called, not when it begins
        return _jaxtyped(fn, typechecker=typechecker)
    checked = typechecker(_with_resolved_annotations(fn))

    @wraps(fn)
    def in_one_context(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with _ONE_CALL:
            return checked(*args, **kwargs)

    return in_one_context


def _is_lazy(fn: Callable[..., Any]) -> bool:
    return (
        inspect.isgeneratorfunction(fn)
        or inspect.iscoroutinefunction(fn)
        or inspect.isasyncgenfunction(fn)
    )


def _with_resolved_annotations(fn: types.FunctionType) -> types.FunctionType:
    """The same function, its annotations no longer text: what cannot be resolved yet (a class that
    is only imported for type checkers) is anything, as in jaxtyping."""
    copy = types.FunctionType(
        fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
    )
    copy.__kwdefaults__ = fn.__kwdefaults__
    copy.__module__, copy.__qualname__ = fn.__module__, fn.__qualname__
    copy.__annotations__ = {
        name: _resolved(annotation, fn.__globals__)
        for name, annotation in fn.__annotations__.items()
    }
    return copy


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["it"]
    except Exception:
        return Any
