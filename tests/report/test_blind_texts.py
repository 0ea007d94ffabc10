"""Which texts a person rates: every kind, method and target is there from the beginning, each text and
target once, and nothing says what wrote a text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from components.errors import InputError, MissingArtifactError
from components.report.blind_texts import MOST, SCHEMA, blind_texts, kind, ordered
from components.store.artifact import Artifact, Store
from components.store.judgements import AGAIN, NOT_ASKED, UNSTEERED
from components.store.tables import GENERATIONS, JUDGEMENTS, PROMPTS, TARGETS
from tests.dashboards.conftest import make

CONCEPTS = [f"t{n}" for n in range(5)]
FACTS = {"spoilt": {"shuffled_ours": ["ours", "shuffled"]}, "untrained": {"ours": "untrained"}}
METHODS = ("ours", "theirs")
PROMPTED = 8


def written() -> pl.DataFrame:
    """Text of two methods, of two controls with targets and of ten random directions, and plain."""
    rows: list[dict[str, Any]] = []
    for prompt in range(PROMPTED):
        for method in (*METHODS, "shuffled_ours", "untrained"):
            rows += [
                {"method": method, "concept": concept, "prompt": prompt} for concept in CONCEPTS
            ]
        rows += [{"method": "random", "replicate": n, "prompt": prompt} for n in range(10)]
        rows += [{"method": method, "prompt": prompt} for method in (UNSTEERED, AGAIN)]
    about = {"split": "test", "replicate": 0, "sample": 0}
    texts = [{**about, **row, "generation": n, "text": f" text {n}"} for n, row in enumerate(rows)]
    return GENERATIONS.frame(texts)


def order(texts: pl.DataFrame, late: Any = (), seed: int = 0) -> pl.DataFrame:
    pairs = ordered(texts, CONCEPTS, FACTS, late, np.random.default_rng(seed))
    frame = pl.DataFrame(pairs, schema={"generation": pl.Int32, "target": pl.String}, orient="row")
    drawn = frame.join(texts, on="generation", maintain_order="left")
    kinds = [kind(method, own, FACTS) for method, own in drawn.select("method", "concept").rows()]
    return drawn.with_columns(kind=pl.Series(kinds))


def test_kinds_are_told_by_method_and_facts() -> None:
    assert [kind(name, "t0", FACTS) for name in ("ours", "shuffled_ours", "untrained")] == [
        "steered", "control", "control",
    ]  # fmt: skip
    assert kind("random", None, FACTS) == "control"
    assert {kind(name, None, FACTS) for name in (UNSTEERED, AGAIN)} == {"plain"}
    assert kind("ours", "t0", {}) == "steered"


def test_of_every_four_texts_two_are_steered_one_a_control_and_one_plain() -> None:
    kinds = order(written())["kind"].to_list()
    assert len(kinds) >= 80
    fours = [tuple(kinds[i : i + 4]) for i in range(0, len(kinds), 4)]
    assert {tuple(sorted(four)) for four in fours} == {("control", "plain", "steered", "steered")}
    assert len(set(fours)) > 5, "their order is drawn"


def test_methods_of_a_kind_take_turns_and_every_target_comes_as_often() -> None:
    drawn = order(written()).head(80)
    for name, own in (("steered", 2), ("control", 3), ("plain", 2)):
        of_kind = drawn.filter(kind=name)
        methods = of_kind["method"].to_list()
        assert all(len(set(methods[i : i + own])) == own for i in range(0, len(methods) - own, own))
        for (method,), part in of_kind.partition_by("method", as_dict=True).items():
            for n in (3, 5, part.height):
                times = Counter(part.head(n)["target"].to_list())
                assert max(times.values()) - min(times[c] for c in CONCEPTS) <= 1, (method, n)
    times = Counter(drawn["target"].to_list())
    assert max(times.values()) - min(times.values()) <= 2


def test_a_text_is_rated_for_its_own_target_and_nothing_comes_twice() -> None:
    drawn = order(written())
    owned = drawn.filter(pl.col("concept").is_not_null())
    assert (owned["concept"] == owned["target"]).all()
    assert drawn.select("generation", "target").is_unique().all()
    plain = drawn.filter(method=UNSTEERED)
    assert plain.head(PROMPTED)["generation"].n_unique() == PROMPTED, (
        "plain texts come again once all have come"
    )


def test_the_order_is_the_seeds_and_not_that_of_the_rows() -> None:
    texts = written()
    one, same = order(texts), order(texts.sort("generation", descending=True))
    assert one["generation"].to_list() == same["generation"].to_list()
    assert one["target"].to_list() == same["target"].to_list()
    assert one["generation"].to_list() != order(texts, seed=1)["generation"].to_list()


def test_the_list_ends_where_a_kind_has_no_text_left() -> None:
    texts = written()
    few = texts.filter(~pl.col("method").is_in(METHODS) | (pl.col("prompt") == 0))
    kinds = Counter(order(few)["kind"].to_list())
    assert kinds == {"steered": 10, "control": 5, "plain": 5}
    without = texts.filter(pl.col("method").is_in([*METHODS, UNSTEERED]))
    assert Counter(order(without).head(30)["kind"].to_list()) == {"steered": 20, "plain": 10}


def test_no_list_is_longer_than_a_day_of_rating() -> None:
    more = [written().with_columns(pl.col("generation") + 10_000 * n) for n in range(8)]
    assert order(pl.concat(more)).height == MOST


def test_texts_about_which_a_judge_was_not_asked_come_last() -> None:
    texts = written()
    numbers = texts.filter(method="random")["generation"].to_list()
    late = {(number, concept) for number in numbers[1:] for concept in CONCEPTS}
    drawn = order(texts, late).filter(method="random")["generation"].to_list()
    assert drawn[: len(CONCEPTS)] == numbers[:1] * len(CONCEPTS)
    assert len(set(drawn[len(CONCEPTS) :])) > 1, "when no other is left, they come all the same"


def made(
    store: Store, texts: pl.DataFrame, targets: Any, said: Any = (), **inputs: Any
) -> Artifact:
    def write(folder: Path, _: Any) -> None:
        GENERATIONS.write(folder, texts)
        TARGETS.write(folder, targets)
        JUDGEMENTS.write(folder, list(said))

    return make(store, "steer", inputs, FACTS, write)


def corpus(store: Store) -> Artifact:
    prompts = [{"prompt": n, "split": "test", "text": f"They met {n}"} for n in range(PROMPTED)]
    return make(store, "read", {}, {}, lambda folder, _: PROMPTS.write(folder, prompts))


TARGETED = [{"concept": name, "concept_kind": "document", "passed": True} for name in CONCEPTS]


def test_an_artifacts_texts_come_with_prompt_and_target_in_words(store: Store) -> None:
    targets = [{**TARGETED[0], "text": "talk of the sea"}, *TARGETED[1:-1]]
    targets.append({**TARGETED[-1], "latent": 7})  # nobody has explained it
    texts = written().with_columns(
        text=pl.when(pl.col("generation") == 0).then(pl.lit("  ")).otherwise("text"),
        split=pl.when(pl.col("generation") == 1).then(pl.lit("validate")).otherwise("split"),
    )
    steer = made(store, texts, targets, corpus=corpus(store))
    drawn = blind_texts(steer)
    assert drawn.schema == SCHEMA and not {0, 1} & set(drawn["generation"])
    assert set(drawn.filter(concept="t0")["words"]) == {"talk of the sea"}
    assert set(drawn["concept"]) == set(CONCEPTS[:-1])
    beside = drawn.join(
        texts.select("generation", pl.col("prompt").alias("number")), on="generation"
    )
    assert all(row["prompt"] == f"They met {row['number']}" for row in beside.to_dicts())
    assert drawn.equals(blind_texts(steer)), "a page that is opened anew has the same order"
    assert not drawn.equals(blind_texts(steer, seed=1))


def test_what_a_judge_was_not_asked_about_is_read_off_the_judgements(store: Store) -> None:
    texts = written()
    numbers = texts.filter(method="random")["generation"].to_list()
    said = [
        {"generation": n, "concept": c, "judge": "yes_no", "reason": f"{NOT_ASKED}: one a prompt"}
        for n in numbers[5:]
        for c in CONCEPTS
    ]
    drawn = blind_texts(made(store, texts, TARGETED, said, corpus=corpus(store)))
    first = drawn.filter(pl.col("generation").is_in(numbers)).head(5)["generation"].to_list()
    assert set(first) <= set(numbers[:5])


def test_what_cannot_be_rated_says_why(store: Store, tmp_path: Path) -> None:
    texts, read = written(), corpus(store)
    refused = [{**row, "passed": False} for row in TARGETED]
    with pytest.raises(InputError, match="no target passed the gate"):
        blind_texts(made(store, texts, refused, corpus=read))
    wordless = [{**row, "latent": n} for n, row in enumerate(TARGETED)]
    with pytest.raises(InputError, match="run `latentflow interpret` before"):
        blind_texts(made(Store(tmp_path / "a"), texts, wordless, corpus=read))
    with pytest.raises(InputError, match="nothing was written after test prompts"):
        blind_texts(made(Store(tmp_path / "b"), texts.head(0), TARGETED, corpus=read))
    with pytest.raises(MissingArtifactError, match="`latentflow read` makes it again"):
        blind_texts(made(Store(tmp_path / "c"), texts, TARGETED, corpus=read))
    earlier = made(Store(tmp_path / "d"), texts, TARGETED, corpus=read)
    del earlier.manifest["files"]["judgements.parquet"]
    with pytest.raises(InputError, match="without the table judgements"):
        blind_texts(earlier)
