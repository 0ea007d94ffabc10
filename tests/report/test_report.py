"""The report holds every score it is given, says the same in every form, and hides nothing that
came out, for us or against."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from components.errors import InputError, StoreError
from components.report import order, reasons, tables
from components.report.measure import Measures
from components.report.report import REPORT, ReportConfig, markdown
from components.report.sentences import Told, tell
from components.store.artifact import Store
from components.store.stage import Progress, Stage
from components.store.tables import CONTRASTS
from tests.report.rows import MEASURES, Made, explained, found, score, scored, steered
from tests.report.rows import report_frame as frame


def shortened(rows: pl.DataFrame) -> pl.DataFrame:
    return order.shortened(rows, MEASURES)


def ordered(rows: pl.DataFrame) -> pl.DataFrame:
    return order.ordered(rows, MEASURES)


def absent(rows: pl.DataFrame) -> list[str]:
    return reasons.absent(rows, MEASURES)


def told(
    *rows: dict,
    differences: pl.DataFrame | None = None,
    trained: dict | None = None,
    contrasts: list[dict] | None = None,
) -> Told:
    return tell(
        frame(*rows),
        MEASURES,
        tables.DIFFERENCES.frame([]) if differences is None else differences,
        trained or {},
        None if contrasts is None else CONTRASTS.frame(contrasts),
    )


def difference(score_of: dict, rival: str, outcome: str, **others) -> dict:
    (row,) = frame(score_of).select(*tables.PLACE, "name", "better").to_dicts()
    numbers = {
        "ours": 0.2,
        "theirs": 0.4,
        "difference": -0.2,
        "low": -0.3,
        "high": -0.1,
        "p": 0.001,
        "p_holm": 0.004,
    }
    about = {
        "paired": True,
        "n": 40,
        "unit_of_replication": "concept",
        "n_clusters": 12,
        "n_families": 12,
        "n_tests": 4,
    }
    return {**row, "rival": rival, "outcome": outcome, **numbers, **about, **others}


def test_the_report_holds_every_score_with_the_artifact_it_came_from(store: Store) -> None:
    evaluate = scored(store, "evaluate", score("fvu", 0.02), score("l0", None))
    steer = scored(store, "steer", steered(0.4))
    report, _ = store.ensure(REPORT, ReportConfig(), {"steer": steer, "evaluate": evaluate})
    table = tables.REPORT.read(report)
    assert table["name"].to_list() == ["evaluate.fvu", "evaluate.l0", "steer.add_direction.kl_0.1"]
    assert table["artifact"].to_list() == [evaluate.key, evaluate.key, steer.key]
    assert json.loads(report.path("report.json").read_text()) == table.to_dicts()
    assert report.path("report.md").read_text() == markdown(table, MEASURES, Told.of(report))
    assert Measures.read(report).keys() == MEASURES.keys()
    assert report.facts["n_scores"] == 3
    assert tables.DIFFERENCES.read(report).height == 0  # no stage wrote a table of items


def test_inputs_without_scores_are_links_only(store: Store) -> None:
    train, _ = store.ensure(Stage("train", 1, _nothing), Made(), {})
    evaluate = scored(store, "evaluate", score("fvu", 0.02))
    report, _ = store.ensure(
        REPORT, ReportConfig(), {"train": train, "evaluate": evaluate, "steer": None}
    )
    assert tables.REPORT.read(report).height == 1
    with pytest.raises(
        InputError, match="a report wants artifacts with scores.parquet .*; got train"
    ):
        store.ensure(REPORT, ReportConfig(), {"train": train})


def test_scores_of_an_earlier_version_are_refused_in_one_sentence_and_stay_as_they_are(
    store: Store,
) -> None:
    """As evaluate wrote them before scores had columns: a name, and nothing declared."""

    def before(folder: Path, config: Made, inputs, settings):
        pl.DataFrame({"name": ["evaluate.fvu"], "value": [0.02]}).write_parquet(
            folder / tables.SCORES.file
        )
        yield from _nothing(folder, config, inputs, settings)
        return {}

    old, _ = store.ensure(Stage("evaluate", 1, before), Made(), {})
    kept = old.path(tables.SCORES.file).read_bytes()
    with pytest.raises(
        InputError,
        match=f"^the scores of evaluate/{old.key} were written by an earlier version .* again",
    ):
        store.ensure(REPORT, ReportConfig(), {"evaluate": old})
    with pytest.raises(
        StoreError,
        match=f"the table scores of evaluate/{old.key}, without the columns stage, entry, measure",
    ):
        tables.SCORES.read(old)
    assert old.path(tables.SCORES.file).read_bytes() == kept
    every = tables.SCORES.scan_all(store).collect()
    # SQL still reads them
    assert every.select("name", "value", "stage").rows() == [("evaluate.fvu", 0.02, None)]


def test_two_measurements_of_one_score_are_refused(store: Store) -> None:
    first = scored(store, "evaluate", score("fvu", 0.02))
    second = scored(store, "evaluate", score("fvu", 0.03))
    with pytest.raises(
        InputError, match=f"'evaluate.fvu' for the same dictionary .* came from .*{first.key}"
    ):
        store.ensure(REPORT, ReportConfig(), {"evaluate": first, "again": second})


def test_headline_reads_in_order_and_absent_values_have_no_row() -> None:
    rows = frame(
        steered(0.4),
        found(0.1, concept_kind="document"),
        found(0.15, concept_kind="surface"),
        found(0.2, concept_kind="all"),
        found(0.3, measure="concepts_ap", concept_kind="document"),
        found(0.4, measure="concepts_ap", concept_kind="surface"),
        found(0.35, measure="concepts_ap", concept_kind="all"),
        score("l0", 16.0),
        score("fvu", 0.1),
        explained(None, reason="no latents"),
    )
    first = [
        ("evaluate.fvu", None),
        ("evaluate.l0", None),
        ("evaluate.concepts_found.latent", "all"),
        ("evaluate.concepts_found.latent", "surface"),
        ("evaluate.concepts_found.latent", "document"),
        ("evaluate.concepts_ap.latent", "all"),
    ]
    last = [("steer.add_direction.kl_0.1", None)]
    kinds = [
        ("evaluate.concepts_ap.latent", "surface"),
        ("evaluate.concepts_ap.latent", "document"),
    ]
    assert [
        (row["name"], row["concept_kind"]) for row in shortened(rows).to_dicts()
    ] == first + last
    assert [
        (row["name"], row["concept_kind"]) for row in ordered(rows).to_dicts()
    ] == first + kinds + last


def test_the_short_table_has_at_most_thirty_rows_and_keeps_the_headlines() -> None:
    kinds = ("all", "surface", "contextual", "document")
    units = ("latent", "neuron", "untrained", "probe")
    rows = [
        found(0.1 + 0.01 * number, unit, f"concepts_{measure}", concept_kind=kind)
        for measure in ("auroc", "ap", "found")
        for unit in units
        for number, kind in enumerate(kinds)
    ]
    rows += [
        steered(0.1 + 0.01 * number, "composite", method, budget, concept_kind=kind, role=role)
        for budget in (0.1, 0.02, 1e-5)
        for method, role in (("add_direction", "entry"), ("mean_difference", "baseline"))
        for number, kind in enumerate(kinds)
    ]
    rows.append(score("fvu", 0.02))
    short = [(row["name"], row["concept_kind"]) for row in shortened(frame(*rows)).to_dicts()]
    assert len(short) == 30 and ordered(frame(*rows)).height == len(rows)
    assert short[0] == ("evaluate.fvu", None)
    names = ("evaluate.concepts_found.latent", "steer.add_direction.kl_0.1.composite")
    wanted = {(name, kind) for kind in kinds for name in names}
    assert wanted <= set(short)
    # a later budget waits for the first one's rows
    assert not any("kl_1e-05" in name for name, _ in short)
    assert ("evaluate.concepts_auroc.neuron", "surface") not in short


def test_a_kind_of_concept_that_is_the_only_one_is_told_once() -> None:
    one = [found(0.2, concept_kind=kind) for kind in ("all", "document")]
    assert shortened(frame(*one))["concept_kind"].to_list() == ["document"]
    two = [*one, found(0.3, concept_kind="surface")]
    assert shortened(frame(*two))["concept_kind"].to_list() == ["all", "surface", "document"]
    differ = [one[0], {**one[1], "value": 0.25}]  # not the same numbers: nothing is hidden
    assert shortened(frame(*differ))["concept_kind"].to_list() == ["all", "document"]
    nothing = [{**row, "value": None, "reason": "no concept passed the gate"} for row in one]
    assert len(absent(frame(*nothing))) == 1


def test_what_has_no_value_is_one_line_for_each_reason_with_the_setting_that_would_change_it() -> (
    None
):
    unlabelled = "the corpus labels no concept"
    rows = frame(
        score("fvu", 0.02),
        *(
            found(None, measure=f"concepts_{name}", reason=unlabelled)
            for name in ("found", "ap", "auroc")
        ),
        score("gate.passed", None, "steer", reason=f"{unlabelled}, so none can be judged"),
        explained(None, explainer="x", reason=None),
        explained(0.2, "simulation", explainer="x"),
    )
    lines = absent(rows)
    assert lines == [
        "evaluate.concepts_found.latent, evaluate.concepts_ap.latent, "
        "evaluate.concepts_auroc.latent: the corpus labels no "
        "concept; label concepts with read.word_lists or read.corpus.label_columns",
        "interpret.x.detection: the stage interpret gives no reason; its settings: `latentflow "
        "params`, section interpret",
        "all of steer: the corpus labels no concept, so none can be judged; label concepts with "
        "read.word_lists or read.corpus.label_columns",
    ]
    assert shortened(rows)["name"].to_list() == ["evaluate.fvu", "interpret.x.simulation"]


def test_a_reason_that_names_its_setting_is_left_as_it_is() -> None:
    reason = "steer.judges does not list fluency"
    rows = frame(steered(None, "fluency", reason=reason), score("gate.passed", 1.0, "steer"))
    assert absent(rows) == [f"steer.add_direction.kl_0.1.fluency: {reason}"]


def test_remarks_on_rows_that_have_a_value_are_said_once() -> None:
    reason = "3 of 4 concepts did not pass the gate (3 by the probe)"
    rows = [
        score("gate.passed", 0.25, "steer", reason=reason, concept_kind=kind)
        for kind in ("all", "surface")
    ]
    assert reasons.caveats(frame(*rows), MEASURES) == [f"steer.gate.passed (surface): {reason}"]


def test_markdown_shows_values_intervals_baselines_and_why_values_are_absent() -> None:
    rows = frame(
        score("fvu", 0.02, low=0.01, high=0.03, baseline=0.5, baseline_name="untrained"),
        score("l0", None, n=0, reason="no rows | none"),
    )
    text = markdown(rows, MEASURES, Told(training="training had converged: FVU 0.02 against 0.021"))
    assert (
        "| evaluate.fvu |  | 0.02 | 0.01 to 0.03 | 10 documents | 0 | 0.5 (untrained) | lower |"
        in text
    )
    assert (
        "- evaluate.l0: no rows \\| none; list test in capture.splits and raise read.splits.test"
        in text
    )
    assert "Nothing: no rival does better beyond what chance explains." in text
    assert "training had converged: FVU 0.02 against 0.021" in text


def test_a_name_of_the_users_is_no_markdown() -> None:
    row = score("[/b] _g_ <b>$a$ `c`", 0.2)
    text = markdown(frame(row), MEASURES, Told(against_us=["[a](b) *c* _d_ e_f"]))
    assert r"\[/b\] \_g\_ \<b\>\$a\$ \`c\`" in text
    assert r"\[a\](b) \*c\* \_d\_ e_f" in text


def test_differences_by_item_are_told_with_their_kinds_together_and_wins_as_well_as_losses() -> (
    None
):
    name = "evaluate.concepts_found.latent"
    rows = [
        found(0.2, low=0.1, high=0.3, concept_kind=kind, baseline=0.4, baseline_name="raw neurons")
        for kind in ("surface", "document")
    ]
    given = tables.DIFFERENCES.frame(
        [
            difference(
                found(0.2), "raw neurons", "against us", concept_kind="document", n_clusters=40
            ),
            difference(found(0.2), "raw neurons", "against us", concept_kind="surface"),
            difference(
                found(0.2),
                "the untrained dictionary",
                "for us",
                concept_kind="surface",
                ours=0.2,
                theirs=0.1,
                difference=0.1,
                low=0.05,
                high=0.15,
            ),
            difference(
                found(0.2),
                "the untrained dictionary",
                "undecided",
                concept_kind="document",
                detectable=0.25,
                p_holm=0.3,
                n_clusters=4,
                n_families=4,
            ),
        ]
    )
    sentences = told(*rows, differences=given)
    assert sentences.against_us == [
        "evaluate.concepts_found.latent: worse than raw neurons (paired, Holm over 4): surface "
        "0.2 against 0.4, difference -0.2 (-0.3 to -0.1), p 0.004, 40 concepts in 12 families; "
        "document 0.2 against 0.4, difference -0.2 (-0.3 to -0.1), p 0.004, 40 concepts in 12 "
        "families, too few to resample whole"
    ]
    (won,) = sentences.for_us
    assert won.startswith(
        f"{name}: better than the untrained dictionary (paired, Holm over 4): surface 0.2 against "
        "0.1"
    )
    (open_,) = sentences.undecided
    assert open_.endswith("40 concepts in 4 families, n too small to see any")


def test_a_baseline_without_items_is_told_as_unpaired() -> None:
    row = score("fvu", 0.2, low=0.1, high=0.3, baseline=0.05, baseline_name="untrained dictionary")
    assert told(row).against_us == [
        "evaluate.fvu: ours 0.2, untrained dictionary 0.05 (unpaired, the baseline has no "
        "interval of its own; outside our 95% interval 0.1 to 0.3, over 10 documents)"
    ]
    assert told({**row, "baseline": 0.5}).for_us and not told({**row, "baseline": 0.5}).against_us
    assert len(told({**row, "baseline": 0.25}).undecided) == 1
    nothing = told({**row, "better": "neither"})
    assert not (nothing.for_us or nothing.against_us or nothing.undecided)


def test_chance_is_a_number_and_not_an_unpaired_rival() -> None:
    chance = {
        "low": 0.2,
        "high": 0.4,
        "baseline": 1 / 6,
        "baseline_name": "chance of being the largest of 6 equals",
    }
    (sentence,) = told(steered(0.3, "share_above_random", **chance)).for_us
    assert "unpaired" not in sentence and "outside our 95% interval 0.2 to 0.4" in sentence


def test_a_rival_outside_our_interval_is_not_enough_its_own_interval_must_be_apart() -> None:
    ours = found(0.2, low=0.1, high=0.3, concept_kind="all")
    theirs = found(0.35, "untrained", low=0.25, high=0.45, concept_kind="all")
    (sentence,) = told(ours, theirs).undecided
    assert "unpaired; their 95% intervals meet" in sentence
    (sentence,) = told(ours, {**theirs, "low": 0.31}).against_us
    assert "intervals apart" in sentence
    assert told(ours, {**theirs, "concept_kind": "document"}).undecided == []
    (sentence,) = told(ours, {**theirs, "low": None, "high": None}).undecided
    assert "one of them has no interval" in sentence


def test_a_ceiling_is_no_rival() -> None:
    rows = [
        found(0.5, low=0.4, high=0.6),
        found(1.0, "probe", low=0.9, high=1.0),
    ]
    rows.append(
        score(
            "sparse_probing",
            0.4,
            k=1,
            low=0.3,
            high=0.5,
            baseline=1.0,
            baseline_name="linear probe",
        )
    )
    nothing = told(*rows)
    assert not (nothing.for_us or nothing.against_us or nothing.undecided)


def test_single_concepts_are_counted_and_named() -> None:
    whole = steered(0.4, "composite")
    outcomes = {"sea": "against us", "war": "for us", "tea": "undecided"}
    rows = [steered(0.2, "composite", concept=name, low=0.1, high=0.3) for name in outcomes]
    about = {"n_tests": 3, "unit_of_replication": "prompt", "n_families": None}
    given = [difference(row, "largest of 5", outcomes[row["concept"]], **about) for row in rows]
    sentences = told(whole, *rows, differences=tables.DIFFERENCES.frame(given))
    assert sentences.against_us == [
        "steer.add_direction.kl_0.1.composite: worse than the largest of 5 on 1 of 3 single "
        "concepts (paired by prompt, Holm over 3): sea"
    ]
    assert sentences.for_us[0].endswith(
        "on 1 of 3 single concepts (paired by prompt, Holm over 3): war"
    )
    assert shortened(frame(whole, *rows))["concept"].to_list() == [None]


def contrast(method: str, value: float | None, **others) -> dict:
    """A row of a method against the controls, of the tested family where it has a corrected p."""
    about = {
        "other": "controls",
        "kl_budget": 0.2,
        "measure": "composite",
        "n": 14,
        "n_failed": 0,
        "n_controls": 24,
        "visible": 0.05,
    }
    family = "primary" if others.get("p_holm") is not None else None
    return {"method": method, "value": value, "family": family, **about, **others}


def test_steerings_headline_is_told_from_the_table_of_contrasts() -> None:
    methods = {"add_direction": "entry", "clamp": "entry", "ablate": "entry"}
    methods |= {"mean_difference": "baseline"}
    rows = [
        steered(0.1, measure, method, budget, role=role, concept_kind="all",
                low=0.05, high=0.15, baseline=0.02, baseline_name="controls, chosen likewise")
        for measure in ("composite", "over_controls")
        for method, role in methods.items()
        for budget in (0.1, 0.2)
        if measure == "over_controls" or role == "entry"
    ]  # fmt: skip
    few = "the mean of 10 controls, wanted at least 20"
    given = [
        contrast("add_direction", 0.04, low=0.02, high=0.06, p=0.001, p_holm=0.004),
        contrast("add_direction", 0.01, low=-0.01, high=0.03, p=0.4, kl_budget=0.1),
        contrast("clamp", -0.04, low=-0.06, high=-0.02, p=0.01, p_holm=0.03, n_failed=2),
        contrast("ablate", 0.01, low=-0.02, high=0.04, p=0.5, p_holm=0.5, reason=few),
        contrast("mean_difference", 0.3, low=0.2, high=0.4, p=0.001, p_holm=0.004),
        contrast("ablate", 0.2, other="clamp", p=0.001, p_holm=0.001, family="pairs"),
    ]
    sentences = told(*rows, contrasts=given)
    choice = "controls that went through the same choice (composite of target and fluency, paired"
    each = "14 targets, each weighing the same"
    assert sentences.for_us == [
        f"steer.add_direction.kl_0.2.over_controls: better than the mean of 24 {choice} by target, "
        f"Holm over 4 methods): difference +0.04 (0.02 to 0.06), p 0.004, {each}; at other "
        "budgets, not tested: KL 0.1 +0.01 (-0.01 to 0.03)"
    ]
    assert sentences.against_us == [
        f"steer.clamp.kl_0.2.over_controls: worse than the mean of 24 {choice} by target, Holm "
        f"over 4 methods): difference -0.04 (-0.06 to -0.02), p 0.03, {each}, 2 of them without "
        "text (counted as 0)"
    ]
    assert sentences.undecided == [
        f"steer.ablate.kl_0.2.over_controls: not told apart from the mean of 24 {choice} by "
        f"target, Holm over 4 methods): difference +0.01 (-0.02 to 0.04), p 0.5, {each}, 0.05 "
        f"would be seen; {few}"
    ]
    # composite and over_controls are told once: unpaired and uncorrected they are told only where
    # the stage wrote no such table
    assert not any("unpaired" in each for each in (*sentences.for_us, *sentences.undecided))
    assert any("over_controls" in each and "outside" in each for each in told(*rows).for_us)


def test_too_few_targets_for_any_test_are_said_to_be_too_few() -> None:
    row = steered(0.1, "over_controls", budget=0.2, concept_kind="document")
    given = [contrast("add_direction", 0.2, low=0.1, high=0.3, p=0.25, p_holm=0.25, n=3)]
    (sentence,) = told(row, contrasts=given).undecided
    assert sentence.endswith("p 0.25, 3 targets, n too small to see any")


@pytest.mark.parametrize(
    ("facts", "line", "against"),
    [
        ({}, None, False),
        ({"converged": True, "convergence": "x"}, "training had converged: x", False),
        (
            {"converged": True, "convergence": "training had converged: x"},
            "training had converged: x",
            False,
        ),
        (
            {"converged": False, "convergence": "FVU halves with each doubling"},
            "training had not converged: FVU halves with each doubling",
            True,
        ),
        ({"converged": False, "converged_reason": "y"}, "training had not converged: y", True),
        ({"converged": None}, "whether training had converged is not known", False),
    ],
)
def test_whether_training_had_converged_is_said_and_counts_against_us(
    facts: dict, line: str | None, against: bool
) -> None:
    sentences = told(score("fvu", 0.1), trained=facts)
    assert sentences.training == line
    assert (line in sentences.against_us) == against


def test_training_is_read_from_the_train_artifact(store: Store) -> None:
    def unfinished(folder: Path, config: Made, inputs, settings):
        yield from _nothing(folder, config, inputs, settings)
        return {"converged": False, "convergence": "it still falls"}

    train, _ = store.ensure(Stage("train", 1, unfinished), Made(), {})
    evaluate = scored(store, "evaluate", score("fvu", 0.02))
    report, _ = store.ensure(REPORT, ReportConfig(), {"train": train, "evaluate": evaluate})
    assert Told.of(report).training == "training had not converged: it still falls"
    assert "training had not converged: it still falls" in Told.of(report).against_us


def test_an_empty_table_has_an_empty_headline_and_nothing_to_tell() -> None:
    empty = tables.REPORT.frame([])
    assert shortened(empty).height == 0 and absent(empty) == []
    assert tell(empty, MEASURES, tables.DIFFERENCES.frame([]), {}) == Told([], [], [], None)


def _nothing(folder: Path, config: Made, inputs, settings):
    (folder / "note.json").write_text("{}")
    yield Progress(1, 1, "files")
    return {}
