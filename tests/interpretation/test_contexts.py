"""Windows: inside one document, of disjoint splits, silent when they say so, and none twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.config import load
from components.errors import ConfigError, InputError
from components.interpretation import neighbours
from components.interpretation.contexts import SPLITS, choose, cut_splits
from components.interpretation.contract import LatentRecord
from components.interpretation.sample import TENTHS, Sample, sample_latents
from components.interpretation.tiling import ContextsConfig, Tiling
from components.interpretation.windows import SILENT, Vocabulary, Windows
from components.store import tables
from components.store.artifact import Store
from components.store.shards import ActivationShards, Codes, CodeShards, write_codes
from tests import toys
from tests.interpretation.planted import (
    AFTER,
    D_SAE,
    EVERYWHERE,
    PHRASES,
    RARE,
    SENSE,
    WORDS,
    Planted,
    finished,
)

VOCABULARY = Vocabulary([f" {word}" for word in WORDS])


def splits(record: LatentRecord) -> dict[str, Windows]:
    return {split: getattr(record, split) for split in SPLITS}


def only(latent: int) -> Sample:
    """A sample of one latent."""
    return Sample(np.array([latent]), np.array([0.1]), np.array([0]), 0, "explain")


def cut(lengths: list[int], **settings: int) -> Tiling:
    """One document of each length, two in a context, with a special token between them that was not
    captured."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    columns = {"token": np.zeros(len(document)), "document": document, "position": position}
    columns |= {"context": document // 2, "offset": position + 100 * (document % 2)}
    provenance = {
        name: torch.from_numpy(np.asarray(column, dtype=np.int32))
        for name, column in columns.items()
    }
    return Tiling.cut(provenance, Vocabulary(["a"]), "test", ContextsConfig(**settings))


@given(st.lists(st.integers(1, 150), min_size=1, max_size=12))
def test_windows_lie_inside_documents_and_keep_to_their_lengths(lengths: list[int]) -> None:
    if max(lengths) < 24:
        return
    tiling = cut(lengths)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    for first, length, document, start in zip(
        tiling.first, tiling.length, tiling.document, tiling.start, strict=True
    ):
        assert 24 <= length <= 32
        assert starts[document] <= first and first + length <= ends[document]
        assert start == first - starts[document]
        assert (tiling.tile_of[first : first + length] >= 0).all()
    covered = np.bincount(tiling.tile_of[tiling.tile_of >= 0], minlength=len(tiling.first))
    np.testing.assert_array_equal(covered, tiling.length)  # no token is in two windows


def test_a_gap_in_the_captured_tokens_ends_a_window() -> None:
    position = np.array([*range(30), *range(31, 61)])  # position 30 was left out of the capture
    columns = {
        "token": position,
        "document": 0 * position,
        "position": position,
        "context": 0 * position,
    }
    provenance = {
        name: torch.from_numpy(column) for name, column in (columns | {"offset": position}).items()
    }
    tiling = Tiling.cut(provenance, VOCABULARY, "test", ContextsConfig())
    assert tiling.start.tolist() == [0, 31]


def test_a_split_without_room_for_a_window_says_what_to_do() -> None:
    with pytest.raises(
        InputError,
        match=r"the test split \(20 tokens\) has no run of 24 tokens inside one document; lower",
    ):
        cut([10, 10])


def test_a_window_shorter_than_the_shortest_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"shortest \(24\) is more than width \(16\)"):
        load(ContextsConfig, {"width": 16})


def test_more_windows_than_can_be_drawn_cannot_be_demanded() -> None:
    with pytest.raises(
        ConfigError,
        match=r"fewest \(60\) is more than the 50 windows that ten tenths of per_tenth \(5\)",
    ):
        load(ContextsConfig, {"fewest": 60})


def test_documents_of_the_three_splits_are_disjoint(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    for record in records.values():
        seen = [set(windows.document.tolist()) for windows in splits(record).values()]
        assert sum(map(len, seen)) == len(set.union(*seen))
    for split, windows in splits(records[0]).items():
        assert set(windows.document.tolist()) <= set(planted.documents[split].tolist())


def test_a_document_in_two_splits_is_refused(planted: Planted, store: Store) -> None:
    shards = ActivationShards(planted.inputs["activations"])
    provenance = {split: dict(shards.provenance(split)) for split in SPLITS}
    provenance["test"]["document"] -= 200  # now some documents of explain and calibrate come again
    x = {
        split: {"resid_post.0": torch.zeros(len(columns["token"]), 1)}
        for split, columns in provenance.items()
    }
    mixed = ActivationShards(toys.activations(store, x, provenance, rows_per_shard=10_000))
    codes = CodeShards(planted.inputs["codes"])
    with pytest.raises(AssertionError, match="are in both explain and test"):
        next(choose(codes, cut_splits(mixed, VOCABULARY, ContextsConfig()), only(0), 0))


def test_text_and_activations_are_those_of_the_artifacts(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    dense = {
        split: CodeShards(planted.inputs["codes"]).codes(split).dense().numpy() for split in SPLITS
    }
    for latent in (0, AFTER, EVERYWHERE):
        for split, windows in splits(records[latent]).items():
            documents = planted.documents[split]
            for number in range(0, len(windows), 5):
                n = int(windows.texts.present[number].sum())
                first = np.searchsorted(documents, windows.document[number]) + windows.start[number]
                rows = slice(first, first + n)
                assert (documents[rows] == windows.document[number]).all()
                np.testing.assert_array_equal(
                    windows.texts.tokens[number, :n], planted.tokens[split][rows]
                )
                np.testing.assert_array_equal(
                    windows.activations[number, :n], dense[split][rows, latent]
                )
                assert (windows.role[number] == "silent") == (dense[split][rows, latent].max() == 0)


def test_no_silent_window_has_any_activation_in_the_codes(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    codes = CodeShards(planted.inputs["codes"])
    dense = {split: codes.codes(split).dense().numpy() for split in SPLITS}
    n = 0
    for latent, record in records.items():
        for split, windows in splits(record).items():
            rows = rows_of(planted, split, windows)
            largest = np.array([dense[split][r, latent].max() for r in rows])
            assert ((largest == 0) == ~windows.active).all()
            n += int((~windows.active).sum())
    assert n > 2000


def test_silent_windows_have_the_lengths_of_active_ones(records: dict[int, LatentRecord]) -> None:
    for kind in SILENT:
        longer = []
        for latent in PHRASES:
            for windows in splits(records[latent]).values():
                lengths, silent = windows.texts.present.sum(1), windows.stratum == kind
                if silent.any():
                    longer.append(lengths[silent].mean() - lengths[windows.active].mean())
        assert abs(np.mean(longer)) < 0.5


def test_the_test_split_holds_five_windows_of_each_tenth_and_the_explain_split_the_top(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    test, explain = records[AFTER].test, records[AFTER].explain
    assert Counter(test.quantile[test.active].tolist()) == dict.fromkeys(range(TENTHS), 5)
    assert set(test.role.tolist()) == {"quantile", "silent"}
    lowest = [
        test.activations[test.quantile == quantile].max(1).min() for quantile in range(TENTHS)
    ]
    assert lowest == sorted(lowest, reverse=True)
    top = explain.activations[explain.role == "top"].max(1)
    assert len(top) == 20
    assert top.min() >= explain.activations[explain.role == "quantile"].max()
    codes = CodeShards(planted.inputs["codes"]).codes("explain").dense()[:, AFTER]
    assert top.max() == pytest.approx(float(codes.max()), abs=0.01)


def test_each_kind_of_silent_windows_has_as_many_as_asked_for(
    records: dict[int, LatentRecord],
) -> None:
    for split, n in (("explain", 25), ("calibrate", 10), ("test", 25)):
        windows = splits(records[SENSE])[split]
        assert Counter(windows.stratum[~windows.active].tolist()) == dict.fromkeys(SILENT, n)
        assert set(windows.stratum[windows.active].tolist()) == {""}


def test_no_window_is_in_two_kinds_and_none_is_shown_twice(
    records: dict[int, LatentRecord],
) -> None:
    for record in records.values():
        for windows in splits(record).values():
            where = list(zip(windows.document.tolist(), windows.start.tolist(), strict=True))
            assert len(where) == len(set(where))


def test_silent_windows_of_the_same_token_hold_the_word_the_latent_fires_on(
    records: dict[int, LatentRecord],
) -> None:
    word = VOCABULARY.find(WORDS[3])  # the two-sense word: often silent
    for windows in splits(records[SENSE]).values():
        hard = windows.stratum == "same_token"
        assert (windows.texts.words[hard] == word).any(1).all()
    # a latent that fires on its words whenever they come always has none
    chosen = records[0].test
    assert not (chosen.stratum == "same_token").any()
    assert Counter(chosen.stratum[~chosen.active].tolist()) == dict.fromkeys(
        ("random", "neighbour", "near"), 25
    )


def rows_of(planted: Planted, split: str, windows: Windows) -> list[slice]:
    documents = planted.documents[split]
    first = np.searchsorted(documents, windows.document) + windows.start
    return [slice(a, a + n) for a, n in zip(first, windows.texts.present.sum(1), strict=True)]


def test_in_silent_windows_of_neighbours_one_of_them_is_active(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    codes = CodeShards(planted.inputs["codes"])
    sampled = np.array(sorted(records))
    near = neighbours.find(codes, sampled, 10**6)
    for latent in (0, AFTER, SENSE):
        together, by_cosine = near.kinds(int(np.searchsorted(sampled, latent)))
        assert by_cosine.tolist() == [(latent + rank) % D_SAE for rank in range(1, 6)]
        assert 2 <= len(together) <= 5 and latent not in together
        for split, windows in splits(records[latent]).items():
            dense = codes.codes(split).dense().numpy()
            shown = windows.part(windows.stratum == "neighbour")
            active = np.array([dense[r].max(0) > 0 for r in rows_of(planted, split, shown)])
            assert active[:, np.union1d(together, by_cosine)].any(1).all()
            wanted = {"calibrate": 5}.get(split, 12)
            assert active[:, together].any(1).sum() >= wanted
            assert active[:, by_cosine].any(1).sum() >= wanted


def test_co_occurrence_is_the_jaccard_index_over_tokens_of_explain(planted: Planted) -> None:
    codes = CodeShards(planted.inputs["codes"])
    active = codes.codes("explain").dense().numpy() > 0
    found = neighbours.find(codes, np.arange(D_SAE), 10**6)
    for latent in range(D_SAE):
        both = (active & active[:, [latent]]).sum(0)
        shares = both / np.maximum(1, (active | active[:, [latent]]).sum(0))
        shares[latent] = -1
        wanted = np.sort(shares)[::-1][:10]
        np.testing.assert_allclose(found.jaccard[latent], wanted, atol=1e-6)
        there = found.co_occurring[latent] >= 0
        assert (there == (wanted > 0)).all()
        np.testing.assert_allclose(shares[found.co_occurring[latent][there]], wanted[there])


def test_near_windows_lie_nearer_to_the_active_ones_than_random_ones(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    shards = ActivationShards(planted.inputs["activations"])
    nearer = []
    for latent in PHRASES:
        explain, test = records[latent].explain, records[latent].test
        means = {}
        for split, windows in (("explain", explain), ("test", test)):
            x = shards.rows(split, "resid_post.0", torch.arange(shards.n_rows(split))).numpy()
            means[split] = np.array([x[r].mean(0) for r in rows_of(planted, split, windows)])
        centre = means["explain"][explain.role == "quantile"].mean(0)
        away = ((means["test"] - centre) ** 2).sum(1)
        near, random = (away[test.stratum == kind].mean() for kind in ("near", "random"))
        nearer.append(near < 0.8 * random)
    assert all(nearer)


def test_what_is_drawn_depends_neither_on_shards_nor_on_the_other_latents(
    planted: Planted, records: dict[int, LatentRecord], store: Store
) -> None:
    source = CodeShards(planted.inputs["codes"])

    def write(folder: Path) -> None:
        for split in SPLITS:
            whole = source.codes(split)
            for number, start in enumerate(range(0, whole.n_rows, 777)):
                part = whole.rows(start, min(start + 777, whole.n_rows))
                write_codes(folder, split, number, part)
        tables.NEIGHBOURS.write(folder, tables.NEIGHBOURS.read(source.artifact))

    facts = {"d_sae": D_SAE, "hook_point": "resid_post.0"}
    codes = CodeShards(toys.artifact(store, "encode", write, facts))
    activations = ActivationShards(planted.inputs["activations"])
    cut_into = cut_splits(activations, VOCABULARY, ContextsConfig())
    (record,) = finished(choose(codes, cut_into, only(AFTER), 0)).records()
    for split, windows in splits(record).items():
        of_all = splits(records[AFTER])[split]
        for name in ("document", "start", "role", "quantile", "stratum", "stands_for"):
            assert getattr(windows, name).tolist() == getattr(of_all, name).tolist()
        np.testing.assert_array_equal(windows.activations, of_all.activations)


def test_the_pool_is_one_unselected_draw_and_says_where_each_latent_is_active(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    pools = [record.pool for record in records.values()]
    assert len({id(pool.texts) for pool in pools if pool}) == 1  # one object for every latent
    cut_into = cut_splits(
        ActivationShards(planted.inputs["activations"]), VOCABULARY, ContextsConfig()
    )["test"]
    assert len(pools[0].texts.tokens) == len(cut_into.pool) == len(cut_into.tiling)  # all there are
    dense = CodeShards(planted.inputs["codes"]).codes("test").dense().numpy()
    tiling = cut_into.tiling
    for latent, record in records.items():
        active = [
            dense[first : first + length, latent].max() > 0
            for first, length in zip(tiling.first, tiling.length, strict=True)
        ]
        np.testing.assert_array_equal(record.pool.active, active)
        assert record.share == pytest.approx(np.mean(active))
        assert record.ubiquitous == (latent == EVERYWHERE)


def test_a_smaller_pool_is_part_of_the_split_and_the_same_for_all(planted: Planted) -> None:
    activations = ActivationShards(planted.inputs["activations"])
    config = ContextsConfig(pool=50)
    cut_into = cut_splits(activations, VOCABULARY, config)
    codes = CodeShards(planted.inputs["codes"])
    sample = sample_latents(tables.LATENTS.read(codes.artifact), D_SAE, 100, 0)
    chosen = list(finished(choose(codes, cut_into, sample, 0)).records())
    assert {len(record.pool.active) for record in chosen} == {50}
    shares = [record.pool.active.mean() - record.share for record in chosen]
    assert abs(np.mean(shares)) < 0.03 and np.std(shares) > 0


def test_weighted_windows_are_stronger_than_drawn_ones_and_not_the_strongest(
    planted: Planted,
) -> None:
    config = ContextsConfig(top=0, weighted=40)
    cut_into = cut_splits(ActivationShards(planted.inputs["activations"]), VOCABULARY, config)
    codes = CodeShards(planted.inputs["codes"])
    (record,) = finished(choose(codes, cut_into, only(AFTER), 0)).records()
    explain = record.explain
    largest = explain.activations.max(1)
    weighted = largest[explain.role == "weighted"]
    dense = codes.codes("explain").dense().numpy()[:, AFTER]
    tile_of = cut_into["explain"].tiling.tile_of
    inside = (dense > 0) & (tile_of >= 0)
    every = np.zeros(len(cut_into["explain"].tiling))
    np.maximum.at(every, tile_of[inside], dense[inside])
    every = every[every > 0]
    expected = (every**3).sum() / (every**2).sum()  # the mean where chances are as the square
    assert len(weighted) == 40
    assert abs(weighted.mean() - expected) < 3 * every.std() / np.sqrt(40)
    assert weighted.min() < np.sort(every)[-40]
    tenths = explain.quantile[explain.role == "weighted"]
    order = np.argsort(-weighted, kind="stable")
    assert (np.diff(tenths[order]) >= 0).all() and tenths.min() >= 0 and tenths.max() < TENTHS
    assert (record.test.role != "weighted").all()


def test_repeated_text_is_shown_once_over_all_splits(store: Store) -> None:
    random = np.random.default_rng(0)
    page = random.integers(0, 200, 28)
    provenance, codes = {}, {}
    for number, split in enumerate(SPLITS):
        token = random.integers(0, 200, (60, 28))
        token[::2] = page  # every second document repeats one page but for one word
        token[::2, 13] = random.integers(0, 200, 30)
        document, position = np.repeat(np.arange(60), 28) + 60 * number, np.tile(np.arange(28), 60)
        columns = {"token": token.ravel(), "document": document, "position": position}
        columns |= {"context": document, "offset": position}
        provenance[split] = {name: torch.from_numpy(column) for name, column in columns.items()}
        dense = random.uniform(1, 2, (60 * 28, 1)) * (position == 5)[:, None]
        dense[28 * 20 :] = 0
        codes[split] = Codes.from_dense(torch.from_numpy(dense).float())

    def write(folder: Path) -> None:
        for split, found in codes.items():
            write_codes(folder, split, 0, found)

    x = {split: {"resid_post.0": torch.zeros(60 * 28, 1)} for split in SPLITS}
    activations = ActivationShards(toys.activations(store, x, provenance, rows_per_shard=1000))
    encoded = CodeShards(toys.artifact(store, "encode", write, {"d_sae": 1}))
    (record,) = finished(
        choose(encoded, cut_splits(activations, VOCABULARY, ContextsConfig()), only(0), 0)
    ).records()
    shown = np.concatenate([windows.texts.tokens[:, :28] for windows in splits(record).values()])
    assert len(shown) > 60
    assert ((shown == page).mean(1) > 0.9).sum() == 1


def test_too_few_windows_are_a_reason_and_not_a_silence(records: dict[int, LatentRecord]) -> None:
    assert records[RARE].reason == (
        "3 active windows in the explain split, wanted at least 10 (interpret.contexts.fewest); "
        "more text there would give more (read.splits.explain)"
    )
    assert records[EVERYWHERE].reason == (
        "0 silent windows in the explain split, wanted at least 10 (interpret.contexts.fewest); "
        "shorter windows would give more (interpret.contexts.width and shortest)"
    )
    assert all(records[latent].reason is None for latent in PHRASES)


def test_no_more_rows_are_read_than_allowed(planted: Planted) -> None:
    codes, activations = (
        CodeShards(planted.inputs["codes"]),
        ActivationShards(planted.inputs["activations"]),
    )
    config = ContextsConfig(rows=6000, fewest=1)
    cut_into = cut_splits(activations, VOCABULARY, config)
    (record,) = finished(choose(codes, cut_into, only(AFTER), 0)).records()
    for split, windows in splits(record).items():
        assert windows.document.max() <= planted.documents[split][:6000].max()
        assert len(windows) > 10


def statistics(n_active: list[int]) -> pl.DataFrame:
    rows = {
        "latent": range(len(n_active)),
        "n_active": n_active,
        "density": [n / 1000 for n in n_active],
    }
    return pl.DataFrame(rows).with_columns(split=pl.lit("explain"))


def test_the_sample_has_equally_many_latents_of_each_tenth_by_density() -> None:
    sample = sample_latents(statistics([*range(1, 201), *[0] * 50]), 250, 40, seed=3)
    assert len(sample.latents) == len(set(sample.latents.tolist())) == 40
    assert Counter(sample.decile.tolist()) == dict.fromkeys(range(10), 4)
    assert sample.n_dead == 50
    assert (sample.latents < 200).all()
    np.testing.assert_array_equal(sample.density, (sample.latents + 1) / 1000)
    np.testing.assert_array_equal(sample.decile, sample.latents // 20)


def test_fewer_alive_latents_than_wanted_are_all_taken() -> None:
    sample = sample_latents(statistics([0, 5, 0, 7, 6]), 5, 100, seed=0)
    assert sample.latents.tolist() == [1, 3, 4]
    assert sample.n_dead == 2
    assert len(sample_latents(statistics([0, 0]), 2, 100, seed=0).latents) == 0


def test_the_sample_depends_on_the_seed_alone() -> None:
    frame = statistics(list(range(1, 201)))
    first, again, other = (
        sample_latents(frame, 200, 20, seed).latents.tolist() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_the_chosen_windows_stand_for_all_windows_of_the_split(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    cut_into = cut_splits(
        ActivationShards(planted.inputs["activations"]), VOCABULARY, ContextsConfig()
    )
    codes = CodeShards(planted.inputs["codes"])
    for split in SPLITS:
        dense, tile_of = codes.codes(split).dense().numpy(), cut_into[split].tiling.tile_of
        for latent in (0, AFTER, SENSE):
            windows = splits(records[latent])[split]
            really = np.zeros(len(cut_into[split].tiling), bool)
            really[tile_of[(dense[:, latent] > 0) & (tile_of >= 0)]] = True
            assert windows.stands_for[windows.active].sum() == pytest.approx(really.sum())
            assert windows.stands_for[~windows.active].sum() == pytest.approx((~really).sum())
            assert (windows.stands_for[windows.role == "top"] == 0).all()


def test_only_what_was_drawn_without_a_choice_stands_for_others(
    records: dict[int, LatentRecord],
) -> None:
    for windows in splits(records[SENSE]).values():
        drawn = (windows.role == "quantile") | (windows.stratum == "random")
        assert ((windows.stands_for > 0) == drawn).all()


def test_part_of_the_windows_keeps_what_belongs_together(records: dict[int, LatentRecord]) -> None:
    windows = records[0].test
    some = windows.part(windows.quantile == 2)
    assert (
        set(some.quantile) == {2}
        and len(some) == len(some.texts.tokens) == len(some.activations) > 0
    )
    assert (some.activations.max(1) > 0).all()
