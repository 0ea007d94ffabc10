"""What steering promises: a method proposes steerings from the select split, a judge reads continuations.

A `Steering` is not bound to be a vector added: it is anything that turns a strength into an edit, strength 0 meaning
no edit, with a batch form so that many steerings share one forward pass. `AddVector` is the commonest. Methods see
`Evidence`, which holds nothing but the select split; judges are fitted on `Material`, which holds nothing of the test
split: so no test data can choose a setting.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.config import Config
from components.model.intervention import Edit, add
from components.registry import Registry


class Steering(ABC):
    """One way to change a model's behaviour, with one free parameter: its strength."""

    hook_point: str

    @classmethod
    @abstractmethod
    def edit(cls, rows: Sequence[Steering], strengths: Float[Tensor, " row"]) -> Edit:
        """The edit of one batch: row i is steered by `rows[i]` (all of this class, at one hook point).

        Strength 0 leaves its row as it is; the side effect grows with the strength.
        """

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """What has to be kept to steer again, by name ("" for the only one)."""


@dataclasses.dataclass(frozen=True, eq=False)
class AddVector(Steering):
    """Adds strength x unit x vector at every position.

    Attributes:
        hook_point: where it is added.
        vector: direction of norm 1.
        unit: the mean activation norm at the hook point, in which strengths are stated.
    """

    hook_point: str
    vector: Float[Tensor, " d_in"]
    unit: float

    @classmethod
    def edit(cls, rows: Sequence[Steering], strengths: Float[Tensor, " row"]) -> Edit:
        """One addition with a vector for each row."""
        first = rows[0]
        assert isinstance(first, cls) and all(row.hook_point == first.hook_point for row in rows)
        vectors = torch.stack([row.vector for row in rows if isinstance(row, cls)])
        return add(first.hook_point, strengths[:, None].to(vectors) * first.unit * vectors)

    def tensors(self) -> Mapping[str, Tensor]:
        """The direction."""
        return {"": self.vector}

    @classmethod
    def along(cls, hook_point: str, vector: Float[Tensor, " d_in"], unit: float) -> AddVector | None:
        """Along a vector of any length; None where it has no direction (zero or not finite)."""
        vector = vector.detach().float().cpu()
        norm = float(vector.norm())
        if not np.isfinite(norm) or norm < 1e-12:
            return None
        return cls(hook_point, vector / norm, unit)


@dataclasses.dataclass(frozen=True)
class Concept:
    """A concept to steer towards.

    Attributes:
        name: as in the concepts table.
        kind: surface, contextual or document.
        unit: token, or document.
    """

    name: str
    kind: str
    unit: str


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
        stand_in: of a control: it is compared with nobody, and stands for a candidate where a choice is made by chance.
    """

    concept: str | None
    replicate: int
    steering: Steering | None
    latent: int | None = None
    sign: int = 1
    select_score: float | None = None
    reason: str | None = None
    stand_in: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What a method may know: the select split, the dictionary, and nothing else.

    Attributes:
        concepts: the concepts to steer, in the order of the label columns.
        hook_point: where to steer.
        unit: mean activation norm there.
        labels: tokens with the concept; for document concepts, tokens of documents that have it.
        document: for each token, the row of its document in `document_labels`.
        document_labels: documents with the concept (document concepts; other columns are empty).
        batches: activations in row order, anew at each call: (first row, activations).
        codes: sparse codes; absent without a dictionary.
        decoder: decoder directions of the dictionary; absent without one.
        d_in: width of the activations.
        seed: for methods that draw.
        stand_ins: how many more steerings a control proposes, of which chance chooses as a method chooses: the most
            candidates that a method proposes for one concept; 0 where none has a choice.
    """

    concepts: Sequence[Concept]
    hook_point: str
    unit: float
    labels: scipy.sparse.csc_matrix
    document: Int[np.ndarray, " token"]
    document_labels: scipy.sparse.csc_matrix
    batches: Callable[[], Iterator[tuple[int, Float[Tensor, "token d_in"]]]]
    codes: scipy.sparse.csr_matrix | None
    decoder: Float[Tensor, "d_sae d_in"] | None
    d_in: int
    seed: int
    stand_ins: int = 0


class SteeringMethod(ABC):
    """Proposes steerings. A file in `methods/` holds one, registered with `@methods`."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    config: ClassVar[type[Config]]
    control: ClassVar[bool] = False
    """A control's steerings belong to no concept: each is judged for every concept, and none is chosen."""
    reads_dictionary: ClassVar[bool] = False
    """It takes codes or decoder from the evidence, so the untrained dictionary goes through it too, as a control."""

    def __init__(self, config: Any) -> None:
        """`config` is of the entry's own class."""
        self.settings = config

    @property
    @abstractmethod
    def at_most(self) -> int:
        """Steerings that it proposes for one concept at most; a control, in all but for its stand-ins."""

    @abstractmethod
    def candidates(self, evidence: Evidence) -> Iterable[Candidate]:
        """At least one candidate for each concept of the evidence (one with a reason where there is no steering).

        Where a concept has several, the validate prompts choose. A control gives candidates without a concept.
        """


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt.

    Attributes:
        text: None when nothing was written, with the reason.
        n_tokens: tokens in it.
        nll: nats a token under the unsteered model, given the prompt; None without text.
        reason: why there is no text.
        kl: KL(plain || steered) of the predictions of its tokens, nats a token; None without text, or not measured.
        kl_reverse: KL(steered || plain) of the same: what the steering costs on the text that it wrote.
    """

    text: str | None
    n_tokens: int
    nll: float | None
    reason: str | None = None
    kl: float | None = None
    kl_reverse: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Passages:
    """Pieces of real documents, as long as a continuation.

    Attributes:
        texts: the pieces.
        labels: whether a piece has the concept: a labelled token in it, or a document that has it.
        nll: nats a token under the unsteered model; NaN where it was not measured.
    """

    texts: list[str]
    labels: Bool[np.ndarray, "passage concept"]
    nll: Float[np.ndarray, " passage"]


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What judges are fitted on.

    Attributes:
        concepts: names, in the order of the label columns.
        judge: real passages to learn from.
        calibrate: real passages to calibrate on.
        validate: real passages to test the judge itself on.
        unsteered: plain continuations of validate prompts.
        seed: for judges that draw.
    """

    concepts: Sequence[str]
    judge: Passages
    calibrate: Passages
    validate: Passages
    unsteered: Sequence[Continuation]
    seed: int


class Judge(ABC):
    """Scores continuations from 0 to 1. A file in `judges/` holds one, registered with `@judges`."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    config: ClassVar[type[Config]]
    column: ClassVar[str]
    """Its column in the generations table."""

    @abstractmethod
    def __init__(self, config: Any, material: Material) -> None:
        """Fits the judge. `config` is of the entry's own class."""

    @abstractmethod
    def scores(self, continuations: Sequence[Continuation]) -> Float[np.ndarray, "text concept"]:
        """A score for each continuation and concept; NaN where there is no text."""

    def refusals(self) -> Mapping[str, str]:
        """Concepts that it cannot judge, with the reason; they are not steered."""
        return {}

    def silence(self) -> str | None:
        """Why it gives no score at all (NaN for every text), where that is so; concepts are steered without it."""
        return None


methods: Registry[type[SteeringMethod]] = Registry("steering method", "components.steering.methods")
judges: Registry[type[Judge]] = Registry("judge", "components.steering.judges")
