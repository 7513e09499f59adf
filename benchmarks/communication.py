"""What an update sends between devices, read from the lowered program, and what that costs on paper.

    python benchmarks/communication.py [--config=experiments/atari26.py] [--bandwidth=100]

Nothing is run or compiled: the update is lowered for two virtual CPU devices, and every all-reduce in it is listed by
size. The time is that of a ring, 2 (D - 1) / D times the bytes over the bandwidth.
"""

from __future__ import annotations

import functools
import math
import os
import re

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import throughput
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import build, command, logs, replay
from mow_jax.config import check
from mow_jax.learner import Learner, abstract_state

CHIPS = (8, 32, 256)


def main(config: ConfigDict, bandwidth: float) -> None:
    """Prints the table."""
    check(config)
    sizes = sorted(reductions(lowered(config)), reverse=True)
    gradients, rest = sizes[:2], sizes[2:]
    total = 4 * sum(sizes)
    rows = [
        (f"gradient of {name}", f"{4 * size:,}") for name, size in zip(("world model", "agent"), gradients, strict=True)
    ]
    rows += [(f"{len(rest)} sums of statistics, losses and metrics", f"{4 * sum(rest):,}"), ("all", f"{total:,}")]
    rows += [
        (f"{chips} devices at {bandwidth:g} GB/s", f"{2 * (chips - 1) / chips * total / bandwidth / 1e6:.1f} ms")
        for chips in CHIPS
    ]
    logs.table("sent per update", ["what", "bytes"], rows)


def lowered(config: ConfigDict) -> str:
    """The update of the experiment on two devices, as text."""
    tasks = throughput.tasks_of(config)
    learner = Learner(build.system(config, tasks), tasks, jax.devices()[:2], seed=config.seed)
    each = functools.partial(replay.empty, tasks[0], config.suite.image_size, learner.system.extras)
    drawn = learner.system.updates["training"].windows.values()
    windows = [each((-(-len(tasks) // 2), window.batch, window.length)) for window in drawn]
    everywhere = lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype)
    arguments = jax.tree.map(everywhere, (abstract_state(learner.system), *windows))
    return learner._updates["training"].lower(*arguments, learner._shard).as_text()


def reductions(program: str) -> list[int]:
    """Numbers in each all-reduce of a StableHLO program; all are of four bytes."""
    found = re.findall(r'"stablehlo\.all_reduce"\(.*?\}\) : \((.*?)\) -> ', program, re.DOTALL)
    shapes = [shape for results in found for shape in re.findall(r"tensor<((?:\d+x)*)[fi]32>", results)]
    return [math.prod(int(size) for size in shape.split("x") if size) for shape in shapes]


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/atari26.py", "An experiment file.")
    _BANDWIDTH = flags.DEFINE_float("bandwidth", 100.0, "GB/s into each device, for the time on paper.")
    command.run(lambda: main(_CONFIG.value, _BANDWIDTH.value))
