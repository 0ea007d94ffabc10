"""What steering promises: a method proposes steerings from the select split, a judge reads what was
written.

A `Steering` is anything that turns a strength into an intervention; many of them share one forward
pass. Methods see `Evidence`, which holds nothing but the select split; judges are fitted on
`Material`, which holds nothing of the test split: so no test data can choose a setting.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.client.client import Client
from components.config import Config
from components.dictionary.contract import Dictionary
from components.model.intervention import Intervention
from components.model.language_model import LanguageModel
from components.model.latent_semantics import LatentSemantics
from components.model.text_encoder import TextEncoder, TextEncoderReference
from components.registry import Entry, Registry, Services
from components.report.measure import Measure
from components.steering.conversation import Conversation
from components.steering.meanings import Meanings


class Steering(ABC):
    """One way to change what a model writes, with at most one free parameter: its strength.

    Attributes:
        graded: whether its effect grows with the strength, from none at 0. If not, it is applied as
            it is (at strength 1), and what it costs is measured and reported beside the budgets.
        scale: the unit of strengths, as tables and pages say it.
    """

    graded: ClassVar[bool] = True
    scale: ClassVar[str] = ""

    @property
    def together(self) -> Hashable:
        """Steerings of one class that agree in this can share a batch."""
        return None

    @classmethod
    @abstractmethod
    def intervention(cls, rows: Sequence[Any], strengths: Float[Tensor, " row"]) -> Intervention:
        """The intervention of one batch: row i is steered by `rows[i]`; all are of this class and
        agree in `together`.

        Strength 0 leaves the row of a graded steering as it is.
        """

    def added(self, strength: float = 1.0) -> Mapping[str, Float[Tensor, " d_in"]]:
        """By hook point, the vector that it adds at every token, where it is nothing else; its cost
        is then found faster."""
        return {}

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """What has to be saved to steer again, by name ("" for the only one; no name holds a
        slash)."""

    @classmethod
    @abstractmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Steering:
        """The same steering from what it saved.

        Args:
            tensors: as `tensors()` gave them.
            units: mean activation norm by hook point, the dictionary's first one first.
        """

    def joined(self, dictionary: Callable[[], Dictionary]) -> Steering:
        """A restored steering with the dictionary that it steers through; itself, and the dictionary
        isn't loaded, where it needs none."""
        return self


@dataclasses.dataclass(frozen=True)
class Concept:
    """A concept to steer towards.

    Attributes:
        name: as in the concepts table.
        kind: surface, contextual or document; what is no labelled concept has a kind of its own.
        unit: token, or document.
        latent: the latent that is the target itself; None where it is none.
        text: the target in words (an explanation, active words, a sentence); None where nobody gave
            any.
    """

    name: str
    kind: str
    unit: str
    latent: int | None = None
    text: str | None = None

    @property
    def words(self) -> str:
        """Its text, or its name as words, where nobody gave any."""
        return self.text or self.name.replace(".", " ").replace("_", " ")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One steering that a method proposes for one concept.

    Attributes:
        concept: its name; None for steerings that belong to no concept.
        replicate: its number among equals, best first where they are ranked.
        steering: None when there is none, with the reason.
        latent: the latent it was read from, where one was.
        sign: +1 when more of the steering is meant to give more of the concept.
        select_score: what it scored on the select split.
        reason: why there is no steering.
        stand_in: of a control: it is compared with nobody, and stands for a candidate where a
            choice is made by chance.
    """

    concept: str | None
    replicate: int
    steering: Steering | None
    latent: int | None = None
    sign: int = 1
    select_score: float | None = None
    reason: str | None = None
    stand_in: bool = False

    @property
    def lowers(self) -> bool:
        """Whether it is meant to give less of its concept; one of no concept is meant for
        nothing."""
        return self.concept is not None and self.sign < 0


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What a method may know of the text: the select split and nothing else. Rows are the captured
    tokens of it.

    Attributes:
        concepts: the concepts to steer towards, in the order of the label columns.
        model: the model that is steered.
        hook_point: where to steer: the first that the dictionary writes.
        units: mean activation norm of each hook point that it writes, that one first, and of
            the others that were captured.
        labels: tokens with the concept; for document concepts, tokens of documents that have it.
        token: token id of each row.
        document: for each row, the row of its document in `document_labels`.
        document_labels: documents with the concept (document concepts; other columns are empty).
        batches: activations at a hook point in row order, anew at each call: (first row,
            activations).
        contexts: packed contexts: `token`, `document` and `position`, each [context, position].
        pairs: minimal pairs (`components.store.tables.PAIRS`).
        codes: sparse codes; absent without a dictionary.
        dictionary: the dictionary; absent without one.
        d_in: width of the activations where to steer.
        meanings: explanations of the trained dictionary's latents; absent without the stage
            `interpret`, and where nothing asks for them.
        unexplained: why there are none, where they were taken away on purpose.
        stand_ins: how many more steerings a control proposes, of which chance chooses as a method
            chooses: the most candidates that a method proposes for one concept; 0 where none has a
            choice.
        without: tokens that are known to be without each concept, where not every token without a
            label is; None where every one is. Methods then get the evidence of one concept at a
            time (`alone`), and controls this one.
        select_rows: which captured tokens of the select split these rows are; None for all of them.
        is_foreign: whether the rows are of other text, which the model read for this.
        longest_text: tokens of the longest prompt and its continuation: what has to fit the model
            beside whatever a steering puts before it.
        head: tokens that the chat template puts before the user's message; 0 without a
            conversation, or where the template does not put the message as it is.
    """

    concepts: Sequence[Concept]
    model: LanguageModel
    hook_point: str
    units: Mapping[str, float]
    labels: scipy.sparse.csc_matrix
    token: Int[np.ndarray, " token"]
    document: Int[np.ndarray, " token"]
    document_labels: scipy.sparse.csc_matrix
    batches: Callable[[str], Iterator[tuple[int, Float[Tensor, "token d_in"]]]]
    contexts: Mapping[str, Int[Tensor, "context position"]]
    pairs: pl.DataFrame
    codes: scipy.sparse.csr_matrix | None
    dictionary: Dictionary | None
    d_in: int
    stand_ins: int = 0
    meanings: Meanings | None = None
    unexplained: str | None = None
    without: scipy.sparse.csc_matrix | None = None
    select_rows: Int[np.ndarray, " token"] | None = None
    is_foreign: bool = False
    longest_text: int = 0
    head: int = 0

    def alone(self, column: int) -> Evidence:
        """The evidence of one concept: tokens with it and tokens known to be without it; all others
        are left out.

        What hangs together (neighbours in a document, all with the concept or all without) is a
        document of its own.
        """
        if self.without is None:
            raise ValueError("every token without a label is without the concept")
        inside = self.labels[:, [column]].toarray().ravel().astype(bool)
        rows = np.flatnonzero(inside | self.without[:, [column]].toarray().ravel().astype(bool))
        inside, document = inside[rows], self.document[rows]
        begins = np.ones(len(rows), dtype=bool)
        begins[1:] = (np.diff(rows) > 1) | (np.diff(document) != 0) | (inside[1:] != inside[:-1])
        taken = torch.from_numpy(rows)

        def batches(hook_point: str) -> Iterator[tuple[int, Tensor]]:
            done = 0
            for start, x in self.batches(hook_point):
                here = taken[(taken >= start) & (taken < start + len(x))] - start
                yield done, x[here]
                done += len(here)

        return dataclasses.replace(
            self,
            concepts=[self.concepts[column]],
            labels=scipy.sparse.csc_matrix(inside[:, None]),
            without=None,
            token=self.token[rows],
            document=np.cumsum(begins) - 1,
            document_labels=scipy.sparse.csc_matrix(inside[begins][:, None]),
            batches=batches,
            pairs=self.pairs.filter(pl.col("concept") == self.concepts[column].name),
            codes=None if self.codes is None else self.codes[rows],
            select_rows=rows if self.select_rows is None else self.select_rows[rows],
        )

    @property
    def unit(self) -> float:
        """Mean activation norm where to steer."""
        return self.units[self.hook_point]

    def width(self, hook_point: str) -> int:
        """Width of the activations at a hook point."""
        if hook_point == self.hook_point:
            return self.d_in
        return next(iter(self.batches(hook_point)))[1].shape[1]

    def one_sided(self, column: int) -> str | None:
        """Why there is no contrast of tokens with and without a concept; None where there is."""
        n_rows, n_inside = self.labels.get_shape()[0], int(self.labels[:, column].sum())
        if 0 < n_inside < n_rows:
            return None
        which = "no" if n_inside == 0 else "every"
        return f"{which} token of the select split has the concept"


@dataclasses.dataclass(frozen=True, eq=False)
class MethodServices(Services):
    """What a steering method may use.

    Attributes:
        model: the model that is steered.
        conversation: what prompts are put into; None where they stand by themselves.
    """

    model: LanguageModel
    conversation: Conversation | None = None


class SteeringMethod(Entry):
    """Proposes steerings. A file in `methods/` holds one, registered with `@methods`.

    Attributes:
        steering: the class of what it proposes.
        control: its steerings belong to no concept: each is judged for every concept, and none is
            chosen.
        reads_dictionary: it takes codes or dictionary from the evidence, so the untrained
            dictionary goes through it too, as a control.
        any_hook_point: its steerings come from activations alone, so the hook point sweep tries it
            wherever some were captured; its setting `hook_points` says where. None that reads a
            dictionary is such a method.
    """

    steering: ClassVar[type[Steering]]
    control: ClassVar[bool] = False
    reads_dictionary: ClassVar[bool] = False
    any_hook_point: ClassVar[bool] = False
    services: MethodServices

    def __init__(self, config: Any, services: MethodServices) -> None:
        """`config` is of the entry's own class."""
        super().__init__(config, services)

    @classmethod
    @abstractmethod
    def at_most(cls, config: Any) -> int:
        """Steerings that it proposes for one concept at most; a control, in all but for its
        stand-ins."""

    @abstractmethod
    def candidates(self, evidence: Evidence) -> Iterable[Candidate]:
        """At least one candidate for each concept of the evidence (one with a reason where there is
        no steering).

        Where a concept has several, the validate prompts choose. A control gives candidates without
        a concept.
        """


class ControlConfig(Config):
    """What every control of methods has."""

    methods: list[str] = []
    """Methods that go through it, of those in steer.methods; none named: all that it is for."""


class SteeringControl(Entry):
    """Spoils what methods know, so that what one still reaches is chance, by as many candidates and
    the same choice as the method itself. A file in `controls/` holds one, registered with
    `@controls`; tables call what a method reaches so `<control>_<method>`.

    Attributes:
        needs_dictionary: it is for methods that read a dictionary alone.
    """

    needs_dictionary: ClassVar[bool] = False

    def __init__(self, config: Any, services: MethodServices) -> None:
        """`config` is of the entry's own class, which is a ControlConfig."""
        super().__init__(config, services)

    @classmethod
    def over(
        cls, config: ControlConfig, listed: Mapping[str, type[SteeringMethod]]
    ) -> dict[str, str]:
        """Of the methods that are listed those that go through it, each with its name in tables."""
        return {
            name: f"{cls.kind}_{name}"
            for name, method in listed.items()
            if name in (config.methods or listed)
            and not method.control
            and (method.reads_dictionary or not cls.needs_dictionary)
        }

    @abstractmethod
    def spoilt(self, evidence: Evidence) -> Evidence | str:
        """The evidence that methods get instead of theirs, or why there is none."""


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt.

    Attributes:
        text: None when nothing was written, with the reason.
        n_tokens: tokens in it.
        nll: nats a token under the unsteered model, given the prompt; None without text.
        reason: why there is no text.
        kl: KL(plain || steered) of the predictions of its tokens, nats a token; None without text,
            or not measured.
        kl_reverse: KL(steered || plain) of the same: what the steering costs on the text that it
            wrote.
        prompt: the text that it goes on from.
        plain: what the unsteered model wrote after the same prompt with the same luck; None where
            that is not known.
    """

    text: str | None
    n_tokens: int
    nll: float | None
    reason: str | None = None
    kl: float | None = None
    kl_reverse: float | None = None
    prompt: str = ""
    plain: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Passages:
    """Pieces of real documents, as long as a continuation.

    Attributes:
        texts: the pieces.
        labels: whether a piece has the concept: a labelled token in it, or a document that has it.
        nll: nats a token under the unsteered model; NaN where it was not measured.
        openings: what stands before each, as long as a prompt; empty where nobody kept it.
    """

    texts: list[str]
    labels: Bool[np.ndarray, "passage concept"]
    nll: Float[np.ndarray, " passage"]
    openings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What judges are fitted on.

    Attributes:
        targets: what is steered towards, in the order of the label columns.
        judge: real passages to learn from.
        calibrate: real passages to calibrate on.
        validate: real passages to test the judge itself on.
        unsteered: plain continuations of validate prompts.
        seed: for judges that draw.
    """

    targets: Sequence[Concept]
    judge: Passages
    calibrate: Passages
    validate: Passages
    unsteered: Sequence[Continuation]
    seed: int

    @property
    def concepts(self) -> list[str]:
        """Names of the targets."""
        return [target.name for target in self.targets]


@dataclasses.dataclass(frozen=True, eq=False)
class JudgeServices(Services):
    """What a judge may use.

    Attributes:
        model: the model, unsteered.
        dictionary: of whose latents a judge may read how active they are in a text.
        text_encoder: gives texts vectors; None where no judge asks for it (`embeds`).
        client: answers prompts; None where no listed judge asks (`asks`), or nobody is there.
        conversation: what prompts are put into; None where they stand by themselves.
    """

    model: LanguageModel
    dictionary: Dictionary
    text_encoder: TextEncoderReference | None = None
    client: Client | None = None
    conversation: Conversation | None = None

    def encoder(self, texts: Sequence[str]) -> TextEncoder | LatentSemantics:
        """The text encoder itself.

        Args:
            texts: for an encoder that is fitted here; none that is judged.

        Raises:
            InputError: such texts without two different words.
        """
        if self.text_encoder is None:
            return LatentSemantics(texts, self.seed)
        return self.text_encoder.ready(self.execution, lambda: texts, self.seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Verdicts:
    """What a judge says of some texts.

    Attributes:
        values: 0 to 1 for each text and concept; NaN for none.
        reasons: number of a text -> why it has no value.
    """

    values: Float[np.ndarray, "text concept"]
    reasons: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def nothing(cls, n_texts: int, n_concepts: int, why: str) -> Verdicts:
        """No value for any text, all for the same reason."""
        return cls(np.full((n_texts, n_concepts), np.nan), dict.fromkeys(range(n_texts), why))


class Judge(Entry):
    """Judges texts. A file in `judges/` holds one, registered with `@judges`; its name is the
    judge's in every table.

    Attributes:
        measure: its score as a reader meets it, the mean of what it says of texts; the name is the
            judge's. Rows of the judge that `steer.measure` names stand under `uplift` instead.
        from_plain: its value is what a text has more than plain text already, so the composite of
            three takes it as it is.
        embeds: it gives texts vectors by the text encoder (`JudgeServices.encoder`).
        asks: it asks a language model (`components.steering.asking.AskingJudge`).
        parts: what its value is made of, where each stands in tables and scores, too.
    """

    measure: ClassVar[Measure]
    parts: ClassVar[Sequence[Measure]] = ()
    asks: ClassVar[bool] = False
    from_plain: ClassVar[bool] = False
    embeds: ClassVar[bool] = False

    def __init__(self, config: Any, services: JudgeServices) -> None:
        """`config` is of the entry's own class."""
        super().__init__(config, services)

    def fit(self, material: Material) -> None:
        """Learns what it needs; called once, before anything else. Columns of what it says are
        `material.concepts`."""
        self.material = material

    @abstractmethod
    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """Judges each text by itself, given its prompt; every one has a text."""

    def refusals(self) -> Mapping[str, str]:
        """Concepts that it cannot judge, with the reason; they are not steered towards."""
        return {}

    def silence(self) -> str | None:
        """Why it gives no value at all (NaN for every text), where that is so; concepts are steered
        without it."""
        return None

    def top_passage(self, column: int) -> str | None:
        """The real passage that has most of the target in this column, where the judge knows one:
        the gaming battery's bait."""
        return None

    def all_refused(self) -> str | None:
        """Why no target can be judged, where every one is refused; for a judge that is silent
        then."""
        refused = self.refusals()
        if len(refused) < len(self.material.targets):
            return None
        return next(iter(refused.values()), "there is no target")


methods: Registry[type[SteeringMethod]] = Registry("steering method", "components.steering.methods")
controls: Registry[type[SteeringControl]] = Registry(
    "steering control", "components.steering.controls"
)
judges: Registry[type[Judge]] = Registry("judge", "components.steering.judges")
