"""The mixture against a dense oracle, targets against loops, and one model read as a window and step by step."""

from __future__ import annotations

import functools
import runpy

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from drawing import parameters as drawn
from processes import ROOT

from mow_jax import envs
from mow_jax.envs import suites
from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import encoder, mixture, targets, transformer, world_model
from mow_jax.systems.scalezero.types import Context
from mow_jax.systems.scalezero.world_model import WorldModel

# --- The mixture ------------------------------------------------------------------------------------------------------

TOKENS, WIDTH, EXPERTS = 12, 6, 4


def inputs() -> dict[str, jax.Array]:
    """Tokens, gate and experts; no token's gate is ever largest for the last expert."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    x = draw(TOKENS, WIDTH)
    x[:, 0] = 3.0
    gate = draw(WIDTH, EXPERTS)
    gate[0, -1] = -10.0
    w1, w3, w2 = draw(EXPERTS, WIDTH, 8), draw(EXPERTS, WIDTH, 8), draw(EXPERTS, 8, WIDTH)
    return dict(x=x, gate=gate, w1=w1, w2=w2, w3=w3)


def ours(p: dict, active: int, gate_norm: str) -> jax.Array:
    weight, index = mixture.select(p["x"] @ p["gate"], active, gate_norm)
    return mixture.mix(p["x"], weight, index, jnp.ones(TOKENS), p["w1"], p["w2"], p["w3"])[0]


def oracle(p: dict, active: int, gate_norm: str) -> jax.Array:
    """Every expert on every token, then the weights."""
    logits = p["x"] @ p["gate"]
    chosen = logits >= jnp.sort(logits, axis=-1)[:, -active][:, None]
    e = jnp.exp(logits - logits.max(-1, keepdims=True))
    among = (e * chosen) if gate_norm == "topk" else e
    weight = chosen * e / among.sum(-1, keepdims=True)
    hidden = jnp.einsum("nd,edf->enf", p["x"], p["w1"])
    hidden = hidden / (1 + jnp.exp(-hidden)) * jnp.einsum("nd,edf->enf", p["x"], p["w3"])
    return jnp.einsum("enf,efd,ne->nd", hidden, p["w2"], weight)


@functools.cache
def mixed(active: int, gate_norm: str):
    """Values and gradients of ours and the oracle's."""

    @quick
    def both(p, r):
        made = {}
        for name, function in (("ours", ours), ("oracle", oracle)):
            y, back = jax.vjp(lambda p, f=function: f(p, active, gate_norm), p)
            made[name] = y, back(r)[0]
        return made

    r = np.random.default_rng(1).normal(size=(TOKENS, WIDTH)).astype(np.float32)
    return jax.tree.map(np.asarray, both(inputs(), r))


@pytest.mark.parametrize(("active", "gate_norm"), [(1, "topk"), (2, "topk"), (1, "all")])
def test_the_mixture_is_the_dense_one_in_values_and_gradients(active: int, gate_norm: str):
    made = mixed(active, gate_norm)
    chex.assert_trees_all_close(made["ours"], made["oracle"], atol=1e-4, rtol=1e-4)


def test_an_expert_that_no_token_chose_has_no_gradient():
    _, gradient = mixed(1, "topk")["ours"]
    for name in ("w1", "w2", "w3"):
        assert np.any(gradient[name][:-1]) and not np.any(gradient[name][-1]), name


def test_the_gate_learns_from_the_task_only_where_its_softmax_sees_more_than_one():
    gradient = {(k, norm): mixed(k, norm)["ours"][1]["gate"] for k, norm in [(1, "topk"), (1, "all"), (2, "topk")]}
    assert not np.any(gradient[1, "topk"])
    assert np.abs(gradient[1, "all"]).max() > 1e-3 and np.abs(gradient[2, "topk"]).max() > 1e-3


def test_a_layer_has_the_gate_that_it_is_given():
    def gradient(gate_norm: str):
        module, params, x = layer("mixture", gate_norm=gate_norm)
        total = lambda params: (module.apply({"params": params}, x) ** 2).sum()
        return quick(jax.grad(total))(params)

    released, learned = gradient("topk"), gradient("all")
    assert not np.any(released["gate"]) and np.abs(learned["gate"]).max() > 1e-3
    assert np.any(released["w2"] != learned["w2"])


def layer(kind: str, active: int = 1, gate_norm: str = "topk"):
    """A feed-forward layer, its parameters and four sequences for it."""
    module = mixture.Mixture(3, active, 2, gate_norm) if kind == "mixture" else mixture.FeedForward(2)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4, 20, 10)).astype(np.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x)["params"])
    return module, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes), x


@pytest.mark.parametrize("kind", ["mixture", "dense"])
def test_a_layer_s_own_words_are_of_the_tasks_that_count(kind: str):
    module, params, x = layer(kind, active=2)

    @quick
    def said(params, x):
        say = lambda *given: module.apply({"params": params}, *given, mutable=["intermediates"])[1]["intermediates"]
        return say(x, jnp.array([0.0, 1.0])), say(x[2:])

    second, alone = said(params, x)
    chex.assert_trees_all_close(second, alone, rtol=1e-4)
    assert alone["activity"][-1].tokens.tolist() == [40]
    assert kind == "dense" or alone["load"][0].sum() == 2 * 40


@pytest.mark.parametrize("kind", ["mixture", "dense"])
def test_hidden_units_that_say_nothing_are_dormant_each_by_its_own_tokens(kind: str):
    """Nine of ten are silenced; what an expert without tokens would say counts in neither."""
    module, params, x = layer(kind)

    @functools.partial(jax.jit, static_argnums=1)
    def share(params, kept):
        quiet = lambda path, leaf: leaf * (np.arange(leaf.shape[-1]) % 10 < kept) if names(path) & FIRST else leaf
        cut = jax.tree_util.tree_map_with_path(quiet, params)
        said = module.apply({"params": cut}, x, mutable=["intermediates"])[1]["intermediates"]
        return algorithm.dormant(said["activity"]), said["activity"][0].tokens

    FIRST, names = {"w1", "shared_in", "in"}, lambda path: {key.key for key in path}
    if kind == "mixture":
        params["gate"] = np.concatenate([params["gate"][:, :1], -params["gate"][:, :1], 0 * params["gate"][:, :1]], 1)
    for kept, dormant in ((1, 0.9), (10, 0.0), (0, 1.0)):
        found, tokens = share(params, kept)
        assert found == pytest.approx(dormant, abs=1e-6)
    assert (tokens > 0).tolist() == ([True, True, False] if kind == "mixture" else [True])


# --- Targets ----------------------------------------------------------------------------------------------------------


def test_n_step_targets_are_those_of_a_loop_over_rows():
    rng, gamma, steps, length = np.random.default_rng(2), 0.9, 3, 6
    shape = (200, length + steps)
    reward, value = rng.normal(size=shape), rng.normal(size=shape)
    termination, is_first = rng.random(shape) < 0.15, rng.random(shape) < 0.2  # a life lost is no new episode, too
    expected, weights = np.zeros((200, length)), np.ones((200, length))
    for window, t in np.ndindex(200, length):
        for i in range(steps + 1):
            row = t + i
            new_next = row + 1 < shape[1] and is_first[window, row + 1]
            if i == steps or (new_next and not termination[window, row]):
                expected[window, t] += gamma**i * value[window, row]
                weights[window, t] = float(i > 0 and row >= steps)
                break
            expected[window, t] += gamma**i * reward[window, row]
            if termination[window, row]:
                break
    run = quick(functools.partial(targets.n_step, gamma=gamma, steps=steps))
    target, weight = run(*(np.float32(x) for x in (reward, value[:, steps:])), termination, is_first)
    np.testing.assert_array_equal(weight, weights)
    assert 0.5 < weights.mean() < 1
    np.testing.assert_allclose(target * weight, expected * weights, atol=1e-5)


def test_scalars_survive_their_categories():
    x = np.array([0, 1, -1, 0.37, 1000, -2000, 123.4], np.float32)
    coded, back = quick(lambda x: ((c := targets.categories(x, 101)), targets.scalar(jnp.log(c + 1e-12))))(x)
    np.testing.assert_allclose(coded.sum(-1), 1, rtol=1e-6)
    assert ((coded > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(back, x, rtol=1e-3, atol=1e-3)


# --- The world model --------------------------------------------------------------------------------------------------

MODEL = WorldModel(16, 2, 3, 4, context=3, width=8, layers=1, heads=2, experts=3, encoder="convolution", channels=4)
MASK = jnp.array([[True, True, True], [True, False, True]])


PARAMETERS = drawn(lambda: world_model.init(MODEL, jax.random.key(0)))


def windows():
    rng = np.random.default_rng(4)
    z, action = rng.normal(size=(2, 4, 8)).astype(np.float32), np.array([[0, 2, 1, 1], [2, 0, 0, 2]], np.int32)
    return z, action, np.zeros((2, 4), bool)


def whole(params, z, action, is_first):
    rows = world_model.task_heads(params, jnp.arange(2))
    return world_model.unroll(MODEL, params, rows, z, action, is_first, MASK)[0]


def test_a_walk_through_the_tree_is_the_window_read_at_once():
    z, action, is_first = windows()

    @quick
    def start(params, first):
        rows = world_model.task_heads(params, jnp.arange(2))
        empty = Context(jnp.zeros((2, 3, 8)), jnp.zeros((2, 3), jnp.int32), jnp.zeros(2, jnp.int32))
        return world_model.start(MODEL, params, rows, empty, first, MASK)

    @quick
    def follow(params, node, action):
        return world_model.follow(MODEL, params, world_model.task_heads(params, jnp.arange(2)), node, action, MASK)

    prediction, node = start(PARAMETERS, z[:, 0])
    seen, rewards, ons, latents = [prediction], [], [], [z[:, 0]]
    for t in range(3):
        reward, on, prediction, node = follow(PARAMETERS, node, action[:, t])
        rewards, latents, seen, ons = [*rewards, reward], [*latents, node.latent], [*seen, prediction], [*ons, on]
    stack = lambda parts: jax.tree.map(lambda *x: np.stack(x, 1), *parts)
    seen, rewards, latents, ons = stack(seen), stack(rewards), stack(latents), stack(ons)
    outputs = quick(whole)(PARAMETERS, latents, action, is_first)
    chex.assert_trees_all_close(seen, outputs.prediction, atol=1e-5)
    np.testing.assert_allclose(latents[:, 1:], outputs.latent[:, :-1], atol=1e-5)
    np.testing.assert_allclose(rewards, quick(targets.scalar)(outputs.reward[:, :-1]), atol=1e-4)
    np.testing.assert_allclose(ons, jax.nn.sigmoid(outputs.continuation[:, :-1]), atol=1e-5)
    assert np.ptp(ons) > 0.01
    assert np.abs(np.diff(seen.value, axis=1)).min(-1).max() > 1e-6, "steps must differ to say anything"

    @quick
    def root(params, node):
        rows = world_model.task_heads(params, jnp.arange(2))
        return world_model.start(MODEL, params, rows, node.context, node.latent, MASK)[0]

    assert node.context.length.tolist() == [3, 3]
    chex.assert_trees_all_close(root(PARAMETERS, node), jax.tree.map(lambda x: x[:, 3], outputs.prediction), atol=1e-5)
    # A full context drops its oldest step: what follows is a window that begins one later.
    reward, _, prediction, last = follow(PARAMETERS, node, action[:, 3])
    later = np.concatenate([latents[:, 1:], last.latent[:, None]], 1), np.roll(action, -1, 1)
    outputs = quick(whole)(PARAMETERS, *later, is_first)
    chex.assert_trees_all_close(prediction, jax.tree.map(lambda x: x[:, 3], outputs.prediction), atol=1e-5)
    np.testing.assert_allclose(reward, quick(targets.scalar)(outputs.reward[:, 2]), atol=1e-4)
    np.testing.assert_allclose(last.latent, outputs.latent[:, 2], atol=1e-5)
    assert last.context.length.tolist() == [3, 3]


def test_a_prediction_heeds_actions_their_order_and_where_its_episode_began():
    (z, action, is_first), run = windows(), quick(whole)
    said, moved = run(PARAMETERS, z, action, is_first), lambda a, b: np.abs(np.asarray(a - b)).max(-1)[0] > 1e-3
    other = action.copy()
    other[0, 1] = 0
    another = run(PARAMETERS, z, other, is_first)
    assert moved(said.prediction.policy, another.prediction.policy).tolist() == [False, False, True, True]
    assert moved(said.reward, another.reward).tolist() == [False, True, True, True]
    turned = [x[:, [1, 0, 2, 3]] for x in (z, action)]
    assert moved(said.prediction.policy, run(PARAMETERS, *turned, is_first).prediction.policy)[2], "by positions alone"
    begun = np.arange(4) == 2 + np.zeros((2, 1))
    later = run(PARAMETERS, z, action, begun)
    alone = run(PARAMETERS, z[:, 2:], action[:, 2:], is_first[:, 2:])
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[:, 2:], later), alone, atol=1e-5)
    assert moved(said.reward, later.reward).tolist() == [False, False, True, True]


def test_a_task_reads_its_own_heads():
    z, action, is_first = jax.tree.map(lambda x: x[[0, 0]], windows())
    heads = jax.tree.map(lambda x: x[::-1], PARAMETERS["heads"])
    run = quick(whole)
    said, swapped = run(PARAMETERS, z, action, is_first), run(PARAMETERS | {"heads": heads}, z, action, is_first)
    for one, other in ((said.reward, swapped.reward), (said.prediction.value, swapped.prediction.value)):
        np.testing.assert_allclose(one, other[::-1], atol=1e-5)
        assert np.abs(one[0] - one[1]).max() > 0.01


def test_dropout_drops_its_share_each_task_and_place_by_itself():
    x, keys = np.ones((8, 500), np.float32), jax.random.split(jax.random.key(0), 2)
    kept = np.asarray(transformer.drop(x, keys, 0.25, ("a",)))
    assert set(np.unique(kept).tolist()) == {0.0, np.float32(4 / 3)}
    assert np.mean(kept == 0) == pytest.approx(0.25, abs=0.04)
    assert np.any(kept[:4] != kept[4:]) and np.any(kept != transformer.drop(x, keys, 0.25, ("b",)))
    np.testing.assert_array_equal(kept[4:], transformer.drop(x[4:], keys[1:], 0.25, ("a",)))
    assert transformer.drop(x, None, 0.25, ("a",)) is x


def test_no_output_depends_on_later_steps_other_episodes_or_other_tasks():
    z, action, is_first = windows()
    is_first[0, 2] = True  # a new episode in the first task's window

    @quick
    def influence(params, z):
        """[t, N, T]: how much the outputs of the first window at t depend on each latent."""
        said = lambda z: [
            x[0].astype(jnp.float32).reshape(4, -1) for x in jax.tree.leaves(whole(params, z, action, is_first))
        ]
        total = lambda z: sum((jnp.where(x < -1e8, 0, x) ** 2).sum(-1) for x in said(z))
        one = lambda t: jnp.abs(jax.grad(lambda z: total(z)[t])(z)).sum(-1)
        return jax.lax.map(one, jnp.arange(4))  # not jacrev: the experts' products have no vmap

    matrix = influence(PARAMETERS, z)
    assert not matrix[:, 1].any(), "the other task"
    allowed = np.tril(np.ones((4, 4), bool))
    allowed[2:, :2] = False  # the episode before
    np.testing.assert_array_equal(np.asarray(matrix[:, 0]) > 0, allowed)


# --- What the encoder sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suites.expand("toy", ("toy13",)))
def test_patches_that_are_normed_by_themselves_hide_no_object(name: str):
    """A patch of one brightness is nothing but its norm's offset, whatever the brightness: patches as
    narrow as the toys' objects hid the white ball of catch at every second step."""
    size = runpy.run_path(str(ROOT / "experiments" / "toy.py"))["get_config"]("scalezero").model.patch
    (task,) = envs.resolve("toy", (name,), {"image_size": 16})
    env, seen, random = envs.make(task, {"image_size": 16}), {}, np.random.default_rng(0)
    for seed in range(40):
        frame, ended = env.reset(seed), False
        while not ended:
            seen.setdefault(frame.tobytes(), frame)
            step = env.step(int(random.choice(np.flatnonzero(task.action_mask))))
            frame, ended = step.observation, step.terminated or step.truncated
    x = np.asarray(encoder.patches(np.stack(list(seen.values())) / 255.0, size))
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    each = normed.reshape(len(seen), -1)
    apart = np.abs(each[:, None] - each[None]).max(-1) + 9 * np.eye(len(seen))
    assert len(seen) > 2 and apart.min() > 0.1
