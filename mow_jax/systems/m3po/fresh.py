"""A round on fresh rows: advantages with the bonus for disagreement, then a clipped policy update (a trust region).

Only the environments that act by the bare policy teach here, so that the ratio of probabilities is exact. Latents are
fixed: neither encoder nor dynamics learn. Functions of one task but for `epochs`. Used by agent.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from mow_jax.ops import twohot
from mow_jax.ops.returns import advantages
from mow_jax.systems.m3po import bonus, world_model
from mow_jax.systems.m3po.types import Choice
from mow_jax.systems.m3po.world_model import WorldModel
from mow_jax.types import Batch, Shard


@dataclasses.dataclass(frozen=True)
class Trust:
    """Settings of the round."""

    weight: float  # of the policy's step here, beside its step on replay
    share: float  # of a task's environments that act by the bare policy
    epochs: int
    minibatch: int  # rows of a task
    clip: float  # how far a ratio of probabilities may lead from 1
    kl: float  # the policy stops for this round once a minibatch is further than this from what acted; 0: never
    lambda_: float  # of the advantages
    entropy: float
    bonus: str  # one of the CHOICES of bonus.kind
    beta: float  # the bonus's weight at first; falls in a line to 0
    steps: int  # k of the model-based value

    @property
    def critics(self) -> tuple[str, ...]:
        """Value functions of a latent that this needs: of raw rewards, and of the bonuses where these are rewards."""
        return ("value", "augmented") if self.bonus == "reward" else ("value",)


class Rows(NamedTuple):
    """What a round learns from; N rows of a task in any order."""

    z: Any  # [N, D]
    raw: Any  # [N, A] the action before tanh
    log_prob: Any  # [N] of it when it was chosen
    advantage: Any  # [N]
    returns: dict[str, Any]  # critic -> [N]


def log_prob(choice: Choice, mask: jax.Array, raw: jax.Array) -> jax.Array:
    """log N(raw; mean, std) [...] over the task's dimensions; what tanh does to it cancels in a ratio."""
    each = -0.5 * ((raw - choice.mean) / jnp.exp(choice.log_std)) ** 2 - choice.log_std - 0.5 * math.log(2 * math.pi)
    return (each * mask).sum(-1)


def prepare(
    model: WorldModel, trust: Trust, params: Any, e, mask, gamma, batch: Batch, beta: jax.Array
) -> tuple[Rows, dict[str, jax.Array]]:
    """The rows of fresh streams [n, T] with all that their parameters say of them, and metrics.

    A time limit bootstraps by the model's own next latent, as does a stream's last row; an end does not bootstrap.
    """
    dream = world_model.dream(model, params, e, mask)
    z = world_model.encode(model, params, e, batch.observation)
    own, _, _ = dream.follow(z, batch.action)
    unseen = jnp.concatenate([batch.is_first[:, 1:], jnp.ones_like(batch.is_first[:, :1])], axis=1)
    ahead = jnp.where(unseen[..., None], own, jnp.concatenate([z[:, 1:], z[:, -1:]], axis=1))
    worth = lambda name, z: twohot.decode(world_model.critic(model, params[name], e, z), model.limit)

    def learned(name: str, gain: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Advantages and returns [n, T] by one critic."""
        value = worth(name, z)
        better = advantages(gain, value, worth(name, ahead), batch.termination, unseen, gamma, trust.lambda_)
        return better, better + value

    flat = lambda x: x.reshape(-1, *x.shape[2:])
    everyone, after = jnp.arange(model.values), bonus.Outcome(*map(flat, (batch.reward, batch.termination, ahead)))
    delta = bonus.disagreement(dream, flat(z), flat(batch.action), after, gamma, trust.steps, everyone)
    known = flat(jnp.where(unseen & ~batch.termination, 0.0, 1.0))  # elsewhere the latent ahead is the model's own

    gained, returns = learned("value", batch.reward)
    plain, found = bonus.whitened(flat(gained)), {"value": flat(returns)}
    advantage = plain
    if trust.bonus == "clipped":
        advantage = bonus.clipped(plain, delta, known, beta)
    if trust.bonus == "reward":
        # Advantages are linear in rewards and values: the second critic needs to learn the bonuses' part alone.
        extra = bonus.reward(jnp.zeros_like(delta), delta, known, beta).reshape(batch.reward.shape)
        more, returns = learned("augmented", extra)
        advantage, found["augmented"] = bonus.whitened(flat(gained + more)), flat(returns)
    rows = Rows(flat(z), flat(batch.extras["raw"]), flat(batch.extras["log_prob"]), advantage, found)
    asked = dream.choose(flat(z), jnp.zeros_like(rows.raw))
    heads = world_model.some_values(model, params["q"], e, rows.z, asked, everyone)
    said = {
        "disagreement/model": (delta * known).sum() / jnp.maximum(known.sum(), 1.0),
        "disagreement/heads": heads.std(0).mean(),
        "bonus/size": jnp.abs(advantage - plain).mean(),
        "bonus/turned": jnp.mean(advantage * plain < 0),
        "fresh/value": worth("value", z).mean(),
    }
    return jax.lax.stop_gradient(rows), said


def loss(model: WorldModel, trust: Trust, params: Any, e, mask, rows: Rows) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The clipped surrogate of rows [m], a bonus for entropy, and the critics' cross-entropies. A row that was lost
    with its environment has no draw, only zeros, and so no ratio: it says nothing of the policy."""
    choose = lambda noise: world_model.choose(model, params["policy"], e, mask, rows.z, noise, exact=True)
    choice = choose(jnp.zeros_like(rows.raw))
    moved = jnp.clip(log_prob(choice, mask, rows.raw) - rows.log_prob, -20.0, 20.0)
    ratio = jnp.exp(moved)
    held = jnp.clip(ratio, 1 - trust.clip, 1 + trust.clip)
    drawn = (rows.raw != 0).any(-1) | (rows.log_prob != 0)
    mean = lambda each: (drawn * each).sum() / jnp.maximum(drawn.sum(), 1)
    surrogate = mean(jnp.minimum(ratio * rows.advantage, held * rows.advantage))
    spread = (choice.log_std * mask).sum(-1).mean()  # the entropy of raw actions but for a constant
    if model.squashed:  # by the rows' own noise, as this policy would need it
        noise = jax.lax.stop_gradient((rows.raw - choice.mean) / jnp.exp(choice.log_std))
        spread = spread + mean((world_model.narrowed(choose(noise).raw) * mask).sum(-1))
    total, said = -surrogate - trust.entropy * spread, {"fresh/moved": mean(jnp.abs(ratio - 1))}
    said["fresh/clipped"] = mean(ratio != held)
    said["fresh/kl"] = mean(ratio - 1 - moved)  # an estimate of KL(what acted, policy), never negative
    for name, target in rows.returns.items():
        logits = world_model.critic(model, params[name], e, rows.z)
        said[f"fresh/{name}_loss"] = twohot.cross_entropy(logits, target, model.limit).mean()
        total = total + said[f"fresh/{name}_loss"]
    return total, said


def blocks(trust: Trust, key: jax.Array, rows: int) -> jax.Array:
    """Places [minibatches, m] of the rows that each minibatch learns from: every epoch another order of all rows, what
    fills no minibatch left out."""
    size = min(trust.minibatch, rows)
    order = lambda key: jax.random.permutation(key, rows)[: rows // size * size].reshape(-1, size)
    return jax.vmap(order)(jax.random.split(key, trust.epochs)).reshape(-1, size)


def epochs(
    model: WorldModel, trust: Trust, optimizer: Any, start: tuple[dict, Any], rows: Rows, e, shard: Shard, keys
) -> tuple[dict, Any, dict[str, jax.Array], jax.Array, jax.Array]:
    """All minibatches of all tasks one after the other, from `start`, what learns and the optimiser's state. Returns
    both, metrics [minibatches, K'], whether every gradient was finite, and the share of minibatches that moved the
    policy: it rests once it is too far from what acted, while the critics learn on."""
    places = jax.vmap(lambda key: blocks(trust, key, rows.log_prob.shape[1]))(keys)  # [K', minibatches, m]
    mean = shard.valid / model.tasks

    def total(learned, taken):
        each, said = jax.vmap(lambda *x: loss(model, trust, learned, *x))(e, shard.mask, taken)
        return (mean * each).sum(), said

    def step(carry, places):
        learned, state, finite, going = carry
        taken = jax.vmap(lambda tree, at: jax.tree.map(lambda x: x[at], tree))(rows, places)
        gradient, said = jax.grad(total, has_aux=True)(learned, taken)
        far = jax.lax.psum((mean * said["fresh/kl"]).sum(), "device")
        going = going & (far <= trust.kl) if trust.kl else going
        # A policy that rests adds nothing to its moments, nor to the clip that the critics share. (Its moments decay
        # with the critics' steps: the next step comes out 1.5 to 2.4 times too long where gradients are mostly noise.
        # Keeping them would be worse, as the count of steps is one for both.)
        gradient["policy"] = jax.tree.map(lambda leaf: jnp.where(going, leaf, 0.0), gradient["policy"])
        flat, unravel = ravel_pytree(gradient)
        flat = jax.lax.psum(flat, "device")
        change, state = optimizer.update(flat, state)
        change = unravel(change)
        change["policy"] = jax.tree.map(lambda leaf: trust.weight * going * leaf, change["policy"])
        finite = finite & jnp.isfinite(flat).all()
        return (optax.apply_updates(learned, change), state, finite, going), (said, going)

    carry = (*start, jnp.bool_(True), jnp.bool_(True))
    (learned, state, finite, _), (said, going) = jax.lax.scan(step, carry, places.swapaxes(0, 1))
    return learned, state, said, finite, going.mean()


def distance(one: list, other: list) -> jax.Array:
    """The length of the difference of two trees of parameters."""
    return jnp.linalg.norm(ravel_pytree(one)[0] - ravel_pytree(other)[0])
