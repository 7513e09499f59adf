"""Runs the commands as a user does: in processes of their own, to be killed at chosen moments."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mow_jax
from mow_jax import xla

ROOT = Path(__file__).resolve().parent.parent
TINY = "tests/configs/tiny.py"


def environment() -> dict[str, str]:
    """The tests' environment with the one CPU device that users have."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    # What is compiled for a few updates is not worth optimising.
    flags += [f"--{name}={str(value).lower()}" for name, value in xla.OLDER_GENERATOR.items()]
    return {
        **os.environ,
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": ":".join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def own_git() -> dict[str, str]:
    """The environment for a test's own repository: within a commit's hook git names the project's index."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def start(module: str, *arguments: str, **variables: str) -> subprocess.Popen:
    """`python -m mow_jax.<module> ...` with its output captured as text; `variables` are added to its environment."""
    command = [sys.executable, "-m", f"mow_jax.{module}", *arguments]
    pipe = subprocess.PIPE
    env = environment() | variables
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def run(module: str, *arguments: str, code: int = 0) -> str:
    """Runs to the end and returns the output; the exit code must be `code`."""
    process = start(module, *arguments)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output
    return output


def refused(module: str, *arguments: str, **variables: str) -> str:
    """The one message of a command that is refused."""
    process = start(module, *arguments, **variables)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 2 and "Traceback" not in output and output.count("error: ") == 1, output
    return output


def train(workdir: Path, *overrides: str, config: str = TINY, code: int = 0) -> str:
    """A training run to its end."""
    return run("train", f"--config={config}", f"--workdir={workdir}", *overrides, code=code)


def finished(config: str = TINY) -> Path:
    """An uninterrupted run that all tests share, whichever worker they are in, and in NAME.said beside it what it
    printed; who writes into it takes a copy."""
    runs = Path(os.environ["MOW_JAX_TEST_CACHE"]) / "runs"
    runs.mkdir(exist_ok=True)
    place = runs / re.sub(r"\W", "_", config)  # without a suffix, so that every config has its own files beside it
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first to ask makes it, the others wait
        if not place.exists():
            under_way = place.with_suffix(".begun")
            place.with_suffix(".said").write_text(train(under_way, config=config))
            under_way.rename(place)
    return place


def stop_when(condition: Callable[[], bool], workdir: Path, signum: int, config: str = TINY) -> tuple[int, str]:
    """Starts a training run and sends it a signal as soon as `condition` holds; its exit code and output."""
    process = start("train", f"--config={config}", f"--workdir={workdir}")
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.001)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def kill_when(condition: Callable[[], bool], workdir: Path, config: str = TINY) -> None:
    """SIGKILL at that moment."""
    code, output = stop_when(condition, workdir, signal.SIGKILL, config)
    assert code == -signal.SIGKILL, output


def metrics(workdir: Path) -> list[dict]:
    """The whole lines of metrics.jsonl, without the timings; the last may be under way, or torn by a kill."""
    timing = lambda name: name == "seconds" or name.startswith("time/")
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not timing(k)} for line in lines]


def digests(workdir: Path) -> dict[str, str]:
    """The content digest of every checkpoint."""
    manifests = sorted((workdir / "checkpoints").glob("[0-9]*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text())["digest"] for path in manifests}


def replay_files(workdir: Path) -> dict[str, bytes]:
    """All replay rows, byte for byte."""
    folder = workdir / "replay"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.rows"))}


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs that are equal but for their timings."""
    assert metrics(one) == metrics(other)
    assert digests(one) == digests(other)
    assert replay_files(one) == replay_files(other)
    tables = [run / "clusters.json" for run in (one, other)]  # of systems that have such
    assert len({path.read_bytes() if path.exists() else b"" for path in tables}) == 1
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    assert results[0] == results[1]


def acted(source: Path, task: str, steps: int, seed: int) -> list:
    """What the agent of a workdir or a file does at an episode's start."""
    agent, env = mow_jax.load_agent(source), mow_jax.make_env(source, task)
    agent.reset(task, seed=seed)
    seen, taken = env.reset(seed), []
    for _ in range(steps):
        action = agent.act(seen, task)
        taken.append(np.asarray(action).tolist())
        seen = env.step(action).observation
    return taken
