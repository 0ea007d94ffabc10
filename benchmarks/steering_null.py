"""Random vectors given out as methods: how often steering calls nothing something.

    python benchmarks/steering_null.py --params examples/stories-latents.yaml [name=value ...] [--vectors 200] [--family 5]

Steers with so many Gaussian directions and 20 more, then deals them, target by target anew, to methods
that are none and to controls, and asks the protocol (`components/steering/contrasts.py`) of each. The
share that is significant at 5%, and the share of families with a wrong finding after Holm, are to lie
in the binomial 99% interval around 5%.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl
import scipy.stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.seeds import numpy_generator
from components.steering.by_concept import by_concept
from components.steering.comparison import Comparison
from components.steering.contract import Concept
from components.steering.contrasts import Contrasts, corrected
from components.store import tables
from components.store.artifact import Artifact
from components.store.judgements import PANEL, judged
from flows.chain import Chain
from flows.parameters import resolve

CONTROL, N_CONTROLS, LEVEL = "random_direction", 20, 0.05


def main() -> None:
    """Prints the two shares, each with its interval."""
    parser = argparse.ArgumentParser(description="Random vectors given out as methods.")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--params", type=Path, default=Path("examples/stories-latents.yaml"))
    parser.add_argument("--vectors", type=int, default=200)
    parser.add_argument("--family", type=int, default=5)
    arguments = parser.parse_args()
    config = resolve(arguments.overrides, arguments.params)
    steer = config.steer.model_copy(
        update={
            "methods": ["mean_difference", CONTROL],
            "controls": [],
            "kl_budgets": [config.steer.headline_budget],
            "method_settings": type(config.steer.method_settings)(
                **{CONTROL: {"n_directions": arguments.vectors + N_CONTROLS}}
            ),
        }
    )
    with Chain(config.model_copy(update={"steer": steer}), plain=True) as chain:
        made = chain.artifact("steer")
    found = null(made, arguments.vectors, steer.seed)
    families = [found[i : i + arguments.family] for i in range(0, len(found), arguments.family)]
    wrong = sum(any(row["p_holm"] <= LEVEL for row in corrected(family)) for family in families)
    significant = sum(row["p"] <= LEVEL for row in found)
    for what, n, of in (
        (f"of {len(found)} random vectors are significant at 5%", significant, len(found)),
        (f"of {len(families)} families of {arguments.family} have a finding", wrong, len(families)),
    ):
        low, high = scipy.stats.binom.interval(0.99, of, LEVEL)
        inside = "inside" if low <= n <= high else "OUTSIDE"
        sys.stdout.write(f"{n} {what} ({n / of:.1%}); {inside} {low:.0f} to {high:.0f}\n")
    sys.stdout.write(f"{found[0]['n']} targets, {found[0]['measure']}, p by sign flips\n")


def null(made: Artifact, n: int, seed: int) -> list[dict]:
    """A row of CONTRASTS for each of `n` methods that are random vectors: on every target another
    one."""
    results = judged(
        tables.GENERATIONS.read(made), tables.JUDGEMENTS.read(made), made.facts["measure"]
    ).filter(pl.col("method") == CONTROL, pl.col("split") == "test")
    targets = tables.TARGETS.read(made).filter("passed")
    names = [f"vector_{i}" for i in range(n)]
    dealt = []
    for target in targets["concept"]:
        order = numpy_generator(seed, "null", target).permutation(n + N_CONTROLS)
        place = pl.DataFrame(
            {
                "replicate": order,
                "method": [*names, *[CONTROL] * N_CONTROLS],
                "to": [*([0] * n), *range(N_CONTROLS)],
            },
            schema_overrides={"replicate": pl.Int32, "to": pl.Int32},
        )
        own = results.filter(pl.col("concept") == target).drop("method")
        own = own.join(place, on="replicate").drop("replicate").rename({"to": "replicate"})
        dealt.append(own.select(results.columns))
    given = pl.concat(dealt)
    beside = [PANEL] if PANEL in given.columns else ["fluency"]
    about = Comparison(
        concepts=[
            Concept(row["concept"], row["concept_kind"], row["unit"])
            for row in targets.iter_rows(named=True)
        ],
        refused={},
        methods=names,
        controls=[CONTROL],
        budgets=given["kl_budget"].unique().to_list(),
        silent={},
        unsteered={},
        seed=seed,
        columns={},
        judges=["fluency", *[name for name in beside if name != "fluency"]],
    )
    reached = by_concept(given, tables.STRENGTHS.frame([]), about)
    found = [row for row in Contrasts(given, reached, about).against_controls()]
    assert all(np.isfinite(row["p"]) for row in found), "every vector has a p-value"
    return found


if __name__ == "__main__":
    main()
