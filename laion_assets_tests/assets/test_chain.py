"""Tests the chain in Dagster: metadata of runs, the faults that stop each step, and that killed runs lose nothing."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.assets import location
from laion_assets.assets.clickhouse_partition import clickhouse_partition_checks
from laion_assets.assets.location import CodeLocation
from laion_assets.definitions import build_definitions
from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.settings import Settings
from laion_assets.shard.merged import read_merged
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions
from laion_assets.table.verify import partition_figures
from laion_assets.terminal.load import missing_steps
from laion_assets_tests.conftest import REAL, Shard, needs_real, settings_for

CHECKS = {
    "raw_shard": {"rows_agree"},
    "merged_shard": {"vectors_are_sound", "rows_are_aligned", "metadata_is_sound"},
    "clickhouse_partition": {"partition_matches_parquet"},
}


def run(settings: Settings, shard: int, instance: dg.DagsterInstance, *assets: str) -> dg.ExecuteInProcessResult:
    """Runs the job for one shard, or only some of its assets."""
    return (
        build_definitions(settings)
        .resolve_job_def("load_shards")
        .execute_in_process(
            partition_key=str(shard),
            instance=instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets or CHAIN],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    )


def materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    """The assets that a run materialized, in order."""
    return [event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key]


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """The failure messages of a run's steps."""
    found = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
    return [str(failure.description) for failure in found if failure is not None]


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The failed checks of a run, with their descriptions."""
    return {
        check.check_name: check.description or "" for check in result.get_asset_check_evaluations() if not check.passed
    }


def recorded(instance: dg.DagsterInstance, asset: str, shard: int) -> dict[str, Any]:
    """The metadata of an asset's last materialization for a shard."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[str(shard)])
    materialization = instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
    assert materialization is not None
    return {name: value.value for name, value in materialization.metadata.items()}


def table_state(settings: Settings) -> list[tuple[int, int, int]]:
    """Shard, rows and fingerprint of every partition."""
    with connect(settings) as db:
        found = [(state.shard, partition_figures(db, db.table, f"shard = {state.shard}")) for state in partitions(db)]
        assert all(state.parts == 1 for state in partitions(db))
    return [(shard, figures.rows, figures.fingerprint) for shard, figures in found]


def test_a_run_takes_a_shard_from_its_source_to_its_partition(settings: Settings, instance: dg.DagsterInstance) -> None:
    result = run(settings, 1, instance)
    assert result.success
    assert materialized(result) == list(CHAIN)
    assert [(shard, rows) for shard, rows, _ in table_state(settings)] == [(1, 620)]


def test_every_check_runs_passes_and_is_recorded_for_its_partition(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    for shard in (0, 3):
        found: dict[str, set[str]] = {}
        for check in run(settings, shard, instance).get_asset_check_evaluations():
            assert check.passed, check
            assert check.blocking
            assert check.partition == str(shard)
            found.setdefault(check.asset_key.to_user_string(), set()).add(check.check_name)
        assert found == CHECKS


def test_runs_record_rows_bytes_and_names_under_dagsters_keys(settings: Settings, instance: dg.DagsterInstance) -> None:
    run(settings, 2, instance)
    raw, merged, loaded = (recorded(instance, asset, 2) for asset in CHAIN)
    assert [each["dagster/partition_row_count"] for each in (raw, merged, loaded)] == [250] * 3
    assert (raw["dtype"], raw["dimension"]) == ("<f2", 512)
    assert raw["bytes"] > 2 * 250 * 512 * 2
    path = settings.data_dir / "merged" / "merged_2.parquet"
    assert merged["dagster/uri"] == path.as_uri()
    assert merged["bytes"] == path.stat().st_size
    assert merged["quarantined"] == 0
    assert set(merged["nulls_filled"]) == {"url", "caption", "NSFW", "similarity"}
    assert loaded["dagster/table_name"] == "default.laion"
    assert [column.name for column in loaded["dagster/column_schema"].columns][:7] == [
        *("id", "url", "caption", "NSFW", "similarity", "image_embedding", "text_embedding")
    ]
    assert loaded["fingerprint"] == str(table_state(settings)[0][2])
    for metadata in (merged, loaded):
        assert metadata["seconds"] > 0
        assert metadata["rows_per_second"] > 0


def test_a_shards_keys_are_its_numbers(settings: Settings) -> None:
    graph = build_definitions(settings).resolve_asset_graph()
    for asset in CHAIN:
        node = graph.get(dg.AssetKey(asset))
        assert node.partitions_def is not None
        assert node.partitions_def.get_partition_keys() == ["0", "1", "2", "3"]
        assert node.group_name == "shards"
        assert node.owners
        assert node.description
        assert node.kinds


def test_a_run_again_gives_the_same_table(settings: Settings, instance: dg.DagsterInstance) -> None:
    run(settings, 0, instance)
    run(settings, 2, instance)
    before = table_state(settings)
    assert run(settings, 0, instance).success
    assert table_state(settings) == before


def spoil_html(source: Path) -> None:
    """Replaces the image vectors of shard 1 by an error page."""
    (source / "img_emb" / "img_emb_1.npy").write_text("<html><body>503 Service Unavailable</body></html>")


def spoil_short(source: Path) -> None:
    """Removes one image vector of shard 1. The other vectors are valid."""
    path = source / "img_emb" / "img_emb_1.npy"
    np.save(path, np.load(path)[:-1])


def spoil_columns(source: Path) -> None:
    """Removes the captions from the metadata of shard 1."""
    path = source / "metadata" / "metadata_1.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["caption"]), path)


def spoil_dimension(source: Path) -> None:
    """Gives the text vectors of shard 1 another dimension, as from another model."""
    path = source / "text_emb" / "text_emb_1.npy"
    np.save(path, np.load(path)[:, :256])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_html, ("shard 1, img_emb_1.npy", "HTML")),
        (spoil_short, ("shard 1", "619 rows in img_emb_1.npy", "620 rows in text_emb_1.npy")),
        (spoil_columns, ("shard 1, metadata_1.parquet", "no column for caption", "[columns]")),
        (spoil_dimension, ("shard 1, text_emb_1.npy", "shape (620, 256)", "(rows, 512)")),
    ],
)
def test_a_corrupt_shard_fails_alone_at_once_and_says_why(
    spoil: Any, said: tuple[str, ...], source: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    spoil(source)
    settings = settings_for(tmp_path / "data", source)
    result = run(settings, 1, instance)
    assert not result.success
    assert materialized(result) == []
    (failure,) = failures(result)
    assert "\n" not in failure
    assert all(part in failure for part in said)
    assert "STEP_UP_FOR_RETRY" not in {event.event_type_value for event in result.all_events}
    assert run(settings, 2, instance).success
    assert [shard for shard, *_ in table_state(settings)] == [2]


def test_a_shard_with_too_many_bad_vectors_fails_in_its_merge(
    source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    sample_shards[1].with_vector(3, np.nan).with_vector(4, 0).write(source, 1)
    settings = settings_for(tmp_path / "data", source)
    result = run(settings, 1, instance)
    assert materialized(result) == ["raw_shard"]
    assert "row 3: image_embedding not finite; row 4: image_embedding zero" in failures(result)[0]
    assert not (settings.data_dir / "merged" / "merged_1.parquet").exists()
    tolerant = settings_for(tmp_path / "data", source, max_bad_fraction=0.01)
    assert run(tolerant, 1, instance).success
    metadata = recorded(instance, "merged_shard", 1)
    assert (metadata["quarantined"], metadata["dagster/partition_row_count"]) == (2, 618)
    assert metadata["quarantine"] == str(settings.data_dir / "merged" / "quarantine_1.parquet")
    assert table_state(settings)[0][1] == 618


def test_a_misaligned_shard_is_merged_and_stopped_by_its_check(
    settings: Settings, source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    assert run(settings, 1, instance).success
    before = table_state(settings)
    replace(sample_shards[1], table=sample_shards[0].head(620).table).write(source, 1)
    result = run(settings_for(tmp_path / "data", source), 1, instance)
    assert not result.success
    assert materialized(result) == ["raw_shard", "merged_shard"]
    assert list(failed_checks(result)) == ["rows_are_aligned"]
    assert "similarity correlates by" in failed_checks(result)["rows_are_aligned"]
    assert table_state(settings) == before


def test_metadata_without_captions_in_most_rows_is_stopped_by_its_check(
    source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    captions: list[str | None] = [None] * 400 + ["caption"] * 220
    sample_shards[1].with_column("caption", pa.array(captions)).write(source, 1)
    settings = settings_for(tmp_path / "data", source)
    result = run(settings, 1, instance)
    said = failed_checks(result)
    assert list(said) == ["metadata_is_sound"]
    assert said["metadata_is_sound"].startswith('65% of the rows have no caption; if that is right, say caption = ""')
    assert "clickhouse_partition" not in materialized(result)
    assert table_state(settings) == []
    # Runs the same step alone, as a person or a retry would, and checks the steps that the same command would repeat.
    alone = (
        build_definitions(settings)
        .resolve_job_def("load_shards")
        .execute_in_process(
            partition_key="1",
            instance=instance,
            asset_selection=[dg.AssetKey("clickhouse_partition")],
            raise_on_error=False,
        )
    )
    assert "65% of the rows have no caption" in failures(alone)[0]
    assert table_state(settings) == []
    (history,) = read_histories(instance, settings, ["1"])
    assert missing_steps(settings, history, rows_in_table=0) == list(CHAIN)


def test_a_shard_of_another_size_than_is_known_is_stopped(
    tmp_path: Path, source: Path, instance: dg.DagsterInstance
) -> None:
    path = tmp_path / "known.toml"
    path.write_text('name = "known"\nshards = 4\ndimension = 512\nrows = { 1 = 621 }\n', encoding="utf-8")
    settings = settings_for(tmp_path / "data", source, dataset_name=str(path))
    result = run(settings, 1, instance)
    assert not result.success
    assert "clickhouse_partition" not in materialized(result)
    assert run(settings, 2, instance).success


def test_the_partition_launched_alone_on_a_faulty_merged_file_refuses(
    settings: Settings, source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    assert run(settings, 1, instance).success
    before = table_state(settings)
    replace(sample_shards[1], texts=sample_shards[1].texts[::-1]).write(source, 1)
    run(settings_for(tmp_path / "data", source), 1, instance)
    alone = run(settings, 1, instance, "clickhouse_partition")
    assert materialized(alone) == []
    assert "rows that do not belong together" in failures(alone)[0]
    assert table_state(settings) == before
    merged = settings.data_dir / "merged" / "merged_1.parquet"
    merged.write_bytes(merged.read_bytes()[:-100])
    assert "shard 1, merged_1.parquet" in failures(run(settings, 1, instance, "clickhouse_partition"))[0]
    merged.unlink()
    alone = run(settings, 1, instance, "clickhouse_partition")
    assert "materialize raw_shard and merged_shard for partition 1" in failures(alone)[0]
    assert "STEP_UP_FOR_RETRY" not in {event.event_type_value for event in alone.all_events}
    assert table_state(settings) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE WHERE id = 20000007", "249 rows in the table, 250 loaded"),
        ("UPDATE caption = 'another' WHERE id = 20000007", "rows that differ"),
        ("UPDATE image_embedding = text_embedding WHERE id = 20000007", "vectors that are not the file's"),
        (
            "UPDATE text_embedding = arrayResize([], 511, 1) WHERE id = 20000007",
            "1 rows or more whose vectors are not sound",
        ),
    ],
)
def test_a_partition_that_was_changed_behind_our_back_fails_its_check(
    change: str, said: str, settings: Settings, instance: dg.DagsterInstance
) -> None:
    run(settings, 2, instance)
    sound = table_state(settings)
    with connect(settings) as db:
        db.command(f"ALTER TABLE {db.table} {change}", settings={"mutations_sync": 2})
    (check,) = clickhouse_partition_checks(CodeLocation(settings))
    # Dagster runs the check of a partition only together with its asset, which would repair the partition first.
    judge = check.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    result = next(judge(SimpleNamespace(has_partition_key=True, partition_key="2", instance=instance)))
    assert not result.passed
    assert said in result.description
    assert run(settings, 2, instance, "clickhouse_partition").success
    assert table_state(settings) == sound


@pytest.mark.parametrize("keep_raw", [True, False])
@pytest.mark.parametrize("keep_merged", [True, False])
def test_files_stay_only_where_the_settings_say_so(
    keep_raw: bool,
    keep_merged: bool,
    sample_folder: Path,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(location, "FIRST_WAIT_SECONDS", 0.0)
    settings = settings_for(tmp_path / "data", sample_folder, keep_raw=keep_raw, keep_merged=keep_merged)
    result = run(settings, 2, instance)
    assert result.success, (failures(result), failed_checks(result))
    store = ShardStore(settings.data_dir, settings.dataset)
    assert store.raw_files(2).missing() == ([] if keep_raw else list(store.raw_files(2).paths().values()))
    assert store.merged_path(2).exists() == keep_merged
    assert (sample_folder / "img_emb" / "img_emb_2.npy").exists()
    again = run(settings, 2, instance, "merged_shard")
    assert again.success == keep_raw
    if not keep_raw:
        assert "materialize raw_shard for partition 2 first" in failures(again)[0]
        assert "STEP_UP_FOR_RETRY" not in {event.event_type_value for event in again.all_events}


def test_the_originals_of_a_linked_folder_are_never_removed(
    sample_folder: Path, settings: Settings, instance: dg.DagsterInstance
) -> None:
    before = {path: path.stat().st_size for path in sample_folder.rglob("*") if path.is_file()}
    run(settings, 3, instance)
    assert {path: path.stat().st_size for path in sample_folder.rglob("*") if path.is_file()} == before


def test_a_shard_without_rows_goes_through_the_chain(
    source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    sample_shards[1].head(0).write(source, 1)
    settings = settings_for(tmp_path / "data", source)
    result = run(settings, 1, instance)
    assert result.success, (failures(result), failed_checks(result))
    assert recorded(instance, "clickhouse_partition", 1)["dagster/partition_row_count"] == 0
    assert table_state(settings) == []
    (history,) = read_histories(instance, settings, ["1"])
    assert history.state == "loaded"
    assert missing_steps(settings, history, rows_in_table=0) == []


def test_a_shard_of_one_row_goes_through_the_chain(
    source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    sample_shards[1].head(1).write(source, 1)
    settings = settings_for(tmp_path / "data", source)
    result = run(settings, 1, instance)
    assert result.success, (failures(result), failed_checks(result))
    assert [(shard, rows) for shard, rows, _ in table_state(settings)] == [(1, 1)]


KILLER = """
import json, os, signal, sys
from pathlib import Path
import dagster as dg
import pandas  # the client imports it where it is there: once here is quicker than in every child
from laion_assets.assets import clickhouse_partition, merged_shard, raw_shard
from laion_assets.health.keys import CHAIN
from laion_assets.definitions import build_definitions
from laion_assets.settings import load_settings
from laion_assets.shard import merge, store
from laion_assets.table import load, staging
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions
from laion_assets.table.verify import partition_figures

folder = Path(sys.argv[1])
merge.BLOCK_ROWS = 100
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def die(*args, **names):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(place, name, number):
    whole, calls = getattr(place, name), []

    def count(*args, **names):
        calls.append(1)
        if len(calls) == number:
            die()
        return whole(*args, **names)

    setattr(place, name, count)


MOMENTS = {
    "never": lambda: None,
    "fetched, not yet looked into": lambda: setattr(raw_shard, "inspect_shard", die),
    "in the middle of a merge": lambda: die_at_call(merge._Merger, "_judge", 4),
    "merged, raw files not yet removed": lambda: setattr(store.ShardStore, "remove_raw", die),
    "staged as one part": lambda: setattr(load, "check_equal_to_file", die),
    "replaced, staging not yet dropped": lambda: die_at_call(staging.Staging, "drop", 1),
    "loaded, not yet checked": lambda: setattr(clickhouse_partition, "partition_figures", die),
}


def chain(place):
    settings = load_settings(
        dataset_name="sample", source=(sys.argv[2],), data_dir=place / "data", clickhouse_wait_seconds=0.0
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = build_definitions(settings).resolve_job_def("load_shards").execute_in_process(
            partition_key="1", instance=instance, run_config=QUIET, raise_on_error=False
        )
    with connect(settings) as db:
        figures = [
            (state.shard, state.parts, partition_figures(db, db.table, f"shard = {state.shard}"))
            for state in partitions(db)
        ]
        tables = sorted(name for (name,) in db.rows("SHOW TABLES"))
    left = sorted(str(path.relative_to(place / "data")) for path in (place / "data").glob("[rm]*/*"))
    return repr([result.success, figures, tables, left])


def forked(work):
    child = os.fork()
    if child == 0:
        work()
        sys.stdout.flush()
        os._exit(0)
    return os.waitpid(child, 0)[1]


places = {moment: folder / str(number) for number, moment in enumerate(MOMENTS)}
killed = {moment: forked(lambda: (arm(), chain(places[moment]))) for moment, arm in MOMENTS.items()}
print(json.dumps({moment: [killed[moment], chain(place)] for moment, place in places.items()}))
"""
"""For each moment, runs the chain in a process that kills itself then. Runs all chains again in one process."""


def test_a_run_that_was_killed_at_any_moment_and_run_again_gives_the_same_table(
    sample_folder: Path, tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), str(sample_folder)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2_000:]
    found: dict[str, tuple[int, str]] = json.loads(result.stdout)
    killed, expected = found.pop("never")
    assert killed == 0
    assert expected.startswith("[True, [(1, 1, PartitionFigures(rows=620,")
    assert expected.endswith(
        "['laion'], ['merged/.merged_1.parquet.lock', 'merged/merged_1.parquet', 'raw/.1.files.lock', 'raw/.1.lock']]"
    )
    for moment, (killed, after) in found.items():
        assert killed == 9, f"{moment}: was not killed"
        assert after == expected, moment


TRIPLE = REAL / "clip_retrieval_triple"


@needs_real
def test_the_genuine_triple_is_loaded_by_a_file_that_describes_it(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    described = tmp_path / "triple.toml"
    described.write_text(
        textwrap.dedent(
            """
            name = "triple"
            shards = 1
            dimension = 512
            columns = { url = "image_path" }
            defaults = { NSFW = "", similarity = nan }
            """
        ),
        encoding="utf-8",
    )
    settings = settings_for(
        tmp_path / "data", shutil.copytree(TRIPLE, tmp_path / "triple"), dataset_name=str(described)
    )
    result = run(settings, 0, instance)
    assert result.success, (failures(result), failed_checks(result))
    metadata = pq.read_table(TRIPLE / "metadata_0.parquet")
    images = np.load(TRIPLE / "img_emb_0.npy").astype(np.float32)
    with connect(settings) as db:
        rows = db.rows(f"SELECT url, caption, NSFW, similarity, image_embedding FROM {db.table} ORDER BY id")
    assert len(rows) == 9
    assert [row[0] for row in rows] == metadata["image_path"].to_pylist()
    assert [row[1] for row in rows] == metadata["caption"].to_pylist()
    assert all(row[2] == "" and math.isnan(row[3]) for row in rows)
    assert np.array_equal(np.array([row[4] for row in rows], np.float32), images)
    assert read_merged(settings.data_dir / "merged" / "merged_0.parquet", dataset=settings.dataset, shard=0).rows == 9


@needs_real
def test_the_genuine_triple_undescribed_is_refused_with_how_to_describe_it(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    result = run(settings_for(tmp_path / "data", TRIPLE), 0, instance)
    (failure,) = failures(result)
    for part in ("metadata_0.parquet", "url (looked for", "NSFW (looked for", "similarity (looked for"):
        assert part in failure
    assert "caption (looked for" not in failure
    assert 'url = "image_path"' in failure
    assert 'NSFW = "", similarity = nan' in failure
    assert materialized(result) == []
