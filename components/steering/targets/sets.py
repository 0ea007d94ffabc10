"""Sets of texts as targets: for each concept texts that have it, and texts that have it not.

A file has one text a row, with a column that says on which side it is, and perhaps one that names
the concept (else the file's name does). Or it has one contrast pair a row: a text that has the
concept, one that has it not, and perhaps what stands before both (a question). Both texts of a pair
fall into the same split, with all others that stand behind the same question, and methods that
learn from pairs have them. Texts of the other side without a concept of their own, or
with one that has no text on this side, are shared by all concepts. A row without a text, and a pair
that is not whole, are left out and counted in the remark of the score `gate.passed`; a row whose
side is not said, or which has a concept that is not named, is an error. Each text is a document of its
own, and is dealt by its digest to select, judge, calibrate or validate: no text serves two of them.
The model that is steered reads them itself. A text that says the same twice is taken once.

When to use it: where you have examples of what you want and of what you do not want, and no labels
in the corpus: traits, answers, emotions, a language model's texts about a concept.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import scipy.sparse
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from components.concept.gate import ProbeGate
from components.config import Config
from components.corpus.contract import sound, text_digest
from components.corpus.encoding import Encoder
from components.errors import InputError
from components.steering.contract import Concept, Evidence
from components.steering.given import files_of, rows_of
from components.steering.passages import Cut, contexts
from components.steering.targeting import Ground, Targeted, Targets, targets
from components.store import tables

if TYPE_CHECKING:
    from components.steering.config import SteerConfig

DEALT = ("select", "select", "select", "judge", "judge", "judge", "calibrate", "validate")
"""Split of a text, by its digest modulo their number."""
AT_ONCE = 32


class TextsConfig(Config):
    """Sets of texts, wherever they come from."""

    longest: PositiveInt = 128
    """Tokens of a text that are read, at most."""
    fewest: PositiveInt = 8
    """A concept with fewer texts of the select split on either side is no target."""


class SetsConfig(TextsConfig):
    """Sets of texts."""

    kind: Literal["sets"] = "sets"
    """Texts with a concept, and texts without."""
    path: str = ""
    """A file (JSONL or parquet), or a folder of them."""
    pattern: str = "**/*"
    """Which files of a folder are read."""
    text_column: str = "text"
    """The column that holds the text."""
    side_column: str = "side"
    """The column that says on which side a text is."""
    with_values: list[str] = Field(default=["positive", "true", "1"], min_length=1)
    """Values of that column, as text in lower case, that say that the text has the concept."""
    concept_column: str = ""
    """The column that names the concept; empty: the file's name does."""
    other_column: str = ""
    """Where a row is a pair: the column that holds the text without the concept, text_column that
    with it, and side_column is not read. Empty: a row is one text."""
    before_column: str = ""
    """The column that holds what stands before both texts of a pair, such as a question."""

    @model_validator(mode="after")
    def _before_a_pair(self) -> SetsConfig:
        if self.before_column and not self.other_column:
            raise ValueError(
                "before_column names what stands before both texts of a pair, and rows are no "
                "pairs; name the column of the second text in other_column, or leave before_column "
                "empty"
            )
        return self


@targets
class Sets(Targets):
    """Two lists of texts for each concept."""

    config = SetsConfig

    def at_most(self, inventory: Sequence[Mapping[str, Any]], config: SteerConfig) -> int:
        """One for each concept of the files."""
        rows, _ = self._read()
        return len({name for name, of in rows.group_by("concept") if of["inside"].any()})

    def find(self, ground: Ground) -> Listed:
        """The concepts of the files.

        Raises:
            InputError: no file, a column that is missing, no text on one of the sides, no whole
                pair, or a row that does not say its side or its concept.
        """
        settings, (rows, left_out) = self.settings, self._read()
        names = rows.filter("inside")["concept"].unique(maintain_order=True).to_list()
        if not names and settings.other_column:
            columns = [settings.text_column, settings.other_column, settings.before_column]
            named = ", ".join(repr(column) for column in columns if column)
            raise InputError(
                f"no row of {settings.path} is a whole pair: {left_out or 'there are no rows'}; a "
                f"pair wants text in each of the columns {named}; fill them, or name others in "
                "steer.targets.text_column, other_column and before_column"
            )
        if not names:
            raise InputError(
                f"no text of {settings.path} is on the side of a concept: of the column "
                f"{settings.side_column!r} no value is one of {', '.join(settings.with_values)}; "
                "set steer.targets.with_values" + (f" ({left_out})" if left_out else "")
            )
        return Listed(ground, settings, rows, names, left_out)

    def files(self) -> list[Path]:
        """The files whose texts are read; none where the path names nothing."""
        return files_of(self.settings.path, self.settings.pattern)

    def _read(self) -> tuple[pl.DataFrame, str | None]:
        """concept, text, inside (the side), every text once for each concept; and which rows were
        left out, where some were."""
        settings = self.settings
        if not settings.path:
            raise InputError(
                "steer.targets.kind=sets wants texts, and steer.targets.path names no file; set it "
                "to a JSONL or parquet file, or to a folder of them"
            )
        parts, n_rows, lacking = [], 0, Counter[str]()
        for path in self.files():
            wanted = [name for each in self._columns() if (name := getattr(settings, each))]
            where = " or ".join(f"steer.targets.{setting}" for setting in self._columns())
            frame = rows_of(path, wanted, where)
            name = pl.col(settings.concept_column) if settings.concept_column else pl.lit(path.stem)
            frame = frame.with_columns(name.cast(pl.String).alias("concept"))
            n_rows += frame.height
            frame = self._whole(frame, lacking)
            self._refuse_unnamed(frame, path)
            parts.append(self._pairs(frame) if settings.other_column else self._sides(frame))
        if not parts:
            raise InputError(
                f"no JSONL or parquet file at {settings.path} ({settings.pattern}); set "
                "steer.targets.path to one, or to a folder of them"
            )
        left_out = None
        if lacking:
            holes = ", ".join(f"{n} with nothing in {name!r}" for name, n in lacking.items())
            left_out = f"{lacking.total()} of {n_rows} rows of texts were left out: {holes}"
        return pl.concat(parts).unique(maintain_order=True), left_out

    def _columns(self) -> tuple[str, ...]:
        """The settings that name columns."""
        if self.settings.other_column:
            return "text_column", "other_column", "before_column", "concept_column"
        return "text_column", "side_column", "concept_column"

    def _whole(self, frame: pl.DataFrame, lacking: Counter[str]) -> pl.DataFrame:
        """The rows that have all their texts, with their number in the file as `_row`, from 1. Those
        that lack one are counted in `lacking`, by the first column in which they have nothing."""
        frame = frame.with_row_index("_row", offset=1)
        for setting in ("text_column", "other_column", "before_column"):
            if column := getattr(self.settings, setting):
                there = frame.drop_nulls(column)
                if there.height < frame.height:
                    lacking[column] += frame.height - there.height
                frame = there
        return frame

    def _refuse_unnamed(self, frame: pl.DataFrame, path: Path) -> None:
        """Refuses a row that does not say its side, or that has a concept and does not say
        which."""
        settings = self.settings
        inside = pl.lit(True)
        if not settings.other_column:
            unsaid = frame.filter(pl.col(settings.side_column).is_null())
            if unsaid.height:
                raise InputError(
                    f"{path}, row {unsaid['_row'][0]}: the column {settings.side_column!r} is null "
                    f"(in {unsaid.height} rows of this file), so nothing says whether the text has "
                    f"the concept; write there one of {', '.join(settings.with_values)} "
                    "(steer.targets.with_values) or another value, or leave the row out"
                )
            inside = self._inside
        unnamed = frame.filter(inside & pl.col("concept").is_null())
        if unnamed.height:
            raise InputError(
                f"{path}, row {unnamed['_row'][0]}: the text has a concept, and the column "
                f"{settings.concept_column!r} is null (in {unnamed.height} such rows of this file); "
                "name the concept there, leave the row out, or set steer.targets.concept_column to "
                '"" to take the name of the file'
            )

    @property
    def _inside(self) -> pl.Expr:
        """Whether the text of a row has the concept."""
        side = pl.col(self.settings.side_column).cast(pl.String).str.to_lowercase()
        return side.is_in(self.settings.with_values)

    def _sides(self, frame: pl.DataFrame) -> pl.DataFrame:
        """One text a row."""
        return frame.select(
            "concept",
            pl.col(self.settings.text_column).cast(pl.String).alias("text"),
            self._inside.alias("inside"),
        )

    def _pairs(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Both texts of each pair, with what stands before them."""
        settings = self.settings
        both = [pl.col(c).cast(pl.String) for c in (settings.text_column, settings.other_column)]
        before = pl.lit("")
        if settings.before_column:
            before = pl.col(settings.before_column).cast(pl.String)
        # most files have the space that parts question and answer, some have not
        gap = (
            pl.when((before == "") | before.str.contains(r"\s$"))
            .then(pl.lit(""))
            .otherwise(pl.lit(" "))
        )
        whole = [
            before + pl.when(t.str.contains(r"^\s")).then(pl.lit("")).otherwise(gap) + t
            for t in both
        ]
        origin = before if settings.before_column else both[0]
        pairs = frame.select(
            "concept", origin.alias("origin"), whole[0].alias("with"), whole[1].alias("without")
        )
        return pl.concat(
            [
                pairs.select(
                    "concept", pl.col(side).alias("text"), pl.lit(inside).alias("inside"), "origin"
                )
                for side, inside in (("with", True), ("without", False))
            ]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Texts:
    """Texts of one split, as token ids: which concepts each has, and which it is known to be
    without."""

    tokens: list[list[int]]
    inside: np.ndarray
    outside: np.ndarray


class Listed(Targeted):
    """Concepts with their texts on both sides.

    Args:
        ground: where they are read.
        settings: tokens of a text that are read at most, and how few texts make no target.
        rows: concept, text, inside (the side); where there is a column `origin`, texts of the same
            origin fall into the same split, and those on its two sides are minimal pairs.
        names: the concepts.
        limit: which rows were left out, where some were.
    """

    def __init__(
        self,
        ground: Ground,
        settings: TextsConfig,
        rows: pl.DataFrame,
        names: Sequence[str],
        limit: str | None = None,
    ) -> None:
        self._ground, self._settings, self.limit = ground, settings, limit
        self.concepts = [Concept(name, "set", "document", text=name) for name in names]
        self._given = rows["text"].unique(maintain_order=True).to_list()
        column = {name: i for i, name in enumerate(names)}
        found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {s: {} for s in set(DEALT)}
        sides: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        dealt: dict[str, str] = {}  # a text that stands in pairs of two splits stays in the first
        for row in rows.iter_rows(named=True):
            text = sound(row["text"])
            drawn = DEALT[text_digest(sound(row.get("origin") or text)) % len(DEALT)]
            split = dealt.setdefault(text, drawn)
            inside, outside = found[split].setdefault(
                text, (np.zeros(len(names), bool), np.zeros(len(names), bool))
            )
            if split == "select" and row.get("origin"):
                of_both = sides.setdefault((row["concept"], row["origin"]), ([], []))
                of_both[0 if row["inside"] else 1].append(text)
            if row["inside"]:
                inside[column[row["concept"]]] = True
            elif row["concept"] in column:
                outside[column[row["concept"]]] = True
            else:
                outside[:] = True
        pairs: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
        for (name, _), of_both in sides.items():
            if name in pairs:
                pairs[name] += zip(*of_both, strict=False)
        self._pairs = tables.PAIRS.frame(
            [
                {"concept": name, "pair": pair, "split": "select", "positive": p, "negative": n}
                for name, of_name in pairs.items()
                for pair, (p, n) in enumerate(of_name)
            ]
        )
        encoder = Encoder.of(ground.model)
        self._splits = {}
        for split, texts in found.items():
            encoded = encoder.encode(list(texts), offsets=False) if texts else []
            kept = [
                (list(e.ids)[: settings.longest], *texts[t])
                for t, e in zip(texts, encoded, strict=True)
                if e.ids
            ]
            with_it, without = (
                np.array([row[i] for row in kept], bool).reshape(-1, len(names)) for i in (1, 2)
            )
            self._splits[split] = _Texts([row[0] for row in kept], with_it, without & ~with_it)

    def refusals(self, gate: ProbeGate) -> Mapping[str, str]:
        """Those with too few texts on one side."""
        select, refused = self._splits["select"], {}
        for column, concept in enumerate(self.concepts):
            for side, n in (
                ("with", int(select.inside[:, column].sum())),
                ("without", int(select.outside[:, column].sum())),
            ):
                if n < self._settings.fewest:
                    refused.setdefault(
                        concept.name,
                        f"text: {n} texts {side} the concept in the select split, wanted at least "
                        f"{self._settings.fewest} (steer.targets.fewest)",
                    )
        return refused

    def cut(self, split: str, opening: int, length: int) -> Cut:
        """Pieces of the texts; each has the concepts of its text."""
        tokens, labels, openings, before = [], [], {}, []
        there = self._splits.get(split)
        for ids, inside in zip(there.tokens, there.inside, strict=True) if there else ():
            for start in range(opening, len(ids), length):
                piece = ids[start : start + length]
                if len(piece) < length / 2:
                    continue
                if start == opening:
                    openings[len(tokens)] = ids[:start]
                tokens.append(piece)
                before.append(ids[start - opening : start])
                labels.append(inside)
        shape = (-1, len(self.concepts))
        return Cut(tokens, np.array(labels, bool).reshape(shape), openings, before)

    def evidence(self, columns: Sequence[int], stand_ins: int) -> Evidence:
        """The texts of the select split, read by the model that is steered."""
        subject, select = self._ground.subject, self._splits["select"]
        lengths = [len(ids) for ids in select.tokens]
        document = np.repeat(np.arange(len(lengths)), lengths)
        inside, outside = select.inside[:, list(columns)], select.outside[:, list(columns)]
        dictionary = subject.dictionary
        names = list(dict.fromkeys([*subject.units, *dictionary.reads]))

        @functools.cache
        def read(name: str) -> Tensor:
            return self._activations([name])[name]

        def batches(hook_point: str) -> Iterator[tuple[int, Tensor]]:
            x = own[hook_point] if hook_point in own else read(hook_point)
            for start in range(0, len(x), 8192):
                yield start, x[start : start + 8192]

        own = self._activations(names)
        codes = dictionary.encode({name: own[name].float() for name in dictionary.reads})
        return Evidence(
            concepts=[self.concepts[column] for column in columns],
            model=self._ground.model,
            hook_point=subject.hook_point,
            units=subject.units,
            labels=scipy.sparse.csc_matrix(inside[document]),
            token=np.array([token for ids in select.tokens for token in ids], np.int64),
            document=document,
            document_labels=scipy.sparse.csc_matrix(inside),
            batches=batches,
            contexts=contexts(subject.corpus, "select"),
            pairs=self._pairs.filter(
                pl.col("concept").is_in([self.concepts[c].name for c in columns])
            ),
            codes=codes.matrix(),
            dictionary=dictionary,
            d_in=dictionary.widths[subject.hook_point],
            stand_ins=stand_ins,
            without=scipy.sparse.csc_matrix(outside[document]),
            is_foreign=True,
        )

    def texts(self) -> Sequence[str]:
        """All texts of the files."""
        return self._given

    def told(self, column: int) -> Mapping[str, Any]:
        """Texts of select on both sides."""
        select = self._splits["select"]
        sides = select.inside[:, column].sum(), select.outside[:, column].sum()
        return {"n_with": int(sides[0]), "n_without": int(sides[1]), "counted": "texts"}

    def _activations(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Activations of all tokens of the select texts, text by text, behind the model's first
        token."""
        model, texts = self._ground.model, self._splits["select"].tokens
        first = Encoder.of(model).bos
        head = [] if first is None else [first]
        room = (model.context_length or 2**30) - len(head)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for start in range(0, len(texts), AT_ONCE):
            part = [[*head, *ids[:room]] for ids in texts[start : start + AT_ONCE]]
            width = max(map(len, part))
            # what is padded on the right changes nothing before it
            tokens = torch.tensor([row + [0] * (width - len(row)) for row in part])
            read = model.read(tokens, list(names))
            for name, x in read.items():
                found[name] += [x[i, len(head) : len(row)].cpu() for i, row in enumerate(part)]
        return {name: torch.cat(rows) for name, rows in found.items()}
