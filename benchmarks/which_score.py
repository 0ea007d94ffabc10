"""docs/which-score.md: which score of an explanation may be trusted, and what it says of latents.

    python benchmarks/which_score.py [--world params.yaml] [--real examples/stories.yaml]
    [--latents 300] [--planted 120] [--matched 120] [section.field=value ...]

Makes both experiments where they are not made yet (every offline explainer, score and predictor;
controls with one explainer), asks every score the questions of components/interpretation/worth.py,
and writes the page, and `components/report/worth.json`, by which pages show grey what is not worth
ranking with. No number in either is typed by hand. Long: minutes for what is cached, most of an
hour for what is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import polars as pl  # noqa: E402

from benchmarks.truth_subjects import Followed, finished, matched, planted  # noqa: E402
from benchmarks.which_score_page import Measured, Rows, document, lacking  # noqa: E402
from components.interpretation import protocol, worth  # noqa: E402
from components.interpretation.config import able  # noqa: E402
from components.interpretation.contexts import choose  # noqa: E402
from components.interpretation.contract import Explanation  # noqa: E402
from components.interpretation.run import Run  # noqa: E402
from components.interpretation.subject import Subject  # noqa: E402
from components.report import worth as worth_of_scores  # noqa: E402
from components.store import tables  # noqa: E402
from components.store.artifact import Artifact  # noqa: E402
from components.store.shards import CodeShards  # noqa: E402
from flows.chain import Chain  # noqa: E402
from flows.parameters import resolve  # noqa: E402

TO = REPOSITORY / "docs" / "which-score.md"
DOUBTS = REPOSITORY / "components" / "report" / worth_of_scores.FILE
OFFLINE = {
    "interpret.explainers": ["log_odds", "logistic", "logit_lens", "concept_match", "token_lookup", "constant"],
    "interpret.scorers": ["detection", "fuzzing", "simulation", "intervention"],
    "interpret.predictors": ["lexical", "text_encoder"],
    "interpret.latent_scorers": ["input_score", "output_score", "intruder"],
    "interpret.controls": ["untrained", "random", "neurons", "randomised"],
    "interpret.control_latents": 100,
    "interpret.control_explainers": "first",
}  # fmt: skip


def main() -> None:
    """Measures both experiments and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", type=Path, default=REPOSITORY / "params.yaml")
    parser.add_argument("--real", type=Path, default=REPOSITORY / "examples" / "stories.yaml")
    parser.add_argument("--latents", type=int, default=300)
    parser.add_argument("--planted", type=int, default=120)
    parser.add_argument("--matched", type=int, default=120)
    parser.add_argument("--to", type=Path, default=TO)
    parser.add_argument("--doubts", type=Path, default=DOUBTS)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    measured = [
        measure(path, arguments, has_truth)
        for path, has_truth in ((arguments.world, True), (arguments.real, False))
    ]
    arguments.to.write_text("\n".join(document(*measured)) + "\n", encoding="utf-8")
    doubts = json.dumps(lacking(*measured), indent=1, sort_keys=True)
    arguments.doubts.write_text(doubts + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {arguments.to} and {arguments.doubts}\n")


def measure(path: Path, arguments: argparse.Namespace, has_truth: bool) -> Measured:
    """Everything that is asked of one experiment."""
    started = time.monotonic()
    settings = [f"{name}={_written(value)}" for name, value in OFFLINE.items()]
    config = resolve(
        [*settings, f"interpret.latents={arguments.latents}", *arguments.overrides], path
    )
    with Chain(config, plain=True) as chain:
        interpret = chain.artifact("interpret")
        section = config.interpret
        inputs = chain.inputs("interpret", section)
        run = Run.of(section, inputs, config.execution)
        subjects: dict[str, list[Followed]] = {}
        if has_truth:
            subjects = {
                "planted": planted(
                    chain.store, run, inputs["activations"], arguments.planted, section.seed
                ),
                "matched": matched(
                    run,
                    inputs["codes"],
                    chain.artifact("evaluate"),
                    arguments.matched,
                    section.seed,
                ),
            }
        trained = Subject.of_codes(CodeShards(inputs["codes"]), section)
        discrimination, between = _truth(run, trained, subjects)
        reliability = _reliability(run, trained, interpret)
    return Measured(
        config.name, interpret, discrimination, reliability, between, time.monotonic() - started
    )


def _truth(
    run: Run, trained: Subject, subjects: Mapping[str, Sequence[Followed]]
) -> tuple[Rows, Rows]:
    """Discrimination within latents, and agreement with truth between latents, of each score."""
    discrimination: Rows = []
    between: Rows = []
    readers, seed = run.predictors(), run.config.seed
    for name, several in subjects.items():
        records = [subject.record for subject in several]
        # a concept is no direction of the dictionary: nothing can be steered along it
        whose = trained if name == "matched" else dataclasses.replace(trained, dictionary=None)
        for scorer_name, scorer in run.scorers(run.services(whose)).items():
            if scorer.obstacle() or not records:
                continue
            finished(scorer.prepare(records))
            for predictor_name in able(run.config, scorer_name):
                _say(f"{name}: {scorer_name} by {predictor_name}, {len(records)} latents")
                work = worth.score_strings(
                    records, [s.texts for s in several], scorer, readers[predictor_name], seed
                )
                scores = finished(work)
                key = {"subjects": name, "scorer": scorer_name, "predictor": predictor_name}
                for kind in ("all", *sorted({s.concept.concept_kind for s in several})):
                    part = [
                        (of, s.concept.family)
                        for of, s in zip(scores, several, strict=True)
                        if s.follows and kind in ("all", s.concept.concept_kind)
                    ]
                    told = worth.discrimination([of for of, _ in part], [f for _, f in part])
                    discrimination.append(key | {"concept_kind": kind, "told": told})
                quality = [subject.quality for subject in several]
                right = [of.get("right") for of in scores]
                density = [subject.record.density for subject in several]
                if name == "matched":
                    agreement = worth.agreement(right, quality)
                    partial = worth.partial_agreement(right, quality, density)
                    between.append(key | {"agreement": agreement, "partial": partial})
    return discrimination, between


def _reliability(run: Run, trained: Subject, interpret: Artifact) -> Rows:
    """Agreement over latents between two draws of test windows (or of continuations), of the same
    explanations."""
    explainer = run.config.explainers[0]
    texts = {
        row["latent"]: Explanation(row["explanation"], row["reason"])
        for row in tables.EXPLANATIONS.read(interpret)
        .filter(pl.col("explainer") == explainer)
        .iter_rows(named=True)
    }
    values: dict[tuple[str, str], list[list[float | None]]] = {}
    readers = run.predictors()
    for more in (101, 102):
        seed = run.config.seed + more
        records = list(finished(choose(trained.codes, run.cut, trained.sample, seed)).records())
        explanations = [texts[record.latent] for record in records]
        services = dataclasses.replace(run.services(trained), seed=seed)
        for scorer_name, scorer in run.scorers(services).items():
            if scorer.obstacle():
                continue
            finished(scorer.prepare(records))
            trials = protocol.draw(scorer, records, seed)
            for predictor_name in able(run.config, scorer_name):
                _say(f"draw {more}: {scorer_name} by {predictor_name}")
                reader = readers[predictor_name]
                work = protocol.score("again", records, trials, explanations, scorer, reader, seed)
                scores = [worth.value_of(score) for score in finished(work)]
                values.setdefault((scorer_name, predictor_name), []).append(scores)
    return [
        {"scorer": scorer, "predictor": predictor, "agreement": worth.agreement(both[0], both[1])}
        for (scorer, predictor), both in values.items()
    ]


def _written(value: Any) -> str:
    return json.dumps(value)


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    main()
