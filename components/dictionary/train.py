"""The stage `train`: a stream of activations -> a dictionary.

    sample -> scale, first values -> [ batch -> loss terms -> gradient -> project, clip, Adam,
    renormalise ] -> held-out FVU

Every learner reads the same batches from one stream, so several dictionaries can learn from it side
by side: `make_many` reads each batch once for all configs that agree on the stream, and each
dictionary has the same bits as trained alone. In the last updates a model may take part
(`train.splice`): `stage` is told how by whoever stands above this package. (Their encoder products
are not stacked into one: on a CPU that was measured to be no faster, see docs/sweep.md.) Resuming
is exact: the checkpoint holds weights, Adam's moments, counters of silent tokens, running sums and
the curve; batches and random draws are functions of (seed, step). On the CPU an interrupted and
resumed run gives the same bits as an uninterrupted one with the same number of threads.

A seed replicates everything that is drawn: the first values, the sample that sets scale and bias,
and the order of tokens. Where `order` is given, the last two follow it, and dictionaries of
different seeds can share a stream; their spread is then that of the first values alone.

Source: step order and constants of Gao et al. 2024 (arXiv:2406.04093) and the peers compared in the
architectures' docstrings. Deviations: warm-up is a share of training rather than 1000 steps,
because runs here may be shorter than that; the learning rate falls to zero over the last fifth.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.device import Execution, resolve
from components.dictionary import convergence, rates
from components.dictionary.contract import Batch, Dictionary, architectures, untrained
from components.dictionary.convergence import Convergence
from components.dictionary.estimate import Passes, formula
from components.dictionary.fit import evaluate, fit
from components.dictionary.learner import Learner, Splice
from components.dictionary.rates import Search, objective
from components.dictionary.settings import (
    HELD_OUT_ROWS_IN_CURVE,
    SAMPLE_ROWS,
    TrainConfig,
    cautions,
    wired,
)
from components.dictionary.stream import Stream
from components.dictionary.whitening import Whitening, whitening_of
from components.errors import DictionaryError, DivergedError
from components.seeds import torch_generator
from components.store.artifact import content_number
from components.store.estimate import Estimator, below, lower
from components.store.rows import Rows
from components.store.shards import Opening, activations_of, is_stored
from components.store.stage import Facts, Inputs, Parent, Progress, Stage, Work
from components.store.tables import CURVE

log = logging.getLogger(__name__)

MEASURED_AT_ONCE = 4096
_CHECKPOINT = "state.safetensors"

Wanted = Mapping[str, tuple[Path, TrainConfig, Inputs]]
"""Dictionaries to train, by label: folder, section and inputs of each."""
Splicing = Callable[[TrainConfig, Sequence[str], Inputs, Execution], Splice]
"""(section, names that are reconstructed, inputs, where to run) -> the model's part of an
update."""


def control(config: TrainConfig, trained: Mapping[str, Any]) -> TrainConfig:
    """How the dictionary is made that stands untrained beside a trained one; which one it is, the
    architecture says.

    What it reads is normalised like what the trained one reads, so that what remains between the
    two is what was learnt.

    Args:
        config: how the trained one was trained: seed and splits are taken over, what only training
            reads is not.
        trained: the facts of its artifact.
    """
    options = architectures[trained["architecture"]].control(trained)
    learns = architectures[options.kind].learns != "nothing"
    return TrainConfig(
        dictionary=options,
        normalise=config.normalise,
        whitening_floor=config.whitening_floor,
        hook_point=trained["hook_point"],
        split=config.split,
        held_out=config.held_out,
        seed=config.seed,
        **({"tokens": 0} if learns else {}),
    )


def make(
    folder: Path,
    config: TrainConfig,
    inputs: Inputs,
    settings: Execution | None,
    splicing: Splicing | None = None,
    opening: Opening | None = None,
) -> Work:
    """Writes `dictionary.safetensors`, `dictionary.json` and `curve.parquet`; the facts hold the
    held-out measures."""
    made = yield from make_many({"": (folder, config, inputs)}, settings, splicing, opening)
    return made[""]


def stream_of(config: TrainConfig) -> tuple[Any, ...]:
    """What two configs must have in common to learn from one stream of the same activations."""
    reads, reconstructs = wired(config, config.hook_point)
    names = tuple(dict.fromkeys((*reads, *reconstructs)))
    order = config.seed if config.order is None else config.order
    steps = math.ceil(config.tokens / config.batch)
    return names, config.split, config.held_out, order, config.batch, steps, config.splice


def make_many(
    wanted: Wanted,
    settings: Execution | None,
    splicing: Splicing | None = None,
    opening: Opening | None = None,
) -> Generator[Progress, None, dict[str, Facts]]:
    """`make` for several dictionaries: those that share a stream learn side by side, and each batch
    is read once.

    Every dictionary gets the bits that it would have alone (with the same number of threads), in a
    folder of its own.

    Args:
        wanted: what to train.
        settings: where to run.
        splicing: how a model takes part, where a section wants that.
        opening: how activations are read that are not stored.

    Raises:
        DictionaryError: activations that are not stored, and something to learn from them.
    """
    groups: dict[Any, list[str]] = {}
    for label, (_, config, inputs) in wanted.items():
        _refuse_to_learn_from_what_is_not_stored(config, inputs)
        groups.setdefault((inputs["activations"].key, stream_of(config)), []).append(label)
    facts: dict[str, Facts] = {}
    for labels in groups.values():
        group = _Group(
            {label: wanted[label] for label in labels}, settings or Execution(), splicing, opening
        )
        facts |= yield from group.make()
    return facts


class _Group:
    """Dictionaries that learn from one stream.

    Attributes:
        wanted: what to train.
        stream: what they learn from.
        held_out: what they are measured on.
        held_out_rows: the part of it that curves and searches are measured on.
        seconds: of the run that goes on, by label.
        learnt: tokens learnt in it, by label.
    """

    def __init__(
        self,
        wanted: Wanted,
        settings: Execution,
        splicing: Splicing | None,
        opening: Opening | None,
    ) -> None:
        _, config, self.inputs = next(iter(wanted.values()))
        self.wanted, self.settings, self.splicing = wanted, settings, splicing
        device = resolve(settings.device)
        shards = activations_of(self.inputs, settings, opening)
        self.hook_point = config.hook_point or shards.hook_points[0]
        config = config.model_copy(update={"hook_point": self.hook_point})
        names, split, held_out_split, order, self.batch_size, *_ = stream_of(config)
        self.widths = {name: shards.d_in(name) for name in names}
        self.stream = Stream(shards, split, names, order, device)
        self.held_out = Rows(shards, held_out_split, names)
        self.held_out_rows = self.held_out.drawn(HELD_OUT_ROWS_IN_CURVE, order)
        self._sample = {
            name: rows.to(device) for name, rows in self.stream.sample(SAMPLE_ROWS).items()
        }
        self._splices: dict[tuple[str, ...], Splice] = {}
        self.seconds: dict[str, float] = {}
        self.learnt: dict[str, int] = {}

    def make(self) -> Generator[Progress, None, dict[str, Facts]]:
        """Trains, measures and saves them all; returns their facts by label."""
        sections = {label: section for label, (_, section, _) in self.wanted.items()}
        for caution in dict.fromkeys(
            words for each in sections.values() for words in cautions(each, self.stream.n_rows)
        ):
            log.warning("%s", caution)
        configs = {label: _with_rate(section) for label, section in sections.items()}
        searches = yield from self._searched(configs)
        configs |= {label: search.best_config for label, search in searches.items()}
        learners = {label: self._begun(config) for label, config in configs.items()}
        yield from self._run(learners, "")
        taken = {
            label: (self.seconds.get(label, 0.0), self.learnt.get(label, 0)) for label in learners
        }
        facts: dict[str, Facts] = {}
        for label, learner in learners.items():
            learner.release()
            total = learner.steps * self.batch_size
            name = learner.dictionary.name
            yield Progress(total, total, "tokens", f"measuring {name} on {self.held_out.split}")
            measured = self._measured(learner)
            folder = self.wanted[label][0]
            learner.dictionary.save(folder)
            columns = ("step", "tokens", "name", "value")
            CURVE.write(folder, [dict(zip(columns, row, strict=True)) for row in learner.curve])
            facts[label] = _facts(learner.dictionary, learner, measured, *taken[label]) | {
                "trained_together": len(learners),
                "rates_tried": searches[label].facts if label in searches else [],
            }
        halves = self._halves(configs, searches, learners)
        yield from self._run(halves, "half-")
        for label, learner in learners.items():
            half_fvu = self._measured(halves[label])["fvu"] if label in halves else None
            facts[label] |= _convergence(learner, facts[label]["fvu"], half_fvu).facts()
        return facts

    def _begun(self, config: TrainConfig) -> Learner:
        whitening = _whitening(config, self._sample)
        read = self._sample
        if whitening is not None:
            read = {name: whitening.whitened(rows) for name, rows in read.items()}
        generator = torch_generator(config.seed, "dictionary")
        dictionary = untrained(config.dictionary, self.hook_point, self.widths, read, generator)
        return Learner(dictionary, config, self._splice(config), whitening)

    def _splice(self, config: TrainConfig) -> Splice | None:
        """The model's part; opened once for all that reconstruct the same names."""
        if not _is_spliced(config):
            return None
        if self.splicing is None or "model" not in self.inputs:
            raise DictionaryError(
                "train.splice wants the model to take part in training, and this run of the stage "
                "was given none; train it as part of an experiment, or set train.splice.share=0"
            )
        _, reconstructs = wired(config, self.hook_point)
        if reconstructs not in self._splices:
            self._splices[reconstructs] = self.splicing(
                config, reconstructs, self.inputs, self.settings
            )
        return self._splices[reconstructs]

    def _run(self, learners: Mapping[str, Learner], prefix: str) -> Iterator[Progress]:
        """Trains them, from where their checkpoints stand.

        Args:
            learners: by label.
            prefix: before the names of checkpoints and progress; "" is the run itself.
        """
        checkpoints = {label: self._checkpoint(label, prefix) for label in learners}
        for label, learner in learners.items():
            if checkpoints[label].exists() and learner.resume(checkpoints[label]):
                log.info(
                    "continuing %s at update %d of %d",
                    learner.dictionary.name,
                    learner.step,
                    learner.steps,
                )
        self.seconds.clear()
        self.learnt.clear()
        started, before = (
            time.perf_counter(),
            {label: learner.tokens for label, learner in learners.items()},
        )
        for label, metrics in fit(learners, self.stream, self.held_out_rows, checkpoints):
            learner = learners[label]
            self.seconds[label] = time.perf_counter() - started
            self.learnt[label] = learner.tokens - before[label]
            speed = {"tokens_per_second": self.learnt[label] / self.seconds[label]}
            done, total = learner.step * self.batch_size, learner.steps * self.batch_size
            yield Progress(
                done,
                total,
                "tokens",
                f"{learner.dictionary.name} {prefix}".strip(),
                metrics | speed,
            )
        for path in checkpoints.values() if prefix else ():
            path.unlink(missing_ok=True)

    def _checkpoint(self, label: str, prefix: str) -> Path:
        return self.wanted[label][0] / ".checkpoint" / f"{prefix}{_CHECKPOINT}"

    def _measured(self, learner: Learner) -> dict[str, Any]:
        return evaluate(learner.dictionary, self.held_out.in_order(MEASURED_AT_ONCE))

    def _halves(
        self,
        configs: Mapping[str, TrainConfig],
        searches: Mapping[str, Search],
        learners: Mapping[str, Learner],
    ) -> dict[str, Learner]:
        """Those that learn half of the tokens, to measure convergence by: at the factor that a
        search has found."""
        halves = {
            label: convergence.half(each)
            for label, each in configs.items()
            if each.convergence == "measured"
        }
        for label in halves.keys() & searches.keys():
            halves[label] = halves[label].model_copy(
                update={"lr": searches[label].rate(halves[label].updates)}
            )
        learning = {
            label: half
            for label, half in halves.items()
            if learners[label].learnt and learners[label].steps > 1
        }
        return {label: self._begun(half) for label, half in learning.items()}

    def _searched(
        self, configs: Mapping[str, TrainConfig]
    ) -> Generator[Progress, None, dict[str, Search]]:
        """The learning rates of those that want theirs searched; they try their next candidates
        side by side."""
        searches: dict[str, Search] = {}
        for label, config in configs.items():
            if config.lr == "search":
                own_rate = self._begun(config.model_copy(update={"lr": None})).recipe.lr
                searches[label] = Search(
                    config, own_rate, self.wanted[label][0] / ".checkpoint" / "rates.json"
                )
        while any(search.next for search in searches.values()):
            todo = {label: search.next for label, search in searches.items() if search.next}
            streams: dict[int, list[str]] = {}
            for label, candidate in todo.items():
                streams.setdefault(candidate.updates, []).append(label)
            for labels in streams.values():
                objectives = yield from self._tried({label: todo[label] for label in labels})
                for label, (lr, value) in objectives.items():
                    searches[label].tried(lr, value)
        return searches

    def _tried(
        self, candidates: Mapping[str, TrainConfig]
    ) -> Generator[Progress, None, dict[str, tuple[float, float]]]:
        """Rate and objective of each candidate. Where one of several diverges, each runs again
        alone."""
        learners = {label: self._begun(candidate) for label, candidate in candidates.items()}
        for learner in learners.values():
            learner.folds = False
        try:
            yield from self._run(learners, "rate-")
        except DivergedError as error:
            # a checkpoint of one that diverged is no beginning for the next candidate
            for label in learners:
                self._checkpoint(label, "rate-").unlink(missing_ok=True)
            if len(learners) > 1:
                alone: dict[str, tuple[float, float]] = {}
                for label, candidate in candidates.items():
                    alone |= yield from self._tried({label: candidate})
                return alone
            (learner,) = learners.values()
            log.info("a rate of %.3g is too high: %s", learner.peak, error)
            return dict.fromkeys(learners, (learner.peak, math.inf))
        return {
            label: (learner.peak, objective(learner, self.held_out_rows))
            for label, learner in learners.items()
        }


def _whitening(config: TrainConfig, sample: Batch) -> Whitening | None:
    """The map of what the section wants whitened, from the sample that sets scale and bias."""
    if config.normalise == "scale":
        return None
    if len(sample) > 1:
        raise DictionaryError(
            f"train.normalise is whiten, and {config.dictionary.kind} reads {', '.join(sample)}: "
            "what is whitened is one hook point that is read and reconstructed; set "
            "train.normalise=scale"
        )
    return whitening_of(next(iter(sample.values())), config.whitening_floor)


def _refuse_to_learn_from_what_is_not_stored(config: TrainConfig, inputs: Inputs) -> None:
    """A control that learns nothing reads a sample and what it is measured on; whoever learns reads
    every token again and again, in random order."""
    if config.updates and not is_stored(inputs["activations"]):
        raise DictionaryError(
            "training reads activations many times and in random order, and capture.from_model "
            "stores none; set capture.from_model=false, or name a dictionary that exists "
            "(dictionary=<key>; latentflow import brings one of another project)"
        )


def _with_rate(config: TrainConfig) -> TrainConfig:
    """The config; where there is nothing to learn by gradients no rate is searched."""
    learns = architectures[config.dictionary.kind].learns == "gradients" and config.updates > 0
    return config if learns or config.lr != "search" else config.model_copy(update={"lr": None})


def _convergence(learner: Learner, fvu: float, half_fvu: float | None) -> Convergence:
    """What is known of it at the end.

    Args:
        learner: once it has learnt.
        fvu: its held-out FVU.
        half_fvu: that of a dictionary that learnt half of the tokens; None where none did.
    """
    if not learner.learnt or not learner.steps:
        return convergence.nothing_learnt(f"{learner.dictionary.kind} learns nothing by gradients")
    if half_fvu is not None:
        return Convergence(half_fvu / fvu if fvu > 0 else None, "measured", learner.turned)
    if learner.config.convergence == "off":
        return Convergence(None, None, learner.turned, "train.convergence is off")
    ratio, reason = convergence.estimated(learner)
    return Convergence(ratio, "estimated", learner.turned, reason)


def _facts(
    dictionary: Dictionary,
    learner: Learner,
    measured: Mapping[str, Any],
    seconds: float,
    tokens: int,
) -> Facts:
    name = (
        dictionary.name
        if learner.steps or dictionary.learns == "nothing"
        else f"{dictionary.name}-untrained"
    )
    speed = tokens / seconds if seconds else None
    learnt = {
        "tokens": learner.tokens,
        "steps": learner.steps,
        "batch_size": learner.config.batch,
        "lr": learner.peak if learner.learnt and learner.steps else None,
        "tokens_per_second": speed,
    }
    return facts_of(dictionary, name, learner.config.held_out, measured) | learnt


def facts_of(
    dictionary: Dictionary, name: str, held_out: str, measured: Mapping[str, Any]
) -> Facts:
    """What every manifest of `train` says of a dictionary, wherever it learnt; nothing learnt here.

    Args:
        dictionary: which.
        name: what it is called.
        held_out: the split that it was measured on.
        measured: what `evaluate` gave.
    """
    return {
        "name": name,
        "architecture": dictionary.kind,
        "hook_point": dictionary.hook_point,
        "reads": list(dictionary.reads),
        "reconstructs": list(dictionary.reconstructs),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "scale": dictionary.scale,
        "dtype": str(dictionary.like.dtype).removeprefix("torch."),
        "tokens": 0,
        "steps": 0,
        "n_seeds": 1,
        "held_out": held_out,
        "held_out_rows": measured["rows"],
        "fvu": measured["fvu"],
        "l0": measured["l0"],
        "dead_share": measured["dead_share"],
        "tokens_per_second": None,
    }


def _entries(config: TrainConfig) -> dict[str, int]:
    kind = config.dictionary.kind
    searched = {"rates": rates.VERSION} if config.lr == "search" else {}
    files = architectures[kind].files(config.dictionary)
    read = {"dictionary.bytes": content_number(files)} if files else {}
    return {f"architecture.{kind}": architectures.version(kind)} | searched | read


def _is_spliced(config: TrainConfig) -> bool:
    return config.splice.share > 0


def stage(
    splicing: Splicing | None = None,
    passes: Passes | None = None,
    opening: Opening | None = None,
) -> Stage:
    """The stage; with `splicing` a model can take part in training, and `passes` says what that
    costs. With `opening` a control that learns nothing is made of activations that are not
    stored."""
    return Stage(
        "train",
        version=2,
        make=functools.partial(make, splicing=splicing, opening=opening),
        entries=_entries,
        inputs={
            "activations": Parent("capture"),
            "model": Parent("model", wanted=_is_spliced),
            "corpus": Parent("read", wanted=_is_spliced),
        },
        make_many=functools.partial(make_many, splicing=splicing, opening=opening),
        estimator=Estimator(
            functools.partial(formula, passes=passes),
            for_memory={
                "batch_size": lambda config, _: below(config.batch)[:-1],
                **lower("dictionary.d_sae"),
            },
            for_disk=lower("dictionary.d_sae"),
            on_device=True,
        ),
    )


TRAIN = stage()
