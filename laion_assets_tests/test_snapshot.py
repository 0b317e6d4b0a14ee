"""Compares the definitions of the code location with a stored text, so that each change of them shows in a diff.

    make snapshot

stores the current definitions. Review the file's diff and commit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.definitions import build_definitions
from laion_assets.resources import EmbeddingStore, EmbeddingTable
from laion_assets.settings import load_settings

SNAPSHOT = Path(__file__).parent / "snapshots" / "definitions.txt"
VARIABLES = {
    "LAION_DATASET": "sample",
    "LAION_DATA_DIR": "/data",
    "LAION_INDEX": "both",
    "LAION_CLICKHOUSE": "http://loader@clickhouse.example:8123/laion",
    "LAION_CLICKHOUSE_PASSWORD": "x",
    "LAION_ALERT_WEBHOOK": "https://chat.example/hook",
}


@pytest.fixture
def definitions(monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return build_definitions(load_settings())


def assets(repository: dg.RepositoryDefinition) -> Iterator[str]:
    graph = repository.asset_graph
    for key in sorted(graph.get_all_asset_keys(), key=str):
        node = graph.get(key)
        yield f"asset {key.to_user_string()}"
        yield f"  group {node.group_name}; owners {', '.join(node.owners)}; kinds {', '.join(sorted(node.kinds))}"
        yield f"  after {', '.join(sorted(parent.to_user_string() for parent in node.parent_keys)) or 'nothing'}"
        if node.partitions_def is not None:
            yield f"  partitions {', '.join(node.partitions_def.get_partition_keys())}"
        if node.automation_condition is not None:
            yield f"  when {node.automation_condition.get_label()}"
        yield f"  tags {', '.join(f'{name}={value}' for name, value in sorted(node.tags.items()))}"
        yield f"  {node.description}"
        for check in sorted(graph.get_check_keys_for_assets({key}), key=str):
            spec = graph.get_check_spec(check)
            yield f"  check {check.name}{' (blocks)' if spec.blocking else ''}: {spec.description}"


def jobs(repository: dg.RepositoryDefinition) -> Iterator[str]:
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if not job.name.startswith("__"):
            yield f"job {job.name}: {job.description}"
            of = sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys)
            yield f"  of {', '.join(of) or 'no assets'}"
            yield f"  executor {job.executor_def.name}; tags {dict(sorted(job.tags.items()))}"


def what_ticks(repository: dg.RepositoryDefinition) -> Iterator[str]:
    for schedule in sorted(repository.schedule_defs, key=lambda one: one.name):
        of = f"{schedule.cron_schedule} {schedule.execution_timezone or 'UTC'}"
        yield f"schedule {schedule.name} ({of}, {schedule.default_status.value}): {schedule.description}"
    for sensor in sorted(repository.sensor_defs, key=lambda one: one.name):
        of = f"every {sensor.minimum_interval_seconds} s, {sensor.default_status.value}"
        yield f"sensor {sensor.name} ({of}): {sensor.description}"


def resources(definitions: dg.Definitions) -> Iterator[str]:
    for name, resource in sorted((definitions.resources or {}).items()):
        assert isinstance(resource, (EmbeddingTable, EmbeddingStore))
        yield f"resource {name}: {type(resource).__name__}"
        for field in type(resource).model_fields:
            value = resource.__dict__[field]
            named = f"that of {value.env_var_name}" if isinstance(value, dg.EnvVar) else repr(value)
            yield f"  {field} = {named}"


def described(definitions: dg.Definitions) -> str:
    repository = definitions.get_repository_def()
    parts = (assets(repository), jobs(repository), what_ticks(repository), resources(definitions))
    return "\n".join(line for part in parts for line in (*part, "")).strip() + "\n"


def test_the_definitions_are_those_that_were_accepted(definitions: dg.Definitions) -> None:
    found = described(definitions)
    if os.environ.get("ACCEPT"):
        SNAPSHOT.write_text(found, encoding="utf-8")
    assert found == SNAPSHOT.read_text(encoding="utf-8"), "make snapshot accepts it"


def test_descriptions_read_as_plain_text(definitions: dg.Definitions) -> None:
    """Lists in Dagster's Catalog show descriptions without formatting, and only the first line."""
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    texts = {key.to_user_string(): graph.get(key).description or "" for key in graph.get_all_asset_keys()}
    of_assets = [*texts]
    texts |= {key.to_user_string(): graph.get_check_spec(key).description or "" for key in graph.asset_check_keys}
    texts |= {job.name: job.description or "" for job in repository.get_all_jobs() if not job.name.startswith("__")}
    texts |= {one.name: one.description or "" for one in repository.schedule_defs}
    texts |= {one.name: one.description or "" for one in repository.sensor_defs}
    assert {name: text for name, text in texts.items() if "`" in text or not text.endswith(".")} == {}
    assert {
        name: texts[name].partition(". ")[0] for name in of_assets if len(texts[name].partition(". ")[0]) > 120
    } == {}
