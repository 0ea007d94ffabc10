"""A whole small subject of evaluation from real parts: a tiny language model, its text,
activations, dictionaries, codes.

Every split has `N_CONTEXTS` contexts `[bos] document [eos] document [eos] pad pad`, sampled from
the model itself, so that its cross-entropy is low and ablations raise it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from components.device import Execution
from components.dictionary.architectures.relu import Relu, ReluConfig
from components.dictionary.contract import Dictionary
from components.evaluation.contract import Control, Evaluation, EvaluationServices, Score, Subject
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.report.names import name_of
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.shards import ActivationShards, Codes, CodeShards, write_codes
from components.store.stage import Progress
from tests import toys

HOOK_POINT = "resid_post.1"
SPLITS = ("select", "validate", "test")
N_CONTEXTS, LENGTHS, LENGTH = 6, (9, 5), 19
D_IN = 16


class Held(ModelReference):
    """A reference to a model in memory; the tiny one where none is given."""

    def __init__(self, model: LanguageModel | None = None) -> None:
        super().__init__(ModelConfig())
        self._model = model

    def load(self, settings: Execution | None = None) -> LanguageModel:
        return self._model or toys.tiny_model()


def services(model: LanguageModel | None = None) -> EvaluationServices:
    """What evaluations are made with here."""
    return EvaluationServices(Execution(device="cpu"), 0, Held(model))


def contexts(model: LanguageModel, split: int, n: int = N_CONTEXTS) -> dict[str, Tensor]:
    """Token, document and position grids; documents are numbered on from 1000 x split."""
    generator = torch.Generator().manual_seed(split)
    token = torch.zeros(n, LENGTH, dtype=torch.long)
    document, position = torch.full_like(token, -1), torch.full_like(token, -1)
    token[:, 0] = 1
    at = 1
    for number, length in enumerate(LENGTHS):
        for offset in range(length):
            logits = 3 * model.logits(token[:, :at])[:, -1]
            token[:, at] = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            document[:, at] = 1000 * split + 2 * torch.arange(n) + number
            position[:, at] = offset
            at += 1
        token[:, at] = 2
        at += 1
    return {"token": token.int(), "document": document.int(), "position": position.int()}


def corpus(
    store: Store,
    grids: Mapping[str, Mapping[str, Tensor]],
    concepts: Sequence[tuple[str, str, str]] = (),
    labels: Mapping[str, Callable[[str, Tensor, Tensor], Tensor]] | None = None,
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> Artifact:
    """An artifact of read. `concepts` are (name, kind, unit); `labels[name](split, token,
    document)` marks the grid; `texts` are those of the tokens, the tiny model's words where none
    are given."""

    def write(folder: Path) -> None:
        (folder / "contexts").mkdir(exist_ok=True)
        documents, rows = [], []
        for split, grid in grids.items():
            save_file(dict(grid), folder / "contexts" / f"{split}.safetensors")
            inside = grid["document"] >= 0
            numbers = grid["document"][inside].unique().tolist()
            documents += [{"document": number, "split": split, "text": ""} for number in numbers]
            for name, _, unit in concepts:
                marked = (labels or {})[name](split, grid["token"], grid["document"]) & inside
                pairs = zip(
                    grid["document"][marked].tolist(),
                    grid["position"][marked].tolist(),
                    strict=True,
                )
                found = {(number, None if unit == "document" else place) for number, place in pairs}
                rows += [
                    {"concept": name, "document": d, "token": p, "value": 1.0} for d, p in found
                ]
        tables.DOCUMENTS.write(folder, documents)
        tables.LABELS.write(folder, rows)
        tables.VOCABULARY.write(
            folder,
            [
                {"token": i, "text": text}
                for i, text in enumerate(texts or [f" {word}" for word in toys.WORDS])
            ],
        )
        tables.CONCEPTS.write(
            folder,
            [
                dict(zip(("concept", "concept_kind", "unit"), entry, strict=True))
                for entry in concepts
            ],
        )

    return toys.artifact(store, "read", write, {"context_length": LENGTH}, seed)


def capture(
    store: Store,
    grids: Mapping[str, Mapping[str, Tensor]],
    x: Mapping[str, Tensor],
    seed: int = 0,
    hook_point: str = HOOK_POINT,
) -> Artifact:
    """An artifact of capture: x[split] holds one row for each token of a document."""
    provenance = {}
    for split, grid in grids.items():
        inside = grid["document"] >= 0
        place = inside.nonzero()
        provenance[split] = {name: column[inside] for name, column in grid.items()}
        provenance[split] |= {"context": place[:, 0], "offset": place[:, 1]}
    return toys.activations(
        store,
        {split: {hook_point: rows} for split, rows in x.items()},
        provenance,
        rows_per_shard=31,
        seed=seed,
    )


def codes(store: Store, by_split: Mapping[str, Codes], seed: int = 0) -> CodeShards:
    """An artifact of encode, two shards a split."""

    def write(folder: Path) -> None:
        for split, found in by_split.items():
            half = found.n_rows // 2
            write_codes(folder, split, 0, found.rows(0, half))
            write_codes(folder, split, 1, found.rows(half, found.n_rows))

    d_sae = next(iter(by_split.values())).d_sae
    return CodeShards(toys.artifact(store, "encode", write, {"d_sae": d_sae}, seed))


def linear(kept: Tensor, bias: Tensor | None = None, hook_point: str = HOOK_POINT) -> Relu:
    """A ReLU dictionary that reconstructs `kept * (x - bias) + bias` exactly: a latent for each
    sign of a coordinate."""
    d_in = len(kept)
    dictionary = Relu(ReluConfig(d_sae=2 * d_in), (hook_point,), (hook_point,), {hook_point: d_in})
    both = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    with torch.no_grad():
        dictionary.W_enc.copy_(both * kept)
        dictionary.W_dec.copy_(both)
        dictionary.b_dec.copy_(torch.zeros(d_in) if bias is None else bias)
    return dictionary


def subject(
    store: Store,
    folder: Path,
    dictionary: Dictionary,
    *,
    grids: Mapping[str, Mapping[str, Tensor]],
    x: Mapping[str, Tensor],
    found: Mapping[str, Codes] | None = None,
    untrained: tuple[Dictionary | None, Mapping[str, Codes]] | None = None,
    concepts: Sequence[tuple[str, str, str]] = (),
    labels: Mapping[str, Any] | None = None,
    seed: int = 0,
    hook_point: str = HOOK_POINT,
    texts: Sequence[str] | None = None,
) -> Subject:
    """The subject; codes are those of the dictionary unless they are given."""
    found = found or {split: dictionary.encode(rows) for split, rows in x.items()}
    control = untrained and Control(codes(store, untrained[1], 2 * seed + 1), untrained[0])
    return Subject(
        name="toy",
        n_seeds=1,
        dictionary=dictionary,
        codes=codes(store, found, 2 * seed),
        activations=ActivationShards(capture(store, grids, x, seed, hook_point)),
        read=corpus(store, grids, concepts, labels, seed, texts),
        untrained=control or None,
        folder=folder,
    )


def of_model(store: Store, folder: Path, dictionary: Dictionary, **kwargs: Any) -> Subject:
    """A subject whose activations are those of the tiny model on its own text."""
    model = kwargs.pop("model", None) or toys.tiny_model()
    grids = {split: contexts(model, number) for number, split in enumerate(SPLITS)}
    x = {split: kept(model, grid) for split, grid in grids.items()}
    return subject(store, folder, dictionary, grids=grids, x=x, **kwargs)


def kept(model: LanguageModel, grid: Mapping[str, Tensor]) -> Tensor:
    """Activations at the tokens of documents, as a capture keeps them."""
    return model.read(grid["token"].long(), [HOOK_POINT])[HOOK_POINT][grid["document"] >= 0]


def plain(n_documents: int, length: int) -> dict[str, Tensor]:
    """A grid of one document a context, without special tokens."""
    document = torch.arange(n_documents)[:, None].expand(-1, length)
    position = torch.arange(length)[None].expand(n_documents, -1)
    return {
        "token": (position % 7).int().clone(),
        "document": document.int().clone(),
        "position": position.int().clone(),
    }


def measure(
    evaluation: Evaluation, given: Subject
) -> tuple[dict[tuple[str, str | None], Score], list[Progress]]:
    """Scores by (name without the stage, concept kind), and what was reported on the way."""
    work, reported = evaluation.measure(given), []
    while True:
        try:
            reported.append(next(work))
        except StopIteration as end:
            named = [(dotted(score), score.concept_kind) for score in end.value]
            rows = zip(named, end.value, strict=True)
            assert len({(*name, score.hook_point) for name, score in rows}) == len(end.value)
            return dict(zip(named, end.value, strict=True)), reported


def dotted(score: Score) -> str:
    """A score's name, without the stage's."""
    row = {"stage": "evaluate", "entry": None, "concept": None}
    return name_of(
        row | {part: getattr(score, part) for part in ("measure", "subject", "k")}
    ).removeprefix("evaluate.")
