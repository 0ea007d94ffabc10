"""Hook points: names of places in a model, found in its own module tree.

Canonical names, with i the number of the block:

    resid_pre.i     the residual stream as block i receives it
    attn_out.i      what attention adds to the residual stream (after the norm behind attention, where there is one)
    head_out.i      the input of attention's output projection: all heads side by side (before any projection or norm)
    mlp_out.i       what the MLP adds to the residual stream (after the norm behind the MLP, where there is one)
    mlp_hidden.i    the input of the MLP's down projection: the neurons after the nonlinearity (and gate)
    resid_post.i    the residual stream as block i leaves it, before any final norm
    module:<path>:<input|output>    the first tensor that goes into or comes out of any module that runs once in a pass

So resid_pre + attn_out + mlp_out = resid_post, to the last digit: that is tried on a few tokens
when a name is first used, and a network in which it does not hold refuses the two names.
Activations are [row, token, width] whatever the module's own tensor looks like. TransformerLens
names are translated; its `hook_z` keeps heads apart where `head_out` has them concatenated, and its
`hook_attn_out` of Gemma 2 is also taken after the norm. This file knows torch modules only, no
model library.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from components.errors import HookPointError
from components.model.arrangement import Arrangement
from components.model.block import Side
from components.model.layout import Layout

KINDS = ("resid_pre", "attn_out", "head_out", "mlp_out", "mlp_hidden", "resid_post")
_TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_attn_out": "attn_out",
    "attn.hook_z": "head_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_post": "mlp_hidden",
    "hook_resid_post": "resid_post",
}


@dataclasses.dataclass(frozen=True)
class HookPoint:
    """One place in one model.

    Attributes:
        name: canonical name.
        path: dotted path of the module in the network.
        side: whether the module's input or its output is meant.
        arrangement: how its activations lie in the module's tensor.
        width: of its activations.
        layer: number of the block it lies in; None for a place named by its module.
    """

    name: str
    path: str
    side: Side
    arrangement: Arrangement
    width: int
    layer: int | None


def translate(name: str) -> str:
    """A TransformerLens name as its canonical one; every other name unchanged."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    return (
        f"{_TRANSFORMER_LENS[match[2]]}.{match[1]}"
        if match and match[2] in _TRANSFORMER_LENS
        else name
    )


def lens_name(name: str) -> str:
    """A canonical name as TransformerLens has it; every other name unchanged."""
    kind, _, block = name.partition(".")
    theirs = {canonical: lens for lens, canonical in _TRANSFORMER_LENS.items()}
    return f"blocks.{block}.{theirs[kind]}" if kind in theirs and block.isdecimal() else name


def find(layout: Layout, name: str) -> HookPoint:
    """The hook point of that name in this network.

    Raises:
        HookPointError: there is no such place, or it is not what its name says; lists what there is
            and the nearest names.
    """
    canonical, network = translate(name), type(layout.network).__name__
    if match := re.fullmatch(r"module:(.+):(input|output)", canonical):
        modules = dict(layout.network.named_modules())
        if match[1] not in modules:
            near = difflib.get_close_matches(match[1], modules, n=3, cutoff=0.3)
            raise HookPointError(
                f"no module {match[1]!r} in this {network} ({len(modules) - 1} modules); "
                f"nearest: {', '.join(near) or 'none'}"
            )
        place = layout.module(canonical, match[1], "input" if match[2] == "input" else "output")
        return HookPoint(canonical, place.path, place.side, place.arrangement, place.width, None)
    kind, _, number = canonical.partition(".")
    if kind not in KINDS or not number.isdigit():
        raise HookPointError(
            f"no hook point {name!r} in this {network}; {_known(canonical, layout.n_layers)}"
        )
    layer = int(number)
    if layer >= layout.n_layers:
        raise HookPointError(
            f"no hook point {name!r}: this {network} has blocks 0 to {layout.n_layers - 1}; "
            f"{_known(canonical, layout.n_layers)}"
        )
    place = layout.block(kind, layer)
    return HookPoint(
        f"{kind}.{layer}", place.path, place.side, place.arrangement, place.width, layer
    )


def attach(
    network: nn.Module, hook_point: HookPoint, function: Callable[[Tensor], Tensor]
) -> RemovableHandle:
    """Has `function` read, and by what it returns replace, the activation at a hook point until the
    handle is removed."""
    module = network.get_submodule(hook_point.path)

    def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(isinstance(value, Tensor) for value in args):
            return _with_first_tensor(args, function, hook_point), kwargs
        return args, _with_first_tensor(kwargs, function, hook_point)

    def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (
            function(output)
            if isinstance(output, Tensor)
            else _with_first_tensor(output, function, hook_point)
        )

    if hook_point.side == "input":
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    return module.register_forward_hook(on_output)


def _with_first_tensor(
    several: Any, function: Callable[[Tensor], Tensor], hook_point: HookPoint
) -> Any:
    """The same tuple, list or mapping (transformers' output objects are mappings) with its first
    tensor replaced."""
    listed = several if isinstance(several, tuple | list) else ()
    parts = several.items() if isinstance(several, Mapping) else enumerate(listed)
    at, x = next(((at, value) for at, value in parts if isinstance(value, Tensor)), (None, None))
    if x is None:
        raise HookPointError(
            f"there is no tensor at {hook_point.name}, but {type(several).__name__}; name a "
            "module inside it"
        )
    changed = function(x)
    if isinstance(several, Mapping):
        copied: Any = copy.copy(several)
        copied[at] = changed
        return copied
    values = [changed if number == at else value for number, value in enumerate(several)]
    return type(several)(*values) if hasattr(several, "_fields") else type(several)(values)


def _known(name: str, n_layers: int) -> str:
    names = [f"{kind}.{layer}" for kind in KINDS for layer in range(n_layers)]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(KINDS)}, each with .0 to .{n_layers - 1}, and module:<path>:<input|output>{hint}"
