"""table.md of a sweep: every variant with the mean over its seeds and its interval, then every run.

In: entries of a sweep.json, {"variant", "seed", "seconds", "actions", "tasks": {name: normalised score}}, and where
they are known "step", "commit", "episodes", "parameters", "active" (of them for one task), "core_seconds", and of the
sweep's plan the "place" of the variant and the "first" one. Out: Markdown. Called by sweep; `left_out`, `scored_by`,
`unlike`, `in_order` and `reference` by what sets runs side by side, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mow_jax.report import data, inference, scores


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: every run, then a row a variant with the mean over its seeds and its 95% t interval."""
    if not runs:
        return "no run has finished yet\n"
    if returned := by_returns(runs):
        return f"No task has a normalised score: all numbers are of mean returns.\n\n{table(returned)}"
    tasks = dict.fromkeys(name for run in runs for name in run["tasks"])
    # A task without a score counts in no run; one that a variant does not have counts in the others.
    scored = [name for name in tasks if all(run["tasks"].get(name, 0.0) is not None for run in runs)]
    apart_by = scored_by(runs)
    rows = [["run", *scored, "mean", "lowest", "minutes"]]
    for run in runs:
        values = [run["tasks"][name] for name in scored if name in run["tasks"]]
        cells = [f"{run['tasks'][name]:.2f}" if name in run["tasks"] else "–" for name in scored]
        cells += [f"{np.mean(values):.3f}", f"{min(values):.2f}"] if values else ["–"] * 2
        rows.append([f"{run['variant']}, seed {run['seed']}", *cells, f"{run['seconds'] / 60:.1f}"])
    variants, first = _variants(in_order(runs)), reference(runs)
    others = [name for name in variants if name != first] if first in variants else []
    pairs = {name: _pair(runs, name, first) for name in others}
    cells_of, verdict = inference.against(first, pairs)
    verdict = verdict if first in variants else NO_FIRST.format(first)
    more = [f"less {first} [95%, Welch]"] * any(pairs.values())
    more += ["parameters", "of them for a task", "core-minutes a run"]
    summary = [["variant", "seeds", *["actions"] * bool(apart_by), *scored, "mean [95%]", "IQM", *more]]
    for variant in variants:
        mine = [run for run in runs if run["variant"] == variant]
        own = [name for name in scored if all(name in run["tasks"] for run in mine)]
        means = {name: [run["tasks"][name] for run in mine] for name in own}
        each = [float(np.mean([run["tasks"][name] for name in own])) for run in mine] if own else []
        iqm = scores.aggregate(means)["iqm"]
        cells = [f"{np.mean(means[name]):.2f}" if name in means else "–" for name in scored]
        how = [apart_by[variant]] if apart_by else []
        summary.append([variant, str(len(mine)), *how, *cells, interval(each), "–" if iqm is None else f"{iqm:.3f}"])
        summary[-1] += [cells_of.get(variant, "–")] * any(pairs.values())
        summary[-1] += [*(count(mine[0].get(key)) for key in ("parameters", "active")), _minutes(mine)]
    apart = left_out(runs)
    where = (
        f"leaves out {', '.join(apart)}: not in every run" if len(apart) < len(tasks) else "too: none is in every run"
    )
    note = f"Means here are over a variant's own tasks; figure.png {where}."
    note += " Differences are over the tasks that both have." * any(pairs.values()) + "\n\n"
    below = [f"{verdict}\n\n"] * bool(verdict) + [note] * bool(apart) + [f"{DIFFERENT}\n\n"] * bool(apart_by)
    below += [f"{sentence}\n\n" for sentence in unlike(runs)]
    return f"{markdown(summary)}\n{''.join(below)}{markdown(rows)}"


def count(number: int | None) -> str:
    """A number of parameters, thousands set apart; a dash where it is not known."""
    return "–" if number is None else f"{number:,}"


def _minutes(runs: list[dict[str, Any]]) -> str:
    """The mean of runs' minutes on a core, of those that say how busy theirs were."""
    known = [run["core_seconds"] / 60 for run in runs if run.get("core_seconds")]
    return f"{np.mean(known):.1f}" if known else "–"


def _pair(runs: list[dict[str, Any]], variant: str, first: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Means of the variant's runs and of the first one's, over the tasks that all of them have a score of."""
    mine, base = ([run["tasks"] for run in runs if run["variant"] == name] for name in (variant, first))
    shared = [name for name in mine[0] if all(tasks.get(name) is not None for tasks in (*mine, *base))]
    if not shared:
        return None
    means = [np.array([np.mean([tasks[name] for name in shared]) for tasks in side]) for side in (mine, base)]
    return means[0], means[1]


NO_FIRST = "No differences: {}, the first variant, with which the others are compared, has no finished run."
DIFFERENT = (
    "Not all were scored by the same kind of actions: the sweep's command with --actions=sampled or --actions=best"
    " scores all by one, and report --compare with the same option sets these side by side."
)


def actions(results: dict[str, Any]) -> str:
    """By which actions results were scored, as far as they say it."""
    settings = (results.get("protocol") or {}).get("evaluation")
    return str(settings.get("actions", "–")) if isinstance(settings, dict) else "–"


def configured(run: data.Run) -> str:
    """By which actions a run is evaluated while it trains, as far as its settings say it."""
    return str(((run.config or {}).get("evaluation") or {}).get("actions", "–"))


def at_end(run: data.Run) -> dict[str, Any] | None:
    """The run's results where they go on what it measured while it trained: by the same kind of actions."""
    kinds = {actions(run.results), configured(run)} - {"–"} if run.results else set()
    return run.results if len(kinds) < 2 else None


def by_actions(run: data.Run, kind: str) -> data.Run:
    """The run with its results by this kind of actions (RUN/KIND where its own are of another); without, if none are
    there, which `missing` then says."""
    if run.results is not None and actions(run.results) == kind:
        return run
    place = run.directory / kind
    found = data.read(str(place)).results if (place / "results.json").is_file() else None
    if found is not None and actions(found) == kind:
        return run._replace(results=found)
    how = f"python -m mow_jax.evaluate --workdir={run.directory} --actions={kind} --out={place}"
    return run._replace(results=None, missing=[*run.missing, f"results by {kind} actions: run {how}"])


def scored_by(runs: list[dict[str, Any]]) -> dict[str, str]:
    """{variant: by which actions its runs were scored}; {} where that is the same in all."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        found.setdefault(run["variant"], {})[run.get("actions", "–")] = None
    said = {variant: " or ".join(kinds) for variant, kinds in found.items()}
    return said if len(set(said.values())) > 1 or any(len(kinds) > 1 for kinds in found.values()) else {}


def unlike(runs: list[dict[str, Any]]) -> list[str]:
    """A sentence each where runs were scored by different numbers of episodes, learned for different numbers of steps
    (as --minutes ends them), or are of different commits."""
    said = []
    if len(played := sorted({run["episodes"] for run in runs if run.get("episodes")})) > 1:
        said.append(f"Runs were scored by {' or '.join(map(str, played))} episodes a task, not all by as many.")
    if len({run["step"] for run in runs if run.get("step") is not None}) > 1:
        of = {name: [run.get("step") for run in runs if run["variant"] == name] for name in _variants(runs)}
        each = ", ".join(f"{name} {steps(found)}" for name, found in of.items())
        said.append(
            f"Runs have not all learned for as many agent steps a task, {each}: what differs may be the steps', not the"
            " variants'."
        )
    if len({run["commit"] for run in runs if run.get("commit")}) > 1:
        made = {name: [run.get("commit") for run in runs if run["variant"] == name] for name in _variants(runs)}
        each = ", ".join(f"{name} {' or '.join(dict.fromkeys(filter(None, found)))}" for name, found in made.items())
        said.append(f"Runs are not all of one commit, {each}: what differs may be the code's, not the variants'.")
    return said


def steps(found: list[int | None]) -> str:
    """The agent steps a task that results are of, from least to most."""
    known = sorted({step for step in found if step is not None})
    return "–" if not known else f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,}–{known[-1]:,}"


def in_order(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, variant by variant as they were planned; older ones, which do not say it, as they come."""
    names = _variants(runs)
    return sorted(runs, key=lambda run: run.get("place", names.index(run["variant"])))


def reference(runs: list[dict[str, Any]]) -> str:
    """The variant that others are compared with, whether a run of it is there or not: the first that was planned, of
    older runs the first that is there."""
    return str(runs[0].get("first", runs[0]["variant"]))


def _variants(runs: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(run["variant"] for run in runs))


def episodes(results: dict[str, Any]) -> int:
    """How many episodes a task results are of, at most."""
    return max((len(task.get("returns", ())) for task in results["tasks"].values()), default=0)


def scored(results: dict[str, Any]) -> dict[str, Any]:
    """What tables and figures take of a run's results.json."""
    return {
        "returns": returns(results),
        "commit": results.get("commit"),
        "step": results["step"],
        "actions": actions(results),
        "episodes": episodes(results),
        "tasks": {name: task["normalised"] for name, task in results["tasks"].items()},
    }


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
    low, high = inference.interval(np.array(values))
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


def markdown(rows: list[list[str]]) -> str:
    """A table of cells, its head first."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
