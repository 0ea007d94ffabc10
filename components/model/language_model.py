"""Any causal language model, with activations read and edited at named hook points.

A pass stops at the last hook point it needs (a private exception, raised by the hook and caught
here), takes no gradients unless asked, and leaves no hook behind whatever happens inside. Padding
may lie left or right of a row: positions are counted over real tokens and given to the model
explicitly. A model whose attention looks both ways is an `EncoderModel`
(`components/model/encoder_model.py`): padding and later documents would enter its activations here.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from components.device import to_device
from components.errors import CapabilityError, HookPointError, ModelError
from components.model import loading, resumption, trial
from components.model.hook_point import HookPoint, attach, find
from components.model.intervention import Edit, Places
from components.model.layout import Layout

T = TypeVar("T")
CAPABILITIES = ("causal_loss", "generation", "gradients")


class LanguageModel:
    """A language model whose activations can be read and edited.

    Attributes:
        network: the transformers module, in evaluation mode, its weights frozen.
        tokenizer: its tokenizer; None where the model has none.
        n_layers: number of blocks.
        d_model: width of the residual stream.
        vocab_size: number of token ids.
        context_length: most positions that it was built for; None where its configuration does not
            say.
        causal: whether what it computes for a token depends on earlier tokens alone.
    """

    causal: ClassVar[bool] = True

    def __init__(
        self, network: nn.Module, tokenizer: Any = None, causal: bool | None = None
    ) -> None:
        """Finds out nothing but whether the network is causal; whatever else is asked is tried when
        it is asked.

        Args:
            network: the transformers module.
            tokenizer: its tokenizer.
            causal: whether the network is causal, where that is known; None tries it.

        Raises:
            ModelError: the network looks ahead, or needs more than token ids.
        """
        self.network: Any = network.eval().requires_grad_(False)
        self._check(trial.is_causal(self.network) if causal is None else causal)
        self.tokenizer = tokenizer
        self.n_layers, self.d_model, self.vocab_size, self.context_length = loading.sizes(
            self.network.config
        )
        self._arguments = frozenset(inspect.signature(self.network.forward).parameters)
        self._places: Places | None = None
        self._before_pass: Callable[[], None] | None = None
        self._tried: dict[str, Any] = {}
        self._n_trials = 0
        self._layout = Layout(
            self.network, self.n_layers, self.d_model, trial.tokens_apart(self.network), self._try
        )
        self._hook_points: dict[str, HookPoint] = {}
        self._overwritten: set[str] = set()

    def _check(self, causal: bool) -> None:
        if not causal:
            raise ModelError(
                f"{type(self.network).__name__} looks ahead: later tokens change what it computes "
                "for earlier ones, so padding and other documents would enter its activations; "
                "read it as an EncoderModel"
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.network.dtype

    @functools.cached_property
    def eos(self) -> frozenset[int]:
        """Token ids that end a text: those of the tokenizer, of the configuration and of the
        generation settings."""
        config = self.network.config
        places = (
            self.tokenizer,
            config,
            config.get_text_config(decoder=True),
            self.network.generation_config,
        )
        return frozenset(
            token
            for where in places
            for token in loading.end_tokens(getattr(where, "eos_token_id", None))
        )

    @functools.cached_property
    def capabilities(self) -> frozenset[str]:
        """What it can do, of causal_loss, generation and gradients."""
        return frozenset(name for name in CAPABILITIES if self.obstacle(name) is None)

    def obstacle(self, capability: str) -> str | None:
        """Why the model cannot do this; None where it can."""
        if capability != "gradients" and self.network.get_output_embeddings() is None:
            return "it has no head that predicts the next token; use a causal language model with its head"
        return None

    def require(self, capability: str) -> None:
        """Says that the model must be able to do this.

        Raises:
            CapabilityError: it cannot.
        """
        if reason := self.obstacle(capability):
            raise CapabilityError(
                f"this needs a model with the capability {capability}; "
                f"{type(self.network).__name__} has {', '.join(sorted(self.capabilities))}: "
                f"{reason}"
            )

    def hook_point(self, name: str) -> HookPoint:
        """The hook point of that name (canonical, `module:<path>:<side>`, or a TransformerLens
        name).

        Raises:
            HookPointError: no such place; what there is and the nearest names are listed.
        """
        if name not in self._hook_points:
            self._hook_points[name] = find(self._layout, name)
        return self._hook_points[name]

    @property
    def blocks(self) -> nn.ModuleList:
        """The list of the network's blocks.

        Raises:
            HookPointError: the network has none that hand the residual stream on.
        """
        return self._layout.blocks[1]

    def width(self, name: str) -> int:
        """Width of the activations at a hook point."""
        return self.hook_point(name).width

    def read(
        self,
        tokens: Int[Tensor, "b t"],
        hook_points: Sequence[str],
        attention_mask: Tensor | None = None,
        edits: Sequence[Edit] = (),
    ) -> dict[str, Tensor]:
        """Activations [b, t, d] by hook point, in one pass that stops at the last of them.

        Args:
            tokens: token ids.
            hook_points: names; the result has the same names.
            attention_mask: [b, t], 1 for real tokens; None when nothing is padding, or only right
                of the real tokens (causal attention never looks there).
            edits: applied in the same pass; what is read at an edited hook point is the edited
                activation.

        Raises:
            HookPointError: an unknown hook point, or one that the pass never reaches.
        """
        points = {name: self.hook_point(name) for name in hook_points}
        activations: dict[str, Tensor] = {}
        version: dict[str, int] = {}

        def keep(name: str, x: Tensor) -> Tensor:
            if name not in activations:
                activations[name] = x.clone() if name in self._overwritten else x
                version[name] = activations[name]._version
            if len(activations) == len(points):
                raise _Stop
            return x

        with (
            torch.no_grad(),
            self.edited(*edits),
            contextlib.ExitStack() as stack,
            contextlib.suppress(_Stop),
        ):
            for name, point in points.items():
                stack.callback(self.attach(point, functools.partial(keep, name)).remove)
            self._pass(tokens, attention_mask)
        if missing := sorted(set(points) - set(activations)):
            raise HookPointError(
                f"the pass never came to {', '.join(missing)}; name a module that the model calls"
            )
        if overwritten := {name for name, x in activations.items() if x._version != version[name]}:
            # Falcon adds attention into the MLP's output: what was kept is no longer what was there
            self._overwritten |= overwritten
            return self.read(tokens, hook_points, attention_mask, edits)
        return {name: activations[name] for name in points}

    def last_activations(
        self, tokens: Int[Tensor, "b t"], attention_mask: Tensor
    ) -> Float[Tensor, "b t d"]:
        """What the network's body ends in, behind its last norm and before any head, in the dtype
        of the weights."""
        with torch.no_grad():
            body = self.network.base_model
            arguments = (
                {"attention_mask": attention_mask.to(self.device)}
                if self.takes("attention_mask")
                else {}
            )
            return body(input_ids=tokens.to(self.device), use_cache=False, **arguments)[0]

    def logits(
        self,
        tokens: Int[Tensor, "b t"],
        attention_mask: Tensor | None = None,
        edits: Sequence[Edit] = (),
        n_given: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t V"]:
        """Next-token logits at every position, float32.

        Args:
            tokens: token ids.
            attention_mask: [b, t], 1 for real tokens; see `read`.
            edits: applied in the same pass.
            n_given: how many tokens of each row were given, where the others were generated: edits
                tell the two apart. None: all were given.

        Raises:
            CapabilityError: the model has no head.
        """
        self.require("causal_loss")
        with torch.no_grad(), self.edited(*edits):
            return self._pass(tokens, attention_mask, n_given).logits.float()

    def losses(
        self,
        tokens: Int[Tensor, "b t"],
        attention_mask: Tensor | None = None,
        edits: Sequence[Edit] = (),
    ) -> Float[Tensor, "b t-1"]:
        """Cross-entropy of each next token in nats; entry i belongs to token i + 1.

        It is 0 where either token is padding: sum, and divide once by the number of real pairs.
        """
        logits = self.logits(tokens, attention_mask, edits)
        targets = tokens[:, 1:].to(self.device)
        loss = nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), targets.long(), reduction="none"
        )
        if attention_mask is None:
            return loss
        real = attention_mask.to(self.device).bool()
        return loss * (real[:, 1:] & real[:, :-1])

    def gradients(
        self,
        tokens: Int[Tensor, "b t"],
        hook_points: Sequence[str],
        objective: Callable[[Tensor], Tensor],
        attention_mask: Tensor | None = None,
        edits: Sequence[Edit] = (),
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Activations and the gradient of `objective(logits)` (a scalar) with respect to them, in
        one full pass."""
        self.require("gradients")
        self.require("causal_loss")
        points = {name: self.hook_point(name) for name in hook_points}
        activations: dict[str, Tensor] = {}

        def keep(name: str, x: Tensor) -> Tensor:
            activations[name] = x if x.requires_grad else x.detach().requires_grad_()
            return activations[name].clone()  # the model may write into what it goes on with

        with torch.enable_grad(), self.edited(*edits), contextlib.ExitStack() as stack:
            for name, point in points.items():
                stack.callback(self.attach(point, functools.partial(keep, name)).remove)
            value = objective(self._pass(tokens, attention_mask).logits.float())
            gradients = torch.autograd.grad(value, [activations[name] for name in points])
        return {name: activations[name].detach() for name in points}, dict(
            zip(points, gradients, strict=True)
        )

    def resume(
        self,
        tokens: Int[Tensor, "b t"],
        layer: int,
        residual: Float[Tensor, "b t d"],
        attention_mask: Tensor | None = None,
        edits: Sequence[Edit] = (),
    ) -> Float[Tensor, "b t V"]:
        """The logits when block `layer` receives this residual stream (`layer = n_layers`: when the
        final norm does).

        A pass that was cut at `resid_pre.<layer>` goes on from there. Earlier blocks are left out
        where that gives what a whole pass gives, which is tried once; else (later blocks take keys,
        a state or a position bias from them) they run, and what they hand on is replaced.
        """
        self.require("causal_loss")
        self._refuse_padding(attention_mask)
        for edit in edits:
            self.hook_point(edit.hook_point)  # not to be tried where blocks are left out
        return resumption.resume(self, tokens, layer, residual, attention_mask, edits)

    @contextlib.contextmanager
    def edited(self, *edits: Edit) -> Iterator[None]:
        """Applies edits to every pass made inside; afterwards, and after any exception, the model
        is as before."""
        with contextlib.ExitStack() as stack:
            for edit in edits:
                point = self.hook_point(edit.hook_point)
                stack.callback(self.attach(point, functools.partial(self._edit, edit)).remove)
            yield

    @contextlib.contextmanager
    def watched(self, before_pass: Callable[[], None]) -> Iterator[None]:
        """Calls `before_pass` before every pass made inside: it may count, and what it raises ends
        the work there.

        Generation makes one pass for each token, so this is how work on a model is stopped between
        two tokens.
        """
        outer, self._before_pass = self._before_pass, before_pass
        try:
            yield
        finally:
            self._before_pass = outer

    def direction_logits(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
        """What a step along each direction adds to the logits, by the unembedding alone (no final
        norm, no bias)."""
        self.require("causal_loss")
        weight = self.network.get_output_embeddings().weight
        return (vectors.to(weight.device, weight.dtype) @ weight.T).float()

    def takes(self, argument: str) -> bool:
        """Whether the network knows an argument of that name."""
        return argument in self._arguments

    def tried(self, name: str, trial_of_it: Callable[[], T]) -> T:
        """What came out of a trial, which is made once; what is attached now rests in it, and
        nobody is told of it."""
        if name not in self._tried:
            self._n_trials += 1
            try:
                self._tried[name] = trial_of_it()
            finally:
                self._n_trials -= 1
        return self._tried[name]

    def attach(self, point: HookPoint, function: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Has `function` read, and by what it returns replace, the activations [b, t, d] there
        until the handle is removed."""
        within = self._n_trials

        def by_token(x: Tensor) -> Tensor:
            if self._n_trials != within:
                return x
            assert self._places is not None, "a hook met a pass that was not started by this class"
            b, t = self._places.position.shape
            rows = point.arrangement.by_token(x, b, t)
            if rows is None or rows.shape[2] != point.width:
                raise HookPointError(
                    f"{point.name} holds {list(x.shape)} where {b} rows of {t} tokens pass, which "
                    "is no vector for each token; name another module"
                )
            changed = function(rows)
            return x if changed is rows else point.arrangement.back(changed, x)

        return attach(self.network, point, by_token)

    def _try(self, tokens: Tensor) -> None:
        """A pass from which the layout learns: what is attached rests, and nobody is told of it."""
        self._n_trials += 1
        try:
            trial.outcome(self.network, tokens)
        finally:
            self._n_trials -= 1

    def forward(self, tokens: Int[Tensor, "b t"], places: Places, **kwargs: Any) -> Any:
        """One forward pass of the network and what it returns; edits and whoever watches are told
        of it.

        Args:
            tokens: token ids.
            places: where they stand in their rows.
            **kwargs: further arguments of the network.
        """
        if self._before_pass is not None and not self._n_trials:
            self._before_pass()
        before, self._places = self._places, places
        try:
            return self.network(input_ids=to_device(tokens, self.device).long(), **kwargs)
        finally:
            self._places = before

    def _edit(self, edit: Edit, x: Tensor) -> Tensor:
        assert self._places is not None
        mask = self._places.chosen(edit.positions)
        new = edit.function(x, mask)
        if new.shape[1:] != x.shape[1:]:
            raise HookPointError(
                f"the edit at {edit.hook_point} got activations {list(x.shape)} and returned "
                f"{list(new.shape)}; it must keep their shape"
            )
        if self._places.all_of(edit.positions):
            return new.to(x.dtype)
        return torch.where(mask, new.to(x.dtype), x)

    def _pass(self, tokens: Tensor, mask: Tensor | None, n_given: Tensor | None = None) -> Any:
        """One forward pass over given text."""
        # without a cache transformers looks into the positions, and on a GPU that look would wait
        # for all queued work
        kwargs: dict[str, Any] = {"use_cache": mask is None and self.device.type == "cuda"}
        if mask is None:
            position = torch.arange(tokens.shape[1], device=self.device).expand(len(tokens), -1)
        else:
            real = to_device(mask, self.device).bool()
            position = torch.where(real, real.long().cumsum(1) - 1, -1)
            # what causal attention never looks at needs no mask, and is faster without
            if not _is_right(mask):
                self._refuse_padding(mask)
                kwargs |= self._behind_padding(position)
        all_of_it = position.max(dim=1).values + 1
        n_prompt = all_of_it if n_given is None else n_given.to(all_of_it)
        places = Places(position, n_prompt, whole=mask is None)
        return self.forward(tokens, places, **kwargs)

    def _behind_padding(self, position: Tensor) -> dict[str, Tensor]:
        positions = {"position_ids": position.clamp(min=0)} if self.takes("position_ids") else {}
        return {"attention_mask": (position >= 0).long(), **positions}

    def _refuse_padding(self, mask: Tensor | None) -> None:
        if (
            mask is not None
            and not _is_right(mask)
            and not self.tried("padding", self._is_blind_to_padding)
        ):
            raise CapabilityError(
                f"{type(self.network).__name__} has other numbers for a text with padding before "
                "it; pad on the right"
            )

    def _is_blind_to_padding(self) -> bool:
        """Whether a text has the same outcome behind padding as alone."""
        text = trial.tokens(self.network, 1)
        n_pad = text.shape[1] // 2
        text = text[:, n_pad:]
        behind = nn.functional.pad(text, (n_pad, 0))
        position = (torch.arange(behind.shape[1], device=self.device) - n_pad).clamp(min=-1)[None]
        padded, alone = (
            trial.outcome(self.network, tokens, **kwargs)
            for tokens, kwargs in ((behind, self._behind_padding(position)), (text, {}))
        )
        return trial.agree(padded[:, n_pad:], alone, self.dtype)


def _is_right(mask: Tensor) -> bool:
    """Whether padding is only on the right; on a GPU that is not looked at, since looking would
    wait."""
    return not mask.is_cuda and bool((mask[:, 1:] <= mask[:, :-1]).all())


class _Stop(Exception):
    """The last hook point that was wanted has been read."""


def __getattr__(name: str) -> Any:
    """`ModelConfig` and `ModelReference` stood here once; who imports them from here still finds
    them. At run time, since `components.model.reference` imports this module."""
    if name not in ("ModelConfig", "ModelReference"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from components.model import reference

    return getattr(reference, name)
