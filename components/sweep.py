"""A sweep: dictionaries x widths x sparsities x seeds at equal tokens, as a list of training configs.

Everything else of training is the experiment's section `train`. What "sparsity" is each architecture declares itself
(`Dictionary.sparsity`), so a new one takes part without being named here. A seed replicates first values and order of
tokens; dictionaries of one seed share a stream of activations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveFloat, PositiveInt

from components.config import Config, canonical, execution, load, union_of
from components.dictionary.contract import architectures
from components.dictionary.train import TrainConfig
from components.errors import ConfigError, UnknownNameError
from components.evaluation.contract import evaluations
from components.evaluation.evaluate import EvaluationName
from components.registry import nearest

if TYPE_CHECKING:
    AnyDictionary = Any
else:
    AnyDictionary = union_of(architectures)

LADDER = (0.5, 1.0, 2.0)
"""Sparsities of a label that names none: its own times these."""


class SweepConfig(Config):
    """Dictionaries to train beside one another, and what is measured of each."""

    dictionaries: dict[str, AnyDictionary] = {}
    """Label -> dictionary; empty takes every architecture with its own settings. Baselines among them are run once."""
    widths: list[PositiveInt] = []
    """Numbers of latents; empty keeps each dictionary's own."""
    sparsities: dict[str, list[PositiveFloat]] = {}
    """Label -> values of the option that sets its sparsity (k, l1, ...); who is not named takes half, once and twice its own."""
    rates: dict[str, PositiveFloat] = {}
    """Label -> learning rate; who is not named takes train.lr, and where that is null its architecture's own."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Training seeds; each replicates first values and order of tokens."""
    evaluations: list[EvaluationName] = Field(default=evaluations.names(), min_length=1)
    """What to measure of each dictionary, with the settings of the section evaluate."""
    at_l0: list[PositiveFloat] = [16.0, 32.0, 64.0]
    """Numbers of active latents a token at which architectures are compared, by interpolation along each one's curve."""
    together: PositiveInt = execution(6)
    """Dictionaries that learn from one stream side by side, at most; fewer use more of several devices."""
    limit: PositiveInt = execution(64)
    """Dictionaries that are trained without being asked for with --yes."""
    confirmed: bool = execution(False)
    """Train them however many they are."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One dictionary of a sweep.

    Attributes:
        label: what the sweep calls its kind.
        config: how it is trained.
        sparsity_name: the option that sets its sparsity; None where it has none.
        sparsity: that option's value.
        is_baseline: whether it is run once.
    """

    label: str
    config: TrainConfig
    sparsity_name: str | None
    sparsity: float | None
    is_baseline: bool

    @property
    def name(self) -> str:
        """Label, size, sparsity and seed in a word, as `topk-1536-k=32-seed0`."""
        size = getattr(self.config.dictionary, "d_sae", None)
        sparsity = f"{self.sparsity_name}={self.sparsity:g}" if self.sparsity_name else None
        return "-".join(
            str(part) for part in (self.label, size, sparsity, f"seed{self.config.seed}") if part is not None
        )


def cells(train: TrainConfig, sweep: SweepConfig) -> list[Cell]:
    """Every dictionary of a sweep, once each.

    Raises:
        UnknownNameError: sparsities or a learning rate for a label that the sweep does not have.
        ConfigError: a sparsity that an architecture refuses, or one for an architecture that has none.
    """
    chosen = sweep.dictionaries or {name: entry.config() for name, entry in architectures.items()}
    for what, named in (("sparsities", sweep.sparsities), ("rates", sweep.rates)):
        for label in named:
            if label not in chosen:
                raise UnknownNameError(f"sweep.{what} names {label!r}, which is no label; {nearest(label, chosen)}")
    found: dict[str, Cell] = {}
    for label, options in chosen.items():
        entry = architectures[options.kind]
        seeds = sweep.seeds[:1] if entry.baseline else sweep.seeds
        for own, value in _settings(label, options, sweep):
            for seed in seeds:
                rate = {"lr": sweep.rates[label]} if label in sweep.rates else {}
                config = train.model_copy(update={"dictionary": own, "seed": seed, **rate})
                name = entry.sparsity if hasattr(own, entry.sparsity) else None
                found.setdefault(f"{label} {canonical(config)}", Cell(label, config, name, value, entry.baseline))
    return list(found.values())


def _settings(label: str, options: Any, sweep: SweepConfig) -> Iterator[tuple[Any, float | None]]:
    """The options at every width and sparsity, and the sparsity."""
    entry = architectures[options.kind]
    own = getattr(options, entry.sparsity, None)
    given = sweep.sparsities.get(label)
    if own is None and given:
        raise ConfigError(
            f"sweep.sparsities.{label}: architecture {options.kind} has no option {entry.sparsity!r}, so it has one "
            "sparsity; leave the label out of sweep.sparsities"
        )
    values = given or ([own] if entry.baseline or own is None else [own * factor for factor in LADDER])
    sized = "d_sae" in type(options).model_fields
    widths = sweep.widths if sized else []
    for width in (widths[:1] if entry.baseline else widths) or [None]:
        for value in values:
            changes: dict[str, Any] = {} if width is None else {"d_sae": width}
            if value is not None:
                changes[entry.sparsity] = value if given or not isinstance(own, int) else max(1, round(value))
            try:
                made = load(type(options), options.model_dump() | changes)
            except ConfigError as error:
                raise ConfigError(f"sweep: {label} with {changes}: {error}") from None
            yield made, None if value is None else float(getattr(made, entry.sparsity))
