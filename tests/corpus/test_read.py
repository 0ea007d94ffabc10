"""From documents to disjoint splits, contexts and labels; and what is said when that cannot be."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from components.config import flatten, override
from components.corpus.contract import text_digest
from components.corpus.corpora.world import WorldCorpus
from components.corpus.read import READ, ReadConfig, SplitsConfig
from components.errors import ConfigError, CorpusError
from components.store import tables
from components.store.artifact import Artifact, Store, key_of
from components.world.tokenizer import build_tokenizer
from tests.corpus.doubles import Reference, byte_level

NONE = dict.fromkeys(SplitsConfig().model_dump(), 0)
WORLD = Reference(build_tokenizer())
BYTES = Reference(byte_level())
WORDS = [
    "fox",
    "dog",
    "time",
    "upon",
    "little",
    "lazy",
    "once",
    "over",
    "there",
    "said",
    "1",
    "2",
    "3",
    "a",
    "the",
]


def splits(**tokens: int) -> dict[str, int]:
    return {f"splits.{name}": n for name, n in (NONE | tokens).items()}


def of_world(**fields: Any) -> ReadConfig:
    small = splits(train=600, select=400, judge=400, neutral=200, test=400, validate=300)
    return override(ReadConfig(pairs=0, context_length=96), small | fields)


TINY = splits(train=150, test=150)


def of_file(path: Path, **fields: Any) -> ReadConfig:
    given = {"corpus.kind": "jsonl", "corpus.path": str(path), "context_length": 16}
    return override(
        ReadConfig(), given | (splits() | splits(train=300, test=100, neutral=60)) | fields
    )


def lines(n: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(draw.choices(WORDS, k=draw.randint(2, 12))) + f" {number}" for number in range(n)
    ]


def jsonl(path: Path, texts: list[str], **columns: list) -> Path:
    rows = [
        dict(zip(["text", *columns], row, strict=True))
        for row in zip(texts, *columns.values(), strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def read(store: Store, config: ReadConfig, model: Reference) -> Artifact:
    return store.ensure(READ, config, {"model": model})[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    every = WorldCorpus.pairs
    with pytest.MonkeyPatch.context() as patch:  # of the hundred kinds of pairs a few will do
        patch.setattr(WorldCorpus, "pairs", lambda *args: islice(every(*args), 4))
        yield read(
            Store(tmp_path_factory.mktemp("store")),
            of_world(pairs=2, prompts_validate=8, prompts_test=16),
            WORLD,
        )


def test_every_split_gets_its_tokens_and_no_document_is_in_two(world: Artifact) -> None:
    documents = tables.DOCUMENTS.read(world)
    assert documents["digest"].n_unique() == documents["text"].n_unique() == documents.height
    assert documents["document"].sort().to_list() == list(range(documents.height))
    assert (
        set(documents["split"])
        == {"train", "select", "judge", "neutral", "test", "validate"}
        == set(world.facts["splits"])
    )
    for split, facts in world.facts["splits"].items():
        own = documents.filter(split=split)
        assert own["n_tokens"].sum() == facts["tokens"] >= getattr(of_world().splits, split)
        assert own.height == facts["documents"]
        assert facts["tokens"] - own["n_tokens"][-1] < getattr(of_world().splits, split), (
            "not a document too many"
        )


def test_contexts_hold_exactly_the_documents_of_their_split(world: Artifact) -> None:
    documents = tables.DOCUMENTS.read(world)
    tokenizer = WORLD.tokenizer()
    for split, facts in world.facts["splits"].items():
        packed = load_file(world.path(f"contexts/{split}.safetensors"))
        assert {name: array.dtype for name, array in packed.items()} == dict.fromkeys(
            ("token", "document", "position"), np.dtype("int32")
        )
        assert packed["token"].shape == (facts["contexts"], 96)
        assert (packed["token"][:, 0] == tokenizer.bos_token_id).all()
        kept = packed["document"] >= 0
        assert kept.sum() == facts["tokens"]
        for number, text in documents.filter(split=split).select("document", "text").iter_rows():
            place = packed["document"] == number
            order = np.argsort(packed["position"][place])
            assert packed["token"][place][order].tolist() == tokenizer(text)["input_ids"]


def test_labels_lie_on_the_tokens_they_name(world: Artifact) -> None:
    documents = dict(tables.DOCUMENTS.read(world).select("document", "text").iter_rows())
    tokenizer = WORLD.tokenizer()
    labels = tables.LABELS.read(world)
    words = labels.filter(pl.col("concept").str.starts_with("word."))
    assert words.height > 20
    for concept, document, token in words.select("concept", "document", "token").iter_rows():
        ids = tokenizer(documents[document])["input_ids"]
        assert tokenizer.decode([ids[token]]) == concept.removeprefix("word.")
    assert world.facts["n_labels_lost"] == 0


def test_labels_are_of_known_concepts_and_of_labelled_splits_only(world: Artifact) -> None:
    inventory = tables.CONCEPTS.read(world)
    labels = tables.LABELS.read(world).join(inventory, on="concept", how="left")
    assert labels["unit"].null_count() == 0
    assert ((labels["unit"] == "document") == labels["token"].is_null()).all()
    splits_of = labels.join(tables.DOCUMENTS.read(world), on="document")["split"]
    assert set(splits_of) == {"select", "judge", "neutral", "test", "validate"}


def test_prompts_and_pairs_come_in_the_splits_that_use_them(world: Artifact) -> None:
    prompts, pairs = tables.PROMPTS.read(world), tables.PAIRS.read(world)
    assert prompts["text"].n_unique() == prompts.height == 24
    assert dict(prompts["split"].value_counts().iter_rows()) == {"validate": 8, "test": 16}
    assert set(pairs["split"]) == {"select", "validate", "test"}
    assert (pairs["positive"] != pairs["negative"]).all()


def test_the_vocabulary_shows_each_token_as_it_reads(store: Store, tmp_path: Path) -> None:
    artifact = read(store, of_file(jsonl(tmp_path / "a.jsonl", lines(200))), BYTES)
    shown = dict(tables.VOCABULARY.read(artifact).iter_rows())
    tokenizer = BYTES.tokenizer()
    assert len(shown) == len(tokenizer)
    ids = tokenizer("a fox and the dog")["input_ids"]
    assert "".join(shown[token] for token in ids) == "a fox and the dog"
    assert shown[tokenizer.eos_token_id] == "</s>"
    assert "" not in shown.values()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_documents(
    tmp_path: Path,
) -> None:
    first, again, other = (
        read(Store(tmp_path / str(n)), of_world(seed=seed, **TINY), WORLD)
        for n, seed in enumerate([0, 0, 1])
    )
    assert first.manifest["files"] == again.manifest["files"]
    assert set(tables.DOCUMENTS.read(first)["digest"]).isdisjoint(
        tables.DOCUMENTS.read(other)["digest"]
    )


def test_what_a_killed_run_left_changes_nothing(store: Store, tmp_path: Path) -> None:
    config = of_file(jsonl(tmp_path / "a.jsonl", lines(200)))
    wanted = read(Store(tmp_path / "clean"), config, BYTES).manifest["files"]
    partial = store.folder("read", f"{key_of(READ, config, {'model': BYTES})}.partial")
    partial.mkdir(parents=True)
    work = READ.make(partial, config, {"model": BYTES}, None)
    next(work)
    work.close()
    (partial / ".labels" / "000099.parquet").write_bytes(b"torn")
    assert len(list(partial.iterdir())) > 3
    assert read(store, config, BYTES).manifest["files"] == wanted


def test_repeated_empty_and_pretrained_documents_are_dropped_and_counted(
    store: Store, tmp_path: Path
) -> None:
    texts = lines(200)
    known = {"digest": np.array([text_digest(text) for text in texts[:7]], np.int64)}
    save_file(known, tmp_path / "pretrain_documents.safetensors")
    path = jsonl(tmp_path / "a.jsonl", [*texts[:20], *texts[:12], " ", "", *texts[20:]])
    config = of_file(path, **splits(train=10**4, test=1))
    with pytest.raises(CorpusError):  # reads everything there is
        read(store, config, Reference(byte_level(), tmp_path))
    artifact = read(store, of_file(path), Reference(byte_level(), tmp_path))
    assert artifact.facts["dropped"]["pretraining"] > 0
    assert set(tables.DOCUMENTS.read(artifact)["text"]).isdisjoint(texts[:7])
    assert (
        tables.DOCUMENTS.read(artifact)["text"].n_unique() == tables.DOCUMENTS.read(artifact).height
    )
    assert artifact.facts["dropped"]["repeated"] > 0


def test_the_order_of_a_file_moves_no_document_to_another_split(tmp_path: Path) -> None:
    texts = lines(120)
    split_of = []
    for n, order in enumerate([texts, texts[20:] + texts[:20]]):
        artifact = read(
            Store(tmp_path / str(n)), of_file(jsonl(tmp_path / f"{n}.jsonl", order)), BYTES
        )
        split_of.append(dict(tables.DOCUMENTS.read(artifact).select("text", "split").iter_rows()))
    both = split_of[0].keys() & split_of[1].keys()
    assert len(both) > 10
    assert len({split_of[0][text] for text in both}) > 1
    assert all(split_of[0][text] == split_of[1][text] for text in both)


def test_a_users_columns_and_words_become_labels(store: Store, tmp_path: Path) -> None:
    texts = lines(200)
    path = jsonl(tmp_path / "a.jsonl", texts, long=[len(text) > 30 for text in texts])
    config = of_file(
        path, **{"corpus.label_columns": ["long"], "word_lists": {"animal": ["fox", "dog"]}}
    )
    artifact = read(store, config, BYTES)
    documents, labels = tables.DOCUMENTS.read(artifact), tables.LABELS.read(artifact)
    assert tables.CONCEPTS.read(artifact).select("concept", "unit").rows() == [
        ("long", "document"),
        ("animal", "token"),
    ]
    shown = dict(tables.VOCABULARY.read(artifact).iter_rows())
    test = documents.filter(split="test")
    assert set(labels.filter(concept="long")["document"]) & set(test["document"]) == set(
        test.filter(pl.col("text").str.len_chars() > 30)["document"]
    )
    for document, text in test.select("document", "text").iter_rows():
        ids = BYTES.tokenizer()(text)["input_ids"]
        at = labels.filter(concept="animal", document=document)["token"].sort().to_list()
        n_words = sum(word in ("fox", "dog") for word in text.split())
        assert "".join(shown[ids[token]] for token in at).split() == [
            w for w in text.split() if w in ("fox", "dog")
        ]
        assert bool(at) == bool(n_words)


def test_a_corpus_without_prompts_lends_first_words_of_documents_of_their_own_split(
    store: Store, tmp_path: Path
) -> None:
    config = of_file(
        jsonl(tmp_path / "a.jsonl", lines(300)),
        prompts_test=2,
        prompts_validate=2,
        **{"splits.validate": 60},
    )
    artifact = read(store, config, BYTES)
    prompts = tables.PROMPTS.read(artifact)
    assert prompts["split"].to_list() == ["validate"] * 2 + ["test"] * 2
    for split in ("validate", "test"):
        texts = tables.DOCUMENTS.read(artifact).filter(split=split)["text"].to_list()
        own = prompts.filter(split=split)["text"]
        assert all(any(text.startswith(prompt) for text in texts) for prompt in own)


def test_changed_bytes_under_the_same_name_are_read_again(store: Store, tmp_path: Path) -> None:
    config = of_file(jsonl(tmp_path / "a.jsonl", lines(200)))
    first = read(store, config, BYTES)
    assert store.ensure(READ, config, {"model": BYTES})[1]
    jsonl(tmp_path / "a.jsonl", lines(200, seed=1))
    assert read(store, config, BYTES).key != first.key


def test_a_model_without_bos_has_contexts_that_begin_with_a_document(
    store: Store, tmp_path: Path
) -> None:
    artifact = read(
        store, of_file(jsonl(tmp_path / "a.jsonl", lines(200))), Reference(byte_level(bos=False))
    )
    assert (load_file(artifact.path("contexts/train.safetensors"))["document"][:, 0] >= 0).all()


@pytest.mark.parametrize(
    ("texts", "fields", "message"),
    [
        (
            ["", "  "],
            {},
            r"the corpus \(jsonl\) is empty: no document with text came; look at read.corpus.path",
        ),
        (
            ["a fox"],
            {},
            r"shorter than one context: \d+ tokens came in 1 document, and read.context_length is 16; lower",
        ),
        (
            lines(40),
            {"splits.test": 9000},
            r"too few tokens: read.splits.train wants 300 and got \d+ .*read.splits.test wants 9,000 and got [\d,]+ in "
            r"\d+ documents.* In all [\d,]+ tokens came in 40 documents, and 9,360 are wanted; lower read.splits",
        ),
        (
            lines(200),
            {"corpus.text_column": "txt"},
            r"no column 'txt'; known: text; did you mean 'text'\?",
        ),
    ],
)
def test_a_corpus_that_cannot_be_divided_says_what_came(
    store: Store, tmp_path: Path, texts: list[str], fields: dict, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        read(store, of_file(jsonl(tmp_path / "a.jsonl", texts), **fields), BYTES)


def test_two_sources_of_one_concept_are_refused(store: Store, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", lines(200), fox=[True] * 200)
    config = of_file(path, **{"corpus.label_columns": ["fox"], "word_lists": {"fox": ["fox"]}})
    with pytest.raises(
        CorpusError, match="two sources give the concept 'fox'; rename it in read.word_lists"
    ):
        read(store, config, BYTES)


def test_a_tokenizer_without_a_fast_form_is_refused(store: Store) -> None:
    class Slow:
        pass

    with pytest.raises(
        CorpusError,
        match=r"reading needs a fast tokenizer \(tokenizer.json\), and the model's is Slow",
    ):
        read(store, of_world(), Reference(Slow()))


def test_the_split_called_validate_is_a_parameter_like_any_other() -> None:
    config = override(ReadConfig(), {"splits.validate": 7})
    assert config.splits.validate == 7
    assert flatten(config)["splits.validate"] == 7
    assert ReadConfig.model_json_schema()["$defs"]["SplitsConfig"]["properties"]["validate"][
        "description"
    ]
    with pytest.raises(
        ConfigError, match="splits.validate: Input should be greater than or equal to 0, got -1"
    ):
        override(ReadConfig(), {"splits.validate": -1})


def test_tokens_alone_are_enough_and_a_small_corpus_is_used_whole(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = jsonl(tmp_path / "a.jsonl", lines(120))
    given = {"corpus.kind": "jsonl", "corpus.path": str(path), "context_length": 16}
    small = read(store, override(ReadConfig(), given | {"tokens": 1_000_000}), BYTES)
    nothing_said = read(store, override(ReadConfig(), given), BYTES)
    assert tables.DOCUMENTS.read(small).height == 120
    assert set(small.facts["splits"]) == set(NONE)
    assert nothing_said.manifest["files"] == small.manifest["files"]
    [note] = small.facts["notes"]
    assert note.startswith(
        f"the corpus has {small.facts['tokens']:,} tokens in 120 documents, fewer than the "
        "1,000,000"
    )
    assert f"read: {note}" in caplog.messages
    few = read(store, override(ReadConfig(), given | {"tokens": 200}), BYTES)
    assert few.facts["notes"] == []
    assert 200 <= few.facts["tokens"] < small.facts["tokens"]


def test_tokens_do_for_the_embedded_world_too(store: Store) -> None:
    made = read(store, override(ReadConfig(pairs=0, context_length=96), {"tokens": 3000}), WORLD)
    assert {name: facts["tokens"] >= 3000 * n // 2_080_000 for (name, n), facts in zip(
        SplitsConfig().model_dump().items(), made.facts["splits"].values(), strict=True)} == dict.fromkeys(NONE, True)  # fmt: skip


def test_special_tokens_in_a_text_are_no_part_of_a_document_and_are_counted(
    store: Store, tmp_path: Path
) -> None:
    plain = lines(200)
    texts = [
        text.replace(" ", " </s> <s> ", 1) if n % 2 else f"{text}</s>"
        for n, text in enumerate(plain)
    ]
    path = jsonl(tmp_path / "a.jsonl", [*texts, "<s></s>"])
    artifact = read(
        store,
        of_file(path, **{"word_lists": {"animal": ["fox", "dog"]}, "splits.test": 600}),
        BYTES,
    )
    tokenizer = BYTES.tokenizer()
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    documents = tables.DOCUMENTS.read(artifact)
    shown = dict(tables.VOCABULARY.read(artifact).iter_rows())
    n_inside = 0
    for split in artifact.facts["splits"]:
        packed = load_file(artifact.path(f"contexts/{split}.safetensors"))
        kept = packed["document"] >= 0
        assert not np.isin(packed["token"][kept], special).any()
        assert kept.sum() == artifact.facts["splits"][split]["tokens"]
        assert (packed["position"][~kept] == -1).all()
        inside = (
            ~kept[:, 1:-1]
            & kept[:, :-2]
            & kept[:, 2:]
            & (packed["document"][:, :-2] == packed["document"][:, 2:])
        )
        n_inside += inside.sum()
        for number, text, n in (
            documents.filter(split=split).select("document", "text", "n_tokens").iter_rows()
        ):
            place = packed["document"] == number
            assert sorted(packed["position"][place].tolist()) == list(range(n))
            order = np.argsort(packed["position"][place])
            said = "".join(shown[token] for token in packed["token"][place][order].tolist())
            assert said == text.replace("</s>", "").replace("<s>", "")
    for document, token in tables.LABELS.read(artifact).select("document", "token").iter_rows():
        text = documents.filter(document=document)["text"][0]
        ids = [
            t for t in tokenizer(text, add_special_tokens=False)["input_ids"] if t not in special
        ]
        assert shown[ids[token]].strip() in "fox dog"
    assert artifact.facts["n_special"] > 100
    assert artifact.facts["notes"][0].startswith(
        f"{artifact.facts['n_special']:,} special tokens stood in the text"
    )


def test_lone_surrogates_are_replaced_and_counted(store: Store, tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", [f"{text} \ud83d" for text in lines(200)] + ["x \ud83d", "x \ud83e"]
    )
    artifact = read(store, of_file(path), BYTES)
    assert tables.DOCUMENTS.read(artifact)["text"].str.contains("�").all()
    assert artifact.facts["n_replaced"] >= tables.DOCUMENTS.read(artifact).height
    assert "lone surrogates in the text were replaced" in artifact.facts["notes"][0]


def test_a_list_that_labels_nothing_says_so(store: Store, tmp_path: Path) -> None:
    lists = {"word_lists": {"animal": ["fox"], "typo": ["foxx"]}}
    artifact = read(store, of_file(jsonl(tmp_path / "a.jsonl", lines(200)), **lists), BYTES)
    assert artifact.facts["unlabelled_lists"] == ["typo"]
    assert "the word list 'typo' labels nothing" in artifact.facts["notes"][0]
    inventory = dict(tables.CONCEPTS.read(artifact).select("concept", "description").iter_rows())
    assert inventory["typo"] == "Words of the list 'typo'; none of them stands in the text."


def test_text_without_spaces_is_labelled_and_its_prompts_are_short(
    store: Store, tmp_path: Path
) -> None:
    draw = random.Random(0)
    texts = [
        "".join(draw.choices(["小猫", "大雨", "花园", "蝴蝶", "朋友", "，", "。"], k=60))
        for _ in range(200)
    ]
    config = of_file(
        jsonl(tmp_path / "a.jsonl", texts),
        **{"word_lists": {"cat": ["小猫"]}, "splits.test": 4000, "splits.validate": 400},
    )
    artifact = read(store, config, BYTES)
    documents = tables.DOCUMENTS.read(artifact).filter(split="test")
    holding = documents.filter(pl.col("text").str.contains("小猫"))["document"].to_list()
    assert set(tables.LABELS.read(artifact)["document"]) >= set(holding)
    assert len(holding) > 3
    assert tables.PROMPTS.read(artifact)["text"].str.len_chars().max() <= 12


def test_what_was_read_of_the_embedded_world_keeps_its_key() -> None:
    assert key_of(READ, ReadConfig(), {"model": WORLD}) == "e26477f9fd5f0664f66618bf"
