"""The section `train`: how one dictionary learns.

Size of a batch, learning rate and patience with silent latents follow from the number of tokens
where the section does not set them. The field's constants are made for runs of tens of thousands of
updates: in a short run at such a rate the rows hardly leave their random first values, since a row
turns by about the rate times the number of updates.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from components.config import Config, execution, union_of
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import architectures
from components.dictionary.kernels.product import Precision

UPDATES = 8_000
"""Updates that a run is given, as long as its batches stay within BATCHES."""
BATCHES = 512, 4096
LONG = 500_000
"""Updates of a run that an architecture's own rate is made for."""
STEEPNESS = 0.5
"""How the rate rises as a run gets shorter: LONG over its updates, to this power; see
docs/performance.md."""
HIGHEST = 0.01
PATIENCE = 10_000_000
"""Tokens of silence after which the field calls a latent dead."""
SAMPLE_ROWS = 32_768
"""Rows that set scale and first values."""
HELD_OUT_ROWS_IN_CURVE = 2048
"""Rows that each point of the curve is measured on."""


class SpliceConfig(Config):
    """The reconstruction stands in the model's forward pass while the dictionary learns, and the
    model judges it."""

    share: float = Field(default=0.0, ge=0, le=1)
    """Share of the updates, at the end, in which it does; 0 is never, 0.1 a short fine-tuning, 1
    end to end."""
    kl: NonNegativeFloat = 1.0
    """Weight of KL(plain || spliced) between the model's next-token distributions, in nats a
    token."""
    cross_entropy: NonNegativeFloat = 0.0
    """Weight of the spliced model's cross-entropy of the next token, in nats a token."""
    reconstruction: NonNegativeFloat = 1.0
    """Weight that the architecture's own reconstruction terms keep meanwhile; 0 leaves
    reconstruction to the model."""

    @model_validator(mode="after")
    def _says_something(self) -> SpliceConfig:
        if self.share and not self.weights:
            raise ValueError(
                "share is above 0, and both kl and cross_entropy are 0; set one of them above 0"
            )
        changed = [
            name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default
        ]
        if not self.share and changed:
            raise ValueError(
                f"{', '.join(changed)} would change nothing, since share is 0; set share above 0 "
                "too"
            )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The terms that the model gives, by name, with their weights."""
        return {name: value for name in ("kl", "cross_entropy") if (value := getattr(self, name))}


class TrainConfig(Config):
    """Training one dictionary on captured activations."""

    dictionary: union_of(architectures) = TopKConfig()  # type: ignore[valid-type]
    """Architecture, size and sparsity."""
    tokens: NonNegativeInt = 4_000_000
    """Tokens to learn from, rounded up to whole batches; more than were captured means several
    epochs, 0 leaves the dictionary untrained."""
    batch_size: int | None = Field(default=None, ge=2)
    """Tokens in one update (at least 2, since errors are shares of a batch's variance); null lets
    it follow from the tokens: some 8,000 updates, of 512 to 4,096 tokens each."""
    lr: PositiveFloat | Literal["search"] | None = None
    """Learning rate at its height; null takes the architecture's own, raised where there are few
    updates; `search` tries a few around that on the held-out split first."""
    search_share: float = Field(default=0.5, gt=0, le=4)
    """What the search may cost at most, as a share of what training costs."""
    normalise: Literal["scale", "whiten"] = "scale"
    """What the dictionary learns from: activations times one number, or whitened ones, so that
    directions of little variance count as much as those of much; folded into the weights when they
    are saved."""
    whitening_floor: PositiveFloat = 0.1
    """Share of the mean variance that is added to every direction's before whitening."""
    convergence: Literal["estimated", "measured", "off"] = "estimated"
    """How it is told whether training had converged: from the part of the curve at a constant rate,
    or by a second dictionary that learns half the tokens under its own whole schedule (half of the
    cost again)."""
    warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of the updates over which the learning rate rises from zero."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the updates, at the end, over which the learning rate falls to zero."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    precision: Precision = "float32"
    """Of the encoder's product while learning: bfloat16 rounds its factors and sums in float32,
    which is faster on a GPU; weights, gradients and whatever is encoded later stay in float32."""
    dead_after: PositiveInt | None = None
    """Tokens of silence after which a latent counts as dead; null is a twentieth of the run, at
    most the field's 10 million."""
    hook_point: str = ""
    """Which captured hook point to learn; empty takes the first."""
    split: str = "train"
    """The split to learn from."""
    held_out: str = "validate"
    """The split on which the result is measured."""
    log_every: PositiveInt = 50
    """Updates between two points of the curves."""
    seed: int = 0
    """Seed of the first values and, unless `order` is given, of the order of tokens."""
    order: int | None = None
    """Seed of the order of tokens and of the sample that sets the scale; null takes `seed`.
    Dictionaries of one order share a stream."""
    splice: SpliceConfig = SpliceConfig()
    """What the dictionary learns from the model itself, with the reconstruction in its forward
    pass."""
    checkpoint_every: PositiveInt = execution(200)
    """Updates between two checkpoints, from which an interrupted run continues."""

    @model_validator(mode="after")
    def _can_be_whitened(self) -> TrainConfig:
        if self.normalise == "whiten" and not architectures[self.dictionary.kind].folds:
            able = ", ".join(name for name, entry in architectures.items() if entry.folds)
            raise ValueError(
                f"normalise is whiten, and {self.dictionary.kind} has no encoder and decoder of "
                "its own that the map could be folded into; set normalise=scale, or take one of "
                f"{able}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_spliced(self) -> TrainConfig:
        if self.splice.share and architectures[self.dictionary.kind].learns != "gradients":
            raise ValueError(
                f"splice.share is {self.splice.share:g}, and {self.dictionary.kind} learns "
                "nothing from gradients, which are all that a model gives; set splice.share=0"
            )
        return self

    @property
    def batch(self) -> int:
        """Tokens in one update."""
        if self.batch_size is not None:
            return self.batch_size
        fewest, most = BATCHES
        wanted = max(1, self.tokens // UPDATES)
        return min(most, max(fewest, 1 << (wanted.bit_length() - 1)))

    @property
    def updates(self) -> int:
        """Batches that are learnt from; none where there is nothing to learn."""
        learns = architectures[self.dictionary.kind].learns
        return math.ceil(self.tokens / self.batch) if learns != "nothing" else 0

    @property
    def spliced_from(self) -> int:
        """Updates before the reconstruction stands in the model's forward pass; all of them where
        it never does."""
        return self.updates - math.ceil(self.splice.share * self.updates)

    @property
    def silence(self) -> int:
        """Tokens of silence after which a latent counts as dead."""
        return self.dead_after or max(1, min(PATIENCE, self.tokens // 20))

    @property
    def relative_cost(self) -> float:
        """Cost of all that is learnt, the search and the half run with it, over the cost of the
        dictionary alone."""
        learns = architectures[self.dictionary.kind].learns == "gradients"
        return 1 + learns * (
            self.search_share * (self.lr == "search") + 0.5 * (self.convergence == "measured")
        )


def wired(config: TrainConfig, hook_point: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that the dictionary of this section reads, and those that it reconstructs."""
    return architectures[config.dictionary.kind].wiring(config.dictionary, hook_point)


def raised(lr: float, updates: int) -> float:
    """An architecture's own learning rate, raised for a run that is shorter than those it is made
    for.

    Never lowered, and never raised above HIGHEST.
    """
    return max(lr, min(HIGHEST, lr * (LONG / max(1, updates)) ** STEEPNESS))


def cautions(config: TrainConfig, n_rows: int) -> list[str]:
    """What is allowed and hardly meant, in sentences.

    Args:
        config: the section.
        n_rows: rows of the split that is learnt from.
    """
    steps, batch = config.updates, config.batch
    sentences = []
    if 0 < config.tokens < batch:
        sentences.append(
            f"train.tokens ({config.tokens:,}) is less than one batch: one update of {batch:,} "
            "tokens is made; raise train.tokens or lower train.batch_size"
        )
    if steps and batch > n_rows:
        sentences.append(
            f"train.batch_size ({batch:,}) is more than the {n_rows:,} tokens of the split "
            f"{config.split}: every batch holds some of them several times; lower it or capture "
            "more"
        )
    if steps and config.silence >= steps * batch:
        sentences.append(
            f"train.dead_after ({config.silence:,}) is not less than the tokens of the whole run "
            f"({steps * batch:,}): no latent ever counts as dead, and none is revived; lower it"
        )
    return sentences
