"""The algorithm on a tiny agent of five tasks: what may influence what, what must agree, and what stays put."""

from __future__ import annotations

import dataclasses
import functools
import runpy
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import hastily, quick
from processes import ROOT
from tiny_agent import (
    AGENT,
    BATCH,
    CONTEXTS,
    NOBODYS_CLUSTER,
    NOBODYS_EXPERT,
    SHARD,
    TABLE,
    TASK_LIST,
    TASKS,
    on_one_device,
    random_batch,
    rows_of,
    started,
    tiny_agent,
    tiny_settings,
)

from mow_jax import build
from mow_jax.learner import Learner
from mow_jax.ops import distributions, routing
from mow_jax.ops.gradients import layer_vectors
from mow_jax.ops.keys import task_keys
from mow_jax.systems.mow import actor_critic, imagination, inspection, router, world_model
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow.agent import Agent
from mow_jax.systems.mow.blocks import Transformer, causal_mask
from mow_jax.systems.mow.types import Table, TrainState
from mow_jax.systems.mow.world_model import Rows
from mow_jax.types import Batch, Shard, Task


@pytest.fixture(scope="module")
def state() -> TrainState:
    return started()


@pytest.fixture(scope="module")
def training_losses():
    """(state, batch, weights [K]) to the gradient of the weighted sum of L_k, and (L [K], terms, new statistics)."""

    def loss(params, state, batch, weight):
        rows = algorithm.gather(AGENT, state._replace(params=params), SHARD)
        keys = task_keys(state.update, "world", SHARD)
        terms, (statistics, _) = algorithm.task_losses(AGENT, rows, batch, SHARD, state, keys, train=True)
        total = sum(scale * terms[name] for name, scale in AGENT.scales)
        merged = routing.merge_rows(state.statistics, statistics, state.table.cluster, SHARD.valid)
        return (weight * total).sum(), (total, terms, merged)

    def run(state, batch, weight):
        return jax.grad(loss, has_aux=True)(state.params, state, batch, weight)

    return on_one_device(run)


@pytest.fixture(scope="module")
def rows(state) -> Rows:
    """Task 3's rows, as arrays of jax: numpy's, closed over under vmap, are no constants to a custom derivative."""
    return jax.tree.map(jnp.asarray, rows_of(state, 3))


def only(task: int) -> np.ndarray:
    return np.eye(TASKS, dtype=np.float32)[task]


def size(tree: Any) -> np.ndarray:
    """[N] the largest entry of each row of stacked parameters."""
    leaves = [np.abs(leaf).reshape(len(leaf), -1).max(1) for leaf in jax.tree.leaves(tree)]
    return np.max(leaves, axis=0)


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, NaN equal to NaN."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind == "f") for x, y in pairs)


# --- What influences what ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def influence(rows):
    """For a mask [1, T, T]: [T, T] how much h_t reacts to the latent z_s."""
    z = jax.nn.one_hot(jnp.arange(18).reshape(1, 6, 3) % 4, 4).reshape(1, 6, 12)
    weight = jnp.cos(jnp.arange(16.0))  # the plain sum of a LayerNorm's output never changes

    def jacobian(mask):
        def hidden(z):
            return world_model.transition(AGENT.world, rows, z, BATCH.action[3, :1], mask)[0][0] @ weight

        return jnp.abs(jax.jacobian(hidden)(z)[:, 0]).sum(-1)

    return quick(jacobian)


def test_the_future_has_no_gradient_and_the_past_has(influence):
    reaction = influence(causal_mask(jnp.zeros((1, 6), int)))
    assert (np.triu(reaction, 1) == 0).all()
    assert (reaction[np.tril_indices(6)] > 0).all()


def test_earlier_episodes_have_no_gradient_but_under_storm(influence):
    is_first = jnp.array([[False, False, False, True, False, False]])
    here, there = np.arange(6)[:, None] >= 3, np.arange(6)[None, :] < 3
    reaction = influence(causal_mask(world_model.segments(AGENT.world, is_first)))
    assert (reaction[here & there] == 0).all()
    assert (reaction[3:, 3:][np.tril_indices(3)] > 0).all()
    storm = dataclasses.replace(AGENT.world, mask_boundaries=False)
    assert (influence(causal_mask(world_model.segments(storm, is_first)))[here & there] > 0).all()


@pytest.mark.parametrize("task", range(TASKS))
def test_a_task_trains_its_own_rows_and_no_others(state, training_losses, task: int):
    gradient, _ = training_losses(state, BATCH, only(task))
    assert set(np.flatnonzero(size(gradient["expert"]))) == set(TABLE.experts[task])
    assert set(np.flatnonzero(size(gradient["cluster"]))) == {TABLE.cluster[task]}
    # Embeddings reach the decoder, whose batch norm ties the tasks of a cluster.
    tied = np.flatnonzero(TABLE.cluster == TABLE.cluster[task])
    assert set(np.flatnonzero(size(gradient["shared"]["embedding"]))) == set(tied)


def test_a_tasks_experience_changes_the_losses_of_its_cluster_alone(state, training_losses):
    other = random_batch(9)
    changed = Batch(
        *(np.where(only(2).reshape(-1, *[1] * (x.ndim - 1)), y, x) for x, y in zip(BATCH[:5], other[:5], strict=True))
    )
    _, (_, before, _) = training_losses(state, BATCH, only(0))
    _, (_, after, _) = training_losses(state, changed, only(0))
    # Batch norm ties the tasks of a cluster together, experts tie nobody.
    same = np.array([all(before[name][k] == after[name][k] for name in before) for k in range(TASKS)])
    np.testing.assert_array_equal(same, TABLE.cluster != TABLE.cluster[2])


def test_batch_norm_takes_the_statistics_of_all_frames_of_a_cluster(state, rows, training_losses):
    _, (_, _, statistics) = training_losses(state, BATCH, only(0))
    together = np.concatenate([BATCH.observation[2], BATCH.observation[4]])
    row = rows._replace(
        cluster=jax.tree.map(lambda x: x[1], state.params["cluster"]),
        statistics=jax.tree.map(lambda x: x[1], state.statistics),
    )
    encode = functools.partial(world_model.encode, AGENT.world, train=True)
    _, expected = quick(encode)(row, together, jax.random.key(0))
    made = jax.tree.map(lambda x: x[1], statistics["encoder"])
    for ours, theirs in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    old, new = ([x[NOBODYS_CLUSTER] for x in jax.tree.leaves(tree)] for tree in (state.statistics, statistics))
    assert equal(old, new)


def test_truncation_is_not_termination(state, training_losses):
    """From logit 0, the gradient of the output's bias is 1/2 minus the share of terminations."""
    head = state.params["cluster"]["continuation"] | {
        "Linear_2": {"kernel": np.zeros((4, 16, 1), np.float32), "bias": np.zeros((4, 1), np.float32)}
    }
    params = state.params | {"cluster": state.params["cluster"] | {"continuation": head}}
    state = state._replace(params=params)

    def pull(batch):
        return training_losses(state, batch, only(3))[0]["cluster"]["continuation"]["Linear_2"]["bias"][2, 0]

    first, ended = BATCH.is_first.copy(), BATCH.termination.copy()
    first[3, :, 4] = True  # an episode was cut after step 3
    ended[3, 0, 3] = True
    assert pull(BATCH._replace(is_first=first)) == pytest.approx(0.5, rel=1e-6)
    assert pull(BATCH._replace(is_first=first, termination=ended)) == pytest.approx(0.5 - 1 / 12, rel=1e-6)


@pytest.mark.slow
def test_gradients_for_clustering_do_not_depend_on_the_router_s_last_draw(state):
    rules = dataclasses.replace(AGENT.world.routing, noise=1.0, margin=0.0, freeze=False, rest=False)
    noisy = dataclasses.replace(AGENT, world=dataclasses.replace(AGENT.world, routing=rules))
    scored = inspection.without_noise(noisy, state)
    assert (scored.table.experts != state.table.experts).any()
    run = on_one_device(
        lambda state: inspection.task_gradients(noisy, state, BATCH, 3, SHARD, vector="layer_mean", size=0)
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), run(state), run(scored)))


@pytest.mark.slow
def test_gradients_for_clustering_are_those_of_each_task_alone(state):
    run = functools.partial(inspection.task_gradients, AGENT, vector="layer_mean", size=0)
    made = on_one_device(lambda state, batch: run(state, batch, 3, SHARD))(state, BATCH)

    def alone(trained, rows, batch, task, key):
        rows = rows._replace(cluster=trained[0], experts=trained[1])
        terms, _ = world_model.losses(AGENT.world, rows, batch, task, key, train=False, pool=lambda x: x)
        return sum(scale * terms[name] for name, scale in AGENT.scales)

    gradient = quick(jax.grad(alone))
    keys = quick(lambda: task_keys(3, "gradients", SHARD))()
    for task in range(TASKS):
        own = rows_of(state, task)
        batch = jax.tree.map(lambda x, task=task: x[task], BATCH)
        cluster, experts = gradient((own.cluster, own.experts), own, batch, task, keys[task])
        parts = {
            "cluster": jax.tree.map(lambda x: x[None], cluster),
            "experts": jax.tree.map(lambda x: x[None].mean(1), experts),
        }
        for part, tree in parts.items():
            expected = layer_vectors(tree, "layer_mean", 0, 0)
            assert expected.keys() == made[part].keys()
            for layer in expected:
                np.testing.assert_allclose(made[part][layer][task], expected[layer][0], rtol=1e-3, atol=1e-5)


# --- What agrees with what --------------------------------------------------------------------------------------------


def test_a_token_at_a_time_through_the_cache_is_the_parallel_pass(rows):
    model, time = AGENT.world, 6
    z, action = jax.nn.one_hot(np.arange(36).reshape(2, 6, 3) % 4, 4).reshape(2, 6, 12), BATCH.action[3]

    def both():
        parallel, _ = world_model.transition(model, rows, z, action, causal_mask(jnp.zeros((2, time), int)))

        def step(cache, i):
            visible = jnp.broadcast_to(jnp.arange(time) <= i, (2, 1, time))
            token = jax.lax.dynamic_slice_in_dim(z, i, 1, 1), jax.lax.dynamic_slice_in_dim(action, i, 1, 1)
            hidden, cache = world_model.transition(model, rows, *token, visible, cache, i)
            return cache, hidden[:, 0]

        _, serial = jax.lax.scan(step, model.dynamics.empty_cache(2, time), jnp.arange(time))
        return parallel, serial.swapaxes(0, 1)

    parallel, serial = quick(both)()
    np.testing.assert_allclose(serial, parallel, atol=1e-5)


@pytest.fixture(scope="module")
def imagine(state, rows):
    run = functools.partial(imagination.imagine, AGENT.imagination, AGENT.world, AGENT.behaviour, state.actor, rows)
    return quick(lambda contexts, seed: run(contexts, SHARD.mask[3], jax.random.key(seed)))


def test_a_rollout_from_a_first_frame_knows_nothing_of_the_frames_before_it(imagine):
    contexts, other = (jax.tree.map(lambda x: x[3], random_batch(seed, 3, 3)) for seed in (2, 3))
    frames = np.concatenate([other.observation[:, :-1], contexts.observation[:, -1:]], axis=1)
    history = contexts._replace(observation=frames, action=other.action)
    first = contexts.is_first | (np.arange(3) == 2)
    fresh = imagine(contexts._replace(is_first=first), 0)
    assert (fresh.hidden[:, 0] == 0).all() and (fresh.hidden[:, 1] != 0).any()
    assert equal(fresh, imagine(history._replace(is_first=first), 0))
    assert not equal(imagine(contexts, 0).hidden, imagine(history, 0).hidden)


@pytest.mark.slow
def test_a_rollout_in_two_loops_is_the_same(imagine, state, rows, monkeypatch):
    contexts = jax.tree.map(lambda x: x[3], CONTEXTS)
    whole = imagine(contexts, 5)
    horizon = AGENT.imagination.horizon
    assert imagination._parts(horizon) == [(0, horizon)]
    monkeypatch.setattr(imagination, "_parts", lambda _: [(0, 1), (1, horizon)])
    run = functools.partial(imagination.imagine, AGENT.imagination, AGENT.world, AGENT.behaviour, state.actor, rows)
    apart = quick(lambda contexts: run(contexts, SHARD.mask[3], jax.random.key(5)))(contexts)
    assert (apart.action == whole.action).all()
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), apart, whole)


def test_imagined_actions_are_the_tasks_own(imagine):
    contexts = jax.tree.map(lambda x: x[3], CONTEXTS)
    drawn = np.concatenate([imagine(contexts, seed).action for seed in range(20)])
    assert set(np.unique(drawn)) == set(np.flatnonzero(SHARD.mask[3])) == {0, 1, 2}


def test_acting_and_imagination_see_the_same_state(state, rows):
    """At an episode's third frame: the hidden state after the two steps that acting has kept."""
    setup, model, mask = AGENT.imagination, AGENT.world, SHARD.mask[3]
    run = functools.partial(imagination.act, setup, model, AGENT.behaviour, state.actor, rows)
    act = quick(lambda acting, frames, first, key: run(acting, frames, first, mask, key))
    frames = CONTEXTS.observation[3]
    acting = jax.tree.map(lambda x: x[0], imagination.init_acting(setup, model, 1, 3))
    latents, actions = [], []
    for step in range(3):
        first = np.full(3, step == 0)
        before = acting
        action, acting = act(acting, frames[:, step], first, jax.random.key(step))
        latents.append(acting.latent[:, step])
        actions.append(action)
    np.testing.assert_array_equal(acting.action[:, :3], np.stack(actions, 1))
    z = jax.nn.one_hot(np.stack(latents, 1), model.classes).reshape(3, 3, model.latent)
    contexts = jax.tree.map(lambda x: x[3], CONTEXTS)._replace(action=np.stack(actions, 1))
    contexts = contexts._replace(is_first=contexts.is_first | (np.arange(3) == 0))

    def hidden_states():
        start = imagination._start(setup, model, rows, z, contexts, jax.random.key(0))
        return imagination._context_hidden(model, rows, before), start

    acted, (first_z, imagined, _, _) = quick(hidden_states)()
    np.testing.assert_allclose(acted, imagined, atol=1e-5)
    np.testing.assert_array_equal(first_z, z[:, -1])
    assert (acted != 0).all()

    # A full context drops its oldest step; a new episode drops all.
    for step in range(3, 6):
        oldest = acting.latent[:, 0] if step == 3 else acting.latent[:, 1]
        action, acting = act(acting, frames[:, step % 3], np.array([False, False, step == 5]), jax.random.key(step))
        if step < 5:
            np.testing.assert_array_equal(acting.latent[:, 0], oldest)
            np.testing.assert_array_equal(acting.action[:, 3], action)
    np.testing.assert_array_equal(acting.length, [4, 4, 1])


@pytest.mark.parametrize("begins", [1, 2])
def test_acting_and_imagination_agree_wherever_an_episode_begins_in_a_context(state, rows, begins: int):
    """A position counts the tokens that an episode has shown, not those of the window."""
    setup, model = dataclasses.replace(AGENT.imagination, context=4), AGENT.world
    latent, z = np.arange(36).reshape(3, 4, 3) % 4, jax.nn.one_hot(np.arange(36).reshape(3, 4, 3) % 4, 4)
    contexts = jax.tree.map(lambda x: x[3], random_batch(1, 3, 4))
    contexts = contexts._replace(is_first=contexts.is_first | (np.arange(4) == begins))
    acting = jax.tree.map(lambda x: np.array(x[0]), imagination.init_acting(setup, model, 1, 3))
    steps = 3 - begins  # of the episode before the frame that is acted on
    acting.latent[:, :steps], acting.action[:, :steps] = latent[:, begins:3], contexts.action[:, begins:3]
    acting = acting._replace(length=np.full(3, steps))

    def both():
        start = imagination._start(setup, model, rows, z.reshape(3, 4, -1), contexts, jax.random.key(0))
        whole, _ = world_model.transition(
            model,
            rows,
            z.reshape(3, 4, -1),
            contexts.action,
            causal_mask(world_model.segments(model, contexts.is_first)),
        )
        return start[1], imagination._context_hidden(model, rows, acting), whole[:, 2]

    imagined, acted, trained = quick(both)()
    np.testing.assert_allclose(acted, imagined, atol=1e-5)
    np.testing.assert_allclose(acted, trained, atol=1e-5)


def test_what_is_imagined_behind_the_longest_episode_has_positions_that_windows_train():
    """Rows of the table that no window reads keep their random start: here a large one."""
    settings = runpy.run_path(str(ROOT / "experiments" / "toy_slide.py"))["get_config"]()
    tasks = build.tasks(settings)
    made = mow.agent(settings, tasks, build.plan(settings)).world
    assert made.positions == tasks[0].horizon == 10 < made.max_length == 16
    assert AGENT.world.positions == AGENT.world.max_length == 6  # a toy of 20 steps is among its tasks
    model = Transformer(layers=1, heads=2, max_length=6, positions=4)
    x, mask = np.ones((1, 6, 8), np.float32), causal_mask(np.zeros((1, 6)))
    params = model.init(jax.random.key(0), x, mask)
    last = params["params"]["positions"][3]
    put = lambda rows: {"params": params["params"] | {"positions": params["params"]["positions"].at[4:].set(rows)}}
    hidden, _ = quick(model.apply)(put(100.0), x, mask)
    repeated, _ = quick(dataclasses.replace(model, positions=6).apply)(put(last), x, mask)
    np.testing.assert_allclose(hidden, repeated, atol=1e-6)


@pytest.mark.slow
def test_without_compilation_the_losses_are_the_same(rows):
    batch = jax.tree.map(lambda x: x[3, :1, :3], BATCH)

    def run(rows):
        return world_model.losses(AGENT.world, rows, batch, 3, jax.random.key(1), True, lambda x: x)[0]

    compiled = quick(run)(rows)
    with jax.disable_jit():
        plain = run(rows)
    for name in plain:
        np.testing.assert_allclose(plain[name], compiled[name], rtol=1e-5)


def routed(**changes: Any) -> Agent:
    """The agent with other rules for its experts."""
    rules = dataclasses.replace(AGENT.world.routing, **changes)
    return dataclasses.replace(AGENT, world=dataclasses.replace(AGENT.world, routing=rules))


def test_the_policy_is_scored_without_the_noise_of_the_selection(state, monkeypatch):
    monkeypatch.setattr(algorithm, "act", lambda agent, state, *rest: (np.asarray(state.table.experts), None))
    used = lambda agent, explore: mow.act(agent, False, state, None, None, None, 0, SHARD, explore).action
    noisy = routed(noise=1.0, margin=0.0, rest=False, freeze=False)
    scores = np.asarray(router.scores(noisy.world.routing, state.params["shared"], 0))
    top = np.argsort(-scores, axis=1)[:, :2]
    assert (np.sort(top) != np.sort(TABLE.experts)).any()
    np.testing.assert_array_equal(np.sort(used(noisy, explore=False)), np.sort(top))
    np.testing.assert_array_equal(used(noisy, explore=True), TABLE.experts)
    np.testing.assert_array_equal(used(AGENT, explore=False), TABLE.experts)
    monkeypatch.setattr(inspection, "predictions", lambda agent, state, *rest: state.table.experts)
    told = mow.record(tiny_settings(), TASK_LIST, noisy).predictions
    assert told is not None
    np.testing.assert_array_equal(np.sort(told(state, None, SHARD)), np.sort(top))
    dreamt = mow.record(tiny_settings(), TASK_LIST, noisy).playable
    assert dreamt is not None
    np.testing.assert_array_equal(np.sort(dreamt.scored(state).table.experts), np.sort(top))
    # An exported agent must know whether that selection had been frozen; files of other agents stay as they are.
    exported = lambda agent: mow.record(tiny_settings(), TASK_LIST, agent).exported
    assert exported(routed(noise=1.0)) == (*exported(AGENT), "update")
    assert exported(noisy) == exported(AGENT) == mow.EXPORTED


@pytest.mark.slow
def test_gates_send_no_gradient_to_the_router_once_it_is_frozen(state):
    """Embeddings then move as they do without gates, in the same program as before the freeze."""

    def program(gate: str):
        agent = routed(gate=gate, anneal_updates=9.0)

        def loss(shared, update):
            params, now = state.params | {"shared": shared}, state._replace(update=update)
            return algorithm.world_loss(agent, params, state.harmony, now, BATCH, SHARD)[0]

        return on_one_device(lambda update: jax.grad(loss)(state.params["shared"], update))

    gated, plain, norm = program("straight_through"), program("none"), np.linalg.norm
    for update, alike in ((8, False), (9, True), (10, True)):
        one, other = gated(np.int32(update)), plain(np.int32(update))
        for part in ("embedding", "router"):
            mine, its = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x[part])]) for x in (one, other))
            apart, size = norm(mine - its), norm(its)  # two programs round differently; a frozen router has gradient 0
            assert apart <= 1e-5 * size if alike else apart > 1e-3 * size, (update, part, apart, size)
    assert gated._cache_size() == 1


# --- Whole updates ----------------------------------------------------------------------------------------------------


def quick_learner(devices: list, agent: Agent = AGENT, tasks: list[Task] = TASK_LIST) -> Learner:
    """A learner whose programs are compiled without optimisation."""
    with hastily():
        return Learner(mow.record(tiny_settings(), tasks, agent), tasks, devices, seed=0)


@pytest.fixture(scope="module")
def learner() -> Learner:
    """On four devices, for five tasks: three of eight slots are padding."""
    return quick_learner(jax.devices()[:4])


def learn(learner: Learner, batch: Batch, contexts: Batch) -> dict:
    """An update on host windows [K, ...]."""
    return learner.update("training", learner.deal(batch), learner.deal(contexts))


@pytest.fixture(scope="module")
def learned(learner, state) -> tuple[TrainState, list[dict]]:
    """The state after two updates from the first one, and their metrics."""
    learner.load(state)
    metrics = [
        jax.tree.map(np.asarray, learn(learner, random_batch(seed), random_batch(seed + 50, 3, 3))) for seed in (0, 1)
    ]
    return learner.snapshot(), metrics


def test_rows_that_nobody_uses_stay_as_they_were_and_used_ones_learn(state, learned):
    after = learned[0]
    assert equal(after.table, TABLE)
    for tree, old, nobodys in [
        (after.params["expert"], state.params["expert"], NOBODYS_EXPERT),
        (after.params["cluster"], state.params["cluster"], NOBODYS_CLUSTER),
        (after.critic, state.critic, NOBODYS_CLUSTER),
        (after.statistics, state.statistics, NOBODYS_CLUSTER),
    ]:
        moved = size(jax.tree.map(np.subtract, tree, old))
        assert set(np.flatnonzero(moved == 0)) == {nobodys}
    slow = size(jax.tree.map(np.subtract, after.slow_critic, state.slow_critic))
    assert slow[NOBODYS_CLUSTER] < 3e-7 < slow[TABLE.cluster].min()  # 0.98 x + 0.02 x is x but for rounding


def test_harmonious_weights_start_at_their_optimum(learned):
    """There the derivative of L / sigma + ln(1 + sigma) by ln(sigma) is zero."""
    metrics = learned[1][0]
    loss, sigma = metrics["world/total"], metrics["harmony"]
    assert (loss > 10).all()
    assert np.abs(-loss / sigma + sigma / (1 + sigma)).max() <= 1e-5


def test_after_a_first_batch_that_was_skipped_they_start_there_too(learner, state):
    learner.load(state)
    learn(learner, BATCH._replace(reward=np.full_like(BATCH.reward, np.nan)), CONTEXTS)
    metrics = jax.tree.map(np.asarray, learn(learner, BATCH, CONTEXTS))
    loss, sigma = metrics["world/total"], metrics["harmony"]
    assert metrics["train/skipped"] == 1
    assert np.abs(-loss / sigma + sigma / (1 + sigma)).max() <= 1e-5


def test_each_joint_step_draws_its_own_actions(learner, state):
    learner.load(state)
    frames = np.repeat(BATCH.observation[:, :, 0], 16, axis=1)
    first = np.ones(frames.shape[:2], bool)
    act = lambda step: learner.act(learner.init_acting(frames.shape[1]), frames, first, step, True)[0]
    np.testing.assert_array_equal(act(7), act(7))
    assert np.any(act(7) != act(8))


def test_the_slow_critic_moves_by_two_hundredths(learner, state):
    learner.load(state._replace(slow_critic=jax.tree.map(np.zeros_like, state.slow_critic)))
    learn(learner, BATCH, CONTEXTS)
    after = learner.snapshot()
    for slow, critic in zip(jax.tree.leaves(after.slow_critic), jax.tree.leaves(after.critic), strict=True):
        np.testing.assert_allclose(slow, 0.02 * critic, rtol=1e-4, atol=1e-9)


def test_a_batch_that_is_not_finite_is_skipped_and_counted(learner, learned):
    before = learned[0]
    learner.load(before)
    reward = BATCH.reward.copy()
    reward[4, 1, 2] = np.nan
    for count in (1, 2):
        learn(learner, BATCH._replace(reward=reward), CONTEXTS)
        after = learner.snapshot()
        assert equal(after._replace(update=0, skipped=0), before._replace(update=0, skipped=0))
        assert (int(after.update), after.skipped.tolist()) == (2 + count, [count, count])
    learn(learner, BATCH, CONTEXTS)
    after = learner.snapshot()
    assert (int(after.update), after.skipped.tolist()) == (5, [2, 0])
    assert not equal(after.actor, before.actor)


def test_a_new_table_needs_no_compilation(learner, learned):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        experts = np.stack([rng.permutation(5)[:2] for _ in range(TASKS)]).astype(np.int32)
        table = Table(rng.integers(0, 4, TASKS).astype(np.int32), experts)
        learner.load(learned[0]._replace(table=table))
        learn(learner, BATCH, CONTEXTS)
        np.testing.assert_array_equal(learner.single(learner.state.table).cluster, table.cluster)
    assert learner._updates["training"]._cache_size() == 1


@pytest.mark.parametrize("mode", ["learned", "table"])
def test_the_warm_ups_end_copies_the_rows_it_has_trained(learned, mode: str):
    before = learned[0]
    rules = dataclasses.replace(AGENT.world.routing, mode=mode)
    agent = dataclasses.replace(AGENT, world=dataclasses.replace(AGENT.world, routing=rules))
    table = Table(TABLE.cluster[::-1].copy(), TABLE.experts[::-1].copy())
    after = quick(functools.partial(algorithm.end_warmup, agent, copy_rows=True))(before, table)

    def copied(tree, old):
        return equal(tree, jax.tree.map(lambda x: np.broadcast_to(x[:1], x.shape), old))

    assert equal(after.table, table)
    assert copied(after.params["cluster"], before.params["cluster"])
    assert copied(after.statistics, before.statistics)
    assert copied(after.params["expert"], before.params["expert"]) == (mode == "table")
    assert (mode == "table") != equal(after.params["expert"], before.params["expert"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.world_optimizer))
    for name in ("harmony", "harmony_optimizer", "update", "actor", "critic"):  # these carry on, or are still fresh
        assert equal(getattr(after, name), getattr(before, name)), name
    kept = quick(functools.partial(algorithm.end_warmup, agent, copy_rows=False))(before, table)
    assert equal(kept.params, before.params)


# --- Continuous actions -----------------------------------------------------------------------------------------------


def test_a_task_acts_and_learns_in_its_own_dimensions_only():
    agent, _ = tiny_agent(("slide",))
    behaviour, mask = agent.behaviour, jnp.array([True, False])

    def run(output):
        draw = actor_critic.sample(behaviour, jax.random.key(1), distributions.gaussian(output), mask)

        def objective(output):
            pi = distributions.gaussian(output)
            return (actor_critic.log_prob(behaviour, pi, draw, mask) + actor_critic.entropy(behaviour, pi, mask)).sum()

        return draw, actor_critic.executed(behaviour, draw), jax.grad(objective)(output)

    drawn, executed, gradient = quick(run)(np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32))
    assert (drawn[:, 1] == 0).all()
    assert (np.abs(drawn[:, 0]) > 1).any() and (np.abs(executed) <= 1).all()
    gradient = gradient.reshape(500, 2, 2)  # [_, mean or deviation, dimension]
    assert (gradient[:, :, 1] == 0).all() and (gradient[:, :, 0] != 0).all()


def test_the_likeliest_action_is_one_that_the_task_has():
    choices, continuous = (SimpleNamespace(discrete=discrete) for discrete in (True, False))
    output, mask = jnp.array([[0.3, 2.0, 0.5], [1.0, 9.0, 0.5]]), jnp.array([True, False, True])
    pi = (distributions.mixed(jax.nn.log_softmax(distributions.masked(output, mask)), mask, 0.01),)
    assert actor_critic.likeliest(choices, pi, mask).tolist() == [2, 0]
    assert actor_critic.likeliest(continuous, (output, jnp.ones_like(output)), mask).tolist() == [
        [pytest.approx(0.3), 0, 0.5],
        [1, 0, 0.5],
    ]


@pytest.mark.parametrize("choice", ["sampled", "best"])
def test_only_scores_are_of_the_best_actions_and_only_if_asked_for(choice: str, monkeypatch):
    settings = tiny_settings()
    settings.evaluation.actions = choice
    made, asked = build.system(settings, build.tasks(settings)), []
    monkeypatch.setattr(algorithm, "act", lambda *arguments: (asked.append(arguments[-1]), None))
    monkeypatch.setattr(inspection, "without_noise", lambda agent, state: state)
    for explore in (True, False):
        made.act(*[None] * 6, explore=explore)
    assert asked == [False, choice == "best"]


@pytest.mark.slow
def test_an_update_with_continuous_actions_fits_together():
    agent, _ = tiny_agent(("slide",))

    def frames(*shape):
        return jax.ShapeDtypeStruct((1, *shape, 16, 16, 3), np.uint8)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct((1, *shape), dtype)

    def batch(*shape):
        flags = array(bool, *shape)
        return Batch(frames(*shape), array(np.float32, *shape, 2), array(np.float32, *shape), flags, flags)

    state, shard = (
        jax.eval_shape(functools.partial(algorithm.init, agent), 0),
        Shard(array(np.int32), array(np.float32), array(bool, 2), array(np.uint32)),
    )
    update = jax.vmap(functools.partial(algorithm.update, agent), axis_name="device")
    stacked = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (state, batch(2, 6), batch(3, 3), shard)
    )
    after, _ = jax.eval_shape(update, *stacked)

    def shapes(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert shapes(after) == shapes(stacked[0])
