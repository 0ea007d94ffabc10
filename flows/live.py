"""The live worker: one loaded model and dictionary behind loopback HTTP, for the pages' live questions.

    python -m flows.live            answers on 127.0.0.1:8600 (LATENTFLOW_LIVE_PORT)

A question is posted to `/read` or `/steer` and gets an id at once; `/questions/<id>` tells how far it is and what came
out, and DELETE there cancels it, also while it runs. Questions are answered one after the other (`flows/queue.py`).
Model and dictionary are loaded when first asked for, torch with them, and stay until another experiment is asked for.
Every refusal is JSON: a sentence (`error`), its `kind`, and what was wanted and what came. What is asked is not logged.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from components.errors import (
    LatentflowError,
    MissingArtifactError,
    ModelError,
    ServiceError,
    StoreError,
    UnknownNameError,
)
from components.store.artifact import Artifact, Store
from flows import environment, processes
from flows.queue import Cancelled, Queue, QueueFull, Ticket, TimedOut

if TYPE_CHECKING:
    from components.device import Execution
    from components.dictionary.contract import Dictionary
    from components.model.language_model import LanguageModel, ModelConfig
    from components.steering.contract import AddVector, Continuation
    from components.steering.protocol import Neutral

log = logging.getLogger(__name__)

TEXT_BYTES = 50_000
"""The longest text, in UTF-8: about 12,000 tokens."""
BODY_BYTES = 1_000_000
LATENTS = 32
LOOPBACK = ("127.0.0.1", "localhost", "::1")

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
    """Special tokens that stood in the text as words: the model reads them, but they are no part of the text."""
    activations: dict[int, list[float]]
    """Chosen latent -> its activation on every token."""
    strongest: list[Activity]
    """The latents with the largest activations anywhere in the text."""
    strongest_by_token: list[list[tuple[int, float]]]
    """For every token the latents strongest on it, with their activations; empty where latents were chosen."""
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
    """Enters the seed: with the prompt's number in the prompts table the text is that of the stage."""
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


class Steered(Wire):
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


class Progress(Wire):
    """Where a question stands."""

    id: str
    """Its id."""
    kind: Literal["read", "steer"]
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
    steer: Steered | None = None
    """The answer to /steer."""
    problem: Problem | None = None
    """Why there is no answer."""


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


class Refusal(LatentflowError):
    """A question that is not taken."""

    def __init__(self, status: int, kind: Kind, error: str, wanted: Any = None, came: Any = None) -> None:
        super().__init__(error)
        self.status, self.problem = status, Problem(error=error, kind=kind, wanted=wanted, came=came)


@dataclasses.dataclass(frozen=True)
class Sources:
    """The artifacts behind one experiment that live questions need."""

    train: Artifact
    capture: Artifact
    corpus: Artifact
    steer: Artifact | None

    @property
    def keys(self) -> tuple[str | None, ...]:
        """What tells these from others."""
        return self.train.key, self.capture.key, self.steer.key if self.steer else None

    @classmethod
    def of(cls, store: Store, key: str) -> Sources:
        """From the key of a report, or of a trained dictionary (then with its newest steer artifact)."""
        report = store.find("report", key) if key.isalnum() else None
        if report is not None:
            given = {reference["stage"]: reference for reference in report.manifest["inputs"].values()}
            if missing := [stage for stage in ("train", "encode") if stage not in given]:
                raise MissingArtifactError(
                    f"report {key} names no {missing[0]} artifact; `latentflow report` makes one"
                )
            train, encode = (store.get(**given[stage]) for stage in ("train", "encode"))
            steer = store.find(**given["steer"]) if "steer" in given else None
            captured = encode.manifest["inputs"]["activations"]
        else:
            found = store.find("train", key) if key.isalnum() else None
            if found is None:
                raise MissingArtifactError(
                    f"neither report nor train artifact {_plain(key)} in {store.root}; `latentflow experiment` makes both"
                )
            train = found
            made = [a for a in store.artifacts("steer") if a.manifest["inputs"]["dictionary"]["key"] == key]
            steer = max(made, key=lambda artifact: artifact.age, default=None)
            captured = (steer or train).manifest["inputs"].get("activations")
            if captured is None:
                raise MissingArtifactError(
                    f"dictionary train/{key} names no activations, so no model to read a text with"
                )
        capture = store.get(**captured)
        if "corpus" not in capture.manifest["inputs"] or "model" not in capture.manifest["inputs"]:
            raise MissingArtifactError(
                f"activations capture/{capture.key} were brought along: no model to read a text with"
            )
        return cls(train, capture, store.get(**capture.manifest["inputs"]["corpus"]), steer)


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A model and a dictionary, loaded, with what belongs to them."""

    sources: Sources
    model: LanguageModel
    model_key: str
    dictionary: Dictionary
    vocabulary: list[str]
    neutral: Neutral | None

    @property
    def unit(self) -> float:
        """Mean activation norm where the dictionary writes."""
        from components.store.shards import ActivationShards

        return ActivationShards(self.sources.capture).mean_norm(self.dictionary.writes[0])


class Worker:
    """Answers questions, keeping one bench."""

    def __init__(self, store: Store, **limits: Any) -> None:
        self.store = store
        self.bench: Bench | None = None
        self.queue = Queue(self._answer, **limits)

    def sources(self, key: str) -> Sources:
        """The artifacts of an experiment."""
        return Sources.of(self.store, key)

    def _answer(self, ticket: Ticket) -> Read | Steered:
        started = time.monotonic()
        bench = self._load(ticket, self.sources(ticket.asked.experiment))
        with bench.model.watched(ticket.step):
            answer = _read if ticket.kind == "read" else _steer
            return answer(bench, ticket, ticket.asked, started)

    def _load(self, ticket: Ticket, sources: Sources) -> Bench:
        """The bench of these artifacts; a model that stays is not loaded again."""
        held = self.bench
        if held and held.sources.keys == sources.keys:
            return held
        ticket.begin("loading the model and the dictionary")
        self.bench = None
        import torch

        from components.dictionary.contract import Dictionary
        from components.model.language_model import ModelConfig, locate
        from components.steering.protocol import Neutral
        from components.store.tables import VOCABULARY

        key = sources.capture.manifest["inputs"]["model"]["key"]
        if held and held.model_key == key:
            model = held.model
        else:
            del held
            gc.collect()
            recorded = sources.capture.facts.get("model_config")
            chosen, settings = _machine()
            if settings.threads:
                torch.set_num_threads(settings.threads)
            places = [*([ModelConfig(**recorded)] if recorded else []), chosen, ModelConfig()]
            model = locate(key, places).load(settings)
        ticket.check()
        dictionary = Dictionary.load(sources.train, model.device)
        neutral = None
        if "contexts/neutral.safetensors" in sources.corpus.files:
            neutral, _ = Neutral.read(sources.corpus, *_neutral_size(sources.steer))
        vocabulary = VOCABULARY.read(sources.corpus)["text"].to_list()
        self.bench = Bench(sources, model, key, dictionary, vocabulary, neutral)
        return self.bench


def _machine() -> tuple[ModelConfig, Execution]:
    """Which model, and on which device, by params.yaml; the other sections would import every stage."""
    from components.config import load
    from components.device import Execution
    from components.model.language_model import ModelConfig

    nested = environment.written()
    return load(ModelConfig, nested.get("model", {})), load(Execution, nested.get("execution", {}))


def _neutral_size(steer: Artifact | None) -> tuple[int, int]:
    """Tokens of neutral text and their number in each context: those of the stage, else its defaults."""
    if steer is not None:
        return steer.config["neutral_tokens"], steer.config["neutral_length"]
    from components.config import load
    from components.steering.steer import SteerConfig

    usual = load(SteerConfig, {})
    return usual.neutral_tokens, usual.neutral_length


def _read(bench: Bench, ticket: Ticket, asked: ReadQuestion, started: float) -> Read:
    import torch

    from components.interpretation.reading import read_text

    length = bench.sources.corpus.facts["context_length"]
    ticket.begin("reading the text")
    dtype = getattr(torch, bench.sources.capture.facts["dtype"])
    reading = read_text(bench.model, bench.dictionary, asked.text, length, dtype)
    unknown = bench.model.tokenizer.unk_token_id
    top = asked.top if asked.top is not None else 0 if asked.latents else 10
    return Read(
        tokens=[bench.vocabulary[token] for token in reading.token.tolist()],
        contexts=reading.context.tolist(),
        context_length=length,
        n_special=reading.n_special,
        n_unknown=int((reading.token == unknown).sum() if unknown is not None else 0),
        activations={latent: reading.activations(latent).tolist() for latent in asked.latents},
        strongest=[Activity(**active._asdict()) for active in reading.strongest(top)],
        strongest_by_token=reading.strongest_by_token(top) if top and not asked.latents else [],
        hook_point=bench.dictionary.hook_point,
        seconds=time.monotonic() - started,
    )


def _steer(bench: Bench, ticket: Ticket, asked: SteerQuestion, started: float) -> Steered:
    from components.steering import trial
    from components.steering.protocol import Prompt, Writer

    steering = _direction(bench, asked)
    ticket.begin("measuring the KL on neutral text")
    if asked.coefficient is not None:
        strength = trial.at_coefficient(bench.model, steering, asked.coefficient, bench.neutral)
    else:
        assert asked.kl_budget is not None
        strength = trial.at_budget(bench.model, steering, asked.kl_budget, bench.neutral)
    ticket.begin("writing", 2 * asked.max_new_tokens + 2)
    writer = Writer(bench.model, asked.max_new_tokens, asked.temperature, asked.seed, batch_size=8)
    prompt = Prompt.of(bench.model, asked.prompt_number, asked.prompt)
    made = trial.write(writer, prompt, steering, strength.coefficient, asked.samples)
    return Steered(
        steered=[_written(continuation) for continuation in made.steered],
        plain=[_written(continuation) for continuation in made.plain],
        coefficient=strength.coefficient,
        kl=strength.kl,
        kl_tokens=int(bench.neutral.mask.sum()) if bench.neutral else 0,
        mean_norm=steering.unit,
        hook_point=steering.hook_point,
        n_prompt=len(prompt.tokens),
        n_special=prompt.n_special,
        seconds=time.monotonic() - started,
    )


def _direction(bench: Bench, asked: SteerQuestion) -> AddVector:
    from components.steering.trial import kept_direction, mixture

    if asked.vector is None:
        return mixture(bench.dictionary, {given.latent: given.weight for given in asked.latents}, bench.unit)
    assert bench.sources.steer is not None, "refused before it was queued"
    try:
        return kept_direction(bench.sources.steer, asked.vector.method, asked.vector.concept, asked.vector.replicate)
    except UnknownNameError as error:
        raise Refusal(404, "unknown_direction", str(error)) from None


def _written(found: Continuation) -> Written:
    return Written(text=found.text, n_tokens=found.n_tokens, nll=found.nll, reason=found.reason)


def application(store: Store, **limits: Any) -> FastAPI:
    """The service over one store.

    Args:
        store: where the artifacts are.
        limits: of `flows.queue.Queue`.
    """
    worker = Worker(store, **limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.queue.close()

    # the interactive documentation would be fetched from a foreign host
    app = FastAPI(title="Latentflow live worker", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.worker = worker

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Any:
        """Answers programs of this machine only: no page of a foreign site, no body without an end."""
        hosts = [urlsplit(f"//{request.headers.get('host', '')}").hostname]
        if "origin" in request.headers:
            hosts.append(urlsplit(request.headers["origin"]).hostname)
        if any(host not in LOOPBACK for host in hosts):
            return _json(403, Problem(error="only this machine may ask", kind="bad_request", wanted=list(LOOPBACK)))
        size = request.headers.get("content-length", "")
        if request.method == "POST" and not (size.isdecimal() and int(size) <= BODY_BYTES):
            return _json(413, _too_long(int(size) if size.isdecimal() else None))
        return await call_next(request)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        said = f"{where or 'question'}: {first['msg'].removeprefix('Value error, ')}"
        return _json(422, Problem(error=said, kind="bad_request", wanted=first.get("ctx", {}).get("expected")))

    @app.exception_handler(LatentflowError)
    async def refused(request: Request, error: LatentflowError) -> JSONResponse:
        return _json(*_problem(error))

    @app.get("/health")
    def health() -> Health:
        """What is loaded, and how many wait."""
        bench, running = worker.bench, worker.queue.running
        return Health(
            dictionary=bench.sources.train.key if bench else None,
            model=bench.model_key if bench else None,
            hook_point=bench.dictionary.hook_point if bench else None,
            running=running.message or running.kind if running else None,
            waiting=worker.queue.n_waiting,
        )

    @app.post("/read", status_code=202)
    def read(question: ReadQuestion) -> Progress:
        """Asks which latents are active on a text."""
        _bounded(question.text)
        _known(worker.sources(question.experiment), question.latents)
        return _progress(worker.queue, _queued(worker.queue, "read", question))

    @app.post("/steer", status_code=202)
    def steer(question: SteerQuestion) -> Progress:
        """Asks for steered and plain text."""
        _bounded(question.prompt)
        sources = worker.sources(question.experiment)
        _known(sources, [given.latent for given in question.latents])
        if question.vector is not None and sources.steer is None:
            said = "this experiment has no steer artifact, so no method's vectors; `latentflow steer` makes it"
            raise Refusal(404, "unknown_artifact", said)
        return _progress(worker.queue, _queued(worker.queue, "steer", question))

    @app.get("/questions/{number}")
    def look(number: str, wait: Annotated[float, Query(ge=0, le=10)] = 0.0) -> Progress:
        """Where a question stands, waiting up to `wait` seconds for its end."""
        return _progress(worker.queue, _there(worker.queue.look(number, wait)))

    @app.delete("/questions/{number}")
    def cancel(number: str) -> Progress:
        """Cancels a question: at once where it waits, between two passes of the model where it runs."""
        return _progress(worker.queue, _there(worker.queue.cancel(number)))

    return app


def _bounded(text: str) -> None:
    if (size := len(text.encode("utf-8", "replace"))) > TEXT_BYTES:
        problem = _too_long(size)
        raise Refusal(413, problem.kind, problem.error, problem.wanted, problem.came)


def _too_long(size: int | None) -> Problem:
    came = "more" if size is None else f"{size:,} bytes"
    return Problem(
        error=f"a text may have {TEXT_BYTES:,} bytes at most, and {came} came; nothing was read: paste a part of it",
        kind="text_too_long",
        wanted=TEXT_BYTES,
        came=size,
    )


def _known(sources: Sources, latents: list[int]) -> None:
    """Refuses latents that the dictionary lacks, before anything waits or is loaded."""
    top = sources.train.facts["d_sae"] - 1
    for latent in latents:
        if not 0 <= latent <= top:
            said = f"no latent {latent} in dictionary {sources.train.facts['name']}; it has 0 to {top}"
            raise Refusal(404, "unknown_latent", said, [0, top], latent)


def _queued(queue: Queue, kind: str, question: Wire) -> Ticket:
    try:
        return queue.add(kind, question)
    except QueueFull as error:
        raise Refusal(503, "busy", f"the live worker is busy: {error}; ask again in a moment") from None


def _there(ticket: Ticket | None) -> Ticket:
    if ticket is None:
        said = "no question of that id: it was answered long ago, or the live worker was started anew; ask again"
        raise Refusal(404, "unknown_question", said)
    return ticket


def _progress(queue: Queue, ticket: Ticket) -> Progress:
    answer = {ticket.kind: ticket.answer} if ticket.answer is not None else {}
    problem = _problem(ticket.error)[1] if ticket.error is not None else None
    return Progress(
        id=ticket.id,
        kind=ticket.kind,  # type: ignore[arg-type]
        state=ticket.state,
        position=queue.position(ticket),
        message=ticket.message,
        done=min(ticket.done, ticket.total) if ticket.total else ticket.done,
        total=ticket.total,
        problem=problem,
        **answer,
    )


def _problem(error: BaseException) -> tuple[int, Problem]:
    """Status and body of what went wrong."""
    if isinstance(error, Refusal):
        return error.status, error.problem
    kinds: list[tuple[type[BaseException], int, Kind]] = [
        (Cancelled, 409, "cancelled"),
        (TimedOut, 504, "timed_out"),
        (MissingArtifactError, 404, "unknown_artifact"),
        (ModelError, 404, "model_not_found"),
        (StoreError, 500, "store"),
        (LatentflowError, 422, "bad_request"),
    ]
    for kind, status, name in kinds:
        if isinstance(error, kind):
            return status, Problem(error=str(error), kind=name)
    said = f"the live worker could not answer ({type(error).__name__}); its log says where"
    return 500, Problem(error=said, kind="internal")


def _json(status: int, problem: Problem) -> JSONResponse:
    return JSONResponse(problem.model_dump(), status_code=status)


def _plain(text: str) -> str:
    return "".join(letter for letter in text[:40] if letter.isalnum()) or "of that name"


def main() -> None:
    """Serves until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m flows.live", description="The live worker.")
    parser.add_argument("--host", choices=LOOPBACK, default="127.0.0.1", help="only this machine may ask")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    processes.refuse_port("live")
    uvicorn.run(
        application(Store(os.environ["LATENTFLOW_STORE"])),
        host=arguments.host,
        port=environment.port("live"),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        ws="none",
    )


if __name__ == "__main__":
    try:
        main()
    except ServiceError as error:
        sys.exit(str(error))
