"""One page that sets several runs, or a sweep's, side by side: scores, curves, clusters, settings, costs.

In: folders of runs or of sweeps. Out: FOLDER/index.html, one file with its pictures in it, and report.md beside it.
Called by python -m mow_jax.report --compare.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mow_jax.report import comparing, costs, gather, inference, plotting, render, reproduce, scores, sweeps
from mow_jax.report.data import Run
from mow_jax.report.gather import Groups, read
from mow_jax.report.render import Picture, Section
from mow_jax.report.tables import NONE, Table, mean, ratio
from mow_jax.types import BadInput

MEASURED = (
    "; steps are the agent steps a task that they were measured at. Mean over tasks, with the 95% t interval over runs;"
    " the IQM is over runs and tasks, of ten runs or more with a 95% interval by drawing runs anew; the last "
)
NORMALISED = (
    "Normalised scores: 0 is the random policy, 1 the reference (a human for Atari, the best known score for toy tasks)"
    + MEASURED
    + "columns count tasks whose mean reaches the reference, and name the lowest."
)
RETURNS = f"Mean returns, as no task has a normalised score{MEASURED}column names the lowest task."
KNOWLEDGE = {
    "reward correlation": "reward_correlation",
    "reconstruction ratio": "ratio",
    "calibration error of ends": "termination_error",
}


def write(places: list[str], out: str | None, actions: str = "") -> Path:
    """Compares, by the scores of this kind of actions or else as each run was scored, and returns the folder of the
    page. Raises BadInput where there is nothing to compare or to write to."""
    groups = read(places, actions)
    if actions:
        groups = {name: [sweeps.by_actions(run, actions) for run in runs] for name, runs in groups.items()}
    if out is None and len(places) > 1:
        raise BadInput(f"--compare of {len(places)} folders needs --out=DIR, where its page is to lie")
    directory = Path(out or Path(places[0], actions, "comparison"))
    runs = sum(map(len, groups.values()))
    title = f"{len(groups)} variants" if len(groups) > 1 else f"Variant {next(iter(groups))}"
    subtitle = f"{runs} run{'s' * (runs != 1)}: {', '.join(groups)}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        sections = [section for section in _sections(groups, directory) if section is not None]
        render.put(directory / "report.md", render.markdown(title, subtitle, sections))
        render.put(directory / "index.html", render.page(title, subtitle, sections, directory))
    except OSError as problem:
        raise BadInput(
            f"cannot write to {directory}: {problem.strerror or problem}; free it, or give --out=DIR"
        ) from None
    return directory


def entries(groups: Groups) -> list[dict[str, Any]]:
    """What the figures take: the normalised scores of every run that has been evaluated."""
    return [
        {"variant": name, "first": next(iter(groups)), "seed": i} | sweeps.scored(run.results)
        for name, runs in groups.items()
        for i, run in enumerate(runs)
        if run.results is not None
    ]


def _sections(groups: Groups, directory: Path) -> list[Section | None]:
    scored, looks = entries(groups), plotting.looks(groups)
    measured = sweeps.by_returns(scored) or scored
    every = [run for runs in groups.values() for run in runs]
    missing = [f"{run.directory}: {text}" for run in every for text in [*run.missing, *_older(run)]]
    return [
        Section("Missing or left out", missing) if missing else None,
        _scores(measured, looks, directory),
        _figure(
            "Performance profile",
            "How large a share of runs and tasks lies above each normalised score; further right is better. Crossing"
            " lines: no variant is better throughout." + _drawn(scored, "Bands: 95%, by drawing runs anew"),
            comparing.profiles(scored, looks, directory / "profile.png"),
            Picture("profile.png", "Share of runs and tasks above a score"),
        ),
        _figure(
            "Probability of improvement",
            "The chance that a run of each variant scores higher than one of the first, however little, mean over"
            " tasks, ties counted half."
            + _drawn(measured, "Bars: 95% intervals by drawing runs anew, of which those with 0.5 show no difference"),
            comparing.improvement(measured, looks, directory / "improvement.png"),
            Picture("improvement.png", "Against the first variant"),
        ),
        _figure(
            "Learning curves",
            "Returns of training episodes, smoothed: runs thin, a variant's mean thick, at the steps that all of its"
            " runs have; of three runs or more its 95% interval too.",
            comparing.curves(groups, looks, directory / "curves.png"),
            Picture("curves.png", "Episode return of each task"),
        ),
        _figure(
            "Success while training",
            "Share of training episodes that succeeded, drawn as the returns are. Who acts in them is each system's"
            " own, and need not act as scores are measured.",
            comparing.curves(groups, looks, directory / "success.png", "success"),
            Picture("success.png", "Success of training episodes of each task"),
        ),
        _figure(
            "Evaluations while training",
            f"Scores of the evaluations on the way and at the end, as dots, without smoothing: {_acting(every)}.",
            comparing.curves(groups, looks, directory / "evaluations.png", "evaluation"),
            Picture("evaluations.png", "Success, or normalised score, of each task"),
        ),
        _knowledge(groups),
        _clusters(groups, directory),
        _differences(groups),
        costs.section(groups, of="variant"),
        _commands(groups),
    ]


def _acting(runs: list[Run]) -> str:
    """How runs act in the evaluations of their metrics, beside how they are scored here."""
    own = [(sweeps.actions(run.results), sweeps.configured(run)) for run in runs if run.results is not None]
    if all(kind == of_run for kind, of_run in own if "–" not in (kind, of_run)):
        return "all runs act as they are scored in the end"
    return "each run acts as it is configured to, by its own kind of actions, not as it is scored above"


def _drawn(scored: list[dict[str, Any]], text: str) -> str:
    """The text on intervals by drawing runs anew, or why nothing is said by them."""
    most = max(Counter(entry["variant"] for entry in scored).values(), default=0)
    enough = inference.ENOUGH
    if most < enough:
        return f" Fewer than {enough} runs of a variant, drawn anew, would be too sure: they show no difference here."
    return f" {text}, where there are {enough} runs or more."


def _older(run: Run) -> list[str]:
    """A sentence where a run has learned on since its results. (One ended by its minutes is evaluated a little behind
    its last line.)"""
    step, last = (run.results or {}).get("step"), run.lines[-1]["step"] if run.lines else 0
    if step is None or step >= last:
        return []
    again = f"python -m mow_jax.evaluate --workdir={run.directory}"
    return [f"results.json: of step {step:,}, and the run has learned until {last:,}; run {again}"]


def _figure(title: str, text: str, drawn: bool, picture: Picture) -> Section | None:
    return Section(title, [text], pictures=[picture]) if drawn else None


def _scores(scored: list[dict[str, Any]], looks: comparing.Looks, directory: Path) -> Section | None:
    tasks, variants = comparing.by_variant(scored)
    apart = sweeps.left_out(scored)
    notes = [f"Left out of all that sets scores side by side, as not every run has one: {', '.join(apart)}."]
    if not tasks:
        own = [Picture("overview.png", "Every run, of its own tasks")]
        return (
            Section("Scores", notes, [], own * comparing.overview(scored, looks, directory / "overview.png"))
            if apart
            else None
        )
    returns = "measure" in scored[0]
    text = RETURNS if returns else NORMALISED
    first = sweeps.reference(scored)
    others = [name for name in variants if name != first] if first in variants else []
    cells_of, verdict = inference.against(
        first, {name: (variants[name].mean(1), variants[first].mean(1)) for name in others}
    )
    verdict = verdict if first in variants else sweeps.NO_FIRST.format(first)
    rows, apart_by = [], sweeps.scored_by(scored)
    for name, values in variants.items():
        by_task, (iqm, around) = values.mean(0), inference.iqm(values)
        lowest = int(by_task.argmin())
        cells = [
            *([apart_by[name]] if apart_by else []),
            sweeps.steps([entry["step"] for entry in scored if entry["variant"] == name]),
            sweeps.interval(list(values.mean(1))),
            ratio(float(np.median(by_task))),
            scores.iqm_text({"iqm": iqm, "interval": around}),
            *[cells_of.get(name, NONE)] * bool(others),
            *[scores.at_reference(by_task)] * (not returns),
        ]
        rows.append([name, str(len(values)), *cells, f"{tasks[lowest]} {by_task[lowest]:.2f}"])
    columns = ["variant", "runs", *["actions"] * bool(apart_by), "steps", "mean [95%]", "median"]
    columns += ["IQM [95%]" if any(len(values) >= inference.ENOUGH for values in variants.values()) else "IQM"]
    columns += [f"less {first} [95%, Welch]"] * bool(others) + ["at the reference"] * (not returns) + ["lowest task"]
    table = Table(columns, rows)
    comparing.overview(scored, looks, directory / "overview.png")
    return Section(
        "Scores",
        [
            text,
            *notes * bool(apart),
            *[verdict] * bool(verdict),
            *[sweeps.DIFFERENT] * bool(apart_by),
            *sweeps.unlike(scored),
        ],
        [table],
        [Picture("overview.png", "Every run, and the mean of each task")],
    )


def _knowledge(groups: Groups) -> Section | None:
    """What the world models know, a row a variant: means over its runs and the tasks that all variants have."""
    known = {
        name: [run.results["diagnostics"] for run in runs if run.results and run.results["diagnostics"]]
        for name, runs in groups.items()
    }
    cells: dict[str, list[str]] = {name: [name] for name, held in known.items() if held}
    left_out = []
    for column, key in KNOWLEDGE.items():
        # A system that measures nothing of the kind leaves out no task of the others.
        measured = {name: known[name] for name in cells if _has(known[name], key)}
        every = [run for held in measured.values() for run in held]
        tasks = dict.fromkeys(task for run in every for task in run)
        shared = [task for task in tasks if all(run.get(task, {}).get(key) is not None for run in every)]
        for name, row in cells.items():
            row.append(ratio(mean([run[task][key] for run in measured.get(name, []) for task in shared])))
        if apart := [task for task in tasks if task not in shared]:
            left_out.append(f"{column}: {', '.join(apart)}")
    text = ["Means over runs, and over the tasks of which every run of every variant has the number."]
    text += [f"Left out, as some run has none: {'; '.join(left_out)}."] * bool(left_out)
    return (
        Section("What the world models know", text, [Table(["variant", *KNOWLEDGE], list(cells.values()))])
        if cells
        else None
    )


def _has(diagnostics: list[dict[str, Any]], key: str) -> bool:
    return any(entry[key] is not None for run in diagnostics for entry in run.values())


def _clusters(groups: Groups, directory: Path) -> Section | None:
    named = {}
    for name, runs in groups.items():
        for own, run in zip(gather.named([run.directory.resolve() for run in runs]), runs, strict=True):
            named[name if f"/{name}".endswith(f"/{own}") else f"{name}, {own}"] = run
    if not comparing.cluster_maps(named, directory / "clusters.png"):
        return None
    text = (
        "Which tasks share a cluster in each run. Agreement of two runs is the adjusted Rand index of their groupings:"
        " 1, the same; 0, as alike as by chance. A dash where there is one run, or nothing to group. Sizes: how many"
        " tasks the groups have, largest first, and in brackets in how many runs; groupings are set beside those of"
        " equal sizes."
    )
    rows = [[name, ratio(agreement(runs)), sizes(runs)] for name, runs in groups.items()]
    tables = [Table(["variant", "mean agreement of its runs", "sizes of the groups (runs)"], rows)]
    return Section("Clusters", [text], tables, [Picture("clusters.png", "Tasks by cluster, a map a run")])


def sizes(runs: list[Run]) -> str:
    """How many tasks share a cluster, and in how many runs, the commonest first: "9+3+1 (4), 8+4+1 (1)"."""
    found = [np.bincount(run.clusters.cluster) for run in runs if run.clusters is not None]
    text = Counter("+".join(map(str, sorted(counts[counts > 0].tolist(), reverse=True))) for counts in found)
    return ", ".join(f"{each} ({count})" for each, count in text.most_common()) or NONE


def agreement(runs: list[Run]) -> float | None:
    """The mean adjusted Rand index of all pairs of runs' groupings; None without a pair that could differ."""
    found = [run.clusters for run in runs if run.clusters is not None]
    pairs = [rand_index(a.cluster, b.cluster) for a, b in itertools.combinations(found, 2) if a.tasks == b.tasks]
    return mean(pairs)


def rand_index(one: np.ndarray, other: np.ndarray) -> float | None:
    """The adjusted Rand index of two groupings [K] (Hubert and Arabie 1985); None where both are all alone or all
    together, so that no other outcome was possible."""
    from sklearn.metrics import adjusted_rand_score  # takes a second to import

    groups = {len(np.unique(one)), len(np.unique(other))}
    return None if groups in ({1}, {len(one)}) else float(adjusted_rand_score(one, other))


def _differences(groups: Groups) -> Section | None:
    """Settings in which the variants differ, or the runs of one."""
    settings = {
        name: [gather.settings_of(run) for run in runs if run.config is not None] for name, runs in groups.items()
    }
    settings = {name: held for name, held in settings.items() if held}
    every = [one for held in settings.values() for one in held]
    keys = dict.fromkeys(key for one in every for key in one)
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in every}) > 1]
    if not differing:
        return None
    cell = lambda held, key: " or ".join(dict.fromkeys(_plain(one.get(key)) for one in held))
    rows = [[key, *(cell(held, key) for held in settings.values())] for key in differing]
    return Section("Settings that differ", tables=[Table(["setting", *settings], rows)])


def _plain(value: Any) -> str:
    return NONE if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _commands(groups: Groups) -> Section | None:
    """How to make the first run of each variant again."""
    scripts = []
    for name, runs in groups.items():
        try:
            scripts.append(f"# --- {name} ---\n{reproduce.commands(str(runs[0].directory))}")
        except (BadInput, IndexError):  # a sweep's first variant may have no run
            continue
    return (
        Section("Commands", ["What makes the first run of each variant again."], code="\n".join(scripts))
        if scripts
        else None
    )
