"""What a rollout predicts, what the losses weigh, and what draws and settings reach, against numbers made here."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from tiny_agent import AGENT, BATCH, SHARD, TASKS, on_one_device, random_batch, rows_of, started, tiny_settings

from mow_jax import build, checks
from mow_jax.ops import returns, twohot
from mow_jax.systems.mow import actor_critic, imagination, world_model
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow.actor_critic import ActorCritic
from mow_jax.systems.mow.blocks import causal_mask
from mow_jax.systems.mow.types import Dream
from mow_jax.systems.mow.world_model import Rows

TASK = 3
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return jax.tree.map(jnp.asarray, rows_of(started(), TASK))


# --- A rollout --------------------------------------------------------------------------------------------------------

CONTEXT, HORIZON = AGENT.imagination.context, AGENT.imagination.horizon


@pytest.mark.parametrize(
    "changes", [{}, pytest.param({"act_on": "prior", "continuation": "hard"}, marks=pytest.mark.slow)]
)
def test_a_rollout_is_what_one_pass_over_its_tokens_says(rows, changes: dict):
    """Of three contexts, episodes of which begin before them, at their second and at their last frame."""
    setup, model = dataclasses.replace(AGENT.imagination, **changes), AGENT.world
    contexts = jax.tree.map(lambda x: x[TASK], random_batch(1, 3, CONTEXT))
    contexts.is_first[1, 1] = contexts.is_first[0, 2] = True
    known = CONTEXT if setup.act_on == "prior" else CONTEXT - 1

    @quick
    def both():
        dream = imagination.imagine(
            setup, model, AGENT.behaviour, started().actor, rows, contexts, SHARD.mask[TASK], KEY
        )
        own = jax.random.split(KEY, 3)[0]
        seen = world_model.encode(model, rows, contexts.observation, own, in_turn=True)[0].z[:, :known]
        join = lambda real, imagined: jnp.concatenate([real[:, :known], imagined], axis=1)
        segment = jnp.cumsum(contexts.is_first, axis=1)
        segment = join(segment, jnp.repeat(segment[:, -1:], HORIZON, axis=1))
        z, action = join(seen, dream.z[:, :-1]), join(contexts.action, dream.action)
        hidden, _ = world_model.transition(model, rows, z, action, causal_mask(segment))
        said = hidden[:, known:]
        reward = world_model.predicted_reward(model, rows, said)
        return dream, hidden, reward, world_model.termination_logit(model, rows, said)

    dream, hidden, reward, logit = jax.tree.map(np.asarray, both())
    np.testing.assert_allclose(dream.hidden[:, 1:], hidden[:, known:], atol=1e-5)
    np.testing.assert_allclose(dream.reward, reward, rtol=1e-3, atol=1e-5)
    ends = 1 / (1 + np.exp(-logit)) if setup.continuation == "soft" else logit > 0
    np.testing.assert_allclose(dream.continuation, 1 - ends, atol=1e-5)
    assert np.abs(np.diff(dream.hidden, axis=1)).max() > 0.01 and dream.hidden.shape[1] == HORIZON + 1
    before = hidden[:, known - 1] * (np.arange(3) != 0)[:, None]  # of row 0 the last frame begins its episode
    if setup.act_on != "prior":
        np.testing.assert_allclose(dream.hidden[:, 0], before, atol=1e-5)


# --- The world model's loss -------------------------------------------------------------------------------------------


def test_the_loss_weighs_tasks_harmoniously_and_adds_the_balance():
    """sum L / sigma + ln(1 + sigma) + 0.1 B, and its slope in ln sigma; one expert serves four tasks of five."""
    sigma = np.array([2.0, 30.0, 400.0, 5.0, 60.0], np.float32)
    experts = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2]], np.int32)
    routing = dataclasses.replace(AGENT.world.routing, anneal_updates=100.0)
    agent = dataclasses.replace(AGENT, world=dataclasses.replace(AGENT.world, routing=routing), balance=0.1)
    state = started()._replace(update=np.int32(3), harmony=np.log(sigma))
    state = state._replace(table=state.table._replace(experts=experts))

    def run(state, batch, weight):
        ask = lambda harmony: algorithm.world_loss(agent, state.params, harmony, state, batch, SHARD)
        (loss, (_, _, metrics)), slope = jax.value_and_grad(ask, has_aux=True)(state.harmony)
        return loss, metrics["world/total"], metrics["router/balance"], slope

    loss, each, balance, slope = map(np.asarray, on_one_device(run)(state, BATCH, 1.0))
    assert balance > 0.1
    assert loss == pytest.approx(float((each / sigma + np.log1p(sigma)).sum() + 0.1 * balance), rel=1e-5)
    np.testing.assert_allclose(slope, -each / sigma + sigma / (1 + sigma), rtol=1e-4)


def test_frames_behind_an_episode_s_start_are_not_for_the_prior_to_foresee():
    logs = [jax.nn.log_softmax(np.random.default_rng(seed).normal(size=(1, 4, 3, 4))) for seed in (0, 1)]
    posterior, prior = (np.asarray(x, np.float64) for x in logs)
    each = (np.exp(posterior[0, 1:]) * (posterior[0, 1:] - prior[0, :-1])).sum((-1, -2))
    for segment, expected in (([0, 0, 1, 1], (each[0] + each[2]) / 2), ([0] * 4, each.mean()), ([0, 1, 2, 3], 0)):
        for found in world_model._kl(*logs, jnp.array([segment])):
            assert float(found) == pytest.approx(float(expected), rel=1e-4)


@functools.cache
def losses(dropout: float = 0.0, train: bool = True):
    """The terms of TASK's windows for rows and free bits, as another task's too; the KL; three terms' gradients."""
    batch = jax.tree.map(lambda x: x[TASK], BATCH)

    @quick
    def run(rows, task, free_bits):
        model = dataclasses.replace(AGENT.world, dropout=dropout, free_bits=free_bits)

        def ask(rows):
            terms, (_, kl) = world_model.losses(model, rows, batch, task, KEY, train, world_model._no_pool)
            return terms, kl

        terms, back, kl = jax.vjp(ask, rows, has_aux=True)
        slope = lambda name: back({other: jnp.float32(other == name) for other in terms})[0]
        return terms, kl, {name: slope(name) for name in ("dyn", "rep", "task")}

    return lambda rows, task=TASK, free_bits=1.0: jax.tree.map(np.asarray, run(rows, np.int32(task), free_bits))


def test_free_bits_are_a_floor_under_which_nothing_is_learned(rows):
    terms, kl, slope = losses()(rows, free_bits=0.0)
    assert kl > 0.1 and terms["dyn"] == terms["rep"] == pytest.approx(float(kl), rel=1e-5)
    moved = lambda tree: any(np.any(leaf) for leaf in jax.tree.leaves(tree))
    assert moved(slope["dyn"].cluster["prior"])
    assert moved(slope["rep"].cluster["posterior"]) and not moved(slope["rep"].cluster["prior"])
    held, again, slope = losses()(rows, free_bits=2 * float(kl))
    assert held["dyn"] == held["rep"] == pytest.approx(2 * float(kl), rel=1e-5) and again == kl
    assert not moved(slope["dyn"]) and not moved(slope["rep"])


def test_the_task_is_to_be_told_from_hidden_states(rows):
    """A head that says logits 0, 1, 2, 3, 4 whatever it sees."""
    head = dict(rows.shared["task_head"])
    last = sorted(head)[-1]
    head[last] = {"kernel": 0 * head[last]["kernel"], "bias": jnp.arange(TASKS) + 0.0}
    rows = rows._replace(shared=rows.shared | {"task_head": head})
    chance = np.exp(np.arange(TASKS)) / np.exp(np.arange(TASKS)).sum()
    for task in range(TASKS):
        terms, _, slope = losses()(rows, task)
        assert terms["task"] == pytest.approx(4.451914 - task, rel=1e-5)
        found = slope["task"].shared["task_head"][last]["bias"]
        np.testing.assert_allclose(found, chance - np.eye(TASKS)[task], atol=1e-5)


@pytest.mark.long
def test_dropout_is_on_in_training_alone(rows):
    plain, dropped = losses()(rows, free_bits=0.0)[0], losses(0.5)(rows, free_bits=0.0)[0]
    assert abs(plain["dyn"] - dropped["dyn"]) > 1e-3 and plain["reconstruction"] == dropped["reconstruction"]
    for name, term in losses(0.5, train=False)(rows)[0].items():
        assert term == losses(0.0, train=False)(rows)[0][name]


def test_every_part_reads_the_task_s_embedding(rows):
    model, rng = AGENT.world, np.random.default_rng(4)
    hidden, z = (jnp.asarray(rng.normal(size=(2, 3, size)), jnp.float32) for size in (model.width, model.latent))
    action, frames = np.zeros((2, 3), np.int32), BATCH.observation[TASK][:, :3]

    @quick
    def said(rows):
        heads = {name: world_model.head(model, rows, name, hidden) for name in ("prior", "reward", "continuation")}
        return heads | {
            "posterior": world_model.encode(model, rows, frames, KEY)[0].log_p,
            "decoder": world_model.decode(model, rows, z),
            "token": world_model.tokens(model, rows, z, action),
            "actor and critic": actor_critic.features(z, hidden, rows.embedding),
        }

    one, other = said(rows), said(rows._replace(embedding=-rows.embedding))
    assert all(np.abs(one[name] - other[name]).max() > 1e-4 for name in one), one.keys()


# --- Actor and critic -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["symlog", pytest.param("mean", marks=pytest.mark.slow)])
def test_actor_and_critic_learn_from_returns_by_the_task_s_range_and_the_chance_to_be_there(value: str):
    """Rewards of thousands, a range of 400 from before, a chance of 0.25 to go on behind the first step."""
    sizes = dict(features=4, action_size=2, discrete=True, clusters=1, width=4)
    model, none = ActorCritic(**sizes, value=value), jnp.zeros(0)
    read = {"symlog": twohot.decode, "mean": twohot.mean}[value]
    rng = np.random.default_rng(0)
    z, hidden = rng.normal(size=(2, 5, 3, 2)).astype(np.float32)
    reward, going = (1000 * rng.normal(size=(5, 2))).astype(np.float32), np.full((5, 2), 0.25, np.float32)
    dream = Dream(z, hidden, rng.integers(0, 2, (5, 2)).astype(np.int32), reward, going)
    actor, critic = actor_critic.init(model, KEY)
    critic = jax.tree.map(lambda x: x[0], critic)
    slow, mask = jax.tree.map(lambda x: 5 * x[0], actor_critic.init(model, jax.random.key(1))[1]), jnp.ones(2, bool)
    weight = np.array([1.0, 0.25], np.float32)

    @quick
    def run(actor, critic, slow, dream):
        seen = actor_critic.features(dream.z, dream.hidden, none)
        logits = [actor_critic.value_logits(model, which, seen) for which in (critic, slow)]
        terms, scale, _ = actor_critic.losses(model, actor, critic, slow, dream, none, 400.0, mask, 1.0)
        value, behind = map(read, logits)
        own, other = (returns.lambda_return(reward, x, going, model.gamma, model.lambda_) for x in (value, behind))
        now = returns.percentile_range(own.reshape(-1), jnp.tile(weight, 5))
        pi = actor_critic.policy(model, actor, seen[:, :-1], mask)[0]
        taken = jnp.take_along_axis(pi, dream.action[..., None], -1)[..., 0]
        each = {
            "policy": -(own - value[:, :-1]) / (0.99 * 400 + 0.01 * now) * taken,
            "critic": twohot.cross_entropy(logits[0][:, :-1], own),
            "slow": twohot.cross_entropy(logits[0][:, :-1], other),
            "entropy": -(jnp.exp(pi) * pi).sum(-1),
        }
        return terms, scale, now, {name: (weight * x).mean() for name, x in each.items()}

    terms, scale, now, expected = jax.tree.map(np.asarray, run(actor, critic, slow, dream))
    assert scale == pytest.approx(0.99 * 400 + 0.01 * float(now), rel=1e-5) and now > 1000
    for name, term in expected.items():
        assert terms[name] == pytest.approx(float(term), rel=1e-4), name
    assert abs(terms["critic"] - terms["slow"]) > 1e-3


# --- Draws and settings -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_update_and_each_step_draws_anew():
    state, frames = started(), np.repeat(BATCH.observation[:, :, 0], 32, axis=1)
    rows = quick(lambda state: algorithm.gather(AGENT, state, SHARD))(state)
    contexts = random_batch(1, 3, 3)
    imagine = quick(lambda state: algorithm.imagine(AGENT, state, rows, contexts, SHARD).action)
    later = state._replace(update=np.int32(1))
    np.testing.assert_array_equal(imagine(state), imagine(state))
    assert np.any(imagine(state) != imagine(later))
    acting = imagination.init_acting(AGENT.imagination, AGENT.world, TASKS, frames.shape[1])
    first = np.ones(frames.shape[:2], bool)
    act = quick(lambda step: algorithm.act(AGENT, state, acting, frames, first, step, SHARD)[0])
    np.testing.assert_array_equal(act(0), act(0))
    assert np.any(act(0) != act(1))
    learn = on_one_device(
        lambda state: algorithm.world_loss(AGENT, state.params, state.harmony, state, BATCH, SHARD)[0]
    )
    sampled = [float(learn(state._replace(update=np.int32(update), skipped=np.array([9, 0])))) for update in (5, 5, 6)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_every_setting_of_the_algorithm_reaches_the_agent():
    base = tiny_settings()
    tasks = build.tasks(base)
    made, unheard = mow.agent(base, tasks, build.plan(base)), []
    for key, value in checks.flat(base).items():
        if key.split(".")[0] not in ("agent", "loss", "optimizer", "router", "model"):
            continue
        other = not value if isinstance(value, bool) else 2 * value + 1 if isinstance(value, int) else None
        other = other if other is not None else f"{value}x" if isinstance(value, str) else 0.5 * value + 0.01
        changed = base.copy_and_resolve_references()
        changed.update_from_flattened_dict({key: "bfloat16" if key == "model.compute_dtype" else other})
        if mow.agent(changed, tasks, build.plan(changed)) == made:
            unheard.append(key)
    assert unheard == ["agent.contexts"], "which is for the windows that are drawn"
