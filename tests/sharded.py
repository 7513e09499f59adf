"""A system's programs on a few tasks dealt to a few devices, compiled as the learner compiles them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from compiled import OPTIONS

from mow_jax import processes
from mow_jax.types import Shard


def program(function, devices: int, **options):
    """A function of one device's arrays, mapped over `devices` and compiled in haste."""
    mapped = processes.over_devices(function, jax.devices()[:devices], **options)
    return jax.jit(mapped, compiler_options=OPTIONS)


def dealt(tree: Any, devices: int) -> Any:
    """[K, ...] as [devices, K', ...]; as in the learner the first task fills the places that are left."""

    def deal(x):
        left = -len(x) % devices
        x = np.concatenate([x, np.repeat(x[:1], left, 0)]) if left else x
        return np.reshape(x, (devices, len(x) // devices, *np.shape(x)[1:]))

    return jax.tree.map(deal, tree)


def same(tree: Any, devices: int) -> Any:
    """[...] as [devices, ...]."""
    return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (devices, *np.shape(x))), tree)


def first(tree: Any) -> Any:
    """[devices, ...] as [...]."""
    return jax.tree.map(lambda x: np.asarray(x)[0], tree)


def shard(mask: np.ndarray, devices: int) -> Shard:
    """All tasks of `mask` [K, A], dealt."""
    tasks = len(mask)
    places = dealt(
        Shard(np.arange(tasks, dtype=np.int32), np.ones(tasks, np.float32), mask, np.zeros(tasks, np.uint32)), devices
    )
    each = places.valid.shape[1]
    return places._replace(valid=(np.arange(devices * each) < tasks).astype(np.float32).reshape(devices, each))
