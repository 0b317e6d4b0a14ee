"""Whether a command and the code location that executes its runs have the same settings."""

from __future__ import annotations

import hashlib

import dagster as dg

from laion_assets.health.keys import CHAIN
from laion_assets.health.versions import code_version
from laion_assets.settings import Settings

SETTINGS_TAG = "laion_assets/settings"
"""Tag of runs that a command submitted: `settings_digest` of the command's settings."""

MADE = (*CHAIN, "vector_index", "vector_cells", "recall_report")
"""The assets that commands ask for."""


def settings_digest(settings: Settings) -> str:
    """A digest of what says where shards come from and go to, and what is made of them; it does not show the settings.

    Both the dataset's description and its lock file count with their contents: a code location that was started before
    they were corrected has the old ones under the same path. With a lock file of thousands of shards it takes 0.1 s.
    """
    dataset = settings.dataset
    same = (
        settings.dataset_name,
        settings.source,
        str(settings.data_dir),
        settings.store,
        settings.clickhouse_url.get_secret_value(),
        settings.table,
        settings.cluster,
        dataset.model_dump_json(),
        "" if dataset.listing is None else dataset.listing.text(),
        settings.extra_column_types,
        settings.index,
        *(code_version(settings, asset) for asset in MADE),
    )
    return hashlib.sha256(repr(same).encode()).hexdigest()[:16]


def require_same_settings(settings: Settings, run: dg.DagsterRun) -> None:
    """Raises `dagster.Failure` for a run that was asked for under other settings."""
    asked_with = run.tags.get(SETTINGS_TAG) if run.parent_run_id is None else None
    if asked_with not in (None, settings_digest(settings)):
        raise dg.Failure(
            "the command that asked for this run and the code location that executes it have different settings "
            "(LAION_DATASET, LAION_SOURCE, LAION_DATA_DIR, LAION_STORE, LAION_CLICKHOUSE, LAION_TABLE, LAION_CLUSTER, "
            "LAION_EXTRA_COLUMNS, LAION_VECTOR_CODEC, LAION_INDEX…, LAION_HNSW_… or LAION_RECALL_…), or the dataset's "
            "TOML file or its lock file has changed since one of them started. Start both with the same environment, "
            "or reload the code location",
            allow_retries=False,
        )
