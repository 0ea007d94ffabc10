"""A server on loopback that knows what was planted, and answers by rule.

It explains by the planted phrase that fits the marked tokens of the prompt best, it reads an
explanation as the lexical predictor does: where its quoted words stand, and it takes the piece that
lacks what all others have for the one that does not belong. So whatever a score lacks
is lost on the road, and not by the model behind it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.interpretation.phrase import Term, read
from tests.client.servers import PRICE, Act, Server, answer
from tests.interpretation.planted import PHRASES, PHRASES_OF_MORE

SURE = 0.9
"""What it gives an answer of 0 or 1, where log-probabilities are asked for."""
KNOWN = list((PHRASES | PHRASES_OF_MORE).values())
"""All that was planted anywhere."""
Window = tuple[list[str], list[bool]]


def settings_of(server: Server, folder: Any, **changes: Any) -> dict[str, Any]:
    """The section of a client of that server."""
    settings = {
        "kind": "endpoint",
        "url": server.url,
        "model": "judge-1",
        "replies": str(folder),
        "wait": 0.01,
        "seconds": 20.0,
        "prices": [{"model": "judge-1", **PRICE}],
    }
    return settings | changes


def knows(sent: Mapping[str, Any], times: int = 0) -> Act:
    """The whole script of such a server."""
    prompt = sent["messages"][-1]["content"]
    if prompt.startswith("Description: "):
        return judged(sent, prompt)
    if "does not belong" in prompt:
        return answer(json.dumps({"answer": odd_one(prompt)}))
    first = next(m["content"] for m in sent["messages"] if m["role"] == "user")
    return answer(explained(first))


def explained(prompt: str) -> str:
    """The planted phrase that fits best."""
    active, _, silent = prompt.partition("Silent:")
    windows = _pairs(active) if "\t" in active else [_marked(line) for line in _lines(active)]
    windows += [_marked(line) for line in _lines(silent)]
    found = max(KNOWN, key=lambda phrase: _fit(phrase, windows))
    return found if _fit(found, windows) > 0.5 else "nothing in common"


def odd_one(prompt: str) -> int:
    """The number of the piece that alone lacks what a planted phrase says; 1 where none does."""
    pieces = [line.split() for line in _lines(prompt)]
    for phrase in KNOWN:
        lacks = [not any(_hits(read(phrase), words)) for words in pieces]
        if sum(lacks) == 1:
            return lacks.index(True) + 1
    return 1


def judged(sent: Mapping[str, Any], prompt: str) -> Act:
    """Numbers as the prompt wants them."""
    description = re.match(r"Description: (.*)", prompt)
    assert description
    terms, system = read(description[1]), sent["messages"][0]["content"]
    lines = _lines(prompt)
    if "one token a line" in system:
        words = [line.strip() for line in lines]
        return answer(json.dumps({"answers": [10 * hit for hit in _hits(terms, words)]}))
    numbers = []
    for words, marks in map(_marked, lines):
        hits = _hits(terms, words)
        if "<< and >>" in system:
            inside = [hit for hit, mark in zip(hits, marks, strict=True) if mark]
            numbers.append(int(sum(inside) * 2 > len(inside)))
        else:
            numbers.append(int(any(hits)))
    return listed(sent, numbers)


def listed(sent: Mapping[str, Any], numbers: Sequence[int]) -> Act:
    """A list as the answer, with log-probabilities where they are asked for."""
    text = json.dumps({"answers": list(numbers)})
    if not sent.get("logprobs"):
        return answer(text)
    tokens = re.findall(r"\d|[^\d]+", text)
    return answer(text, logprobs={"content": [_logprob(token) for token in tokens]})


def _logprob(token: str) -> dict[str, Any]:
    likely = {token: SURE}
    if token in "01":
        likely["1" if token == "0" else "0"] = 1 - SURE
    top = [{"token": each, "logprob": math.log(p)} for each, p in likely.items()]
    return {"token": token, "logprob": math.log(SURE), "top_logprobs": top}


def _lines(text: str) -> list[str]:
    """Numbered lines, without their numbers."""
    return re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)


def _marked(line: str) -> Window:
    words, marks, inside = [], [], False
    for word in line.split():
        opens, closes = word.startswith("<<"), word.endswith(">>")
        words.append(word.removeprefix("<<").removesuffix(">>"))
        inside = inside or opens
        marks.append(inside)
        inside = inside and not closes
    return words, marks


def _pairs(text: str) -> list[Window]:
    windows = []
    for part in re.findall(r"^Text \d+\n(.*?)\nActive in", text, re.MULTILINE | re.DOTALL):
        rows = [row.split("\t") for row in part.splitlines()]
        windows.append(([word for word, _ in rows], [int(level) > 2 for _, level in rows]))
    return windows


def _hits(terms: Sequence[Term], words: Sequence[str]) -> list[bool]:
    return [any(_holds(term, words, at) for term in terms) for at in range(len(words))]


def _holds(term: Term, words: Sequence[str], at: int) -> bool:
    return (
        (term.word is None or words[at] == term.word)
        and (term.left is None or (at > 0 and words[at - 1] == term.left))
        and (term.near is None or term.near in words[: at + 1])
    )


def _fit(phrase: str, windows: Sequence[Window]) -> float:
    """F1 of the tokens that the phrase names, against the marked ones."""
    terms = read(phrase)
    both = named = marked = 0
    for words, marks in windows:
        hits = _hits(terms, words)
        both += sum(hit and mark for hit, mark in zip(hits, marks, strict=True))
        named, marked = named + sum(hits), marked + sum(marks)
    return 2 * both / max(1, named + marked)


Script = Callable[[Mapping[str, Any], int], Act]
