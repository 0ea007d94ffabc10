"""The whole stage on a trained tiny model with planted directions, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from components.concept.gate import ProbeGate
from components.config import canonical, load
from components.device import Execution
from components.dictionary.architectures.topk import TopK, TopKConfig
from components.errors import ConfigError, DictionaryError, InputError, UnknownNameError
from components.report.tables import SCORES
from components.steering.concepts import pick_concepts
from components.steering.config import SteerConfig
from components.steering.contract import judges, methods
from components.steering.steer import STEER
from components.store import tables
from components.store.artifact import Artifact, Store, key_of
from components.store.judgements import judged
from components.store.shards import Codes, write_codes
from components.store.stage import Progress
from tests import toys
from tests.steering import world
from tests.steering.conftest import PLANTED, Bench

CONFIG = SteerConfig(
    max_concepts_per_family=4,
    max_new_tokens=12,
    kl_budgets=[0.5],
    neutral_tokens=300,
    neutral_length=25,
    band_texts=48,
    gate=ProbeGate(min_auroc=0.8, min_lift=0.1),
    method_settings={"add_direction": {"n_candidates": 2}},
)
CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def ran(bench: Bench) -> tuple[Artifact, list[Progress]]:
    seen: list[Progress] = []
    return bench.store.ensure(STEER, CONFIG, bench.inputs, CPU, seen.append)[0], seen


def texts(artifact: Artifact) -> pl.DataFrame:
    """Texts with their judgements."""
    return judged(
        tables.GENERATIONS.read(artifact),
        tables.JUDGEMENTS.read(artifact),
        artifact.facts["measure"],
    )


def score(artifact: Artifact, name: str, kind: str = "document") -> dict[str, Any]:
    found = SCORES.read(artifact).filter(pl.col("name") == name, pl.col("concept_kind") == kind)
    assert found.height == 1, name
    return found.to_dicts()[0]


def test_steering_along_a_planted_direction_raises_the_concept_and_random_directions_do_not(
    ran: tuple[Artifact, list[Progress]],
) -> None:
    for method in ("add_direction", "mean_difference"):
        for name in (f"steer.{method}.kl_0.5.composite", f"steer.{method}.kl_0.5"):
            row = score(ran[0], name)
            assert row["value"] > row["baseline"] + 0.1, name
            assert row["n"] == 4
    assert abs(score(ran[0], "steer.random_direction.kl_0.5")["value"]) < 0.15


def test_the_planted_latents_are_found_on_select(ran: tuple[Artifact, list[Progress]]) -> None:
    best = tables.STRENGTHS.read(ran[0]).filter(
        pl.col("method") == "add_direction", pl.col("replicate") == 0
    )
    latent = dict(best.select("concept", "latent").iter_rows())
    assert [latent[concept] for concept in PLANTED[:5]] == [0, 1, 2, 3, 4]


def test_concepts_that_fail_the_gate_are_left_out_and_counted(
    ran: tuple[Artifact, list[Progress]],
) -> None:
    gate = score(ran[0], "steer.gate.passed", "all")
    assert gate["n"] == len(world.CONCEPTS)
    strengths = tables.STRENGTHS.read(ran[0])
    for concept in ("topic.noise", "word.blue"):
        rows = strengths.filter(pl.col("concept") == concept)
        assert rows["method"].to_list() == ["add_direction", "mean_difference"], (
            "no row of the untrained one"
        )
        assert rows["coefficient"].null_count() == 2
        assert rows["reason"].str.starts_with("gate, probe: ").all()
        assert texts(ran[0]).filter(pl.col("concept") == concept).is_empty()
    assert gate["value"] == pytest.approx(ran[0].facts["passed"] / len(world.CONCEPTS))


def test_what_was_chosen_is_measured_on_other_neutral_text_and_nothing_else_is(
    ran: tuple[Artifact, list[Progress]],
) -> None:
    strengths = tables.STRENGTHS.read(ran[0]).filter(pl.col("coefficient").is_not_null())
    chosen = strengths.filter(pl.col("kl_elsewhere").is_not_null())
    own = chosen.filter(pl.col("method") != "random_direction")
    assert own.height == own.select("concept", "method").n_unique() == 2 * ran[0].facts["passed"]
    assert (chosen["kl_elsewhere"] > 0.05).all() and (chosen["kl_elsewhere"] < 2).all()
    assert (chosen["kl_elsewhere"] != chosen["kl"]).all()
    cost = score(ran[0], "steer.mean_difference.kl_0.5.cost")
    assert (cost["baseline"], cost["n_failed"]) == (0.5, 0)


def test_the_cost_is_told_over_whole_contexts_and_on_the_steered_text_itself(
    bench: Bench, ran: Any
) -> None:
    rows = tables.GENERATIONS.read(ran[0])
    steered = rows.filter(
        ~pl.col("method").str.starts_with("unsteered"), pl.col("text").is_not_null()
    )
    assert set(steered["split"]) == {"validate", "test"}
    assert steered["kl"].null_count() == steered["kl_reverse"].null_count() == 0
    steered = steered.filter(split="test")
    for name in ("cost_whole", "cost_written", "cost_written_reverse"):
        row = score(ran[0], f"steer.mean_difference.kl_0.5.{name}")
        assert (row["baseline"], row["n"], row["n_failed"]) == (0.5, 4, 0)
        assert 0.05 < row["value"] < 5
    loss = score(ran[0], "steer.mean_difference.kl_0.5.loss_whole")
    assert (loss["baseline"], loss["n"], loss["n_failed"]) == (0.0, 4, 0)
    chosen = tables.STEERED.read(ran[0]).filter(method="mean_difference", kl_budget=0.5)
    assert loss["value"] == pytest.approx(
        chosen.filter(concept_kind="document")["loss_whole"].mean()
    )
    specific = score(ran[0], "steer.mean_difference.kl_0.5.specificity")
    assert specific["value"] is not None and specific["n"] == 4
    reverse = score(ran[0], "steer.mean_difference.kl_0.5.cost_written_reverse")["value"]
    own = steered.filter(method="mean_difference", kl_budget=0.5)
    means = own.group_by("concept").agg(pl.col("kl_reverse").mean())
    document = means.filter(pl.col("concept").str.starts_with("topic."))
    assert reverse == pytest.approx(document["kl_reverse"].mean())


def test_what_each_method_reaches_on_each_concept_is_a_table_to_pair_methods_by(ran: Any) -> None:
    reached, rows = tables.STEERED.read(ran[0]), texts(ran[0])
    passed = ran[0].facts["passed"]
    assert dict(reached.group_by("method").len().iter_rows()) == dict.fromkeys(
        [*CONFIG.methods, "unsteered_again"], passed
    )
    means = (
        rows.filter(pl.col("split") == "test")
        .group_by("concept", "method", "kl_budget")
        .agg(
            *(
                pl.col(name).fill_null(0.0).mean().alias(f"wanted_{name}")
                for name in ("composite", "uplift", "fluency")
            )
        )
    )
    both = reached.join(means, on=["concept", "method", "kl_budget"], nulls_equal=True)
    assert both.height == reached.height
    for name in ("composite", "uplift", "fluency"):
        np.testing.assert_allclose(both[name], both[f"wanted_{name}"], atol=1e-9)
    one = score(ran[0], "steer.mean_difference.kl_0.5.composite.concept.topic.land")["value"]
    assert reached.filter(concept="topic.land", method="mean_difference")["composite"][
        0
    ] == pytest.approx(one)


def test_another_judge_may_measure_and_the_judge_of_concepts_then_has_a_score_of_its_own(
    bench: Bench,
) -> None:
    config = CONFIG.model_copy(
        update={"measure": "fluency", "methods": ["mean_difference", "random_direction"]}
    )
    made, _ = bench.store.ensure(STEER, config, bench.inputs, CPU)
    concept = tables.FURTHER_JUDGES.read(made)
    assert (
        set(concept["judge"]) == {"concept"}
        and tables.STEERED.read(made)["fluency"].null_count() == concept.height
    )
    ours = score(made, "steer.mean_difference.kl_0.5.concept")
    assert ours["baseline_name"] == "unsteered text" and ours["value"] > ours["baseline"] + 0.1
    # steered text is no more fluent
    assert score(made, "steer.mean_difference.kl_0.5")["value"] < 0
    assert "fluency" not in SCORES.read(made)["measure"]
    assert {row["name"] for row in made.facts["measures"]} >= {"concept", "composite", "uplift"}


def test_without_an_untrained_dictionary_its_row_is_absent_with_the_reason(ran: Any) -> None:
    row = score(ran[0], "steer.untrained.kl_0.5.composite")
    assert (row["value"], row["n"]) == (None, 0)
    assert row["reason"] == "no codes of an untrained dictionary were given (the input untrained)"


def test_the_untrained_dictionary_goes_through_the_same_choice(bench: Bench, ran: Any) -> None:
    noise = torch.nn.functional.normalize(
        torch.randn(2, 32, generator=torch.Generator().manual_seed(9)), dim=1
    )
    _, codes = world.planted(bench.store, bench.activations, noise, number=7)
    seen: list[Progress] = []
    made = bench.store.ensure(STEER, CONFIG, bench.inputs | {"untrained": codes}, CPU, seen.append)[
        0
    ]
    assert seen[-1].done <= seen[-1].total, "the forecast counts the untrained dictionary"
    at_most = int(seen[0].message.rpartition(" at most ")[2].partition(" ")[0].replace(",", ""))
    assert made.facts["generations"] <= at_most
    strengths = tables.STRENGTHS.read(made).filter(pl.col("method") == "untrained")
    assert strengths.group_by("concept").len()["len"].unique().to_list() == [2], (
        "as many candidates as add_direction"
    )
    rows = texts(made).filter(pl.col("method") == "untrained")
    by_split = (
        rows.group_by("concept", "split")
        .agg(pl.col("replicate").n_unique())
        .select("split", "replicate")
    )
    assert set(by_split.unique().iter_rows()) == {("validate", 2), ("test", 1)}
    assert {name.partition("/")[0] for name in load_file(made.path("directions.safetensors"))} >= {
        "untrained"
    }
    pairs = (
        tables.STEERED.read(made)
        .filter(concept_kind="document")
        .pivot("method", index="concept", values="composite")
    )
    difference = score(made, "steer.add_direction.kl_0.5.over_untrained")
    assert difference["value"] == pytest.approx(
        (pairs["add_direction"] - pairs["untrained"]).mean()
    )
    assert difference["value"] > 0.1 and difference["reason"].startswith(
        "n too small: not even 4 differences"
    )
    trained = score(ran[0], "steer.add_direction.kl_0.5.composite")
    assert score(made, "steer.add_direction.kl_0.5.composite") == trained, (
        "beside it, nothing changes"
    )
    more = made.facts["generations"] - ran[0].facts["generations"]
    most = made.facts["passed"] * (2 * len(world.PROMPTS["validate"]) + len(world.PROMPTS["test"]))
    assert 0 < more <= most


def test_a_corpus_without_concepts_leaves_one_absent_score_with_the_reason(
    bench: Bench, tmp_path: Path
) -> None:
    unlabelled = toys.artifact(
        Store(tmp_path / "store"), "read", lambda folder: tables.CONCEPTS.write(folder, []), {}
    )
    inputs = bench.inputs | {"corpus": unlabelled}
    work = STEER.make(tmp_path, CONFIG, inputs, CPU)
    said = [progress.message for progress in work]
    (told,) = said
    assert told.startswith("nothing to steer: the corpus labels no concept, so none can be judged")
    assert "steer.targets.kind=latents" in told
    (row,) = pl.read_parquet(tmp_path / "scores.parquet").to_dicts()
    assert (row["name"], row["value"], row["n"]) == ("steer.gate.passed", None, 0)
    assert row["reason"].startswith("the corpus labels no concept, so none can be judged")
    assert pl.read_parquet(tmp_path / "generations.parquet").is_empty()
    tried = pl.read_parquet(tmp_path / "battery.parquet")
    assert tried["holds"].null_count() == tried.height == 9
    assert tried["reason"].unique().to_list() == [row["reason"]]


def test_every_strength_costs_its_budget(ran: tuple[Artifact, list[Progress]]) -> None:
    strengths = tables.STRENGTHS.read(ran[0]).filter(pl.col("coefficient").is_not_null())
    assert strengths.height > 10
    assert (strengths["kl"] / strengths["kl_budget"]).is_between(0.9, 1.1).all()
    assert (strengths["coefficient"] > 0).all()


def test_only_validate_prompts_are_written_for_rivals_and_only_the_chosen_reaches_test(
    ran: tuple[Artifact, list[Progress]],
) -> None:
    latents = texts(ran[0]).filter(pl.col("method") == "add_direction")
    by_split = latents.group_by("concept", "split").agg(pl.col("replicate").n_unique())
    assert set(by_split.filter(pl.col("split") == "validate")["replicate"]) == {2}
    assert set(by_split.filter(pl.col("split") == "test")["replicate"]) == {1}
    means = (
        latents.filter(pl.col("split") == "validate")
        .group_by("concept", "replicate")
        .agg(pl.col("composite", "uplift").fill_null(0.0).mean())
    )
    best = means.sort("composite", "uplift").group_by("concept").last()
    used = latents.filter(pl.col("split") == "test").select("concept", "replicate").unique()
    assert used.join(best, on=["concept", "replicate"]).height == best.height


def test_no_test_prompt_and_no_test_activation_has_a_say_in_any_choice(
    bench: Bench, ran: Any, tmp_path: Path
) -> None:
    assert "test" not in bench.activations.facts["splits"], (
        "the stage ran without activations of the test split"
    )
    other = {"validate": world.PROMPTS["validate"], "test": ["one two three", "red tree under"]}
    corpus = world.corpus(bench.store, other, number=1)
    again = bench.store.ensure(STEER, CONFIG, bench.inputs | {"corpus": corpus}, CPU)[0]
    assert tables.STRENGTHS.read(again).equals(tables.STRENGTHS.read(ran[0]))
    key = ["concept", "method", "replicate"]
    used = [
        tables.GENERATIONS.read(a).filter(pl.col("split") == "test").select(key).unique().sort(key)
        for a in (again, ran[0])
    ]
    assert used[0].equals(used[1])


def test_uplift_is_measured_against_the_plain_text_of_the_same_prompt_and_sample(ran: Any) -> None:
    rows = texts(ran[0])
    plain = rows.filter(pl.col("method") == "unsteered").select(
        "concept", "prompt", "sample", p0="target"
    )
    joined = rows.join(plain, on=["concept", "prompt", "sample"], how="left")
    assert joined["p0"].null_count() == 0
    np.testing.assert_allclose(joined["uplift"], joined["target"] - joined["p0"], atol=1e-6)
    assert (joined.filter(pl.col("method") == "unsteered")["uplift"] == 0).all()


def test_every_kind_of_score_is_there(ran: tuple[Artifact, list[Progress]]) -> None:
    frame = SCORES.read(ran[0])
    names = set(frame["name"])
    for method in ("add_direction", "mean_difference"):
        costs = (".cost", ".cost_whole", ".cost_written", ".cost_written_reverse")
        for end in (
            "",
            ".composite",
            ".share_above_random",
            ".fluency",
            *costs,
            ".composite.concept.topic.animal",
        ):
            assert f"steer.{method}.kl_0.5{end}" in names
    assert frame["dictionary"].unique().to_list() == ["topk-24-k6"]
    assert frame["hook_point"].unique().to_list() == [world.HOOK]
    assert frame.filter(pl.col("value").is_null() & pl.col("reason").is_null()).is_empty()
    row = score(ran[0], "steer.add_direction.kl_0.5.composite.concept.topic.animal")
    assert (row["n"], row["unit_of_replication"]) == (len(world.PROMPTS["test"]), "prompt")
    strengths = tables.STRENGTHS.read(ran[0]).filter(pl.col("method") == "random_direction")
    with_strength = strengths.filter(pl.col("coefficient").is_not_null(), pl.col("replicate") < 20)
    assert 17 <= with_strength.height <= 20
    assert row["baseline_name"] == f"largest of {with_strength.height} Gaussian directions"


def test_directions_are_kept_with_norm_one(ran: tuple[Artifact, list[Progress]]) -> None:
    kept = load_file(ran[0].path("directions.safetensors"))
    assert {f"random_direction/{i}" for i in range(22)} < set(kept), (
        "20, and 2 that stand in for candidates"
    )
    assert {
        "add_direction/topic.animal/0",
        "add_direction/topic.animal/1",
        "mean_difference/topic.animal/0",
    } < set(kept)
    assert all(abs(float(v.norm()) - 1) < 1e-5 for v in kept.values())


def test_the_forecast_comes_before_any_work_and_progress_runs_to_the_end(
    ran: tuple[Artifact, list[Progress]],
) -> None:
    first, *_, last = ran[1]
    assert first.done == 0
    assert first.message.startswith(
        f"about {first.total:,} tokens for {len(world.CONCEPTS)} concepts: strengths of "
    )
    done = [progress.done for progress in ran[1]]
    assert done == sorted(done)
    assert 0 < last.done <= last.total
    assert {progress.unit for progress in ran[1]} == {"tokens"}


def test_the_battery_is_tried_on_targets_that_passed_and_changes_no_other_table(
    bench: Bench, ran: Any
) -> None:
    with_battery = ran[0]
    tried = tables.BATTERY.read(with_battery)
    assert set(tried["judge"]) == {"composite", "concept", "fluency"}
    law = tried.filter(judge="composite", trick="empty").to_dicts()[0]
    assert 1 < law["n"] <= with_battery.facts["passed"] and 24 <= law["n_cells"] <= 60
    assert law["holds"] and law["n_failed"] == law["n_cells"]
    row = score(with_battery, "steer.battery", "all")
    nearest = tried.filter(judge="composite").sort("low", nulls_last=True).to_dicts()[0]
    assert (row["value"], row["low"], row["n"]) == (nearest["value"], nearest["low"], nearest["n"])
    assert (row["role"], row["baseline"], row["better"]) == ("control", 0.0, "higher")
    assert row["reason"].startswith("the law holds against ")
    off = CONFIG.model_copy(update={"battery": False})
    without = bench.store.ensure(STEER, off, bench.inputs, CPU)[0]
    assert tables.BATTERY.file not in without.files
    for name in set(without.files) - {"scores.parquet"}:
        assert without.path(name).read_bytes() == with_battery.path(name).read_bytes(), name
    scores = SCORES.read(with_battery).filter(pl.col("measure") != "battery")
    assert SCORES.read(without).equals(scores)
    facts = {name: with_battery.facts[name] for name in without.facts if name != "tokens"}
    assert facts == {name: value for name, value in without.facts.items() if name != "tokens"}
    assert without.facts["tokens"] < with_battery.facts["tokens"]


def test_the_same_inputs_give_the_same_text_whatever_the_batch(
    bench: Bench, ran: Any, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"batch_size": 50})
    assert key_of(STEER, config, bench.inputs) == ran[0].key, "the batch size is no choice"
    work = STEER.make(tmp_path, config, bench.inputs, CPU)
    for _ in work:
        pass
    again = pl.read_parquet(tmp_path / "generations.parquet")
    assert again["text"].equals(tables.GENERATIONS.read(ran[0])["text"])


def test_a_corpus_without_a_split_or_without_prompts_says_what_to_set(
    bench: Bench, tmp_path: Path
) -> None:
    def run(corpus: Artifact) -> None:
        for _ in STEER.make(tmp_path, CONFIG, bench.inputs | {"corpus": corpus}, CPU):
            pass

    bare = world.corpus(bench.store, world.PROMPTS, number=2, drop="judge")
    with pytest.raises(
        InputError, match="steering needs the split 'judge'.*set read.splits.judge above 0"
    ):
        run(bare)
    mute = world.corpus(bench.store, {"validate": ["the"], "test": []}, number=3)
    with pytest.raises(
        InputError,
        match="steering needs prompts of the split 'test'.*set read.prompts_test above 0",
    ):
        run(mute)


def test_a_dictionary_or_codes_of_other_activations_are_refused(
    bench: Bench, tmp_path: Path
) -> None:
    def run(**changes: Artifact) -> None:
        for _ in STEER.make(tmp_path, CONFIG, bench.inputs | changes, CPU):
            pass

    narrow = TopK(TopKConfig(d_sae=4, k=1), (world.HOOK,), (world.HOOK,), {world.HOOK: 8})
    trained = toys.artifact(bench.store, "train", narrow.save, {"name": narrow.name}, 1)
    with pytest.raises(
        DictionaryError, match=r"topk-4-k1 writes 8 coordinates at resid_post.0, and .* have 32"
    ):
        run(dictionary=trained)

    def write(folder: Path) -> None:
        write_codes(folder, "select", 0, Codes.from_dense(torch.ones(3, 24)))

    few = toys.artifact(bench.store, "encode", write, {"d_sae": 24}, 1)
    with pytest.raises(
        InputError, match=r"has codes of 3 select tokens, and [\d,]+ were captured; encode these"
    ):
        run(codes=few)


INVENTORY = pl.DataFrame(
    [("topic.a", "document", "document", "topics"), ("topic.b", "document", "document", "topics")]
    + [(f"word.{i}", "surface", "token", "words") for i in range(6)]
    + [("day", "contextual", "token", "days")],
    schema=["concept", "concept_kind", "unit", "family"],
    orient="row",
)


def test_document_concepts_are_all_taken_and_others_up_to_a_number_in_each_family() -> None:
    picked = [c.name for c in pick_concepts(INVENTORY, SteerConfig(max_concepts_per_family=2))]
    assert picked[:2] == ["topic.a", "topic.b"]
    assert picked[-1] == "day"
    assert len(picked) == 5
    assert (
        picked
        == [
            c.name
            for c in pick_concepts(INVENTORY.reverse(), SteerConfig(max_concepts_per_family=2))
        ][::-1]
    )


def test_a_new_concept_displaces_at_most_one_of_its_family() -> None:
    config = SteerConfig(max_concepts_per_family=3)
    before = {
        c.name for c in pick_concepts(INVENTORY.filter(pl.col("concept") != "word.5"), config)
    }
    after = {c.name for c in pick_concepts(INVENTORY, config)}
    assert len(before - after) <= 1


def test_concepts_are_picked_by_pattern() -> None:
    picked = [c.name for c in pick_concepts(INVENTORY, SteerConfig(concepts=["topic.*", "word.3"]))]
    assert picked == ["topic.a", "topic.b", "word.3"]


def test_a_pattern_without_a_match_lists_what_there_is() -> None:
    with pytest.raises(
        InputError, match=r"steer.concepts wants topix.a, and of 9 .* none matches; .*'topic.a'"
    ):
        pick_concepts(INVENTORY, SteerConfig(concepts=["topix.a"]))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"methods": ["add_direction", "add_direction"]}, "a steering method is listed twice"),
        (
            {"method_settings": {"add_directoin": {}}},
            "no parameter 'method_settings.add_directoin'; .*add_direction",
        ),
        (
            {
                "methods": ["mean_difference"],
                "method_settings": {"add_direction": {"n_candidates": 2}},
            },
            "settings for add_direction; steering methods listed: mean_difference",
        ),
        (
            {"judges": ["fluency"]},
            "uplift is what the judge 'concept' says; judges listed: fluency",
        ),
        ({"kl_budgets": [float("inf")]}, "kl_budgets"),
        ({"kl_budgets": [0.0]}, "kl_budgets"),
        ({"kl_budgets": [0.1, 0.1]}, "a KL budget is listed twice"),
        ({"judge_settings": {"concept": {"min_aurok": 1}}}, "min_aurok"),
        (
            {"measure": "fluency", "judges": ["concept"]},
            "uplift is what the judge 'fluency' says; judges listed: conc",
        ),
    ],
)
def test_a_config_that_cannot_be_honoured_says_why(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        load(SteerConfig, given)


def test_a_method_may_not_take_the_name_of_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("untrained", "untrained_clamp", "unsteered"):
        monkeypatch.setitem(methods._entries, name, methods["mean_difference"])
        with pytest.raises(ConfigError, match=f"may not be called '{name}'"):
            SteerConfig().model_copy(update={"methods": [name]})._fits()


def test_a_judge_may_not_take_the_name_of_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "uplift",
        "composite",
        "text",
        "cost",
        "share_above_random",
        "concept_judge",
        "latent",
    ):
        monkeypatch.setitem(judges._entries, name, judges["fluency"])
        with pytest.raises(ConfigError, match=f"may not be called '{name}'"):
            SteerConfig().model_copy(update={"judges": ["concept", name]})._fits()


def test_settings_enter_the_key_as_in_older_files_and_a_default_that_is_spelled_out_does_not(
    bench: Bench,
) -> None:
    bare = key_of(STEER, SteerConfig(), bench.inputs)
    spelled = {
        "method_settings": {"add_direction": {"n_candidates": 4}},
        "judge_settings": {"concept": {}},
    }
    assert key_of(STEER, load(SteerConfig, spelled), bench.inputs) == bare
    changed = load(SteerConfig, {"method_settings": {"add_direction": {"n_candidates": 2}}})
    assert canonical(changed) == {
        "targets": {"kind": "labels"},
        "method_settings": {"add_direction": {"n_candidates": 2}},
    }
    assert key_of(STEER, changed, bench.inputs) != bare


def test_the_form_draws_a_field_for_every_setting_of_every_entry() -> None:
    schema = SteerConfig.model_json_schema()
    for section, registry in (("SteeringMethodSettings", methods), ("JudgeSettings", judges)):
        drawn = schema["$defs"][section]["properties"]
        assert set(drawn) == set(registry.names())
        for name, entry in registry.items():
            assert set(schema["$defs"][entry.config.__name__]["properties"]) == set(
                entry.config.model_fields
            ), name


def test_the_key_knows_the_versions_of_methods_and_judges() -> None:
    assert dict(STEER.entries(SteerConfig(methods=["mean_difference"], judges=["concept"]))) == {
        "steering method.mean_difference": 1,
        "judge.concept": 2,
        "targets.labels": 1,
        "probe": 1,
        "classifier": 1,
    }
    assert canonical(SteerConfig()) == {"targets": {"kind": "labels"}}
