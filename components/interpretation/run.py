"""One run of the stage `interpret`: what all of its dictionaries share, and what is done with each
of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from components.capture.running import RunningActivations, opened
from components.device import Execution, resolve
from components.dictionary.contract import Dictionary
from components.errors import InputError, MissingArtifactError
from components.interpretation import interpreted, summary
from components.interpretation.asked import Clients, first_reader
from components.interpretation.config import InterpretConfig, able
from components.interpretation.contexts import SPLITS, choose, cut_splits
from components.interpretation.contract import (
    Explainer,
    Predictor,
    Scorer,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.controls import ControlName, shuffled
from components.interpretation.dictionary_contract import (
    DictionaryScorer,
    DictionaryScorerServices,
    DictionaryScores,
    dictionary_scorers,
)
from components.interpretation.evidence import CorpusLabels, gather
from components.interpretation.explanation import Explanation
from components.interpretation.gathered import Wanted, gather_codes
from components.interpretation.interpreted import Counted, Interpreted
from components.interpretation.key import OWN_JUDGE, Key
from components.interpretation.latent_contract import LatentScorer, latent_scorers
from components.interpretation.latent_summary import LatentScores
from components.interpretation.probe import NgramProbe
from components.interpretation.protocol import (
    Reading,
    draw,
    explain,
    order_of,
    score,
    score_in_blocks,
    score_probe,
    shown_to,
)
from components.interpretation.searched import Searched
from components.interpretation.services import ExplainerServices, PredictorServices
from components.interpretation.subject import Subject, sample_of
from components.interpretation.summary import Scored
from components.interpretation.trials import LatentScore
from components.interpretation.windows import Vocabulary
from components.model.reference import ModelReference
from components.model.text_encoder import TextEncoderReference
from components.seeds import numpy_generator
from components.spelling import whole
from components.store import tables
from components.store.artifact import Artifact
from components.store.lineage import inputs as inputs_of
from components.store.lineage import source
from components.store.shards import ActivationShards, CodeShards, is_stored
from components.store.stage import Inputs, Progress

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What all dictionaries of one run share.

    Attributes:
        config: the section `interpret`.
        execution: where to run.
        corpus: artifact of `read`.
        model: the model that is looked into; None where none was given.
        text_encoder: for entries that embed texts; None where none is listed.
        cut: the splits as windows.
        clients: who answers prompts.
        activations: that the codes of every dictionary are of.
        read: these and those of controls that look into another model, as far as they were opened.
    """

    config: InterpretConfig
    execution: Execution
    corpus: Artifact
    model: ModelReference | None
    text_encoder: TextEncoderReference | None
    cut: Mapping[str, Searched]
    clients: Clients
    activations: ActivationShards
    read: list[ActivationShards]

    @classmethod
    def of(cls, config: InterpretConfig, inputs: Inputs, execution: Execution) -> Run:
        """From the inputs of the stage.

        Raises:
            InputError: a read artifact without a vocabulary, a split that is not there or too short
                for a window.
        """
        activations = opened(inputs["activations"], execution, inputs.get("model"))
        corpus, codes = inputs["corpus"], inputs["codes"]
        _refuse_missing_splits(
            "activations", activations.splits, "capture.splits and encode.splits"
        )
        there = CodeShards(codes).splits if is_stored(codes) else [*codes.facts["rows"]]
        _refuse_missing_splits("codes", there, "encode.splits")
        cut = cut_splits(activations, _vocabulary(corpus), config.contexts, config.seed)
        return cls(
            config,
            execution,
            corpus,
            inputs.get("model"),
            inputs.get("text_encoder"),
            cut,
            Clients.of(config, execution),
            activations,
            [activations],
        )

    def codes(
        self, encoded: Mapping[ControlName | None, Artifact]
    ) -> Generator[Progress, None, dict[ControlName | None, CodeShards]]:
        """The codes of the dictionary and of its controls, by the control's name: from disk, or from
        the running model, over which those of the same activations go together."""
        if all(is_stored(each) for each in encoded.values()):
            return {name: CodeShards(each) for name, each in encoded.items()}
        together: dict[tuple[str, int], list[ControlName | None]] = {}
        for name, each in encoded.items():
            key = inputs_of(each.manifest)["activations"][1]
            together.setdefault((key, each.config["batch"]), []).append(name)
        found: dict[ControlName | None, CodeShards] = {}
        for (key, _), names in together.items():
            wanted = [self._wanted(encoded[name], name) for name in names]
            read = self.activations
            if key != read.artifact.key:
                captured = source(encoded[names[0]], "activations")
                assert captured is not None, "codes outlive the activations that they are of"
                read = opened(captured, self.execution, self.model)
                self.read.append(read)
            gathered = yield from gather_codes(wanted, read, self.cut, self._limit)
            found |= zip(names, gathered, strict=True)
            if isinstance(read, RunningActivations):
                read.release()  # entries load a model of their own, and two may not fit
        return {name: found[name] for name in encoded}

    def _wanted(self, encoded: Artifact, control: ControlName | None) -> Wanted:
        trained = source(encoded, "dictionary")
        if trained is None:
            raise InputError(
                f"the dictionary that encode/{encoded.key} is of is not in the store, and without "
                "stored codes it has to encode once more; bring it back (dvc pull), or set "
                "capture.from_model=false where codes are"
            )
        dictionary = Dictionary.load(trained, resolve(self.execution.device))
        return Wanted(encoded, dictionary, sample_of(encoded, self.config, control).latents)

    @property
    def _limit(self) -> int:
        """Tokens of each split whose codes are asked for."""
        config = self.config
        scorers_read = (
            getattr(getattr(config.dictionary_scorer_settings, name), "tokens", 0)
            for name in config.dictionary_scorers
        )
        return max(config.contexts.rows, *scorers_read, 0)

    def predictors(self) -> dict[str, Predictor]:
        """The listed predictors, by name."""
        config = self.config
        services = PredictorServices(
            self.execution,
            config.seed,
            self.text_encoder,
            self.clients.judge,
            self._explain_texts,
            self.model,
        )
        return {
            n: predictors[n](getattr(config.predictor_settings, n), services)
            for n in config.predictors
        }

    def explainers(self, predictor: Predictor | None, of_control: bool) -> dict[str, Explainer]:
        """The listed explainers, which may test what they write with this predictor.

        Of a control dictionary only those that it is to be compared with.
        """
        config = self.config
        services = ExplainerServices(
            self.execution,
            config.seed,
            self.text_encoder,
            self.clients.client,
            self._explain_texts,
            predictor,
            config.longest,
        )
        names = [
            name
            for name in config.explainers
            if not of_control or summary.beside_controls(explainers[name])
        ]
        if of_control and config.control_explainers == "first":
            names = names[:1]
        return {
            name: explainers[name](getattr(config.explainer_settings, name), services)
            for name in names
        }

    def _explain_texts(self) -> list[str]:
        """Every window of the explain split as text, for an encoder that is fitted on the corpus."""
        tiling = self.cut["explain"].tiling
        windows = tiling.texts(np.arange(len(tiling)))
        return [whole(each).strip() for each in windows.strings()]

    def services(self, subject: Subject) -> DictionaryScorerServices:
        """What scorers of any kind may use, for these latents."""
        return DictionaryScorerServices(
            self.execution,
            self.config.seed,
            text_encoder=self.text_encoder,
            client=self.clients.judge,
            texts=self._explain_texts,
            model=self.model,
            trained=subject.dictionary,
            explain=self.cut["explain"].tiling,
            activations=self.activations,
            codes=subject.codes,
        )

    def scorers(self, services: DictionaryScorerServices) -> dict[str, Scorer]:
        """The listed scorers of explanations."""
        config = self.config
        return {n: scorers[n](getattr(config.scorer_settings, n), services) for n in config.scorers}

    def latent_scorers(self, services: DictionaryScorerServices) -> list[LatentScorer]:
        """The listed scorers of latents."""
        config = self.config
        return [
            latent_scorers[n](getattr(config.latent_scorer_settings, n), services)
            for n in config.latent_scorers
        ]

    def dictionary_scorers(self, services: DictionaryScorerServices) -> list[DictionaryScorer]:
        """The listed scorers of dictionaries."""
        config = self.config
        return [
            dictionary_scorers[n](getattr(config.dictionary_scorer_settings, n), services)
            for n in config.dictionary_scorers
        ]


def interpret_latents(
    run: Run, subject: Subject, folder: Path | None
) -> Generator[Progress, None, Interpreted]:
    """Explains and scores the latents of one dictionary, or of directions in its place.

    Args:
        run: what all of them share.
        subject: whose latents; of controls none has a probe.
        folder: where its windows are written; None where they are not wanted.
    """
    config, seed, control, mark = run.config, run.config.seed, subject.control, subject.mark
    statistics, sample = subject.statistics, subject.sample
    chosen = yield from _marked(mark, choose(subject.codes, run.cut, sample, seed))
    records = list(chosen.records())
    if folder is not None:
        tables.CONTEXTS.write(folder, interpreted.context_rows(records))
        tables.COOCCURRING.write(folder, chosen.neighbours.rows())

    readers = run.predictors()
    labels = CorpusLabels.found(run.corpus, "explain")
    written: dict[str, list[Explanation]] = {}
    first = first_reader(config)
    tests = readers[first] if first else None
    for name, explainer in run.explainers(tests, bool(control)).items():
        order = order_of(records, explainer.asks, seed)
        asked = [records[number] for number in order]
        evidence = gather(asked, statistics, labels)
        said = yield from _marked(mark, explain(name, explainer, asked, evidence))
        by_number = dict(zip(order, said, strict=True))
        written[name] = [by_number[number] for number in range(len(records))]
    read: dict[tuple[str, str], Sequence[Explanation]]
    read = {(explainers[name].role, name): each for name, each in written.items()}
    for name, explanations in written.items():
        read["floor", name] = shuffled(
            records, explanations, numpy_generator(seed, "shuffled", name), subject.relatives
        )

    probes = [None if record.reason or control else NgramProbe.fit(record) for record in records]
    services = run.services(subject)
    of_latents: list[LatentScores] = []
    for latent_scorer in run.latent_scorers(services):
        of_latents.append((yield from _marked(mark, LatentScores.of(latent_scorer, records))))
    of_dictionary: list[DictionaryScores] = []
    for of_all in run.dictionary_scorers(services):
        of_dictionary.append(
            (yield from _marked(mark, DictionaryScores.of(of_all, records, written)))
        )
    scored: dict[Key, list[LatentScore]] = {}
    absent: dict[str, str] = {}
    asking: list[tuple[Mapping[str, Key], Reading]] = []
    for scorer_name, scorer in run.scorers(services).items():
        if reason := scorer.obstacle():
            absent[scorer_name] = reason
            continue
        yield from _marked(mark, scorer.prepare(records))
        trials = draw(scorer, records, seed)
        for predictor_name in able(config, scorer_name):
            predictor, keys = readers[predictor_name], dict[str, Key]()
            shown = {key: shown_to(predictor, records, each, seed) for key, each in read.items()}
            for role, name in read:
                own = role == "entry" and explainers[name].tests_itself and predictor_name == first
                key = Key(OWN_JUDGE if own else role, name, scorer_name, predictor_name)
                keys[_floor(name, config) if role == "floor" else name] = key
            if predictor.asks:
                scored |= {key: [] for key in keys.values()}  # their place among the rows
                # each floor directly behind its entry
                texts = {
                    called: shown[role, name]
                    for name in written
                    for called, role in (
                        (name, explainers[name].role),
                        (_floor(name, config), "floor"),
                    )
                }
                asking.append((keys, Reading(scorer, predictor, trials, texts)))
                continue
            for (called, key), explanations in zip(keys.items(), shown.values(), strict=True):
                work = score(called, records, trials, explanations, scorer, predictor, seed)
                scored[key] = yield from _marked(mark, work)
        if not control:
            work = score_probe(records, trials, probes, scorer, seed)
            scored[Key("ceiling", None, scorer_name, None)] = yield from work
    work = score_in_blocks([reading for _, reading in asking], records, seed)
    answered = yield from _marked(mark, work)
    for (keys, _), scores in zip(asking, answered, strict=True):
        scored |= {key: scores[called] for called, key in keys.items()}
    counted = Counted.of(records, config.contexts)
    beside = (of_latents, of_dictionary, absent)
    return Interpreted(sample, written, read, _scored(scored, config), counted, *beside)


def _marked(mark: str, work: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
    """The same work; its messages say for which control."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            return end.value
        yield dataclasses.replace(progress, message=mark + progress.message)


def _scored(scores: Mapping[Key, Sequence[LatentScore]], config: InterpretConfig) -> Scored:
    return Scored(
        scores,
        first=(config.explainers[0], {name: able(config, name)[0] for name in config.scorers}),
        scorers={name: scorers[name] for name in config.scorers},
    )


def _floor(explainer: str, config: InterpretConfig) -> str:
    """What the floor of an explainer is called in messages and in the names of draws."""
    return "shuffled" if explainer == config.explainers[0] else f"shuffled.{explainer}"


def _refuse_missing_splits(what: str, there: Sequence[str], setting: str) -> None:
    missing = [split for split in SPLITS if split not in there]
    if missing:
        raise InputError(
            f"interpret reads the splits {', '.join(SPLITS)}, and the {what} hold no "
            f"{', '.join(missing)}; add to {setting}"
        )


def _vocabulary(corpus: Artifact) -> Vocabulary:
    try:
        texts = dict(tables.VOCABULARY.read(corpus).iter_rows())
    except MissingArtifactError as error:
        raise InputError(
            f"interpret shows tokens as text and needs the vocabulary of the corpus; {error}"
        ) from error
    return Vocabulary([texts.get(token, "") for token in range(max(texts, default=-1) + 1)])
