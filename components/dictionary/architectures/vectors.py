"""Directions that already exist (steering vectors, probes, means of classes), each as a latent of
its own; nothing is learnt.

    u = (x - b_dec) V.T        z = u where u > theta, else 0        x^ = z V + b_dec        rows of V have norm 1

b_dec is the mean of a sample of activations, so u says how far a token lies along a vector from
where tokens usually lie. theta_i is read off the same sample so that vector i is active on a share
`density` of its tokens, and is at least 0. Every later stage takes the latents like those of a
dictionary: contexts, explanations, scores, steering. The length of a vector is not kept: what is
compared is directions, and steering sets strengths by their cost. Names in the file become names of
latents. The reconstruction means nothing, for the vectors are not meant to add up to an activation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures
from components.dictionary.interchange.files import read_tensors
from components.dictionary.kernels.sparse import counted
from components.errors import DictionaryError
from components.paths import expanded
from components.store.shards import Codes

log = logging.getLogger(__name__)

FORMATS = (".safetensors", ".npy")
AT_ONCE = 64
"""Vectors whose thresholds are read off the sample together."""
OFF = 0.2
"""A vector whose share of active tokens is further off, of what was wanted, is told of."""


class VectorsConfig(Config, title="vectors"):
    """Vectors from a file as latents."""

    kind: Literal["vectors"] = "vectors"
    """Latents are directions of your own, read from a file; nothing is learnt."""
    path: str = ""
    """A .safetensors file, whose tensors are vectors [d_in] or matrices [n, d_in], taken in the
    order of their names (v2 before v10); or a .npy file with one matrix [n, d_in]."""
    density: float = Field(default=0.01, gt=0, lt=1)
    """Share of the tokens on which each vector is active; less where many tokens lie equally far
    along it, and at most the share that lies further along it than the mean."""
    d_sae: NonNegativeInt = 0
    """Number of vectors; 0 counts those in the file."""


@architectures
@final
class Vectors(Dictionary):
    """See the module."""

    config: ClassVar[type[Config]] = VectorsConfig
    learns = "nothing"
    baseline = True
    sparsity = "density"
    version: ClassVar[int] = 2  # keeps the vectors' names
    from_file: ClassVar[bool] = True
    rebuilds: ClassVar[bool] = False
    options: VectorsConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        # A saved dictionary knows its size without the file, which may be gone by then.
        d_sae = self.size(options, 0)
        super().__init__(options.model_copy(update={"d_sae": d_sae}), reads, reconstructs, widths)
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(self.d_in), requires_grad=False)
        self.threshold = nn.Parameter(torch.zeros(self.d_sae), requires_grad=False)

    @classmethod
    def size(cls, options: VectorsConfig, d_in: int) -> int:
        """As many as the file has, unless the options say it."""
        return options.d_sae or len(read(options.path)[0])

    @classmethod
    def files(cls, options: VectorsConfig) -> Sequence[Path]:
        """The file with the vectors."""
        return (_file(options.path),)

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """The vectors at norm 1, the bias at the mean, each threshold where the share of active
        tokens is `density`.

        Raises:
            DictionaryError: a file that cannot be used, see `read`; vectors of another width or
                number.
        """
        vectors, self.latent_names = read(self.options.path)
        if vectors.shape != self.W_dec.shape:
            raise DictionaryError(
                f"{self.options.path} holds {len(vectors)} vectors of width {vectors.shape[1]}, "
                f"wanted {self.d_sae} of width {self.d_in}, the width at {self.hook_point}; take "
                "vectors of this model and hook point (train.hook_point), and leave d_sae at 0, "
                "which counts them"
            )
        x = sample[self.hook_point]
        self.W_dec.copy_(vectors)
        self.b_dec.copy_(x.double().mean(0))
        n_silent = min(len(x), max(1, round((1 - self.options.density) * len(x))))
        shares = []
        for latents in torch.arange(self.d_sae).split(AT_ONCE):
            along = (x - self.b_dec) @ self.W_dec[latents].T
            self.threshold[latents] = along.kthvalue(n_silent, dim=0).values.clamp_min(0)
            shares.append((along > self.threshold[latents]).double().mean(0))
        off = (torch.cat(shares) - self.options.density).abs() > OFF * self.options.density
        if off.any():
            first = int(off.nonzero()[0])
            log.warning(
                "%d of %d vectors are not active on a share of %g of the tokens, the first is vector "
                "%d (%.3g): many tokens lie equally far along it, or few further than the mean",
                int(off.sum()),
                self.d_sae,
                self.options.density,
                first,
                torch.cat(shares)[first].item(),
            )

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """Nothing to descend on."""
        codes = self.codes(batch)
        return Outcome({}, self.rebuild(codes), counted(codes))

    def codes(self, batch: Batch) -> Codes:
        """The projections above the thresholds."""
        pre = (batch[self.hook_point] - self.b_dec) @ self.W_dec.T
        return Codes.from_dense(torch.where(pre > self.threshold, pre, 0))


def read(path: str) -> tuple[Float[Tensor, "d_sae d_in"], tuple[str, ...]]:
    """The directions of the vectors in a file (rows of norm 1, in float32), and what each is called
    there: a row of a matrix by its name and number, the rows of a .npy file not at all.

    Raises:
        DictionaryError: no file, a kind of file that is not read (a pickle, say), a damaged one, or
            vectors of several widths, of complex numbers, with numbers that are not finite, or of
            length 0.
    """
    file = _file(path)
    if file.suffix.lower() == ".npy":
        parts = _arrays(file)
    else:
        parts = dict(sorted(read_tensors(file).items(), key=lambda part: _natural(part[0])))
    rows = {
        name: tensor.double().reshape(-1, tensor.shape[-1])
        for name, tensor in parts.items()
        if tensor.ndim in (1, 2) and tensor.numel() and not tensor.is_complex()
    }
    if len(rows) < len(parts) or len({part.shape[1] for part in rows.values()}) != 1:
        listed = [
            f"{name} {list(each.shape)}{' complex' * each.is_complex()}"
            for name, each in list(parts.items())[:8]
        ]
        raise DictionaryError(
            f"{file}: wanted vectors [d_in] or matrices [n, d_in] of real numbers and of one width, "
            f"found {', '.join(listed) or 'nothing'}"
        )
    vectors = torch.cat(list(rows.values()))
    names = [
        f"{name}[{row}]" if parts[name].ndim == 2 else name
        for name, part in rows.items()
        for row in range(len(part))
    ]
    # by the largest entry first: the square of a very long or short one is no number
    largest = vectors.abs().amax(1, keepdim=True)
    if unusable := (~(largest.isfinite() & (largest > 0))).nonzero()[:, 0].tolist():
        first = unusable[0]
        raise DictionaryError(
            f"{file}: {len(unusable)} of {len(vectors)} vectors have no direction, the first is "
            f"vector {first} ({names[first]!r}, its largest entry is {largest[first].item():g}); "
            "take them out"
        )
    vectors = vectors / largest
    named = tuple(names) if file.suffix.lower() == ".safetensors" else ()
    return (vectors / vectors.norm(dim=1, keepdim=True)).float(), named


def _file(path: str) -> Path:
    if not path:
        raise DictionaryError(
            "the kind vectors reads directions from a file; set train.dictionary.path to it "
            f"({' or '.join(FORMATS)})"
        )
    file = expanded(path)
    if file.suffix.lower() not in FORMATS:
        raise DictionaryError(
            f"train.dictionary.path={path}: wanted a file of the kinds {', '.join(FORMATS)}; write "
            "the vectors with safetensors.torch.save_file or numpy.save"
        )
    if not file.is_file():
        raise DictionaryError(f"no file {file}; set train.dictionary.path to where it lies")
    return file


def _natural(name: str) -> list[tuple[int, str]]:
    """latent_2 before latent_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _arrays(file: Path) -> dict[str, Tensor]:
    try:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubc":
            raise ValueError("it holds something else")
        wide = np.complex128 if array.dtype.kind == "c" else np.float64
        return {file.name: torch.from_numpy(array.astype(wide))}
    except (ValueError, OSError, EOFError) as error:
        raise DictionaryError(
            f"{file} is no matrix of numbers ({error}); write it again with numpy.save"
        ) from error
