"""`load_report`: one Markdown table of the whole load, and the checks that say whether all is well."""

import re
from collections.abc import Iterator, Sequence

import dagster as dg

from laion_assets.assets.location import OWNERS, CodeLocation, Metadata, failing_clearly, in_run
from laion_assets.errors import EngineHeldError
from laion_assets.health.findings import Finding, free_bytes_of, judge, look_at_table
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.health.planned import plan_against_actual
from laion_assets.plan.kept import Compared

CHECKS = {
    "no_shards_left_failed": "No shard is left whose last run failed.",
    "table_agrees_with_dagster": "Partitions and rows in ClickHouse are those that Dagster recorded; drift either "
    "way is named by shard.",
    "ingest_is_moving": "Where shards are missing, one was loaded within LAION_STALLED_HOURS.",
    "disk_space_suffices": "The store's disk has room for what the rest of the load needs.",
}

VERDICTS = {True: "passed", False: "**failed**", None: "*not told*"}


def load_report_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset, with its checks in the same step: they judge what the report shows.

    It is not in the table's pool, where it would wait for hours behind an index build, and a person would not know
    whether all is well. Where the table stays held, the check that needs it is left as it was ("skipped" in the UI,
    which `can_subset` allows), neither passed nor failed.
    """

    key = location.key("load_report")

    @dg.multi_asset(
        name="__".join(key.path),
        specs=[
            dg.AssetSpec(
                key,
                deps=[location.key("clickhouse_partition")],
                group_name="health",
                kinds={"markdown"},
                owners=OWNERS,
                tags={"stage": "report"},
                code_version="1",
                description="Whether all is well, on one page: a row a shard with state, rows, quarantined rows, "
                "seconds a stage, run and last error; totals, and an estimate of the time to the end.",
            )
        ],
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=said) for name, said in CHECKS.items()],
        can_subset=True,
    )
    def load_report(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        settings = location.settings
        histories = read_histories(context.instance, settings)
        with in_run(settings, "load_report"), failing_clearly():
            table = look_at_table(settings)
        if isinstance(table, EngineHeldError):
            context.log.warning(f"the table was not looked at: {table}")
        findings = judge(settings, histories, table, free_bytes_of(settings.data_dir))
        if key in context.selected_asset_keys:
            compared = plan_against_actual(settings, context.instance, histories, table)
            yield dg.MaterializeResult(asset_key=key, metadata=_metadata(histories, findings, compared))
        for found in findings:
            if found.passed is not None and dg.AssetCheckKey(key, found.check) in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    asset_key=key, passed=found.passed, check_name=found.check, description=found.seen
                )

    return load_report


def _metadata(histories: list[ShardHistory], findings: list[Finding], compared: list[Compared]) -> Metadata:
    counts = {state: sum(history.state == state for history in histories) for state in ("loaded", "failed")}
    return {
        "report": dg.MetadataValue.md(report_markdown(histories, findings, compared)),
        "rows": sum(history.rows for history in histories),
        "shards_loaded": counts["loaded"],
        "shards_failed": counts["failed"],
    }


def report_markdown(
    histories: list[ShardHistory], findings: Sequence[Finding], compared: Sequence[Compared] = ()
) -> str:
    """The page: findings, totals, the plan against what happened, then a row a shard that was ever begun."""
    lines = [f"- {VERDICTS[found.passed]} `{found.check}`: {_cell(found.seen)}" for found in findings]
    lines += ["", _totals(histories), "", *_plan_lines(compared)]
    stages = " | ".join(f"{asset} s" for asset in CHAIN)
    lines += [
        f"| shard | state | rows | quarantined | {stages} | rows/s | run | last error |",
        "|---:|---|---:|---:|" + "---:|" * len(CHAIN) + "---:|---|---|",
    ]
    for history in histories:
        if history.state == "missing":
            continue
        seconds = " | ".join(f"{history.seconds[asset]:.1f}" if asset in history.seconds else "" for asset in CHAIN)
        run = f"[{history.run_id[:8]}](/runs/{history.run_id})" if history.run_id else ""
        lines.append(
            f"| {history.key} | {history.state} | {history.rows:,} | {history.quarantined:,} | {seconds} "
            f"| {history.rows_per_second:,.0f} | {run} | {_cell(history.error)} |"
        )
    return "\n".join(lines)


def _totals(histories: list[ShardHistory]) -> str:
    loaded = [history for history in histories if history.state == "loaded"]
    rows = sum(history.rows for history in loaded)
    seconds = sum(sum(history.seconds.values()) for history in loaded)
    waiting = len(histories) - len(loaded)
    line = f"**{len(loaded)} of {len(histories)} shards loaded, {rows:,} rows.**"
    if loaded and waiting:
        hours = waiting * seconds / len(loaded) / 3600
        line += f" {waiting} shards to go: about {hours:,.1f} h of work, one after the other."
    return line


def _plan_lines(compared: Sequence[Compared]) -> list[str]:
    if not compared:
        return []
    lines = ["Plan of the last load against what happened since:", "", "| | planned | actual | plan's error |"]
    lines += ["|---|---:|---:|---:|"]
    for one in compared:
        planned, actual = (f"{value:,.0f} {one.unit}" for value in (one.planned, one.actual))
        lines.append(f"| {one.name} | {planned} | {actual} | {one.error:+.0%} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    """Text that stays in its cell, as it is: no line break, no sign that Markdown reads, at most 300 characters."""
    return re.sub(r"([\\|<>`*\[\]])", r"\\\1", " ".join(text.split())[:300])
