"""A sweep runs every variant with every seed once, survives being killed, and says in a table what came out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, TINY, environment

from mow_jax import sweep


def finished_run(variant: str, seed: int, *values: float) -> dict:
    tasks = dict(zip(("a", "b"), values, strict=True))
    run = dict(variant=variant, seed=seed, command="", commit="c", seconds=90, step=8, tasks=tasks)
    return run


def test_the_table_has_every_run_and_the_interval_of_each_variants_mean():
    runs = [finished_run("x", 0, 0.5, 0.7), finished_run("x", 1, 0.7, 0.9), finished_run("y", 0, 1.0, 0.0)]
    text = sweep.table(runs)
    # Means of the two seeds are 0.6 and 0.8: standard error 0.1, times 12.706 for one degree of freedom.
    assert "| x | 2 | 0.60 | 0.80 | 0.700 [-0.571, 1.971] |" in text
    assert "| y | 1 | 1.00 | 0.00 | 0.500 |" in text
    assert "| x, seed 1 | 0.70 | 0.90 | 0.800 | 0.70 | 1.5 |" in text
    assert sweep.table([]) == "no run has finished yet\n"
    assert "| y, seed 0 | – | – | 1.5 |" in sweep.table([finished_run("y", 0, None, None)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--config=nowhere.py"], ["nowhere.py", "experiments/toy.py"]),
        ([f"--config={TINY}", "--seeds=0,one"], ["0,one", "0,1,2"]),
        ([f"--config={TINY}", "--seeds=1,1"], ["--seeds=1,1", "once"]),
        ([f"--config={TINY}", "--jobs=0"], ["--jobs=0", "at least 1"]),
        ([f"--config={TINY}", "--wordkir=x"], ["--wordkir=x", "--config.key=value"]),
    ],
)
def test_what_cannot_be_swept_is_refused_and_nothing_written(options, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert sweep.main([*options, f"--workdir={tmp_path / 'new'}"]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts) and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_repeats_nothing(tmp_path: Path):
    """SIGKILL to the sweep in the middle of its second run, then SIGTERM, then to the end."""
    command = [sys.executable, "-m", "mow_jax.sweep", f"--config={TINY}", "--variants=toy", "--seeds=0,1"]
    command += [f"--workdir={tmp_path}", "--config.evaluation.every=0", "--config.train.steps=48"]
    first, second = tmp_path / "toy" / "0", tmp_path / "toy" / "1"

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)

    def wait_for(happened) -> None:
        deadline = time.monotonic() + 300
        while not happened():
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.01)

    killed = start()
    wait_for(lambda: (second / "checkpoints" / "24").exists())
    killed.kill()
    killed.communicate()
    result = (first / "results.json").stat().st_mtime_ns
    wait_for(lambda: not is_locked(second))  # the run that it left behind has saved and ended

    stopped = start()
    wait_for(lambda: (tmp_path / "toy" / "1.log").read_text().count("resumed from step") == 1)
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=300)
    assert stopped.returncode == 0, output

    command.append("--minutes=0.001")  # it has learned for longer: what it has saved is evaluated
    timed = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert timed.returncode == 0, timed
    found = json.loads((second / "results.json").read_text())
    assert 24 <= found["step"] < 48 and found["tasks"].keys() == {"catch", "grid"}
    del command[-1]

    ended = start()
    output, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0 and "toy, seed 1" in output, output
    assert (first / "results.json").stat().st_mtime_ns == result
    runs = json.loads((tmp_path / "sweep.json").read_text())
    assert [(run["variant"], run["seed"], run["step"]) for run in runs] == [("toy", 0, 48), ("toy", 1, 48)]
    assert "--config.train.steps=48" in runs[1]["command"] and "| toy | 2 |" in (tmp_path / "table.md").read_text()


def is_locked(workdir: Path) -> bool:
    """Whether a run is at work there."""
    test = ["flock", "--nonblock", "--shared", str(workdir / ".lock"), "true"]
    return subprocess.run(test, check=False, env=os.environ).returncode != 0
