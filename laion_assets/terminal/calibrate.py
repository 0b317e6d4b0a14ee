"""Measures what shards, indexes and searches cost on this machine, in separate processes and folders.

It runs the real job on sample shards in a separate Dagster instance, so the figures include checks and Dagster. plan/
computes costs from these figures.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import dagster as dg

from laion_assets.errors import CalibrationError
from laion_assets.health.history import recorded_numbers
from laion_assets.health.keys import CHAIN, asset_key
from laion_assets.index.cover import index_sizes
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.index.trial import trial_table
from laion_assets.machine import Machine, StepMeter
from laion_assets.plan.calibration import (
    SHARD_STAGES,
    Calibration,
    ExactCost,
    IndexCost,
    SearchCost,
    ShardCost,
    calibration_path,
    keep_calibration,
    relevant_settings,
)
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.exact import true_neighbours
from laion_assets.recall.methods import DEFAULT_GRID
from laion_assets.recall.queries import OVERSAMPLE, like_sets, unseen_sets
from laion_assets.recall.recall_plan import EXACT_SEARCHES, RecallPlan, searches_a_kind
from laion_assets.recall.unseen import OWN_ROW, UnseenQueries
from laion_assets.sample.shards import write_sample_shard
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.settings import Settings
from laion_assets.shard.files import scratch_folder
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions
from laion_assets.table.vectors import Vectors, draw_rows, vectors_of
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.interrupts import sigterm_as_ctrl_c
from laion_assets.terminal.separate_settings import separate_settings
from laion_assets.terminal.shard_run import run_shard, shard_job

Costs = TypeVar("Costs")
IndexCosts = tuple[IndexCost, SearchCost, ExactCost]
"""The costs of one layout of the table: to build its indexes, to search with them, and to search without."""


REPORT = RecallPlan(queries=8, queries_at_100=2, grid=DEFAULT_GRID)


@dataclass(frozen=True)
class Sizes:
    """Rows of the sample shards, and rows that are indexed: as one part, and as `INDEX_PARTS`; and the timed report.

    The large shard has nearly as many rows as those up to which a load's memory grows (131,072, `FLAT_ROWS`).
    """

    small: int = 10_000
    middle: int = 30_000
    large: int = 100_000
    index: int = 8_000
    report: RecallPlan = REPORT

    @property
    def shards(self) -> tuple[int, ...]:
        """The first shard pays for what a process does once, and is not counted. The large shards come last, since a
        process keeps the memory that it took for them."""
        return (self.small, self.small, self.small, self.middle, self.large, self.large)


FULL = Sizes()
INDEX_PARTS = 4
LARGER = 2
"""The largest part has this many times the rows: a graph of 16,000 rows no longer fits into a cache of 32 MB with its
links, and a search at a large ef_search begins to read only a part of it."""

SEARCHES = 30

NEEDS = "it needs 2.5 GB of disk in LAION_DATA_DIR and 1.5 GB of memory; `laion-assets plan` begins again"

TOML = 'name = "calibration"\nshards = {shards}\ndimension = 512\n[[sources]]\nurl = "{folder}"\n'


def calibrate(settings: Settings, sizes: Sizes = FULL) -> Calibration:
    """Measures, keeps and returns the calibration. Raises what a load raises. Nothing but the calibration stays."""
    started = time.perf_counter()
    with scratch_folder(settings.data_dir / ".calibration", subject="calibration") as folder:
        own = _own_settings(settings, sizes, folder)
        shards = _alone(_shard_costs, own, sizes, folder)
        (many, many_searches, few_rows), middle, (one, one_searches, _), scan = _alone(_table_costs, own, sizes, folder)
    calibration = Calibration(
        made_at=time.time(),
        machine=Machine.here(),
        index=IndexParameters.of(settings),
        settings=relevant_settings(settings),
        shards=shards,
        indexes=[many, middle, one],
        searches=[one_searches, many_searches],
        exact=[few_rows, scan],
        seconds=time.perf_counter() - started,
    )
    keep_calibration(calibration, calibration_path(settings))
    return calibration


def _alone(measure: Callable[[Settings, Sizes, Path], Costs], settings: Settings, sizes: Sizes, folder: Path) -> Costs:
    """Measures in a process of its own: otherwise the memory of a load would count for the index."""
    with sigterm_as_ctrl_c(), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, settings, sizes, folder).result()
        except KeyboardInterrupt:
            # SIGTERM reaches only this process, and the pool would wait for the other one.
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        except BrokenProcessPool:
            raise CalibrationError(
                "calibration", found="its process was killed, most often for want of memory", advice=NEEDS
            ) from None
        except OSError as error:
            raise CalibrationError("calibration", found=str(error), advice=NEEDS) from error


def _own_settings(settings: Settings, sizes: Sizes, folder: Path) -> Settings:
    (folder / "calibration.toml").write_text(TOML.format(shards=len(sizes.shards), folder=folder / "sample"))
    return separate_settings(
        str(folder / "calibration.toml"),
        folder / "data",
        hnsw_quantization=settings.hnsw_quantization,
        hnsw_m=settings.hnsw_m,
        hnsw_ef_construction=settings.hnsw_ef_construction,
        index_build_threads=settings.index_build_threads,
        vector_codec=settings.vector_codec,
        index_granularity=settings.index_granularity,
        recall_queries=settings.recall_queries,
    )


def _shard_costs(settings: Settings, sizes: Sizes, folder: Path) -> list[ShardCost]:
    """Medians over the shards of each size."""
    logging.disable(logging.CRITICAL)
    _write_shards(folder / "sample", sizes)
    make_instance(folder / "dagster")
    costs: dict[int, list[ShardCost]] = {sizes.small: [], sizes.middle: [], sizes.large: []}
    with dagster_instance() as instance:
        job = shard_job(settings, None)
        for shard, rows in enumerate(sizes.shards):
            with StepMeter() as meter:
                outcome = run_shard(settings, job, shard, list(CHAIN), instance)
            if outcome.error:
                raise CalibrationError("calibration", found=outcome.error, advice=NEEDS)
            stages = dict(
                zip(
                    SHARD_STAGES,
                    (_numbers(instance, asset_key(settings, asset), shard) for asset in CHAIN),
                    strict=False,
                )
            )
            seconds = {name: step["seconds"] for name, step in stages.items()}
            cores = {name: step["core_seconds"] for name, step in stages.items()}
            seconds["checks"] = meter.seconds - sum(seconds.values())
            cores["checks"] = meter.core_seconds - sum(cores.values())
            peaks = {name: int(step["peak_memory_bytes"]) for name, step in stages.items()}
            merged, table = (int(stages[name]["bytes"]) for name in ("merge", "load"))
            if shard:
                costs[rows].append(ShardCost(rows, seconds, cores, peaks, merged, table))
    return [_median(measured) for measured in costs.values()]


def _numbers(instance: dg.DagsterInstance, key: dg.AssetKey, shard: int) -> Mapping[str, float]:
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[str(shard)])
    return recorded_numbers(instance.fetch_materializations(wanted, limit=1).records[0])


def _write_shards(folder: Path, sizes: Sizes) -> None:
    """Writes the sample. Shards of one size are the files of one shard under several numbers."""
    first: dict[int, int] = {}
    for shard, rows in enumerate(sizes.shards):
        if rows not in first:
            first[rows] = shard
            write_sample_shard(folder, shard, rows)
            continue
        for path in folder.glob(f"*/*_{first[rows]}.*"):
            os.link(path, path.with_name(path.name.replace(f"_{first[rows]}.", f"_{shard}.")))


def _median(costs: list[ShardCost]) -> ShardCost:
    def middle(values: Callable[[ShardCost], dict[str, float]]) -> dict[str, float]:
        return {name: statistics.median(values(cost)[name] for cost in costs) for name in values(costs[0])}

    return ShardCost(
        costs[0].rows,
        middle(lambda cost: cost.seconds),
        middle(lambda cost: cost.core_seconds),
        {name: max(cost.peak_bytes[name] for cost in costs) for name in costs[0].peak_bytes},
        costs[0].merged_bytes,
        costs[0].table_bytes,
    )


def _table_costs(settings: Settings, sizes: Sizes, folder: Path) -> tuple[IndexCosts, IndexCost, IndexCosts, ExactCost]:
    """The costs of several parts, of building a larger one, of the largest, and of a search that scans all rows."""
    logging.disable(logging.CRITICAL)
    with connect(settings) as db:
        return (
            _index_costs(db, sizes, folder, sizes.index, INDEX_PARTS),
            _build_cost(db, sizes.index),
            _index_costs(db, sizes, folder, LARGER * sizes.index, 1),
            ExactCost(sum(state.rows for state in partitions(db)), _exact_seconds(db, _vectors(db))),
        )


def _build_cost(db: Database, rows: int) -> IndexCost:
    """The cost of building the indexes of one part, without searches."""
    settings = db.settings
    parameters = IndexParameters.of(settings)
    with trial_table(
        db, rows=rows, partitions=1, seed=0, index_granularity=settings.index_granularity, parameters=parameters
    ) as trial:
        with StepMeter() as meter:
            built = build_indexes(trial)
        memory = index_sizes(built.cover).memory_bytes_a_vector
    return IndexCost(rows, 1, meter.seconds, meter.core_seconds, meter.peak_bytes, memory)


def _index_costs(db: Database, sizes: Sizes, folder: Path, rows: int, parts: int) -> IndexCosts:
    """The costs of a table of `rows` rows in `parts` parts, graphs and searches."""
    settings, plan = db.settings, sizes.report
    with trial_table(
        db,
        rows=rows,
        partitions=parts,
        seed=0,
        index_granularity=settings.index_granularity,
        parameters=IndexParameters.of(settings),
    ) as trial:
        with StepMeter() as meter:
            built = build_indexes(trial)
        memory = index_sizes(built.cover).memory_bytes_a_vector
        index = IndexCost(rows // parts, parts, meter.seconds, meter.core_seconds, meter.peak_bytes, memory)
        vectors = _vectors(trial)
        request = SearchRequest(settings=(("vector_search_with_rescoring", 0),))
        by_index = statistics.median(search(trial, vector, request).seconds for vector in vectors)
        exact = ExactCost(rows, _exact_seconds(trial, vectors))
        queries = settings.recall_queries
        drawn = draw_rows(trial, OVERSAMPLE * queries, 0)
        unseen = unseen_sets(trial, drawn, queries, 0, "partition")
        neighbours = true_neighbours(trial, [*unseen, *like_sets(trial, drawn, queries, 0)], 100, None).seconds
        # These queries are rows of the table, which does not change the time of a search.
        few = UnseenQueries(trial, unseen_sets(trial, drawn, plan.queries, 0, "row"), OWN_ROW)
        report = evaluate(trial, plan, unseen=few, folder=folder / f"report_{parts}")
    tried = len(plan.grid or DEFAULT_GRID)
    at_10, at_100 = searches_a_kind(plan.queries, tried)
    timed = tried * plan.queries / 2 + plan.queries / 2  # apart only in a table of several partitions
    asked = len(report.kinds) * (at_10 - timed + at_100)
    scanned = len(report.kinds) * min(plan.queries, EXACT_SEARCHES) * exact.seconds
    one = max(0.0, report.seconds - report.exact_seconds - scanned) / asked
    return index, SearchCost(rows, parts, by_index, one, neighbours), exact


def _vectors(db: Database) -> Vectors:
    return vectors_of(db, "image", draw_rows(db, SEARCHES, seed=0)).vectors


def _exact_seconds(db: Database, vectors: Vectors) -> float:
    return statistics.median(search(db, vector, SearchRequest(exact=True)).seconds for vector in vectors[:10])
