"""What many tasks cost beside one: equal sequences and contexts in all, in one run, seconds per counted FLOP.

    python benchmarks/task_cost.py [--config=experiments/atari26.py] [--rounds=3] [--output=FILE]

Of the experiment's K tasks each gets 1 sequence and 40 contexts, with its clusters and experts; beside it the first
task alone gets K sequences and 40 K contexts. Above 1 the ratio is what gathering rows and products over small batches
cost.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import throughput
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import build, command, logs, summary
from mow_jax.config import check
from mow_jax.learner import Learner

CONTEXTS = 40  # a task
NAMES = (*throughput.PARTS, "whole update")


def main(config: ConfigDict, rounds: int, output: str | None) -> None:
    """Measures, prints the table, writes the JSON."""
    config.train.envs = 1
    config.batch.sequences, config.agent.contexts = 1, CONTEXTS
    many = side(config)
    count = len(throughput.tasks_of(config))
    alone = config.copy_and_resolve_references()
    alone.suite.tasks = (throughput.tasks_of(config)[0].name,)
    alone.batch.sequences, alone.agent.contexts = count, CONTEXTS * count
    sides = {f"{count} tasks": many, "1 task": side(alone)}
    for calls, _ in sides.values():
        for call in calls.values():
            throughput.timed(call, 1)  # compiles
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in NAMES} for name in sides}
    for _ in range(rounds):
        for part in NAMES:
            for name, (calls, _) in sides.items():
                times[name][part].append(throughput.timed(calls[part], 1))
    record = {"device": throughput.device(), "versions": summary.versions(), "commit": summary.commit()}
    record |= {"seconds": times, "flop": {name: flop for name, (_, flop) in sides.items()}}
    record["ratio"] = ratios(record)
    show(record)
    if output:
        Path(output).write_text(json.dumps(record, indent=1) + "\n")


def side(config: ConfigDict) -> tuple[dict[str, Any], dict[str, int]]:
    """The parts of an update as calls, and their FLOP."""
    check(config)
    tasks = throughput.tasks_of(config)
    learner = Learner(build.agent(config, tasks), tasks, jax.local_devices()[:1])
    learner.initialise()
    with tempfile.TemporaryDirectory() as directory:
        replay = throughput.filled_replay(config, tasks, Path(directory))
        windows = throughput.sample(config, learner, replay, 0)
    learner.update(*windows)
    calls = throughput.part_calls(learner, windows) | {"whole update": lambda: learner.update(*windows)}
    return calls, throughput.part_flops(learner, windows)


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Seconds per FLOP of many tasks over those of one, by part."""
    (many, one), flop = record["seconds"].values(), record["flop"]
    (many_flop, one_flop) = flop.values()
    cost = lambda times, count, part: statistics.median(times[part]) / count[part]
    return {part: cost(many, many_flop, part) / cost(one, one_flop, part) for part in NAMES}


def show(record: dict[str, Any]) -> None:
    """The table a person reads."""
    rows = []
    for part in NAMES:
        cells = []
        for name, times in record["seconds"].items():
            cells += [f"{statistics.median(times[part]):.4g}", f"{record['flop'][name][part] / 1e9:,.1f}"]
        rows.append((part, *cells, f"{record['ratio'][part]:.2f}"))
    columns = [f"{name}, {unit}" for name in record["seconds"] for unit in ("s", "GFLOP")]
    logs.table(f"cost of tasks, {record['device']}", ["part", *columns, "cost per FLOP"], rows)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/atari26.py", "An experiment of several tasks.")
    _ROUNDS = flags.DEFINE_integer("rounds", 3, "Alternating rounds; medians are compared.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(lambda: main(_CONFIG.value, _ROUNDS.value, _OUTPUT.value))
