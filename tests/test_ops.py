"""Ops against hand-computed numbers, against jax's own slow versions, and at the edges where they could turn NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mow_jax.ops import distributions, returns, routing, twohot
from mow_jax.ops.convolution import downsample, upsample
from mow_jax.ops.gradients import layer_vectors
from mow_jax.types import Shard

LOGITS = jnp.linspace(-1.0, 1.0, twohot.BINS)
QUICK = {"xla_backend_optimization_level": 0}

# --- Two-hot ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"), [(0, 5.703935), (1, 5.669278), (-3.7, 5.781313), (21, 5.549383), (1000, 5.358498)]
)
def test_two_hot_cross_entropy_has_the_numbers_of_storm(target: float, expected: float):
    assert twohot.cross_entropy(LOGITS, jnp.float32(target)) == pytest.approx(expected, abs=2e-5)
    assert twohot.cross_entropy(jnp.zeros(twohot.BINS), jnp.float32(target)) == pytest.approx(np.log(255), abs=1e-5)


@pytest.mark.parametrize(
    ("target", "upper", "weight"),
    [
        (1.0, 132, 0.401484),
        (-1.0, 123, 0.598516),
        (0.1, 128, 0.605219),
        (5.0, 139, 0.377672),
        (21.0, 147, 0.628120),
        (400.0, 166, 0.061654),
        (0.0, 127, 1.0),
        (1e30, 254, 1.0),  # beyond the outermost bins
        (-1e30, 0, 1.0),
    ],
)
def test_two_hot_weights_lie_on_two_neighbouring_bins(target: float, upper: int, weight: float):
    """The gradient of the cross-entropy is softmax minus the coding."""
    coding = 1 / twohot.BINS - jax.grad(twohot.cross_entropy)(jnp.zeros(twohot.BINS), jnp.float32(target))
    expected = np.zeros(twohot.BINS)
    expected[upper], expected[upper - 1] = weight, 1 - weight
    np.testing.assert_allclose(coding, expected, atol=3e-5)


def test_two_hot_decoding_inverts_the_coding():
    assert twohot.decode(LOGITS) == pytest.approx(547.4235, rel=1e-4)
    assert twohot.decode(jnp.zeros(twohot.BINS)) == pytest.approx(0, abs=1e-5)
    values = jnp.array([-21.0, -0.3, 0.0, 0.7, 5000.0])
    coding = 1 / twohot.BINS - jax.vmap(jax.grad(twohot.cross_entropy))(jnp.zeros((5, twohot.BINS)), values)
    np.testing.assert_allclose(twohot.decode(jnp.log(jnp.maximum(coding, 1e-30))), values, rtol=1e-3, atol=1e-4)


# --- Returns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bootstrap", "expected"),
    [
        ("next", [3.846034, 2.462500, 2.0, 14.290000]),
        ("current", [3.750699, 2.413250, 2.0, 14.240750]),
    ],
)
def test_lambda_returns_have_the_numbers_of_the_textbook_and_of_storm(bootstrap: str, expected: list[float]):
    reward, value = jnp.array([1, 0, 2, 0.5]), jnp.array([10.0, 11, 12, 13, 14])
    continuation = 1 - jnp.array([0.0, 0, 1, 0])
    made = returns.lambda_return(reward, value, continuation, 0.985, 0.95, bootstrap)
    np.testing.assert_allclose(made, expected, atol=2e-6)


def test_percentile_range_is_storms_and_does_not_interpolate():
    shuffled = jax.random.permutation(jax.random.key(0), jnp.arange(1.0, 16385.0))
    assert returns.percentile_range(shuffled) == 15564 - 819
    assert returns.percentile_range(jnp.array([3.0, 1.0])) == 0  # too few to differ


# --- Latents and actions ----------------------------------------------------------------------------------------------


def test_unimix_and_kl_have_the_numbers_of_storm():
    logits = jnp.arange(32) / 4
    p = distributions.unimix(logits, 0.01)
    np.testing.assert_allclose(jnp.exp(p[jnp.array([0, 31])]), [0.00040686, 0.21937320], rtol=2e-5)
    p = jnp.broadcast_to(p, (32, 32))
    assert distributions.kl(p, p[:, ::-1]) == pytest.approx(159.4453, rel=1e-5)
    assert distributions.kl(p, p) == 0


def test_draws_follow_the_probabilities_and_never_leave_them():
    p = jnp.array([0.0, 0.5, 0.2, 0.0, 0.3, 0.0])
    index = distributions.sample_index(jax.random.key(0), jnp.broadcast_to(jnp.log(p), (20_000, 6)))
    frequency = np.bincount(index, minlength=6) / 20_000
    np.testing.assert_allclose(frequency, p, atol=0.015)  # four standard deviations
    assert (frequency[np.asarray(p) == 0] == 0).all()


def test_latents_are_one_hot_with_the_gradient_of_the_probabilities():
    logits, weight = jax.random.normal(jax.random.key(1), (2, 3, 5, 4)), jnp.arange(20.0)
    latent = lambda x: distributions.sample_latent(jax.random.key(2), distributions.unimix(x, 0.01))
    soft = lambda x: jnp.exp(distributions.unimix(x, 0.01)).reshape(2, 3, 20)
    z = latent(logits).reshape(logits.shape)
    np.testing.assert_allclose(jnp.sort(z)[..., -1], 1, atol=1e-6)
    np.testing.assert_allclose(jnp.sort(z)[..., :-1], 0, atol=1e-6)
    straight, through = (jax.grad(lambda x, f=f: (f(x) * weight).sum())(logits) for f in (latent, soft))
    np.testing.assert_allclose(straight, through, atol=1e-6)


def test_masked_actions_are_never_drawn_and_leave_entropy_and_gradients_finite():
    mask = jnp.array([True, False, True, False])
    logits = jnp.array([0.3, 50.0, -0.2, -50.0])  # the forbidden choices would win or vanish

    def entropy(x):
        return distributions.categorical_entropy(distributions.masked(x, mask))

    allowed = distributions.categorical_entropy(logits[jnp.array([0, 2])])
    assert entropy(logits) == pytest.approx(float(allowed), rel=1e-6)
    assert np.isfinite(jax.grad(entropy)(logits)).all() and (jax.grad(entropy)(logits)[~mask] == 0).all()
    only = distributions.categorical_entropy(distributions.masked(logits, jnp.arange(4) == 1))
    assert only == 0
    drawn = jax.random.categorical(jax.random.key(0), distributions.masked(logits, mask), shape=(5000,))
    frequency = np.bincount(drawn, minlength=4) / 5000
    np.testing.assert_allclose(frequency, jax.nn.softmax(jnp.where(mask, logits, -jnp.inf)), atol=0.03)
    assert (frequency[~np.asarray(mask)] == 0).all()
    log_p = distributions.categorical_log_prob(distributions.masked(logits, mask), jnp.array([0, 2]))
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, rtol=1e-6)


def test_gaussian_log_density_and_entropy_count_only_the_tasks_own_dimensions():
    mean, deviation = distributions.gaussian(jnp.array([[0.4, -2.0, 30.0, 0.0, -40.0, 40.0]]))
    np.testing.assert_allclose(mean, [[np.tanh(0.4), np.tanh(-2.0), 1.0]], rtol=1e-6)
    np.testing.assert_allclose(deviation, [[0.55, 0.1, 1.0]], rtol=1e-6)
    action, mask = jnp.array([[0.1, -0.9, -3.0]]), jnp.array([True, True, False])
    made = distributions.gaussian_log_prob(mean, deviation, action, mask)
    density = np.exp(-0.5 * ((action - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(made, np.log(density[:, 0] * density[:, 1]), rtol=1e-5)
    entropy = distributions.gaussian_entropy(deviation, mask)
    np.testing.assert_allclose(entropy, 0.5 * np.log((2 * np.pi * np.e) ** 2 * (0.55 * 0.1) ** 2)[None], rtol=1e-5)


# --- Convolutions -----------------------------------------------------------------------------------------------------


def plain_downsample(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=numbers)


def plain_upsample(x, kernel):
    return jax.lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("ours", "plain"), [(downsample, plain_downsample), (upsample, plain_upsample)])
def test_convolutions_equal_those_of_lax_with_their_gradients(ours, plain):
    x = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))

    def value_and_gradients(convolve):
        def loss(x, kernel):
            y = convolve(x, kernel)
            return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=QUICK)(x, kernel)

    for made, expected in zip(*map(jax.tree.leaves, map(value_and_gradients, (ours, plain))), strict=True):
        np.testing.assert_allclose(made, expected, atol=2e-4)


# --- Routing ----------------------------------------------------------------------------------------------------------


def test_taking_rows_pools_gradients_by_row():
    rows = {"w": jnp.arange(12.0).reshape(4, 3)}
    table, weight = jnp.array([[2, 0], [2, 3], [0, 2]]), jax.random.normal(jax.random.key(0), (3, 2, 3))
    np.testing.assert_array_equal(routing.take_rows(rows, table)["w"], rows["w"][table])
    gradient = jax.grad(lambda rows: (routing.take_rows(rows, table)["w"] * weight).sum())(rows)["w"]
    pooled = jax.ops.segment_sum(weight.reshape(6, 3), table.reshape(6), 4)
    np.testing.assert_allclose(gradient, pooled, rtol=1e-6)
    assert (gradient[1] == 0).all()  # nobody's row


def test_pooling_and_merging_reach_over_devices_and_leave_out_padding():
    """Three tasks dealt out to two devices as [0, 1] and [2, padding]; tasks 0 and 2 share row 1."""
    shard = Shard(jnp.array([[0, 1], [2, 0]]), jnp.array([[1.0, 1.0], [1.0, 0.0]]), None)
    table, value = jnp.array([1, 3, 1]), jnp.array([[1.0, 10.0], [100.0, 7000.0]])

    def device(shard, value):
        row = table[shard.ids]
        pool = lambda x, valid, row: routing.pool_by_row(x * valid, row, 4)
        pooled = jax.vmap(pool, axis_name="task")(value, shard.valid, row)
        merged = routing.merge_rows(jnp.array([-1.0, -2.0, -3.0, -4.0]), pooled, row, shard.valid)
        return pooled, merged, routing.everywhere(value, shard, 3)

    pooled, merged, everywhere = jax.vmap(device, axis_name="device")(shard, value)
    np.testing.assert_allclose(pooled, [[101, 10], [101, 101]])
    np.testing.assert_allclose(merged, [[-1, 101, -3, 10]] * 2)
    np.testing.assert_allclose(everywhere, [[1, 10, 100]] * 2)


@pytest.mark.parametrize("vector", ["layer_mean", "layer_scalar", "projection"])
def test_layer_vectors_are_linear_keep_tasks_apart_and_depend_on_the_seed_alone(vector: str):
    shapes = {"a": (3, 4, 4, 2, 5), "b": {"kernel": (3, 6, 2), "bias": (3, 2)}}
    draw = lambda seed: jax.tree.map(
        lambda shape: jax.random.normal(jax.random.key(seed), shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    make = lambda gradients, seed=0: layer_vectors(gradients, vector, 16, seed)
    x, y = draw(1), draw(2)
    combined = make(jax.tree.map(lambda a, b: 2 * a - 3 * b, x, y))
    for name, made in combined.items():
        assert made.shape[0] == 3
        np.testing.assert_allclose(made, 2 * make(x)[name] - 3 * make(y)[name], atol=1e-4)
    only_second = make(jax.tree.map(lambda leaf: leaf.at[jnp.array([0, 2])].set(0), x))
    assert all((made[jnp.array([0, 2])] == 0).all() and (made[1] != 0).any() for made in only_second.values())
    if vector == "projection":
        flat = jnp.concatenate([leaf.reshape(3, -1) for leaf in jax.tree.leaves(x)], axis=1)
        norms = [jnp.linalg.norm(make(x, seed)["projection"][0]) for seed in range(20)]
        assert len({float(norm) for norm in norms}) == 20
        assert np.mean(np.square(norms)) == pytest.approx(float((flat[0] ** 2).sum()), rel=0.25)  # keeps lengths
