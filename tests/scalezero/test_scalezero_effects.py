"""What single settings and draws of ScaleZero change, each alone, against numbers made here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compiled import quick
from test_scalezero_agent import agent

from mow_jax.systems.scalezero import search
from mow_jax.systems.scalezero.search import Noise, Search


def test_adam_keeps_a_tenth_and_a_twentieth_of_a_clipped_gradient():
    made = agent()
    for size, seen in ((1e9, made.clip), (0.5, 0.5)):
        gradient = jnp.array([0.6, 0.0, -0.8]) * size
        _, after = made.optimizer.update(gradient, made.optimizer.init(gradient))
        known = seen * gradient / size
        np.testing.assert_allclose(optax.tree.get(after, "mu"), 0.1 * known, rtol=1e-5)
        np.testing.assert_allclose(optax.tree.get(after, "nu"), 0.05 * known**2, rtol=1e-5)


def test_gumbel_draws_by_the_prior_among_actions_that_are_all_worth_the_same():
    """Three actions, each tried once: the largest sum of log prior and noise is taken."""
    roots, prior = 4000, np.array([0.6, 0.3, 0.1])
    nothing = lambda *shape: jnp.zeros((roots, *shape))
    gumbel = jax.random.gumbel(jax.random.key(0), (roots, 3))
    follow = lambda action, node: (nothing(), nothing() + 1, nothing(3), nothing(), node)
    setup = Search(simulations=3, method="gumbel", considered=3)
    start = nothing(3) + np.log(prior), nothing(), nothing(), jnp.ones((roots, 3), bool)
    found = quick(lambda: search.search(setup, follow, *start, Noise(nothing(3), nothing(3), gumbel)))()
    assert np.all(found.visits == 1)
    np.testing.assert_allclose(found.policy, np.tile(prior, (roots, 1)), rtol=1e-4)
    np.testing.assert_array_equal(found.action, np.argmax(np.log(prior) + gumbel, axis=-1))
    np.testing.assert_allclose(np.bincount(found.action) / roots, prior, atol=0.03)


def test_the_root_s_noise_is_a_dirichlet_distribution_of_its_alpha():
    """Of n numbers: mean 1 / n, variance (n - 1) / (n^2 (alpha n + 1))."""
    mask, n = np.array([True, True, False, True, True]), 4
    draw = quick(lambda alpha: search.noise(Search(alpha=alpha), jax.random.key(0), mask, 20_000).dirichlet)
    for alpha in (0.3, 2.0):
        draws = np.asarray(draw(alpha))[:, mask]
        np.testing.assert_allclose(draws.mean(0), 1 / n, atol=0.01)
        np.testing.assert_allclose(draws.var(0), (n - 1) / (n**2 * (alpha * n + 1)), rtol=0.05)
