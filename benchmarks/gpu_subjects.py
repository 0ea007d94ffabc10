"""What the sections of `gpu.py` are measured on: random models, rows, dictionaries.

A name of `components` that may move is used in one function here: how a text is steered
(`steered`), how a dictionary begins (`a_learner`), how a stage captures (`capture_once`), what an
update is said to take (`forecast`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.gpu_bench import Bench
from components.capture.capture import CaptureConfig
from components.capture.capture import make as capture
from components.device import Execution
from components.dictionary.contract import architectures, untrained
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.model.generation import generate
from components.model.intervention import NOTHING, Intervention, add
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.seeds import torch_generator

CPU = torch.device("cpu")
NAME = "x"
"""The hook point of activations that no model gave."""
Shape = Mapping[str, int]


def llama(bench: Bench, full: Shape) -> Shape:
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 64,
    }
    return bench.of(full, small)


def exact_llama(bench: Bench) -> Shape:
    """The shape of the model whose numbers are compared with the CPU's."""
    full = {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
    }
    return llama(
        bench,
        {**full, "num_key_value_heads": 8, "vocab_size": 4096, "max_position_embeddings": 256},
    )


def fast_llama(bench: Bench) -> Shape:
    """The shape of the model whose speed is measured, 0.9 billion weights."""
    full = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
    }
    return llama(
        bench,
        {**full, "num_key_value_heads": 16, "vocab_size": 32000, "max_position_embeddings": 1024},
    )


def steered(
    model: LanguageModel,
    hook_point: str,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    step: Tensor | None,
) -> list[list[int]]:
    """Continuations with a step added at a hook point at every token; plain ones without a step."""
    change = NOTHING if step is None else Intervention((add(hook_point, step),))
    seeds = range(len(prompts))
    settings = {"max_new_tokens": n_tokens, "temperature": 1.0, "seeds": seeds, "stop": ()}
    return generate(model, prompts, intervention=change, **settings)


def options_of(kind: str, d_sae: int, k: int) -> Any:
    """The section of an architecture, with size and sparsity where it has them."""
    config = architectures[kind].config
    wanted = {"d_sae": d_sae, "k": k}
    return config(**{name: wanted[name] for name in wanted.keys() & config.model_fields.keys()})


def a_learner(options: Any, sample: Tensor, **settings: Any) -> Learner:
    """A dictionary with its first values, on the sample's device, and what trains it."""
    widths, generator = {NAME: sample.shape[1]}, torch_generator(0, "gpu")
    dictionary = untrained(options, NAME, widths, {NAME: sample}, generator)
    return Learner(dictionary, TrainConfig(dictionary=options, **settings))


def capture_once(
    bench: Bench,
    reference: ModelReference,
    corpus: Any,
    point: str,
    where: torch.device,
) -> Path:
    """The folder of shards that the stage `capture` writes."""
    folder = bench.folder / f"captured-{where.type}-{len(list(bench.folder.iterdir()))}"
    folder.mkdir()
    config = CaptureConfig(hook_points=(point,), splits=("train",), batch_size=bench.of(32, 8))
    inputs, settings = {"model": reference, "corpus": corpus}, Execution(device=str(where))
    for _ in capture(folder, config, inputs, settings):
        pass
    return folder


def forecast(config: TrainConfig, d_in: int, n_rows: int, settings: Execution) -> int:
    """Bytes that a run of this section is said to take."""
    from components.dictionary.estimate import memory  # here, since it needs polars

    facts = {
        "hook_points": {NAME: {"d_in": d_in}},
        "splits": {"train": {"rows": n_rows}},
        "dtype": "float32",
    }
    return sum(memory([config], SimpleNamespace(facts=facts), settings).values())


def saved(bench: Bench, shape: Shape, dtype: str, where: torch.device) -> ModelReference:
    """A random model in a folder of its own."""
    folder = bench.folder / f"model-{dtype}-{shape['hidden_size']}"
    if not folder.exists():
        random_network(shape, getattr(torch, dtype), where).cpu().save_pretrained(
            writing := folder.with_suffix(".writing")
        )
        writing.rename(folder)
    return ModelReference(ModelConfig(path=str(folder), dtype=dtype))  # type: ignore[arg-type]


def rows(n: int, width: int, where: torch.device = CPU) -> Tensor:
    """Rows away from zero that vary much along some directions and little along others."""
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(width, width, device=where)).Q
    spread = torch.logspace(0, -2, width, device=where)
    return (torch.randn(n, width, device=where) * spread) @ turned + 0.3


def random_network(shape: Mapping[str, int], dtype: torch.dtype, where: torch.device) -> Any:
    """A Llama of that shape with random weights, made on the device."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("llama", **shape, tie_word_embeddings=False)
    with where:
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
