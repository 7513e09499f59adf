"""What tests take from the system. Where it is missing they are skipped, and conftest.py counts them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

import pytest

MISSING = "not on this system (make system): "
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRAW = "import mujoco, os; mujoco.GLContext(8, 8).make_current(); os._exit(0)"


def needs_chromium() -> None:
    """Skips the test that calls it where no browser starts."""
    if CHROMIUM is None or not _runs(CHROMIUM):
        pytest.skip(f"{MISSING}chromium")


def needs_renderer(backend: str | None = None) -> None:
    """Skips the test that calls it where MuJoCo cannot draw: with `backend`, or with none that mow_jax would choose."""
    asked = backend or os.environ.get("MUJOCO_GL")
    if not any(map(_draws, (asked,) if asked else ("osmesa", "egl"))):
        pytest.skip(f"{MISSING}libosmesa6")


@functools.cache
def _runs(program: str) -> bool:
    try:
        return not subprocess.run([program, "--version"], capture_output=True, check=False, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired):  # a file that is no program of this machine, or one that hangs
        return False


@functools.cache
def _draws(backend: str) -> bool:
    own = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": backend}
    return not subprocess.run([sys.executable, "-c", DRAW], env=own, capture_output=True, check=False).returncode
