"""table.md of a sweep: every variant with the mean over its seeds and its interval, then every run.

In: entries of a sweep.json, {"variant", "seed", "seconds", "tasks": {name: normalised score}}. Out: Markdown. Called by
sweep; `left_out` by what draws them, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from mow_jax.report import scores


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: every run, then a row a variant with the mean over its seeds and its 95% t interval."""
    if not runs:
        return "no run has finished yet\n"
    if returned := by_returns(runs):
        return f"No task has a normalised score: all numbers are of mean returns.\n\n{table(returned)}"
    tasks = dict.fromkeys(name for run in runs for name in run["tasks"])
    # A task without a score counts in no run; one that a variant does not have counts in the others.
    scored = [name for name in tasks if all(run["tasks"].get(name, 0.0) is not None for run in runs)]
    rows = [["run", *scored, "mean", "lowest", "minutes"]]
    for run in runs:
        values = [run["tasks"][name] for name in scored if name in run["tasks"]]
        cells = [f"{run['tasks'][name]:.2f}" if name in run["tasks"] else "–" for name in scored]
        cells += [f"{np.mean(values):.3f}", f"{min(values):.2f}"] if values else ["–"] * 2
        rows.append([f"{run['variant']}, seed {run['seed']}", *cells, f"{run['seconds'] / 60:.1f}"])
    summary = [["variant", "seeds", *scored, "mean [95%]", "IQM"]]
    for variant in dict.fromkeys(run["variant"] for run in runs):
        mine = [run for run in runs if run["variant"] == variant]
        own = [name for name in scored if all(name in run["tasks"] for run in mine)]
        means = {name: [run["tasks"][name] for run in mine] for name in own}
        each = [float(np.mean([run["tasks"][name] for name in own])) for run in mine] if own else []
        iqm = scores.aggregate(means)["iqm"]
        cells = [f"{np.mean(means[name]):.2f}" if name in means else "–" for name in scored]
        summary.append([variant, str(len(mine)), *cells, interval(each), "–" if iqm is None else f"{iqm:.3f}"])
    apart = left_out(runs)
    note = f"Means here are over a variant's own tasks; figure.png leaves out {', '.join(apart)}: not in every run.\n\n"
    return f"{_markdown(summary)}\n{note * bool(apart)}{_markdown(rows)}"


def returns(results: dict[str, Any]) -> dict[str, float]:
    """{task: mean return} of results, as far as they have any."""
    return {name: float(np.mean(task["returns"])) for name, task in results["tasks"].items() if task.get("returns")}


def by_returns(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs with mean returns in place of scores where no task of any run has a score; else none."""
    scored = any(score is not None for run in runs for score in run["tasks"].values())
    if scored or not all(run.get("returns") for run in runs):  # they were not always kept
        return []
    return [run | {"tasks": run["returns"], "measure": "return"} for run in runs]


def left_out(runs: list[dict[str, Any]]) -> list[str]:
    """Tasks that not every run has a score of: what sets variants side by side leaves them out."""
    tasks = dict.fromkeys(name for run in runs for name in run["tasks"])
    return [name for name in tasks if any(run["tasks"].get(name) is None for run in runs)]


def interval(values: list[float]) -> str:
    """Mean of independent runs and its 95% t interval, "0.97 [0.95, 0.99]"; one run has none."""
    if not values:
        return "–"
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.3f} [{np.mean(values) - half:.3f}, {np.mean(values) + half:.3f}]"


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
