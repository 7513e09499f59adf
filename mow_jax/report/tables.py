"""The report's tables as plain text cells: scores, aggregates, what the world model knows, clusters.

In: parts of a data.Run. Out: Table. Called by page, which shows them in the report and on the terminal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mow_jax.report.data import Clusters
from mow_jax.report.scores import at_reference, success_text

NONE = "–"


class Table(NamedTuple):
    """Cells of text; the first column holds names, the others numbers."""

    columns: list[str]
    rows: list[list[str]]


def number(value: float | None) -> str:
    """A score: four digits or so, thousands set apart."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def ratio(value: float | None) -> str:
    """A normalised score or a ratio: always three decimals."""
    return NONE if value is None else f"{value:.3f}"


def mean(values: list[float | None]) -> float | None:
    """Of those that are known."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def scores(results: dict) -> Table:
    """A row a task: episodes, mean return and its standard error, random, reference, normalised, success."""
    tasks = results["tasks"]
    succeeds = any(entry["success"] for entry in tasks.values())
    columns = ["task", "episodes", "return", "± error", "random", "reference", "normalised"]
    columns += ["success [95%]"] * succeeds
    rows = [[name, *_score(entry, succeeds)] for name, entry in tasks.items()]
    if any(entry.get("stages") for entry in tasks.values()):
        columns += ["when solved", "at step"]
        rows = [row + _solved(entry) for row, entry in zip(rows, tasks.values(), strict=True)]
    return Table(columns, rows)


def _solved(entry: dict) -> list[str]:
    """The normalised score at which a task was solved and left the loss, and the agent steps a task then."""
    then = entry.get("stages") or {}
    return [ratio(then.get("score")), number(then.get("steps"))]


def _score(entry: dict, succeeds: bool) -> list[str]:
    returns = np.array(entry["returns"], np.float64)
    error = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else None
    cells = [str(len(returns)), number(returns.mean() if len(returns) else None), number(error)]
    cells += [number(entry["random"]), number(entry["reference"]), ratio(entry["normalised"])]
    return cells + [success_text(entry)] * succeeds


def aggregate(results: dict) -> Table:
    """One row: mean, median, IQM over episodes with its interval, and how many reach the reference, of the tasks that
    have a normalised score."""
    given = results["aggregate"]
    interval = given.get("interval")
    between = " to ".join(map(ratio, interval)) if interval else NONE
    success = [np.mean(entry["success"]) for entry in results["tasks"].values() if entry["success"]]
    known = [entry["normalised"] for entry in results["tasks"].values() if entry["normalised"] is not None]
    cells = [ratio(given["mean"]), ratio(given["median"]), ratio(given["iqm"]), between, at_reference(known)]
    columns = [over(results), "mean", "median", "IQM over episodes", "its 95% interval", "at the reference"]
    columns += ["success"] * bool(success)
    return Table(columns, [["normalised score", *cells, *([f"{np.mean(success):.1%}"] if success else [])]])


def over(results: dict) -> str:
    """How many tasks means are over: those that have a normalised score."""
    scored, count = sum(e["normalised"] is not None for e in results["tasks"].values()), len(results["tasks"])
    return "over all tasks" if scored == count else f"over {scored} of {count} tasks"


def knowledge(diagnostics: dict) -> Table:
    """A row a task: what the world model knows of rewards and ends, and its reconstruction beside the mean frame."""
    columns = ["task", "rows", "reward correlation", "reward AP (chance)", "ends said (real)", "at ends"]
    columns += ["calibration error", "action nats", "reconstruction ratio"]
    return Table(columns, [[name, *_known(entry)] for name, entry in diagnostics.items()])


def _known(entry: dict) -> list[str]:
    rows, precision, predicted = (entry[key] for key in ("rows", "reward_precision", "termination_predicted"))
    return [
        NONE if rows is None else f"{rows:,}",
        ratio(entry["reward_correlation"]),
        NONE if precision is None else f"{precision:.3f} ({entry['reward_base']:.3f})",
        NONE if predicted is None else f"{predicted:.2%} ({entry['termination_share']:.2%})",
        *(ratio(entry[key]) for key in ("termination_at_ends", "termination_error", "action_nats", "ratio")),
    ]


def sharing(clusters: Clusters) -> Table:
    """A row a task: its cluster and its experts."""
    rows = zip(clusters.tasks, clusters.cluster, clusters.experts, strict=True)
    return Table(
        ["task", "cluster", "experts"],
        [[name, str(cluster), ", ".join(map(str, experts))] for name, cluster, experts in rows],
    )


def protocol(results: dict) -> Table:
    """A row a field of the evaluation's protocol, then the step, the commit and the versions it ran with."""
    fields: dict = {}
    for part, value in (results.get("protocol") or {}).items():
        # Older results have one level, where fields of the same name in suite and evaluation hid each other.
        fields |= {f"{part}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {part: value}
    fields |= {key: results.get(key) for key in ("step", "commit", "versions")}
    return Table(["field", "value"], [[key, _plain(value)] for key, value in fields.items() if value is not None])


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
