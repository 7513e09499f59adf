"""Autoencoders of patches: a patch is what it is called, and a few updates see more of frames than the mean frame."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mow_jax.systems.mow import vae


@pytest.mark.parametrize("size", [16, 64])
def test_patches_are_squares_of_the_image(size):
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    patches = vae.to_patches(images)
    side = size // 8
    assert patches.shape == (2, 64, 3 * side**2)
    square = images[1, 3 * side : 4 * side, 5 * side : 6 * side]
    np.testing.assert_array_equal(patches[1, 3 * 8 + 5], square.reshape(-1))
    np.testing.assert_array_equal(vae.from_patches(patches), images)
