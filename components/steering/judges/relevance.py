"""Relevance: whether a continuation belongs to the prompt that it was written after.

Under the unsteered model, the probability of the continuation after its own prompt is compared with
its probability after other prompts (distractors). P is the posterior of the own prompt where all n
of them (own and distractors) are equally likely beforehand: its likelihood over the sum of all. Text
that has nothing to do with its prompt has 1/n in the mean. So the value is
clip((P - 1/n) / (1 - 1/n), 0, 1): 0 at chance, 1 where no other prompt could be meant.

The share of distractors under which the text is less likely, which stood here before, is 0.25 in
the mean for text that has nothing to do with its prompt (half of the draws are above chance, by
half), and so let every trick have a quarter of it: on stories real text had 0.58 and text of other
stories 0.27; by the posterior they have 0.38 and 0.06 (60 texts each, 9 distractors).

Distractors are prompts of the validate split, the same for every continuation of one prompt, drawn
by the seed; a prompt is never its own distractor. What the judge reads is text: it is tokenized
again behind each prompt, as a reader would meet it.

Source: ours; a likelihood ratio over prompts instead of a rating by a language model (AxBench's
instruct score, arXiv:2501.17148, asks one). Under the steered model itself, so text that the model
finds likely after anything (a frequent sentence) is not relevant, and neither is noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special
from pydantic import Field, PositiveInt

from components.config import Config
from components.corpus.encoding import Encoder
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges
from components.steering.writer import Prompt, Writer

FEWEST = 3
"""Other prompts that a comparison needs at least."""


class RelevanceConfig(Config):
    """Settings of the relevance judge."""

    distractors: int = Field(9, ge=FEWEST)
    """Other prompts that a continuation's own is compared with, at most."""
    rows: PositiveInt = 64
    """Texts that the model reads at a time."""


@judges
class Relevance(Judge):
    """The true prompt among distractors, by the unsteered model's loss."""

    version = 2
    config = RelevanceConfig
    measure = Measure(
        "relevance", "Relevance", "0 to 1",
        "How surely the text tells its own prompt among others, from chance (0) to certainty (1).",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Takes the prompts of the unsteered continuations as distractors."""
        super().fit(material)
        texts = sorted({each.prompt for each in material.unsteered if each.prompt})
        self._prompts = [
            Prompt.of(self.services.model, number, text, self.services.conversation)
            for number, text in enumerate(texts)
        ]

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """By the loss after the true prompt and after each distractor."""
        n_concepts = len(self.material.concepts)
        values = np.full(len(texts), np.nan)
        reasons: dict[int, str] = {}
        encoded = Encoder.of(self.services.model).encode(
            [each.text or "" for each in texts], offsets=False
        )
        compared = {prompt: self._compared(prompt) for prompt in {text.prompt for text in texts}}
        rows: list[tuple[int, Prompt]] = []
        for number, (text, tokens) in enumerate(zip(texts, encoded, strict=True)):
            prompts = compared[text.prompt]
            if len(prompts) <= FEWEST:
                reasons[number] = self._too_few(len(prompts) - 1)
            elif not tokens.ids:
                reasons[number] = "nothing of the text is left without special tokens"
            else:
                rows += [(number, prompt) for prompt in prompts]
        tokens = [tuple(each.ids) for each in encoded]
        losses = self._losses(rows, tokens)
        by_text: dict[int, list[float]] = {}
        for (number, _), loss in zip(rows, losses, strict=True):
            by_text.setdefault(number, []).append(loss)
        for number, of_text in by_text.items():
            log_likelihood = -np.array(of_text) * len(tokens[number])
            posterior = scipy.special.softmax(log_likelihood)[0]
            chance = 1 / len(of_text)
            values[number] = max(0.0, float((posterior - chance) / (1 - chance)))
        return Verdicts(np.repeat(values[:, None], n_concepts, axis=1), reasons)

    def silence(self) -> str | None:
        """That there are too few prompts to compare with."""
        n = len(self._prompts)
        return self._too_few(n - 1) if n <= FEWEST else None

    def _compared(self, prompt: str) -> list[Prompt]:
        """A prompt, and the distractors that are drawn for it."""
        own = Prompt.of(self.services.model, -1, prompt, self.services.conversation)
        others = [each for each in self._prompts if each.text != prompt]
        generator = numpy_generator(self.material.seed, "relevance", prompt)
        drawn = generator.permutation(len(others))[: self.settings.distractors]
        return [own, *(others[i] for i in drawn)]

    def _losses(
        self, rows: Sequence[tuple[int, Prompt]], tokens: Sequence[tuple[int, ...]]
    ) -> list[float]:
        """Nats a token of each row's text after its prompt."""
        model = self.services.model
        writer = Writer(model, 1, 1.0, 0, self.settings.rows)
        order = sorted(
            range(len(rows)), key=lambda i: len(rows[i][1].tokens) + len(tokens[rows[i][0]])
        )
        room = model.context_length
        prompts, written = [], []
        for number, prompt in (rows[i] for i in order):
            text = tokens[number]
            # as much of the prompt's end as fits beside the text
            prompts.append(prompt.tokens[-max(1, room - len(text)) :] if room else prompt.tokens)
            written.append(text[: room - 1] if room else text)
        losses = np.full(len(rows), np.nan)
        losses[order] = writer.losses_of_many(prompts, written)
        return losses.tolist()

    def _too_few(self, n: int) -> str:
        return (
            f"{n} other prompts to compare with, wanted at least {FEWEST}; raise "
            "steer.validate_prompts, or read.splits.validate"
        )
