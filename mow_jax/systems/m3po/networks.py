"""Layers as functions of plain pytrees: TD-MPC2's normed layers and SimNorm, and convolutions for pictures.

Parameters are lists of layers, each {"kernel", "bias"} and, where it is normed, {"scale", "offset"}. Used by
world_model.py.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mow_jax.ops.convolution import downsample
from mow_jax.ops.precision import EXACT

MAP = 4  # convolutions end at 4 x 4 positions
STD = 0.02  # of kernels at their start


def simnorm(x: jax.Array, group: int) -> jax.Array:
    """Softmax within groups of `group` numbers [..., D]: every group is a distribution (TD-MPC2)."""
    return jax.nn.softmax(x.reshape(*x.shape[:-1], x.shape[-1] // group, group)).reshape(x.shape)


def init_mlp(key: jax.Array, inputs: int, hidden: tuple[int, ...], outputs: int, last: str = "plain") -> list[dict]:
    """Layers from `inputs` over `hidden` to `outputs` numbers; the last "plain", "zero" (its kernel) or "normed"."""
    sizes = (inputs, *hidden, outputs)
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [init_linear(key, a, b) for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
    normed = layers if last == "normed" else layers[:-1]
    for layer in normed:
        layer |= {"scale": jnp.ones(layer["bias"].shape), "offset": jnp.zeros(layer["bias"].shape)}
    if last == "zero":
        layers[-1]["kernel"] = jnp.zeros_like(layers[-1]["kernel"])
    return layers


def init_linear(key: jax.Array, inputs: int, outputs: int) -> dict:
    """A linear map's start."""
    return {"kernel": STD * jax.random.normal(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def mlp(
    layers: list[dict], x: jax.Array, dtype: Any, group: int = 0, kept: jax.Array | None = None, exact: int = 0
) -> jax.Array:
    """[..., inputs] to float32 [..., outputs]. Hidden layers are normed, with Mish; a normed last layer ends in SimNorm
    of `group`. `kept` [..., hidden]: what dropout multiplies the first layer's product by; `exact`: how many
    of the layers, from the first, have products in float32."""
    for place, layer in enumerate(layers):
        x = exactly(layer, x) if place < exact else linear(layer, x, dtype)
        if kept is not None and not place:
            x = x * kept
        if "scale" in layer:
            x = norm(layer, x)
            x = simnorm(x, group) if place == len(layers) - 1 else jax.nn.mish(x)
    return x


def linear(layer: dict, x: jax.Array, dtype: Any) -> jax.Array:
    """x W + b in float32, the product of numbers in `dtype`: rounded to bfloat16 a policy's mean beyond 2 would have
    steps wider than its narrowest deviation."""
    product = jnp.matmul(x.astype(dtype), layer["kernel"].astype(dtype), preferred_element_type=jnp.float32)
    return product + layer["bias"]


def exactly(layer: dict, x: jax.Array) -> jax.Array:
    """x W + b in float32, on accelerators too."""
    return jnp.matmul(x.astype(jnp.float32), layer["kernel"], precision=EXACT) + layer["bias"]


def norm(layer: dict, x: jax.Array) -> jax.Array:
    """Layer norm of [..., D]."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * layer["scale"] + layer["offset"]


# --- Pictures ---------------------------------------------------------------------------------------------------------


def blocks(image_size: int) -> int:
    """Convolutions that halve a picture down to MAP positions a side."""
    return int(math.log2(image_size // MAP))


def init_convolutions(key: jax.Array, image_size: int, channels: int) -> list[dict]:
    """Convolutions with `channels` features each."""
    widths = [3] + [channels] * blocks(image_size)
    keys = jax.random.split(key, len(widths) - 1)
    he = jax.nn.initializers.he_normal()
    shapes = [(4, 4, a, b) for a, b in itertools.pairwise(widths)]
    return [{"kernel": he(key, shape), "bias": jnp.zeros(shape[-1])} for key, shape in zip(keys, shapes, strict=True)]


def convolutions(layers: list[dict], frames: jax.Array, dtype: Any) -> jax.Array:
    """Frames [..., S, S, 3] uint8 to float32 features [..., 16 channels]: levels in [-0.5, 0.5], 4 x 4 convolutions of
    stride 2 with ReLU."""
    x = (frames.astype(jnp.float32) / 255 - 0.5).astype(dtype).reshape(-1, *frames.shape[-3:])
    for layer in layers:
        x = downsample(x, layer["kernel"].astype(dtype)).astype(jnp.float32) + layer["bias"]  # summed so in gradients
        x = jax.nn.relu(x).astype(dtype)
    return x.astype(jnp.float32).reshape(*frames.shape[:-3], -1)


def shifted(frames: jax.Array, offset: jax.Array, most: int) -> jax.Array:
    """Pictures [B, T, S, S, 3] moved by offset [B, 2] - most pixels, the edge repeated: the same in a whole window, so
    that motion stays what it was (after DrQ-v2 and TD-MPC2)."""
    pad = [(0, 0), (most, most), (most, most), (0, 0)]

    def window(frames, offset):
        start = (0, offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(jnp.pad(frames, pad, mode="edge"), start, frames.shape)

    return jax.vmap(window)(frames, offset)
