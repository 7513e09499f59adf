"""What a run costs: rates and memory for every line of metrics, and a trace of a few updates for xprof and Perfetto.

In: how far the run is, and the operations done. Out: {"time/name": number}, which two equal runs need not share.
Used by run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import jax

from mow_jax.types import BadInput

PAGE = os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Rates since the last line, by the clock of this process."""

    def __init__(self, update: int, steps: int):
        self._line: dict[str, float] = {}
        self.start(update, steps, 0)

    def start(self, update: int, steps: int, flop: int) -> None:
        """Counts from here: `update` updates, `steps` agent steps a task, `flop` operations done."""
        self._before = (time.monotonic(), _cpu_seconds(), update, steps, flop)

    def read(self, update: int, steps: int, flop: int) -> dict[str, float]:
        """The rates since the start, or those read last where no step and no update came since, as in a save at a run's
        end; and the memory held now."""
        now = (time.monotonic(), _cpu_seconds(), update, steps, flop)
        passed, busy, updates, stepped, done = (b - a for a, b in zip(self._before, now, strict=True))
        if self._line and not updates and not stepped:
            return self._line | memory()
        passed = max(passed, 1e-9)
        line = {"time/updates_per_second": updates / passed, "time/steps_per_second": stepped / passed}
        line |= {"time/flop_per_second": done / passed} if done else {}
        self._line = line | {"time/cores_busy": busy / passed}
        return self._line | memory()


def memory() -> dict[str, float]:
    """Gigabytes that this process holds on the host, and on its first device where that tells."""
    held = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    on_device = (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use")
    return {"time/memory_gb": held / 1e9} | ({} if on_device is None else {"time/device_memory_gb": on_device / 1e9})


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def traced(text: str, updates: int) -> tuple[int, int]:
    """The first update to trace and the one before which that ends; -1 without a `text`. Raises as Trace."""
    if not text:
        return -1, -1
    first, _, count = text.partition(":")
    if not (first.isdecimal() and count.isdecimal() and len(text) < 40 and int(count)):
        raise BadInput(f"--profile={text} is not understood: give START:COUNT, as in --profile=100:5")
    last = int(first) + int(count)
    if last > updates:
        raise BadInput(f"--profile={text} ends at update {last}, and the run has {updates}: start earlier")
    return int(first), last


class Trace:
    """`COUNT` updates from update `START` on, traced by jax's profiler into a folder; nothing without a text."""

    def __init__(self, text: str, directory: Path, updates: int):
        """`text`: "START:COUNT" or "". Raises BadInput where that is none of a run of so many updates."""
        self._directory, self._on = directory, False
        self._first, self._last = traced(text, updates)

    def before(self, update: int) -> None:
        """Before each update: begins."""
        if 0 <= self._first < update:
            print(f"nothing is traced: update {self._first} lies before {update}, where the run goes on", flush=True)
            self._first = -1
        if update == self._first:
            self._on, self._first = True, -1
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)

    def after(self, update: int, state: object) -> None:
        """After each update: ends once the last one traced has been computed into `state`."""
        if self._on and update + 1 >= self._last:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes what has been traced, also of a run that ends early."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            print(
                f"trace: {self._directory}: tensorboard with xprof, or perfetto_trace.json.gz in ui.perfetto.dev",
                flush=True,
            )
