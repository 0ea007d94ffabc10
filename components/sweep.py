"""A sweep: dictionaries x widths x sparsities x seeds at equal tokens, as a list of training
configs.

Everything else of training is the experiment's section `train`. What "sparsity" is each
architecture declares itself (`Dictionary.sparsity`), so a new one takes part without being named
here. A seed replicates first values and order of tokens; dictionaries of one seed share a stream of
activations.

What it will cost stands here too: memory of the groups that learn at once, seconds of each
dictionary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from components.config import Config, canonical, execution, load, union_of
from components.device import Execution, slots
from components.dictionary.contract import architectures
from components.dictionary.estimate import MODEL, memory
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN, stream_of
from components.errors import ConfigError, UnknownNameError
from components.evaluation.contract import evaluations
from components.evaluation.evaluate import EVALUATE, EvaluationNames
from components.registry import nearest
from components.store.artifact import key_of
from components.store.estimate import Estimate, Estimator, Planned, below, lower

if TYPE_CHECKING:
    AnyDictionary = Any
else:
    AnyDictionary = union_of(architectures)

LADDER = (0.5, 1.0, 2.0)
"""Sparsities of a label that names none: its own times these."""


class SweepConfig(Config):
    """Dictionaries to train beside one another, and what is measured of each."""

    dictionaries: dict[str, AnyDictionary] = {}
    """Label -> dictionary; empty takes every architecture with its own settings. Baselines among
    them are run once."""
    widths: list[PositiveInt] = []
    """Numbers of latents; empty keeps each dictionary's own."""
    sparsities: dict[str, list[PositiveFloat]] = {}
    """Label -> values of the option that sets its sparsity (k, l1, ...); who is not named takes
    half, once and twice its own."""
    rates: dict[str, PositiveFloat] = {}
    """Label -> learning rate; who is not named takes train.lr, and where that is null a rate is
    searched for each, at equal cost: architectures are compared at rates found in one way."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Training seeds; each replicates first values and order of tokens."""
    evaluations: EvaluationNames = Field(
        default=[name for name, entry in evaluations.items() if entry.in_sweeps], min_length=1
    )
    """What to measure of each dictionary, with the settings of the section evaluate."""
    at_l0: list[PositiveFloat] = [16.0, 32.0, 64.0]
    """Numbers of active latents a token at which architectures are compared, by interpolation along
    each one's curve."""
    together: PositiveInt = execution(6)
    """Dictionaries that learn from one stream side by side, at most; fewer use more of several
    devices."""
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
        options = self.config.dictionary
        entry = architectures[options.kind]
        size = entry.size(options, 0) if entry.from_file else getattr(options, "d_sae", None)
        sparsity = (
            f"{self.sparsity_name}={self.sparsity!r}".removesuffix(".0")
            if self.sparsity_name
            else None
        )
        return "-".join(
            str(part)
            for part in (self.label, size, sparsity, f"seed{self.config.seed}")
            if part is not None
        )


def cells(train: TrainConfig, sweep: SweepConfig) -> list[Cell]:
    """Every dictionary of a sweep, once each.

    Raises:
        UnknownNameError: sparsities or a learning rate for a label that the sweep does not have.
        ConfigError: a sparsity that an architecture refuses, or one for an architecture that has
            none.
    """
    chosen = sweep.dictionaries or _every()
    for what, named in (("sparsities", sweep.sparsities), ("rates", sweep.rates)):
        for label in named:
            if label not in chosen:
                raise UnknownNameError(
                    f"sweep.{what} names {label!r}, which is no label; {nearest(label, chosen)}"
                )
    found: dict[str, Cell] = {}
    if train.lr is None:
        train = train.model_copy(update={"lr": "search"})
    for label, options in chosen.items():
        entry = architectures[options.kind]
        seeds = sweep.seeds[:1] if entry.baseline else sweep.seeds
        option = entry.sparsity_of(options)
        for own, value in _settings(label, options, sweep):
            for seed in seeds:
                learns = entry.learns == "gradients"
                rate = (
                    {"lr": sweep.rates[label]}
                    if label in sweep.rates
                    else {}
                    if learns
                    else {"lr": None}
                )
                whitened = {} if entry.folds else {"normalise": "scale"}
                config = train.model_copy(
                    update={"dictionary": own, "seed": seed, **rate, **whitened}
                )
                name = option if hasattr(own, option) else None
                found.setdefault(
                    f"{label} {canonical(config)}", Cell(label, config, name, value, entry.baseline)
                )
    return list(found.values())


def _every() -> dict[str, Any]:
    """Every architecture with its defaults, but those that read a file of the user's."""
    return {name: entry.config() for name, entry in architectures.items() if not entry.from_file}


def _settings(label: str, options: Any, sweep: SweepConfig) -> Iterator[tuple[Any, float | None]]:
    """The options at every width and sparsity, and the sparsity."""
    entry = architectures[options.kind]
    option = entry.sparsity_of(options)
    own = getattr(options, option, None)
    given = sweep.sparsities.get(label)
    if own is None and given:
        raise ConfigError(
            f"sweep.sparsities.{label}: architecture {options.kind} has no option {option!r}, so "
            "it has one sparsity; leave the label out of sweep.sparsities"
        )
    values = given or (
        [own] if entry.baseline or own is None else [own * factor for factor in LADDER]
    )
    sized = "d_sae" in type(options).model_fields and not entry.from_file
    widths = sweep.widths if sized else []
    for width in (widths[:1] if entry.baseline else widths) or [None]:
        for value in values:
            changes: dict[str, Any] = {} if width is None else {"d_sae": width}
            if value is not None:
                changes[option] = (
                    value if given or not isinstance(own, int) else max(1, round(value))
                )
            try:
                made = load(type(options), options.model_dump() | changes)
            except ConfigError as error:
                raise ConfigError(f"sweep: {label} with {changes}: {error}") from None
            yield made, None if value is None else float(getattr(made, option))


def groups(todo: Mapping[str, Cell], together: int) -> Iterator[tuple[str, ...]]:
    """Names of dictionaries that learn from one stream side by side."""
    streams: dict[Any, list[str]] = {}
    for name, cell in todo.items():
        streams.setdefault(stream_of(cell.config), []).append(name)
    for names in streams.values():
        for start in range(0, len(names), together):
            yield tuple(names[start : start + together])


def share(settings: Execution) -> Execution:
    """Where one of the tasks of a sweep runs: the first device slot, and its share of the cores."""
    offered = slots(settings)
    threads = settings.threads or max(1, torch.get_num_threads() // max(1, len(offered)))
    return settings.model_copy(
        update={"threads": threads} | ({"device": offered[0].device} if offered else {})
    )


def too_many(config: SweepConfig, n: int) -> str:
    """Where n dictionaries are more than are trained without being asked, a sentence that says so;
    else nothing."""
    if n <= config.limit or config.confirmed:
        return ""
    return (
        f"that is more than the {config.limit} that are trained without asking: give --yes "
        "(sweep.confirmed in a form), or fewer widths, sparsities or seeds"
    )


def _missing(
    config: SweepConfig, inputs: Mapping[str, Any]
) -> tuple[dict[str, Cell], dict[str, Cell], list[Cell]]:
    """Every dictionary by name, those that are not trained yet, and those that are not measured
    yet."""
    todo = {cell.name: cell for cell in cells(inputs["train"], config)}
    find, learning = (
        inputs["store"].find,
        {role: inputs[role] for role in TRAIN.inputs if role in inputs},
    )
    keys = {name: key_of(TRAIN, cell.config, learning) for name, cell in todo.items()}
    measured = {
        name: find(
            "evaluate",
            key_of(EVALUATE, inputs["evaluate"], {**inputs["shared"], "dictionary": dictionary}),
        )
        for name, dictionary in ((name, Planned("train", key, {})) for name, key in keys.items())
    }
    new = {name: cell for name, cell in todo.items() if not find("train", keys[name])}
    return todo, new, [cell for name, cell in todo.items() if not measured[name]]


def formula(config: SweepConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """Memory of the groups that learn at once on one device, the largest; on disk what is not there
    yet.

    Seconds are those of each dictionary, and of measuring it. What a factorisation does at its end
    is left out where it has to be tried: that would take as long as doing it.

    Args:
        config: the section.
        inputs: `activations`, and `model` and `corpus` where the model takes part in training;
            `stage`, that trains, and `train`, its section; `evaluate`, how each is measured, and
            `shared`, what beside the dictionary it is measured on; `store`; `timing`, (stage,
            section, inputs, execution, seconds) -> seconds and more.
        settings: of one task, see `share`.
    """
    todo, new, unmeasured = _missing(config, inputs)
    offered = slots(settings)
    at_once = max(1, sum(slot.device == settings.device for slot in offered))
    planned = {
        name: inputs["stage"].estimator.formula(cell.config, inputs, settings)
        for name, cell in new.items()
    }
    taken, scratch = [], [0]
    for group in groups(todo, config.together):
        if not (names := [name for name in group if name in new]):
            continue
        of_model = {
            name: n
            for one in names
            for name, n in planned[one].memory.items()
            if name.startswith(MODEL)
        }
        side_by_side = memory([new[name].config for name in names], inputs["activations"], settings)
        taken.append(Counter(side_by_side | of_model))
        scratch.append(sum(n for name in names for n in planned[name].scratch.values()))

    def probe(seconds: float) -> tuple[float, str]:
        timing = functools.partial(
            inputs["timing"], settings=settings, seconds=seconds / (len(new) + 1)
        )
        total = sum(timing(inputs["stage"], cell.config, inputs)[0] for cell in new.values())
        for cell in unmeasured:
            facts = inputs["stage"].estimator.formula(cell.config, inputs, settings).facts
            measured_on = {**inputs["shared"], "dictionary": Planned("train", "", facts)}
            total += timing(EVALUATE, inputs["evaluate"], measured_on)[0]
        total /= max(1, len(offered))
        there = f" ({len(todo) - len(new)} of them in the store)" if len(new) < len(todo) else ""
        asked = too_many(config, len(todo))
        return total, (
            f"{len(todo)} dictionaries{there}, about {total / 60:.0f} minutes of training and "
            f"measuring on {max(1, len(offered))} device slot(s), {len(taken)} groups of at most "
            f"{config.together} side by side{asked and f'; {asked}'}"
        )

    return Estimate(
        sum(sorted(taken, key=Counter.total)[-at_once:], Counter()),
        {"dictionaries": sum(one.disk_bytes for one in planned.values())},
        {"checkpoints": sum(sorted(scratch)[-at_once:])},
        {"dictionaries": len(todo), "to_make": len(new) + len(unmeasured)},
        probe=probe,
    )


def _narrower(config: SweepConfig, estimate: Estimate) -> list[list[int]]:
    """No width above a smaller and smaller one; without widths, that one for all."""
    own = [getattr(options, "d_sae", 0) for options in config.dictionaries.values()]
    own = own or [getattr(options, "d_sae", 0) for options in _every().values()]
    tops = below(max(config.widths or own))
    return [sorted({min(width, top) for width in config.widths}) or [top] for top in tops]


SWEEP_ESTIMATOR = Estimator(
    formula,
    for_memory={**lower("together"), "widths": _narrower},
    for_disk={"widths": _narrower},
    on_device=True,
)
