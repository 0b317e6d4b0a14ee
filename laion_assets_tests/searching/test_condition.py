"""Tests that a search's condition may only read its row's columns, and no files, tables, hosts or settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.errors import SearchError
from laion_assets.searching.condition import CATEGORIES, check_condition
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.schema import create_table
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.endpoint.process import ServerProcess
from laion_assets_tests.table.loaded import sample_settings

CONDITIONS = [
    "similarity > 0.35 AND caption ILIKE '%cat%'",
    "id BETWEEN 1 AND 5 OR NOT (shard = 3)",
    "NSFW IN ('UNLIKELY', 'UNSURE') AND shard NOT IN (1, 2)",
    "id IN (7) OR id IN [8, 9] OR (id, shard) IN ((1, 2), (3, 4))",
    "lower(domain(url)) = 'example.org'",
    "match(caption, '^a .*dog') AND lengthUTF8(caption) < 80 -- a comment",
    "LENGTH(caption) > 3 /* any\ncase */",
    "CASE WHEN shard = 1 THEN id < 5 ELSE true END",
    "arrayExists(x -> x > 0.5, image_embedding) AND arraySum((a, b) -> a * b, image_embedding, text_embedding) > 0",
    "image_embedding[1]::Float64 > 0 AND cosineDistance(image_embedding, text_embedding) < 0.8",
    "distance < 0.3",
    "caption != '' AND url IS NOT NULL AND id % 2 = 0",
    "caption = 'url(''http://127.0.0.1:9/''), (SELECT 1) and\nIdentifier x'",
    "true",
    "arrayExists(shard -> shard > 0.5, image_embedding) AND shard = 0",
    "caption.size > 3 AND image_embedding.size0 = 512",
    "id IN (" + ", ".join(map(str, range(40_000))) + ")",
    "caption != '" + "x" * 999_980 + "'",
    "$$it's$$ = caption OR caption = 'a (alias x)'",
    "caption = 'a\\\\' OR caption = '\\'])), (SELECT 1)' OR caption = 'It''s \\\\\\'' OR url = '{target:Int64} %s $1'",
    "caption = 'tab\t, line\r\n, \\0 and \x7f, émigré, 猫' -- it's \\",
]

REACHING = [
    ("(SELECT count() FROM file('/etc/passwd', 'LineAsString')) > 0", "a subquery"),
    ("id IN (SELECT number FROM numbers(10))", "a subquery"),
    ("EXISTS(SELECT * FROM url('http://127.0.0.1:9/', 'LineAsString', 'a String'))", "a subquery"),
    ("(SELECT 1 FROM remote('127.0.0.1', system.one)) = 1", "a subquery"),
    ("id = (WITH 1 AS a SELECT a)", "a subquery"),
    ("id IN system.numbers", "system.numbers, which is no column"),
    ("id IN other_table", "other_table, which is no column"),
    ("id IN caption", "IN caption"),
    ("id IN numbers(10)", "IN numbers"),
    ("id GLOBAL NOT IN file('x', 'CSV')", "IN file"),
    ("notIn(id, file('x'))", "IN file"),
    ("file('/etc/passwd') != ''", "the function file"),
    ("FILE('/etc/passwd') != ''", "the function FILE"),
    ("lower(concat('a', file('/etc/passwd'))) != ''", "the function file"),
    ("arrayExists(x -> file(x) != '', ['/etc/passwd'])", "the function file"),
    ("dictGet('d', 'a', id) = 1", "the function dictGet"),
    ("joinGet('j', 'a', id) = 1", "the function joinGet"),
    ("hasColumnInTable('system', 'one', 'dummy')", "the function hasColumnInTable"),
    ("getSetting('max_threads') = 1", "the function getSetting"),
    ("@@max_threads = 1", "the function globalVariable"),
    ("currentUser() = 'default'", "the function currentUser"),
    ("hostName() = 'a' OR version() = 'b'", "the function hostName"),
    ("sleep(3) = 0", "the function sleep"),
    ("throwIf(id = 5)", "the function throwIf"),
    ("encode_image('/etc/passwd') = [1]", "the function encode_image"),
    ("no_such_function(id)", "the function no_such_function"),
    ("arrayJoin([1, 2]) = 1", "the function arrayJoin"),
    ("count() > 0", "the function count"),
    ("count() OVER () > 0", "WINDOW_FUNCTION"),
    ("unnest([1, 1, 1]) = 1", "the function unnest"),
    ("UNNEST([1, 1, 1]) = 1", "the function UNNEST"),
    ("arrayExists(x -> unnest([x]) > 0, image_embedding)", "the function unnest"),
    ("lower(caption) OVER (PARTITION BY id) != ''", "WINDOW_FUNCTION"),
    ("row_number() OVER (ORDER BY id) < 5", "WINDOW_FUNCTION"),
    ("quantile(0.5)(similarity) > 0", "the function quantile"),
    ("countIf(id = 5) > 0", "the function countIf"),
    ("* = 1", "Asterisk"),
    ("laion.* = 1", "QualifiedAsterisk"),
    ("* EXCEPT (id) = 1", "Asterisk"),
    ("COLUMNS(id) = 1", "ColumnsListMatcher"),
    ("laion.caption = 'x'", "laion.caption, which is no column"),
    ("x = 1 AND arrayExists(x -> x > 0, image_embedding)", "x, which is no column"),
    ("(1 AS shard) = 1", "the alias shard"),
    ("('x' AS caption) != ''", "the alias caption"),
    ("(similarity AS distance) > 0", "the alias distance"),
    ("(-cosineDistance(image_embedding, text_embedding) AS image_embedding) < 5", "the alias image_embedding"),
    ("if(1 AS id, id, 2)", "the alias id"),
    ("arrayExists(x -> (1 AS shard) = x, [1])", "the alias shard"),
    ("(1 AS `x)\n   Identifier id`) = 1", "the alias x)"),
    ("id BETWEEN 1 AND (2 AS shard)", "the alias shard"),
    ("1 QUALIFY 1", "found "),
    ("1 ORDER BY id", "found "),
    ("caption", "found "),
    ("id = 'five'", "found "),
    ("similarity > toDateTime(caption, 'nowhere')", "found "),
    ("caption = '\ud800'", "UTF-8"),
    ("'])), sleep(3), parseQueryToJSON('", "found "),
    ("\\'])), sleep(3), (['", "found "),
    ("id = 1'", "found "),
    ("id = 1\\", "found "),
    (" OR ".join(f"no_such_function_{number}(id)" for number in range(6_000)), "the function no_such_function_0"),
    ("(" * 3_000 + "1" + ")" * 3_000, "found "),
    ("caption = '" + "x" * 1_000_001 + "'", "1,000,013 characters"),
    ("COLUMNS('.*') = 1", "ColumnsRegexpMatcher"),
    ("password = 'x'", "password, which is no column"),
    ("system.one.dummy = 0", "system.one.dummy, which is no column"),
    ("id = {target:Int64}", "QueryParameter"),
    ("1 SETTINGS readonly = 0", "SETTINGS"),
    ("1 LIMIT 1", "LIMIT"),
    ("1 FORMAT Null", "FORMAT"),
    ("1 INTO OUTFILE '/tmp/laion_assets_outfile'", "INTO"),
    ("1) OR (1", "OR"),
    ("1 UNION ALL SELECT 2", "UNION"),
    ("1; SELECT 2", "found"),
    ("", "found"),
]


@pytest.fixture(scope="module", params=["embedded", "server"])
def db(
    tmp_path_factory: pytest.TempPathFactory, clickhouse_server: ServerProcess, request: pytest.FixtureRequest
) -> Iterator[Database]:
    where = {"clickhouse": clickhouse_server.url()} if request.param == "server" else {}
    with connect(sample_settings(tmp_path_factory.mktemp("condition"), **where)) as opened:
        create_table(opened)
        yield opened


@pytest.mark.parametrize("where", CONDITIONS)
def test_what_looks_at_columns_passes(where: str, db: Database) -> None:
    check_condition(db, where)


@pytest.mark.parametrize(("where", "said"), REACHING)
def test_what_reaches_for_more_is_refused_with_one_clear_error(where: str, said: str, db: Database) -> None:
    with pytest.raises(SearchError) as caught:
        check_condition(db, where)
    assert_one_line(caught.value, "where: found ", said)
    assert "Stack trace" not in str(caught.value)
    assert not Path("/tmp/laion_assets_outfile").exists()  # noqa: S108 - it must not be written


def test_no_function_of_the_categories_reads_what_is_not_its_arguments(db: Database) -> None:
    """Checks the names of this engine's functions; fails if a newer engine adds such a function to a category."""
    words = ("file", "dict", "join", "setting", "user", "host", "sleep", "throw", "env", "python")
    rows = db.rows(
        "SELECT name FROM system.functions WHERE NOT is_aggregate AND categories IN {names:Array(String)} "
        "AND multiSearchAnyCaseInsensitive(name, {words:Array(String)})",
        parameters={"names": list(CATEGORIES), "words": list(words)},
    )
    assert {str(name) for (name,) in rows} == {"arrayJoin"}, "which is refused by its name"
