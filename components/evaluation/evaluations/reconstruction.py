"""What of the activations the codes keep: fraction of variance unexplained, latents in use, latents
never in use.

    FVU = sum over tokens ||x - x^||^2  /  sum over tokens ||x - mean x||^2

Both sums run over the whole test split and are divided once; the mean is that of the test split
itself. (SAEBench's explained variance took variance about zero and averaged ratios of batches: it
is not comparable.) L0 is the mean number of active latents a token. Intervals of both resample
documents, since tokens of one document are alike. A latent is dead when it is active on no test
token; what is replicated there are latents (Wilson), because resampling documents could only lose
active latents. The baseline of each is the untrained dictionary of equal size. Without tokens: no
values.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from components.config import Config
from components.dictionary.contract import Dictionary
from components.dictionary.encode import Encoded
from components.evaluation.contract import (
    ABSENT,
    NOT_REBUILT,
    TEST,
    Evaluation,
    Measuring,
    Score,
    Subject,
    evaluations,
)
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import Interval, cluster_bootstrap, wilson
from components.store.stage import Progress

ROWS = 8192
MEASURES = (
    Measure(
        "fvu", "Variance unexplained (FVU)", "share", "Squared error over variance, held-out text.", "lower",
        rank=0, kinds=0, least=0, short="FVU",
    ),
    Measure(
        "l0", "Active latents (L0)", "latents a token", "Mean number of active latents on a token.", "neither",
        rank=3, kinds=3, least=0, short="L0",
    ),
    Measure(
        "dead_share", "Dead latents", "share", "Latents that no token activated.", "lower",
        rank=4, kinds=4, least=0, most=1, short="dead share",
    ),
)  # fmt: skip
EMPTY = f"the capture holds no token of the {TEST} split"


class ReconstructionConfig(Config):
    """FVU, L0 and dead latents: nothing to choose, all test tokens count."""


@evaluations
class Reconstruction(Evaluation):
    """FVU of every reconstructed hook point, L0, share of dead latents."""

    config = ReconstructionConfig
    measures = MEASURES
    reads_text = False

    def measure(self, subject: Subject) -> Measuring:
        """One pass over the test split for the mean, one for each dictionary and hook point."""
        empty = not subject.n_rows(TEST)
        document = (
            np.zeros(0, np.int32)
            if empty
            else subject.activations.provenance(TEST)["document"].numpy()
        )
        control, scores = subject.untrained, []
        for hook_point in subject.dictionary.reconstructs:
            if empty or not subject.dictionary.rebuilds:
                reason = EMPTY if empty else NOT_REBUILT
                scores.append(
                    Score("fvu", ABSENT, "document", hook_point=hook_point, reason=reason)
                )
                continue
            mean = subject.mean(TEST, hook_point)
            error, spread = yield from _squares(
                subject, subject.codes, subject.dictionary, hook_point, mean
            )
            draw = numpy_generator(self.services.seed, "reconstruction", "fvu", hook_point)
            fvu, floor = cluster_bootstrap(error, spread, document, draw), None
            if control and control.dictionary and spread.sum() > 0:
                other, _ = yield from _squares(
                    subject, control.codes, control.dictionary, hook_point, mean
                )
                floor = float(other.sum() / spread.sum())
            reason = (
                None if fvu.value is not None else f"all activations of the {TEST} split are equal"
            )
            scores.append(_score("fvu", fvu, "document", floor, reason, hook_point))
        active, dead = _use(subject.codes, empty)
        floors: tuple[float | None, float | None] = (None, None)
        if control and not empty:
            other_active, other_dead = _use(control.codes, empty)
            floors = float(other_active.mean()), other_dead / control.codes.d_sae
        draw = numpy_generator(self.services.seed, "reconstruction", "l0")
        l0 = cluster_bootstrap(active, None, document, draw)
        share = ABSENT if empty else wilson(dead, subject.codes.d_sae)
        reason = EMPTY if empty else None
        seen = f"dead: active on none of {len(document)} test tokens"
        scores.append(_score("l0", l0, "document", floors[0], reason))
        scores.append(_score("dead_share", share, "latent", floors[1], reason or seen))
        return scores


def _score(
    measure: str,
    interval: Interval,
    unit: str,
    baseline: float | None,
    reason: str | None,
    hook_point=None,
) -> Score:
    return Score(
        measure,
        interval,
        unit,
        baseline,
        "untrained dictionary",
        hook_point=hook_point,
        reason=reason,
    )


def _squares(
    subject: Subject, shards: Encoded, dictionary: Dictionary, hook_point: str, mean: torch.Tensor
) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray]]:
    """For each test token its squared error and its squared distance from the mean."""
    n, done = subject.n_rows(TEST), 0
    error, spread = np.empty(n), np.empty(n)
    device = next(dictionary.parameters()).device
    for shard in shards.iterate(TEST):
        for first in range(0, shard.n_rows, ROWS):
            codes = shard.rows(first, min(first + ROWS, shard.n_rows))
            here = slice(done, done + codes.n_rows)
            x = subject.activations.rows(
                TEST, hook_point, torch.arange(here.start, here.stop)
            ).double()
            rebuilt = dictionary.decode(codes.to(device), hook_point).cpu().double()
            error[here] = (x - rebuilt).square().sum(1).numpy()
            spread[here] = (x - mean).square().sum(1).numpy()
            done = here.stop
            yield Progress(done, n, "tokens", "reconstruction")
    assert done == n, f"{done} rows of codes for {n} rows of activations"
    return error, spread


def _use(shards: Encoded, empty: bool) -> tuple[np.ndarray, int]:
    """Active latents of each test token, and how many latents are active on none."""
    alive, active = torch.zeros(shards.d_sae, dtype=torch.bool), [np.zeros(0, np.int64)]
    for codes in () if empty else shards.iterate(TEST):
        alive[codes.indices.long()] = True
        active.append(codes.offsets.diff().numpy())
    return np.concatenate(active), shards.d_sae - int(alive.sum())
