"""The runs of a sweep as processes, so many at a time on cores of their own: started, told to end, evaluated at last.

In: Jobs. Out: their folders, as train and evaluate leave them, and which of them failed. Called by sweep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mow_jax import files, locks

LONGEST_LINE = 1 << 18  # bytes of a line of metrics.jsonl
PAUSE = 0.2  # seconds between looks at what runs
TRAIN, EVALUATE = "mow_jax.train", "mow_jax.evaluate"
REFUSED = 2  # exit code of a command that could not begin
# What a run's process does first, then becomes `python -m`: takes its cores, asks for SIGTERM at its parent's death.
# (In a child that Python forks, by preexec_fn, this could hang: a process with jax in it has threads.)
PREPARE = """
import ctypes, os, signal, sys
cores, parent, *words = sys.argv[1:]
os.sched_setaffinity(0, map(int, cores.split(",")))
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(parent):
    os.execv(sys.executable, [sys.executable, "-m", *words])
"""
MEMORY = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"  # of a GPU, that jax takes at its start


class Job(NamedTuple):
    """One run of the sweep."""

    variant: str
    seed: int
    directory: Path
    command: list[str]
    minutes: float = math.inf  # of learning, as metrics.jsonl counts them
    actions: str = ""  # by which it is scored; "": as it is configured


def finished(job: Job) -> dict[str, Any] | None:
    """The results of a run that has come to its end or to its minutes, by the job's kind of actions, else None."""
    results = _json(scored(job) / "results.json")
    if results is None or (job.actions and _kind(results) != job.actions):
        return None
    over = results["step"] == _steps(job) or (is_over(job) and results["step"] == newest(job))
    return results if over else None


def _kind(results: dict[str, Any]) -> str | None:
    """By which actions results are, as far as they say it."""
    return results.get("protocol", {}).get("evaluation", {}).get("actions")


def scored(job: Job) -> Path:
    """The folder of the results by the job's kind of actions: the run's, or one in it where it is configured to be
    scored by others."""
    config = _json(job.directory / "config.json") or {}
    own = config.get("evaluation", {}).get("actions")
    return job.directory if job.actions in ("", own) else job.directory / job.actions


def commits(job: Job) -> list[str]:
    """The commits that a run was started, resumed and evaluated at."""
    starts, results = _json(job.directory / "origin.json"), _json(scored(job) / "results.json")
    found = [start.get("commit") for start in [*(starts or []), results or {}] if isinstance(start, dict)]
    return list(dict.fromkeys(filter(None, found)))


def cores(job: Job) -> set[int]:
    """How many cores a run had wherever its devices were CPUs: there scores depend on it, by rounding."""
    said = [start.get("machine", "") for start in _json(job.directory / "origin.json") or [] if isinstance(start, dict)]
    return {int(found[1]) for machine in said if (found := re.fullmatch(r"(\d+) cores, \d+ x cpu", machine))}


def newest(job: Job) -> int:
    """The step of a run's newest checkpoint, -1 without one."""
    try:
        return max(files.numbered(job.directory / "checkpoints"), default=-1)
    except OSError:
        return -1


def seconds(job: Job) -> float:
    """How long a run has learned, by the last whole line of its metrics."""
    return float(_last(job).get("seconds", 0.0))


def lines(job: Job) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without damaged ones and a last one that is still being written."""
    try:
        texts = (job.directory / "metrics.jsonl").read_bytes().split(b"\n")
    except OSError:
        return []
    found: list[Any] = []
    for text in texts[:-1]:
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return [line for line in found if isinstance(line, dict)]


def is_over(job: Job) -> bool:
    """Whether a run has had its minutes by its newest checkpoint: what it had learned since is lost if it was killed
    before it could save."""
    if job.minutes == math.inf:
        return False
    saved = newest(job)
    had = [line.get("seconds", 0.0) for line in lines(job) if line.get("step", 0) <= saved]
    return max(had, default=0.0) >= 60 * job.minutes


def is_trained(job: Job) -> bool:
    """Whether a run has learned to its end and was evaluated there, so that training has nothing left to do."""
    last = _last(job)
    evaluated = any(name.startswith("evaluation/") for name in last)
    return evaluated and last["step"] == newest(job) == _steps(job)


def _steps(job: Job) -> int | None:
    """How many steps a run is to learn for, None where it has not begun."""
    config = _json(job.directory / "config.json")
    return None if config is None else config["train"]["steps"]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _last(job: Job) -> dict[str, Any]:
    """The last whole line of a run's metrics that can be read, empty without one."""
    try:
        with open(job.directory / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
            whole = file.read().splitlines(keepends=True)
    except OSError:
        return {}
    for line in reversed(whole):
        with contextlib.suppress(ValueError):
            if line.endswith(b"\n") and isinstance(found := json.loads(line), dict):
                return found
    return {}


# --- Running ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Open:
    """A job whose process is at work."""

    job: Job
    process: subprocess.Popen
    evaluates: bool  # and must not be cut short
    saved: int  # step of the newest checkpoint when it was started
    before: dict[str, Any]  # the last line of metrics then, of a run before
    asked: bool = False  # to save and end, as its minutes are over


def run(
    jobs: list[Job], at_once: int, write: Callable[[], None], may_begin: Callable[[], bool] = lambda: True
) -> tuple[list[Job], bool]:
    """Runs what is not finished, `at_once` at a time on cores of their own, and calls `write` after each; returns the
    runs that failed, and whether the sweep was asked to stop. Where none `may_begin` any more, those at work end.

    SIGTERM and SIGINT are passed on: every open run saves, an evaluation ends as it is, and so does the sweep. A run in
    whose folder another process is at work (one left behind by a killed sweep, which saves and ends; another sweep)
    waits until that is over.
    """
    waiting, failed, free = list(jobs), [], list(range(at_once))
    open_: dict[int, Open] = {}
    stop = said = False

    def end(*_) -> None:
        nonlocal stop
        stop = True
        for one in open_.values():
            if not one.asked:  # a second signal would end it before it has saved
                one.process.send_signal(signal.SIGTERM)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, end)
    while open_ or (waiting and not stop):
        while free and not stop and (job := _next(waiting)):
            if not may_begin():
                waiting.clear()
                break
            slot = free.pop(0)
            print(f"{job.variant}, seed {job.seed}: {job.directory}.log", flush=True)
            open_[slot] = _start(job, slot, at_once)
            if stop:  # heard while the process was being started
                end()
        if waiting and not open_ and not stop and not said:
            said = True
            print(f"waits for {waiting[0].directory}, which another process is at", flush=True)
        for slot, one in list(open_.items()):
            if one.process.poll() is None:
                _end_in_time(one)
                continue
            free.append(slot)
            del open_[slot]
            if one.process.returncode == REFUSED and not stop and locks.taken(one.job.directory):
                waiting.append(one.job)  # another sweep began it at the same moment
            elif fault := _fault(one, stop):
                failed.append(one.job)
                print(f"{one.job.variant}, seed {one.job.seed} failed: {fault}", file=sys.stderr, flush=True)
            elif finished(one.job) is None:
                waiting.insert(0, one.job)  # saved when its minutes were over: now it is evaluated
            write()
        time.sleep(PAUSE)
    return failed, stop


def _end_in_time(one: Open) -> None:
    """Asks a run whose minutes are over to save and end, once."""
    if one.evaluates or one.asked or one.job.minutes == math.inf:
        return
    if _last(one.job) != one.before and seconds(one.job) >= 60 * one.job.minutes:
        one.asked = True
        one.process.send_signal(signal.SIGTERM)


def _fault(one: Open, stop: bool) -> str:
    """Why a run whose process has ended failed, in a line; empty where it is finished or to be started again."""
    code = one.process.returncode
    if stop and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return ""  # an evaluation, a training that had not begun, or one that was told twice: the same command goes on
    if code in (0, REFUSED) and finished(one.job) is not None:
        return ""  # by this process, or by another one that was at work on the same run
    if code:
        return _last_line(one.job)
    if stop or one.asked or newest(one.job) > one.saved:
        return ""
    place = one.job.directory  # started again it would do the same
    if one.evaluates:
        found = (_json(scored(one.job) / "results.json") or {}).get("step")
        return (
            f"evaluated at step {found}, not at its newest checkpoint, {newest(one.job)}, which may be damaged: python"
            f" -m mow_jax.train --workdir={place} goes on from the last whole one"
        )
    return f"it left no new checkpoint and no results of its end; its last line: {_last_line(one.job)}"


def _next(waiting: list[Job]) -> Job | None:
    """Takes the next run out of those that wait: none that is finished, nor one that another process is at."""
    waiting[:] = [job for job in waiting if finished(job) is None]
    found = next((job for job in waiting if not locks.taken(job.directory)), None)
    if found:
        waiting.remove(found)
    return found


def _start(job: Job, slot: int, at_once: int) -> Open:
    """The run's process, on its share of the cores: an evaluation where it has learned all that it may. It is told to
    save and end when the sweep dies."""
    available = sorted(os.sched_getaffinity(0))
    mine = available[slot % len(available) :: at_once] or available
    evaluates, saved, before = is_over(job) or is_trained(job), newest(job), _last(job)
    words = _evaluation(job) if evaluates else job.command
    own = on_gpus(_gpus(), slot, at_once) if at_once > 1 else {}
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{job.directory}.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PREPARE, ",".join(map(str, mine)), str(os.getpid()), *words],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone, which passes it on once
        )
    return Open(job, process, evaluates, saved, before)


def on_gpus(gpus: list[str], slot: int, at_once: int) -> dict[str, str]:
    """The environment of a run beside others: a GPU of its own or, where there are fewer, a share of one's memory, of
    which jax would take three quarters for each run."""
    if not gpus:
        return {}
    sharing = -(-at_once // len(gpus))
    own = {MEMORY[0]: f"{0.9 / sharing:.2f}"} if sharing > 1 and not os.environ.keys() & set(MEMORY) else {}
    return own | {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]}


def _gpus() -> list[str]:
    """The GPUs of NVIDIA that this process may use, by what CUDA_VISIBLE_DEVICES calls them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None or not shutil.which("nvidia-smi"):
        return [name for name in (named or "").split(",") if name]
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    parts = re.findall(r"UUID: (MIG-[^)\s]+)", listed)  # of GPUs that are divided, which then are none themselves
    return parts or re.findall(r"UUID: (GPU-[^)\s]+)", listed)


def _evaluation(job: Job) -> list[str]:
    """The words that score a run by the job's kind of actions."""
    place = scored(job)
    apart = [f"--actions={job.actions}", f"--out={place}"] if place != job.directory else []
    return [EVALUATE, f"--workdir={job.directory}", *apart]


def _last_line(job: Job) -> str:
    lines = Path(f"{job.directory}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
