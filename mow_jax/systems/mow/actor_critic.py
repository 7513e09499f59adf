"""One actor for all tasks, one critic a cluster; both read [z, h, e_k]. Discrete and continuous in one code path."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mow_jax.ops import distributions, returns, routing, twohot
from mow_jax.systems.mow.blocks import Head
from mow_jax.systems.mow.types import Dream


@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """Sizes and options of the agent's networks."""

    features: int  # Z + D + E
    action_size: int  # A
    discrete: bool
    clusters: int  # N_m
    width: int = 512
    depth: int = 2
    activation: str = "relu"
    zero_heads: bool = False
    value: str = "symlog"  # how the critics are read, or "mean"
    gamma: float = 0.985
    lambda_: float = 0.95
    entropy: float = 3e-4
    unimix: float = 0.0  # share of the uniform policy in the policy of choices
    return_decay: float = 0.99
    return_scale: str = "task"  # or "shared" by all tasks
    bootstrap: str = "next"  # or "current" (STORM's code)
    weights: bool = True  # weigh imagined steps by the cumulative continuation
    dtype: Any = jnp.float32

    @functools.cached_property
    def actor(self) -> Head:
        outputs = self.action_size if self.discrete else 2 * self.action_size
        return Head(outputs, self.width, self.depth, self.activation, self.zero_heads, self.dtype)

    @functools.cached_property
    def critic(self) -> Head:
        return Head(twohot.BINS, self.width, self.depth, self.activation, self.zero_heads, self.dtype)


def init(model: ActorCritic, key: jax.Array) -> tuple[Any, Any]:
    """Parameters of the actor and of the critics [N_m, ...]."""
    key_actor, key_critic = jax.random.split(key)
    features = jnp.zeros((1, model.features))
    critic = jax.vmap(lambda k: model.critic.init(k, features)["params"])(jax.random.split(key_critic, model.clusters))
    return model.actor.init(key_actor, features)["params"], critic


def features(z: jax.Array, hidden: jax.Array, embedding: jax.Array) -> jax.Array:
    """What actor and critics read: [z, h, sg(e_k)] [..., Z + D + E]."""
    embedding = jnp.broadcast_to(jax.lax.stop_gradient(embedding), (*z.shape[:-1], embedding.shape[-1]))
    return jnp.concatenate([z.astype(hidden.dtype), hidden, embedding.astype(hidden.dtype)], axis=-1)


def policy(model: ActorCritic, params: Any, features: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
    """The action distribution at features [..., F] for a task with action mask [A].

    (log-probabilities [..., A],) for choices; (mean, deviation), each [..., A], for continuous actions.
    """
    output = model.actor.apply({"params": params}, features)
    if model.discrete:
        return (distributions.mixed(jax.nn.log_softmax(distributions.masked(output, mask)), mask, model.unimix),)
    return distributions.gaussian(output)


def sample(model: ActorCritic, key: jax.Array, pi: tuple[jax.Array, ...], mask: jax.Array) -> jax.Array:
    """Actions [...] int32, or [..., A] float32, unclipped, unused dimensions 0."""
    if model.discrete:
        return jax.random.categorical(key, pi[0]).astype(jnp.int32)
    mean, deviation = pi
    return (mean + deviation * jax.random.normal(key, mean.shape)) * mask


def likeliest(model: ActorCritic, pi: tuple[jax.Array, ...], mask: jax.Array) -> jax.Array:
    """The actions [...] or [..., A] of the highest probability, or density."""
    return pi[0].argmax(-1).astype(jnp.int32) if model.discrete else pi[0] * mask


def executed(model: ActorCritic, action: jax.Array) -> jax.Array:
    """The action as environments and the world model take it: continuous ones are clipped to [-1, 1]."""
    return action if model.discrete else jnp.clip(action, -1.0, 1.0)


def log_prob(model: ActorCritic, pi: tuple[jax.Array, ...], action: jax.Array, mask: jax.Array) -> jax.Array:
    """log pi(a) [...]."""
    if model.discrete:
        return distributions.categorical_log_prob(pi[0], action)
    mean, deviation = pi
    return distributions.gaussian_log_prob(mean, deviation, action, mask)


def entropy(model: ActorCritic, pi: tuple[jax.Array, ...], mask: jax.Array) -> jax.Array:
    """Entropy [...]."""
    return distributions.categorical_entropy(pi[0]) if model.discrete else distributions.gaussian_entropy(pi[1], mask)


def value_logits(model: ActorCritic, params: Any, features: jax.Array) -> jax.Array:
    """Two-hot logits [..., 255] of ONE critic row at features [..., F]."""
    return model.critic.apply({"params": params}, features)


def losses(model: ActorCritic, actor, critic, slow_critic, dream: Dream, embedding, scale, mask, valid):
    """One task's terms "policy", "critic", "slow", "entropy", its new return scale P_k [], and further metrics.

    Means over rollouts and steps, by the weight of each step; `critic` and `slow_critic` are the task's rows. A shared
    scale needs the axes "task" and "device", and `valid` [], 0 for padding.
    """
    stop, state = jax.lax.stop_gradient, features(dream.z, dream.hidden, embedding)
    logits, slow_logits = value_logits(model, critic, state), value_logits(model, slow_critic, state)

    def target(value):
        inner = (dream.reward, value, dream.continuation)
        return returns.lambda_return(*inner, model.gamma, model.lambda_, model.bootstrap)

    value = stop(twohot.read(model.value, logits))
    lambda_return, slow_return = target(value), target(stop(twohot.read(model.value, slow_logits)))
    weights = step_weights(model, dream.continuation)
    if model.return_scale == "shared":
        scale = return_scale(model, scale, *map(routing.of_all_tasks, (lambda_return, weights * valid)))
    else:
        scale = return_scale(model, scale, lambda_return, weights)
    advantage = (lambda_return - value[:, :-1]) / jnp.maximum(1.0, scale)
    pi = policy(model, actor, state[:, :-1], mask)

    mean = lambda x: (weights * x).mean()
    terms = {
        "policy": mean(-advantage * log_prob(model, pi, dream.action, mask)),
        "critic": mean(twohot.cross_entropy(logits[:, :-1], lambda_return)),
        "slow": mean(twohot.cross_entropy(logits[:, :-1], slow_return)),
        "entropy": mean(entropy(model, pi, mask)),
    }
    metrics = {"return": lambda_return.mean(), "value": value.mean(), "reward": dream.reward.mean(), "scale": scale}
    metrics["entropy"] = terms["entropy"] / weights.mean()  # of the steps that are reached
    return terms, scale, metrics | {"continuation": dream.continuation.mean()}


def step_weights(model: ActorCritic, continuation: jax.Array) -> jax.Array:
    """[B, H] the probability that an imagined step is reached: the product of the continuations before it."""
    if not model.weights:
        return jnp.ones_like(continuation)
    return jnp.cumprod(jnp.concatenate([jnp.ones_like(continuation[:, :1]), continuation[:, :-1]], axis=1), axis=1)


def return_scale(model: ActorCritic, scale: jax.Array, lambda_return: jax.Array, weights: jax.Array) -> jax.Array:
    """P_k after one update: moving average of the 5..95 percentile range of the returns [..., B, H], each by its step's
    weight [..., B, H], as what is imagined behind an end is untrained; NaN stands for "not begun"."""
    now = returns.percentile_range(lambda_return.reshape(-1), weights.reshape(-1))
    moved = model.return_decay * scale + (1 - model.return_decay) * now
    return jnp.where(jnp.isnan(scale), now, moved)
