"""Hook points: names of places in a model, found in its own module tree.

Canonical names, with i the number of the block:

    resid_pre.i     the residual stream as block i receives it
    attn_out.i      what attention adds to the residual stream (after Gemma 2's norm behind attention, where there is one)
    head_out.i      the input of attention's output projection: all heads side by side (before any projection or norm)
    mlp_out.i       what the MLP adds to the residual stream (after Gemma 2's norm behind the MLP, where there is one)
    mlp_hidden.i    the input of the MLP's down projection: the neurons after the nonlinearity (and gate)
    resid_post.i    the residual stream as block i leaves it, before any final norm
    module:<path>:<input|output>    the first tensor that goes into or comes out of any module

So resid_pre + attn_out + mlp_out = resid_post in every layout that this file knows. TransformerLens names are
translated; its `hook_z` keeps heads apart where `head_out` has them concatenated, and its `hook_attn_out` of Gemma 2 is
also taken after the norm. This file knows torch modules only, no model library.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from components.errors import HookPointError

KINDS = ("resid_pre", "attn_out", "head_out", "mlp_out", "mlp_hidden", "resid_post")
_TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_attn_out": "attn_out",
    "attn.hook_z": "head_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_post": "mlp_hidden",
    "hook_resid_post": "resid_post",
}
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_OUTPUT_PROJECTION = ("o_proj", "c_proj", "dense", "out_proj", "wo")
_MLP = ("mlp", "feed_forward", "ffn")
_DOWN_PROJECTION = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")


@dataclasses.dataclass(frozen=True)
class HookPoint:
    """One place in one model.

    Attributes:
        name: canonical name.
        path: dotted path of the module in the network.
        side: whether the module's input or its output is meant.
        layer: number of the block it lies in; None for a place named by its module.
    """

    name: str
    path: str
    side: Literal["input", "output"]
    layer: int | None


def translate(name: str) -> str:
    """A TransformerLens name as its canonical one; every other name unchanged."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    return f"{_TRANSFORMER_LENS[match[2]]}.{match[1]}" if match and match[2] in _TRANSFORMER_LENS else name


def find(network: nn.Module, n_layers: int, name: str) -> HookPoint:
    """The hook point of that name in this network.

    Raises:
        HookPointError: there is no such place; lists what there is and the nearest names.
    """
    canonical = translate(name)
    if match := re.fullmatch(r"module:(.+):(input|output)", canonical):
        modules = dict(network.named_modules())
        if match[1] not in modules:
            near = difflib.get_close_matches(match[1], modules, n=3, cutoff=0.3)
            raise HookPointError(
                f"no module {match[1]!r} in this {type(network).__name__} ({len(modules) - 1} modules); "
                f"nearest: {', '.join(near) or 'none'}"
            )
        return HookPoint(canonical, match[1], "input" if match[2] == "input" else "output", None)
    kind, _, number = canonical.partition(".")
    if kind not in KINDS or not number.isdigit():
        raise HookPointError(f"no hook point {name!r} in this {type(network).__name__}; {_known(canonical, n_layers)}")
    layer = int(number)
    if layer >= n_layers:
        raise HookPointError(
            f"no hook point {name!r}: this {type(network).__name__} has blocks 0 to {n_layers - 1}; "
            f"{_known(canonical, n_layers)}"
        )
    path, side = _place(network, n_layers, kind, layer)
    return HookPoint(f"{kind}.{layer}", path, side, layer)


def blocks(network: nn.Module, n_layers: int) -> tuple[str, nn.ModuleList]:
    """Path and list of the network's blocks: the first list of modules that has one for each layer.

    Raises:
        HookPointError: the network has no such list; only `module:` hook points can be used.
    """
    for path, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return path, module
    raise HookPointError(
        f"{type(network).__name__} has no list of {n_layers} blocks, so block names mean nothing in it; "
        "use module:<path>:<input|output>"
    )


def attach(network: nn.Module, hook_point: HookPoint, function: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Has `function` read, and by what it returns replace, the activation at a hook point until the handle is removed."""
    module = network.get_submodule(hook_point.path)

    def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (function(args[0]), *args[1:]), kwargs
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, kwargs | {name: function(kwargs[name])}

    def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return function(output) if isinstance(output, Tensor) else (function(output[0]), *output[1:])

    if hook_point.side == "input":
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    return module.register_forward_hook(on_output)


def _place(network: nn.Module, n_layers: int, kind: str, layer: int) -> tuple[str, Literal["input", "output"]]:
    path, listed = blocks(network, n_layers)
    block, path = listed[layer], f"{path}.{layer}"
    if kind.startswith("resid"):
        return path, "input" if kind == "resid_pre" else "output"
    norms_behind = hasattr(block, "post_feedforward_layernorm")  # Gemma 2 and 3, OLMo 2
    if kind in ("attn_out", "mlp_out") and norms_behind:
        return f"{path}.{'post_attention' if kind == 'attn_out' else 'post_feedforward'}_layernorm", "output"
    part = _child(block, path, _ATTENTION if kind in ("attn_out", "head_out") else _MLP, kind)
    if kind in ("attn_out", "mlp_out"):
        return f"{path}.{part}", "output"
    inner = _OUTPUT_PROJECTION if kind == "head_out" else _DOWN_PROJECTION
    return f"{path}.{part}.{_child(block.get_submodule(part), f'{path}.{part}', inner, kind)}", "input"


def _child(module: nn.Module, path: str, names: tuple[str, ...], kind: str) -> str:
    found = next((name for name in names if hasattr(module, name)), None)
    if found is None:
        has = ", ".join(name for name, _ in module.named_children()) or "no modules"
        raise HookPointError(
            f"cannot tell where {kind} is: {path} ({type(module).__name__}) has none of {', '.join(names)}, but {has}; "
            "use module:<path>:<input|output>"
        )
    return found


def _known(name: str, n_layers: int) -> str:
    names = [f"{kind}.{layer}" for kind in KINDS for layer in range(n_layers)]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(KINDS)}, each with .0 to .{n_layers - 1}, and module:<path>:<input|output>{hint}"
