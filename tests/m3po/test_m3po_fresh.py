"""Advantages, disagreement, the bonus and the trust region's loss, against numbers by hand."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sharded import shard

from mow_jax.ops.returns import advantages
from mow_jax.systems.m3po import bonus, fresh, world_model
from mow_jax.systems.m3po.fresh import Trust
from mow_jax.systems.m3po.types import Choice, Dream

GAMMA = 0.9
RAW, ACTION = (types.SimpleNamespace(squashed=squashed) for squashed in (False, True))  # whose entropy is meant


def trust(**changes) -> Trust:
    made = dict(weight=0.1, share=0.5, epochs=2, minibatch=4, clip=0.2, kl=0.0, lambda_=0.8, entropy=0.0)
    return Trust(**(made | changes))


def test_advantages_are_the_double_sum():
    """Of the definition: sum over later rows of the episode, (gamma lambda)^i delta."""
    rng = np.random.default_rng(0)
    reward, value, following = rng.normal(size=(3, 2, 7))
    ended = rng.random((2, 7)) < 0.3
    termination = ended & (rng.random((2, 7)) < 0.5)
    expected = np.zeros((2, 7))
    for n in range(2):
        for t in range(7):
            for i in range(t, 7):
                delta = reward[n, i] + GAMMA * (not termination[n, i]) * following[n, i] - value[n, i]
                expected[n, t] += (GAMMA * 0.8) ** (i - t) * delta
                if ended[n, i]:
                    break
    found = advantages(reward, value, following, termination, ended, GAMMA, 0.8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_time_limit_bootstraps_and_an_end_does_not():
    one = np.ones((1, 1))
    for termination, expected in ((False, 1 + GAMMA * 5 - 2), (True, 1 - 2)):
        found = advantages(one, 2 * one, 5 * one, np.array([[termination]]), np.array([[True]]), GAMMA, 0.8)
        assert float(found[0, 0]) == pytest.approx(expected)


# --- Disagreement, on a line of states 0, 1, 2, ... that action a moves along by a; the reward is the state -----------


def line(error: float = 0.0) -> Dream:
    """Its policy always moves by 1; values are exact for that policy but for `error`."""
    value = lambda z: (z[..., 0] / (1 - GAMMA)) + GAMMA / (1 - GAMMA) ** 2  # sum gamma^i (z + i)
    after = lambda z, a: z[..., 0] + GAMMA * value(z + a)
    return Dream(
        follow=lambda z, a: (z + a, z[..., 0], jnp.zeros(z.shape[:-1])),
        choose=lambda z, noise: jnp.ones_like(noise),
        value=lambda z, a, places: after(z, a) + error,
    )


def disagreement(dream: Dream, steps: int, off: float = 0.0, ended: float = 0.0) -> np.ndarray:
    """Of three steps on the line, whose rewards are by `off` higher than the model says."""
    z, action = np.arange(3.0)[:, None], np.array([[1.0], [0.0], [-1.0]])
    after = bonus.Outcome(z[:, 0] + off, np.full(3, ended), z + action)
    return np.asarray(bonus.disagreement(dream, z, action, after, GAMMA, steps, jnp.arange(2)))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("error", [0.0, 3.0, -40.0])
def test_a_perfect_model_does_not_disagree_however_wrong_the_values(steps: int, error: float):
    np.testing.assert_allclose(disagreement(line(error), steps), 0, atol=1e-4)
    np.testing.assert_allclose(disagreement(line(error), steps, off=0.5), 0.5, rtol=1e-3)
    odd = line()._replace(value=lambda z, a, places: jnp.sin(7 * z[..., 0] + a[..., 0]))
    np.testing.assert_allclose(disagreement(odd, steps), 0, atol=1e-4)


def test_a_model_that_errs_about_the_next_state_or_an_end_disagrees():
    ask = lambda **changes: disagreement(line()._replace(value=lambda z, a, places: z[..., 0], **changes), 1)
    far = lambda z, a: (z + a + 2, z[..., 0], jnp.zeros(z.shape[:-1]))
    np.testing.assert_allclose(ask(follow=far), GAMMA * 2, rtol=1e-5)
    ends = lambda z, a: (z + a, z[..., 0], jnp.full(z.shape[:-1], 0.5))
    np.testing.assert_allclose(ask(follow=ends), GAMMA * 0.5, rtol=1e-5)  # of z' = 1, at all three steps
    ended = disagreement(line()._replace(follow=ends, value=lambda z, a, places: z[..., 0]), 1, ended=1.0)
    np.testing.assert_allclose(ended, GAMMA * 0.5, rtol=1e-5)


# --- The bonus --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_the_clipped_bonus_turns_no_advantage(beta: float):
    rng = np.random.default_rng(1)
    for _ in range(20):
        plain, delta = rng.normal(size=50), 10 * rng.exponential(size=50) ** 2
        shaped = np.asarray(bonus.clipped(plain, delta, np.ones(50), jnp.float32(beta)))
        assert np.all(shaped * plain >= 0)
        assert np.any(shaped > plain) and np.any(shaped < plain)


def test_the_bonus_by_hand():
    delta, known = np.array([1.0, 2.0, 3.0, 4.0, 100.0]), np.array([1.0, 1, 1, 1, 0])
    std = np.std(delta[:4])
    plain = np.array([1.0, 0.1, -0.1, 2.0, 3.0])
    expected = plain + 0.5 * np.clip((delta - 2.5) / std, -np.abs(plain), np.abs(plain)) * known
    np.testing.assert_allclose(bonus.clipped(plain, delta, known, 0.5), expected, rtol=1e-4)
    rewarded = plain + 0.5 * np.clip((delta - 2.5) / std, 0, 2) * known
    np.testing.assert_allclose(bonus.reward(plain, delta, known, 0.5), rewarded, rtol=1e-4)


def test_no_bonus_where_nothing_is_known_or_nothing_differs():
    plain = np.array([1.0, -2.0, 0.5])
    for delta, known in ((np.array([1.0, 2, 3]), np.zeros(3)), (np.full(3, 7.0), np.ones(3))):
        for rule in (bonus.clipped, bonus.reward):
            np.testing.assert_allclose(rule(plain, delta, known, 0.5), plain, atol=1e-6)


# --- The trust region -------------------------------------------------------------------------------------------------


@pytest.fixture
def scaled(monkeypatch) -> None:
    """The policy's only parameter is by how much of the latent its mean is."""

    def choose(model, scale, e, mask, z, noise, exact):
        assert exact, "a ratio takes probabilities in float32"
        mean = scale * z
        return Choice(jnp.tanh(mean), mean, mean, jnp.full_like(mean, -3.0))

    monkeypatch.setattr(fresh.world_model, "choose", choose)


@pytest.mark.parametrize("advantage", [2.0, -0.7])
@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9, 1.0, 1.15, 1.3, 3.0])
def test_a_ratio_that_has_led_far_enough_leads_no_further(scaled, ratio: float, advantage: float):
    """Of one row: the loss is -min(ratio A, clip(ratio, 0.8, 1.2) A), and there is no gradient where the clip won."""
    made, mask, z = trust(bonus="none", beta=0.0, steps=1), np.ones(2), np.array([[0.6, 0.9]])
    likely = lambda scale: fresh.log_prob(
        fresh.world_model.choose(None, scale, None, mask, z, None, True), mask, 0.52 * z
    )
    before = likely(0.51) - np.log(ratio)
    rows = fresh.Rows(z, 0.52 * z, before, np.array([advantage]), {})
    ask = lambda scale: fresh.loss(RAW, made, {"policy": scale}, None, mask, rows)
    (found, said), slope = jax.value_and_grad(ask, has_aux=True)(0.51)
    assert float(found) == pytest.approx(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage), rel=1e-4)
    far = ratio > 1.2 if advantage > 0 else ratio < 0.8
    expected = 0.0 if far else -advantage * ratio * float(jax.grad(lambda scale: likely(scale)[0])(0.51))
    assert float(slope) == pytest.approx(expected, rel=1e-4) and (far or abs(expected) > 1)
    assert float(said["fresh/clipped"]) == (not 0.8 <= ratio <= 1.2)


def test_the_policy_alone_steps_at_the_round_s_weight(scaled, monkeypatch):
    """A tenth of the weight is a tenth of its step; a critic steps as before."""
    monkeypatch.setattr(fresh.world_model, "critic", lambda model, layers, e, z: z @ layers)
    rng, mask = np.random.default_rng(0), np.ones((1, 2), bool)
    z, start = 0.5 + rng.random((1, 5, 2)), {"policy": jnp.float32(0.51), "value": jnp.float32(rng.normal(size=(2, 7)))}
    before = fresh.log_prob(fresh.world_model.choose(None, 0.51, None, 1, z, None, True), 1, 0.52 * z)
    rows = fresh.Rows(z, 0.52 * z, before, rng.normal(size=(1, 5)), {"value": rng.normal(size=(1, 5))})
    model, places = types.SimpleNamespace(tasks=1, limit=3.0, squashed=False), shard(mask, 1)

    def moved(weight: float) -> dict:
        made = trust(weight=weight, epochs=1, minibatch=5, bonus="none", beta=0.0, steps=1)
        keys, optimizer = jax.random.split(jax.random.key(0), 1), optax.sgd(1e-3)
        run = lambda rows, places: fresh.epochs(
            model, made, optimizer, (start, optimizer.init(0.0)), rows, np.zeros((1, 1)), places, keys
        )
        learned = jax.vmap(run, axis_name="device")(jax.tree.map(lambda x: x[None], rows), places)[0]
        return jax.tree.map(lambda new, old: np.asarray(new[0] - old, np.float64), learned, start)

    whole, tenth = moved(1.0), moved(0.1)
    assert abs(whole["policy"]) > 1e-4 and np.abs(whole["value"]).max() > 1e-5
    assert tenth["policy"] == pytest.approx(0.1 * whole["policy"], rel=1e-2)
    np.testing.assert_array_equal(tenth["value"], whole["value"])


def test_a_row_that_was_lost_with_its_environment_says_nothing_of_the_policy(scaled):
    """The run stores zeros for it: no draw, and no probability of one."""
    made, mask, rng = trust(bonus="none", beta=0.0, steps=1), np.ones(2), np.random.default_rng(0)
    z, advantage = 0.5 + rng.random((5, 2)), rng.normal(size=5)
    raw = 0.52 * z
    drawn = fresh.log_prob(fresh.world_model.choose(None, 0.5, None, mask, z, None, True), mask, raw)
    whole = fresh.Rows(z, raw, drawn, advantage, {})
    lost = whole._replace(raw=whole.raw * (np.arange(5) != 3)[:, None], log_prob=drawn * (np.arange(5) != 3))
    without = jax.tree.map(lambda x: x[np.arange(5) != 3], whole)
    learns = jax.value_and_grad(
        lambda scale, rows: fresh.loss(RAW, made, {"policy": scale}, None, mask, rows), has_aux=True
    )
    results = [learns(0.51, rows) for rows in (lost, without)]
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert float(results[0][0][1]["fresh/kl"]) < 1 and float(abs(results[0][1])) > 0
    nothing = learns(0.51, whole._replace(raw=0 * whole.raw, log_prob=0 * drawn))
    assert float(nothing[0][0]) == float(nothing[1]) == 0


# --- Minibatches ------------------------------------------------------------------------------------------------------


def test_every_epoch_goes_through_the_rows_once():
    made = trust(bonus="clipped", beta=0.1, steps=1)
    places = np.asarray(fresh.blocks(made, jax.random.key(0), 10))
    assert places.shape == (4, 4), "two epochs of two full minibatches"
    for epoch in (places[:2], places[2:]):
        assert len(set(epoch.ravel().tolist())) == 8
    assert np.any(places[:2] != places[2:])
    few = jax.eval_shape(lambda key: fresh.blocks(made, key, 3), jax.random.key(0))
    assert few.shape == (2, 3), "fewer rows than a minibatch are one"


# --- Entropy ----------------------------------------------------------------------------------------------------------


def test_a_round_s_bonus_for_entropy_narrows_a_policy_that_tanh_cuts_and_widens_others(monkeypatch):
    """The policy's only parameter is its log deviation; nothing was better than anything else."""

    def choose(model, log_std, e, mask, z, noise, exact):
        assert exact
        raw = jnp.exp(log_std) * noise
        return Choice(jnp.tanh(raw), raw, jnp.zeros_like(raw), jnp.broadcast_to(log_std, raw.shape))

    monkeypatch.setattr(fresh.world_model, "choose", choose)
    made = trust(bonus="none", entropy=1.0, beta=0.0, steps=1)
    mask, noise = np.ones(2), np.random.default_rng(0).normal(size=(500, 2))

    def slope(model, deviation: float) -> float:
        """Of the loss: where it is negative the policy widens."""
        raw, at = deviation * noise, float(np.log(deviation))
        likely = fresh.log_prob(choose(model, at, None, mask, None, noise, True), mask, raw)
        rows = fresh.Rows(noise, raw, likely, np.zeros(500), {})
        return float(jax.grad(lambda at: fresh.loss(model, made, {"policy": at}, None, mask, rows)[0])(at))

    assert slope(RAW, 5.0) == pytest.approx(-2, abs=1e-4) and slope(RAW, 0.3) == pytest.approx(-2, abs=1e-4)
    assert slope(ACTION, 5.0) > 1 and slope(ACTION, 0.3) < -1


@pytest.mark.parametrize("deviation", [0.2, 1.0, 5.0])
def test_the_squashed_entropy_is_that_of_the_action(deviation: float):
    """Against a histogram of actions: it falls again where the normal distribution is so wide that tanh cuts it."""
    noise = np.random.default_rng(0).normal(size=(400_000, 1)).astype(np.float32)
    wide = jnp.full(noise.shape, np.log(deviation))
    choice = Choice(jnp.tanh(0.3 + deviation * noise), 0.3 + deviation * noise, jnp.full(noise.shape, 0.3), wide)
    entropy = lambda squashed: float(
        world_model.entropy_of(types.SimpleNamespace(squashed=squashed), choice, np.ones(1), noise).mean()
    )
    edges = np.tanh(np.linspace(-30, 30, 3001))
    edges = np.unique(edges)
    share, widths = np.histogram(np.tanh(0.3 + deviation * noise.astype(float)), edges)[0] / len(noise), np.diff(edges)
    known = share > 0
    found = -(share[known] * np.log(share[known] / widths[known])).sum()
    assert entropy(True) == pytest.approx(found, abs=0.03)
    assert entropy(False) == pytest.approx(0.5 * np.log(2 * np.pi * np.e) + np.log(deviation), abs=0.01)


def test_the_squashed_entropy_is_largest_inside_and_has_gradients_everywhere():
    raw = np.linspace(-40, 40, 81)
    narrowed, slope = jax.vmap(jax.value_and_grad(world_model.narrowed))(raw.astype(np.float32))
    np.testing.assert_allclose(
        narrowed, np.log1p(-(np.tanh(np.clip(raw, -8, 8)) ** 2)) - 2 * (np.abs(raw) - 8).clip(0), atol=1e-2
    )
    assert np.isfinite(slope).all() and (np.sign(slope) == -np.sign(raw)).all()
