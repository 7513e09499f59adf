"""The report's learning curves: returns or successes of training and evaluation, a panel a task.

In: a data.Run and the path of the PNG to write. Says whether there was anything to draw. Called by page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mow_jax.report import sweeps
from mow_jax.report.data import Run, Series
from mow_jax.report.plotting import (
    EVALUATION,
    FAINT,
    INK,
    TRAINING,
    columns_for,
    compact,
    legend_above,
    panels,
    picture,
    short,
    smooth,
)


def learning_curves(run: Run, kind: str, path: Path) -> bool:
    """Episode "return" or "success" against agent steps, one panel a task, with evaluations, and with the returns of
    random policy and reference."""
    curves = {task: (run.metrics.get(f"episode/{task}/{kind}"), _evaluations(run, kind, task)) for task in run.tasks}
    if not any(training is not None or len(points) for training, points in curves.values()):
        return False
    columns = columns_for(len(curves))
    rows = -(-len(curves) // columns)
    with picture(path, max(2.5 * columns, 7.5), 1.75 * rows + 0.8 + (rows == 1)) as figure:
        for axes, (task, (training, points)) in zip(panels(figure, len(curves), columns), curves.items(), strict=True):
            axes.set_title(short(task))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(FuncFormatter(compact))
            _curve(axes, training, points)
            entry = run.results["tasks"].get(task, {}) if run.results else {}
            if kind == "success":
                axes.set_ylim(-0.05, 1.05)
                _levels(axes, entry.get("random_success"), None)
            elif returns_compare(run):
                _levels(axes, entry.get("random"), entry.get("reference"))
        figure.supxlabel("agent steps", fontsize=9.5)
        figure.supylabel(f"episode {kind}", fontsize=9.5)
        names = {text.get_label() for axes in figure.axes for text in (*axes.lines, *axes.texts)}
        legend_above(figure, *_legend(names), size=9)
    return True


def returns_compare(run: Run) -> bool:
    """Whether returns of evaluations are of episodes like those of training: on Meta-World they end at a success."""
    suite = (run.config or {}).get("suite", {})
    return suite.get("name") != "metaworld" or suite["metaworld"]["end_on_success"]


def _evaluations(run: Run, kind: str, task: str) -> np.ndarray:
    """[N, 2] agent steps and mean of `kind`: evaluations during training, then the one in results.json, where it is by
    the same kind of actions; of returns none where they do not compare."""
    if kind == "return" and not returns_compare(run):
        return np.empty((0, 2))
    series = run.metrics.get(f"evaluation/{task}/{kind}")
    points = {} if series is None else dict(zip(series.step, series.value, strict=True))
    results = sweeps.at_end(run) or {"tasks": {}}
    entry = results["tasks"].get(task)
    measured = (entry or {}).get("returns" if kind == "return" else kind)
    if measured and results.get("step") is not None:
        points[float(results["step"])] = np.mean(measured)
    return np.array(sorted(points.items())).reshape(-1, 2)


def _curve(axes: Axes, training: Series | None, points: np.ndarray) -> None:
    if training is not None:
        size = 8.0 if len(training.value) <= 50 else 3.0
        axes.plot(training.step, training.value, **_LINES[BETWEEN] | {"markersize": size})
        axes.plot(training.step, smooth(training.value), **_LINES["moving average"])
    elif not len(points):
        axes.text(0.5, 0.5, "no finished episode", transform=axes.transAxes, ha="center", va="center", color=FAINT)
        axes.set_yticks([])
    if len(points):
        axes.plot(*points.T, **_LINES["evaluation"], zorder=3)


def _levels(axes: Axes, random: float | None, reference: float | None) -> None:
    """Dashed lines at the random and the reference score; one far outside the data is named at the edge instead."""
    low, high = axes.dataLim.intervaly if np.isfinite(axes.dataLim.intervaly).all() else (0.0, 0.0)
    near = max(high - low, 1e-9) * 3
    for value, name in ((random, "random"), (reference, "reference")):
        if value is None:
            continue
        if low - near <= value <= high + near or high == low:
            axes.axhline(value, **_LINES[name])
            continue
        place = {"y": 0.97, "va": "top"} if value > high else {"y": 0.03, "va": "bottom"}
        text = f"{name} {compact(value)} {'↑' if value > high else '↓'}"
        axes.text(0.03, s=text, transform=axes.transAxes, color=_LINES[name]["color"], fontsize=7.5, **place)
        axes.margins(y=0.2)  # room for the words


# How each part of a learning curve is drawn, by its name in the legend.
BETWEEN = "training episodes between two lines of metrics, their mean"
_LINES = {
    BETWEEN: {"color": TRAINING, "alpha": 0.4, "marker": ".", "markeredgewidth": 0.0, "linestyle": ""},
    "moving average": {"color": TRAINING, "linewidth": 1.5},
    "evaluation": {"color": EVALUATION, "marker": "o", "markersize": 4.5, "markeredgecolor": "white", "linewidth": 0.8},
    "random": {"color": FAINT, "linestyle": (0, (2, 2)), "linewidth": 1.0},
    "reference": {"color": INK, "linestyle": (0, (5, 2)), "linewidth": 1.0},
}
for _name, _look in _LINES.items():
    _look["label"] = _name


def _legend(names: set[str]) -> tuple[list[Line2D], list[str]]:
    """Handles and names of what is drawn."""
    shown = [name for name in _LINES if name in names]
    return [Line2D([], [], **_LINES[name]) for name in shown], shown
