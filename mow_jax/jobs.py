"""The runs of a sweep as processes, so many at a time on cores of their own: started, told to end, evaluated at last.

In: Jobs. Out: their folders, as train and evaluate leave them, and which of them failed. Called by sweep.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_LINE = 1 << 18  # bytes of a line of metrics.jsonl
PAUSE = 0.2  # seconds between looks at what runs
TRAIN, EVALUATE = "mow_jax.train", "mow_jax.evaluate"


class Job(NamedTuple):
    """One run of the sweep."""

    variant: str
    seed: int
    directory: Path
    command: list[str]
    minutes: float = math.inf  # of learning, as metrics.jsonl counts them


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
