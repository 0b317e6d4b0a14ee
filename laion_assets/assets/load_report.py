"""`load_report`: one Markdown table of the whole load, and the checks of whether all is well."""

from collections.abc import Iterator

import dagster as dg

from laion_assets.assets.location import CodeLocation, Metadata, failing_clearly, in_run
from laion_assets.assets.source_links import source_of
from laion_assets.errors import EngineHeldError
from laion_assets.health.builds import look_at_builds
from laion_assets.health.disk import free_bytes_of
from laion_assets.health.facts import read_facts
from laion_assets.health.finding import Finding
from laion_assets.health.findings import judge, table_agrees_with_dagster
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.page import Totals, report_markdown
from laion_assets.health.plan_against_actual import plan_against_actual
from laion_assets.health.versions import code_version
from laion_assets.plan.kept_plan import Compared

CHECKS = {
    "no_shards_left_failed": "No shard's last run failed. A canceled run does not count as failed.",
    "table_agrees_with_dagster": "The table has the partitions and rows that Dagster recorded. Shards that differ are "
    "named. A partition with fewer rows is not loaded again by itself, because rows were probably deleted.",
    "ingest_is_moving": "If shards that were asked for are missing, a shard was loaded within LAION_STALLED_HOURS.",
    "nothing_is_stale": "No source file of a loaded shard has changed since it was loaded, and no setting that "
    "affects a result has changed.",
    "index_follows_loads": "The index covers what was loaded at the last milestone and has the parameters of the "
    "settings. No partition that it covers was loaded again since the build.",
    "cells_follow_loads": "If LAION_INDEX asks for cells, they cover what was loaded at the last milestone.",
    "recall_is_current": "Recall was measured on the present index, and each kind of query reaches its target.",
    "partitions_were_audited": "Each loaded partition was compared with its merged file within LAION_AUDIT_DAYS.",
    "engine_is_given_back": "No process holds the embedded engine for longer than LAION_STALLED_HOURS.",
    "disk_space_suffices": "The store's disk has enough space for the rest of the load.",
}


def load_report_asset(location: CodeLocation) -> dg.AssetsDefinition:
    """The asset, with its checks in the same step: they judge what the report shows.

    It is not in the table's pool: there it would wait for hours behind an index build, and nobody would know whether
    all is well. If the table stays held by another process, the check that needs the table gets no result ("skipped" in
    the UI, which `can_subset` allows): it neither passes nor fails.
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
                owners=[*location.settings.owners],
                metadata=source_of(location.settings, load_report_asset),
                tags={"stage": "report"},
                code_version=code_version(location.settings, "load_report"),
                freshness_policy=location.freshness,
                description="The state of the whole load on one page, and checks of it. A row per shard has its "
                "state, rows, quarantined rows, seconds per stage, run and last error. Below are totals and an "
                "estimate of the time to the end.",
            )
        ],
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=said) for name, said in CHECKS.items()],
        can_subset=True,
    )
    def load_report(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        settings = location.settings
        histories = read_histories(context.instance, settings)
        with in_run(settings, "load_report"), failing_clearly():
            table, builds = look_at_builds(settings)
        if table_agrees_with_dagster(histories, table).passed is False:
            # The table may have been waited for, and a load begun or ended meanwhile.
            histories = read_histories(context.instance, settings)
        if isinstance(table, EngineHeldError):
            context.log.warning(f"the table was not read, so the report has no facts about it: {table}")
        facts = read_facts(context.instance, settings, histories, builds)
        findings = judge(settings, histories, table, free_bytes_of(settings.data_dir), facts)
        if key in context.selected_asset_keys:
            compared = plan_against_actual(settings, context.instance, histories, table)
            yield dg.MaterializeResult(asset_key=key, metadata=_metadata(histories, findings, compared))
        for found in findings:
            if found.passed is not None and dg.AssetCheckKey(key, found.check) in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    asset_key=key,
                    passed=found.passed,
                    check_name=found.check,
                    description=found.seen,
                    metadata=dict(found.figures),
                )

    return load_report


def _metadata(histories: list[ShardHistory], findings: list[Finding], compared: list[Compared]) -> Metadata:
    """The page, and each figure of the findings by its name: Dagster plots these numbers over time."""
    totals = Totals.of(histories)
    figures = {name: value for finding in findings for name, value in finding.figures.items()}
    return {
        "report": dg.MetadataValue.md(report_markdown(histories, findings, compared)),
        **figures,
        "rows": totals.rows,
        "shards_loaded": totals.loaded,
        "shards_failed": sum(history.state == "failed" for history in histories),
        "findings_failed": sum(finding.passed is False for finding in findings),
    }
