"""What a live question is answered with: the artifacts of an experiment, its model and its
dictionary, loaded once."""

from __future__ import annotations

import dataclasses
import gc
import time
from typing import TYPE_CHECKING, Any

from components.errors import MissingArtifactError
from components.export.contract import Findings
from components.live import Map, Meaning, Read, SteeredAnswer
from components.store.artifact import Artifact, Store
from components.store.lineage import inputs
from flows.live import answers, mapping
from flows.live.meaning import Meanings
from flows.live.queue import Queue, Ticket
from flows.stack import environment

if TYPE_CHECKING:
    from components.device import Execution
    from components.dictionary.contract import Dictionary
    from components.model.language_model import LanguageModel
    from components.model.reference import ModelConfig
    from components.steering.conversation import Conversation
    from components.steering.neutral import Neutral


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
        """From the key of a report, or of a trained dictionary (then with its newest steer
        artifact)."""
        report = store.find("report", key) if key.isalnum() else None
        if report is not None:
            places = dict(inputs(report.manifest).values())
            if missing := [stage for stage in ("train", "encode") if stage not in places]:
                raise MissingArtifactError(
                    f"report {key} names no {missing[0]} artifact; `latentflow report` makes one"
                )
            train, encode = (store.get(stage, places[stage]) for stage in ("train", "encode"))
            steer = store.find("steer", places["steer"]) if "steer" in places else None
            captured = inputs(encode.manifest).get("activations")
        else:
            trained = store.find("train", key) if key.isalnum() else None
            if trained is None:
                raise MissingArtifactError(
                    f"neither report nor train artifact {_plain(key)} in {store.root}; "
                    "`latentflow experiment` makes both"
                )
            train = trained
            steered = [
                each
                for each in store.artifacts("steer")
                if inputs(each.manifest)["dictionary"][1] == key
            ]
            steer = max(steered, key=lambda artifact: artifact.age, default=None)
            captured = inputs((steer or train).manifest).get("activations")
        if captured is None:
            raise MissingArtifactError(
                f"dictionary train/{key} names no activations, so no model to read a text with"
            )
        capture = store.get(*captured)
        places = inputs(capture.manifest)
        if "corpus" not in places or "model" not in places:
            raise MissingArtifactError(
                f"activations capture/{capture.key} were brought along: no model to read a text "
                "with"
            )
        return cls(train, capture, store.get(*places["corpus"]), steer)


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A model and a dictionary, loaded, with what belongs to them."""

    sources: Sources
    model: LanguageModel
    model_key: str
    dictionary: Dictionary
    vocabulary: list[str]
    neutral: Neutral | None
    conversation: Conversation | None

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
        self.meanings = Meanings()
        self.queue = Queue(self._answer, **limits)

    def sources(self, key: str) -> Sources:
        """The artifacts of an experiment."""
        return Sources.of(self.store, key)

    def trained(self, key: str) -> Artifact:
        """The dictionary of a report, or of its own key.

        Raises:
            MissingArtifactError: neither is there.
        """
        train = self.store.find("train", key) if key.isalnum() else None
        return train or Findings.of(self.store, key).artifacts["train"]

    def _answer(self, ticket: Ticket) -> Read | SteeredAnswer | Meaning | Map:
        started = time.monotonic()
        if ticket.kind == "meaning":
            findings = Findings.of(self.store, ticket.asked.experiment)
            return self.meanings.answer(findings.artifacts["interpret"], ticket, started)
        if ticket.kind == "map":
            train = self.trained(ticket.asked.experiment)
            return mapping.answer(self.store, train, ticket, started)
        bench = self._load(ticket, self.sources(ticket.asked.experiment))
        with bench.model.watched(ticket.step):
            answer = answers.read if ticket.kind == "read" else answers.steer
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
        from components.model.reference import ModelConfig, locate
        from components.steering.neutral import Neutral
        from components.store.tables import VOCABULARY

        _, key = inputs(sources.capture.manifest)["model"]
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
        conversation = conversation_of(sources.steer, model)
        self.bench = Bench(sources, model, key, dictionary, vocabulary, neutral, conversation)
        return self.bench


def _machine() -> tuple[ModelConfig, Execution]:
    """Which model, and on which device, by params.yaml; the other sections would import every
    stage."""
    from components.config import load
    from components.device import Execution
    from components.model.reference import ModelConfig

    nested = environment.written()
    return load(ModelConfig, nested.get("model", {})), load(Execution, nested.get("execution", {}))


def _neutral_size(steer: Artifact | None) -> tuple[int, int]:
    """Tokens of neutral text and their number in each context: those of the stage, else its
    defaults."""
    if steer is not None:
        return steer.config["neutral_tokens"], steer.config["neutral_length"]
    from components.config import load
    from components.steering.config import SteerConfig

    usual = load(SteerConfig, {})
    return usual.neutral_tokens, usual.neutral_length


def conversation_of(steer: Artifact | None, model: LanguageModel) -> Conversation | None:
    """What the stage put its prompts into; None where they stood by themselves, or it did not
    run."""
    if steer is None:
        return None
    from components.config import load
    from components.steering.conversation import ChatConfig

    return load(ChatConfig, steer.config.get("chat", {})).conversation(model)


def _plain(text: str) -> str:
    return "".join(letter for letter in text[:40] if letter.isalnum()) or "of that name"
