"""The launchers say what a user must know, and a checker finds nothing in them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import ROOT, own_git

LAUNCH = ROOT / "launch"
# A gcloud of one slice of two workers, whose homes are folders. The first TPU is not to be had, the first look at a log
# is a lost connection, and one worker's first sudo fails.
GCLOUD = """
verb=$4
shift 4
echo "$verb" >> calls
case $verb in
  describe) [ -e state ] && cat state || { echo "ERROR: NOT_FOUND" >&2; exit 1; } ;;
  create)
    [ -e asked ] || { touch asked; echo "no capacity" >&2; exit 1; }
    mkdir w0 w1; echo READY > state ;;
  scp) for file; do case $file in -*|*:) ;; *) cp "$file" w0; cp "$file" w1 ;; esac; done ;;
  ssh)
    which=${3#--worker=} command=${4#--command=}
    case $command in tail*) [ -e lost ] || { touch lost; exit 255; } ;; esac
    for worker in w0 w1; do
      [ "$which" = all ] || [ "w$which" = $worker ] || continue
      (cd $worker && HOME=$PWD bash -c "$command")
    done ;;
esac
"""
PROGRAMS = {
    "gcloud": 'cd "$CLOUD"\n' + GCLOUD,
    "sleep": 'exec /bin/sleep "0$(echo "scale=3; $1 / 20" | bc)"',
    "sudo": """[ -e ../broken ] || [ "${PWD##*/}" = w0 ] || { touch ../broken; exit 100; }
[ "$1" != mount ] || touch "../mounted-${PWD##*/}" """,
    "mountpoint": '[ -e "../mounted-${PWD##*/}" ]',
    "python3": "mkdir -p .local/bin; cp $CLOUD/bin/uv .local/bin",
    "uv": '[ "$1" = pip ] || { mkdir -p env/bin; ln -s $PYTHON env/bin/python; }',
    # Only processes of this cloud.
    "pgrep": 'for p in $(/usr/bin/pgrep "$@"); do grep -zqs "^HOME=$PWD$" /proc/$p/environ && exit 0; done; exit 1',
}
# What runs there: it writes down what it was, then ends with the next code of its plan.
LEARNS = """
import os, sys, time
from pathlib import Path
told = Path.home() / "told"
with told.open("a") as file:
    print(os.environ["MOW_JAX_COMMIT"], Path("version").read_text(), *sys.argv[1:], file=file)
time.sleep(1)
sys.exit([75, 0][len(told.read_text().splitlines()) - 1])
"""
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


@pytest.mark.slow
def test_a_pod_s_run_goes_on_after_what_happens_to_pods(tmp_path):
    """No TPU at first, a worker that cannot be prepared, a lost connection, a preemption, code that has changed."""
    cloud, project = tmp_path / "cloud", tmp_path / "project"
    (cloud / "bin").mkdir(parents=True), (project / "mow_jax").mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (cloud / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (cloud / "bin" / name).chmod(0o755)
    (project / "mow_jax" / "__init__.py").touch()
    shutil.copy(ROOT / "mow_jax" / "origin.py", project / "mow_jax")
    (project / "mow_jax" / "train.py").write_text(LEARNS)
    (project / "version").write_text("old")
    git = lambda *words: (
        subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True, env=own_git()).stdout
    )
    git("init", "--quiet"), git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=b@c", "commit", "--quiet", "-m", "first")
    head = git("rev-parse", "--short=12", "HEAD").strip()
    own = {"PATH": f"{cloud / 'bin'}:{os.environ['PATH']}", "CLOUD": str(cloud), "PYTHON": sys.executable, "WAIT": "30"}
    words = ["TPU", "zone", "v4-16", "10.0.0.2:/runs", "--config=x y.py", "--config.suite.tasks=('Pong','Boxing')"]
    words += ["--workdir=/mnt/runs/a"]
    with (tmp_path / "said").open("w") as said:
        job = subprocess.Popen(["bash", LAUNCH / "tpu_pod.sh", *words], cwd=project, env=own, stdout=said)
    try:
        deadline = time.monotonic() + 60
        while not (cloud / "w1" / "told").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        (project / "version").write_text("new")
        assert job.wait(timeout=60) == 0 and "done; the TPU still costs" in (tmp_path / "said").read_text()
    finally:
        job.kill()
        job.wait()
    for worker in ("w0", "w1"):
        first, again = (line.partition(" ") for line in (cloud / worker / "told").read_text().splitlines())
        flags = " ".join(["--distributed", "--preempted_exit_code=75", *words[4:]])
        assert first == (head, " ", f"old {flags}") and again[2] == f"new {flags}"
        assert re.fullmatch(rf"{head}\+[0-9a-f]{{6}}", again[0])
    calls = (cloud / "calls").read_text().split()
    assert calls.count("create") == 2 and calls.count("scp") == 3 and "delete" not in calls
    assert (cloud / "lost").exists() and (cloud / "broken").exists()


@pytest.mark.parametrize(("sent", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_job_of_an_array_runs_its_own_run_and_passes_a_signal_on(sent: signal.Signals, again: bool, tmp_path):
    """Back into the queue goes what SLURM cuts short, not what somebody stops. SLURM's part is played by hand: a python
    that writes down how it was called, and saves for a while at SIGTERM."""
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
    job.send_signal(sent)
    assert job.wait(timeout=30) == 75
    started, *queued = told.read_text().splitlines()
    assert started == "-m mow_jax.sweep --workdir=w --only=4 --preempted_exit_code=75"
    assert queued == ["requeue 17_4"] * again
