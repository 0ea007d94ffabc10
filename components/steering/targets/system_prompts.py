"""Contrasting system prompts as targets: the model itself writes the texts that have the target and
those that have it not.

A file has a pair of instructions a row: one under which the model shows the target ("You are always
cheerful."), and one under which it does not. The model answers the same questions under both, with
the same luck, judges that need no labels (`filters`) drop answers that do not show what their
instruction asked for, and what is left are two sets of texts. From there on all is as for
`sets`: methods and judges see question and answer, never the instruction, and both answers to a
question fall into the same split.

Where the tokenizer has a chat template, the instruction is the system message and the question the
user's; a model without one reads both as one text. Questions are openings of select documents, or a
file of the user's own. Answers are written anew when a run that was killed goes on: they are a
function of the seed.

When to use it: for traits and behaviours (a persona, refusals) of a model that follows
instructions, where nobody has texts that show them.

Source: persona vectors (Chen et al. 2025, arXiv:2507.21509) and the contrast templates of
representation engineering (Zou et al. 2023, arXiv:2310.01405). Deviations: the activations are of
all tokens of question and answer, read without the instruction, because that is the text that will
be steered; the judge that drops answers may be any entry that needs no labels, instead of a language
model's rating.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import scipy.sparse
from jaxtyping import Bool
from pydantic import Field, PositiveInt

from components.concept.gate import ProbeGate
from components.config import names_of
from components.corpus.encoding import Encoder
from components.errors import ConfigError, InputError
from components.model.generation import generate
from components.model.language_model import LanguageModel
from components.seeds import derive
from components.steering.contract import (
    Concept,
    Continuation,
    JudgeServices,
    Material,
    Passages,
    judges,
)
from components.steering.conversation import Conversation, has_template, opened
from components.steering.given import files_of, rows_of
from components.steering.passages import cut
from components.steering.targeting import Ground, Targets, targets
from components.steering.targets.sets import Listed, TextsConfig

if TYPE_CHECKING:
    from components.steering.config import SteerConfig

    JudgeName = str
else:
    JudgeName = names_of(judges)

log = logging.getLogger(__name__)

ANSWERS = {
    "concept": pl.String,
    "text": pl.String,
    "inside": pl.Boolean,
    "origin": pl.String,
    "answer": pl.String,
}
"""What the model wrote: question and answer as `text`, the question as `origin`."""


class SystemPromptsConfig(TextsConfig):
    """Pairs of instructions, and what is asked under them."""

    kind: Literal["system_prompts"] = "system_prompts"
    """Texts that the model writes under contrasting instructions."""
    path: str = ""
    """A file of pairs (JSONL or parquet), or a folder of them."""
    pattern: str = "**/*"
    """Which files of a folder are read."""
    concept_column: str = "concept"
    """The column that names the target; several pairs may have the same."""
    with_column: str = "positive"
    """The column of the instruction under which the model shows the target."""
    without_column: str = "negative"
    """The column of the instruction under which it does not."""
    questions: str = ""
    """A file (JSONL or parquet) of what is asked; empty: openings of the select documents."""
    question_column: str = "text"
    """Its column that holds the question."""
    n_questions: PositiveInt = 64
    """Questions, at most; each is answered under both instructions of every pair."""
    opening_tokens: PositiveInt = 8
    """Tokens of an opening, where no file of questions is given."""
    filters: list[JudgeName] = []
    """Judges that drop answers which do not show what their instruction asks for, by each of them;
    empty: all are kept."""
    least: float = Field(0.5, ge=0, le=1)
    """What such a judge must give an answer for it to count as one that has the target."""


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two instructions of one target."""

    concept: str
    inside: str
    outside: str


@targets
class SystemPrompts(Targets):
    """What a model writes under two instructions."""

    version = 2  # 2: both answers to a question are minimal pairs
    config = SystemPromptsConfig

    @property
    def judges(self) -> list[str]:
        """Those that drop answers."""
        return self.settings.filters

    def check(self, config: SteerConfig) -> None:
        """Refuses a judge that would choose and score."""
        for name in self.settings.filters:
            if name in {*config.of_target, config.measure}:
                raise ConfigError(
                    f"steer.targets.filters names {name}, which steer.measure or steer.panel names "
                    "too: a judge that chose the texts cannot score what is learnt from them; let "
                    "another judge measure, or another one filter"
                )
            if judges[name].asks:
                raise ConfigError(
                    f"steer.targets.filters names {name}, which asks a language model; name one "
                    "that reads by itself, such as pattern or classifier"
                )

    def at_most(self, inventory: Sequence[Mapping[str, Any]], config: SteerConfig) -> int:
        """One for each target of the files."""
        return len({pair.concept for pair in self._pairs()})

    def n_tokens(self, config: SteerConfig) -> int:
        """Of the answers."""
        settings = self.settings
        each = settings.opening_tokens + config.max_new_tokens
        return 2 * len(self._pairs()) * settings.n_questions * each

    def files(self) -> list[Path]:
        """Pairs and questions; none where the paths name nothing."""
        return [
            *files_of(self.settings.path, self.settings.pattern),
            *files_of(self.settings.questions, "**/*"),
        ]

    def find(self, ground: Ground) -> Answered:
        """The targets of the files, with the model's answers.

        Raises:
            InputError: no file, a column that is missing, no question, a judge that cannot read
                answers to these targets, or an instruction that does not fit the model.
        """
        pairs = self._pairs()
        n_incomplete = sum(each.height - each.drop_nulls().height for each in self._frames())
        if n_incomplete:
            log.warning(
                "%d rows of %s lack the target or an instruction and are left out; fill in %s, %s and "
                "%s",
                n_incomplete,
                self.settings.path,
                self.settings.concept_column,
                self.settings.with_column,
                self.settings.without_column,
            )
        questions = self._questions(ground)
        names = list(dict.fromkeys(pair.concept for pair in pairs))
        rows = pl.DataFrame(
            list(self._answers(ground, pairs, questions)), schema=ANSWERS, orient="row"
        )
        written = rows.filter(pl.col("answer").str.strip_chars() != "")
        kept = written.filter(self._shows(ground, names, written))
        by = f" by {', '.join(self.settings.filters)}" if self.settings.filters else ""
        counted = {}
        for name in names:
            n, n_written, n_kept = (of.filter(concept=name).height for of in (rows, written, kept))
            counted[name] = f"{n} answers, {n - n_written} of them empty, {n_kept} kept{by}"
            log.info("target %s: %s", name, counted[name])
        return Answered(ground, self.settings, kept.unique(maintain_order=True), names, counted)

    def _pairs(self) -> list[_Pair]:
        settings = self.settings
        if not settings.path:
            raise InputError(
                "steer.targets.kind=system_prompts wants pairs of instructions, and "
                "steer.targets.path names no file; set it to a JSONL or parquet file with the "
                f"columns {settings.concept_column}, {settings.with_column} and "
                f"{settings.without_column}"
            )
        rows = [
            row
            for frame in self._frames()
            for row in frame.drop_nulls().unique(maintain_order=True).iter_rows()
        ]
        if not rows:
            raise InputError(
                f"no pair of instructions at {settings.path} ({settings.pattern}); set "
                "steer.targets.path to a JSONL or parquet file of them, or to a folder of such files"
            )
        return [_Pair(*row) for row in rows]

    def _frames(self) -> list[pl.DataFrame]:
        """The three columns of each file, rows that lack one among them."""
        settings = self.settings
        wanted = [settings.concept_column, settings.with_column, settings.without_column]
        where = "steer.targets.concept_column, with_column or without_column"
        return [
            rows_of(path, wanted, where).select(pl.col(wanted).cast(pl.String))
            for path in files_of(settings.path, settings.pattern)
        ]

    def _questions(self, ground: Ground) -> list[str]:
        """What is asked, each once."""
        settings = self.settings
        if settings.questions:
            frames = [
                rows_of(path, [settings.question_column], "steer.targets.question_column")
                for path in files_of(settings.questions, "**/*")
            ]
            asked = [
                text
                for frame in frames
                for text in frame[settings.question_column].cast(pl.String).drop_nulls()
            ]
            what = f"no question at {settings.questions}; set steer.targets.questions"
        else:
            pieces = cut(
                ground.subject.corpus,
                "select",
                lambda rows: scipy.sparse.csr_matrix((len(rows["document"]), 1)),
                settings.opening_tokens,
                ground.config.max_new_tokens,
            )
            openings = list(pieces.openings.values())[: settings.n_questions]
            asked = (
                ground.model.tokenizer.batch_decode(openings, skip_special_tokens=True)
                if openings
                else []
            )
            what = (
                f"no select document is longer than {settings.opening_tokens} tokens; lower "
                "steer.targets.opening_tokens, or set steer.targets.questions"
            )
        questions = [text for text in dict.fromkeys(asked) if text.strip()]
        if not questions:
            raise InputError(what)
        return questions[: settings.n_questions]

    def _answers(
        self, ground: Ground, pairs: Sequence[_Pair], questions: Sequence[str]
    ) -> Iterator[tuple[str, str, bool, str, str]]:
        """Rows of ANSWERS."""
        model, config = ground.model, ground.config
        asked = [
            (pair, inside, question)
            for pair in pairs
            for question in questions
            for inside in (True, False)
        ]
        encoder = Encoder.of(model)
        own = {
            q: list(e.ids)
            for q, e in zip(questions, encoder.encode(list(questions), offsets=False), strict=True)
        }
        for start in range(0, len(asked), config.batch_size):
            part = asked[start : start + config.batch_size]
            written = generate(
                model,
                [
                    instructed(model, pair.inside if inside else pair.outside, question)
                    for pair, inside, question in part
                ],
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                # the same luck under both instructions
                seeds=[derive(config.seed, "answers", pair.concept, q) for pair, _, q in part],
            )
            decode = model.tokenizer.batch_decode
            answers = decode(written, skip_special_tokens=True)
            whole = decode(
                [own[q] + new for (_, _, q), new in zip(part, written, strict=True)],
                skip_special_tokens=True,
            )
            log.info("answers: %d of %d", start + len(part), len(asked))
            for (pair, inside, question), text, answer in zip(part, whole, answers, strict=True):
                yield pair.concept, text, inside, question, answer

    def _shows(
        self, ground: Ground, names: Sequence[str], rows: pl.DataFrame
    ) -> Bool[np.ndarray, " row"]:
        """Whether each answer shows what its instruction asks for."""
        shows = np.ones(rows.height, bool)
        if rows.is_empty():
            return shows
        config, execution = ground.config, ground.execution
        services = JudgeServices(
            execution, config.seed, ground.model, ground.subject.dictionary, ground.text_encoder
        )
        nothing = Passages([], np.zeros((0, len(names)), bool), np.zeros(0))
        concepts = [Concept(name, "set", "document", text=name) for name in names]
        material = Material(concepts, nothing, nothing, nothing, [], config.seed)
        texts = [
            Continuation(row["answer"], 1, None, prompt=row["origin"])
            for row in rows.iter_rows(named=True)
        ]
        place = np.arange(rows.height), [names.index(name) for name in rows["concept"]]
        for name in self.settings.filters:
            judge = judges[name](getattr(config.judge_settings, name), services)
            judge.fit(material)
            if why := judge.silence() or next(iter(judge.refusals().values()), None):
                raise InputError(f"steer.targets.filters: {name} cannot read the answers: {why}")
            values = judge.judge(texts).values[place]
            has = values >= self.settings.least
            shows &= np.isfinite(values) & (has == rows["inside"].to_numpy())
        return shows


class Answered(Listed):
    """Targets with the answers that were kept.

    Args:
        counted: target -> how many answers there were, and were kept.
    """

    def __init__(
        self,
        ground: Ground,
        settings: SystemPromptsConfig,
        rows: pl.DataFrame,
        names: Sequence[str],
        counted: Mapping[str, str],
    ) -> None:
        super().__init__(ground, settings, rows, names)
        self._counted = counted

    def refusals(self, gate: ProbeGate) -> Mapping[str, str]:
        """Those with too few answers on one side."""
        refused = super().refusals(gate)
        return {name: f"{why}; {self._counted[name]}" for name, why in refused.items()}


def instructed(model: LanguageModel, instruction: str, question: str) -> list[int]:
    """Token ids of a question under an instruction: the system's message where the tokenizer has a
    chat template, else one text with the question behind the model's first token."""
    if has_template(model):
        return opened(model, [question], Conversation(instruction))[0]
    return opened(model, [f"{instruction} {question}"])[0]
