"""Which latents are looked at, and through which windows of text: top, by tenths of activation, and verified silent.

Every split is cut once into windows that never cross a document and serve as active or silent for any latent: so both
classes have one distribution of position, and silence is known, not hoped for. The codes are read once for each split,
keeping the entries of sampled latents only. Explain, calibrate and test are disjoint by document (asserted).

Sources: quantile windows after delphi (arXiv 2410.13928, section 3), which draws explaining and scoring windows from
one list and labels random windows silent unchecked; here neither can happen. Half of the silent windows hold the very
word that the latent fires on most, where there are such: a harder contrast than random text.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Generator, Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator

from components.config import Config
from components.errors import InputError
from components.interpretation.contract import LatentRecord, Texts, Vocabulary, Windows
from components.interpretation.sample import TENTHS, Sample
from components.seeds import numpy_generator
from components.store.artifact import Progress
from components.store.shards import ActivationShards, CodeShards

SPLITS = ("explain", "calibrate", "test")


class ContextsConfig(Config):
    """Which windows stand for a latent."""

    width: int = Field(default=32, ge=4, le=512)
    """Tokens of a window, at most."""
    shortest: int = Field(default=24, ge=2)
    """Tokens of a window, at least; what is left of a document and shorter is not used."""
    top: int = Field(default=20, ge=0)
    """Windows of the explain split with the highest activation."""
    per_tenth: PositiveInt = 5
    """Windows drawn from each tenth of the active windows, ordered by activation, of the explain and test splits."""
    calibrate_per_tenth: PositiveInt = 2
    """The same for the calibrate split."""
    fewest: PositiveInt = 10
    """A latent with fewer active or fewer silent windows on the explain or the test split is skipped and counted."""
    near_duplicate: float = Field(default=0.5, gt=0, le=1)
    """Of two windows that share more than this part of their three-token sequences, one is dropped."""
    rows: PositiveInt = 1_000_000
    """Tokens of each split that are read, at most: bounds memory."""

    @model_validator(mode="after")
    def _fits(self) -> ContextsConfig:
        if self.shortest > self.width:
            raise ValueError(f"shortest ({self.shortest}) is more than width ({self.width})")
        if self.fewest > TENTHS * self.per_tenth:
            most = f"the {TENTHS * self.per_tenth} windows that ten tenths of per_tenth ({self.per_tenth}) can give"
            raise ValueError(f"fewest ({self.fewest}) is more than {most}; every latent would be skipped")
        return self


def cut_splits(activations: ActivationShards, vocabulary: Vocabulary, config: ContextsConfig) -> dict[str, Tiling]:
    """The splits as windows: the same for every dictionary that is read on these activations.

    Raises:
        InputError: a split without a single window.
    """
    cut = {split: Tiling.cut(activations.provenance(split), vocabulary, split, config) for split in SPLITS}
    for split, other in (("explain", "calibrate"), ("explain", "test"), ("calibrate", "test")):
        common = np.intersect1d(cut[split].document, cut[other].document)
        assert not len(common), f"documents {common[:5]} are in both {split} and {other}"
    return cut


def choose(
    codes: CodeShards, cut: Mapping[str, Tiling], sample: Sample, seed: int
) -> Generator[Progress, None, list[LatentRecord]]:
    """The windows of every sampled latent, from the windows that its splits are cut into."""
    config = cut["test"].config
    active = {split: _active(codes, split, sample.latents, config.rows) for split in SPLITS}
    records = []
    for number, latent in enumerate(sample.latents.tolist()):
        chosen: dict[str, Windows] = {}
        favourite = -1
        for split in SPLITS:
            rows, values = active[split][number]
            if split == "explain" and len(rows):
                words = cut[split].vocabulary.word_of[cut[split].token[rows]]
                favourite = int(np.bincount(words, weights=values).argmax())
            generator = numpy_generator(seed, "windows", split, latent)
            chosen[split] = cut[split].windows(rows, values, favourite, list(chosen.values()), split, generator)
        reason = _too_few(chosen, config.fewest)
        facts = (latent, float(sample.density[number]), int(sample.decile[number]))
        records.append(LatentRecord(*facts, **chosen, reason=reason))
        yield Progress(number + 1, len(sample.latents), "latents", "windows chosen")
    return records


@dataclasses.dataclass(frozen=True, eq=False)
class Tiling:
    """One split cut into windows: runs of consecutive rows inside one document of one context.

    Attributes:
        config: how.
        vocabulary: text of tokens.
        token: token id of each row.
        first: first row of each window.
        length: its number of tokens.
        tile_of: the window of each row, or -1.
        document: of each window.
        start: position in the document of its first token.
    """

    config: ContextsConfig
    vocabulary: Vocabulary
    token: Int[np.ndarray, " row"]
    first: Int[np.ndarray, " window"]
    length: Int[np.ndarray, " window"]
    tile_of: Int[np.ndarray, " row"]
    document: Int[np.ndarray, " window"]
    start: Int[np.ndarray, " window"]

    @classmethod
    def cut(
        cls, provenance: Mapping[str, object], vocabulary: Vocabulary, split: str, config: ContextsConfig
    ) -> Tiling:
        """Each run of text into windows of nearly equal length, between `shortest` and `width`."""
        columns = {name: np.asarray(column)[: config.rows] for name, column in provenance.items()}
        token, document, position, context, offset = (
            columns[name].astype(np.int64) for name in ("token", "document", "position", "context", "offset")
        )
        joined = (np.diff(document) == 0) & (np.diff(context) == 0) & (np.diff(offset) == 1) & (np.diff(position) == 1)
        begin = np.flatnonzero(np.append(True, ~joined)) if len(token) else np.zeros(0, np.int64)
        size = np.diff(np.append(begin, len(token)))
        whole = -(-size // config.width)
        fits = size // config.shortest >= whole
        n = np.where(fits, whole, size // config.width)
        if not n.sum():
            raise InputError(
                f"interpret: the {split} split ({len(token)} tokens) has no run of {config.shortest} tokens inside one "
                f"document; lower interpret.contexts.shortest (and width), or read more text into that split"
            )
        used = np.where(fits, size, n * config.width)
        run = np.repeat(np.arange(len(begin)), n)
        number = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        first = begin[run] + number * used[run] // n[run]
        length = begin[run] + (number + 1) * used[run] // n[run] - first
        tile = np.repeat(np.arange(len(first)), length)
        tile_of = np.full(len(token), -1)
        tile_of[first[tile] + np.arange(len(tile)) - (np.cumsum(length) - length)[tile]] = tile
        return cls(config, vocabulary, token, first, length, tile_of, document[first], position[first])

    def windows(
        self,
        rows: Int[np.ndarray, " active"],
        values: Float[np.ndarray, " active"],
        favourite: int,
        earlier: list[Windows],
        split: str,
        generator: np.random.Generator,
    ) -> Windows:
        """The windows of one latent.

        Args:
            rows: where it is active, ascending.
            values: how much.
            favourite: the word it fires on most, for the silent windows that hold it; -1 for none.
            earlier: windows of other splits, of which none here may be a near-duplicate.
            split: says how many.
            generator: draws.
        """
        config = self.config
        inside = self.tile_of[rows] >= 0
        rows, values = rows[inside], values[inside]
        tiles, at = np.unique(self.tile_of[rows], return_index=True)
        maximum = np.maximum.reduceat(values, at) if len(at) else np.zeros(0)
        ranked = tiles[np.argsort(-maximum, kind="stable")]
        tenths = np.array_split(ranked, TENTHS)
        n_top = config.top if split == "explain" else 0
        per_tenth = config.calibrate_per_tenth if split == "calibrate" else config.per_tenth
        # Twice as many as wanted are drawn, because near-duplicates go.
        groups = [_Group("top", "", ranked[: 2 * n_top], n_top)]
        groups += [
            _Group("quantile", "", generator.permutation(tenth)[: 2 * per_tenth + n_top], per_tenth) for tenth in tenths
        ]
        before = [windows.texts.tokens for windows in earlier]
        kept = self._distinct(groups, before)
        active = np.concatenate([group.tiles for group in kept])
        weights = self._silence(tiles, self.length[active])
        holds = self._holding(favourite)
        half = len(active) // 2
        groups = [_Group("silent", "same_token", _draw(weights * holds, 2 * half, generator), half)]
        groups += [_Group("silent", "random", _draw(weights, 2 * len(active), generator), len(active))]
        kept += self._distinct(groups, [*before, self._rows(active, self.token)], in_all=len(active))
        tenth_of = np.full(len(self.first), -1)
        tenth_of[ranked] = np.repeat(np.arange(TENTHS), [len(tenth) for tenth in tenths])
        drawn = np.concatenate([group.tiles for group in kept[1:]])
        kind_of = np.where(tenth_of >= 0, tenth_of, TENTHS + holds)  # a tenth of activation, or one of two silent kinds
        top = np.zeros(len(kept[0].tiles))  # was not drawn and stands for nothing
        stands_for = np.concatenate([top, _stands_for(kind_of, drawn, tenth_of >= 0)])
        return self._gather(kept, tenth_of, stands_for, rows, values)

    @functools.cached_property
    def _by_word(self) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """Rows in the order of their words, and these words."""
        words = self.vocabulary.word_of[self.token]
        order = np.argsort(words, kind="stable")
        return order, words[order]

    def _holding(self, word: int) -> Bool[np.ndarray, " window"]:
        """Which windows hold a word."""
        rows, words = self._by_word
        tiles = self.tile_of[rows[slice(*np.searchsorted(words, [word, word + 1]))]]
        holds = np.zeros(len(self.first), bool)
        holds[tiles[tiles >= 0]] = True
        return holds

    def _silence(
        self, active: Int[np.ndarray, " active"], lengths: Int[np.ndarray, " chosen"]
    ) -> Float[np.ndarray, " window"]:
        """Chances to draw each silent window, such that lengths are distributed as among the chosen active ones."""
        silent = np.ones(len(self.first), bool)
        silent[active] = False
        longest = self.config.width + 1
        there = np.bincount(self.length[silent], minlength=longest)
        return silent * (np.bincount(lengths, minlength=longest) / np.maximum(there, 1))[self.length]

    def _distinct(self, groups: list[_Group], before: list[np.ndarray], in_all: int | None = None) -> list[_Group]:
        """The first windows of each group, as many as wanted, none a near-duplicate of one kept before it."""
        candidates = np.concatenate([group.tiles for group in groups])
        tokens = np.concatenate([*before, self._rows(candidates, self.token)])
        similar = _similar(tokens, self.config.near_duplicate)
        here = np.zeros(len(tokens), bool)
        here[: len(tokens) - len(candidates)] = True
        number, n_kept, kept = len(tokens) - len(candidates), 0, []
        for group in groups:
            good: list[int] = []
            for tile in group.tiles.tolist():
                if len(good) < group.wanted and n_kept != in_all and not similar[number][here].any():
                    here[number] = True
                    n_kept += 1
                    good.append(tile)
                number += 1
            kept.append(group._replace(tiles=np.array(good, dtype=np.int64)))
        return kept

    def _rows(
        self, tiles: Int[np.ndarray, " chosen"], column: Int[np.ndarray, " row"]
    ) -> Int[np.ndarray, "chosen width"]:
        """A column of rows as [window, token], -1 beyond the end of a window."""
        width = np.arange(self.config.width)
        at = np.minimum(self.first[tiles][:, None] + width, len(column) - 1)
        return np.where(width < self.length[tiles][:, None], column[at], -1)

    def _gather(
        self,
        kept: list[_Group],
        tenth_of: Int[np.ndarray, " window"],
        stands_for: Float[np.ndarray, " chosen"],
        rows: Int[np.ndarray, " active"],
        values: Float[np.ndarray, " active"],
    ) -> Windows:
        tiles = np.concatenate([group.tiles for group in kept])
        sizes = [len(group.tiles) for group in kept]
        role = np.repeat([group.role for group in kept], sizes)
        stratum = np.repeat([group.stratum for group in kept], sizes)
        activations = np.zeros((len(tiles), self.config.width), dtype=np.float32)
        place = np.full(len(self.first), -1)
        place[tiles] = np.arange(len(tiles))
        window = place[self.tile_of[rows]]
        here = window >= 0
        activations[window[here], rows[here] - self.first[tiles][window[here]]] = values[here]
        silent = role == "silent"
        assert not activations[silent].any(), "a silent window is silent"
        assert (activations[~silent].max(1, initial=0) > 0).all(), "an active window is active"
        texts = Texts(self._rows(tiles, self.token), self.vocabulary)
        where = (self.document[tiles], self.start[tiles])
        return Windows(texts, activations, *where, role, tenth_of[tiles], stratum, stands_for)


class _Group(NamedTuple):
    role: str
    stratum: str
    tiles: Int[np.ndarray, " window"]
    wanted: int


def _active(
    codes: CodeShards, split: str, latents: Int[np.ndarray, " latent"], limit: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and activations of each latent, from one pass over the codes."""
    number_of = np.full(codes.d_sae, -1)
    number_of[latents] = np.arange(len(latents))
    parts, base = [], 0
    for shard in codes.iterate(split):
        part = shard.rows(0, min(shard.n_rows, limit - base))
        number = number_of[part.indices.numpy()]
        wanted = number >= 0
        parts.append((number[wanted], part.row_index().numpy()[wanted] + base, part.values.numpy()[wanted]))
        base += part.n_rows
        if base == limit:
            break
    number, row, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(len(latents) + 1))
    return [(row[order[a:b]], value[order[a:b]]) for a, b in itertools.pairwise(bounds)]


def _stands_for(
    kind_of: Int[np.ndarray, " window"], chosen: Int[np.ndarray, " chosen"], active: Bool[np.ndarray, " window"]
) -> Float[np.ndarray, " chosen"]:
    """How many windows of the split each chosen one stands for.

    All windows of a kind share the windows of that kind; a kind without a chosen window is stood for by the others of
    its class (active or silent), so that together they are all windows of the split.
    """
    there, drawn = np.bincount(kind_of, minlength=TENTHS + 2), np.bincount(kind_of[chosen], minlength=TENTHS + 2)
    weights = (there / np.maximum(drawn, 1))[kind_of[chosen]]
    for of_class in (active, ~active):
        mine = of_class[chosen]
        weights[mine] *= of_class.sum() / max(weights[mine].sum(), 1)
    return weights


def _draw(weights: Float[np.ndarray, " window"], n: int, generator: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    n = min(n, int((weights > 0).sum()))
    return generator.choice(len(weights), n, replace=False, p=weights / weights.sum()) if n else np.zeros(0, np.int64)


def _similar(tokens: Int[np.ndarray, "window token"], threshold: float) -> Bool[np.ndarray, "window window"]:
    """Which windows share more than `threshold` of their three-token sequences (Jaccard)."""
    base = int(tokens.max(initial=0)) + 2
    keys = ((tokens[:, :-2] + 1) * base + tokens[:, 1:-1] + 1) * base + tokens[:, 2:] + 1
    window, at = np.nonzero(tokens[:, 2:] >= 0)
    _, column = np.unique(keys[window, at], return_inverse=True)
    shape = (len(tokens), int(column.max(initial=0)) + 1)
    has = scipy.sparse.csr_matrix((np.ones(len(window), np.float32), (window, column)), shape=shape)
    has.data[:] = 1  # a sequence that comes twice counts once
    common = (has @ has.T).toarray()
    size = common.diagonal()
    return common > threshold * (size[:, None] + size - common)


def _too_few(chosen: Mapping[str, Windows], fewest: int) -> str | None:
    for split in ("explain", "test"):
        n_active = int(chosen[split].active.sum())
        for kind, n in (("active", n_active), ("silent", len(chosen[split]) - n_active)):
            if n < fewest:
                few = f"{n} {kind} windows in the {split} split, wanted at least {fewest} (interpret.contexts.fewest)"
                if kind == "active":
                    return f"{few}; more text there would give more (read.splits.{split})"
                return f"{few}; shorter windows would give more (interpret.contexts.width and shortest)"
    return None
