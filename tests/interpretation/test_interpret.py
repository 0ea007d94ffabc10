"""The stage: planted latents are told from shuffled ones, and whoever fails stays in the count."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from components.config import load, override
from components.errors import ConfigError, InputError, UnknownNameError
from components.interpretation.averages import normalised_row
from components.interpretation.config import InterpretConfig
from components.interpretation.contract import LatentRecord, Predictor
from components.interpretation.controls import shuffled
from components.interpretation.declared import measures
from components.interpretation.explanation import Explanation
from components.interpretation.interpret import INTERPRET
from components.interpretation.key import Key
from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.protocol import draw, score
from components.interpretation.scorers.detection import Detection, DetectionConfig
from components.interpretation.scorers.fuzzing import Fuzzing
from components.interpretation.services import PredictorServices
from components.interpretation.summary import Scored, rows
from components.interpretation.trials import Answer, LatentScore, Question, ScorePart, Unit
from components.interpretation.windows import Texts
from components.report.scores import headlines, table
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact, Store, key_of
from tests import toys
from tests.interpretation.planted import (
    AFTER,
    D_SAE,
    EVERYWHERE,
    NOISE,
    PHRASES,
    RARE,
    SENSE,
    Planted,
    finished,
)
from tests.interpretation.windows_of import PREDICTOR, SCORER


def scores_of(interpreted: Artifact) -> dict[str, dict]:
    return {row["name"]: row for row in SCORES.read(interpreted).iter_rows(named=True)}


def test_the_right_strings_detect_planted_latents_and_shuffled_strings_do_not(
    records: dict[int, LatentRecord],
) -> None:
    chosen = [records[latent] for latent in PHRASES]
    right = [Explanation(phrase) for phrase in PHRASES.values()]
    wrong = shuffled(chosen, right, np.random.default_rng(0))
    detection, lexical = Detection(DetectionConfig(), SCORER), Lexical(LexicalConfig(), PREDICTOR)
    trials = draw(detection, chosen, 0)
    found = finished(score("right", chosen, trials, right, detection, lexical, 0))
    for latent, each in zip(PHRASES, found, strict=True):
        # the word that decides may stand before the window
        assert each.value > (0.9 if latent == SENSE else 0.95)
    floor = finished(score("wrong", chosen, trials, wrong, detection, lexical, 0))
    assert 0.45 < np.mean([each.value for each in floor]) < 0.55


class Constant(Predictor):
    """Says the same of every window."""

    kind = "constant"

    gives = frozenset({"windows"})
    reads_pool = True
    says: ClassVar[float]

    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        for question in questions:
            yield Answer(np.full(len(question.texts.tokens), self.says))


@pytest.mark.parametrize("says", [0.0, 1.0, None])
def test_always_yes_always_no_and_an_empty_string_are_exactly_at_chance(
    records: dict[int, LatentRecord], says: float | None
) -> None:
    chosen = [records[latent] for latent in PHRASES]
    detection = Detection(DetectionConfig(), SCORER)
    trials = draw(detection, chosen, 0)
    if says is None:  # no word stands in it; an explainer may not even write it
        reader, text = Lexical(LexicalConfig(), PREDICTOR), "   "
        assert Explanation.of(text).text is None
    else:
        reader, text = Constant(LexicalConfig(), PREDICTOR), "anything"
        reader.says = says
    found = finished(
        score("", chosen, trials, [Explanation(text)] * len(chosen), detection, reader, 0)
    )
    for each in found:
        assert each.value == 0.5
        natural = each.strata["average_precision"]
        assert natural.value == pytest.approx(natural.chance, abs=1e-12)
        others = {name: part.value for name, part in each.strata.items()}
        del others["average_precision"]
        assert set(others.values()) == {0.5} and len(others) >= 16


def test_nothing_that_predictors_see_holds_an_activation(records: dict[int, LatentRecord]) -> None:
    seen = {field.name for field in dataclasses.fields(Question)}
    assert seen == {"explanation", "texts", "marks", "group"}
    assert {field.name for field in dataclasses.fields(Texts)} == {"tokens", "vocabulary"}
    services = {field.name for field in dataclasses.fields(PredictorServices)}
    assert not services & {"codes", "activations", "records", "dictionary", "trained"}


def test_detection_of_a_ubiquitous_latent_is_null_for_whoever_answers(
    interpreted: Artifact,
) -> None:
    frame = tables.EXPLANATION_SCORES.read(interpreted).filter(pl.col("latent") == EVERYWHERE)
    detection = frame.filter(pl.col("scorer") == "detection")
    assert detection["value"].null_count() == detection.height == 5
    assert set(detection["reason"]) == {"active in over a third of windows"}
    assert frame.filter(pl.col("scorer") == "simulation")["value"].null_count() == 0
    strata = tables.EXPLANATION_STRATA.read(interpreted)
    strata = strata.filter(pl.col("latent") == EVERYWHERE, pl.col("control").is_null())
    assert set(strata["scorer"]) == {"simulation"}
    facts, found = interpreted.facts, scores_of(interpreted)
    assert (facts["ubiquitous"], facts["rare"]) == (1, 1)
    assert found["interpret.ubiquitous_share"]["value"] == pytest.approx(1 / 18)
    assert found["interpret.rare_share"]["value"] == pytest.approx(1 / 18)
    assert facts["unfilled"]["random"] == 1 and facts["unfilled"]["same_token"] > 12
    assert 500 < facts["pool"] < 2000  # all there are


def test_the_latents_that_are_active_together_are_kept_in_a_table(interpreted: Artifact) -> None:
    frame = tables.COOCCURRING.read(interpreted)
    assert set(frame["latent"].to_list()) <= set(range(D_SAE))
    assert frame["latent"].n_unique() == 18
    assert (frame["neighbour"] != frame["latent"]).all()
    assert frame["jaccard"].is_between(0, 1).all()
    falling = frame.sort("latent", "rank").group_by("latent", maintain_order=True).agg("jaccard")
    assert all(values == sorted(values, reverse=True) for values in falling["jaccard"].to_list())


def test_the_explainer_detects_every_planted_latent(interpreted: Artifact) -> None:
    frame = tables.EXPLANATION_SCORES.read(interpreted).filter(
        pl.col("latent").is_in(list(PHRASES))
    )
    detection = frame.filter((pl.col("scorer") == "detection") & (pl.col("role") == "entry"))
    assert detection.height == len(PHRASES)
    assert detection.filter(pl.col("latent") != SENSE)["value"].min() > 0.95
    assert detection["value"].min() > 0.9
    floor = frame.filter((pl.col("scorer") == "detection") & (pl.col("role") == "floor"))
    assert 0.45 < floor["value"].mean() < 0.55


def test_a_latent_of_pure_noise_is_not_detected(interpreted: Artifact) -> None:
    frame = tables.EXPLANATION_SCORES.read(interpreted).filter(pl.col("latent") == NOISE)
    for row in frame.filter(pl.col("scorer") == "detection").iter_rows(named=True):
        assert 0.3 < row["value"] < 0.7, row["role"]


def test_every_score_stands_beside_its_floor_and_the_probe(interpreted: Artifact) -> None:
    found = scores_of(interpreted)
    for scorer, chance in (("detection", 0.5), ("simulation", 0.0)):
        explained, floor = (
            found[f"interpret.log_odds.{scorer}"],
            found[f"interpret.shuffled.{scorer}"],
        )
        assert explained["baseline"] == floor["value"]
        assert explained["baseline_name"] == "shuffled explanations"
        assert (floor["baseline"], floor["baseline_name"]) == (chance, "chance")
        assert found[f"interpret.probe.{scorer}"]["value"] > 0.8
        over = found[f"interpret.log_odds.{scorer}.over_floor"]
        assert over["value"] == pytest.approx(explained["value"] - floor["value"])
        assert over["low"] > 0.3
    for row in found.values():
        assert row["low"] <= row["value"] <= row["high"]
        if row["measure"].endswith(".normalised"):  # never clipped
            continue
        least = (
            0
            if "detection" in row["name"] and "over" not in row["name"]
            else -2
            if "over" in row["name"]
            else -1
        )
        assert least <= row["low"] and row["high"] <= (2 if "simulation.over" in row["name"] else 1)
        assert (row["dictionary"], row["hook_point"]) == (f"planted-{D_SAE}", "resid_post.0")
        assert (row["unit_of_replication"], row["n_seeds"]) == ("latent", 1)
        assert row["split"] == ("explain" if row["name"] == "interpret.dead_share" else "test")
        assert row["concept_kind"] is None


def test_the_control_is_drawn_explained_and_scored_alike(interpreted: Artifact) -> None:
    found = scores_of(interpreted)
    theirs = tables.CONTROL_SCORES.read(interpreted)
    assert interpreted.facts["controls"] == {"untrained": 19}  # none of its latents is dead
    for scorer, chance in (("detection", 0.5), ("simulation", 0.0)):
        row, ours = found[f"interpret.untrained.{scorer}"], found[f"interpret.log_odds.{scorer}"]
        of = theirs.filter((pl.col("scorer") == scorer) & (pl.col("role") == "entry"))
        assert (row["n"], of.height) == (19, 19)
        assert row["value"] == pytest.approx(of["value"].mean())
        assert abs(row["value"] - chance) < 0.05  # nothing was planted in it
        assert row["baseline_name"] == "its shuffled explanations"
        over = found[f"interpret.log_odds.{scorer}.over_untrained"]
        assert over["value"] == pytest.approx(ours["value"] - row["value"])
        assert over["low"] > 0.2
        n = {"detection": 17, "simulation": 18}[scorer] + 19  # of one of ours there is no detection
        assert (over["n"], over["baseline"], over["reason"]) == (n, 0.0, None)
        assert (
            found[f"interpret.log_odds.{scorer}.random"]["baseline_name"] == "untrained dictionary"
        )
    assert set(theirs["role"]) == {"entry", "floor"} and set(theirs["explainer"]) == {"log_odds"}
    assert set(theirs.filter(pl.col("explanation").is_null())["value"]) <= {0.5, 0.0}
    kept = tables.CONTEXTS.read(interpreted).filter(pl.col("latent") == NOISE)
    assert kept.height == kept["window"].n_unique()  # the control's windows are not among them


def test_a_dictionary_beside_itself_is_not_told_from_it(planted: Planted, tmp_path: Path) -> None:
    given = {**planted.inputs, "untrained": planted.inputs["codes"]}
    made = Store(tmp_path).ensure(INTERPRET, InterpretConfig(), given)[0]
    found = scores_of(made)
    over = found["interpret.log_odds.detection.over_untrained"]
    assert over["value"] == 0 and over["low"] < 0 < over["high"]
    assert (
        over["reason"]
        == "the interval holds 0: this score does not tell the dictionary from the untrained dictionary"
    )
    for stratum in ("strongest", "weakest", "random", "same_token", "macro"):
        row = found[f"interpret.log_odds.detection.{stratum}"]
        assert row["value"] == row["baseline"]


def test_without_a_control_its_rows_have_a_reason(planted: Planted, tmp_path: Path) -> None:
    given = {role: artifact for role, artifact in planted.inputs.items() if role != "untrained"}
    made = Store(tmp_path).ensure(INTERPRET, InterpretConfig(latents=4), given)[0]
    found = scores_of(made)
    for name in ("interpret.untrained.detection", "interpret.log_odds.detection.over_untrained"):
        assert found[name]["value"] is None
        assert found[name]["reason"] == (
            "no codes of the untrained dictionary were given to interpret; a run of the chain "
            "(latentflow interpret) makes them"
        )
    assert found["interpret.log_odds.detection.random"]["value"] is not None
    assert found["interpret.log_odds.detection.random"]["baseline"] is None
    assert tables.CONTROL_SCORES.read(made).height == 0


def test_the_control_changes_nothing_of_what_is_interpreted(
    planted: Planted, interpreted: Artifact, tmp_path: Path
) -> None:
    given = {role: artifact for role, artifact in planted.inputs.items() if role != "untrained"}
    alone = Store(tmp_path).ensure(INTERPRET, InterpretConfig(), given)[0]
    for each in (tables.CONTEXTS, tables.EXPLANATIONS, tables.EXPLANATION_SCORES):
        assert each.read(alone).equals(each.read(interpreted))


def test_strata_stand_for_each_latent_and_their_means_in_the_scores(interpreted: Artifact) -> None:
    found = scores_of(interpreted)
    frame = tables.EXPLANATION_STRATA.read(interpreted).filter(pl.col("control").is_null())
    mine = frame.filter((pl.col("role") == "entry") & (pl.col("scorer") == "detection"))
    deciles = [f"decile_{number}" for number in range(1, 11)]
    kinds = ("random", "same_token", "neighbour", "near")
    for stratum in ("strongest", "weakest", *deciles, *kinds, "macro", "average_precision"):
        values, row = (
            mine.filter(pl.col("stratum") == stratum)["value"],
            found[f"interpret.log_odds.detection.{stratum}"],
        )
        assert (row["value"], row["n"]) == (pytest.approx(values.mean()), len(values))
    wide = (
        mine.filter(pl.col("latent") == AFTER)
        .pivot("stratum", index="latent", values="value")
        .row(0, named=True)
    )
    # some latents have no silent window with their word: that kind is in nobody's macro mean
    without = [wide[kind] for kind in kinds if kind != "same_token"]
    assert wide["macro"] == pytest.approx(np.mean(without))
    tenths = [wide[decile] for decile in deciles]
    assert wide["strongest"] == pytest.approx(np.mean(tenths[:3]))
    assert wide["same_token"] > 0.9  # the word alone does not tell: `after` does
    row = found["interpret.log_odds.detection.same_token"]
    assert row["n"] < 17 and row["reason"] == f"{17 - row['n']} of 17 latents have no such window"
    natural = found["interpret.log_odds.detection.average_precision"]
    assert natural["baseline"] == pytest.approx(
        mine.filter(pl.col("stratum") == "average_precision")["chance"].mean()
    )
    assert natural["baseline_name"] == "chance at natural density"


def test_skipped_latents_stay_in_the_count_at_chance(interpreted: Artifact) -> None:
    found = scores_of(interpreted)
    assert (
        found["interpret.log_odds.detection"]["n"],
        found["interpret.log_odds.detection"]["n_failed"],
    ) == (17, 1)
    assert found["interpret.log_odds.detection"]["reason"] == (
        "1 of 18 latents have none: active in over a third of windows; "
        "1 of 17 latents stand at chance"
    )
    assert found["interpret.log_odds.simulation"]["reason"] == "2 of 18 latents stand at chance"
    assert found["interpret.skipped_share"]["value"] == pytest.approx(2 / 18)
    assert found["interpret.dead_share"]["value"] == pytest.approx(1 / D_SAE)
    frame = tables.EXPLANATION_SCORES.read(interpreted)
    mean = frame.filter((pl.col("scorer") == "detection") & (pl.col("role") == "entry"))[
        "value"
    ].mean()
    assert found["interpret.log_odds.detection"]["value"] == pytest.approx(mean)
    failed = frame.filter(pl.col("latent").is_in([RARE, EVERYWHERE]))
    assert set(failed.filter(pl.col("scorer") == "detection")["value"].drop_nulls()) == {0.5}
    assert set(failed.filter(pl.col("scorer") == "simulation")["value"]) == {0.0}
    told = failed.filter(pl.col("value").is_not_null())
    assert (told["n_failed"] == told["n"]).all()
    assert failed["low"].null_count() == failed.height
    said = tables.EXPLANATIONS.read(interpreted).filter(pl.col("latent") == RARE).row(0, named=True)
    assert said["explanation"] is None
    assert said["reason"] == (
        "3 active windows in the explain split, wanted at least 10 (interpret.contexts.fewest); "
        "more text there would give more (read.splits.explain)"
    )


def test_the_contexts_table_holds_windows_as_text(interpreted: Artifact) -> None:
    frame = tables.CONTEXTS.read(interpreted)
    assert set(frame["split"]) == {"explain", "calibrate", "test"}
    assert frame.filter(pl.col("role") == "silent")["maximum"].max() == 0
    assert frame.filter(pl.col("role") != "silent")["maximum"].min() > 0
    assert (
        frame.filter(pl.col("role") == "silent")["quantile"].null_count()
        == (frame["role"] == "silent").sum()
    )
    assert (
        frame.filter(pl.col("role") != "silent")["stratum"].null_count()
        == (frame["role"] != "silent").sum()
    )
    assert (frame["tokens"].list.len() == frame["activations"].list.len()).all()
    assert (frame["activations"].list.max() == frame["maximum"]).all()
    assert frame["tokens"].list.first().str.starts_with(" ").all()


def test_facts_count_what_was_done(interpreted: Artifact) -> None:
    facts = interpreted.facts
    assert (facts["latents"], facts["skipped"], facts["dead"]) == (18, 2, 1)
    assert facts["explained"] == {"log_odds": 16, "token_lookup": 16}
    assert facts["windows"] == tables.CONTEXTS.read(interpreted).height


def test_the_same_inputs_give_the_same_bytes(planted: Planted, tmp_path: Path) -> None:
    config = InterpretConfig(latents=4)
    once, again = (
        Store(tmp_path / name).ensure(INTERPRET, config, planted.inputs)[0] for name in ("a", "b")
    )
    assert once.manifest["files"] == again.manifest["files"]
    assert once.key == again.key


def test_a_dictionary_without_an_alive_latent_gives_nulls_with_a_reason(
    planted: Planted, tmp_path: Path
) -> None:
    def write(folder: Path) -> None:
        source = planted.inputs["codes"]
        for name in source.files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(source.path(name).read_bytes())
        tables.LATENTS.write(folder, tables.LATENTS.read(source).with_columns(n_active=0))

    store = Store(tmp_path)
    dead = toys.artifact(store, "encode", write, planted.inputs["codes"].facts)
    found = scores_of(
        store.ensure(
            INTERPRET,
            InterpretConfig(controls=["untrained", "random"]),
            {**planted.inputs, "codes": dead},
        )[0]
    )
    assert found["interpret.random.detection"]["n"] == 0
    row = found["interpret.log_odds.detection"]
    assert (row["value"], row["n"]) == (None, 0)
    assert row["reason"] == (
        "no latent is active on the split that they are drawn from: the dictionary is dead there "
        "(train.tokens, train.lr)"
    )
    reasons = {name: row["reason"] for name, row in found.items() if row["value"] is None}
    assert all(reasons.values()) and len(reasons) > 20
    assert found["interpret.dead_share"]["value"] == 1.0


def test_a_split_that_was_not_encoded_is_refused_with_the_setting(
    planted: Planted, tmp_path: Path
) -> None:
    def write(folder: Path) -> None:
        source = planted.inputs["codes"]
        for name in source.files:
            if not name.startswith("calibrate"):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(source.path(name).read_bytes())

    short = toys.artifact(Store(tmp_path), "encode", write, planted.inputs["codes"].facts)
    with pytest.raises(
        InputError, match=r"and the codes hold no calibrate; add to encode\.splits$"
    ):
        Store(tmp_path).ensure(INTERPRET, InterpretConfig(), {**planted.inputs, "codes": short})


def test_where_nothing_can_be_explained_every_row_says_why(
    planted: Planted, tmp_path: Path
) -> None:
    config = override(InterpretConfig(latents=4), {"explainer_settings.log_odds.z": 1000.0})
    found = scores_of(Store(tmp_path).ensure(INTERPRET, config, planted.inputs)[0])
    why = "the first because: no readable word stands out where it is active, with a z of at least 1000 in 2 documents "
    for name, all_of in (("", "4 latents"), (".over_untrained", "latents of both")):
        row = found[f"interpret.log_odds.detection{name}"]
        assert row["n_failed"] == row["n"]
        assert row["reason"].startswith(f"all {all_of} stand at chance, {why}")


def test_a_corpus_without_a_vocabulary_is_refused(planted: Planted, tmp_path: Path) -> None:
    bare = toys.artifact(Store(tmp_path), "read", lambda folder: None, {})
    with pytest.raises(InputError, match="needs the vocabulary of the corpus; artifact read/"):
        Store(tmp_path).ensure(INTERPRET, InterpretConfig(), {**planted.inputs, "corpus": bare})


def test_settings_are_found_by_the_name_of_the_entry(planted: Planted) -> None:
    config = override(InterpretConfig(), {"explainer_settings.log_odds.terms": 1})
    assert key_of(INTERPRET, config, planted.inputs) != key_of(
        INTERPRET, InterpretConfig(), planted.inputs
    )
    with pytest.raises(
        UnknownNameError, match=r"no parameter 'explainer_settings\.log_odds\.term'.*did you mean"
    ):
        override(InterpretConfig(), {"explainer_settings.log_odds.term": 1})


def test_what_changes_no_result_changes_no_key(planted: Planted) -> None:
    key = key_of(INTERPRET, InterpretConfig(), planted.inputs)
    said = {
        "explainer_settings": {"log_odds": {"terms": 12, "z": 2.0}},
        "scorers": ["simulation", "detection"],
    }
    assert key_of(INTERPRET, load(InterpretConfig, said), planted.inputs) == key
    assert load(InterpretConfig, said).scorers == ["detection", "simulation"]


def test_settings_of_an_entry_that_is_not_listed_are_refused() -> None:
    wanted = r"settings for simulation; scorers listed: detection"
    with pytest.raises(ConfigError, match=wanted):
        load(
            InterpretConfig,
            {"scorers": ["detection"], "scorer_settings": {"simulation": {"resamples": 9}}},
        )
    unchanged = {"scorers": ["detection"], "scorer_settings": {"simulation": {"resamples": 200}}}
    assert load(InterpretConfig, unchanged) == InterpretConfig(scorers=["detection"])


def test_an_unknown_or_repeated_entry_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("scorers.0: Input should be")):
        load(InterpretConfig, {"scorers": ["detecton"]})
    with pytest.raises(ConfigError, match="a scorer is listed twice: detection, detection"):
        load(InterpretConfig, {"scorers": ["detection", "detection"]})
    with pytest.raises(ConfigError, match="explainers: List should have at least 1 item"):
        load(InterpretConfig, {"explainers": []})


def scored_of(values: dict[tuple[str, str | None], float]) -> Scored:
    """role and explainer -> the value of three latents."""
    part = {"average_precision": ScorePart(0.6, 0.3, 10)}
    scores = {
        Key(role, explainer, "detection", "lexical" if explainer else None): [
            LatentScore(value, None, None, 10, strata=part)
        ]
        * 3
        for (role, explainer), value in values.items()
    }
    return Scored(scores, ("log_odds", {"detection": "lexical"}), {"detection": Detection})


def test_a_control_is_scored_beside_the_others_and_ranked_nowhere(offline: Artifact) -> None:
    found = scores_of(offline)
    for name in ("token_lookup", "constant"):
        for scorer in ("detection", "fuzzing"):
            row = found[f"interpret.{name}.{scorer}"]
            assert (row["role"], row["subject"], row["entry"], row["n"]) == (
                "control",
                None,
                name,
                17 if scorer == "detection" else 18,
            )
            assert row["baseline"] == found[f"interpret.shuffled.{name}.{scorer}"]["value"]
            assert f"interpret.{name}.{scorer}.over_floor" in found
            assert not any(f".{name}.{scorer}.over_untrained" in other for other in found)
            assert f"interpret.untrained.{name}.{scorer}" not in found
    assert found["interpret.constant.fuzzing"]["value"] == 0.5
    assert found["interpret.token_lookup.detection"]["value"] > 0.8
    table = tables.EXPLANATION_SCORES.read(offline)
    roles = dict(
        table.filter(pl.col("role") != "floor")
        .select("explainer", "role")
        .unique()
        .drop_nulls()
        .iter_rows()
    )
    assert {name for name, role in roles.items() if role == "control"} == {
        "token_lookup",
        "constant",
    }
    assert set(tables.CONTROL_SCORES.read(offline)["explainer"]) == {
        "log_odds",
        "logistic",
        "logit_lens",
        "concept_match",
    }
    shown = headlines(SCORES.read(offline), measures([Detection, Fuzzing]))
    short = [name for name, _, row in shown if row["role"] == "control"]
    # by its name: nobody takes it for an explanation's
    assert "explanation_fuzzing_token_lookup" in short


def test_what_is_given_is_scored_like_the_others_and_of_one_dictionary(offline: Artifact) -> None:
    found = scores_of(offline)
    row = found["interpret.given.fuzzing"]
    # of 18 latents ten were given
    assert (row["role"], row["n"], row["n_failed"]) == ("entry", 18, 8)
    assert row["value"] > 0.7
    assert found["interpret.given.fuzzing.over_floor"]["low"] > 0
    for name in ("interpret.untrained.given.fuzzing", "interpret.given.fuzzing.over_untrained"):
        assert found[name]["value"] is None
        assert (
            found[name]["reason"]
            == "given holds explanations of one dictionary, and none of the untrained dictionary"
        )
    assert found["interpret.given.detection.strongest"]["baseline"] is None


def test_an_explainer_that_knows_nothing_gives_nulls_with_a_reason(offline: Artifact) -> None:
    said = tables.EXPLANATIONS.read(offline).filter(pl.col("latent") == 0)
    reasons = dict(
        said.filter(pl.col("explanation").is_null()).select("explainer", "reason").iter_rows()
    )
    assert reasons == {
        "concept_match": "the corpus has no labelled concepts",
        "logit_lens": "no promoted tokens: no model with logits, or a direction that is not added to its residual stream",
    }


def test_every_stratum_of_fuzzing_stands_in_the_scores(offline: Artifact) -> None:
    found = scores_of(offline)
    for stratum in ("silent", "active"):
        row = found[f"interpret.logistic.fuzzing.{stratum}"]
        assert row["value"] > 0.8 and row["baseline_name"] == "untrained dictionary"
        assert abs(row["baseline"] - 0.5) < 0.1


def test_other_bytes_in_the_same_file_are_another_artifact(
    planted: Planted, tmp_path: Path
) -> None:
    path = tmp_path / "known.csv"
    config = override(
        InterpretConfig(explainers=["given"]), {"explainer_settings.given.path": str(path)}
    )
    path.write_text("latent,text\n0,the sea\n")
    before = key_of(INTERPRET, config, planted.inputs)
    assert key_of(INTERPRET, config, planted.inputs) == before
    path.write_text("latent,text\n0,the shore\n")
    assert key_of(INTERPRET, config, planted.inputs) != before
    path.unlink()
    with pytest.raises(InputError, match=r"known\.csv is not there; wanted "):
        key_of(INTERPRET, config, planted.inputs)


def test_explanations_are_as_long_as_the_setting_allows(planted: Planted, tmp_path: Path) -> None:
    config = InterpretConfig(
        latents=12, explainers=["log_odds", "token_lookup", "constant"], longest=45
    )
    config = override(config, {"explainer_settings.constant.text": "x" * 46})
    made = Store(tmp_path).ensure(INTERPRET, config, planted.inputs)[0]
    said = tables.EXPLANATIONS.read(made)
    lengths = (
        said.drop_nulls("explanation")
        .group_by("explainer")
        .agg(pl.col("explanation").str.len_chars().max())
    )
    assert set(lengths["explainer"]) == {"log_odds", "token_lookup"}
    assert 0 < lengths["explanation"].max() <= 45
    of_constant = said.filter(
        pl.col("explainer") == "constant", ~pl.col("reason").str.contains("windows")
    )
    assert set(of_constant["reason"]) == {
        "it has 46 characters, wanted at most 45 characters (interpret.longest; 512 where it was "
        "given)"
    }
    assert key_of(INTERPRET, InterpretConfig(longest=200), planted.inputs) == key_of(
        INTERPRET, InterpretConfig(), planted.inputs
    )


def test_a_second_explainer_has_its_own_floor_and_its_own_control() -> None:
    ours = {
        ("entry", "log_odds"): 0.8,
        ("entry", "other"): 0.9,
        ("floor", "log_odds"): 0.5,
        ("floor", "other"): 0.6,
    }
    theirs = {
        ("entry", "log_odds"): 0.7,
        ("entry", "other"): 0.95,
        ("floor", "log_odds"): 0.55,
        ("floor", "other"): 0.65,
    }
    given = rows(scored_of(ours | {("ceiling", None): 1.0}), {"untrained": scored_of(theirs)}, 0)
    found = {
        row["name"]: row
        for row in table("interpret", given, measures([Detection])).iter_rows(named=True)
    }
    assert found["interpret.other.detection"]["baseline"] == pytest.approx(0.6)
    assert found["interpret.other.detection.over_floor"]["value"] == pytest.approx(0.3)
    assert found["interpret.log_odds.detection.over_floor"]["value"] == pytest.approx(0.3)
    assert found["interpret.probe.detection"]["baseline"] == pytest.approx(0.5)
    assert found["interpret.shuffled.other.detection"]["baseline_name"] == "chance"
    assert found["interpret.untrained.detection"]["value"] == pytest.approx(0.7)
    assert found["interpret.untrained.detection"]["baseline"] == pytest.approx(0.55)
    assert found["interpret.untrained.other.detection"]["baseline"] == pytest.approx(0.65)
    assert found["interpret.log_odds.detection.over_untrained"]["value"] == pytest.approx(0.1)
    assert found["interpret.other.detection.over_untrained"]["value"] == pytest.approx(-0.05)
    assert found["interpret.other.detection.over_untrained"]["n"] == 6


def test_the_normalised_score_is_a_ratio_of_means_and_null_without_room() -> None:
    def of(*values: float) -> list[LatentScore]:
        return [LatentScore(value, None, None, 20) for value in values]

    ours, floor = of(0.9, 0.6, 0.4), of(0.5, 0.4, 0.6)
    draws = np.random.default_rng(0)
    row = normalised_row(ours, floor, of(1.0, 0.5, 0.9), Detection, draws)
    # the mean of the single ratios would be 0.71
    assert row["value"] == pytest.approx((0.4 + 0.2 - 0.2) / (0.5 + 0.1 + 0.3))
    assert row["low"] < row["value"] < row["high"] and row["n"] == 3
    # better than the probe, worse than the floor: neither is clipped
    half, probe = of(0.5, 0.5), of(0.75, 0.75)
    assert normalised_row(of(1, 1), half, probe, Detection, draws)["value"] == 2
    assert normalised_row(of(0, 0), half, probe, Detection, draws)["value"] == -2
    little = normalised_row(ours, floor, of(0.5, 0.5, 0.64), Detection, draws)
    assert little.get("value") is None and little["reason"] == (
        "the probe is 0.047 above the floor, wanted at least 0.05: there is nothing to normalise by"
    )
    measure = measures([Detection])["interpret", "detection.normalised"]
    assert (measure.better, measure.short) == ("neither", "")  # ranked nowhere


def test_versions_of_the_entries_used_are_part_of_the_key() -> None:
    assert INTERPRET.entries(InterpretConfig(scorers=["simulation"])) == {
        "explainer.log_odds": 1,
        "explainer.token_lookup": 1,
        "predictor.lexical": 1,
        "scorer.simulation": 2,
    }
