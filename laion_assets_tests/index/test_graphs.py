"""Tests of building the vector indexes: a build makes only those that are lacking, can go on, and fails clearly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from laion_assets.errors import LeaseHeldError, TableError
from laion_assets.index.cover import IndexSizes, PartitionCover, cache_bytes, index_cover, index_sizes
from laion_assets.index.declared import declared_indexes
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.searching.proof_of_use import index_use
from laion_assets.searching.statement import SearchRequest, vector_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.lease import lease
from laion_assets.table.mutations import Mutation, start_mutation, unfinished_mutations
from laion_assets_tests.conftest import Transport, assert_one_line
from laion_assets_tests.table.loaded import insert_behind_our_back, load_sample, sample_settings

ROWS = {0: 1500, 1: 600}
BOTH = ["image_index", "text_index"]


@pytest.fixture
def settings(tmp_path: Path, transport: Transport) -> Settings:
    settings = sample_settings(tmp_path, **transport.fresh())
    load_sample(settings, ROWS)
    return settings


class Steps:
    """Records the progress that a build reports."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None, str]] = []
        self.done = 0

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        self.stages.append((stage, total, unit))

    def advance(self, done: int, total: int | None = None) -> None:
        assert total is None
        self.done += done


def missing(cover: list[PartitionCover]) -> dict[int, list[str]]:
    return {state.shard: state.missing for state in cover}


def part_names(db: Database) -> set[str]:
    sql = "SELECT name FROM system.parts WHERE active AND table = 'laion' AND database = {database:String}"
    return {str(name) for (name,) in db.rows(sql, parameters={"database": db.database})}


def test_every_partition_gets_both_indexes_once(db: Database) -> None:
    assert missing(index_cover(db)) == {0: BOTH, 1: BOTH}
    steps, lines = Steps(), list[str]()
    report = build_indexes(db, progress=steps, log=lines.append)
    assert (report.shards, report.vectors, report.rebuilt) == ([0, 1], 4200, False)
    assert missing(report.cover) == {0: [], 1: []}
    assert steps.stages == [("index", 2100, "rows")]
    assert steps.done == 2100
    assert "2 of 2 partitions, 2,100 of 2,100 rows (100%)" in lines[-1]
    parts = part_names(db)
    assert len(parts) == 2
    again = build_indexes(db)
    assert (again.shards, again.vectors) == ([], 0)
    assert part_names(db) == parts


def test_what_is_lacking_is_known_for_each_partition_and_index(db: Database) -> None:
    build_indexes(db)
    for shard, name in ((0, "text_index"), (1, "image_index")):
        db.command(f"ALTER TABLE {db.table} CLEAR INDEX {name} IN PARTITION {shard}", settings={"mutations_sync": 2})
    assert missing(index_cover(db)) == {0: ["text_index"], 1: ["image_index"]}
    assert build_indexes(db).vectors == 2100
    assert missing(index_cover(db)) == {0: [], 1: []}
    names = {"database": db.database}
    assert not db.rows(
        "SELECT name FROM system.tables WHERE name LIKE '%probe%' AND database = {database:String}", parameters=names
    )


def test_a_part_is_weighed_once_and_again_when_its_files_change(db: Database) -> None:
    whole = build_indexes(db).cover
    kept = db.name_of("laion_part_sizes")
    db.command(f"ALTER TABLE {kept} UPDATE sizes = map('image_index', (7, 8)) WHERE 1", settings={"mutations_sync": 2})
    told = index_cover(db)
    assert missing(told) == {0: ["text_index"], 1: ["text_index"]}
    assert [state.compressed["image_index"] for state in told] == [7, 7]
    db.command(f"ALTER TABLE {db.table} CLEAR INDEX image_index IN PARTITION 1", settings={"mutations_sync": 2})
    assert missing(index_cover(db)) == {0: ["text_index"], 1: ["image_index"]}
    db.command(f"DROP TABLE {kept} SYNC")
    assert index_cover(db)[0] == whole[0]
    assert missing(index_cover(db)) == {0: [], 1: ["image_index"]}


def test_two_parts_of_the_same_files_count_twice_at_the_first_look_and_at_the_next(db: Database) -> None:
    once = build_indexes(db).cover[0]
    db.command(f"DROP TABLE {db.name_of('laion_part_sizes')} SYNC")
    db.command(f"ALTER TABLE {db.table} ATTACH PARTITION 0 FROM {db.table}")
    first, again = index_cover(db)[0], index_cover(db)[0]
    assert first == again
    assert (first.parts, first.missing) == (2, [])
    assert first.compressed == {name: 2 * size for name, size in once.compressed.items()}


def test_a_part_without_index_beside_one_with_it_counts_as_lacking(db: Database) -> None:
    build_indexes(db)
    insert_behind_our_back(db, 1, 10_000_005, "caption", "caption")
    state = index_cover(db)[1]
    assert (state.parts, state.missing) == (2, BOTH)


def test_a_partition_that_is_loaded_again_gets_its_index_back(settings: Settings) -> None:
    with connect(settings) as db:
        build_indexes(db)
    load_sample(settings, ROWS, shards=(1,))
    with connect(settings) as db:
        assert missing(index_cover(db)) == {0: [], 1: BOTH}
        assert build_indexes(db).shards == [1]


PRINT_MARK = "from laion_assets.machine import process_mark; print(process_mark())"


def test_a_probe_that_a_killed_process_left_goes_with_the_next_load(settings: Settings) -> None:
    """The probe table holds links to parts, so the parts would stay on the disk when their partitions are replaced."""
    with connect(settings) as db:
        build_indexes(db)
        mark = subprocess.check_output([sys.executable, "-c", PRINT_MARK], text=True).strip()
        probe = f"{settings.table}_staging_probe_{mark}_00ff00ff"
        db.command(f"CREATE TABLE {db.name_of(probe)} AS {db.table}")
        db.command(f"ALTER TABLE {db.name_of(probe)} ATTACH PARTITION 0 FROM {db.table}")
    load_sample(settings, ROWS, shards=(1,))
    with connect(settings) as db:
        if not db.embedded:
            # On a server, other processes may be at work. `index_cover` drops the probe, because its process is gone.
            index_cover(db)
        kept = {"_part_sizes"} if db.embedded else {"_part_sizes", "_leases"}
        assert {name for (name,) in db.rows("SHOW TABLES")} == {settings.table + name for name in {"", *kept}}


def test_other_parameters_replace_the_index_and_say_what_it_costs(settings: Settings) -> None:
    with connect(settings) as db:
        build_indexes(db)
    changed = settings.model_copy(update={"hnsw_quantization": "i8"})
    lines: list[str] = []
    with connect(changed) as db:
        report = build_indexes(db, log=lines.append)
        assert report.rebuilt
        assert report.shards == [0, 1]
        kinds = {name: kind for name, (_, kind) in declared_indexes(db).items()}
        assert list(kinds) == ["image_index_2", "text_index_2"]
        assert all("'i8', 8, 32" in kind for kind in kinds.values())
        size = index_sizes(report.cover).memory_bytes_a_vector
        assert size == pytest.approx(IndexParameters.of(changed).bytes_a_vector(512), rel=0.02)
    assert "replaced, since settings ask for i8" in lines[0]
    assert "over 2,100 rows takes about" in lines[0]
    assert lines[-1].startswith("image_index (vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 8, 32))")
    assert "dropped; every partition has image_index_2, text_index_2" in lines[-1]
    with connect(settings) as db:
        assert build_indexes(db).rebuilt
        assert sorted(declared_indexes(db)) == ["image_index", "text_index"], "a free name is used again"


def test_bad_vectors_in_the_table_are_named_before_anything_is_built(db: Database) -> None:
    for vector, what in (
        ("arrayMap(x -> nan, image_embedding)", "not finite"),
        ("arraySlice(image_embedding, 1, 100)", "of 100 elements"),
        ("arrayMap(x -> toFloat32(0), image_embedding)", "of length 0"),
    ):
        insert_behind_our_back(db, 1, 10_000_007, "image_embedding", vector)
        with pytest.raises(TableError, match=rf"partition 1: found row 10500007: image_embedding is {what}"):
            build_indexes(db)
        db.command(f"DELETE FROM {db.table} WHERE id = 10500007", settings={"lightweight_deletes_sync": 2})
        db.command(f"OPTIMIZE TABLE {db.table} PARTITION 1 FINAL", settings={"alter_sync": 2})
    assert missing(index_cover(db))[0] == []
    build_indexes(db)
    assert missing(index_cover(db)) == {0: [], 1: []}


def test_a_build_that_fails_stops_at_once_with_its_reason_and_blocks_nothing(db: Database) -> None:
    build_indexes(db)
    insert_behind_our_back(db, 1, 10_000_007, "text_embedding", "arrayMap(x -> inf, text_embedding)")
    started = time.monotonic()
    mutation = start_mutation(db, ["MATERIALIZE INDEX text_index IN PARTITION 1"])
    with pytest.raises(TableError, match=r"partition 1.*non-finite"):
        mutation.follow(db, "partition 1")
    assert time.monotonic() - started < 5
    assert unfinished_mutations(db) == []
    assert len(db.rows(f"SELECT id FROM {db.table} WHERE shard = 0 LIMIT 5")) == 5


def test_a_failing_mutation_of_somebody_else_is_named_and_not_killed(db: Database) -> None:
    fails = "UPDATE caption = throwIf(id = 3, 'not yet')::String WHERE id < 10"
    db.command(f"ALTER TABLE {db.table} {fails}", settings={"mutations_sync": 0})
    (foreign,) = unfinished_mutations(db)
    while not (state := foreign.state(db)) or not state.failure:
        time.sleep(0.05)
    with pytest.raises(TableError) as caught:
        build_indexes(db)
    assert_one_line(caught.value, foreign.id, "UPDATE caption", "not of laion_assets and fails", "not yet", "KILL")
    assert unfinished_mutations(db) == [foreign]
    foreign.kill(db)
    build_indexes(db)
    assert missing(index_cover(db)) == {0: [], 1: []}


def test_a_mutation_of_somebody_else_that_goes_on_is_left_alone_and_indexes_are_built_after_it(db: Database) -> None:
    lines: list[str] = []
    slow = "UPDATE caption = concat(caption, toString(sleepEachRow(0.002))) WHERE id < 1000"
    db.command(f"ALTER TABLE {db.table} {slow}", settings={"mutations_sync": 0})
    build_indexes(db, log=lines.append)
    assert "is not of laion_assets and still runs" in lines[0]
    assert missing(index_cover(db)) == {0: [], 1: []}
    while unfinished_mutations(db):
        time.sleep(0.05)
    assert db.one(f"SELECT countIf(endsWith(caption, '0')) >= 1000 FROM {db.table} WHERE id < 1000") == (1,)


def test_a_second_build_says_who_builds(db: Database, settings: Settings) -> None:
    with connect(settings.model_copy(update={"clickhouse_wait_seconds": 0.0})) as other:
        with lease(db, "its indexes"), pytest.raises(LeaseHeldError, match="its indexes: found the lease held by"):
            build_indexes(other)
        build_indexes(other)
    assert missing(index_cover(db)) == {0: [], 1: []}


def test_a_build_that_does_not_move_is_given_up(db: Database) -> None:
    db.command(f"SYSTEM STOP MERGES {db.table}")
    db.command(f"ALTER TABLE {db.table} UPDATE caption = 'another' WHERE id = 3", settings={"mutations_sync": 0})
    with pytest.raises(TableError, match=r"no progress for 0\.5 s.*KILL MUTATION"):
        build_indexes(db, stall_seconds=0.5)
    assert len(unfinished_mutations(db)) == 1
    db.command(f"SYSTEM START MERGES {db.table}")
    build_indexes(db)
    assert missing(index_cover(db)) == {0: [], 1: []}


def _build_until_killed(settings: Settings, marker: Path) -> None:
    """Builds the first partition's graphs, and makes the file `marker` when the second partition's are being built."""
    follow, followed = Mutation.follow, list[int]()

    def wait(*given: Any, **named: Any) -> None:
        followed.append(1)
        if len(followed) == 1:
            follow(*given, **named)
            return
        marker.touch()
        time.sleep(60)

    setattr(Mutation, "follow", wait)  # noqa: B010 - a checker wants the method's own type
    with connect(settings) as db:
        build_indexes(db)


def test_a_build_that_was_killed_goes_on_and_is_whole(tmp_path: Path, transport: Transport) -> None:
    settings = sample_settings(tmp_path, **transport.fresh(), hnsw_m=32, hnsw_ef_construction=256)
    load_sample(settings, {0: 600, 1: 3000})
    marker = tmp_path / "building"
    process = multiprocessing.get_context("spawn").Process(target=_build_until_killed, args=(settings, marker))
    process.start()
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with connect(settings) as db:
        assert missing(index_cover(db)) == {0: [], 1: BOTH}
        assert unfinished_mutations(db) == [], "a build mutates no table but its own"
        report = build_indexes(db)
        assert missing(report.cover) == {0: [], 1: []}
        assert report.shards == [1]
        assert not [name for (name,) in db.rows("SHOW TABLES") if "_staging_" in str(name)]
        assert [state.parts for state in report.cover] == [1, 1]
        for by in ("image", "text"):
            assert index_use(db, vector_of(db, 5, by), SearchRequest(by=by)).fault is None


def test_a_search_that_scans_silently_is_seen(db: Database) -> None:
    build_indexes(db)
    vector = vector_of(db, 3, "image")
    use = index_use(db, vector, SearchRequest())
    assert (use.in_plan, use.searches, use.expected, use.fault) == (True, 2, 2, None)
    assert index_use(db, vector, SearchRequest(shards=(1,))).searches == 1
    silent = index_use(db, vector, SearchRequest(settings=(("max_limit_for_vector_search_queries", 5),)))
    assert (silent.in_plan, silent.searches) == (False, 0)
    assert silent.fault is not None


def test_a_cache_that_is_too_small_is_said(db: Database) -> None:
    sizes = IndexSizes(vectors=10, graphs=2, bytes_on_disk=90, bytes_in_memory=100)
    assert sizes.cache_warning(200 + 2 * 16 * 2**20) is None
    warning = sizes.cache_warning(199 + 2 * 16 * 2**20)
    assert warning is not None
    assert "LAION_INDEX_CACHE_BYTES" in warning


def test_what_the_cache_counts_for_small_graphs_is_reckoned_with(db: Database) -> None:
    sizes = index_sizes(build_indexes(db).cover)
    assert sizes.graphs == 4
    before = counted_by_cache(db)
    for by in ("image", "text"):
        index_use(db, vector_of(db, 3, by), SearchRequest(by=by))
    counted = counted_by_cache(db) - before
    assert 4 * 16 * 2**20 <= counted <= cache_bytes(sizes.bytes_in_memory, sizes.graphs)


def counted_by_cache(db: Database) -> int:
    """Returns the size in bytes that the engine reports for its index cache."""
    (counted,) = db.one("SELECT sum(value) FROM system.metrics WHERE metric = 'VectorSimilarityIndexCacheBytes'")
    return int(counted)


def test_bytes_a_vector_are_those_that_the_engine_reported() -> None:
    measured = {("bf16", 64): 1557, ("bf16", 16): 1173, ("i8", 16): 661, ("b1", 16): 213}
    for (quantization, m), size in measured.items():
        parameters = IndexParameters(quantization, m, 64)  # type: ignore[arg-type]
        assert parameters.bytes_a_vector(512) == pytest.approx(size, rel=0.01)
