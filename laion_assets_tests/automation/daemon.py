"""Dagster's daemon, as `python -m dagster._daemon` starts it, which looks every two seconds instead of every 30 or 5.

Nothing else of it is changed: how often it looks is how long a test would wait, idle.
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
