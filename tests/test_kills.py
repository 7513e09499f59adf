"""Twenty kills, at random moments, in saves and in evaluations, and a run still ends like one that nobody disturbed."""

from __future__ import annotations

import collections
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import TINY, assert_same_run, metrics, start, train

pytestmark = pytest.mark.long

SEED = 20  # of the moments; any other will do
COUNTS = {"anywhere": 12, "save": 4, "evaluation": 4}


def saving(workdir: Path) -> bool:
    """A checkpoint is being written."""
    return any((workdir / "checkpoints").glob("temporary-[0-9]*"))


def evaluating(workdir: Path) -> bool:
    """The checkpoint that comes before an evaluation is there, the evaluation's line is not."""
    lines = metrics(workdir)
    done = {line["step"] for line in lines if any(name.startswith("evaluation/") for name in line)}
    return any((workdir / "checkpoints" / str(step)).exists() and step not in done for step in (40, 64))


PLACES: dict[str, Callable[[Path], bool]] = {"anywhere": lambda _: True, "save": saving, "evaluation": evaluating}


def killed(workdir: Path, place: str, seconds: float) -> bool:
    """Starts the run and kills it so many seconds after it has come to a place, if it is there still; False where it
    ended before."""
    process = start("train", f"--config={TINY}", f"--workdir={workdir}")
    there = PLACES[place]
    while process.poll() is None:
        if there(workdir):
            time.sleep(seconds)
            process.send_signal(signal.SIGSTOP)  # so that the place cannot change before the kill
            if there(workdir):
                process.kill()
                break
            process.send_signal(signal.SIGCONT)
        time.sleep(0.0005)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def test_twenty_kills_leave_no_trace(tmp_path):
    whole = tmp_path / "whole"
    train(whole)  # compiles for all
    shutil.rmtree(whole)
    began = time.monotonic()
    train(whole)
    duration = time.monotonic() - began
    draw = random.Random(SEED)
    longest = {"anywhere": duration, "save": 0.1, "evaluation": 0.5}  # seconds that the kill waits
    places = [place for place, count in COUNTS.items() for _ in range(count)]
    draw.shuffle(places)
    hits: collections.Counter = collections.Counter()
    runs = [tmp_path / "killed-0"]
    while places:
        if killed(runs[-1], places[-1], draw.uniform(0, longest[places[-1]])):
            hits[places.pop()] += 1
        else:  # a run ended: it is compared, and the next one begins
            assert_same_run(whole, runs[-1])
            runs.append(tmp_path / f"killed-{len(runs)}")
    train(runs[-1])
    assert_same_run(whole, runs[-1])
    print(f"{hits.total()} kills ({dict(hits)}) over {len(runs)} runs of {duration:.0f} s")
