"""Variants of an experiment times seeds: each a training run of its own, and one table of all.

    python -m mow_jax.sweep --config=experiments/toy.py --variants=mow,one --seeds=0,1,2 --workdir=runs/sweep --jobs=2

A run is `python -m mow_jax.train` in DIR/VARIANT/SEED; given again, the command goes on from checkpoints, at the same
commit only, and leaves finished runs alone. Overrides (--config.key=value) go to every run; of --config=FILE:NAME,
NAME/ goes before every variant. Writes DIR/sweep.json (runs, scores), table.md, figure.png and commands.sh; with
--actions=KIND into DIR/KIND, of scores by this kind of actions. On a cluster: launch/sweep.sbatch.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mow_jax import checks, command, config, files, locks, origin
from mow_jax.envs import suites
from mow_jax.jobs import TRAIN, Job, commits, cores, finished, lines, run, seconds
from mow_jax.report import data, reproduce, sweeps
from mow_jax.types import BadInput

# Keys that say nothing of what a run learns, but where its system locks them: they may differ from a finished run's.
FREE = ("checkpoint", "log", "actors", "evaluation.every")


def plan(config: str, variants: list[str], seeds: list[int], directory: Path, **options) -> list[Job]:
    """All runs, seed by seed, so that every variant has a first result early."""
    return [_job(config, variant, seed, directory, **options) for seed in seeds for variant in variants]


def _job(
    file: str, variant: str, seed: int, directory: Path, overrides: list[str], minutes: float, actions: str = ""
) -> Job:
    place = directory / (variant.replace("/", "_") or "default") / str(seed)
    name, _, before = file.partition(":")
    called = "/".join(filter(None, (before, variant)))
    experiment = f"--config={name}:{called}" if called else f"--config={name}"
    words = [TRAIN, experiment, f"--config.seed={seed}", f"--workdir={place}", *overrides]
    return Job(variant or "default", seed, place, words, minutes, actions)


def check(jobs: list[Job]) -> None:
    """Raises BadInput for a run that would be refused, that is another one over again, or whose folder holds a run of
    other settings. The settings are those of the first seed: they differ in nothing else."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.variant, job)
    for one, other in itertools.combinations(first, 2):
        if (place := first[one].directory.parent) == first[other].directory.parent:
            raise BadInput(
                f"variants {one!r} and {other!r} would share {place}: in folders' names a slash becomes a _; rename a"
                " file"
            )
    made = {name: _settings(job) for name, job in first.items()}
    effects = {}
    for name, settings in made.items():
        config.check(settings)
        if first[name].actions:
            scored = settings.copy_and_resolve_references()
            scored.evaluation.actions = first[name].actions
            config.check(scored)
        effects[name] = config.effective(settings, len(suites.expand(settings.suite.name, settings.suite.tasks)))
    for one, other in itertools.combinations(first, 2):
        if effects[one] | {"seed": None} == effects[other] | {"seed": None}:
            raise BadInput(f"variants {one!r} and {other!r} are the same run on this suite: leave one of them out")
    for job in jobs:
        _refuse_another(job, made[job.variant])


def _settings(job: Job) -> Any:
    """The config of a run, without its seed."""
    return command.settings(_words(job))


def _words(job: Job) -> list[str]:
    """What says a run's settings: its command without module and folder."""
    return [word for word in job.command if word.partition("=")[0] != "--workdir"][1:]


def refused(jobs: list[Job], mine: list[Job]) -> int:
    """The exit code of a trial of the variants that have nothing yet in this sweep's part of the runs: not 0 once one
    has said why it could not begin. Where a run is at work already there is no trial, which would want its devices."""
    fresh = [job for job in mine if not (job.directory / "config.json").exists()]
    if not fresh or any(locks.taken(job.directory) for job in jobs):
        return 0
    each = {job.variant: [str(job.directory), _words(job)] for job in reversed(fresh)}
    words, asked = [sys.executable, "-m", "mow_jax.trial"], json.dumps(list(each.values()))
    modest = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # an accelerator may have other users
    return subprocess.run(words, input=asked, text=True, env=modest, check=False).returncode


@contextlib.contextmanager
def compiled_once(options: argparse.Namespace, runs: int) -> Iterator[None]:
    """What one of several runs has compiled the others load, seeds of a variant for one: by jax's own cache, in a
    folder that goes with the sweep (unless it is killed), as programs are of one machine; where
    JAX_COMPILATION_CACHE_DIR is set, in that. Not where runs have equal minutes, in which each compiles for itself,
    nor unequal numbers of cores, as a CPU's program is of so many."""
    cores = len(os.sched_getaffinity(0))
    uneven = cores > options.jobs > 0 and cores % options.jobs
    if runs < 2 or uneven or options.minutes < math.inf or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mow_jax_compiled_", ignore_cleanup_errors=True) as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["JAX_COMPILATION_CACHE_DIR"]


def _refuse_another(job: Job, settings: Any) -> None:
    """Raises BadInput where the run's folder holds a run of other settings."""
    try:
        written = json.loads((job.directory / "config.json").read_text())
        saved, began = config.of_saved(written), config.kept(written, settings, _words(job))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # there is none yet, or training says what is wrong with it
    plain = lambda settings: checks.scheduled(checks.flat(json.loads(json.dumps(settings.to_dict(), default=list))))
    wanted, found = plain(settings) | {"seed": job.seed} | began, plain(saved)
    under = lambda key, keys: any(key == other or key.startswith(f"{other}.") for other in keys)
    locked = config.of_system(settings.system).LOCKED
    for key in [key for key in wanted if not under(key, FREE) or under(key, locked)]:
        if (had := found.get(key)) != wanted[key]:
            raise BadInput(
                f"{job.directory} holds a run with {key}={had!r}, not {wanted[key]!r}: give the sweep's first command"
                " again, or another --workdir"
            )


def refuse_another_commit(jobs: list[Job], mine: list[Job]) -> None:
    """Raises BadInput where there is something left to run, and runs in the sweep's folder, those of its other commands
    too, are of other code than this."""
    now, left = origin.commit(), any(finished(job) is None for job in mine)
    beside = {path.parent for path in jobs[0].directory.parents[1].glob("*/*/*.json")}
    beside -= {job.directory for job in jobs}
    for job in [*jobs, *(jobs[0]._replace(directory=folder) for folder in sorted(beside))] if left else ():
        if others := [commit for commit in commits(job) if commit != now]:
            raise BadInput(
                f"{job.directory} is of commit {others[0]}, and this is {now}: their scores would not compare. Go on"
                f" from a checkout of {others[0].partition('+')[0]} (a clone of its own stays as it is), give another"
                " --workdir, or --allow_other_commit to mix them"
            )


# --- The table --------------------------------------------------------------------------------------------------------


def write(jobs: list[Job], directory: Path, words: list[str]) -> None:
    """sweep.json (every run: command, commit, versions, seconds, normalised scores), table.md and commands.sh, which
    makes them again; `words` are the sweep's own arguments."""
    with locks.in_turn(directory / ".table.lock"):  # or the last job of an array to write might not know the last run
        order = list(dict.fromkeys(job.variant for job in jobs))
        plan = {name: {"first": order[0], "place": place} for place, name in enumerate(order)}
        runs = [entry(job, results) | plan[job.variant] for job in jobs if (results := finished(job)) is not None]
        _put(directory / "sweep.json", json.dumps(runs, indent=1) + "\n")
        _put(directory / "table.md", sweeps.table(runs))
        _put(directory / "commands.sh", script(runs, words))


def script(runs: list[dict[str, Any]], words: list[str]) -> str:
    """What makes the runs again, at the commit and with the versions of one: one whose files differed, if any did."""
    made = [f"# {run['variant']}, seed {run['seed']}, at {run['commit']}:\n# {run['command']}" for run in runs]
    known = sorted(runs, key=lambda run: ("+" not in run["commit"], run["commit"]))
    source: dict[str, Any] = known[0] if known else {"commit": "COMMIT", "versions": {}}
    commits, common = dict.fromkeys(run["commit"] for run in known), [set(run["versions"]) for run in runs]
    both = sorted(set.intersection(*common)) if common else []  # later commits name more packages
    versions = {str([run["versions"][name] for name in both]) for run in runs}
    mixed = [f"# Runs are of several commits: {', '.join(commits)}."] * (len(commits) > 1)
    mixed += ["# Runs are of several versions of packages: each results.json has its own."] * (len(versions) > 1)
    if had := sorted({count for run in runs for count in run.get("cores", ())}):
        mixed.append(
            f"# Each run had {' or '.join(map(str, had))} CPU core{'s' * (had != [1])} (taskset, --jobs): by rounding,"
            " scores depend on it."
        )
    lines = reproduce.install(source["commit"], source["versions"])
    lines.append(shlex.join(["python", "-m", "mow_jax.sweep", *words]))
    return "\n".join(["# What made the table beside it.", *mixed, *lines, "", *made]) + "\n"


def draw(directory: Path) -> None:
    """figure.png of what sweep.json holds, where that is anything."""
    from mow_jax.report import comparing, plotting  # draw with matplotlib, which takes a second to import

    runs = sweeps.in_order(json.loads((directory / "sweep.json").read_text()))
    runs = sweeps.by_returns(runs) or runs
    looks = plotting.looks(dict.fromkeys(run["variant"] for run in runs))
    comparing.overview(runs, looks, directory / "figure.png")


def _put(path: Path, text: str) -> None:
    """A file whole or not at all: jobs of an array write the same ones. Raises BadInput where it cannot be written."""
    try:
        with files.whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror}; free space, make it writable, or give another --workdir"
        ) from None


def entry(job: Job, results: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run."""
    parameters, active = data.sizes(job.directory)
    own = {
        "variant": job.variant,
        "seed": job.seed,
        "command": shlex.join(["python", "-m", *job.command]),
        "versions": results.get("versions", {}),
        "seconds": round(seconds(job)),
        "cores": sorted(cores(job)),
        "core_seconds": round(data.core_seconds(lines(job))),
        "parameters": parameters,
        "active": active,
    }
    return own | sweeps.scored(results)


# --- The command ------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser("python -m mow_jax.sweep", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", required=True, metavar="FILE", help="an experiment file")
    parser.add_argument("--variants", default="", help="names that its get_config takes, A,B,...; none: its default")
    parser.add_argument("--seeds", default="0", help="whole numbers, 0,1,2")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="folder of the sweep")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at once, each on cores and GPUs of its own; 0: none, the table alone"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="end a run once it has learned for so long")
    parser.add_argument(
        "--actions",
        choices=("sampled", "best"),
        default="",
        help="score all runs by these, whatever each is configured for: the table is in DIR/ACTIONS, results of others"
        " than a run's own kind in RUN/ACTIONS",
    )
    parser.add_argument(
        "--only", type=int, metavar="I", help="of all runs, in order, only the I-th from 0: a job array's"
    )
    parser.add_argument("--count", action="store_true", help="print how many runs there are, and do nothing")
    parser.add_argument("--preempted_exit_code", type=int, default=0, help="after SIGTERM or SIGINT with runs left")
    parser.add_argument("--allow_other_commit", action="store_true", help="go on though runs are of another commit")
    options, overrides = parser.parse_known_args(arguments)
    return command.guarded(lambda: _sweep(arguments, options, overrides))


def _sweep(arguments: list[str], options: argparse.Namespace, overrides: list[str]) -> int:
    jobs = _checked(options, overrides)
    if options.count:
        print(len(jobs))
        return 0
    mine = jobs if options.only is None else [jobs[options.only]]
    if options.jobs:
        _end_when_told(options.preempted_exit_code)
        if code := refused(jobs, mine):
            return code
    place = options.workdir / options.actions
    place.mkdir(parents=True, exist_ok=True)
    # What makes the table again makes all runs.
    words = _without(arguments, "--only", "--preempted_exit_code", *["--jobs"] * (not options.jobs))
    record = functools.partial(write, jobs, place, words)
    begun = origin.commit()
    unchanged = lambda: options.allow_other_commit or origin.commit() == begun
    record()  # what cannot be written then could not be after hours
    with compiled_once(options, len(mine)):
        failed, stopped = run(mine, options.jobs, record, unchanged) if options.jobs else ([], False)
    record()
    print((place / "table.md").read_text(encoding="utf-8"), flush=True)
    draw(place)
    left = sum(finished(job) is None for job in mine)
    if left:
        print(f"{left} of {len(mine)} runs are not finished: the same command goes on", flush=True)
    if left and options.jobs and not unchanged():
        print(
            f"error: the checkout was of commit {begun} and is of {origin.commit()}, so that no further run was begun:"
            " bring it back, or give --allow_other_commit to mix them",
            file=sys.stderr,
        )
        return 2
    return 1 if failed else options.preempted_exit_code if left and stopped else 0


def _end_when_told(code: int) -> None:
    """How SIGTERM and SIGINT end a sweep before its first run begins; jobs.run has its own way."""

    def end(*_) -> None:
        print("told to end before a run began: the same command begins", flush=True)
        sys.exit(code)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, end)


def _without(arguments: list[str], *names: str) -> list[str]:
    """The arguments but for some, given as --name=value or --name value."""
    kept, before = [], ""
    for word in arguments:
        if word.partition("=")[0] not in names and before not in names:
            kept.append(word)
        before = word
    return kept


def _checked(options: argparse.Namespace, overrides: list[str]) -> list[Job]:
    """The runs that the options mean. Raises BadInput."""
    command.experiment_file(options.config)  # each run finds it again
    stray = [word for word in overrides if not word.startswith("--config.") or "=" not in word]
    if stray:
        raise BadInput(f"{stray[0]!r} is not understood: overrides are given as --config.key=value, see --help")
    if any(word.startswith("--config.seed=") for word in overrides):
        raise BadInput("--config.seed=N would be every run's seed, whatever its folder says: give --seeds=N,M,...")
    if options.jobs < 0 or not options.minutes > 0:
        raise BadInput(f"--jobs={options.jobs} must be at least 0, --minutes={options.minutes} greater than 0")
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise BadInput(f"--seeds={options.seeds} must be whole numbers with commas between: 0,1,2") from None
    variants = options.variants.split(",")
    if len(set(seeds)) < len(seeds) or len(set(variants)) < len(variants):
        raise BadInput(f"--variants={options.variants} or --seeds={options.seeds} names one twice: name each once")
    each = dict(overrides=overrides, minutes=options.minutes, actions=options.actions)
    jobs = plan(options.config, variants, seeds, options.workdir, **each)
    if options.only is not None and not 0 <= options.only < len(jobs):
        raise BadInput(f"--only={options.only} is none of the {len(jobs)} runs: use 0 to {len(jobs) - 1}")
    check(jobs)
    if options.jobs and not options.allow_other_commit and not options.count:
        refuse_another_commit(jobs, jobs if options.only is None else [jobs[options.only]])
    return jobs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
