"""What the report's figures have in common: colours and style, panels, short numbers and names, smoothing, scales.

Matplotlib's object interface with the Agg canvas only: nothing global is touched. Called by curves, figures,
knowledge, comparing, compare and sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy.optimize import isotonic_regression

from mow_jax import files
from mow_jax.report.data import Series

INK, FAINT, TRAINING, EVALUATION = "#222b36", "#8a94a0", "#2f6fb7", "#d9651f"
# For lines that need telling apart; dark enough on white to be read as text.
COLOURS = ("#2f6fb7", "#d9651f", "#2e8b57", "#a03c8c", "#8a6d1b", "#c0394b", "#2496a8", "#5b4fb0", "#6b7a2a", "#7a4a2c")
LINES = ("-", (0, (4, 2)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))  # the next one when the colours are used up
# What stands for each colour on a dark page.
DARK = dict(
    zip(
        COLOURS,
        ("#6aa5e8", "#f0894a", "#56b981", "#d277c0", "#c9a640", "#ea6f7f", "#4fc0d2", "#9b90ee", "#a9bb54", "#c08a66"),
        strict=True,
    )
)
DARK |= {INK: "#e4e8ed", FAINT: "#7d8793", "#ffffff": "#14181d", "#c4cad1": "#3a424c", "#566270": "#9aa5b1"}
DARK |= {"#e8ebef": "#262c34"}
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
    # What a user's own file may ask for otherwise.
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "savefig.dpi": "figure",
}


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, saved when the block ends; once more in dark colours beside it (`dark`)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine(None)  # everything has its place: with an engine each file is drawn twice
        _save(figure, path)
        _darken(figure)
        _save(figure, dark(path))


def _save(figure: Figure, path: Path) -> None:
    """Whole at once: a follower and the end of training may write the same report, and read its figures."""
    with files.whole(path) as temporary:
        figure.savefig(temporary)


def dark(path: Path) -> Path:
    """Where the same figure in dark colours lies."""
    return path.with_name(f"{path.stem}.dark{path.suffix}")


def _darken(figure: Figure) -> None:
    """Every colour of an artist that has a dark counterpart becomes that; those with the gid "fixed" stay."""
    for artist in figure.findobj():
        if artist.get_gid() == "fixed":
            continue
        if getattr(artist, "cmap", None) is not None and artist.cmap.name == "Blues":
            artist.set_cmap("Blues_r")  # nothing is dark there, too
        for kind in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get, put = (getattr(artist, f"{verb}_{kind}", None) for verb in ("get", "set"))
            if get is None or put is None:
                continue
            value = get()
            if isinstance(value, np.ndarray) and value.ndim == 2:
                if len(value):
                    put([DARK.get(to_hex(row), row) for row in value])
            elif is_color_like(value) and to_hex(value) in DARK:
                put(DARK[to_hex(value)])


def legend_above(figure: Figure, handles: Sequence[Any], names: Sequence[str], size: float = 8.5) -> None:
    """A legend above all panels, in at most five columns and no more than fit; its rows make the figure higher."""
    for columns in range(min(len(names), 5), 0, -1):
        place = {"loc": "outside upper center", "ncols": columns, "fontsize": size}
        legend = figure.legend(handles, names, **place)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            rows = -(-len(names) // columns)
            figure.set_figheight(figure.get_figheight() + (rows - 1) * 1.6 * size / 72)
            return
        legend.remove()


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


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a kind of line for each name, no two alike of forty."""
    turns = ((name, *divmod(number, len(COLOURS))) for number, name in enumerate(names))
    return {name: {"color": COLOURS[colour], "linestyle": LINES[turn % len(LINES)]} for name, turn, colour in turns}


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
