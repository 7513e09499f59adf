"""The task-level router: scores S_k from the task embeddings, and a selection of experts that settles.

The selection is state: an expert is replaced only when a challenger's score exceeds its own by a margin, and the
newcomer takes the leaver's slot, so that the shared Transformer's input stays in place.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops.precision import EXACT
from mow_jax.systems.mow.blocks import Linear


@dataclasses.dataclass(frozen=True)
class Routing:
    """How tasks choose experts."""

    tasks: int  # K
    experts: int  # N_e
    active: int  # n_k
    embedding: int = 128  # E; 0: nothing to route by, scores are uniform
    mode: str = "learned"  # or "table"
    margin: float = 0.25  # in units of 1 / N_e
    noise: float = 0.0
    first: str = "even"  # or "scores" (the paper)
    rest: bool = True  # leave balanced experts in peace; False: the paper
    gate: str = "none"  # or "straight_through"
    freeze: bool = True
    tau_start: float = 5.0
    tau_end: float = 1.0
    anneal_updates: float = 0.0  # tau reaches its end after so many

    @functools.cached_property
    def router(self) -> Router:
        return Router(self.experts)


def init(routing: Routing, key: jax.Array) -> dict[str, Any]:
    """Parameters: the task embeddings [K, E] and the router's MLP."""
    key_embedding, key_router = jax.random.split(key)
    if not routing.embedding:
        return {}
    embedding = jax.random.normal(key_embedding, (routing.tasks, routing.embedding))
    return {"embedding": embedding, "router": routing.router.init(key_router, embedding)["params"]}


def embeddings(routing: Routing, params: dict[str, Any]) -> jax.Array:
    """e [K, E] at unit L2 norm."""
    raw = params.get("embedding", jnp.zeros((routing.tasks, 0)))
    return raw * jax.lax.rsqrt((raw**2).sum(-1, keepdims=True) + 1e-12)


def temperature(routing: Routing, update: jax.Array | int) -> jax.Array:
    """tau at an update, linear from tau_start to tau_end."""
    done = jnp.clip(update / max(routing.anneal_updates, 1.0), 0.0, 1.0)
    return routing.tau_start + (routing.tau_end - routing.tau_start) * done


def scores(routing: Routing, params: dict[str, Any], update: jax.Array | int) -> jax.Array:
    """S [K, N_e] at an update; without gradient once nothing changes the selection any more: it would only move the
    embeddings, which all heads read."""
    if not routing.embedding:
        return jnp.full((routing.tasks, routing.experts), 1 / routing.experts)
    # At unit norm an entry is so small that the biases would make all tasks' scores nearly equal.
    inputs = embeddings(routing, params) * math.sqrt(routing.embedding)
    made = routing.router.apply({"params": params["router"]}, inputs, temperature(routing, update))
    return jnp.where(frozen(routing, update), jax.lax.stop_gradient(made), made)


def chooses(routing: Routing) -> bool:
    """Whether the router ever changes the selection: not in table mode, and not with nothing to route by."""
    return routing.mode == "learned" and routing.embedding > 0


def frozen(routing: Routing, update: jax.Array | int) -> jax.Array:
    """Whether the selection stays from this update on, since tau has reached its end, or as it never changes."""
    reached = update >= max(routing.anneal_updates, 1.0)  # tau itself may miss its end by a rounding
    return (not chooses(routing)) | (routing.freeze & reached)


def select(routing: Routing, scores: jax.Array, experts: jax.Array, update: jax.Array, key: jax.Array) -> jax.Array:
    """This update's selection [K, n_k]: hysteresis over the last one, until it is frozen."""
    if not chooses(routing):
        return experts
    if routing.noise:
        scores = scores * jnp.exp(routing.noise * jax.random.gumbel(key, scores.shape))
    return jnp.where(
        _stays(routing, experts, update), experts, reselect(scores, experts, routing.margin / routing.experts)
    )


def without_noise(routing: Routing, scores: jax.Array, experts: jax.Array, update: jax.Array) -> jax.Array:
    """The selection [K, n_k] to be scored with: where noise redraws it, the top n_k by the scores [K, N_e] themselves,
    instead of whatever the last draw was. An expert in both keeps its slot."""
    if not routing.noise or not chooses(routing):
        return experts
    return jnp.where(_stays(routing, experts, update), experts, reselect(scores, experts, 0.0))


def _stays(routing: Routing, experts: jax.Array, update: jax.Array) -> jax.Array:
    """Whether a selection is frozen or at rest."""
    settled = frozen(routing, update)
    if routing.rest and routing.gate == "none":
        # Nothing but balance speaks for a change, and a falling tau against rest.
        settled |= is_balanced(load(experts, routing.experts), routing).all()
    return settled


def is_balanced(loads: jax.Array, routing: Routing) -> jax.Array:
    """Which loads [N_e] lie within floor..ceil of the mean load K n_k / N_e."""
    mean = routing.tasks * routing.active / routing.experts
    return (loads >= math.floor(mean)) & (loads <= math.ceil(mean))


def gates(routing: Routing, scores: jax.Array, experts: jax.Array) -> jax.Array:
    """Factors [K, n_k] on the experts' outputs: one, with the scores' gradient under gate = "straight_through"."""
    if routing.gate == "none":
        return jnp.ones(experts.shape)
    chosen = jnp.take_along_axis(scores, experts, axis=-1)
    return chosen / jax.lax.stop_gradient(chosen)


class Router(nn.Module):
    """Embeddings [K, E] to scores S [K, N_e] = softmax(MLP(e_k) / tau)."""

    experts: int
    width: int = 128

    @nn.compact
    def __call__(self, embedding: jax.Array, tau: jax.Array | float = 1.0) -> jax.Array:
        linear = functools.partial(Linear, precision=EXACT)
        x = nn.relu(linear(self.width)(embedding))
        x = nn.relu(linear(self.width)(x))
        return jax.nn.softmax(linear(self.experts)(x) / tau)


def first_selection(scores: jax.Array, active: int, first: str = "even") -> jax.Array:
    """The first selection [K, n_k] by scores [K, N_e]: task by task the best of those experts that have fewest tasks.

    Loads differ by one at most. The highest scores alone would put all tasks on the same experts, as the scores of an
    untrained router are nearly alike; first = "scores" does so.
    """
    if first == "scores":
        return jax.lax.top_k(scores, active)[1].astype(jnp.int32)

    def choose(loads, task_scores):
        chosen = jax.lax.top_k(task_scores - loads, active)[1]  # a score lies in 0..1, so that a load outweighs it
        return loads + jax.nn.one_hot(chosen, loads.size).sum(0), chosen

    return jax.lax.scan(choose, jnp.zeros(scores.shape[-1]), scores)[1].astype(jnp.int32)


def reselect(scores: jax.Array, experts: jax.Array, margin: float) -> jax.Array:
    """One hysteresis pass over a selection experts [K, n_k] by scores [K, N_e]: at most n_k replacements a task."""

    def replace_weakest(_, selection):
        chosen = jax.nn.one_hot(selection, scores.shape[-1]).sum(-2) > 0
        challenger = jnp.where(chosen, -jnp.inf, scores)
        held = jnp.take_along_axis(scores, selection, axis=-1)
        slot = jax.nn.one_hot(held.argmin(-1), selection.shape[-1], dtype=bool)
        better = challenger.max(-1) > held.min(-1) + margin
        newcomer = challenger.argmax(-1).astype(selection.dtype)
        return jnp.where(slot & better[:, None], newcomer[:, None], selection)

    return jax.lax.fori_loop(0, experts.shape[-1], replace_weakest, experts)


def load(experts: jax.Array, count: int) -> jax.Array:
    """Tasks [N_e] that use each expert, from a selection [K, n_k]."""
    return jax.nn.one_hot(experts, count).sum((0, 1))


def balance_loss(routing: Routing, scores: jax.Array, experts: jax.Array, update: jax.Array) -> jax.Array:
    """|| sum_k w_k - K n_k / N_e ||^2 with the selection's value and the scores' gradient.

    An expert whose load lies within floor..ceil of the mean load is balanced and gets no gradient: without that, loads
    that cannot all be equal would drive the scores for ever. Nor is there one where the selection cannot change any
    more: it would only move the embeddings, which all heads read. Without `rest` (the paper) balanced ones get theirs.
    """
    selected = load(experts, routing.experts)
    total = selected + (scores - jax.lax.stop_gradient(scores)).sum(0)
    in_peace = is_balanced(selected, routing) & routing.rest
    settled = in_peace | frozen(routing, update)
    total = jnp.where(settled, jax.lax.stop_gradient(total), total)
    excess = total - routing.tasks * routing.active / routing.experts
    return (excess**2).sum()
