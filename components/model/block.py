"""What attention and MLP add to the residual stream: proposed by the names of a block's modules,
decided by numbers.

Names lie. A module called `mlp` may add the residual stream itself (Bloom, MPT), and what it gives
may be normed (Gemma 2, GLM-4) or scaled (Granite) before it is added. So the outputs that names
propose are tried on a few tokens until two of them satisfy

    resid_pre + attn_out + mlp_out = resid_post

and where none do, both are refused with the reason: nothing is read that is not what its name says.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from components.model.arrangement import Arrangement

Side = Literal["input", "output"]
_ATTENTION = (
    "self_attn",
    "attn",
    "attention",
    "self_attention",
    "multi_head_attention",
    "norm_attn_norm.attn",
)
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "mlp_block", "fc2")
_OUTPUT_PROJECTION = ("o_proj", "c_proj", "dense", "out_proj", "wo")
_DOWN_PROJECTION = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a module: the first tensor that went in and the first that came out, as they were
    at that moment."""

    path: str
    given: Tensor | None
    made: Tensor | None = None

    def on(self, side: Side) -> Tensor | None:
        """What went in or came out."""
        return self.given if side == "input" else self.made


def parts(
    network: str,
    path: str,
    layer: int,
    block: nn.Module,
    calls: Sequence[Call],
    shape: Sequence[int],
) -> dict[str, tuple[str, Side] | str]:
    """Path and side of `attn_out`, `head_out`, `mlp_out` and `mlp_hidden` in one block, or why it
    has none.

    Args:
        network: name of its class.
        path: of the block.
        layer: its number.
        block: the block.
        calls: of the block and of every module in it, in one pass, in the order in which they
            began.
        shape: rows and tokens of that pass.
    """
    names = [call.path for call in calls]
    once = {call.path: call for call in calls if names.count(call.path) == 1}
    given = {
        name: x for name, call in once.items() if (x := _by_token(call.given, shape)) is not None
    }
    made = {
        name: x for name, call in once.items() if (x := _by_token(call.made, shape)) is not None
    }
    attention, mlp = _child(block, path, _ATTENTION), _child(block, path, _MLP)
    found: dict[str, tuple[str, Side] | str] = dict(
        _added(network, path, layer, block, attention, mlp, given, made)
    )
    for kind, inner, part, named, projections in (
        ("attn_out", "head_out", attention, _ATTENTION, _OUTPUT_PROJECTION),
        ("mlp_out", "mlp_hidden", mlp, _MLP, _DOWN_PROJECTION),
    ):
        if part is None:
            found |= {name: _nothing_of(name, block, path, named) for name in (kind, inner)}
            continue
        whole = block.get_submodule(part.removeprefix(f"{path}."))
        projection = _child(whole, part, projections) if list(whole.children()) else part
        if projection is None:
            found[inner] = _nothing_of(inner, whole, part, projections)
            continue
        adds = found[kind]
        ends = {part, adds[0]} if isinstance(adds, tuple) else {part}
        if any(
            end in made and projection in made and _same(made[projection], made[end])
            for end in ends
        ):
            found[inner] = projection, "input"
        else:
            found[inner] = (
                f"{inner}.{layer} has no place in this {network}: what {projection} gives is not "
                f"what {part} gives; module:{projection}:input is what that projection reads"
            )
    return found


def _added(
    network: str,
    path: str,
    layer: int,
    block: nn.Module,
    attention: str | None,
    mlp: str | None,
    given: Mapping[str, Tensor],
    made: Mapping[str, Tensor],
) -> dict[str, tuple[str, Side] | str]:
    """`attn_out` and `mlp_out`: the first proposals that add up."""
    children = [f"{path}.{name}" for name, _ in block.named_children()]
    pre, post, nearest = given.get(path), made.get(path), float("inf")
    if pre is not None and post is not None and pre.shape == post.shape:
        made = {name: x for name, x in made.items() if x.shape == pre.shape and name != path} | {
            "": torch.zeros_like(pre)
        }
        proposed = []
        for part, other in ((attention, mlp), (mlp, attention)):
            heads = [part] if part else [*(child for child in children if child != other), ""]
            proposed.append(
                [name for head in heads for name in _proposals(head, path, given, made)]
            )
        ranked = itertools.product(enumerate(proposed[0]), enumerate(proposed[1]))
        for (_, first), (_, second) in sorted(ranked, key=lambda pair: pair[0][0] + pair[1][0]):
            share, right = _miss(pre, made[first], made[second], post)
            if right:
                return {"attn_out": (first, "output"), "mlp_out": (second, "output")}
            nearest = min(nearest, share)
    how = (
        f"the nearest miss it by {nearest:.2g} of its norm"
        if nearest < float("inf")
        else "none has its shape"
    )
    return {
        kind: f"{kind}.{layer} has no place in this {network}: no outputs of its attention and its MLP add up with "
        f"resid_pre.{layer} to resid_post.{layer} ({how}, so they are scaled or normed first, or "
        f"more is added); module:{part}:output is what the module itself gives"
        for kind, part in (("attn_out", attention), ("mlp_out", mlp))
    }


def _proposals(
    part: str, path: str, given: Mapping[str, Tensor], made: Mapping[str, Tensor]
) -> list[str]:
    """Outputs that may be what a part adds: its own, those of modules behind it that read it, and
    of modules inside it."""
    inside = [name for name in made if part and name.startswith(f"{part}.")]
    found = [part] if part in made else []
    outside = [name for name in made if name and name not in inside and name in given]
    for source in found:  # which grows: a norm may stand behind a projection
        found += [n for n in outside if n not in found and _same(given[n], made[source])]
    return found + inside[::-1]


def _miss(pre: Tensor, first: Tensor, second: Tensor, post: Tensor) -> tuple[float, bool]:
    """How far the sum is from what the block gave, as a share of its norm, and whether that is
    rounding.

    In half precision the rounding of a large residual stream would hide much (MiniCPM's factor of
    0.99), so the sum is made in each order in which a block may add: the right outputs then hit to
    the last bit.
    """
    errors = [
        (total - post).float().norm(dim=2)
        for total in ((pre + first) + second, pre + (first + second), (pre + second) + first)
    ]
    error = min(errors, key=lambda x: float(x.sum()))
    norm = torch.stack([x.float().norm(dim=2) for x in (pre, first, second, post)])
    rounding = (5e-7 if post.dtype in (torch.float32, torch.float64) else 5e-4) * norm.sum(dim=0)
    right = bool((error <= torch.minimum(rounding, 0.1 * (norm[1] + norm[2]))).all())
    return float(error.norm() / norm[3].norm()), right


def _by_token(x: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    if x is None or not x.is_floating_point() or (arrangement := Arrangement.of(x, *shape)) is None:
        return None
    return arrangement.by_token(x, *shape)


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x, y)


def _child(module: nn.Module, path: str, names: Sequence[str]) -> str | None:
    known = dict(module.named_modules())
    return next((f"{path}.{name}" for name in names if name in known), None)


def _nothing_of(kind: str, module: nn.Module, path: str, names: Sequence[str]) -> str:
    has = ", ".join(name for name, _ in module.named_children()) or "no modules"
    return (
        f"cannot tell where {kind} is: {path} ({type(module).__name__}) has none of "
        f"{', '.join(names)}, but {has}; use module:<path>:<input|output>"
    )
