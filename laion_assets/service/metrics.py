"""The service's metrics for Prometheus: requests by outcome, and seconds by stage. Each application has a registry."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("queue", "picture", "encode", "search", "deduplicate", "metadata", "full")
"""The stages of a request whose time is measured; `full` is the whole request."""

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counts and times of one application, for all its indexes together."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "laion_assets_seconds", "Seconds of a request by stage", ["stage"], buckets=_BUCKETS, registry=self.registry
        )
        self._answers = Counter(
            "laion_assets_answers", "Answers by path and HTTP status", ["path", "status"], registry=self.registry
        )
        self.running = Gauge("laion_assets_searches_running", "Searches that run now", registry=self.registry)
        self.waiting = Gauge("laion_assets_searches_waiting", "Searches that wait in the queue", registry=self.registry)
        for stage in STAGES:
            self._seconds.labels(stage)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of the block to a stage, also if the block fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(stage).observe(time.perf_counter() - started)

    def answered(self, path: str, status: int) -> None:
        """Counts an answer. `path` is that of a route, so that unknown paths do not make new series."""
        self._answers.labels(path, str(status)).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def summary(self) -> str:
        """A line for each stage that had requests: their number and their mean time."""
        totals: dict[str, dict[str, float]] = {stage: {} for stage in STAGES}
        for family in self.registry.collect():
            for sample in family.samples:
                stage = sample.labels.get("stage")
                if stage in totals and sample.name.endswith(("_count", "_sum")):
                    totals[stage][sample.name.rpartition("_")[2]] = sample.value
        lines = [
            f"{stage}: {int(found['count']):,} times, {found['sum'] / found['count'] * 1000:.1f} ms on average"
            for stage, found in totals.items()
            if found.get("count")
        ]
        return "\n".join(lines or ["no request yet"]) + "\n"
