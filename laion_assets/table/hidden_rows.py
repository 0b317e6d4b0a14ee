"""Whether a row policy or `additional_table_filters` hides rows of the table from this user. It reads no row.

ClickHouse takes candidates from a graph first, and leaves out hidden rows among them afterwards, without a message.
"""

from __future__ import annotations

import re

from laion_assets.errors import TableError
from laion_assets.table.database import Database
from laion_assets.table.schema import local_table

FILTER = re.compile(r"\bfilter column:\s*(?!1(_UInt8)?\b)\S", re.IGNORECASE)
"""A line of a plan about a filter, unless every row meets it: a policy for those who see all rows is `USING 1`."""


def hides_rows(db: Database) -> bool:
    """Whether the plan of a statement without a condition has a filter. Raises `TableError`.

    A user needs no more privileges for this than for a search. In a cluster it is asked of the server of this
    connection, for the Distributed table and for the table below it: a policy must be the same on all nodes anyway.
    """
    names = dict.fromkeys((db.settings.table, local_table(db.settings)))
    plans = [db.rows(f"EXPLAIN actions = 1 SELECT id FROM {db.name_of(name)}") for name in names]
    return any(FILTER.search(str(line)) for plan in plans for (line,) in plan)


def require_every_row(db: Database, work: str) -> None:
    """Raises `TableError` if rows are hidden from this user; `work` says what would be wrong then."""
    if hides_rows(db):
        raise TableError(
            db.subject,
            found="a row policy, or additional_table_filters of the profile, that hides rows from this user",
            expected=f"a user who sees every row, for {work}",
            advice="see SHOW ROW POLICIES and the user's settings",
        )
