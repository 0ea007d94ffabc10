"""One training step of a TopK dictionary: ours, the peers', and the encoder's product alone, on the
same data.

    python benchmarks/train_step.py [--turns 7] [--threads 2] [--shape 512,16384,32,4096 ...]
    [--peers FOLDER] [--json]

Each one runs in a process of its own with the same number of threads, and takes one step when it is
its turn (ours, product, peers, again and again), so that a busy machine is busy for all; medians
over the turns after a warm-up step. A step is: loss, gradient, clip, Adam, unit decoder rows, as
each one's trainer does it, no latent dead. `product_ms` is `torch.addmm(b_enc, x, W_enc.T)` by
itself, its output written to memory that is there already. `peak_mb` is what building and stepping
added to the process, at most; `allowed_mb` is 1.3 times weights, gradients, Adam's moments and one
batch of pre-activations. A peer needs an environment: FOLDER/<peer>/bin/python (default
`.venv-peers`); a missing one is said. To reach: at most 1.6 times the product, 1.65 times faster
than the fastest peer, 4 times faster than sae-lens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHAPES = ((512, 16384, 32, 4096), (768, 24576, 64, 4096))
PEERS = ("eai-sparsify", "sae-lens", "dictionary-learning")
PRODUCT = "encoder product"


def latentflow(d_in: int, d_sae: int, k: int, x) -> Callable[[], object]:
    sys.path.insert(0, str(REPOSITORY))
    import torch

    from components.dictionary.architectures.topk import TopK, TopKConfig
    from components.dictionary.kernels.allocator import kept
    from components.dictionary.learner import Learner
    from components.dictionary.settings import TrainConfig

    options = TopKConfig(d_sae=d_sae, k=k)
    dictionary = TopK(options, ("x",), ("x",), {"x": d_in})
    dictionary.begin({"x": x[:512]}, torch.Generator().manual_seed(0))
    learner = Learner(
        dictionary, TrainConfig(dictionary=options, tokens=1000 * len(x), batch_size=len(x))
    )
    memory = contextlib.ExitStack()
    memory.enter_context(kept(learner.largest))  # as `fit` does, until the process ends
    return lambda: (learner.learn({"x": x}), memory)


def product(d_in: int, d_sae: int, k: int, x) -> Callable[[], object]:
    import torch

    W_enc, b_enc = torch.randn(d_sae, d_in), torch.zeros(d_sae)
    out = torch.empty(len(x), d_sae)
    return lambda: torch.addmm(b_enc, x, W_enc.T, out=out)


def sparsify(d_in: int, d_sae: int, k: int, x) -> Callable[[], object]:
    """On the device of x. A forward pass under its own autocast to bfloat16 where that is a GPU."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k), device=x.device)
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        coder.set_decoder_norm_to_unit_norm()
        coder(x).fvu.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    return step


def sae_lens(d_in: int, d_sae: int, k: int, x) -> Callable[[], object]:
    import torch
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, use_sparse_activations=False)
    )
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-4)
    dead = torch.zeros(d_sae, dtype=torch.bool)

    def step() -> None:
        given = TrainStepInput(
            sae_in=x,
            coefficients={},
            dead_neuron_mask=dead,
            n_training_steps=1,
            is_logging_step=False,
        )
        sae.training_forward_pass(given).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def dictionary_learning(d_in: int, d_sae: int, k: int, x) -> Callable[[], object]:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(1000, d_in, d_sae, k, layer=0, lm_name="", warmup_steps=10, device="cpu")
    return lambda: trainer.update(1, x)


STEPS = {
    "latentflow": latentflow,
    PRODUCT: product,
    "eai-sparsify": sparsify,
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
}


def status(field: str) -> float:
    """A line of this process's memory in MB."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) / 1024


def work(who: str, shape: tuple[int, int, int, int], threads: int) -> None:
    """Answers every line on stdin with the milliseconds of one step, and the memory it added so
    far."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a peer prints is no answer
    import torch

    torch.set_num_threads(threads)
    d_in, d_sae, k, batch = shape
    x = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0))
    STEPS[who](8, 64, 2, x[:64, :8].contiguous())()  # imports, first calls
    before = status("VmRSS")
    step = STEPS[who](d_in, d_sae, k, x)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        milliseconds = 1000 * (time.perf_counter() - began)
        print(json.dumps([milliseconds, status("VmHWM") - before]), file=answers, flush=True)


class Worker:
    """One contestant in its own process."""

    def __init__(
        self, python: Path | str, who: str, shape: tuple[int, int, int, int], threads: int
    ) -> None:
        arguments = ["--work", who, "--shape", ",".join(map(str, shape)), "--threads", str(threads)]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
        }
        self.who, self.milliseconds, self.peak = who, [], 0.0
        self.process = subprocess.Popen(
            [str(python), __file__, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        encoding="utf-8", errors="replace")  # fmt: skip

    def turn(self) -> None:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        try:
            print("step", file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            sys.exit(f"{self.who} failed:\n{self.process.stderr.read()[-2000:]}")
        took, self.peak = json.loads(answer)
        self.milliseconds.append(took)

    def end(self) -> None:
        self.process.communicate(timeout=60)


def measure(
    shape: tuple[int, int, int, int], turns: int, threads: int, pythons: dict[str, Path | str]
) -> list[dict]:
    workers = [Worker(python, who, shape, threads) for who, python in pythons.items()]
    for _ in range(turns + 1):
        for worker in workers:
            worker.turn()
    for worker in workers:
        worker.end()
    d_in, d_sae, k, batch = shape
    alone = next(
        statistics.median(worker.milliseconds[1:]) for worker in workers if worker.who == PRODUCT
    )
    learnt = 2 * d_sae * d_in + d_sae + d_in
    rows = []
    for worker in workers:
        middle = statistics.median(worker.milliseconds[1:])
        rows.append(
            {
                "who": worker.who,
                "d_in": d_in,
                "d_sae": d_sae,
                "k": k,
                "batch": batch,
                "step_ms": round(middle, 1),
            }
            | {
                "product_ms": round(alone, 1),
                "over_product": round(middle / alone, 2),
                "peak_mb": round(worker.peak),
            }
            | {"allowed_mb": round(1.3 * 4 * (4 * learnt + batch * d_sae) / 2**20)}
            | {
                "fastest_ms": round(min(worker.milliseconds[1:]), 1),
                "turns": turns,
                "threads": threads,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--shape", action="append", help="d_in,d_sae,k,batch; may be given several times"
    )
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".venv-peers")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    shapes = [tuple(map(int, shape.split(","))) for shape in given.shape] if given.shape else SHAPES
    if given.work:
        return work(given.work, shapes[0], given.threads)
    pythons: dict[str, Path | str] = {"latentflow": sys.executable, PRODUCT: sys.executable}
    for peer in PEERS:
        python = given.peers / peer / "bin" / "python"
        if python.exists():
            pythons[peer] = python
        else:
            print(f"{peer} is missing: no {python}; `make peers` builds it", file=sys.stderr)
    rows = [row for shape in shapes for row in measure(shape, given.turns, given.threads, pythons)]
    if given.json:
        return print(json.dumps(rows, indent=1))
    names = (
        "who",
        "d_in",
        "d_sae",
        "k",
        "batch",
        "step_ms",
        "product_ms",
        "over_product",
        "peak_mb",
        "allowed_mb",
    )
    for row in [dict(zip(names, names, strict=True)), *rows]:
        print("  ".join(f"{row[name]!s:>{20 if name == 'who' else 12}}" for name in names))


if __name__ == "__main__":
    main()
