"""An experiment made of invented numbers: every table a page reads, written through the real store
and schemas."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from components.config import Config
from components.report.tables import REPORT
from components.seeds import numpy_generator
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.stage import Progress, Stage
from tests.report.rows import MEASURES, explained, score, steered
from tests.report.rows import found as concepts_found

TOPICS = ("harbour", "kitchen", "garden", "market", "library", "station")
KINDS = {**{f"topic.{topic}": "document" for topic in TOPICS}, "word: seven": "surface", "word: Monday": "surface",
         "bank: river": "contextual", "bank: money": "contextual", "she is meant": "contextual"}  # fmt: skip
STORY = [
    "Mary",
    "walked",
    "to",
    "the",
    "{}",
    ".",
    "The",
    "<b>sailor</b>",
    "waited",
    "there",
    ",",
    "and",
    "&",
    "she",
    "said",
    ":",
    "it",
    "was",
    "late",
    ".",
]


@pytest.fixture(autouse=True)
def _drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No browser draws here, so no page waits for one."""
    monkeypatch.setattr("dashboards.app.SECONDS_TO_DRAW", 0.0)


class InventedConfig(Config):
    """What the invented stages are asked for."""

    name: str = "toy"
    """A label."""
    seed: int = 0
    """The seed."""
    dictionary: dict[str, Any] = {"kind": "topk", "d_sae": 64, "k": 16}
    """A nested section, as real stages have."""
    max_new_tokens: int = 40
    """As the stage steer has it."""


class Invented(NamedTuple):
    """An invented experiment: its report, and every artifact behind it by stage."""

    report: Artifact
    artifacts: dict[str, Artifact]


Write = Callable[[Path, np.random.Generator], None]


def make(
    store: Store,
    stage: str,
    inputs: Mapping[str, Any],
    facts: Mapping[str, Any],
    write: Write,
    **config: Any,
):
    """One artifact of invented content, made by the real `ensure`."""

    def work(folder: Path, chosen: InventedConfig, given: Any, settings: Any) -> Iterator[Progress]:
        write(folder, numpy_generator(chosen.seed, stage))
        yield Progress(1, 1, "tables")
        return dict(facts)

    return store.ensure(Stage(stage, 1, work), InventedConfig(**config), inputs)[0]


def curve(folder: Path, random: np.random.Generator) -> None:
    steps = np.arange(0, 600, 10)
    fading = np.exp(-steps / 120)
    series = {
        "loss": 0.01 + fading,
        "loss.reconstruction": 0.009 + 0.9 * fading,
        "loss.auxk": 0.001 + 0.1 * fading,
        "fvu": 0.008 + 0.6 * fading,
        "l0": 16 + 0 * fading,
        "dead_share": 0.2 * (1 - fading),
        "learning_rate": 1e-3 * np.minimum(1, steps / 100 + 0.01),
    }
    rows = [
        {
            "step": int(s),
            "tokens": int(s) * 4096,
            "name": name,
            "value": float(v) * math.exp(random.normal(0, 0.03)),
        }
        for name, values in series.items()
        for s, v in zip(steps, values, strict=True)
    ]
    tables.CURVE.write(folder, rows)


def latents(d_sae: int) -> Write:
    def write(folder: Path, random: np.random.Generator) -> None:
        rows = []
        for latent in range(d_sae):
            dead = latent % 16 == 5
            active = 0 if dead else int(10 ** random.uniform(0.5, 4))
            top = float(random.gamma(4, 2))
            rows.append(
                {
                    "latent": latent,
                    "split": "test",
                    "n_active": active,
                    "density": active / 100_000,
                    "maximum": 0.0 if dead else top,
                    "mean_active": None if dead else top / 3,
                    "histogram": [0] * 20 if dead else [int(active * 0.6**i) for i in range(20)],
                    "decoder_norm": 1.0,
                    "promoted": [f" {TOPICS[(latent + i) % 6]}{i}" for i in range(10)],
                    "promoted_logits": [1.5 - 0.1 * i for i in range(10)],
                    "suppressed": [f" {TOPICS[(latent - i) % 6]}{i}" for i in range(10)],
                    "suppressed_logits": [-1.2 + 0.1 * i for i in range(10)],
                }
            )
        tables.LATENTS.write(folder, rows)
        near = [
            {
                "latent": latent,
                "rank": rank,
                "neighbour": (latent + rank + 1) % d_sae,
                "cosine": 0.9 - 0.1 * rank,
            }
            for latent in range(d_sae)
            for rank in range(5)
        ]
        tables.NEIGHBOURS.write(folder, near)

    return write


DRAWN_BY_STRENGTH = 13
"""The latent that has a window of this kind."""


def interpretation(d_sae: int) -> Write:
    def write(folder: Path, random: np.random.Generator) -> None:
        windows, said, scores = [], [], []
        for latent in range(d_sae):
            if latent % 16 == 5:
                said.append(
                    {
                        "latent": latent,
                        "explainer": "log_odds",
                        "reason": "no context: the latent is dead",
                    }
                )
                continue
            topic = TOPICS[latent % 6]
            said.append(
                {
                    "latent": latent,
                    "explainer": "log_odds",
                    "explanation": f"the word '{topic}' after 'the'",
                }
            )
            text = [word.format(topic) for word in STORY]
            for window in range(14):
                role = "top" if window < 4 else "quantile" if window < 12 else "silent"
                interval = None if role == "silent" else 0 if role == "top" else (window - 4) // 2
                if (latent, window) == (DRAWN_BY_STRENGTH, 3):
                    role = "weighted"
                level = 0.0 if interval is None else 8.0 * 0.6**interval
                values = [0.0] * len(text)
                if level:
                    values[4], values[5] = level, level / 4
                windows.append(
                    {
                        "latent": latent,
                        "window": window,
                        "split": ("explain", "test")[window % 2],
                        "role": role,
                        "quantile": interval,
                        "document": window,
                        "start": 3,
                        "tokens": text,
                        "activations": values,
                        "maximum": level,
                    }
                )
            for role, centre in (("entry", 0.8), ("floor", 0.5), ("ceiling", 0.95)):
                for scorer in ("detection", "simulation"):
                    value = float(np.clip(centre + random.normal(0, 0.05), 0, 1))
                    scores.append(
                        {
                            "latent": latent,
                            "role": role,
                            "explainer": None if role == "ceiling" else "log_odds",
                            "scorer": scorer,
                            "predictor": None if role == "ceiling" else "lexical",
                            "value": value,
                            "low": value - 0.04,
                            "high": value + 0.04,
                            "n": 40,
                            "n_failed": 0,
                        }
                    )
        tables.CONTEXTS.write(folder, windows)
        tables.EXPLANATIONS.write(folder, said)
        tables.EXPLANATION_SCORES.write(folder, scores)
        mine = [row for row in scores if row["role"] == "entry"]
        tables.CONTROL_SCORES.write(
            folder,
            [
                row
                | {
                    "control": "untrained",
                    "explanation": "the word 'of'",
                    "value": row["value"] - 0.1,
                }
                for row in mine
            ],
        )
        parts = [
            {name: row[name] for name in ("latent", "role", "explainer", "scorer", "predictor")}
            | {"stratum": stratum, "value": row["value"] + shift, "chance": 0.5, "n": 20}
            for row in mine
            for stratum, shift in (("weakest", -0.2), ("strongest", 0.1), ("macro", 0.0))
        ]
        tables.EXPLANATION_STRATA.write(
            folder, parts + [part | {"control": "untrained", "value": 0.1} for part in parts]
        )

    return write


def openings(folder: Path, random: np.random.Generator) -> None:
    rows = [{"prompt": n, "split": "test", "text": f"On day {n} <b>they</b>"} for n in range(6)]
    tables.PROMPTS.write(folder, rows)


def steering(folder: Path, random: np.random.Generator, budget: float = 0.1) -> None:
    strengths, generations, judgements = [], [], []
    methods = {"add_direction": 0.42, "mean_difference": 0.5, "random_direction": 0.02}
    shared = {"split": "test", "n_tokens": 12, "nll": 1.3, "sample": 0}

    def written(
        concepts: Sequence[str], values: Mapping[str, float | None], **columns: Any
    ) -> None:
        number = len(generations)
        generations.append(shared | {"generation": number} | columns)
        for concept in concepts:
            said = {"generation": number, "concept": concept, "reason": columns.get("reason")}
            judgements.extend(
                said
                | {
                    "judge": judge,
                    "value": value,
                    "off_target": off_target(columns, concept, judge, value),
                }
                for judge, value in values.items()
            )

    def off_target(
        columns: Mapping[str, Any], concept: str, judge: str, value: float | None
    ) -> list[float | None] | None:
        """What the judge says for every concept: a tenth, but for the one steered towards."""
        if judge != "concept" or columns["method"] not in ("add_direction", "mean_difference"):
            return None
        return [value if other == concept else value and 0.1 for other in everything]

    everything = [f"topic.{concept}" for concept in TOPICS]
    for prompt in range(6):
        values = {"concept": 0.1, "fluency": 0.95, "composite": 0.0}
        written(
            everything,
            values,
            method="unsteered",
            replicate=0,
            prompt=prompt,
            text="They met at noon .",
        )
    for concept in TOPICS:
        for method, uplift in methods.items():
            for replicate in range(5 if method == "random_direction" else 1):
                strengths.append(
                    {"concept": f"topic.{concept}", "method": method, "replicate": replicate, "sign": 1, "kl_budget": budget,
                     "latent": TOPICS.index(concept) if method == "add_direction" else None,
                     "coefficient": 0.8, "kl": 0.1, "select_score": 0.7}
                )  # fmt: skip
                for prompt in range(6):
                    failed = method == "add_direction" and prompt == 5
                    up = (
                        None
                        if failed
                        else float(np.clip(uplift + random.normal(0, 0.08), -0.1, 0.9))
                    )
                    values = {
                        "concept": None if up is None else 0.1 + up,
                        "fluency": None if failed else 0.95,
                        "composite": None if up is None else max(0.0, up),
                    }
                    written(
                        [f"topic.{concept}"],
                        values,
                        concept=f"topic.{concept}",
                        method=method,
                        replicate=replicate,
                        kl_budget=budget,
                        prompt=prompt,
                        text=None if failed else f"They went to the {concept} <i>at</i> noon .",
                        reason="no text before the end token" if failed else None,
                    )
    tables.STRENGTHS.write(folder, strengths)
    tables.GENERATIONS.write(folder, generations)
    tables.JUDGEMENTS.write(folder, judgements)
    reached = [
        {"concept": concept, "concept_kind": "document", "method": method, "kl_budget": budget,
         "kl_written_reverse": budget * random.uniform(0.9, 1.1)}
        for concept in everything for method in methods
    ]  # fmt: skip
    tables.STEERED.write(folder, reached)
    targets = [{"concept": c, "concept_kind": "document", "passed": True} for c in everything]
    tables.TARGETS.write(folder, targets)
    tables.BATTERY.write(folder, tricks())


def swept_rows() -> list[dict[str, Any]]:
    """A hook point sweep: a method, the same under a control, and a control of three directions."""
    about = {"kl_budget": 0.1, "measure": "composite", "n": 5, "n_failed": 0, "better": "higher"}
    rows = []
    for method, values in {"m": (0.2, 0.4), "spoilt_m": (0.05, 0.1)}.items():
        for place, (name, value) in enumerate(zip(("early", "late"), values, strict=True)):
            lost = place and method == "m"
            why = "1 of 5 targets have no text here and count as 0" if lost else None
            rows.append(
                about
                | {"method": method, "hook_point": name, "value": value, "low": value - 0.1}
                | {"high": value + 0.1, "chosen": bool(place), "replicates": [place]}
                | {"n_failed": int(bool(lost)), "reason": why}
            )
    for direction, (early, late) in enumerate(((0.05, 0.01), (0.1, 0.04), (0.15, 0.2))):
        for place, (name, value) in enumerate((("early", early), ("late", late))):
            is_chosen = value == max(early, late)
            number = {"direction": direction, "replicates": [2 * direction + place]}
            at = {"method": "r", "hook_point": name, "value": value, "chosen": is_chosen}
            rows.append(about | at | number)
    return rows


def tricks() -> list[dict[str, Any]]:
    """A battery whose law holds against two tricks, is broken by one and not shown of one; one more
    was not tried."""
    about = {"n": 6, "n_cells": 24, "n_failed": 0, "n_unjudged": 0, "real": 0.7}
    rows = []
    for judge, fakes in (
        ("composite", {"keyword_list": 0.1, "training_text": 0.69, "one_word": 0.9, "empty": 0.0}),
        ("concept", {"keyword_list": 0.8, "training_text": 0.7, "one_word": 0.0, "empty": 0.0}),
    ):
        for trick, fake in fakes.items():
            value = about["real"] - fake
            rows.append(
                about
                | {"trick": trick, "judge": judge, "fake": fake, "value": value}
                | {"low": value - 0.1, "high": value + 0.1, "holds": value > 0.1}
            )
        none = {"n": 0, "n_cells": 0, "n_failed": 0, "n_unjudged": 0}
        rows.append(none | {"trick": "top_context", "judge": judge, "reason": "no latent"})
    return rows


def found(folder: Path, random: np.random.Generator) -> None:
    rows = []
    for number, (concept, kind) in enumerate(KINDS.items()):
        for unit_kind, centre in (
            ("latent", 0.82),
            ("neuron", 0.55),
            ("untrained", 0.5),
            ("probe", 0.96),
        ):
            ap = float(np.clip(centre + random.normal(0, 0.08), 0, 1))
            rows.append(
                {"concept": concept, "concept_kind": kind, "unit_kind": unit_kind, "sign": 1, "n_positive": 120,
                 "unit": None if unit_kind == "probe" else number, "n": 4000, "gate": True, "select_ap": ap,
                 "validate_ap": ap, "ap": ap, "auroc": min(1.0, ap + 0.1), "found": ap >= 0.8}
            )  # fmt: skip
    tables.CONCEPTS_FOUND.write(folder, rows)


def report_rows(keys: Mapping[str, str], name: str, budget: float = 0.1) -> list[dict[str, Any]]:
    base = {
        "dictionary": name,
        "hook_point": "resid_post.2",
        "split": "test",
        "n_seeds": 1,
        "n_failed": 0,
    }
    token = base | {"artifact": keys["evaluate"], "n": 900}
    rows = [
        score("dead_share", 0.0625, **(token | {"n": 64}), unit_of_replication="latent", low=0.02, high=0.13),
        score("fvu", 0.00871, **token, low=0.0081, high=0.0093, baseline=1.0, baseline_name="mean activation"),
        score("l0", 16.0, **token, low=16.0, high=16.0),
        score("loss_recovered.mean_ablation", 0.9992, **token, low=0.9990, high=0.9994, baseline=0.0,
              baseline_name="mean ablation"),
        score("cross_entropy_rise", 0.0042, **token, low=0.0031, high=0.0053, baseline=6.5,
              baseline_name="mean ablation"),
    ]  # fmt: skip
    shares = {"latent": 0.62, "neuron": 0.31, "untrained": 0.24, "probe": 1.0}
    for unit, share in shares.items():
        for kind in ("all", "surface", "contextual", "document"):
            value = share * {"all": 0.9, "surface": 1.0, "contextual": 0.7, "document": 0.95}[kind]
            ends = {"low": max(0, value - 0.1), "high": min(1, value + 0.1)}
            beside = {} if unit == "neuron" else {"baseline": 0.28, "baseline_name": "neuron"}
            rows.append(
                concepts_found(
                    value, unit, **(token | {"n": 11}), concept_kind=kind, **ends, **beside
                )
            )
    control = base | {"artifact": keys["interpret"], "n": 64}
    for scorer, value in (("detection", 0.81), ("simulation", 0.78)):
        beside = {
            "low": value - 0.01,
            "high": value + 0.01,
            "baseline": 0.5,
            "baseline_name": "shuffled",
        }
        rows.append(explained(value, scorer, **(control | {"n_failed": 4}), **beside))
        rows.append(
            explained(
                value - 0.1, scorer, role="control", **control, low=value - 0.12, high=value - 0.08
            )
        )
        over = {"low": 0.07 if scorer == "detection" else -0.02, "high": 0.13}
        rows.append(
            explained(
                0.1 if scorer == "detection" else 0.01, scorer, "over_untrained", **control, **over
            )
        )
    steer = base | {"artifact": keys["steer"], "n": 6, "concept_kind": "document", "baseline": 0.09}
    for method, value, role in (
        ("add_direction", 0.41, "entry"),
        ("mean_difference", 0.5, "baseline"),
    ):
        beside = {
            "low": value - 0.06,
            "high": value + 0.06,
            "baseline_name": "largest of 5 random",
            "role": role,
        }
        rows.append(steered(value, "composite", method, budget, **steer, **beside))
        fluent = {"low": 0.9, "high": 0.99, "role": role}
        rows.append(steered(0.95, "fluency", method, budget, **steer, **fluent))
        for number, concept in enumerate(TOPICS):
            mean = value - 0.05 * number
            about = {
                "low": mean - 0.1,
                "high": mean + 0.1,
                "baseline_name": "largest of 5 Gaussian directions",
            }
            about |= {"concept": f"topic.{concept}", "n_failed": int(number == 0), "role": role}
            rows.append(steered(mean, "composite", method, budget, **(steer | about)))
    floor = {"low": 0.05, "high": 0.11, "role": "floor"}
    rows.append(steered(0.08, "composite", "random_direction", budget, **steer, **floor))
    tried = {"low": -0.09, "high": 0.11, "role": "control", "entry": None, "budget": None}
    told = "the law holds against 2 of 4 tricks, smallest lower bound -0.09 (training_text)"
    rows.append(steered(0.01, "battery", **(steer | tried | {"concept_kind": "all"}), reason=told))
    return rows


def written(
    store: Store,
    *,
    d_sae: int = 64,
    seed: int = 0,
    name: str = "topk-64-k16",
    budget: float = 0.1,
    max_new_tokens: int = 40,
) -> Invented:
    """Writes a whole invented experiment and returns it."""

    def nothing(folder: Path, random: np.random.Generator) -> None:
        return None

    made: dict[str, Artifact] = {}
    made["read"] = make(store, "read", {}, {"n_concepts": len(KINDS)}, openings, seed=seed)
    made["capture"] = make(
        store, "capture", {"corpus": made["read"]}, {"dtype": "float32"}, nothing, seed=seed
    )
    facts = {
        "name": name,
        "hook_point": "resid_post.2",
        "d_in": 32,
        "d_sae": d_sae,
        "tokens": 2_400_000,
        "fvu": 0.009,
    }
    given = {"activations": made["capture"]}
    untrained = make(
        store, "train", given, facts | {"name": "untrained"}, curve, seed=seed, name="untrained"
    )
    made["train"] = make(store, "train", given, facts, curve, seed=seed)
    bare = make(
        store,
        "encode",
        given | {"dictionary": untrained},
        facts,
        latents(d_sae),
        seed=seed,
        name="untrained",
    )
    made["encode"] = make(
        store, "encode", given | {"dictionary": made["train"]}, facts, latents(d_sae), seed=seed
    )
    given = {"corpus": made["read"], "activations": made["capture"], "codes": made["encode"]}
    made["interpret"] = make(store, "interpret", given, {}, interpretation(d_sae), seed=seed)
    given["dictionary"] = made["train"]
    write = functools.partial(steering, budget=budget)
    made["steer"] = make(
        store,
        "steer",
        given,
        {"measure": "concept", "judged": [f"topic.{concept}" for concept in TOPICS]},
        write,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    made["evaluate"] = make(store, "evaluate", {"untrained": bare, **given}, {}, found, seed=seed)
    keys = {stage: artifact.key for stage, artifact in made.items()}

    def rows(folder: Path, random: np.random.Generator) -> None:
        REPORT.write(folder, report_rows(keys, name, budget))

    parts = {stage: made[stage] for stage in ("train", "encode", "interpret", "steer", "evaluate")}
    made["report"] = make(store, "report", parts, MEASURES.facts(), rows, seed=seed)
    return Invented(made["report"], made)


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Invented:
    """One invented experiment that tests read and leave as it is."""
    return written(Store(tmp_path_factory.mktemp("dashboards") / "artifacts"))


@pytest.fixture
def own_experiment(experiment: Invented, store: Store) -> Invented:
    """A copy of it in this test's own store, to be damaged."""
    shutil.copytree(experiment.report.folder.parent.parent, store.root)
    artifacts = {
        stage: store.get(stage, artifact.key) for stage, artifact in experiment.artifacts.items()
    }
    return Invented(artifacts["report"], artifacts)


@pytest.fixture
def write_experiment() -> Callable[..., Invented]:
    """Writes invented experiments: `write_experiment(store, d_sae=64, seed=0,
    name="topk-64-k16")`."""
    return written


@pytest.fixture
def write_report() -> Callable[..., Artifact]:
    """Writes another report of an invented experiment: `write_report(experiment, rows=[])`."""

    def written(of: Invented, rows: list[dict[str, Any]]) -> Artifact:
        def write(folder: Path, random: np.random.Generator) -> None:
            REPORT.write(folder, rows)

        store = Store(of.report.folder.parent.parent)
        parts = {
            stage: of.artifacts[stage]
            for stage in ("train", "encode", "interpret", "steer", "evaluate")
        }
        return make(store, "report", parts, MEASURES.facts(), write, seed=99)

    return written
