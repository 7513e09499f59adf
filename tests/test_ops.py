"""Ops against hand-computed numbers, against jax's own slow versions, and at the edges where they could turn NaN."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick

from mow_jax.ops import convolution, distributions, returns, routing, twohot, updates
from mow_jax.ops.convolution import downsample, upsample
from mow_jax.ops.gradients import layer_vectors
from mow_jax.ops.norm import LayerNorm
from mow_jax.types import Shard

LOGITS = np.linspace(-1, 1, twohot.BINS, dtype=np.float32)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Two-hot ----------------------------------------------------------------------------------------------------------


cross_entropy = quick(twohot.cross_entropy)
pull = quick(jax.grad(twohot.cross_entropy))


def coding_of(target: float) -> np.ndarray:
    """The two-hot coding: softmax minus the gradient of the cross-entropy."""
    return 1 / twohot.BINS - np.asarray(pull(np.zeros(twohot.BINS, np.float32), np.float32(target)))


@pytest.mark.parametrize(
    ("target", "expected"), [(0, 5.703935), (1, 5.669278), (-3.7, 5.781313), (21, 5.549383), (1000, 5.358498)]
)
def test_two_hot_cross_entropy_has_the_numbers_of_storm(target: float, expected: float):
    assert cross_entropy(LOGITS, np.float32(target)) == pytest.approx(expected, abs=2e-5)
    assert cross_entropy(np.zeros(twohot.BINS, np.float32), np.float32(target)) == pytest.approx(np.log(255), abs=1e-5)


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
    coding = coding_of(target)
    expected = np.zeros(twohot.BINS)
    expected[upper], expected[upper - 1] = weight, 1 - weight
    np.testing.assert_allclose(coding, expected, atol=3e-5)


def test_two_hot_decoding_inverts_the_coding():
    values = [-21.0, -0.3, 0.0, 0.7, 5000.0]
    logits = [LOGITS, np.zeros(twohot.BINS), *(np.log(np.maximum(coding_of(value), 1e-30)) for value in values)]
    decoded = quick(twohot.decode)(np.array(logits, np.float32))
    assert decoded[0] == pytest.approx(547.4235, rel=1e-4)
    assert decoded[1] == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(decoded[2:], values, rtol=1e-3, atol=1e-4)


def test_the_mean_of_two_hot_logits_is_an_expectation():
    values = [-21.0, -0.3, 0.0, 0.7, 5000.0]
    codings = np.array([coding_of(value) for value in values])
    seldom = 0.99 * coding_of(0.0) + 0.01 * codings[[0, 4]]
    logits = np.log(np.maximum(np.concatenate([codings, seldom, np.full((1, twohot.BINS), 1 / twohot.BINS)]), 1e-30))
    mean = quick(twohot.mean)(logits.astype(np.float32))
    np.testing.assert_allclose(mean[:5], values, rtol=4e-3, atol=4e-3)  # neighbouring bins are mixed in symlog space
    np.testing.assert_allclose(mean[5:7], [-0.21, 50.0], rtol=4e-3)  # where `decode` says -0.03 and 0.09
    assert mean[7] == 0


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
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 16385, dtype=np.float32))
    assert returns.percentile_range(shuffled, jnp.ones(shuffled.shape)) == 15564 - 819
    assert returns.percentile_range(jnp.array([3.0, 1.0]), jnp.ones(2)) == 0  # too few to differ


@pytest.mark.parametrize("count", [8, 20, 1024, 1000])
def test_values_of_no_weight_leave_the_percentiles_alone(count):
    draw = np.random.default_rng(count)
    value = draw.normal(size=count).astype(np.float32)
    junk = np.concatenate([value, 1000 * draw.normal(size=count)]).astype(np.float32)
    weight, order = np.repeat([1.0, 1e-9], count).astype(np.float32), draw.permutation(2 * count)
    expected = returns.percentile_range(jnp.array(value), jnp.ones(count))
    assert expected == np.sort(value)[int(0.95 * count) - 1] - np.sort(value)[max(int(0.05 * count), 1) - 1]
    assert returns.percentile_range(jnp.array(junk[order]), jnp.array(weight[order])) == expected


# --- Latents and actions ----------------------------------------------------------------------------------------------


def test_a_mixed_policy_keeps_every_allowed_choice_and_no_other():
    mask, logits = jnp.array([True, False, True, True]), jnp.array([[50.0, 90.0, 0.0, 0.0], [1.0, 1.0, 1.0, 2.0]])
    log_p = jax.nn.log_softmax(distributions.masked(logits, mask))
    made = jnp.exp(distributions.mixed(log_p, mask, 0.06))
    np.testing.assert_allclose(made[0], [0.96, 0, 0.02, 0.02], atol=1e-6)
    np.testing.assert_allclose(made, 0.94 * jnp.exp(log_p) + 0.06 * mask / 3, atol=1e-6)
    np.testing.assert_array_equal(distributions.mixed(log_p, mask, 0.0), log_p)


def test_unimix_and_kl_have_the_numbers_of_storm():
    logits = jnp.arange(32) / 4
    p = distributions.unimix(logits, 0.01)
    np.testing.assert_allclose(jnp.exp(p[jnp.array([0, 31])]), [0.00040686, 0.21937320], rtol=2e-5)
    p = jnp.broadcast_to(p, (32, 32))
    assert distributions.kl(p, p[:, ::-1]) == pytest.approx(159.4453, rel=1e-5)
    assert distributions.kl(p, p) == 0


def test_draws_follow_the_probabilities_and_never_leave_them():
    p = np.array([0.0, 0.5, 0.2, 0.0, 0.3, 0.0])
    log_p = np.log(np.maximum(p, 1e-38)) - 1e30 * (p == 0)
    index = quick(distributions.sample_index)(jax.random.key(0), np.broadcast_to(log_p, (20_000, 6)).astype(np.float32))
    frequency = np.bincount(index, minlength=6) / 20_000
    np.testing.assert_allclose(frequency, p, atol=0.015)  # four standard deviations
    assert (frequency[p == 0] == 0).all()


def test_latents_are_one_hot_with_the_gradient_of_the_probabilities():
    logits, weight = normal(0, 2, 3, 5, 4), np.arange(20, dtype=np.float32)

    def latent(x):
        return distributions.sample_latent(jax.random.key(2), distributions.unimix(x, 0.01))

    def soft(x):
        return jnp.exp(distributions.unimix(x, 0.01)).reshape(2, 3, 20)

    z = np.sort(np.reshape(quick(latent)(logits), logits.shape))
    np.testing.assert_allclose(z, np.broadcast_to([0, 0, 0, 1], z.shape), atol=1e-6)
    straight, through = (quick(jax.grad(lambda x, f=f: (f(x) * weight).sum()))(logits) for f in (latent, soft))
    np.testing.assert_allclose(straight, through, atol=1e-6)


def test_masked_actions_are_never_drawn_and_leave_entropy_and_gradients_finite():
    mask = np.array([True, False, True, False])
    logits = np.array([0.3, 50, -0.2, -50], np.float32)  # the forbidden choices would win, or vanish

    def entropy(x, mask):
        return distributions.categorical_entropy(distributions.masked(x, mask))

    value_and_gradient = quick(jax.value_and_grad(entropy))

    p = np.exp([0.3, -0.2]) / np.exp([0.3, -0.2]).sum()
    value, gradient = value_and_gradient(logits, mask)
    assert value == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert np.isfinite(gradient).all() and (gradient[~mask] == 0).all() and (gradient[mask] != 0).all()
    value, gradient = value_and_gradient(logits, np.arange(4) == 1)  # one choice is left
    assert value == 0 and (gradient == 0).all()

    draw = quick(lambda key: jax.random.categorical(key, distributions.masked(logits, mask), shape=(5000,)))
    frequency = np.bincount(draw(jax.random.key(0)), minlength=4) / 5000
    np.testing.assert_allclose(frequency, [p[0], 0, p[1], 0], atol=0.03)
    assert (frequency[~mask] == 0).all()

    def log_prob(x, action):
        return distributions.categorical_log_prob(distributions.masked(x, mask), action)

    np.testing.assert_allclose(quick(log_prob)(np.stack([logits] * 2), np.array([0, 2])), np.log(p), rtol=1e-5)


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
    x, kernel = normal(0, 2, 8, 6, 3), normal(1, 4, 4, 3, 5)

    def value_and_gradients(convolve):
        def loss(x, kernel):
            y = convolve(x, kernel)
            return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), y

        return quick(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)

    for made, expected in zip(*map(jax.tree.leaves, map(value_and_gradients, (ours, plain))), strict=True):
        np.testing.assert_allclose(made, expected, atol=2e-4)


@pytest.mark.parametrize(
    ("ours", "channels", "images"),
    [(downsample, (3, 5), 6), (downsample, (2, 9), 5), (upsample, (9, 2), 6), (upsample, (3, 5), 5)],
)
def test_convolutions_in_groups_of_images_equal_those_of_all_at_once(monkeypatch, ours, channels, images):
    x, kernel = normal(0, 2, images, 8, 6, channels[0]), normal(1, 2, 4, 4, *channels)

    def value_and_gradients(group):
        monkeypatch.setattr(convolution, "GROUP", group)
        loops = str(jax.make_jaxpr(jax.grad(lambda *a: ours(*a).sum(), (0, 1)))(x[0], kernel[0])).count("scan[")
        value = lambda x, kernel: (jnp.cos(ours(x, kernel)).sum(), ours(x, kernel))
        return loops, quick(jax.vmap(jax.grad(value, (0, 1), has_aux=True)))(x, kernel)

    (none, whole), (some, grouped) = value_and_gradients(10_000), value_and_gradients(40)
    assert none == 0 and some > 0
    for made, expected in zip(*map(jax.tree.leaves, (grouped, whole)), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-4)


def test_images_go_to_blocks_and_back_and_each_is_the_others_derivative():
    image, blocks = normal(0, 2, 8, 6, 3), normal(1, 2, 5, 4, 12)
    np.testing.assert_array_equal(convolution.from_blocks(convolution.to_blocks(image)), image)
    np.testing.assert_array_equal(convolution.to_blocks(image)[0, 1, 1], image[0, 1:3, 1:3].reshape(-1))
    for function, x, y in ((convolution.to_blocks, image, blocks), (convolution.from_blocks, blocks, image)):
        plain = jax.linear_transpose(function.fun, x)(y)[0]  # what autodiff would make of it
        np.testing.assert_array_equal(jax.vjp(function, x)[1](y)[0], plain)


# --- Routing ----------------------------------------------------------------------------------------------------------


def test_taking_rows_pools_gradients_by_row():
    rows, table, weight = {"w": normal(0, 4, 3)}, np.array([[2, 0], [2, 3], [0, 2]]), normal(1, 3, 2, 3)

    def loss(rows):
        taken = routing.take_rows(rows, table)["w"]
        return (taken * weight).sum(), taken

    gradient, taken = quick(jax.grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, rows))
    np.testing.assert_array_equal(taken, rows["w"][table])
    gradient, pooled = gradient["w"], np.zeros((4, 3), np.float32)
    np.add.at(pooled, table, weight)
    np.testing.assert_allclose(gradient, pooled, rtol=1e-6)
    assert (gradient[1] == 0).all()  # nobody's row


def test_pooling_and_merging_reach_over_devices_and_leave_out_padding():
    """Three tasks dealt out to two devices as [0, 1] and [2, padding]; tasks 0 and 2 share row 1."""
    shard = Shard(jnp.array([[0, 1], [2, 0]]), jnp.array([[1.0, 1.0], [1.0, 0.0]]), None, None)
    table, value = jnp.array([1, 3, 1]), jnp.array([[1.0, 10.0], [100.0, 7000.0]])

    def device(shard, value):
        row = table[shard.ids]

        def pool(x, valid, row):
            return routing.pool_by_row(x * valid, row, 4)

        pooled = jax.vmap(pool, axis_name="task")(value, shard.valid, row)
        merged = routing.merge_rows(jnp.array([-1.0, -2.0, -3.0, -4.0]), pooled, row, shard.valid)
        return pooled, merged, routing.everywhere(value, shard, 3)

    pooled, merged, everywhere = quick(jax.vmap(device, axis_name="device"))(shard, value)
    np.testing.assert_allclose(pooled, [[101, 10], [101, 101]])
    np.testing.assert_allclose(merged, [[-1, 101, -3, 10]] * 2)
    np.testing.assert_allclose(everywhere, [[1, 10, 100]] * 2)


@pytest.mark.parametrize("vector", ["layer_mean", "layer_scalar", "projection", "module_projection"])
def test_layer_vectors_are_linear_and_keep_tasks_apart(vector: str):
    def draw(seed):
        return {
            "a": normal(seed, 3, 4, 4, 2, 5),
            "b": {"kernel": normal(seed + 1, 3, 6, 2), "bias": normal(seed + 2, 3, 2)},
        }

    make = quick(lambda gradients: layer_vectors(gradients, vector, 16, 0))
    x, y = draw(0), draw(10)
    for name, made in make(jax.tree.map(lambda a, b: 2 * a - 3 * b, x, y)).items():
        assert made.shape[0] == 3
        np.testing.assert_allclose(made, 2 * make(x)[name] - 3 * make(y)[name], atol=1e-4)
    second = np.array([0, 1, 0], np.float32)
    alone = make(jax.tree.map(lambda leaf: leaf * second.reshape(3, *[1] * (leaf.ndim - 1)), x))
    assert all((np.any(made, axis=1) == second).all() for made in alone.values())


def test_projections_keep_lengths_and_follow_their_seed():
    gradients = {"a": normal(0, 2, 40, 5), "b": normal(1, 2, 7)}
    project = quick(lambda seed: layer_vectors(gradients, "projection", 16, seed)["projection"])
    lengths = np.array([(np.asarray(project(seed)) ** 2).sum(1) for seed in range(50)])
    assert len(np.unique(lengths[:, 0])) == 50
    np.testing.assert_allclose(
        lengths.mean(0), [(gradients["a"][k] ** 2).sum() + (gradients["b"][k] ** 2).sum() for k in (0, 1)], rtol=0.2
    )


def test_a_projection_a_module_is_that_of_the_module_alone():
    gradients = {"a": {"x": normal(0, 2, 4, 5)}, "ab": normal(1, 2, 7), "b": {"x": normal(2, 2, 3), "y": normal(3, 2)}}
    made = layer_vectors(gradients, "module_projection", 16, 7)
    assert made.keys() == {"['a']", "['ab']", "['b']"}
    for name in gradients:
        alone = layer_vectors({name: gradients[name]}, "projection", 16, 7)["projection"]
        np.testing.assert_array_equal(made[f"['{name}']"], alone)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm_is_flax_s_with_its_gradients(dtype):
    keys = jax.random.split(jax.random.key(3), 4)
    x = (3 + 2 * jax.random.normal(keys[0], (2, 5, 7, 24))).astype(dtype)
    params = {"scale": jax.random.normal(keys[1], (2, 24)), "bias": jax.random.normal(keys[2], (2, 24))}
    weight = jax.random.normal(keys[3], (2, 5, 7, 24))

    def run(module):
        value = lambda params, x: module.apply({"params": params}, x)
        loss = lambda params, x, weight: (value(params, x).astype(jnp.float32) ** 2 * weight).sum()
        return jax.vmap(value)(params, x), jax.vmap(jax.grad(loss, argnums=(0, 1)))(params, x, weight)

    ours, theirs = run(LayerNorm(epsilon=1e-5, dtype=dtype)), run(nn.LayerNorm(epsilon=1e-5, dtype=dtype))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(np.float32(a), np.float32(b), atol=scale * (2e-6 if dtype == jnp.float32 else 1e-2))


def test_a_gradient_after_long_silence_moves_no_parameter_further_than_the_clip_of_updates():
    """Adam by itself: (1 - 0.9) / sqrt(1 - 0.999) = 3.16 learning rates at the first (7.27 where several agree, by
    the inequality of Cauchy and Schwarz); without a clip its own steps to the bit."""
    silent, loud = jnp.full(3, 1e-9), jnp.array([1.0, 1e-9, -1.0])
    plain = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(1e-3, eps=1e-12))
    moved = {}
    for name, made in (("plain", plain), *((clip, updates.adam(1e-3, 1e-12, 100.0, clip)) for clip in (0.0, 1.0))):
        state = made.init(silent)
        named = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
        assert named == [
            jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(plain.init(silent))
        ]
        for _ in range(3000):
            _, state = made.update(silent, state)
        moved[name] = np.asarray(made.update(loud, state)[0])
    np.testing.assert_array_equal(moved[0.0], moved["plain"])
    np.testing.assert_allclose(moved["plain"] / 1e-3, [-3.16, -1.0, 3.16], atol=0.2)
    np.testing.assert_allclose(moved[1.0] / 1e-3, [-1.0, -1.0, 1.0], atol=2e-3)


def test_groups_of_images_add_up_in_float32():
    """In bfloat16 a running sum of many groups would lose more than the products do."""
    x, y = 0.5 + normal(0, 2**17, 2, 2, 4), 0.5 + normal(1, 2**17, 2, 2, 4)
    same = lambda z: z
    add = lambda dtype: jax.jit(lambda *z: convolution._contract(same, same, *z))(x.astype(dtype), y.astype(dtype))
    exact, rounded = add(jnp.float32), add(jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16
    assert jnp.linalg.norm(rounded.astype(jnp.float32) - exact) < 0.004 * jnp.linalg.norm(exact)
