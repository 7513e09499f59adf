"""A copy of the replay on the devices (`replay.device_mirror`): rows are sent once, windows are gathered there.

The replay on disk stays the truth; which windows are drawn is decided by its indices, so that results do not change.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mow_jax.learner import Learner
from mow_jax.replay import Replay
from mow_jax.types import Batch

FILL = 256  # rows copied at a time when a run is resumed


class Mirror:
    """All rows of all tasks as arrays [devices, K', E, rows, ...]."""

    def __init__(self, learner: Learner, replay: Replay, envs: int, rows: int):
        """Room for `rows` rows of each stream; of those already there, what may be sampled is copied."""
        self._learner = learner
        tasks = len(learner.mine)
        # Made where it stays: zeros of all rows would take as much memory on the host first.
        self._rows: Batch = learner.program(functools.partial(_zeros, count=rows))(
            learner.deal(replay.empty((tasks, envs, 1)))
        )
        self._write = learner.program(_write, donate=0)
        self._count = replay.oldest()  # older rows may be gone, and no window has them
        for start in range(self._count, replay.rows, FILL):
            length = min(FILL, replay.rows - start)
            streams = np.stack([np.arange(envs), np.full(envs, start)], axis=-1)
            self._append(replay.gather(np.broadcast_to(streams, (tasks, envs, 2)), length))

    def append(self, row: Batch) -> None:
        """One row [K, E, ...] of every stream."""
        self._append(jax.tree.map(lambda leaf: np.asarray(leaf)[:, :, None], row))

    def gather(self, indices: np.ndarray, length: int) -> Batch:
        """Windows of `length` rows at indices [K, B, 2], dealt out to the devices [devices, K', B, T, ...]."""
        return _reader(self._learner, length)(self._rows, self._learner.deal(indices))

    def _append(self, rows: Batch) -> None:
        start = self._learner.same(np.int32(self._count))
        self._rows = self._write(self._rows, self._learner.deal(rows), start)
        self._count += rows.reward.shape[2]


def _zeros(like: Batch, count: int) -> Batch:
    """`count` rows [K', E, count, ...] of zeros, of the shapes and kinds of the row `like` [K', E, 1, ...]."""
    return jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:2], count, *leaf.shape[3:]), leaf.dtype), like)


def _write(rows: Batch, new: Batch, start: jax.Array) -> Batch:
    """Rows [K', E, N, ...] with `new` [K', E, n, ...] from `start` on."""
    return jax.tree.map(lambda old, leaf: jax.lax.dynamic_update_slice_in_dim(old, leaf, start, axis=2), rows, new)


@functools.lru_cache(maxsize=8)
def _reader(learner: Learner, length: int):
    return learner.program(functools.partial(_read, length=length))


def _read(rows: Batch, indices: jax.Array, length: int) -> Batch:
    """Windows [K', B, T, ...] of rows [K', E, N, ...]."""

    def window(leaf, index):  # leaf [E, N, ...]
        start = (index[0], index[1], *[jnp.int32(0)] * (leaf.ndim - 2))
        return jax.lax.dynamic_slice(leaf, start, (1, length, *leaf.shape[2:]))[0]

    per_task = jax.vmap(window, in_axes=(None, 0))
    return jax.tree.map(lambda leaf: jax.vmap(per_task)(leaf, indices), rows)
