"""The live worker: one loaded model and dictionary behind loopback HTTP, for the pages' live
questions.

    python -m flows.live            answers on 127.0.0.1:8600 (LATENTFLOW_LIVE_PORT)

A question is posted to `/read`, `/steer`, `/meaning` or `/map` and gets an id at once; `/questions/<id>` tells how far
it is and what came out, and DELETE there cancels it, also while it runs. Questions are answered one
after the other (`flows/live/queue.py`). Model and dictionary are loaded when first asked for, torch
with them, and stay until another experiment is asked for. Every refusal is JSON: a sentence
(`error`), its `kind`, and what was wanted and what came. What is asked is not logged.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from components.errors import LatentflowError
from components.export.contract import Findings
from components.live import (
    AskedQuestion,
    Health,
    MapQuestion,
    MeaningQuestion,
    Problem,
    ReadQuestion,
    SteerQuestion,
    Wire,
)
from components.store.artifact import Store
from flows.live.bench import Sources, Worker
from flows.live.queue import Queue, QueueFull, Ticket
from flows.live.refusals import Refusal, bounded, json_of, problem_of, too_long

BODY_BYTES = 1_000_000
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def application(store: Store, **limits: Any) -> FastAPI:
    """The service over one store.

    Args:
        store: where the artifacts are.
        limits: of `flows.live.queue.Queue`.
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
        """Answers programs of this machine only: no page of a foreign site, no body without an
        end."""
        hosts = [urlsplit(f"//{request.headers.get('host', '')}").hostname]
        if "origin" in request.headers:
            hosts.append(urlsplit(request.headers["origin"]).hostname)
        if any(host not in LOOPBACK for host in hosts):
            return json_of(
                403,
                Problem(
                    error="only this machine may ask", kind="bad_request", wanted=list(LOOPBACK)
                ),
            )
        size = request.headers.get("content-length", "")
        if request.method == "POST" and not (size.isdecimal() and int(size) <= BODY_BYTES):
            return json_of(413, too_long(int(size) if size.isdecimal() else None))
        return await call_next(request)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        said = f"{where or 'question'}: {first['msg'].removeprefix('Value error, ')}"
        return json_of(
            422,
            Problem(error=said, kind="bad_request", wanted=first.get("ctx", {}).get("expected")),
        )

    @app.exception_handler(LatentflowError)
    async def refused(request: Request, error: LatentflowError) -> JSONResponse:
        return json_of(*problem_of(error))

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
    def read(question: ReadQuestion) -> AskedQuestion:
        """Asks which latents are active on a text."""
        bounded(question.text)
        _known(worker.sources(question.experiment), question.latents)
        return _question(worker.queue, _queued(worker.queue, "read", question))

    @app.post("/steer", status_code=202)
    def steer(question: SteerQuestion) -> AskedQuestion:
        """Asks for steered and plain text."""
        bounded(question.prompt)
        sources = worker.sources(question.experiment)
        _known(sources, [given.latent for given in question.latents])
        if question.vector is not None and sources.steer is None:
            said = "this experiment has no steer artifact, so no method's vectors; `latentflow steer` makes it"
            raise Refusal(404, "unknown_artifact", said)
        return _question(worker.queue, _queued(worker.queue, "steer", question))

    @app.post("/meaning", status_code=202)
    def meaning(question: MeaningQuestion) -> AskedQuestion:
        """Asks which explanations mean the same as a text."""
        bounded(question.text)
        if "interpret" not in Findings.of(store, question.experiment).artifacts:
            said = "this experiment has no interpret artifact, so no explanations; `latentflow interpret` makes it"
            raise Refusal(404, "unknown_artifact", said)
        return _question(worker.queue, _queued(worker.queue, "meaning", question))

    @app.post("/map", status_code=202)
    def map_(question: MapQuestion) -> AskedQuestion:
        """Asks for the map of a dictionary."""
        worker.trained(question.experiment)
        return _question(worker.queue, _queued(worker.queue, "map", question))

    @app.get("/questions/{number}")
    def look(number: str, wait: Annotated[float, Query(ge=0, le=10)] = 0.0) -> AskedQuestion:
        """Where a question stands, waiting up to `wait` seconds for its end."""
        return _question(worker.queue, _there(worker.queue.look(number, wait)))

    @app.delete("/questions/{number}")
    def cancel(number: str) -> AskedQuestion:
        """Cancels a question: at once where it waits, between two passes of the model where it
        runs."""
        return _question(worker.queue, _there(worker.queue.cancel(number)))

    return app


def _known(sources: Sources, latents: list[int]) -> None:
    """Refuses latents that the dictionary lacks, before anything waits or is loaded."""
    top = sources.train.facts["d_sae"] - 1
    for latent in latents:
        if not 0 <= latent <= top:
            said = (
                f"no latent {latent} in dictionary {sources.train.facts['name']}; it has 0 to {top}"
            )
            raise Refusal(404, "unknown_latent", said, [0, top], latent)


def _queued(queue: Queue, kind: str, question: Wire) -> Ticket:
    try:
        return queue.add(kind, question)
    except QueueFull as error:
        raise Refusal(
            503, "busy", f"the live worker is busy: {error}; ask again in a moment"
        ) from None


def _there(ticket: Ticket | None) -> Ticket:
    if ticket is None:
        said = "no question of that id: it was answered long ago, or the live worker was started anew; ask again"
        raise Refusal(404, "unknown_question", said)
    return ticket


def _question(queue: Queue, ticket: Ticket) -> AskedQuestion:
    answer = {ticket.kind: ticket.answer} if ticket.answer is not None else {}
    problem = problem_of(ticket.error)[1] if ticket.error is not None else None
    return AskedQuestion(
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
