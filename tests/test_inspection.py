"""What the world model is asked after training: the very numbers that its losses come from, and no other episode's."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from compiled import quick
from test_agent import quick_learner
from test_agent import state as state  # a fixture
from tiny_agent import AGENT, BATCH, SHARD, TASKS, on_one_device, rows_of

from mow_jax.ops.keys import task_keys
from mow_jax.systems.mow import inspection, world_model
from mow_jax.systems.mow.blocks import causal_mask
from mow_jax.types import Batch

TASK = 3
FIRST = np.zeros((TASKS, 2, 6), bool)
FIRST[:, :, 3] = True  # an episode begins in the middle of every window
ENDS = np.random.default_rng(5).random(FIRST.shape) < 0.4
WINDOWS = BATCH._replace(is_first=FIRST, termination=ENDS)


@pytest.fixture(scope="module")
def predict(state):
    """Predictions [K, B, T] of a batch on one device."""
    program = on_one_device(functools.partial(inspection.predictions, AGENT))
    return lambda batch: jax.tree.map(np.asarray, program(state, batch, SHARD))


def test_predictions_are_what_the_losses_see(state, predict):
    said = predict(WINDOWS)
    assert {name: (x.shape, x.dtype) for name, x in said.items()} == dict.fromkeys(said, (FIRST.shape, np.float32))
    batch = jax.tree.map(lambda x: x[TASK], WINDOWS)
    key = task_keys(0, "predictions", SHARD)[TASK]
    rows = rows_of(state, TASK)

    @quick
    def see(rows, batch):
        terms, _ = world_model.losses(AGENT.world, rows, batch, TASK, key, False, lambda x: x)
        posterior, _ = world_model.encode(AGENT.world, rows, batch.observation, jax.random.split(key)[0])
        mask = causal_mask(world_model.segments(AGENT.world, batch.is_first))
        hidden, _ = world_model.transition(AGENT.world, rows, posterior.z, batch.action, mask)
        return terms, world_model.predicted_reward(AGENT.world, rows, hidden)

    terms, reward = see(rows, batch)
    end = said["termination"][TASK]
    assert terms["continuation"] == pytest.approx(-np.log(np.where(ENDS[TASK], end, 1 - end)).mean(), rel=1e-5)
    assert terms["reconstruction"] == pytest.approx(said["error"][TASK].mean(), rel=1e-5)
    np.testing.assert_allclose(said["reward"][TASK], reward, rtol=1e-4, atol=1e-6)
    assert np.ptp(reward) > 1e-4


def test_a_task_is_tried_on_every_cluster_row(state):
    """Each row's loss is what the task's own loss would be with that row."""
    program = on_one_device(functools.partial(inspection.row_losses, AGENT))
    made = program(state, BATCH, 7, SHARD)
    assert made.shape == (TASKS, AGENT.world.clusters)
    key = task_keys(7, "row_losses", SHARD)[TASK]

    @quick
    def own(rows, batch):
        terms, _ = world_model.losses(AGENT.world, rows, batch, TASK, key, False, lambda x: x)
        return sum(scale * terms[name] for name, scale in AGENT.scales)

    for row in range(AGENT.world.clusters):
        take = functools.partial(jax.tree.map, lambda x, row=row: x[row])
        rows = rows_of(state, TASK)._replace(cluster=take(state.params["cluster"]), statistics=take(state.statistics))
        expected = own(rows, jax.tree.map(lambda x: x[TASK], BATCH))
        assert made[TASK, row] == pytest.approx(float(expected), rel=1e-5)
    assert np.ptp(made[TASK]) > 1e-3 * made[TASK].min()


def changed(name: str, time: int) -> Batch:
    """The windows with other frames, or actions, at one time."""
    column = getattr(WINDOWS, name).copy()
    column[:, :, time] = 255 - column[:, :, time] if name == "observation" else (column[:, :, time] + 1) % 3
    return WINDOWS._replace(**{name: column})


@pytest.mark.parametrize(("name", "time", "reached"), [("observation", 1, (1, 3)), ("action", 4, (4, 6))])
def test_a_row_sees_its_own_action_and_its_own_episode_only(predict, name, time, reached):
    before, after = predict(WINDOWS), predict(changed(name, time))
    inside = np.isin(np.arange(6), range(*reached))
    for kind in ("reward", "termination"):
        moved = before[kind] != after[kind]
        assert not moved[..., ~inside].any()
        # An action is seen as it is, another frame may well have the same latent.
        assert moved[..., inside].any() if name == "observation" else moved[..., inside].all()
    own = np.arange(6) == time
    np.testing.assert_array_equal((before["error"] != after["error"]).all((0, 1)), own & (name == "observation"))


def test_any_number_of_devices_says_the_same(state, predict):
    learner = quick_learner(jax.devices()[:4])
    learner.load(state)
    said = learner.predictions(WINDOWS)
    for name, expected in predict(WINDOWS).items():
        np.testing.assert_allclose(said[name], expected, rtol=1e-4, atol=1e-6)


def test_an_action_tells_nothing_to_a_model_that_ignores_it(state, predict):
    said = predict(WINDOWS)["action"]
    last = np.isin(np.arange(6), (2, 5))  # of an episode, of the window
    np.testing.assert_array_equal(np.isnan(said), np.broadcast_to(last, said.shape))
    assert (abs(said[..., ~last]) > 1e-6).mean() > 0.5
    blind = jax.tree.map(np.array, state.params["expert"]["mixer"])
    first = blind["Linear_0"]["kernel"]  # [N_e, Z + A + E, D]
    first[:, AGENT.world.latent : AGENT.world.latent + AGENT.world.action_size] = 0.0
    params = state.params | {"expert": state.params["expert"] | {"mixer": blind}}
    program = on_one_device(functools.partial(inspection.predictions, AGENT))
    told = np.asarray(program(state._replace(params=params), WINDOWS, SHARD)["action"])
    np.testing.assert_array_equal(told[..., ~last], 0.0)


def test_an_action_tells_nothing_across_an_episode_s_end_to_a_model_that_looks_across_it(state):
    """As under STORM's settings, where attention does not stop there."""
    across = dataclasses.replace(AGENT, world=dataclasses.replace(AGENT.world, mask_boundaries=False))
    said = on_one_device(functools.partial(inspection.predictions, across))(state, WINDOWS, SHARD)["action"]
    last = np.isin(np.arange(6), (2, 5))
    np.testing.assert_array_equal(np.isnan(said), np.broadcast_to(last, said.shape))
