"""The hook point sweep: one hook point for each method, chosen on validate text, controls likewise."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
import torch

from components.config import canonical, load
from components.errors import ConfigError, InputError
from components.experiment import ExperimentConfig
from components.report.scores import table as score_table
from components.report.tables import SCORES
from components.steering.choice import Steered
from components.steering.comparison import Comparison
from components.steering.config import SteerConfig
from components.steering.contract import Candidate, Concept, methods
from components.steering.hook_points import MEASURES, Decision, Sweep
from components.steering.measures import declared
from components.steering.meter import Meter
from components.steering.saved import restored
from components.steering.steer import STEER
from components.steering.vector import AddVector, Vectors
from components.steering.writer import Prompt
from components.store import tables
from components.store.artifact import Artifact, Store, key_of
from components.store.judgements import judged
from components.store.shards import ActivationShards
from components.store.stage import Progress
from tests import toys
from tests.steering import world
from tests.steering.conftest import Bench
from tests.steering.test_steer import CONFIG, CPU, score

NOISE = "resid_post.1"
"""A hook point at which the captured activations say nothing of any concept."""
TRIED = ("early", "late")
DIRECTION = AddVector("early", torch.tensor([1.0, 0.0]), 1.0)
Reached = Mapping[Any, Sequence[float | None]]
"""(method, concept it is steered towards, number) -> composite of each text."""


def steered(
    method: str, concept: str | None, number: int, budget: float = 0.1, reason: str | None = None
) -> Steered:
    candidate = Candidate(concept, number, None if reason else DIRECTION, reason=reason)
    strength = None if reason else 1.0
    return Steered(method, candidate, budget, strength, reason=reason)


def texts(reached: Reached, targets: Sequence[str] = ("a", "b"), **about: Any) -> pl.DataFrame:
    """Judged texts; those that are steered towards nothing are judged for every target, with the
    values of each target in turn."""
    rows = []
    for (method, concept, number), values in reached.items():
        each = [concept] if concept else targets
        for target, (prompt, value) in itertools.product(each, enumerate(values)):
            rows.append(
                {"concept": target, "method": method, "replicate": number, "kl_budget": 0.1}
                | {"split": "validate", "prompt": prompt, "sample": 0}
                | {"composite": value, "uplift": value}
                | about
            )
    return world.results(rows)


def decided(
    reached: Reached, given: Sequence[Steered] = (), floor: str | None = None, **about: Any
) -> Decision:
    sweep = Sweep(TRIED, ["m", "r"])
    every = [steered(*place) for place in reached]
    return sweep.decide(texts(reached, **about), [*every, *given], ["a", "b"], floor)


def rows_of(decision: Decision) -> list[dict[str, Any]]:
    return tables.HOOK_POINTS.frame(decision.rows()).to_dicts()


def chosen_of(decision: Decision) -> dict[tuple[str, int | None], str]:
    return {
        (r["method"], r["direction"]): r["hook_point"] for r in rows_of(decision) if r["chosen"]
    }


def test_one_hook_point_is_chosen_for_all_targets_by_their_mean() -> None:
    """Target a alone would take the first."""
    decision = decided(
        {("m", "a", 0): [0.4, 0.4], ("m", "a", 1): [0.3, 0.3], ("m", "b", 0): [0.1], ("m", "b", 1): [0.5]}
    )  # fmt: skip
    assert chosen_of(decision) == {("m", None): "late"}
    early, late = rows_of(decision)
    assert (early["value"], late["value"]) == (pytest.approx(0.25), pytest.approx(0.4))
    assert (late["n"], late["n_failed"], late["reason"]) == (2, 0, None)
    assert late["low"] < 0.4 < late["high"] and late["low"] == 0.0, "an interval keeps its range"
    assert (early["replicates"], late["replicates"]) == ([0], [1])
    assert decision.facts() == {
        "hook_point_sweep": {"tried": ["early", "late"], "chosen": {"m": "late"}}
    }


def test_a_tie_goes_to_the_larger_uplift_and_then_to_the_earlier() -> None:
    same = {("m", c, n): [0.2] for c in "ab" for n in (0, 1)}
    assert chosen_of(decided(same)) == {("m", None): "early"}
    seen = texts(same).with_columns(
        uplift=pl.when(pl.col("replicate") == 1).then(0.5).otherwise(0.1)
    )
    decision = Sweep(TRIED, ["m"]).decide(seen, [steered(*place) for place in same], ["a", "b"])
    assert chosen_of(decision) == {("m", None): "late"}


def test_where_no_composite_is_judged_the_uplift_chooses_and_the_table_says_so() -> None:
    decision = decided(
        {("m", c, n): [-0.1 * (n + 1)] for c in "ab" for n in (0, 1)}, composite=None
    )
    assert chosen_of(decision) == {("m", None): "early"}
    assert [(r["measure"], r["value"]) for r in rows_of(decision)] == [
        ("uplift", pytest.approx(-0.1)), ("uplift", pytest.approx(-0.2)),
    ]  # fmt: skip


def test_a_target_without_text_counts_as_0_and_is_counted_with_the_reason() -> None:
    lost = steered("m", "b", 1, reason="nothing costs that")
    decision = decided({("m", "a", 0): [0.3], ("m", "b", 0): [0.3], ("m", "a", 1): [0.5]}, [lost])
    assert chosen_of(decision) == {("m", None): "early"}
    late = rows_of(decision)[1]
    assert (late["value"], late["n"], late["n_failed"]) == (0.25, 2, 1)
    assert late["reason"] == ("1 of 2 targets have no text here and count as 0: nothing costs that")


def test_a_hook_point_without_any_text_is_no_rival_even_of_one_that_reaches_nothing() -> None:
    none = [steered("m", c, 0, reason="nothing costs that") for c in "ab"]
    seen = {("m", "a", 1): [0.0], ("m", "b", 1): [0.0]}
    decision = decided(seen, none)
    assert chosen_of(decision) == {("m", None): "late"}
    nowhere = [*none, *(steered("m", c, 1, reason="nothing costs that") for c in "ab")]
    assert chosen_of(decided({}, nowhere)) == {("m", None): "early"}


def test_texts_that_failed_count_as_0() -> None:
    decision = decided(
        {("m", c, 0): [0.3, 0.3] for c in "ab"} | {("m", c, 1): [0.5, None] for c in "ab"}
    )
    assert chosen_of(decision) == {("m", None): "early"}
    assert [row["n_failed"] for row in rows_of(decision)] == [0, 0], "of targets, not of texts"
    silent = decided({("m", c, n): [None] for c in "ab" for n in (0, 1)}, composite=0.0)
    assert [row["n_failed"] for row in rows_of(silent)] == [2, 2]


def test_the_choice_is_one_over_all_budgets() -> None:
    low = {("m", c, 0): [0.3] for c in "ab"} | {("m", c, 1): [0.2] for c in "ab"}
    high = {("m", c, 0): [0.3] for c in "ab"} | {("m", c, 1): [0.6] for c in "ab"}
    seen = pl.concat([texts(low), texts(high, kl_budget=0.4)])
    given = [steered(*place, budget) for place in low for budget in (0.1, 0.4)]
    decision = Sweep(TRIED, ["m"]).decide(seen, given, ["a", "b"])
    assert chosen_of(decision) == {("m", None): "late"}
    assert [(r["hook_point"], r["kl_budget"], r["value"], r["over_budgets"]) for r in rows_of(decision)] == [
        ("early", 0.1, pytest.approx(0.3), pytest.approx(0.3)), ("early", 0.4, pytest.approx(0.3), pytest.approx(0.3)),
        ("late", 0.1, pytest.approx(0.2), pytest.approx(0.4)), ("late", 0.4, pytest.approx(0.6), pytest.approx(0.4)),
    ]  # fmt: skip
    assert all(row["low"] is None for row in rows_of(decision)), "an interval without width is none"


def test_of_several_candidates_at_a_hook_point_validate_prompts_choose_for_each_target() -> None:
    """Candidates 0 and 1 at `early` are numbers 0 and 2, at `late` 1 and 3."""
    decision = decided(
        {("m", "a", 0): [0.1], ("m", "a", 2): [0.4], ("m", "a", 1): [0.3], ("m", "a", 3): [0.3],
         ("m", "b", 0): [0.4], ("m", "b", 2): [0.1], ("m", "b", 1): [0.3], ("m", "b", 3): [0.3]}
    )  # fmt: skip
    early, late = rows_of(decision)
    assert (early["value"], late["value"]) == (pytest.approx(0.4), pytest.approx(0.3))
    assert (early["chosen"], early["replicates"], late["replicates"]) == (True, [0, 2], [1, 3])


def test_each_direction_of_a_control_chooses_for_itself_over_all_targets() -> None:
    seen = {
        ("r", None, 0): [0.1],
        ("r", None, 1): [0.2],
        ("r", None, 2): [0.3],
        ("r", None, 3): [0.1],
    }
    own = {("m", c, n): [0.5] for c in "ab" for n in (0, 1)}
    decision = decided(seen | own, floor="r")
    assert chosen_of(decision) == {("r", 0): "late", ("r", 1): "early", ("m", None): "early"}
    baselines = {r["hook_point"]: r["baseline"] for r in rows_of(decision) if r["method"] == "m"}
    assert baselines == {"early": pytest.approx(0.2), "late": pytest.approx(0.15)}
    assert {r["baseline"] for r in rows_of(decision) if r["method"] == "r"} == {None}
    assert decision.facts()["hook_point_sweep"]["chosen"]["r"] == {"early": 1, "late": 1}


def test_what_was_not_chosen_goes_no_further_and_all_else_stays() -> None:
    seen = {("m", c, n): [0.2 + 0.1 * n] for c in "ab" for n in (0, 1)}
    seen |= {
        ("r", None, 0): [0.1],
        ("r", None, 1): [0.0],
        ("r", None, 2): [0.1],
        ("r", None, 3): [0.4],
    }
    other = {("x", "a", 0): [0.1], ("x", "a", 1): [0.1]}
    decision = decided(seen, [steered(*place) for place in other])
    every = [steered(*place) for place in seen | other]
    kept = [(s.method, s.candidate.concept, s.candidate.replicate) for s in decision.kept(every)]
    assert kept == [("m", "a", 1), ("m", "b", 1), ("r", None, 0), ("r", None, 3), *other]
    left = decision.frozen(texts(seen | other))
    assert set(left.select("method", "replicate").unique().iter_rows()) == {
        ("m", 1), ("r", 0), ("r", 3), ("x", 0), ("x", 1),
    }  # fmt: skip


def test_text_of_the_test_split_is_refused() -> None:
    with pytest.raises(AssertionError, match="only validate prompts choose"):
        decided({("m", "a", 0): [0.1]}, split="test")


def test_the_score_tells_the_curve_in_a_line() -> None:
    seen = {("m", "a", 0): [0.1], ("m", "b", 0): [0.3], ("m", "a", 1): [0.4], ("m", "b", 1): [0.6]}
    seen |= {("r", None, n): [0.05] for n in range(4)}
    decision = decided(seen, floor="r")
    about = Comparison(
        concepts=[Concept(name, "document", "document") for name in "ab"],
        refused={}, methods=["m"], controls=["r"], budgets=[0.1], silent={}, unsteered={}, seed=0,
        columns={"dictionary": "d", "hook_point": "early", "n_seeds": 1},
    )  # fmt: skip
    frame = score_table("steer", decision.score_rows(about), declared([], MEASURES))
    own, control = frame.to_dicts()
    assert (own["name"], own["split"], own["better"]) == (
        "steer.m.hook_point_sweep", "validate", "neither",
    )  # fmt: skip
    assert (own["value"], own["n"], own["n_failed"]) == (pytest.approx(0.5), 2, 0)
    assert own["baseline"] == pytest.approx(0.05)
    assert own["baseline_name"] == "mean of 2 directions of r, likewise"
    assert own["reason"] == (
        "late was chosen among 2 hook points by the mean composite on validate text over 2 targets: "
        "early 0.2 (0 to 1, controls 0.05), late 0.5 (0 to 1, controls 0.05)"
    )
    assert control["role"] == "floor" and control["reason"].endswith(
        "each of 2 directions chose one among 2 hook points by the mean composite on validate text over "
        "2 targets: early 0.05 (chosen by 2), late 0.05 (chosen by 0)"
    )
    empty = Sweep(TRIED, ["m"]).decide(texts({}), [], [])
    (absent,) = score_table("steer", empty.score_rows(about), declared([], MEASURES)).to_dicts()
    assert (absent["value"], absent["reason"]) == (None, "no concept passed the gate")


@pytest.fixture(scope="module")
def two_places(bench: Bench) -> dict[str, object]:
    """The inputs of the stage with one more hook point, whose activations are noise of the same
    size: a concept has a direction at `world.HOOK` alone."""
    shards, generator = ActivationShards(bench.activations), torch.Generator().manual_seed(1)
    splits, provenance = {}, {}
    for split in ("select", "validate"):
        x = shards.rows(split, world.HOOK, torch.arange(shards.n_rows(split)))
        noise = torch.randn(x.shape, generator=generator) * x.norm(dim=1).mean() / x.shape[1] ** 0.5
        splits[split] = {world.HOOK: x, NOISE: noise}
        found = shards.provenance(split)
        provenance[split] = {name: found[name] for name in ("token", "document", "position")}
    both = toys.activations(bench.store, splits, provenance, rows_per_shard=1000, seed=5)
    return bench.inputs | {"activations": both}


SWEPT = CONFIG.model_copy(
    update={
        "methods": ["mean_difference", "add_direction", "random_direction", "covariance_matched"],
        "controls": ["shuffled_labels"],
        "control_settings": type(CONFIG.control_settings)(
            shuffled_labels={"methods": ["mean_difference"]}
        ),
        "method_settings": type(CONFIG.method_settings)(
            add_direction={"n_candidates": 2},
            random_direction={"n_directions": 4},
            covariance_matched={"n_directions": 2},
        ),
        "concepts": ["topic.*"],
        "validate_prompts": 6,
        "test_prompts": 6,
        "hook_point_sweep": [NOISE, world.HOOK],
    }
)


@pytest.fixture(scope="module")
def ran(bench: Bench, two_places: dict[str, object]) -> tuple[Artifact, list[Progress]]:
    seen: list[Progress] = []
    return bench.store.ensure(STEER, SWEPT, two_places, CPU, seen.append)[0], seen


def means_on_validate(artifact: Artifact) -> dict[tuple[str, int], float]:
    """(method, number) -> mean over targets of the composite on validate, from the texts."""
    seen = judged(
        tables.GENERATIONS.read(artifact),
        tables.JUDGEMENTS.read(artifact),
        artifact.facts["measure"],
    ).filter(pl.col("split") == "validate")
    of = seen.group_by("method", "replicate", "concept").agg(
        pl.col("composite").fill_null(0).mean()
    )
    of = of.group_by("method", "replicate").agg(
        pl.col("composite").sum() / artifact.facts["passed"]
    )
    return {(method, number): value for method, number, value in of.iter_rows()}


def test_the_hook_point_at_which_a_direction_exists_wins(ran: Any) -> None:
    rows = tables.HOOK_POINTS.read(ran[0])
    of = {r["hook_point"]: r for r in rows.filter(method="mean_difference").to_dicts()}
    assert list(of) == [NOISE, world.HOOK], "the noise stands first: no tie helped"
    assert of[world.HOOK]["chosen"] and not of[NOISE]["chosen"]
    assert of[world.HOOK]["value"] > of[NOISE]["value"] + 0.1
    assert of[world.HOOK]["value"] > of[world.HOOK]["baseline"] + 0.1
    assert (of[world.HOOK]["n"], of[world.HOOK]["n_failed"]) == (ran[0].facts["passed"], 0)
    here = tables.STRENGTHS.read(ran[0]).filter(method="mean_difference", replicate=0)
    lost = here.filter(pl.col("coefficient").is_null(), ~pl.col("reason").str.starts_with("gate"))
    assert of[NOISE]["n_failed"] == lost.height
    assert (of[NOISE]["reason"] is None) == (of[NOISE]["n_failed"] == 0)
    assert ran[0].facts["hook_point_sweep"]["tried"] == [NOISE, world.HOOK]
    assert ran[0].facts["hook_point_sweep"]["chosen"]["mean_difference"] == world.HOOK
    told = score(ran[0], "steer.mean_difference.hook_point_sweep", "all")
    assert told["value"] == pytest.approx(of[world.HOOK]["over_budgets"])
    assert told["reason"].startswith(
        f"{world.HOOK} was chosen among 2 hook points by the mean composite"
    )


def test_every_control_goes_through_the_same_sweep(ran: Any) -> None:
    rows, means = tables.HOOK_POINTS.read(ran[0]), means_on_validate(ran[0])
    assert set(rows["method"]) == {
        "mean_difference", "shuffled_labels_mean_difference", "random_direction",
        "covariance_matched",
    }  # fmt: skip
    directions = rows.filter(pl.col("direction").is_not_null()).group_by("method")
    assert dict(directions.agg(pl.col("direction").n_unique()).iter_rows()) == {
        "random_direction": 6, "covariance_matched": 4,
    }, "with the two that stand in for candidates"  # fmt: skip
    for row in rows.iter_rows(named=True):
        (number,) = row["replicates"]
        assert row["value"] == pytest.approx(means.get((row["method"], number), 0.0)), row
    best = rows.sort("value", maintain_order=True).group_by("method", "direction").last()
    assert best["chosen"].all(), "the larger of two values on validate"
    assert rows["chosen"].sum() == best.height
    counts = ran[0].facts["hook_point_sweep"]["chosen"]["random_direction"]
    assert sum(counts.values()) == 6 and set(counts) == {NOISE, world.HOOK}


def test_test_prompts_see_what_was_chosen_alone(ran: Any) -> None:
    chosen = {
        (row["method"], number): row["chosen"]
        for row in tables.HOOK_POINTS.read(ran[0]).iter_rows(named=True)
        for number in row["replicates"]
    }
    written = tables.GENERATIONS.read(ran[0]).select("method", "replicate", "split").unique()
    swept = [row for row in written.iter_rows() if row[:2] in chosen]
    assert {split for *_, split in swept} == {"validate", "test"}
    assert all(chosen[method, n] for method, n, split in swept if split == "test")
    tested = {(method, n) for method, n, split in swept if split == "test"}
    usable = tables.STRENGTHS.read(ran[0]).drop_nulls("coefficient")
    places = set(usable.select("method", "replicate").iter_rows())
    assert tested == {place for place, is_chosen in chosen.items() if is_chosen and place in places}
    costs = tables.STRENGTHS.read(ran[0]).drop_nulls("kl_elsewhere")
    assert set(costs.filter(method="mean_difference")["replicate"]) == {1}


def test_methods_that_read_the_dictionary_stay_where_it_writes(ran: Any) -> None:
    own = tables.STRENGTHS.read(ran[0]).filter(method="add_direction").drop_nulls("coefficient")
    assert set(own["replicate"]) == {0, 1}, "two candidates at one hook point"
    steering = restored(ran[0], "add_direction", own["concept"][0])
    assert isinstance(steering, AddVector) and steering.hook_point == world.HOOK


def test_a_restored_steering_acts_where_it_was_chosen(ran: Any, two_places: Any) -> None:
    concept = tables.STEERED.read(ran[0]).filter(method="mean_difference")["concept"][0]
    steering = restored(ran[0], "mean_difference", concept)
    assert isinstance(steering, AddVector) and steering.hook_point == world.HOOK
    elsewhere = restored(ran[0], "mean_difference", concept, replicate=0)
    assert isinstance(elsewhere, Vectors) and list(elsewhere.vectors) == [NOISE]
    shards = ActivationShards(two_places["activations"])
    assert elsewhere.units[NOISE] == pytest.approx(shards.mean_norm(NOISE))
    assert float(elsewhere.vectors[NOISE].norm()) == pytest.approx(1)


def test_scores_are_those_of_the_hook_point_that_was_chosen(ran: Any, bench: Bench) -> None:
    """The same as if the method had been told to steer there; controls chose, so they differ."""
    reached = tables.STEERED.read(ran[0]).filter(method="mean_difference")
    plain = SWEPT.model_copy(
        update={"hook_point_sweep": [], "methods": ["mean_difference", "random_direction"]}
        | {"controls": []}
    )
    alone = bench.store.ensure(STEER, plain, bench.inputs, CPU)[0]
    own = tables.STEERED.read(alone).filter(method="mean_difference")
    for name in ("concept", "composite", "uplift", "kl_validate", "dose"):
        assert reached[name].to_list() == pytest.approx(own[name].to_list()), name
    row = score(ran[0], "steer.mean_difference.kl_0.5.composite")
    assert row["baseline_name"] == "Gaussian directions, mean", "no choice among candidates is left"
    assert "mean of 4 controls" in score(ran[0], "steer.mean_difference.kl_0.5.over_controls")["baseline_name"]  # fmt: skip


def test_no_test_prompt_has_a_say_in_the_choice(ran: Any, bench: Bench, two_places: Any) -> None:
    other = {"validate": world.PROMPTS["validate"], "test": ["one two three", "red tree under"]}
    corpus = world.corpus(bench.store, other, number=6)
    again = bench.store.ensure(STEER, SWEPT, two_places | {"corpus": corpus}, CPU)[0]
    assert tables.HOOK_POINTS.read(again).equals(tables.HOOK_POINTS.read(ran[0]))
    assert again.facts["hook_point_sweep"] == ran[0].facts["hook_point_sweep"]
    before, after = (
        tables.GENERATIONS.read(a).filter(pl.col("split") == "test")["text"].to_list()
        for a in (ran[0], again)
    )
    assert before != after


def test_the_sweep_is_foreseen(ran: Any) -> None:
    first, *_, last = ran[1]
    again = next(p for p in ran[1] if " targets pass the gate" in p.message)
    assert first.done == 0 and 0.6 < last.done / again.total < 1.4, "a forecast of tokens"
    n_texts = int(first.message.rpartition(" at most ")[2].partition(" ")[0].replace(",", ""))
    assert ran[0].facts["generations"] <= n_texts
    prompts = {split: [Prompt(i, (0,) * 4) for i in range(6)] for split in ("validate", "test")}
    n = ran[0].facts["passed"]
    meters = {}
    for places in ([], [world.HOOK], [NOISE, world.HOOK]):
        meter = Meter(SWEPT.model_copy(update={"hook_point_sweep": places}), prompts)
        meter.plan(n)
        meters[len(places)] = meter
    # one direction a concept, itself and under a control; 4 and 2 control directions, each with 2
    # stand-ins; two latents a concept
    swept, fixed = 2 * n + 10, 2 * n
    assert [meters[k].directions for k in (0, 1, 2)] == [
        swept + fixed,
        swept + fixed,
        2 * swept + fixed,
    ]
    assert meters[2].directions == ran[0].facts["directions"]
    assert meters[1].texts - meters[0].texts == 2 * n * 6, "controls had their text without a sweep"
    assert meters[2].texts - meters[1].texts == swept * 6
    assert meters[2].rows - meters[1].rows == (2 * n + 10 + 10 * n) * 6
    assert meters[2].total - meters[1].total == swept * meters[0].calibration
    assert meters[0].asked == meters[2].asked


def test_an_empty_sweep_changes_neither_key_nor_files(bench: Bench, two_places: Any) -> None:
    config = SWEPT.model_copy(
        update={"methods": ["mean_difference", "random_direction"], "controls": []}
        | {name: getattr(SteerConfig(), name) for name in ("method_settings", "control_settings")}
    )
    spelled = load(SteerConfig, canonical(config) | {"hook_point_sweep": []})
    assert key_of(STEER, spelled, two_places) == key_of(
        STEER, config.model_copy(update={"hook_point_sweep": []}), two_places
    )
    assert "hook_point_sweep" not in canonical(spelled)
    assert "hook points" not in STEER.entries(spelled)
    made = bench.store.ensure(STEER, spelled, two_places, CPU)[0]
    assert tables.HOOK_POINTS.file not in made.files
    assert "hook_point_sweep" not in made.facts
    assert "hook_point_sweep" not in {row["name"] for row in made.facts["measures"]}
    assert "hook_point_sweep" not in SCORES.read(made)["measure"]
    swept = config.model_copy(update={"hook_point_sweep": [world.HOOK]})
    assert key_of(STEER, swept, two_places) != made.key
    assert STEER.entries(swept)["hook points"] == 1


def test_a_sweep_of_one_hook_point_steers_there(bench: Bench, two_places: Any) -> None:
    config = SWEPT.model_copy(
        update={"methods": ["mean_difference", "random_direction"], "controls": []}
        | {"hook_point_sweep": [NOISE], "concepts": ["topic.animal", "topic.land"]}
    )
    made = bench.store.ensure(STEER, config, two_places, CPU)[0]
    assert made.facts["hook_point_sweep"]["chosen"]["mean_difference"] == NOISE
    assert isinstance(restored(made, "mean_difference", "topic.animal"), Vectors)


def test_a_hook_point_that_was_not_captured_is_named_with_those_that_were(
    bench: Bench, tmp_path: Any
) -> None:
    config = CONFIG.model_copy(update={"hook_point_sweep": [world.HOOK, "attn_out.7"]})
    with pytest.raises(
        InputError,
        match=r"^steer.hook_point_sweep wants attn_out.7, where no activations were captured; add "
        r"it to capture.hook_points, or choose among those that were: resid_post.0$",
    ):
        next(STEER.make(tmp_path, config, bench.inputs, CPU))
    given = {"capture": {"hook_points": ["resid_post.2", "mlp_out.1"]}}
    fine = load(
        ExperimentConfig,
        given | {"steer": {"hook_point_sweep": ["blocks.2.hook_resid_post", "mlp_out.1"]}},
    )
    assert fine.steer.hook_point_sweep == ["resid_post.2", "mlp_out.1"], "canonical names"
    with pytest.raises(
        ConfigError,
        match=r"steer.hook_point_sweep wants mlp_out.9, and capture.hook_points captures "
        r"resid_post.2, mlp_out.1 alone; add it there, or take it out of the sweep",
    ):
        load(ExperimentConfig, given | {"steer": {"hook_point_sweep": ["mlp_out.9"]}})


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"hook_point_sweep": ["resid_post.1", "blocks.1.hook_resid_post"]},
            "steer.hook_point_sweep lists something twice: resid_post.1, resid_post.1; name each once",
        ),
        (
            {"methods": ["add_direction", "random_direction"]},
            "no method to choose a hook point for: of steer.methods .add_direction, random_direction.*"
            "list one that does .*mean_difference.*, or leave the sweep empty",
        ),
        (
            {"method_settings": {"mean_difference": {"hook_points": ["mlp_out.1"]}}},
            "steer.hook_point_sweep chooses where mean_difference steers, and "
            "steer.method_settings.mean_difference.hook_points says where already; leave one",
        ),
    ],
)
def test_a_sweep_that_cannot_be_honoured_says_why(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(SteerConfig, {"hook_point_sweep": ["resid_post.1"]} | given)


def test_a_corpus_without_concepts_leaves_an_empty_table(bench: Bench, tmp_path: Any) -> None:
    unlabelled = toys.artifact(
        Store(tmp_path / "store"), "read", lambda folder: tables.CONCEPTS.write(folder, []), {}
    )
    config = CONFIG.model_copy(update={"hook_point_sweep": [world.HOOK]})
    for _ in STEER.make(tmp_path, config, bench.inputs | {"corpus": unlabelled}, CPU):
        pass
    assert pl.read_parquet(tmp_path / tables.HOOK_POINTS.file).is_empty()


def test_which_methods_can_be_tried_anywhere() -> None:
    able = {name for name, kind in methods.items() if kind.any_hook_point}
    assert able == {
        "mean_difference", "whitened_mean_difference", "paired_difference", "linear_probe",
        "random_direction", "covariance_matched",
    }  # fmt: skip


def test_what_lowers_its_targets_takes_the_hook_point_of_the_largest_fall() -> None:
    given = {("m", c, n): [-0.1 - 0.2 * n] for c in "ab" for n in (0, 1)}
    every = [
        dataclasses.replace(s, candidate=dataclasses.replace(s.candidate, sign=-1))
        for s in (steered(*place) for place in given)
    ]
    control = {("r", None, n): [0.1] for n in (0, 1)}
    seen = texts({**given, **control}, composite=None)
    free = [steered(*place) for place in control]
    decision = Sweep(TRIED, ["m", "r"]).decide(seen, [*every, *free], ["a", "b"], "r")
    assert chosen_of(decision)["m", None] == "late"
    late = next(row for row in rows_of(decision) if row["chosen"] and row["method"] == "m")
    assert (late["value"], late["uplift"]) == (pytest.approx(0.3), pytest.approx(-0.3))
    assert late["baseline"] is None, "directions that chose by their gain are no rival"
