"""Random keys of compiled programs: folded from the seed, a count, a name and the task, never stored."""

from __future__ import annotations

import zlib

import jax

from mow_jax.types import Shard


def named_key(seed: jax.Array | int, count: jax.Array | int, name: str) -> jax.Array:
    """The key of the stream `name` at an update (or joint step) number `count`."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), count), zlib.crc32(name.encode()))


def task_keys(count: jax.Array | int, name: str, shard: Shard) -> jax.Array:
    """One key a task [K'], so that draws do not depend on which device holds it."""
    key = named_key(shard.seed[0], count, name)
    return jax.vmap(lambda task: jax.random.fold_in(key, task))(shard.ids)
