"""What one update costs on the device at hand, part by part, for any experiment file.

    python benchmarks/throughput.py --config=experiments/storm.py [--config.key=value ...] [--rounds=5] [--output=FILE]

Frames are random: the cost does not depend on them. Milliseconds are medians over rounds, the parts timed one after the
other in every round. FLOP are those of the matrix products (flops.py); the share is of the rate of a large matrix
product measured in the same rounds. `--noparts`: whole updates alone, which compiles half as long. `--profile=DIR`: a
trace of two.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import build, command, flops, logs, summary
from mow_jax.config import check
from mow_jax.envs import suites
from mow_jax.learner import Learner
from mow_jax.replay import Replay
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow.agent import Agent
from mow_jax.systems.mow.types import TrainState
from mow_jax.types import BadInput, Batch, Task

PARTS = ("world model", "imagination", "actor-critic")
MATRIX = {"cpu": 2048}  # side of the measured matrix product, by platform; on accelerators:
ACCELERATOR_MATRIX = 8192


def main(
    config: ConfigDict, rounds: int, seconds: float, output: str | None, parts: bool = True, profile: str | None = None
) -> None:
    """Measures, prints the table, writes the JSON."""
    check(config)
    tasks = tasks_of(config)
    agent = agent_of(config, tasks)
    logs.first_screen([("measuring", f"{len(tasks)} tasks, {agent.world.clusters} clusters, on {device()}")])

    keep = functools.partial(write, output)
    with tempfile.TemporaryDirectory() as directory:
        results = measure(config, agent, tasks, Path(directory), rounds, seconds, parts, profile, keep)
    show(results)
    keep(results)
    if output:
        print(f"written: {output}")


def tasks_of(config: ConfigDict) -> list[Task]:
    """The experiment's tasks; Atari games by their names alone where ale-py is missing, as only sizes matter here."""
    try:
        return build.tasks(config)
    except BadInput:
        if config.suite.name != "atari" or importlib.util.find_spec("ale_py"):
            raise
    names = suites.expand("atari", config.suite.tasks)
    return [Task(name, "atari", True, 18, (True,) * 18, 27_000, None, None) for name in names]


def agent_of(config: ConfigDict, tasks: list[Task]) -> Agent:
    """MoW's own record, for the parts of its update. Raises BadInput for another system."""
    if config.system != "mow":
        raise BadInput(
            f"config.system={config.system}: the parts of MoW's update are measured; train logs updates a second"
        )
    return mow.agent(config, tasks, build.plan(config))


def measure(
    config: ConfigDict,
    agent: Agent,
    tasks: list[Task],
    directory: Path,
    rounds: int,
    seconds: float,
    parts: bool,
    profile: str | None,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """All numbers, for JSON; those that are known before a trace and FLOP are written at once."""
    learner = Learner(build.system(config, tasks), tasks, jax.local_devices()[:1], seed=config.seed)
    learner.initialise()
    replay = filled_replay(config, tasks, directory)
    windows = sample(learner, replay, 0)
    learner.update("training", *windows)  # compiles, and fills the return scales
    acting = learner.init_acting(config.train.envs)
    frames, first = (np.asarray(x[0][:, :1, 0]) for x in (windows[0].observation, windows[0].is_first))
    frames, first = frames.repeat(config.train.envs, 1), first.repeat(config.train.envs, 1)
    state = {"acting": learner.act(acting, frames, first, 0, True)[2]}

    calls = part_calls(learner, agent, windows) if parts else {}
    calls["whole update"] = lambda: learner.update("training", *windows)
    calls["sampling"] = lambda: sample(learner, replay, 1)

    def act() -> Any:
        action, _, state["acting"] = learner.act(state["acting"], frames, first, 1, True)
        return action

    calls["acting"] = act
    calls["matrix"], matrix_flop = matrix_product(agent.world.dtype)
    times = {name: [] for name in calls}
    repeats = {name: calibrate(call, seconds) for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call, repeats[name]))
    median = {name: statistics.median(values) for name, values in times.items()}
    known = functools.partial(results, config, learner, agent, median, times, matrix_flop / median["matrix"])
    keep(known({}))
    if profile:
        with jax.profiler.trace(profile):
            timed(calls["whole update"], 2)
    return known(part_flops(learner, agent, windows))


def results(config: ConfigDict, learner: Learner, agent: Agent, median, times, rate, counted) -> dict[str, Any]:
    """The record that is written and shown."""
    updates = 1 / median["whole update"]
    joint = median["acting"] + config.train.ratio * (median["whole update"] + median["sampling"])
    return made() | {
        "dtype": np.dtype(agent.world.dtype).name,
        "tasks": len(learner.mine),
        "milliseconds": {name: 1000 * value for name, value in median.items() if name != "matrix"},
        "spread": {name: [1000 * min(values), 1000 * max(values)] for name, values in times.items()},
        "flop": counted,
        "matrix_rate": rate,
        "share": {name: counted[name] / median[name] / rate for name in counted if name in median},
        "updates_per_second": updates,
        "agent_steps_per_second": len(learner.mine) * config.train.envs / joint,
        "hours_of_updates": build.plan(config).updates * median["whole update"] / 3600,
        "peak_bytes": peak_bytes(),
    }


def part_calls(learner: Learner, agent: Agent, windows: tuple[Batch, Batch]) -> dict[str, Callable]:
    """The parts as calls on the learner's state; nothing is donated, so that each can be repeated."""
    programs = {name: learner.program(function) for name, function in part_functions(agent).items()}
    batch, contexts = windows
    shard = learner._shard
    dream = programs["imagination"](learner.state, contexts, shard)
    inputs = {"world model": batch, "imagination": contexts, "actor-critic": dream}
    return {name: lambda name=name: programs[name](learner.state, inputs[name], shard) for name in PARTS}


def part_functions(agent: Agent) -> dict[str, Callable]:
    """The three parts of agent.update, each from the state, its input and the shard."""

    def imagination(state: TrainState, contexts: Batch, shard: Any) -> Any:
        fixed = algorithm.cast_once(agent, state)
        return algorithm.imagine(agent, fixed, algorithm.gather(agent, fixed, shard), contexts, shard)

    def behaviour(state: TrainState, dream: Any, shard: Any) -> Any:
        rows = algorithm.gather(agent, state, shard)
        return algorithm.learn_behaviour(agent, state, rows, dream, shard)

    return dict(zip(PARTS, (functools.partial(algorithm.learn_world, agent), imagination, behaviour), strict=True))


def part_flops(learner: Learner, agent: Agent, windows: tuple[Batch, Batch]) -> dict[str, int]:
    """FLOP of each part and of the whole."""
    shard = learner._shard
    one = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
    state, batch, contexts, shapes = one(learner.state), one(windows[0]), one(windows[1]), one(shard)
    functions = {name: with_axis(function) for name, function in part_functions(agent).items()}
    dream = jax.eval_shape(functions["imagination"], state, contexts, shapes)
    inputs = dict(zip(PARTS, (batch, contexts, dream), strict=True))
    counted = {name: flops.count(functions[name], state, inputs[name], shapes) for name in PARTS}
    return counted | {"whole update": sum(counted.values())}


def with_axis(function: Callable) -> Callable:
    """`function` with the named axis "device" of size one around it."""
    lead = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)
    mapped = jax.vmap(function, axis_name="device")
    return lambda *arguments: jax.tree.map(lambda leaf: leaf[0], mapped(*map(lead, arguments)))


def filled_replay(config: ConfigDict, tasks: list[Task], directory: Path, rows: int = 0) -> Replay:
    """A replay of `rows` random rows of every stream; 0: twice the longest window."""
    replay = Replay(
        directory, tasks, image_size=config.suite.image_size, envs=config.train.envs, seed=0,
        chunk_rows=config.replay.chunk_rows, capacity=0,
    )  # fmt: skip
    replay.restore({"rows": 0})
    draw, shape = np.random.default_rng(0), (len(tasks), config.train.envs)
    size = config.suite.image_size
    for row in range(rows or 2 * max(config.batch.length, config.agent.context)):
        frames = draw.integers(0, 256, (*shape, size, size, 3), np.uint8)
        wide = () if tasks[0].discrete else (tasks[0].action_size,)
        action = np.zeros((*shape, *wide), np.int32 if tasks[0].discrete else np.float32)
        reward, none = draw.normal(size=shape).astype(np.float32), np.zeros(shape, bool)
        replay.append(Batch(frames, action, reward, none, np.full(shape, row == 0)))
    return replay


def sample(learner: Learner, replay: Replay, update: int) -> tuple[Batch, ...]:
    """An update's windows, on the device, as run.py draws them."""
    drawn = learner.system.updates["training"].windows.items()
    gather = lambda name, window: replay.gather(
        replay.indices(window.batch, window.length, update, name), window.length, learner.order
    )
    return tuple(learner.put(gather(name, window)) for name, window in drawn)


def matrix_product(dtype: Any) -> tuple[Callable, int]:
    """A large matrix product in the model's precision, and its FLOP."""
    side = MATRIX.get(jax.default_backend(), ACCELERATOR_MATRIX)
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.float32).astype(dtype)
    product = jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix), 2 * side**3


def calibrate(call: Callable, seconds: float) -> int:
    """How often to repeat a call so that it takes about `seconds`; the first calls compile."""
    timed(call, 1)
    return max(1, round(seconds / timed(call, 1)))


def timed(call: Callable, repeats: int) -> float:
    """Seconds a call."""
    begin = time.perf_counter()
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - begin) / repeats


def timed_alone(call: Callable) -> float:
    """Seconds of one call; the one before it warms up. Memory is then given back to what comes in turn."""
    timed(call, 1)
    seconds = timed(call, 1)
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return seconds


def made() -> dict[str, Any]:
    """What a record of measurements begins with: on what, with what and of what it was made."""
    return {"device": device(), "versions": summary.versions(), "commit": summary.commit()}


def write(output: str | None, record: dict[str, Any]) -> None:
    """The record as JSON, where a file is wanted."""
    if output:
        Path(output).write_text(json.dumps(record, indent=1) + "\n")


def device() -> str:
    """The device in words."""
    kind = jax.local_devices()[0].device_kind
    return f"{platform.machine()} CPU" if kind == "cpu" else kind


def peak_bytes() -> int:
    """Peak memory: of the device where it says so, else of this process."""
    memory = jax.local_devices()[0].memory_stats() or {}
    return memory.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(record: dict[str, Any]) -> None:
    """The table a person reads."""
    rows = []
    for name, milliseconds in record["milliseconds"].items():
        counted = record["flop"].get(name)
        work = (f"{counted / 1e9:,.1f}", f"{record['share'][name]:.1%}") if counted else ("-", "-")
        low, high = record["spread"][name]
        rows.append((name, f"{milliseconds:,.1f}", f"{low:,.1f} to {high:,.1f}", *work))
    logs.table("one update", ["part", "ms", "spread", "GFLOP", "of the matrix rate"], rows)
    print(
        f"{record['updates_per_second']:.2f} updates/s, {record['agent_steps_per_second']:.1f} agent steps/s with"
        f" acting, {record['hours_of_updates']:.1f} hours of updates in the experiment; matrix rate"
        f" {record['matrix_rate'] / 1e12:.3g} TFLOP/s in {record['dtype']}, peak memory"
        f" {summary.size(record['peak_bytes'])}"
    )


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment file.")
    _ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds; the medians are shown.")
    _SECONDS = flags.DEFINE_float("seconds", 1.0, "About so long is each part timed in a round.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    _PARTS = flags.DEFINE_bool("parts", True, "Whether an update's parts are timed too.")
    _PROFILE = flags.DEFINE_string("profile", None, "Folder for a trace of two updates.")
    command.run(lambda: main(_CONFIG.value, _ROUNDS.value, _SECONDS.value, _OUTPUT.value, _PARTS.value, _PROFILE.value))
