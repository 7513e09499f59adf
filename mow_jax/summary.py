"""The first screen of a run and what --dry_run adds: versions, devices, sizes, plans; refuses what cannot fit."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import mow_jax
from mow_jax import build, files, logs, origin, processes, replay, xla
from mow_jax.envs.suites import MEMORY, MEMORY_OF_OTHERS, MEMORY_OF_VECTORS
from mow_jax.learner import abstract_state
from mow_jax.types import BadInput, Shard, System, Task

_COMMIT = origin.commit()  # as this process loads its code: a checkout may change while a run learns
# Those that decide results: of the last three sklearn groups tasks, and OpenCV scales pictures.
PACKAGES = (
    *("jax", "flax", "optax", "mctx", "numpy", "ale-py", "gymnasium", "metaworld", "mujoco"),
    *("scipy", "scikit-learn", "opencv-python-headless"),
)

OTHER_FILES = 200  # that a process has open beside replay and its workers' pipes; 112 to 116 in an hour of training


def commit() -> str:
    """The commit of the code that this process runs, whatever has become of the checkout since."""
    return _COMMIT


def versions() -> dict[str, str]:
    """Our version and those of the packages that decide results."""
    return {"mow_jax": mow_jax.__version__} | installed(PACKAGES)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Those of some packages that are installed, and their versions."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def record_start(workdir: Path, system: System) -> None:
    """Process 0 adds to origin.json what starts here: commit, versions, machine, command (report --reproduce), and how
    many parameters it learns, in all and for one task."""
    if processes.index():
        return
    path, device = workdir / "origin.json", jax.local_devices()[0]
    try:
        starts = json.loads(path.read_text())
    except (OSError, ValueError):
        starts = []
    machine = f"{len(os.sched_getaffinity(0))} cores, {jax.local_device_count()} x {device.device_kind}"
    made: dict[str, Any] = {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": versions(),
        "machine": machine,
    }
    made |= {"command": shlex.join(sys.argv), "parameters": learned(system), "active": learned(system, of_a_task=True)}
    with files.whole(path) as temporary:
        temporary.write_text(json.dumps([*starts, made], indent=1) + "\n")


def learned(system: System, of_a_task: bool = False) -> int:
    """How many parameters are learned, moving averages left out; or those of them that one task uses."""
    counts = parameters(system, of_a_task)
    return sum(counts[name] for name, part in system.components(abstract_state(system)).items() if part.learned)


def parameters(system: System, of_a_task: bool = False) -> dict[str, int]:
    """Parameters by component; or those of them that one task uses."""
    components = system.components(abstract_state(system))
    count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    return {name: round(count(part.tree) * (part.share if of_a_task else 1)) for name, part in components.items()}


def rows(config: ConfigDict, system: System, tasks: list[Task], workdir: Path) -> list[tuple[str, str]]:
    """What every run shows before it starts."""
    plan, sizes = build.plan(config), parameters(system)
    device = jax.local_devices()[0]
    names = ", ".join(task.name for task in tasks)
    return [
        ("mow_jax", f"{versions()['mow_jax']}, commit {commit()}, jax {jax.__version__}"),
        ("devices", f"{jax.local_device_count()} x {device.device_kind}"),
        ("tasks", f"{len(tasks)} of {config.suite.name}: {names}"),
        *pictures(tasks),
        ("system", system.name),
        *system.facts(sum(sizes.values())),
        ("parameters", f"{sum(sizes.values()):,}"),
        *((f"  {name}", f"{count:,}") for name, count in sizes.items()),
        ("replay", f"{size(replay_bytes(config, system, tasks))} at most; free: {size(free_disk(workdir))} of disk"),
        ("memory", f"{size(state_bytes(system))} of training state; free: {size(free_memory())}"),
        *[("replay on a device", size(mirror_bytes(config, system, processes.share(tasks))))]
        * config.replay.device_mirror,
        ("environments", environments_text(config, tasks)),
        (
            "plan",
            f"{plan.joint_steps:,} joint steps x {config.train.envs} environments = {config.train.steps:,} agent steps"
            f" a task; {plan.warmup_updates:,} warm-up updates, {plan.updates:,} updates",
        ),
        ("workdir", str(workdir)),
    ]


def pictures(tasks: list[Task]) -> list[tuple[str, str]]:
    """Which picture is seen and why, where that was a choice: a row for all tasks of which the same can be said."""
    said: dict[str, list[str]] = {}
    for task in tasks:
        said.setdefault(task.picture, []).append(task.name)
    said.pop("", None)
    return [("picture", f"{', '.join(names)}: {text}") for text, names in said.items()]


def dry_run(config: ConfigDict, tasks: list[Task], system: System, workdir: Path) -> int:
    """Prints the first screen and the memory of the compiled update; starts nothing."""
    more = [("compiled update", compiled_memory(config, system, tasks))]
    logs.first_screen(rows(config, system, tasks, workdir) + more)
    refuse_too_large(config, system, tasks, workdir)
    return 0


def compiled_memory(config: ConfigDict, system: System, tasks: list[Task]) -> str:
    """Memory of the compiled update on this device, from shapes alone."""
    count, training = len(tasks), system.updates["training"]
    mask, each = _shape((count, tasks[0].action_size), bool), functools.partial(_shape, (count,))
    shard = Shard(each(np.int32), each(), mask, each(np.uint32))
    drawn = lambda window: (count, window.batch or config.train.envs, window.length)
    empty = functools.partial(replay.empty, tasks[0], config.suite.image_size, system.extras)
    windows = [empty(drawn(window)) for window in training.windows.values()]
    lead = lambda tree: jax.tree.map(lambda leaf: _shape((1, *leaf.shape), leaf.dtype), tree)
    program = processes.over_devices(training.function, jax.local_devices()[:1])
    update = jax.jit(program, donate_argnums=0)
    # How well the code is optimised changes nothing of the memory, and a lot of the time to compile.
    options = xla.options(jax.default_backend(), often=False)
    state = abstract_state(system)
    compiled = update.lower(lead(state), *map(lead, windows), lead(shard)).compile(options)
    memory = compiled.memory_analysis()
    held, scratch = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return f"{size(held)} of state and batches, {size(scratch)} of scratch memory on {jax.default_backend()}"


def _shape(shape: tuple, dtype=np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def replay_bytes(config: ConfigDict, system: System, tasks: list[Task]) -> int:
    """Bytes of replay on disk at most, in whole chunks; with replay.capacity those that a resume from any of the newest
    checkpoints may sample."""
    chunk = config.replay.chunk_rows
    return len(tasks) * config.train.envs * -(-kept_rows(config) // chunk) * chunk * row_bytes(config, system, tasks)


def kept_rows(config: ConfigDict) -> int:
    """Rows of an environment that lie on disk at most."""
    envs, kept = config.train.envs, config.train.steps // config.train.envs
    if config.replay.capacity:
        since = config.checkpoint.keep * -(-config.checkpoint.every // envs)  # rows, when the oldest of them goes
        # ... which may begin anywhere in a chunk.
        kept = min(kept, config.replay.capacity // envs + since + config.replay.chunk_rows - 1)
    return kept


def mirror_bytes(config: ConfigDict, system: System, tasks: list[Task]) -> int:
    """Bytes of the copy of replay on each of this process's devices (`replay.device_mirror`), which holds all rows."""
    rows = build.plan(config).joint_steps * config.train.envs * config.replay.device_mirror
    return -(-len(tasks) // jax.local_device_count()) * rows * row_bytes(config, system, tasks)


def row_bytes(config: ConfigDict, system: System, tasks: list[Task]) -> int:
    """Bytes of one row of one environment."""
    row = jax.tree.leaves(replay.empty(tasks[0], config.suite.image_size, system.extras, ()))
    return sum(leaf.nbytes for leaf in row)


def windows_bytes(config: ConfigDict, system: System, tasks: list[Task]) -> int:
    """Bytes of what the largest kind of update draws."""
    drawn = (update.windows.values() for update in system.updates.values())
    rows = max(sum((window.batch or config.train.envs) * window.length for window in windows) for windows in drawn)
    return len(tasks) * rows * row_bytes(config, system, tasks)


def state_bytes(system: System) -> int:
    """Bytes of one state."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state(system)))


def environments_bytes(config: ConfigDict, tasks: list[Task]) -> tuple[int, int, int]:
    """Worker processes, environments (an evaluation's beside training's) and the memory they take at most."""
    each, cores = config.train.envs * len(tasks), len(os.sched_getaffinity(0))
    played = min(config.evaluation.parallel, config.evaluation.episodes) * len(tasks)
    processes = sum(
        min(count, cores if config.actors.workers < 0 else config.actors.workers) for count in (each, played)
    )
    table = MEMORY_OF_VECTORS if config.suite.observation == "state" else MEMORY
    process, environment = table.get(config.suite.name, MEMORY_OF_OTHERS)
    return processes, each + played, processes * process + (each + played) * environment


def environments_text(config: ConfigDict, tasks: list[Task]) -> str:
    """What the environments take, in words."""
    processes, count, memory = environments_bytes(config, tasks)
    return f"{count} in {processes} worker processes, evaluation's included: up to {size(memory)} of memory"


def refuse_too_large(config: ConfigDict, system: System, tasks: list[Task], workdir: Path) -> None:
    """Raises BadInput where the disk cannot hold all `tasks`, or memory those of the processes on this machine."""
    mine, neighbours = processes.share(tasks), processes.neighbours()
    state, windows = state_bytes(system), windows_bytes(config, system, mine)
    checkpoints = (config.checkpoint.keep + 1 + len(config.checkpoint.milestones)) * state
    replay, disk = replay_bytes(config, system, tasks), free_disk(workdir) + used(workdir)
    if replay + checkpoints > disk:
        raise BadInput(
            f"the run needs {size(replay)} of replay and {size(checkpoints)} of checkpoints, {workdir} has"
            f" {size(disk)}: lower replay.capacity, checkpoint.keep or checkpoint.every, or choose a larger disk"
        )
    _refuse_files(config, mine, workdir)
    free = free_memory() // neighbours
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", free)  # of a CPU nothing is said
    if (copy := mirror_bytes(config, system, mine)) and copy + state > limit:
        raise BadInput(
            f"replay.device_mirror takes {size(copy)} of a device's memory beside {size(state)} of training state, of"
            f" {size(limit)}: leave it off, lower train.steps, or use more devices"
        )
    if jax.default_backend() != "cpu":
        state = 0  # in a memory of its own
    if state > free:
        raise BadInput(
            f"the training state takes {size(state)}, {size(free)} of memory are free:"
            " lower model.width or other sizes of the model"
        )
    if windows + state > free:
        raise BadInput(
            f"an update draws {size(windows)} of replay, {size(free - state)} of memory are free: lower the"
            " number or length of its windows (config.batch)"
        )
    if environments_bytes(config, mine)[-1] + state > free:
        raise BadInput(
            f"the environments take {environments_text(config, mine)}; {size(free - state)} are free: lower"
            " train.envs, evaluation.parallel or actors.workers, or name fewer suite.tasks"
        )


def _refuse_files(config: ConfigDict, tasks: list[Task], workdir: Path) -> None:
    """Raises BadInput where this process would come to have more files open than it may."""
    chunks = -(-kept_rows(config) // config.replay.chunk_rows)  # each is mapped, and the last is written, too
    mapped, workers = len(tasks) * config.train.envs * (chunks + 1), environments_bytes(config, tasks)[0]
    if (wanted := mapped + workers + OTHER_FILES) > (most := files.most_open()):
        resumed = (workdir / "config.json").exists()  # its files stay as long as they are
        larger = "" if resumed else f" or replay.chunk_rows={config.replay.chunk_rows}"
        fewer = "replay.capacity" if config.replay.capacity else "train.steps"
        raise BadInput(
            f"the run comes to have {wanted:,} files open, {mapped:,} of them replay's, and the hard limit"
            f" (`ulimit -Hn`) is {most:,}: raise it{larger}, lower {fewer}, or use more processes"
        )


def free_disk(workdir: Path) -> int:
    """Free bytes where `workdir` is or will be."""
    place = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.is_dir())
    return shutil.disk_usage(place).free


def used(workdir: Path) -> int:
    """Bytes that an earlier part of the run already holds."""
    found = 0
    for folder, _, names in os.walk(workdir):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run that goes on there deletes files
                found += os.stat(os.path.join(folder, name)).st_size
    return found


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that the system could still give to this process."""
    fields = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
    free = int(fields.get("MemAvailable", fields["MemFree"]).split()[0]) * 1024
    return max(0, min([free, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """What the limits of its control groups (v2) leave: of a job, a container, a pod and all those around it."""
    groups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):
        own = groups / (root / "proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
        for group in filter(lambda path: path.is_relative_to(groups), (own, *own.parents)):
            limit = group / "memory.max"
            if limit.exists() and limit.read_text() != "max\n":
                held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield int(limit.read_text()) - int(held["anon"]) - int(held.get("shmem", 0))  # other files make room


def size(count: float) -> str:
    """Bytes for people: "3.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
