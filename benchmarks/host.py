"""What the host does for an update: windows drawn, gathered and dealt out, beside one memcpy of the same bytes.

    python benchmarks/host.py [--config=experiments/atari26.py] [--rows=400] [--rounds=15] [--devices=1] [--output=FILE]
    python benchmarks/host.py --trace=WORKDIR/profile

The replay holds `rows` random rows of every stream, which fit in memory; nothing is learned and no program compiled.
The memcpy goes from warm memory to warm memory, by one thread. Both in turn, medians of the rounds. Of a trace that
`train --profile` has left: how much of the drawing of windows lies beside a program at work.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import throughput
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import build, command, logs
from mow_jax.config import check
from mow_jax.learner import Learner
from mow_jax.types import BadInput


def main(config: ConfigDict, rows: int, rounds: int, output: str | None, devices: int = 1) -> None:
    """Measures, prints the table, writes the JSON."""
    check(config)
    tasks = throughput.tasks_of(config)
    system = build.system(config, tasks)
    longest = max(window.length for window in system.updates["training"].windows.values())
    if rows < longest or rounds < 1:
        raise BadInput(f"--rows={rows} must hold a window of {longest} rows, --rounds={rounds} be at least 1")
    if not 1 <= devices <= jax.local_device_count():
        raise BadInput(f"--devices={devices}: there are {jax.local_device_count()}, choose from 1 to as many")
    learner = Learner(system, tasks, jax.local_devices()[:devices], seed=config.seed)
    with tempfile.TemporaryDirectory() as directory:
        replay = throughput.filled_replay(config, tasks, Path(directory), rows)
        windows = lambda update: throughput.sample(learner, replay, update)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(jax.block_until_ready(windows(0))))
        source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
        times: dict[str, list[float]] = {"windows": [], "memcpy": []}
        for update in range(1, rounds + 1):
            times["windows"].append(seconds(lambda update=update: windows(update)))
            times["memcpy"].append(seconds(lambda: np.copyto(target, source)))
    record = throughput.made() | {
        "cores": len(os.sched_getaffinity(0)),
        "devices": devices,
        "bytes": size,
        "seconds": times,
        "ratio": statistics.median(a / b for a, b in zip(*times.values(), strict=True)),
    }
    spread = lambda name: [f"{1e3 * pick(times[name]):.1f}" for pick in (statistics.median, min, max)]
    title = f"{size / 1e6:.0f} MB an update, {record['cores']} cores: ratio {record['ratio']:.2f}"
    logs.table(title, ["", "ms", "least", "most"], [(name, *spread(name)) for name in times])
    throughput.write(output, record)


def beside(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(milliseconds, share beside a program at work) of each drawing of windows in a trace's events."""
    timed = [event for event in events if event.get("ph") == "X"]
    devices = {
        event["pid"]
        for event in events
        if event.get("name") == "process_name" and event["args"]["name"].startswith("/device:")
    }
    at_work = lambda event: event["pid"] in devices or event["name"].startswith("ThunkExecutor::Execute (wait")  # CPUs
    busy = sorted((event["ts"], event["ts"] + event["dur"]) for event in timed if at_work(event))
    found = []
    for event in timed:
        if event["name"].startswith("windows of "):
            begin, end = event["ts"], event["ts"] + event["dur"]
            covered, reached = 0.0, begin
            for left, right in busy:
                left, right = max(left, reached), min(right, end)
                if left < right:
                    covered, reached = covered + right - left, right
            found.append((event["dur"] / 1e3, covered / event["dur"]))
    return found


def show_trace(folder: str) -> None:
    """The table of a trace."""
    newest = max(Path(folder).rglob("perfetto_trace.json.gz"), default=None)
    if newest is None:
        raise BadInput(f"--trace={folder} holds no trace: make one with train --profile=START:COUNT")
    content = json.loads(gzip.decompress(newest.read_bytes()))
    rows = [(f"{ms:.1f}", f"{share:.0%}") for ms, share in beside(content["traceEvents"])]
    logs.table(str(newest), ["windows drawn, ms", "beside a program at work"], rows)


def seconds(call: Callable[[], Any]) -> float:
    """Of one call, until what it gives is on the device."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/atari26.py", "An experiment file.")
    _ROWS = flags.DEFINE_integer("rows", 400, "Rows of every stream.")
    _ROUNDS = flags.DEFINE_integer("rounds", 15, "Updates' windows, each beside a memcpy.")
    _DEVICES = flags.DEFINE_integer("devices", 1, "Local devices to deal windows out to.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    _TRACE = flags.DEFINE_string("trace", None, "Folder of a trace to read instead.")
    measure = lambda: main(_CONFIG.value, _ROWS.value, _ROUNDS.value, _OUTPUT.value, _DEVICES.value)
    command.run(lambda: show_trace(_TRACE.value) if _TRACE.value else measure())
