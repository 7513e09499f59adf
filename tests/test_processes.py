"""What a process of a job says when the job cannot go on."""

from __future__ import annotations

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
