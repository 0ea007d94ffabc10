"""Which latents are looked at, and through which windows of text.

Every split is cut once into windows (components/interpretation/tiling.py). The codes of a split are
read once (components/interpretation/activity.py), then each latent gets some of the windows
(components/interpretation/drawing.py), and what is chosen is read again. Explain, calibrate and
test are disjoint by document (asserted). Memory grows with the number of latents, and by 8 bytes
for each token; codes and activations stay on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int

from components.interpretation import activity as activities
from components.interpretation import neighbours as near_latents
from components.interpretation.activity import Activity
from components.interpretation.contract import LatentRecord
from components.interpretation.directions import DirectionCodes, hook_point_of
from components.interpretation.drawing import ROLES, Drawn, draw_windows
from components.interpretation.neighbours import Neighbours
from components.interpretation.sample import Sample
from components.interpretation.searched import Searched, search
from components.interpretation.silent import Contrast
from components.interpretation.tiling import ContextsConfig, Tiling, distinct, inside
from components.interpretation.windows import SILENT, Pool, Vocabulary, Windows
from components.seeds import derive, numpy_generator
from components.store.shards import ActivationShards, CodeShards
from components.store.stage import Progress

SPLITS = ("explain", "calibrate", "test")
NAMES_OF_ROLES, NAMES_OF_STRATA = np.array(ROLES), np.array([*SILENT, ""])
AT_ONCE = 128
"""Latents whose distances to the searched windows are held at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """The windows of every sampled latent, without their text: a few kilobytes each.

    Attributes:
        codes: where the activations are.
        cut: the splits.
        sample: the latents.
        neighbours: what lies next to them.
        drawn: by split, of each latent.
        share: of each latent, the share of the windows of the test split in which it is active.
        in_pool: of each latent, the windows of the pool in which it is active, by their place.
    """

    codes: CodeShards | DirectionCodes
    cut: Mapping[str, Searched]
    sample: Sample
    neighbours: Neighbours
    drawn: Mapping[str, Sequence[Drawn]]
    share: Sequence[float]
    in_pool: Sequence[Int[np.ndarray, " _"]]

    def records(self) -> Iterator[LatentRecord]:
        """Every latent with text and activations, one at a time."""
        readers = {split: _Reader(self.codes, self.cut[split].tiling, split) for split in SPLITS}
        config = self.cut["test"].tiling.config
        for number, latent in enumerate(self.sample.latents.tolist()):
            windows = {
                split: readers[split].windows(self.drawn[split][number], latent) for split in SPLITS
            }
            lacks, reason = _too_few(windows, config.fewest)
            yield LatentRecord(
                latent,
                float(self.sample.density[number]),
                int(self.sample.decile[number]),
                **windows,
                reason=reason,
                lacks=lacks,
                share=self.share[number],
                pool=self._pool(number),
            )

    def _pool(self, number: int) -> Pool | None:
        test = self.cut["test"]
        if not len(test.pool):
            return None
        active = np.zeros(len(test.pool), bool)
        active[self.in_pool[number]] = True
        return Pool(test.shared, active)


def cut_splits(
    activations: ActivationShards, vocabulary: Vocabulary, config: ContextsConfig, seed: int = 0
) -> dict[str, Searched]:
    """The splits as windows: the same for every dictionary that is read on these activations.

    Raises:
        InputError: a split without a single window.
    """
    cut = {
        split: Tiling.cut(activations.provenance(split), vocabulary, split, config)
        for split in SPLITS
    }
    for split, other in (("explain", "calibrate"), ("explain", "test"), ("calibrate", "test")):
        common = np.intersect1d(cut[split].document, cut[other].document)
        assert not len(common), f"documents {common[:5]} are in both {split} and {other}"
    generators = {split: numpy_generator(seed, "searched", split) for split in SPLITS}
    return search(cut, activations, generators)


def choose(
    codes: CodeShards | DirectionCodes, cut: Mapping[str, Searched], sample: Sample, seed: int
) -> Generator[Progress, None, Chosen]:
    """The windows of every sampled latent, from the windows that its splits are cut into."""
    config = cut["test"].tiling.config
    near = near_latents.find(codes, sample.latents, config.rows)
    watched = near.watched()
    numbers = np.searchsorted(watched, sample.latents)
    means_at = hook_point_of(codes)
    drawn: dict[str, list[Drawn]] = {}
    words: list[int] = []
    centres: np.ndarray | None = None
    for place, split in enumerate(SPLITS):
        yield Progress(place, len(SPLITS), "splits", f"codes of {split} read")
        searched = cut[split]
        active = None  # that of the split before is let go first
        active = activities.read(codes, searched, watched, derive(seed, "kept", split))
        means = searched.means(means_at)
        if split == "explain":
            words = [_favourite(searched, active, number) for number in numbers.tolist()]
            if means is not None:
                centres = _centres(active, numbers, means)
        drawn[split] = []
        distances = _distances(means, centres, len(numbers))
        for n, (number, distance) in enumerate(zip(numbers.tolist(), distances, strict=True)):
            kinds = [np.searchsorted(watched, latents) for latents in near.kinds(n)]
            latent = int(sample.latents[n])
            windows = draw_windows(
                searched,
                active,
                number,
                Contrast(words[n], kinds, distance),
                [(cut[before], drawn[before][n]) for before in SPLITS[:place]],
                numpy_generator(seed, "windows", split, latent),
            )
            drawn[split].append(windows)
            yield Progress(n + 1, len(numbers), "latents", f"windows of {split} chosen")
    n_windows = len(cut["test"].tiling)
    share = [float(active.n_active[number]) / n_windows for number in numbers.tolist()]
    test = cut["test"]
    of_pool = np.full(len(test.tiles), -1)
    of_pool[test.pool] = np.arange(len(test.pool))
    in_pool = [found[found >= 0] for found in (of_pool[active.places(n)] for n in numbers.tolist())]
    return Chosen(codes, cut, sample, near, drawn, share, in_pool)


def _favourite(searched: Searched, active: Activity, number: int) -> int:
    """The word on which a latent is most active, all its windows together; -1 for none."""
    row, value = active.sample.of(number)
    if not len(row):
        return -1
    words = searched.tiling.vocabulary.word_of[searched.tiling.token[row]]
    distinct, at = np.unique(words, return_inverse=True)
    return int(distinct[np.bincount(at, weights=value).argmax()])


def _centres(
    active: Activity, numbers: Int[np.ndarray, " latent"], means: Float32[np.ndarray, "window d_in"]
) -> Float32[np.ndarray, "latent d_in"]:
    """The mean activation vector over the active windows of each latent; NaN where it has none."""
    centres = np.full((len(numbers), means.shape[1]), np.nan, np.float32)
    for row, number in enumerate(numbers.tolist()):
        places = active.places(number)
        if len(places):
            centres[row] = means[places].mean(0)
    return centres


def _distances(
    means: Float32[np.ndarray, "window d_in"] | None,
    centres: Float32[np.ndarray, "latent d_in"] | None,
    n: int,
) -> Iterator[Float32[np.ndarray, " window"] | None]:
    """Of each latent the squared distance of every window's mean vector from its centre, less what
    is the same for all windows; None where it has no centre."""
    if means is None or centres is None:
        yield from [None] * n
        return
    norms = (means**2).sum(1)
    for start in range(0, n, AT_ONCE):
        part = centres[start : start + AT_ONCE]
        for centre, distance in zip(part, norms - 2 * part @ means.T, strict=True):
            yield None if np.isnan(centre[0]) else distance


class _Reader:
    """Reads the activations of one latent in some windows from the codes on disk."""

    def __init__(self, codes: CodeShards | DirectionCodes, tiling: Tiling, split: str) -> None:
        shards = list(codes.iterate(split))
        self._tiling = tiling
        self._parts = [
            (shard.offsets.numpy(), shard.indices.numpy(), shard.values.numpy()) for shard in shards
        ]
        self._starts = np.cumsum([0, *(shard.n_rows for shard in shards)])

    def windows(self, drawn: Drawn, latent: int) -> Windows:
        """The windows as text, with the latent's activation on every token.

        Silent windows are not read again: that they are silent was seen in the pass over all codes.

        Raises:
            AssertionError: an active window is not active.
        """
        tiling, tiles = self._tiling, drawn.tiles
        activations = np.zeros((len(tiles), tiling.config.width), np.float32)
        active = np.flatnonzero(drawn.stratum < 0)
        firsts, lengths = tiling.first[tiles[active]], tiling.length[tiles[active]]
        self._read(latent, firsts, lengths, active, activations)
        assert (activations[active].max(1, initial=0) > 0).all(), "an active window is active"
        return Windows(
            tiling.texts(tiles),
            activations,
            tiling.document[tiles],
            tiling.start[tiles],
            NAMES_OF_ROLES[drawn.role],
            drawn.tenth.astype(np.int64),
            NAMES_OF_STRATA[drawn.stratum],
            drawn.stands_for.astype(np.float64),
        )

    def _read(
        self,
        latent: int,
        firsts: Int[np.ndarray, " active"],
        lengths: Int[np.ndarray, " active"],
        places: Int[np.ndarray, " active"],
        into: Float32[np.ndarray, "window token"],
    ) -> None:
        """Writes the latent's activation on every token of these windows into their places."""
        at = np.zeros(len(firsts), np.int64)  # tokens of each window that are read already
        while (open_ := np.flatnonzero(lengths > 0)).size:  # a window may end in the next shard
            shard_of = np.searchsorted(self._starts, firsts[open_], side="right") - 1
            for number in distinct(shard_of).tolist():
                offsets, indices, values = self._parts[number]
                mine = open_[shard_of == number]
                start = firsts[mine] - self._starts[number]
                stop = np.minimum(start + lengths[mine], len(offsets) - 1)
                low, n = offsets[start], offsets[stop] - offsets[start]
                entry = inside(low, n)
                found = np.flatnonzero(indices[entry] == latent)
                hits, window = entry[found], mine[np.searchsorted(np.cumsum(n), found, "right")]
                row = offsets.searchsorted(hits, "right") - 1 + self._starts[number]
                into[places[window], at[window] + row - firsts[window]] = np.maximum(
                    values[hits], 0
                )
                read = stop - start
                at[mine], firsts[mine], lengths[mine] = (
                    at[mine] + read,
                    firsts[mine] + read,
                    lengths[mine] - read,
                )


def _too_few(windows: Mapping[str, Windows], fewest: int) -> tuple[str | None, str | None]:
    """Of which windows there are too few, and what to do."""
    for split in ("explain", "test"):
        n_active = int(windows[split].active.sum())
        for kind, n in (("active", n_active), ("silent", len(windows[split]) - n_active)):
            if n < fewest:
                few = (
                    f"{n} {kind} windows in the {split} split, wanted at least {fewest} "
                    "(interpret.contexts.fewest)"
                )
                if kind == "active":
                    return kind, f"{few}; more text there would give more (read.splits.{split})"
                more = "shorter windows would give more (interpret.contexts.width and shortest)"
                return kind, f"{few}; {more}"
    return None, None
