"""The embedded world through the eyes of a corpus."""

from __future__ import annotations

from itertools import islice

from components.corpus.contract import text_digest
from components.corpus.corpora.world import WorldCorpus, WorldCorpusConfig
from components.corpus.packing import pack
from components.world.pretrain import pack_stories, story_digest

CORPUS = WorldCorpus(WorldCorpusConfig())


def test_splits_have_streams_of_their_own_and_start_over_the_same() -> None:
    texts = {
        split: [d.text for d in islice(CORPUS.documents(split, 0), 8)]
        for split in ("pretrain", "train", "test")
    }
    assert len({text for of_split in texts.values() for text in of_split}) == 24
    assert [d.text for d in islice(CORPUS.documents("test", 0, labels=False), 8)] == texts["test"]
    assert [d.text for d in islice(CORPUS.documents("test", 1), 8)] != texts["test"]


def test_labels_cover_words_and_are_of_the_inventory() -> None:
    known = {entry.concept: entry for entry in CORPUS.concepts()}
    for document in islice(CORPUS.documents("test", 0), 10):
        assert document.labels and document.nats is not None and document.nats > 0
        for label in document.labels:
            assert known[label.concept].unit == ("document" if label.start is None else "token")
            if label.start is not None:
                covered = document.text[label.start : label.end]
                assert covered == covered.strip() != ""


def test_labels_are_left_out_where_nobody_asks() -> None:
    assert all(
        not document.labels for document in islice(CORPUS.documents("train", 0, labels=False), 5)
    )


def test_pairs_and_prompts_come_as_asked() -> None:
    pairs = list(islice(CORPUS.pairs(1, 0), 5))
    assert len({pair.concept for pair in pairs}) == 5
    assert all(pair.positive != pair.negative for pair in pairs)
    assert len(set(CORPUS.prompts(5, "test", 0))) == 5


def test_a_story_has_the_digest_under_which_pretraining_lists_it() -> None:
    text = next(CORPUS.documents("test", 0, labels=False)).text
    assert text_digest(text) == story_digest(text)


def test_contexts_read_as_those_of_pretraining() -> None:
    documents = [[5, 6, 7], [8, 9], [3], [4] * 5, [7, 7]]
    ours = pack(documents, bos=1, eos=2, pad=0, context_length=8).token.tolist()
    theirs = pack_stories(documents, 8, 1, 2, 0).tolist()
    for contexts in (ours, theirs):
        told = [context[1:] for context in contexts if context[0] == 1]
        assert len(told) == len(contexts)
        pieces = [
            piece
            for context in told
            for piece in "".join(map(str, context)).rstrip("0").split("2")
            if piece
        ]
        assert sorted(pieces) == sorted("".join(map(str, document)) for document in documents)
