"""Autoencoders: a patch is what it is called, all kinds give what they say, patches find what moves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mow_jax import config
from mow_jax.ops.distributions import sample_latent, unimix
from mow_jax.systems.mow import vae
from mow_jax.types import BadInput

WHOLE = lambda x: x  # no other task shares the row


def random_frames(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 3, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [16, 64])
def test_patches_are_squares_of_the_image(size):
    images = random_frames(size)[0]
    patches = vae.to_patches(images)
    side = size // 8
    assert patches.shape == (64, 3, 3 * side**2)
    square = images[1, 3 * side : 4 * side, 5 * side : 6 * side]
    np.testing.assert_array_equal(patches[3 * 8 + 5, 1], square.reshape(-1))
    np.testing.assert_array_equal(vae.from_patches(patches), images)


@pytest.mark.parametrize(("kind", "size"), [("convolutions", 8), ("patches", 8), ("patches", 32), ("local", 32)])
@pytest.mark.parametrize("embedding", [0, 3])
def test_features_and_errors_are_what_they_are_called(kind, size, embedding):
    encoder, posterior, decoder = vae.MODULES[kind]
    encoder, decoder = (half(size, 4, (64, 2)) for half in (encoder, decoder))
    frames, rows = random_frames(size), np.ones((6, embedding), np.float32)
    flat = frames.reshape(-1, *frames.shape[2:]).astype(np.float32) / 255
    features, _ = encoder.init_with_output(jax.random.key(0), flat, True, WHOLE)
    assert features.shape == (6, encoder.features)
    seen = jnp.concatenate([features, rows], -1)
    logits, _ = posterior(128, scale=1.0, dtype=jnp.float32).init_with_output(jax.random.key(1), seen)
    assert logits.shape == (6, 128)
    decoded, _ = decoder.init_with_output(jax.random.key(2), logits, rows, True, WHOLE)
    painted = vae.to_frames(decoded)
    assert painted.shape == flat.shape
    expected = ((np.asarray(painted) - flat) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(vae.squared_error(decoded, frames), expected, rtol=1e-5)


def test_a_local_patch_says_and_paints_its_own_square_alone():
    encoder, decoder = (half(32, 4, (128, 4)) for half in (vae.LocalEncoder, vae.LocalDecoder))
    frames = random_frames(32)[0] / 255.0
    other = frames.copy()
    other[:, 4:8, 20:24] = 1 - other[:, 4:8, 20:24]  # patch 1 * 8 + 5
    variables = encoder.init(jax.random.key(0), frames, True, WHOLE)
    said = [encoder.apply(variables, x, False, WHOLE).reshape(3, 64, 8) for x in (frames, other)]
    changed = np.abs(said[0] - said[1]).max((0, 2)) > 0
    np.testing.assert_array_equal(np.flatnonzero(changed), [13])
    z = np.zeros((1, 512), np.float32)
    moved = z.copy()
    moved[0, 13 * 8 + 2] = 1
    variables = decoder.init(jax.random.key(1), z, np.ones((1, 3)), True, WHOLE)
    painted = [vae.to_frames(decoder.apply(variables, x, np.ones((1, 3)), False, WHOLE))[0] for x in (z, moved)]
    rows, columns = np.nonzero(np.abs(painted[0] - painted[1]).max(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 20, 23)


def test_the_mean_frame_is_that_of_all_tasks_on_the_row():
    """Two tasks share a cluster: the running mean moves towards the mean of both, and acting leaves it alone."""
    encoder = vae.LocalEncoder(16, 4, (64, 2))
    frames = jnp.stack([jnp.full((5, 16, 16, 3), 0.2), jnp.full((5, 16, 16, 3), 0.6)])
    variables = encoder.init(jax.random.key(0), frames[0], True, WHOLE)

    def run(x, train):
        pool = lambda part: jax.lax.psum(part, "task")
        return encoder.apply(variables, x, train, pool, mutable=["batch_stats"])[1]["batch_stats"]["mean"]

    after = jax.vmap(lambda x: run(x, True), axis_name="task")(frames)
    np.testing.assert_allclose(after, np.full(after.shape, vae.MOMENTUM * 0.4), rtol=1e-5)
    assert not np.asarray(jax.vmap(lambda x: run(x, False), axis_name="task")(frames)).any()


@pytest.mark.parametrize("categoricals", [32, 100])
def test_latents_that_local_patches_cannot_share_evenly_are_refused(categoricals):
    settings = config.default()
    settings.model.update(autoencoder="local", categoricals=categoricals)
    with pytest.raises(BadInput, match=f"categoricals={categoricals}.*64 patches.*multiple of 64"):
        config.check(settings)
    assert vae.PATCHES**2 == 64
    settings.model.categoricals = 192
    config.check(settings)


def test_saturated_errors():
    error = jnp.array([0.0, 1.0, 20.0, 4000.0])
    np.testing.assert_array_equal(vae.saturated(error, 0.0), error)
    np.testing.assert_allclose(vae.saturated(error, 20.0), 20 * np.log1p(np.asarray(error) / 20), rtol=1e-6)


def test_patches_find_what_moves():
    """A square on a striped ground: three hundred updates leave less of it than the mean frame does."""
    rng, size, latents = np.random.default_rng(0), 16, (4, 8)
    ground = np.tile(rng.integers(0, 200, (1, size, 3)), (size, 1, 1)).astype(np.uint8)

    def draw(count):
        frames = np.tile(ground, (count, 1, 1, 1))
        for frame, (i, j) in zip(frames, rng.integers(0, 4, (count, 2)), strict=True):
            frame[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = 255
        return frames

    encoder, decoder = vae.PatchEncoder(size, 4, latents), vae.PatchDecoder(size, 4, latents)
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


def test_local_patches_find_what_moves():
    """A small bright square on a striped ground: three hundred updates leave a tenth of it."""
    rng, size, latents = np.random.default_rng(0), 32, (64, 4)
    ground = np.tile(rng.integers(0, 200, (1, size, 3)), (size, 1, 1)).astype(np.uint8)

    def draw(count):
        frames = np.tile(ground, (count, 1, 1, 1))
        for frame, (i, j) in zip(frames, rng.integers(0, 4, (count, 2)), strict=True):
            frame[4 * i + 1 : 4 * i + 3, 4 * j : 4 * j + 2] = 255
        return frames

    encoder, decoder = (half(size, 4, latents) for half in (vae.LocalEncoder, vae.LocalDecoder))
    seen = encoder.init(jax.random.key(0), draw(64) / 255, True, WHOLE)
    background = decoder.init(jax.random.key(2), np.zeros((64, 256)), np.zeros((64, 0)), True, WHOLE)
    params, statistics = {"encoder": seen["params"], "decoder": background["params"]}, seen["batch_stats"]
    adam = optax.adam(3e-3)

    def error(params, statistics, frames, key, train=True):
        variables = {"params": params["encoder"], "batch_stats": statistics}
        logits, new = encoder.apply(variables, frames / 255.0, train, WHOLE, mutable=["batch_stats"])
        z = sample_latent(key, unimix(logits.reshape(-1, 1, *latents), 0.01))[:, 0]
        decoded = decoder.apply({"params": params["decoder"]}, z, jnp.zeros((len(z), 0)), train, WHOLE)
        return vae.squared_error(decoded, frames[:, None]).mean(), new["batch_stats"]

    @jax.jit
    def learn(params, statistics, state, frames, key):
        gradient, statistics = jax.grad(error, has_aux=True)(params, statistics, frames, key)
        step, state = adam.update(gradient, state)
        return optax.apply_updates(params, step), statistics, state

    state = adam.init(params)
    for i in range(300):
        params, statistics, state = learn(params, statistics, state, draw(64), jax.random.key(i))
    later = draw(256)
    mean_frame = ((later / 255.0 - later.mean(0) / 255.0) ** 2).sum((1, 2, 3)).mean()
    left, _ = error(params, statistics, later, jax.random.key(999), False)
    assert left < 0.2 * mean_frame
