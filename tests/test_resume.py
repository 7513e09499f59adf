"""A run killed at any moment and started again ends exactly like one that was never interrupted."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from processes import TINY, assert_same_run, digests, kill_when, metrics, run, start, stop_when, train
from system import needs_renderer

pytestmark = pytest.mark.slow

MOMENTS = {
    "collection": lambda w: any((w / "replay").rglob("*.rows")),
    "warm-up": lambda w: any(0 < line["update"] < 12 for line in metrics(w)),
    "a save": lambda w: any((w / "checkpoints").glob("temporary-*")),
    "training": lambda w: any(line["update"] > 15 for line in metrics(w)),
}


def config_of(suite: str) -> str:
    """The tiny run on "toy", "atari" or "metaworld"."""
    return f"{TINY}:{suite}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs by suite, each made when it is first asked for."""

    @functools.cache
    def of(suite: str) -> Path:
        workdir = tmp_path_factory.mktemp(suite) / "run"
        train(workdir, config=config_of(suite))
        return workdir

    return of


# Moments that CI tries with the toy alone; with games they are long tests.
RARE = {("atari", "collection"), ("atari", "warm-up"), ("atari", "training")}
CASES = [*itertools.product(("toy", "atari"), MOMENTS), ("metaworld", "training")]


@pytest.mark.parametrize(
    ("suite", "moment"), [pytest.param(*case, marks=[pytest.mark.long] * (case in RARE)) for case in CASES]
)
def test_a_killed_run_ends_like_an_uninterrupted_one(whole, suite, moment, tmp_path):
    if suite == "metaworld":
        needs_renderer()
    workdir = tmp_path / "killed"
    kill_when(lambda: MOMENTS[moment](workdir), workdir, config_of(suite))
    output = train(workdir, config=config_of(suite))
    assert ("resumed from step" in output) or moment in ("collection", "a save")
    assert_same_run(whole(suite), workdir)


@pytest.mark.long
def test_killed_again_and_again(whole, tmp_path):
    workdir = tmp_path / "killed"
    for update in (5, 13, 22, 27):
        kill_when(lambda update=update: any(line["update"] >= update for line in metrics(workdir)), workdir)
    train(workdir)
    assert_same_run(whole("toy"), workdir)


@pytest.mark.parametrize(("signum", "suite"), [(signal.SIGTERM, "toy"), (signal.SIGINT, "atari")])
def test_a_signal_saves_says_how_to_go_on_and_exits_with_zero(whole, signum, suite, tmp_path):
    config, workdir = config_of(suite), tmp_path / "stopped"
    code, output = stop_when(lambda: any(line["update"] > 13 for line in metrics(workdir)), workdir, signum, config)
    assert code == 0 and "the same command goes on from there" in output, output
    train(workdir, config=config)
    assert metrics(whole(suite)) == metrics(workdir)
    assert digests(whole(suite))["64"] == digests(workdir)["64"]


def test_a_longer_run_keeps_the_schedule_and_a_finished_one_stays(whole, tmp_path):
    workdir = tmp_path / "longer"
    shutil.copytree(whole("toy"), workdir)
    before = metrics(workdir)
    assert "resumed from step 64" in train(workdir) and metrics(workdir) == before
    train(workdir, "--config.train.steps=80")
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["train"]["schedule_steps"] == 64 and saved["train"]["steps"] == 80
    assert metrics(workdir)[: len(before)] == before and metrics(workdir)[-1]["step"] == 80


def test_a_second_run_is_refused_and_a_reader_changes_nothing_of_a_running_one(whole, tmp_path):
    workdir = tmp_path / "shared"
    process = start("train", f"--config={TINY}", f"--workdir={workdir}")
    while not any(line["update"] > 13 for line in metrics(workdir)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)  # it keeps its lock, and does not end meanwhile
    saved = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert "in use by another run" in train(workdir, code=2)
    assert "evaluation at step" in run("evaluate", f"--workdir={workdir}", "--episodes=1")
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == saved
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert_same_run(whole("toy"), workdir)
