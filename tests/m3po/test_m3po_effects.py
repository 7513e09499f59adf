"""What single settings and draws of the M3PO-style system change, each alone, against numbers made here."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick
from sharded import shard
from test_m3po_agent import ACTIONS, ENVS, MASK, NUMBERS, TASKS, acting, agent, no_plans, started

from mow_jax.systems.m3po import agent as algorithm
from mow_jax.systems.m3po import bonus, fresh, planner
from mow_jax.systems.m3po.fresh import Rows
from mow_jax.systems.m3po.planner import Planner
from mow_jax.systems.m3po.types import Draws, Dream

# --- Learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["model_optimizer", "policy_optimizer"])
def test_a_huge_gradient_is_clipped_before_adam_sees_it(optimizer: str):
    made = getattr(agent(), optimizer)
    for size, seen in ((1e9, agent().clip), (0.5, 0.5)):
        gradient = jnp.array([0.6, 0.0, -0.8]) * size
        _, after = made.update(gradient, made.init(gradient))
        np.testing.assert_allclose(optax.tree.get(after, "mu"), 0.1 * seen * gradient / size, rtol=1e-5)


def test_entropy_lowers_the_policy_s_loss_by_its_coefficient():
    """Of first latents alone, where no later step's weight comes in."""
    made = agent(trust=False)
    params, rng = started(made).params, np.random.default_rng(0)
    z = rng.dirichlet(np.ones(8), size=(TASKS, 5, 1, 2)).reshape(TASKS, 5, 1, 16).astype(np.float32)
    noise = rng.normal(size=(TASKS, 5, 1, ACTIONS)).astype(np.float32)
    draws = Draws(noise, noise, np.array([0, 1]), np.array([0, 1]))
    places = jax.tree.map(lambda x: x[0], shard(MASK, 1))

    def said(entropy: float) -> dict:
        setup, learns = dataclasses.replace(made, entropy=entropy), algorithm.learning(params, ())
        rows = (params, np.ones(TASKS), z, np.ones((TASKS, 5, 1)), draws, places, np.ones(TASKS) / TASKS)
        return quick(lambda learns: algorithm.policy_loss(setup, learns, *rows)[1])(learns)

    none, some = said(0.0), said(0.1)
    np.testing.assert_allclose(some["loss"], none["loss"] - 0.1 * some["entropy"], rtol=1e-4)
    assert np.all(np.abs(some["entropy"]) > 0.1)


def test_a_policy_that_went_too_far_rests_for_the_whole_round(monkeypatch):
    """Four minibatches of one row each, whose distances from what acted are given: only the second one is too far."""
    given = np.array([[0.1, 0.9, 0.1, 0.1]])

    def loss(model, trust, learned, e, mask, rows):
        return learned["policy"] + learned["value"], {"fresh/kl": rows.log_prob.mean()}

    monkeypatch.setattr(fresh, "loss", loss)
    monkeypatch.setattr(fresh, "blocks", lambda trust, key, rows: jnp.arange(rows)[:, None])
    trust = types.SimpleNamespace(kl=0.5, weight=1.0)
    start, optimizer = {"policy": jnp.zeros(()), "value": jnp.zeros(())}, optax.sgd(1.0)
    rows = Rows(None, None, given, None, {})

    def run(rows, places):
        begin, keys = (start, optimizer.init(0.0)), jax.random.split(jax.random.key(0), 1)
        return fresh.epochs(types.SimpleNamespace(tasks=1), trust, optimizer, begin, rows, np.zeros(1), places, keys)

    made = quick(jax.vmap(run, axis_name="device"))(jax.tree.map(lambda x: x[None], rows), shard(MASK[:1], 1))
    assert made[0]["policy"] == -1 and made[0]["value"] == -4
    assert made[-1] == 0.25, "the share of minibatches that moved it"


def test_an_end_between_the_steps_of_a_model_s_value_takes_its_share_of_what_follows():
    """Every step gives 1 and ends the task with probability 1/4; behind the last one there are 10. In fact it ended."""
    model = Dream(
        follow=lambda z, a: (z, jnp.ones(len(z)), jnp.full(len(z), 0.25)),
        choose=lambda z, noise: noise,
        value=lambda z, a, places: jnp.full(len(z), 10.0),
    )
    z, after = np.zeros((2, 3)), bonus.Outcome(np.zeros(2), np.ones(2), np.zeros((2, 3)))
    on = 0.9 * 0.75
    for steps, expected in ((1, 1 + 10 * on), (3, 1 + on + on**2 + 10 * on**3)):
        found = bonus.disagreement(model, z, np.zeros((2, 1)), after, 0.9, steps, jnp.arange(1))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- Acting -----------------------------------------------------------------------------------------------------------


def test_environments_that_show_the_same_are_acted_on_each_by_its_own_draw():
    made = agent(share=1.0)
    seen = np.broadcast_to(np.float32(np.arange(NUMBERS)), (TASKS, ENVS, NUMBERS))
    action, _, _ = acting(made, True)(started(made), no_plans(), seen, np.ones((TASKS, ENVS), bool), 0)
    assert len(set(np.ravel(action[..., 0]).tolist())) == TASKS * ENVS


def test_a_plan_avoids_what_the_model_cannot_value():
    """A first action above zero has no number for a value; others are worth the more, the lower it is."""
    settings = Planner(1, 2, 32, 0, 4, 5.0, 0.05, 1.0)
    model = Dream(
        follow=lambda z, a: (z, jnp.where(a[:, 0] > 0, jnp.nan, 1 - a[:, 0]), jnp.zeros(len(z))),
        choose=lambda z, noise: noise,
        value=lambda z, a, places: jnp.zeros(len(z)),
    )

    @quick
    def plan(key):
        noise = planner.draw(settings, 1, 2, key)
        return planner.plan(settings, model, jnp.zeros(3), jnp.zeros((1, 1)), jnp.ones(1), 0.9, noise)

    action, mean = plan(jax.random.key(0))
    assert -1 <= action[0] < 0 and -1 <= mean[0, 0] < -0.5
