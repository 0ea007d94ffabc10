"""The answers to live questions, from what is loaded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from components.errors import UnknownNameError
from components.live import Activity, Read, ReadQuestion, SteeredAnswer, SteerQuestion, Written
from flows.live.queue import Ticket
from flows.live.refusals import Refusal

if TYPE_CHECKING:
    from components.steering.contract import Continuation, Steering
    from flows.live.bench import Bench


def read(bench: Bench, ticket: Ticket, asked: ReadQuestion, started: float) -> Read:
    """Which latents are active on a text; `started` is on the monotonic clock."""
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


def steer(bench: Bench, ticket: Ticket, asked: SteerQuestion, started: float) -> SteeredAnswer:
    """Steered and plain text; `started` is on the monotonic clock.

    Raises:
        Refusal: a direction that the stage steer did not keep.
    """
    from components.steering import trial
    from components.steering.writer import Prompt, Writer

    steering = _direction(bench, asked)
    ticket.begin("measuring the KL on neutral text")
    if asked.coefficient is not None:
        strength = trial.at_coefficient(bench.model, steering, asked.coefficient, bench.neutral)
    else:
        assert asked.kl_budget is not None
        strength = trial.at_budget(bench.model, steering, asked.kl_budget, bench.neutral)
    ticket.begin("writing", 2 * asked.max_new_tokens + 2)
    writer = Writer(bench.model, asked.max_new_tokens, asked.temperature, asked.seed, batch_size=8)
    prompt = Prompt.of(bench.model, asked.prompt_number, asked.prompt, bench.conversation)
    made = trial.write(writer, prompt, steering, strength.coefficient, asked.samples)
    return SteeredAnswer(
        steered=[_written(continuation) for continuation in made.steered],
        plain=[_written(continuation) for continuation in made.plain],
        coefficient=strength.coefficient,
        kl=strength.kl,
        kl_tokens=int(bench.neutral.mask.sum()) if bench.neutral else 0,
        mean_norm=bench.unit,
        hook_point=bench.dictionary.writes[0],
        n_prompt=len(prompt.tokens),
        n_special=prompt.n_special,
        seconds=time.monotonic() - started,
    )


def _direction(bench: Bench, asked: SteerQuestion) -> Steering:
    from components.steering.saved import restored
    from components.steering.trial import mixture

    if asked.vector is None:
        return mixture(
            bench.dictionary, {given.latent: given.weight for given in asked.latents}, bench.unit
        )
    assert bench.sources.steer is not None, "refused before it was queued"
    try:
        return restored(
            bench.sources.steer, asked.vector.method, asked.vector.concept, asked.vector.replicate
        )
    except UnknownNameError as error:
        raise Refusal(404, "unknown_direction", str(error)) from None


def _written(found: Continuation) -> Written:
    return Written(text=found.text, n_tokens=found.n_tokens, nll=found.nll, reason=found.reason)
