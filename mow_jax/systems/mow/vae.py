"""One cluster's VAE, frames to features to logits and latents to frames: STORM's convolutions, or one of two kinds of
patches, squares of an eighth of the image's height and width.

"patches": matrix products over all of them, latents of the whole frame. On a CPU core they learn to see Atari games in
half the time of small convolutions or less. "local": each patch has latents of its own, one product to their logits,
one from them to its pixels. Objects of a few pixels are found in hundreds of updates. What it cannot do is what deep
encoders are for: say the same of an object wherever it is. What both are worth: results/atari_cpu/search.md.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops import convolution
from mow_jax.systems.mow.blocks import (
    ACTIVATIONS,
    Convolution,
    ConvolutionBlock,
    Linear,
    Pool,
    normalised_activation,
    uniform,
)

MAP = 4  # every encoder ends, every decoder starts at 4 x 4
PATCHES = 8  # patches in a row of an image, whatever its size
CONTRAST = 4.0  # frames come in [-2, 2]: about unit variance
BRIGHTNESS = 5.0  # the background's unit: under Adam it is learned so many times faster
NOISE = 0.02  # mean square of a patch's difference below which it fades instead of being brought to unit size
MOMENTUM = 0.02  # of the mean frame
SPREAD = 2.0  # a patch's logits at the start
FIRST = 6.0  # and the first class's lead: patches in which nothing happens should agree on what they say
PIXELS = 3.0  # the unit of maps of single patches: under Adam they are learned so many times faster


def blocks(image_size: int) -> int:
    """Convolution blocks between an image and the 4 x 4 map."""
    return int(math.log2(image_size // MAP))


class Half(nn.Module):
    """The sizes of an encoder or a decoder."""

    image_size: int
    channels: int  # of the first convolution, or of a patch
    latents: tuple[int, int]  # categoricals G and classes C
    norm: str = "batch"  # batch, rms or none; a decoder of patches has a layer norm instead
    activation: str = "relu"
    dtype: Any = jnp.float32


class Encoder(Half):
    """Frames [N, S, S, 3] in [0, 1] to the flattened 4 x 4 map [N, 16 * channels * 2^(blocks - 1)]."""

    @property
    def features(self) -> int:
        """The length of its output."""
        return MAP * MAP * self.channels * 2 ** (blocks(self.image_size) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        for i in range(blocks(self.image_size)):
            block = ConvolutionBlock(
                self.channels * 2**i, False, self.norm, self.activation, self.dtype, name=f"block_{i}"
            )
            x = block(x, train, pool)
        return x.reshape(x.shape[0], -1)


class Decoder(Half):
    """Latents [N, Z] and embeddings [N, E] to frames in blocks [N, S/2 + 1, S/2 + 1, 12], no output nonlinearity.

    See ops/convolution.py; what lies outside of the frame has no meaning.
    """

    @nn.compact
    def __call__(self, z: jax.Array, embedding: jax.Array, train: bool, pool: Pool) -> jax.Array:
        count = blocks(self.image_size)
        top = self.channels * 2 ** (count - 1)
        x = jnp.concatenate([z.astype(self.dtype), embedding.astype(self.dtype)], axis=-1)
        x = Linear(MAP * MAP * top, bias=False, dtype=self.dtype, name="stem")(x).reshape(-1, MAP, MAP, top)
        x = normalised_activation(x, self.norm, self.activation, self.dtype, train, pool)
        for i in reversed(range(count - 1)):
            block = ConvolutionBlock(
                self.channels * 2**i, True, self.norm, self.activation, self.dtype, name=f"block_{i}"
            )
            x = block(x, train, pool)
        x = Convolution(3, True, self.dtype, to_blocks=True, name="out")(x)
        bias = self.param("bias", uniform(1 / math.sqrt(3 * 16)), (3,))
        return x.astype(jnp.float32) + jnp.tile(bias, 4)


class PatchEncoder(Half):
    """Frames [N, S, S, 3] in [0, 1] to features [N, 16 * channels]: a linear map for every patch, one for all of them.

    The norm over the batch takes away what all frames have in common. Without it the decoder learns the background
    before latents say anything, and they are given up as noise.
    """

    @property
    def features(self) -> int:
        """The length of its output."""
        return 16 * self.channels

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        x = Linear(self.channels, dtype=self.dtype, name="patch")(CONTRAST * (to_patches(x) - 0.5))
        x = ACTIVATIONS[self.activation](x).swapaxes(0, 1).reshape(x.shape[1], -1)
        x = Linear(self.features, bias=False, dtype=self.dtype, name="frame")(x)
        return normalised_activation(x, self.norm, self.activation, self.dtype, train, pool)


class PatchDecoder(Half):
    """The same way back, added to a learned background: latents [N, Z] and embeddings [N, E] to frames in patches."""

    @nn.compact
    def __call__(self, z: jax.Array, embedding: jax.Array, train: bool, pool: Pool) -> jax.Array:
        size = 3 * (self.image_size // PATCHES) ** 2
        x = jnp.concatenate([z.astype(self.dtype), embedding.astype(self.dtype)], axis=-1)
        x = Linear(16 * self.channels, bias=False, dtype=self.dtype, name="frame")(x)
        x = ACTIVATIONS[self.activation](nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)(x))
        x = ACTIVATIONS[self.activation](Linear(PATCHES**2 * self.channels, dtype=self.dtype, name="patches")(x))
        x = x.reshape(-1, PATCHES**2, self.channels).swapaxes(0, 1)
        x = Linear(size, bias=False, scale=0.1, dtype=self.dtype, name="patch")(x).astype(jnp.float32)
        background = self.param("background", nn.initializers.zeros, (PATCHES**2, size))
        return x + BRIGHTNESS * background[:, None]


class OfEach(nn.Module):
    """[64, N, I] to [64, N, features]: every patch has a linear map of its own."""

    features: int
    scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = self.scale / math.sqrt(x.shape[-1])
        kernel = self.param("kernel", uniform(bound / PIXELS), (PATCHES**2, x.shape[-1], self.features))
        return jnp.matmul(x.astype(self.dtype), PIXELS * kernel.astype(self.dtype)).astype(jnp.float32)


class LocalEncoder(Half):
    """Frames [N, S, S, 3] in [0, 1] to logits [N, G * C]: of each patch's difference from the cluster's mean frame.

    The mean frame is a running one, in training too: what a patch shows must not depend on the batch it comes in.
    Differences are brought to one size, so that three bright pixels count as much as a patch full of them.
    """

    @property
    def features(self) -> int:
        """The length of its output."""
        return math.prod(self.latents)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        x = to_patches(x).astype(jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (PATCHES**2, 1, x.shape[-1]))
        if train and not self.is_initializing():
            batch = pool(x.sum(1, keepdims=True)) / pool(jnp.float32(x.shape[1]))
            mean.value += MOMENTUM * (batch - mean.value)
        x = CONTRAST * (x - jax.lax.stop_gradient(mean.value))
        x = x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + NOISE)
        x = OfEach(self.features // PATCHES**2, SPREAD, self.dtype, name="patch")(x)
        x = x.swapaxes(0, 1).reshape(-1, *self.latents)
        lead = lambda _, shape: jnp.zeros(shape).at[:, 0].set(FIRST / PIXELS)
        return (x + PIXELS * self.param("bias", lead, self.latents)).reshape(x.shape[0], -1).astype(self.dtype)


class LocalPosterior(nn.Module):
    """Logits and an embedding [..., G * C + E] to logits [..., G * C]: the task moves what its patches say."""

    features: int  # G * C
    scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        logits, embedding = x[..., : self.features], x[..., self.features :]
        if not embedding.shape[-1]:
            return logits
        return logits + Linear(self.features, scale=self.scale, dtype=self.dtype)(embedding)


class LocalDecoder(Half):
    """Latents [N, G * C] and embeddings [N, E], all alike, to frames in patches [64, N, 3 (S / 8)^2]: what each patch's
    latents add to the background of the task."""

    @nn.compact
    def __call__(self, z: jax.Array, embedding: jax.Array, train: bool, pool: Pool) -> jax.Array:
        size = 3 * (self.image_size // PATCHES) ** 2
        x = z.reshape(z.shape[0], PATCHES**2, -1).swapaxes(0, 1)
        x = OfEach(size, 0.3, self.dtype, name="patch")(x)
        background = BRIGHTNESS * self.param("background", nn.initializers.zeros, (PATCHES**2, size))
        if embedding.shape[-1]:
            own = Linear(PATCHES**2 * size, bias=False, scale=0.01, name="task")(embedding[0])
            background += own.reshape(PATCHES**2, size)
        return x + background[:, None]


def to_patches(x: jax.Array) -> jax.Array:
    """Images [N, S, S, C] as patches [64, N, C (S / 8)^2], row by row."""
    n, s, _, c = x.shape
    size = s // PATCHES
    x = x.reshape(n, PATCHES, size, PATCHES, size * c).transpose(1, 3, 0, 2, 4)
    return x.reshape(PATCHES**2, n, size * size * c)


def from_patches(x: jax.Array) -> jax.Array:
    """The images [N, S, S, 3] of patches [64, N, 3 (S / 8)^2]."""
    size = math.isqrt(x.shape[-1] // 3)
    x = x.reshape(PATCHES, PATCHES, -1, size, size * 3).transpose(2, 0, 3, 1, 4)
    return x.reshape(-1, PATCHES * size, PATCHES * size, 3)


MODULES = {
    "convolutions": (Encoder, Linear, Decoder),
    "patches": (PatchEncoder, Linear, PatchDecoder),
    "local": (LocalEncoder, LocalPosterior, LocalDecoder),
}


def to_frames(decoded: jax.Array) -> jax.Array:
    """The frames [N, S, S, 3] of what a decoder gives: patches [64, N, 3 (S / 8)^2], or blocks [N, S/2 + 1, ...]."""
    return from_patches(decoded) if decoded.ndim == 3 else convolution.from_blocks(decoded)


def squared_error(decoded: jax.Array, frames: jax.Array) -> jax.Array:
    """[B * T] summed over the pixels of uint8 frames [B, T, S, S, 3] and of what a decoder gives for them."""
    frames = frames.reshape(-1, *frames.shape[2:]).astype(jnp.float32) / 255
    if decoded.ndim == 3:
        return ((decoded - to_patches(frames)) ** 2).sum((0, 2))
    inside = convolution.to_blocks(jnp.ones((1, *frames.shape[1:])))
    return ((decoded * inside - convolution.to_blocks(frames)) ** 2).sum((-3, -2, -1))


def saturated(error: jax.Array, scale: float) -> jax.Array:
    """c ln(1 + E / c) of errors E [...] (Cauchy's loss), so that no flash outweighs a hundred frames; E at scale 0."""
    return scale * jnp.log1p(error / scale) if scale else error
