"""Comparisons are of pairs, families of concepts count as one, and Holm corrects each measure's
tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from components.report.differences import cluster_of
from components.report.differences import compared as compared_with
from components.report.report import REPORT, ReportConfig
from components.report.sentences import Told
from components.report.tables import DIFFERENCES, TABLES
from components.seeds import numpy_generator
from components.statistics import holm, sign_flip_test, t_interval
from components.store.artifact import Artifact, Store
from components.store.stage import Progress, Stage
from components.store.tables import STEERED
from tests.report import rows as made
from tests.report.rows import MEASURES, Made, report_frame


def compared(
    frame: pl.DataFrame, artifacts: dict[str, Artifact], families: dict[str, str]
) -> pl.DataFrame:
    return compared_with(frame, MEASURES, artifacts, families)


def stage_of(
    store: Store, stage: str, facts: dict | None = None, **written: list[dict]
) -> Artifact:
    """An artifact of these tables, with these facts."""

    def make(folder: Path, config: Made, inputs, settings):
        for name, rows in written.items():
            TABLES[name].write(folder, rows)
        yield Progress(1, 1, "tables")
        return {**MEASURES.facts(), "untrained": {"add_direction": "untrained"}, **(facts or {})}

    return store.ensure(Stage(stage, 1, make), Made(rows=[{"tables": sorted(written)}]), {})[0]


def found_rows(ap: dict[str, np.ndarray], names: list[str], kind: str = "surface") -> list[dict]:
    return [
        {"concept": name, "concept_kind": kind, "unit_kind": unit, "gate": True, "ap": float(value),
         "found": bool(value >= 0.8), "auroc": None}
        for unit, values in ap.items()
        for name, value in zip(names, values, strict=True)
    ]  # fmt: skip


def mean_rows(rows: list[dict], measure: str, column: str) -> list[dict]:
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return [
        made.found(float(np.mean(part[column].cast(pl.Float64).to_numpy())), str(unit), f"concepts_{measure}",
                   concept_kind="all", n=part.height)
        for (unit,), part in frame.group_by("unit_kind", maintain_order=True)
    ]  # fmt: skip


def evaluated(
    store: Store, ap: dict[str, np.ndarray], names: list[str]
) -> tuple[pl.DataFrame, Artifact]:
    items = found_rows(ap, names)
    rows = mean_rows(items, "ap", "ap") + mean_rows(items, "found", "found")
    artifact = stage_of(store, "evaluate", concepts_found=items, scores=rows)
    return report_frame(*rows), artifact


def test_ours_is_paired_with_each_rival_by_concept(store: Store) -> None:
    random = numpy_generator(0, "test")
    names = [f"list{number}" for number in range(20)]
    neuron = random.uniform(0.1, 0.9, 20)
    ap = {"latent": neuron + random.normal(0.03, 0.02, 20), "neuron": neuron, "probe": np.ones(20)}
    frame, artifact = evaluated(store, ap, names)
    found = compared(frame, {"evaluate": artifact}, {})
    assert set(found["rival"]) == {"raw neurons"}  # a probe is a ceiling
    (row,) = found.filter(pl.col("name") == "evaluate.concepts_ap.latent").to_dicts()
    difference = ap["latent"] - ap["neuron"]
    expected = t_interval(difference[np.argsort(names)])
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert row["paired"] and row["n"] == row["n_clusters"] == 20 and row["outcome"] == "for us"
    spread = t_interval(ap["latent"])
    # within our own interval, and yet told apart
    assert spread.low is not None and spread.low < neuron.mean()


def test_concepts_of_one_family_are_flipped_and_resampled_together(store: Store) -> None:
    names = [f"family{group}.{member}" for group in range(8) for member in range(5)]
    lift = np.repeat([0.2, 0.2, 0.2, 0.2, -0.2, 0.2, 0.2, -0.2], 5)
    ap = {"latent": 0.5 + lift, "neuron": np.full(40, 0.5)}
    frame, artifact = evaluated(store, ap, names)
    row = (
        compared(frame, {"evaluate": artifact}, {})
        .filter(pl.col("measure") == "concepts_ap")
        .row(0, named=True)
    )
    assert (row["n"], row["n_clusters"], row["n_families"]) == (40, 8, 8)
    assert row["p"] == sign_flip_test(lift[::5] * 5, numpy_generator(0), n_flips=10_000)
    assert row["outcome"] == "undecided"  # concept by concept this would be told apart
    alone = sign_flip_test(lift, numpy_generator(0))
    assert alone is not None and alone < 0.05
    expected = t_interval(lift[::5])
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_where_families_are_too_few_each_concept_stands_alone_and_the_row_says_so(
    store: Store,
) -> None:
    names = [f"topic.{number}" for number in range(12)]
    ap = {"latent": np.linspace(0.6, 0.9, 12), "neuron": np.linspace(0.3, 0.8, 12)}
    frame, artifact = evaluated(store, ap, names)
    row = (
        compared(frame, {"evaluate": artifact}, {})
        .filter(pl.col("measure") == "concepts_ap")
        .row(0, named=True)
    )
    assert (row["n_clusters"], row["n_families"]) == (12, 1)


def test_the_inventory_keeps_families_of_one_prefix_apart(store: Store) -> None:
    names = [f"word.{number}" for number in range(12)]
    ap = {"latent": np.linspace(0.6, 0.9, 12), "neuron": np.linspace(0.3, 0.8, 12)}
    frame, artifact = evaluated(store, ap, names)
    families = {name: f"family{number % 6}" for number, name in enumerate(names)}
    row = (
        compared(frame, {"evaluate": artifact}, families)
        .filter(pl.col("measure") == "concepts_ap")
        .row(0, named=True)
    )
    assert (row["n_clusters"], row["n_families"]) == (6, 6)


@pytest.mark.parametrize(
    ("concept", "group"),
    [
        ("word.anchor", "word.*"),
        ("topic.sea@the", "topic.*@the"),
        ("topic.sea", "topic.*"),
        ("animals", "animals"),
        ("sense.bow.sea", "sense.*"),
    ],
)
def test_a_concept_belongs_to_the_group_that_its_name_says(concept: str, group: str) -> None:
    assert cluster_of(concept) == group


def test_holm_goes_over_all_rivals_and_kinds_of_one_measure(store: Store) -> None:
    random = numpy_generator(1, "test")
    names = [f"list{number}" for number in range(15)]
    ap = {unit: random.uniform(0.2, 0.9, 15) for unit in ("latent", "neuron", "untrained")}
    frame, artifact = evaluated(store, ap, names)
    found = compared(frame, {"evaluate": artifact}, {})
    for measure in ("ap", "found"):
        part = found.filter(pl.col("measure") == f"concepts_{measure}")
        assert part["n_tests"].to_list() == [2, 2]
        np.testing.assert_allclose(part["p_holm"], holm(part["p"].to_numpy()))


def test_a_score_whose_items_do_not_average_to_it_is_not_compared_by_item(store: Store) -> None:
    names = [f"list{number}" for number in range(10)]
    frame, artifact = evaluated(
        store, {"latent": np.linspace(0, 1, 10), "neuron": np.linspace(0, 0.5, 10)}, names
    )
    wrong = frame.with_columns(pl.col("value") + 0.1)
    assert compared(wrong, {"evaluate": artifact}, {}).is_empty()


def explained(store: Store, values: dict[str, np.ndarray]) -> tuple[pl.DataFrame, Artifact]:
    """role -> the scores of latents under it."""
    items = [
        {"latent": latent, "role": "entry" if role == "control" else role, "explainer": "log_odds",
         "scorer": "detection", "predictor": "lexical", "value": float(value), "n": 20, "control": "untrained"}
        for role, each in values.items()
        for latent, value in enumerate(each)
    ]  # fmt: skip
    n = len(values["entry"])
    ours = [
        {name: value for name, value in row.items() if name != "control"} for row in items[: 2 * n]
    ]
    rows = [
        made.explained(float(each.mean()), n=len(each), role=role) for role, each in values.items()
    ]
    artifact = stage_of(
        store, "interpret", explanation_scores=ours, control_scores=items[2 * n :], scores=rows
    )
    return report_frame(*rows), artifact


def test_latents_are_paired_with_shuffled_explanations_and_not_with_another_dictionary(
    store: Store,
) -> None:
    random = numpy_generator(2, "test")
    base = random.uniform(0.5, 0.9, 30)
    values = {
        "entry": base,
        "floor": base - random.uniform(0.0, 0.1, 30),
        "control": random.uniform(0.5, 0.9, 30),
    }
    frame, artifact = explained(store, values)
    found = {row["rival"]: row for row in compared(frame, {"interpret": artifact}, {}).to_dicts()}
    assert (
        found["shuffled explanations"]["paired"]
        and found["shuffled explanations"]["outcome"] == "for us"
    )
    untrained = found["the untrained dictionary"]
    assert not untrained["paired"] and untrained["n"] == 60 and untrained["outcome"] == "undecided"
    assert untrained["detectable"] > 0


def test_an_explainer_stands_against_every_control_that_writes_explanations_too(
    store: Store,
) -> None:
    random = numpy_generator(5, "test")
    base = random.uniform(0.5, 0.9, 30)
    roles = {"log_odds": "entry", "logistic": "entry", "token_lookup": "control"}
    values = {
        "log_odds": base,
        "logistic": base - 0.2,
        "token_lookup": base - random.uniform(0.05, 0.15, 30),
    }
    items = [
        {"latent": latent, "role": role, "explainer": name, "scorer": "detection", "predictor": "lexical",
         "value": float(value), "n": 20}
        for name, role in roles.items()
        for latent, value in enumerate(values[name])
    ]  # fmt: skip
    rows = [
        made.explained(float(values[name].mean()), n=30, role=role, explainer=name, subject=None)
        for name, role in roles.items()
    ]
    artifact = stage_of(store, "interpret", explanation_scores=items, scores=rows)
    found = compared(report_frame(*rows), {"interpret": artifact}, {}).to_dicts()
    outcomes = {(row["explainer"], row["rival"]): (row["paired"], row["outcome"]) for row in found}
    assert outcomes == {
        ("log_odds", "token lookup"): (True, "for us"),
        ("logistic", "token lookup"): (True, "against us"),
    }


def steered(
    store: Store, uplift: dict[str, dict[str, list[float]]]
) -> tuple[pl.DataFrame, Artifact]:
    """method -> concept -> uplift by prompt; `random_direction` has two directions, the second half
    as strong."""
    generations, judgements, rows = [], [], []

    def written(judged_for: str, value: float, **columns: object) -> None:
        number = len(generations)
        generations.append(
            {"generation": number, "split": "test", "sample": 0, "text": "x"} | columns
        )
        judgements.append(
            {"generation": number, "concept": judged_for, "judge": "concept", "value": value}
        )

    for method, concepts in uplift.items():
        for replicate in range(2 if method == "random_direction" else 1):
            for concept, values in concepts.items():
                for prompt, value in enumerate(values):
                    place = {
                        "concept": concept,
                        "method": method,
                        "replicate": replicate,
                        "kl_budget": 0.1,
                    }
                    written(concept, 0.05 + value / (1 + replicate), prompt=prompt, **place)
    for concept, values in uplift["random_direction"].items():
        for prompt in range(len(values)):
            written(concept, 0.05, prompt=prompt, method="unsteered", replicate=0)
    largest = {
        concept: float(np.mean(values)) for concept, values in uplift["random_direction"].items()
    }
    about = {"concept_kind": "document", "baseline_name": "largest of 2 Gaussian directions"}
    roles = {"add_direction": "entry", "mean_difference": "baseline", "random_direction": "floor"}
    for method, concepts in uplift.items():
        means = {concept: float(np.mean(values)) for concept, values in concepts.items()}
        floor = (
            {}
            if method == "random_direction"
            else {"baseline": float(np.mean(list(largest.values())))}
        )
        mean = float(np.mean(list(means.values()))) * (0.75 if method == "random_direction" else 1)
        place = {"method": method, "role": roles[method], **about}
        rows.append(made.steered(mean, **place, **floor))
        if method != "random_direction":
            rows += [
                made.steered(value, concept=concept, baseline=largest[concept], **place)
                for concept, value in means.items()
            ]
    frame = report_frame(*rows)
    by_concept = [
        {"concept": concept, "concept_kind": "document", "method": method, "kl_budget": 0.1,
         "uplift": float(np.mean(values)), "uplift_largest": largest[concept], "n": len(values), "n_failed": 0}
        for method, concepts in uplift.items()
        for concept, values in concepts.items()
    ]  # fmt: skip
    return frame, stage_of(
        store,
        "steer",
        {"measure": "concept"},
        generations=generations,
        judgements=judgements,
        steered=by_concept,
        scores=rows,
    )


def test_steering_is_paired_by_concept_with_every_method_and_the_largest_control(
    store: Store,
) -> None:
    random = numpy_generator(3, "test")
    concepts = [f"list{number}" for number in range(10)]
    plain = {concept: random.normal(0.1, 0.05, 8).tolist() for concept in concepts}
    uplift = {
        "add_direction": {
            concept: (np.array(values) + 0.2).tolist() for concept, values in plain.items()
        },
        "mean_difference": {
            concept: (np.array(values) + 0.3).tolist() for concept, values in plain.items()
        },
        "random_direction": plain,
    }
    frame, artifact = steered(store, uplift)
    found = compared(frame, {"steer": artifact}, {})
    whole = found.filter(pl.col("concept").is_null())
    rows = {row["rival"]: row for row in whole.to_dicts()}
    assert set(rows) == {"mean difference", "largest of 2 Gaussian directions"}
    assert (
        rows["mean difference"]["difference"] == pytest.approx(-0.1)
        and rows["mean difference"]["outcome"] == "against us"
    )
    # no spread: an interval without width would claim to be sure
    assert rows["mean difference"]["low"] is None
    assert rows["largest of 2 Gaussian directions"]["difference"] == pytest.approx(0.2)
    single = found.filter(pl.col("concept").is_not_null())
    assert (
        single.height == 10
        and set(single["unit_of_replication"]) == {"prompt"}
        and set(single["n_tests"]) == {10}
    )
    assert single["difference"].to_list() == pytest.approx([0.2] * 10)


def test_a_method_is_paired_by_concept_with_itself_under_a_control(store: Store) -> None:
    concepts = {f"list{number}": [0.1 * number, 0.2] for number in range(10)}
    uplift = {"add_direction": concepts, "mean_difference": concepts, "random_direction": concepts}
    frame, artifact = steered(store, uplift)
    own = STEERED.read(artifact).filter(method="add_direction").to_dicts()
    name = "shuffled_labels_add_direction"
    spoilt = [row | {"method": name, "uplift": row["uplift"] - 0.25} for row in own]
    value = float(np.mean([row["uplift"] for row in spoilt]))
    control = {"subject": "shuffled_labels", "role": "control", "concept_kind": "document"}
    whole = report_frame(*frame.drop("artifact", "name").to_dicts(), made.steered(value, **control))
    table = STEERED.frame([*STEERED.read(artifact).to_dicts(), *spoilt])
    facts = {"untrained": {}, "spoilt": {name: ["add_direction", "shuffled_labels"]}}
    with_control = stage_of(
        Store(store.root / "other"), "steer", facts, steered=table.to_dicts(), scores=[]
    )
    found = compared(whole, {"steer": with_control}, {}).filter(pl.col("concept").is_null())
    rows = {row["rival"]: row for row in found.to_dicts()}
    (rival,) = (each for each in rows if "shuffled" in each)
    assert rows[rival]["paired"] and rows[rival]["n"] == 10
    assert rows[rival]["difference"] == pytest.approx(0.25)


def test_a_concept_without_steering_counts_as_no_uplift_as_in_the_score(store: Store) -> None:
    concepts = {f"list{number}": [0.1 * number, 0.2] for number in range(6)}
    uplift = {"add_direction": concepts, "mean_difference": concepts, "random_direction": concepts}
    frame, artifact = steered(store, uplift)
    lost = frame.with_columns(
        pl.when((pl.col("entry") == "add_direction") & (pl.col("concept") == "list5"))
        .then(None)
        .otherwise("value")
        .alias("value")
    )
    table = STEERED.read(artifact)
    gone = (pl.col("method") == "add_direction") & (pl.col("concept") == "list5")
    table = table.with_columns(pl.when(gone).then(None).otherwise("uplift").alias("uplift"))
    mean = table.filter(pl.col("method") == "add_direction")["uplift"].sum() / 6
    lost = lost.with_columns(
        pl.when((pl.col("entry") == "add_direction") & pl.col("concept").is_null())
        .then(mean)
        .otherwise("value")
        .alias("value")
    )
    without = stage_of(Store(store.root / "other"), "steer", steered=table.to_dicts(), scores=[])
    found = compared(lost, {"steer": without}, {}).filter(pl.col("concept").is_null())
    assert found["n"].to_list() == [6, 6]
    assert found.filter(pl.col("rival") == "mean difference")["difference"][0] == pytest.approx(
        -0.35 / 6
    )


def of_three(
    store: Store, reached: dict[str, list[float]], **tables_of: list[dict]
) -> tuple[pl.DataFrame, Artifact]:
    """method -> its composite of three on each target. Plain text's own is 0, as the stage writes
    it."""
    roles = {"add_direction": "entry", "mean_difference": "baseline", "random_direction": "floor"}
    about = {"concept_kind": "document", "kl_budget": 0.1, "n_failed": 0}
    further = [
        {"concept": f"list{number}", "method": method, "judge": "panel", "value": value,
         "unsteered": 0.0, "n": 8} | about
        for method, values in reached.items()
        for number, value in enumerate(values)
    ]  # fmt: skip
    by_concept = [
        {"concept": row["concept"], "method": row["method"], "n": 8} | about for row in further
    ]
    rows = []
    for method, values in reached.items():
        place = {"method": method, "role": roles[method], "concept_kind": "document"}
        interval = {"low": min(values), "high": max(values) + 1e-3}
        floor = {"baseline": 0.02, "baseline_name": "Gaussian directions, chosen likewise"}
        given = floor if method != "random_direction" else {"better": "neither"}
        rows.append(made.steered(float(np.mean(values)), "panel", **place, **interval, **given))
    tables_of = {"steered": by_concept, "further_judges": further, **tables_of}
    scores = [*rows, *tables_of.pop("scores", [])]
    artifact = stage_of(store, "steer", {"measure": "concept"}, scores=scores, **tables_of)
    return report_frame(*scores), artifact


def test_the_composite_of_three_has_no_rival_that_it_beats_by_construction(store: Store) -> None:
    """Plain text gains nothing over itself, and a direction of no target little: neither is a
    rival."""
    random = numpy_generator(4, "test")
    ours = random.uniform(0.001, 0.05, 12).tolist()
    reached = {
        "add_direction": ours,
        "mean_difference": [value + 0.1 for value in ours],
        "random_direction": [value / 10 for value in ours],
    }
    frame, artifact = of_three(store, reached)
    found = compared(frame, {"steer": artifact}, {})
    assert [(row["measure"], row["rival"]) for row in found.to_dicts()] == [
        ("panel", "mean difference")
    ]
    contrast = {
        "method": "add_direction", "other": "controls", "kl_budget": 0.1, "measure": "panel",
        "value": 0.01, "low": -0.01, "high": 0.03, "n": 12, "n_failed": 0, "n_left_out": 0, "p": 0.3,
        "family": "primary", "p_holm": 0.3, "n_controls": 20, "visible": 0.03,
    }  # fmt: skip
    headline = made.steered(0.01, "over_controls", concept_kind="document", baseline=0.0)
    _, steer = of_three(
        Store(store.root / "other"), reached, contrasts=[contrast], scores=[headline]
    )
    told = Told.of(store.ensure(REPORT, ReportConfig(), {"steer": steer})[0])
    assert told.for_us == []
    assert [sentence.partition(":")[0] for sentence in told.against_us] == [
        "steer.add_direction.kl_0.1.panel"
    ]
    assert told.undecided == [
        "steer.add_direction.kl_0.1.over_controls: not told apart from the mean of 20 controls "
        "that went through the same choice (composite of target, relevance and fluency, paired by "
        "target): difference +0.01 (-0.01 to 0.03), p 0.3, 12 targets, 0.03 would be seen"
    ]


def test_the_report_writes_the_table_and_reads_families_from_the_corpus(store: Store) -> None:
    names = [f"word.{number}" for number in range(12)]
    ap = {"latent": np.linspace(0.6, 0.9, 12), "neuron": np.linspace(0.1, 0.3, 12)}
    _, evaluate = evaluated(store, ap, names)
    inventory = [
        {
            "concept": name,
            "concept_kind": "surface",
            "unit": "token",
            "family": f"family{number % 6}",
        }
        for number, name in enumerate(names)
    ]
    corpus = stage_of(store, "read", concepts=inventory)
    report, _ = store.ensure(REPORT, ReportConfig(), {"evaluate": evaluate, "corpus": corpus})
    rows = DIFFERENCES.read(report)
    assert rows["n_clusters"].to_list() == [6, 6]
    (sentence,) = (each for each in Told.of(report).for_us if "concepts_ap" in each)
    assert "12 concepts in 6 families" in sentence
