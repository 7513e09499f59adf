"""The outcomes of the ablations that results/ablations/README.md fixes before any run, and what so many runs can show.

    python benchmarks/ablation_outcomes.py --power=results/toy13 --runs=5 --comparisons=16
    python benchmarks/ablation_outcomes.py --sweep=runs/ablations [--seeds=0,1,2] \
        [--variants=clusters=3,clusters=3+grouping=random]

--power: from finished runs, VARIANT/*.json as evaluation writes them: the spread over seeds, and the smallest
difference to the first variant that is found 4 times in 5. --sweep: every outcome of every variant, its difference to
the first one (Welch), and which survive Holm. Both print Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from mow_jax.report import compare, inference, sweeps
from mow_jax.report.data import Run
from mow_jax.types import BadInput

UNDER = 0.6  # a task that a run has not learned
EARLY = 3200  # agent steps: half of toy13's
MEAN, FAILED, AT_HALF = "mean", f"tasks under {UNDER}", f"evaluation mean at step {EARLY:,}"
POWER = 0.8
NO_SCORE = ("rows",)  # of an evaluation's settings: what a score does not depend on


def at_end(results: dict) -> dict[str, float]:
    """{outcome: value} of a results.json in which every task has a score."""
    scores = [task["normalised"] for task in results["tasks"].values()]
    return {MEAN: float(np.mean(scores)), FAILED: float(sum(score < UNDER for score in scores))}


def half_way(lines: list[dict]) -> float:
    """The mean over tasks that training evaluated at step EARLY, by the lines of metrics.jsonl; NaN where none did."""
    found = [line["evaluation/mean"] for line in lines if line["step"] == EARLY and "evaluation/mean" in line]
    return float(found[-1]) if found and found[-1] is not None else np.nan


def refuse_mixed(found: dict[Path, dict]) -> None:
    """Raises BadInput where results, by the place of each, do not compare: a task has no score, or they are not all of
    the same tasks, steps and commit, scored in the same way. (What older ones do not say is taken to be alike.)"""
    said: dict[str, dict[str, Path]] = {}  # of each setting the values, with the first place that has it
    for place, results in found.items():
        if bare := [name for name, task in results["tasks"].items() if task["normalised"] is None]:
            raise BadInput(
                f"{place} has no score of {', '.join(bare)}: evaluate it again with a reference and --random, or leave"
                " its variant out"
            )
        protocol = results.get("protocol") or {}
        settings = protocol.get("evaluation")
        own = {"episodes": sweeps.episodes(results)} | (settings if isinstance(settings, dict) else {})
        whole = {"suite": protocol.get("suite")} | {key: results.get(key) for key in ("step", "commit")}
        own |= {key: value for key, value in whole.items() if value is not None}
        for key, value in ({"tasks": sorted(results["tasks"])} | own).items():
            if key not in NO_SCORE:
                said.setdefault(key, {}).setdefault(json.dumps(value), place)
    for key, values in said.items():
        if len(values) > 1:
            each = "; ".join(f"{value} in {place}" for value, place in values.items())
            raise BadInput(
                f"not all runs compare, {key} differs: {each}: name --variants and --seeds that do, or, where"
                " their evaluation alone differs, evaluate them alike (python -m mow_jax.evaluate --workdir=RUN, with"
                " --actions or --episodes, which replaces results.json)"
            )


# --- Before the runs --------------------------------------------------------------------------------------------------


def power(effect: float, runs: int, level: float) -> float:
    """How often so many runs a side show a difference of `effect` standard deviations, at a two-sided level."""
    freedom, shift = 2 * runs - 2, effect * np.sqrt(runs / 2)
    # Over what the deviation may be measured as; scipy's noncentral t is NaN for some of these.
    measured = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, freedom) / freedom)
    limit = stats.t.ppf(1 - level / 2, freedom) * measured
    return float((stats.norm.sf(limit - shift) + stats.norm.cdf(-limit - shift)).mean())


def detectable(runs: int, level: float) -> float:
    """The smallest difference, in standard deviations, that is shown with probability POWER."""
    return float(optimize.brentq(lambda effect: power(effect, runs, level) - POWER, 1e-3, 20.0))


def spread(groups: list[np.ndarray]) -> tuple[float, float, float]:
    """The standard deviation within groups of runs, all together, and its 95% interval."""
    freedom = sum(len(values) - 1 for values in groups)
    deviation = np.sqrt(sum(((values - values.mean()) ** 2).sum() for values in groups) / freedom)
    low, high = np.sqrt(freedom / stats.chi2.ppf([0.975, 0.025], freedom))
    return float(deviation), float(deviation * low), float(deviation * high)


def power_table(folder: Path, runs: int, comparisons: int) -> str:
    """A row an outcome that results.json holds. Raises BadInput where runs are too few to say anything."""
    if not folder.is_dir() or runs < 2 or comparisons < 1:
        raise BadInput(
            f"--power={folder} must be a folder, --runs={runs} at least 2, --comparisons={comparisons} at least 1"
        )
    paths = [sorted(place.glob("*.json")) for place in sorted(folder.iterdir()) if place.is_dir()]
    held = {path: json.loads(path.read_text()) for group in paths if len(group) > 1 for path in group}
    refuse_mixed(held)
    found = [[at_end(held[path]) for path in group] for group in paths if len(group) > 1]
    if not found:
        raise BadInput(f"{folder} has no folder of a variant with two runs (VARIANT/*.json): name another")
    columns = ["outcome", "deviation over seeds [95%]", "shown 4 times in 5, one comparison"]
    columns += [f"the first of {comparisons} (Holm)", "power for 1 deviation, one comparison"]
    rows = []
    for outcome in (MEAN, FAILED):
        deviation, low, high = spread([np.array([values[outcome] for values in group]) for group in found])
        least = [deviation * detectable(runs, level) for level in (inference.LEVEL, inference.LEVEL / comparisons)]
        cells = [f"{deviation:.3f} [{low:.3f}, {high:.3f}]", *(f"{value:.3f}" for value in least)]
        rows.append([outcome, *cells, f"{power(1.0, runs, inference.LEVEL):.2f}"])
    return sweeps.markdown([columns, *rows])


# --- After them -------------------------------------------------------------------------------------------------------


def sweep_table(folder: Path, variants: list[str] | None = None, seeds: list[int] | None = None) -> str:
    """A table an outcome: a row a variant, all or those named, of which the first is the one to compare with; of runs
    at their last step with all seeds or those named; then which variants lack a seed that others have, or that is
    named. Raises BadInput for a variant that has none, and for runs that do not compare."""
    found = {name: _finished(name, runs, seeds) for name, runs in compare.read([str(folder)]).items()}
    first = next(iter(found))
    found = {name: runs for name, runs in found.items() if runs}
    if found and not variants and first not in found:
        raise BadInput(
            f"{first}, the first variant of {folder}, has no finished run to compare with: finish one, or give"
            " --variants=A,B,... with another first"
        )
    if lacking := [name for name in variants or [] if name not in found]:
        raise BadInput(f"no finished run of {', '.join(lacking)} in {folder}: there are {', '.join(found) or 'none'}")
    found = {name: found[name] for name in variants or found}
    refuse_mixed({run.directory: run.results or {} for runs in found.values() for run in runs.values()})
    measured = {
        name: {seed: at_end(run.results or {}) | {AT_HALF: half_way(run.lines)} for seed, run in runs.items()}
        for name, runs in found.items()
    }
    wanted = seeds or sorted({seed for runs in measured.values() for seed in runs})
    lacks = {name: [seed for seed in wanted if seed not in runs] for name, runs in measured.items()}
    said = [f"{name} lacks seed {', '.join(map(str, them))}" for name, them in lacks.items() if them]
    tables = [_outcome(measured, outcome) for outcome in (MEAN, FAILED, AT_HALF)]
    return "\n".join([*tables, *([f"No finished run: {'; '.join(said)}.\n"] if said else [])])


def _finished(name: str, runs: list[Run], seeds: list[int] | None) -> dict[int, Run]:
    """A variant's runs at their last step by seed, of all seeds or those named. Raises BadInput for a seed that several
    have: a run and its copy that has gone on are no two."""
    found: dict[int, Run] = {}
    for run in runs:
        seed, end = (run.config or {}).get("seed"), (run.config or {}).get("train", {}).get("steps")
        if not run.results or run.results["step"] != end or seed not in (seeds or [seed]):
            continue
        if seed in found:
            raise BadInput(
                f"{found[seed].directory} and {run.directory} are both runs of {name}, seed {seed}: one of each seed"
                " counts; move the other out of the folder"
            )
        found[seed] = run
    return found


def _outcome(measured: dict[str, dict[int, dict[str, float]]], outcome: str) -> str:
    values = {name: np.array([run[outcome] for run in runs.values()]) for name, runs in measured.items()}
    values = {name: held[np.isfinite(held)] for name, held in values.items()}
    first, *others = [name for name, held in values.items() if len(held)] or [""]
    if not first:
        return f"{outcome}: no run has it\n"
    if first != next(iter(values)):
        raise BadInput(
            f"{outcome}: no run of {next(iter(values))} has it: restore metrics.jsonl, or name another first"
        )
    cells, verdict = inference.against(first, {name: (values[name], values[first]) for name in others})
    rows = [["variant", "runs", outcome, f"less {first} [95%, Welch]"]]
    rows += [
        [name, str(len(held)), f"{held.mean():.3f}", cells.get(name, "–")] for name, held in values.items() if len(held)
    ]
    less = {name: len(runs) - len(values[name]) for name, runs in measured.items()}
    without = [f"{count} of {name}" for name, count in less.items() if count]
    said = [verdict] * bool(verdict) + [f"Runs without it: {', '.join(without)}."] * bool(without)
    return sweeps.markdown(rows) + "".join(f"\n{sentence}\n" for sentence in said)


def seeds(text: str) -> list[int]:
    """The numbers of "0,1,2". Raises ValueError for others; argparse then names this function and the value."""
    return [int(seed) for seed in text.split(",")]


def main(arguments: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--power", type=Path, metavar="DIR", help="finished runs, DIR/VARIANT/*.json")
    what.add_argument("--sweep", type=Path, metavar="DIR", help="a sweep's folder")
    parser.add_argument("--variants", help="of the sweep, the one to compare with first; default: all")
    parser.add_argument("--seeds", type=seeds, help="of the sweep, as 0,1,2; default: all")
    parser.add_argument("--runs", type=int, default=5, help="a side, with --power")
    parser.add_argument("--comparisons", type=int, default=16, help="with the first variant, with --power")
    options = parser.parse_args(arguments)
    variants = options.variants.split(",") if options.variants else None
    try:
        if options.sweep:
            made = sweep_table(options.sweep, variants, options.seeds)
        else:
            made = power_table(options.power, options.runs, options.comparisons)
    except BadInput as problem:
        parser.error(str(problem))
    print(made, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
