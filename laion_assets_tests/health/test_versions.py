"""Tests which changes make assets of a real chain stale. Dagster's resolver and our histories must agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from laion_assets.assets import clickhouse_partition, raw_shard
from laion_assets.dagster_internals.names import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG
from laion_assets.definitions import build_definitions
from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN, LOAD_JOB, OBSERVE_JOB, asset_key, job_name
from laion_assets.health.runs import failure_reason
from laion_assets.health.upkeep import nothing_is_stale
from laion_assets.health.versions import UNOBSERVED, RecordedVersions, code_version, latest_materializations
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings
from laion_assets.table.load import load_partition
from laion_assets_tests.conftest import settings_for


class Chain:
    """Loads two sample shards with real steps, and lists the stale assets by Dagster's rules and by ours."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, **fields: object) -> None:
        self.folder, self.instance = folder, instance
        self.settings = self.with_settings(**fields)
        for shard in (0, 1):
            write_sample_shard(folder / "sample", shard, 60)

    def with_settings(self, **fields: object) -> Settings:
        """Changes the settings, but keeps files and table."""
        self.settings = settings_for(self.folder / "data", self.folder / "sample", **fields)
        return self.settings

    def run(self, shard: int, *assets: str) -> None:
        """Runs these assets of a shard, or the whole chain."""
        job = build_definitions(self.settings).resolve_job_def(job_name(self.settings, LOAD_JOB))
        selected = [asset_key(self.settings, asset) for asset in assets or CHAIN]
        done = job.execute_in_process(instance=self.instance, partition_key=str(shard), asset_selection=selected)
        assert done.success

    def observe(self) -> None:
        job = build_definitions(self.settings).resolve_job_def(job_name(self.settings, OBSERVE_JOB))
        assert job.execute_in_process(instance=self.instance).success

    def stale(self, shard: int) -> list[str]:
        """The assets of a shard that our histories call stale."""
        return list(read_histories(self.instance, self.settings)[shard].stale)

    def stale_by_dagster(self, shard: int) -> list[str]:
        """The assets of a shard that the UI marks as stale. A stale input alone does not make the UI mark an asset."""
        graph = build_definitions(self.settings).get_repository_def().asset_graph
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        keys = {asset: asset_key(self.settings, asset) for asset in CHAIN}
        return [asset for asset, key in keys.items() if resolver.get_status(key, str(shard)) == StaleStatus.STALE]

    def version(self, shard: int, asset: str) -> str:
        (record,) = latest_materializations(self.instance, asset_key(self.settings, asset), {str(shard)})
        return RecordedVersions.of(record).data


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Chain(tmp_path, instance)


def test_a_changed_remote_file_makes_all_behind_it_stale_until_each_was_made_again(chain: Chain) -> None:
    chain.run(0)
    chain.run(1)
    assert (chain.stale(0), chain.stale_by_dagster(0)) == ([], [])
    before = {asset: chain.version(1, asset) for asset in CHAIN}
    write_sample_shard(chain.folder / "sample", 1, 70)
    chain.observe()
    assert (chain.stale(1), chain.stale_by_dagster(1)) == (list(CHAIN), ["raw_shard"])
    assert (chain.stale(0), chain.stale_by_dagster(0)) == ([], [])
    assert "other files" in read_histories(chain.instance, chain.settings)[1].stale["raw_shard"]
    for done, asset in enumerate(CHAIN, 1):
        chain.run(1, asset)
        assert chain.version(1, asset) != before[asset]
        assert chain.stale(1) == list(CHAIN[done:])
        assert chain.stale_by_dagster(1) == list(CHAIN[done : done + 1])


def test_an_observation_that_reaches_no_source_fails_and_the_age_of_what_is_known_is_told(chain: Chain) -> None:
    chain.run(0)
    assert "the oldest observation of a source is that of shard 0, less than a minute ago" in _not_stale(chain)
    chain.instance.report_runless_asset_event(dg.AssetMaterialization("raw_shard", partition="1"))
    assert "sources never observed: 1" in _not_stale(chain)
    (chain.folder / "sample").rename(chain.folder / "moved")
    job = build_definitions(chain.settings).resolve_job_def(job_name(chain.settings, OBSERVE_JOB))
    done = job.execute_in_process(instance=chain.instance, raise_on_error=False)
    assert not done.success
    assert "no source could be observed, so whether 2 shards are stale is unknown: " in failure_reason(
        chain.instance, done.run_id
    )


def _not_stale(chain: Chain) -> str:
    found = nothing_is_stale(read_histories(chain.instance, chain.settings))
    assert found.passed
    return found.seen


def test_a_shard_that_was_fetched_unobserved_is_stale_when_later_observations_differ(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.observe()
    with monkeypatch.context() as patched:
        patched.setattr(raw_shard, "observe_before_fetch", lambda *_: None)
        chain.run(0)
    assert chain.version(0, "raw_shard").startswith(UNOBSERVED)
    for _ in range(2):
        chain.observe()
        assert chain.stale(0) == []
    write_sample_shard(chain.folder / "sample", 0, 70)
    chain.observe()
    assert chain.stale(0) == list(CHAIN)
    chain.run(0)
    assert chain.stale(0) == []


def test_the_same_contents_made_again_have_the_same_versions_and_nothing_behind_them_is_stale(chain: Chain) -> None:
    chain.run(0)
    before = {asset: chain.version(0, asset) for asset in CHAIN}
    chain.run(0, "raw_shard", "merged_shard")
    assert (chain.stale(0), chain.stale_by_dagster(0)) == ([], [])
    chain.run(0)
    assert {asset: chain.version(0, asset) for asset in CHAIN} == before


def test_vectors_that_changed_alone_give_the_partition_another_version(chain: Chain) -> None:
    chain.run(0)
    before = chain.version(0, "clickhouse_partition")
    write_sample_shard(chain.folder / "other", 0, 60, seed=5)
    for kind in ("img_emb", "text_emb"):
        changed = (chain.folder / "other" / kind / f"{kind}_0.npy").read_bytes()
        (chain.folder / "sample" / kind / f"{kind}_0.npy").write_bytes(changed)
    chain.run(0)
    assert chain.version(0, "clickhouse_partition") != before


@pytest.mark.parametrize(
    ("fields", "stale"),
    [
        ({"vector_codec": "ZSTD(1)"}, ["clickhouse_partition"]),
        ({"index_granularity": 256}, ["clickhouse_partition"]),
        ({"extra_columns": ("md5",)}, ["merged_shard", "clickhouse_partition"]),
        ({"hnsw_m": 8, "recall_target": 0.5, "http_tries": 7, "max_bad_fraction": 0.5}, []),
    ],
    ids=["codec", "granularity", "columns", "what decides no partition"],
)
def test_a_setting_that_decides_a_result_makes_it_stale(
    chain: Chain, fields: dict[str, object], stale: list[str]
) -> None:
    chain.run(0)
    chain.with_settings(**fields)
    assert chain.stale(0) == stale
    assert chain.stale_by_dagster(0) == stale


def test_code_versions_follow_what_decides_a_result(tmp_path: Path) -> None:
    def version(asset: str, **fields: object) -> str:
        return code_version(settings_for(tmp_path, tmp_path, **fields), asset)

    assert version("vector_index") == "1; bf16, M 64, ef_construction 256"
    assert version("vector_index", hnsw_m=8) == "1; bf16, M 8, ef_construction 256"
    assert version("recall_report", recall_target=0.9) != version("recall_report")
    assert version("clip_encoders", dataset_name="laion400m") != version("clip_encoders")
    assert version("load_report") == "1"


def test_a_merge_that_is_recorded_during_a_load_is_not_what_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition and its version do not change. The partition is stale until the new file is loaded."""
    with dg.DagsterInstance.local_temp() as instance:
        chain = Chain(tmp_path, instance)
        chain.run(0)
        before = chain.version(0, "clickhouse_partition")

        def overtaken(*given: Any, **more: Any) -> Any:
            tags = {DATA_VERSION_TAG: "another file", DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
            instance.report_runless_asset_event(dg.AssetMaterialization("merged_shard", partition="0", tags=tags))
            return load_partition(*given, **more)

        with monkeypatch.context() as patch:
            patch.setattr(clickhouse_partition, "load_partition", overtaken)
            chain.run(0, "clickhouse_partition")
        assert chain.version(0, "merged_shard") == "another file"
        assert chain.version(0, "clickhouse_partition") == before
        assert chain.stale(0) == ["clickhouse_partition"]
        chain.run(0, *CHAIN)
        assert chain.version(0, "clickhouse_partition") == before
        assert chain.stale(0) == []
