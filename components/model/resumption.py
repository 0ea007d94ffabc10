"""A pass that goes on from a residual stream, without the blocks before it where the network allows
that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from components.model import trial
from components.model.intervention import Edit

if TYPE_CHECKING:
    from components.model.language_model import LanguageModel


def resume(
    model: LanguageModel,
    tokens: Int[Tensor, "b t"],
    layer: int,
    residual: Float[Tensor, "b t d"],
    attention_mask: Tensor | None,
    edits: Sequence[Edit],
) -> Float[Tensor, "b t V"]:
    """The logits when block `layer` receives this residual stream; see `LanguageModel.resume`."""
    can_skip = layer > 0 and model.tried(
        f"resume at block {layer}", lambda: _can_skip(model, layer)
    )
    with (_skipped if can_skip else _overwritten)(
        model, layer, residual.to(model.device, model.dtype)
    ):
        # edits come last: they see the residual that was given
        return model.logits(tokens, attention_mask, edits)


def _can_skip(model: LanguageModel, layer: int) -> bool:
    """Whether earlier blocks can be left out, tried with a residual stream that they would not have
    given.

    They cannot where later blocks take more from them than it: shared keys, a state, a position
    bias.
    """
    tokens, point = trial.tokens(model.network, 2), _entrance(model, layer)
    residual = model.read(tokens, [point])[point]
    # the other row's, backwards: large enough to matter, and of no token
    residual = residual + residual.flip(0, 1)
    try:
        with _overwritten(model, layer, residual):
            overwritten = model.logits(tokens)
        with _skipped(model, layer, residual):
            skipped = model.logits(tokens)
    except Exception:
        # networks that ask more of a block than a stand-in can answer fail in many ways
        return False
    return trial.agree(skipped, overwritten, model.dtype)


def _entrance(model: LanguageModel, layer: int) -> str:
    return f"resid_pre.{layer}" if layer < model.n_layers else f"resid_post.{layer - 1}"


@contextlib.contextmanager
def _overwritten(model: LanguageModel, layer: int, residual: Tensor) -> Iterator[None]:
    """Every block runs, and what reaches this one is replaced."""
    handle = model.attach(model.hook_point(_entrance(model, layer)), lambda x: residual)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _skipped(model: LanguageModel, layer: int, residual: Tensor) -> Iterator[None]:
    """The blocks before this one are stood in for by modules that hand on the residual stream and
    do nothing."""
    listed = model.blocks
    skipped = list(listed[:layer])
    forms = model.tried("what blocks return", lambda: _forms(model, listed))
    try:
        for number, block in enumerate(skipped):
            listed[number] = _StandIn(block, forms[number](residual))
        yield
    finally:
        for number, block in enumerate(skipped):
            listed[number] = block


def _forms(model: LanguageModel, listed: nn.ModuleList) -> list[Callable[[Tensor], Any]]:
    """By block, how the residual stream is packed in what the block returns; the rest of a tuple is
    left empty."""
    forms: list[Callable[[Tensor], Any]] = [lambda x: x] * len(listed)

    def learn(number: int, output: Any) -> None:
        if isinstance(output, tuple | list):
            kind, rest = type(output), [None] * (len(output) - 1)
            forms[number] = lambda x: kind([x, *rest])

    with contextlib.ExitStack() as stack:
        for number, block in enumerate(listed):
            hook = block.register_forward_hook(
                lambda _, __, output, number=number: learn(number, output)
            )
            stack.callback(hook.remove)
        model.logits(trial.tokens(model.network, 1))
    return forms


class _StandIn(nn.Module):
    """Returns what it was given; whatever else a network asks of its block, the block answers."""

    def __init__(self, block: nn.Module, output: Any) -> None:
        super().__init__()
        self.__dict__["block"] = (
            block  # not registered: the block's weights and hooks are not this module's
        )
        self.output = output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output
