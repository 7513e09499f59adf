"""The world model of K tasks: modular VAEs, routed dynamics, prediction heads, and its losses.

Parameters come in three parts: "cluster" [N_m, ...], "expert" [N_e, ...], "shared". `gather` takes each task's rows by
the table; the functions below it see ONE task's rows and run under vmap over tasks (axis name "task").
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mow_jax.ops import distributions, routing, twohot
from mow_jax.systems.mow import inverse, router, vae
from mow_jax.systems.mow.blocks import Head, Linear, Pool, Transformer, causal_mask
from mow_jax.systems.mow.dynamics import Dynamics, Expert, Shared
from mow_jax.systems.mow.router import Routing
from mow_jax.systems.mow.types import Table
from mow_jax.types import Batch


class Rows(NamedTuple):
    """What one task sees of the parameters (under vmap: every leaf but `shared` has a leading [K])."""

    cluster: Any  # encoder, posterior, decoder, prior, reward, continuation, and inverse where there is one
    statistics: Any  # batch-norm running statistics of encoder and decoder
    experts: Any  # [n_k, ...]
    shared: Any  # shared Transformer, task head
    embedding: Any  # [E], unit norm
    gate: Any  # [n_k]


ROW_AXES = Rows(0, 0, 0, None, 0, 0)  # vmap's in_axes for Rows


class Posterior(NamedTuple):
    """What the encoder makes of frames."""

    log_p: jax.Array  # [B, T, G, C]
    z: jax.Array  # [B, T, G * C] one-hot sample with straight-through gradient


@dataclasses.dataclass(frozen=True)
class WorldModel:
    """Sizes and options; the modules are built from them once."""

    image_size: int
    action_size: int  # A
    discrete: bool
    clusters: int  # N_m
    routing: Routing
    max_length: int  # longest sequence of tokens
    positions: int  # of them the first that windows train, as no episode is longer
    categoricals: int  # G
    classes: int  # C
    unimix: float
    autoencoder: str
    channels: int
    norm: str
    activation: str
    posterior_scale: float
    width: int  # D
    layers: int
    shared_layers: int
    heads: int
    dropout: float
    position_scale: float
    head_width: int
    zero_heads: bool
    reward: str
    mask_boundaries: bool
    free_bits: float
    inverse: bool  # whether latents must tell what was done between them
    dtype: Any

    @property
    def latent(self) -> int:
        """Z, the size of a flattened latent."""
        return self.categoricals * self.classes

    @functools.cached_property
    def cluster_modules(self) -> dict[str, Any]:
        """The modules that each cluster has its own row of."""
        encoder, decoder = vae.MODULES[self.autoencoder]
        seen = dict(norm=self.norm, activation=self.activation, dtype=self.dtype)
        head = dict(width=self.head_width, activation=self.activation, zero=self.zero_heads, dtype=self.dtype)
        return {
            "encoder": encoder(self.image_size, self.channels, **seen),
            "posterior": Linear(self.latent, scale=self.posterior_scale, dtype=self.dtype),
            "decoder": decoder(self.image_size, self.channels, **seen),
            "prior": Linear(self.latent, dtype=self.dtype),
            "reward": Head(twohot.BINS, **head),
            "continuation": Head(1, **head),
        } | ({"inverse": Head(self.action_size, **head)} if self.inverse else {})

    @functools.cached_property
    def dynamics(self) -> Dynamics:
        """Expert and shared Transformers."""
        transformer = functools.partial(
            Transformer,
            heads=self.heads,
            max_length=self.max_length,
            positions=self.positions,
            dropout=self.dropout,
            position_scale=self.position_scale,
            dtype=self.dtype,
        )
        shared = transformer(self.shared_layers) if self.shared_layers else None
        expert = Expert(self.width, transformer(self.layers) if self.layers else None, self.dtype)
        return Dynamics(expert, Shared(self.width, shared, self.routing.active, self.dtype))

    @functools.cached_property
    def task_head(self) -> Head:
        """From h alone to the task's logits [K]."""
        width, options = self.head_width, dict(activation=self.activation, zero=self.zero_heads, dtype=self.dtype)
        return Head(self.routing.tasks, width, **options)


def init(model: WorldModel, key: jax.Array) -> tuple[Any, Any]:
    """Parameters {"cluster", "expert", "shared"} and batch-norm statistics [N_m, ...]."""
    key_cluster, key_dynamics, key_routing, key_task = jax.random.split(key, 4)
    width = model.routing.embedding
    frame = jnp.zeros((1, model.image_size, model.image_size, 3))
    hidden, z, embedding = jnp.zeros((1, model.width + width)), jnp.zeros((1, model.latent)), jnp.zeros((1, width))
    inputs = dict.fromkeys(("prior", "reward", "continuation"), (hidden,)) | {
        "encoder": (frame, True, _no_pool),
        "posterior": (jnp.zeros((1, model.cluster_modules["encoder"].features + width)),),
        "decoder": (z, embedding, True, _no_pool),
    }
    if model.inverse:
        inputs["inverse"] = (jnp.zeros((1, 2 * model.latent + inverse.STEPS + width)),)

    def init_row(row_key):
        keys = dict(zip(inputs, jax.random.split(row_key, len(inputs)), strict=True))
        made = {name: model.cluster_modules[name].init(keys[name], *inputs[name]) for name in inputs}
        parameters = {name: made[name]["params"] for name in made}
        return parameters, {name: made[name]["batch_stats"] for name in made if "batch_stats" in made[name]}

    cluster, statistics = jax.vmap(init_row)(jax.random.split(key_cluster, model.clusters))
    token = model.latent + model.action_size + width
    expert, shared = model.dynamics.init(key_dynamics, model.routing.experts, token, width)
    task_head = model.task_head.init(key_task, jnp.zeros((1, model.width)))["params"]
    shared = {"dynamics": shared, "task_head": task_head} | router.init(model.routing, key_routing)
    return {"cluster": cluster, "expert": expert, "shared": shared}, statistics


def gather(model: WorldModel, params: Any, statistics: Any, table: Table, ids: jax.Array, scores: jax.Array) -> Rows:
    """The rows of the tasks `ids` [K'] by the full table, and by the router's scores [K, N_e] if it gates."""
    cluster, experts = table.cluster[ids], table.experts[ids]
    return Rows(
        cluster=routing.take_rows(params["cluster"], cluster),
        statistics=routing.take_rows(statistics, cluster),
        experts=routing.take_rows(params["expert"], experts),
        shared=params["shared"],
        embedding=router.embeddings(model.routing, params["shared"])[ids],
        gate=router.gates(model.routing, scores[ids], experts),
    )


# Below: one task's rows.


def _no_pool(x: jax.Array) -> jax.Array:
    return x


def _run(model: WorldModel, rows: Rows, name: str, *inputs, train: bool, pool: Pool) -> tuple[jax.Array, Any]:
    """A convolutional module of the cluster on its inputs, with its new running statistics."""
    variables = {"params": rows.cluster[name], "batch_stats": rows.statistics.get(name, {})}
    output, updated = model.cluster_modules[name].apply(variables, *inputs, train, pool, mutable=["batch_stats"])
    return output, updated.get("batch_stats", {})


def head(model: WorldModel, rows: Rows, name: str, hidden: jax.Array) -> jax.Array:
    """A head of the cluster ("prior", "reward", ...) on hidden states [..., D] and the task's embedding."""
    x = _with_embedding(hidden, rows.embedding)
    return model.cluster_modules[name].apply({"params": rows.cluster[name]}, x)


def _with_embedding(x: jax.Array, embedding: jax.Array) -> jax.Array:
    return jnp.concatenate([x, jnp.broadcast_to(embedding, (*x.shape[:-1], embedding.shape[-1])).astype(x.dtype)], -1)


def encode(
    model: WorldModel, rows: Rows, frames, key, train: bool = False, pool: Pool = _no_pool, in_turn: bool = False
) -> tuple[Posterior, Any]:
    """Posteriors of uint8 frames [B, T, S, S, 3], and the encoder's new running statistics.

    `in_turn`, not in training: one time step of all windows after the other, in a T-th of the memory.
    """
    run = lambda x: _run(model, rows, "encoder", x.astype(model.dtype) / 255, train=train, pool=pool)
    if in_turn:
        features, statistics = jax.lax.map(run, frames.swapaxes(0, 1))
        features = features.swapaxes(0, 1)
    else:
        features, statistics = run(frames.reshape(-1, *frames.shape[2:]))
        features = features.reshape(*frames.shape[:2], -1)
    x = _with_embedding(features, rows.embedding)
    log_p = unimixed(model, model.cluster_modules["posterior"].apply({"params": rows.cluster["posterior"]}, x))
    return Posterior(log_p, distributions.sample_latent(key, log_p)), statistics


def unimixed(model: WorldModel, logits: jax.Array) -> jax.Array:
    """Log-probabilities [..., G, C] of flat logits [..., G * C]."""
    return distributions.unimix(logits.reshape(*logits.shape[:-1], model.categoricals, model.classes), model.unimix)


def decode(model: WorldModel, rows: Rows, z) -> jax.Array:
    """Frames [B, T, S, S, 3] in float32 of latents [B, T, Z], by running statistics."""
    frames = vae.to_frames(_decode(model, rows, z, False, _no_pool)[0])
    return frames.reshape(*z.shape[:-1], *frames.shape[1:])


def _decode(model: WorldModel, rows: Rows, z, train: bool, pool: Pool) -> tuple[jax.Array, Any]:
    """Frames as the decoder lays them out, [B * T, ...], and its new running statistics."""
    flat = z.reshape(-1, z.shape[-1])
    embedding = jnp.broadcast_to(rows.embedding, (flat.shape[0], rows.embedding.shape[-1]))
    return _run(model, rows, "decoder", flat, embedding, train=train, pool=pool)


def prior(model: WorldModel, rows: Rows, hidden: jax.Array) -> jax.Array:
    """Log-probabilities [..., G, C] of the next latent after hidden states [..., D]."""
    return unimixed(model, head(model, rows, "prior", hidden))


def tokens(model: WorldModel, rows: Rows, z: jax.Array, action: jax.Array) -> jax.Array:
    """[z, a, e_k] [..., Z + A + E]; integer actions [...] become one-hot, continuous ones [..., A] stay."""
    if model.discrete:
        action = jax.nn.one_hot(action, model.action_size)
    return _with_embedding(jnp.concatenate([z.astype(model.dtype), action.astype(model.dtype)], -1), rows.embedding)


def transition(model: WorldModel, rows: Rows, z, action, mask, cache=None, place=0, dropout_key=None):
    """Hidden states [B, T, D] of latents [B, T, Z] and actions under an attention mask [B, T, L]; and the new cache."""
    token = tokens(model, rows, z, action)
    return model.dynamics.apply(
        rows.experts, rows.shared["dynamics"], rows.gate, token, rows.embedding, mask, cache, place, dropout_key
    )


def segments(model: WorldModel, is_first: jax.Array) -> jax.Array:
    """Episode numbers [B, T] inside windows, all zero when boundaries are ignored (STORM)."""
    return jnp.cumsum(is_first, axis=-1) if model.mask_boundaries else jnp.zeros(is_first.shape, jnp.int32)


def predicted_reward(model: WorldModel, rows: Rows, hidden: jax.Array) -> jax.Array:
    """Decoded rewards [...] of hidden states [..., D]."""
    return twohot.read(model.reward, head(model, rows, "reward", hidden))


def termination_logit(model: WorldModel, rows: Rows, hidden: jax.Array) -> jax.Array:
    """Logits [...] of the termination; the continuation is 1 - sigmoid."""
    return head(model, rows, "continuation", hidden)[..., 0].astype(jnp.float32)


def losses(model: WorldModel, rows: Rows, batch: Batch, task: jax.Array, key, train: bool, pool: Pool):
    """The loss terms of one task on windows [B, T], each a scalar, and the new batch-norm statistics.

    With train=False nothing is drawn but the latents' samples: running statistics, no dropout (gradient clustering).
    """
    key_latent, key_dropout = jax.random.split(key)
    posterior, encoder_statistics = encode(model, rows, batch.observation, key_latent, train, pool)
    decoded, decoder_statistics = _decode(model, rows, posterior.z, train, pool)
    segment = segments(model, batch.is_first)
    dropout_key = key_dropout if train and model.dropout else None
    hidden, _ = transition(model, rows, posterior.z, batch.action, causal_mask(segment), dropout_key=dropout_key)

    logit = termination_logit(model, rows, hidden)
    task_logits = model.task_head.apply({"params": rows.shared["task_head"]}, hidden).astype(jnp.float32)
    kl_dyn, kl_rep = _kl(posterior.log_p, prior(model, rows, hidden), segment)
    terms = {
        "reconstruction": vae.squared_error(decoded, batch.observation).mean(),
        "reward": twohot.cross_entropy(head(model, rows, "reward", hidden), batch.reward).mean(),
        "continuation": (jax.nn.softplus(logit) - logit * batch.termination).mean(),
        "task": -jax.nn.log_softmax(task_logits)[..., task].mean(),
        "dyn": jnp.maximum(model.free_bits, kl_dyn),
        "rep": jnp.maximum(model.free_bits, kl_rep),
    }
    asked = functools.partial(head, model, rows, "inverse")
    terms |= {"inverse": inverse.loss(model.discrete, asked, posterior.z, batch)} if model.inverse else {}
    statistics = {"encoder": encoder_statistics, "decoder": decoder_statistics}
    return terms, ({name: statistics[name] for name in rows.statistics}, kl_dyn)


def _kl(posterior: jax.Array, prior_: jax.Array, segment: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean KL of posterior_{t+1} against prior_t over pairs inside an episode: for dynamics and representation."""
    now, before, stop = posterior[:, 1:], prior_[:, :-1], jax.lax.stop_gradient
    inside = (segment[:, 1:] == segment[:, :-1]).astype(jnp.float32)
    mean = lambda kl: (kl * inside).sum() / jnp.maximum(inside.sum(), 1.0)
    return mean(distributions.kl(stop(now), before)), mean(distributions.kl(now, stop(before)))
