"""The clock of a run goes on where its checkpoint was saved."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from mow_jax import run
from mow_jax.logs import Metrics


def stood(workdir: Path, seconds: float, checkpoints: MagicMock) -> run.Run:
    """A run without anything but its clock, its metrics and the checkpoints."""
    made = object.__new__(run.Run)
    made.config = SimpleNamespace(replay=SimpleNamespace(capacity=0), train=SimpleNamespace(envs=2))
    for part in ("replay", "actors", "learner", "window", "advice", "system"):
        setattr(made, part, MagicMock())
    made.learner.save_acting.return_value._asdict.return_value = {}
    made.directory, made.mine, made.acting, made.checkpoints = workdir, [], None, checkpoints
    made.at, made.meter, made.system.after_save = run.Position(), MagicMock(), None
    made.metrics = Metrics(workdir, tensorboard=False, wandb="")
    made._started = time.monotonic() - seconds
    return made


@pytest.mark.parametrize("older", [False, True])
def test_time_between_the_last_line_and_a_stop_counts_after_the_resume(older, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "abstract_state", lambda system: None)
    monkeypatch.setattr(run.Run, "_restore_tasks", lambda self, parts: None)
    checkpoints = MagicMock()
    first = stood(tmp_path, 4000.0, checkpoints)
    first.write({"x": 1.0}, {"y": 2.0})
    first._started -= 700.0
    first.save()
    first.metrics.close()
    step, _, host = checkpoints.save.call_args.args
    if older:
        del host["seconds"]
    checkpoints.load.return_value = (step, None, [host])
    checkpoints.newest.return_value = step
    second = stood(tmp_path, 0.0, checkpoints)
    second._begin()
    second.write({"x": 3.0}, {"y": 4.0})
    seconds = [line["seconds"] for line in second.metrics.lines()]
    second.metrics.close()
    assert seconds == pytest.approx([4000.0, 4000.0 if older else 4700.0], abs=60.0)
