"""What steering costs: ratios of speeds, each of things that run turn by turn in one run.

    steered     tokens a second of steered generation over plain generation, at equal batch, for each
                operator. To reach: 0.85
    mixed       the same with 64 different steerings in one batch. To reach: 0.7
                (edits of latents read the whole dictionary at every token: what that costs is the
                dictionary's size over the model's)
    protocol    continuations a second of the protocol's writer (batched over steerings and prompts,
                losses and costs measured) over one prompt at a time. To reach: 5
    peers       steered generation here over that of repeng and steering-vectors (one added vector,
                transformers' generate), each in an environment of its own (`make steering-peers`);
                one that is not there is left out, with the reason

Seconds are processor seconds of one thread, so that whatever else the machine does changes little; a
ratio is the median over the turns.

    python -m benchmarks.steering [--json] [--turns 5] [--model FOLDER] [--tokens 64]

Without --model it is a random Llama of the size of the world's model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import transformers

from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary, untrained
from components.model.generation import generate
from components.model.intervention import NOTHING, Intervention
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.steering.contract import Steering
from components.steering.methods.clamp_latent import ClampLatent
from components.steering.methods.logit_bias import RaiseWords
from components.steering.methods.scale_latent import ScaleLatent
from components.steering.vector import OPERATORS, AddVector, Vectors
from components.steering.writer import Job, Prompt, Writer
from tests import toys

REPOSITORY = Path(__file__).resolve().parents[1]
BATCH, PROMPT, LATENTS, ACTIVE = 64, 8, 1024, 16
TO_REACH = {"steered": 0.85, "mixed": 0.7, "protocol": 5.0}
PEERS = ("repeng", "steering-vectors")


def random_model(folder: Path) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512,
    )  # fmt: skip
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    toys.tokenizer().save_pretrained(folder)
    return folder


def alternating(sides: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """What each side took in every turn, in processor seconds; the first turn warms up and is left out."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        # each goes first as often as last
        order = list(sides) if turn % 2 else list(reversed(sides))
        for name in order:
            seconds = sides[name]()
            if turn:
                took[name].append(seconds)
    return took


def ratio(plain: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Of two lists of seconds, turn by turn: how fast the other is, in units of the plain one."""
    each = [p / o for p, o in zip(plain, other, strict=True)]
    return {
        "ratio": statistics.median(each), "least": min(each), "most": max(each), "turns": len(each)
    }  # fmt: skip


class Bench:
    """One model, its prompts and its steerings."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self.folder, self.tokens = folder, tokens
        self.model: LanguageModel = ModelReference(ModelConfig(path=str(folder))).load()
        generator = torch.Generator().manual_seed(1)
        self.point = f"resid_post.{self.model.n_layers // 2}"
        drawn = torch.randint(3, self.model.vocab_size, (BATCH, PROMPT), generator=generator)
        self.prompts: list[list[int]] = drawn.tolist()
        x = self.model.read(drawn, [self.point])[self.point].flatten(0, 1)
        self.unit = float(x.norm(dim=1).mean())
        options = TopKConfig(d_sae=LATENTS, k=ACTIVE)
        widths = {self.point: self.model.d_model}
        self.dictionary: Dictionary = untrained(
            options, self.point, widths, {self.point: x}, generator
        )
        vectors = torch.randn(BATCH, self.model.d_model, generator=generator)
        self.vectors = torch.nn.functional.normalize(vectors, dim=1)

    def steerings(self, kind: str) -> list[Steering]:
        """As many different ones as the batch has rows."""
        if kind == "add":
            return [AddVector(self.point, v, self.unit) for v in self.vectors]
        if kind in OPERATORS:
            return [
                Vectors({self.point: v}, {self.point: self.unit}, kind)  # type: ignore[arg-type]
                for v in self.vectors
            ]
        if kind == "logit_bias":
            return [RaiseWords.of([[3 + i, 5], [7, 3 + i]] * 5) for i in range(BATCH)]
        of = {"clamp_latent": ClampLatent, "scale_latent": ScaleLatent}[kind]
        return [
            of(self.point, torch.tensor([i]), torch.ones(1), "all", self.dictionary)
            for i in range(BATCH)
        ]

    def seconds(self, intervention: Intervention = NOTHING) -> float:
        """Of writing the batch; no row ends early."""
        begun = time.process_time()
        generate(
            self.model,
            self.prompts,
            max_new_tokens=self.tokens,
            temperature=1.0,
            seeds=range(BATCH),
            intervention=intervention,
            stop=[],
        )
        return time.process_time() - begun

    def operators(self, turns: int, mixed: bool) -> dict[str, dict[str, float]]:
        """Ratio of steered to plain tokens a second, by operator."""
        kinds = [*OPERATORS, "logit_bias", "clamp_latent", "scale_latent"]
        sides: dict[str, Callable[[], float]] = {"plain": self.seconds}
        for kind in kinds:
            rows = self.steerings(kind)
            rows = rows if mixed else rows[:1] * BATCH
            intervention = type(rows[0]).intervention(rows, torch.full((BATCH,), 0.1))
            sides[kind] = lambda intervention=intervention: self.seconds(intervention)
        took = alternating(sides, turns)
        found = {kind: ratio(took["plain"], took[kind]) for kind in kinds}
        for each in found.values():
            each["plain_tokens_per_second"] = BATCH * self.tokens / statistics.median(took["plain"])
        return found

    def protocol(self, turns: int) -> dict[str, float]:
        """Ratio of continuations a second: the writer over one prompt at a time."""
        jobs = [
            Job(Prompt(i, tuple(prompt)), 0, steering, 0.1)
            for steering in self.steerings("add")[:12]
            for i, prompt in enumerate(self.prompts[:8])
        ]

        def seconds(batch: int, part: Sequence[Job]) -> float:
            writer = Writer(self.model, self.tokens, 1.0, 0, batch)
            begun = time.process_time()
            for _ in writer.write(part, side_effects=True):
                pass
            return (time.process_time() - begun) / len(part)

        sides = {"alone": lambda: seconds(1, jobs[::8]), "protocol": lambda: seconds(256, jobs)}
        took = alternating(sides, turns)
        found = ratio(took["alone"], took["protocol"])
        return found | {"texts_per_second": 1 / statistics.median(took["protocol"])}

    def peer(self, name: str, turns: int) -> dict[str, object]:
        """Ratio of tokens a second: here over the peer, both with one added vector."""
        python = REPOSITORY / ".venv-peers" / name / "bin" / "python"
        if not python.exists():
            return {"reason": f"no environment of {name}; make steering-peers"}
        rows = self.steerings("add")[:1] * BATCH
        intervention = AddVector.intervention(rows, torch.full((BATCH,), 0.1))  # type: ignore[arg-type]
        layer = self.model.n_layers // 2
        with _peer(python, name, self, layer) as theirs:
            took = alternating({"peer": theirs, "here": lambda: self.seconds(intervention)}, turns)
        found = ratio(took["peer"], took["here"])
        return found | {"tokens_per_second": BATCH * self.tokens / statistics.median(took["peer"])}


@contextlib.contextmanager
def _peer(python: Path, name: str, bench: Bench, layer: int) -> Iterator[Callable[[], float]]:
    """Seconds of one batch in a process of its own that answers line by line."""
    given = {
        "peer": name, "model": str(bench.folder), "layer": layer, "prompts": bench.prompts,
        "tokens": bench.tokens,
        "vector": (0.1 * bench.unit * bench.vectors[0]).tolist(),
    }  # fmt: skip
    command = [str(python), str(REPOSITORY / "benchmarks" / "steering_peer.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def asked(line: str) -> float:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError(f"the process of {name} ended")
            return float(answer)

        asked(json.dumps(given))
        yield lambda: asked("again")
        process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder; a random model without it")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each row")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(given.model) if given.model else random_model(Path(folder)), given.tokens
        )
        parts: dict[str, Callable[[], dict]] = {
            "protocol": lambda: {"writer": bench.protocol(given.turns)},
            "peers": lambda: {n: bench.peer(n, given.turns) for n in PEERS},
            "steered": lambda: bench.operators(given.turns, mixed=False),
            "mixed": lambda: bench.operators(given.turns, mixed=True),
        }
        found = {}
        for part, measured in parts.items():
            found[part] = measured()
            print(f"{part}: {found[part]}", file=sys.stderr, flush=True)
    missed = [
        f"{part} {name}: {each['ratio']:.2f}, wanted {TO_REACH[part]:g}"
        for part in TO_REACH
        for name, each in found[part].items()
        if each["ratio"] < TO_REACH[part]
    ]
    if given.json:
        about = {"torch": torch.__version__, "python": platform.python_version()}
        print(json.dumps({**found, "missed": missed, "to_reach": TO_REACH, **about}, indent=1))
    else:
        for part, rows in found.items():
            for name, each in rows.items():
                told = each.get("reason") or (
                    f"{each['ratio']:.2f} ({each['least']:.2f} to {each['most']:.2f}, "
                    f"{each['turns']} turns)"
                )
                print(f"{part:9} {name:16} {told}")
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
