"""The world model of K tasks: latents and actions as tokens, one Transformer for all, heads of each task's own.

A step is two tokens: policy and value are read after the latent's; reward, next latent and continuation after the
action's.
Parameters are {"encoder", "tokens", "backbone", "heads"}; only "heads" has a row a task. Encoder and Transformer see
the sequences of all tasks as one batch [N = K' B, ...], tasks in order; `head` gives each task's its own heads.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mow_jax.ops import distributions, routing
from mow_jax.ops.norm import LayerNorm
from mow_jax.ops.precision import EXACT
from mow_jax.systems.scalezero import targets
from mow_jax.systems.scalezero.encoder import Convolutions, VisionTransformer
from mow_jax.systems.scalezero.mixture import Dense, FeedForward, Mixture
from mow_jax.systems.scalezero.transformer import Cache, Transformer
from mow_jax.systems.scalezero.types import Context, Node, Prediction, Steps

TERMS = ("latent", "reward", "value", "policy", "entropy", "continuation")


@dataclasses.dataclass(frozen=True)
class WorldModel:
    """Sizes and options; the modules are built from them once."""

    image_size: int
    tasks: int  # K
    action_size: int  # A, choices of the shared head
    unroll: int  # H, steps of a training window
    context: int = 4  # L < H, steps before the newest latent that acting and search attend to
    width: int = 768  # D
    layers: int = 8
    heads: int = 24
    feed_forward: str = "mixture"  # or "dense" (multi-task UniZero)
    experts: int = 8  # N_e
    active: int = 1  # k
    shared: int = 1  # experts that are always on: in "dense" layers all there is
    gate_norm: str = "topk"  # or "all"
    encoder: str = "vit"  # or "convolution"
    patch: int = 8
    vit_width: int = 768
    vit_layers: int = 6
    vit_heads: int = 6
    vit_head_width: int = 64
    vit_hidden: int = 2048
    channels: int = 32
    dropout: float = 0.1
    bins: int = 101
    continuation: bool = True  # whether an action's end of the task, or of a life, is foreseen
    dtype: Any = jnp.float32

    @functools.cached_property
    def encoder_module(self) -> nn.Module:
        if self.encoder == "convolution":
            return Convolutions(self.width, self.channels, self.dtype)
        sizes = (self.patch, self.vit_width, self.vit_layers, self.vit_heads, self.vit_head_width, self.vit_hidden)
        return VisionTransformer(self.width, *sizes, self.dropout, self.dtype)

    @functools.cached_property
    def backbone(self) -> Transformer:
        mixture = functools.partial(Mixture, self.experts, self.active, self.shared, self.gate_norm)
        layer = mixture if self.feed_forward == "mixture" else functools.partial(FeedForward, self.shared)
        return Transformer(self.layers, self.heads, layer, self.dropout, self.dtype)

    @functools.cached_property
    def head_modules(self) -> dict[str, Head]:
        sizes = {"policy": self.action_size, "value": self.bins, "reward": self.bins, "latent": self.width}
        sizes |= {"continuation": 1} if self.continuation else {}
        return {name: Head(size, name == "latent", self.dtype) for name, size in sizes.items()}


class Head(nn.Module):
    """LayerNorm, linear, LayerNorm, GELU and a linear map that starts at zero; `norm`: one more LayerNorm.

    Without it the numbers are logits, and float32: rounded to bfloat16 a value moves by more than search tells apart.
    """

    features: int
    norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = lambda: LayerNorm(epsilon=1e-5, dtype=self.dtype)
        x = Dense(x.shape[-1], dtype=self.dtype)(norm()(x))
        x = nn.gelu(norm()(x), approximate=True)
        dtype, precision = (self.dtype, None) if self.norm else (jnp.float32, EXACT)
        x = Dense(self.features, dtype=dtype, kernel_init=nn.initializers.zeros, precision=precision)(x)
        return norm()(x) if self.norm else x


def init(model: WorldModel, key: jax.Array) -> dict[str, Any]:
    """All parameters."""
    key_encoder, key_backbone, key_tokens, key_heads = jax.random.split(key, 4)
    frame = jnp.zeros((1, model.image_size, model.image_size, 3))
    token, mask = jnp.zeros((1, 1, model.width)), jnp.ones((1, 1, 1), bool)

    def heads(task_key):
        keys = jax.random.split(task_key, len(model.head_modules))
        made = zip(model.head_modules.items(), keys, strict=True)
        return {name: module.init(k, token)["params"] for (name, module), k in made}

    rows = {"positions": 2 * model.unroll, "action": model.action_size}
    keys = jax.random.split(key_tokens)
    normal = lambda k, count: 0.02 * jax.random.normal(k, (count, model.width))
    return {
        "encoder": model.encoder_module.init(key_encoder, frame)["params"],
        "tokens": {name: normal(k, rows[name]) for name, k in zip(rows, keys, strict=True)},
        "backbone": model.backbone.init(key_backbone, token, mask)["params"],
        "heads": jax.vmap(heads)(jax.random.split(key_heads, model.tasks)),
    }


# --- Tokens, Transformer, heads ---------------------------------------------------------------------------------------


def encode(model: WorldModel, params: Any, frames: jax.Array, keys=None) -> jax.Array:
    """Latents [K', ..., D] of uint8 frames [K', ..., S, S, 3]; dropout by one key a task [K'] if given."""
    flat = frames.reshape(-1, *frames.shape[-3:]).astype(model.dtype) / 255
    z = model.encoder_module.apply({"params": params["encoder"]}, flat, keys)
    return z.reshape(*frames.shape[:-3], model.width)


def with_actions(model: WorldModel, params: Any, z: jax.Array, action: jax.Array) -> jax.Array:
    """Tokens [N, 2 T, D] z_0, a_0, z_1, ... of latents [N, T, D] and actions [N, T], without positions."""
    one_hot = jax.nn.one_hot(action, model.action_size, dtype=model.dtype)
    embedded = one_hot @ params["tokens"]["action"].astype(model.dtype)
    return jnp.stack([z.astype(model.dtype), embedded], axis=-2).reshape(len(z), -1, model.width)


def run(model: WorldModel, params: Any, tokens, mask, cache: Cache | None = None, keys=None, valid=None):
    """Hidden states [N, T, D] of tokens under mask [N, T, L + T], the new cache, and what the layers say of themselves
    over the tokens of valid tasks [K'].

    A token's position is the number of tokens that it sees before it, so that training, search and acting agree
    wherever a window or an episode begins.
    """
    position = jax.nn.one_hot(mask.sum(-1) - 1, 2 * model.unroll, dtype=model.dtype)
    x = tokens + position @ params["tokens"]["positions"].astype(model.dtype)
    apply = functools.partial(model.backbone.apply, mutable=["intermediates"])
    (hidden, cache), watched = apply({"params": params["backbone"]}, x, mask, cache, keys, valid)
    return hidden, cache, watched["intermediates"]


def task_heads(params: Any, ids: jax.Array) -> Any:
    """The rows of the tasks `ids` [K']: leaves [K', ...]."""
    return routing.take_rows(params["heads"], ids)


def head(model: WorldModel, rows: Any, name: str, hidden: jax.Array) -> jax.Array:
    """A head's output for hidden states [N, ..., D] of N = K' B sequences, the tasks' rows in order."""
    module, count = model.head_modules[name], len(jax.tree.leaves(rows[name])[0])
    folded = hidden.reshape(count, -1, *hidden.shape[1:])
    y = jax.vmap(lambda row, x: module.apply({"params": row}, x))(rows[name], folded)
    return y.reshape(*hidden.shape[:-1], -1)


def predict(model: WorldModel, rows: Any, hidden: jax.Array, mask: jax.Array) -> Prediction:
    """Policy and value after observation tokens [N, ..., D]; mask [N, A] of the actions that each may take."""
    mask = mask.reshape(len(mask), *[1] * (hidden.ndim - 2), -1)
    policy = distributions.masked(head(model, rows, "policy", hidden), mask)
    return Prediction(policy, head(model, rows, "value", hidden))


# --- A window at once -------------------------------------------------------------------------------------------------


class Outputs(NamedTuple):
    """Of all T steps of N windows."""

    prediction: Prediction
    reward: jax.Array  # [N, T, bins] logits
    latent: jax.Array  # [N, T, D] of the next step
    continuation: jax.Array | None = None  # [N, T] logits


def unroll(
    model: WorldModel, params: Any, rows: Any, z, action, is_first, mask, keys=None, valid=None
) -> tuple[Outputs, Any]:
    """Outputs of windows: latents [N, T, D], actions and is_first [N, T], mask [N, A]; and the layers' own words."""
    segment = jnp.repeat(jnp.cumsum(is_first, axis=-1), 2, axis=-1)
    time = jnp.arange(segment.shape[-1])
    visible = (time[:, None] >= time) & (segment[:, :, None] == segment[:, None, :])
    hidden, _, watched = run(model, params, with_actions(model, params, z, action), visible, None, keys, valid)
    after_latent, after_action = hidden[:, ::2], hidden[:, 1::2]
    reward, latent = (head(model, rows, name, after_action) for name in ("reward", "latent"))
    on = head(model, rows, "continuation", after_action)[..., 0] if model.continuation else None
    return Outputs(predict(model, rows, after_latent, mask), reward, latent, on), watched


# --- A step at a time, in environments and in the tree ----------------------------------------------------------------


def push(context: Steps, newest: jax.Array, action: jax.Array) -> Steps:
    """The contexts [..., L] with one more step: frame or latent [..., ...] and action [...]; a full one drops its
    oldest."""
    past, axis, size = context[0], action.ndim, context.action.shape[-1]
    past = jnp.concatenate([jax.lax.slice_in_dim(past, 1, size, axis=axis), jnp.expand_dims(newest, axis)], axis)
    actions = jnp.concatenate([context.action[..., 1:], action[..., None]], axis=-1)
    return type(context)(past, actions, jnp.minimum(context.length + 1, size))


def _read(model: WorldModel, params: Any, context: Context):
    """Hidden states [N, 2 L, D] of contexts [N, L], their cache, and which tokens are in use [N, 2 L]."""
    size = 2 * model.context
    time = jnp.arange(size)
    used = time >= size - 2 * context.length[:, None]
    visible = (time[:, None] >= time) & used[:, None]
    hidden, cache, _ = run(model, params, with_actions(model, params, context.latent, context.action), visible)
    return hidden, cache, used


def _newest(model: WorldModel, params: Any, rows: Any, latent, cache: Cache, used, mask) -> Prediction:
    """Policy and value of latents [N, D] after the contexts in the cache."""
    visible = jnp.concatenate([used, jnp.ones_like(used[:, :1])], axis=-1)[:, None]
    hidden, _, _ = run(model, params, latent[:, None].astype(model.dtype), visible, cache)
    return predict(model, rows, hidden[:, 0], mask)


def start(model: WorldModel, params: Any, rows: Any, context: Context, latent, mask) -> tuple[Prediction, Node]:
    """Policy and value of the newest latents [N, D] after contexts [N, L], and the roots of the trees."""
    _, cache, used = _read(model, params, context)
    return _newest(model, params, rows, latent, cache, used, mask), Node(context, latent)


def follow(
    model: WorldModel, params: Any, rows: Any, node: Node, action, mask
) -> tuple[jax.Array, jax.Array, Prediction, Node]:
    """Rewards [N] of actions [N] taken at nodes and the probabilities [N] that the task goes on behind them; policy,
    value and node of what they lead to.

    The window is read afresh and only its last token goes through a cache: a window that drops its oldest step moves
    all positions, which stored keys could not follow.
    """
    context = push(node.context, node.latent, action)
    hidden, cache, used = _read(model, params, context)
    latent = head(model, rows, "latent", hidden[:, -1])
    reward = targets.scalar(head(model, rows, "reward", hidden[:, -1]))
    on = jnp.ones_like(reward)
    if model.continuation:
        on = jax.nn.sigmoid(head(model, rows, "continuation", hidden[:, -1])[:, 0].astype(jnp.float32))
    prediction = _newest(model, params, rows, latent, cache, used, mask)
    return reward, on, prediction, Node(context, latent)


# --- The losses of a window -------------------------------------------------------------------------------------------


def losses(
    outputs: Outputs, latent, reward, value, weight, policy, is_first, termination, smoothing: float
) -> dict[str, jax.Array]:
    """Each task's loss terms [K'] from outputs and targets [K', B, H, ...]; means over windows and steps.

    latent: of the NEXT step, by the target encoder; reward, value: scalars; weight of the value's; policy: visits as a
    distribution, all zero where there are none; is_first [K', B, H + 1]; termination: lost lives too.
    """
    prediction, bins = outputs.prediction, outputs.reward.shape[-1]
    inside = 1.0 - is_first[..., 1:]  # the frame behind a last step is another episode's
    mean = lambda x, w: (x * w).sum((-2, -1)) / jnp.maximum(w.sum((-2, -1)), 1.0)
    always, logits = jnp.ones_like(weight), prediction.policy
    scored = lambda of, x: targets.cross_entropy(of, targets.categories(x, bins, smoothing))
    squared = (outputs.latent.astype(jnp.float32) - latent.astype(jnp.float32)) ** 2
    terms = {
        "latent": mean(squared.mean(-1), inside),
        "reward": mean(scored(outputs.reward, reward), always),
        "value": mean(scored(prediction.value, value), weight),
        "policy": mean(targets.cross_entropy(logits, policy), always),
        "entropy": mean(distributions.categorical_entropy(logits), always),
    }
    if outputs.continuation is not None:
        on = outputs.continuation.astype(jnp.float32)
        terms["continuation"] = mean(optax.sigmoid_binary_cross_entropy(on, 1.0 - termination), always)
    return terms
