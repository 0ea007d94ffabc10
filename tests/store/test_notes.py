"""Notes: kept beside the store, each author's own, and nothing lost when many write at once."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from components.errors import InputError, StoreError
from components.interpretation.explainers.given import GivenConfig, _texts
from components.store.artifact import Store
from components.store.notes import NOTES, RATINGS, TEXT_RATINGS, Notes, labels

KEY = "0123456789abcdef01234567"
WRITER = """
import sys
from components.store.artifact import Store
from components.store.notes import Notes
notes = Notes(Store(sys.argv[1]), sys.argv[2])
for latent in range(25):
    notes.say(latent, label=f"{sys.argv[3]} {latent}", tags=[], vote=1, author=sys.argv[3])
    notes.rate("i", latent, [("log_odds", "text", latent % 2 == 0)], sys.argv[3])
    notes.rate_text("s", latent, "sea", text="t", has_target=None, fluent=latent % 2 == 0,
                    goes_on=True, author=sys.argv[3])
"""


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(Store(tmp_path / "artifacts"), KEY)


def test_reading_before_anything_was_said_gives_empty_tables_and_makes_nothing(
    notes: Notes,
) -> None:
    assert notes.notes().schema == NOTES.schema and notes.ratings().schema == RATINGS.schema
    assert notes.text_ratings().schema == TEXT_RATINGS.schema
    assert notes.notes().is_empty() and not notes.path.parent.exists()


def test_notes_lie_beside_the_artifacts_and_are_read_as_they_were_said(
    notes: Notes, tmp_path: Path
) -> None:
    notes.say(7, label="  numbers\n counted ", tags=["counting", "", "counting ", "a b"], vote=1)
    assert notes.path == tmp_path / "notes" / f"{KEY}.sqlite"
    row = notes.notes().row(0, named=True)
    assert (row["latent"], row["label"], row["vote"]) == (7, "numbers counted", 1)
    assert row["tags"] == ["a b", "counting"]
    assert not (tmp_path / "artifacts").exists()


def test_the_newest_note_of_an_author_counts_and_an_empty_one_is_none(notes: Notes) -> None:
    notes.say(7, label="first", tags=[], vote=0, author="Ann")
    notes.say(7, label="other", tags=[], vote=0, author="Bob")
    notes.say(7, label="second", tags=[], vote=-1, author="Ann")
    assert notes.notes().select("author", "label").rows() == [("Ann", "second"), ("Bob", "other")]
    notes.say(7, label=" ", tags=[""], vote=0, author="Ann")
    assert notes.notes()["author"].to_list() == ["Bob"]


def test_a_label_too_long_to_publish_is_refused(notes: Notes) -> None:
    notes.say(1, label="x" * 512, tags=[], vote=0)
    with pytest.raises(InputError, match="at most 512 characters, this one has 513"):
        notes.say(2, label="x" * 513, tags=[], vote=0)
    assert notes.notes()["latent"].to_list() == [1]


def rate_text(notes: Notes, author: str = "Ann", **answers: bool | None) -> None:
    said = {"has_target": True, "fluent": True, "goes_on": True} | answers
    notes.rate_text("s", 3, "topic.sea", text=" at sea", author=author, **said)


def test_each_author_rates_a_text_and_the_newest_answers_count(notes: Notes) -> None:
    rate_text(notes, fluent=False)
    rate_text(notes, has_target=None)
    rate_text(notes, "Bob", has_target=False)
    told = notes.text_ratings()
    assert told.schema == TEXT_RATINGS.schema
    assert told.select("author", "has_target", "fluent", "goes_on").rows() == [
        ("Ann", None, True, True),
        ("Bob", False, True, True),
    ]
    assert told.select("steer", "generation", "concept", "text").unique().rows() == [
        ("s", 3, "topic.sea", " at sea")
    ]


def test_notes_of_a_version_without_ratings_of_text_are_read_and_go_on(notes: Notes) -> None:
    rate_text(notes)
    notes.say(1, label="kept", tags=[], vote=0)
    with contextlib.closing(sqlite3.connect(notes.path)) as database:
        database.execute("drop table text_ratings")
    assert notes.text_ratings().is_empty() and notes.notes()["label"].to_list() == ["kept"]
    rate_text(notes)
    assert notes.text_ratings().height == 1


def test_processes_that_write_at_once_lose_nothing(notes: Notes, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(tmp_path / "artifacts"), KEY]
    writers = [subprocess.Popen([*command, name]) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert notes.notes().height == 75 and notes.ratings().height == 75
    assert notes.ratings()["fits"].sum() == 39
    assert notes.text_ratings().height == 75 and notes.text_ratings()["fluent"].sum() == 39


def test_what_cannot_be_written_or_read_is_a_sentence(notes: Notes) -> None:
    notes.path.parent.mkdir(parents=True)
    notes.path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        notes.notes()
    with pytest.raises(StoreError, match="cannot be read"):
        notes.text_ratings()
    with pytest.raises(StoreError, match="the note was not kept"):
        notes.say(1, label="a", tags=[], vote=0)
    with pytest.raises(StoreError, match="the note was not kept"):
        rate_text(notes)


def test_typed_labels_are_a_file_that_given_reads(notes: Notes, tmp_path: Path) -> None:
    notes.say(3, label='names, "quoted"', tags=[], vote=0, author="Ann")
    notes.say(5, label="", tags=["odd"], vote=-1, author="Ann")
    labels(notes.notes()).write_csv(tmp_path / "labels.csv")
    settings = GivenConfig(path=str(tmp_path / "labels.csv"), author="Ann")
    assert _texts([tmp_path / "labels.csv"], settings) == {3: 'names, "quoted"'}
    assert pl.read_csv(tmp_path / "labels.csv").columns == ["latent", "text", "author"]
