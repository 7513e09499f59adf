"""The term that asks the latents what was done between them: by hand, and whom it teaches."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from compiled import quick
from tiny_agent import BATCH, SHARD, TABLE, on_one_device, tiny_settings

from mow_jax import build
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow import inverse
from mow_jax.types import Batch


def windows(actions: np.ndarray) -> tuple[np.ndarray, Batch, np.ndarray]:
    """Latents [2, 7, 3], a batch with these actions and the episodes' numbers: the second window has three episodes."""
    z = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    segment = np.array([[0] * 7, [0, 0, 1, 1, 1, 1, 2]])
    is_first = np.diff(segment, axis=1, prepend=0) > 0
    return z, Batch(None, actions, None, None, is_first), segment


@pytest.mark.parametrize("discrete", [True, False])
def test_every_pair_of_an_episode_up_to_four_steps_apart_counts_once(discrete: bool):
    rng = np.random.default_rng(1)
    actions = rng.integers(0, 5, (2, 7)) if discrete else rng.normal(size=(2, 7, 5)).astype(np.float32)
    z, batch, segment = windows(actions)
    weights = rng.normal(size=(2 * 3 + inverse.STEPS, 5)).astype(np.float32)
    found = quick(lambda z: inverse.loss(discrete, lambda x: x @ weights, z, batch))(z)
    errors = []
    for b in range(2):
        for t in range(7):
            for j in range(1, 5):
                if t + j < 7 and segment[b, t] == segment[b, t + j]:
                    said = np.concatenate([z[b, t], z[b, t + j], np.eye(4)[j - 1]]) @ weights
                    nats = np.log(np.exp(said).sum()) - said[actions[b, t]] if discrete else None
                    errors.append(nats if discrete else 0.5 * ((said - actions[b, t]) ** 2).sum())
    assert len(errors) == 18 + 1 + 6
    np.testing.assert_allclose(found, np.mean(errors), rtol=1e-5)


def test_windows_shorter_than_its_steps_are_read_as_far_as_they_go():
    z, batch, _ = windows(np.zeros((2, 7), int))
    batch = Batch(None, batch.action[:, :2], None, None, batch.is_first[:, :2])
    told = inverse.loss(True, lambda x: x[..., :5], z[:, :2], batch)
    np.testing.assert_allclose(told, np.mean(np.log(np.exp(z5 := first_five(z)).sum(-1)) - z5[:, 0]), rtol=1e-5)


def first_five(z: np.ndarray) -> np.ndarray:
    return np.concatenate([z[:, 0], z[:, 1]], axis=-1)[:, :5]


def test_without_it_there_is_no_such_head():
    settings = tiny_settings()
    shapes = {}
    for scale in (0.0, 2.0):
        settings.loss.inverse = scale
        agent = mow.agent(settings, build.tasks(settings), build.plan(settings))
        shapes[scale] = jax.eval_shape(functools.partial(algorithm.init, agent), 0).params["cluster"].keys()
        assert dict(agent.scales).get("inverse", 0.0) == scale
    assert shapes[2.0] - shapes[0.0] == {"inverse"}


@pytest.mark.slow
def test_it_teaches_the_encoder_of_a_task_s_cluster_and_what_made_no_latent_is_left_alone():
    settings = tiny_settings()
    settings.loss.inverse = 2.0
    agent = mow.agent(settings, build.tasks(settings), build.plan(settings))
    state = jax.tree.map(np.asarray, quick(functools.partial(algorithm.init, agent))(0))._replace(table=TABLE)

    def asked(params):
        rows = algorithm.gather(agent, state._replace(params=params), SHARD)
        keys = jax.random.split(jax.random.key(0), len(TABLE.cluster))
        return algorithm.task_losses(agent, rows, BATCH, SHARD, state, keys, train=True)[0]["inverse"][3]

    cluster = on_one_device(jax.grad(asked))(state.params)["cluster"]
    taught = {
        name: {k for leaf in jax.tree.leaves(tree) for k in np.asarray(leaf).nonzero()[0]}
        for name, tree in cluster.items()
    }
    assert taught["encoder"] == taught["posterior"] == taught["inverse"] == {TABLE.cluster[3]}
    assert not taught["decoder"] | taught["prior"] | taught["reward"] | taught["continuation"]
