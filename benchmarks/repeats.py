"""Whether updates repeat bit for bit on the device at hand: the same ones twice, from the same seed.

    python benchmarks/repeats.py --config=experiments/atari26.py [--config.key=value ...] [--updates=20] [--output=FILE]

Frames are random. Compared are parameters, optimisers and all else of the state after the last update, and the metrics
of every update. Both times the same compiled program runs, as in a run that is resumed with JAX_COMPILATION_CACHE_DIR:
what XLA would choose otherwise in compiling anew is not seen. Where FILE has such a record, it is compared with, too.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
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
from mow_jax.replay import Replay
from mow_jax.types import BadInput


def main(config: ConfigDict, updates: int, output: str | None) -> None:
    """Makes the updates twice, prints what differs, writes the JSON."""
    check(config)
    if config.system != "mow":
        raise BadInput(f"updates of MoW are repeated, not those of {config.system}")
    tasks = throughput.tasks_of(config)
    with tempfile.TemporaryDirectory() as directory:
        replay = throughput.filled_replay(config, tasks, Path(directory))
        learner = Learner(build.system(config, tasks), tasks, jax.local_devices()[:1], seed=config.seed)
        both = [run(config, learner, replay, updates) for _ in range(2)]
    found = compare(*both) | {"digest": digest(both[0])}
    rows = [(name, f"{part['numbers']:,}", f"{part['differ']:,}") for name, part in found["parts"].items()]
    logs.table(f"{updates} updates, twice, on {throughput.device()}", ["part", "numbers", "differ"], rows)
    print("equal bit for bit" if found["equal"] else f"NOT equal; first seen in metrics of update {found['first']}")
    before = json.loads(Path(output).read_text()) if output and Path(output).exists() else {}  # by another process
    if "digest" in before:
        found["same_as_before"] = before["digest"] == found["digest"]
        print(f"{'the same' if found['same_as_before'] else 'NOT the same'} as what {output} had")
    if output:
        record = throughput.made()
        record |= {"updates": updates, "tasks": len(tasks), "dtype": config.model.compute_dtype} | found
        throughput.write(output, record)


def run(config: ConfigDict, learner: Learner, replay: Replay, updates: int) -> tuple[Any, list[dict[str, Any]]]:
    """The state after so many updates of a new run, and each one's metrics."""
    learner.initialise()
    windows = lambda update: throughput.sample(learner, replay, update)
    metrics = [learner.update("training", *windows(update)) for update in range(updates)]
    return learner.snapshot(), jax.device_get(metrics)


def digest(made: tuple[Any, list[dict[str, Any]]]) -> str:
    """Of all bits of a state and its metrics."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(made):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def compare(one: tuple[Any, list], other: tuple[Any, list]) -> dict[str, Any]:
    """Numbers whose bits differ, by part of the state and in metrics; the first update whose metrics do, from 0."""
    (state, metrics), (state_again, metrics_again) = one, other
    pairs = {name: (getattr(state, name), getattr(state_again, name)) for name in state._fields}
    pairs["metrics"] = (metrics, metrics_again)
    counted = {
        name: (sum(leaf.size for leaf in jax.tree.leaves(pair[0])), differ(*pair)) for name, pair in pairs.items()
    }
    apart = [update for update, pair in enumerate(zip(metrics, metrics_again, strict=True)) if differ(*pair)]
    return {
        "equal": not any(differing for _, differing in counted.values()),
        "first": min(apart, default=None),
        "parts": {name: {"numbers": numbers, "differ": differing} for name, (numbers, differing) in counted.items()},
    }


def differ(one: Any, other: Any) -> int:
    """How many numbers of two trees of one structure differ in a bit; so NaN is like itself, and 0 is not like -0."""
    bits = lambda leaf: np.ascontiguousarray(leaf).reshape(-1, 1).view(np.uint8)
    unlike = lambda a, b: (bits(a) != bits(b)).any(1).sum()
    return int(sum(jax.tree.leaves(jax.tree.map(unlike, one, other))))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment file.")
    _UPDATES = flags.DEFINE_integer("updates", 20, "Updates.", lower_bound=1)
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(lambda: main(_CONFIG.value, _UPDATES.value, _OUTPUT.value))
