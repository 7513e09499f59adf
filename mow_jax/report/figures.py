"""The report's figures of what happens inside: maps of clusters and experts, expert use, harmonious weights, losses.

In: a data.Run, or parts of one, and the path of the PNG to write. Each function says whether there was anything to
draw. Called by page.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mow_jax.report.data import Clusters, Run, Series
from mow_jax.report.plotting import (
    COLOURS,
    EVALUATION,
    FAINT,
    INK,
    TRAINING,
    columns_for,
    compact,
    legend_above,
    line_style,
    log_scale,
    panels,
    picture,
    short,
    smooth,
    spread,
)


def similarity_map(clusters: Clusters, kind: str, path: Path) -> bool:
    """Task by task similarity of gradients, ordered by cluster ("cluster") or by first expert ("experts").

    Beside it, which rows of parameters each task uses. Without a similarity only that part is drawn.
    """
    matrix, used = clusters.similarity[kind], clusters.cluster[:, None] if kind == "cluster" else clusters.experts
    count, rows = len(used), int(used.max()) + 1
    order = np.lexsort(tuple(used.T[::-1]))
    names = [short(clusters.tasks[index]) for index in order]
    borders = np.flatnonzero(np.diff(used[order, 0])) + 0.5
    side, strip = max(2.6, 0.18 * count), max(1.1, 0.18 * rows)
    widths = [side, strip] if matrix is not None else [strip]
    label = 0.07 * max(map(len, names))
    height = side + 0.6 + (label + 0.5 if matrix is not None else 0.0)
    with picture(path, max(sum(widths) + label + 0.8, 4.5), height) as figure:
        grid = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        if matrix is not None:
            _matrix(figure, grid[0], matrix[np.ix_(order, order)], names, borders)
        _membership(grid[-1], used[order], rows, borders, kind)
        grid[0].set_yticks(range(count), names)
    return True


def _matrix(figure: Figure, axes: Axes, matrix: np.ndarray, names: list[str], borders: np.ndarray) -> None:
    count = len(matrix)
    apart = matrix[~np.eye(count, dtype=bool)]  # the diagonal's ones would flatten the colours of all else
    low, high = (np.nanmin(apart), np.nanmax(apart)) if np.isfinite(apart).any() else (0.0, 1.0)
    image = axes.imshow(matrix, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
    axes.set_xticks(range(count), names, rotation=90)
    axes.set_title("similarity of gradients (cosine)")
    axes.grid(False)
    axes.tick_params(length=0)
    for border in borders:
        axes.axhline(border, color="white", linewidth=2.0)
        axes.axvline(border, color="white", linewidth=2.0)
    if count <= 8:
        for (row, column), value in np.ndenumerate(matrix):
            dark = value <= (low + high) / 2
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else INK, gid="fixed"
            )
    figure.colorbar(
        image, ax=axes, location="bottom", shrink=0.8, aspect=40, pad=0.02, extend="max", ticks=MaxNLocator(5)
    )


def _membership(axes: Axes, used: np.ndarray, rows: int, borders: np.ndarray, kind: str) -> None:
    """A square where a task (down) uses a row (across); of a task's experts the first is the darkest."""
    for slot, column in enumerate(used.T):
        axes.scatter(
            column,
            range(len(used)),
            marker="s",
            s=60,
            color=TRAINING,
            alpha=1.0 - 0.6 * slot / max(used.shape[1] - 1, 1),
            linewidths=0,
        )
    axes.set_xlim(-0.6, rows - 0.4)
    axes.set_ylim(len(used) - 0.5, -0.5)
    axes.set_xticks(range(rows))
    axes.set_yticks(range(len(used)), [""] * len(used))
    axes.tick_params(length=0, labeltop=False)
    axes.set_title("cluster" if kind == "cluster" else "experts")
    for border in borders:
        axes.axhline(border, color=FAINT, linewidth=1.0)


def expert_use(metrics: dict[str, Series], path: Path) -> bool:
    """Heat map of `router/load/<expert>` over updates, one of each layer where `router/layers/<layer>/<expert>` tells
    of several, above the line of `router/switches`."""
    loads, switches = _loads(metrics), metrics.get("router/switches")
    if not loads and switches is None:
        return False
    heights = [max(1.6, 0.24 * len(load)) for load in loads.values()] + [1.5] * (switches is not None)
    with picture(path, 9.0, sum(heights) + 0.9) as figure:
        grid = list(figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0])
        grid[-1].set_xlabel("updates")
        most = max((series.value.max() for load in loads.values() for series in load.values()), default=1.0)
        for title, load in loads.items():
            _heat(figure, grid.pop(0), load, title, most)
        if switches is not None:
            grid[0].plot(switches.update, switches.value, line_style(switches), color=EVALUATION, linewidth=1.2)
            grid[0].set_title("switches of the selection")
            grid[0].set_ylim(0, max(1.0, 1.05 * switches.value.max()))
            grid[0].xaxis.set_major_formatter(FuncFormatter(compact))
            grid[0].yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return True


def _loads(metrics: dict[str, Series]) -> dict[str, dict[int, Series]]:
    """Experts' loads by the titles of their heat maps: of all layers together, and of each where there are several."""
    areas: dict[str, dict[int, Series]] = {}
    for name, series in metrics.items():
        area, _, expert = name.rpartition("/")
        if re.fullmatch(r"router/(load|layers/\d+)", area) and expert.isdigit():
            areas.setdefault(area, {})[int(expert)] = series
    together = areas.pop("router/load", None)
    layers = sorted(areas, key=lambda area: int(area.rpartition("/")[2])) if len(areas) > 1 else []
    loads = {"share of the tasks, or tokens, that use each expert": together} if together else {}
    return loads | {f"layer {area.rpartition('/')[2]}: share of the tokens": areas[area] for area in layers}


def _heat(figure: Figure, axes: Axes, load: dict[int, Series], title: str, most: float) -> None:
    """Colours end at `most`, the largest share of all maps."""
    updates = np.unique(np.concatenate([series.update for series in load.values()]))
    share = np.full((max(load) + 1, len(updates)), np.nan)
    for expert, series in load.items():
        share[expert, np.searchsorted(updates, series.update)] = series.value
    width = np.diff(updates, prepend=updates[0] - (updates[1] - updates[0] if len(updates) > 1 else 1.0))
    edges = np.concatenate([updates[:1] - width[:1], updates])
    mesh = axes.pcolormesh(edges, np.arange(len(share) + 1) - 0.5, share, cmap="Blues", vmin=0, vmax=max(most, 1e-6))
    axes.set_yticks(range(len(share)))
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_ylabel("expert")
    axes.set_title(title)
    axes.xaxis.set_major_formatter(FuncFormatter(compact))
    figure.colorbar(mesh, ax=axes, pad=0.01, aspect=15)


def harmony(run: Run, path: Path) -> bool:
    """The weights sigma_k of `harmony/<task>` over updates, on a log scale, each line named at its end."""
    lines = {task: run.metrics[f"harmony/{task}"] for task in run.tasks if f"harmony/{task}" in run.metrics}
    lines = dict(sorted(lines.items(), key=lambda line: line[1].value[-1]))  # so that neighbours differ in colour
    if not lines:
        return False
    with picture(path, 9.0, max(3.8, 0.16 * len(lines) + 0.8)) as figure:
        axes = figure.subplots()
        for number, series in enumerate(lines.values()):
            axes.plot(
                series.update, series.value, line_style(series), color=COLOURS[number % len(COLOURS)], linewidth=1.3
            )
        log_scale(axes)
        axes.set_xlabel("updates")
        axes.set_ylabel("sigma (a task's loss is divided by it)")
        axes.xaxis.set_major_formatter(FuncFormatter(compact))
        axes.margins(x=0.0)
        figure.draw_without_rendering()  # the limits are final only now
        _name_ends(axes, lines)
    return True


def _name_ends(axes: Axes, lines: dict[str, Series]) -> None:
    """Each line's name to the right of the axes, at its end's height, spread so that no two names overlap."""
    ends = axes.transData.transform([(series.update[-1], series.value[-1]) for series in lines.values()])
    heights = axes.transAxes.inverted().transform(ends)[:, 1]
    inches = axes.get_window_extent().height / axes.figure.dpi
    places = spread(heights, 0.145 / inches)
    for number, (task, place) in enumerate(zip(lines, places, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        axes.annotate(
            short(task),
            xy=(1.0, heights[number]),
            xytext=(1.06, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 0},
        )


def losses(run: Run, area: str, path: Path) -> bool:
    """Every metric `area/...` over updates, a panel each; metrics that differ only in the task share a panel.

    A few tasks are told apart by colour; many are thin lines, with their mean as a thick one.
    """
    kinds: dict[str, dict[str, Series]] = {}
    for name, series in run.metrics.items():
        if name.startswith(f"{area}/"):
            kind, task = _kind(name[len(area) + 1 :], run.tasks)
            kinds.setdefault(kind, {})[task] = series
    if not kinds:
        return False
    colours = dict(zip(run.tasks, COLOURS, strict=False)) if 1 < len(run.tasks) <= len(COLOURS) else {}
    columns = min(columns_for(len(kinds)), 4)
    rows = -(-len(kinds) // columns)
    with picture(path, max(2.7 * columns, 7.5), 1.6 * rows + 0.8 + (rows == 1)) as figure:
        for axes, (kind, lines) in zip(panels(figure, len(kinds), columns), kinds.items(), strict=True):
            axes.set_title(short(kind))
            _loss(axes, lines, colours)
        figure.supxlabel("updates", fontsize=9.5)
        named = {task: colour for task, colour in colours.items() if any(task in lines for lines in kinds.values())}
        if named:
            handles = [Line2D([], [], color=colour) for colour in named.values()]
            legend_above(figure, handles, list(map(short, named)))
    return True


def _kind(name: str, tasks: list[str]) -> tuple[str, str]:
    """A metric's name without the task that ends it, and that task (or "")."""
    task = max((task for task in tasks if name.endswith(f"/{task}")), key=len, default="")
    return (name[: -len(task) - 1], task) if task else (name, "")


def _loss(axes: Axes, lines: dict[str, Series], colours: dict[str, str]) -> None:
    many = len(lines) > 1 and not colours
    for task, series in lines.items():
        colour = colours.get(task, TRAINING)
        look = {"linewidth": 0.7, "alpha": 0.45} if many else {"linewidth": 1.5}
        axes.plot(series.update, smooth(series.value), line_style(series), color=colour, **look)
        if len(lines) == 1:
            axes.plot(series.update, series.value, color=colour, linewidth=0.8, alpha=0.3)
    if many:
        update, places = np.unique(np.concatenate([series.update for series in lines.values()]), return_inverse=True)
        values = np.concatenate([series.value for series in lines.values()])
        mean = np.bincount(places, values) / np.bincount(places)
        axes.plot(update, smooth(mean), color=INK, linewidth=1.8)
    low, high = axes.dataLim.intervaly
    if low > 0 and high > 50 * low:
        log_scale(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(compact))
