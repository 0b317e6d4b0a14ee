"""Gives a pool's free places to waiting steps, if the process that should have done so was killed."""

from __future__ import annotations

import dagster as dg

from laion_assets.dagster_internals.records import SqlEventLogStorage


def give_free_places(instance: dg.DagsterInstance) -> list[str]:
    """Assigns a waiting step to each pool that has a free place and no step assigned to it; returns the pools' names.

    A step that ends frees its place, then assigns the next step in a second transaction (Dagster 1.13,
    `free_concurrency_slot_for_step`). A process that is killed between the two leaves a free place that no waiting step
    ever gets, since a waiting step only checks whether it was assigned.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return []
    given = []
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        free = (info.slot_count or 0) - info.active_slot_count - info.assigned_step_count
        if free > 0 and info.pending_step_count:
            storage.assign_pending_steps([pool])
            given.append(pool)
    return given
