"""Terminate and Ctrl-C: a run's process ends within seconds when it is told to, or when its run is over without it.

Python runs a signal's handler between two instructions of the main thread. A statement in the embedded engine is one
call, which may take an hour. So a thread learns of the signal at once (`signal.set_wakeup_fd`) and ends the running
statements. After that the handler raises in the main thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from types import TracebackType

import dagster as dg

from laion_assets.execution.pool import give_free_places
from laion_assets.execution.worker import remove_locks, sign_for_executor
from laion_assets.stop_flag import request_stop, reset_stop
from laion_assets.table.running import RunningStatements

POLL_SECONDS = 1.0
"""Interval at which the run's status is read, so that the process learns that its run was ended elsewhere."""

POOL_SECONDS = 10.0
"""Interval at which a run that waits for a pool checks whether a killed process left a free place in it."""

STEP_SECONDS = 2.5
"""Time that a step may take to end after an interrupt: statements of the engine took 0.1 to 1.5 s."""

IDLE_SECONDS = 2.0
"""The same time when no step is running: Dagster's wait for a repetition is not a call that a signal ends."""

REPORT_SECONDS = 1.5
"""Time that recording the run's end may take; after it the process ends without the record."""

AGAIN_SECONDS = 0.25

_SIGNALS = {signal.SIGINT.value, signal.SIGTERM.value}
_CLOSE = 0
"""A byte written to the pipe that is not a signal's number."""

PROCESS_TAG = "laion_assets/process"
"""Tag of runs that a command executes itself: host and process. It tells whether the process was killed or is alive."""

ALIVE = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


def process_of_command(run: dg.DagsterRun) -> str:
    """The host and process of the command that executes a run; empty if no command executes it.

    A run that the UI executes again has the tags of the run before it, but no command executes it.
    """
    return run.tags.get(PROCESS_TAG, "") if run.parent_run_id is None else ""


_watch_here: RunWatch | None = None
"""The watch over this process's main thread."""


class RunWatch:
    """Watches over one run that this process executes in its main thread. In another thread it does nothing, nor within
    another watch.

    The step is interrupted by a signal, or when the run is being canceled or is over. If the step does not end within
    `STEP_SECONDS`, the process ends: the run is recorded as canceled or failed, and its pool slots are freed.

    With `step`, it watches over that step only: the executor is another one than ours, and may have started this
    process for the step. What comes after the step is the executor's.
    """

    def __init__(self, instance: dg.DagsterInstance, run: dg.DagsterRun, step: str | None = None) -> None:
        self._instance, self._run, self._run_id, self._step = instance, run, run.run_id, step
        self._by_command = bool(process_of_command(run))
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._looked_at = time.monotonic()
        self.in_step = step is not None

    def __enter__(self) -> RunWatch:
        global _watch_here  # noqa: PLW0603 - a process has one main thread
        if threading.current_thread() is not threading.main_thread() or _watch_here is not None:
            return self
        _watch_here = self
        reset_stop()
        if self._step is not None:
            # A database that is restarting is no reason to fail a step.
            with contextlib.suppress(Exception):
                sign_for_executor(self._instance, self._run)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._outer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="run-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _watch_here  # noqa: PLW0603 - a process has one main thread
        if self._thread is None:
            return
        _watch_here = None
        self._closed.set()
        signal.set_wakeup_fd(self._outer)
        # After a signal the thread may have ended and closed its side of the pipe.
        with contextlib.suppress(OSError):
            os.write(self._writer, bytes([_CLOSE]))
        self._thread.join(AGAIN_SECONDS)
        os.close(self._writer)

    def _watch(self) -> None:
        # select() takes no descriptor above 1,023, but a process with many open files has such descriptors.
        waiting = select.poll()
        waiting.register(self._reader, select.POLLIN)
        try:
            while not self._closed.is_set():
                came = os.read(self._reader, 1024) if waiting.poll(POLL_SECONDS * 1000) else b""
                self._pass_on(came.replace(bytes([_CLOSE]), b""))
                if _SIGNALS & set(came):
                    self._end()
                    return
                if not came and not self.in_step:
                    self._give_free_places()
                if not came and self._is_over():
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        finally:
            os.close(self._reader)

    def _give_free_places(self) -> None:
        """Runs now and then while no step runs. Without it a step that waits for a pool could wait for ever."""
        if self._instance.is_ephemeral or time.monotonic() - self._looked_at < POOL_SECONDS:
            return
        self._looked_at = time.monotonic()
        # A database that is restarting is no reason to end a load.
        with contextlib.suppress(Exception):
            give_free_places(self._instance)

    def _pass_on(self, signals: bytes) -> None:
        """Writes the signals to the file descriptor that `set_wakeup_fd` had before."""
        if signals and self._outer != -1:
            with contextlib.suppress(OSError):
                os.write(self._outer, signals)

    def _is_over(self) -> bool:
        """Whether the run is being canceled, has ended, or is gone; false if its storage cannot be read now."""
        if self._instance.is_ephemeral:
            return False
        try:
            run = self._instance.get_run_by_id(self._run_id)
        except Exception:
            # A database that is restarting is no reason to end a load.
            return False
        return run is None or run.status not in ALIVE

    def _end(self) -> None:
        request_stop()
        started = time.monotonic()
        if self._by_command and not self._instance.is_ephemeral and not self._is_over():
            # A person's Ctrl-C cancels the run. A failed run would be retried.
            self._cancel()
        statements = RunningStatements()
        while time.monotonic() - started < (STEP_SECONDS if self.in_step else IDLE_SECONDS):
            with contextlib.suppress(Exception):
                statements.end()
            if self._closed.wait(AGAIN_SECONDS):
                # If the process was started for this run, it has nothing else to do.
                if self._step is not None or multiprocessing.parent_process() is None:
                    return
                time.sleep(max(0.0, started + STEP_SECONDS - time.monotonic()))
                break
        reporter = threading.Thread(target=self._report, daemon=True)
        reporter.start()
        reporter.join(REPORT_SECONDS)
        sys.stderr.write(f"run {self._run_id}: its process was told to end, and ends now\n")
        sys.stderr.flush()
        remove_locks()
        os._exit(128 + signal.SIGTERM)

    def _cancel(self) -> None:
        with contextlib.suppress(Exception):
            run = self._instance.get_run_by_id(self._run_id)
            if run is not None:
                self._instance.report_run_canceling(run, "The command was told to end (Ctrl-C, SIGTERM).")

    def _report(self) -> None:
        """Records what the process itself could not record."""
        run = self._instance.get_run_by_id(self._run_id)
        if run is not None and run.status == dg.DagsterRunStatus.CANCELING:
            self._instance.report_run_canceled(run, "The run's process was ended where its step did not end by itself.")
        elif run is not None and not run.is_finished:
            self._instance.report_run_failed(run, "The run's process was told to end (Ctrl-C, SIGTERM).")
        if self._step is None:
            self._instance.event_log_storage.free_concurrency_slots_for_run(self._run_id)
        else:
            # Other processes may still be ending other steps of this run.
            self._instance.event_log_storage.free_concurrency_slot_for_step(self._run_id, self._step)
