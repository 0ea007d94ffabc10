"""Which language model is examined, by its files: its key, its sizes and its tokenizer without
loading it, and itself.

A model is an input of stages as an artifact is. Its key is the digest of the bytes that decide what
it computes, so that a copy under another path is the same model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import safe_open

from components import device
from components.config import Config, execution
from components.errors import InputError, ModelError
from components.model import loading
from components.model.encoder_model import model_of
from components.model.hook_point import translate
from components.model.hub import snapshot
from components.model.language_model import LanguageModel
from components.model.randomised import VERSION as DRAW
from components.model.randomised import Randomise, randomise
from components.paths import expanded
from components.registry import nearest

REPOSITORY = Path(__file__).resolve().parents[2]
CONTENT = ("config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*", "special_tokens_map.json",
           "added_tokens.json", "chat_template.*", "vocab.*", "merges.txt", "spiece.model",
           "pretrain_documents.safetensors")  # fmt: skip
"""What a model's key is the digest of: also the list of what it was trained on, by which reading
leaves documents out."""
DOWNLOADED = ("generation_config.json", "adapter_config.json")
"""What is looked at beside that: end tokens (a key has those that stand nowhere else), and whether
it is an adapter."""


class ModelFiles(Config):
    """Where the files of a model lie, and how they are read."""

    path: str = "data/demo"
    """A local folder in Hugging Face form, or a Hugging Face hub id such as
    EleutherAI/pythia-70m."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its default branch when absent."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and activations."""
    online: bool = execution(False)
    """Whether a hub id that is not on this machine may be downloaded."""


class ModelConfig(ModelFiles):
    """Which language model is examined."""

    randomise: Randomise = "none"
    """Whether its matrices are drawn anew, Gaussian at the mean and deviation of each: a model that
    learnt nothing."""
    randomise_seed: int = 0
    """Of that draw."""


class ModelReference:
    """A model as an input of stages: its key without loading it, and the model itself when asked.

    Attributes:
        config: which model.
        stage: what kind of input this is.
    """

    stage: ClassVar[str] = "model"
    content: ClassVar[tuple[str, ...]] = CONTENT
    """Patterns of the files that its key is the digest of."""

    def __init__(self, config: ModelFiles) -> None:
        self.config = config

    @property
    def drawn(self) -> tuple[Randomise, int] | None:
        """Which weights are drawn anew, and with which seed; None for the weights of the files."""
        if not isinstance(self.config, ModelConfig) or self.config.randomise == "none":
            return None
        return self.config.randomise, self.config.randomise_seed

    @functools.cached_property
    def folder(self) -> Path:
        """The local folder that holds the model's files; downloads them when `online` allows it.

        Raises:
            ModelError: no such folder, and no such model on the hub or no leave to ask there; or a
                folder with an adapter.
        """
        path = expanded(self.config.path)
        local = (
            folder for folder in (path, REPOSITORY / path) if (folder / "config.json").is_file()
        )
        folder = next(local, None) or (
            path if loading.adapter(path) else _from_hub(self.config, self.content)
        )
        if file := loading.adapter(folder):
            raise ModelError(
                f"{folder} holds an adapter ({file}), and only whole models are read; merge it "
                "into its model first (peft: merge_and_unload, then save_pretrained to a new "
                "folder) and set model.path to that folder"
            )
        return folder

    @functools.cached_property
    def key(self) -> str:
        """Digest of config, weights and tokenizer files and of the dtype (24 hexadecimal digits),
        and of how weights are drawn anew where they are: same bytes, same key.

        Read once, so that whatever one reference makes carries one key, though the files change
        meanwhile.
        """
        paths = sorted({path for pattern in self.content for path in self.folder.glob(pattern)})
        content: list[list[Any]] = [
            [path.relative_to(self.folder).as_posix(), _digest(path, *_state(path))]
            for path in paths
        ]
        if more := loading.end_tokens_beside(self.folder):
            content.append(["end tokens", more])
        if self.drawn:
            content.append(["randomised", [DRAW, *self.drawn]])
        text = json.dumps([self.stage, self.config.dtype, content])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    @functools.cached_property
    def n_bytes(self) -> int:
        """Bytes of the weights in memory, read off the headers of their files: nothing is
        loaded."""
        n = 0
        for path in self.folder.glob("model*.safetensors"):
            with safe_open(path, framework="pt") as file:
                n += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        return n * getattr(torch, self.config.dtype).itemsize

    @functools.cached_property
    def shape(self) -> Shape:
        """Its sizes, read off its configuration: nothing is loaded."""
        config = loading.configuration(self.folder)
        n_layers, d_model, vocab_size, _ = loading.sizes(config)
        text = config.get_text_config(decoder=True)
        hidden = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None)
        return Shape(
            d_model, hidden if isinstance(hidden, int) else 4 * d_model, n_layers, vocab_size
        )

    def width(self, hook_point: str, settings: device.Execution | None = None) -> int:
        """Width of the activations at a hook point; the model is loaded only where its
        configuration does not say it."""
        kind = translate(hook_point).partition(".")[0]
        if kind in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
            return self.shape.d_model
        return (
            self.shape.d_hidden if kind == "mlp_hidden" else self.load(settings).width(hook_point)
        )

    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ModelError: the folder holds none.
        """
        tokenizer = loading.tokenizer(self.folder)
        if tokenizer is None:
            raise ModelError(
                f"{self.folder} holds no tokenizer (tokenizer.json); add the files of the model's "
                "own one"
            )
        return tokenizer

    def load(self, settings: device.Execution | None = None) -> LanguageModel:
        """The model on its device, ready for inference.

        Raises:
            ModelError: the files are not those of a model that transformers knows, or weights are
                missing.
        """
        where = device.resolve((settings or device.Execution()).device)
        with _loading:
            network = loading.network(self.folder, getattr(torch, self.config.dtype))
            tokenizer = loading.tokenizer(self.folder)
        if self.drawn:
            randomise(network, *self.drawn)
        return model_of(network.to(where), tokenizer)

    def pace(
        self,
        settings: device.Execution,
        length: int,
        seconds: float,
        hook_points: Sequence[str] = (),
    ) -> tuple[float, float, str]:
        """Seconds to load it, seconds a token of a pass over random tokens, and both in words.

        Args:
            settings: where to run.
            length: tokens in a context.
            seconds: that may be taken, about.
            hook_points: where the pass ends. Without any it ends in logits, and a model that gives
                none takes no time.
        """
        started = time.perf_counter()
        model = self.load(settings)
        loading = time.perf_counter() - started
        taken, n = [], 1
        for _ in range(4) if hook_points or not model.obstacle("causal_loss") else ():
            tokens, started = torch.randint(model.vocab_size, (n, length)), time.perf_counter()
            last = (
                model.read(tokens, hook_points)[hook_points[-1]]
                if hook_points
                else model.losses(tokens)
            )
            assert last.cpu().ndim  # a GPU is waited for here
            taken.append((time.perf_counter() - started) / tokens.numel())
            n = max(1, min(16, int(seconds / length / taken[-1] / 4)))
        by_token = min(taken, default=0.0)
        told = f"loaded the model in {loading:.1f} s, {by_token * 1e6:,.0f} s a million tokens of a pass"
        return loading, by_token, told


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
    """The model of that key among these places: artifacts name a model by its bytes, which may have
    moved since.

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
    raise ModelError(
        f"wanted model {key}, and found {listed}; set model.path (and model.dtype) to where it "
        "lies now"
    )


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# tasks side by side: transformers imports its parts when asked for, and not safely
_loading = threading.Lock()


def _from_hub(config: ModelFiles, content: Sequence[str]) -> Path:
    from huggingface_hub import constants

    beside = expanded(config.path).parent
    beside = beside if beside.is_dir() else REPOSITORY / "data"
    known = [str(path.parent) for path in beside.glob("*/config.json")]
    known += [
        path.name.removeprefix("models--").replace("--", "/")
        for path in Path(constants.HF_HUB_CACHE).glob("models--*")
    ]
    where = f"no folder {config.path!r} with a config.json"
    hub_id = len(Path(config.path).parts) <= 2 and not config.path.startswith((".", "/", "~"))
    if not hub_id:
        raise ModelError(f"{where}; {nearest(config.path, known)}")
    try:
        return snapshot(
            config.path, [*content, *DOWNLOADED], online=config.online, revision=config.revision
        )
    except InputError as error:
        raise ModelError(f"{where}, and {error}; {nearest(config.path, known)}") from error
