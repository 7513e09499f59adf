"""update and act as programs over devices: what moves, what rests, what is drawn, and that a loss falls."""

from __future__ import annotations

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick
from drawing import parameters
from sharded import dealt, first, program, same, shard

from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import inspection, search, targets, world_model
from mow_jax.systems.scalezero.agent import Agent
from mow_jax.systems.scalezero.search import Search
from mow_jax.systems.scalezero.stages import Stages
from mow_jax.systems.scalezero.types import Context
from mow_jax.systems.scalezero.world_model import WorldModel
from mow_jax.types import Batch

TASKS, ACTIONS, UNROLL, STEPS, ENVS, WINDOWS = 2, 3, 4, 2, 2, 3
MASK = np.array([[True, True, True], [True, False, True]])
THREE = MASK[[0, 1, 0]]  # a third task, where one is asked for


def agent(count: int = 3, tasks: int = TASKS, **changes) -> Agent:
    """A tiny one."""
    sizes = dict(context=2, width=8, layers=1, heads=2, experts=3, encoder="convolution", channels=4, dropout=0.0)
    return Agent(
        world=WorldModel(8, tasks, ACTIONS, UNROLL, **(sizes | changes)),
        search=Search(simulations=6, temperature=0.01, temperature_start=1.0, temperature_updates=500),
        stages=Stages(count=count, rank=2, first=1000, target=0.9),
        scales=(
            *(("latent", 10.0), ("reward", 1.0), ("value", 0.5), ("policy", 1.0), ("entropy", -1e-4)),
            ("continuation", 1.0),
        ),
        steps=STEPS,
        smoothing=0.0,
        lr=3e-3,
        decay=1e-2,
        clip=5.0,
        target_rate=0.05,
    )


def draws(tasks: int = TASKS) -> tuple[Batch, np.ndarray]:
    """Windows [K, B, H + n] and the policies stored with them."""
    rng = np.random.default_rng(6)
    shape = (tasks, WINDOWS, UNROLL + STEPS)
    frames = rng.integers(0, 256, size=(*shape, 8, 8, 3)).astype(np.uint8)
    action = rng.integers(0, 2, size=shape).astype(np.int32) * 2
    reward = rng.normal(size=shape).astype(np.float32)
    policy = rng.dirichlet(np.ones(ACTIONS), size=shape).astype(np.float32) * THREE[:tasks, None, None]
    policy /= policy.sum(-1, keepdims=True)
    policy[:, 0] = 0  # a window of random rows
    return Batch(frames, action, reward, rng.random(shape) < 0.1, rng.random(shape) < 0.1), policy


@functools.cache
def started(count: int = 3, tasks: int = TASKS) -> algorithm.State:
    state = jax.eval_shape(lambda: algorithm.init(agent(count, tasks), 0))
    params = parameters(lambda: algorithm.init(agent(count, tasks), 0).params)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    return zeros._replace(params=params, target=params)


@functools.cache
def updating(devices: int = 1, count: int = 3, tasks: int = TASKS):
    compiled = program(functools.partial(algorithm.update, agent(count, tasks)), devices, out_axes=(0, None))
    places = shard(THREE[:tasks], devices)

    def run(state, batch, policy):
        state, metrics = compiled(same(state, devices), *dealt((batch, policy), devices), places)
        return first(state), jax.tree.map(np.asarray, metrics)

    return run


@functools.cache
def acting(explore: bool, sampled: bool = False):
    setup = dataclasses.replace(agent(), sampled=sampled)
    compiled = program(functools.partial(algorithm.act, setup, explore=explore), 1)

    def run(state, context, frames, is_first, step):
        context, frames, is_first = dealt((context, frames, is_first), 1)
        return first(compiled(same(state, 1), context, frames, is_first, same(np.int32(step), 1), shard(MASK, 1)))

    return run


@pytest.mark.slow
def test_a_loss_falls_and_every_part_learns():
    batch, policy = draws()
    state, seen = started(), []
    for _ in range(25):
        state, metrics = updating()(state, batch, policy)
        seen.append(metrics["world/total"].sum())
    assert seen[-1] < 0.8 * seen[0]
    assert state.update == 25 and state.skipped.tolist() == [0, 0]
    shrunk = (1 - 3e-3 * 1e-2) ** 25  # by weight decay alone, as the gate is
    for path, (old, new) in by_path(started().params, state.params).items():
        rests = old if "adapters" in path else shrunk * old if "gate" in path else None
        if rests is None:
            assert np.abs(new - old).max() > 1e-3 and np.abs(new - shrunk * old).max() > 1e-3, path
        else:
            np.testing.assert_allclose(new, rests, rtol=1e-5, atol=0, err_msg=path)
    assert np.all(np.isfinite(ravel(state.target)))
    assert metrics["router/load"].sum() == pytest.approx(1, abs=1e-5) and 0 <= metrics["world/dormant"] <= 1


@pytest.mark.parametrize("seed", [1, 2])
def test_searches_are_set_beside_the_policy_head_row_by_row(seed: int):
    """Five rows a task, of which some were searched: by numpy."""
    rng = np.random.default_rng(seed)
    logits, policy = rng.normal(size=(3, 1, 5, 4)).astype(np.float32), rng.dirichlet(np.ones(4), size=(3, 1, 5))
    policy = policy.astype(np.float32)
    policy[0, 0, 1] = policy[0, 0, 4] = policy[2] = 0  # two random rows; a task that has nothing else
    policy[1, 0, 2] = [0, 0, 1, 0]
    logits[1, 0, 0] = np.log(policy[1, 0, 0])
    told = jax.tree.map(np.asarray, algorithm.search_metrics(jnp.asarray(logits), jnp.asarray(policy)))
    for task, rows in {0: [0, 2, 3], 1: range(5)}.items():
        p, z = policy[task, 0, list(rows)].astype(np.float64), logits[task, 0, list(rows)].astype(np.float64)
        q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        terms = lambda x, p=p: (p * np.log(np.where(p > 0, x, 1.0))).sum(-1)
        assert told["entropy"][task] == pytest.approx(-terms(p).mean(), abs=1e-5)
        assert told["kl"][task] == pytest.approx((terms(p) - terms(q)).mean(), abs=1e-5)
        assert told["agreement"][task] == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
        assert told["share"][task] == pytest.approx(len(p) / 5)
    assert [float(told[name][2]) for name in told] == [0, 0, 0, 0]


def test_an_update_tells_of_the_searches_it_learns_from():
    batch, policy = draws()
    _, metrics = updating()(started(), batch, policy)
    first = policy[:, 1:, :UNROLL]  # the first window is of random rows; what lies behind H is not learned
    entropy = -(first * np.log(np.where(first > 0, first, 1.0))).sum(-1).mean((1, 2))
    np.testing.assert_allclose(metrics["search/entropy"], entropy, rtol=1e-4)
    np.testing.assert_allclose(metrics["search/share"], np.full(TASKS, 2 / 3), rtol=1e-5)
    assert np.all(metrics["search/kl"] > 0)


def test_matrices_alone_decay_and_a_long_gradient_is_cut():
    decays = jax.tree_util.tree_map_with_path(functools.partial(algorithm._decay, agent()), started().params)
    for path, (decay,) in by_path(decays).items():
        assert decay == (0 if path.endswith(("['bias']", "['scale']")) else pytest.approx(3e-5)), path
    long = np.full(25, 100.0, np.float32)  # of length 500, where 5 is allowed
    moments = optax.tree.get(agent().optimizer.update(long, agent().optimizer.init(long))[1], "mu")
    assert np.linalg.norm(moments) == pytest.approx(0.1 * 5, rel=1e-5)


def by_path(*trees) -> dict:
    flat = [jax.tree_util.tree_leaves_with_path(tree) for tree in trees]
    return {jax.tree_util.keystr(row[0][0]): tuple(leaf for _, leaf in row) for row in zip(*flat, strict=True)}


def ravel(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_frozen_leaves_do_not_move_with_decay_on_and_optimiser_full():
    state, _ = updating()(started(), *draws())
    later, metrics = updating()(state._replace(stage=np.int32(2)), *draws())
    assert metrics["stages/stage"] == 2
    for path, (old, new) in by_path(state.params, later.params).items():
        if "backbone" in path:
            np.testing.assert_array_equal(old, new, err_msg=path)
        elif "'down'" in path or "'up'" in path:
            np.testing.assert_array_equal(old[..., 0, :, :], new[..., 0, :, :], err_msg=path)
            # "down" gets no gradient while "up" is zero, but decays as every matrix.
            assert np.any(old[..., 1, :, :] != new[..., 1, :, :]), path
        elif "adapters" in path:
            np.testing.assert_array_equal(old[..., 2:], new[..., 2:], err_msg=path)
            assert np.any(old[..., 0] != new[..., 0]), path
    assert np.any(
        state.params["heads"]["value"]["Dense_1"]["bias"] != later.params["heads"]["value"]["Dense_1"]["bias"]
    )


def test_a_solved_task_leaves_the_loss_stays_solved_and_its_heads_rest():
    state, _ = updating()(started(), *draws())  # with momentum in the optimiser
    state = algorithm.after_evaluation(agent(), state, np.array([np.nan, 0.95], np.float32), 400)
    state = algorithm.after_evaluation(agent(), state, np.array([0.5, 0.1], np.float32), 800)
    state = algorithm.after_evaluation(agent(), state, np.array([0.5, 0.99], np.float32), 1200)
    assert state.solved.tolist() == [False, True]
    assert state.reached["steps"].tolist() == [0, 400] and state.reached["score"].tolist() == [0, np.float32(0.95)]
    new, metrics = updating()(jax.tree.map(np.asarray, state), *draws())
    assert metrics["stages/solved"] == 1
    for path, (old, leaf) in by_path(state.params["heads"], new.params["heads"]).items():
        np.testing.assert_array_equal(old[1], leaf[1], err_msg=path)
    old, leaf = (x.params["heads"]["reward"]["Dense_1"]["bias"][0] for x in (state, new))
    assert np.any(old != leaf)


def test_the_target_moves_by_its_rate_towards_the_parameters_that_the_step_has_made():
    target = parameters(lambda: algorithm.init(agent(), 0).params, seed=1)
    new, _ = updating()(started()._replace(target=target), *draws())
    expected = jax.tree.map(lambda old, p: 0.95 * old + 0.05 * p, target, new.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), new.target, expected)


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count():
    batch, policy = draws()
    broken = batch._replace(reward=np.full_like(batch.reward, np.nan))
    state, _ = updating()(started(), broken, policy)
    chex.assert_trees_all_equal(state.params, started().params)
    assert state.skipped.tolist() == [1, 1] and state.update == 1


def test_acting_follows_the_mask_stores_what_it_found_and_keeps_the_episode_s_context():
    rng, context = np.random.default_rng(7), no_context()
    for step in range(3):
        frames = rng.integers(0, 256, size=(TASKS, ENVS, 8, 8, 3)).astype(np.uint8)
        is_first = np.array([[step == 0, step == 0], [step == 0, True]])
        action, stored, after = acting(True)(started(), context, frames, is_first, step)
        assert not (action[1] == 1).any()
        np.testing.assert_allclose(stored["policy"].sum(-1), 1, rtol=1e-5)
        assert not stored["policy"][1, :, 1].any()
        assert after.length.tolist() == [[min(step + 1, 2)] * 2, [min(step + 1, 2), 1]]
        np.testing.assert_array_equal(after.action[..., -1], action)
        np.testing.assert_array_equal(after.frame[:, :, 0], context.frame[:, :, 1])
        np.testing.assert_array_equal(after.frame[:, :, 1], frames)
        context = after


def test_what_was_seen_before_an_update_is_read_by_the_parameters_behind_it():
    rng = np.random.default_rng(9)
    frames = rng.integers(0, 256, size=(3, TASKS, ENVS, 8, 8, 3)).astype(np.uint8)
    later, begins = (
        started()._replace(params=parameters(lambda: algorithm.init(agent(), 0).params, seed=1)),
        [True, False],
    )
    contexts = []
    for state in (started(), later):
        context = no_context()
        for step, begin in enumerate(begins):
            *_, context = acting(True)(state, context, frames[step], np.full((TASKS, ENVS), begin), step)
        contexts.append(context)
    earlier, own = contexts
    inputs = frames[2], np.zeros((TASKS, ENVS), bool), 2
    chex.assert_trees_all_equal(
        acting(True)(later, earlier, *inputs), acting(True)(later, own._replace(action=earlier.action), *inputs)
    )


def no_context():
    shapes = jax.eval_shape(lambda: algorithm.init_acting(agent(), TASKS, ENVS))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.slow
def test_without_exploring_nothing_is_drawn():
    frames = np.random.default_rng(8).integers(0, 256, size=(TASKS, ENVS, 8, 8, 3)).astype(np.uint8)
    inputs = started(), no_context(), frames, np.ones((TASKS, ENVS), bool)
    chex.assert_trees_all_equal(acting(False)(*inputs, 0), acting(False)(*inputs, 100))
    one, two = acting(True)(*inputs, 0), acting(True)(*inputs, 100)
    assert np.any(one[1]["policy"] != two[1]["policy"])


@pytest.mark.slow
def test_scored_by_samples_actions_are_drawn_from_the_search_without_noise_at_its_root():
    frames = np.random.default_rng(8).integers(0, 256, size=(TASKS, ENVS, 8, 8, 3)).astype(np.uint8)
    inputs = started(), no_context(), frames, np.ones((TASKS, ENVS), bool)
    best, drawn = acting(False)(*inputs, 0), [acting(False, True)(*inputs, step) for step in range(12)]
    for action, stored, _ in drawn:
        np.testing.assert_allclose(stored["policy"], best[1]["policy"], atol=1e-6)
        assert (np.take_along_axis(stored["policy"], action[..., None], -1) > 0).all()
    assert len({action.tobytes() for action, _, _ in drawn}) > 1
    late = started()._replace(update=np.int32(500)), *inputs[1:]
    for step in range(12):  # cold at last: only the most visited are drawn
        action, stored, _ = acting(False, True)(*late, step)
        most = stored["policy"].max(-1)
        np.testing.assert_array_equal(np.take_along_axis(stored["policy"], action[..., None], -1)[..., 0], most)


@pytest.mark.slow
def test_the_search_is_told_all_that_the_model_says():
    """Rewards, whether the task goes on, policies and values, after the episode's first steps: against the same search
    put together here, and against searches that lack one of them."""

    @quick
    def by_hand(params, context, frames, heard):
        model, many = agent().world, lambda x: x.reshape(-1, *x.shape[2:])
        heads, mask = world_model.task_heads(params, jnp.arange(TASKS)), jnp.repeat(MASK, ENVS, axis=0)
        before, latent = (many(world_model.encode(model, params, x)) for x in (context.frame, frames))
        context = Context(before, many(context.action), many(context.length))
        root, node = world_model.start(model, params, heads, context, latent, mask)

        def follow(action, node):
            reward, on, said, node = world_model.follow(model, params, heads, node, action, mask)
            value = targets.scalar(said.value)
            return heard[0] * reward, 1 - heard[1] * (1 - on), heard[2] * said.policy, heard[3] * value, node

        plain = dataclasses.replace(agent().search, fraction=0.0)
        return search.search(plain, follow, root.policy, targets.scalar(root.value), node, mask, None).policy

    frames = np.random.default_rng(8).integers(0, 256, size=(9, TASKS, ENVS, 8, 8, 3)).astype(np.uint8)
    params = jax.tree.map(lambda x: 3 * x, started().params["heads"])
    state = started()._replace(params=started().params | {"heads": params})
    _, _, context = acting(False)(state, no_context(), frames[0], np.ones((TASKS, ENVS), bool), 0)
    unlike = np.zeros(5, bool)
    for seen in frames[1:]:
        _, stored, _ = acting(False)(state, context, seen, np.zeros((TASKS, ENVS), bool), 1)
        policy = by_hand(state.params, context, seen, np.ones(4))
        np.testing.assert_allclose(stored["policy"].reshape(policy.shape), policy, atol=1e-5)
        others = [by_hand(state.params, context, seen, 1.0 - np.eye(4)[i]) for i in range(4)]
        others.append(by_hand(state.params, no_context(), seen, np.ones(4)))
        unlike |= [np.any(other != policy) for other in others]
    assert all(unlike), "rewards, ends, policies, values and memory all count"


def test_cosines_of_gradients_by_hand():
    found = inspection.cosines(np.array([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]], np.float32))
    half = 0.5**0.5
    np.testing.assert_allclose(found["gradients/cosine"], [(half - 1) / 2, 0, (-half - 1) / 2], atol=1e-6)
    assert found["gradients/opposed"] == pytest.approx(2 / 3)


@pytest.mark.long
def test_gradients_of_two_tasks_are_compared_alike_on_one_device_and_two_and_equal_ones_agree():
    batch, policy = draws()
    batch = batch._replace(extras={"policy": policy})
    same_twice = jax.tree.map(lambda x: np.stack([x[0], x[0]]), batch)
    heads = jax.tree.map(lambda x: np.stack([x[0], x[0]]), started().params["heads"])
    equal = started()._replace(params=started().params | {"heads": heads}, solved=np.array([True, False]))
    look = lambda *given: inspection.conflict(agent(), *given)[1]
    run = lambda devices, *given: program(look, devices, out_axes=None)(*given[:-1], shard(given[-1], devices))
    one, two = (run(n, same(started(), n), dealt(batch, n), MASK) for n in (1, 2))
    chex.assert_trees_all_close(one, two, atol=1e-4)
    assert np.all(np.abs(one["gradients/cosine"]) < 0.999)
    found = run(1, same(equal, 1), dealt(same_twice, 1), MASK[[0, 0]])
    np.testing.assert_allclose(found["gradients/cosine"], 1, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "devices"), [(3, 4), pytest.param(3, 2, marks=pytest.mark.long)])
def test_several_devices_do_what_one_does(tasks: int, devices: int):
    """A copy of the first task fills up a place, alone on its device or beside another task: it counts nowhere."""
    one, metrics = updating(1, tasks=tasks)(started(tasks=tasks), *draws(tasks))
    several, others = updating(devices, tasks=tasks)(started(tasks=tasks), *draws(tasks))
    chex.assert_trees_all_close(metrics, others, atol=1e-4, rtol=1e-4)
    # A key's bias changes no output: its gradient is rounding, of which Adam's first step makes up to the rate.
    for path, (a, b) in by_path(one.params, several.params).items():
        if not path.endswith("['key']['bias']"):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_the_first_stage_learns_what_an_agent_without_stages_learns():
    plain = started(1)._replace(params={n: p for n, p in started().params.items() if n != "adapters"})
    plain = plain._replace(target=plain.params)
    alone, staged = plain, started()
    for _ in range(3):
        alone, _ = updating(1, 1)(alone, *draws())
        staged, _ = updating()(staged, *draws())
    parts = {name: part for name, part in staged.params.items() if name != "adapters"}
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    for name, part in parts.items():
        # Of a part, not of a leaf: where a gradient is nothing but rounding (a key's bias), Adam makes much of it.
        moved = np.linalg.norm(flat(alone.params[name]) - flat(plain.params[name]))
        assert np.linalg.norm(flat(alone.params[name]) - flat(part)) < 0.05 * moved, name
    chex.assert_trees_all_equal(staged.params["adapters"], started().params["adapters"])


@pytest.mark.long
def test_dropout_and_the_vision_transformer_in_an_update():
    small = dict(patch=4, vit_width=8, vit_layers=1, vit_heads=2, vit_head_width=4, vit_hidden=8)
    setup = agent(1, encoder="vit", dropout=0.1, feed_forward="dense", **small)
    state = jax.jit(lambda: algorithm.init(setup, 0))()
    heads = state.params["heads"]
    assert not any(np.any(head["Dense_1"]["kernel"]) for head in heads.values()), "heads say nothing at first"
    run = lambda devices: program(functools.partial(algorithm.update, setup), devices, out_axes=(0, None))(
        same(state, devices), *dealt(draws(), devices), shard(MASK, devices)
    )
    (one, metrics), (two, _) = run(1), run(2)
    assert "router/load" not in metrics
    still = dataclasses.replace(setup, world=dataclasses.replace(setup.world, dropout=0.0))
    alike = program(functools.partial(algorithm.update, still), 1, out_axes=(0, None))
    _, dry = alike(same(state, 1), *dealt(draws(), 1), shard(MASK, 1))
    assert abs(metrics["world/gradient_norm"] / dry["world/gradient_norm"] - 1) > 1e-3
    chex.assert_trees_all_close(first(one).params, first(two).params, atol=1e-5)
    assert np.any(ravel(first(one).params) != ravel(jax.tree.map(jnp.asarray, state.params)))
