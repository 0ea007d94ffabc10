"""Capture, writing included, against the bare forward pass cut at the same block: the ratio of
their speeds, in one run.

The bare pass is the network itself with later blocks, final norm and head taken out, no hook and
nothing kept. Both run over the same contexts, turn by turn, so that whatever else the machine does
falls on both; the ratio is the median over the turns. To reach: 0.90 or more.

    python -m benchmarks.capture [--json] [--turns 7] [--tokens 150000] [--only demo] [--device
    auto]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from components import device
from components.capture.capture import CaptureConfig, make
from components.config import Config
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.store.artifact import Artifact, Store
from components.store.stage import Progress, Stage

TO_REACH = 0.90


class _Contexts(Config):
    name: str
    """Which model they are for."""


def _random_model(folder: Path, layout: str, **shape: int) -> ModelReference:
    config = transformers.AutoConfig.for_model(layout, **shape)
    network = transformers.AutoModelForCausalLM.from_config(config)
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(folder)
    return ModelReference(ModelConfig(path=str(folder)))


def _models(folder: Path) -> dict[str, tuple[ModelReference, int]]:
    """Name -> (model, block behind which is captured)."""
    demo = ModelReference(ModelConfig())
    try:
        found, name = demo.folder, "demo"
        blocks_there = json.loads((found / "config.json").read_text(encoding="utf-8"))[
            "num_hidden_layers"
        ]
    except ValueError:
        name, blocks_there = "demo-sized random Llama", 4
        shape = {
            "vocab_size": 2048,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": blocks_there,
        }
        demo = _random_model(
            folder / "llama", "llama", **shape, num_attention_heads=4, max_position_embeddings=128
        )
    gpt2 = _random_model(
        folder / "gpt2",
        "gpt2",
        n_embd=768,
        n_layer=12,
        n_head=12,
        n_positions=1024,
        vocab_size=50257,
    )
    return {name: (demo, blocks_there // 2), "random GPT-2 small": (gpt2, 6)}


def corpus(store: Store, name: str, n_contexts: int, length: int, vocab_size: int) -> Artifact:
    def write(folder: Path, config: _Contexts, inputs: object, settings: object):
        token = torch.randint(0, vocab_size, (n_contexts, length), dtype=torch.int32)
        document = torch.arange(n_contexts, dtype=torch.int32)[:, None].repeat(1, length)
        document[:, 0] = -1
        position = torch.arange(-1, length - 1, dtype=torch.int32).repeat(n_contexts, 1)
        (folder / "contexts").mkdir()
        save_file(
            {"token": token, "document": document, "position": position},
            folder / "contexts" / "train.safetensors",
        )
        yield Progress(1, 1, "files")
        return {}

    return store.ensure(Stage("read", 1, write), _Contexts(name=name), {})[0]


def _bare(model: LanguageModel, last_block: int) -> torch.nn.Module:
    """The network up to and with `last_block`, and nothing else."""
    network = model.network.base_model
    del model.blocks[last_block + 1 :]
    for norm in ("norm", "ln_f", "final_layer_norm"):
        if hasattr(network, norm):
            setattr(network, norm, torch.nn.Identity())
    network.config.num_hidden_layers = last_block + 1
    return network


def _wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize()


def measure(
    name: str,
    reference: ModelReference,
    block: int,
    n_tokens: int,
    turns: int,
    settings: device.Execution,
    length: int = 128,
    batch: int = 32,
    within: Path | None = None,
) -> dict:
    """One model: speeds of both, and their ratio turn by turn, over contexts of `length` tokens,
    `batch` in a pass; writes below `within`."""
    n_contexts = max(batch, n_tokens // length)
    model = reference.load(settings)
    bare = _bare(model, block)
    config = CaptureConfig(
        hook_points=(f"resid_post.{block}",), splits=("train",), batch_size=batch
    )
    ratios, captured, plain = [], [], []
    with tempfile.TemporaryDirectory(dir=within) as folder:
        contexts = corpus(Store(folder), name, n_contexts, length, model.vocab_size)
        inputs = {"model": reference, "corpus": contexts}
        tokens = torch.randint(0, model.vocab_size, (n_contexts, length))
        for turn in range(turns + 1):  # the first turn warms up and is not counted
            started = time.perf_counter()
            with torch.no_grad():
                for part in tokens.split(batch):
                    bare(input_ids=part.to(model.device, non_blocking=True), use_cache=False)
            _wait(model.device)
            seconds_bare = time.perf_counter() - started

            into = Path(folder) / f"turn-{turn}"
            into.mkdir()
            work = make(into, config, inputs, settings)
            next(work)  # loads the model
            started = time.perf_counter()
            for _ in work:
                pass
            seconds = time.perf_counter() - started
            written = sum(path.stat().st_size for path in into.rglob("*.safetensors"))
            for path in into.rglob("*.safetensors"):
                path.unlink()
            if turn:
                ratios.append(seconds_bare / seconds)
                captured.append(tokens.numel() / seconds)
                plain.append(tokens.numel() / seconds_bare)
    ratio = statistics.median(ratios)
    return {
        "model": name,
        "hook_point": config.hook_points[0],
        "tokens": tokens.numel(),
        "bytes": written,
        "capture_tokens_per_second": round(statistics.median(captured)),
        "bare_tokens_per_second": round(statistics.median(plain)),
        "ratio": round(ratio, 4),
        "ratio_low": round(min(ratios), 4),
        "ratio_high": round(max(ratios), 4),
        "turns": turns,
        "to_reach": TO_REACH,
        "reached": ratio >= TO_REACH,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--tokens", type=int, default=150_000, help="tokens a turn for the small model"
    )
    parser.add_argument("--only", default="", help="measure only models whose name contains this")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    settings = device.Execution(device=given.device)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for name, (reference, block) in _models(Path(folder)).items():
            if given.only not in name:
                continue
            n_tokens = given.tokens if "GPT-2" not in name else given.tokens // 15
            results.append(measure(name, reference, block, n_tokens, given.turns, settings))
    machine = {
        "device": str(device.resolve(given.device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    if given.json:
        print(
            json.dumps({"benchmark": "capture", "machine": machine, "results": results}, indent=1)
        )
        return
    for result in results:
        print(
            f"{result['model']:28} {result['hook_point']:14} capture "
            f"{result['capture_tokens_per_second']:>9,} tok/s   "
            f"bare {result['bare_tokens_per_second']:>9,} tok/s   ratio {result['ratio']:.3f} "
            f"({result['ratio_low']:.3f} to {result['ratio_high']:.3f})  "
            f"{'reached' if result['reached'] else 'MISSED'}"
        )
    sys.exit(0 if all(result["reached"] for result in results) else 1)


if __name__ == "__main__":
    main()
