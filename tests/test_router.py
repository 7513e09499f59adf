"""The selection of experts: slots, margin, freeze, and whether it settles under the balance loss alone."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick

from mow_jax.systems.mow import router
from mow_jax.systems.mow.router import Routing

RULES = Routing(tasks=26, experts=12, active=2, anneal_updates=20_795)  # the defaults on 26 games
reselect = quick(functools.partial(router.reselect, margin=0.05))


@pytest.mark.parametrize(
    ("scores", "held", "chosen"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0, 3], [2, 3]),  # the newcomer sits where the leaver sat
        ([0.1, 0.2, 0.3, 0.4], [3, 2], [3, 2]),  # better order is no reason to move
        ([0.1, 0.2, 0.3, 0.4], [1, 0], [2, 3]),  # the weaker one leaves first, for the best
        ([0.28, 0.1, 0.3, 0.32], [0, 2], [0, 2]),  # 0.04 better is not enough
        ([0.26, 0.1, 0.3, 0.32], [0, 2], [3, 2]),  # 0.06 is
    ],
)
def test_an_expert_leaves_for_a_better_one_by_the_margin_and_gives_it_its_slot(scores, held, chosen):
    made = reselect(np.array([scores], np.float32), np.array([held], np.int32))
    np.testing.assert_array_equal(made, [chosen])


def test_the_selection_moves_until_the_temperature_has_fallen_then_never():
    rules = dataclasses.replace(RULES, tasks=1, experts=4, anneal_updates=100, gate="straight_through")
    scores, held, key = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), np.array([[0, 1]], np.int32), jax.random.key(0)

    def chosen(rules, update):
        return np.asarray(quick(functools.partial(router.select, rules))(scores, held, update, key)).tolist()

    assert [float(router.temperature(rules, update)) for update in (0, 50, 100, 5000)] == [5, 3, 1, 1]
    assert chosen(rules, 99) == [[3, 2]]
    assert chosen(rules, 100) == chosen(rules, 5000) == held.tolist()
    assert chosen(dataclasses.replace(rules, freeze=False), 5000) == [[3, 2]]
    assert chosen(dataclasses.replace(rules, mode="table"), 0) == held.tolist()
    assert chosen(dataclasses.replace(rules, gate="none"), 0) == held.tolist(), "balanced, and nothing else to gain"


@pytest.mark.parametrize(("start", "end"), [(2, 0.1), (3, 0.7), (10, 0.3), (5, 1)])
def test_the_freeze_comes_though_the_temperature_misses_its_end_by_a_rounding(start, end):
    rules = dataclasses.replace(RULES, tau_start=float(start), tau_end=end, anneal_updates=100.0)
    update = jnp.array([0, 99, 100, 101])
    assert quick(functools.partial(router.frozen, rules))(update).tolist() == [False, False, True, True]
    at_once = dataclasses.replace(rules, anneal_updates=0.0)
    assert router.frozen(at_once, update).tolist() == [False, True, True, True]
    assert not router.frozen(dataclasses.replace(rules, freeze=False), update).any()


def test_what_is_scored_is_the_choice_of_the_scores_and_not_the_last_draw_of_noise():
    rules = dataclasses.replace(RULES, tasks=2, experts=4, noise=1.0, margin=4.0, gate="straight_through")
    scores = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], np.float32)
    drawn = np.array([[0, 3], [2, 3]], np.int32)
    chosen = lambda rules, update=0: router.without_noise(rules, scores, drawn, update).tolist()
    assert chosen(rules) == [[2, 3], [1, 0]], "the top two, margin or not; expert 3 keeps its slot"
    assert chosen(rules, 20_795) == drawn.tolist(), "frozen: what has been trained"
    assert chosen(dataclasses.replace(rules, freeze=False), 20_795) == [[2, 3], [1, 0]]
    for other in ({"noise": 0.0}, {"mode": "table"}):
        assert chosen(dataclasses.replace(rules, **other)) == drawn.tolist()
    # At rest nothing is redrawn: two tasks with two of four experts, one each.
    even = np.array([[0, 3], [2, 1]], np.int32)
    kept = router.without_noise(dataclasses.replace(rules, gate="none"), scores, even, 0)
    np.testing.assert_array_equal(kept, even)


@pytest.mark.parametrize("tasks", [1, 4, 5, 26])
@pytest.mark.parametrize("experts", [4, 12])
def test_the_first_selection_is_balanced_and_prefers_high_scores(tasks, experts):
    for seed in range(8):
        rules = dataclasses.replace(RULES, tasks=tasks, experts=experts)
        scores = router.scores(rules, router.init(rules, jax.random.key(seed)), 0)
        chosen = np.asarray(router.first_selection(scores, rules.active))
        assert router.is_balanced(router.load(chosen, experts), rules).all()
        assert all(len(set(row)) == rules.active for row in chosen.tolist())
        np.testing.assert_array_equal(np.sort(chosen[0]), np.sort(np.argsort(-scores[0])[: rules.active]))


@pytest.mark.parametrize(
    ("changes", "update"), [({"mode": "table"}, 0), ({}, 20_795), ({"gate": "straight_through"}, 30_000)]
)
def test_no_balance_loss_pulls_at_a_selection_that_cannot_change(changes, update):
    rules = dataclasses.replace(RULES, tasks=5, experts=4, **changes)
    experts = np.array([[0, 1], [0, 1], [0, 2], [0, 2], [0, 2]], np.int32)
    params = router.init(rules, jax.random.key(0))

    def pull(rules, update):
        loss = lambda params: router.balance_loss(rules, router.scores(rules, params, update), experts, update)
        return jax.grad(loss)(params)

    assert all((leaf == 0).all() for leaf in jax.tree.leaves(pull(rules, update)))
    free = dataclasses.replace(rules, mode="learned")
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(pull(free, 20_000)))


def test_only_experts_out_of_balance_are_pushed_towards_it():
    """Five tasks with two experts of four each: loads of 2 and 3 are balanced."""
    experts = np.array([[0, 1], [0, 1], [0, 2], [0, 2], [0, 2]], np.int32)  # loads 5, 2, 3, 0
    scores = np.full((5, 4), 0.25, np.float32)
    loss = functools.partial(router.balance_loss, dataclasses.replace(RULES, tasks=5, experts=4))
    value, gradient = quick(jax.value_and_grad(loss))(scores, experts, 0)
    assert value == pytest.approx(2.5**2 + 0.5**2 + 0.5**2 + 2.5**2)
    np.testing.assert_allclose(gradient, [[2 * 2.5, 0, 0, -2 * 2.5]] * 5)
    loads = router.load(experts, 4)
    assert loads.sum() == 5 * 2 and loads.tolist() == [5, 2, 3, 0]


def test_gates_are_one_and_carry_the_gradient_of_the_scores():
    scores, experts = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), np.array([[3, 1]], np.int32)
    gated = dataclasses.replace(RULES, gate="straight_through")
    slope = quick(jax.grad(lambda scores, rules: router.gates(rules, scores, experts).sum()), static_argnums=1)
    np.testing.assert_allclose(router.gates(gated, scores, experts), [[1, 1]])
    np.testing.assert_allclose(slope(scores, gated), [[0, 5, 0, 2.5]], rtol=1e-6)
    np.testing.assert_array_equal(slope(scores, RULES), np.zeros((1, 4)))


def switches(rules: Routing, updates: int, seed: int) -> np.ndarray:
    """[updates] how many slots change at each update of Adam on the balance loss alone."""
    params, optimizer = router.init(rules, jax.random.key(seed)), optax.adam(1e-4)
    # From the highest scores alone, which are nearly the same for all tasks: there is something to repair.
    first = jax.lax.top_k(router.scores(rules, params, 0), rules.active)[1].astype(jnp.int32)

    def step(carry, update):
        params, optimizer_state, old = carry
        scores = router.scores(rules, params, update)
        experts = router.select(rules, scores, old, update, jax.random.key(0))

        def loss(params):
            return 0.1 * router.balance_loss(rules, router.scores(rules, params, update), experts, update)

        change, optimizer_state = optimizer.update(jax.grad(loss)(params), optimizer_state)
        return (optax.apply_updates(params, change), optimizer_state, experts), (experts != old).sum()

    run = jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params), first), jnp.arange(updates))[1])
    return np.asarray(run())


@pytest.mark.parametrize("seed", range(4))
def test_the_selection_settles(seed):
    made = switches(RULES, 6000, seed)
    assert made[:1000].sum() < 100
    assert made[5000:].sum() == 0
