"""Activations and codes on disk: safetensors shards, written whole or not at all, memory-mapped on
reading.

An activation shard `<split>/<NNNNN>.safetensors` holds `x.<hook_point>` [rows, d_in] for each hook
point and the int32 provenance of every row: `token, document, position, context, offset`. A code
shard holds one compressed sparse row matrix: `offsets` int64 [rows + 1], `indices` int32, `values`
float32. Row i of the codes of a split is row i of its activations.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.errors import InputError
from components.registry import nearest
from components.store.artifact import Artifact

PROVENANCE = ("token", "document", "position", "context", "offset")
FROM_MODEL = "from_model"
"""The fact of an artifact of `capture` or `encode` that holds no shards, because the model runs
again wherever they would be read."""
NOT_STORED = (
    "neither activations nor codes are stored (capture.from_model=true), and this reads them from "
    "disk; set capture.from_model=false to have it"
)
"""Why whatever reads shards has nothing to do there."""
_SHARD = re.compile(r"([^/]+)/(\d{5})\.safetensors")


@dataclasses.dataclass(frozen=True, eq=False)
class Codes:
    """Sparse codes, row by row; rows may differ in length, and inside a row the latents ascend.

    Attributes:
        offsets: row i is entries offsets[i] to offsets[i + 1].
        indices: the latent of each entry.
        values: its activation, never zero.
        d_sae: number of latents.
    """

    offsets: Int64[Tensor, " rows_and_one"]
    indices: Int32[Tensor, " entry"]
    values: Float32[Tensor, " entry"]
    d_sae: int

    @classmethod
    def from_dense(cls, dense: Float[Tensor, "row d_sae"]) -> Codes:
        """The entries that are not zero."""
        row, index = dense.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=dense.shape[0])
        return cls(_offsets(counts), index.int(), dense[row, index].float(), dense.shape[1])

    @classmethod
    def from_topk(
        cls, values: Float[Tensor, "row k"], indices: Int[Tensor, "row k"], d_sae: int
    ) -> Codes:
        """From `torch.topk`'s pair; entries that are zero are left out."""
        indices, order = indices.sort(dim=1)
        values = values.gather(1, order)
        kept = values != 0
        return cls(_offsets(kept.sum(1)), indices[kept].int(), values[kept].float(), d_sae)

    @classmethod
    def cat(cls, parts: Sequence[Codes]) -> Codes:
        """Rows of all parts, in order; the parts agree on d_sae."""
        assert parts, "codes of nothing have no d_sae"
        counts = torch.cat([part.offsets.diff() for part in parts])
        indices = torch.cat([part.indices for part in parts])
        return cls(
            _offsets(counts), indices, torch.cat([part.values for part in parts]), parts[0].d_sae
        )

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.offsets.shape[0] - 1

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return self.indices.shape[0]

    def l0(self) -> float:
        """Mean number of entries in a row; nan for no rows."""
        return self.nnz / self.n_rows if self.n_rows else float("nan")

    def row_index(self) -> Int64[Tensor, " entry"]:
        """The row of each entry."""
        return torch.repeat_interleave(self.offsets.diff())

    def dense(self) -> Float32[Tensor, "row d_sae"]:
        """The dense matrix; for a few rows only."""
        dense = self.values.new_zeros(self.n_rows, self.d_sae)
        dense[self.row_index(), self.indices.long()] = self.values
        return dense

    def rows(self, start: int, stop: int) -> Codes:
        """Rows start to stop, as views."""
        offsets = self.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return Codes(offsets - first, self.indices[first:last], self.values[first:last], self.d_sae)

    def take(self, index: Int64[Tensor, " taken"]) -> Codes:
        """The rows of these numbers, in this order."""
        counts = self.offsets.diff()[index]
        offsets = _offsets(counts)
        entry = torch.arange(int(offsets[-1]), device=index.device)
        entry = entry + torch.repeat_interleave(self.offsets[:-1][index] - offsets[:-1], counts)
        return Codes(offsets, self.indices[entry], self.values[entry], self.d_sae)

    def entries(self, kept: Bool[Tensor, " entry"]) -> Codes:
        """The same rows with these entries alone."""
        counts = torch.bincount(self.row_index()[kept], minlength=self.n_rows)
        return Codes(_offsets(counts), self.indices[kept], self.values[kept], self.d_sae)

    def matrix(self) -> scipy.sparse.csr_matrix:
        """The same numbers as a scipy matrix [row, d_sae], sharing memory where types allow."""
        parts = (self.values.cpu().numpy(), self.indices.cpu().numpy(), self.offsets.cpu().numpy())
        return scipy.sparse.csr_matrix(parts, shape=(self.n_rows, self.d_sae))

    def columns(self) -> Columns:
        """The same entries latent by latent (a counting sort, linear in the entries)."""
        csc = self.matrix().tocsc()
        offsets, rows = csc.indptr.astype(np.int64), csc.indices.astype(np.int64)
        return Columns(
            torch.from_numpy(offsets),
            torch.from_numpy(rows),
            torch.from_numpy(csc.data),
            self.n_rows,
        )

    def to(self, device: torch.device | str) -> Codes:
        """The same codes on another device."""
        return Codes(
            self.offsets.to(device), self.indices.to(device), self.values.to(device), self.d_sae
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Sparse codes, latent by latent; inside a latent the rows ascend.

    Attributes:
        offsets: latent j is entries offsets[j] to offsets[j + 1].
        rows: the row of each entry.
        values: its activation.
        n_rows: rows of the matrix.
    """

    offsets: Int64[Tensor, " latents_and_one"]
    rows: Int64[Tensor, " entry"]
    values: Float32[Tensor, " entry"]
    n_rows: int

    def latent(self, latent: int) -> tuple[Int64[Tensor, " active"], Float32[Tensor, " active"]]:
        """Rows on which one latent is active, and its activations there."""
        first, last = int(self.offsets[latent]), int(self.offsets[latent + 1])
        return self.rows[first:last], self.values[first:last]


class _Shards:
    """The shards of every split of one artifact, verified and memory-mapped when first touched.

    Raises:
        InputError: an artifact without shards, to be read from the running model.
    """

    def __init__(self, artifact: Artifact) -> None:
        if not is_stored(artifact):
            raise InputError(f"{artifact.stage}/{artifact.key} has no shards: {NOT_STORED}")
        self.artifact = artifact
        self.splits: list[str] = sorted(
            {match[1] for name in artifact.files if (match := _SHARD.fullmatch(name))}
        )
        self._open: dict[str, list[dict[str, Tensor]]] = {}

    def _shards(self, split: str) -> list[dict[str, Tensor]]:
        if split not in self._open:
            names = [
                name
                for name in self.artifact.files
                if _SHARD.fullmatch(name) and name.startswith(f"{split}/")
            ]
            if not names:
                what = f"{self.artifact.stage}/{self.artifact.key}"
                raise InputError(
                    f"artifact {what} holds no split {split!r}; {nearest(split, self.splits)}"
                )
            self._open[split] = [_mapped(self.artifact.path(name)) for name in names]
        return self._open[split]


class ActivationShards(_Shards):
    """Reads the artifact of `capture`.

    Attributes:
        artifact: the artifact.
        splits: the splits it holds.
        hook_points: canonical names, in the order they were captured.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.hook_points: list[str] = list(artifact.facts["hook_points"])

    def n_rows(self, split: str) -> int:
        """Rows (tokens) of one split."""
        return sum(shard["token"].shape[0] for shard in self._shards(split))

    def d_in(self, hook_point: str) -> int:
        """Width of the activations at a hook point."""
        return self._fact(hook_point, "d_in")

    def mean_norm(self, hook_point: str) -> float:
        """Mean Euclidean norm of the activations over the train split (the first split where there
        is no train)."""
        return self._fact(hook_point, "mean_norm")

    def provenance(self, split: str) -> dict[str, Int32[Tensor, " row"]]:
        """For every row its token id, document, position in the document, context, and offset in
        the context."""
        return {
            name: torch.cat([shard[name] for shard in self._shards(split)]) for name in PROVENANCE
        }

    def rows(
        self, split: str, hook_point: str, index: Int64[Tensor, " taken"]
    ) -> Float[Tensor, "taken d_in"]:
        """The activations of these rows, in this order and in the stored dtype.

        They are read in the order of their place on disk (each page is touched once), then put
        where they belong.
        """
        self._fact(hook_point, "d_in")
        shards = self._shards(split)
        starts = torch.tensor([0] + [shard["token"].shape[0] for shard in shards]).cumsum(0)
        inside, order = index.sort()
        assert not len(index) or (inside[0] >= 0 and inside[-1] < starts[-1]), (
            f"row numbers outside {split}"
        )
        bounds = torch.searchsorted(inside, starts).tolist()
        like = shards[0][f"x.{hook_point}"]
        taken = like.new_empty(len(index), like.shape[1])
        for shard, first, last, start in zip(
            shards, bounds, bounds[1:], starts.tolist(), strict=False
        ):
            if first < last:
                taken[order[first:last]] = shard[f"x.{hook_point}"][inside[first:last] - start]
        return taken

    def _fact(self, hook_point: str, name: str) -> Any:
        facts = self.artifact.facts["hook_points"]
        if hook_point not in facts:
            what = f"{self.artifact.stage}/{self.artifact.key}"
            raise InputError(
                f"artifact {what} holds no hook point {hook_point!r}; {nearest(hook_point, facts)}"
            )
        return facts[hook_point][name]


Opening = Callable[[Artifact, Any, Any], ActivationShards]
"""(artifact of `capture`, where to run, reference of the model or None) -> its activations, from
disk or from the running model."""


def activations_of(
    inputs: Mapping[str, Any], settings: Any, opening: Opening | None
) -> ActivationShards:
    """The activations that a stage is given as `activations`.

    Args:
        inputs: of the stage; `model` says where the model lies now, if it runs.
        settings: where it runs.
        opening: how activations are read that are not stored; None where nobody knows.

    Raises:
        InputError: they are not stored, and no `opening`.
    """
    if opening is None:
        return ActivationShards(inputs["activations"])
    return opening(inputs["activations"], settings, inputs.get("model"))


class CodeShards(_Shards):
    """Reads the artifact of `encode`.

    Attributes:
        artifact: the artifact.
        splits: the splits it holds.
        d_sae: number of latents.
    """

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.d_sae: int = artifact.facts["d_sae"]

    def n_rows(self, split: str) -> int:
        """Rows (tokens) of one split."""
        return sum(shard["offsets"].shape[0] - 1 for shard in self._shards(split))

    def iterate(self, split: str) -> Iterator[Codes]:
        """The codes of a split shard by shard, rows in order."""
        for shard in self._shards(split):
            yield Codes(shard["offsets"], shard["indices"], shard["values"], self.d_sae)

    def codes(self, split: str) -> Codes:
        """All codes of a split in memory."""
        return Codes.cat(list(self.iterate(split)))


def is_stored(artifact: Any) -> bool:
    """Whether an artifact of `capture` or `encode`, made or planned, holds shards."""
    return not artifact.facts.get(FROM_MODEL, False)


def write_activations(
    folder: Path,
    split: str,
    number: int,
    activations: Mapping[str, Float[Tensor, "row _"]],
    provenance: Mapping[str, Int[Tensor, " row"]],
) -> None:
    """Writes one activation shard, whole or not at all."""
    assert set(provenance) == set(PROVENANCE), (
        f"provenance is {PROVENANCE}, not {tuple(provenance)}"
    )
    tensors = {f"x.{hook_point}": x.contiguous() for hook_point, x in activations.items()}
    _write(
        folder,
        split,
        number,
        tensors | {name: column.int().contiguous() for name, column in provenance.items()},
    )


def write_codes(folder: Path, split: str, number: int, codes: Codes) -> None:
    """Writes one code shard, whole or not at all."""
    parts = {"offsets": codes.offsets, "indices": codes.indices, "values": codes.values}
    _write(folder, split, number, {name: part.cpu().contiguous() for name, part in parts.items()})


def shard_rows(folder: Path, split: str, number: int) -> int | None:
    """Rows of a shard that an interrupted run left; None where there is none or it cannot be
    read."""
    try:
        with safe_open(_path(folder, split, number), framework="pt") as file:
            if "token" in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                return file.get_slice("token").get_shape()[0]
            return file.get_slice("offsets").get_shape()[0] - 1
    except (FileNotFoundError, SafetensorError):
        return None


def read_shard(folder: Path, split: str, number: int) -> dict[str, Tensor]:
    """The tensors of one shard of an artifact that is being made, memory-mapped."""
    return _mapped(_path(folder, split, number))


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).long()


def _path(folder: Path, split: str, number: int) -> Path:
    return folder / split / f"{number:05}.safetensors"


def _write(folder: Path, split: str, number: int, tensors: dict[str, Tensor]) -> None:
    path = _path(folder, split, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{split}-{path.name}"
    save_file(tensors, temporary)
    temporary.rename(path)


def _mapped(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
