"""Variants of an experiment times seeds: each a training run of its own, and one table of all.

    python -m mow_jax.sweep --config=experiments/toy.py --variants=mow,one --seeds=0,1,2 --workdir=runs/sweep --jobs=2

A run is `python -m mow_jax.train` in DIR/VARIANT/SEED; given again, the command goes on from checkpoints and leaves
finished runs alone. Overrides (--config.key=value) go to every run; of --config=FILE:NAME, NAME/ goes before every
variant. Writes DIR/sweep.json (runs, scores), table.md, figure.png and commands.sh. On a cluster: launch/sweep.sbatch.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import functools
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mow_jax import checks, command, config
from mow_jax.envs import suites
from mow_jax.report import reproduce, scores
from mow_jax.types import BadInput

LONGEST_LINE = 1 << 18  # bytes of a line of metrics.jsonl
PAUSE = 0.2  # seconds between looks at what runs
TRAIN, EVALUATE = "mow_jax.train", "mow_jax.evaluate"
# Keys that say nothing of what a run learns: they may differ from those that a finished run had.
FREE = ("checkpoint", "log", "actors", "train.schedule_steps", "evaluation.every")


class Job(NamedTuple):
    """One run of the sweep."""

    variant: str
    seed: int
    directory: Path
    command: list[str]
    minutes: float = math.inf  # of learning, as metrics.jsonl counts them


def plan(config: str, variants: list[str], seeds: list[int], directory: Path, **options) -> list[Job]:
    """All runs, seed by seed, so that every variant has a first result early."""
    return [_job(config, variant, seed, directory, **options) for seed in seeds for variant in variants]


def _job(file: str, variant: str, seed: int, directory: Path, overrides: list[str], minutes: float) -> Job:
    place = directory / (variant.replace("/", "_") or "default") / str(seed)
    name, _, before = file.partition(":")
    called = "/".join(filter(None, (before, variant)))
    experiment = f"--config={name}:{called}" if called else f"--config={name}"
    words = [TRAIN, experiment, f"--config.seed={seed}", f"--workdir={place}", *overrides]
    return Job(variant or "default", seed, place, words, minutes)


def check(jobs: list[Job]) -> None:
    """Raises BadInput for a run that would be refused, that is another one over again, or whose folder holds a run of
    other settings. The settings are those of the first seed: they differ in nothing else."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.variant, job)
    made = {name: _settings(job) for name, job in first.items()}
    effects = {}
    for name, settings in made.items():
        config.check(settings)
        effects[name] = config.effective(settings, len(suites.expand(settings.suite.name, settings.suite.tasks)))
    for one, other in itertools.combinations(first, 2):
        if effects[one] | {"seed": None} == effects[other] | {"seed": None}:
            raise BadInput(f"variants {one!r} and {other!r} are the same run on this suite: leave one of them out")
    for job in jobs:
        _refuse_another(job, made[job.variant])


def _settings(job: Job) -> Any:
    """The config of a run, without its seed."""
    return command.settings([word for word in job.command if word.partition("=")[0] != "--workdir"][1:])


def _refuse_another(job: Job, settings: Any) -> None:
    """Raises BadInput where the run's folder holds a run of other settings."""
    try:
        saved = json.loads((job.directory / "config.json").read_text())
    except (OSError, ValueError):
        return  # there is none yet, or training says what is wrong with it
    plain = lambda settings: checks.flat(json.loads(json.dumps(settings.to_dict(), default=list)))
    wanted, found = plain(settings), checks.flat(saved)
    own = [key for key in wanted if key != "seed" and not any(key == f or key.startswith(f + ".") for f in FREE)]
    for key in own:
        if key in found and found[key] != wanted[key]:
            raise BadInput(
                f"{job.directory} holds a run with {key}={found[key]!r}, not {wanted[key]!r}: give the sweep's first"
                " command again, or another --workdir"
            )


def finished(job: Job) -> dict[str, Any] | None:
    """The results of a run that has come to its end or to its minutes, else None."""
    try:
        results = json.loads((job.directory / "results.json").read_text())
        config = json.loads((job.directory / "config.json").read_text())
        newest = max(int(path.name) for path in (job.directory / "checkpoints").iterdir() if path.name.isdecimal())
    except (OSError, ValueError):
        return None
    over = results["step"] == config["train"]["steps"] or (is_over(job) and results["step"] == newest)
    return results if over else None


def seconds(job: Job) -> float:
    """How long a run has learned, by the last whole line of its metrics."""
    try:
        with open(job.directory / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
            whole = file.read().splitlines(keepends=True)
    except OSError:
        return 0.0
    ended = [line for line in whole if line.endswith(b"\n")]
    return float(json.loads(ended[-1])["seconds"]) if ended else 0.0


def is_over(job: Job) -> bool:
    """Whether a run has had its minutes."""
    return seconds(job) >= 60 * job.minutes


# --- Running ----------------------------------------------------------------------------------------------------------


def run(jobs: list[Job], at_once: int, write: Callable[[], None]) -> tuple[list[Job], bool]:
    """Runs what is not finished, `at_once` at a time on cores of their own, and calls `write` after each; returns the
    runs that failed, and whether the sweep was asked to stop.

    SIGTERM and SIGINT are passed on: every open run saves, and the sweep ends. A run in whose folder another process is
    at work (one left behind by a killed sweep, which saves and ends; another sweep) waits until that is over.
    """
    waiting, failed, free = list(jobs), [], list(range(at_once))
    open_: dict[int, tuple[Job, subprocess.Popen]] = {}
    ending: set[int] = set()
    stop = False

    def end(*_) -> None:
        nonlocal stop
        stop = True
        for _, process in open_.values():
            process.send_signal(signal.SIGTERM)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, end)
    while open_ or (waiting and not stop):
        while free and not stop and (job := _next(waiting)):
            slot = free.pop(0)
            print(f"{job.variant}, seed {job.seed}: {job.directory}.log", flush=True)
            if is_over(job):
                ending.add(slot)  # it is evaluated, which must not be cut short
            open_[slot] = job, _start(job, slot, at_once)
        for slot, (job, process) in list(open_.items()):
            if process.poll() is None:
                if slot not in ending and is_over(job):
                    ending.add(slot)
                    process.send_signal(signal.SIGTERM)
                continue
            ending.discard(slot)
            free.append(slot)
            del open_[slot]
            if process.returncode:
                failed.append(job)
                print(f"{job.variant}, seed {job.seed} failed: {_last_line(job)}", file=sys.stderr, flush=True)
            elif finished(job) is None:
                waiting.insert(0, job)  # saved when its minutes were over: now it is evaluated
            write()
        time.sleep(PAUSE)
    return failed, stop


def _next(waiting: list[Job]) -> Job | None:
    """Takes the next run out of those that wait: none that is finished, nor one that another process is at."""
    waiting[:] = [job for job in waiting if finished(job) is None]
    found = next((job for job in waiting if not is_locked(job)), None)
    if found:
        waiting.remove(found)
    return found


def is_locked(job: Job) -> bool:
    """Whether a process is at work in the run's folder."""
    try:
        with (job.directory / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _start(job: Job, slot: int, at_once: int) -> subprocess.Popen:
    """The run's process, on its share of the cores; it is told to save and end when the sweep dies."""
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[slot % len(cores) :: at_once] or cores
    libc, asks_at_death = ctypes.CDLL(None), 1  # PR_SET_PDEATHSIG

    def prepare() -> None:
        os.sched_setaffinity(0, mine)
        libc.prctl(asks_at_death, signal.SIGTERM)

    words = [EVALUATE, f"--workdir={job.directory}"] if is_over(job) else job.command
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{job.directory}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,
            start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone, which passes it on once
        )


def _last_line(job: Job) -> str:
    lines = Path(f"{job.directory}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


# --- The table --------------------------------------------------------------------------------------------------------


def write(jobs: list[Job], directory: Path, words: list[str]) -> None:
    """sweep.json (every run: command, commit, seconds, normalised scores), table.md and commands.sh, which makes them
    again; `words` are the sweep's own arguments."""
    runs = [entry(job, results) for job in jobs if (results := finished(job)) is not None]
    _put(directory / "sweep.json", json.dumps(runs, indent=1) + "\n")
    _put(directory / "table.md", table(runs))
    made = [f"# {run['variant']}, seed {run['seed']}, at {run['commit']}:\n# {run['command']}" for run in runs]
    commits = sorted({run["commit"].rstrip("+") for run in runs}) or ["COMMIT"]
    lines = [*reproduce.install(commits[0], {}), shlex.join(["python", "-m", "mow_jax.sweep", *words]), "", *made]
    mixed = [f"# Runs are of several commits: {', '.join(commits)}."] * (len(commits) > 1)
    _put(directory / "commands.sh", "\n".join(["# What made the table beside it.", *mixed, *lines]) + "\n")


def draw(directory: Path) -> None:
    """figure.png of what sweep.json holds, where that is anything."""
    from mow_jax.report import comparing  # draws with matplotlib, which takes a second to import

    comparing.overview(json.loads((directory / "sweep.json").read_text()), directory / "figure.png")


def _put(path: Path, text: str) -> None:
    """A file whole or not at all: jobs of an array write the same ones."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def entry(job: Job, results: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run."""
    return {
        "variant": job.variant,
        "seed": job.seed,
        "command": shlex.join(["python", "-m", *job.command]),
        "commit": results["commit"],
        "seconds": round(seconds(job)),
        "step": results["step"],
        "tasks": {name: task["normalised"] for name, task in results["tasks"].items()},
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: every run, then a row a variant with the mean over its seeds and its 95% t interval."""
    if not runs:
        return "no run has finished yet\n"
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
    return f"{_markdown(summary)}\n{_markdown(rows)}"


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


# --- The command ------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser("python -m mow_jax.sweep", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", required=True, metavar="FILE", help="an experiment file")
    parser.add_argument("--variants", default="", help="names that its get_config takes, A,B,...; none: its default")
    parser.add_argument("--seeds", default="0", help="whole numbers, 0,1,2")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="folder of the sweep")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; 0: none, only the table of what is finished")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end a run once it has learned for so long")
    parser.add_argument(
        "--only", type=int, metavar="I", help="of all runs, in order, only the I-th from 0: a job array's"
    )
    parser.add_argument("--count", action="store_true", help="print how many runs there are, and do nothing")
    parser.add_argument("--preempted_exit_code", type=int, default=0, help="after SIGTERM or SIGINT with runs left")
    options, overrides = parser.parse_known_args(arguments)
    try:
        jobs = _checked(options, overrides)
        if options.count:
            print(len(jobs))
            return 0
        options.workdir.mkdir(parents=True, exist_ok=True)
    except (BadInput, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    mine = jobs if options.only is None else [jobs[options.only]]
    record = functools.partial(write, jobs, options.workdir, _without(arguments, "--only", "--preempted_exit_code"))
    failed, stopped = run(mine, options.jobs, record) if options.jobs else ([], False)
    record()
    draw(options.workdir)
    print((options.workdir / "table.md").read_text(), flush=True)
    left = sum(finished(job) is None for job in mine)
    if left:
        print(f"{left} of {len(mine)} runs are not finished: the same command goes on", flush=True)
    return 1 if failed else options.preempted_exit_code if left and stopped else 0


def _without(arguments: list[str], *names: str) -> list[str]:
    """The arguments but for some, given as --name=value."""
    return [word for word in arguments if word.partition("=")[0] not in names]


def _checked(options: argparse.Namespace, overrides: list[str]) -> list[Job]:
    """The runs that the options mean. Raises BadInput."""
    command.experiment_file(options.config)  # each run finds it again
    stray = [word for word in overrides if not word.startswith("--config.") or "=" not in word]
    if stray:
        raise BadInput(f"{stray[0]!r} is not understood: overrides are given as --config.key=value, see --help")
    if options.jobs < 0 or not options.minutes > 0:
        raise BadInput(f"--jobs={options.jobs} must be at least 0, --minutes={options.minutes} greater than 0")
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise BadInput(f"--seeds={options.seeds} must be whole numbers with commas between: 0,1,2") from None
    variants = options.variants.split(",")
    if len(set(seeds)) < len(seeds) or len(set(variants)) < len(variants):
        raise BadInput(f"--variants={options.variants} or --seeds={options.seeds} names one twice: name each once")
    each = dict(overrides=overrides, minutes=options.minutes)
    jobs = plan(options.config, variants, seeds, options.workdir, **each)
    if options.only is not None and not 0 <= options.only < len(jobs):
        raise BadInput(f"--only={options.only} is none of the {len(jobs)} runs: use 0 to {len(jobs) - 1}")
    check(jobs)
    return jobs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
