"""Pretraining of the world's language model: a small Llama on stories packed whole.

Contexts are laid out as every later stage packs them: `[bos] story [eos] story [eos] ... pad`, a
story never cut unless it is longer than a context. The optimiser is AdamW with a short warm-up and
a linear decay to zero (Defazio et al. 2024, "When, Why and How Much? Adaptive Learning Rate
Scheduling by Refinement", find linear decay hard to beat). The loss is held against the grammar's
own entropy per token, which is the least a model of its stories can reach but for what is summed
out in the derivation.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from components.config import Config
from components.device import Execution, resolve
from components.model import loading
from components.seeds import derive
from components.store.artifact import Artifact
from components.store.stage import Progress, Stage, Work
from components.world.grammar import Split, World, WorldConfig
from components.world.inventory import write_inventory
from components.world.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED = -100
WINDOW = 256
DOCUMENTS = "pretrain_documents.safetensors"


class PretrainConfig(Config):
    """The embedded world's language model."""

    world: WorldConfig = WorldConfig()
    """The grammar it learns."""
    seed: int = 0
    """Seed of the stories and of the initial weights."""
    tokens: PositiveInt = 5_000_000
    """Tokens to train on, padding not counted."""
    d_model: PositiveInt = 128
    """Width of the residual stream."""
    n_layers: PositiveInt = 4
    """Transformer blocks."""
    n_heads: PositiveInt = 4
    """Attention heads in each block."""
    d_mlp: PositiveInt = 384
    """Width of the gated MLP."""
    context_length: PositiveInt = 256
    """Tokens in a context."""
    batch_contexts: PositiveInt = 8
    """Contexts in a step."""
    learning_rate: PositiveFloat = 2e-3
    """Peak learning rate of AdamW."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of training over which the learning rate rises."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices."""
    embedding_scale: PositiveFloat = 0.5
    """Deviation of the initial embeddings; the final norm starts at its inverse, so that first
    logits are small. With small embeddings the words of one class fall together in the first steps,
    and topics stay unlearnt for long."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the matrix products while training; weights and optimiser stay in float32."""
    held_out_stories: PositiveInt = 400
    """Stories of the validate split on which the loss is measured at the end."""


def story_digest(text: str) -> int:
    """blake2b-64 of a document as a signed integer; `read` uses the same to keep its splits away
    from pretraining."""
    return int.from_bytes(
        hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True
    )


def pack_stories(
    documents: Sequence[Sequence[int]], context_length: int, bos: int, eos: int, pad: int
) -> Int[Tensor, "context position"]:
    """Documents into contexts, first fit: each goes whole into the first context that has room for
    it and its end."""
    room = context_length - 1
    contexts: list[list[int]] = []
    for document in documents:
        ended = [*document, eos]
        for piece in (ended[at : at + room] for at in range(0, len(ended), room)):
            fitting = next((c for c in contexts if len(c) + len(piece) <= context_length), None)
            if fitting is None:
                contexts.append([bos, *piece])
            else:
                fitting.extend(piece)
    return torch.tensor([context + [pad] * (context_length - len(context)) for context in contexts])


def _contexts(
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    split: Split,
    config: PretrainConfig,
    seen: list[int],
) -> Iterator[Int[Tensor, "position"]]:
    """The contexts of a split without end, packed a window of stories at a time; `seen` takes the
    documents' digests."""
    stories = world.stories(split, config.seed)
    while True:
        texts = [next(stories).text for _ in range(WINDOW)]
        seen.extend(story_digest(text) for text in texts)
        documents = tokenizer(texts, add_special_tokens=False)["input_ids"]
        yield from _pack(documents, tokenizer, config.context_length)


def _pack(
    documents: Any, tokenizer: PreTrainedTokenizerFast, context_length: int
) -> Int[Tensor, "context position"]:
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return pack_stories(documents, context_length, bos, eos, pad)


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A randomly initialised Llama with tied embeddings."""
    shape = dict(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "pretrain", "weights"))
        model = loading.new_llama(**shape)
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=config.embedding_scale)
        torch.nn.init.constant_(
            model.model.norm.weight, 1 / (config.embedding_scale * config.d_model**0.5)
        )
        return model


def token_losses(
    model: LlamaForCausalLM, contexts: Int[Tensor, "context position"], pad: int
) -> Float[Tensor, "predicted"]:
    """Cross-entropy in nats of every token that is not padding, the first of a context excepted."""
    logits = model(input_ids=contexts, use_cache=False).logits[:, :-1]
    targets = contexts[:, 1:].masked_fill(contexts[:, 1:] == pad, IGNORED)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
    )
    return losses[targets.flatten() != IGNORED]


@torch.no_grad()
def held_out_loss(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    n_stories: int,
    split: Split,
    seed: int,
) -> tuple[float, float, int]:
    """(loss, entropy, tokens): nats a token over whole stories and their end tokens, and the
    grammar's own.

    Each story stands alone in its context, so that both sums run over the same tokens.
    """
    device = model.device
    stories = [
        story for _, story in zip(range(n_stories), world.stories(split, seed), strict=False)
    ]
    documents = tokenizer([story.text for story in stories], add_special_tokens=False)["input_ids"]
    total, n_tokens, nats = 0.0, 0, 0.0
    order = sorted(range(n_stories), key=lambda number: len(documents[number]))
    for at in range(0, n_stories, 32):
        batch = [documents[number] for number in order[at : at + 32]]
        longest = max(len(document) for document in batch) + 2
        contexts = torch.cat([_pack([document], tokenizer, longest) for document in batch])
        losses = token_losses(model, contexts.to(device), tokenizer.pad_token_id)
        total += losses.double().sum().item()
        n_tokens += losses.numel()
        nats += sum(stories[number].nats for number in order[at : at + 32])
    return total / n_tokens, nats / n_tokens, n_tokens


def make(folder: Path, config: PretrainConfig, inputs: Any, settings: Execution) -> Work:
    """Trains and writes model, tokenizer, provenance and the digests of every story it has seen."""
    from safetensors.torch import save_file

    device = resolve(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    started = time.time()
    world = World(config.world)
    tokenizer = build_tokenizer(world)
    model = build_model(config, tokenizer).to(device).train()
    model.set_attn_implementation("eager")  # faster than the fused kernel at this size on a CPU
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    seen: list[int] = []
    stream = _contexts(world, tokenizer, "pretrain", config, seen)
    curve: list[dict[str, float]] = []
    tokens = step = 0
    while tokens < config.tokens:
        share = tokens / config.tokens
        rate = config.learning_rate * min(
            share / config.warmup if config.warmup else 1.0, (1 - share) / (1 - config.warmup)
        )
        for group in optimiser.param_groups:
            group["lr"] = max(rate, config.learning_rate * 0.01)
        batch = torch.stack([next(stream) for _ in range(config.batch_contexts)])
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            losses = token_losses(model, batch.to(device), tokenizer.pad_token_id)
        loss = losses.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        tokens += losses.numel()
        step += 1
        if step % 50 == 0 or tokens >= config.tokens:
            speed = tokens / (time.time() - started)
            curve.append({"tokens": tokens, "loss": round(loss.item(), 4)})
            yield Progress(
                tokens,
                config.tokens,
                "tokens",
                "",
                {"loss": loss.item(), "tokens_per_second": speed},
            )

    model.eval()
    loss, entropy, n_held_out = held_out_loss(
        model, tokenizer, world, config.held_out_stories, "validate", config.seed
    )
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_inventory(folder, world)
    save_file({"documents": torch.tensor(seen, dtype=torch.int64)}, folder / DOCUMENTS)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "tokens": tokens,
        "stories": len(seen),
        "steps": step,
        "seconds": round(time.time() - started, 1),
        "held_out_loss": round(loss, 4),
        "entropy": round(entropy, 4),
        "held_out_tokens": n_held_out,
    }
    provenance = {
        "config": config.model_dump(mode="json"),
        "world_version": world.version,
        **facts,
        "curve": curve,
    }
    (folder / "provenance.json").write_text(
        json.dumps(provenance, indent=1) + "\n", encoding="utf-8"
    )
    return facts


def export(artifact: Artifact, folder: Path) -> list[Path]:
    """Copies a pretrained model's files, verified, to where it is committed (`data/demo`)."""
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(artifact.path(name), folder / name)) for name in artifact.files]


PRETRAIN = Stage("pretrain", version=1, make=make, entries=lambda config: {"world": World.version})
