"""The loss of one update, term by term, against what numpy makes of the world model's own outputs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import grown, parameters
from scipy.special import log_softmax
from sharded import dealt, first, program, same, shard

from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import stages, targets, world_model
from mow_jax.systems.scalezero.agent import Agent
from mow_jax.systems.scalezero.search import Search
from mow_jax.systems.scalezero.stages import Stages
from mow_jax.systems.scalezero.world_model import TERMS, WorldModel
from mow_jax.types import Batch

pytestmark = pytest.mark.slow
TASKS, WINDOWS, UNROLL, STEPS, ACTIONS, GAMMA, STAGE = 2, 3, 5, 3, 3, 0.9, 1
MASK = np.array([[True, True, True], [True, False, True]])
SIZES = dict(context=2, width=8, layers=1, heads=2, experts=3, encoder="convolution", channels=4, dropout=0.0, bins=21)
AGENT = Agent(
    world=WorldModel(8, TASKS, ACTIONS, UNROLL, **SIZES),  # type: ignore[arg-type]
    search=Search(gamma=GAMMA),
    stages=Stages(count=2, rank=2, alpha=4.0),
    scales=tuple(zip(TERMS, (10.0, 1.0, 0.5, 2.0, -0.1, 3.0), strict=True)),
    steps=STEPS,
    smoothing=0.0,
    lr=1e-3,
    decay=0.0,
    clip=5.0,
    target_rate=0.05,
)


def draws() -> tuple[Batch, np.ndarray]:
    """Windows [K, B, H + n] and searched policies; in the first window of each task an episode ends at row 3, in the
    others a time limit follows row 2 or row 4."""
    rng = np.random.default_rng(3)
    shape = (TASKS, WINDOWS, UNROLL + STEPS)
    frames = rng.integers(0, 256, size=(*shape, 8, 8, 3)).astype(np.uint8)
    action = rng.integers(0, 2, size=shape).astype(np.int32) * 2
    reward = rng.normal(size=shape).astype(np.float32)
    ends, begins = np.zeros(shape, bool), np.zeros(shape, bool)
    ends[:, 0, 3] = begins[:, 0, 4] = begins[:, 1, 3] = begins[:, 2, 5] = True
    policy = rng.dirichlet(np.ones(ACTIONS), size=shape).astype(np.float32) * MASK[:, None, None]
    return Batch(frames, action, reward, ends, begins), policy


def state() -> algorithm.State:
    """In the second stage, with adapters that count, and a moving average far from the parameters."""
    empty = jax.eval_shape(lambda: algorithm.init(AGENT, 0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty)
    params, target = (grown(parameters(lambda: algorithm.init(AGENT, 0).params, seed), seed) for seed in (0, 1))
    return zeros._replace(params=params, target=target, stage=np.int32(STAGE))


def looked_at(state, batch, policy, shard):
    """The loss's metrics, and what an oracle needs: of the online parameters and the target's the latents of all rows,
    and the outputs of rows 0..H-1 and n..n+H-1."""
    merged = [stages.merge(AGENT.stages, params, state.stage) for params in (state.params, state.target)]
    both, begins = jax.tree.map(lambda *x: jnp.stack(x), *merged), jnp.array([0, STEPS])
    rows = lambda tree, begin: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, UNROLL, 2), tree)
    latent = jax.vmap(lambda params: world_model.encode(AGENT.world, params, batch.observation))(both)
    read = lambda params, z, begin: algorithm.unroll(AGENT, params, rows(z, begin), rows(batch, begin), shard)[0]
    return algorithm.loss(AGENT, state.params, state, batch, policy, shard)[1], (
        latent[1],
        jax.vmap(read)(both, latent, begins),
    )


@functools.cache
def found() -> tuple[dict, tuple]:
    """The loss's metrics; the target's latents of all rows, its values of rows n.., the online outputs of rows 0..."""
    compiled = program(looked_at, 1, out_axes=(None, 0))
    metrics, own = compiled(same(state(), 1), *dealt(draws(), 1), shard(MASK, 1))
    latent, outputs = first(own)
    online, target = (jax.tree.map(lambda x, i=i: x[i], outputs) for i in (0, 1))
    return jax.tree.map(np.asarray, metrics), (latent, np.asarray(targets.scalar(target.prediction.value)), online)


def two_hot(x: np.ndarray) -> np.ndarray:
    """Two neighbours among the whole numbers from -10 to 10 share h(x)."""
    h = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x
    return np.maximum(1 - np.abs(h[..., None] - np.arange(-10, 11)), 0)


def returned(reward: np.ndarray, ends: np.ndarray, begins: np.ndarray, ahead: np.ndarray, t: int) -> float | None:
    """n rewards from row t on and the value of row t + n; less where the episode ends before. A time limit's last row
    stands for itself by its value, which is known from row n on, and teaches nothing of its own; None: unknown."""
    total = 0.0
    for row in range(t, t + STEPS):
        if begins[row + 1] and not ends[row]:
            return total + GAMMA ** (row - t) * ahead[row - STEPS] if row > t and row >= STEPS else None
        total += GAMMA ** (row - t) * reward[row]
        if ends[row]:
            return total
    return total + GAMMA**STEPS * ahead[t]


def oracle() -> dict[str, np.ndarray]:
    """All terms [K] by loops over tasks, windows and rows."""
    (batch, policy), (latent, ahead, online) = draws(), found()[1]
    terms: dict[str, list] = {name: [[] for _ in range(TASKS)] for name in TERMS}
    for k, b, t in np.ndindex(TASKS, WINDOWS, UNROLL):
        here, add = jax.tree.map(lambda x, at=(k, b, t): x[at], online), lambda name, x, k=k: terms[name][k].append(x)
        logs, ends = log_softmax(here.prediction.policy), batch.termination[k, b]
        if not batch.is_first[k, b, t + 1]:
            add("latent", ((here.latent - latent[k, b, t + 1]) ** 2).mean())
        add("reward", -(two_hot(batch.reward[k, b, t]) * log_softmax(here.reward)).sum())
        value = returned(batch.reward[k, b], ends, batch.is_first[k, b], ahead[k, b], t)
        if value is not None:
            add("value", -(two_hot(np.float64(value)) * log_softmax(here.prediction.value)).sum())
        add("policy", -(policy[k, b, t] * logs)[MASK[k]].sum())
        add("entropy", -(np.exp(logs) * logs)[MASK[k]].sum())
        add("continuation", np.log1p(np.exp(here.continuation if ends[t] else -here.continuation)))
    return {name: np.array([np.mean(values) for values in of]) for name, of in terms.items()}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_of_the_rows_and_the_parameters_that_it_should_be(name: str):
    """Reward, policy and value of row t; by the moving average, the latent of row t + 1 and the value of row t + n."""
    np.testing.assert_allclose(found()[0][f"world/{name}"], oracle()[name], rtol=1e-4)


def test_the_loss_is_the_terms_by_their_weights():
    total = sum(scale * oracle()[name] for name, scale in AGENT.scales)
    np.testing.assert_allclose(found()[0]["world/total"], total, rtol=1e-4)


def test_a_solved_task_keeps_its_share_of_the_loss():
    def share(keep, solved, state, batch, policy, shard):
        kept = dataclasses.replace(AGENT, stages=dataclasses.replace(AGENT.stages, keep=keep))
        return algorithm.loss(kept, state.params, state._replace(solved=solved), batch, policy, shard)[0]

    compiled = program(share, 1)
    places = (same(state(), 1), *dealt(draws(), 1), shard(MASK, 1))
    of = lambda keep, *solved: float(compiled(same(np.float32(keep), 1), same(np.array(solved), 1), *places)[0])
    one, other, both = of(0, False, True), of(0, True, False), of(0, False, False)
    assert both == pytest.approx(one + other, rel=1e-5) and min(one, other) > 0.1 and of(0, True, True) == 0
    assert of(0.25, False, True) == pytest.approx(one + 0.25 * other, rel=1e-5)
    assert of(1, True, True) == of(1, False, True) == pytest.approx(both, rel=1e-5)
