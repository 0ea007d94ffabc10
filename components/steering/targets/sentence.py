"""Latents that a sentence names: "talk about the sea" picks those whose explanations mean it most.

The explanations are those of `interpret`; the text encoder gives sentence and explanations vectors,
and the latents with the largest cosine are the targets, each with the sentence as its words. With
`asks` a language model (`steer.client`) sees more of the nearest explanations and says which of them
fit: the nearest of these are the targets. A sentence that none fits, or of which the answer cannot be
read, has no target, and the remark of the score `gate.passed` says why.

When to use it: where you know what you want, and not which latent writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import torch
from pydantic import Field, PositiveInt

from components.client.forecast import NOTHING, Most
from components.config import Config, execution
from components.errors import ConfigError, InputError, quoted
from components.steering.fitting import fitting, most_asked, prompt_file
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
    asks: bool = False
    """Whether a language model (steer.client) says which of the nearest explanations fit."""
    shown: PositiveInt = Field(20, le=200)
    """Explanations that it is shown for each sentence, the nearest first."""
    reasoning: int = Field(0, ge=0, le=32_768)
    """Tokens that a model which thinks before it answers may take for that."""
    prompts: str = execution("")
    """Folder with a prompt fitting.txt to use instead of ours; its bytes are in the key."""


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

    @property
    def asks(self) -> bool:
        """Where its setting says so."""
        return self.settings.asks

    def most_asked(self) -> Most:
        """One question for each sentence."""
        if not self.asks:
            return NOTHING
        settings = self.settings
        return most_asked(self._prompt, len(settings.sentences), settings.shown, settings.reasoning)

    def files(self) -> list[Path]:
        """The prompt, where it asks."""
        return [self._prompt] if self.asks else []

    @property
    def _prompt(self) -> Path:
        return prompt_file(self.settings.prompts)

    def check(self, config: SteerConfig) -> None:
        """Refuses to ask nobody, and to show fewer than may be taken."""
        if self.asks and config.client.kind == "none":
            raise ConfigError(
                "steer.targets.asks wants a language model that says which explanations fit, and "
                "steer.client.kind is none; set it to endpoint (a server) or local (a model on "
                "this machine), or leave steer.targets.asks off"
            )
        if self.asks and self.settings.shown < self.settings.latents:
            raise ConfigError(
                f"steer.targets.latents takes {self.settings.latents} latents a sentence, and "
                f"steer.targets.shown shows the language model {self.settings.shown} explanations; "
                "show at least as many"
            )

    def at_most(self, inventory: Sequence[Mapping[str, Any]], config: SteerConfig) -> int:
        """So many for each sentence."""
        return self.settings.latents * len(self.settings.sentences)

    def find(self, ground: Ground) -> Latents:
        """The nearest latents of each sentence.

        Raises:
            InputError: no explanations, no text encoder, a prompt that cannot be read or filled,
                or no latent that is said to fit.
            ConfigError: a setting of the client that turns out not to work.
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
        cosines = wanted @ there.T
        shown = self.settings.shown if self.asks else self.settings.latents
        near = [c.argsort(descending=True, stable=True)[:shown].tolist() for c in cosines]
        lacking: list[str] = []
        if self.asks:
            near, lacking = self._said_to_fit(ground, said["explanation"].to_list(), near)
        picked: dict[int, tuple[str, float]] = {}
        for sentence, cosine, rows in zip(self.settings.sentences, cosines, near, strict=True):
            for i in rows[: self.settings.latents]:
                picked.setdefault(int(said["latent"][i]), (sentence, float(cosine[i])))
        if not picked:
            raise InputError(
                f"steer.targets.kind=sentence has no target: {'; '.join(lacking)}; show the language "
                "model more explanations (steer.targets.shown), say what is wanted otherwise "
                "(steer.targets.sentences), or leave steer.targets.asks off"
            )
        of = {row["latent"]: row for row in said.to_dicts()}
        fits = ", said to fit" if self.asks else ""
        columns = [
            {
                "stratum": f"cosine {cosine:.2f}{fits}: {of[latent]['explanation']}",
                "density": float(windows.density[latent]),
                "output_score": of[latent]["output_score"],
                "explanation_score": of[latent]["explanation_score"],
            }
            for latent, (_, cosine) in picked.items()
        ]
        found = Latents(
            ground, windows, list(picked), [text for text, _ in picked.values()], columns
        )
        found.limit = "; ".join(lacking) or None
        return found

    def _said_to_fit(
        self, ground: Ground, explanations: Sequence[str], near: Sequence[Sequence[int]]
    ) -> tuple[list[list[int]], list[str]]:
        """Of each sentence's nearest explanations those that fit, as a language model says; and which
        sentence has none, and why."""
        sentences = self.settings.sentences
        assert ground.client is not None, "a section that asks nobody is refused before"
        shown = [[explanations[i] for i in rows] for rows in near]
        answers = fitting(ground.client, self._prompt, sentences, shown, self.settings.reasoning)
        kept, lacking = [], []
        for sentence, rows, answer in zip(sentences, near, answers, strict=True):
            why = answer if isinstance(answer, str) else ""
            if not answer:
                why = f"none of the {len(rows)} nearest explanations was said to fit"
            if why:
                lacking.append(f"no latent for {quoted(sentence)}: {why}")
            kept.append([] if why else [rows[int(place)] for place in answer])
        return kept, lacking
