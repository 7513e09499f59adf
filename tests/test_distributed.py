"""Several processes as one job, through the launcher that users have."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from processes import ROOT, TINY, environment, metrics, start

from mow_jax import build
from mow_jax import workdir as workdirs
from mow_jax.checkpoint import Checkpoints
from mow_jax.learner import Learner, abstract_state

SHORT = ("--config.train.steps=424", "--config.log.every=20", "--config.evaluation.every=0")  # 212 updates


@contextlib.contextmanager
def job(workdir: Path, *arguments: str, count: int = 2, devices: int = 4) -> Iterator[subprocess.Popen]:
    """A run of `count` processes, begun; all of it is killed at the end."""
    variables = {"PYTHON": sys.executable, "DEVICES": str(devices)}
    command = ["launch/local.sh", str(count), f"--config={TINY}", f"--workdir={workdir}", *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment() | variables, stdout=pipe, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(workdir: Path, *arguments: str, code: int = 0, **sizes: int) -> str:
    """Such a run to its end; the launcher's output and the second process's log."""
    with job(workdir, *arguments, **sizes) as process:
        output, _ = process.communicate(timeout=400)
    log = workdir.with_name(workdir.name + ".process-1.log")
    output += log.read_text() if log.exists() else ""
    assert process.returncode == code, output
    return output


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.01)


def learners(process: subprocess.Popen) -> list[int]:
    """The processes of a job, by their number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            numbers = [word for word in words if word.startswith(b"--process_id=")]
            if numbers and os.getpgid(int(entry.name)) == process.pid:
                found[int(numbers[0].split(b"=")[1])] = int(entry.name)
    return [found[number] for number in sorted(found)]


def rows_stored(workdir: Path) -> dict[str, int]:
    """Rows of every stream that hold an action's outcome."""
    meta = json.loads((workdir / "replay" / "meta.json").read_text())
    record = 16 * 16 * 3 + 4 + 4 + 1 + 1
    counts = {}
    for task in meta["tasks"]:
        for stream in sorted((workdir / "replay" / task).iterdir()):
            rows = np.concatenate([np.fromfile(p, np.uint8).reshape(-1, record) for p in sorted(stream.glob("*.rows"))])
            counts[f"{task}/{stream.name}"] = int(rows.any(axis=1).sum())
    return counts


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Two processes of four devices, two tasks."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    finish(workdir, *SHORT)
    return workdir


@pytest.mark.parametrize("steps", [pytest.param(64, marks=pytest.mark.slow), pytest.param(424, marks=pytest.mark.long)])
def test_each_budget_is_spent_once_with_one_stream_and_one_table(steps, request, tmp_path):
    if steps == 424:
        two = request.getfixturevalue("two")
    else:
        two = tmp_path / "run"
        finish(two, *SHORT, f"--config.train.steps={steps}", "--config.log.every=2", devices=2)
    assert set(rows_stored(two).values()) == {steps // 2}  # of two environments
    lines = metrics(two)
    assert [line["update"] for line in lines] == sorted(line["update"] for line in lines)
    assert lines[-1]["step"] == steps
    assert any("episode/catch/return" in line for line in lines) and any(
        "episode/grid/return" in line for line in lines
    )
    results = json.loads((two / "results.json").read_text())
    assert list(results["tasks"]) == ["catch", "grid"]
    assert all(len(task["returns"]) == 2 for task in results["tasks"].values())
    assert len(list(two.rglob("metrics.jsonl"))) == len(list(two.rglob("results.json"))) == 1
    with np.load(two / "frames.npz") as frames:
        assert {"episode/0", "episode/1", "real/1", "imagined/0"} <= set(frames)
    assert (two / "report" / "index.html").exists()
    assert sorted(path.name for path in (two / "checkpoints" / str(steps)).glob("host-*.json")) == [
        "host-0.json",
        "host-1.json",
    ]


@pytest.mark.long
def test_a_run_goes_on_in_another_number_of_processes_and_devices(two, tmp_path):
    """From two processes with four devices to one with one, to one with eight, and back to two."""
    workdir = tmp_path / "run"
    shutil.copytree(two, workdir)
    for count, devices, steps in ((1, 1, 440), (1, 8, 456), (2, 1, 472)):
        output = finish(workdir, *SHORT[1:], f"--config.train.steps={steps}", count=count, devices=devices)
        assert f"resumed from step {steps - 16}" in output
        assert set(rows_stored(workdir).values()) == {steps // 2}


@pytest.mark.long
def test_parameters_come_back_bit_for_bit_on_any_number_of_devices(two):
    config = workdirs.read(two)
    tasks = build.tasks(config)
    for devices in (1, 8):
        learner = Learner(build.system(config, tasks), tasks, jax.devices()[:devices])
        _, stored, parts = Checkpoints(two / "checkpoints", keep=1).load(None, abstract_state(learner.system))
        learner.load(stored)
        chex.assert_trees_all_equal(learner.snapshot(), stored)
        assert len(parts) == 2


@pytest.mark.long
def test_a_killed_process_ends_the_job_and_any_restart_goes_on(tmp_path):
    workdir = tmp_path / "run"
    with job(workdir, "--config.train.steps=64") as process:
        wait_for(lambda: len(list((workdir / "checkpoints").glob("[0-9]*/manifest.json"))) > 1, process)
        began = time.monotonic()
        os.kill(learners(process)[1], signal.SIGKILL)
        output, _ = process.communicate(timeout=100)
        assert time.monotonic() - began < 60
        assert process.returncode and "another process of this job has ended" in output, output
    for count, devices in ((2, 4), (1, 1), (1, 8)):
        again = tmp_path / f"{count}x{devices}"
        shutil.copytree(workdir, again)
        output = finish(again, *SHORT[1:], "--config.train.steps=64", count=count, devices=devices)
        assert "resumed from step" in output
        assert set(rows_stored(again).values()) == {32}


@pytest.mark.long
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_checkpoint_without_its_second_part_is_not_used(two, damage, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(two, workdir)
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))
    part = workdir / "checkpoints" / str(steps[-1]) / "host-1.npz"
    if damage == "missing":
        part.unlink()
    else:
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    output = finish(workdir, *SHORT)
    assert f"checkpoint {steps[-1]} is damaged (host-1.npz" in output
    assert f"resumed from step {steps[-2]}" in output


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_any_process_saves_on_all(number, tmp_path):
    workdir = tmp_path / "run"
    with job(workdir, *SHORT, "--preempted_exit_code=75") as process:
        wait_for(lambda: any(line["update"] > 40 for line in metrics(workdir)), process)
        os.kill(learners(process)[number], signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "the same command goes on from there" in output, output
    newest = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    assert (newest / "host-1.json").exists()
    assert f"resumed from step {newest.name}" in finish(workdir, *SHORT)


SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "{}", "SLURM_LOCALID": "{}",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576321.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "{}", "OMPI_COMM_WORLD_LOCAL_RANK": "{}",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("scheduler", [SLURM, OPEN_MPI], ids=["slurm", "open_mpi"])
def test_a_scheduler_says_who_is_who(scheduler, tmp_path):
    arguments = ("--distributed", f"--config={TINY}", f"--workdir={tmp_path}/run", "--config.train.steps=32")
    variables = [{name: value.format(index) for name, value in scheduler.items()} for index in (0, 1)]
    both = [start("train", *arguments, **mine) for mine in variables]
    outputs = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "report: " in outputs[0] and "report: " not in outputs[1]


@pytest.mark.long
def test_more_processes_than_tasks_are_refused(tmp_path):
    output = finish(tmp_path / "run", code=2, count=3, devices=1)
    assert "3 processes for 2 tasks" in output
