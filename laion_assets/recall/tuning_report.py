"""A tuning as Markdown and as a plot: every trial, the Pareto front, and recommended settings. It tries nothing."""

from __future__ import annotations

from laion_assets.recall.plot import scatter_plot
from laion_assets.recall.tuning import PAGE_PARAMETERS, Trial, Tuning, recommended_settings

PAGE = "ClickHouse's page"


def tuning_markdown(tuning: Tuning, picture: str = "") -> str:
    """The report; `picture` is Markdown."""
    return "\n\n".join(
        [
            f"**{tuning.rows:,} drawn rows in {tuning.partitions} parts; a full load has {tuning.dataset_vectors:,.0f} "
            "vectors**",
            _advice(tuning),
            *([picture] if picture else []),
            _trials(tuning),
            *([_forms(tuning)] if tuning.forms else []),
            "Recall@10 is that of the worst kind of query. The queries are rows that are not in the trial's table. The "
            "first figure is for the fastest search settings that meet the target, measured with other queries than "
            'those that chose the settings. The figure "at best" is for the settings with the highest recall. The '
            "target is met if the lower bound of the interval (95 %, bootstrap) is at least the target. A star marks "
            "the Pareto front of build cost, memory and recall. Core-hours are estimated from the trial's by the "
            "factor (rows a shard / rows a part)^0.16.",
        ]
    )


def tuning_plot(tuning: Tuning) -> bytes:
    """Worst recall@10 against bytes a vector in memory; the front in red. PNG."""
    front = tuning.front
    points = [
        (one.memory_bytes_a_vector, one.best_recall, f"{one.parameters}, {one.build_cost:.0f} s", one in front)
        for one in tuning.trials
    ]
    target = tuning.trials[0].evaluation.target if tuning.trials else None
    title = f"{tuning.rows:,} rows in {tuning.partitions} parts; seconds are a core's for a million vectors"
    return scatter_plot(
        points, x="bytes in memory a vector", y="recall@10 at best, worst kind", title=title, line=target
    )


def _advice(tuning: Tuning) -> str:
    lines = []
    page = next((one for one in tuning.trials if one.parameters == PAGE_PARAMETERS), None)
    for what, trial in (("Cheapest to build", tuning.cheapest), ("Smallest", tuning.smallest), (PAGE, page)):
        if trial is None:
            lines.append(f"- {what}: {'not tried' if what == PAGE else 'no trial meets the target'}")
            continue
        variables = ", ".join(f"`{name}={value}`" for name, value in recommended_settings(trial).items())
        lines.append(f"- {what}: **{trial}**, {_full_size(tuning, trial)} ({variables})")
    return "\n".join(lines)


def _full_size(tuning: Tuning, trial: Trial) -> str:
    hours = tuning.build_core_hours(trial)
    time = f"about {hours:,.1f} core-hours and " if hours is not None else ""
    return f"{time}{tuning.memory_gb(trial):,.1f} GB for the whole dataset"


def _trials(tuning: Tuning) -> str:
    front = tuning.front
    lines = [
        "| | quantization | M | ef_construction | granularity | core-s a million | bytes memory | bytes disk | "
        "recall@10 (lower bound) | at best | meets | p50 ms | search settings | core-hours | GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in tuning.trials:
        hours = tuning.build_core_hours(one)
        kinds = one.evaluation.kinds
        searches = "; ".join(f"{kind.kind}: {one.evaluation.chosen(kind.kind).search}" for kind in kinds)
        lines.append(
            f"| {'★' if one in front else ''} | {one.parameters.quantization} | {one.parameters.m} | "
            f"{one.parameters.ef_construction} | {one.granularity} | {one.build_cost:,.0f} | "
            f"{one.memory_bytes_a_vector:,.0f} | {one.disk_bytes_a_vector:,.0f} | "
            f"{one.recall:.3f} ({one.recall_low:.3f}) | {one.best_recall:.3f} | "
            f"{'yes' if one.meets_target else 'no'} | {one.latency_ms:.1f} | {searches} | "
            f"{'–' if hours is None else f'{hours:,.1f}'} | {tuning.memory_gb(one):,.1f} |"
        )
    return "\n".join(lines)


def _forms(tuning: Tuning) -> str:
    lines = [
        "Without HNSW, every row is scanned, image→image:",
        "",
        "| stored as | bytes disk a row | recall@10 | p50 ms | |",
        "|---|---|---|---|---|",
    ]
    for form in tuning.forms:
        mark = "experimental" if form.experimental else ""
        if form.recall is None or form.latency is None:
            lines.append(f"| {form.name} | – | – | – | refused: {form.refused} |")
        else:
            figures = f"{form.bytes_a_vector:,.0f} | {form.recall.mean:.3f} | {form.latency.p50:.1f}"
            lines.append(f"| {form.name} | {figures} | {mark} |")
    return "\n".join(lines)
