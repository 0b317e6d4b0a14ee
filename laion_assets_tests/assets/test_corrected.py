"""Tests that what was made from a wrong source or description is made again once that is corrected: by `load`, and by
the jobs of the UI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np

from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.health.update import chain_steps
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.terminal.load import missing_steps
from laion_assets_tests.assets.test_chain import failed_checks, failures, run, table_state
from laion_assets_tests.conftest import Shard, settings_for

TOML = 'name = "described"\nshards = 4\ndimension = 512\n'


def described(folder: Path, source: Path, text: str, **fields: object) -> Settings:
    """Settings for the sample shards with a description of one's own."""
    toml = folder / "described.toml"
    toml.write_text(TOML + text)
    return settings_for(folder / "data", source, dataset_name=str(toml), **fields)


def steps_by_both(settings: Settings, instance: dg.DagsterInstance) -> list[str]:
    """The steps that `load` takes for shard 1, which are those that an update of the UI takes."""
    (history,) = read_histories(instance, settings, ["1"])
    steps = missing_steps(settings, history, rows_in_table=0)
    assert list(chain_steps(settings, history)) == steps
    return steps


def captions(settings: Settings) -> list[object]:
    """The captions of shard 1 in the table, as bytes."""
    with connect(settings) as db:
        found = db.rows(f"SELECT caption FROM {db.table} WHERE shard = 1 ORDER BY id", text_as_bytes=True)
    return [row[0] for row in found]


def test_a_merged_file_of_another_description_is_made_again(
    source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    wrong = described(tmp_path, source, '[columns]\ncaption = "url"\n')
    assert run(wrong, 1, instance, "raw_shard", "merged_shard").success
    right = described(tmp_path, source, "")
    assert steps_by_both(right, instance) == list(CHAIN), "the raw files are gone"
    # Another instance knows nothing of the merge, as after the folder was copied.
    with dg.DagsterInstance.ephemeral() as other:
        (refusal,) = failures(run(right, 1, other, "clickhouse_partition"))
    assert "rows that were merged by another description" in refusal
    assert "materialize raw_shard and merged_shard for partition 1" in refusal
    assert table_state(right) == []
    assert run(right, 1, instance, *steps_by_both(right, instance)).success
    assert captions(right) == sample_shards[1].texts_of_column("caption")


def test_a_misaligned_shard_is_made_again_from_its_corrected_source(
    source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    settings = described(tmp_path, source, "")
    replace(sample_shards[1], texts=np.roll(sample_shards[1].texts, 7, 0)).write(source, 1)
    assert list(failed_checks(run(settings, 1, instance))) == ["rows_are_aligned"]
    assert steps_by_both(settings, instance) == list(CHAIN)
    unchecked = described(tmp_path, source, 'alignment = "off"\n')
    assert steps_by_both(unchecked, instance) == ["clickhouse_partition"], "the file is as the dataset wants it"
    settings = described(tmp_path, source, "")
    sample_shards[1].write(source, 1)
    assert run(settings, 1, instance, *steps_by_both(settings, instance)).success
    assert captions(settings) == sample_shards[1].texts_of_column("caption")


def test_raw_files_of_a_failed_merge_are_compared_with_their_corrected_source(
    source: Path, sample_shards: list[Shard], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    settings = described(tmp_path, source, "", keep_raw=True)
    sample_shards[1].with_vector(5, np.nan).with_vector(6, np.nan).write(source, 1)
    assert "bad rows" in failures(run(settings, 1, instance))[0]
    sample_shards[1].write(source, 1)
    assert steps_by_both(settings, instance) == list(CHAIN)
    assert run(settings, 1, instance, *steps_by_both(settings, instance)).success
    assert table_state(settings)[0][1] == 620
