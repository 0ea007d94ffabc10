"""One run of the stage `interpret`: what all of its dictionaries share, and what is done with each
of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from components.device import Execution
from components.interpretation import interpreted, summary
from components.interpretation.asked import Clients, first_reader
from components.interpretation.config import InterpretConfig, able
from components.interpretation.contexts import choose
from components.interpretation.contract import (
    Explainer,
    ExplainerServices,
    Explanation,
    LatentScore,
    Predictor,
    PredictorServices,
    Scorer,
    ScorerServices,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.controls import CONTROLS, shuffled
from components.interpretation.evidence import CorpusLabels, gather
from components.interpretation.interpreted import Interpreted, windows_of
from components.interpretation.probe import NgramProbe
from components.interpretation.protocol import draw, explain, order_of, score, score_probe
from components.interpretation.sample import sample_latents
from components.interpretation.summary import OWN_JUDGE, Key, Scored
from components.interpretation.tiling import Tiling
from components.interpretation.windows import Texts
from components.model.reference import ModelReference
from components.model.text_encoder import TextEncoderReference
from components.seeds import numpy_generator
from components.spelling import whole
from components.store import tables
from components.store.artifact import Artifact
from components.store.lineage import source
from components.store.shards import CodeShards
from components.store.stage import Progress

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
    """

    config: InterpretConfig
    execution: Execution
    corpus: Artifact
    model: ModelReference | None
    text_encoder: TextEncoderReference | None
    cut: Mapping[str, Tiling]
    clients: Clients

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
        return {
            name: explainers[name](getattr(config.explainer_settings, name), services)
            for name in names
        }

    def _explain_texts(self) -> list[str]:
        """Every window of the explain split as text, for an encoder that is fitted on the corpus."""
        cut = self.cut["explain"]
        tokens = cut.rows(np.arange(len(cut.first)), cut.token)
        return [whole(each).strip() for each in Texts(tokens, cut.vocabulary).strings()]

    def scorers(self, codes: Artifact) -> dict[str, Scorer]:
        """The listed scorers, for the dictionary that made these codes."""
        config = self.config
        services = ScorerServices(
            self.execution, config.seed, self.model, source(codes, "dictionary")
        )
        return {n: scorers[n](getattr(config.scorer_settings, n), services) for n in config.scorers}


def interpret_dictionary(
    run: Run, control: str, encoded: Artifact, folder: Path | None
) -> Generator[Progress, None, Interpreted]:
    """Explains and scores the latents of one dictionary.

    Args:
        run: what all dictionaries share.
        control: which control it is; "" for the dictionary itself, which alone has a probe.
        encoded: its codes.
        folder: where its windows are written; None where they are not wanted.
    """
    config, seed = run.config, run.config.seed
    mark = f"{CONTROLS[control]}: " if control else ""
    codes, statistics = CodeShards(encoded), tables.LATENTS.read(encoded)
    sample = sample_latents(statistics, codes.d_sae, config.latents, seed)
    records = yield from _marked(mark, choose(codes, run.cut, sample, seed))
    if folder is not None:
        tables.CONTEXTS.write(folder, interpreted.context_rows(records))

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
        written[name] = [said[order.index(number)] for number in range(len(records))]
    read: dict[tuple[str, str], Sequence[Explanation]]
    read = {(explainers[name].role, name): each for name, each in written.items()}
    for name, explanations in written.items():
        read["floor", name] = shuffled(
            records, explanations, numpy_generator(seed, "shuffled", name)
        )

    probes = [None if record.reason or control else NgramProbe.fit(record) for record in records]
    scored: dict[Key, list[LatentScore]] = {}
    for scorer_name, scorer in run.scorers(encoded).items():
        trials = draw(scorer, records, seed)
        for predictor_name in able(config, scorer_name):
            predictor = readers[predictor_name]
            for (role, name), explanations in read.items():
                called = _floor(name, config) if role == "floor" else name
                work = score(called, records, trials, explanations, scorer, predictor, seed)
                own = role == "entry" and explainers[name].tests_itself and predictor_name == first
                key = Key(OWN_JUDGE if own else role, name, scorer_name, predictor_name)
                scored[key] = yield from _marked(mark, work)
        if not control:
            work = score_probe(records, trials, probes, scorer, seed)
            scored[Key("ceiling", None, scorer_name, None)] = yield from work
    n_skipped = sum(record.reason is not None for record in records)
    n_windows = sum(len(windows) for record in records for windows in windows_of(record))
    return Interpreted(sample, written, read, _scored(scored, config), n_skipped, n_windows)


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
