"""Fluency: 1 while a text is as likely, and as varied, as text can be expected to be, decaying
outside.

*Likelihood*: the loss of the continuation under the unsteered model (nats a token, the prompt as
context). The band has two sides, because repetition lowers the loss and "lower is better" could be
gamed: from the 1% quantile of unsteered continuations to the 95% quantile of real passages that
have the concept (all passages where too few have it), since text on a concept is rightly less
expected after a neutral prompt.

*Variety*: the share of two-token pieces that are distinct, the share of four-token pieces that were
there before, and how well the text compresses (bytes after zlib over bytes before). Each has a band
too, again with two sides: from the 1% quantile to the 99% quantile of unsteered continuations and
of real passages, whichever reaches further. These depend on length, so the texts that set the band
are cut to the length of the one that is judged. Of a text that is longer than nearly all of them
only the beginning is looked at: without a band, one word of many tokens, again and again, would be
varied.

*A second model*: under the steered model alone, loss and KL from plain predictions are one axis: a
steering at a fixed KL cannot be far off in loss, whatever it writes. `second` names a model of
another family; its loss has a band of its own, made alike.

Outside a band, exp(-distance / interquartile range of the unsteered continuations); the value is
the least of all. Where there is no such text to set the bands, there is no score, with the reason.

Source: ours; distinct-2 is that of Li et al. (2016), arXiv:1510.03055, repeated 4-grams those of
Welleck et al. (2020), arXiv:1908.04319.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from pydantic import Field, PositiveInt

from components.config import Config, execution
from components.corpus.encoding import Encoder
from components.model.reference import ModelConfig, ModelReference
from components.report.measure import Measure
from components.steering.contract import (
    Continuation,
    Judge,
    JudgeServices,
    Material,
    Verdicts,
    judges,
)
from components.steering.writer import Prompt, Writer

FEWEST_TOKENS = 8
"""A shorter text has too few pieces to say anything of its variety."""
LOGIT_ROWS = 64
"""Texts that the second model reads at a time."""


class FluencyConfig(Config):
    """Settings of the fluency judge."""

    lower_quantile: float = Field(0.01, ge=0, le=1)
    """Quantile of unsteered continuations at which the bands begin."""
    upper_quantile: float = Field(0.95, ge=0, le=1)
    """Quantile of real passages at which the band of loss ends."""
    min_passages: PositiveInt = 20
    """A concept with fewer measured passages takes the quantile of all passages. As many texts, or
    half of all where there are few, have to be as long as a text for a band of variety."""
    second: str = ""
    """A second language model, of another family, whose loss is looked at too: a local folder or a
    hub id; none where empty. Its files are not part of the key: change the name when they
    change."""
    second_revision: str | None = None
    """Branch, tag or commit of it, where it is a hub id."""
    online: bool = execution(False)
    """Whether it may be downloaded where it is not on this machine."""


@judges
class Fluency(Judge):
    """Two-sided bands of loss and of variety.

    Attributes:
        lower: where the band of loss begins, nats a token.
        upper: where it ends, for each concept.
        scale: interquartile range of unsteered continuations.
    """

    version = 3
    config = FluencyConfig
    measure = Measure(
        "fluency", "Fluency", "0 to 1", "1 inside the bands of unsteered loss and of variety, both sides.",
        rank=11, kinds=21, least=0, most=1,
    )  # fmt: skip

    def __init__(self, config: FluencyConfig, services: JudgeServices) -> None:
        """Loads the second model, where one is named."""
        super().__init__(config, services)
        self._second = None
        if config.second:
            named = ModelConfig(
                path=config.second, revision=config.second_revision, online=config.online
            )
            model = ModelReference(named).load(services.execution)
            self._second = Writer(model, 1, 1.0, 0, LOGIT_ROWS)

    def fit(self, material: Material) -> None:
        """Sets the bands."""
        super().fit(material)
        there = [c for c in material.unsteered if c.nll is not None]
        plain = np.array([c.nll for c in there])
        measured = np.isfinite(material.judge.nll)
        real, labels = material.judge.nll[measured], material.judge.labels[measured]
        self._silence = _lacking(len(plain), len(real))
        if self._silence:
            self.lower = self.scale = np.nan
            self.upper = np.full(labels.shape[1], np.nan)
            return
        self.lower, self.upper, self.scale = self._band(plain, real, labels)
        texts = [text for text, has in zip(material.judge.texts, measured, strict=True) if has]
        self._plain = self._tokens([c.text or "" for c in there])
        self._real = self._tokens(texts)
        lengths = sorted((len(each) for each in [*self._plain, *self._real]), reverse=True)
        # half of few texts: the shortest one of all would be too short to say anything
        self._longest = lengths[min(self.settings.min_passages, (len(lengths) + 1) // 2) - 1]
        self._variety: dict[tuple[str, int], tuple[float, float, float]] = {}
        if self._second:
            openings = material.judge.openings or [""] * len(material.judge.texts)
            before = [text for text, has in zip(openings, measured, strict=True) if has]
            second_plain = self._second_losses([(c.prompt, c.text or "") for c in there])
            second_real = self._second_losses(list(zip(before, texts, strict=True)))
            self._second_band = self._band(second_plain, second_real, labels)

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """By the recorded loss, the second model's, and the text's variety."""
        nll = np.array([np.nan if c.nll is None else c.nll for c in texts])
        values = self._likelihood(nll, self.lower, self.upper, self.scale)
        if self._silence:
            return Verdicts(values)
        tokens = self._tokens([c.text or "" for c in texts])
        values = np.minimum(values, np.array([self._varied(each) for each in tokens])[:, None])
        if self._second:
            losses = self._second_losses([(c.prompt, c.text or "") for c in texts])
            values = np.minimum(values, self._likelihood(losses, *self._second_band))
        return Verdicts(values)

    def silence(self) -> str | None:
        """That no text set its bands, and which setting would change that."""
        return self._silence

    def _band(
        self,
        plain: Float[np.ndarray, " plain"],
        real: Float[np.ndarray, " real"],
        labels: np.ndarray,
    ) -> tuple[float, Float[np.ndarray, " concept"], float]:
        """Where a loss's band begins, where it ends for each concept, and the interquartile range
        of plain text."""
        plain = plain[np.isfinite(plain)]
        has_loss = np.isfinite(real)
        real, labels = real[has_loss], labels[has_loss]
        lower = float(np.quantile(plain, self.settings.lower_quantile))
        enough = labels.sum(0) >= self.settings.min_passages
        limits = [
            np.quantile(real[has] if ok else real, self.settings.upper_quantile)
            for has, ok in zip(labels.T, enough, strict=True)
        ]
        upper = np.maximum(np.array(limits, dtype=np.float64), lower)
        return lower, upper, max(float(np.subtract(*np.quantile(plain, [0.75, 0.25]))), 1e-3)

    @staticmethod
    def _likelihood(
        nll: Float[np.ndarray, " text"],
        lower: float,
        upper: Float[np.ndarray, " concept"],
        scale: float,
    ) -> Float[np.ndarray, "text concept"]:
        loss = nll[:, None]
        return np.exp(-np.maximum(np.maximum(lower - loss, loss - upper), 0.0) / scale)

    def _varied(self, tokens: Sequence[int]) -> float:
        """The least of what the bands of variety say of a text; 1 where it is too short to say
        anything."""
        tokens = tokens[: self._longest]
        if len(tokens) < FEWEST_TOKENS:
            return 1.0
        least = 1.0
        for name, measure in VARIETY.items():
            lower, upper, scale = self._band_of_variety(name, len(tokens))
            here = measure(tokens)
            least = min(least, float(np.exp(-max(lower - here, here - upper, 0.0) / scale)))
        return least

    def _band_of_variety(self, name: str, length: int) -> tuple[float, float, float]:
        """Where the band begins and ends for texts of this length, and the interquartile range of
        plain text."""
        if (name, length) not in self._variety:
            measure, low = VARIETY[name], self.settings.lower_quantile
            of = [
                np.array([measure(each[:length]) for each in texts if len(each) >= length])
                for texts in (self._plain, self._real)
            ]
            of = [values for values in of if len(values)]
            lower = min(float(np.quantile(values, low)) for values in of)
            upper = max(float(np.quantile(values, 1 - low)) for values in of)
            spread = float(np.subtract(*np.quantile(of[0], [0.75, 0.25])))
            self._variety[name, length] = (lower, upper, max(spread, LEAST_SPREAD))
        return self._variety[name, length]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = Encoder.of(self.services.model).encode(texts, offsets=False)
        return [list(each.ids) for each in encoded]

    def _second_losses(self, texts: Sequence[tuple[str, str]]) -> Float[np.ndarray, " text"]:
        """Nats a token of each text after its prompt, under the second model."""
        assert self._second is not None, "asked only where one is named"
        model = self._second.model
        prompts = [Prompt.of(model, i, prompt).tokens for i, (prompt, _) in enumerate(texts)]
        written = [each.ids for each in Encoder.of(model).encode([t for _, t in texts], False)]
        if room := model.context_length:
            written = [text[: room - 1] for text in written]
            prompts = [
                prompt[-max(1, room - len(text)) :]
                for prompt, text in zip(prompts, written, strict=True)
            ]
        losses = np.full(len(texts), np.nan)
        # without a token before it the first one cannot be predicted
        rows = [i for i, prompt in enumerate(prompts) if prompt and written[i]]
        for start in range(0, len(rows), LOGIT_ROWS):
            part = rows[start : start + LOGIT_ROWS]
            losses[part] = self._second.losses(
                [prompts[i] for i in part], [written[i] for i in part]
            )
        return losses


def _pieces(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _distinct(tokens: Sequence[int]) -> float:
    pieces = _pieces(tokens, 2)
    return len(set(pieces)) / max(1, len(pieces))


def _repeated(tokens: Sequence[int]) -> float:
    pieces = _pieces(tokens, 4)
    return 1 - len(set(pieces)) / max(1, len(pieces))


def _compressed(tokens: Sequence[int]) -> float:
    # ids, so that it means the same in every script; what zlib writes around them is left out
    given = np.asarray(tokens, np.uint16 if max(tokens) < 2**16 else np.uint32).tobytes()
    return (len(zlib.compress(given, 9)) - len(zlib.compress(b"", 9))) / len(given)


LEAST_SPREAD = 0.02
"""Of a measure of variety: where plain texts are all alike, that they are tells no scale."""
VARIETY: Mapping[str, Callable[[Sequence[int]], float]] = {
    "distinct": _distinct,
    "repeated": _repeated,
    "compressed": _compressed,
}


def _lacking(n_plain: int, n_real: int) -> str | None:
    if n_plain == 0:
        return "the model wrote nothing after any validate prompt (it ended at once), so no text sets the fluency band"
    if n_real == 0:
        return (
            "no document of the judge split goes on for half a continuation behind its opening, "
            "so no real text sets the fluency band; lower steer.max_new_tokens"
        )
    return None
