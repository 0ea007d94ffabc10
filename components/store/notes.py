"""What people say: labels, tags and votes of latents, and blind ratings of explanations and of
steered text.

One SQLite database for each dictionary, `notes/<key of train>.sqlite` beside the folder of the
artifacts: an artifact is content and never changes, a person's opinion does. Writers wait for one
another, so that two pages (and two people) lose nothing; each author has notes of their own. The
tables are `NOTES`, `RATINGS` and `TEXT_RATINGS`; the newest note of an author replaces the one
before.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sqlite3
from collections.abc import Iterator, Sequence

import polars as pl

from components.errors import InputError, StoreError
from components.store.artifact import Store
from components.store.table import Table

LONGEST = 512
"""Characters of a label: what `given` and Neuronpedia take."""
SECONDS_TO_WAIT = 20.0
NOTES = Table(
    "notes",
    "train",
    "What people say of latents of a dictionary.",
    {
        "latent": (pl.Int32, "latent"),
        "author": (pl.String, "who says so, as they call themselves; may be empty"),
        "label": (pl.String, "what it means; null where nothing was typed"),
        "tags": (pl.List(pl.String), "words to find it by"),
        "vote": (pl.Int8, "1 worth looking at, -1 not, 0 no opinion"),
        "at": (pl.String, "when, UTC"),
    },
    ("latent", "author"),
)
RATINGS = Table(
    "ratings",
    "train",
    "Blind ratings: whether an explanation fits, by people who did not see who wrote it.",
    {
        "interpret": (pl.String, "key of the artifact that holds the explanation"),
        "latent": (pl.Int32, "latent"),
        "explainer": (pl.String, "who wrote it; not shown to the rater"),
        "author": (pl.String, "who rated, as they call themselves; may be empty"),
        "explanation": (pl.String, "the text that was shown"),
        "fits": (pl.Boolean, "whether it fits the windows that were shown"),
        "at": (pl.String, "when, UTC"),
    },
    ("interpret", "latent", "explainer", "author"),
)
TEXT_RATINGS = Table(
    "text_ratings",
    "train",
    "Blind ratings of text that a model wrote after test prompts, steered and not, by people who did "
    "not see what steered it.",
    {
        "steer": (pl.String, "key of the artifact that holds the text"),
        "generation": (pl.Int32, "number of the text in the table generations"),
        "concept": (pl.String, "the target that it was rated for"),
        "author": (pl.String, "who rated, as they call themselves; may be empty"),
        "text": (pl.String, "the text that was shown"),
        "has_target": (pl.Boolean, "whether the target is in it; null where nobody could say"),
        "fluent": (pl.Boolean, "whether it is fluent"),
        "goes_on": (pl.Boolean, "whether it goes on from its prompt"),
        "at": (pl.String, "when, UTC"),
    },
    ("steer", "generation", "concept", "author"),
)
_MADE = """
create table if not exists notes(latent integer, author text, label text, tags text, vote integer,
  at text, primary key(latent, author));
create table if not exists ratings(interpret text, latent integer, explainer text, author text,
  explanation text, fits integer, at text, primary key(interpret, latent, explainer, author));
create table if not exists text_ratings(steer text, generation integer, concept text, author text,
  text text, has_target integer, fluent integer, goes_on integer, at text,
  primary key(steer, generation, concept, author));
"""


class Notes:
    """The notes on one dictionary.

    Attributes:
        path: the database; made when something is first said.
    """

    def __init__(self, store: Store, dictionary: str) -> None:
        """`dictionary` is the key of a train artifact."""
        self.path = store.root.parent / "notes" / f"{dictionary}.sqlite"

    def say(
        self, latent: int, *, label: str, tags: Sequence[str], vote: int, author: str = ""
    ) -> None:
        """Keeps what one author says of one latent, in place of what they said before.

        Raises:
            InputError: a label that is too long to be scored or published.
            StoreError: the database cannot be written.
        """
        label = " ".join(label.split())
        if len(label) > LONGEST:
            raise InputError(
                f"a label has at most {LONGEST} characters, this one has {len(label)}; shorten it"
            )
        words = sorted({" ".join(tag.split()) for tag in tags} - {""})
        row = (latent, author, label or None, json.dumps(words, ensure_ascii=False), vote, _now())
        with self._writing() as database:
            if label or words or vote:
                database.execute("insert or replace into notes values(?,?,?,?,?,?)", row)
            else:
                database.execute("delete from notes where latent=? and author=?", (latent, author))

    def rate(
        self,
        interpret: str,
        latent: int,
        ratings: Sequence[tuple[str, str, bool]],
        author: str = "",
    ) -> None:
        """Keeps ratings of explanations of one latent, all of them or none.

        Args:
            interpret: key of the artifact that holds them.
            latent: of which.
            ratings: explainer, the text that was shown, whether it fits.
            author: who rated.
        """
        rows = [
            (interpret, latent, explainer, author, text, int(fits), _now())
            for explainer, text, fits in ratings
        ]
        with self._writing() as database:
            database.executemany("insert or replace into ratings values(?,?,?,?,?,?,?)", rows)

    def rate_text(
        self,
        steer: str,
        generation: int,
        concept: str,
        *,
        text: str,
        has_target: bool | None,
        fluent: bool,
        goes_on: bool,
        author: str = "",
    ) -> None:
        """Keeps what one author says of one text, in place of what they said before.

        Args:
            steer: key of the artifact that holds the text.
            generation: its number.
            concept: the target that it was rated for.
            text: as it was shown.
            has_target: whether the target is in it; None where the author cannot say.
            fluent: whether it is fluent.
            goes_on: whether it goes on from its prompt.
            author: who rated.

        Raises:
            StoreError: the database cannot be written.
        """
        row = (steer, generation, concept, author, text, has_target, fluent, goes_on, _now())
        with self._writing() as database:
            database.execute("insert or replace into text_ratings values(?,?,?,?,?,?,?,?,?)", row)

    def notes(self) -> pl.DataFrame:
        """The table `NOTES`, by latent and author."""
        rows = self._read(NOTES)
        frame = pl.DataFrame(
            [(*row[:3], json.loads(row[3]), *row[4:]) for row in rows],
            schema=NOTES.schema,
            orient="row",
        )
        return NOTES.frame(frame).sort(NOTES.key)

    def ratings(self) -> pl.DataFrame:
        """The table `RATINGS`, by its key."""
        rows = self._read(RATINGS)
        frame = pl.DataFrame(
            [(*row[:5], bool(row[5]), row[6]) for row in rows], schema=RATINGS.schema, orient="row"
        )
        return RATINGS.frame(frame).sort(RATINGS.key)

    def text_ratings(self) -> pl.DataFrame:
        """The table `TEXT_RATINGS`, by its key."""
        rows = [
            (*row[:5], *(None if each is None else bool(each) for each in row[5:8]), row[8])
            for row in self._read(TEXT_RATINGS)
        ]
        frame = pl.DataFrame(rows, schema=TEXT_RATINGS.schema, orient="row")
        return TEXT_RATINGS.frame(frame).sort(TEXT_RATINGS.key)

    def _read(self, table: Table) -> list[tuple]:
        """Its rows; none where the database is of a version that did not have it yet."""
        if not self.path.exists():
            return []
        query = f"select {', '.join(table.columns)} from {table.name}"
        is_there = "select 1 from sqlite_master where type = 'table' and name = ?"
        try:
            with contextlib.closing(sqlite3.connect(self.path, SECONDS_TO_WAIT)) as database:
                there = database.execute(is_there, (table.name,)).fetchone()
                return database.execute(query).fetchall() if there else []
        except sqlite3.Error as error:
            raise StoreError(f"the notes in {self.path} cannot be read: {error}") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other writer is inside of."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(
                sqlite3.connect(self.path, SECONDS_TO_WAIT, isolation_level=None)
            ) as database:
                database.executescript(_MADE)
                database.execute("begin immediate")
                yield database
                database.execute("commit")
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the note was not kept: {self.path} cannot be written ({error})"
            ) from None


def labels(notes: pl.DataFrame) -> pl.DataFrame:
    """Typed labels as the explainer `given` reads them: latent, text, author."""
    of = notes.filter(pl.col("label").is_not_null())
    return of.select("latent", pl.col("label").alias("text"), "author")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
