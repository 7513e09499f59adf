"""The first signal asks a command to end, and a second one ends it, whatever it is busy with."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT, TINY, environment, start

BUSY = """
import hashlib, threading, time
from mow_jax import command
heard = command.on_stop()
def tell():
    while not heard:
        time.sleep(0.01)
    print(*heard, flush=True)
threading.Thread(target=tell, daemon=True).start()
print("busy", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, in which no Python of this thread runs
"""
DISK = """
from pathlib import Path
from mow_jax import command
command.run(lambda: Path("/dev/full").write_text("x"))
"""


def begun(code: str) -> subprocess.Popen:
    """A process of that code."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_and_an_echo_of_the_first_does_not(second):
    process = begun(BUSY)
    assert process.stdout and process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    process.send_signal(signal.SIGTERM)  # from a launcher that passes Ctrl-C on
    time.sleep(1.2)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(second)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 5 and process.returncode == 128 + second
    assert said.startswith("ended at once by a second signal") and "goes on from the last checkpoint" in said


@pytest.mark.slow
def test_training_that_compiles_is_ended_by_a_second_signal(tmp_path):
    workdir = tmp_path / "run"
    deep = ("--config.model.layers=12", "--config.model.shared_layers=12")  # takes long to compile
    process = start("train", f"--config={TINY}", f"--workdir={workdir}", *deep, JAX_ENABLE_COMPILATION_CACHE="false")
    while not (workdir / "checkpoints" / "24" / "manifest.json").exists():  # then the warm-up's update is compiled
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.1)
    assert process.poll() is None, "compilation was too short for this test"
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 5 and process.returncode == 128 + signal.SIGTERM, output
    assert "ended at once" in output and "stopped (" not in output


def test_a_full_disk_anywhere_is_one_message():
    process = begun(DISK)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.startswith("error: disk is full"), said
    assert len(said.splitlines()) == 1
