"""Figures that set variants side by side: means with seeds and intervals, tasks, profiles, probabilities, curves, maps.

In: entries of a sweep.json, {"variant", "seed", "tasks": {name: normalised score}}, or data.Runs; the variants' looks,
which all figures of a page share; and the path of the PNG to write. Each function says whether there was anything to
draw. Called by sweep and compare.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy import stats

from mow_jax.report.data import Run, Series
from mow_jax.report.inference import DRAWS, ENOUGH, beats, ends, interval
from mow_jax.report.plotting import (
    COLOURS,
    FAINT,
    INK,
    columns_for,
    compact,
    legend_above,
    panels,
    picture,
    short,
    smooth,
)
from mow_jax.report.sweeps import left_out, reference

Looks = dict[str, dict[str, Any]]  # variant -> colour and kind of line, as plotting.looks makes them
PLACES = 60  # along the steps of a learning curve
CURVES = {
    "return": "episode return",
    "success": "success of training episodes",
    "evaluation": "normalised score, or success",
}


def by_variant(entries: list[dict[str, Any]]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Tasks that every run has a score of, and {variant: scores [runs, tasks]}."""
    apart = left_out(entries)
    scored = [name for name in entries[0]["tasks"] if name not in apart] if entries else []
    made: dict[str, list] = {}
    for entry in entries:
        made.setdefault(entry["variant"], []).append([entry["tasks"][name] for name in scored])
    return scored, {variant: np.array(rows, np.float64).reshape(len(rows), -1) for variant, rows in made.items()}


def overview(entries: list[dict[str, Any]], looks: Looks, path: Path) -> bool:
    """A row a variant: its runs' means as dots, their mean and its 95% interval; beside it the mean of each task. Where
    no task is in all runs, as of one game a variant, means are over a run's own and stand alone."""
    tasks, variants = by_variant(entries)
    if not tasks:
        return _own(entries, looks, path)
    height, label = 0.34 * len(variants) + 1.0, 0.075 * max(len(short(name)) for name in variants)
    with picture(path, 4.6 + label + 0.46 * len(tasks), height + 0.075 * max(map(len, map(short, tasks)))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[4.0, 0.46 * len(tasks) + 0.3])
        _rows(left, {variant: scores.mean(1) for variant, scores in variants.items()}, looks)
        left.set_title(f"mean {entries[0].get('measure', 'normalised score')}: runs, mean, 95% interval")
        means = np.array([scores.mean(0) for scores in variants.values()])
        _by_task(right, means, tasks, (means.min(), means.max()) if "measure" in entries[0] else (0.0, 1.0))
        if apart := left_out(entries):
            text = f"left out, as not every run has a score: {', '.join(map(short, apart))}"
            figure.supxlabel(textwrap.fill(text, int(14 * figure.get_figwidth())), fontsize=7.5)
    return True


def _own(entries: list[dict[str, Any]], looks: Looks, path: Path) -> bool:
    """The rows of runs that share no task, each of its own."""
    means: dict[str, list[float]] = {}
    for entry in entries:
        if held := [score for score in entry["tasks"].values() if score is not None]:
            means.setdefault(entry["variant"], []).append(float(np.mean(held)))
    if not means:
        return False
    label = 0.075 * max(len(short(name)) for name in means)
    with picture(path, 5.0 + label, 0.34 * len(means) + 1.0) as figure:
        axes = figure.subplots()
        _rows(axes, {variant: np.array(held) for variant, held in means.items()}, looks)
        axes.set_title(f"mean {entries[0].get('measure', 'normalised score')}, each run of its own tasks")
    return True


def _rows(axes: Axes, means: dict[str, np.ndarray], looks: Looks) -> None:
    """A row a variant from the top, of the means [runs] of its runs."""
    for row, (variant, held) in enumerate(means.items()):
        _means(axes, row, held, looks[variant]["color"])
    axes.set_yticks(range(len(means)), [short(name) for name in means])
    axes.set_ylim(len(means) - 0.5, -0.5)


def _means(axes: Axes, row: int, means: np.ndarray, colour: str) -> None:
    low, high = interval(means)
    axes.plot([low, high], [row, row], color=colour, linewidth=3.0, alpha=0.45, solid_capstyle="butt")
    axes.plot(means, np.full(len(means), row), ".", color=colour, markersize=5.0)
    axes.plot(means.mean(), row, "|", color=INK, markersize=11.0, markeredgewidth=1.6)


def _by_task(axes: Axes, means: np.ndarray, tasks: list[str], ends: tuple[float, float]) -> None:
    """Shaded from the lower to the higher of `ends`."""
    look: dict[str, Any] = dict(ha="center", va="center", fontsize=7.0)
    axes.imshow(means, cmap="viridis", vmin=ends[0], vmax=ends[1], aspect="auto")
    for (row, column), value in np.ndenumerate(means):
        colour = "w" if value < ends[0] + 0.6 * (ends[1] - ends[0]) else INK
        text = f"{value:.2f}" if ends == (0.0, 1.0) else f"{value:.3g}"
        axes.text(column, row, text, gid="fixed", **look, color=colour)
    axes.set_xticks(range(len(tasks)), [short(name) for name in tasks], rotation=90)
    axes.set_yticks(range(len(means)), [""] * len(means))
    axes.tick_params(length=0)
    axes.grid(False)
    axes.set_title("by task")


def profiles(entries: list[dict[str, Any]], looks: Looks, path: Path) -> bool:
    """The share of runs and tasks above each normalised score, of ten runs or more with a 95% band by drawing runs anew
    (Agarwal et al. 2021)."""
    tasks, variants = by_variant(entries)
    if not tasks:
        return False
    with picture(path, 7.5, 3.8) as figure:
        axes, thresholds = figure.subplots(), _thresholds(list(variants.values()))
        for variant, scores in variants.items():
            axes.plot(thresholds, _above(scores, thresholds), linewidth=1.6, label=short(variant), **looks[variant])
            if len(scores) >= ENOUGH:
                random, runs = np.random.default_rng(0), len(scores)
                draws = [_above(scores[random.integers(runs, size=runs)], thresholds) for _ in range(DRAWS)]
                band = np.percentile(draws, ends(len(scores)), axis=0)
                axes.fill_between(thresholds, *band, color=looks[variant]["color"], alpha=0.15, lw=0)
        axes.set_xlabel("normalised score")
        axes.set_ylabel("share of runs and tasks above it")
        axes.set_ylim(-0.02, 1.02)
        figure.legend(loc="outside right upper", fontsize=8.0)
    return True


def _thresholds(scores: list[np.ndarray]) -> np.ndarray:
    """Normalised scores from chance, or the least of all, to a little over a human's, or the best of all."""
    lowest, highest = min(own.min() for own in scores), max(own.max() for own in scores)
    return np.linspace(min(0.0, lowest), max(1.2, highest), 241)


def _above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return (scores[..., None] > thresholds).mean((0, 1))


def improvement(entries: list[dict[str, Any]], looks: Looks, path: Path) -> bool:
    """The probability that a run of each variant beats one of the first, mean over tasks, with its 95% interval; of
    fewer than ten runs a side that is everything. Nothing where no run of the first has been scored."""
    tasks, variants = by_variant(entries)
    first = reference(entries) if tasks else ""
    if len(variants) < 2 or first not in variants:
        return False
    base, rest = variants[first], [(name, scores) for name, scores in variants.items() if name != first]
    with picture(path, 7.5, 0.34 * len(rest) + 1.1) as figure:
        axes = figure.subplots()
        axes.axvline(0.5, color=FAINT, linestyle=(0, (2, 2)), linewidth=1.0)
        for row, (variant, scores) in enumerate(rest):
            value, low, high = beats(scores, base)
            axes.plot([low, high], [row, row], color=looks[variant]["color"], linewidth=3.0, alpha=0.45)
            axes.plot(value, row, "|", color=INK, markersize=11.0, markeredgewidth=1.6)
        axes.set_yticks(range(len(rest)), [short(name) for name, _ in rest])
        axes.set_ylim(len(rest) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"probability of a better score than {short(first)}")
    return True


# --- Runs -------------------------------------------------------------------------------------------------------------


def curves(runs: dict[str, list[Run]], looks: Looks, path: Path, kind: str = "return") -> bool:
    """What CURVES names, against agent steps, a panel a task, a look a variant: its runs, their mean, and of three runs
    or more its 95% t interval (that of two reaches beyond all they did). Evaluations: where a run has several."""
    every = [run for group in runs.values() for run in group]
    tasks = list(dict.fromkeys(task for run in every for task in run.tasks))
    found = {task: [series for run in every if (series := _series(run, task, kind)) is not None] for task in tasks}
    shown = [task for task in tasks if found[task]]
    evaluated = kind == "evaluation"
    if not any(len(series.step) > evaluated for task in shown for series in found[task]):
        return False
    columns = columns_for(len(shown))
    rows = -(-len(shown) // columns)
    with picture(path, max(2.5 * columns, 7.5), 1.75 * rows + 1.0 + 0.2 * (len(runs) // 4)) as figure:
        for axes, task in zip(panels(figure, len(shown), columns), shown, strict=True):
            axes.set_title(short(task))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(FuncFormatter(compact))
            bands = []
            for variant, group in runs.items():
                of = [series for run in group if (series := _series(run, task, kind)) is not None]
                if of and (band := _lines(axes, of, looks[variant], short(variant), evaluated)):
                    bands.append((band, looks[variant]["color"]))
            # By what runs did, not by how wide an interval is.
            axes.set_ylim((-0.05, 1.05) if kind == "success" else axes.get_ylim())
            for band, colour in bands:
                axes.fill_between(*band, color=colour, alpha=0.15, linewidth=0)
        figure.supxlabel("agent steps", fontsize=9.5)
        figure.supylabel(CURVES[kind], fontsize=9.5)
        seen = {
            name: handle for axes in figure.axes for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        legend_above(figure, list(seen.values()), list(seen))
    return True


def _series(run: Run, task: str, kind: str) -> Series | None:
    if kind != "evaluation":
        return run.metrics.get(f"episode/{task}/{kind}")
    success = run.metrics.get(f"evaluation/{task}/success")
    return run.metrics.get(f"evaluation/{task}/normalised") if success is None else success


def _lines(
    axes: Axes, found: list[Series], look: dict[str, Any], label: str, evaluated: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Curves of runs, smoothed but for evaluations, and their mean at common steps, where all of them have begun and
    none has ended; returns those steps and the mean's interval, low and high, of three runs or more."""
    lines = [series.value if evaluated else smooth(series.value) for series in found]
    for series, line in zip(found, lines, strict=True):
        if evaluated:
            axes.plot(series.step, series.value, "o", markersize=3.5, color=look["color"])
        if len(found) > 1:
            axes.plot(series.step, line, linewidth=0.7, alpha=0.5, **look)
    low, high = max(series.step[0] for series in found), min(series.step[-1] for series in found)
    if high < low:  # an empty line, for the legend
        axes.plot([], [], linewidth=1.4, label=label, **look)
        return None
    steps = np.linspace(low, high, PLACES)
    values = np.array([np.interp(steps, series.step, line) for series, line in zip(found, lines, strict=True)])
    axes.plot(steps, values.mean(0), linewidth=1.4, label=label, **look)
    if len(found) < 3:
        return None
    half = stats.t.ppf(0.975, len(found) - 1) * stats.sem(values, axis=0)
    return steps, values.mean(0) - half, values.mean(0) + half


def cluster_maps(runs: dict[str, Run], path: Path) -> bool:
    """One map a run, side by side: a square where a task (down) uses a cluster (across)."""
    found = {name: run.clusters for name, run in runs.items() if run.clusters is not None}
    if not found:
        return False
    tasks = list(dict.fromkeys(task for clusters in found.values() for task in clusters.tasks))
    widths = [max(1.1, 0.17 * (int(clusters.cluster.max()) + 1)) for clusters in found.values()]
    columns = max(1, min(len(found), int(8.0 // (sum(widths) / len(widths) + 0.3))))
    rows = -(-len(found) // columns)
    with picture(path, 9.0, rows * (0.2 * len(tasks) + 0.7)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.ravel()[len(found) :]:
            axes.remove()
        for number, (axes, (name, clusters)) in enumerate(zip(grid.ravel(), found.items(), strict=False)):
            places = [tasks.index(task) for task in clusters.tasks]
            colours = [COLOURS[cluster % len(COLOURS)] for cluster in clusters.cluster]
            axes.scatter(clusters.cluster, places, marker="s", s=45, c=colours, linewidths=0)
            axes.set_title(short(name))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            axes.set_xlim(-0.6, int(clusters.cluster.max()) + 0.6)
            if number % columns == 0:
                axes.set_yticks(range(len(tasks)), [short(task) for task in tasks])
                axes.set_ylim(len(tasks) - 0.5, -0.5)
    return True
