"""What the report's figures have in common: colours and style, panels, short numbers and names, smoothing, scales.

Matplotlib's object interface with the Agg canvas only: nothing global is touched. Called by curves, figures and
knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy.optimize import isotonic_regression

from mow_jax.report.data import Series

INK, FAINT, TRAINING, EVALUATION = "#222b36", "#8a94a0", "#2f6fb7", "#d9651f"
# For lines that need telling apart; dark enough on white to be read as text.
COLOURS = ("#2f6fb7", "#d9651f", "#2e8b57", "#a03c8c", "#8a6d1b", "#c0394b", "#2496a8", "#5b4fb0", "#6b7a2a", "#7a4a2c")
DPI = 110
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#c4cad1",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a task's name may hold dollar signs
    "xtick.color": "#566270",
    "ytick.color": "#566270",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ebef",
    "legend.frameon": False,
}


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, saved when the block ends."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, dpi=DPI)


def panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    """`count` small axes in rows of `columns` that share their x axis; each column's lowest has its tick labels."""
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, sharex=True).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)
    for axes in grid[:count]:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(compact))
    return list(grid[:count])


def columns_for(count: int) -> int:
    if count <= 9:
        return next(columns for columns in (1, 2, 3) if count <= columns**2)
    return min((5, 4), key=lambda columns: -count % columns)  # leaves the fewest gaps in the last row


def compact(value: float, position: int | None = None) -> str:
    """A short number: 1200 as 1200, 25000 as 25k, 3500000 as 3.5M. (`position` is matplotlib's.)"""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e6 if letter == 'M' else 1e3):.4g}{letter}"
    return f"{value:.4g}"


def short(name: str, most: int = 30) -> str:
    """The name, cut in its middle if it is longer than `most` letters."""
    return name if len(name) <= most else f"{name[: most - 12]}…{name[-11:]}"


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average [N] over a fifteenth of the values; at the ends over those that are there."""
    half, places = len(values) // 30, np.arange(len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def line_style(series: Series) -> str:
    """A line; of a single value a dot, which a line would not show."""
    return "-" if len(series.value) > 1 else "o"


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Ascending heights in 0..1 moved as little as possible until they are `gap` apart (less if they are too many)."""
    gap = min(gap, 1.0 / max(len(heights) - 1, 1))
    slack = gap * np.arange(len(heights))
    return np.clip(isotonic_regression(heights - slack).x, 0.0, 1.0 - slack[-1]) + slack


def log_scale(axes: Axes) -> None:
    """A log scale with plain numbers; under one decade powers of ten are too few, so ticks stand as on a linear one."""
    axes.set_yscale("log")
    low, high = axes.dataLim.intervaly
    decades = np.log10(high / low)
    subs = (1,) if decades > 3 else (1, 3) if decades > 2 else (1, 2, 5)
    axes.yaxis.set_major_locator(MaxNLocator(4) if decades < 1 else LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(compact))
    axes.yaxis.set_minor_formatter(NullFormatter())
