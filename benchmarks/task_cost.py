"""What many tasks cost beside one: equal sequences and contexts in all, in one run, seconds per counted FLOP.

    python benchmarks/task_cost.py [--config=experiments/atari26.py] [--rounds=3] [--output=FILE]

Of the experiment's K tasks each gets 1 sequence and 40 contexts, with its clusters and experts; beside it the first
task alone gets K sequences and 40 K contexts. Above 1 the ratio is what gathering rows and products over small batches
cost.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
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

CONTEXTS = 40  # a task


def main(config: ConfigDict, rounds: int, output: str | None) -> None:
    """Measures, prints the table, writes the JSON."""
    config.train.envs = 1
    config.batch.sequences, config.agent.contexts = 1, CONTEXTS
    count = len(throughput.tasks_of(config))
    alone = config.copy_and_resolve_references()
    alone.suite.tasks = (throughput.tasks_of(config)[0].name,)
    alone.batch.sequences, alone.agent.contexts = count, CONTEXTS * count
    sides = {f"{count} tasks": side(config), "1 task": side(alone)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (call, _) in sides.items():
            times[name].append(throughput.timed_alone(call))
    record = throughput.made()
    record |= {"seconds": times, "flop": {name: flop for name, (_, flop) in sides.items()}}
    many, one = (statistics.median(times[name]) / flop for name, (_, flop) in sides.items())
    record["ratio"] = many / one
    show(record)
    throughput.write(output, record)


def side(config: ConfigDict) -> tuple[Callable, int]:
    """A whole update as a call, compiled, and its FLOP."""
    check(config)
    tasks = throughput.tasks_of(config)
    learner = Learner(build.system(config, tasks), tasks, jax.local_devices()[:1], seed=config.seed)
    learner.initialise()
    with tempfile.TemporaryDirectory() as directory:
        replay = throughput.filled_replay(config, tasks, Path(directory))
        windows = throughput.sample(learner, replay, 0)
    call = lambda: learner.update("training", *windows)
    throughput.timed_alone(call)
    return call, throughput.part_flops(learner, throughput.agent_of(config, tasks), windows)["whole update"]


def show(record: dict[str, Any]) -> None:
    """The table a person reads."""
    rows = []
    for name, times in record["seconds"].items():
        spread = f"{min(times):.4g} to {max(times):.4g}"
        rows.append((name, f"{statistics.median(times):.4g}", spread, f"{record['flop'][name] / 1e9:,.1f}"))
    logs.table(f"cost of tasks, {record['device']}", ["an update of", "s", "spread", "GFLOP"], rows)
    print(f"cost per FLOP, many tasks over one: {record['ratio']:.2f}")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/atari26.py", "An experiment of several tasks.")
    _ROUNDS = flags.DEFINE_integer("rounds", 3, "Alternating rounds; medians are compared.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(lambda: main(_CONFIG.value, _ROUNDS.value, _OUTPUT.value))
