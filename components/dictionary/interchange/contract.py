"""What a format of another project promises: reading and writing that project's files, and
computing as it computes.

In between stands `Weights`: a dictionary in activation units, in the terms on which every project
agrees.

    u = (x - b_dec) W_enc.T + b_enc    (without b_dec where the file does not centre: folded exactly on the way in)
    z = nonlinearity(u)                x^ = z W_dec + b_dec

A format is one file in `formats/`: a class marked with `@formats`. `exchange.py` turns files into
dictionaries and back.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from components.dictionary.interchange.files import absent_here
from components.errors import DictionaryError
from components.registry import Registry

formats: Registry[type[Format]] = Registry("format", "components.dictionary.interchange.formats")


@dataclasses.dataclass(frozen=True)
class Weights:
    """A dictionary in plain terms and activation units.

    Attributes:
        architecture: ours: relu, topk, gated, jumprelu, batch_topk, matryoshka.
        tensors: by our names: W_enc and W_dec [d_sae, d_in], b_dec [d_in], and what the
            architecture has besides.
        options: the architecture's options that the file tells (k, prefixes), by our names.
        centred: whether b_dec is subtracted from the input.
        hook_point: where it belongs, by our or TransformerLens's name; empty where the file does
            not say.
        model: the model it belongs to; empty where the file does not say.
    """

    architecture: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    centred: bool = True
    hook_point: str = ""
    model: str = ""

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.tensors["W_enc"].shape[0]

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.tensors["W_enc"].shape[1]

    def uncentred_bias(self, name: str = "b_enc") -> Tensor:
        """The bias that gives the same pre-activations without subtracting b_dec from the input."""
        if not self.centred:
            return self.tensors[name]
        return (self.tensors[name].double() - self._shift(name)).to(self.tensors[name].dtype)

    def centred_bias(self, name: str = "b_enc") -> Tensor:
        """The bias that gives the same pre-activations when b_dec is subtracted from the input."""
        if self.centred:
            return self.tensors[name]
        return (self.tensors[name].double() + self._shift(name)).to(self.tensors[name].dtype)

    def _shift(self, name: str) -> Tensor:
        """What b_dec adds to the sum that this bias belongs to: a gated magnitude is exp(r_mag) x
        W_enc.T + b_mag."""
        shift = self.tensors["W_enc"].double() @ self.tensors["b_dec"].double()
        return shift * self.tensors["r_mag"].double().exp() if name == "b_mag" else shift


class Format(ABC):
    """One project's layout of files.

    Attributes:
        kind: name of the format, set by the registry.
        version: number beside the format's code.
        peer: what the project is called.
        layouts: names, below the folder, of the files that hold a dictionary; a layout is told by
            the first of them.
        exports: our architecture -> what the project calls it; empty for a format that is only
            read.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    peer: ClassVar[str]
    layouts: ClassVar[Sequence[Sequence[str]]]
    exports: ClassVar[Mapping[str, str]] = {}

    def layout(self, has: Callable[[str], bool]) -> Sequence[str]:
        """The layout of a folder that has these names; the last one where it has none."""
        return next((names for names in self.layouts if has(names[0])), self.layouts[-1])

    def files(self, folder: Path) -> Sequence[Path]:
        """The files that hold the dictionary.

        Raises:
            DictionaryError: they are not there, or are pickles.
        """
        paths = [folder / name for name in self.layout(lambda name: (folder / name).is_file())]
        for path in paths:
            if not path.is_file():
                raise absent_here(path)
        return paths

    @abstractmethod
    def read(self, folder: Path) -> Weights:
        """The dictionary in that folder.

        Raises:
            DictionaryError: files or tensors that are missing, misshapen or without a counterpart
                here.
        """

    @abstractmethod
    def as_peer(
        self, folder: Path, x: Float[Tensor, "token d_in"]
    ) -> tuple[Float[Tensor, "token d_sae"], Float[Tensor, "token d_in"]]:
        """Codes and reconstruction as the project computes them, from the file alone, in x's
        type."""

    def write(self, weights: Weights, folder: Path) -> None:
        """Writes the folder that the project's own loader reads."""
        raise DictionaryError(
            f"the format {self.kind} is read, not written; written are: {', '.join(written())}"
        )


def written() -> list[str]:
    """The formats that can be exported to."""
    return [name for name, entry in formats.items() if entry.exports]
