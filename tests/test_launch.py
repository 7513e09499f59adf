"""The launchers say what a user must know, and a checker finds nothing in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import ROOT

LAUNCH = ROOT / "launch"
SHELL = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), *(ROOT / ".ci").iterdir()]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_a_launcher_says_what_it_assumes_and_how_to_watch_and_stop(path):
    head = path.read_text().split("\n\n")[0] + path.read_text()[:2500]
    for word in ("Assumes:", "Progress:", "Stop:"):
        assert word in head, f"{path.name} does not say {word}"


def test_the_jobset_starts_one_process_a_pod():
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] and spec["completionMode"] == "Indexed"
    (container,) = spec["template"]["spec"]["containers"]
    flags = dict(argument.lstrip("-").partition("=")[::2] for argument in container["args"])
    assert flags["num_processes"] == str(spec["completions"])
    names = f"{jobset['metadata']['name']}-{job['name']}-0-0.{jobset['metadata']['name']}"
    assert flags["coordinator_address"] == f"{names}:{container['ports'][0]['containerPort']}"


def test_the_launcher_on_this_machine_explains_itself():
    done = subprocess.run([LAUNCH / "local.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "launch/local.sh N --config" in done.stdout


def test_a_job_of_an_array_runs_its_own_run_and_passes_a_signal_on(tmp_path):
    """SLURM's part played by hand: a python that writes down how it was called, and saves for a while at SIGTERM."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    told = tmp_path / "told.txt"
    python.write_text(
        f"#!/bin/bash\ntrap 'sleep 0.3; exit 75' TERM\necho \"$@\" > {told}\nfor i in {{1..300}}; do sleep 0.1; done\n"
    )
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {told}\n')
    for program in (python, tmp_path / "scontrol"):
        program.chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_JOB_ID": "17"}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm}
    job = subprocess.Popen(["bash", LAUNCH / "sweep.sbatch", "--workdir=w"], env=env)
    deadline = time.monotonic() + 30
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 75
    started, queued = told.read_text().splitlines()
    assert started == "-m mow_jax.sweep --workdir=w --only=4 --preempted_exit_code=75" and queued == "requeue 17_4"
