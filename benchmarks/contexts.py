"""Contexts of many latents: how long they take beside model and encoder, and what they hold.

    python benchmarks/contexts.py [--latents 16384] [--tokens 1000000 10000000] [--from-model] [--json]

Text, activations and codes are random, in shards as `capture` and `encode` write them; each latent
has a density of its own (a power law), and a few shards of codes come again and again. `contexts`
is everything from the shards to records with text and activations of every latent: passes over the
codes, mean vectors, four kinds of silent windows, near-duplicates, the pool. Beside it, in the same
process and in turns with it, stand a forward pass of a model of the size of stories260k (random
weights: time does not depend on them) and the encoding of its activations by a top-k dictionary
with as many latents, each timed on part of the tokens and scaled; all in seconds of processor time,
which another process that is busy changes least. `memory_mb` is what was allocated
at most (RssAnon: files that are mapped are not counted), by a process of its own for each number of
tokens.

With `--from-model` nothing is stored (`capture.from_model`): random text passes such a model twice on
explain and once on calibrate and test, and codes are gathered on the way. `seconds_statistics` are those of `encode`,
`seconds_passes` those of the pass that gathers; both hold forward and encoder, and `seconds` holds neither.

To reach: contexts in at most 1.8 times forward plus encoder, and less than 4 GB, flat from 1 to 10
million tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from components.capture.capture import CAPTURE, CaptureConfig  # noqa: E402
from components.capture.running import opened  # noqa: E402
from components.device import Execution  # noqa: E402
from components.dictionary.contract import (  # noqa: E402
    Dictionary,
    architectures,
    untrained,
)
from components.dictionary.encode import EncodeConfig  # noqa: E402
from components.experiment import ENCODE  # noqa: E402
from components.interpretation.contexts import SPLITS, choose, cut_splits  # noqa: E402
from components.interpretation.gathered import Wanted, gather_codes  # noqa: E402
from components.interpretation.sample import Sample, sample_latents  # noqa: E402
from components.interpretation.tiling import ContextsConfig  # noqa: E402
from components.interpretation.windows import Vocabulary  # noqa: E402
from components.model.reference import ModelConfig, ModelReference  # noqa: E402
from components.store import tables  # noqa: E402
from components.store.artifact import Artifact, Store  # noqa: E402
from components.store.lineage import source  # noqa: E402
from components.store.shards import (  # noqa: E402
    Codes,
    CodeShards,
    is_stored,
    write_activations,
    write_codes,
)
from tests import toys  # noqa: E402

T = TypeVar("T")
D_IN, L0, VOCABULARY, DOCUMENT = 64, 32, 4096, 200
SHARES = {"explain": 0.45, "calibrate": 0.1, "test": 0.45}
SHARD, DISTINCT = 65_536, 7
CONTEXT, IDS = 256, 512
CPU = Execution(device="cpu")
HOOK_POINT = "resid_post.2"


def shards(folder: Path, n_tokens: int, d_sae: int) -> tuple[Artifact, Artifact]:
    """Activations and codes of so many tokens, over the three splits."""
    store, generator = Store(folder), np.random.default_rng(0)
    chances = np.cumsum(1 / (np.arange(VOCABULARY) + 20))
    latent_chances = np.cumsum(1 / (np.arange(d_sae) + d_sae / 8))
    n_active: dict[str, np.ndarray] = {}

    def parts(split: str) -> Iterator[tuple[int, int, int]]:
        n_rows = int(n_tokens * SHARES[split])
        for number, start in enumerate(range(0, n_rows, SHARD)):
            yield number, start, min(SHARD, n_rows - start)

    linked: dict[int, Path] = {}

    def codes() -> Codes:
        drawn = generator.random((SHARD, L0)) * latent_chances[-1]
        latents = np.sort(np.searchsorted(latent_chances, drawn), axis=1)
        new = np.diff(latents, axis=1, prepend=-1) > 0
        offsets = torch.from_numpy(np.append(0, new.sum(1).cumsum()))
        indices = torch.from_numpy(latents[new]).int()
        values = torch.from_numpy(generator.exponential(size=len(indices))).float() + 0.01
        return Codes(offsets, indices, values, d_sae)

    def tokens(split: str, number: int, n: int) -> np.ndarray:
        random = np.random.default_rng((SPLITS.index(split), number))
        return np.searchsorted(chances / chances[-1], random.random(n))

    def write_capture(into: Path) -> None:
        vectors = generator.normal(size=(VOCABULARY, D_IN)).astype(np.float16)
        for place, split in enumerate(SPLITS):
            for number, start, n in parts(split):
                token, row = tokens(split, number, n), start + np.arange(n)
                columns = {"token": token, "document": row // DOCUMENT + place * 10**7}
                columns |= {"position": row % DOCUMENT, "offset": row % DOCUMENT}
                columns["context"] = columns["document"]
                provenance = {name: torch.from_numpy(each) for name, each in columns.items()}
                x = {HOOK_POINT: torch.from_numpy(vectors[token])}
                write_activations(into, split, number, x, provenance)

    def write_encode(into: Path) -> None:
        distinct = [codes() for _ in range(DISTINCT)]
        counts = [np.bincount(each.indices, minlength=d_sae) for each in distinct]
        for split in SPLITS:
            n_active[split] = np.zeros(d_sae, np.int64)
            for number, _, n in parts(split):
                which = (number * 5 + len(split)) % DISTINCT
                if n == SHARD and which in linked:
                    (into / split).mkdir(exist_ok=True)
                    (into / split / f"{number:05}.safetensors").hardlink_to(linked[which])
                else:
                    write_codes(into, split, number, distinct[which].rows(0, n))
                if n == SHARD:
                    linked.setdefault(which, into / split / f"{number:05}.safetensors")
                n_active[split] += counts[which] * n // SHARD
        rows = pl.DataFrame({"latent": np.arange(d_sae), "n_active": n_active["explain"]})
        density = pl.col("n_active") / (n_tokens * SHARES["explain"])
        rows = rows.with_columns(split=pl.lit("explain"), density=density)
        tables.LATENTS.write(into, rows)
        near = pl.DataFrame(
            {
                "latent": np.repeat(np.arange(d_sae), 5),
                "rank": np.tile(np.arange(5), d_sae),
                "neighbour": (np.arange(d_sae)[:, None] + np.arange(1, 6)).ravel() % d_sae,
                "cosine": 0.5,
            }
        )
        tables.NEIGHBOURS.write(into, near)

    captured = {"hook_points": {HOOK_POINT: {"d_in": D_IN, "mean_norm": 8.0}}}
    encoded = {"d_sae": d_sae, "hook_point": HOOK_POINT}
    return (
        toys.artifact(store, "capture", write_capture, captured),
        toys.artifact(store, "encode", write_encode, encoded),
    )


def text_alone(folder: Path, n_tokens: int, d_sae: int) -> tuple[Artifact, Artifact]:
    """Random text of so many tokens over the three splits, to be read by a small model, and a
    dictionary that is encoded without storing codes."""
    store, random = Store(folder), np.random.default_rng(0)
    place = ModelReference(ModelConfig(path=str(folder / "model")))
    small_model().save_pretrained(place.config.path)
    first = 0

    def write_read(into: Path) -> None:
        nonlocal first
        (into / "contexts").mkdir(exist_ok=True)
        position = torch.arange(CONTEXT, dtype=torch.int32)
        for split in SPLITS:
            n = max(1, int(n_tokens * SHARES[split]) // CONTEXT)
            token = torch.from_numpy(random.integers(0, IDS, (n, CONTEXT), np.int32))
            document = torch.arange(first, first + n, dtype=torch.int32)[:, None]
            columns = {"token": token, "document": document.expand(-1, CONTEXT).contiguous()}
            columns["position"] = position.expand(n, -1).contiguous()
            save_file(columns, into / f"contexts/{split}.safetensors")
            first += n

    corpus = toys.artifact(store, "read", write_read, {"context_length": CONTEXT})
    captured = CaptureConfig(hook_points=(HOOK_POINT,), splits=SPLITS, from_model=True)
    activations = store.ensure(CAPTURE, captured, {"model": place, "corpus": corpus}, CPU)[0]
    options = architectures["topk"].config(d_sae=d_sae, k=L0)
    x = {HOOK_POINT: opened(activations, CPU).rows("explain", HOOK_POINT, torch.arange(4096))}
    made = untrained(options, HOOK_POINT, {HOOK_POINT: D_IN}, x, torch.Generator())
    facts = {"name": made.name, "hook_point": HOOK_POINT}
    trained = toys.artifact(store, "train", made.save, facts)
    inputs = {"activations": activations, "dictionary": trained}
    return activations, store.ensure(ENCODE, EncodeConfig(splits=SPLITS), inputs, CPU)[0]


def passed(work: Generator[Any, None, T]) -> T:
    """What a generator returns, once it has been run to its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def gathered(activations: Artifact, encoded: Artifact, sample: Sample) -> dict[str, Any]:
    """All contexts of the sample; seconds by part, windows, latents that were skipped."""
    config, stored = ContextsConfig(), is_stored(encoded)
    began = time.process_time()
    vocabulary = Vocabulary([f" w{number}" for number in range(VOCABULARY)])
    read = opened(activations, CPU)
    cut = cut_splits(read, vocabulary, config)
    cut_after = time.process_time()
    codes, passing = CodeShards(encoded) if stored else None, 0.0
    if codes is None:
        trained = source(encoded, "dictionary")
        assert trained, "the dictionary lies in the same store"
        wanted = [Wanted(encoded, Dictionary.load(trained), sample.latents)]
        (codes,) = passed(gather_codes(wanted, read, cut, config.rows))
        passing = time.process_time() - cut_after
    chosen = passed(choose(codes, cut, sample, 0))
    chosen_after = time.process_time()
    windows = skipped = silent = 0
    for record in chosen.records():
        windows += len(record.explain) + len(record.calibrate) + len(record.test)
        silent += int((~record.test.active).sum())
        skipped += record.reason is not None
    ended = time.process_time()
    return {
        "seconds": ended - began - passing,
        "seconds_cut": cut_after - began,
        "seconds_passes": passing,
        "seconds_chosen": chosen_after - cut_after - passing,
        "seconds_read": ended - chosen_after,
        "windows": windows,
        "silent_of_test": silent / len(sample.latents),
        "skipped": skipped,
    }


def small_model() -> Any:
    """A model of the size of stories260k, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = LlamaConfig(
        vocab_size=IDS, hidden_size=D_IN, intermediate_size=172, num_hidden_layers=5,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=512,
    )  # fmt: skip
    return LlamaForCausalLM(size).eval()


class Beside:
    """A forward pass of a small model and the encoding of its activations, by the token."""

    def __init__(self, d_sae: int) -> None:
        self.model = small_model().model
        x = {HOOK_POINT: torch.randn(4096, D_IN)}
        options = architectures["topk"].config(d_sae=d_sae, k=L0)
        made = untrained(options, HOOK_POINT, {HOOK_POINT: D_IN}, x, torch.Generator())
        self.dictionary = made

    @torch.inference_mode()
    def seconds(self, n_tokens: int) -> tuple[float, float]:
        """Seconds for a token of the forward pass, and of the encoder."""
        forward = encoder = 0.0
        n = 0
        while n < n_tokens:
            contexts = torch.randint(0, IDS, (16, CONTEXT))
            began = time.process_time()
            hidden = self.model(contexts).last_hidden_state.reshape(-1, D_IN)
            between = time.process_time()
            self.dictionary.encode({HOOK_POINT: hidden})
            encoder += time.process_time() - between
            forward += between - began
            n += contexts.numel()
        return forward / n, encoder / n


def measured(
    folder: Path,
    n_tokens: int,
    d_sae: int,
    timed: int,
    sampled: int | None = None,
    from_model: bool = False,
) -> dict[str, Any]:
    """One size: contexts between two halves of the tokens that forward and encoder are timed on."""
    began = time.process_time()
    activations, encoded = (text_alone if from_model else shards)(folder, n_tokens, d_sae)
    statistics = time.process_time() - began
    sample = sample_latents(tables.LATENTS.read(encoded), d_sae, sampled or d_sae, 0)
    beside = Beside(d_sae) if timed else None
    if beside:
        beside.seconds(4096)
    before = beside.seconds(timed // 2) if beside else (0.0, 0.0)
    resting = _anonymous()
    with _watched() as peak:
        found = gathered(activations, encoded, sample)
    after = beside.seconds(timed // 2) if beside else (0.0, 0.0)
    forward, encoder = ((a + b) / 2 * n_tokens for a, b in zip(before, after, strict=True))
    if from_model:
        found["seconds_statistics"] = statistics
    found |= {"tokens": n_tokens, "latents": len(sample.latents), "memory_mb": peak[0] - resting}
    if beside:
        found |= {"forward_seconds": forward, "encoder_seconds": encoder}
        found["times"] = found["seconds"] / (forward + encoder)
    return found


@contextlib.contextmanager
def _watched() -> Iterator[list[float]]:
    """What this process has allocated at most, in MB, while the block runs."""
    peak, over = [_anonymous()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], _anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _anonymous() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("this system does not say how much memory a process has allocated")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--sampled", type=int, help="latents that get contexts (all)")
    parser.add_argument(
        "--timed", type=int, default=65_536, help="tokens that the model is timed on"
    )
    parser.add_argument("--from-model", action="store_true", help="store nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.one:
        n = arguments.tokens[0]
        sizes = (arguments.latents, arguments.timed, arguments.sampled, arguments.from_model)
        print(json.dumps(measured(Path(arguments.one), n, *sizes)))
        return
    results = []
    for place, n in enumerate(arguments.tokens):
        folder = tempfile.mkdtemp(prefix="latentflow-contexts-")
        options = ["--latents", str(arguments.latents), "--tokens", str(n), "--one", folder]
        options += ["--sampled", str(arguments.sampled)] if arguments.sampled else []
        options += ["--from-model"] if arguments.from_model else []
        options += ["--timed", str(0 if place else arguments.timed)]
        done = subprocess.run(
            [sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True
        )
        shutil.rmtree(folder)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        if not arguments.json:
            shown = (f"{name} {value:,.4g}" for name, value in results[-1].items())
            print("  ".join(shown), flush=True)
    if arguments.json:
        print(json.dumps(results))
    most = max(result["memory_mb"] for result in results)
    sys.exit(0 if results[0].get("times", 0) <= 1.8 and most < 4096 else 1)


if __name__ == "__main__":
    main()
