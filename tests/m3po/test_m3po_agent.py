"""update, on_policy and act as programs over devices: what moves, what rests, what is drawn, and that a loss falls."""

from __future__ import annotations

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sharded import dealt, first, program, same, shard

from mow_jax.systems.m3po import agent as algorithm
from mow_jax.systems.m3po import bonus, fresh, world_model
from mow_jax.systems.m3po.agent import Agent
from mow_jax.systems.m3po.fresh import Trust
from mow_jax.systems.m3po.planner import Planner
from mow_jax.systems.m3po.types import ActState, Draws, State
from mow_jax.systems.m3po.world_model import WorldModel
from mow_jax.types import Batch

TASKS, ACTIONS, NUMBERS, HORIZON, ENVS, WINDOWS, SLICE = 2, 2, 3, 2, 4, 5, 6
MASK = np.array([[True, True], [True, False]])


def agent(trust: bool = True, pixels: bool = False, **changes) -> Agent:
    """A tiny one; half of the environments act by the bare policy, unless `share` says otherwise."""
    sizes = dict(tasks=TASKS, action_size=ACTIONS, numbers=0 if pixels else NUMBERS, image_size=8, latent=16, simnorm=8)
    sizes |= dict(embedding=3, encoder=8, encoder_layers=2, channels=4, hidden=8, bins=11, limit=3.0, values=3)
    sizes |= dict(
        dropout=0.1,
        squashed=changes.pop("squashed", False),
        termination=True,
        shift=1,
        log_std_min=-3.0,
        log_std_max=1.0,
        dtype=jnp.float32,
    )
    settings = dict(weight=1.0, epochs=1, minibatch=64, clip=0.2, kl=0.0, lambda_=0.9, entropy=1e-3, steps=2)
    settings |= dict(share=changes.pop("share", 0.5), bonus=changes.pop("bonus", "clipped"), beta=0.5)
    return Agent(
        world=WorldModel(**sizes),
        planner=Planner(HORIZON, 2, 12, 2, 4, 0.5, 0.05, 2.0),
        trust=Trust(**settings) if trust else None,
        gammas=(0.9, 0.95),
        scales=(("consistency", 20.0), ("reward", 0.1), ("value", 0.1), ("termination", 1.0)),
        rho=0.5,
        entropy=1e-4,
        climbs=changes.pop("climbs", True),
        updates=100,
        lr=3e-3,
        encoder_rate=0.3,
        clip=20.0,
        target_rate=0.05,
    )


def rows(windows: int, time: int, pixels: bool = False, seed: int = 6) -> Batch:
    """Windows [K, B, T]."""
    rng = np.random.default_rng(seed)
    shape = (TASKS, windows, time)
    vectors = rng.normal(size=(*shape, NUMBERS)).astype(np.float32)
    seen = rng.integers(0, 256, size=(*shape, 8, 8, 3)).astype(np.uint8) if pixels else vectors
    action = rng.uniform(-1, 1, size=(*shape, ACTIONS)).astype(np.float32) * MASK[:, None, None]
    reward = vectors[..., 0] + action[..., 0]
    return Batch(seen, action, reward, rng.random(shape) < 0.1, rng.random(shape) < 0.2)


@functools.cache
def started(made: Agent) -> State:
    """A state whose parameters are drawn by numpy, none of them zero: compiling the true start takes long."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = getattr(path[-1], "key", "")
        spread = leaf.shape[-2] ** -0.5 if name == "kernel" else 0.1
        return ((name == "scale") + spread * rng.normal(size=leaf.shape)).astype(np.float32)

    state = jax.eval_shape(lambda: algorithm.init(made, 0))
    params = jax.tree_util.tree_map_with_path(draw, state.params)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    return zeros._replace(params=params, target=params["q"], scale=np.ones(TASKS, np.float32))


@functools.cache
def compiled(function, made: Agent, devices: int):
    return program(functools.partial(function, made), devices, out_axes=(0, None))


def learned(function, made: Agent, state: State, batch: Batch, devices: int = 1):
    """State and metrics after `function`, update or on_policy."""
    new, metrics = compiled(function, made, devices)(same(state, devices), dealt(batch, devices), shard(MASK, devices))
    return first(new), jax.tree.map(np.asarray, metrics)


@functools.cache
def acting(made: Agent, explore: bool, devices: int = 1):
    compiled = program(functools.partial(algorithm.act, made, explore=explore), devices)

    def run(state, context, seen, is_first, step):
        rows = dealt((context, seen, is_first), devices)
        found = compiled(same(state, devices), *rows, same(np.int32(step), devices), shard(MASK, devices))
        return jax.tree.map(lambda x: np.reshape(x, (-1, *np.shape(x)[2:]))[:TASKS], found)

    return run


def no_plans() -> ActState:
    return ActState(np.zeros((TASKS, ENVS, HORIZON, ACTIONS), np.float32))


def test_who_acts_by_the_bare_policy_draws_in_float32(monkeypatch):
    """Its probabilities are the ratios' denominators: the same numbers in a model of bfloat16 as in one of float32."""
    made, noise = agent(), np.random.default_rng(2).normal(size=(5, ACTIONS)).astype(np.float32)
    half = dataclasses.replace(made, world=dataclasses.replace(made.world, dtype=jnp.bfloat16))
    layers, z = started(made).params["policy"], np.random.default_rng(3).random((5, 16)).astype(np.float32)
    drawn = lambda made, **how: world_model.choose(made.world, layers, np.ones(3), MASK[0], z, noise, **how).raw
    np.testing.assert_array_equal(drawn(half, exact=True), drawn(made))
    assert np.abs(drawn(half) - drawn(made)).max() > 1e-4
    asked, choose = [], world_model.choose
    monkeypatch.setattr(world_model, "choose", lambda *given, **how: asked.append(how) or choose(*given, **how))
    row, first_steps = rows(ENVS, 1), np.ones((TASKS, ENVS), bool)
    act = jax.vmap(functools.partial(algorithm.act, half), axis_name="device")
    lead = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
    given = (started(made), no_plans(), row.observation[:, :, 0], first_steps, np.int32(0))
    jax.eval_shape(act, *map(lead, given), shard(MASK, 1))
    assert {"exact": True} in asked


def by_path(*trees) -> dict:
    flat = [jax.tree_util.tree_leaves_with_path(tree) for tree in trees]
    return {jax.tree_util.keystr(row[0][0]): tuple(leaf for _, leaf in row) for row in zip(*flat, strict=True)}


# --- Learning from replay ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_losses_fall_and_every_part_learns():
    made, batch = agent(), rows(WINDOWS, HORIZON + 1)
    state, seen, critic = started(made), [], []
    for _ in range(30):
        state, metrics = learned(algorithm.update, made, state, batch)
        seen.append(metrics["world/total"].sum())
        critic.append(metrics["policy/critic_loss"].sum())
    assert seen[-1] < 0.7 * seen[0]
    assert state.update == 30 and state.skipped.tolist() == [0, 0] and np.any(state.scale > 1)
    for path, (old, new) in by_path(started(made).params, state.params).items():
        assert np.any(old != new), path
    assert critic[-1] < 0.9 * critic[0], "it follows the policy's values"
    assert all(np.isfinite(x).all() for x in metrics.values())
    unlike = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (state.target, state.params["q"])), strict=True)]
    assert all(unlike), "targets follow behind"


@pytest.mark.slow
def test_a_bonus_changes_nothing_of_what_replay_teaches():
    one, other = agent(bonus="reward"), agent(bonus="none")
    batch = rows(WINDOWS, HORIZON + 1)
    start = started(one)
    fewer = start._replace(
        params={name: part for name, part in start.params.items() if name != "augmented"},
        optimizer=start.optimizer | {"fresh": started(other).optimizer["fresh"]},
    )
    with_bonus, _ = learned(algorithm.update, one, start, batch)
    without, _ = learned(algorithm.update, other, fewer, batch)
    kept = {name: part for name, part in with_bonus.params.items() if name != "augmented"}
    chex.assert_trees_all_equal(kept, without.params)
    chex.assert_trees_all_equal(with_bonus.params["augmented"], start.params["augmented"])


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count():
    made, batch = agent(), rows(WINDOWS, HORIZON + 1)
    broken = batch._replace(reward=np.full_like(batch.reward, np.nan))
    state, _ = learned(algorithm.update, made, started(made), broken)
    chex.assert_trees_all_equal(state.params, started(made).params)
    assert state.skipped.tolist() == [1, 1] and state.update == 1
    extras = {"raw": batch.action, "log_prob": np.zeros_like(batch.reward)}
    newest = jax.tree.map(lambda x: x[:, :ENVS], broken._replace(extras=extras))
    state, metrics = learned(algorithm.on_policy, made, started(made), newest)
    chex.assert_trees_all_equal(state.params, started(made).params)
    assert metrics["fresh/skipped"] == 1


@pytest.mark.slow
def test_values_are_learned_from_the_moving_average_by_the_task_s_own_discount():
    """Another discount of task 1 moves its loss alone; another moving average moves both, and nothing else."""
    made, batch = agent(), rows(WINDOWS, HORIZON + 1)
    start, longer = started(made), dataclasses.replace(made, gammas=(0.9, 0.5))
    moved = start._replace(target=jax.tree.map(lambda leaf: 2 * leaf, start.target))
    (_, own), (_, other), (_, late) = (
        learned(algorithm.update, made, start, batch),
        learned(algorithm.update, longer, start, batch),
        learned(algorithm.update, made, moved, batch),
    )
    assert other["world/value"][0] == pytest.approx(own["world/value"][0], rel=1e-5)
    assert abs(other["world/value"][1] - own["world/value"][1]) > 1e-3
    assert np.all(np.abs(late["world/value"] - own["world/value"]) > 1e-3)
    for name in ("consistency", "reward", "termination"):
        np.testing.assert_array_equal(late[f"world/{name}"], own[f"world/{name}"])


@pytest.mark.slow
def test_the_encoder_learns_at_its_share_of_the_rate_and_embeddings_stay_short():
    made, batch = agent(), rows(WINDOWS, HORIZON + 1)
    start = started(made)
    start = start._replace(params=start.params | {"embedding": 20 * start.params["embedding"]})
    state, _ = learned(algorithm.update, made, start, batch)
    whole, _ = learned(algorithm.update, dataclasses.replace(made, encoder_rate=1.0), start, batch)
    for old, slow, fast in zip(*(jax.tree.leaves(s.params["encoder"]) for s in (start, state, whole)), strict=True):
        np.testing.assert_allclose(slow - old, 0.3 * (fast - old), atol=2e-6)
        assert np.any(fast != old)
    chex.assert_trees_all_close(state.params["dynamics"], whole.params["dynamics"], atol=1e-6)
    assert np.all(np.linalg.norm(start.params["embedding"], axis=-1) > 1)
    assert np.all(np.linalg.norm(state.params["embedding"], axis=-1) <= 1 + 1e-5)


def test_a_time_limit_bootstraps_by_the_model_and_an_end_does_not():
    made = agent().world
    params = started(agent()).params
    whole = jax.tree.map(lambda x: x[0], rows(WINDOWS, HORIZON + 1))
    never = np.zeros_like(whole.termination)
    draws = Draws(np.zeros((WINDOWS, HORIZON, ACTIONS)), 0, np.array([0, 1]), 0)

    @jax.jit
    def targets(batch):
        return world_model.targets(made, params, params["q"], params["embedding"][0], MASK[0], 0.9, batch, draws)

    cut = never.copy()
    cut[:, 1] = True  # row 1 begins an episode: row 0 was the last of one
    other = whole.observation.copy()
    other[:, 1] += 1
    going = targets(whole._replace(termination=never, is_first=never))
    stopped = targets(whole._replace(termination=never, is_first=cut))
    moved = targets(whole._replace(termination=never, is_first=cut, observation=other))
    ended = targets(whole._replace(termination=cut[:, ::-1] & False | np.roll(cut, -1, 1), is_first=cut))
    np.testing.assert_array_equal(stopped.target[:, 0], moved.target[:, 0])  # what comes next is not looked at
    assert np.all(stopped.target[:, 0] != going.target[:, 0]) and np.all(stopped.target[:, 0] != whole.reward[:, 0])
    np.testing.assert_allclose(ended.target[:, 0], whole.reward[:, 0])
    assert going.alive.all() and stopped.alive[:, 0].all() and not stopped.alive[:, 1:].any()


# --- Acting and learning from fresh rows ------------------------------------------------------------------------------


def played(made: Agent, steps: int) -> Batch:
    """Rows [K, E, steps] as the agent acts."""
    rng, context, found = np.random.default_rng(7), no_plans(), []
    for step in range(steps):
        seen = rng.normal(size=(TASKS, ENVS, NUMBERS)).astype(np.float32)
        is_first = np.full((TASKS, ENVS), step == 0) | (rng.random((TASKS, ENVS)) < 0.2)
        action, extras, context = acting(made, True)(started(made), context, seen, is_first, step)
        reward = (seen[..., 0] + action[..., 0]).astype(np.float32)
        found.append(Batch(seen, action, reward, np.zeros_like(is_first), is_first, extras))
    return jax.tree.map(lambda *x: np.stack(x, 2), *found)


@pytest.mark.slow
def test_some_act_by_the_policy_and_the_others_plan():
    made = agent()
    batch = played(made, 3)
    half = ENVS // 2
    assert np.all(np.abs(batch.action) <= 1) and not batch.action[1, ..., 1].any(), "a dimension that is not there"
    np.testing.assert_allclose(np.tanh(batch.extras["raw"][:, :half]), batch.action[:, :half], rtol=1e-5)
    assert not batch.extras["raw"][:, half:].any() and not batch.extras["log_prob"][:, half:].any()
    assert batch.extras["log_prob"][:, :half].all()


@pytest.mark.slow
def test_plans_are_kept_within_an_episode_and_forgotten_at_its_start():
    made = agent(trust=False)
    seen, never = (
        np.random.default_rng(8).normal(size=(TASKS, ENVS, NUMBERS)).astype(np.float32),
        np.zeros((TASKS, ENVS)),
    )
    act = acting(made, False)
    _, extras, plans = act(started(made), no_plans(), seen, never > 0, 0)
    assert extras == {} and plans.mean.any() and not plans.mean[1, ..., 1].any()
    far = ActState(np.full_like(plans.mean, 0.9))
    anew, kept, again = (
        act(started(made), start, seen, first > 0, 0)
        for start, first in ((no_plans(), never), (far, never), (far, never + 1))
    )
    np.testing.assert_array_equal(anew[0], again[0])
    assert np.any(kept[0] != anew[0])
    # A step later: the first action of the plan has been taken, the second one is the first.
    past, future = far.mean.copy(), far.mean.copy()
    past[:, :, 0], future[:, :, 1] = -0.9, -0.9
    moved = [act(started(made), ActState(start), seen, never > 0, 0)[0] for start in (past, future)]
    np.testing.assert_array_equal(moved[0], kept[0])
    assert np.any(moved[1] != kept[0])
    np.testing.assert_array_equal(anew[0], anew[2].mean[:, :, 0])  # to be scored: the best guess


@pytest.mark.slow
def test_the_first_minibatch_s_ratio_is_one_and_later_the_policy_moves():
    made = agent()
    made = dataclasses.replace(made, trust=dataclasses.replace(made.trust, epochs=3))
    batch = played(agent(), SLICE)
    state, metrics = learned(algorithm.on_policy, made, started(made), batch)
    assert metrics["fresh/first_moved"].max() < 1e-5
    assert np.all(metrics["fresh/moved"] > 1e-3)
    moves = {name for name, part in by_path(started(made).params, state.params).items() if np.any(part[0] != part[1])}
    assert moves and all(name.startswith(("['policy']", "['value']")) for name in moves)
    assert np.all(metrics["bonus/turned"] == 0) and np.all(metrics["bonus/size"] > 0)
    assert metrics["bonus/weight"] == pytest.approx(0.5)
    start = jax.tree.leaves(started(made).params["policy"])
    far = sum(((a - b) ** 2).sum() for a, b in zip(jax.tree.leaves(state.params["policy"]), start, strict=True)) ** 0.5
    assert metrics["fresh/step"] == pytest.approx(far, rel=1e-4) and metrics["fresh/going"] == 1
    held = dataclasses.replace(made, trust=dataclasses.replace(made.trust, kl=1e-9))
    rests, metrics = learned(algorithm.on_policy, held, state, batch)
    assert metrics["fresh/replay_step"] == 0, "nothing since the round before"
    assert metrics["fresh/going"] == 0 and metrics["fresh/step"] == 0
    chex.assert_trees_all_equal(rests.params["policy"], state.params["policy"])
    # What it would have learned while it rested is in no moment of the optimiser, of which it has the first places.
    afresh = state._replace(optimizer=started(made).optimizer)
    rests, _ = learned(algorithm.on_policy, held, afresh, batch)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(state.params["policy"]))
    moments = [leaf for leaf in jax.tree.leaves(rests.optimizer["fresh"]) if np.size(leaf) > 1]
    assert len(moments) == 2 and all(not leaf[:size].any() and leaf[size:].any() for leaf in moments)
    assert np.any(rests.params["value"][0]["kernel"] != state.params["value"][0]["kernel"])
    _, metrics = learned(algorithm.on_policy, made, started(made)._replace(update=np.int32(75)), batch)
    assert metrics["bonus/weight"] == pytest.approx(0.125), "falls with the share of the run"
    reward = batch.reward[:, : ENVS // 2].mean((1, 2)), batch.reward[:, ENVS // 2 :].mean((1, 2))
    np.testing.assert_allclose((metrics["acting/policy"], metrics["acting/planner"]), reward, rtol=1e-5)


@pytest.mark.slow
def test_of_fresh_rows_alone_the_policy_learns_and_replay_teaches_its_critic():
    """As the preset m3po_onpolicy has it: nobody plans to learn."""
    made = agent(climbs=False, share=1.0)
    start, batch, newest = started(made), rows(WINDOWS, HORIZON + 1), played(made, 3)
    assert newest.extras["log_prob"].all() and newest.extras["raw"][0].all()
    np.testing.assert_allclose(np.tanh(newest.extras["raw"]), newest.action, rtol=1e-5)
    state, critic = start, []
    for _ in range(10):
        state, metrics = learned(algorithm.update, made, state, batch)
        critic.append(metrics["policy/critic_loss"].sum())
    assert critic[-1] < critic[0] and state.skipped.tolist() == [0, 0]
    chex.assert_trees_all_equal(state.params["policy"], start.params["policy"])
    assert all(np.any(old != new) for old, new in by_path(start.params["value"], state.params["value"]).values())
    state, metrics = learned(algorithm.on_policy, made, start, newest)
    assert metrics["fresh/first_moved"].max() < 1e-5 and "acting/planner" not in metrics
    assert all(np.any(old != new) for old, new in by_path(start.params["policy"], state.params["policy"]).values())


@functools.cache
def preparing():
    """(parameters, what a round makes of task 0's rows by them, with a weight of the bonus), a bonus on rewards."""
    made, params = agent(bonus="reward"), started(agent(bonus="reward")).params
    e, mask, model = params["embedding"][0], MASK[0], made.world
    prepare = lambda params, beta, batch: fresh.prepare(model, made.trust, params, e, mask, 0.9, batch, beta)
    return params, jax.jit(prepare)


def slices() -> Batch:
    """Task 0's streams [n, T]."""
    batch = jax.tree.map(lambda x: x[0], rows(WINDOWS, SLICE))
    return batch._replace(extras={"raw": batch.action, "log_prob": np.zeros_like(batch.reward)})


def test_disagreement_is_of_the_model_and_asks_no_critic():
    """Other critics leave it as it is, and a bonus of weight 0 leaves advantages as they are."""
    (params, run), batch = preparing(), slices()
    found, said = run(params, 0.5, batch)
    doubled = params | {name: jax.tree.map(lambda x: 2 * x, params[name]) for name in ("value", "augmented")}
    _, other = run(doubled, 0.5, batch)
    assert other["disagreement/model"] == said["disagreement/model"] > 0 and other["fresh/value"] != said["fresh/value"]
    zero = params | {"augmented": jax.tree.map(np.zeros_like, params["augmented"])}
    plain, said = run(zero, 0.0, batch)
    assert said["bonus/size"] < 1e-5 and np.any(plain.advantage != found.advantage)


def test_a_round_s_disagreement_is_with_the_latent_that_came():
    """Against the rule applied by hand to what the next row shows."""
    (params, run), batch = preparing(), slices()
    batch.termination[:, -1] = False
    model, e, mask, flat = agent().world, params["embedding"][0], MASK[0], lambda x: x.reshape(-1, *x.shape[2:])
    z = np.asarray(world_model.encode(model, params, e, batch.observation))
    after = bonus.Outcome(flat(batch.reward[:, :-1]), flat(batch.termination[:, :-1]), flat(z[:, 1:]))
    dream, steps, all_values = world_model.dream(model, params, e, mask), agent().trust.steps, np.arange(model.values)
    rule = jax.jit(lambda z, action, after: bonus.disagreement(dream, z, action, after, 0.9, steps, all_values))
    each = np.asarray(rule(flat(z[:, :-1]), flat(batch.action[:, :-1]), after))
    inside = flat(batch.termination[:, :-1] | ~batch.is_first[:, 1:])
    assert 5 < inside.sum() < inside.size
    assert run(params, 0.5, batch)[1]["disagreement/model"] == pytest.approx(each[inside].mean(), rel=1e-4)


def test_a_round_bootstraps_behind_a_time_limit_by_the_model_and_behind_an_end_not_at_all():
    """Of row 1, the last of an episode: what either critic is to learn, and whether there is a bonus."""
    (params, run), whole = preparing(), slices()
    never, last = np.zeros_like(whole.is_first), np.zeros_like(whole.is_first)
    last[:, 1] = True
    surprise = whole.reward + 5 * last  # far from what the model says
    going = whole._replace(reward=surprise, is_first=never, termination=never)
    stopped = going._replace(is_first=np.roll(last, 1, axis=1))
    seen = whole.observation.copy()
    seen[:, 2] += 1

    def returns(batch: Batch, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """Of raw rewards and of bonuses, at row 1."""
        learned = run(params, beta, batch)[0].returns
        return tuple(np.reshape(learned[name], whole.reward.shape)[:, 1] for name in ("value", "augmented"))

    limit, moved = returns(stopped, 0.5), returns(stopped._replace(observation=seen), 0.5)
    end = returns(stopped._replace(termination=last), 0.5)
    np.testing.assert_array_equal(limit, moved)  # what comes next is not looked at
    assert np.all(limit[0] != surprise[:, 1]) and np.all(limit[0] != returns(going, 0.5)[0])
    np.testing.assert_allclose(end[0], surprise[:, 1], atol=1e-5)
    # Behind a time limit the model is not told what came: no bonus, but the value of later ones. Ends are known.
    np.testing.assert_array_equal(limit[1], returns(stopped, 0.0)[1])
    np.testing.assert_allclose(returns(stopped._replace(termination=last), 0.0)[1], 0, atol=1e-5)
    assert np.all(end[1] > 0.1) and np.all(limit[1] != 0)


def test_a_positive_advantage_makes_an_action_likelier():
    """Of two rows, the one with the reward: after a round its probability has grown, the other's has not."""
    made, params = agent().world, started(agent()).params
    e, mask = params["embedding"][0], MASK[0]
    z = np.random.default_rng(0).dirichlet(np.ones(8), size=(2, 2)).reshape(2, 16).astype(np.float32)
    raw = np.array([[0.3, -0.2], [-0.4, 0.1]], np.float32)

    @jax.jit
    def change(policy):
        """Of both rows' log-probabilities, after a small step."""
        likely = lambda policy: fresh.log_prob(
            world_model.choose(made, policy, e, mask, z, np.zeros_like(raw)), mask, raw
        )
        taken = fresh.Rows(z, raw, likely(policy), np.array([1.0, -1.0]), {})
        gradient = jax.grad(lambda p: fresh.loss(made, agent().trust, {"policy": p}, e, mask, taken)[0])(policy)
        return likely(jax.tree.map(lambda p, g: p - 1e-3 * g, policy, gradient)) - taken.log_prob

    better, worse = change(params["policy"])
    assert better > 0 > worse


@pytest.mark.slow
def test_four_devices_do_what_one_does():
    """Two have a task each, two have none: what fills their places counts for nothing."""
    made, batch = agent(), rows(WINDOWS, HORIZON + 1)
    newest = played(made, SLICE)
    for function, data in ((algorithm.update, batch), (algorithm.on_policy, newest)):
        one, metrics = learned(function, made, started(made), data, 1)
        four, others = learned(function, made, started(made), data, 4)
        chex.assert_trees_all_close(metrics, others, atol=1e-4, rtol=1e-4)
        chex.assert_trees_all_close(one.params, four.params, atol=2e-4)
    # A task is far and the other is not: whether the policy rests is one decision.
    far = dataclasses.replace(made, trust=dataclasses.replace(made.trust, epochs=6, minibatch=8, kl=0.02))
    state, metrics = learned(algorithm.on_policy, far, started(made), newest, 1)
    again, others = learned(algorithm.on_policy, far, started(made), newest, 4)
    assert 0 < metrics["fresh/going"] == others["fresh/going"] < 1
    chex.assert_trees_all_close(state.params, again.params, atol=2e-4)


@pytest.mark.slow
def test_four_devices_act_as_one_does():
    made = agent()
    seen = np.random.default_rng(9).normal(size=(TASKS, ENVS, NUMBERS)).astype(np.float32)
    given = started(made), no_plans(), seen, np.ones((TASKS, ENVS), bool), 3
    chex.assert_trees_all_close(acting(made, True)(*given), acting(made, True, 4)(*given), atol=1e-5)


@pytest.mark.slow
def test_pictures_teach_as_vectors_do():
    made, batch = agent(pixels=True), rows(WINDOWS, HORIZON + 1, pixels=True)
    state, seen = started(made), []
    for _ in range(30):
        state, metrics = learned(algorithm.update, made, state, batch)
        seen.append(metrics["world/total"].sum())
    assert seen[-1] < 0.9 * seen[0]
    for path, (old, new) in by_path(started(made).params["encoder"], state.params["encoder"]).items():
        assert np.any(old != new), path
