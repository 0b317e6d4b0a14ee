"""Checks that a condition of a search reads its row's columns and nothing else. It runs no condition.

On the embedded engine `readonly` does not stop a subquery, or a table function such as file() and url(), and the
engine's process may read all that its user may read. So ClickHouse's own parser parses the condition, and the condition
may contain only what is known to be harmless: literals, columns, and functions of the categories below. All else is
refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from clickhouse_connect.driver.binding import format_str

from laion_assets.columns import DISTANCE
from laion_assets.errors import SearchError, TableError
from laion_assets.table.database import Database
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
"""Categories in `system.functions` of ClickHouse 26.9 whose functions use only their arguments. Functions about files,
dictionaries, settings, users, the server and own programs are in other categories, or in none."""

REFUSED_FUNCTIONS = {"arrayjoin"}
"""Functions of these categories that do not work on one row: arrayJoin makes several rows of one."""

MEMBERSHIP = re.compile(r"(global)?(not)?(null)?in(ignoreset)?", re.IGNORECASE)
"""`IN` and similar functions, whose right side may be a table's name."""

EXAMPLE = "a SQL condition over columns, such as: similarity > 0.35 AND caption ILIKE '%cat%'"

MOST_CHARACTERS = 1_000_000
"""Characters of a condition: enough for 100,000 ids in an IN. ClickHouse limits a query's text to 262,144 bytes."""

READING = {"max_query_size": 1 << 24}

KEYS = {
    "Literal": {"type", "value"},
    "Identifier": {"type", "name", "name_parts"},
    "Function": {"type", "name", "arguments", "is_operator", "is_lambda_function", "kind"},
    "ExpressionList": {"type", "children"},
}
"""The kinds of nodes that a condition may have, and the allowed keys of each. Aliases, parameters of aggregate
functions and windows have other keys, so they are refused."""

KINDS = {None, "ORDINARY_FUNCTION", "LAMBDA_FUNCTION"}

_Node: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Condition:
    """A condition that was checked: its text, and whether it names the distance."""

    text: str
    names_distance: bool


def check_condition(db: Database, where: str) -> Condition:
    """The condition, checked. Raises `SearchError` if it may read anything but the columns of its row.

    An alias would replace a column of the search's own statement (`(1 AS shard) = 1`), so it is refused, too. At last
    the engine plans the condition, which tells whether its types are right.
    """
    if len(where) > MOST_CHARACTERS:
        raise SearchError("where", found=f"{len(where):,} characters", expected=f"at most {MOST_CHARACTERS:,}")
    if re.search(r"[\ud800-\udfff]", where):
        raise SearchError("where", found="characters that cannot be written in UTF-8", expected=EXAMPLE)
    found = list(_walk(_parse(db, where), frozenset()))
    columns = set(table_columns(db))
    for node, parameters in found:
        _check_name(node, columns, parameters)
    for node, _ in found:
        _check_membership(node)
    _check_functions(db, {str(node["name"]) for node, _ in found if node["type"] == "Function"} - {"lambda"})
    for node, _ in found:
        _check_keys(node)
    _plan(db, where)
    return Condition(where, any((node["type"], node.get("name")) == ("Identifier", DISTANCE) for node, _ in found))


def _refusal(found: str, expected: str = EXAMPLE) -> SearchError:
    return SearchError("where", found=found, expected=expected, advice="a condition may use only the row's columns")


def _parse(db: Database, where: str) -> _Node:
    """The condition's syntax tree. The condition must be complete alone (`1) OR (1` is not) and in brackets (`1 LIMIT
    2` is not).

    Apart from the condition, the statement's tree must be that of a statement with the condition 1.
    """
    texts = [f"SELECT 1 WHERE {each}" for each in ("1", f"{where}\n", f"({where}\n)")]
    try:
        # As parameters the texts would be fields of a form, of which a server takes 131,072 bytes each
        # (http_max_field_value_size).
        row = db.one(
            f"SELECT arrayMap(text -> parseQueryToJSON(text), [{', '.join(map(format_str, texts))}])", settings=READING
        )
        trees = [json.loads(str(text)) for text in row[0]]
    except TableError as error:
        if "parseQueryToJSON" in error.found and "nknown function" in error.found:
            found = f"ClickHouse {db.client.server_version}"
            advice = "upgrade the server, or search without a condition"
            needed = "26.8 or newer, which can parse a condition"
            raise SearchError("where", found=found, expected=needed, advice=advice) from error
        raise SearchError("where", found=error.found, expected=EXAMPLE) from error
    except RecursionError as error:
        raise SearchError("where", found="brackets that are nested too deeply", expected=EXAMPLE) from error
    conditions: list[_Node] = [_only_select(tree).pop("where", {}) for tree in trees]
    for tree in trees[1:]:
        if tree != trees[0]:
            more = sorted(set(_only_select(tree)) - set(_only_select(trees[0]))) or ["more than a condition"]
            raise _refusal(" and ".join(more))
    return conditions[-1]


def _only_select(tree: _Node) -> dict[str, Any]:
    selects = tree.get("list_of_selects", {}).get("children", [])
    if len(selects) != 1 or selects[0].get("type") != "SelectQuery":
        raise _refusal("UNION or another statement")
    select: dict[str, Any] = selects[0]
    return select


def _walk(root: _Node, outside: frozenset[str]) -> Iterator[tuple[_Node, frozenset[str]]]:
    """Every node below `root`, each with the argument names of the lambdas around it.

    Raises `SearchError` for a node of a kind that a condition may not have.
    """
    pending = [(root, outside)]
    while pending:
        node, parameters = pending.pop()
        kind = str(node.get("type"))
        if kind not in KEYS or node.get("kind") not in KINDS:
            raise _refusal("a subquery" if kind == "Subquery" else str(node.get("kind") or kind))
        if (kind, node.get("name")) == ("Function", "lambda"):
            parameters = parameters | _lambda_parameters(node)
        yield node, parameters
        arguments = node.get("arguments")
        below = [*node.get("children", ()), *(() if arguments is None else (arguments,))]
        pending += [(child, parameters) for child in reversed(below)]


def _lambda_parameters(node: _Node) -> frozenset[str]:
    """The argument names of a lambda: `x` in `x -> x > 1`, which is lambda(tuple(x), x > 1)."""
    declared, *_ = [*_arguments(node), {}]
    names = [child.get("name") for child in _arguments(declared) if child.get("type") == "Identifier"]
    return frozenset(map(str, names))


def _arguments(node: _Node) -> list[_Node]:
    children: list[_Node] = (node.get("arguments") or {}).get("children", [])
    return children


def _check_functions(db: Database, functions: set[str]) -> None:
    allowed = _allowed(db, functions)
    for name in sorted(functions - allowed):
        raise _refusal(f"the function {name}", "functions of columns alone: of texts, numbers, dates, arrays, URLs")


def _check_keys(node: _Node) -> None:
    more = sorted(set(node) - KEYS[node["type"]])
    if more:
        raise _refusal(f"the alias {node['alias']}" if "alias" in node else more[0], "columns by their own names")


def _check_membership(node: _Node) -> None:
    """The right side of IN must be a set of values: a name could be that of a table."""
    if node["type"] != "Function" or not MEMBERSHIP.fullmatch(node["name"]):
        return
    for side in _arguments(node)[1:]:
        name = str(side.get("name") or side["type"])
        if not (side["type"] == "Literal" or (side["type"], name) in (("Function", "tuple"), ("Function", "array"))):
            raise _refusal(f"IN {name}", "values in brackets after IN")


def _check_name(node: _Node, columns: set[str], parameters: frozenset[str]) -> None:
    """A name is a column, a part of one (`caption.size`), the distance, or the argument of a lambda around it."""
    if node["type"] != "Identifier":
        return
    name, parts = str(node["name"]), [str(part) for part in node.get("name_parts") or [node["name"]]]
    known = columns if len(parts) > 1 else {*columns, DISTANCE, *parameters}
    if parts[0] not in known:
        raise _refusal(f"{name}, which is no column", f"one of {', '.join(sorted(columns))}")


def _allowed(db: Database, functions: set[str]) -> set[str]:
    """Which of these functions belong to the categories above. An alias is judged by the function that it names.

    Names are compared without case. If two names differ only by case, both functions must be allowed.
    """
    if not functions:
        return set()
    names = _texts(sorted(name.lower() for name in functions))
    rows = db.rows(
        f"SELECT name, alias_to, is_aggregate, categories IN ({_texts(CATEGORIES)}) FROM system.functions "
        f"WHERE lower(name) IN ({names}) "
        f"OR name IN (SELECT alias_to FROM system.functions WHERE lower(name) IN ({names}))",
        settings=READING,
    )
    known = {str(name): (str(alias_to), bool(aggregate), bool(fits)) for name, alias_to, aggregate, fits in rows}

    def allows(name: str) -> bool:
        alias_to, aggregate, fits = known[name]
        if alias_to:
            return alias_to in known and not known[alias_to][0] and allows(alias_to)
        return fits and not aggregate and name.lower() not in REFUSED_FUNCTIONS

    named = {function: [name for name in known if name.lower() == function.lower()] for function in functions}
    return {function for function, names in named.items() if names and all(map(allows, names))}


def _texts(values: Iterable[str]) -> str:
    """The values as SQL literals, for IN."""
    return ", ".join(map(format_str, values))


def _plan(db: Database, where: str) -> None:
    """Lets the engine plan a search with the condition; nothing is read. Raises `SearchError` if the engine refuses."""
    column = "image_embedding"
    try:
        db.rows(
            f"EXPLAIN PLAN SELECT cosineDistance({column}, {column}) AS {DISTANCE} FROM {db.table} WHERE ({where}\n)",
            settings={"readonly": 2, **READING},
        )
    except TableError as error:
        if type(error) is not TableError or "UNKNOWN_TABLE" in error.found:
            raise
        raise SearchError("where", found=error.found, expected=EXAMPLE) from error
