"""What a setting of an explainer is worth, asked of the calibrate split: test windows choose
nothing.

    python benchmarks/explainer_setting.py STORE INTERPRET_KEY logistic probability 0.05 0.1 0.2

Latents and windows are those of that artifact of `interpret`; for each value the explainer writes
from the explain windows, and the predictor `lexical` answers trials that are drawn from the
calibrate windows as they are from the test windows elsewhere. Prints the mean over latents of each
scorer, with 95% intervals, and how many latents got an explanation.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Generator
from typing import Any

import numpy as np

from components.config import load, override
from components.device import Execution
from components.interpretation.config import InterpretConfig
from components.interpretation.contexts import choose
from components.interpretation.contract import explainers, predictors, scorers
from components.interpretation.evidence import gather
from components.interpretation.protocol import draw, explain, score
from components.interpretation.run import Run
from components.interpretation.services import ExplainerServices, PredictorServices, ScorerServices
from components.interpretation.subject import Subject
from components.statistics import t_interval
from components.store.artifact import Store
from components.store.lineage import source
from components.store.shards import CodeShards


def finished(work: Generator[Any, None, Any]) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def main(store: str, key: str, explainer: str, setting: str, *values: str) -> None:
    made = Store(store).get("interpret", key)
    config = load(InterpretConfig, made.config)
    encoded, activations = source(made, "codes"), source(made, "activations")
    corpus = source(made, "corpus")
    assert encoded and activations and corpus, "its inputs lie in the same store"
    subject = Subject.of_codes(CodeShards(encoded), config)
    execution = Execution(device="cpu")
    inputs = {"corpus": corpus, "activations": activations, "codes": encoded}
    run = Run.of(config, inputs, execution)
    records = list(finished(choose(subject.codes, run.cut, subject.sample, config.seed)).records())
    # neither the test windows nor the pool, which is of the test split
    asked = [dataclasses.replace(each, test=each.calibrate, pool=None) for each in records]
    reader = predictors["lexical"](
        config.predictor_settings.lexical, PredictorServices(execution, config.seed)
    )
    names = ("detection", "fuzzing", "simulation")
    services = ScorerServices(execution, config.seed)
    measuring = {n: scorers[n](getattr(config.scorer_settings, n), services) for n in names}
    trials = {name: draw(scorer, asked, config.seed) for name, scorer in measuring.items()}
    print(f"| `{setting}` | explained | {' | '.join(names)} |")
    print("|---|---|" + "---|" * len(names))
    for value in values:
        settings = override(getattr(config.explainer_settings, explainer), {setting: float(value)})
        writer = explainers[explainer](
            settings,
            ExplainerServices(execution, config.seed, predictor=reader, longest=config.longest),
        )
        evidence = gather(records, subject.statistics, None)
        written = finished(explain(explainer, writer, records, evidence))
        cells = [value, f"{sum(each.text is not None for each in written)} of {len(written)}"]
        for name, scorer in measuring.items():
            work = score(explainer, asked, trials[name], written, scorer, reader, config.seed)
            values_there = [each.value for each in finished(work) if each.value is not None]
            mean = t_interval(np.array(values_there))
            cells.append(f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
