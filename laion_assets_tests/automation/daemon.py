"""Runs Dagster's daemon like `python -m dagster._daemon`, but with intervals of 2 seconds instead of 30 or 5.

Shorter intervals save idle waiting in tests. Nothing else is changed.
"""

from __future__ import annotations

from dagster._daemon import asset_daemon, controller, sensor
from dagster._daemon.cli import main

SECONDS = 2

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = SECONDS
    asset_daemon.MIN_INTERVAL_LOOP_SECONDS = SECONDS
    sensor.MIN_INTERVAL_LOOP_TIME = SECONDS
    main()
