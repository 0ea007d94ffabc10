"""SQL over the tables of every run in the store, lazily: the same scans that the report and the
pages read."""

from __future__ import annotations

import polars as pl

from components.errors import ConfigError
from components.report.tables import TABLES
from components.store.artifact import Store


def run(store: Store, query: str) -> pl.DataFrame:
    """The answer to a query over the tables of `components/store/tables.py`; each has the column
    `origin` (stage/key).

    Raises:
        ConfigError: the query is not understood, or names a table or column that does not exist.
    """
    with pl.SQLContext({name: table.scan_all(store) for name, table in TABLES.items()}) as context:
        try:
            return context.execute(query, eager=True)
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise ConfigError(
                f"the query was not understood: {error}; tables: {', '.join(sorted(TABLES))}"
            ) from None


def describe() -> pl.DataFrame:
    """Every table with its columns, types and meanings."""
    rows = [
        {"table": table.name, "column": column, "type": str(kind), "meaning": meaning}
        for table in TABLES.values()
        for column, (kind, meaning) in table.columns.items()
    ]
    return pl.DataFrame(rows)
