"""The outcomes that docs/m3po.md fixes, before any run, for its comparison of bonus and trust region.

    python benchmarks/bonus_outcomes.py --sweep=runs/bonus

How far fresh rows moved each run's policy, by which a run with a trust region counts or does not; then both outcomes,
means over seeds with 95% t intervals, and each variant less the one that it is compared with (Welch, Holm). Prints
Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from ablation_outcomes import MEAN, at_end, refuse_mixed

from mow_jax.report import compare, inference, sweeps
from mow_jax.report.data import Run
from mow_jax.types import BadInput

STEPS, BAR = 12_000, 0.8
LEAST = 0.2  # of the step on replay: a run with a trust region counts from there on
TRUST = ("sparse_none", "sparse_clipped", "sparse_reward")
BESIDE = {"sparse_acts": "sparse_tdmpc2", "sparse_none": "sparse_acts"} | dict.fromkeys(TRUST[1:], "sparse_none")
VARIANTS = ("sparse_tdmpc2", *BESIDE)
MOVED = ("fresh/step", "fresh/replay_step")


def first_at_bar(run: Run) -> float:
    """Thousands of steps until the first evaluation at BAR or above; all of them where there is none."""
    score = run.metrics["evaluation/mean"]
    return float(min([*score.step[score.value >= BAR], STEPS])) / 1000


OUTCOMES = {
    f"first evaluation at or above {BAR}, thousands of steps": first_at_bar,
    "final score": lambda run: at_end(run.results or {})[MEAN],
}


def ratio(run: Run) -> float:
    """The policy's step by a round on fresh rows beside that by replay, means over the run; NaN where no round is."""
    fresh, replay = (run.metrics[name].value.mean() if name in run.metrics else np.nan for name in MOVED)
    return float(fresh / replay)


def read(folder: Path) -> dict[str, dict[str, Run]]:
    """{variant: {seed: run}}, every variant with the same seeds. Raises BadInput that names all that is missing, or
    runs that were not scored alike."""
    groups = compare.read([str(folder)])
    found = {name: {run.directory.name: run for run in groups.get(name, [])} for name in VARIANTS}
    seeds = sorted({seed for runs in found.values() for seed in runs}, key=lambda seed: (len(seed), seed))
    fault = {f"{name}/{seed}": lacks(name, found[name].get(seed)) for name in VARIANTS for seed in seeds or ["SEED"]}
    if lacking := [f"{place} ({text})" for place, text in fault.items() if text]:
        raise BadInput(f"{folder} is no finished sweep of docs/m3po.md: {', '.join(lacking)}; run the rest")
    refuse_mixed({run.directory: run.results or {} for runs in found.values() for run in runs.values()})
    return {name: {seed: runs[seed] for seed in seeds} for name, runs in found.items()}


def lacks(name: str, run: Run | None) -> str:
    """What a run of a variant needs and does not have."""
    if run is None:
        return "no run"
    if run.results is None or run.results["step"] != STEPS:
        return f"not evaluated at step {STEPS:,}"
    if any(task["normalised"] is None for task in run.results["tasks"].values()):
        return "no score"
    wanted = ("evaluation/mean", *MOVED * (name in TRUST))
    return ", ".join(f"no {metric}" for metric in wanted if metric not in run.metrics)


def tables(folder: Path) -> str:
    """The step ratios, and a table an outcome of the runs that count."""
    runs = read(folder)
    ratios = {name: {seed: ratio(run) for seed, run in held.items()} for name, held in runs.items()}
    out = [f"{name}/{seed}" for name in TRUST for seed, value in ratios[name].items() if not value >= LEAST]
    counted = {name: [run for seed, run in held.items() if f"{name}/{seed}" not in out] for name, held in runs.items()}
    cell = lambda value: "–" if np.isnan(value) else f"{value:.2f}"
    rows = [["step on fresh rows / on replay", *(f"seed {seed}" for seed in runs[VARIANTS[0]])]]
    rows += [[name, *map(cell, held.values())] for name, held in ratios.items()]
    said = f"\nWith a trust region and under {LEAST}, so not counted: {', '.join(out) or 'none'}.\n"
    return "\n".join([sweeps.markdown(rows) + said, *(_outcome(counted, outcome) for outcome in OUTCOMES)])


def _outcome(counted: dict[str, list[Run]], outcome: str) -> str:
    values = {name: np.array([OUTCOMES[outcome](run) for run in runs]) for name, runs in counted.items()}
    pair = lambda name, other: (values[name], values[other]) if len(values[name]) and len(values[other]) else None
    pairs = {name: pair(name, other) for name, other in BESIDE.items()}
    cells, verdict = inference.against("the variant named beside it", pairs)
    rows = [["variant", "runs", f"{outcome} [95%, t]", "less", "difference [95%, Welch]"]]
    for name, held in values.items():
        mean = f"{held.mean():.3f}" if len(held) else "–"
        around = " [{:.3f}, {:.3f}]".format(*inference.interval(held)) if len(held) > 1 else ""
        rows.append([name, str(len(held)), mean + around, BESIDE.get(name, "–"), cells.get(name, "–")])
    return sweeps.markdown(rows) + f"\n{verdict}\n" * bool(verdict)


def main(arguments: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, required=True, metavar="DIR", help="the sweep's folder")
    try:
        print(tables(parser.parse_args(arguments).sweep), end="")
    except BadInput as problem:
        parser.error(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
