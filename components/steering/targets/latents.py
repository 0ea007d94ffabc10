"""Sampled latents of the dictionary: each is a target of its own, and no label is needed.

They are drawn by the seed from strata: equal parts by density and, where `interpret` measured them,
by output score (does the latent write what it reads?) and by explanation score. Latents that are
active on more tokens than `windows.max_density`, and those with too little text, are left out.

When to use it: to compare methods on a corpus without labels, or to ask what a dictionary's latents
write.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from pydantic import PositiveInt

from components.config import Config
from components.errors import InputError
from components.seeds import numpy_generator
from components.steering.latent_targets import Latents, Windows, WindowsConfig, explained
from components.steering.targeting import Ground, Targets, targets

if TYPE_CHECKING:
    from components.steering.config import SteerConfig

STRATA = ("density", "output_score", "explanation_score")


class LatentsConfig(Config):
    """Sampled latents of the dictionary."""

    kind: Literal["latents"] = "latents"
    """Latents; no label is needed."""
    n: PositiveInt = 16
    """Latents, at most."""
    explained: bool = True
    """Whether only latents that `interpret` explained are drawn. Otherwise all are drawn from, and
    none has an explanation."""
    words: Literal["explanation", "active_words"] = "explanation"
    """What says a target in words, which the judge `meaning` compares text with: its explanation,
    or the eight whole words of the select split on which it is most active, with which a latent
    that nobody explained has words too. A sentence encoder does not know what pieces of words mean
    ('the word "ar" after "e"'), but it knows "ears, earth, year"."""
    windows: WindowsConfig = WindowsConfig()
    """Which text has a latent, and which has not."""


@targets
class SampledLatents(Targets):
    """Latents from strata."""

    config = LatentsConfig

    @property
    def explained(self) -> bool:
        """Whether their explanations are wanted."""
        return self.settings.explained

    def at_most(self, inventory: Sequence[Mapping[str, Any]], config: SteerConfig) -> int:
        """As many as are asked for."""
        return self.settings.n

    def find(self, ground: Ground) -> Latents:
        """Draws them.

        Raises:
            InputError: no latent has text enough, or none was explained.
        """
        windows = Windows(ground, self.settings.windows)
        known = pl.DataFrame({"latent": windows.eligible()}, schema={"latent": pl.Int32})
        n_eligible = known.height
        known = known.with_columns(density=windows.density[known["latent"].to_numpy()])
        said = explained(ground)
        told = known.join(said, on="latent", how="inner" if ground.interpreted else "left")
        if not told.height:
            raise InputError(
                f"steer.targets wants latents, and of {n_eligible} that are active in "
                f"{self.settings.windows.fewest} windows of the select split and on at most "
                f"{self.settings.windows.max_density:g} of its tokens {told.height} were explained; "
                "raise interpret.latents or steer.targets.windows.max_density, or set "
                "steer.targets.explained=false"
            )
        names = [name for name in STRATA if told[name].null_count() < told.height]
        strata = stratified([told[name].to_numpy() for name in names], self.settings.n)
        chosen = _drawn(strata, self.settings.n, numpy_generator(ground.config.seed, "targets"))
        rows = told[chosen.tolist()]
        columns = [
            {name: row[name] for name in STRATA}
            | {
                "stratum": ", ".join(
                    f"{name} {part + 1}"
                    for name, part in zip(names, strata[i].tolist(), strict=True)
                )
            }
            for i, row in zip(chosen.tolist(), rows.to_dicts(), strict=True)
        ]
        latents, texts = rows["latent"].to_list(), rows["explanation"].to_list()
        if self.settings.words == "active_words":
            texts = [windows.active_words(latent) for latent in latents]
        found = Latents(ground, windows, latents, texts, columns)
        found.limit = (
            f"{rows.height} of {told.height} latents with text enough were tried, drawn from "
            f"{len(np.unique(strata, axis=0))} strata of {', '.join(names)} (steer.targets.n)"
        )
        return found


def stratified(
    columns: Sequence[Float[np.ndarray, " row"]], n: int
) -> Int[np.ndarray, "row column"]:
    """The part of each column that each row falls into, equal parts by rank; as many parts that all
    combinations together are at most `n`.

    Rows without a value fall into the first part.
    """
    parts = max(1, int(n ** (1 / max(1, len(columns))) + 1e-9))
    found = []
    for column in columns:
        filled = np.nan_to_num(column.astype(np.float64), nan=-np.inf)
        rank = np.argsort(np.argsort(filled, kind="stable"), kind="stable")
        found.append(rank * parts // max(1, len(column)))
    return np.stack(found, axis=1) if found else np.zeros((0, 0), np.int64)


def _drawn(
    strata: Int[np.ndarray, "row column"], n: int, generator: np.random.Generator
) -> Int[np.ndarray, " _"]:
    """Rows, from each stratum in turn; ascending."""
    _, member = np.unique(strata, axis=0, return_inverse=True)
    member = member.ravel()
    shuffled = generator.permutation(len(strata))
    queues = [shuffled[member[shuffled] == stratum].tolist() for stratum in range(member.max() + 1)]
    rounds = itertools.zip_longest(*[queues[i] for i in generator.permutation(len(queues))])
    taken = [row for turn in rounds for row in turn if row is not None]
    return np.sort(np.array(taken[:n], dtype=np.int64))
