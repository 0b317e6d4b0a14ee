"""Which vector indexes the table declares, and which the settings ask for. While it changes, a column has two indexes.

Changed parameters mean a new index, which is built beside the old one under another name. The old index is dropped when
every partition has the new one, so that a search has a graph at every moment. If a part has both, ClickHouse 26.9
searches one of them or both.
"""

from __future__ import annotations

import re

from laion_assets.index.parameters import IndexParameters
from laion_assets.table.database import Database
from laion_assets.table.schema import local_table

NAMES = {"image_embedding": "image_index", "text_embedding": "text_index"}
"""The name of a vector column's index. An index with other parameters gets a number, as in `image_index_2`."""

OURS = re.compile(rf"({'|'.join(NAMES.values())})(_\d+)?")

Indexes = dict[str, tuple[str, str]]
"""Column and type by the index's name."""


def declared_indexes(db: Database) -> Indexes:
    """Column and type of each vector index that the table declares, by name; in a cluster the asked node's table."""
    rows = db.rows(
        "SELECT name, expr, type_full FROM system.data_skipping_indices "
        "WHERE database = {database:String} AND table = {table:String} AND type = 'vector_similarity'",
        parameters={"database": db.database, "table": local_table(db.settings)},
    )
    return {str(name): (str(column), str(kind)) for name, column, kind in rows if OURS.fullmatch(str(name))}


def wanted_indexes(db: Database, declared: Indexes) -> Indexes:
    """The index of each vector column with the settings' parameters: by its name, or the name that it would get."""
    kind = IndexParameters.of(db.settings).type_sql(db.settings.dataset.dimension)
    return {_name(column, kind, declared): (column, kind) for column in db.settings.dataset.vector_columns}


def index_names(db: Database) -> list[str]:
    """The names of the indexes that the settings ask for, whether the table declares them or not."""
    return [*wanted_indexes(db, declared_indexes(db))]


def _name(column: str, kind: str, declared: Indexes) -> str:
    """The name of the declared index of this kind, else the first name that is free."""
    names = [NAMES[column], *(f"{NAMES[column]}_{number}" for number in range(2, len(declared) + 2))]
    there = (name for name in names if declared.get(name) == (column, kind))
    free = (name for name in names if name not in declared)
    return next(there, None) or next(free)
