"""What single settings and draws of MoW change, each alone, against numbers made here."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import quick
from tiny_agent import AGENT, BATCH, CONTEXTS, SHARD, TABLE, TASKS, on_one_device, rows_of, tiny_agent, tiny_settings

from mow_jax.ops import twohot
from mow_jax.ops.keys import named_key
from mow_jax.systems.mow import actor_critic, clustering, imagination, inspection, router, warmup, world_model
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow.blocks import Transformer, causal_mask
from mow_jax.systems.mow.dynamics import Dynamics, Expert, Shared
from mow_jax.systems.mow.router import Routing
from mow_jax.systems.mow.types import ActState, TrainState
from mow_jax.systems.mow.world_model import Posterior, Rows, WorldModel
from mow_jax.types import Batch

TASK, ENVS = 3, 64
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def init():
    """The first state with the table of the tiny agent, by seed, on the host."""
    made = quick(functools.partial(algorithm.init, AGENT))
    return lambda seed: jax.tree.map(np.asarray, made(seed))._replace(table=TABLE)


@pytest.fixture(scope="module")
def state(init) -> TrainState:
    return init(0)


@pytest.fixture(scope="module")
def rows(state) -> Rows:
    """One task's rows, with an encoder that tells frames well apart."""
    rows = jax.tree.map(jnp.asarray, rows_of(state, TASK))
    return rows._replace(
        cluster=rows.cluster | {"posterior": jax.tree.map(lambda x: 50 * x, rows.cluster["posterior"])}
    )


# --- Acting -----------------------------------------------------------------------------------------------------------


def nothing_seen(model: WorldModel) -> ActState:
    return jax.tree.map(lambda x: x[0], imagination.init_acting(AGENT.imagination, model, 1, ENVS))


@pytest.fixture(scope="module")
def act(state, rows):
    """(which frames, acting on what, the best or a draw) to the first actions [ENVS] of episodes, and their latents; of
    a policy that tells latents well apart."""
    actor = state.actor | {"Linear_2": jax.tree.map(lambda x: 10 * x, state.actor["Linear_2"])}
    first, mask = np.ones(ENVS, bool), SHARD.mask[TASK]

    @functools.cache
    def compiled(act_on: str, best: bool):
        setup, start = dataclasses.replace(AGENT.imagination, act_on=act_on), nothing_seen(AGENT.world)
        inputs = (AGENT.world, AGENT.behaviour, actor, rows, start)
        return quick(lambda frames: imagination.act(setup, *inputs, frames, first, mask, KEY, best))

    def run(seed: int, act_on: str = "posterior", best: bool = False):
        frames = np.random.default_rng(seed).integers(0, 256, (ENVS, 16, 16, 3), np.uint8)
        action, after = compiled(act_on, best)(frames)
        return np.asarray(action), np.asarray(after.latent[:, 0])

    return actor, run


def test_the_best_action_is_the_policy_s_likeliest(act, rows):
    """Of an episode's first frame, before which nothing was seen."""
    (actor, run), model = act, AGENT.world
    action, latent = run(0, best=True)
    z, hidden = jax.nn.one_hot(latent, model.classes).reshape(ENVS, -1), jnp.zeros((ENVS, model.width))
    seen = actor_critic.features(z, hidden, rows.embedding)
    likely = actor_critic.policy(AGENT.behaviour, actor, seen, SHARD.mask[TASK])[0].argmax(-1)
    np.testing.assert_array_equal(action, likely)
    assert np.ptp(action) and np.any(run(0)[0] != action)


def test_who_acts_on_the_prior_is_blind_to_the_frame(act):
    _, run = act
    (one, its), (other, others) = (run(seed, "prior") for seed in (0, 1))
    np.testing.assert_array_equal(one, other)
    assert np.any(its != others), "frames that look alike show nothing"
    assert np.any(run(0)[0] != run(1)[0])


def test_a_share_of_the_policy_is_uniform_over_what_a_task_can_do():
    logits = SimpleNamespace(apply=lambda params, features: features)
    model = SimpleNamespace(actor=logits, discrete=True, unimix=0.3)
    sure, mask = jnp.array([[0.0, 90.0, 0.0, 0.0]]), jnp.array([True, True, False, True])
    p = jnp.exp(actor_critic.policy(model, None, sure, mask)[0])
    np.testing.assert_allclose(p, [[0.1, 0.8, 0.0, 0.1]], rtol=1e-5)


@pytest.fixture
def echo(monkeypatch) -> None:
    """A world whose hidden states are the actions that it is given, and that tells nothing else."""
    even = lambda model, rows, hidden: jnp.zeros((*hidden.shape[:-1], model.categoricals, model.classes))
    none = lambda model, rows, hidden: jnp.zeros(hidden.shape[:-1])

    def encode(model, rows, frames, key, in_turn=False):
        return Posterior(None, jnp.zeros((*frames.shape[:2], model.latent))), None

    def transition(model, rows, z, action, mask, cache=None, place=0):
        return jnp.pad(action, ((0, 0), (0, 0), (0, model.width - action.shape[-1]))), cache

    replaced = dict(encode=encode, transition=transition, prior=even, predicted_reward=none, termination_logit=none)
    for name, function in replaced.items():
        monkeypatch.setattr(world_model, name, function)


def test_continuous_actions_are_clipped_before_anyone_is_given_them(echo):
    """The world that is dreamt of, environments, and what acting remembers."""
    agent, _ = tiny_agent(("slide",))
    model, behaviour, mask = agent.world, agent.behaviour, jnp.ones(2, bool)
    setup, rows = dataclasses.replace(agent.imagination, context=1), SimpleNamespace(embedding=jnp.zeros(8))
    frames, first = np.zeros((ENVS, 16, 16, 3), np.uint8), np.ones(ENVS, bool)
    contexts = Batch(frames[:, None], None, None, None, first[:, None])

    @quick
    def run():
        actor = actor_critic.init(behaviour, KEY)[0]
        dream = imagination.imagine(setup, model, behaviour, actor, rows, contexts, mask, KEY)
        start = nothing_seen(model)
        return dream, imagination.act(setup, model, behaviour, actor, rows, start, frames, first, mask, KEY)

    dream, (action, after) = run()
    assert np.abs(dream.action).max() > 1, "as drawn"
    np.testing.assert_allclose(dream.hidden[:, 1:, :2], np.clip(dream.action, -1, 1), atol=1e-6)
    assert np.abs(action).max() == 1
    np.testing.assert_allclose(after.action[:, 0], action, atol=1e-6)


# --- The world model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reward", "read"), [("symlog", twohot.decode), ("mean", twohot.mean)])
def test_rewards_are_read_as_the_setting_says(rows, reward: str, read):
    model = dataclasses.replace(AGENT.world, reward=reward)
    hidden = jax.random.normal(KEY, (8, model.width))
    logits = world_model.head(model, rows, "reward", hidden)
    np.testing.assert_allclose(world_model.predicted_reward(model, rows, hidden), read(logits), rtol=1e-5)
    assert np.all(np.abs(twohot.decode(logits) - twohot.mean(logits)) > 0.1)


def put(head: dict, bias: float) -> dict:
    """A head's parameters with another last bias."""
    last = head["Linear_2"]
    return head | {"Linear_2": last | {"bias": jnp.full_like(last["bias"], bias)}}


@pytest.mark.parametrize(("logit", "goes_on"), [(-9.0, True), (9.0, False)])
def test_a_dream_by_hand_goes_on_unless_its_end_is_likely(rows, logit: float, goes_on: bool):
    model = AGENT.world
    rows = rows._replace(cluster=rows.cluster | {"continuation": put(rows.cluster["continuation"], logit)})
    z, action = jax.nn.one_hot(jnp.zeros((ENVS, 3), int), 4).reshape(ENVS, -1), np.zeros(ENVS, np.int32)
    step = quick(functools.partial(imagination.dream_step, model, rows))
    continuation = step(nothing_seen(model), z, action, KEY)[-1]
    np.testing.assert_allclose(continuation, goes_on, atol=0.02)


def test_each_expert_drops_units_of_its_own():
    """Two experts of the same weights, and a mixture that is the difference of what they say."""
    width, (batch, time) = 8, (2, 5)
    expert = Expert(width, Transformer(layers=1, heads=2, max_length=time, positions=time, dropout=0.5))
    module, token = Dynamics(expert, Shared(width, None, 2)), jax.random.normal(KEY, (batch, time, 6))
    mask = causal_mask(jnp.zeros((batch, time), int))

    @quick
    def difference(key):
        one = expert.init(KEY, token, mask)["params"]
        twice = jax.tree.map(lambda x: jnp.stack([x, x]), one)
        shared = {"combine": {"kernel": jnp.concatenate([jnp.eye(width), -jnp.eye(width), jnp.zeros((1, width))])}}
        apply = functools.partial(module.apply, twice, shared, jnp.ones(2), token, jnp.zeros(1), mask)
        return apply(dropout_key=key)[0], apply()[0]

    dropped, whole = difference(jax.random.key(1))
    np.testing.assert_allclose(whole, 0, atol=1e-5)
    assert np.all(np.abs(dropped).max(-1) > 0.1)


# --- Draws ------------------------------------------------------------------------------------------------------------


def test_keys_differ_by_seed_count_and_name():
    streams = itertools.product((0, 1), (0, 1), ("act", "imagine"))
    keys = {jax.random.key_data(named_key(*stream)).tobytes() for stream in streams}
    assert len(keys) == 8


def test_another_seed_draws_all_parameters_anew(init, state):
    other = init(1)
    for part in ("params", "actor", "critic"):
        leaves = jax.tree_util.tree_leaves_with_path(getattr(state, part))
        for (path, leaf), new in zip(leaves, jax.tree.leaves(getattr(other, part)), strict=True):
            if np.ptp(leaf) > 0:  # else it is no draw
                assert np.mean(leaf == new) < 0.01, path


def test_noise_makes_the_router_draw_experts_by_their_scores():
    """One of four a task: a score times exp of Gumbel noise is the largest with the score's own probability."""
    rules = Routing(tasks=20_000, experts=4, active=1, noise=1.0, margin=0.0, gate="straight_through")
    scores = np.tile(np.float32([0.1, 0.2, 0.3, 0.4]), (rules.tasks, 1))
    held = np.zeros((rules.tasks, 1), np.int32)
    chosen = quick(lambda scores, held: router.select(rules, scores, held, 0, KEY))(scores, held)
    np.testing.assert_allclose(np.bincount(chosen[:, 0]) / rules.tasks, scores[0], atol=0.015)


# --- Optimisers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["world", "agent"])
def test_a_huge_gradient_is_clipped_before_adam_sees_it(part: str):
    optimizer, clip = getattr(AGENT, f"{part}_optimizer"), getattr(AGENT, f"{part}_clip")
    for size, seen in ((1e9, clip), (0.5 * clip, 0.5 * clip)):
        gradient = jnp.array([0.6, 0.0, -0.8]) * size
        _, after = optimizer.update(gradient, optimizer.init(gradient))
        np.testing.assert_allclose(optax.tree.get(after, "mu"), 0.1 * seen * gradient / size, rtol=1e-5)


def test_the_router_learns_at_its_own_rate(state, monkeypatch):
    """Of a loss that pulls alike at every parameter."""
    agent = dataclasses.replace(AGENT, world_lr=1e-3, router_lr=0.25e-3, world_clip=1e9)
    state = state._replace(world_optimizer=agent.world_optimizer.init(jax.flatten_util.ravel_pytree(state.params)[0]))

    def loss(agent, params, harmony, state, *rest):
        return sum(leaf.sum() for leaf in jax.tree.leaves(params)), (harmony, state.statistics, {})

    monkeypatch.setattr(algorithm, "world_loss", loss)
    zero = state._replace(params=jax.tree.map(np.zeros_like, state.params))
    after, _ = on_one_device(lambda state: algorithm.learn_world(agent, state, BATCH, SHARD))(zero)
    for path, leaf in jax.tree_util.tree_leaves_with_path(after.params):
        rate = agent.router_lr if "router" in jax.tree_util.keystr(path) else agent.world_lr
        np.testing.assert_allclose(leaf, -rate / 2, rtol=1e-4)  # epsilon is as large as the gradient
    assert "router" in after.params["shared"]


def test_dreams_and_behaviour_are_of_the_world_just_learned(monkeypatch):
    """All parts of a state are one number here, and so are a task's rows."""
    old, new = (TrainState(*[np.float32(number)] * len(TrainState._fields)) for number in (1, 2))
    asked = []

    def behave(agent, state, rows, *rest):
        asked.extend((state.params, rows))
        return state, {}

    monkeypatch.setattr(algorithm, "learn_world", lambda *_: (new, {"world/gradient_norm": jnp.zeros(())}))
    monkeypatch.setattr(algorithm, "gather", lambda agent, state, shard: state.params)
    monkeypatch.setattr(algorithm, "imagine", lambda agent, state, rows, *_: asked.extend((state.params, rows)))
    monkeypatch.setattr(algorithm, "learn_behaviour", behave)
    algorithm.update(AGENT, old, BATCH, CONTEXTS, SHARD)
    assert asked == [2] * 4


# --- The table --------------------------------------------------------------------------------------------------------


def test_the_table_is_made_of_the_mean_over_batches_and_of_the_best_rows():
    """Three batches, the first of which says other than their mean: of gradients by task, and of losses by row."""
    settings = tiny_settings()
    settings.clustering.batches, settings.warmup.updates, settings.train.init_from = 3, 0, "somewhere"
    rng = np.random.default_rng(0)
    gradients, losses = rng.normal(size=(3, TASKS, 6)), rng.normal(size=(3, TASKS, AGENT.world.clusters))
    best = losses.mean(0).argmin(1)
    assert np.any(best != losses[0].argmin(1))
    said = {
        inspection.task_gradients: lambda batch, _: {p: {"layer": gradients[batch]} for p in ("cluster", "experts")},
        inspection.row_losses: lambda batch, _: losses[batch],
    }
    learner = SimpleNamespace(measure=lambda function: said[function.func])
    replay = SimpleNamespace(sample=lambda sequences, length, number, name: number)
    rules = dataclasses.replace(AGENT.world.routing, mode="table")
    agent = dataclasses.replace(AGENT, world=dataclasses.replace(AGENT.world, routing=rules))
    made = warmup.own_table(settings, list("abcde"), agent, learner, replay)
    np.testing.assert_array_equal(made.table.cluster, best)
    for part in ("cluster", "experts"):
        np.testing.assert_allclose(made.similarity[part], clustering.cosine(gradients.mean(0)), atol=1e-6)
