"""Routing: rows of stacked parameters by table, and results of tasks pooled by row or brought to all devices.

The functions that reduce expect the named axes "task" (vmap) and "device" (pmap).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mow_jax.ops.precision import EXACT
from mow_jax.types import Shard


def take_rows(params: Any, table: jax.Array) -> Any:
    """Rows of a pytree whose leaves are stacked on axis 0: leaves [N, ...] and a table [...] to [table..., ...].

    Gradients of a row are the sums over the tasks that use it.
    """
    return jax.tree.map(lambda leaf: _take(leaf, table), params)


@jax.custom_vjp
def _take(leaf: jax.Array, table: jax.Array) -> jax.Array:
    return leaf.at[table].get(mode="promise_in_bounds", wrap_negative_indices=False)  # tables are checked where made


def _take_backward(saved: tuple, gradient: jax.Array) -> tuple:
    """A product with one-hot rows: autodiff's scatter adds in any order on a GPU, and no two runs would be equal."""
    table, rows = saved
    one_hot = jax.nn.one_hot(table, rows, dtype=gradient.dtype)
    axes = tuple(range(table.ndim))
    return jnp.tensordot(one_hot, gradient, axes=(axes, axes), precision=EXACT), None


_take.defvjp(lambda leaf, table: (_take(leaf, table), (table, leaf.shape[0])), _take_backward)


def pool_by_row(x: jax.Array, row: jax.Array, rows: int) -> jax.Array:
    """The sum of x [...] over all tasks with the same row; seen by one task, inside the axes "task" and "device"."""
    one_hot = jax.nn.one_hot(row, rows, dtype=x.dtype)
    sums = jax.lax.psum(jnp.tensordot(one_hot, x, axes=0, precision=EXACT), ("task", "device"))
    return jnp.tensordot(one_hot, sums, axes=1, precision=EXACT)  # not sums[row], whose gradient would be a scatter


def of_all_tasks(x: jax.Array) -> jax.Array:
    """x [...] of every task of every device, [devices, K', ...]; seen by one task, inside "task" and "device"."""
    return jax.lax.all_gather(jax.lax.all_gather(x, "task"), "device")


def merge_rows(stacked: Any, updated: Any, table: jax.Array, valid: jax.Array) -> Any:
    """The stack [N, ...] with the tasks' updated rows [K', ...] in it, which agree where tasks share a row.

    Rows that no valid task of any device uses stay as they are.
    """

    def merge(old, new):
        used = jax.nn.one_hot(table, old.shape[0]) * valid[:, None]
        count = jax.lax.psum(used.sum(0), "device").reshape(-1, *[1] * (old.ndim - 1))
        total = jax.lax.psum(jnp.tensordot(used, new, axes=(0, 0), precision=EXACT), "device")
        return jnp.where(count > 0, total / jnp.maximum(count, 1), old)

    return jax.tree.map(merge, stacked, updated)


def of_first_device(x: jax.Array) -> jax.Array:
    """The first device's value of x, whole numbers [...], on all devices."""
    return jax.lax.psum(jnp.where(jax.lax.axis_index("device") == 0, x, 0), "device")


def everywhere(x: jax.Array, shard: Shard, tasks: int) -> jax.Array:
    """Per-task values [K'] of every device as one array [K] on all of them."""
    return jax.lax.psum(jnp.zeros(tasks).at[shard.ids].add(jnp.where(shard.valid > 0, x, 0.0)), "device")
