"""The whole update of experiments/atari26.py at d72077f, which has no benchmarks/aot.py, counted as that counts it.

    git worktree add OLD d72077f
    PYTHONPATH=OLD python results/performance/aot_d72077f.py OLD FOLDER FILE.json

In the environment of benchmarks/aot.py (docs/performance.md). The compiler's program goes to FOLDER; one that is there
is counted again.
"""

import functools
import json
import os
import sys
from pathlib import Path
from unittest import mock

old, folder, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
os.environ["JAX_PLATFORMS"], os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "cpu", "1"
os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
sys.path[1:1] = [old, str(Path(__file__).parents[2] / "benchmarks")]

import gpus  # noqa: E402
import hlo  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from experiments import atari26  # noqa: E402
from mow_jax import agent, build  # noqa: E402
from mow_jax.envs.suites import LISTS  # noqa: E402
from mow_jax.types import Batch, Shard, Task  # noqa: E402

Shape = jax.ShapeDtypeStruct
config, gpu = atari26.get_config(), gpus.GPUS["h100"]
names = [name for given in config.suite.tasks for name in LISTS["atari"].get(given, (given,))]
tasks = [Task(name, "atari", True, 18, (True,) * 18, 27_000, None, None) for name in names]


def windows(count: int, length: int) -> Batch:
    """Windows [K, count, length], shapes alone."""
    shape = len(tasks), count, length
    dtypes = (np.int32, np.float32, bool, bool)
    return Batch(Shape((*shape, 64, 64, 3), np.uint8), *(Shape(shape, dtype) for dtype in dtypes))


def compile_update() -> None:
    """Leaves the program in FOLDER."""
    description = dict(target_config=gpus.target_config(gpu), topology="1x1x1")
    device = topologies.get_topology_desc(gpu.title, "cuda", **description).devices[0]
    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        made = build.agent(config, tasks)
        state = jax.eval_shape(functools.partial(agent.init, made))
        count = len(tasks)
        shard = Shard(Shape((count,), np.int32), Shape((count,), np.float32), Shape((count, 18), bool))
        batch = windows(config.batch.sequences, config.batch.length)
        contexts = windows(config.agent.contexts, config.agent.context)
        mapped = jax.pmap(functools.partial(agent.update, made), axis_name="device", devices=[device])
        lead = lambda tree: jax.tree.map(lambda leaf: Shape((1, *leaf.shape), leaf.dtype), tree)
        jax.jit(mapped, donate_argnums=(0,)).trace(*map(lead, (state, batch, contexts, shard))).lower().compile()


PROGRAM = "*gpu_after_optimizations.txt"
if not list(folder.glob(PROGRAM)):
    compile_update()
text = max(folder.glob(PROGRAM), key=lambda path: path.stat().st_size).read_text()
kernels = hlo.kernels(hlo.parse(text))
least = [kernel.times * gpus.seconds(gpu, kernel.bytes, kernel.flop) for kernel in kernels]
kinds = {}
for kernel, seconds in zip(kernels, least, strict=True):
    found = kinds.setdefault(kernel.kind, {"kernels": 0, "bytes": 0, "milliseconds": 0.0})
    found["kernels"] += kernel.times
    found["bytes"] += kernel.times * kernel.bytes
    found["milliseconds"] += 1e3 * seconds
loop = 1e3 * sum(time for kernel, time in zip(kernels, least, strict=True) if kernel.times == config.agent.horizon)
record = {
    "commit": "d72077f",
    "jax": jax.__version__,
    "kernels": sum(kernel.times for kernel in kernels),
    "bytes": sum(kernel.times * kernel.bytes for kernel in kernels),
    "milliseconds": 1e3 * sum(least),
    "milliseconds_of_the_steps_of_imagination": loop,
    "kinds": kinds,
}
output.write_text(json.dumps(record, indent=1) + "\n")
print(json.dumps({name: value for name, value in record.items() if name != "kinds"}, indent=1))
