"""Tests that a pool loses no slot if a process is killed after it frees the slot and before it assigns the slot."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from laion_assets.definitions import build_definitions
from laion_assets.execution import termination
from laion_assets.execution.pool import give_free_places
from laion_assets.health.keys import CHAIN, LOAD_JOB
from laion_assets.settings import Settings
from laion_assets.terminal.runs import execute_here

POOL = "clickhouse"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as opened:
        opened.event_log_storage.set_concurrency_slots(POOL, 1)
        yield opened


def lose_a_place(instance: dg.DagsterInstance) -> str:
    """Frees a slot without assigning it, as a killed process does. Returns the run whose step waits for the slot."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    holder, waiting = (instance.add_run(dg.DagsterRun("job", run_id=dg.DagsterRun("job").run_id)) for _ in range(2))
    assert storage.claim_concurrency_slot(POOL, holder.run_id, "step").is_claimed
    assert not storage.claim_concurrency_slot(POOL, waiting.run_id, "step").is_claimed
    storage._free_concurrency_slots(holder.run_id, "step")
    storage._remove_pending_steps(holder.run_id, "step")
    assert not storage.check_concurrency_claim(POOL, waiting.run_id, "step").is_claimed
    return str(waiting.run_id)


def test_a_free_place_is_given_to_the_step_that_waits(instance: dg.DagsterInstance) -> None:
    waiting = lose_a_place(instance)
    assert give_free_places(instance) == [POOL]
    assert instance.event_log_storage.claim_concurrency_slot(POOL, waiting, "step").is_claimed
    assert give_free_places(instance) == []


def test_a_place_that_is_held_is_left_alone(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    holder, waiting = (instance.add_run(dg.DagsterRun("job", run_id=dg.DagsterRun("job").run_id)) for _ in range(2))
    assert storage.claim_concurrency_slot(POOL, holder.run_id, "step").is_claimed
    storage.claim_concurrency_slot(POOL, waiting.run_id, "step")
    assert give_free_places(instance) == []
    assert not storage.check_concurrency_claim(POOL, waiting.run_id, "step").is_claimed


def test_each_lost_place_of_a_larger_pool_is_given_while_others_are_held(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    storage.set_concurrency_slots(POOL, 4)
    holders, waiting = ([dg.DagsterRun("job").run_id for _ in range(count)] for count in (4, 3))
    assert all(storage.claim_concurrency_slot(POOL, holder, "step").is_claimed for holder in holders)
    assert not any(storage.claim_concurrency_slot(POOL, run, "step").is_claimed for run in waiting)
    for killed in holders[:2]:
        storage._free_concurrency_slots(killed, "step")
        storage._remove_pending_steps(killed, "step")
    assert give_free_places(instance) == [POOL]
    assert give_free_places(instance) == [], "places that were assigned and not yet claimed are not given twice"
    # SQLite stores the times of the claims in whole seconds, so any two of the runs may come first.
    assert sum(storage.claim_concurrency_slot(POOL, run, "step").is_claimed for run in waiting) == 2
    assert give_free_places(instance) == []


def test_a_run_that_waits_gets_the_lost_place_and_goes_on(
    instance: dg.DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(termination, "POOL_SECONDS", 0.5)
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    holder = instance.add_run(dg.DagsterRun("job", run_id=dg.DagsterRun("job").run_id)).run_id
    assert storage.claim_concurrency_slot(POOL, holder, "step").is_claimed
    waited: list[int] = []

    def lose() -> None:
        while not storage.get_concurrency_info(POOL).pending_step_count:
            time.sleep(0.1)
        waited.append(1)
        storage._free_concurrency_slots(holder, "step")
        storage._remove_pending_steps(holder, "step")

    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    job = build_definitions(settings).resolve_job_def(LOAD_JOB)
    run = execute_here(job, instance, assets=CHAIN, key="2")
    losing.join(60)
    assert waited
    assert run.status == dg.DagsterRunStatus.SUCCESS
