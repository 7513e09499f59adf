"""Tree search in the world model by mctx, all tasks and environments in one batch.

mctx breaks ties by noise that depends on a root's place in its batch and masks actions at the root alone; here all
noise comes in with the root and masks hold at every depth, so that a root's visits are its own. Called by agent.act.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx


@dataclasses.dataclass(frozen=True)
class Search:
    """How actions are looked for."""

    simulations: int = 50
    method: str = "puct"  # or "gumbel": learns from few simulations
    gamma: float = 0.997
    c1: float = 1.25
    c2: float = 19652.0
    value_range: float = 0.01  # smaller ranges of Q count as this one: of a tree, or, in "gumbel", of a node's actions
    alpha: float = 0.3  # of the Dirichlet noise on the root's prior
    fraction: float = 0.25  # of the prior that is noise
    temperature: float = 0.25  # actions are drawn by visits^(1 / temperature) ...
    temperature_start: float = 0.25  # ... from this one at the first update
    temperature_updates: int = 0  # ... falling in a line over so many
    considered: int = 16  # actions that "gumbel" tries at the root


class Noise(NamedTuple):
    """All that is random in a search, [N, A] each."""

    ties: jax.Array
    dirichlet: jax.Array
    gumbel: jax.Array


class Found(NamedTuple):
    """What a search says of its roots."""

    action: jax.Array  # [N] int32
    policy: jax.Array  # [N, A] what the policy head should learn
    value: jax.Array  # [N]
    visits: jax.Array  # [N, A] int32
    q: jax.Array  # [N, A], 0 where not visited


def noise(setup: Search, key: jax.Array, mask: jax.Array, envs: int) -> Noise:
    """The noise [E, A] of ONE task, whose key makes it independent of the task's place among others. mask [A]."""
    shape, keys = (envs, len(mask)), jax.random.split(key, 3)
    draws = jax.random.gamma(keys[1], setup.alpha, shape) * mask + 1e-30 * mask  # all may round to nothing
    return Noise(
        jax.random.uniform(keys[0], shape), draws / draws.sum(-1, keepdims=True), jax.random.gumbel(keys[2], shape)
    )


def temperature(setup: Search, update: jax.Array | int) -> jax.Array:
    """The temperature at an update."""
    left = 1.0 - jnp.minimum(update / max(setup.temperature_updates, 1), 1.0)
    return setup.temperature + left * (setup.temperature_start - setup.temperature)


def search(
    setup: Search,
    follow: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array, jax.Array, jax.Array, Any]],
    logits: jax.Array,
    value: jax.Array,
    node: Any,
    mask: jax.Array,
    noise: Noise | None,
    warmth: jax.Array | float = 1.0,
) -> Found:
    """Searches from N roots with policy logits [N, A], values [N] and `node` (a pytree with leaves [N, ...]).

    `follow`(action [N], node) gives reward [N], the probability [N] that the task goes on, logits [N, A], value [N] and
    the node reached. mask [N, A] bool of the actions that exist. With noise actions are drawn ("puct": by visits at
    temperature `warmth`), without it the best is taken.
    """
    quiet = Noise(jnp.zeros_like(logits), jnp.zeros_like(logits), jnp.zeros_like(logits))
    extra = noise or quiet
    logits = jnp.where(mask, logits, -1e9)
    if setup.method == "puct" and noise is not None:
        p = (1 - setup.fraction) * jax.nn.softmax(logits) + setup.fraction * extra.dirichlet
        logits = jnp.where(mask, jnp.log(jnp.maximum(p, 1e-30)), -1e9)

    def step(params, key, action, node):
        del params, key
        reward, on, child_logits, child_value, node = follow(action, node)
        output = mctx.RecurrentFnOutput(
            reward=reward,
            discount=setup.gamma * on,
            prior_logits=jnp.where(mask, child_logits, -1e9),
            value=child_value,
        )
        return output, node

    root_choice, choice = _choices(setup)
    tree = mctx.search(
        params=(),
        rng_key=jax.random.key(0),  # nothing draws from it
        root=mctx.RootFnOutput(prior_logits=logits, value=value, embedding=node),
        recurrent_fn=step,
        root_action_selection_fn=root_choice,
        interior_action_selection_fn=choice,
        num_simulations=setup.simulations,
        invalid_actions=~mask,
        extra_data=Extra(extra.gumbel, extra.ties),
    )
    root = jnp.zeros(len(logits), jnp.int32)
    visits, q = tree.children_visits[:, 0], tree.qvalues(root)
    found = functools.partial(Found, value=tree.node_values[:, 0], visits=visits, q=jnp.where(visits > 0, q, 0.0))
    if setup.method == "gumbel":
        better = jnp.where(mask, logits + jax.vmap(_completed(setup), (0, None))(tree, 0), -1e9)
        most = visits == visits.max(-1, keepdims=True)
        action = jnp.where(most & mask, better + extra.gumbel, -jnp.inf).argmax(-1)
        return found(action.astype(jnp.int32), jax.nn.softmax(better))
    score = jnp.log(jnp.maximum(visits, 1e-9)) / warmth + extra.gumbel
    action = jnp.where(mask & (visits > 0), visits if noise is None else score, -jnp.inf).argmax(-1)
    return found(action.astype(jnp.int32), visits / setup.simulations)


class Extra(NamedTuple):
    """What mctx hands to the choices below, under the name that its Gumbel selection knows; one root: [A] each."""

    root_gumbel: jax.Array
    ties: jax.Array


def _choices(setup: Search) -> tuple[Callable, Callable]:
    """mctx's functions that choose an action at the root and below it."""
    if setup.method == "gumbel":
        root = functools.partial(
            mctx.gumbel_muzero_root_action_selection,
            num_simulations=setup.simulations,
            max_num_considered_actions=setup.considered,
            qtransform=_completed(setup),
        )
        return root, functools.partial(mctx.gumbel_muzero_interior_action_selection, qtransform=_completed(setup))
    choose = functools.partial(puct, setup)
    return choose, choose


def _completed(setup: Search) -> Callable:
    """mctx's completed Q of Gumbel MuZero, which else turns the least differences into the largest ones."""
    return functools.partial(mctx.qtransform_completed_by_mix_value, epsilon=setup.value_range)


def puct(setup: Search, key, tree: mctx.Tree, node, depth=0) -> jax.Array:
    """The action [] of one tree with the largest Q' + P sqrt(N) / (1 + n) [c1 + ln((N + c2 + 1) / c2)].

    Q' is Q between the least and the largest of the tree; an action not tried yet has the mean of its node's value and
    of those tried. N counts the node itself, so that the first visit follows the prior.
    """
    del key, depth
    tried = tree.children_visits > 0
    every = tree.children_rewards + tree.children_discounts * tree.children_values
    low = jnp.where(tried, every, jnp.inf).min()
    high = jnp.where(tried, every, -jnp.inf).max()
    visits, total = tree.children_visits[node], tree.node_visits[node]
    q, here = every[node], tried[node]
    mean = (tree.raw_values[node] + (q * here).sum()) / (1 + here.sum())
    scaled = (jnp.where(here, q, mean) - low) / jnp.maximum(high - low, setup.value_range)
    scaled = jnp.where(tried.any(), jnp.clip(scaled, 0, 1), 0)
    c = setup.c1 + jnp.log((total + setup.c2 + 1) / setup.c2)
    prior = jax.nn.softmax(tree.children_prior_logits[node])
    score = scaled + prior * c * jnp.sqrt(total) / (1 + visits) + 1e-6 * tree.extra_data.ties
    return jnp.where(tree.root_invalid_actions, -jnp.inf, score).argmax().astype(jnp.int32)
