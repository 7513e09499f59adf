"""The planner alone, on models whose best action is known."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mow_jax.systems.m3po import networks, planner
from mow_jax.systems.m3po.planner import Planner
from mow_jax.systems.m3po.types import Dream

GAMMA = 0.9
A = np.array([[1.0, 0.2, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 0.8]], np.float32)
B = np.array([[0.5, 0.0], [0.2, 0.4], [0.0, 0.5]], np.float32)
SETTINGS = Planner(3, 8, 512, 0, 32, 5.0, 0.02, 2.0)


def regulator(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value matrix P [3, 3] and the gain K [2, 3] of z' = A z + B a, reward -(|z|^2 + 0.1 |a|^2), by the Riccati
    recursion: the best action is -K z, and -z P z is the value."""
    p, b = np.eye(3), B * mask
    for _ in range(500):
        k = np.linalg.solve(0.1 * np.eye(2) + GAMMA * b.T @ p @ b, GAMMA * b.T @ p @ A)
        closed = A - b @ k
        p = np.eye(3) + 0.1 * k.T @ k + GAMMA * closed.T @ p @ closed
    return p, k


def dream(p: np.ndarray) -> Dream:
    def follow(z, a):
        return z @ A.T + a @ B.T, -(z**2).sum(-1) - 0.1 * (a**2).sum(-1), jnp.zeros(z.shape[:-1])

    return Dream(follow, lambda z, noise: 0 * noise, lambda z, a, places: -jnp.einsum("ni,ij,nj->n", z, p, z))


@functools.partial(jax.jit, static_argnums=0)
def planned(settings: Planner, p, z, mean, mask, key):
    noise = planner.draw(settings, 2, 2, key)
    return planner.plan(settings, dream(p), z, mean, mask, GAMMA, noise)


@pytest.mark.parametrize("mask", [(1.0, 1.0), (1.0, 0.0)])
def test_the_plan_is_the_regulator_s_action(mask: tuple):
    """Within 0.06 for actions up to 0.8: deviations end at 0.02, and an elite's weight is soft."""
    mask, none = np.array(mask, np.float32), np.zeros((3, 2), np.float32)
    p, k = regulator(mask)
    for seed, z in enumerate(np.array([[0.5, -0.3, 0.2], [-0.6, 0.1, 0.4], [0.1, 0.8, -0.7]], np.float32)):
        best = -k @ z
        assert np.abs(best).max() < 0.9, "within the bounds, or the regulator is another one"
        action, mean = planned(SETTINGS, p, z, none, mask, jax.random.key(seed))
        np.testing.assert_allclose(mean[0], best, atol=0.06)
        assert np.all(np.asarray(action)[mask == 0] == 0) and np.all(np.asarray(mean)[:, mask == 0] == 0)
        later = -k @ (A @ z + B @ best)
        np.testing.assert_allclose(mean[1], later, atol=0.12)  # the second action is planned as well


def test_what_is_learned_with_is_an_elite_s_first_action_and_noise():
    """Of one iteration, by hand: candidates, their values, the best by weight and Gumbel noise, a deviation of them."""
    made = dataclasses.replace(SETTINGS, iterations=1, samples=20, elites=5)
    p, _ = regulator(np.ones(2))
    z, start = np.array([0.5, -0.3, 0.2], np.float32), np.full((3, 2), 0.1, np.float32)
    picked, ones = set(), np.ones(2, np.float32)
    plan = jax.jit(lambda noise: planner.plan(made, dream(p), z, start, ones, GAMMA, noise))
    for seed in range(6):
        noise = planner.draw(made, 2, 2, jax.random.key(seed))
        still = noise._replace(action=0 * noise.action)
        candidates = np.clip(start[:, None] + made.std_max * np.asarray(noise.samples[0]), -1, 1)
        many = np.broadcast_to(z, (20, 3))
        value = np.asarray(planner.score(dream(p), many, candidates, GAMMA, noise.last[0], noise.pair[0]))
        order = np.argsort(-value)[:5]
        weight = np.exp(made.temperature * (value[order] - value[order[0]]))
        weight /= weight.sum()
        elites, place = candidates[0, order], int((np.log(weight) + np.asarray(noise.pick)).argmax())
        picked.add(place)
        np.testing.assert_allclose(plan(still)[0], elites[place], atol=1e-5)
        mean = weight @ elites
        std = np.clip((weight @ (elites - mean) ** 2) ** 0.5, made.std_min, made.std_max)
        drawn = np.clip(elites[place] + std * np.asarray(noise.action), -1, 1)
        np.testing.assert_allclose(plan(noise)[0], drawn, atol=1e-4)
        np.testing.assert_allclose(plan(noise)[1][0], mean, atol=1e-4)
    assert len(picked) > 1, "not always the best one"


def test_a_plan_goes_on_from_the_one_before():
    """A search too short and narrow to find the best action finds it from a good start; the next step's start is the
    plan without what is done."""
    p, k = regulator(np.ones(2))
    z, mask, none = np.array([0.5, -0.3, 0.2], np.float32), np.ones(2, np.float32), np.zeros((3, 2), np.float32)
    _, mean = planned(SETTINGS, p, z, none, mask, jax.random.key(0))
    hasty = dataclasses.replace(SETTINGS, iterations=1, samples=64, elites=8, std_max=0.1)
    error = lambda start: np.abs(planned(hasty, p, z, start, mask, jax.random.key(1))[1][0] + k @ z).max()
    assert error(mean) < 0.1 < error(none)
    np.testing.assert_array_equal(planner.shifted(mean), np.concatenate([mean[1:], none[:1]]))


def test_nothing_counts_behind_an_end():
    """A reward of 1 a step; the task ends where the first action is positive."""
    gone = Dream(
        lambda z, a: (z, jnp.ones(len(z)), (a[:, 0] > 0) * 1.0),
        lambda z, noise: noise * 0,
        lambda z, a, places: 5 * jnp.ones(len(z)),
    )
    actions = np.array([[-0.5, 0.5], [-0.5, 0.5]], np.float32)[..., None]  # [H, N, A]
    last, pair = np.zeros((2, 1), np.float32), np.array([0, 1])
    value = planner.score(gone, np.zeros((2, 3), np.float32), actions, GAMMA, last, pair)
    np.testing.assert_allclose(value, [1 + GAMMA + 5 * GAMMA**2, 1.0], rtol=1e-6)


def test_two_functions_are_two_and_all_pairs_come_up():
    pairs = {tuple(np.asarray(planner.two_of(jax.random.key(seed), 3)).tolist()) for seed in range(60)}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_plans_need_no_sequence_of_the_policy_s():
    """None of them is a batch of none, which every part of the model must take."""
    found = jax.eval_shape(lambda: networks.simnorm(jnp.zeros((0, 16)), 8))
    assert found.shape == (0, 16)
    layers = networks.init_mlp(jax.random.key(0), 4, (8,), 16, "normed")
    assert networks.mlp(layers, jnp.zeros((0, 4)), jnp.float32, 8).shape == (0, 16)


def test_measured_numbers_keep_their_digits_in_a_model_of_bfloat16():
    """Robots' places are 0.6 and differ by a thousandth; bfloat16 has steps of 0.004 there."""
    layers = networks.init_mlp(jax.random.key(0), 1, (), 16, "normed")
    places = jnp.array([[0.6], [0.6013]])
    of = lambda **exact: (
        networks.linear(layers[0], places, jnp.bfloat16) if not exact else networks.exactly(layers[0], places)
    )
    assert not np.any(np.diff(of(), axis=0)) and np.all(np.diff(of(exact=True), axis=0))
    above = networks.linear(
        dict(kernel=jnp.array([[1.0], [2.0**-7]]), bias=jnp.zeros(1)), jnp.array([[2.0, 1.0]]), jnp.bfloat16
    )
    assert above[0, 0] == 2 + 2.0**-7, "half of bfloat16's step there: products add up in float32"
    moved = networks.mlp(layers, places, jnp.bfloat16, 8, exact=True)
    assert np.any(moved[0] != moved[1])
