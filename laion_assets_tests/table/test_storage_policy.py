"""Tests of tables whose operator keeps them on other disks: they are loaded, indexed and loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.index.graphs import build_indexes
from laion_assets.index.nodes import require_whole_index
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions, table_definition
from laion_assets_tests.endpoint.process import ServerProcess, endpoint_process
from laion_assets_tests.table.loaded import load_sample, sample_settings

STORAGE = """<clickhouse><storage_configuration><disks><second><path>{}/</path></second></disks><policies>
<cold><volumes><main><disk>second</disk></main></volumes></cold>
<tiered><volumes><hot><disk>default</disk></hot><cold><disk>second</disk></cold></volumes></tiered>
</policies></storage_configuration></clickhouse>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a second disk."""
    folder = tmp_path_factory.mktemp("storage")
    (folder / "second").mkdir()
    (folder / "config.xml").write_text(STORAGE.format(folder / "second"))
    with endpoint_process(folder / "server", options={"config-file": str(folder / "config.xml")}) as started:
        yield started


def load_build_and_load_again(db: Database, settings: Settings) -> None:
    load_sample(settings, {0: 200, 1: 100})
    assert build_indexes(db).shards == [0, 1]
    load_sample(settings, {1: 150})
    build_indexes(db)
    require_whole_index(db)
    assert [(state.shard, state.rows) for state in partitions(db)] == [(0, 200), (1, 150)]


def disks(db: Database) -> set[str]:
    rows = db.rows(
        "SELECT disk_name FROM system.parts WHERE active AND rows > 0 AND database = {name:String} AND table = 'laion'",
        parameters={"name": db.database},
    )
    return {str(disk) for (disk,) in rows}


def test_a_table_on_another_disk_only(server: ServerProcess, tmp_path: Path) -> None:
    settings = sample_settings(tmp_path, clickhouse=server.url("on_cold"))
    with connect(settings) as db:
        db.command(f"{table_definition(db, 'laion')}, storage_policy = 'cold'")
        load_build_and_load_again(db, settings)
        assert disks(db) == {"second"}


def test_a_partition_that_was_moved_to_a_volume_of_the_tables_policy(server: ServerProcess, tmp_path: Path) -> None:
    settings = sample_settings(tmp_path, clickhouse=server.url("on_tiers"))
    with connect(settings) as db:
        db.command(f"{table_definition(db, 'laion')}, storage_policy = 'tiered'")
        load_build_and_load_again(db, settings)
        db.command(f"ALTER TABLE {db.table} MOVE PARTITION 0 TO VOLUME 'cold'")
        assert disks(db) == {"default", "second"}
        load_sample(settings, {0: 220})
        build_indexes(db)
        require_whole_index(db)
        assert partitions(db)[0].rows == 220
