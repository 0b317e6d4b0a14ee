"""Reports the current stage of a process to a watcher, one line each, so that each kill can be assigned to a stage."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import dagster as dg

from laion_assets.assets import clickhouse_partition, merged_shard, raw_shard, recall_report, vector_index
from laion_assets.index import graphs, part_sizes, staged
from laion_assets.recall import evaluate, exact
from laion_assets.shard import files, merge, store
from laion_assets.source import folder
from laion_assets.source.partial import PartialFile
from laion_assets.table import connect, database, load, staging
from laion_assets.table.mutations import Mutation

STAGES: dict[str, list[tuple[Any, str]]] = {
    "observe remote files": [(raw_shard, "observe_before_fetch")],
    "fetch": [(raw_shard, "fetch_shard")],
    "receive over HTTP": [(PartialFile, "receive")],
    "name a fetched file": [(PartialFile, "finish"), (folder, "link")],
    "inspect": [(raw_shard, "inspect_shard"), (merged_shard, "inspect_shard")],
    "merge blocks": [(merge._Merger, "write")],
    "publish a file": [(files, "_publish")],
    "remove raw files": [(store.ShardStore, "remove_raw")],
    "open the engine": [(connect, "open_embedded")],
    "make staging": [(load, "create_table"), (load, "drop_stale_staging"), (staging, "create_staging")],
    "insert": [(load, "insert_file")],
    "merge parts": [(load, "_make_one_part")],
    "check staged rows": [(load, "check_equal_to_file")],
    "drop staging": [(staging.Staging, "drop")],
    "check the partition": [(clickhouse_partition, "partition_figures"), (clickhouse_partition, "vectors_agree")],
    "check the merged file": [(merged_shard, "sample_rows")],
    "declare indexes": [(graphs, "declare_indexes")],
    "link a partition's parts": [(staged, "_keys_and_settings"), (staged, "active_parts")],
    "build indexes": [(staged, "start_mutation"), (Mutation, "follow")],
    "swap in the graphs": [(staged, "swap_in")],
    "look at index cover": [(graphs, "index_cover"), (vector_index, "cover_everywhere"), (part_sizes, "_measure")],
    "keep the parts' sizes": [(part_sizes, "_keep")],
    "see that the index is used": [(vector_index, "index_uses")],
    "exact neighbours": [(evaluate, "true_neighbours"), (exact, "_write")],
    "measure recall": [(recall_report, "compare")],
    "save the report": [(recall_report, "recall_plot"), (recall_report, "save_evaluations")],
    "record an event": [(dg.DagsterInstance, "handle_new_event")],
}
"""The functions of each stage, and the object in which callers look them up."""

REPLACE = "replace the partition"
BETWEEN = "between steps"
ALL = (*STAGES, REPLACE, BETWEEN)

_stack: list[str] = [BETWEEN]


def arm(watcher: int) -> None:
    """Makes each stage in this process report itself to the pipe `watcher`."""

    def tell() -> None:
        os.write(watcher, f"{_stack[-1]}\n".encode())

    for stage, places in STAGES.items():
        for place, name in places:
            setattr(place, name, _announced(getattr(place, name), stage, tell))
    command = database.Database.command

    def told_command(self: database.Database, sql: str, **more: Any) -> None:
        run = _announced(command, REPLACE, tell) if "REPLACE PARTITION" in sql else command
        run(self, sql, **more)

    database.Database.command = told_command  # type: ignore[method-assign]


def _announced(function: Callable[..., Any], stage: str, tell: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        _stack.append(stage)
        tell()
        try:
            return function(*arguments, **named)
        finally:
            _stack.pop()
            tell()

    return run
