"""Dagster's run launcher, which also tells run monitoring whether the process of a run is gone."""

from __future__ import annotations

import dagster as dg

from laion_assets.dagster_internals.launching import CheckRunHealthResult, WorkerStatus
from laion_assets.execution.worker import worker_is_gone


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as `DefaultRunLauncher` does.

    Dagster's own class cannot tell whether a run's process is alive, so run monitoring never looks at a run that has
    begun (1.13.27). Only the code server that started the process learns of its end. If the code server ended, too, as
    when the host or a container was restarted, the run stayed "started" for good.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for the health of runs that have begun."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """NOT_FOUND if the run's process is known to have ended. Monitoring fails runs whose health is unknown, so
        such a run counts as running: a run of another host, or of an executor that is not ours."""
        if worker_is_gone(self._instance, run):
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the process that executed the run has ended")
        return CheckRunHealthResult(WorkerStatus.RUNNING)
