"""What runs cost: steps, updates, hours, core-hours, speed, memory and parameters, a row a run or a variant.

In: data.Runs by name. Out: a Section. Called by page and compare.
"""

from __future__ import annotations

import numpy as np

from mow_jax.report import data, sweeps
from mow_jax.report.data import Run
from mow_jax.report.render import Section
from mow_jax.report.tables import Table, mean, number, ratio


def section(groups: dict[str, list[Run]], of: str) -> Section | None:
    """A row for each of the `groups`, which are named after what they are `of`: means over the runs of one, of several
    over those that are at their end."""
    rows, begun = [], 0
    for name, runs in groups.items():
        over = [run for run in runs if len(runs) == 1 or data.is_over(run)]
        begun += len(runs) - len(over)
        held = [_cost(run) for run in over if run.lines]
        if held:
            steps, updates, hours, core_hours, rate, memory = (mean(list(column)) for column in zip(*held, strict=True))
            cells = [f"{steps:,.0f}", f"{updates:,.0f}", ratio(hours), ratio(core_hours), number(rate), number(memory)]
            rows.append([name, *cells, *map(sweeps.count, data.sizes(runs[0].directory))])
    columns = [of, "agent steps a task", "updates", "hours", "core-hours", "updates a second", "GB of memory"]
    columns += ["parameters", "of them for a task"]
    text = (
        "Core-hours and memory are those of the process that learns, without its environments' workers; an evaluation"
        " counts at the rate of the line before it."
    )
    several = any(len(runs) > 1 for runs in groups.values())
    text = "Means over runs. " * several + text + f" {begun} that are not at their end are left out." * bool(begun)
    return Section("What it cost", [text], [Table(columns, rows)]) if rows else None


def _cost(run: Run) -> tuple:
    """(steps, updates, hours, core-hours, median of updates a second, most memory) of a run; None where unknown."""
    last, hours = run.lines[-1], max(line.get("seconds") or 0.0 for line in run.lines) / 3600
    series = lambda name: run.metrics[name].value if name in run.metrics else None
    rates, memory = series("time/updates_per_second"), series("time/memory_gb")
    core_hours = data.core_seconds(run.lines) / 3600 if "time/cores_busy" in run.metrics else None
    rate, most = None if rates is None else float(np.median(rates)), None if memory is None else float(memory.max())
    return last["step"], last["update"], hours, core_hours, rate, most
