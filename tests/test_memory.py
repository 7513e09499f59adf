"""Memory that is used again: never while somebody still has it."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mow_jax.memory import Memory


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_what_nobody_has_is_used_again():
    memory = Memory()
    first = memory.empty((3, 5, 7))
    place = address(first)
    assert first.shape == (3, 5, 7) and first.dtype == np.uint8 and place % 4096 == 0
    del first
    assert address(memory.empty((7, 15))) == place, "its size counts, not its shape"
    assert address(memory.empty((3, 5, 8))) != place


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[1:],
        lambda x: x.view(np.float32).reshape(-1)[3:5],
        lambda x: x.T,
        lambda x: memoryview(x),
        lambda x: jax.device_put(x),
        lambda x: jax.device_put(x[None, 2:].view(np.int16)),
    ],
)
def test_a_view_of_a_view_keeps_it(view):
    memory = Memory()
    array = memory.empty((256, 64))
    array[:] = 5
    place, kept = address(array), view(array)
    del array
    other = memory.empty((256, 64))
    other[:] = 9
    assert address(other) != place
    assert set(np.asarray(kept).tobytes()) == {5}
    del kept
    gc.collect()
    assert address(memory.empty((256, 64))) == place


def test_a_program_that_still_runs_keeps_what_it_reads():
    memory, side = Memory(), 512

    @jax.jit
    def slow(x):
        square = x.astype(jnp.float32).reshape(side, side)
        return jax.lax.fori_loop(0, 30, lambda _, y: y @ square / side, square).sum() + x.sum(dtype=jnp.int32)

    want = float(slow(np.ones(side * side, np.uint8)))
    results = []
    for _ in range(4):
        array = memory.empty((side * side,))
        array[:] = 1
        results.append(slow(jax.device_put(array)))
        del array
        memory.empty((side * side,))[:] = 200  # what is free now, or new
    assert [float(result) for result in results] == [want] * 4


def test_nothing_is_an_array_too():
    assert Memory().empty((0, 4)).shape == (0, 4)
