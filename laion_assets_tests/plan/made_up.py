"""A made-up calibration with round figures, so that tests' results can be checked by hand."""

from __future__ import annotations

from laion_assets.index.parameters import IndexParameters
from laion_assets.machine import Machine
from laion_assets.plan.calibration import Calibration, ExactCost, IndexCost, SearchCost, ShardCost, relevant_settings
from laion_assets.settings import Settings

GB = 10**9


def shard_cost(rows: int, load_peak: int) -> ShardCost:
    """Each stage takes 1 s per shard and 1 s per 10,000 rows. A row has 2 kB in the merged file, 4 kB in the table."""
    spent = dict.fromkeys(("fetch", "merge", "load", "checks"), 1.0 + rows / 10_000)
    return ShardCost(rows, spent, spent, {"merge": GB // 10, "load": load_peak}, 2_000 * rows, 4_000 * rows)


def calibration(settings: Settings, **fields: object) -> Calibration:
    """Returns the calibration for this machine and these settings."""
    facts: dict[str, object] = {
        "made_at": 1_700_000_000.0,
        "machine": Machine.here(),
        "index": IndexParameters.of(settings),
        "settings": relevant_settings(settings),
        "shards": [shard_cost(10_000, GB), shard_cost(100_000, 2 * GB)],
        "indexes": [
            IndexCost(1_024, 4, seconds=5.0, core_seconds=8.192, peak_bytes=GB // 2, memory_bytes_a_vector=0.0),
            IndexCost(4_096, 1, seconds=4.096, core_seconds=8.192 * 1.2, peak_bytes=GB // 2, memory_bytes_a_vector=0.0),
        ],
        "searches": [SearchCost(8_000, 1, 0.003, 0.01, 0.8), SearchCost(8_000, 4, 0.006, 0.04, 0.8)],
        "exact": [ExactCost(10_000, 0.01), ExactCost(110_000, 0.02)],
        "seconds": 1.0,
    }
    return Calibration(**{**facts, **fields})  # type: ignore[arg-type]
