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

from mow_jax import checks
from mow_jax.report import comparing, costs, data, inference, plotting, render, reproduce, scores, sweeps
from mow_jax.report.data import Run
from mow_jax.report.render import Picture, Section
from mow_jax.report.tables import NONE, Table, mean, ratio
from mow_jax.types import BadInput

Groups = dict[str, list[Run]]  # variant -> its runs
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
HIDDEN = ("seed", "checkpoint", "log", "actors")  # of the settings: not what a variant is


def write(places: list[str], out: str | None, actions: str = "") -> Path:
    """Compares, by the scores of this kind of actions or else as each run was scored, and returns the folder of the
    page. Raises BadInput where there is nothing to compare or to write to."""
    groups = read(places)
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


def read(places: list[str]) -> Groups:
    """The runs of folders: a run's own, of which each is a variant, a sweep's DIR/VARIANT, or all of a sweep DIR. A
    variant of several sweeps is one where its settings are the same in all, and a run of one variant, settings and seed
    that lies in several places counts once. Raises BadInput."""
    found: dict[Path, list[Run]] = {}  # by the folder that a variant is named after
    swept: list[Path] = []
    for folder in {Path(place).resolve(): Path(place) for place in places}.values():
        if (folder / "config.json").is_file() or (folder / "metrics.jsonl").is_file():
            found[folder.resolve()] = [data.read(str(folder))]
            continue
        paths = sorted(folder.glob("*/*/metrics.jsonl"), key=lambda path: (_order(folder, path), path))
        paths = paths or sorted(path for path in folder.glob("*/metrics.jsonl") if path.parent.name.isdecimal())
        if not paths:
            raise BadInput(
                f"{str(folder)!r} holds no run, and no DIR/VARIANT/SEED of a sweep: give folders of runs, of sweeps, or"
                " of a sweep's variants"
            )
        for path in paths:
            found.setdefault(path.parent.parent.resolve(), []).append(data.read(str(path.parent)))
        swept += [path for path in dict.fromkeys(path.parent.parent.resolve() for path in paths) if path not in swept]
    _merge(found, swept)
    return dict(zip(_names(list(found)), map(_once, found.values()), strict=True))


def _merge(found: dict[Path, list[Run]], swept: list[Path]) -> None:
    """Puts variants of one name and one setting, of several sweeps, under the first one's folder."""
    for name in dict.fromkeys(path.name for path in swept):
        first, *others = [path for path in swept if path.name == name]
        settings = {json.dumps(_settings(run)) for path in (first, *others) for run in found[path]}
        for other in others if len(settings) == 1 else ():
            found[first] += found.pop(other)


def _once(runs: list[Run]) -> list[Run]:
    """A variant's runs, of those with the same settings and seed the one that came furthest; it says who is left out.

    Copies and links of a run are no further evidence, nor is the same run made twice."""
    kept: dict[Any, Run] = {}
    for run in runs:
        what = run.directory.resolve() if run.config is None else json.dumps([_settings(run), run.config.get("seed")])
        first = kept.get(what)
        if first is None:
            kept[what] = run
            continue
        reach = lambda run: ((run.results or {}).get("step") or -1, run.lines[-1]["step"] if run.lines else -1)
        better, other = (run, first) if reach(run) > reach(first) else (first, run)
        note = f"counts once, though {other.directory} holds the same run again (settings and seed)"
        kept[what] = better._replace(missing=[*better.missing, note])
    return list(kept.values())


def _names(folders: list[Path]) -> list[str]:
    """The folders' names, each with as many of the folders above before it as it takes to differ from the others."""
    depth = dict.fromkeys(folders, 1)
    name = lambda folder: "/".join(folder.parts[-depth[folder] :])
    while True:
        count = Counter(map(name, depth))
        alike = [folder for folder in depth if count[name(folder)] > 1 and depth[folder] < len(folder.parts)]
        if not alike:
            return list(map(name, folders))
        for folder in alike:
            depth[folder] += 1


def _settings(run: Run) -> dict[str, Any]:
    """The settings that make a variant, flat; none of a run that does not say them."""
    flat = checks.scheduled(checks.flat(run.config or {}))
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{h}.") for h in HIDDEN)}


def _order(folder: Path, path: Path) -> int:
    """The place of a run's variant in the sweep's own table."""
    try:
        names = list(dict.fromkeys(run["variant"] for run in json.loads((folder / "sweep.json").read_text())))
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    safe = [name.replace("/", "_") for name in names]
    return safe.index(path.parent.parent.name) if path.parent.parent.name in safe else len(safe)


def entries(groups: Groups) -> list[dict[str, Any]]:
    """What the figures take: the normalised scores of every run that has been evaluated."""
    return [
        {
            "variant": name,
            "seed": i,
            "step": run.results["step"],
            "actions": sweeps.actions(run.results),
            "episodes": sweeps.episodes(run.results),
            "tasks": {task: entry["normalised"] for task, entry in run.results["tasks"].items()},
            "returns": sweeps.returns(run.results),
        }
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
            "Returns of training episodes, smoothed: runs thin, a variant's mean thick; of three runs or more its 95%"
            " interval too.",
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
            "Scores of the evaluations on the way and at the end, as dots, without smoothing: all runs act as they are"
            " scored in the end.",
            comparing.curves(groups, looks, directory / "evaluations.png", "evaluation"),
            Picture("evaluations.png", "Success, or normalised score, of each task"),
        ),
        _knowledge(groups),
        _clusters(groups, directory),
        _differences(groups),
        costs.section(groups, of="variant"),
        _commands(groups),
    ]


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
    first, *others = variants
    cells_of, verdict = inference.against(
        first, {name: (variants[name].mean(1), variants[first].mean(1)) for name in others}
    )
    rows, apart_by = [], sweeps.scored_by(scored)
    for name, values in variants.items():
        by_task, (low, high) = values.mean(0), inference.interval(values.mean(1))
        iqm, around = inference.iqm(values)
        between = f" [{low:.3f}, {high:.3f}]" if len(values) > 1 else ""
        lowest = int(by_task.argmin())
        cells = [
            *([apart_by[name]] if apart_by else []),
            sweeps.steps([entry["step"] for entry in scored if entry["variant"] == name]),
            f"{values.mean():.3f}{between}",
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
    """What the world models know, a row a variant: means over its runs' tasks."""
    rows = []
    for name, runs in groups.items():
        known = [entry for run in runs if run.results for entry in run.results["diagnostics"].values()]
        means = [mean([entry[key] for entry in known]) for key in ("reward_correlation", "ratio", "termination_error")]
        if known:
            rows.append([name, *map(ratio, means)])
    columns = ["variant", "reward correlation", "reconstruction ratio", "calibration error of ends"]
    return Section("What the world models know", tables=[Table(columns, rows)]) if rows else None


def _clusters(groups: Groups, directory: Path) -> Section | None:
    named = {}
    for name, runs in groups.items():
        for own, run in zip(_names([run.directory.resolve() for run in runs]), runs, strict=True):
            named[name if f"/{name}".endswith(f"/{own}") else f"{name}, {own}"] = run
    if not comparing.cluster_maps(named, directory / "clusters.png"):
        return None
    text = (
        "Which tasks share a cluster in each run. Agreement of two runs is the adjusted Rand index of their groupings:"
        " 1, the same; 0, as alike as by chance. A dash where there is one run, or nothing to group. Sizes: how many"
        " tasks the groups have, largest first; groupings are set beside those of equal sizes."
    )
    rows = [[name, ratio(agreement(runs)), sizes(runs)] for name, runs in groups.items()]
    tables = [Table(["variant", "mean agreement of its runs", "sizes of the groups, run by run"], rows)]
    return Section("Clusters", [text], tables, [Picture("clusters.png", "Tasks by cluster, a map a run")])


def sizes(runs: list[Run]) -> str:
    """How many tasks share a cluster in each run, "9+3+1, 8+4+1"."""
    found = [np.bincount(run.clusters.cluster) for run in runs if run.clusters is not None]
    return ", ".join("+".join(map(str, sorted(counts[counts > 0].tolist(), reverse=True))) for counts in found) or NONE


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
    settings = {name: [_settings(run) for run in runs if run.config is not None] for name, runs in groups.items()}
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
        except BadInput:
            continue
    return (
        Section("Commands", ["What makes the first run of each variant again."], code="\n".join(scripts))
        if scripts
        else None
    )
