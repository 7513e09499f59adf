"""One task, one cluster and one expert are STORM: every number recorded from its reference comes out of our functions.

Reads tests/fixtures/storm_small.npz, or the set that MOW_PARITY_FIXTURE names (an .npz with its .json beside it).
"""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import storm_fixture
from compiled import quick
from storm_fixture import Recording

from mow_jax import build, config
from mow_jax.ops import distributions, returns, twohot
from mow_jax.systems.mow import actor_critic, world_model
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow.agent import Agent
from mow_jax.systems.mow.blocks import causal_mask
from mow_jax.systems.mow.types import Dream, TrainState
from mow_jax.systems.mow.vae import MAP, to_frames
from mow_jax.systems.mow.world_model import ROW_AXES, Rows
from mow_jax.types import Batch, Shard, Task

# --- STORM as a configuration of ours ---------------------------------------------------------------------------------


def storm_agent(recording: Recording) -> Agent:
    """The agent whose sizes are the recording's."""
    sizes, shapes = recording.sizes, recording.world | recording.agent
    convolutions = [name for name, shape in shapes.items() if name.startswith("encoder.") and len(shape) == 4]
    actor = [name for name, shape in recording.agent.items() if name.startswith("actor.") and len(shape) == 2]
    settings = config.default()
    settings.suite.image_size = MAP * 2 ** len(convolutions)
    settings.clustering.method = "single"
    settings.router.update(experts=1, active=1)
    settings.model.update(
        compute_dtype="float32",
        embedding=0,
        channels=shapes["encoder.backbone.0.weight"][0],
        width=sizes.hidden,
        layers=sizes.layers,
        shared_layers=0,
        heads=sizes.heads,
        dropout=0.0,
        head_width=shapes["reward_decoder.backbone.0.weight"][0],
    )
    settings.loss.update(task=0.0, balance=0.0, harmony="off", mask_boundaries=False)
    settings.agent.update(
        width=shapes["actor.0.weight"][0],
        depth=len(actor) - 1,
        gamma=0.985,
        lambda_=0.95,
        entropy=3e-4,
        unimix=0.0,
        return_init="zero",
        bootstrap="current",
        weights=False,
    )
    # The position table is as long as the windows.
    settings.batch.length = sizes.max_length
    settings.agent.update(context=2, horizon=1, act_context=1)
    config.check(settings)
    task = Task("recorded", "recorded", True, sizes.actions, (True,) * sizes.actions, 1, None, None)
    return mow.agent(settings, [task], build.plan(settings))


# --- PyTorch's parameters as our pytrees; linear, so that gradients come back in PyTorch's layout ---------------------


def linear(w: dict, name: str) -> dict:
    """A linear map [O, I]."""
    return {"kernel": w[f"{name}.weight"].T} | bias(w, name)


def bias(w: dict, name: str) -> dict:
    return {"bias": w[f"{name}.bias"]} if f"{name}.bias" in w else {}


def norm(w: dict, name: str) -> dict:
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def mlp(w: dict, name: str, out: str) -> dict:
    """Layers name.0 (linear), name.1 (norm), name.3, name.4, ..., then the linear map `out`."""
    count = sum(1 for i in range(len(w)) if f"{name}.{3 * i + 1}.weight" in w)
    layers: dict[str, dict] = {f"Linear_{count}": linear(w, out)}
    for i in range(count):
        layers |= {f"Linear_{i}": linear(w, f"{name}.{3 * i}"), f"LayerNorm_{i}": norm(w, f"{name}.{3 * i + 1}")}
    return layers


def encoder(w: dict, blocks: int) -> dict:
    def block(i: int) -> dict:
        kernel = w[f"encoder.backbone.{3 * i}.weight"].transpose(2, 3, 1, 0)  # from O, I, H, W
        return {"Convolution_0": {"kernel": kernel}, "BatchNorm_0": norm(w, f"encoder.backbone.{3 * i + 1}")}

    return {f"block_{i}": block(i) for i in range(blocks)}


def decoder(w: dict, blocks: int) -> dict:
    """Ours counts blocks by their width, the smallest is block 0; the reference in the order of application."""
    stem = w["image_decoder.backbone.0.weight"]
    stem = stem.reshape(-1, MAP, MAP, stem.shape[1]).transpose(3, 1, 2, 0).reshape(stem.shape[1], -1)  # to H, W, C
    kernels = [w[f"image_decoder.backbone.{4 + 3 * i}.weight"].transpose(2, 3, 0, 1) for i in range(blocks)]
    made = {
        "stem": {"kernel": stem},
        "BatchNorm_0": norm(w, "image_decoder.backbone.2"),
        "out": {"kernel": kernels[-1]},
    }
    for i, kernel in enumerate(kernels[:-1]):
        block = {"Convolution_0": {"kernel": kernel}, "BatchNorm_0": norm(w, f"image_decoder.backbone.{5 + 3 * i}")}
        made[f"block_{blocks - 2 - i}"] = block
    return made | bias(w, f"image_decoder.backbone.{1 + 3 * blocks}")


def posterior(w: dict) -> dict:
    kernel = w["dist_head.post_head.weight"]
    kernel = kernel.reshape(len(kernel), -1, MAP, MAP).transpose(2, 3, 1, 0).reshape(-1, len(kernel))  # rows to H, W, C
    return {"kernel": kernel} | bias(w, "dist_head.post_head")


def expert(w: dict, layers: int) -> dict:
    """Stem and Transformer."""
    stem = {f"Linear_{i}": linear(w, f"storm_transformer.stem.{3 * i}") for i in range(2)}
    stem |= {f"LayerNorm_{i}": norm(w, f"storm_transformer.stem.{3 * i + 1}") for i in range(2)}
    positions = w["storm_transformer.position_encoding.pos_emb.weight"]
    transformer = {"positions": positions, "LayerNorm_0": norm(w, "storm_transformer.layer_norm")}
    for i in range(layers):
        attention, forward = (f"storm_transformer.layer_stack.{i}.{part}" for part in ("slf_attn", "pos_ffn"))
        names = {"query": "w_qs", "key": "w_ks", "value": "w_vs", "out": "fc"}
        maps = {ours: linear(w, f"{attention}.{theirs}") for ours, theirs in names.items()}
        transformer[f"attention_{i}"] = maps | {"LayerNorm_0": norm(w, f"{attention}.layer_norm")}
        maps = {f"Linear_{j}": linear(w, f"{forward}.w_{j + 1}") for j in range(2)}
        transformer[f"feed_forward_{i}"] = maps | {"LayerNorm_0": norm(w, f"{forward}.layer_norm")}
    return {"mixer": stem, "transformer": transformer}


def world_parameters(agent: Agent, w: dict) -> dict[str, Any]:
    """{"cluster": [1, ...], "expert": [1, ...]}; the shared part has no counterpart in STORM."""
    blocks = (agent.world.image_size // MAP).bit_length() - 1
    cluster = {
        "encoder": encoder(w, blocks),
        "posterior": posterior(w),
        "decoder": decoder(w, blocks),
        "prior": linear(w, "dist_head.prior_head"),
        "reward": mlp(w, "reward_decoder.backbone", "reward_decoder.head"),
        "continuation": mlp(w, "termination_decoder.backbone", "termination_decoder.head.0"),
    }
    return stacked({"cluster": cluster, "expert": expert(w, agent.world.layers)})


def stacked(tree: Any) -> Any:
    """One row of each: [1, ...]."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def behaviour_parameters(agent: Agent, w: dict) -> tuple[Any, Any, Any]:
    """Actor, critic [1, ...], slow critic [1, ...]."""
    depth = agent.behaviour.depth
    actor, critic, slow = (mlp(w, name, f"{name}.{3 * depth}") for name in ("actor", "critic", "slow_critic"))
    return actor, stacked(critic), stacked(slow)


def running_names(agent: Agent) -> dict[str, dict[str, str]]:
    """{module: {our path of a batch norm: its PyTorch name}}."""
    blocks = (agent.world.image_size // MAP).bit_length() - 1
    encoder_norms = {f"block_{i}": f"encoder.backbone.{3 * i + 1}" for i in range(blocks)}
    decoder_norms = {f"block_{blocks - 2 - i}": f"image_decoder.backbone.{5 + 3 * i}" for i in range(blocks - 1)}
    return {"encoder": encoder_norms, "decoder": decoder_norms | {"": "image_decoder.backbone.2"}}


def state_with(agent: Agent, w: dict) -> TrainState:
    """A state before the first update whose parameters are the recording's; the task head is zero."""
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_state(agent))
    actor, critic, slow_critic = behaviour_parameters(agent, w)
    statistics = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf + (path[-1].key == "var"), state.statistics)
    return state._replace(
        params=state.params | world_parameters(agent, w),
        statistics=statistics,
        actor=actor,
        critic=critic,
        slow_critic=slow_critic,
    )


@functools.cache
def abstract_state(agent: Agent) -> TrainState:
    return jax.eval_shape(functools.partial(algorithm.init, agent), 0)


# --- Our numbers under the recording's keys ---------------------------------------------------------------------------


def shard_of(agent: Agent) -> Shard:
    """The one task, with all its actions."""
    mask = np.ones((1, agent.world.action_size), bool)
    return Shard(ids=np.zeros(1, np.int32), valid=np.ones(1, np.float32), mask=mask, seed=np.zeros(1, np.uint32))


def unstacked(tree: Any) -> Any:
    """The one row of [1, ...]."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def on_one_device(function, *args):
    """A function that reduces over the axis "device", compiled and run on one of them."""
    outputs = quick(jax.vmap(function, axis_name="device"))(*stacked(args))
    return jax.tree.map(np.asarray, unstacked(outputs))


def world_numbers(recording: Recording, agent: Agent, w: dict) -> dict[str, Any]:
    """Everything that one training pass over the window leaves, and the passes in evaluation mode after it."""
    inputs = storm_fixture.window(recording.sizes)
    # Every frame begins an episode: STORM does not care.
    batch = Batch(*inputs[:4], is_first=np.ones(inputs.reward.shape, bool))

    def loss(weights, batch, shard):
        state = state_with(agent, weights)
        return algorithm.world_loss(agent, state.params, state.harmony, state, batch, shard)

    def passes(weights, batch, shard):
        gradients, (_, statistics, metrics) = jax.grad(loss, has_aux=True)(weights, batch, shard)
        before = state_with(agent, weights)
        after = before._replace(statistics=statistics)
        arrays = each_task(training_pass, agent, before, batch, shard)
        return gradients, statistics, metrics, arrays | each_task(evaluation_pass, agent, after, batch, shard)

    with drawn(inputs.latent):
        gradients, statistics, metrics, arrays = on_one_device(passes, w, stacked(batch), shard_of(agent))
    gradients = {name: gradients[name] for name in recording.world}
    numbers = unstacked(arrays) | dict(storm_fixture.gradient_numbers(recording.sizes, gradients))
    names = {"reconstruction": "reconstruction", "reward": "reward", "termination": "continuation", "total": "total"}
    names |= {"dynamics": "dyn", "representation": "rep", "dynamics_kl_raw": "kl"}
    numbers |= {f"loss/{theirs}": metrics[f"world/{ours}"][0] for theirs, ours in names.items()}
    return numbers | running(agent, statistics)


def each_task(run, agent: Agent, state: TrainState, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
    """A function of one task's rows and batch, for all tasks."""
    rows = algorithm.gather(agent, state, shard)
    return jax.vmap(functools.partial(run, agent), in_axes=(ROW_AXES, 0))(rows, batch)


def drawn(latent: np.ndarray):
    """Makes every draw of latents [B, T, ...] the recorded one."""

    def draw(key, log_p):
        assert log_p.shape[:-1] == latent.shape
        return jnp.asarray(latent)

    return mock.patch.object(distributions, "sample_index", draw)


def training_pass(agent: Agent, rows: Rows, batch: Batch) -> dict[str, jax.Array]:
    """What the modules give on the way to the losses."""
    model = agent.world
    made, _ = world_model.encode(model, rows, batch.observation, jax.random.key(0), train=True)
    decoded, _ = world_model._decode(model, rows, made.z, True, world_model._no_pool)
    frames = to_frames(decoded)
    mask = causal_mask(world_model.segments(model, batch.is_first))
    hidden, _ = world_model.transition(model, rows, made.z, batch.action, mask)
    prior = world_model.prior(model, rows, hidden)
    return {
        "embedding": embedding(agent, rows, batch, train=True),
        "post_logits": made.log_p,
        "decoded": frames.reshape(*made.z.shape[:-1], *frames.shape[1:]),
        "hidden": hidden,
        "prior_logits": prior,
        "reward_logits": world_model.head(model, rows, "reward", hidden),
        "reward_decoded": world_model.predicted_reward(model, rows, hidden),
        "termination_logits": world_model.termination_logit(model, rows, hidden),
        "loss/representation_kl_raw": distributions.kl(made.log_p[:, 1:], prior[:, :-1]).mean(),
    }


def evaluation_pass(agent: Agent, rows: Rows, batch: Batch) -> dict[str, jax.Array]:
    """The encoder on running statistics; the Transformer a token at a time through a cache of the longest length."""
    model, (count, time) = agent.world, batch.reward.shape
    made, _ = world_model.encode(model, rows, batch.observation, jax.random.key(0))

    def step(cache, inputs):
        i, z, action = inputs
        visible = jnp.broadcast_to(jnp.arange(model.max_length) <= i, (count, 1, model.max_length))
        hidden, cache = world_model.transition(model, rows, z[:, None], action[:, None], visible, cache, i)
        return cache, hidden[:, 0]

    inputs = (jnp.arange(time), made.z.swapaxes(0, 1), batch.action.swapaxes(0, 1))
    _, hidden = jax.lax.scan(step, model.dynamics.empty_cache(count, model.max_length), inputs)
    return {"embedding_eval": embedding(agent, rows, batch, train=False), "hidden_step": hidden.swapaxes(0, 1)}


def embedding(agent: Agent, rows: Rows, batch: Batch, train: bool) -> jax.Array:
    """The encoder's features [B, T, F], flattened as C, H, W."""
    frames = batch.observation.astype(jnp.float32) / 255
    variables = {"params": rows.cluster["encoder"], "batch_stats": rows.statistics["encoder"]}
    module, alone = agent.world.cluster_modules["encoder"], lambda statistic: statistic
    flat, _ = module.apply(variables, frames.reshape(-1, *frames.shape[2:]), train, alone, mutable=["batch_stats"])
    features = flat.reshape(len(flat), MAP, MAP, -1).transpose(0, 3, 1, 2)
    return features.reshape(*batch.reward.shape, -1)


def running(agent: Agent, statistics: dict) -> dict[str, np.ndarray]:
    """Running statistics under PyTorch's names."""
    made = {}
    for module, names in running_names(agent).items():
        for block, name in names.items():
            of_block = statistics[module][block] if block else statistics[module]
            mean, var = (of_block["BatchNorm_0"][kind][0] for kind in ("mean", "var"))
            made |= {f"running/{name}.running_mean": mean, f"running/{name}.running_var": var}
    return made


def behaviour_numbers(recording: Recording, agent: Agent, w: dict) -> dict[str, Any]:
    """Everything of one update of actor and critics on the recorded dream, before the clip."""
    inputs = storm_fixture.rollouts(recording.sizes)
    z = np.eye(storm_fixture.CLASSES, dtype=np.float32)[inputs.latent].reshape(*inputs.latent.shape[:2], -1)
    dream = Dream(z, inputs.hidden, inputs.action, inputs.reward, 1 - inputs.termination.astype(np.float32))

    def loss(learned, weights, dream, shard):
        state = state_with(agent, weights)
        actor, critic, _ = behaviour_parameters(agent, weights | learned)
        rows = algorithm.gather(agent, state, shard)
        total, (scale, metrics) = algorithm.behaviour_loss(agent, (actor, critic), state, rows, dream, shard)
        return total, {"total_loss": total, "S": scale[0]} | {name: value[0] for name, value in metrics.items()}

    def passes(learned, weights, dream, shard):
        return *jax.grad(loss, has_aux=True)(learned, weights, dream, shard), behaviour_pass(agent, weights, dream)

    learned = {name: w[name] for name in recording.agent if not name.startswith("slow_critic.")}
    gradients, losses, arrays = on_one_device(passes, learned, w, stacked(dream), shard_of(agent))
    names = {"policy_loss": "agent/policy", "value_loss": "agent/critic", "entropy_loss": "agent/entropy"}
    losses |= {theirs: losses[ours] for theirs, ours in names.items()} | {"norm_ratio": np.maximum(1, losses["S"])}
    kept = (*names, "S", "norm_ratio", "total_loss")
    numbers = dict(storm_fixture.gradient_numbers(recording.sizes, gradients, "agent/"))
    return numbers | unstacked(arrays) | {f"agent/loss/{name}": losses[name] for name in kept}


def behaviour_pass(agent: Agent, w: dict, dream: Dream) -> dict[str, jax.Array]:
    """What the networks and the returns give on the way to the losses, for all tasks."""
    behaviour = agent.behaviour
    actor, *critics = behaviour_parameters(agent, w)
    features = actor_critic.features(dream.z, dream.hidden, jnp.zeros(0))
    logits, slow_logits = (
        jax.vmap(functools.partial(actor_critic.value_logits, behaviour))(critic, features) for critic in critics
    )

    def lambda_return(value):
        inner = (dream.reward, value, dream.continuation)
        return returns.lambda_return(*inner, behaviour.gamma, behaviour.lambda_, behaviour.bootstrap)

    value, slow_value = twohot.decode(logits), twohot.decode(slow_logits)
    return {
        "agent/policy_logits": behaviour.actor.apply({"params": actor}, features),
        "agent/value_logits": logits,
        "agent/value": value,
        "agent/slow_value": slow_value,
        "agent/lambda_return": lambda_return(value),
        "agent/slow_lambda_return": lambda_return(slow_value),
    }


# --- The comparison ---------------------------------------------------------------------------------------------------

RECORDING = storm_fixture.load(storm_fixture.PATH)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    """{key: our number}."""
    agent = storm_agent(RECORDING)
    w = storm_fixture.weights(RECORDING.sizes, RECORDING.world | RECORDING.agent)
    return world_numbers(RECORDING, agent, w) | behaviour_numbers(RECORDING, agent, w)


def allowed(key: str) -> float:
    """The largest absolute difference at a key that float32 explains."""
    if "grad_norm/" in key or "grad_dot/" in key:
        return 1e-3 * float(RECORDING.expected[key.replace("grad_dot/", "grad_norm/")])
    return 1e-4 * float(np.abs(RECORDING.expected[key]).max())


def test_every_recorded_number_is_compared_and_none_is_missing(numbers):
    assert set(numbers) == set(RECORDING.expected)


@pytest.mark.parametrize("key", sorted(RECORDING.expected))
def test_agrees_with_the_reference(numbers, key: str):
    ours, theirs = np.asarray(numbers[key], np.float64), np.asarray(RECORDING.expected[key], np.float64)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= allowed(key)


def test_the_entropy_bonus_has_its_size_and_sign(numbers):
    """It is smaller than what the comparison above allows the total."""
    total, bonus = "agent/loss/total_loss", 3e-4 * RECORDING.expected["agent/loss/entropy_loss"]
    assert abs(numbers[total] - RECORDING.expected[total]) <= bonus / 2


def test_a_state_holds_exactly_the_parameters_of_the_reference():
    agent = storm_agent(RECORDING)
    w = storm_fixture.weights(RECORDING.sizes, RECORDING.world | RECORDING.agent)
    made = jax.eval_shape(functools.partial(state_with, agent), w)
    chex.assert_trees_all_equal_shapes_and_dtypes(made, abstract_state(agent))
    ours = [made.params["cluster"], made.params["expert"], made.actor, made.critic, made.slow_critic]
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == sum(weight.size for weight in w.values())
