"""Windows written by hand: text and activations, one window for each line; and what entries are
made with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import numpy as np

from components.client.client import Client
from components.client.contract import Reply, Request, Response, Usage
from components.client.reading import read
from components.device import Execution
from components.interpretation.contract import LatentRecord, Scorer
from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.services import ExplainerServices, PredictorServices, ScorerServices
from components.interpretation.trials import Trials
from components.interpretation.windows import Texts, Vocabulary, Windows
from components.model.text_encoder import TextEncoderConfig, TextEncoderReference


def texts_of(lines: Sequence[str], vocabulary: Vocabulary | None = None) -> Texts:
    """Space-separated words as windows, padded to the longest."""
    rows = [line.split() for line in lines]
    vocabulary = vocabulary or Vocabulary(sorted({word for row in rows for word in row}))
    ids = {text: number for number, text in enumerate(vocabulary.texts)}
    tokens = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = [ids[word] for word in row]
    return Texts(tokens, vocabulary)


def windows_of(lines: Sequence[str], activations: Sequence[Sequence[float]]) -> Windows:
    """Windows with these activations; a window without any is silent. Each is of its own
    document."""
    texts = texts_of(lines)
    values = np.zeros(texts.tokens.shape, np.float32)
    for number, row in enumerate(activations):
        values[number, : len(row)] = row
    active = values.any(1)
    role = np.where(active, "quantile", "silent")
    number = np.arange(len(lines))
    stratum = np.where(active, "", "random")
    where = (number, np.zeros_like(number))
    return Windows(
        texts, values, *where, role, np.where(active, 0, -1), stratum, np.ones(len(lines))
    )


class Scripted(Client):
    """A client that answers by a rule, on the spot: the prompt in, the answer out."""

    def __init__(self, rule: Callable[[Request], str]) -> None:
        self.rule, self.asked = rule, []

    def refuse_too_long(self, requests: Sequence[Request], asker: str) -> None:
        """It reads prompts of any length."""

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += requests
        usage = Usage()
        return [read(request, Response(self.rule(request), usage, "toy")) for request in requests]


def first_marked(request: Request) -> str:
    """Explains by the first active word of the prompt; reads an explanation by its first quoted
    word."""
    prompt = request.messages[-1].text
    if description := re.match(r"Description: (.*)", prompt):
        lines = re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE)
        quoted = re.search('"(.*?)"', description[1])
        return json.dumps({"answers": [int(bool(quoted) and quoted[1] in line) for line in lines]})
    marked = re.search("<<(.*?)>>", prompt) or re.search(r"^(\S+)\t[1-9]", prompt, re.MULTILINE)
    return f'the word "{marked[1] if marked else "none"}"'


CPU = Execution(device="cpu")
ENCODER = TextEncoderReference(TextEncoderConfig())
"""Looked for when it is first used."""
PREDICTOR = PredictorServices(CPU, 0, ENCODER, Scripted(first_marked))
EXPLAINER = ExplainerServices(
    CPU, 0, ENCODER, Scripted(first_marked), tuple, Lexical(LexicalConfig(), PREDICTOR)
)
SCORER = ScorerServices(CPU, 0)


def trials_of(scorer: Scorer, windows: Windows) -> Trials:
    """What the scorer asks of a latent with these windows in its test split."""
    return scorer.trials(
        LatentRecord(0, 0.1, 0, windows, windows, windows), np.random.default_rng(0)
    )
