"""Tiny real doubles that every test may use: random language models by layout, artifacts of given
numbers."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from components.config import Config
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.store.artifact import Artifact, Store
from components.store.shards import PROVENANCE, write_activations
from components.store.stage import Progress, Stage
from tests.planted import directions

transformers.utils.logging.disable_progress_bar()


def artifact(
    store: Store,
    stage: str,
    write: Any,
    facts: Mapping[str, Any],
    seed: int = 0,
    **inputs: Artifact,
) -> Artifact:
    """A real artifact of any stage: `write(folder)` writes its files. `seed` tells apart artifacts
    of one stage."""

    class Toy(Config):
        seed: int = 0
        """Which of several."""

    def make(folder: Path, config: Any, inputs: Any, settings: Any) -> Iterator[Progress]:
        write(folder)
        yield Progress(1, 1, "files")
        return dict(facts)

    return store.ensure(Stage(stage, 1, make), Toy(seed=seed), inputs)[0]  # type: ignore[arg-type]


@functools.cache
def vectors(n: int, d: int) -> str:
    """A file with so many random vectors of this width, for the kind `vectors`; gone with the
    process."""
    folder = Path(tempfile.mkdtemp(prefix="vectors-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_file({"mine": directions(n, d, seed=5)}, folder / "mine.safetensors")
    return str(folder / "mine.safetensors")


def activations(
    store: Store,
    splits: Mapping[str, Mapping[str, Tensor]],
    provenance: Mapping[str, Mapping[str, Tensor]] | None = None,
    rows_per_shard: int = 7,
    seed: int = 0,
) -> Artifact:
    """A capture artifact of given numbers: split -> hook point -> x[row, d_in].

    Provenance may be given by split; what is left out counts rows (document 0, one context).
    """

    def write(folder: Path) -> None:
        for split, by_hook_point in splits.items():
            n = len(next(iter(by_hook_point.values())))
            columns = {name: torch.arange(n) for name in PROVENANCE}
            columns |= {"document": torch.zeros(n).long(), "context": torch.zeros(n).long()}
            columns |= dict((provenance or {}).get(split, {}))
            for number, start in enumerate(range(0, n, rows_per_shard)):
                part = slice(start, start + rows_per_shard)
                x = {name: value[part] for name, value in by_hook_point.items()}
                write_activations(
                    folder, split, number, x, {name: c[part] for name, c in columns.items()}
                )

    first = splits.get("train") or next(iter(splits.values()))
    facts = {
        "hook_points": {
            name: {"d_in": x.shape[1], "mean_norm": float(x.float().norm(dim=1).mean())}
            for name, x in first.items()
        },
        "splits": {
            split: {"rows": len(next(iter(x.values()))), "contexts": 1}
            for split, x in splits.items()
        },
        "dtype": str(next(iter(first.values())).dtype).removeprefix("torch."),
        "tokens_per_second": 1.0,
        "model": "toy",
    }
    return artifact(store, "capture", write, facts, seed)


WORDS = [
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "king",
    "queen",
    "ran",
    "sat",
    "saw",
    "ate",
    "and",
    "then",
    "he",
    "she",
    "it",
    "was",
    "big",
    "small",
    "red",
    "blue",
    "one",
    "two",
    "three",
    "in",
    "on",
    "under",
    "house",
    "tree",
    "river",
    ".",
    ",",
    "!",
    "?",
]
LAYOUTS = ("gpt2", "gpt_neox", "llama", "qwen2", "gemma2", "mistral")


def tokenizer() -> PreTrainedTokenizerFast:
    """One id for each of `WORDS`, words parted by spaces."""
    words = Tokenizer(
        WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def tiny_network(layout: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random transformers model of that layout: 3 blocks (4 heads of 4) of width 16, vocabulary
    `WORDS`.

    Its weights are large enough that blocks, positions and tokens all matter.
    """
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.25,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    own: dict[str, Any] = {"num_key_value_heads": 2}
    if layout == "gpt2":
        own = {
            "n_inner": 40,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "n_positions": 128,
        }
        own["tie_word_embeddings"] = True
    elif layout == "gpt_neox":
        own = {"tie_word_embeddings": False}
    elif layout == "gemma2":
        own |= {"head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 8}
    elif layout == "mistral":
        own |= {"sliding_window": None}
    config = transformers.AutoConfig.for_model(layout, **(shape | own | changes))
    config.architectures = [
        type_.__name__ for type_ in [transformers.AutoModelForCausalLM._model_mapping[type(config)]]
    ]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformers.AutoModelForCausalLM.from_config(config)
        for name, parameter in network.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 1.0, 0.2)
    return network.eval()


def tiny_model(layout: str = "llama", seed: int = 0, **changes: Any) -> LanguageModel:
    """A random language model with a tokenizer, in memory."""
    return LanguageModel(tiny_network(layout, seed, **changes), tokenizer())


def tiny_reference(
    folder: Path, layout: str = "llama", seed: int = 0, **changes: Any
) -> ModelReference:
    """The same model written to a folder, as an input of stages."""
    tiny_network(layout, seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return ModelReference(ModelConfig(path=str(folder)))
