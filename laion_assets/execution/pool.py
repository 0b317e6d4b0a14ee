"""Gives a pool's free places to waiting steps, if the process that should have done so was killed."""

from __future__ import annotations

import dagster as dg

from laion_assets.dagster_internals.records import sql_event_log


def give_free_places(instance: dg.DagsterInstance) -> list[str]:
    """Assigns waiting steps to the places of pools that no step has; returns the pools' names.

    A step that ends frees its place, then assigns the next step in a second transaction (Dagster 1.13,
    `free_concurrency_slot_for_step`). A process that is killed between the two leaves a free place that no waiting step
    ever gets, since a waiting step only checks whether it was assigned.
    """
    storage = sql_event_log(instance)
    if storage is None:
        return []
    given = []
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        # A step has its place from the assignment on. It keeps the row of its assignment while it holds the place.
        having = {(step.run_id, step.step_key) for step in info.pending_steps if step.assigned_timestamp is not None}
        having |= {(slot.run_id, slot.step_key) for slot in info.claimed_slots}
        free = min(info.slot_count - len(having), info.pending_step_count)
        if free > 0:
            storage.assign_pending_steps([pool] * free)
            given.append(pool)
    return given
