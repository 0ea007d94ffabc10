"""Steering along vectors: what is done with them (the operator), at which tokens, and at which hook
points.

    add          x + s u v            at strength s, in units u of the mean activation norm
    clamp        x + (s u - x.v) v    the projection is set, whatever it was; at strength 0 nothing
    project_out  x - min(s, 1) (x.v) v    the share s of the projection is removed: less of the concept

`clamp` is no small change at a small strength: just above 0 it costs what removing the whole
projection costs, and a budget below that is reached by no strength.

Source: adding, as in Turner et al. (2023), arXiv:2308.10248; clamping a projection, as
representation control by subspace in Zou et al. (2023), arXiv:2310.01405; projecting out (directional
ablation) in Arditi et al. (2024), arXiv:2406.11717. Deviation: a share of the projection can be
removed, so that it can be compared at equal cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.config import Config
from components.errors import InputError
from components.model.intervention import Edit, GivenFrom, Intervention, add
from components.registry import nearest
from components.steering.contract import Evidence, Steering

Operator: TypeAlias = Literal["add", "clamp", "project_out"]
Named: TypeAlias = Literal["all", "prompt", "generated", "system", "user"]
Where: TypeAlias = Literal["all", "prompt", "generated"] | GivenFrom | list[int]
OPERATORS: tuple[Operator, ...] = ("add", "clamp", "project_out")
PLACES = ("all", "prompt", "generated")
ROLES = ("system", "user")
"""Places that only a conversation has."""


class PlacedConfig(Config):
    """Where an activation is changed."""

    positions: Named | list[int] = "all"
    """Tokens that are changed: all; prompt, those that were given; generated, those that the model
    wrote; in a conversation also system, those before the user's message, and user, those from its
    first word to where the answer begins; or a list of positions, negative ones counted back from
    the end of the prompt."""

    def where(self, evidence: Evidence) -> Where:
        """The positions as numbers, where they are those of a role.

        Raises:
            InputError: a role, and nobody can say where its tokens stand.
        """
        match self.positions:
            case "system" | "user" as role:
                if not evidence.head:
                    raise InputError(
                        f"positions={role} wants a chat template that puts the user's message as it "
                        "is, behind tokens of its own, and the model's does not; use prompt, "
                        "generated or a list of positions"
                    )
                return list(range(evidence.head)) if role == "system" else GivenFrom(evidence.head)
            case positions:
                return positions


class VectorConfig(PlacedConfig):
    """What all methods share that steer along a vector."""

    operator: Operator = "add"
    """What is done with the vector: add; clamp (sets the projection on it); project_out (removes a
    share of the projection: less of the concept, not more)."""
    hook_points: list[str] = []
    """Where; the vector is read at each of them. None: where the dictionary writes."""

    @property
    def sign(self) -> int:
        """+1 when more of the steering is meant to give more of the concept."""
        return -1 if self.operator == "project_out" else 1

    def places(self, evidence: Evidence) -> list[str]:
        """The hook points.

        Raises:
            InputError: one at which nothing was captured.
        """
        for name in self.hook_points:
            if name not in evidence.units:
                raise InputError(
                    f"hook_points wants a vector at {name}, where no activations were captured; "
                    f"add it to capture.hook_points, or choose among those that were: "
                    f"{nearest(name, evidence.units)}"
                )
        return list(dict.fromkeys(self.hook_points)) or [evidence.hook_point]

    def decoders(self, evidence: Evidence) -> Mapping[str, Float[Tensor, "d_sae d_in"]]:
        """Decoder directions at each hook point; none without a dictionary.

        Raises:
            InputError: a hook point where the dictionary does not write.
        """
        dictionary = evidence.dictionary
        if dictionary is None:
            return {}
        if missing := [p for p in self.places(evidence) if p not in dictionary.writes]:
            raise InputError(
                f"hook_points wants decoder directions at {missing[0]}, and the dictionary writes "
                f"{', '.join(dictionary.writes)}; choose among these"
            )
        return {
            name: dictionary.decoder_directions(name).detach().cpu()
            for name in self.places(evidence)
        }

    def along(
        self, evidence: Evidence, read: Callable[[str], Float[Tensor, " d_in"] | None]
    ) -> Steering | None:
        """The steering along vectors of any length; None where one has no direction.

        Args:
            evidence: gives the units.
            read: hook point -> the vector there; None for none.
        """
        vectors = {}
        for name in self.places(evidence):
            vector = read(name)
            steering = (
                None if vector is None else AddVector.along(name, vector, evidence.units[name])
            )
            if steering is None:
                return None
            vectors[name] = steering
        first = next(iter(vectors.values()))
        where = self.where(evidence)
        if (self.operator, where, list(vectors)) == ("add", "all", [evidence.hook_point]):
            return first
        return Vectors(
            {name: each.vector for name, each in vectors.items()},
            {name: each.unit for name, each in vectors.items()},
            self.operator,
            where,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class AddVector(Steering):
    """Adds strength x unit x vector at every position: the commonest steering.

    Attributes:
        hook_point: where it is added.
        vector: direction of norm 1.
        unit: the mean activation norm at the hook point, in which strengths are stated.
    """

    scale = "mean activation norms"
    hook_point: str
    vector: Float[Tensor, " d_in"]
    unit: float

    @property
    def together(self) -> Hashable:
        """One hook point, and one unit there."""
        return self.hook_point, self.unit

    @classmethod
    def intervention(
        cls, rows: Sequence[AddVector], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """One addition with a vector for each row."""
        vectors = torch.stack([row.vector for row in rows])
        return Intervention(
            (add(rows[0].hook_point, strengths[:, None].to(vectors) * rows[0].unit * vectors),)
        )

    def added(self, strength: float = 1.0) -> Mapping[str, Float[Tensor, " d_in"]]:
        """The vector at its hook point."""
        return {self.hook_point: strength * self.unit * self.vector}

    def tensors(self) -> Mapping[str, Tensor]:
        """The direction."""
        return {"": self.vector}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Steering:
        """The direction at the first hook point; `Vectors` where it is more than that."""
        if "" not in tensors:
            return Vectors.restored(tensors, units)
        hook_point, unit = next(iter(units.items()))
        return cls(hook_point, tensors[""], unit)

    @classmethod
    def along(
        cls, hook_point: str, vector: Float[Tensor, " d_in"], unit: float
    ) -> AddVector | None:
        """Along a vector of any length; None where it has no direction (zero or not finite)."""
        vector = vector.detach().float().cpu()
        norm = float(vector.norm())
        if not np.isfinite(norm) or norm < 1e-12:
            return None
        return cls(hook_point, vector / norm, unit)


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors(Steering):
    """Applies an operator along a vector at each of several hook points.

    Attributes:
        vectors: hook point -> direction of norm 1.
        units: hook point -> mean activation norm, in which strengths are stated.
        operator: what is done with them.
        positions: at which tokens.
    """

    scale = "mean activation norms; of project_out the share that is removed"
    vectors: Mapping[str, Float[Tensor, " d_in"]]
    units: Mapping[str, float]
    operator: Operator = "add"
    positions: Where = "all"

    @property
    def together(self) -> Hashable:
        """The same operator at the same places."""
        return tuple(self.units.items()), self.operator, hashable(self.positions)

    @classmethod
    def intervention(
        cls, rows: Sequence[Vectors], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """One edit for each hook point, with a vector for each row."""
        first = rows[0]
        edits = []
        for name, unit in first.units.items():
            vectors = torch.stack([row.vectors[name] for row in rows])
            if first.operator == "add":
                step = strengths[:, None].to(vectors) * unit * vectors
                edits.append(add(name, step, first.positions))
            else:
                change = _projected(first.operator, vectors, strengths, unit)
                edits.append(Edit(name, change, first.positions))
        return Intervention(tuple(edits))

    def added(self, strength: float = 1.0) -> Mapping[str, Float[Tensor, " d_in"]]:
        """The vectors at their hook points, where they are added to every token."""
        if self.operator != "add" or self.positions != "all":
            return {}
        return {name: strength * self.units[name] * v for name, v in self.vectors.items()}

    def tensors(self) -> Mapping[str, Tensor]:
        """The vectors by hook point, their units, the operator by its number, and the
        positions."""
        return {
            **{f"vector:{name}": vector for name, vector in self.vectors.items()},
            **{f"unit:{name}": torch.tensor(unit) for name, unit in self.units.items()},
            "operator": torch.tensor(OPERATORS.index(self.operator)),
            **saved_positions(self.positions),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Vectors:
        """From what it saved; it has units of its own."""
        of = {
            kind: {
                name.removeprefix(kind): tensor
                for name, tensor in tensors.items()
                if name.startswith(kind)
            }
            for kind in ("vector:", "unit:")
        }
        return cls(
            of["vector:"],
            {name: float(of["unit:"][name]) for name in of["vector:"]},
            OPERATORS[int(tensors["operator"])],
            restored_positions(tensors),
        )


def saved_positions(positions: Where) -> dict[str, Tensor]:
    """Positions as a tensor: a number of `PLACES`, the first of those that were given, or a
    list."""
    if isinstance(positions, GivenFrom):
        return {"given_from": torch.tensor(positions.first)}
    if isinstance(positions, str):
        return {"places": torch.tensor(PLACES.index(positions))}
    return {"positions": torch.tensor(positions, dtype=torch.long)}


def restored_positions(tensors: Mapping[str, Tensor]) -> Where:
    """Positions from the tensors of `saved_positions`."""
    if "given_from" in tensors:
        return GivenFrom(int(tensors["given_from"]))
    if "positions" in tensors:
        return tensors["positions"].tolist()
    return PLACES[int(tensors["places"])]


def hashable(positions: Where) -> Hashable:
    """Positions as something that can be compared."""
    return tuple(positions) if isinstance(positions, list) else positions


class Held:
    """Tensors moved to a device once, not at every step."""

    def __init__(self, *tensors: Tensor) -> None:
        self._given = tensors
        self._moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """On the device of x, in its dtype."""
        place = x.device, x.dtype
        if place not in self._moved:
            self._moved[place] = tuple(each.to(*place) for each in self._given)
        return self._moved[place]


def _projected(
    operator: Operator,
    vectors: Float[Tensor, "row d"],
    strengths: Float[Tensor, " row"],
    unit: float,
) -> Callable[[Tensor, Tensor], Tensor]:
    """What sets or removes projections, each row its own."""
    applied = (strengths != 0).float() if operator == "clamp" else strengths.float().clamp(0, 1)
    target = strengths.float() * unit if operator == "clamp" else torch.zeros(len(strengths))
    held = Held(vectors, applied[:, None, None], target[:, None, None])

    def function(x: Tensor, mask: Tensor) -> Tensor:
        vector, share, wanted = held.like(x)
        along = vector[:, None, :]
        projection = (x * along).sum(dim=2, keepdim=True)
        return torch.addcmul(x, share * (wanted - projection), along)

    return function
