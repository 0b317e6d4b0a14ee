"""Benchmark: the cost that Dagster adds to the engine's work: imports, a run, a backfill, reading 410 partitions."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetKey, DagsterRunStatus

from benchmarks.alone import parser, reported
from benchmarks.report import Section
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.definitions import build_definitions
from laion_assets.health.facts import read_facts
from laion_assets.health.findings import judge
from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.health.page import report_markdown
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import load_settings
from laion_assets.table.schema import PartitionState
from laion_assets_tests.automation.services import Services, wait_for

PARTITIONS = 410
MATERIALIZATIONS = 2_000
ROWS = 200
"""Rows of a tiny shard, which gives the engine almost no work."""

ABOUT = "Seconds of wall time. Runs and the backfill are real: Dagster's webserver and daemon run in a new folder."


@dataclass(frozen=True)
class Figure:
    """One measured figure: its name, seconds, their upper limit, and how it was measured."""

    name: str
    seconds: float
    limit: float | None
    how: str


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks orchestration`. `--quick` uses fewer rounds and shards, to check that all works."""
    options = parser(__doc__, "orchestration")
    options.add_argument("--quick", action="store_true", help="fewer rounds and shards")
    given = options.parse_args(arguments)
    rounds, shards, events = (2, 4, 1_200) if given.quick else (7, 50, MATERIALIZATIONS)
    with reported("orchestration", ABOUT, given) as report:
        how = [["what", "how"]]
        parts: list[Callable[[], list[Figure]]] = [
            lambda: import_figures(rounds),
            lambda: history_figures(report.scratch / "history", rounds, events),
            lambda: run_figures(report.scratch / "runs", shards),
        ]
        for part in parts:
            for one in part():
                report.figure(one.name, one.seconds, "s", sign="≤", goal=one.limit)
                how.append([one.name, one.how])
        report.table("How", how)
    return report.section


def import_figures(rounds: int) -> list[Figure]:
    """The time to import the code location in a new process, without the import of Dagster."""
    code = (
        "import time; a = time.perf_counter(); import dagster; b = time.perf_counter(); "
        "import laion_assets.definitions; c = time.perf_counter(); print(b - a, c - b)"
    )
    times = []
    for _ in range(rounds + 1):  # the first fills the disk's cache
        shown = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        times.append([float(word) for word in shown.stdout.split()])
    dagster, ours = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return [
        Figure("import dagster", dagster, None, f"median of {rounds} processes"),
        Figure("import laion_assets.definitions, without dagster", ours, 0.5, f"median of {rounds} processes"),
    ]


def history_figures(home: Path, rounds: int, events: int) -> list[Figure]:
    """Times of the schedule, the condition, the health report and the UI's partition view, with a long history in
    SQLite."""
    settings = load_settings(dataset_name="laion400m", data_dir=home / "data", clickhouse=None)
    services = Services(home, {"LAION_DATASET": "laion400m", "LAION_DATA_DIR": str(home / "data")}, quick=False)
    definitions = build_definitions(settings)
    keys = settings.dataset.shard_keys
    with dg.DagsterInstance.from_config(str(home)) as instance:
        _record_history(instance, definitions, keys, events)
        table = [PartitionState(int(key), ROWS, 1, 1, 1) for key in keys[:-10]]

        def schedule() -> None:
            context = dg.build_schedule_context(
                instance,
                scheduled_execution_time=datetime(2026, 1, 1, tzinfo=timezone.utc),
                repository_def=definitions.get_repository_def(),
            )
            with context:
                asked = definitions.get_repository_def().get_schedule_def("load_next_shards").evaluate_tick(context)
            assert len(asked.run_requests or []) == settings.load_shards

        def condition() -> None:
            result = dg.evaluate_automation_conditions(definitions, instance)
            assert result.get_num_requested(AssetKey("vector_index")) == 1

        def health() -> None:
            histories = read_histories(instance, settings)
            findings = judge(settings, histories, table, 10**15, read_facts(instance, settings, histories))
            assert report_markdown(histories, findings)

        figures = [
            _timed("evaluate load_next_shards", schedule, rounds, events),
            _timed("evaluate the milestone condition", condition, rounds, events),
            _timed("read histories, judge health, write the report", health, rounds, events),
        ]
    try:
        services.start_webserver()
        figures.append(
            _timed("GraphQL: partition view of an asset with its checks", lambda: _view(services), rounds, events)
        )
    finally:
        services.stop()
    return figures


def _view(services: Services) -> None:
    data = services.query(
        "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { "
        "partitionKeyConnection(limit: 1000, ascending: true) { results } "
        "assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions "
        "unmaterializedPartitions materializingPartitions } } "
        "assetChecksOrError { ... on AssetChecks { checks { name partitionStatuses { __typename } } } } } } }",
        key={"path": ["clickhouse_partition"]},
    )
    assert len(data["assetNodeOrError"]["assetPartitionStatuses"]["materializedPartitions"]) == PARTITIONS - 10


def _record_history(instance: dg.DagsterInstance, definitions: dg.Definitions, keys: list[str], events: int) -> None:
    """Records all but ten shards as loaded, each by a run, and some shards twice. For every twentieth shard, a failed
    run comes first."""
    loaded, recorded = keys[:-10], 0
    job = definitions.resolve_job_def("load_shards")
    while recorded < events:
        for key in loaded[: (events - recorded + len(CHAIN) - 1) // len(CHAIN)]:
            if recorded % (20 * len(CHAIN)) == 0:
                _record_run(instance, job, key, DagsterRunStatus.FAILURE)
            _record_run(instance, job, key, DagsterRunStatus.SUCCESS)
            for asset in CHAIN:
                metadata = {"dagster/partition_row_count": ROWS, "seconds": 1.0, "quarantined": 0}
                instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key, metadata=metadata))
                recorded += 1


def _record_run(instance: dg.DagsterInstance, job: dg.JobDefinition, key: str, status: DagsterRunStatus) -> None:
    instance.create_run_for_job(
        job,
        status=status,
        asset_selection=frozenset(AssetKey(asset) for asset in CHAIN),
        tags={PARTITION_TAG: key},
    )


def _timed(name: str, call: Callable[[], None], rounds: int, events: int) -> Figure:
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    how = f"{PARTITIONS} partitions, {events:,} materializations; median of {rounds}"
    return Figure(name, statistics.median(times), 1.0, how)


def run_figures(folder: Path, shards: int) -> list[Figure]:
    """Times of one shard's run from launch to end, then of a backfill of many shards, in real Dagster."""
    services = Services(folder / "home", tiny_shards(folder, shards + 3), quick=False)
    try:
        services.start_webserver()
        services.start_daemon()
        runs = [_run(services, str(shards + number)) for number in range(3)]
        backfill = backfill_seconds(services, shards)
    finally:
        services.stop()
    outside, inside, steps = (statistics.median(column) for column in zip(*runs, strict=True))
    return [
        Figure("a shard's run: from launch to end, without the steps", outside, 4.0, "median of 3 runs, one at a time"),
        Figure("a shard's run: from start to end, without the steps", inside, 1.5, "median of 3 runs"),
        Figure("a shard's run: the steps and checks", steps, None, f"{ROWS} rows; median of 3 runs"),
        Figure(f"a shard in a backfill of {shards}, two runs at a time", backfill / shards, None, "wall time / shards"),
    ]


def tiny_shards(folder: Path, shards: int) -> dict[str, str]:
    """Writes shards of very few rows. Returns the environment of a code location that loads them."""
    for shard in range(shards):
        write_sample_shard(folder / "sample", shard, ROWS)
    (folder / "tiny.toml").write_text(
        f'name = "tiny"\nshards = {shards}\ndimension = 512\n[[sources]]\nurl = "{folder / "sample"}"\n'
    )
    return {
        "LAION_DATASET": str(folder / "tiny.toml"),
        "LAION_DATA_DIR": str(folder / "data"),
        "LAION_INDEX_FIRST": "1000000",
    }


def _run(services: Services, shard: str) -> tuple[float, float, float]:
    """Seconds of one run: from its launch without the steps, from its start without the steps, and of the steps."""
    launched = time.time()
    selector = {"repositoryLocationName": "laion_assets", "repositoryName": "__repository__", "jobName": "load_shards"}
    tags = [{"key": PARTITION_TAG, "value": shard}]
    data = services.query(
        "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename ... on LaunchRunSuccess "
        "{ run { runId } } ... on PythonError { message } } }",
        p={"selector": selector, "executionMetadata": {"tags": tags}},
    )["launchRun"]
    assert data["__typename"] == "LaunchRunSuccess", data
    run = data["run"]["runId"]
    ended = wait_for(lambda: _ended(services, run), seconds=300, what=f"the run of shard {shard}")
    in_steps = sum(step["endTime"] - step["startTime"] for step in ended["stepStats"])
    return ended["endTime"] - launched - in_steps, ended["endTime"] - ended["startTime"] - in_steps, in_steps


def _ended(services: Services, run: str) -> dict[str, Any] | None:
    found: dict[str, Any] = services.query(
        "query($r: ID!) { runOrError(runId: $r) { ... on Run { status startTime endTime "
        "stepStats { stepKey startTime endTime } } } }",
        r=run,
    )["runOrError"]
    assert found["status"] not in ("FAILURE", "CANCELED"), found
    return found if found["status"] == "SUCCESS" else None


def backfill_seconds(services: Services, shards: int) -> float:
    """Seconds from the launch of a backfill of the first shards to the end of its last run."""
    launched = time.time()
    backfill = services.launch_backfill(list(CHAIN), [str(shard) for shard in range(shards)])
    status = wait_for(lambda: _over(services.backfill_status(backfill)), seconds=3600, what="the end of the backfill")
    assert status == "COMPLETED_SUCCESS", status
    ends = services.query(
        "query($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results { endTime } } } }",
        f={"tags": [{"key": "dagster/backfill", "value": backfill}]},
    )["runsOrError"]["results"]
    return float(max(run["endTime"] for run in ends)) - launched


def _over(status: str) -> str | None:
    return None if status in ("REQUESTED", "CANCELING") else status


if __name__ == "__main__":
    main()
