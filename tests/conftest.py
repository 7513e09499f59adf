"""Sets the stage before jax is imported: eight CPU devices and one cache of compiled programs for all processes."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile

import pytest
from system import MISSING

DEVICES = "--xla_force_host_platform_device_count=8"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

# Tests start the same command in many processes: they compile once. mkdtemp makes the folder private (mode 0700); the
# workers of a parallel run inherit it.
_MADE_HERE = "MOW_JAX_TEST_CACHE" not in os.environ
if _MADE_HERE:
    os.environ["MOW_JAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="mow_jax_tests_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["MOW_JAX_TEST_CACHE"]
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.environ["MOW_JAX_TEST_CACHE"]  # else a folder in the checkout


def _at_signals() -> list:
    """What SIGTERM and SIGINT do in this process."""
    wakes = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakes)
    return [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), wakes]


@pytest.fixture(autouse=True)
def _signals_do_what_they_did():
    """What a main does at signals would stay for all later tests of this process, and end it at one of theirs."""
    before = _at_signals()
    yield
    assert _at_signals() == before


@pytest.fixture
def signals_as_before():
    """For tests of what is a process's own main at other times."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives long tests an hour: twenty kills take more than pyproject.toml's limit on two slow cores."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_terminal_summary(terminalreporter) -> None:
    """Counts what was skipped for want of something that the system has not."""
    reasons = [str(report.longrepr[2]).partition(MISSING)[2] for report in terminalreporter.stats.get("skipped", [])]
    lacking = [reason for reason in reasons if reason]
    if lacking:
        names = ", ".join(sorted(set(lacking)))
        terminalreporter.write_line(f"{len(lacking)} tests skipped for what is {MISSING}{names}", yellow=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the cache when the run is over."""
    if _MADE_HERE:
        shutil.rmtree(os.environ["MOW_JAX_TEST_CACHE"], ignore_errors=True)
