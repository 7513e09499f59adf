"""The world model's convolutions one by one, forward and both gradients: as matrix products (ops/convolution.py) and
as `lax.conv`, which under vmap over the tasks' kernels becomes a grouped convolution.

    python benchmarks/convolutions.py [--tasks=26] [--images=256] [--channels=32] [--nonative] [--output=FILE]

`--nonative` leaves `lax.conv` out. FLOP are those that a layer needs: both ways have the same, though products have a
row and a column more.
Before them the two rates that everything else is held against, of a large matrix product and of a large copy, and
the product of the expert Transformers' queries, keys and values. Each line, the median of five, is written as soon
as it is measured; one that cannot be is written with its reason.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import throughput
from absl import flags

from mow_jax import command, flops, logs
from mow_jax.ops import convolution

COPY = {"cpu": 1 << 24}  # numbers of the copied array, by platform; on accelerators:
ACCELERATOR_COPY = 1 << 28
PATTERN = 4099  # numbers, a prime
AXES = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
    """One line: a function and its arguments."""

    name: str
    function: Callable
    arguments: tuple
    copied: int = 0  # bytes read and written, where that is what counts
    needed: int = 0  # FLOP, where they are not those of the function's products


def main(tasks: int, images: int, channels: int, seconds: float, output: str | None, native: bool = True) -> None:
    """Measures line by line; prints and writes each at once."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    record = throughput.made() | {"dtype": dtype.__name__, "lines": {}}
    for case in cases(tasks, images, channels, dtype, native):
        try:
            record["lines"][case.name] = measured(case, seconds)
        except Exception as error:  # of a kernel that this device has not, or no memory for: the others still count
            print(f"{case.name}: {error}", flush=True)
            record["failed"] = record.get("failed", {}) | {case.name: str(error)[:500]}
        throughput.write(output, record)
    rows = [
        (name, f"{line['milliseconds']:.3f}", f"{line['tera']:.2f} {line['unit']}")
        for name, line in record["lines"].items()
    ]
    logs.table(f"{record['device']}, {record['dtype']}", ["what", "ms", "rate"], rows)


def measured(case: Case, seconds: float) -> dict[str, Any]:
    """Time and rate of one case."""
    program = jax.jit(case.function)
    call = lambda: program(*case.arguments)
    repeats = throughput.calibrate(call, seconds / 5)
    times = sorted(throughput.timed(call, repeats) for _ in range(5))
    taken = times[2]
    work = case.copied or case.needed or flops.count(case.function, *case.arguments)
    unit = "TB/s" if case.copied else "TFLOP/s"
    print(f"{case.name}: {1e3 * taken:.3f} ms, {work / taken / 1e12:.2f} {unit}", flush=True)
    spread = [1e3 * times[0], 1e3 * times[-1]]
    return {"milliseconds": 1e3 * taken, "spread": spread, "tera": work / taken / 1e12, "unit": unit}


def cases(tasks: int, images: int, channels: int, dtype: Any, native: bool) -> Iterator[Case]:
    """All lines, the rates first."""
    draw = functools.partial(drawn, dtype)
    on_cpu = jax.default_backend() == "cpu"
    side = throughput.MATRIX["cpu"] if on_cpu else throughput.ACCELERATOR_MATRIX
    yield Case("matrix product", jnp.matmul, (draw(side, side),) * 2)
    numbers = draw(COPY["cpu"] if on_cpu else ACCELERATOR_COPY)
    yield Case("copy", lambda x: x + 1, (numbers,), copied=2 * numbers.nbytes)
    width = 16 * channels
    yield Case("queries, keys, values", jnp.matmul, (draw(2 * tasks, 64, width), draw(2 * tasks, width, 3 * width)))
    for layer, (c, o) in enumerate([(3, channels), *((channels << i, channels << (i + 1)) for i in range(3))]):
        size = 64 >> layer
        large, small = (tasks, images, size, size, c), (tasks, images, size // 2, size // 2, o)
        needed = 2 * 16 * math.prod(small) * c  # a kernel of 4 x 4 at every position of the small side
        for direction, (ours, theirs), given, made in (
            ("down", (convolution.downsample, native_down), large, small),
            ("up", (convolution.upsample, native_up), small, large),
        ):
            x, kernel, gradient = draw(*given), draw(tasks, 4, 4, given[-1], made[-1]), draw(*made)
            for how, function in (("products", ours), ("lax.conv", theirs))[: 1 + native]:
                name = f"{direction}, {size} pixels, {c} and {o} channels, {how}"
                mapped = jax.vmap(function)
                yield Case(f"{name}, forward", mapped, (x, kernel), needed=needed)
                yield Case(f"{name}, gradients", backward(mapped), (x, kernel, gradient), needed=2 * needed)


def drawn(dtype: Any, *shape: int) -> jax.Array:
    """Random numbers that repeat: generators take longer to compile than what is measured."""
    count = math.prod(shape)
    pattern = jnp.asarray(np.random.default_rng(0).standard_normal(PATTERN), dtype)
    return jnp.broadcast_to(pattern, (-(-count // PATTERN), PATTERN)).reshape(-1)[:count].reshape(shape)


def backward(function: Callable) -> Callable:
    """Both gradients of function(x, kernel) from that of its result."""
    return lambda x, kernel, gradient: jax.vjp(function, x, kernel)[1](gradient)


def native_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`downsample` as XLA's convolution."""
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=AXES)


def native_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`upsample` as XLA's convolution of the dilated input with the mirrored kernel."""
    padding, dilation = ((2, 2), (2, 2)), (2, 2)
    return jax.lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), padding, dilation, dimension_numbers=AXES)


if __name__ == "__main__":
    _TASKS = flags.DEFINE_integer("tasks", 26, "Kernels of each layer.")
    _IMAGES = flags.DEFINE_integer("images", 256, "Images a task.")
    _CHANNELS = flags.DEFINE_integer("channels", 32, "Channels behind the first layer.")
    _SECONDS = flags.DEFINE_float("seconds", 0.2, "About so long is each line timed.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    _NATIVE = flags.DEFINE_bool("native", True, "Whether lax.conv is measured beside the products.")
    command.run(
        lambda: main(_TASKS.value, _IMAGES.value, _CHANNELS.value, _SECONDS.value, _OUTPUT.value, _NATIVE.value)
    )
