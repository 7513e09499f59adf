"""Several processes as one job, through the launcher that users have."""

from __future__ import annotations

import ast
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
def job(
    workdir: Path, *arguments: str, config: str = TINY, count: int = 2, devices: int = 4
) -> Iterator[subprocess.Popen]:
    """A run of `count` processes, begun; all of it is killed at the end."""
    variables = {"PYTHON": sys.executable, "DEVICES": str(devices)}
    command = ["launch/local.sh", str(count), f"--config={config}", f"--workdir={workdir}", *arguments]
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


def finish(workdir: Path, *arguments: str, config: str = TINY, code: int = 0, **sizes: int) -> str:
    """Such a run to its end; the launcher's output and the second process's log."""
    with job(workdir, *arguments, config=config, **sizes) as process:
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


def stored(workdir: Path) -> dict[str, np.ndarray]:
    """The records of every stream that hold an action's outcome, with the fields that the replay says it has."""
    meta = json.loads((workdir / "replay" / "meta.json").read_text())
    seen = 4 * meta["numbers"] if "numbers" in meta else 3 * meta["image_size"] ** 2
    record = np.dtype([("seen", np.void, seen), *ast.literal_eval(meta["record"])])
    rows = {}
    for task in meta["tasks"]:
        for stream in sorted((workdir / "replay" / task).iterdir()):
            held = np.concatenate([np.fromfile(path, np.uint8) for path in sorted(stream.glob("*.rows"))])
            held = held.reshape(-1, record.itemsize)
            rows[f"{task}/{stream.name}"] = held[held.any(axis=1)].view(record)[:, 0]
    return rows


def rows_stored(workdir: Path) -> dict[str, int]:
    """How many those are."""
    return {stream: len(rows) for stream, rows in stored(workdir).items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Two processes of four devices, two tasks."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    finish(workdir, *SHORT)
    return workdir


# What a run of two processes has, by its config: tasks, films, and metrics of each task or of all.
SYSTEMS = {
    TINY: (["catch", "grid"], ["episode/0", "episode/1", "real/1", "imagined/0"], ["agent/return", "harmony"], []),
    f"{TINY}:scalezero": (
        ["catch", "grid"],
        ["episode/0", "episode/1"],
        ["world/policy", "gradients/cosine"],
        ["router/layers/0/1", "world/dormant", "gradients/opposed"],
    ),
    f"{TINY}:m3po": (
        ["slide", "slide_swap"],
        [],
        ["world/consistency", "fresh/value", "acting/planner", "acting/policy"],
        ["fresh/step", "bonus/weight"],
    ),
}
# Evaluations on the way: stages ask for them, and the cosines of gradients are taken at them.
OFTEN = ("--config.evaluation.every=40",)
MORE = {TINY: (), f"{TINY}:scalezero": (*OFTEN, "--config.log.gradients=True"), f"{TINY}:m3po": OFTEN}


@pytest.mark.parametrize(
    ("steps", "config"),
    [
        pytest.param(64, TINY, marks=pytest.mark.slow),
        pytest.param(64, f"{TINY}:scalezero", marks=pytest.mark.long),
        pytest.param(64, f"{TINY}:m3po", marks=pytest.mark.long),
        pytest.param(424, TINY, marks=pytest.mark.long),
    ],
)
def test_each_budget_is_spent_once_with_one_stream_and_one_table(steps, config, request, tmp_path):
    if steps == 424:
        two = request.getfixturevalue("two")
    else:
        two, short = tmp_path / "run", (f"--config.train.steps={steps}", "--config.log.every=2")
        finish(two, *SHORT, *short, *MORE[config], config=config, devices=2)
    tasks, films, of_tasks, of_all = SYSTEMS[config]
    assert set(rows_stored(two).values()) == {steps // 2}  # of two environments
    lines = metrics(two)
    assert [line["update"] for line in lines] == sorted(line["update"] for line in lines)
    assert lines[-1]["step"] == steps
    named = [f"{name}/{task}" for name in of_tasks for task in tasks] + [f"episode/{task}/return" for task in tasks]
    assert {*named, *of_all} <= {name for line in lines for name in line}
    assert all(np.isfinite(value) for line in lines for value in line.values())
    results = json.loads((two / "results.json").read_text())
    assert list(results["tasks"]) == tasks
    assert all(len(task["returns"]) == 2 for task in results["tasks"].values())
    assert len(list(two.rglob("metrics.jsonl"))) == len(list(two.rglob("results.json"))) == 1
    assert (two / "frames.npz").exists() == bool(films)
    if films:
        with np.load(two / "frames.npz") as frames:
            assert set(films) <= set(frames)
    report = (two / "report" / "report.md").read_text()
    assert ("## Gradients" in report) == ("gradients/cosine" in of_tasks)
    assert (two / "report" / "index.html").exists()
    assert sorted(path.name for path in (two / "checkpoints" / str(steps)).glob("host-*.json")) == [
        "host-0.json",
        "host-1.json",
    ]
    assert_beside_rows(stored(two), random=12)


def assert_beside_rows(streams: dict[str, np.ndarray], random: int) -> None:
    """What acting stores beside a row comes from every process: of each task, and none of the first rows, at random."""
    for name in {name for rows in streams.values() for name in rows.dtype.names if name.startswith("extra_")}:
        for task in {stream.partition("/")[0] for stream in streams}:
            rows = [rows[name] for stream, rows in streams.items() if stream.startswith(f"{task}/")]
            assert not any(extra[:random].any() for extra in rows), (name, task)
            assert any(extra[random:].any() for extra in rows), (name, task)


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
        learner = Learner(build.system(config, tasks), tasks, jax.devices()[:devices], seed=config.seed)
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
