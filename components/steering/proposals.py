"""What each method proposes, the untrained dictionary among the methods, and at which strengths it
is tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from components.steering.choice import Steered
from components.steering.comparison import UNTRAINED
from components.steering.config import SteerConfig
from components.steering.contract import (
    Candidate,
    Evidence,
    MethodServices,
    Steering,
    SteeringMethod,
    methods,
)
from components.steering.evidence import of_untrained
from components.steering.hook_points import numbered, settings_at_each
from components.steering.strength import Found
from components.store.artifact import Artifact


@dataclasses.dataclass(frozen=True, eq=False)
class Proposals:
    """Candidates of all methods.

    Attributes:
        candidates: (name of the method in tables, candidate).
        methods: names of the methods that are listed and have steerings of their own for each
            concept.
        controls: names of those whose steerings belong to no concept.
        untrained: method -> the name under which the untrained dictionary goes through it.
        spoilt: name of a method under a control -> (method, control).
        absent: such a name -> why nothing is proposed under it.
    """

    candidates: Sequence[tuple[str, Candidate]]
    methods: Sequence[str]
    controls: Sequence[str]
    untrained: Mapping[str, str]
    absent: Mapping[str, str]
    spoilt: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def entry_of(self) -> dict[str, str]:
        """Name under which a method is steered with once more -> the method."""
        again = {called: method for called, (method, _) in self.spoilt.items()}
        return again | {called: method for method, called in self.untrained.items()}

    @property
    def ungraded(self) -> frozenset[str]:
        """Names whose steerings have no strength."""
        names = {name: name for name in (*self.methods, *self.controls)} | self.entry_of
        return frozenset(
            name for name, method in names.items() if not methods[method].steering.graded
        )

    @property
    def steerings(self) -> list[Steering]:
        """Every steering once: one may serve several concepts."""
        return list({id(c.steering): c.steering for _, c in self.candidates if c.steering}.values())

    def at_strengths(
        self, found: Mapping[int, Sequence[Found]], budgets: Sequence[float]
    ) -> list[Steered]:
        """Every candidate at every budget, one that is not graded once.

        Args:
            found: identity of a steering -> its strength at each budget.
            budgets: nats a token.
        """
        steered = []
        for method, candidate in self.candidates:
            row = found.get(id(candidate.steering), [Found(None, None)] * len(budgets))
            if method in self.ungraded:
                steered.append(_at(method, candidate, None, row[0]))
            else:
                steered += [
                    _at(method, candidate, budget, of)
                    for budget, of in zip(budgets, row, strict=True)
                ]
        return steered


def _at(method: str, candidate: Candidate, budget: float | None, found: Found) -> Steered:
    reason = candidate.reason or found.reason
    return Steered(method, candidate, budget, found.strength, found.kl, reason=reason)


def propose(
    config: SteerConfig, evidence: Evidence, services: MethodServices, untrained: Artifact | None
) -> Proposals:
    """Asks every listed method; those that read a dictionary also with the untrained one in its
    place, and in a hook point sweep those that can be tried anywhere at each hook point.

    Args:
        config: the section `steer`.
        evidence: of the concepts that passed the gate; without any, nothing is proposed.
        services: what methods may use.
        untrained: codes of the untrained dictionary.
    """
    kinds = config.method_kinds()
    entries = {
        name: [kind(each, services) for each in settings_at_each(config, kind, settings)]
        for name, (kind, settings) in kinds.items()
    }
    names = untrained_names(config)
    control, why_absent = of_untrained(evidence, untrained)
    candidates = []
    if evidence.concepts:
        candidates = [
            (name, c) for name, places in entries.items() for c in _asked(places, evidence)
        ]
        if control is not None:
            candidates += [
                (name, c) for own, name in names.items() for c in _asked(entries[own], control)
            ]
    controls = [name for name, (kind, _) in kinds.items() if kind.control]
    absent = {name: why_absent for name in names.values() if why_absent}
    spoilt = config.spoilt()
    for control_name, (kind, settings) in config.control_kinds().items():
        if not evidence.concepts:
            break
        changed = kind(settings, services).spoilt(evidence)
        for called, (method, of) in spoilt.items():
            if of != control_name:
                continue
            if isinstance(changed, str):
                absent[called] = changed
            else:
                candidates += [(called, c) for c in _asked(entries[method], changed)]
    return Proposals(
        candidates=candidates,
        methods=[name for name in entries if name not in controls],
        controls=controls,
        untrained=names,
        absent=absent,
        spoilt=spoilt,
    )


def _asked(places: Sequence[SteeringMethod], evidence: Evidence) -> Iterator[Candidate]:
    """What a method proposes at each of its places, numbered through (`hook_points.numbered`)."""
    for place, method in enumerate(places):
        for candidate in _proposed(method, evidence):
            number = numbered(candidate.replicate, place, len(places))
            yield dataclasses.replace(candidate, replicate=number)


def _proposed(method: SteeringMethod, evidence: Evidence) -> Iterator[Candidate]:
    """What it proposes; target by target, where not every token without a label is without it."""
    if evidence.without is None or method.control:
        yield from method.candidates(evidence)
        return
    for column in range(len(evidence.concepts)):
        yield from method.candidates(evidence.alone(column))


def untrained_names(config: SteerConfig) -> dict[str, str]:
    """Methods that read a dictionary, each with the name under which the untrained one goes through
    it."""
    reading = [
        name
        for name, (kind, _) in config.method_kinds().items()
        if kind.reads_dictionary and not kind.control
    ]
    return {name: UNTRAINED if name == reading[0] else f"{UNTRAINED}_{name}" for name in reading}
