"""Autoencoders: a patch is what it is called, both kinds give what they say, and patches find what moves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mow_jax.ops.distributions import sample_latent, unimix
from mow_jax.systems.mow import vae

WHOLE = lambda x: x  # no other task shares the row
EMBEDDING = np.zeros((6, 3), np.float32)


def random_frames(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 3, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [16, 64])
def test_patches_are_squares_of_the_image(size):
    images = random_frames(size)[0]
    patches = vae.to_patches(images)
    side = size // 8
    assert patches.shape == (3, 64, 3 * side**2)
    square = images[1, 3 * side : 4 * side, 5 * side : 6 * side]
    np.testing.assert_array_equal(patches[1, 3 * 8 + 5], square.reshape(-1))
    np.testing.assert_array_equal(vae.from_patches(patches), images)


@pytest.mark.parametrize(("kind", "size"), [("convolutions", 8), ("patches", 8), ("patches", 32)])
def test_features_and_errors_are_what_they_are_called(kind, size):
    encoder, decoder = (module(size, 4) for module in vae.MODULES[kind])
    frames = random_frames(size)
    flat = frames.reshape(-1, *frames.shape[2:]).astype(np.float32) / 255
    features, _ = encoder.init_with_output(jax.random.key(0), flat, True, WHOLE)
    assert features.shape == (6, encoder.features)
    decoded, _ = decoder.init_with_output(jax.random.key(1), np.eye(6, dtype=np.float32), EMBEDDING, True, WHOLE)
    painted = vae.to_frames(decoded)
    assert painted.shape == flat.shape
    expected = ((np.asarray(painted) - flat) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(vae.squared_error(decoded, frames), expected, rtol=1e-5)


@pytest.mark.slow
def test_patches_find_what_moves():
    """A square on a striped ground: three hundred updates leave less of it than the mean frame does."""
    rng, size, latents = np.random.default_rng(0), 16, (4, 8)
    ground = np.tile(rng.integers(0, 200, (1, size, 3)), (size, 1, 1)).astype(np.uint8)

    def draw(count):
        frames = np.tile(ground, (count, 1, 1, 1))
        for frame, (i, j) in zip(frames, rng.integers(0, 4, (count, 2)), strict=True):
            frame[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = 255
        return frames

    encoder, decoder = vae.PatchEncoder(size, 4), vae.PatchDecoder(size, 4)
    frames = draw(64)
    features, seen = encoder.init_with_output(jax.random.key(0), frames / 255, True, WHOLE)
    latent = np.zeros((64, 32), np.float32)
    params = {
        "encoder": seen["params"],
        "posterior": jax.random.normal(jax.random.key(1), (features.shape[1], 32)) * 0.6,
        "decoder": decoder.init(jax.random.key(2), latent, np.zeros((64, 0)), True, WHOLE)["params"],
    }
    adam = optax.adam(3e-3)

    def error(params, frames, key):
        variables = seen | {"params": params["encoder"]}
        x, _ = encoder.apply(variables, frames / 255.0, True, WHOLE, mutable=["batch_stats"])
        log_p = unimix((x @ params["posterior"]).reshape(-1, 1, *latents), 0.01)
        z = sample_latent(key, log_p)[:, 0]
        decoded = decoder.apply({"params": params["decoder"]}, z, jnp.zeros((len(z), 0)), True, WHOLE)
        return vae.squared_error(decoded, frames[:, None]).mean()

    @jax.jit
    def learn(params, state, frames, key):
        step, state = adam.update(jax.grad(error)(params, frames, key), state)
        return optax.apply_updates(params, step), state

    state = adam.init(params)
    for i in range(300):
        params, state = learn(params, state, draw(64), jax.random.key(i))
    later = draw(256)
    mean_frame = ((later / 255.0 - later.mean(0) / 255.0) ** 2).sum((1, 2, 3)).mean()
    assert jax.jit(error)(params, later, jax.random.key(999)) < 0.5 * mean_frame
