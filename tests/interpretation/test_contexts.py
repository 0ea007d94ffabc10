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
from components.interpretation.contexts import SPLITS, choose, cut_splits
from components.interpretation.contract import LatentRecord
from components.interpretation.sample import TENTHS, Sample, sample_latents
from components.interpretation.tiling import ContextsConfig, Tiling
from components.interpretation.windows import Vocabulary, Windows
from components.store.artifact import Store
from components.store.shards import ActivationShards, Codes, CodeShards, write_codes
from tests import toys
from tests.interpretation.planted import (
    AFTER,
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


def test_as_many_silent_windows_as_active_and_of_the_same_lengths(
    records: dict[int, LatentRecord],
) -> None:
    for latent in PHRASES:
        for windows in splits(records[latent]).values():
            lengths = windows.texts.present.sum(1)
            assert windows.active.sum() == (~windows.active).sum()
            assert abs(lengths[windows.active].mean() - lengths[~windows.active].mean()) < 1


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


def test_half_of_the_silent_windows_hold_the_word_the_latent_fires_on(
    records: dict[int, LatentRecord],
) -> None:
    word = VOCABULARY.find(WORDS[3])  # the two-sense word: often silent
    for windows in splits(records[SENSE]).values():
        hard = windows.stratum == "same_token"
        assert hard.sum() == windows.active.sum() // 2
        assert (windows.texts.words[hard] == word).any(1).all()
        assert set(windows.stratum[windows.active].tolist()) == {""}
    assert not (
        records[0].test.stratum == "same_token"
    ).any()  # a latent that fires on its word always has none


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
    )
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
    (record,) = finished(choose(codes, cut_splits(activations, VOCABULARY, config), only(AFTER), 0))
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
        dense, tile_of = codes.codes(split).dense().numpy(), cut_into[split].tile_of
        for latent in (0, AFTER, SENSE):
            windows = splits(records[latent])[split]
            really = np.zeros(len(cut_into[split].first), bool)
            really[tile_of[(dense[:, latent] > 0) & (tile_of >= 0)]] = True
            assert windows.stands_for[windows.active].sum() == pytest.approx(really.sum())
            assert windows.stands_for[~windows.active].sum() == pytest.approx((~really).sum())
            assert (windows.stands_for[windows.role == "top"] == 0).all()


def test_silent_windows_with_the_word_count_as_often_as_they_come(
    records: dict[int, LatentRecord], planted: Planted
) -> None:
    whole = cut_splits(
        ActivationShards(planted.inputs["activations"]), VOCABULARY, ContextsConfig()
    )["test"]
    dense = CodeShards(planted.inputs["codes"]).codes("test").dense().numpy()[:, SENSE]
    active = np.zeros(len(whole.first), bool)
    active[whole.tile_of[(dense > 0) & (whole.tile_of >= 0)]] = True
    really = np.zeros(len(whole.first), bool)
    really[whole.tile_of[(planted.tokens["test"] == 3) & (whole.tile_of >= 0)]] = True
    windows = records[
        SENSE
    ].test  # fires on the word in one sense only: silent windows hold it, and more were drawn
    silent = windows.part(~windows.active)
    holds = (silent.texts.words == VOCABULARY.find(WORDS[3])).any(1)
    assert silent.stands_for[holds].sum() == pytest.approx((really & ~active).sum())
    assert holds.mean() > (really & ~active).sum() / (~active).sum() + 0.05


def test_part_of_the_windows_keeps_what_belongs_together(records: dict[int, LatentRecord]) -> None:
    windows = records[0].test
    some = windows.part(windows.quantile == 2)
    assert (
        set(some.quantile) == {2}
        and len(some) == len(some.texts.tokens) == len(some.activations) > 0
    )
    assert (some.activations.max(1) > 0).all()
