"""What a process of a job says when the job cannot go on."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from processes import ROOT, environment

FAILS = """
import jax
from mow_jax import processes
processes.count = lambda: 2
with processes.together():
    raise jax.errors.JaxRuntimeError({text!r})
"""
ABORTS = """
import faulthandler, os
from mow_jax import processes
faulthandler.enable()
processes._explain_abort()
os.abort()
"""
CASES = {
    "another": (FAILS.format(text="UNKNOWN: Gloo all-reduce failed: connection closed"), "another process", False),
    "this": (FAILS.format(text="RESOURCE_EXHAUSTED: out of memory"), "this process has failed", True),
    "aborted": (ABORTS, "another process of this job has ended or cannot be reached, or this one was aborted", False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_last_line_says_whose_fault_it_was_and_what_to_do(case):
    code, said, traceback = CASES[case]
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 1 and last.startswith("error: ") and said in last, run.stderr
    assert last.endswith("Start the job again: it goes on from the last complete checkpoint")
    assert ("Traceback" in run.stderr) == traceback


LATE = """
import sys, time
import jax
import numpy as np
from absl import app
from mow_jax import processes
processes.define_flags()

def main(_):
    processes.join()
    time.sleep(40 * processes.index())
    twice = jax.pmap(lambda one: jax.lax.psum(2 * one, "all"), "all")(np.ones(jax.local_device_count()))
    print(float(twice.addressable_shards[0].data[0]), flush=True)
    time.sleep(40 * processes.index())
    print(processes.gather(processes.index()), flush=True)

app.run(main)
"""


@pytest.mark.long
def test_a_process_may_come_late_to_its_first_program_and_to_its_first_meeting():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = [f"--coordinator_address=localhost:{port}", "--distributed", "--num_processes=2"]
    env = environment() | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", LATE, *arguments, f"--process_id={number}"],
            cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=600) for process in both]
    for said, errors in outputs:
        assert said.splitlines()[-2:] == ["8.0", "[0, 1]"], errors  # before it Gloo's threads talk, at once
