"""Compares the table, files and Dagster records after a load, or after its sudden death, with the truth.

It changes nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import dagster as dg
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_assets.assets.location import POOL
from laion_assets.dataset import ID_STRIDE
from laion_assets.health.history import COVERED_SHARDS
from laion_assets.health.runs import ACTIVE
from laion_assets.index.cover import index_cover
from laion_assets.settings import Settings
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.mutations import unfinished_mutations
from laion_assets.table.schema import partitions
from laion_assets.words import shards_of
from laion_assets_tests.torture.truth import RawFiles, Row, difference, score
from laion_assets_tests.torture.world import VERSIONS, World

TEXTS = ("url", "caption", "NSFW")
VECTORS = ("image_embedding", "text_embedding")


def table_rows(db: Database, shard: int) -> list[Row]:
    """A partition's rows as the engine returns them, in order of id."""
    texts = ", ".join(f"hex({name})" for name in TEXTS)
    vectors = ", ".join(
        f"hex(arrayStringConcat(arrayMap(x -> reinterpretAsFixedString(x), {name})))" for name in VECTORS
    )
    found = db.rows(f"SELECT id, {texts}, similarity, {vectors} FROM {db.table} WHERE shard = {shard} ORDER BY id")
    rows: list[Row] = []
    for row_id, url, caption, nsfw, similarity, image, text in found:
        said = (bytes.fromhex(url), bytes.fromhex(caption), bytes.fromhex(nsfw))
        rows.append((int(row_id), *said, score(similarity), bytes.fromhex(image), bytes.fromhex(text)))
    return rows


def merged_rows(merged: Path) -> list[Row]:
    """The rows of a merged file, as pyarrow reads them."""
    table = pq.read_table(merged, columns=["id", *TEXTS, "similarity", *VECTORS])
    texts = [table[name].cast("binary").to_pylist() for name in TEXTS]
    vectors = []
    for name in VECTORS:
        values = pc.list_flatten(table[name]).to_numpy().reshape(table.num_rows, -1)
        vectors.append([row.tobytes() for row in values])
    scores = map(score, table["similarity"].to_pylist())
    return list(zip(table["id"].to_pylist(), *texts, scores, *vectors, strict=True))


def loaded_versions(world: World, db: Database) -> tuple[dict[int, int], list[str]]:
    """The version that each partition equals row by row, and a fault for each partition that equals no version."""
    versions: dict[int, int] = {}
    faults = []
    for state in partitions(db):
        rows = table_rows(db, state.shard)
        equal = [number for number in VERSIONS if rows == world.truths[number, state.shard].rows]
        versions |= dict.fromkeys([state.shard] if equal else [], equal[0] if equal else -1)
        if not equal:
            said = [difference(rows, world.truths[number, state.shard].rows) for number in VERSIONS]
            faults.append(f"partition {state.shard} is neither version: {said}")
        if state.parts != 1:
            faults.append(f"partition {state.shard} has {state.parts} parts")
    return versions, faults


def audit_after_death(
    world: World, settings: Settings, instance: dg.DagsterInstance
) -> tuple[dict[int, int], list[str]]:
    """The version of each partition, and faults that are allowed at no moment: rows that are lost, doubled, wrong or
    of two versions, incomplete files with final names, and Dagster records of data that does not exist."""
    with connect(settings) as db:
        versions, faults = loaded_versions(world, db)
    store = ShardStore(settings.data_dir, settings.dataset)
    for shard in world.shards:
        if materialized(instance, "clickhouse_partition", shard) and shard not in versions:
            faults.append(f"Dagster has partition {shard}, the table has not")
        merged = settings.data_dir / "merged" / f"merged_{shard}.parquet"
        if merged.exists():
            rows = merged_rows(merged)
            if not any(rows == world.truths[number, shard].rows for number in VERSIONS):
                faults.append(f"{merged.name} is neither version")
        elif materialized(instance, "merged_shard", shard):
            faults.append(f"Dagster has merged_shard {shard}, the store has not")
        originals = [RawFiles.of(world.source(number), shard).paths for number in VERSIONS]
        files = store.raw_files(shard)
        for place, path in enumerate((files.image, files.text, files.metadata)):
            if path is not None and path.exists():
                content = path.read_bytes()
                if not any(content == paths[place].read_bytes() for paths in originals):
                    faults.append(f"{path.name} is neither version")
    return versions, faults + _records(instance)


def audit_after_load(world: World, settings: Settings, instance: dg.DagsterInstance, version: int) -> list[str]:
    """Faults after a completed load: also another version, and tables or mutations that a killed process left."""
    versions, faults = audit_after_death(world, settings, instance)
    if versions != dict.fromkeys(world.shards, version):
        faults.append(f"versions {versions} where all should be {version}")
    with connect(settings) as db:
        tables = {str(name) for (name,) in db.rows("SHOW TABLES")}
        kept = {settings.table, f"{settings.table}_leases", f"{settings.table}_part_sizes"}
        faults += [f"table {name} was left" for name in tables - kept]
        faults += [f"{mutation.id} is unfinished" for mutation in unfinished_mutations(db)]
    for shard in world.shards:
        path = settings.data_dir / "merged" / f"quarantine_{shard}.parquet"
        refused = pq.read_table(path, columns=["id"])["id"].to_pylist() if path.exists() else []
        if [row_id % ID_STRIDE for row_id in refused] != world.truths[version, shard].refused:
            faults.append(f"{path.name} has {refused}")
    return faults


def audit_after_success(world: World, settings: Settings, instance: dg.DagsterInstance, version: int) -> list[str]:
    """Faults after a completed load, index build and report."""
    faults = audit_after_load(world, settings, instance, version)
    with connect(settings) as db:
        faults += [f"partition {state.shard} lacks {state.missing}" for state in index_cover(db) if state.missing]
    covered = recorded(instance, "vector_index", COVERED_SHARDS)
    if sorted(shards_of(str(covered))) != world.shards:
        faults.append(f"vector_index says that it covers {covered}")
    rows = sum(len(world.truths[version, shard].rows) for shard in world.shards)
    if recorded(instance, "recall_report", "rows") != rows:
        faults.append(f"recall_report is of {recorded(instance, 'recall_report', 'rows')} rows, not {rows}")
    return faults + _leftovers(world, settings, version)


def materialized(instance: dg.DagsterInstance, asset: str, shard: int) -> bool:
    """Whether Dagster has a materialization of this shard of an asset."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[str(shard)])
    return bool(instance.fetch_materializations(wanted, limit=1).records)


def recorded(instance: dg.DagsterInstance, asset: str, name: str) -> object:
    """A metadata value from the last materialization of an unpartitioned asset, or None."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    made = event.asset_materialization if event is not None else None
    return made.metadata[name].value if made is not None and name in made.metadata else None


def _records(instance: dg.DagsterInstance) -> list[str]:
    active = Counter(run.status.value for run in instance.get_runs(dg.RunsFilter(statuses=list(ACTIVE))))
    faults = [f"{count} runs are {status} that nobody executes" for status, count in active.items()]
    if POOL in instance.event_log_storage.get_concurrency_keys():
        held = instance.event_log_storage.get_concurrency_info(POOL)
        if held.active_slot_count or held.pending_step_count or held.assigned_step_count:
            faults.append(f"the pool {POOL} is held by {held.claimed_slots} {held.pending_steps}")
    return faults


def _leftovers(world: World, settings: Settings, version: int) -> list[str]:
    data = settings.data_dir
    expected = {"recall/recall.json", "recall/recall.png", "recall/methods.png"}
    expected |= {f"merged/merged_{shard}.parquet" for shard in world.shards}
    quarantined = [shard for shard in world.shards if world.truths[version, shard].refused]
    expected |= {f"merged/quarantine_{shard}.parquet" for shard in quarantined}
    found = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file() and _is_ours(path, data)}
    found = {name for name in found if not (name.startswith("recall/exact_") and name.endswith(".npz"))}
    # A load keeps its plan, to compare the plan with the real load.
    found -= {"plan/plan.json"}
    return [f"{name} was left" for name in sorted(found - expected)] + [
        f"{name} is missing" for name in sorted(expected - found)
    ]


def _is_ours(path: Path, data: Path) -> bool:
    """Whether a file is neither the engine's nor a lock file. Empty lock files are kept."""
    return path.relative_to(data).parts[0] != "clickhouse" and path.suffix != ".lock"
