"""First-letter absorption: planted letters and words, known shares; activations that do not spell;
a real model that does not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from components.capture.capture import CAPTURE, CaptureConfig
from components.config import override
from components.corpus.corpora.text import TextConfig
from components.corpus.read import READ, ReadConfig, SplitsConfig
from components.device import Execution
from components.dictionary.architectures.relu import Relu, ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN
from components.evaluation.contract import Subject
from components.evaluation.evaluate import EVALUATE, EvaluateConfig
from components.evaluation.evaluations.first_letter import (
    COLUMNS,
    FirstLetter,
    FirstLetterConfig,
    absorbed,
    dealt,
    f1,
    main_latents,
)
from components.model.reference import ModelConfig, ModelReference
from components.report.tables import SCORES
from components.store.shards import Codes
from components.store.tables import FIRST_LETTER
from components.sweep import SweepConfig
from tests.evaluation import bench

LETTERS, N_WORDS = "abcde", 40
WORDS = [
    letter + chr(97 + i // 26) + chr(97 + i % 26) for letter in LETTERS for i in range(N_WORDS)
]
TEXTS = [f" {word}" for word in WORDS]
OWNER = dealt(WORDS)
FIRST = np.array([LETTERS.index(word[0]) for word in WORDS])
D_IN = len(LETTERS) + len(WORDS)
LONG, OWN = 5.0, 3.0


def test_words_are_dealt_out_once_in_every_letter():
    by_split = {split: {word for word in WORDS if OWNER[word] == split} for split in bench.SPLITS}
    assert not (by_split["select"] & by_split["validate"] or by_split["select"] & by_split["test"])
    assert not by_split["validate"] & by_split["test"] and set(OWNER) == set(WORDS)
    for letter in LETTERS:
        counts = {
            split: sum(word[0] == letter for word in words) for split, words in by_split.items()
        }
        assert counts == {"select": N_WORDS // 2, "validate": N_WORDS // 4, "test": N_WORDS // 4}
    # neither the order nor what begins no word matters
    assert dealt([*reversed(WORDS), ""]) == OWNER


def test_f1_counts_words_not_tokens():
    said, has = np.array([True, True, False, True]), np.array([True, True, True, False])
    assert f1(said, has, np.ones(4)) == pytest.approx(4 / 6)
    # the first two are one word
    assert f1(said, has, np.array([0.5, 0.5, 1, 1])) == pytest.approx(2 / 4)
    assert f1(np.zeros(4, bool), np.zeros(4, bool), np.ones(4)) == 0


def test_absorption_of_one_token_by_hand():
    # of unit directions, so these are the cosines too
    along = np.array([1.0, 0.8, 0.6, 0.5, 0.4, 0.02, -1.0])
    codes = {
        "the main latent carries it all": [10, 3, 0, 0, 0, 0, 0],
        "another carries it all": [0, 10, 0, 0, 0, 0, 0],
        "both, by halves": [4, 5, 0, 0, 0, 0, 0],
        "the other too little": [0, 4.9, 0, 0, 0, 0, 0],
        "three others together, one alone too little": [0, 3, 3, 3, 0, 0, 0],
        "only three others count": [2, 2, 2, 2, 2, 0, 0],
        "no more than is missing": [8, 10, 0, 0, 0, 0, 0],
        "the largest is not aligned": [0, 0, 0, 0, 0, 300, 0],
        "nobody": [0, 0, 0, 0, 0, 0, 3],
    }
    wanted = {  # silent, fraction, full; the activation's length along d is 10
        "the main latent carries it all": (0, 0, 0),
        "another carries it all": (1, 1, 1),
        "both, by halves": (0, 0.5, 0),
        "the other too little": (1, 0, 0),
        "three others together, one alone too little": (1, 1, 0),
        # 1.6 + 1.2 + 1.0 = 3.8 is less than 4, with the fourth it would be more
        "only three others count": (0, 0, 0),
        "no more than is missing": (0, 0.2, 0),
        "the largest is not aligned": (1, 0, 0),
        "nobody": (1, 0, 0),
    }
    matrix = sp.csr_matrix(np.array(list(codes.values()), float))
    found = absorbed(matrix, np.array([0]), along, along, np.full(len(codes), 10.0))
    for number, (name, (silent, fraction, full)) in enumerate(wanted.items()):
        here = {key: values[number] for key, values in found.items()}
        assert here == pytest.approx({"silent": silent, "fraction": fraction, "full": full}), name
    behind = absorbed(matrix, np.array([0]), along, along, np.full(len(codes), -1.0))
    assert not behind["fraction"].any() and not behind["full"].any()


def test_a_latent_of_one_word_is_no_main_latent_and_one_of_half_the_letter_is():
    n = 40
    has = np.arange(2 * n) < n
    dense = np.zeros((2 * n, 4))
    dense[: n // 2, 0], dense[n // 2 : n - 2, 1] = 1, 1  # the letter is split in two
    select, other = dense.copy(), dense.copy()
    select[n - 2 : n, 2] = 9  # a latent of two words of select, of none of validate and test
    select[:, 3], other[:, 3] = 1, 1  # always active
    codes = {
        "select": sp.csc_matrix(select),
        "validate": sp.csc_matrix(other),
        "test": sp.csc_matrix(other),
    }
    main, said = main_latents(
        codes, dict.fromkeys(codes, has), dict.fromkeys(codes, np.ones(2 * n))
    )
    assert sorted(main.tolist()) == [0, 1] and said.tolist() == (dense[:, :2].sum(1) > 0).tolist()


def grids(n_documents: int = 3) -> dict:
    """Every word in every split, each document all words in turn: the part of a word is all that
    tells splits apart."""
    made = {}
    for number, split in enumerate(bench.SPLITS):
        grid = bench.plain(n_documents, len(WORDS))
        made[split] = {
            **grid,
            "token": grid["position"].clone(),
            "document": grid["document"] + 1000 * number,
        }
    return made


def spelling(spelt: str = LETTERS) -> torch.Tensor:
    """Activations of all words: their own direction, and that of their letter where it is among
    `spelt`."""
    x = torch.zeros(len(WORDS), D_IN)
    for number, word in enumerate(WORDS):
        x[number, len(LETTERS) + number] = OWN
        if word[0] in spelt:
            x[number, LETTERS.index(word[0])] = LONG
    return x


def planted(taken: set[str]) -> tuple[Relu, torch.Tensor]:
    """A latent of each letter and one of each word; on the words taken the word's latent carries
    the letter too."""
    dictionary = Relu(
        ReluConfig(d_sae=D_IN), (bench.HOOK_POINT,), (bench.HOOK_POINT,), {bench.HOOK_POINT: D_IN}
    )
    written, codes = torch.eye(D_IN), torch.zeros(len(WORDS), D_IN)
    for number, word in enumerate(WORDS):
        latent = len(LETTERS) + number
        if word in taken:
            written[latent, LETTERS.index(word[0])] = LONG / OWN
        else:
            codes[number, LETTERS.index(word[0])] = LONG
        codes[number, latent] = OWN
    with torch.no_grad():
        dictionary.W_dec.copy_(written)
    return dictionary, codes


def subject(store, folder, x, dictionary, codes, n_documents: int = 3, **more) -> Subject:
    repeated = {split: x.repeat(n_documents, 1) for split in bench.SPLITS}
    found = {split: Codes.from_dense(codes.repeat(n_documents, 1)) for split in bench.SPLITS}
    return bench.subject(
        store,
        folder,
        dictionary,
        grids=grids(n_documents),
        x=repeated,
        found=found,
        texts=TEXTS,
        **more,
    )


def absorbing(per_letter: dict[str, int]) -> set[str]:
    """So many words of test of each letter, and as many of select."""
    taken: set[str] = set()
    for letter, n in per_letter.items():
        for split in ("select", "test"):
            taken |= set([word for word in WORDS if OWNER[word] == split and word[0] == letter][:n])
    return taken


def test_the_share_of_words_that_were_absorbed_comes_out_exactly(store, tmp_path):
    dictionary, codes = planted(absorbing({"a": 3, "b": 1}))
    scores, reported = bench.measure(
        FirstLetter(FirstLetterConfig(), bench.services()),
        subject(store, tmp_path, spelling(), dictionary, codes),
    )
    table = pl.read_parquet(tmp_path / FIRST_LETTER.file)
    assert table["letter"].to_list() == list(LETTERS) and table["spelt"].all() and reported
    assert table["main"].to_list() == [[0], [1], [2], [3], [4]]
    assert (
        table.select("words_select", "words_validate", "words_test", "n").rows()
        == [(20, 10, 10, 10)] * 5
    )
    assert table["fraction"].to_list() == pytest.approx([0.3, 0.1, 0, 0, 0], abs=1e-12)
    assert table["full"].to_list() == table["silent"].to_list() == table["fraction"].to_list()
    assert table["main_f1"].to_list() == pytest.approx([14 / 17, 18 / 19, 1, 1, 1])
    assert table["reason"].null_count() == 5
    values = {name: score.interval.value for (name, _), score in scores.items()}
    assert values == pytest.approx(
        {
            "first_letter.probe_f1": 1, "first_letter.spelt": 1, "first_letter.main_latents": 1,
            "first_letter.absorption": 0.08, "first_letter.full_absorption": 0.08, "first_letter.silent": 0.08,
            "first_letter.main_f1": (14 / 17 + 18 / 19 + 3) / 5,
        }
    )  # fmt: skip
    score = scores["first_letter.absorption", None]
    assert (score.interval.n, score.n_failed, score.unit_of_replication) == (5, 0, "letter")
    assert score.interval.low < 0.08 < score.interval.high and score.baseline is None
    main = scores["first_letter.main_f1", None]
    assert (main.baseline, main.baseline_name) == (1, "linear probe")


def test_nothing_absorbed_is_zero_and_the_untrained_dictionary_stands_beside_it(store, tmp_path):
    dictionary, codes = planted(set())
    control, others = planted(absorbing(dict.fromkeys(LETTERS, 2)))
    untrained = control, {split: Codes.from_dense(others.repeat(3, 1)) for split in bench.SPLITS}
    given = subject(store, tmp_path, spelling(), dictionary, codes, untrained=untrained)
    scores, _ = bench.measure(FirstLetter(FirstLetterConfig(), bench.services()), given)
    score = scores["first_letter.absorption", None]
    assert (score.interval.value, score.interval.low, score.interval.high) == (0, 0, 0)
    assert score.baseline == pytest.approx(0.2) and score.baseline_name == "untrained dictionary"


def test_activations_that_know_words_and_no_letters_do_not_spell(store, tmp_path):
    dictionary, codes = planted(set())
    scores, _ = bench.measure(
        FirstLetter(FirstLetterConfig(), bench.services()),
        subject(store, tmp_path, spelling(spelt=""), dictionary, codes),
    )
    table = pl.read_parquet(tmp_path / FIRST_LETTER.file)
    assert (
        not table["spelt"].any()
        and table["probe_f1"].max() < 0.6
        and table["main"].null_count() == len(LETTERS)
    )
    best = table.sort("probe_f1", descending=True, maintain_order=True).row(0, named=True)
    for name in COLUMNS:
        score = scores[name, None]
        assert (score.interval.value, score.interval.n, score.n_failed) == (None, 0, 0)
        assert score.reason == (
            "the model does not spell: at resid_post.1 the probes of 5 letters were read on words "
            f"that they had not seen, and none reaches an F1 of 0.6 (best: {best['letter']}, "
            f"{best['probe_f1']:.2f})"
        )
    assert scores["first_letter.spelt", None].interval.value == 0
    assert scores["first_letter.probe_f1", None].interval.value == pytest.approx(
        table["probe_f1"].mean()
    )


def test_a_letter_that_is_not_spelt_is_named_and_the_others_count(store, tmp_path):
    dictionary, codes = planted(absorbing({"a": 2, "b": 4, "d": 10}))
    scores, _ = bench.measure(
        FirstLetter(FirstLetterConfig(), bench.services()),
        subject(store, tmp_path, spelling(spelt="ab"), dictionary, codes),
    )
    row = pl.read_parquet(tmp_path / FIRST_LETTER.file).row(3, named=True)
    assert row["letter"] == "d" and row["spelt"] is False and row["fraction"] is None
    assert row["reason"] == f"not spelt: F1 {row['probe_f1']:.2f} on words of validate, wanted 0.6"
    score = scores["first_letter.absorption", None]
    assert (score.interval.value, score.interval.n, score.n_failed) == (pytest.approx(0.3), 2, 0)
    assert scores["first_letter.spelt", None].interval.value == pytest.approx(0.4)


def test_a_letter_that_no_latent_tells_has_failed_and_is_counted(store, tmp_path):
    dictionary, codes = planted(set())
    codes[FIRST == 1, 1] = 0
    scores, _ = bench.measure(
        FirstLetter(FirstLetterConfig(), bench.services()),
        subject(store, tmp_path, spelling(), dictionary, codes),
    )
    row = pl.read_parquet(tmp_path / FIRST_LETTER.file).row(1, named=True)
    assert (row["spelt"], row["main"], row["fraction"]) == (True, [], None)
    score = scores["first_letter.absorption", None]
    assert (score.interval.value, score.interval.n, score.n_failed) == (0, 5, 1)
    assert score.reason == "b: no latent tells it on words of validate (F1 at most 0.03)"


def test_choices_do_not_read_the_words_of_test(store, tmp_path):
    """Whatever the activations and codes of the words of test are, probes, gates and main latents
    stay."""
    dictionary, codes = planted(absorbing({"a": 2}))
    theirs = torch.tensor([OWNER[word] == "test" for word in WORDS])
    x, other = spelling(), codes.clone()
    bench.measure(
        FirstLetter(FirstLetterConfig(), bench.services()),
        subject(store, tmp_path, x, dictionary, codes),
    )
    first = pl.read_parquet(tmp_path / FIRST_LETTER.file)
    x = torch.where(theirs[:, None], x.flip(1) * 7, x)
    other[theirs] = other[theirs].flip(1)
    bench.measure(
        FirstLetter(FirstLetterConfig(), bench.services()),
        subject(store, tmp_path, x, dictionary, other, seed=1),
    )
    second = pl.read_parquet(tmp_path / FIRST_LETTER.file)
    chosen = ("letter", "words_select", "words_validate", "words_test", "probe_f1", "spelt", "main")
    assert first.select(chosen).equals(second.select(chosen))
    assert second["probe_f1_test"].max() < 0.6 < first["probe_f1_test"].min()


def test_few_words_are_named_and_a_word_counts_once_however_often_it_is_read(store, tmp_path):
    dictionary, codes = planted(absorbing({"a": 3}))
    given = subject(store, tmp_path, spelling(), dictionary, codes, n_documents=5)
    scores, _ = bench.measure(FirstLetter(FirstLetterConfig(words=11), bench.services()), given)
    assert scores["first_letter.spelt", None].reason == (
        "no letter begins 11 words of each of select, validate, test: give more text, or lower "
        "evaluate.settings.first_letter.words"
    )
    row = pl.read_parquet(tmp_path / FIRST_LETTER.file).row(0, named=True)
    assert row["reason"] == (
        "words with it: 20 of select, 10 of validate, 10 of test; 11 of each, and as many "
        "without, are needed"
    )
    for occurrences in (1, 3, 9):
        evaluation = FirstLetter(FirstLetterConfig(occurrences=occurrences), bench.services())
        parts = evaluation.parts(given)
        for split, part in parts.items():
            owned = sorted(word for word in WORDS if OWNER[word] == split)
            assert np.unique(part.word).tolist() == owned and len(part.row) == min(
                occurrences, 5
            ) * len(owned)
            assert part.weight.sum() == pytest.approx(len(owned)) and len(
                set(part.row.tolist())
            ) == len(part.row)
            assert [WORDS[row % len(WORDS)] for row in part.row.tolist()] == part.word.tolist()
        scores, _ = bench.measure(evaluation, given)
        assert scores["first_letter.absorption", None].interval.value == pytest.approx(0.3 / 5)


def test_a_sweep_and_an_experiment_measure_it_only_when_asked():
    six = [
        "absorption",
        "concepts_found",
        "description_length",
        "loss_recovered",
        "reconstruction",
        "sparse_probing",
    ]
    assert SweepConfig().evaluations == six  # part of the keys of what sweeps have measured
    asked = override(SweepConfig(), {"evaluations": [*six, "first_letter"]})
    assert asked.evaluations == sorted([*six, "first_letter"])


def test_a_small_model_of_stories_does_not_spell(store, tmp_path, shared):
    """Its 512 tokens begin few words, and of those that can be asked about it knows no letter; by
    the real stages."""
    stories = pl.read_parquet(shared / "data/tinystories/validation.parquet")["text"].to_list()
    (tmp_path / "stories.txt").write_text("\n\n".join(" ".join(story.split()) for story in stories))
    splits, cpu = ("train", "select", "validate", "test"), Execution(device="cpu")
    model = ModelReference(ModelConfig(path=str(shared / "models/stories260k")))
    nothing = dict.fromkeys(("explain", "calibrate", "judge", "neutral"), 0)
    read = ReadConfig(
        corpus=TextConfig(path=str(tmp_path / "stories.txt")),
        splits=SplitsConfig(**dict.fromkeys(splits, 12_000), **nothing),
    )
    corpus, _ = store.ensure(READ, read, {"model": model}, cpu)
    captured = CaptureConfig(hook_points=("resid_post.2",), splits=splits)
    activations, _ = store.ensure(CAPTURE, captured, {"model": model, "corpus": corpus}, cpu)
    training = TrainConfig(
        dictionary=TopKConfig(d_sae=128, k=8), tokens=12_000, batch_size=512, dead_after=6000
    )
    dictionary, _ = store.ensure(TRAIN, training, {"activations": activations}, cpu)
    inputs = {
        "model": model,
        "corpus": corpus,
        "activations": activations,
        "dictionary": dictionary,
    }
    wanted = {
        2: "the model does not spell: at resid_post.2",
        5: "no letter begins 5 words of each of",
    }
    for words, reason in wanted.items():
        config = override(
            EvaluateConfig(evaluations=["first_letter"]), {"settings.first_letter.words": words}
        )
        evaluated, _ = store.ensure(EVALUATE, config, inputs, cpu)
        scores = {
            row["name"].removeprefix("evaluate."): row for row in SCORES.read(evaluated).to_dicts()
        }
        assert all(
            scores[name]["value"] is None and scores[name]["reason"].startswith(reason)
            for name in COLUMNS
        )
        tested = FIRST_LETTER.read(evaluated).drop_nulls("probe_f1")
        assert (scores["first_letter.spelt"]["value"], tested["spelt"].any()) == (
            0 if words == 2 else None,
            False,
        )
        assert (tested.height > 0) == (words == 2) and (tested["probe_f1"] < 0.6).all()
