"""What the pages and the live worker say to one another, as JSON over loopback HTTP: questions,
answers, refusals.

`flows/live/` answers and `dashboards/live.py` asks; neither imports the other.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

LATENTS = 32
"""How many latents one question may name."""

Kind = Literal[
    "unknown_latent", "unknown_artifact", "unknown_direction", "unknown_question", "text_too_long", "model_not_found",
    "bad_request", "busy", "cancelled", "timed_out", "store", "internal",
]  # fmt: skip


class Wire(BaseModel):
    """What travels: unknown keys are refused, and NaN is no number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Problem(Wire):
    """Why there is no answer."""

    error: str
    """A sentence: what was wanted, what came, what to do."""
    kind: Kind
    """Which kind of fault, for programs."""
    wanted: Any = None
    """What would have been right."""
    came: Any = None
    """What was there instead."""


class ReadQuestion(Wire):
    """Which latents are active on a text of your own?"""

    experiment: str
    """Key of a report, or of a trained dictionary (train)."""
    text: str
    """At most 50,000 bytes."""
    latents: list[int] = Field(default=[], max_length=LATENTS)
    """Latents whose activation is wanted on every token."""
    top: int | None = Field(default=None, ge=0, le=100)
    """How many of the strongest latents are wanted; ten without latents, else none."""


class Activity(Wire):
    """A latent that is active on the text."""

    latent: int
    """Its index."""
    maximum: float
    """Largest activation, in units of the activations."""
    token: int
    """Number of the token where that is."""
    n_active: int
    """Tokens on which it is active."""


class Read(Wire):
    """A text, token by token."""

    tokens: list[str]
    """Token strings, in order; the whole text, never a part."""
    contexts: list[int]
    """The context that each token was read in: a token sees nothing of earlier contexts."""
    context_length: int
    """Tokens in one context."""
    n_unknown: int
    """Tokens that stand for what the model's tokenizer has no word for."""
    n_special: int
    """Special tokens that stood in the text as words: the model reads them, but they are no part of
    the text."""
    activations: dict[int, list[float]]
    """Chosen latent -> its activation on every token."""
    strongest: list[Activity]
    """The latents with the largest activations anywhere in the text."""
    strongest_by_token: list[list[tuple[int, float]]]
    """For every token the latents strongest on it, with their activations; empty where latents were
    chosen."""
    hook_point: str
    """Where the dictionary reads."""
    seconds: float
    """What it took, loading included."""


class Weight(Wire):
    """A latent in a mixture."""

    latent: int
    """Its index."""
    weight: float = Field(default=1.0, ge=-100, le=100)
    """Its part of the direction, decoder directions taken with norm 1; negative steers away."""


class Vector(Wire):
    """A direction that the stage steer kept."""

    method: str
    """The steering method."""
    concept: str | None = None
    """The concept; none for a control."""
    replicate: int | None = None
    """Which of its candidates; by default the one that validate prompts chose."""


class SteerQuestion(Wire):
    """What does the model write under this steering, and without it?"""

    experiment: str
    """Key of a report, or of a trained dictionary (train)."""
    prompt: str = ""
    """What the model continues."""
    latents: list[Weight] = Field(default=[], max_length=LATENTS)
    """A mixture of latents ..."""
    vector: Vector | None = None
    """... or a kept direction."""
    coefficient: float | None = Field(default=None, ge=-64, le=64)
    """Strength in units of the mean activation norm at the hook point ..."""
    kl_budget: float | None = Field(default=None, gt=0, le=20)
    """... or what it may cost on neutral text, nats a token."""
    temperature: float = Field(default=1.0, ge=0, le=5)
    """Of sampling; 0 takes the likeliest token."""
    seed: int = Field(default=0, ge=0, lt=2**53)
    """Of sampling; steered and plain text share it."""
    prompt_number: int = Field(default=0, ge=0, lt=2**31)
    """Enters the seed: with the prompt's number in the prompts table the text is that of the
    stage."""
    max_new_tokens: PositiveInt = Field(default=40, le=512)
    """Longest continuation."""
    samples: PositiveInt = Field(default=1, le=8)
    """Continuations, steered and plain each."""

    @model_validator(mode="after")
    def _one_of_each(self) -> SteerQuestion:
        if bool(self.latents) == (self.vector is not None):
            raise ValueError("wanted either latents or a vector to steer with, and not both")
        if (self.coefficient is None) == (self.kl_budget is None):
            raise ValueError("wanted a strength: either a coefficient or a kl_budget, and not both")
        if len({given.latent for given in self.latents}) < len(self.latents):
            raise ValueError("a latent is given twice; add its weights up")
        return self


class Written(Wire):
    """One continuation."""

    text: str | None
    """Null where there is none, with the reason."""
    n_tokens: int
    """Tokens in it."""
    nll: float | None
    """Nats a token under the unsteered model, given the prompt."""
    reason: str | None
    """Why there is no text."""


class SteeredAnswer(Wire):
    """Steered and plain continuations, sample by sample from the same seeds."""

    steered: list[Written]
    """Under the steering."""
    plain: list[Written]
    """Without it."""
    coefficient: float
    """The strength used, in units of the mean activation norm."""
    kl: float | None
    """What it costs on neutral text, nats a token; null where the corpus has no neutral text."""
    kl_tokens: int
    """Tokens of neutral text that the KL is a mean over."""
    mean_norm: float
    """The unit of the coefficient: mean norm of the activations at the hook point."""
    hook_point: str
    """Where the direction is added, at every token."""
    n_prompt: int
    """Tokens of the prompt, the model's first token included."""
    n_special: int
    """Special tokens that stood in the prompt as words, and were left out."""
    seconds: float
    """What it took, loading included."""


class MeaningQuestion(Wire):
    """Which explanations mean the same as a text?"""

    experiment: str
    """Key of a report, or of a trained dictionary (train; then its newest report)."""
    text: str = Field(min_length=1)
    """What is looked for, in any words."""
    top: PositiveInt = Field(default=50, le=1000)
    """How many are wanted."""


class Match(Wire):
    """An explanation near a text in meaning."""

    latent: int
    """Whose."""
    explainer: str
    """Who wrote it."""
    explanation: str
    """What it says."""
    cosine: float
    """Of the two texts' vectors."""


class Meaning(Wire):
    """Explanations by their nearness to a text, the nearest first."""

    matches: list[Match]
    """The nearest."""
    n: int
    """Explanations that were compared."""
    encoder: str
    """Which text encoder gave the vectors."""
    seconds: float
    """What it took, loading included."""


class MapQuestion(Wire):
    """Where do the decoder directions lie, in the two dimensions in which they differ most?"""

    experiment: str
    """Key of a report, or of a trained dictionary (train)."""


class Map(Wire):
    """The map is there, as a table beside the artifacts (`components/store/maps.py`)."""

    dictionary: str
    """Key of the dictionary (train)."""
    n: int
    """Latents on it."""
    seconds: float
    """What it took."""


QuestionKind = Literal["read", "steer", "meaning", "map"]


class AskedQuestion(Wire):
    """A question where it stands."""

    id: str
    """Its id."""
    kind: QuestionKind
    """What was asked."""
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    """waiting, running, or how it ended."""
    position: int
    """Questions before it."""
    message: str
    """What is being done."""
    done: int
    """Passes of the model made in this part of the work."""
    total: int
    """Passes that it takes at most; 0 when unknown."""
    read: Read | None = None
    """The answer to /read."""
    steer: SteeredAnswer | None = None
    """The answer to /steer."""
    meaning: Meaning | None = None
    """The answer to /meaning."""
    map: Map | None = None
    """The answer to /map."""
    problem: Problem | None = None
    """Why there is no answer."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.state not in ("waiting", "running")

    @property
    def share(self) -> float | None:
        """Of this part of the work, from 0 to 1; None when unknown."""
        return self.done / self.total if self.total else None

    @property
    def answer(self) -> Read | SteeredAnswer | Meaning | Map | None:
        """What came out, once done."""
        return self.read or self.steer or self.meaning or self.map


class Health(Wire):
    """What the worker holds."""

    status: Literal["ok"] = "ok"
    """It answers."""
    dictionary: str | None
    """Key of the loaded dictionary (train)."""
    model: str | None
    """Key of the loaded model."""
    hook_point: str | None
    """Where the dictionary reads."""
    running: str | None
    """What is being done, if anything."""
    waiting: int
    """Questions that wait."""
