"""How many planted directions each architecture finds, at matched L0; writes the table of
docs/dictionaries.md.

    python benchmarks/recovery.py [--only topk relu] [--seeds 3] [--steps 1000] [--json]
    [--no-write]

Activations are sparse mixtures of random unit directions, four times as many as there are
coordinates, around an offset with a little noise; some directions are seldom (frequencies fall as 1
/ (rank + 10), 4 active on average). Each seed draws directions, rows and first values anew. Every
registered architecture (and further forms of some) sees the same rows in the same order, the same
number of updates and the same learning rate, and is measured on rows that nothing learnt from.

L0 is matched at 4. An architecture with `k` or a target for L0 is told so. One with a penalty gets
for each seed the coefficient that gives 4 (within 5%), found by bisection on rows that are neither
learnt from nor reported on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from components.config import Config  # noqa: E402
from components.dictionary.contract import Dictionary, architectures, untrained  # noqa: E402
from components.dictionary.fit import evaluate  # noqa: E402
from components.dictionary.learner import Learner  # noqa: E402
from components.dictionary.settings import TrainConfig  # noqa: E402
from components.seeds import torch_generator  # noqa: E402
from components.statistics import t_interval  # noqa: E402

BEGIN, END = "<!-- recovery -->", "<!-- end of recovery -->"
PAGE = REPOSITORY / "docs" / "dictionaries.md"
HOOK = "resid_post.0"
D_IN, N_PLANTED, D_SAE, ACTIVE = 64, 256, 256, 4
BATCH, HELD_OUT, FOUND = 512, 16_384, 0.9
COUNTED = ("k", "target_l0")
"""Options that say L0 itself; of any other that sets sparsity more makes codes sparser."""
FORMS = {
    "relu, unit rows": ("relu", {"decoder": "unit"}),
    "topk, Multi-TopK": ("topk", {"multi_topk_coefficient": 0.125}),
    "jumprelu, l0": ("jumprelu", {"penalty": "l0", "target_l0": ACTIVE}),
    "jumprelu, tanh": ("jumprelu", {"penalty": "tanh", "target_l0": ACTIVE}),
}
"""Further forms of architectures: (kind, options)."""
MEASURES = ("mean_max_cosine", "recovered", "fvu", "l0", "dead_share", "seconds")


class Planted:
    """One draw of directions, frequencies and offset, and rows made of them.

    Attributes:
        directions: [n, d], unit norm.
    """

    def __init__(self, seed: int) -> None:
        generator = torch_generator(seed, "planted")
        self.seed = seed
        self.directions = normalize(torch.randn(N_PLANTED, D_IN, generator=generator), dim=1)
        self.offset = 0.3 * torch.randn(D_IN, generator=generator)
        frequency = 1 / (torch.arange(N_PLANTED) + 10.0)
        self.frequency = frequency * ACTIVE / frequency.sum()

    def rows(self, n: int, *names: str | int) -> Tensor:
        """Rows [n, d] of the stream called `names`."""
        generator = torch_generator(self.seed, "rows", *names)
        present = torch.rand(n, N_PLANTED, generator=generator) < self.frequency
        lengths = 1 + 0.5 * torch.randn(n, N_PLANTED, generator=generator).abs()
        noise = 0.05 * torch.randn(n, D_IN, generator=generator)
        return (present * lengths) @ self.directions + self.offset + noise


def train(options: Config, planted: Planted, steps: int, lr: float) -> tuple[Dictionary, float]:
    """A dictionary trained on fresh rows, and the CPU seconds it took, without those for making
    rows."""
    sample = {HOOK: planted.rows(8192, "sample")}
    dictionary = untrained(
        options, HOOK, {HOOK: D_IN}, sample, torch_generator(planted.seed, "dictionary")
    )
    config = TrainConfig(
        dictionary=options,
        tokens=steps * BATCH,
        batch_size=BATCH,
        lr=lr,
        dead_after=50 * BATCH,
        seed=planted.seed,
    )
    learner = Learner(dictionary, config)
    seconds = 0.0
    for step in range(learner.steps):
        batch = {HOOK: planted.rows(BATCH, "train", step)}
        begun = time.process_time()
        learner.learn(batch)
        seconds += time.process_time() - begun
    begun = time.process_time()
    dictionary.finish()
    return dictionary, seconds + time.process_time() - begun


def measure(dictionary: Dictionary, planted: Planted, rows: str = "held out") -> dict[str, float]:
    """Recovery, and reconstruction of rows never learnt from; a planted direction is found where a
    decoder direction has cosine > 0.9."""
    directions = normalize(dictionary.decoder_directions(), dim=1)
    nearest = (planted.directions @ directions.T).amax(1)
    found = evaluate(dictionary, [{HOOK: planted.rows(HELD_OUT, rows)}])
    return {
        "mean_max_cosine": nearest.mean().item(),
        "recovered": (nearest > FOUND).float().mean().item(),
        **{name: found[name] for name in ("fvu", "l0", "dead_share")},
    }


def sized(form: str, **options: Any) -> Config:
    """The options of an architecture, or of one of its forms, at this benchmark's size."""
    kind, chosen = FORMS.get(form, (form, {}))
    size = {"d_sae": D_SAE} if "d_sae" in architectures[kind].config.model_fields else {}
    return architectures[kind].config(**size, **chosen, **options)


def trained(form: str, planted: Planted, steps: int, lr: float) -> tuple[Dictionary, float]:
    """A dictionary whose L0 is 4, and the CPU seconds of its training."""
    penalty = architectures[FORMS.get(form, (form,))[0]].sparsity_of(sized(form))
    if penalty in COUNTED:
        return train(sized(form, **{penalty: ACTIVE}), planted, steps, lr)
    low, high = math.log(1e-1), math.log(1e2)
    while True:
        middle = (low + high) / 2
        dictionary, seconds = train(sized(form, **{penalty: math.exp(middle)}), planted, steps, lr)
        l0 = measure(dictionary, planted, "calibrate")["l0"]
        print(f"{dictionary.name}: L0 {l0:.2f}", file=sys.stderr, flush=True)
        if abs(l0 / ACTIVE - 1) < 0.05 or high - low < 1e-3:  # a penalty may jump over the target
            return dictionary, seconds
        low, high = (middle, high) if l0 > ACTIVE else (low, middle)


def runs(kinds: list[str], n_seeds: int, steps: int, lr: float) -> Iterator[dict[str, Any]]:
    """One row for each architecture and seed."""
    for kind in kinds:
        for seed in range(n_seeds):
            planted = Planted(seed)
            dictionary, seconds = trained(kind, planted, steps, lr)
            row = {
                "kind": kind,
                "name": dictionary.name,
                "baseline": dictionary.baseline,
                "seed": seed,
            }
            yield row | measure(dictionary, planted) | {"seconds": seconds}


def table(rows: list[Mapping[str, Any]], steps: int, lr: float) -> str:
    """Means with 95% intervals over seeds, architectures first, then baselines, best first."""
    kinds = {row["kind"]: [other for other in rows if other["kind"] == row["kind"]] for row in rows}
    of = lambda kind, name: t_interval(np.array([row[name] for row in kinds[kind]]))  # noqa: E731
    order = sorted(
        kinds,
        key=lambda kind: (kinds[kind][0]["baseline"], -(of(kind, "mean_max_cosine").value or 0)),
    )
    n_seeds = len(kinds[order[0]])
    lines = [
        f"{N_PLANTED} planted directions in {D_IN} coordinates, {ACTIVE} active on average; "
        f"{steps:,} updates of {BATCH} tokens at learning rate {lr:g}; {n_seeds} seeds; mean and "
        "95% interval over seeds (Student's t). A direction counts as recovered at cosine > "
        f"{FOUND}. Seconds of one CPU core, learning only.",
        "",
        "| dictionary | mean max cosine | recovered | FVU | L0 | dead share | n | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in order:
        cells = [_cell(of(kind, name), 1 if name == "seconds" else 3) for name in MEASURES]
        names = {row["name"] for row in kinds[kind]}  # a penalty differs by seed
        called = names.pop() if len(names) == 1 and kind not in FORMS else kind
        first = f"`{called}`" + (" (baseline)" if kinds[kind][0]["baseline"] else "")
        lines.append(f"| {' | '.join([first, *cells[:5], str(len(kinds[kind])), cells[5]])} |")
    return "\n".join(lines)


def _cell(interval: Any, digits: int) -> str:
    if interval.low is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} ± {interval.high - interval.value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    forms = [*architectures.names(), *FORMS]
    parser.add_argument("--only", nargs="*", default=forms, choices=forms)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-write", action="store_true", help="leave docs/dictionaries.md alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in runs(list(arguments.only), arguments.seeds, arguments.steps, arguments.lr):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    text = table(rows, arguments.steps, arguments.lr)
    print(json.dumps(rows, indent=1) if arguments.json else text)
    if list(arguments.only) == forms and not arguments.no_write:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
