"""Tables are what their schema says: every column documented, keys unique, absent is null, written
whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from components.config import Config
from components.errors import DamagedArtifactError
from components.report.tables import SCORES, TABLES
from components.store.artifact import Artifact, Store
from components.store.stage import Stage
from components.store.table import Table
from components.store.tables import LABELS, PROMPTS

ROWS = [
    {"prompt": 0, "split": "test", "text": "a"},
    {"prompt": 1, "split": "validate", "text": "b"},
]


class NumberConfig(Config):
    number: int = 0


def stored(
    store: Store, number: int = 0, stage: str = "read", table: Table | None = PROMPTS
) -> Artifact:
    def make(folder: Path, config: NumberConfig, inputs: Mapping, settings: Any):
        if table is not None:
            table.write(folder, [{**row, "prompt": row["prompt"] + 10 * number} for row in ROWS])
        yield from ()
        return {}

    return store.ensure(Stage(stage, 1, make), NumberConfig(number=number), {})[0]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_documents_its_columns_and_its_key_is_among_them(table: Table) -> None:
    assert TABLES[table.name] is table
    assert table.about.endswith(".")
    assert all(says and not says[0].isspace() for _, says in table.columns.values())
    assert set(table.key) <= set(table.columns)
    empty = table.frame([])
    assert empty.schema == table.schema and empty.height == 0


def test_columns_that_are_left_out_are_null_and_types_are_those_of_the_schema() -> None:
    frame = SCORES.frame(
        [{"stage": "evaluate", "measure": "fvu", "value": 1, "n": 3, "split": "test"}]
    )
    assert frame.schema == SCORES.schema
    assert frame["value"].to_list() == [1.0] and frame["low"].to_list() == [None]


def test_an_undeclared_column_and_a_repeated_key_are_our_mistakes() -> None:
    with pytest.raises(AssertionError, match=r"table prompts has no columns \['topic'\]"):
        PROMPTS.frame([{"prompt": 0, "topic": "sea"}])
    with pytest.raises(AssertionError, match=r"table prompts: 1 rows repeat the key \('prompt',\)"):
        PROMPTS.frame([ROWS[0], {**ROWS[1], "prompt": 0}])


def test_null_is_a_value_of_a_key_like_any_other() -> None:
    whole, token = (
        {"concept": "a", "document": 0, "token": None},
        {"concept": "a", "document": 0, "token": 0},
    )
    assert LABELS.frame([whole, token]).height == 2
    with pytest.raises(AssertionError, match="1 rows repeat the key"):
        LABELS.frame([whole, whole])


def test_a_table_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    PROMPTS.write(tmp_path, ROWS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pl.DataFrame, "write_parquet", stop)
        PROMPTS.write(tmp_path, ROWS[:1])
    assert pl.read_parquet(tmp_path / "prompts.parquet").height == 2


def test_a_table_is_read_back_from_its_artifact_and_damage_is_found(store: Store) -> None:
    artifact = stored(store)
    assert PROMPTS.read(artifact).to_dicts() == ROWS
    with (artifact.folder / PROMPTS.file).open("r+b") as file:
        file.seek(4)
        file.write(b"\xff\xff")
    with pytest.raises(DamagedArtifactError, match="prompts.parquet is damaged"):
        PROMPTS.scan(artifact)


def test_a_scan_over_the_store_says_which_artifact_each_row_is_of(store: Store) -> None:
    first, second = stored(store, 0), stored(store, 1)
    stored(store, 2, table=None)
    stored(store, 3, stage="other")
    found = PROMPTS.scan_all(store).collect()
    assert found.columns == ["origin", *PROMPTS.columns]
    assert set(found["origin"]) == {f"read/{first.key}", f"read/{second.key}"}
    assert sorted(found["prompt"]) == [0, 1, 10, 11]


def test_a_scan_over_an_empty_store_has_the_columns_and_no_rows(store: Store) -> None:
    found = PROMPTS.scan_all(store).collect()
    assert found.columns == ["origin", *PROMPTS.columns] and found.height == 0
