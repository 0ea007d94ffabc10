"""Can a token's activation vector be built again from words? From the strings of its active latents
and how active they are.

Every string is read as a vector, and the strings' vectors are cut to their first `dimensions`
principal components. A token is the sum of its active latents' vectors, each times its activation,
and the plain sum of these activations. A linear map (ridge) from there to the activations is fitted
on documents of the explain split; the variance that it explains is measured on documents of the
test split, over the tokens on which an explained latent is active.

    shuffled   the strings change places among the latents and the map is fitted anew: what so many
               dimensions give by themselves
    strengths  the ceiling: a dimension of its own for each latent, no string between

Only where latents with alike strings have alike directions are the right strings better than
shuffled ones. With as many dimensions as latents the map could learn each latent by heart, and any
string would do: so there are far fewer.

Source: ours; the question is that of the information bottleneck of an explanation, after Bricken et
al. (2023), Towards monosemanticity, where explanations are asked to predict activations one latent
at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt

from components.config import Config
from components.interpretation.contract import LatentRecord
from components.interpretation.dictionary_contract import (
    DictionaryScorer,
    DictionaryValue,
    dictionary_scorers,
)
from components.interpretation.explanation import Explanation
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import cluster_bootstrap

PENALTY = 1e-3
"""Of the ridge, as a share of the variance of each feature."""
Matrix = Float[np.ndarray, "_ _"]


class RoundTripConfig(Config):
    """Variance of activations explained by strings and strengths."""

    tokens: PositiveInt = 20_000
    """Tokens of the explain split and of the test split that are read, at most."""
    dimensions: PositiveInt = 16
    """Principal components of the strings' vectors; at most half as many as explained latents."""
    shuffles: int = Field(default=20, ge=2)
    """Times that the strings change places."""
    reader: Literal["lexical", "text_encoder"] = "lexical"
    """Who makes vectors of strings: words (TF-IDF), or the text encoder."""


@dictionary_scorers
class RoundTrip(DictionaryScorer):
    """Variance of activations explained by strings and strengths."""

    config: ClassVar[type[Config]] = RoundTripConfig
    settings: RoundTripConfig
    unit: ClassVar[str] = "document"
    measure: ClassVar[Measure] = Measure(
        "round_trip", "Round trip", "variance explained",
        "Variance of activations that the strings of active latents and their strengths explain.",
        rank=16, kinds=16, most=1, short="round trip",
    )  # fmt: skip

    @classmethod
    def embeds(cls, config: Config) -> bool:
        """Where the text encoder reads."""
        assert isinstance(config, RoundTripConfig)
        return config.reader == "text_encoder"

    @property
    def reader(self) -> str | None:
        """Who makes vectors of strings."""
        return self.settings.reader

    def score(
        self, records: Sequence[LatentRecord], explanations: Sequence[Explanation]
    ) -> DictionaryValue:
        """One fit with the right strings, one for each shuffle, one with the latents themselves."""
        both = zip(records, explanations, strict=True)
        explained = [(record.latent, each.text) for record, each in both if each.text]
        n_dimensions = self.settings.dimensions
        if len(explained) < 2 * n_dimensions:
            wanted = f"wanted twice as many as dimensions ({n_dimensions})"
            return DictionaryValue(reason=f"{len(explained)} latents are explained, {wanted}")
        latents = np.array([latent for latent, _ in explained])
        strings = _components(self._vectors([text for _, text in explained]), n_dimensions)
        fitted, measured = (self._rows(split, latents) for split in ("explain", "test"))
        if min(len(fitted[0]), len(measured[0])) < 2:
            return DictionaryValue(reason="no explained latent is active on the tokens read")
        mean = fitted[1].mean(axis=0)
        whole = ((measured[1] - mean) ** 2).sum(axis=1)

        def left(vectors: Matrix) -> Float[np.ndarray, " row"]:
            return _left(fitted[0], fitted[1] - mean, measured[0], measured[1] - mean, vectors)

        generator = numpy_generator(self.services.seed, "round trip")
        right, own = left(strings), left(np.eye(len(latents)))
        order = [generator.permutation(len(strings)) for _ in range(self.settings.shuffles)]
        shuffled = np.mean([left(strings[each]) for each in order], axis=0)
        document = measured[2]
        value, over, ceiling = (
            cluster_bootstrap(gained, whole, document, generator)
            for gained in (whole - right, shuffled - right, whole - own)
        )
        floor = 1 - float(shuffled.sum() / whole.sum())
        return DictionaryValue(value, floor, over, ceiling)

    def _vectors(self, texts: Sequence[str]) -> Matrix:
        if self.settings.reader == "text_encoder":
            vectors = self.services.encoder.embed(list(texts))
            return torch.nn.functional.normalize(vectors, dim=1).double().numpy()
        # here, since scikit-learn takes a second to import
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(token_pattern=r"\S+")
        return np.asarray(words.fit_transform(texts).todense(), dtype=np.float64)

    def _rows(
        self, split: str, latents: Int[np.ndarray, " latent"]
    ) -> tuple[Matrix, Matrix, Int[np.ndarray, " row"]]:
        """Of the first tokens of a split on which one of these latents is active: how active each
        is, the activations, and the document."""
        services = self.services
        assert services.activations is not None and services.codes is not None
        parts, n = [], 0
        place = np.full(services.codes.d_sae, -1)
        place[latents] = np.arange(len(latents))
        for shard in services.codes.iterate(split):
            part = shard.rows(0, min(shard.n_rows, self.settings.tokens - n))
            strengths = np.zeros((part.n_rows, len(latents)))
            column = place[part.indices.numpy()]
            wanted = column >= 0
            strengths[part.row_index().numpy()[wanted], column[wanted]] = part.values.numpy()[
                wanted
            ]
            parts.append(strengths)
            n += part.n_rows
            if n == self.settings.tokens:
                break
        strengths = np.concatenate(parts)
        rows = np.flatnonzero(strengths.any(axis=1))
        name = services.dictionary.reconstructs[0] if services.dictionary else ""
        name = name or services.activations.hook_points[0]
        x = services.activations.rows(split, name, torch.from_numpy(rows))
        document = services.activations.provenance(split)["document"].numpy()[rows]
        return strengths[rows], x.double().numpy(), document


def _components(vectors: Matrix, n: int) -> Matrix:
    """The first principal components of rows; fewer where the rows have fewer."""
    centred = vectors - vectors.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    # what is left of equal strings is rounding, and would count as much as any other component
    n = min(n, int((spread > 1e-9 * np.linalg.norm(vectors)).sum()))
    return left[:, :n] * spread[:n]


def _left(
    fitted: Matrix, x_fitted: Matrix, measured: Matrix, x_measured: Matrix, vectors: Matrix
) -> Float[np.ndarray, " row"]:
    """What is left of each measured row, squared, by a map that was fitted on the others."""
    inputs, shown = (
        np.column_stack([strengths.sum(axis=1), strengths @ vectors])
        for strengths in (fitted, measured)
    )
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    spread[spread == 0] = 1.0
    inputs, shown = (inputs - mean) / spread, (shown - mean) / spread
    gram = inputs.T @ inputs
    gram += np.eye(len(gram)) * PENALTY * len(inputs)
    weights = np.linalg.solve(gram, inputs.T @ x_fitted)
    return ((x_measured - shown @ weights) ** 2).sum(axis=1)
