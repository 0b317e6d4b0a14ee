"""Judges measured recall against its target, and chooses the search settings that meet it. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from laion_assets.recall.figures import Evaluation, Measurement, Recall
from laion_assets.settings import Settings


def reaches(recall: Recall, target: float) -> bool:
    """Whether the lower bound of the mean's interval is at least the target. The mean alone may be so by chance."""
    return recall.low >= target


def judged_by(settings: Settings, evaluation: Evaluation) -> Evaluation:
    """The evaluation with the targets of the settings, in place of those that its search settings were chosen for."""
    target, targets = _targets(settings)
    return replace(evaluation, target=target, targets=targets)


def has_targets_of(settings: Settings, evaluation: Evaluation) -> bool:
    """Whether the search settings of an evaluation were chosen for the targets of the settings."""
    return (evaluation.target, evaluation.targets) == _targets(settings)


def _targets(settings: Settings) -> tuple[float, dict[str, float]]:
    return settings.recall_target, {str(kind): target for kind, target in settings.recall_targets.items()}


def meets_target(evaluation: Evaluation, kind: str) -> bool:
    """Whether recall@10 of a kind's chosen settings, over the reporting half, reaches the kind's target."""
    return reaches(evaluation.chosen(kind).at_10, evaluation.target_of(kind))


def choose(measured: Sequence[Measurement], target: float) -> Measurement:
    """The fastest setting whose recall@10 reaches the target; if none does, the one with the highest recall."""
    enough = [one for one in measured if reaches(one.at_10, target)]
    if enough:
        return min(enough, key=lambda one: one.latency.p50)
    return max(measured, key=lambda one: (one.at_10.mean, -one.latency.p50))
