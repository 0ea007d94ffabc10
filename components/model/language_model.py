"""The one door to transformers: any causal language model, with activations read and edited at named hook points.

A pass stops at the last hook point it needs (a private exception, raised by the hook and caught here), takes no
gradients unless asked, and leaves no hook behind whatever happens inside. Padding may lie left or right of a row:
positions are counted over real tokens and given to the model explicitly. Code that comes with a model is never run
(`trust_remote_code` is never set) and weights are safetensors only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from components import device
from components.config import Config, execution
from components.errors import CapabilityError, HookPointError, InputError, ModelError
from components.model.hook_point import HookPoint, attach, find, translate
from components.model.hub import first_line, snapshot
from components.model.intervention import Edit, Places
from components.model.layout import Layout
from components.registry import nearest

REPOSITORY = Path(__file__).resolve().parents[2]
CONTENT = ("config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*", "special_tokens_map.json",
           "added_tokens.json", "vocab.*", "merges.txt", "spiece.model", "pretrain_documents.safetensors")  # fmt: skip
"""What a model's key is the digest of: also the list of what it was trained on, by which reading leaves documents out."""


class ModelConfig(Config):
    """Which language model is examined."""

    path: str = "data/demo"
    """A local folder in Hugging Face form, or a Hugging Face hub id such as EleutherAI/pythia-70m."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its default branch when absent."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and activations."""
    online: bool = execution(False)
    """Whether a hub id that is not on this machine may be downloaded."""


class ModelReference:
    """A model as an input of stages: its key without loading it, and the model itself when asked.

    Attributes:
        config: which model.
        stage: what kind of input this is.
    """

    stage = "model"

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @functools.cached_property
    def folder(self) -> Path:
        """The local folder that holds the model's files; downloads them when `online` allows it.

        Raises:
            ModelError: no such folder, and no such model on the hub or no leave to ask there.
        """
        path = self.config.path
        for folder in (Path(path), REPOSITORY / path):
            if (folder / "config.json").is_file():
                return folder
        return _from_hub(self.config)

    @functools.cached_property
    def key(self) -> str:
        """Digest of config, weights and tokenizer files and of the dtype (24 hexadecimal digits): same bytes, same key.

        Read once, so that whatever one reference makes carries one key, though the files change meanwhile.
        """
        names = sorted({found for pattern in CONTENT for found in self.folder.glob(pattern)})
        content = [[path.name, _digest(path, *_state(path))] for path in names]
        text = json.dumps([self.stage, self.config.dtype, content])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    @functools.cached_property
    def n_bytes(self) -> int:
        """Bytes of the weights in memory, read off the headers of their files: nothing is loaded."""
        n = 0
        for path in self.folder.glob("model*.safetensors"):
            with safe_open(path, framework="pt") as file:
                n += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        return n * getattr(torch, self.config.dtype).itemsize

    @functools.cached_property
    def shape(self) -> Shape:
        """Its sizes, read off its configuration: nothing is loaded."""
        from transformers import AutoConfig

        with _quiet():
            found = AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        text = found.get_text_config()
        hidden = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
        return Shape(text.hidden_size, hidden, text.num_hidden_layers, text.vocab_size)

    def width(self, hook_point: str, settings: device.Execution | None = None) -> int:
        """Width of the activations at a hook point; the model is loaded only where its configuration does not say it."""
        kind = translate(hook_point).partition(".")[0]
        if kind in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
            return self.shape.d_model
        return self.shape.d_hidden if kind == "mlp_hidden" else self.load(settings).width(hook_point)

    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ModelError: the folder holds none.
        """
        found = _tokenizer(self.folder)
        if found is None:
            raise ModelError(f"{self.folder} holds no tokenizer (tokenizer.json); add the files of the model's own one")
        return found

    def load(self, settings: device.Execution | None = None) -> LanguageModel:
        """The model on its device, ready for inference.

        Raises:
            ModelError: the files are not those of a model that transformers knows, or weights are missing.
        """
        with _loading:
            network = _network(self.folder, getattr(torch, self.config.dtype))
        where = device.resolve((settings or device.Execution()).device)
        return LanguageModel(network.to(where), _tokenizer(self.folder))


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a model that say what it costs.

    Attributes:
        d_model: width of the residual stream.
        d_hidden: neurons of one MLP.
        n_layers: number of blocks.
        vocab_size: number of token ids.
    """

    d_model: int
    d_hidden: int
    n_layers: int
    vocab_size: int


def locate(key: str, places: Sequence[ModelConfig]) -> ModelReference:
    """The model of that key among these places: artifacts name a model by its bytes, which may have moved since.

    Raises:
        ModelError: it lies at none of them; each is listed with what lies there.
    """
    looked: dict[str, str] = {}
    for place in places:
        reference = ModelReference(place)
        try:
            if reference.key == key:
                return reference
            looked.setdefault(f"{place.path} ({place.dtype})", f"model {reference.key}")
        except ModelError:
            looked.setdefault(f"{place.path} ({place.dtype})", "no model")
    listed = "; ".join(f"{where}: {what}" for where, what in looked.items())
    raise ModelError(f"wanted model {key}, and found {listed}; set model.path (and model.dtype) to where it lies now")


class LanguageModel:
    """A language model whose activations can be read and edited.

    Attributes:
        network: the transformers module, in evaluation mode, its weights frozen.
        tokenizer: its tokenizer; None where the model has none.
        capabilities: what it can do: causal_loss, generation, gradients.
        n_layers: number of blocks.
        d_model: width of the residual stream.
        vocab_size: number of token ids.
        context_length: most positions that it was built for; None where its configuration does not say.
    """

    def __init__(self, network: nn.Module, tokenizer: Any = None) -> None:
        self.network: Any = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        config = self.network.config.get_text_config()
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        causal = self.network.get_output_embeddings() is not None
        generates = causal and self.network.can_generate()
        self.capabilities: frozenset[str] = frozenset(
            ["gradients"] + ["causal_loss"] * causal + ["generation"] * generates
        )
        self._keeps_last_logits = "logits_to_keep" in inspect.signature(self.network.forward).parameters
        self._places: Places | None = None
        self._before_pass: Callable[[], None] | None = None
        self._trying = False
        self._layout = Layout(self.network, self.n_layers, self.d_model, _few_tokens(self.network), self._try)
        self._hook_points: dict[str, HookPoint] = {}
        self._overwritten: set[str] = set()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.network.dtype

    @property
    def eos(self) -> frozenset[int]:
        """Token ids that end a text: the tokenizer's, else the configuration's."""
        found = getattr(self.tokenizer, "eos_token_id", None)
        if found is None:
            found = self.network.config.get_text_config().eos_token_id
        return frozenset([] if found is None else [found] if isinstance(found, int) else found)

    def require(self, capability: str) -> None:
        """Says that the model must be able to do this.

        Raises:
            CapabilityError: it cannot.
        """
        if capability not in self.capabilities:
            raise CapabilityError(
                f"this needs a model with the capability {capability}; {type(self.network).__name__} has "
                f"{', '.join(sorted(self.capabilities))}: use a causal language model with its head"
            )

    def hook_point(self, name: str) -> HookPoint:
        """The hook point of that name (canonical, `module:<path>:<side>`, or a TransformerLens name).

        Raises:
            HookPointError: no such place; what there is and the nearest names are listed.
        """
        if name not in self._hook_points:
            self._hook_points[name] = find(self._layout, name)
        return self._hook_points[name]

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
            attention_mask: [b, t], 1 for real tokens; None when nothing is padding, or only right of the real tokens
                (causal attention never looks there).
            edits: applied in the same pass; what is read at an edited hook point is the edited activation.

        Raises:
            HookPointError: an unknown hook point, or one that the pass never reaches.
        """
        points = {name: self.hook_point(name) for name in hook_points}
        found: dict[str, Tensor] = {}
        version: dict[str, int] = {}

        def keep(name: str, x: Tensor) -> Tensor:
            if name not in found:
                found[name] = x.clone() if name in self._overwritten else x
                version[name] = found[name]._version
            if len(found) == len(points):
                raise _Stop
            return x

        with torch.no_grad(), self.edited(*edits), contextlib.ExitStack() as stack, contextlib.suppress(_Stop):
            for name, point in points.items():
                stack.callback(self._attach(point, functools.partial(keep, name)).remove)
            self._pass(tokens, attention_mask)
        if missing := sorted(set(points) - set(found)):
            raise HookPointError(f"the pass never came to {', '.join(missing)}; name a module that the model calls")
        if overwritten := {name for name, x in found.items() if x._version != version[name]}:
            # Falcon adds attention into the MLP's output: what was kept is no longer what was there
            self._overwritten |= overwritten
            return self.read(tokens, hook_points, attention_mask, edits)
        return {name: found[name] for name in points}

    def logits(
        self,
        tokens: Int[Tensor, "b t"],
        attention_mask: Tensor | None = None,
        edits: Sequence[Edit] = (),
    ) -> Float[Tensor, "b t V"]:
        """Next-token logits at every position, float32.

        Raises:
            CapabilityError: the model has no head.
        """
        self.require("causal_loss")
        with torch.no_grad(), self.edited(*edits):
            return self._pass(tokens, attention_mask).logits.float()

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
        loss = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets.long(), reduction="none")
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
        """Activations and the gradient of `objective(logits)` (a scalar) with respect to them, in one full pass."""
        self.require("gradients")
        self.require("causal_loss")
        points = {name: self.hook_point(name) for name in hook_points}
        found: dict[str, Tensor] = {}

        def keep(name: str, x: Tensor) -> Tensor:
            found[name] = x if x.requires_grad else x.detach().requires_grad_()
            return found[name].clone()  # the model may write into what it goes on with

        with torch.enable_grad(), self.edited(*edits), contextlib.ExitStack() as stack:
            for name, point in points.items():
                stack.callback(self._attach(point, functools.partial(keep, name)).remove)
            value = objective(self._pass(tokens, attention_mask).logits.float())
            gradients = torch.autograd.grad(value, [found[name] for name in points])
        return {name: found[name].detach() for name in points}, dict(zip(points, gradients, strict=True))

    def resume(
        self,
        tokens: Int[Tensor, "b t"],
        layer: int,
        residual: Float[Tensor, "b t d"],
        attention_mask: Tensor | None = None,
        edits: Sequence[Edit] = (),
    ) -> Float[Tensor, "b t V"]:
        """The logits when block `layer` receives this residual stream (`layer = n_layers`: when the final norm does).

        Earlier blocks are stood in for by modules that do nothing, for the length of this call, so a pass that was cut
        at `resid_pre.<layer>` goes on from there at the price of the blocks that are left.
        """
        self.require("causal_loss")
        _, listed = self._layout.blocks
        kept = list(listed[:layer])
        residual = residual.to(self.device, self.dtype)
        try:
            for number in range(layer):
                listed[number] = _Given(residual)
            with torch.no_grad(), contextlib.ExitStack() as stack:
                if layer == 0:
                    stack.callback(attach(self.network, self.hook_point("resid_pre.0"), lambda x: residual).remove)
                stack.enter_context(self.edited(*edits))  # edits see the residual that was given
                return self._pass(tokens, attention_mask).logits.float()
        finally:
            for number, block in enumerate(kept):
                listed[number] = block

    def step(
        self, tokens: Int[Tensor, "b t"], attention_mask: Tensor | None, prompt: Tensor, cache: Any = None
    ) -> tuple[Float[Tensor, "b V"], Any]:
        """Logits after the last of `tokens`, which follow what the cache holds, and the cache with them added.

        Args:
            tokens: the next tokens of every row.
            attention_mask: over the cached and the new tokens; None when nothing is padding.
            prompt: number of given tokens in each row.
            cache: what the previous step returned.
        """
        self.require("generation")
        kwargs = {"use_cache": True, "past_key_values": cache}
        if self._keeps_last_logits:
            kwargs["logits_to_keep"] = 1
        with torch.no_grad():
            output = self._pass(tokens, attention_mask, prompt, **kwargs)
        return output.logits[:, -1].float(), output.past_key_values

    @contextlib.contextmanager
    def edited(self, *edits: Edit) -> Iterator[None]:
        """Applies edits to every pass made inside; afterwards, and after any exception, the model is as before."""
        with contextlib.ExitStack() as stack:
            for edit in edits:
                point = self.hook_point(edit.hook_point)
                stack.callback(self._attach(point, functools.partial(self._edit, edit)).remove)
            yield

    @contextlib.contextmanager
    def watched(self, before_pass: Callable[[], None]) -> Iterator[None]:
        """Calls `before_pass` before every pass made inside: it may count, and what it raises ends the work there.

        Generation makes one pass for each token, so this is how work on a model is stopped between two tokens.
        """
        outer, self._before_pass = self._before_pass, before_pass
        try:
            yield
        finally:
            self._before_pass = outer

    def direction_logits(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
        """What a step along each direction adds to the logits, by the unembedding alone (no final norm, no bias)."""
        self.require("causal_loss")
        weight = self.network.get_output_embeddings().weight
        return (vectors.to(weight.device, weight.dtype) @ weight.T).float()

    def _attach(self, point: HookPoint, function: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Has `function` see, and by what it returns replace, the activations [b, t, d] of every pass of this class."""

        def by_token(x: Tensor) -> Tensor:
            if self._trying:
                return x
            assert self._places is not None, "a hook met a pass that was not started by this class"
            b, t = self._places.position.shape
            found = point.arrangement.by_token(x, b, t)
            if found is None or found.shape[2] != point.width:
                raise HookPointError(
                    f"{point.name} holds {list(x.shape)} where {b} rows of {t} tokens pass, which is no vector for each "
                    "token; name another module"
                )
            new = function(found)
            return x if new is found else point.arrangement.back(new, x)

        return attach(self.network, point, by_token)

    def _try(self, tokens: Tensor) -> None:
        """A pass from which the layout learns: neither edited nor counted."""
        before, self._trying = self._trying, True
        try:
            self.network(input_ids=tokens.to(self.device), use_cache=False)
        finally:
            self._trying = before

    def _edit(self, edit: Edit, x: Tensor) -> Tensor:
        assert self._places is not None
        mask = self._places.chosen(edit.positions)
        new = edit.function(x, mask)
        if new.shape[1:] != x.shape[1:]:
            raise HookPointError(
                f"the edit at {edit.hook_point} got activations {list(x.shape)} and returned {list(new.shape)}; "
                "it must keep their shape"
            )
        return torch.where(mask, new.to(x.dtype), x)

    def _pass(self, tokens: Tensor, mask: Tensor | None, prompt: Tensor | None = None, **kwargs: Any) -> Any:
        """One forward pass. The mask covers cached tokens too; `tokens` are its last columns."""
        if self._before_pass is not None:
            self._before_pass()
        n_tokens = tokens.shape[1]
        tokens = tokens.to(self.device, non_blocking=True).long()
        if mask is None:
            cached = 0 if kwargs.get("past_key_values") is None else kwargs["past_key_values"].get_seq_length()
            position = torch.arange(cached, cached + n_tokens, device=self.device).expand(len(tokens), -1)
        else:
            right = prompt is None and not mask.is_cuda and bool((mask[:, 1:] <= mask[:, :-1]).all())
            real = mask.to(self.device, non_blocking=True).bool()
            position = torch.where(real, real.long().cumsum(1) - 1, -1)[:, -n_tokens:]
            if not right:  # padding on the right alone is never looked at, and a pass without a mask is faster
                kwargs |= {"attention_mask": real.long(), "position_ids": position.clamp(min=0)}
        given = position.max(dim=1).values + 1 if prompt is None else prompt
        before, self._places = self._places, Places(position, given.to(self.device))
        try:
            # without a cache transformers looks into the positions, and on a GPU that look would wait for all queued work
            kwargs.setdefault("use_cache", mask is None and self.device.type == "cuda")
            return self.network(input_ids=tokens, **kwargs)
        finally:
            self._places = before


class _Stop(Exception):
    """The last hook point that was wanted has been read."""


class _Given(nn.Module):
    """Stands in for a block that need not run."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.x


def _few_tokens(network: Any) -> Tensor:
    """Token ids [b, t] where b and t are no size of anything in the network, so that a tensor's axes are told apart.

    Ids with a meaning of their own (padding, the place of an image) are left out.
    """
    values = list(_numbers(network.config.to_dict()))
    sizes = {n for _, n in values} | {n for parameter in network.parameters() for n in parameter.shape}
    b, t = [n for n in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31) if n not in sizes][:2]
    special = {n for name, n in values if name.endswith(("token_id", "token_index"))}
    plain = [n for n in range(min(network.config.get_text_config().vocab_size, 64)) if n not in special] or [0]
    return torch.tensor([plain[n % len(plain)] for n in range(b * t)]).reshape(b, t)


def _numbers(config: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield str(name), value


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Transformers without progress bars and advice, while inside."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


_loading = threading.Lock()  # tasks side by side: transformers imports its parts when asked for, and not safely


def _network(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    with _quiet():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            named = (config.architectures or [""])[0]
            kind = AutoModelForCausalLM if "CausalLM" in named or "LMHead" in named else AutoModel
            loaded: Any = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises many kinds here, and all mean the same to a user
            raise ModelError(
                f"{folder} could not be loaded as a language model: {first_line(error)}; wanted config.json of "
                "a type that transformers knows and model.safetensors (code that comes with a model is never run)"
            ) from error
    network, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} weights that its config.json asks for ({', '.join(missing[:3])} ...); "
            "use the files of one and the same model"
        )
    return network


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    with _quiet():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # as above
            raise ModelError(
                f"the tokenizer in {folder} could not be loaded: {first_line(error)}; wanted the tokenizer.json that "
                "transformers saves (code that comes with a model is never run)"
            ) from error


def _from_hub(config: ModelConfig) -> Path:
    from huggingface_hub import constants

    beside = Path(config.path).parent if Path(config.path).parent.is_dir() else REPOSITORY / "data"
    known = [str(found.parent) for found in beside.glob("*/config.json")]
    known += [
        found.name.removeprefix("models--").replace("--", "/")
        for found in Path(constants.HF_HUB_CACHE).glob("models--*")
    ]
    where = f"no folder {config.path!r} with a config.json"
    hub_id = len(Path(config.path).parts) <= 2 and not config.path.startswith((".", "/"))
    if not hub_id:
        raise ModelError(f"{where}; {nearest(config.path, known)}")
    try:
        return snapshot(config.path, CONTENT, online=config.online, revision=config.revision)
    except InputError as error:
        raise ModelError(f"{where}, and {error}; {nearest(config.path, known)}") from error
