"""Interventions: everything that may be changed while a model reads or writes, edits of activations
first of all.

Positions are counted over each row's tokens, padding left out: 0 is the first token of the row
whether padding lies left, right or nowhere, and a token keeps its number when it is generated one
step at a time from a cache. Padding is never edited. An edit of a step sees exactly the tokens of
that step.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from components.errors import InputError

if TYPE_CHECKING:  # it imports this module
    from components.model.language_model import LanguageModel

Row: TypeAlias = Sequence[int]
Write: TypeAlias = Callable[[Sequence[Row], Sequence[int]], list[list[int]]]
"""(prompts, one seed for each) -> the new tokens of each."""


@dataclasses.dataclass(frozen=True)
class GivenFrom:
    """The tokens that were given, from one of them on.

    Attributes:
        first: position of the first of them.
    """

    first: int


Positions = (
    Literal["all", "prompt", "generated"] | GivenFrom | Sequence[int] | Bool[Tensor, "row position"]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A change of the activations at one hook point.

    Attributes:
        hook_point: canonical or TransformerLens name.
        function: `function(x[b, t, d], mask[b, t, 1])` returns the new activations; what it returns
            outside the mask (true at the tokens to be edited) is not used.
        positions: all; prompt (tokens that were given); generated (tokens that the model made);
            `GivenFrom`; a list of positions, the negative ones counted back from the end of the
            prompt; or a mask [row, position], false beyond its end.
    """

    hook_point: str
    function: Callable[[Tensor, Tensor], Tensor]
    positions: Positions = "all"


@dataclasses.dataclass(frozen=True, eq=False)
class Intervention:
    """What is changed while a batch of rows is read or written; empty, nothing is.

    Attributes:
        edits: of activations, at any number of hook points.
        prefix: for each row, tokens that stand before its own (behind the model's first token,
            where the row begins with it); empty for none. They are given tokens like the row's own,
            and edits count them as such.
        logits: `function(logits[b, t, V], tokens[b, n])` returns the new logits. They are the
            predictions made after the last t tokens of each row; `tokens` has every token so far,
            the prefix too, and -1 for padding, on the left.
        weights: `weights(model)` is entered for as long as the intervention is applied and left
            whatever happens inside: it may exchange weights.
        decoding: `decoding(write, prompts, seeds)` returns the new tokens of each row, by calls of
            `write` (which samples under the rest of this intervention). What a pass over given text
            predicts does not depend on it.
        behind: tokens behind which each prefix stands instead, in rows that begin with them: what a
            chat template puts before the user's message.
    """

    edits: tuple[Edit, ...] = ()
    prefix: tuple[tuple[int, ...], ...] = ()
    logits: Callable[[Tensor, Tensor], Tensor] | None = None
    weights: Callable[[LanguageModel], contextlib.AbstractContextManager[Any]] | None = None
    decoding: Callable[[Write, Sequence[Row], Sequence[int]], list[list[int]]] | None = None
    behind: tuple[int, ...] = ()

    @contextlib.contextmanager
    def applied(self, model: LanguageModel) -> Iterator[None]:
        """Holds weights and edits for every pass made inside; afterwards, and after any exception,
        all is as before."""
        with (
            self.weights(model) if self.weights else contextlib.nullcontext(),
            model.edited(*self.edits),
        ):
            yield

    def prefixed(self, model: LanguageModel, rows: Sequence[Row]) -> list[list[int]]:
        """The rows with the tokens that stand before them."""
        if not self.prefix:
            return [list(row) for row in rows]
        assert len(self.prefix) == len(rows), f"{len(self.prefix)} prefixes for {len(rows)} rows"
        both = zip(rows, self.heads(model, rows), self.prefix, strict=True)
        return [[*row[:head], *prefix, *row[head:]] for row, head, prefix in both]

    def heads(self, model: LanguageModel, rows: Sequence[Row]) -> list[int]:
        """How many of its own tokens stand before the prefix of each row."""
        first = getattr(model.tokenizer, "bos_token_id", None)
        n = len(self.behind)
        return [
            n if n and tuple(row[:n]) == self.behind else int(len(row) > 0 and row[0] == first)
            for row in rows
        ]


NOTHING = Intervention()


def logits_under(
    model: LanguageModel,
    tokens: Int[Tensor, "b t"],
    intervention: Intervention,
    n_given: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b t V"]:
    """The predictions made after each of these tokens, float32, under an intervention; padding, if
    any, on the right.

    Args:
        model: the model.
        tokens: text.
        intervention: its edits each at their own positions.
        n_given: how many tokens of each row were given, where the others were generated: a text that
            was written is then read as it was written. None: all were given.

    Raises:
        CapabilityError: the model has no head.
        InputError: text and prefix do not fit the model's positions.
    """
    lengths = [len(row) for row in intervention.prefix] or [0] * len(tokens)
    longest = max(lengths, default=0)
    given = tokens
    if longest:
        heads = torch.tensor(intervention.heads(model, tokens.tolist()))[:, None]
        rows = intervention.prefixed(model, tokens.tolist())
        width = longest + tokens.shape[1]
        if model.context_length is not None and width > model.context_length:
            raise InputError(
                f"a text of {tokens.shape[1]} tokens and {longest} that stand before it do not fit "
                f"the model's {model.context_length} positions; give a shorter text, or put less "
                "before it"
            )
        given = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        if n_given is not None:
            n_given = n_given + torch.tensor(lengths)
    with intervention.applied(model):
        logits = model.logits(given, n_given=n_given)
    # what follows token i is predicted as many places later as the row's prefix is long; not so
    # before the prefix, but for the last token there: the prefix is between it and what follows
    if longest:
        own = torch.arange(tokens.shape[1])[None]
        places = own + torch.where(own >= heads - 1, torch.tensor(lengths)[:, None], 0)
        logits = logits.gather(
            1, places.to(logits.device)[:, :, None].expand(-1, -1, logits.shape[2])
        )
    if intervention.logits is None:
        return logits
    so_far = given
    if longest:
        so_far = torch.tensor([[-1] * (width - len(row)) + row for row in rows])
    return intervention.logits(logits, so_far.to(logits.device))


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where the tokens of one forward pass stand.

    Attributes:
        position: number of each token in its row, -1 for padding.
        prompt: number of given tokens in each row.
        whole: that no token is padding, where that is known without a look.
    """

    position: Int64[Tensor, "b t"]
    prompt: Int64[Tensor, " b"]
    whole: bool = False

    def all_of(self, positions: Positions) -> bool:
        """Whether an edit with these positions is known to change every token of this pass."""
        return self.whole and isinstance(positions, str) and positions == "all"

    def chosen(self, positions: Positions) -> Bool[Tensor, "b t 1"]:
        """The tokens of this pass that an edit with these positions changes."""
        at, prompt = self.position, self.prompt[:, None]
        real = at >= 0
        if isinstance(positions, str) and positions == "all":
            return real[:, :, None]
        if isinstance(positions, Tensor):
            assert len(positions) == len(at), (
                f"a mask of {len(positions)} rows for {len(at)} rows of tokens"
            )
            inside = at.clamp(0, positions.shape[1] - 1)
            mask = positions.to(at.device).gather(1, inside) & (at < positions.shape[1])
        elif isinstance(positions, GivenFrom):
            mask = (at >= positions.first) & (at < prompt)
        elif positions == "prompt":
            mask = at < prompt
        elif positions == "generated":
            mask = at >= prompt
        else:
            wanted = torch.tensor([int(p) for p in positions], device=at.device, dtype=torch.long)
            wanted = torch.where(wanted < 0, wanted + prompt, wanted)  # [b, n]
            mask = (at[:, :, None] == wanted[:, None, :]).any(2)
        return (mask & real)[:, :, None]


def add(hook_point: str, vectors: Float[Tensor, "*b d"], positions: Positions = "all") -> Edit:
    """Adds a vector [d], or one vector for each row [b, d]."""
    held = {}

    def function(x: Tensor, mask: Tensor) -> Tensor:
        if (x.device, x.dtype) not in held:  # moved to the device once, not at every step
            held[x.device, x.dtype] = vectors.to(x.device, x.dtype)
        vector = held[x.device, x.dtype]
        return x + (vector[:, None, :] if vector.ndim == 2 else vector)

    return Edit(hook_point, function, positions)


def replace(
    hook_point: str, function: Callable[[Tensor], Tensor], positions: Positions = "all"
) -> Edit:
    """Replaces x by function(x): a reconstruction, a mean, zero."""
    return Edit(hook_point, lambda x, mask: function(x), positions)
