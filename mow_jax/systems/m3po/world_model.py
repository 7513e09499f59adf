"""The model: encoder, latent dynamics, reward, end, value functions and policy, and TD-MPC2's losses of one task.

Everything here is of ONE task: e [E] is its embedding, mask [A] its action dimensions; agent.py maps over tasks.
Parameters are shared by all tasks but for the embeddings.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mow_jax.ops import twohot
from mow_jax.systems.m3po import networks
from mow_jax.systems.m3po.networks import mlp
from mow_jax.systems.m3po.types import Choice, Draws, Dream
from mow_jax.types import Batch

TERMS = ("consistency", "reward", "value", "termination")


@dataclasses.dataclass(frozen=True)
class WorldModel:
    """Sizes, and the functions' fixed settings."""

    tasks: int  # K
    action_size: int  # A
    numbers: int  # of a vector that is seen; 0: pictures
    image_size: int
    latent: int  # D
    simnorm: int  # numbers of a group of the latent
    embedding: int  # E
    encoder: int  # width of the encoder's hidden layer
    encoder_layers: int
    channels: int  # of the convolutions
    hidden: int  # width of all other hidden layers
    bins: int
    limit: float  # bins reach from -limit to limit in symlog space
    values: int  # Q
    dropout: float  # of a value function's first layer
    squashed: bool  # the policy's entropy is that of the action, behind tanh
    termination: bool  # whether ends are predicted
    shift: int  # pixels that pictures are moved by at most while learning
    log_std_min: float
    log_std_max: float
    dtype: Any

    @functools.cached_property
    def inside(self) -> tuple[int, int]:
        """Widths of the hidden layers."""
        return (self.hidden, self.hidden)


def init(model: WorldModel, key: jax.Array, critics: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parameters; `critics`: names of value functions of a latent alone, for a trust region."""
    seen, step = model.latent + model.embedding, model.latent + model.embedding + model.action_size
    names = ("embedding", "encoder", "convolutions", "dynamics", "reward", "termination", "q", "policy", *critics)
    keys = {name: jax.random.fold_in(key, place) for place, name in enumerate(names)}
    make = lambda name, inputs, outputs, last="plain": networks.init_mlp(
        keys[name], inputs, model.inside, outputs, last
    )
    one = lambda key: networks.init_mlp(key, step, model.inside, model.bins, "zero")
    params = {
        "embedding": jax.random.uniform(keys["embedding"], (model.tasks, model.embedding), minval=-0.02, maxval=0.02),
        "encoder": init_encoder(model, keys),
        "dynamics": make("dynamics", step, model.latent, "normed"),
        "reward": make("reward", step, model.bins, "zero"),
        "q": jax.vmap(one)(jax.random.split(keys["q"], model.values)),
        "policy": make("policy", seen, 2 * model.action_size),
        **{name: make(name, seen, model.bins, "zero") for name in critics},
    }
    return params | ({"termination": make("termination", seen, 1)} if model.termination else {})


def init_encoder(model: WorldModel, keys: dict[str, jax.Array]) -> dict[str, list]:
    """Of pictures convolutions and one normed layer, of vectors normed layers alone."""
    if model.numbers:
        hidden = (model.encoder,) * max(model.encoder_layers - 1, 1)
        return {
            "layers": networks.init_mlp(
                keys["encoder"], model.numbers + model.embedding, hidden, model.latent, "normed"
            )
        }
    features = networks.MAP**2 * model.channels
    return {
        "convolutions": networks.init_convolutions(keys["convolutions"], model.image_size, model.channels),
        "layers": networks.init_mlp(keys["encoder"], features + model.embedding, (), model.latent, "normed"),
    }


# --- What it says -----------------------------------------------------------------------------------------------------


def shortened(embedding: jax.Array) -> jax.Array:
    """Embeddings [K, E], those longer than 1 cut to that length: done after every step."""
    length = jnp.linalg.norm(embedding, axis=-1, keepdims=True)
    return embedding / jnp.maximum(length, 1.0)


def joined(x: jax.Array, e: jax.Array, *more: jax.Array) -> jax.Array:
    """[..., D] with the task's embedding [E] and what else is given, [..., n] each."""
    return jnp.concatenate([x, jnp.broadcast_to(e, (*x.shape[:-1], *e.shape)), *more], axis=-1)


def encode(model: WorldModel, params: Any, e: jax.Array, observation: jax.Array) -> jax.Array:
    """Latents [..., D] of vectors [..., numbers] or pictures [..., S, S, 3] uint8."""
    layers, x = params["encoder"], observation
    if not model.numbers:
        x = networks.convolutions(layers["convolutions"], observation, model.dtype)
    measured = int(model.numbers > 0)  # of numbers as they are measured bfloat16 would keep three digits
    return mlp(layers["layers"], joined(x, e), model.dtype, model.simnorm, exact=measured)


def follow(model: WorldModel, params: Any, e: jax.Array, z: jax.Array, action: jax.Array) -> jax.Array:
    """The next latent [..., D]."""
    return mlp(params["dynamics"], joined(z, e, action), model.dtype, model.simnorm)


def reward(model: WorldModel, params: Any, e: jax.Array, z: jax.Array, action: jax.Array) -> jax.Array:
    """Logits [..., bins] of the reward of a step."""
    return mlp(params["reward"], joined(z, e, action), model.dtype)


def end(model: WorldModel, params: Any, e: jax.Array, z: jax.Array) -> jax.Array:
    """The logit [...] of the task having ended with the step to z."""
    return mlp(params["termination"], joined(z, e), model.dtype)[..., 0]


def values(model: WorldModel, q: list, e: jax.Array, z: jax.Array, action: jax.Array, kept=None) -> jax.Array:
    """Logits [Q, ..., bins] of the value functions whose parameters are stacked in `q`; `kept` [Q, ..., hidden]."""
    x = joined(z, e, action)
    return jax.vmap(lambda layers, kept: mlp(layers, x, model.dtype, kept=kept))(q, kept)


def some_values(model: WorldModel, q: list, e: jax.Array, z: jax.Array, action: jax.Array, places) -> jax.Array:
    """What the value functions at `places` [n] say, [n, ...]."""
    some = jax.tree.map(lambda leaf: leaf[places], q)
    return twohot.decode(values(model, some, e, z, action), model.limit)


def critic(model: WorldModel, layers: list, e: jax.Array, z: jax.Array) -> jax.Array:
    """Logits [..., bins] of the value of a latent under the policy."""
    return mlp(layers, joined(z, e), model.dtype)


def choose(
    model: WorldModel, layers: list, e: jax.Array, mask: jax.Array, z: jax.Array, noise: jax.Array, exact: bool = False
) -> Choice:
    """The policy's action in latents [..., D] for standard normal noise [..., A]; 0 gives its mean. `exact`: in float32
    for a ratio of probabilities, as what bfloat16 rounds in batches of one size it rounds otherwise in another."""
    mean, spread = jnp.split(mlp(layers, joined(z, e), model.dtype, exact=exact * len(layers)), 2, axis=-1)
    low, high = model.log_std_min, model.log_std_max
    log_std = (low + 0.5 * (high - low) * (jnp.tanh(spread) + 1)) * mask
    mean, noise = mean * mask, noise * mask
    raw = mean + noise * jnp.exp(log_std)
    return Choice(jnp.tanh(raw), raw, mean, log_std)


def dream(model: WorldModel, params: Any, e: jax.Array, mask: jax.Array) -> Dream:
    """The model as the planner sees it."""

    def step(z, action):
        gain = twohot.decode(reward(model, params, e, z, action), model.limit)
        z = follow(model, params, e, z, action)
        return z, gain, jax.nn.sigmoid(end(model, params, e, z)) if model.termination else jnp.zeros_like(gain)

    return Dream(
        follow=step,
        choose=lambda z, noise: choose(model, params["policy"], e, mask, z, noise).action,
        value=lambda z, action, places: some_values(model, params["q"], e, z, action, places).mean(0),
    )


# --- Losses -----------------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What a task's windows teach."""

    latent: Any  # [B, H + 1, D] of the frames, without gradient
    target: Any  # [B, H] of values
    alive: Any  # [B, H + 1]: 1 where the frame still belongs to the window's first episode


def targets(model: WorldModel, params: Any, target: list, e, mask, gamma, batch: Batch, draws: Draws) -> Known:
    """r_t + gamma (1 - termination_t) min of two moving-average Q(z', pi(z')), raw rewards. Behind a time limit no
    frame is seen: z' is then the model's own."""
    latent = encode(model, params, e, batch.observation)
    last = batch.is_first[:, 1:]
    own = follow(model, params, e, latent[:, :-1], batch.action[:, :-1])
    ahead = jnp.where(last[..., None], own, latent[:, 1:])
    action = choose(model, params["policy"], e, mask, ahead, draws.ahead).action
    value = some_values(model, target, e, ahead, action, draws.pair).min(0)
    value = batch.reward[:, :-1] + gamma * (1.0 - batch.termination[:, :-1]) * value
    before = jnp.zeros_like(last[:, :1])
    alive = 1.0 - (jnp.cumsum(jnp.concatenate([before, last], axis=1), axis=1) > 0)
    return jax.lax.stop_gradient(Known(latent, value, alive))


def losses(
    model: WorldModel, params: Any, e: jax.Array, batch: Batch, known: Known, rho: float, kept=None
) -> tuple[dict[str, jax.Array], jax.Array]:
    """The terms of one task, and the unrolled latents [B, H + 1, D]: from the first frame on the model goes by itself.

    Step t weighs rho^t (for the end all weigh alike, as in TD-MPC2) and counts while its episode lasts.
    """
    action, gain, termination = batch.action[:, :-1], batch.reward[:, :-1], batch.termination[:, :-1]
    first = encode(model, params, e, batch.observation[:, 0])

    def step(z, action):
        z = follow(model, params, e, z, action)
        return z, z

    _, later = jax.lax.scan(step, first, action.swapaxes(0, 1))
    z = jnp.concatenate([first[:, None], later.swapaxes(0, 1)], axis=1)

    before = known.alive[:, :-1]
    weight = rho ** jnp.arange(action.shape[1])
    mean = lambda x, counts: (weight * over(x, counts)).mean()
    error = ((z[:, 1:] - known.latent[:, 1:]) ** 2).mean(-1)
    said = twohot.cross_entropy(reward(model, params, e, z[:, :-1], action), gain, model.limit)
    q = values(model, params["q"], e, z[:, :-1], action, kept)
    miss = jax.vmap(lambda logits: twohot.cross_entropy(logits, known.target, model.limit))(q)
    terms = {
        "consistency": mean(error, known.alive[:, 1:]),
        "reward": mean(said, before),
        "value": mean(miss.mean(0), before),
        "termination": jnp.zeros(()),
    }
    if model.termination:
        logit = end(model, params, e, z[:, 1:])
        surprise = jax.nn.softplus(logit) - logit * termination
        terms["termination"] = (surprise * before).sum() / jnp.maximum(before.sum(), 1.0)
    return terms, jax.lax.stop_gradient(z)


def over(x: jax.Array, counts: jax.Array) -> jax.Array:
    """Means [T] over the windows of x [B, T] that count."""
    return (x * counts).sum(0) / jnp.maximum(counts.sum(0), 1.0)


def policy_loss(
    model: WorldModel, layers: list, q: list, e, mask, z, alive, scale, draws: Draws, rho: float, entropy: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The policy climbs the mean of two value functions, divided by the new `scale` of the task, with a bonus of
    `entropy`, in the latents z [B, H + 1, D] of the unroll."""
    choice = choose(model, layers, e, mask, z, draws.policy)
    value = some_values(model, q, e, z, choice.action, draws.policy_pair).mean(0)
    spread = entropy_of(model, choice, mask, draws.policy) * mask.sum()
    weight = rho ** jnp.arange(z.shape[1])
    loss = -(weight * over(entropy * spread + value / scale, alive)).mean()
    return loss, {"value": over(value, alive)[0], "entropy": over(spread, alive)[0]}


def entropy_of(model: WorldModel, choice: Choice, mask: jax.Array, noise: jax.Array) -> jax.Array:
    """A draw of the entropy [...] over the task's dimensions, of the raw action, which grows with the deviation without
    end, or `squashed`: of the action, which is largest where all of [-1, 1] is as likely."""
    each = 0.5 * noise**2 + choice.log_std + 0.5 * jnp.log(2 * jnp.pi)
    each = each + narrowed(choice.raw) if model.squashed else each
    return (each * mask).sum(-1)


def narrowed(raw: jax.Array) -> jax.Array:
    """ln(1 - tanh(raw)^2) [..., A], by how much tanh narrows what lies about raw."""
    return 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))


def policy_value(model: WorldModel, q: list, layers: list, e, mask, z, draws: Draws) -> jax.Array:
    """What two value functions say, on average, of the policy's action in first latents z [B, D]: [B]."""
    action = choose(model, layers, e, mask, z, draws.policy[:, 0]).action
    return some_values(model, q, e, z, action, draws.policy_pair).mean(0)


def value_range(model: WorldModel, q: list, layers: list, e, mask, z, draws: Draws) -> jax.Array:
    """The range between the 5th and the 95th percentile of values in first latents [B, D], at least 1."""
    low, high = jnp.quantile(policy_value(model, q, layers, e, mask, z, draws), jnp.array([0.05, 0.95]))
    return jnp.maximum(high - low, 1.0)


def critic_loss(model: WorldModel, layers: list, e, z, value: jax.Array) -> jax.Array:
    """The cross-entropy of a critic to values [B] in latents z [B, D]; neither of the two gets a gradient."""
    z, value = jax.lax.stop_gradient((z, value))
    return twohot.cross_entropy(critic(model, layers, e, z), value, model.limit).mean()
