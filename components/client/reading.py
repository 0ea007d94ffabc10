"""Reading answers: strictly, and graded where log-probabilities are there.

A model that thinks aloud before its answer (`<think> ... </think>`) is read behind that. JSON is
the whole answer, at most inside one fence of three backticks; a sentence around it makes it no
answer, since nobody knows what else it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from components.client.contract import Reply, Request, Response, in_one_line
from components.errors import quoted

SchemaT = TypeVar("SchemaT", bound=BaseModel)
YES: Collection[str] = ("yes", "true", "1")
NO: Collection[str] = ("no", "false", "0")
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


def read(request: Request, response: Response) -> Reply:
    """The reply that a response is to a request: text, or the reason why there is none."""
    text: str | None = _THOUGHT.sub("", response.content or "", count=1).strip()
    reason, value = response.reason, None
    if reason is None and response.is_cut and not request.may_be_cut:
        reason = f"cut: the answer was not at its end after max_tokens={request.max_tokens}"
    elif reason is None and not text:
        reason = "empty: the answer has no text"
    elif reason is None and request.schema is not None:
        try:
            value = parsed(text or "", request.schema)
        except ValueError as error:
            reason = f"not as asked: {error}"
    return Reply(
        text if reason is None else None,
        reason,
        value,
        response.logprobs,
        response.usage,
        served_model=response.served_model,
        fingerprint=response.fingerprint,
        left_out=response.left_out,
    )


def parsed(text: str, schema: type[SchemaT]) -> SchemaT:
    """The answer as that class.

    Raises:
        ValueError: it is not JSON of it, the whole of it and nothing else.
    """
    fenced = _FENCED.fullmatch(text.strip())
    try:
        return schema.model_validate_json(fenced[1] if fenced else text, strict=True)
    except ValidationError as error:
        raise ValueError(
            f"wanted JSON of {schema.__name__} and nothing else ({in_one_line(error)}), got "
            f"{quoted(text)}"
        ) from None


def graded(reply: Reply, yes: Collection[str] = YES, no: Collection[str] = NO) -> float | None:
    """How much the answer is a yes: P(yes) / (P(yes) + P(no)) at the first token that says either.

    Without log-probabilities it is 1 for a text that begins with a yes, 0 for a no, and None for
    neither.

    Args:
        reply: to a question of yes or no.
        yes: words that say yes, in lower case.
        no: words that say no.
    """
    for token in reply.logprobs or ():
        if _word(token.token) in (*yes, *no):
            likeliest = {token.token: token.logprob, **token.likeliest}
            for_, against = (
                sum(math.exp(value) for word, value in likeliest.items() if _word(word) in words)
                for words in (yes, no)
            )
            return for_ / (for_ + against) if for_ + against > 0 else None
    first = re.match(r"\W*(\w+)", reply.text or "")
    word = first[1].lower() if first else ""
    return 1.0 if word in yes else 0.0 if word in no else None


def expected(reply: Reply, numbers: Sequence[int], most: int) -> list[float] | None:
    """What an answer of whole numbers means by its log-probabilities: at the place of each number
    the mean of 0 to `most`, each by its probability there; of 0 and 1, P(1) / (P(0) + P(1)).

    None where the tokens of the answer do not show which is which, or were not given.

    Args:
        reply: an answer with nothing but these numbers of one digit in it.
        numbers: as they were read.
        most: the largest that may be answered, 9 at most.
    """
    places = [token for token in reply.logprobs or () if _digit(token.token, most) is not None]
    if not places or [_digit(token.token, most) for token in places] != list(numbers):
        return None
    means = []
    for token in places:
        likely = dict.fromkeys(range(most + 1), 0.0)
        for text, logprob in {**token.likeliest, token.token: token.logprob}.items():
            if (digit := _digit(text, most)) is not None:
                likely[digit] += math.exp(logprob)
        if not (whole := sum(likely.values())):
            return None
        means.append(sum(n * p for n, p in likely.items()) / whole)
    return means


def was_not_asked(reply: Reply) -> bool:
    """Whether nobody was asked: the budget is spent, the server is left alone, or a replay."""
    return (reply.reason or "").startswith("not asked")


def _digit(token: str, most: int) -> int | None:
    """The number of one digit that a token is, whatever signs of JSON stand beside it."""
    bare = token.strip(" \t\r\n[]{},:\"'▁Ġ")
    is_digit = len(bare) == 1 and bare in "0123456789" and int(bare) <= most
    return int(bare) if is_digit else None


def _word(token: str) -> str:
    return token.strip(" \t\n\"'*.,:;!▁Ġ").lower()
