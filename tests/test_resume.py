"""A run killed at any moment and started again ends exactly like one that was never interrupted."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from processes import TINY, assert_same_run, digests, kill_when, metrics, stop_when, train

pytestmark = pytest.mark.slow

MOMENTS = {
    "collection": lambda w: any((w / "replay").rglob("*.rows")),
    "warm-up": lambda w: any(0 < line["update"] < 12 for line in metrics(w)),
    "a save": lambda w: any((w / "checkpoints").glob("temporary-*")),
    "training": lambda w: any(line["update"] > 15 for line in metrics(w)),
}


@pytest.fixture(scope="module", params=["toy", "atari"])
def uninterrupted(request, tmp_path_factory):
    config, workdir = f"{TINY}:{request.param}", tmp_path_factory.mktemp(request.param) / "run"
    train(workdir, config=config)
    return config, workdir


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_ends_like_an_uninterrupted_one(uninterrupted, moment, tmp_path):
    config, whole = uninterrupted
    workdir = tmp_path / "killed"
    kill_when(lambda: MOMENTS[moment](workdir), workdir, config)
    output = train(workdir, config=config)
    if moment != "collection" and moment != "a save":
        assert "resumed from step" in output
    assert_same_run(whole, workdir)


def test_killed_again_and_again(uninterrupted, tmp_path):
    config, whole = uninterrupted
    workdir = tmp_path / "killed"
    for update in (5, 13, 22, 27):
        kill_when(lambda update=update: any(line["update"] >= update for line in metrics(workdir)), workdir, config)
    train(workdir, config=config)
    assert_same_run(whole, workdir)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_how_to_go_on_and_exits_with_zero(uninterrupted, signum, tmp_path):
    config, whole = uninterrupted
    workdir = tmp_path / "stopped"
    code, output = stop_when(lambda: any(line["update"] > 13 for line in metrics(workdir)), workdir, signum, config)
    assert code == 0 and "the same command goes on from there" in output, output
    train(workdir, config=config)
    assert metrics(whole) == metrics(workdir)
    assert digests(whole).keys() <= digests(workdir).keys() | digests(whole).keys()
    assert digests(whole)["64"] == digests(workdir)["64"]


def test_a_longer_run_keeps_the_schedule_and_a_finished_one_says_so(uninterrupted, tmp_path):
    config, whole = uninterrupted
    before = metrics(whole)
    output = train(whole, config=config)
    assert "resumed from step 64" in output and metrics(whole) == before
    copy = tmp_path / "longer"
    train(copy, config=config)
    train(copy, "--config.train.steps=80", config=config)
    saved = json.loads((copy / "config.json").read_text())
    assert saved["train"]["schedule_steps"] == 64 and saved["train"]["steps"] == 80
    assert metrics(copy)[: len(before)] == before and metrics(copy)[-1]["step"] == 80
    assert Path(copy / "results.json").exists()
