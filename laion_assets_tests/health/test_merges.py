"""Tests that files of an earlier release, as from a backup, and damaged files are no input of a load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from laion_assets.automation.update import read_update
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.definitions import build_definitions
from laion_assets.health.history import read_histories
from laion_assets.health.keys import AUDIT_JOB, CHAIN
from laion_assets.sample.shards import write_sample_shard
from laion_assets.shard import merge
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.terminal.load import missing_steps
from laion_assets_tests.assets.test_chain import failures, run, table_state
from laion_assets_tests.health.test_versions import Chain


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Chain(tmp_path, instance, index="none")


def load_two_releases(chain: Chain, folder: str) -> None:
    """Loads release 1 of shard 1 (60 rows), then release 2 (70 rows), then restores release 1's files in this folder of
    the store."""
    chain.run(1)
    kept = chain.settings.data_dir / folder
    backup = Path(shutil.copytree(kept, chain.folder / "backup"))
    write_sample_shard(chain.folder / "sample", 1, 70)
    chain.observe()
    chain.run(1)
    shutil.rmtree(kept)
    shutil.copytree(backup, kept)


def rows(chain: Chain) -> list[int]:
    return [found for _, found, _ in table_state(chain.settings)]


def audit(chain: Chain) -> tuple[bool, str]:
    """Whether the audit of shard 1 passed, and what it says."""
    job = build_definitions(chain.settings).resolve_job_def(AUDIT_JOB)
    result = job.execute_in_process(instance=chain.instance, tags={PARTITION_TAG: "1"}, raise_on_error=False)
    (check,) = result.get_asset_check_evaluations()
    return check.passed, check.description or ""


def lose_partition(chain: Chain) -> None:
    with connect(chain.settings) as db:
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 1")


def steps_by_both(chain: Chain) -> list[str]:
    """The steps that `load` and an update take for shard 1, which must be the same."""
    (history,) = read_histories(chain.instance, chain.settings, ["1"], with_errors=False)
    steps = missing_steps(chain.settings, history, sum(rows(chain)))
    assert read_update(chain.settings, chain.instance).shards.get(1, ()) == tuple(steps)
    return steps


def test_a_merged_file_from_a_backup_is_neither_audited_with_nor_loaded(chain: Chain) -> None:
    load_two_releases(chain, "merged")
    passed, said = audit(chain)
    assert passed, "the table has what was loaded"
    assert "merged_1.parquet is not the file that was loaded" in said
    assert steps_by_both(chain) == []
    (refusal,) = failures(run(chain.settings, 1, chain.instance, "clickhouse_partition"))
    assert "found the file of another merge" in refusal
    assert "materialize raw_shard and merged_shard for partition 1" in refusal
    assert rows(chain) == [70]
    lose_partition(chain)
    assert steps_by_both(chain) == list(CHAIN), "the raw files went after the merge"
    chain.run(1, *steps_by_both(chain))
    assert (rows(chain), chain.stale(1), audit(chain)) == ([70], [], (True, ""))


def test_a_table_that_differs_is_found_beside_a_merged_file_from_a_backup(chain: Chain) -> None:
    load_two_releases(chain, "merged")
    with connect(chain.settings) as db:
        change = "UPDATE caption = 'another' WHERE shard = 1"
        db.command(f"ALTER TABLE {db.table} {change}", settings={"mutations_sync": 2})
    passed, said = audit(chain)
    assert not passed
    assert said.startswith("70 rows in the table, 70 loaded, or rows that differ; compared with what was recorded")


def test_raw_files_from_a_backup_are_not_merged(chain: Chain) -> None:
    chain.with_settings(index="none", keep_raw=True)
    load_two_releases(chain, "raw")
    (refusal,) = failures(run(chain.settings, 1, chain.instance, "merged_shard"))
    assert "than those that were fetched last; materialize raw_shard for partition 1 first" in refusal
    assert steps_by_both(chain) == ["clickhouse_partition"], "release 2 was merged before"
    Path(str(ShardStore.of(chain.settings).merged_path(1))).unlink()
    assert steps_by_both(chain) == list(CHAIN)
    chain.run(1)
    assert (rows(chain), chain.stale(1)) == ([70], [])


def test_if_raw_files_are_there_a_merged_file_from_a_backup_is_merged_again_from_them(chain: Chain) -> None:
    chain.with_settings(index="none", keep_raw=True)
    load_two_releases(chain, "merged")
    lose_partition(chain)
    assert steps_by_both(chain) == list(CHAIN[1:])
    chain.run(1, *steps_by_both(chain))
    assert (rows(chain), chain.stale(1)) == ([70], [])


def test_merged_files_of_releases_that_wrote_no_digest_are_known_by_their_sha_256(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(merge._Merger, "_contents", lambda *_: "")
        earlier.setattr(merge, "raw_version", lambda *_: "")
        chain.run(1)
        backup = Path(shutil.copytree(chain.settings.data_dir / "merged", chain.folder / "backup"))
        write_sample_shard(chain.folder / "sample", 1, 70)
        chain.run(1)
    before = chain.version(1, "clickhouse_partition")
    assert (chain.stale(1), steps_by_both(chain)) == ([], []), "nothing is made again because of our own update"
    chain.run(1, "clickhouse_partition")
    assert (chain.version(1, "clickhouse_partition"), audit(chain)) == (before, (True, ""))
    lose_partition(chain)
    assert steps_by_both(chain) == ["clickhouse_partition"]
    shutil.copytree(backup, chain.settings.data_dir / "merged", dirs_exist_ok=True)
    assert steps_by_both(chain) == list(CHAIN)
    (refusal,) = failures(run(chain.settings, 1, chain.instance, "clickhouse_partition"))
    assert "found the file of another merge" in refusal


@pytest.mark.parametrize(
    ("name", "header"), [("text_embedding", False), ("text_embedding", True), ("similarity", False)]
)
def test_a_merged_file_with_damaged_pages_is_made_again_after_one_load_that_fails(
    name: str, header: bool, chain: Chain
) -> None:
    chain.run(1)
    path = Path(str(ShardStore.of(chain.settings).merged_path(1)))
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    (column,) = (one for one in columns if one.path_in_schema.startswith(name))
    first = column.data_page_offset + (0 if header else column.total_compressed_size // 2)
    content = bytearray(path.read_bytes())
    content[first : first + 24] = bytes(byte ^ 0x5A for byte in content[first : first + 24])
    path.write_bytes(content)
    lose_partition(chain)
    assert steps_by_both(chain) == ["clickhouse_partition"], "the footer is whole"
    (refusal,) = failures(run(chain.settings, 1, chain.instance, "clickhouse_partition"))
    assert "laion-assets load --again 1" in refusal
    assert steps_by_both(chain) == list(CHAIN)
    chain.run(1, *steps_by_both(chain))
    assert (rows(chain), steps_by_both(chain)) == ([60], [])
