"""Linear maps from a task's gradient to a short vector a layer, small enough to leave the device."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp


def layer_vectors(gradients: Any, vector: str, size: int, seed: jax.Array | int) -> dict[str, jax.Array]:
    """{layer name: [K, V]} of a gradient pytree with leaves [K, ...].

    "layer_mean": mean over the fan-in axes, one number an output unit; "layer_scalar": one "layer" of every layer's
    mean, as a number scaled by itself is but a sign; "projection": one "layer" of `size` numbers, a seeded random
    projection (count sketch) of the whole gradient; "module_projection": such a one of each module, by its name.
    """
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    if vector == "layer_mean":
        return {name: leaf.mean(tuple(range(1, leaf.ndim - 1))) for name, leaf in leaves.items()}
    if vector == "layer_scalar":
        return {"layer_scalar": jnp.stack([leaf.mean(tuple(range(1, leaf.ndim))) for leaf in leaves.values()], axis=1)}
    sketches = {name: _sketch(name, leaf, size, seed) for name, leaf in leaves.items()}
    if vector == "projection":
        return {"projection": sum(sketches.values())}
    module = lambda name: name.partition("]")[0] + "]"  # "['encoder']" of "['encoder']['block_0']['kernel']"
    return {m: sum(x for n, x in sketches.items() if module(n) == m) for m in sorted(set(map(module, sketches)))}


def _sketch(name: str, leaf: jax.Array, size: int, seed: jax.Array | int) -> jax.Array:
    """Adds every coordinate of leaf [K, ...] with a random sign to one of `size` random places: [K, size]."""
    flat = leaf.reshape(leaf.shape[0], -1)
    key_sign, key_place = jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())))
    sign = jax.random.rademacher(key_sign, flat.shape[1:], flat.dtype)
    place = jax.random.randint(key_place, flat.shape[1:], 0, size)
    return jnp.zeros((leaf.shape[0], size), flat.dtype).at[:, place].add(flat * sign)
