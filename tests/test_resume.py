"""A run killed at any moment and started again ends exactly like one that was never interrupted."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time

import pytest
from processes import TINY, assert_same_run, digests, finished, kill_when, metrics, run, start, stop_when, train
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
    return TINY if suite == "toy" else f"{TINY}:{suite}"


# CI tries the toy alone, at two moments; games, robots and the others are long tests.
IN_CI = {("toy", "a save"), ("toy", "training")}
CASES = [*itertools.product(("toy", "atari"), MOMENTS), ("metaworld", "training")]


@pytest.mark.parametrize(
    ("suite", "moment"), [pytest.param(*case, marks=[pytest.mark.long] * (case not in IN_CI)) for case in CASES]
)
def test_a_killed_run_ends_like_an_uninterrupted_one(suite, moment, tmp_path):
    if suite == "metaworld":
        needs_renderer()
    workdir = tmp_path / "killed"
    kill_when(lambda: MOMENTS[moment](workdir), workdir, config_of(suite))
    output = train(workdir, config=config_of(suite))
    assert ("resumed from step" in output) or moment in ("collection", "a save")
    assert_same_run(finished(config_of(suite)), workdir)


@pytest.mark.parametrize(
    ("signum", "suite"),
    [(signal.SIGTERM, "toy"), pytest.param(signal.SIGINT, "atari", marks=pytest.mark.long)],
)
def test_a_signal_saves_says_how_to_go_on_and_exits_with_zero(signum, suite, tmp_path):
    config, workdir = config_of(suite), tmp_path / "stopped"
    code, output = stop_when(lambda: any(line["update"] > 13 for line in metrics(workdir)), workdir, signum, config)
    assert code == 0 and "the same command goes on from there" in output, output
    train(workdir, config=config)
    assert metrics(finished(config_of(suite))) == metrics(workdir)
    assert digests(finished(config_of(suite)))["64"] == digests(workdir)["64"]


@pytest.mark.slow
def test_a_signal_is_heard_in_the_middle_of_an_evaluation_which_is_done_again(tmp_path):
    workdir, many = tmp_path / "evaluates", "--config.evaluation.episodes=1000000"
    process = start("train", f"--config={TINY}", f"--workdir={workdir}", many)
    try:
        while not (workdir / "checkpoints" / "40" / "manifest.json").exists():  # saved, then evaluated
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()  # it would evaluate for days
    assert process.returncode == 0 and "stopped (SIGTERM), saved at step 40" in output, output
    train(workdir)
    assert_same_run(finished(), workdir)


def test_a_longer_run_keeps_the_schedule_and_a_finished_one_stays(tmp_path):
    workdir = tmp_path / "longer"
    shutil.copytree(finished(config_of("toy")), workdir)
    before = metrics(workdir)
    assert "resumed from step 64" in train(workdir) and metrics(workdir) == before
    output = train(workdir, "--config.train.steps=80", "--profile=34:2")
    assert "trace: " in output and list((workdir / "profile").rglob("perfetto_trace.json.gz"))
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["train"]["schedule_steps"] == 64 and saved["train"]["steps"] == 80
    assert metrics(workdir)[: len(before)] == before and metrics(workdir)[-1]["step"] == 80


def test_a_second_run_is_refused_and_a_reader_changes_nothing_of_a_running_one(tmp_path):
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
    assert_same_run(finished(config_of("toy")), workdir)
