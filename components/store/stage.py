"""What a stage is: a step of the chain by its verb, what it is made from, and how it says how far
it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # estimate reaches the device, which dashboards may not
    from components.store.estimate import Estimator


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a stage yields while it works; the flow decides what to log, show or save.

    Attributes:
        done: units finished so far.
        total: units in all (0 when unknown).
        unit: what is counted ("tokens", "steps", "concepts").
        message: a short sentence, or "".
        metrics: numbers at this moment, by name ("loss", "fvu", "tokens_per_second").
    """

    done: int
    total: int
    unit: str
    message: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


Facts = dict[str, Any]


Work = Generator[Progress, None, Facts]


@runtime_checkable
class Input(Protocol):
    """Anything with a content key that a stage may read: an artifact, or a model reference."""

    @property
    def stage(self) -> str:
        """The stage that made it, or what kind of input it is."""
        ...

    @property
    def key(self) -> str:
        """Its content key."""
        ...


GIVEN = ("model", "text_encoder")
"""Inputs that no stage makes: the language model that is looked into, and the model that gives
texts vectors."""


Inputs = Mapping[str, Any]
"""Inputs of a stage by role: an `Input`, or None for an optional input that is absent."""


@dataclasses.dataclass(frozen=True)
class Parent:
    """Whose artifact an input of a stage is.

    Attributes:
        stage: the name of the stage that makes it, or one of `GIVEN`.
        optional: whether the stage also works without it. An experiment gives it if that stage is
            one of its own.
        control: the artifact of this control instead of the experiment's own; "" for its own.
        wanted: whether a stage of this section has this input at all; without it the input is no
            part of the key.
    """

    stage: str
    optional: bool = False
    control: str = ""
    wanted: Callable[[Any], bool] = lambda config: True


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the chain, named by a verb that it carries everywhere.

    Attributes:
        name: the verb ("capture").
        version: a number beside the code; raise it when results change.
        make: `make(folder, config, inputs, execution)` writes the artifact's files into `folder`
            (which may hold what an interrupted run left there), yields `Progress`, and returns the
            facts for the manifest.
        entries: the registered entries that a config uses, as {"architecture.topk": version}.
        inputs: by role.
        scored: whether it writes the table SCORES.
        gathers: whether every stage of the experiment that is scored is an input too, its name
            being the role.
        computes: whether it wants a device; what does not, takes no device slot.
        make_many: `make` for several artifacts in one pass, label -> (folder, config, inputs),
            which returns the facts by label; None where each is made by itself. The time that they
            took together is divided among them.
        estimator: says what it will cost; None where that is next to nothing.
    """

    name: str
    version: int
    make: Callable[[Path, Any, Inputs, Any], Work]
    entries: Callable[[Any], Mapping[str, int]] = lambda config: {}
    inputs: Mapping[str, Parent] = dataclasses.field(default_factory=dict)
    scored: bool = False
    gathers: bool = False
    computes: bool = True
    make_many: (
        Callable[
            [Mapping[str, tuple[Path, Any, Inputs]], Any],
            Generator[Progress, None, Mapping[str, Facts]],
        ]
        | None
    ) = None
    estimator: Estimator | None = None
