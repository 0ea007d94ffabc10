"""Latents that a sentence names: "talk about the sea" picks those whose explanations mean it most.

The explanations are those of `interpret`; the text encoder gives sentence and explanations vectors,
and the latents with the largest cosine are the targets, each with the sentence as its words.

When to use it: where you know what you want, and not which latent writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import torch
from pydantic import Field, PositiveInt

from components.config import Config
from components.errors import InputError
from components.steering.latent_targets import Latents, Windows, WindowsConfig, explained
from components.steering.targeting import Ground, Targets, targets
from components.store import tables

if TYPE_CHECKING:
    from components.steering.config import SteerConfig


class SentenceConfig(Config):
    """Latents by the meaning of their explanations."""

    kind: Literal["sentence"] = "sentence"
    """Sentences that name latents."""
    sentences: list[str] = Field(default=["talk about animals"], min_length=1)
    """What to steer towards, in words."""
    latents: PositiveInt = 4
    """Latents for each sentence, the nearest first; one that two sentences name goes with the
    first."""
    windows: WindowsConfig = WindowsConfig()
    """Which text has a latent, and which has not."""


@targets
class Sentence(Targets):
    """Latents whose explanations are near."""

    config = SentenceConfig

    @property
    def explained(self) -> bool:
        """It reads explanations."""
        return True

    @property
    def embeds(self) -> bool:
        """It compares meanings."""
        return True

    def at_most(self, inventory: Sequence[Mapping[str, Any]], config: SteerConfig) -> int:
        """So many for each sentence."""
        return self.settings.latents * len(self.settings.sentences)

    def find(self, ground: Ground) -> Latents:
        """The nearest latents of each sentence.

        Raises:
            InputError: no explanations, or no text encoder.
        """
        windows = Windows(ground, self.settings.windows)
        said = explained(ground).filter(pl.col("latent").is_in(windows.eligible().tolist()))
        if not said.height or ground.text_encoder is None:
            lacks = "explanations of latents" if ground.text_encoder else "a text encoder"
            raise InputError(
                f"steer.targets.kind=sentence wants {lacks}, and there are none with text enough; "
                "run the stage interpret on this dictionary, raise interpret.latents, or steer "
                "towards latents (steer.targets.kind=latents)"
            )

        def texts() -> list[str]:
            documents = tables.DOCUMENTS.scan(ground.subject.corpus)
            explain = documents.filter(pl.col("split") == "explain").select("text").collect()
            return explain["text"].to_list()

        encoder = ground.text_encoder.ready(ground.execution, texts, ground.config.seed)
        wanted, there = (
            torch.nn.functional.normalize(encoder.embed(texts).float().cpu(), dim=1)
            for texts in (self.settings.sentences, said["explanation"].to_list())
        )
        picked: dict[int, tuple[str, float]] = {}
        for sentence, cosine in zip(self.settings.sentences, wanted @ there.T, strict=True):
            for i in cosine.argsort(descending=True, stable=True)[: self.settings.latents].tolist():
                picked.setdefault(int(said["latent"][i]), (sentence, float(cosine[i])))
        of = {row["latent"]: row for row in said.to_dicts()}
        columns = [
            {
                "stratum": f"cosine {cosine:.2f}: {of[latent]['explanation']}",
                "density": float(windows.density[latent]),
                "output_score": of[latent]["output_score"],
                "explanation_score": of[latent]["explanation_score"],
            }
            for latent, (_, cosine) in picked.items()
        ]
        return Latents(
            ground, windows, list(picked), [text for text, _ in picked.values()], columns
        )
