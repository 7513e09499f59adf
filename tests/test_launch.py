"""The launchers say what a user must know, and a checker finds nothing in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import ROOT

LAUNCH = ROOT / "launch"
SHELL = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", *(ROOT / ".ci").iterdir()]


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
