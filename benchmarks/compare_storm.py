"""Our update beside the public STORM code's: equal sizes and precision, alternating in one run.

    python benchmarks/compare_storm.py --reference=DIR [--python=PYTHON] [--pairs=3] [--keep_memory] [--output=FILE]

DIR is your own checkout of the public STORM code; PYTHON one that has torch and what that code imports (einops,
tensorboardX, yacs, opencv). The work is that of experiments/storm.py: a batch of 16 x 64 frames, 1,024 rollouts from
8 frames over 16 steps, one step of actor and critic. A pair runs a part of theirs, then ours; medians are compared.
docs/performance.md has the figures.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import throughput
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import build, command, logs
from mow_jax.config import check
from mow_jax.learner import Learner
from mow_jax.types import BadInput

NAMES = (*throughput.PARTS, "whole update")


def main(config: ConfigDict, reference: str, python: str, pairs: int, dtype: str, output: str | None) -> None:
    """Measures, prints the table, writes the JSON."""
    if not (Path(reference) / "sub_models" / "world_models.py").is_file():
        raise BadInput(f"--reference={reference} is no checkout of STORM: sub_models/world_models.py is not there")
    config.model.compute_dtype = dtype
    check(config)
    with tempfile.TemporaryDirectory() as directory:
        calls = our_calls(config, Path(directory))
    theirs = Reference(python, sizes(config, reference, dtype))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
    for name in NAMES:
        theirs.seconds(name), throughput.timed(calls[name], 1)  # compiles, warms up
    for _ in range(pairs):
        for name in NAMES:
            times[name].append((theirs.seconds(name), throughput.timed_alone(calls[name])))
    record = throughput.made() | {"dtype": dtype}
    record |= {"torch": theirs.version, "seconds": times}
    record["ratio"] = {name: statistics.median(a / b for a, b in pairs) for name, pairs in times.items()}
    show(record)
    throughput.write(output, record)


def our_calls(config: ConfigDict, directory: Path) -> dict[str, Any]:
    """The same parts of ours."""
    tasks = throughput.tasks_of(config)
    learner = Learner(build.system(config, tasks), tasks, jax.local_devices()[:1], seed=config.seed)
    learner.initialise()
    windows = throughput.sample(learner, throughput.filled_replay(config, tasks, directory), 0)
    update = lambda: learner.update("training", *windows)
    update()
    return throughput.part_calls(learner, throughput.agent_of(config, tasks), windows) | {"whole update": update}


def sizes(config: ConfigDict, reference: str, dtype: str) -> dict[str, Any]:
    """What the reference needs to do the same work."""
    batch, agent, model = config.batch, config.agent, config.model
    return {
        "checkout": str(Path(reference).resolve()),
        "threads": os.cpu_count(),
        "dtype": dtype,
        "actions": throughput.tasks_of(config)[0].action_size,
        "sequences": batch.sequences,
        "length": batch.length,
        "contexts": agent.contexts,
        "context": agent.context,
        "horizon": agent.horizon,
        "width": model.width,
        "layers": model.layers,
        "heads": model.heads,
    }


class Reference:
    """The process that runs the public code."""

    def __init__(self, python: str, given: dict[str, Any]):
        script = Path(__file__).with_name("storm_reference.py")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [python, str(script)], stdin=pipe, stdout=pipe, text=True, cwd=given["checkout"]
        )
        self._ask(given)
        asked = [python, "-c", "import torch; print(torch.__version__)"]
        self.version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def seconds(self, name: str) -> float:
        """Seconds of one run of a part; the one before it warms up."""
        self._ask([name, 1])
        return float(self._ask([name, 1]))

    def _ask(self, question: Any) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise BadInput("the reference's process ended (see above): --python must have torch and what STORM imports")
        return answer


def show(record: dict[str, Any]) -> None:
    """The table a person reads."""
    rows = []
    for name, measured in record["seconds"].items():
        theirs, ours = (statistics.median(side) for side in zip(*measured, strict=True))
        rows.append((name, f"{theirs:.4g}", f"{ours:.4g}", f"{record['ratio'][name]:.2f}"))
    pairs = len(record["seconds"]["whole update"])
    title = f"seconds, {record['dtype']}, {record['device']}, medians of {pairs} pairs"
    logs.table(title, ["part", "STORM's code", "mow_jax", "times as fast"], rows)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/storm.py", "An experiment in STORM mode.")
    _REFERENCE = flags.DEFINE_string("reference", None, "Your checkout of the public STORM code.", required=True)
    _PYTHON = flags.DEFINE_string("python", sys.executable, "A Python with torch.")
    _PAIRS = flags.DEFINE_integer("pairs", 3, "Alternating pairs.")
    _DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Precision of both.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(lambda: main(_CONFIG.value, _REFERENCE.value, _PYTHON.value, _PAIRS.value, _DTYPE.value, _OUTPUT.value))
