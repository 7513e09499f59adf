"""The report's figures of what the world model knows: rewards and pictures over evaluations, and ends by probability.

In: a data.Run and the path of the PNG to write. Each function says whether there was anything to draw. Called by page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mow_jax.report import sweeps
from mow_jax.report.data import Run
from mow_jax.report.plotting import COLOURS, FAINT, compact, picture, short

MOST = 26  # tasks in a column of the legend
MARKERS = "os^DvPX"  # the next one when the colours are used up
# Names in metrics.jsonl and in results.json, and the height of a score that says nothing.
CURVES = {"reward_correlation": ("reward_correlation", 0.0), "reconstruction_ratio": ("ratio", 1.0)}


def curves(run: Run, path: Path) -> bool:
    """Correlation of rewards and ratio of reconstruction errors over agent steps, a line a task; nothing is drawn of a
    single evaluation, which the table shows."""
    points = {name: {task: _points(run, name, task) for task in run.tasks} for name in CURVES}
    shown = [task for task in run.tasks if any(len(lines[task]) > 1 for lines in points.values())]
    if not shown:
        return False
    with picture(path, 8.4 + 1.8 * _legend_columns(len(shown)), _height(len(shown))) as figure:
        for axes, (name, lines) in zip(figure.subplots(1, len(CURVES)), points.items(), strict=True):
            axes.set_title(name.replace("_", " "))
            axes.axhline(CURVES[name][1], color=FAINT, linestyle=(0, (2, 2)), linewidth=1.0)
            axes.set_xlabel("agent steps")
            axes.xaxis.set_major_locator(MaxNLocator(5))
            for formatted in (axes.xaxis, axes.yaxis):
                formatted.set_major_formatter(FuncFormatter(compact))
            for number, task in enumerate(run.tasks):
                if task in shown:
                    _line(axes, lines[task], number, task)
        _legend(figure, len(shown))
    return True


def _points(run: Run, name: str, task: str) -> np.ndarray:
    """[N, 2] agent steps and value: evaluations during training, then the one in results.json, where it is by the same
    kind of actions."""
    series = run.metrics.get(f"evaluation/{task}/{name}")
    points = {} if series is None else dict(zip(series.step, series.value, strict=True))
    results = sweeps.at_end(run) or {"diagnostics": {}, "step": None}
    last = results["diagnostics"].get(task, {}).get(CURVES[name][0])
    if results["step"] is not None and last is not None:
        points[float(results["step"])] = last
    return np.array(sorted(points.items())).reshape(-1, 2)


def reliability(run: Run, path: Path) -> bool:
    """The share of rows that ended against the predicted probability, a line a task; tasks that never end and are
    never said to are left out."""
    diagnostics = run.results["diagnostics"] if run.results else {}
    bins = {
        task: np.array(diagnostics.get(task, {}).get("termination_bins") or []).reshape(-1, 3) for task in run.tasks
    }
    shown = [task for task, rows in bins.items() if rows[:, 1].any() or len(rows) > 1]
    if not shown:
        return False
    height = max(4.2, _height(len(shown)))
    with picture(path, height + 1.8 * _legend_columns(len(shown)), height) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle=(0, (2, 2)), linewidth=1.0)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("predicted probability of an end")
        axes.set_ylabel("share of rows that ended")
        for number, task in enumerate(run.tasks):
            if task in shown:
                _line(axes, bins[task][:, :2], number, task)
        _legend(figure, len(shown))
    return True


def _line(axes: Axes, points: np.ndarray, number: int, task: str) -> None:
    """One task's line in the look of its number."""
    turn, colour = divmod(number, len(COLOURS))
    look = {"marker": MARKERS[turn % len(MARKERS)], "markersize": 4.5, "markeredgecolor": "white", "linewidth": 1.0}
    axes.plot(*points.T, color=COLOURS[colour], label=short(task), **look)


def _height(tasks: int) -> float:
    """Inches that leave the legend room."""
    return max(3.2, 0.18 * min(tasks, MOST) + 0.5)


def _legend_columns(tasks: int) -> int:
    return -(-tasks // MOST)


def _legend(figure: Figure, tasks: int) -> None:
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", ncols=_legend_columns(tasks), fontsize=8.5)
