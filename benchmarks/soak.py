"""A long run whose memory, open files and compilations must not grow: samples of /proc while it goes on.

python benchmarks/soak.py [--minutes=60] [--every=5] [--output=soak.csv]

The run is a small one of toys, with worker processes, a replay that is pruned, a checkpoint every 500 and an evaluation
every 5,000 agent steps. Compared are the second and the last quarter of the samples: the first has what is made once.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import IO, NamedTuple

from absl import flags

from mow_jax import command, logs

SETTINGS = {
    "train.steps": 10**8,
    "replay.capacity": 4000,
    "replay.chunk_rows": 100,
    "checkpoint.every": 500,
    "evaluation.every": 5000,
    "actors.workers": 2,
    "log.every": 100,
}
HERE = Path(__file__).resolve().parent


class Sample(NamedTuple):
    """One moment of the run."""

    seconds: float
    step: int  # agent steps a task
    memory: float  # MB of the learner that are no file's
    workers: float  # MB of its worker processes, likewise
    files: int  # that the learner holds open
    compilations: int  # so far
    disk: float  # MB of checkpoints and replay


def main(minutes: float, every: float, output: str | None) -> int:
    """Runs, samples, prints the table; 1 where something has grown."""
    with tempfile.TemporaryDirectory() as place:
        workdir, log = Path(place) / "run", Path(place) / "log"
        with log.open("w") as file:
            process = begin(workdir, file)
            try:
                samples = watch(process, workdir, log, 60 * minutes, every)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=300)
        if process.returncode or not samples:
            print(log.read_text()[-3000:])
            return 1
    if output:
        with open(output, "w", newline="") as table:
            csv.writer(table).writerows([Sample._fields, *samples])
    return report(samples)


def begin(workdir: Path, log: IO) -> subprocess.Popen:
    """The run, which says what it compiles."""
    given = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    arguments = ["-m", "mow_jax.train", "--config=tests/configs/tiny.py", f"--workdir={workdir}", *given]
    environment = {**os.environ, "JAX_LOG_COMPILES": "1", "PYTHONPATH": str(HERE.parent)}
    return subprocess.Popen([sys.executable, *arguments], cwd=HERE.parent, env=environment, stdout=log, stderr=log)


def watch(process: subprocess.Popen, workdir: Path, log: Path, seconds: float, every: float) -> list[Sample]:
    """Samples from the end of the warm-up on."""
    began, samples = time.monotonic(), []
    while time.monotonic() - began < seconds and process.poll() is None:
        time.sleep(every)
        if (step := last_step(workdir)) > 100:
            workers = children(process.pid)
            samples.append(
                Sample(
                    round(time.monotonic() - began, 1),
                    step,
                    memory(process.pid),
                    sum(map(memory, workers)),
                    len(os.listdir(f"/proc/{process.pid}/fd")),
                    log.read_text().count("Finished XLA compilation"),
                    size(workdir),
                )
            )
    return samples


def last_step(workdir: Path) -> int:
    """Of the last whole line of metrics."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def memory(pid: int) -> float:
    """MB of a process that are no file's; 0 where it has just ended."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except FileNotFoundError:
        return 0.0
    return int(fields.get("RssAnon", "0 kB").split()[0]) / 1000


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def size(workdir: Path) -> float:
    """MB of checkpoints and replay; files may vanish meanwhile."""
    total = 0
    for path in (*(workdir / "checkpoints").rglob("*"), *(workdir / "replay").rglob("*")):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return round(total / 1e6, 3)


def report(samples: list[Sample]) -> int:
    """Quarter by quarter; 1 where the last has more than the second, but for the noise of sampling."""
    quarter = max(1, len(samples) // 4)
    parts = [samples[quarter * i : quarter * (i + 1)] for i in range(4)]
    middle = [Sample(*(median(column) for column in zip(*part, strict=True))) for part in parts if part]
    rows = [(f"{i + 1}.", *(f"{x:,.5g}" for x in row)) for i, row in enumerate(middle)]
    logs.table(f"medians of the quarters, {len(samples)} samples", ["quarter", *Sample._fields], rows)
    second, last = middle[min(1, len(middle) - 1)], middle[-1]
    allowed = Sample(0, 0, 1.02 * second.memory + 5, 1.02 * second.workers + 5, second.files, second.compilations, 0)
    grown = [
        name for name in ("memory", "workers", "files", "compilations") if getattr(last, name) > getattr(allowed, name)
    ]
    print(f"grown: {', '.join(grown)}" if grown else "nothing has grown", flush=True)
    return int(bool(grown))


if __name__ == "__main__":
    _MINUTES = flags.DEFINE_float("minutes", 60.0, "How long the run lasts, its start included.")
    _EVERY = flags.DEFINE_float("every", 5.0, "Seconds between samples.")
    _OUTPUT = flags.DEFINE_string("output", None, "A CSV of all samples.")
    command.run(lambda: main(_MINUTES.value, _EVERY.value, _OUTPUT.value))
