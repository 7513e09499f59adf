"""Sets the stage before jax is imported: four CPU devices and one cache of compiled programs for all processes."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

DEVICES = "--xla_force_host_platform_device_count=4"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

# Tests start the same command in many processes: they compile once. mkdtemp makes the folder private (mode 0700).
_CACHE = tempfile.mkdtemp(prefix="mow_jax_tests_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the cache when the run is over."""
    shutil.rmtree(_CACHE, ignore_errors=True)
