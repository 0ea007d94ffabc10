"""A server on loopback that plays a judge by rule: it counts the words of a target in a text.

A target of the small world (`topic.animal`, `word.cat`) is its nouns. Two of them or more are rated
2, one is rated 1; text that says one word over and over is not fluent; of two texts the one with
more of the target's words is the better one, and of equals the first, whichever that is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from tests.client.servers import Act, answer
from tests.steering.world import NOUNS

SURE = 0.9


def said(text: str, target: str) -> int:
    """How often a text says words of the target."""
    name = target.partition(".")[2]
    words = NOUNS.get(name, [name])
    return sum(word in words for word in text.split())


def knows(sent: Mapping[str, Any], times: int = 0) -> Act:
    """The whole script of such a server."""
    prompt = sent["messages"][-1]["content"]
    texts = re.findall(r"<text>\n(.*?)\n</text>", prompt, re.DOTALL)
    if "JSON with the better one" in prompt:
        target = prompt.splitlines()[0].removeprefix("Concept: ")
        first, second = (said(text, target) for text in texts)
        return answer(json.dumps({"better": "B" if second > first else "A"}))
    (text,) = texts
    if prompt.startswith("Does this text talk about "):
        target = prompt.splitlines()[0].removeprefix("Does this text talk about ")[:-1]
        yes = said(text, target) > 0
        return _graded(sent, ["Yes" if yes else "No"], {"Yes": "No", "No": "Yes"})
    if prompt.startswith("Concept: "):
        rating = min(2, said(text, prompt.splitlines()[0].removeprefix("Concept: ")))
    elif prompt.startswith("Before:"):
        rating = 2
    else:
        words = text.split()
        rating = 0 if len(set(words)) * 3 <= len(words) else 2
    near = {"0": "1", "1": "2", "2": "1"}
    return _graded(sent, ['{"rating": ', str(rating), "}"], near)


def _graded(sent: Mapping[str, Any], tokens: list[str], others: Mapping[str, str]) -> Act:
    """An answer, with log-probabilities where they are asked for: 0.9 for what it says."""
    if not sent.get("logprobs"):
        return answer("".join(tokens))
    content = []
    for token in tokens:
        likely = {token: SURE} | ({others[token]: 1 - SURE} if token in others else {})
        top = [{"token": each, "logprob": math.log(p)} for each, p in likely.items()]
        content.append({"token": token, "logprob": math.log(SURE), "top_logprobs": top})
    return answer("".join(tokens), logprobs={"content": content})
