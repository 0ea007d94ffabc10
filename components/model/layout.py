"""Where the places of a network are: proposed by names, decided by numbers.

A few tokens are run, once for each place that is asked about. The blocks are the list whose members
hand the residual stream on from one to the next: the first list of the right length may belong to a
vision tower, or hold attentions only. A place whose tensor has no vector for each token is refused
with its reason, and so is a part of a block that is not what its name says
(`components/model/block.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import HookPointError
from components.model.arrangement import Arrangement
from components.model.block import Call, Side, parts
from components.model.hub import first_line

_SIDES: tuple[Side, Side] = ("input", "output")
_SAY_MODULE = "use module:<path>:<input|output>"


@dataclasses.dataclass(frozen=True)
class Place:
    """One place in a network.

    Attributes:
        path: dotted path of the module.
        side: whether the module's input or its output is meant.
        arrangement: how its activations lie.
        width: numbers for each token.
    """

    path: str
    side: Side
    arrangement: Arrangement
    width: int


class Layout:
    """The places of one network, each learnt when it is first asked for.

    Attributes:
        network: the network.
        n_layers: number of its blocks.
        d_model: width of its residual stream.
    """

    def __init__(
        self,
        network: nn.Module,
        n_layers: int,
        d_model: int,
        tokens: Tensor,
        run: Callable[[Tensor], Any],
    ) -> None:
        """Runs nothing yet.

        Args:
            network: the network.
            n_layers: number of its blocks.
            d_model: width of its residual stream.
            tokens: a few token ids [b, t]; neither b nor t should be the size of anything in the
                network.
            run: passes token ids through the network.
        """
        self.network, self.n_layers, self.d_model = network, n_layers, d_model
        self._name = type(network).__name__
        self._tokens, self._run = tokens, run
        self._parts: dict[tuple[str, int], tuple[str, Side] | str] = {}
        self._shapes: dict[
            tuple[str, Side], Tensor | None
        ] = {}  # of modules that run once, on the meta device

    @functools.cached_property
    def blocks(self) -> tuple[str, nn.ModuleList]:
        """Path and list of the blocks: one for each layer, each run once, the residual stream
        handed on between them.

        Raises:
            HookPointError: the network has no such list; only `module:` hook points can be used.
        """
        lists = {
            path: module
            for path, module in self.network.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == self.n_layers
        }
        wanted = f"{self._name} has no list of {self.n_layers} blocks"
        if not lists:
            raise HookPointError(f"{wanted}, so block names mean nothing in it; {_SAY_MODULE}")
        members = {path: [f"{path}.{number}" for number in range(self.n_layers)] for path in lists}
        inside = tuple(f"{path}." for path in lists)
        around = [
            path for path, _ in self.network.named_modules() if path and not path.startswith(inside)
        ]
        calls = self._calls(self._tokens, [*itertools.chain(*members.values()), *around])
        handing_on = [path for path in lists if _hand_on(calls, members[path])]
        if not handing_on:
            raise HookPointError(
                f"{wanted} that hand the residual stream on from one to the next "
                f"({', '.join(lists)}: not so), so block names mean nothing in it; {_SAY_MODULE}"
            )
        order = [call.path for call in calls]
        # a decoder runs after its encoder
        path = max(handing_on, key=lambda path: order.index(members[path][-1]))
        return path, lists[path]

    def module(self, name: str, path: str, side: Side) -> Place:
        """The place of a module that is named by its path; `name` is what messages call it.

        Raises:
            HookPointError: the pass never calls it, or more than once, or its tensor holds no
                vector for each token.
        """
        if (path, side) not in self._shapes:
            calls = self._calls(self._tokens, [path])
            if not calls:
                raise HookPointError(
                    f"the pass never came to {name}; name a module that the model calls"
                )
            if len(calls) > 1:
                raise HookPointError(
                    f"{name} is no one place: its module runs {len(calls)} times in a pass; name "
                    "one that runs once"
                )
        x, (b, t) = self._shapes[path, side], self._tokens.shape
        if x is None or not x.is_floating_point():
            what = "no tensor" if x is None else f"{str(x.dtype).removeprefix('torch.')} numbers"
            raise HookPointError(
                f"{name} holds {what}, and no activations; name a module whose {side} is [b, t, "
                "width]"
            )
        arrangement = Arrangement.of(x, b, t)
        # one axis: is it the tokens of the first row that come first?
        if arrangement and arrangement.axes == (0,):
            whole, first = (
                self._calls(tokens, [path])[0].on(side)
                for tokens in (self._tokens, self._tokens[:1])
            )
            arrangement = arrangement if _is_start(first, whole) else None
        if arrangement is None:
            raise HookPointError(
                f"{name} holds {list(x.shape)} where {b} rows of {t} tokens pass, which is no "
                f"vector for each token; name a module whose {side} is [b, t, width], [b, t, "
                "heads, width] or [b * t, width]"
            )
        by_token = arrangement.by_token(x, b, t)
        assert by_token is not None
        return Place(path, side, arrangement, by_token.shape[2])

    def block(self, kind: str, layer: int) -> Place:
        """The place of a canonical kind in a block.

        Raises:
            HookPointError: that kind has no place in that block; says why, and which module comes
                nearest.
        """
        parent, listed = self.blocks
        name, path = f"{kind}.{layer}", f"{parent}.{layer}"
        if kind in ("resid_pre", "resid_post"):
            place = self.module(name, path, "input" if kind == "resid_pre" else "output")
            if place.width != self.d_model:
                raise HookPointError(
                    f"{name} is no single residual stream in this {self._name}: its blocks hand "
                    f"on {place.width} numbers for each token, and the model's width is "
                    f"{self.d_model}; module:{path}:{place.side} has them all"
                )
            return place
        if (kind, layer) not in self._parts:
            inside = [f"{path}.{inner}" for inner, _ in listed[layer].named_modules() if inner]
            calls = self._calls(self._tokens, [path, *inside])
            places = parts(self._name, path, layer, listed[layer], calls, self._tokens.shape)
            self._parts |= {(kind, layer): where for kind, where in places.items()}
        where = self._parts[kind, layer]
        if isinstance(where, str):
            raise HookPointError(where)
        return self.module(name, *where)

    def _calls(self, tokens: Tensor, paths: Collection[str]) -> list[Call]:
        """The calls of these modules in one pass, in the order in which they begin."""
        calls: list[Call] = []
        running: dict[str, list[Call]] = {path: [] for path in paths}

        def before(
            path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> None:
            calls.append(Call(path, _copy((*args, *kwargs.values()))))
            running[path].append(calls[-1])

        def behind(path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            running[path].pop().made = _copy(output)

        with torch.no_grad(), contextlib.ExitStack() as stack:
            for path in paths:
                module = self.network.get_submodule(path)
                hook = module.register_forward_pre_hook(
                    functools.partial(before, path), with_kwargs=True
                )
                stack.callback(hook.remove)
                stack.callback(module.register_forward_hook(functools.partial(behind, path)).remove)
            try:
                self._run(tokens)
            except (TypeError, ValueError) as error:  # it wants more than token ids
                raise HookPointError(
                    f"{self._name} cannot run a few tokens, so no place in it can be found: "
                    f"{first_line(error)}"
                ) from error
        if tokens is self._tokens:
            names = Counter(call.path for call in calls)
            for call in calls:
                if names[call.path] == 1:
                    for side in _SIDES:
                        self._shapes[call.path, side] = (
                            None if (x := call.on(side)) is None else x.to("meta")
                        )
        return calls


def _copy(value: Any) -> Tensor | None:
    """The first tensor of what a module takes or gives; a copy, since a later module may write into
    it."""
    several = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, tuple | list)
        else (value,)
    )
    return next((x.detach().clone() for x in several if isinstance(x, Tensor)), None)


def _hand_on(calls: Sequence[Call], members: Sequence[str]) -> bool:
    """Whether these modules run once each, in order, and each takes what the one before it gave, or
    a multiple of it.

    A single one is asked whether what comes behind it takes what it gave.
    """
    member_calls = [call for call in calls if call.path in set(members)]
    if [call.path for call in member_calls] != list(members):
        return False
    if len(member_calls) == 1:
        member_calls += calls[calls.index(member_calls[0]) + 1 :][:1]
    pairs = list(itertools.pairwise(member_calls))
    return bool(pairs) and all(_is_multiple(before.made, after.given) for before, after in pairs)


def _is_multiple(x: Tensor | None, y: Tensor | None) -> bool:
    if (
        x is None
        or y is None
        or x.shape != y.shape
        or not (x.is_floating_point() and y.is_floating_point())
    ):
        return False
    x, y = x.float().flatten(), y.float().flatten()
    return float((y - x * (x @ y) / (x @ x)).norm()) <= 1e-2 * float(y.norm())


def _is_start(first: Tensor | None, whole: Tensor | None) -> bool:
    """Whether what the first row gave alone is what all rows begin with."""
    if first is None or whole is None or first.shape[1:] != whole.shape[1:]:
        return False
    x, y = first.float(), whole[: len(first)].float()
    return float((x - y).norm()) <= 0.05 * float(y.norm())
