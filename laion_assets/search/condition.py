"""Whether a condition of a search looks at its row's columns and nothing else. It runs no condition.

`readonly` does not stop a subquery, or a table function such as file() and url(), on the embedded engine, whose process
may read all that its user may. So ClickHouse's own parser takes the condition apart, and only what is known to be
harmless may be in it: literals, columns, and functions of the categories below. What is not named here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from laion_assets.errors import SearchError, TableError
from laion_assets.table.connect import Database
from laion_assets.table.schema import table_columns

CATEGORIES = (
    "Arithmetic",
    "Arrays",
    "Bit",
    "Comparison",
    "Conditional",
    "Dates and Times",
    "Distance",
    "Encoding",
    "Hash",
    "IP Address",
    "JSON",
    "Logical",
    "Map",
    "Mathematical",
    "Null",
    "Rounding",
    "String",
    "String Replacement",
    "String Search",
    "String Splitting",
    "Tuple",
    "Type Conversion",
    "URL",
)
"""Of `system.functions` in ClickHouse 26.9: functions of their arguments alone. Files, dictionaries, settings, users,
the server and programs of one's own are in other categories, or in none."""

MULTIPLYING = "arrayjoin"
"""It stands among the arrays, and makes several rows of one."""

MEMBERSHIP = re.compile(r"(global)?(not)?(null)?in(ignoreset)?", re.IGNORECASE)
"""`IN` and its kin, whose right side may be a table's name."""

DISTANCE = "distance"
"""What a search calls the distance of a row, which a condition may name, too."""

EXAMPLE = "a SQL condition over columns, such as: similarity > 0.35 AND caption ILIKE '%cat%'"


@dataclass(frozen=True)
class _Node:
    """A line of EXPLAIN AST: its depth, its kind (Function, Identifier, Literal, …) and its name."""

    depth: int
    kind: str
    name: str


def check_condition(db: Database, where: str) -> None:
    """Raises `SearchError` unless `where` is one condition that can only look at the columns of its row."""
    nodes = _parse(db, where)
    parameters = set(_lambda_parameters(nodes))
    known = {*table_columns(db), DISTANCE, *parameters}
    for node in nodes:
        if node.kind == "Identifier" and node.name.split(".")[0] not in known:
            raise _refusal(f"{node.name}, which is no column", f"one of {', '.join(table_columns(db))}")
        if node.kind not in ("Identifier", "Literal", "Function", "ExpressionList"):
            raise _refusal("a subquery" if node.kind == "Subquery" else f"{node.kind} {node.name}".strip())
    for side in _right_sides_of_in(nodes):
        if not (side.kind == "Literal" or (side.kind, side.name) in (("Function", "tuple"), ("Function", "array"))):
            raise _refusal(f"IN {side.name or side.kind}", "values in brackets after IN")
    functions = {node.name for node in nodes if node.kind == "Function"} - {"lambda"}
    allowed = _allowed(db, functions)
    for name in sorted(functions):
        if name.lower() not in allowed:
            raise _refusal(f"the function {name}", "functions of columns alone: of texts, numbers, dates, arrays, URLs")


def _refusal(found: str, expected: str = EXAMPLE) -> SearchError:
    return SearchError("where", found=found, expected=expected, advice="a condition can look at a row's columns only")


def _parse(db: Database, where: str) -> list[_Node]:
    """The condition's own nodes. It must be whole alone (`1) OR (1` is not) and in brackets (`1 LIMIT 2` is not)."""
    try:
        db.one("SELECT formatQuery({query:String})", parameters={"query": f"SELECT 1 WHERE {where}\n"})
        lines = [str(line) for (line,) in db.rows(f"EXPLAIN AST SELECT 1 WHERE ({where}\n)")]
    except TableError as error:
        raise SearchError("where", found=error.found, expected=EXAMPLE) from error
    nodes = [_node(line) for line in lines]
    # SelectQuery has two children at depth 3: what is selected, and the condition; what follows at depth 1 is no part.
    begins = [place for place, node in enumerate(nodes) if node.depth == 3]
    ends = next((place for place, node in enumerate(nodes) if place > begins[-1] and node.depth < 3), len(nodes))
    return nodes[begins[1] : ends]


def _node(line: str) -> _Node:
    text = line.lstrip(" ")
    kind, _, name = re.sub(r" \(children \d+\)$", "", text).partition(" ")
    return _Node(len(line) - len(text), kind, re.sub(r" \(alias .*\)$", "", name))


def _children(nodes: list[_Node], place: int) -> Iterator[_Node]:
    """The arguments of the function at `place`: the nodes two below it, until it ends."""
    for node in nodes[place + 1 :]:
        if node.depth <= nodes[place].depth:
            return
        if node.depth == nodes[place].depth + 2:
            yield node


def _right_sides_of_in(nodes: list[_Node]) -> Iterator[_Node]:
    for place, node in enumerate(nodes):
        if node.kind == "Function" and MEMBERSHIP.fullmatch(node.name):
            yield from list(_children(nodes, place))[1:]


def _lambda_parameters(nodes: list[_Node]) -> Iterator[str]:
    """Names that lambdas give their arguments: `x` in `arrayExists(x -> x > 1, …)`."""
    for place, node in enumerate(nodes):
        if (node.kind, node.name) == ("Function", "lambda"):
            # The lambda, its list, the tuple of parameters, whose own arguments they are.
            yield from (child.name for child in _children(nodes, place + 2) if child.kind == "Identifier")


def _allowed(db: Database, functions: set[str]) -> set[str]:
    """Which of these functions are of the categories above, by lower-case name; aliases go by what they stand for."""
    rows = db.rows(
        "SELECT lower(name) FROM system.functions WHERE NOT is_aggregate AND lower(name) IN {names:Array(String)} "
        "AND if(alias_to = '', name, alias_to) IN ("
        "SELECT name FROM system.functions WHERE NOT is_aggregate AND categories IN {categories:Array(String)})",
        parameters={"names": [name.lower() for name in functions], "categories": list(CATEGORIES)},
    )
    return {str(name) for (name,) in rows} - {MULTIPLYING}
