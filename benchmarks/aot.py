"""What XLA makes of an experiment's programs for a GPU that is not there: kernels, bytes, FLOP, a bound on the time.

    python benchmarks/aot.py --config=experiments/atari26.py [--gpu=h100] [--parts="world model",acting] [--output=FILE]

Nothing is run and no parameter is made: the CUDA plugin compiles from shapes for a described GPU (gpus.py), and hlo.py
reads the optimised program; the code of its kernels is not generated. The bound is that of bytes and matrix products,
kernel by kernel: NOT a measurement. What to install is in docs/performance.md. `--keep=DIR` keeps the programs,
`--recount` counts those again.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"  # what runs here, if anything
os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # the plugin's own libraries are not needed to compile

import gpus
import hlo
import jax
import numpy as np
import throughput
from absl import flags
from jax.experimental import topologies
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import build, command, flops, logs, processes, replay, summary
from mow_jax.config import check
from mow_jax.types import BadInput, Shard, System, Task

FLAGS = os.environ.get("XLA_FLAGS", "")
PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin")
ALL = (*throughput.PARTS, "whole update", "acting")
# What the compiler leaves behind, in order: kernels chosen, then scheduled, then with their buffers.
CHOSEN, SCHEDULED, BUFFERS = (
    f"*{stage}.txt"
    for stage in ("before_config_assignment", "gpu_after_optimizations", "gpu_after_optimizations-buffer-assignment")
)
Shape = jax.ShapeDtypeStruct


class Work(NamedTuple):
    """A function of one device with the shapes of its arguments."""

    function: Callable
    arguments: tuple
    donate: tuple[int, ...] = ()


def main(
    config: ConfigDict,
    gpu: gpus.Gpu,
    parts: list[str],
    minutes: float,
    keep: str | None,
    recount: bool,
    output: str | None,
) -> None:
    """Compiles, prints the tables, writes the JSON."""
    check(config)
    known = [name for name in ALL if config.system == "mow" or name not in throughput.PARTS]
    if unknown := sorted(set(parts) - set(known)):
        raise BadInput(f"--parts names {', '.join(unknown)}: choose from {', '.join(known)}")
    plugin = summary.installed(PLUGINS)
    if not plugin:
        raise BadInput(
            "jax's CUDA plugin is not installed, without which nothing compiles for a GPU:"
            f" pip install jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}"
        )
    record: dict[str, Any] = {
        "gpu": gpu.title,
        "kind": "read from the compiler's program; the bound is computed, nothing was timed",
        "assumed": {
            "bytes a second": gpu.bandwidth * gpus.BANDWIDTH_REACHED,
            "FLOP a second": {name: rate * gpus.RATE_REACHED for name, rate in gpu.rates.items()},
            "seconds of a launch": gpus.LAUNCH,
        },
        "versions": summary.versions() | plugin,
        "commit": summary.commit(),
        "parts": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in parts or known:
            folder = Path(keep or scratch) / re.sub("[^a-z0-9]+", "_", name)
            if not recount:
                compile_part(config, gpu, name, folder, minutes)
            record["parts"][name] = account(gpu, name, folder)
            if output:
                Path(output).write_text(json.dumps(record, indent=1) + "\n")
    show(record)


# --- The programs, from shapes alone ----------------------------------------------------------------------------------


def programs(config: ConfigDict, tasks: list[Task]) -> dict[str, Work]:
    """The update and acting of any system; of MoW the update's parts too."""
    system, count = build.system(config, tasks), len(tasks)
    ids, valid, seed = (Shape((count,), kind) for kind in (np.int32, np.float32, np.uint32))
    shard = Shard(ids, valid, Shape((count, tasks[0].action_size), bool), seed)
    state, windows = jax.eval_shape(system.init, 0), drawn(config, system, tasks)
    found = mow_parts(config, tasks, state, windows, shard) if config.system == "mow" else {}
    found["whole update"] = Work(system.updates["training"].function, (state, *windows, shard), (0,))
    envs, frame = config.train.envs, windows[0].observation
    seen = Shape((count, envs, *frame.shape[3:]), frame.dtype), Shape((count, envs), bool), Shape((), np.int32)
    acting = jax.eval_shape(functools.partial(system.init_acting, count, envs))
    function = functools.partial(system.act, explore=True)
    return found | {"acting": Work(function, (state, acting, *seen, shard), (1,))}


def drawn(config: ConfigDict, system: System, tasks: list[Task]) -> list[Any]:
    """Windows of the update, rows of zeros that take no memory."""
    empty = functools.partial(replay.empty, tasks[0], config.suite.image_size, system.extras)
    sizes = system.updates["training"].windows.values()
    return [empty((len(tasks), window.batch or config.train.envs, window.length)) for window in sizes]


def mow_parts(config: ConfigDict, tasks: list[Task], state: Any, windows: list[Any], shard: Shard) -> dict[str, Work]:
    """World model, imagination, actor-critic."""
    functions = throughput.part_functions(throughput.agent_of(config, tasks))
    batch, contexts = windows
    dream = jax.eval_shape(throughput.with_axis(functions["imagination"]), state, contexts, shard)
    inputs = dict(zip(throughput.PARTS, (batch, contexts, dream), strict=True))
    # Within an update what a part leaves as it is costs no copy: a part that returns the state may overwrite it.
    donate = {"imagination": ()}
    return {name: Work(functions[name], (state, inputs[name], shard), donate.get(name, (0,))) for name in inputs}


# --- Compiling --------------------------------------------------------------------------------------------------------


def compile_part(config: ConfigDict, gpu: gpus.Gpu, name: str, folder: Path, minutes: float) -> None:
    """Compiles a program in a process of its own, which ends where its text is complete or its time is over."""
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("module_*"):
        old.unlink()
    os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_dump_to={folder} --xla_dump_hlo_as_text"
    process = multiprocessing.get_context("spawn").Process(target=lower, args=(config, gpu, name, folder))
    process.start()
    while process.is_alive() and time.monotonic() - begin < 60 * minutes and not whole(folder):
        process.join(1)
    process.kill()
    process.join()
    print(f"{name}: {logs.duration(time.monotonic() - begin)}", flush=True)


def lower(config: ConfigDict, gpu: gpus.Gpu, name: str, folder: Path) -> None:
    """Compiles a program for the described GPU, and leaves its FLOP as the code has them."""
    topology = dict(target_config=gpus.target_config(gpu), topology="1x1x1")
    device = topologies.get_topology_desc(gpu.title, "cuda", **topology).devices[0]
    with mock.patch.object(jax, "default_backend", return_value="gpu"):  # the code chooses by it
        work = programs(config, throughput.tasks_of(config))[name]
        mapped = processes.over_devices(work.function, [device])
        lead = lambda tree: jax.tree.map(lambda leaf: Shape((1, *leaf.shape), leaf.dtype), tree)
        traced = jax.jit(mapped, donate_argnums=work.donate).trace(*map(lead, work.arguments))
        (folder / "flop.json").write_text(json.dumps(flops.of(traced.jaxpr.jaxpr)))
        traced.lower().compile()


def whole(folder: Path) -> bool:
    """Whether the compiler has written the final program and its buffers, and is done with both."""
    found = [largest(folder, SCHEDULED), largest(folder, BUFFERS)]
    return all(path and time.time() - path.stat().st_mtime > 2 for path in found)


def largest(folder: Path, pattern: str) -> Path | None:
    """The largest file of a kind: the program's own, not that of some helper which was compiled on the way."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_size, default=None)


# --- The account ------------------------------------------------------------------------------------------------------


def account(gpu: gpus.Gpu, name: str, folder: Path) -> dict[str, Any]:
    """Counts the program that the compiler left in a folder; where it did not come to the end, the last one before."""
    buffers = largest(folder, BUFFERS)
    text = largest(folder, SCHEDULED if buffers else CHOSEN)
    if not text:
        raise BadInput(
            f"{name}: there is no program in {folder}; give the compiler more --minutes, or see what it says"
        )
    program = hlo.parse(text.read_text())
    return counted(hlo.kernels(program), gpu) | {
        "counted_flop": json.loads((folder / "flop.json").read_text()),
        "memory": hlo.assigned(buffers.read_text()) if buffers else hlo.walked(program),
        "memory_from": "final buffers" if buffers else "a walk over what lives",
    }


def counted(kernels: Iterable[hlo.Kernel], gpu: gpus.Gpu) -> dict[str, Any]:
    """Totals of a program, then by kind, by place of the code and, inside loops, by how often they run."""
    kernels = list(kernels)
    flop: Counter = Counter()
    for kernel in kernels:
        flop.update({dtype: kernel.times * count for dtype, count in kernel.flop.items()})
    kinds, places, loops = defaultdict(list), defaultdict(list), defaultdict(list)
    for kernel in kernels:
        file = kernel.place.partition(":")[0]
        kinds[f"convolution: {kernel.kind}" if file.endswith("convolution.py") else kernel.kind].append(kernel)
        places[kernel.place or "made by the compiler"].append(kernel)
        if kernel.times > 1:
            loops[f"{kernel.times} times"].append(kernel)
    group = lambda groups: {name: totals(groups[name], gpu) for name in sorted(groups)}
    return totals(kernels, gpu) | {
        "flop": dict(flop),
        "kinds": group(kinds),
        "places": group(places),
        "loops": group(loops),
    }


def totals(kernels: list[hlo.Kernel], gpu: gpus.Gpu) -> dict[str, float]:
    """Launches, bytes and milliseconds: the bound, and the same with the least time of a launch for each."""
    least = [(kernel.times, gpus.seconds(gpu, kernel.bytes, kernel.flop)) for kernel in kernels]
    return {
        "kernels": sum(times for times, _ in least),
        "bytes": sum(kernel.times * kernel.bytes for kernel in kernels),
        "milliseconds": 1e3 * sum(times * seconds for times, seconds in least),
        "with_launches": 1e3 * sum(times * max(seconds, gpus.LAUNCH) for times, seconds in least),
    }


def show(record: dict[str, Any]) -> None:
    """The tables a person reads."""
    rows: list[tuple] = []
    for name, part in record["parts"].items():
        flop = part["flop"]
        wide = sum(flop.values()) - flop.get("bf16", 0)
        products = (f"{flop.get('bf16', 0) / 1e12:.3f}", f"{wide / 1e12:.3f}", f"{part['counted_flop'] / 1e12:.3f}")
        bound = f"{part['milliseconds']:.1f}", f"{part['with_launches']:.1f}"
        rows.append((name, f"{part['kernels']:,}", f"{part['bytes'] / 1e9:.1f}", *products, *bound))
    columns = ["part", "kernels", "GB", "TFLOP bf16", "wider", "in the code", "bound, ms", "with launches"]
    logs.table(f"computed for {record['gpu']}, not timed", columns, rows)
    uses = ("arguments", "outputs", "temporaries")
    rows = [
        (name, *(f"{part['memory'][use] / 1e9:.2f}" for use in uses), part["memory_from"])
        for name, part in record["parts"].items()
    ]
    logs.table("memory, GB", ["part", *uses, "read from"], rows)
    for name, part in record["parts"].items():
        ordered = sorted(part["kinds"].items(), key=lambda pair: -pair[1]["milliseconds"])
        rows = [
            (kind, f"{kept['kernels']:,}", f"{kept['bytes'] / 1e9:.2f}", f"{kept['milliseconds']:.2f}")
            for kind, kept in ordered
        ]
        logs.table(name, ["kind of kernel", "kernels", "GB", "bound, ms"], rows)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment file.")
    _GPU = flags.DEFINE_enum("gpu", "h100", sorted(gpus.GPUS), "The described GPU.")
    _PARTS = flags.DEFINE_list("parts", [], f"Which programs, of {', '.join(ALL)}; default all.")
    _MINUTES = flags.DEFINE_float("minutes", 30.0, "Longest time to compile a program.")
    _KEEP = flags.DEFINE_string("keep", None, "Folder for the optimised programs.")
    _RECOUNT = flags.DEFINE_bool("recount", False, "Counts what --keep=DIR holds, compiles nothing.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(
        lambda: main(
            _CONFIG.value,
            gpus.GPUS[_GPU.value],
            _PARTS.value,
            _MINUTES.value,
            _KEEP.value,
            _RECOUNT.value,
            _OUTPUT.value,
        )
    )
