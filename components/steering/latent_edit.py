"""Steering by the codes of latents, the reconstruction error kept.

    x' = x + Decode(z') - Decode(z)        z the codes of x, z' the same with some of them changed

What the dictionary does not explain stays as it is. Reconstructions are linear in the codes by the
contract of dictionaries, so the difference is the change of each code times its decoder direction;
scales, centring and biases cancel.

Source: clamping with the error kept, as in Templeton et al. (2024), Scaling Monosemanticity
(transformer-circuits.pub/2024/scaling-monosemanticity).
"""

from __future__ import annotations

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.dictionary.contract import Dictionary
from components.model.intervention import Edit, Intervention
from components.steering.contract import Evidence, Steering
from components.steering.vector import (
    Held,
    Where,
    hashable,
    restored_positions,
    saved_positions,
)


@dataclasses.dataclass(frozen=True, eq=False)
class LatentEdit(Steering):
    """Changes the codes of some latents.

    Attributes:
        hook_point: where the dictionary reads and writes.
        latents: whose codes.
        reference: of each, its largest activation on the select split.
        positions: at which tokens.
        dictionary: None until a restored one is joined with its own.
    """

    hook_point: str
    latents: Int[Tensor, " latent"]
    reference: Float[Tensor, " latent"]
    positions: Where = "all"
    dictionary: Dictionary | None = None

    @classmethod
    @abstractmethod
    def change(
        cls,
        codes: Float[Tensor, "row token latent"],
        strength: Float[Tensor, "row 1 1"],
        reference: Float[Tensor, "row 1 latent"],
    ) -> Float[Tensor, "row token latent"]:
        """By how much codes change; 0 at strength 0."""

    @property
    def together(self) -> Hashable:
        """As many latents of one dictionary, at the same places."""
        return id(self.dictionary), self.hook_point, len(self.latents), hashable(self.positions)

    @classmethod
    def intervention(
        cls, rows: Sequence[LatentEdit], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """One edit in which each row has latents of its own."""
        first = rows[0]
        dictionary = first.dictionary
        assert dictionary is not None, "a restored steering is joined with its dictionary first"
        latents = torch.stack([row.latents for row in rows])
        directions = dictionary.decoder_directions(first.hook_point).detach().cpu()[latents]
        reference = torch.stack([row.reference for row in rows])[:, None, :]
        held = Held(directions.float(), reference, strengths.float()[:, None, None])

        def function(x: Tensor, mask: Tensor) -> Tensor:
            direction, most, strength = held.like(x)
            codes = codes_of(on(dictionary, x.device), x, mask, latents.to(x.device)).to(x)
            return x + cls.change(codes, strength, most) @ direction

        return Intervention((Edit(first.hook_point, function, first.positions),))

    def tensors(self) -> Mapping[str, Tensor]:
        """The latents, their largest activations, and the positions."""
        return {
            "latents": self.latents,
            "reference": self.reference,
            **saved_positions(self.positions),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> LatentEdit:
        """Without its dictionary, at the first hook point."""
        place = next(iter(units))
        return cls(place, tensors["latents"], tensors["reference"], restored_positions(tensors))

    def joined(self, dictionary: Callable[[], Dictionary]) -> LatentEdit:
        """The same with its dictionary."""
        return dataclasses.replace(self, dictionary=dictionary())

    @classmethod
    def of(
        cls, evidence: Evidence, latents: Sequence[int], positions: Where, **further: Any
    ) -> LatentEdit | str:
        """Of these latents, or why not: one is silent on the whole select split, or where the
        dictionary writes it does not read."""
        dictionary, codes = evidence.dictionary, evidence.codes
        assert dictionary is not None and codes is not None
        if reason := elsewhere(dictionary, evidence.hook_point):
            return reason
        most = codes[:, list(latents)].max(axis=0).toarray().ravel()
        if (most <= 0).any():
            silent = latents[int((most <= 0).argmax())]
            return f"latent {silent} is silent on the select split: nothing says how active it gets"
        reference = torch.from_numpy(most).float()
        chosen = torch.tensor(list(latents))
        return cls(evidence.hook_point, chosen, reference, positions, dictionary, **further)


def elsewhere(dictionary: Dictionary, hook_point: str) -> str | None:
    """Why the codes are not known where the dictionary writes; None where they are."""
    if dictionary.reads == (hook_point,):
        return None
    return (
        f"the dictionary reads {', '.join(dictionary.reads)} and writes {hook_point}: its codes are "
        "not known there; use a dictionary that reads where it writes, or add_direction"
    )


def codes_of(
    dictionary: Dictionary,
    x: Float[Tensor, "row token d"],
    mask: Tensor,
    latents: Int[Tensor, "row latent"],
) -> Float[Tensor, "row token latent"]:
    """The codes of each row's own latents at the tokens of the mask [row, token, 1]; 0 elsewhere."""
    inside = mask[:, :, 0]
    found = torch.zeros(int(inside.sum()), latents.shape[1], device=x.device)
    own = latents.repeat_interleave(inside.sum(1), dim=0)
    if len(found):
        codes = dictionary.encode(x[inside])
        row = codes.row_index()
        for number in range(latents.shape[1]):
            hit = codes.indices == own[row, number]
            found[row[hit], number] = codes.values[hit].to(found)
    whole = found.new_zeros(*inside.shape, latents.shape[1])
    whole[inside] = found
    return whole


_moved: WeakKeyDictionary[Dictionary, dict[torch.device, Dictionary]] = WeakKeyDictionary()


def on(dictionary: Dictionary, device: torch.device) -> Dictionary:
    """The dictionary on this device: itself, or a copy that is made once."""
    if dictionary.like.device == device:
        return dictionary
    copies = _moved.setdefault(dictionary, {})
    if device not in copies:
        copies[device] = copy.deepcopy(dictionary).to(device)
    return copies[device]
