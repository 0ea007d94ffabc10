"""What is steered: a dictionary, the activations that it was trained on, and where it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from components.dictionary.contract import Dictionary
from components.errors import DictionaryError
from components.store.artifact import Artifact
from components.store.shards import ActivationShards
from components.store.stage import Inputs


@dataclasses.dataclass(frozen=True, eq=False)
class SteeredSubject:
    """The inputs that every part of the stage needs.

    Attributes:
        corpus: artifact of `read`.
        trained: artifact of `train`.
        dictionary: the dictionary in it.
        activations: captured rows.
        hook_point: the first that the dictionary writes: there methods steer, unless they say
            otherwise.
        units: mean activation norm of each hook point that it writes, that one first, and of the
            others that were captured.
    """

    corpus: Artifact
    trained: Artifact
    dictionary: Dictionary
    activations: ActivationShards
    hook_point: str
    units: Mapping[str, float]

    @classmethod
    def read(cls, inputs: Inputs) -> SteeredSubject:
        """From the inputs of the stage.

        Raises:
            InputError: activations that were not captured where the dictionary writes.
            DictionaryError: activations of another width.
        """
        trained, shards = inputs["dictionary"], ActivationShards(inputs["activations"])
        dictionary = Dictionary.load(trained)
        for name in dictionary.writes:
            if dictionary.widths[name] != shards.d_in(name):
                raise DictionaryError(
                    f"dictionary {dictionary.name} writes {dictionary.widths[name]} coordinates "
                    f"at {name}, and the activations have {shards.d_in(name)}; use activations of "
                    "the model it was trained on"
                )
        captured = (n for n in shards.hook_points if not n.startswith(("gradient:", "error:")))
        names = dict.fromkeys((*dictionary.writes, *captured))
        units = {name: shards.mean_norm(name) for name in names}
        return cls(inputs["corpus"], trained, dictionary, shards, dictionary.writes[0], units)

    @property
    def facts(self) -> dict[str, Any]:
        """What the artifact and its scores say of it."""
        return {"dictionary": self.trained.facts["name"], "hook_point": self.hook_point}

    @property
    def n_seeds(self) -> int:
        """Training seeds behind the dictionary."""
        return self.trained.facts.get("n_seeds", 1)
