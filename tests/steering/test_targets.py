"""Kinds of target: latents of the dictionary without any label, sets of texts, and sentences."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from components.client.contract import Reply
from components.corpus.encoding import Encoder
from components.errors import ConfigError, InputError
from components.model.text_encoder import TextEncoderConfig, TextEncoderReference
from components.report.tables import SCORES
from components.steering.asked import client_of, is_asked
from components.steering.config import SteerConfig
from components.steering.contract import Evidence
from components.steering.fitting import Fitting, places_of
from components.steering.latent_targets import Latents
from components.steering.steer import STEER
from components.steering.targets.latents import stratified
from components.steering.targets.sets import DEALT
from components.store import tables
from components.store.artifact import Artifact
from components.store.shards import ActivationShards, CodeShards
from tests import toys
from tests.client.servers import Act, answer, serving
from tests.interpretation.knowing import settings_of
from tests.steering import world
from tests.steering.conftest import Bench

WINDOWS = {"width": 12, "windows": 16, "fewest": 4, "max_density": 0.9}
SETTINGS = {
    "judges": ["readback", "fluency"],
    "measure": "readback",
    "judge_settings": {"readback": {"silent": 0.0}},
    "max_new_tokens": 12,
    "kl_budgets": [0.5],
    "headline_budget": 0.5,
    "neutral_tokens": 300,
    "neutral_length": 25,
    "band_texts": 48,
}


def config(targets: Mapping[str, Any], **changes: Any) -> SteerConfig:
    return SteerConfig.model_validate({**SETTINGS, "targets": targets, **changes})


def latents(bench: Bench, **changes: Any) -> Latents:
    targets = {"kind": "latents", "n": 6, "explained": False, "windows": WINDOWS} | changes
    found = bench.targeted(config(targets))
    assert isinstance(found, Latents)
    return found


def evidence(found: Latents) -> Evidence:
    return found.evidence(range(len(found.concepts)), 0)


def test_a_latents_two_sides_are_its_top_windows_and_windows_in_which_it_is_silent(
    bench: Bench,
) -> None:
    found = latents(bench)
    codes = CodeShards(bench.codes).codes("select").matrix().toarray()
    whole = evidence(found)
    assert whole.select_rows is not None
    for column, concept in enumerate(found.concepts):
        alone = whole.alone(column)
        assert [each.name for each in alone.concepts] == [concept.name]
        assert alone.select_rows is not None and concept.latent is not None
        own = codes[alone.select_rows, concept.latent]
        inside = alone.labels.toarray().ravel()
        assert (own[~inside] == 0).all(), "what counts as without it is silent"
        per_window = [own[alone.document == d].max() for d in np.unique(alone.document[inside])]
        assert min(per_window) > 0
        assert 0 < inside.sum() < len(inside)
        x = torch.cat([block for _, block in alone.batches(alone.hook_point)])
        assert len(x) == len(inside) == len(alone.token) == alone.codes.shape[0]  # type: ignore[union-attr]
        assert alone.one_sided(0) is None


def test_rows_that_are_on_neither_side_are_left_out(bench: Bench) -> None:
    whole = evidence(latents(bench))
    assert whole.without is not None
    assert whole.labels.multiply(whole.without).nnz == 0
    neither = len(whole.token) - np.asarray((whole.labels + whole.without).sum(0)).ravel()
    assert (neither > 0).any()
    for column in range(len(whole.concepts)):
        assert len(whole.alone(column).token) == len(whole.token) - neither[column]


def test_a_passage_has_a_latent_where_the_unsteered_model_says_so(bench: Bench) -> None:
    found = latents(bench)
    cut = found.cut("judge", 3, 12)
    assert 0 < cut.labels.mean() < 1
    dictionary, latent = evidence(found).dictionary, found.concepts[0].latent
    assert dictionary is not None and latent is not None
    # the toy model is read over whole contexts, so only the first passage of a context is read alike
    tokens = torch.tensor([[1, *cut.openings[0], *cut.tokens[0]]])
    read = bench.model.read(tokens, list(dictionary.reads))
    codes = dictionary.encode({name: x[0] for name, x in read.items()}).dense()
    inside = codes[1 + len(cut.openings[0]) :, latent]
    assert bool((inside > 0).any()) == bool(cut.labels[0, 0])


def test_latents_come_from_every_stratum_and_the_same_again(bench: Bench) -> None:
    first, again = latents(bench), latents(bench)
    assert [c.name for c in first.concepts] == [c.name for c in again.concepts]
    strata = {first.told(column)["stratum"] for column in range(len(first.concepts))}
    assert len(strata) == len(first.concepts) == 6
    parts = stratified([np.arange(8.0), np.array([3.0, 9, np.nan, 8, 2, 7, 1, 6])], 4)
    assert parts.max() == 1 and len(np.unique(parts, axis=0)) == 4


def test_without_a_label_methods_are_compared_on_latents(bench: Bench, tmp_path: Path) -> None:
    bare = toys.artifact(
        bench.store,
        "read",
        lambda folder: _unlabelled(bench.corpus, folder),
        bench.corpus.facts,
        77,
    )
    methods = ["add_direction", "mean_difference", "logit_bias", "prompt", "random_direction"]
    given = config(
        {"kind": "latents", "n": 4, "explained": False, "windows": WINDOWS},
        methods=methods,
        method_settings={"random_direction": {"n_directions": 4}, "prompt": {"n_candidates": 1}},
        test_prompts=6,
        validate_prompts=6,
    )
    made, _ = bench.store.ensure(STEER, given, bench.inputs | {"corpus": bare}, world.CPU)
    targets = tables.TARGETS.read(made)
    assert targets.height == 4 and targets["passed"].sum() == made.facts["passed"] > 1
    own = tables.STEERED.read(made).filter(method="add_direction")
    assert own["concept"].to_list() == [f"latent.{latent}" for latent in own["latent"]]
    scores = SCORES.read(made)
    for method in methods[:-1]:
        rows = scores.filter(pl.col("measure") == "composite", pl.col("entry") == method)
        assert rows["value"].drop_nulls().len() > 0, method
    against = tables.CONTRASTS.read(made)
    primary = against.filter(family="primary")
    assert primary["method"].to_list() == ["add_direction", "mean_difference", "logit_bias"]
    assert primary["p_holm"].null_count() == 0
    assert (primary["p_holm"] >= primary["p"]).all()
    again = scores.filter(pl.col("entry") == "unsteered_again", pl.col("measure") == "composite")
    assert again["value"].null_count() == 0


def _unlabelled(corpus: Artifact, folder: Path) -> None:
    for name in corpus.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(corpus.path(name).read_bytes())
    for table in (tables.CONCEPTS, tables.LABELS):
        table.write(folder, [])


def interpreted(bench: Bench, said: Mapping[int, str], number: int = 0) -> Artifact:
    """Explanations of some latents, with scores."""

    def write(folder: Path) -> None:
        rows = [
            {"latent": i, "explainer": "given", "explanation": text} for i, text in said.items()
        ]
        tables.EXPLANATIONS.write(folder, rows)
        scored = {
            "role": "entry",
            "explainer": "given",
            "scorer": "detection",
            "predictor": "lexical",
        }
        tables.EXPLANATION_SCORES.write(
            folder, [{"latent": i, "value": i / 10, "n": 8, "n_failed": 0} | scored for i in said]
        )
        shared = {"scorer": "output_score", "measure": "output_score.mass", "n": 8, "n_failed": 0}
        tables.LATENT_SCORES.write(
            folder, [{"latent": i, "value": 1 - i / 10} | shared for i in said]
        )

    return toys.artifact(bench.store, "interpret", write, {}, number)


WORDS = ("cats and dogs", "a king and a queen", "a tree by the river", "a house", "noise")


def said(bench: Bench) -> dict[int, str]:
    """An explanation of some latents that have text enough."""
    there = [c.latent for c in latents(bench, n=24).concepts if c.latent is not None]
    return dict(zip(there, WORDS, strict=False))


def test_a_latents_words_are_its_explanation_and_its_scores_are_strata(bench: Bench) -> None:
    targets = {"kind": "latents", "n": 8, "windows": WINDOWS}
    found = bench.targeted(config(targets), interpreted=interpreted(bench, said(bench)))
    assert {c.latent: c.text for c in found.concepts} == said(bench)
    told = found.told(0)
    assert told["output_score"] is not None and told["explanation_score"] is not None
    assert told["stratum"].count(",") == 2
    with pytest.raises(InputError, match="explained=false"):
        bench.targeted(config(targets), interpreted=interpreted(bench, {}, 1))


def test_a_latents_words_may_be_the_whole_words_on_which_it_is_most_active(bench: Bench) -> None:
    found = latents(bench, words="active_words")
    codes = CodeShards(bench.codes).codes("select").matrix().toarray()
    provenance = ActivationShards(bench.activations).provenance("select")
    read = [row["text"] for row in Encoder.of(bench.model).vocabulary()]
    for concept in found.concepts:
        sums = Counter[str]()  # a word of the toy corpus is one token
        for token, value in zip(
            provenance["token"].tolist(), codes[:, concept.latent], strict=True
        ):
            sums[read[token].strip().lower()] += value
        words = [word for word in sums if sums[word] > 0 and any(c.isalnum() for c in word)]
        told = (concept.text or "").split(", ")
        assert len(told) == min(8, len(words))
        assert sums[told[0]] == pytest.approx(max(sums[word] for word in words))
        assert sorted((sums[word] for word in told), reverse=True) == [sums[w] for w in told]


def test_a_sentence_names_the_latents_whose_explanations_mean_it(bench: Bench) -> None:
    encoder = TextEncoderReference(TextEncoderConfig())
    if encoder.is_fitted_here:
        pytest.skip("all-MiniLM-L6-v2 is not installed")
    targets = {
        "kind": "sentence",
        "sentences": ["talk about pets", "write of royalty"],
        "latents": 1,
    }
    given = config(targets | {"windows": WINDOWS})
    explained = interpreted(bench, said(bench))
    found = bench.targeted(given, interpreted=explained, text_encoder=encoder)
    first, second, *_ = said(bench)
    assert [(c.latent, c.text) for c in found.concepts] == [
        (first, "talk about pets"),
        (second, "write of royalty"),
    ]
    with pytest.raises(InputError, match="explanations of latents"):
        bench.targeted(given, text_encoder=encoder)


def fits(sent: Mapping[str, Any], times: int = 0) -> Act:
    """A language model that says by rule which descriptions fit: those that have a word of what is
    wanted."""
    prompt = sent["messages"][-1]["content"]
    wanted = re.search(r"^Wanted: (.*)$", prompt, re.MULTILINE)
    assert wanted
    of = [re.fullmatch(r"(\d+)\. (.*)", line) for line in prompt.splitlines()]
    words = set(wanted[1].split())
    return answer(
        json.dumps({"fitting": [int(m[1]) for m in of if m and words & set(m[2].split())]})
    )


def test_a_language_model_says_which_of_the_nearest_explanations_fit(
    bench: Bench, tmp_path: Path
) -> None:
    sentences = ["write cats or tree", "house", "cats", "lions"]
    targets = {"kind": "sentence", "sentences": sentences, "latents": 2, "windows": WINDOWS}
    explained, encoder = interpreted(bench, said(bench)), TextEncoderReference(TextEncoderConfig())
    cats, _, tree, house, _ = said(bench)

    def found(script: Any, **changes: Any) -> tuple[Any, Any]:
        with serving() as server:
            server.script = script
            section = settings_of(server, tmp_path / f"replies{len(changes)}")
            given = config(targets | {"asks": True} | changes, client=section)
            client = client_of(given, world.CPU)
            shared = {"interpreted": explained, "text_encoder": encoder, "client": client}
            most = given.targeted.most_asked()
            made = bench.targeted(given, **shared)
            assert most.calls == len(server.sent) and client is not None
            return made, server

    made, server = found(fits)
    assert {c.latent: c.text for c in made.concepts} == {
        cats: "write cats or tree", tree: "write cats or tree", house: "house",
    }  # fmt: skip
    assert made.limit == (
        "no latent for 'lions': none of the 5 nearest explanations was said to fit"
    )
    assert ", said to fit: " in made.told(0)["stratum"]
    assert all(words in prompt for prompt in server.prompts for words in WORDS)

    def faulty(sent: Mapping[str, Any], times: int) -> Act:
        told = {"write": '{"fitting": [1, 9]}', "house": "[1]", "lions": "I fear that none does."}
        prompt = sent["messages"][-1]["content"].partition("Descriptions:")[0]
        return next((answer(of) for word, of in told.items() if word in prompt), fits(sent))

    made, _ = found(faulty, shown=6)
    assert [c.latent for c in made.concepts] == [cats], "a sentence without an answer has no latent"
    assert made.limit.count("not as asked") == 3
    assert "wanted numbers from 1 to 5, got 9" in made.limit and "'house'" in made.limit
    with pytest.raises(InputError, match=r"no target: no latent for .*steer\.targets\.shown"):
        found(lambda sent, times: answer('{"fitting": []}'), shown=7, latents=1)


def test_what_asks_has_a_client_and_a_key_of_its_own(tmp_path: Path) -> None:
    targets: dict[str, Any] = {"kind": "sentence", "sentences": ["cats"]}
    plain = config(targets)
    with pytest.raises(ValueError, match=r"steer\.targets\.asks wants a language model"):
        config(targets | {"asks": True})
    someone = {"kind": "endpoint", "url": "http://127.0.0.1:9", "model": "judge-1"}
    with pytest.raises(ValueError, match="show at least as many"):
        config(targets | {"asks": True, "shown": 2}, client=someone)
    asks = config(targets | {"asks": True}, client=someone)
    assert not plain.targeted.files() and len(asks.targeted.files()) == 1
    assert "targets.files" not in STEER.entries(plain)
    own = tmp_path / "fitting.txt"
    own.write_text("[user]\n$wanted: $descriptions")
    other = config(targets | {"asks": True, "prompts": str(tmp_path)}, client=someone)
    numbers = [STEER.entries(each)["targets.files"] for each in (asks, other)]
    assert numbers[0] != numbers[1]
    assert is_asked(asks) and not is_asked(plain)
    assert is_asked(config(targets, client=someone)) is False, "nobody asks"


def test_the_stage_asks_once_within_its_budget_and_after_leave(
    bench: Bench, tmp_path: Path
) -> None:
    targets = {"kind": "sentence", "sentences": ["cats or tree"], "asks": True, "latents": 2}
    encoder = TextEncoderReference(TextEncoderConfig())
    inputs = bench.inputs | {
        "interpreted": interpreted(bench, said(bench)),
        "text_encoder": encoder,
    }
    small = {"methods": ["add_direction", "random_direction"], "test_prompts": 2}
    small |= {"validate_prompts": 4, "method_settings": {"random_direction": {"n_directions": 2}}}
    small["battery"] = False
    with serving() as server:
        server.script = fits

        def given(price: float) -> SteerConfig:
            prices = [{"model": "judge-1", "input": price, "output": price}]
            section = settings_of(server, tmp_path / "replies", prices=prices)
            return config(targets | {"windows": WINDOWS}, client=section, **small)

        with pytest.raises(ConfigError, match=r"steer: this may cost .*--yes"):
            bench.store.ensure(STEER, given(1e6), inputs, world.CPU)
        assert not server.sent
        made, _ = bench.store.ensure(STEER, given(1.0), inputs, world.CPU)
        assert len(server.sent) == 1
    assert tables.TARGETS.read(made)["latent"].to_list() == list(said(bench))[0:3:2]
    assert tables.CALLS.read(made)["label"].to_list() == ["targets fitting"]
    assert made.facts["asked"]["client"]["asked"] == 1


def test_an_answer_names_numbers_of_the_list_each_once() -> None:
    def said_by(*numbers: int) -> list[int] | str:
        return places_of(Reply("x", value=Fitting(fitting=list(numbers))), 3)

    assert said_by(3, 1) == [0, 2] and said_by() == []
    assert "wanted numbers from 1 to 3, got 0" in said_by(0)
    assert "each number once" in said_by(2, 2)
    assert places_of(Reply(None, "refused: no"), 3) == "refused: no"


def sets(folder: Path, n: int = 60) -> Path:
    """Texts about cats and about kings, as two files."""
    rng = np.random.default_rng(0)
    for name, noun, other in (("cats", "cat", "king"), ("kings", "king", "tree")):
        rows = [
            {
                "text": _tale(rng, noun if inside else other),
                "side": "positive" if inside else "negative",
            }
            for inside in (True, False)
            for _ in range(n)
        ]
        pl.DataFrame(rows).write_ndjson(folder / f"{name}.jsonl")
    return folder


def _tale(rng: np.random.Generator, noun: str) -> str:
    words = [f"the {noun} {rng.choice(world.VERBS)} ." for _ in range(6)]
    return f"{rng.choice(world.OPENINGS)} {rng.choice(['big', 'small'])} " + " ".join(words)


def test_sets_of_texts_are_targets_of_their_own_with_splits_of_their_own(
    bench: Bench, tmp_path: Path
) -> None:
    given = {"kind": "sets", "path": str(sets(tmp_path)), "fewest": 4}
    found = bench.targeted(config(given))
    assert [(c.name, c.kind) for c in found.concepts] == [("cats", "set"), ("kings", "set")]
    assert not found.refusals(SteerConfig().gate)
    whole = found.evidence([0, 1], 0)
    x = torch.cat([block for _, block in whole.batches(whole.hook_point)])
    assert len(x) == len(whole.token) == whole.labels.get_shape()[0]
    alone = whole.alone(0)
    cat, king = (toys.WORDS.index(word) for word in ("cat", "king"))
    inside = alone.labels.toarray().ravel()
    assert cat in alone.token[inside] and cat not in alone.token[~inside]
    assert king in alone.token[~inside]
    seen = {
        split: {tuple(ids) for ids in found.cut(split, 3, 12).tokens}
        for split in ("judge", "validate")
    }
    assert all(seen.values())
    assert found.cut("judge", 3, 12).labels.any(0).all()
    with pytest.raises(InputError, match="names no file"):
        bench.targeted(config({"kind": "sets"}))
    with pytest.raises(InputError, match="no column 'body'"):
        bench.targeted(config(given | {"text_column": "body"}))
    with pytest.raises(InputError, match="with_values"):
        bench.targeted(config(given | {"with_values": ["yes"]}))


def pairs(folder: Path, n: int = 80) -> Path:
    """Questions with an answer about cats and one about kings; the last row has one answer only."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [
        {
            "question": f"{_tale(rng, 'tree')} {i}",
            "yes": f" {_tale(rng, 'cat')}",
            "no": _tale(rng, "king"),
            "about": "cats",
        }
        for i in range(n)
    ]
    path = folder / "pairs.parquet"
    pl.DataFrame([*rows, rows[0] | {"question": "big tree", "no": None}]).write_parquet(path)
    return path


def test_a_row_may_be_a_pair_and_both_texts_of_it_stand_in_one_split(
    bench: Bench, tmp_path: Path
) -> None:
    given = {
        "kind": "sets",
        "path": str(pairs(tmp_path)),
        "fewest": 4,
        "text_column": "yes",
        "other_column": "no",
        "before_column": "question",
        "concept_column": "about",
        "longest": 1000,
    }
    found = bench.targeted(config(given))
    assert [c.name for c in found.concepts] == ["cats"]
    assert len(found.texts()) == 160, "a pair that lacks a text is left out"
    whole = found.evidence([0], 0)
    assert whole.pairs.height == found.told(0)["n_with"] == found.told(0)["n_without"] > 10
    for row in whole.pairs.iter_rows(named=True):
        assert " cat " in row["positive"] and " king " in row["negative"]
        with_it, without = (re.search(r" \. \d+ ", row[s]) for s in ("positive", "negative"))
        assert with_it and without and with_it.group() == without.group(), "of one question"
        assert "  " not in row["positive"] + row["negative"], "one space behind a question"
    steering = next(iter(world.method("paired_difference").candidates(whole)))
    assert steering.steering is not None, steering.reason
    with pytest.raises(InputError, match=r"no column 'body'.*other_column"):
        bench.targeted(config(given | {"other_column": "body"}))
    with pytest.raises(ValueError, match="rows are no pairs"):
        config(given | {"other_column": ""})


def test_a_text_that_stands_in_many_pairs_serves_one_split(bench: Bench, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared = [_tale(rng, "king") for _ in range(6)]
    rows = [{"yes": f"{_tale(rng, 'cat')} {i}", "no": shared[i % 6]} for i in range(80)]
    pl.DataFrame(rows).write_parquet(tmp_path / "cats.parquet")
    given = {"kind": "sets", "path": str(tmp_path), "text_column": "yes", "other_column": "no"}
    found = bench.targeted(config(given | {"longest": 1000}))
    of = {s: {tuple(ids) for ids in found.cut(s, 0, 40).tokens} for s in set(DEALT)}
    assert sum(map(len, of.values())) == len(set.union(*of.values())) > 80


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    pl.DataFrame(rows, infer_schema_length=None).write_ndjson(path)
    return str(path)


def test_a_text_whose_side_or_concept_is_not_said_is_refused_by_its_row(
    bench: Bench, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    whole = [
        {"text": _tale(rng, noun), "side": side, "about": about}
        for noun, side, about in (("cat", "positive", "cats"), ("king", "negative", None))
        for _ in range(30)
    ]
    given = {"kind": "sets", "fewest": 2, "concept_column": "about"}

    def found(*further: dict[str, Any]) -> Any:
        path = written(tmp_path / "texts.jsonl", [*whole, *further])
        return bench.targeted(config(given | {"path": path}))

    # on the other side a text needs no concept of its own
    assert found().limit is None and found().told(0)["n_without"] == 5
    hole = {"text": "the cat ran", "side": "positive", "about": None}
    with pytest.raises(InputError) as refused:
        found(hole)
    told = str(refused.value)
    assert "texts.jsonl, row 61" in told and "'about' is null" in told
    assert "name the concept there" in told and "concept_column" in told
    with pytest.raises(InputError) as refused:
        found(hole | {"side": None}, hole | {"side": None})
    told = str(refused.value)
    assert "texts.jsonl, row 61" in told and "'side' is null (in 2 rows of this file)" in told
    assert "positive, true, 1" in told
    without_text = found({"text": None, "side": None, "about": None})
    assert without_text.limit == ("1 of 61 rows of texts were left out: 1 with nothing in 'text'")


def test_pairs_that_are_not_whole_are_counted_and_none_that_is_has_a_message_of_its_own(
    bench: Bench, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"q": f"tree {i}", "yes": _tale(rng, "cat"), "no": _tale(rng, "king"), "about": "cats"}
        for i in range(40)
    ]
    holes: list[dict[str, Any]] = [
        rows[0] | {"yes": None, "no": None},
        rows[1] | {"no": None},
        rows[2] | {"no": None},
        rows[3] | {"q": None},
    ]
    columns = {"text_column": "yes", "other_column": "no", "before_column": "q"}
    given = {"kind": "sets", "fewest": 2, "concept_column": "about"} | columns

    def found(rows: list[dict[str, Any]]) -> Any:
        path = written(tmp_path / "pairs.jsonl", rows)
        return bench.targeted(config(given | {"path": path}))

    assert found([*rows, *holes]).limit == (
        "4 of 44 rows of texts were left out: 1 with nothing in 'yes', 2 with nothing in 'no', "
        "1 with nothing in 'q'"
    )
    assert found(rows).limit is None
    with pytest.raises(InputError) as refused:
        found(holes)
    told = str(refused.value)
    assert "is a whole pair: 4 of 4 rows" in told and "'yes', 'no', 'q'" in told
    assert "other_column" in told and "side_column" not in told and "with_values" not in told
    with pytest.raises(InputError, match=r"pairs.jsonl, row 41: .*'about' is null"):
        found([*rows, rows[0] | {"about": None}])


def test_steering_towards_sets_goes_through_the_same_protocol(bench: Bench, tmp_path: Path) -> None:
    given = config(
        {"kind": "sets", "path": str(sets(tmp_path)), "fewest": 4},
        judges=["concept", "fluency"],
        measure="concept",
        judge_settings={"concept": {"min_auroc": 0.5}},
        methods=["mean_difference", "random_direction"],
        method_settings={"random_direction": {"n_directions": 3}},
        test_prompts=4,
        validate_prompts=6,
    )
    made, _ = bench.store.ensure(STEER, given, bench.inputs, world.CPU)
    told = tables.TARGETS.read(made)
    assert told["passed"].to_list() == [True, True], told["reason"].to_list()
    reached = tables.STEERED.read(made).filter(method="mean_difference")
    assert reached["composite"].null_count() == 0
