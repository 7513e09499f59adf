"""Numbers recorded from TD-MPC2's public code (benchmarks/tdmpc2_reference.py) come out of our functions.

Reads tests/fixtures/tdmpc2_parity.npz, or the file that TDMPC2_PARITY_FIXTURE names. M3PO itself has no public code.
"""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recording
from compiled import quick

from mow_jax.ops import twohot
from mow_jax.systems.m3po import networks, planner, world_model
from mow_jax.systems.m3po.planner import Noise, Planner
from mow_jax.systems.m3po.types import Draws
from mow_jax.systems.m3po.world_model import WorldModel
from mow_jax.types import Batch

recorded = functools.partial(recording.recorded, "tdmpc2")
part = functools.partial(recording.part, "tdmpc2")
TOLERANCE = dict(atol=1e-4, rtol=1e-4)
TIME, WINDOWS, LIMIT = 3, 4, 10.0
GAMMAS = {"task_0": 0.95, "task_1": 0.99, "episodic": 0.97}
MORE_PLANS = (("plan_0", 1), ("plan_many", 3), ("plan_episodic", 1))
SCALES = dict(consistency=20.0, reward=0.1, value=0.1, termination=1.0)


# --- PyTorch's parameters as our pytrees; linear, so that gradients come over the same way ----------------------------


def layer(w: dict, name: str) -> dict:
    made = {"kernel": np.swapaxes(w[f"{name}weight"], -1, -2), "bias": w[f"{name}bias"]}
    return made | ({"scale": w[f"{name}ln.weight"], "offset": w[f"{name}ln.bias"]} if f"{name}ln.bias" in w else {})


def layers(w: dict, name: str) -> list[dict]:
    places = sorted({key.removeprefix(name).split(".")[0] for key in w if key.startswith(name)})
    return [layer(w, f"{name}{place}.") for place in places]


def parameters(w: dict) -> dict:
    names = dict(dynamics="_dynamics.", reward="_reward.", policy="_pi.", q="q.", termination="_termination.")
    made: dict[str, Any] = {ours: found for ours, theirs in names.items() if (found := layers(w, theirs))}
    return made | {"encoder": {"layers": layers(w, "_encoder.state.")}}


def model(name: str) -> WorldModel:
    alone = name.endswith("episodic")
    sizes = dict(tasks=1 if alone else 2, action_size=3, numbers=5, image_size=16, latent=16, simnorm=8)
    sizes |= dict(embedding=0 if alone else 6, encoder=12, encoder_layers=2, channels=4, hidden=20, bins=21, values=5)
    settings = dict(
        limit=LIMIT, dropout=0.0, squashed=False, termination=alone, shift=0, log_std_min=-10.0, log_std_max=2.0
    )
    return WorldModel(**sizes, **settings, dtype=jnp.float32)


def weights(name: str) -> tuple[dict, list, np.ndarray, np.ndarray]:
    """Parameters, moving averages, embedding and mask of what `name` was recorded with."""
    w = part("one_task" if name.endswith("episodic") else "two_tasks", "weight")
    second = name.endswith("_1")
    e = w["_task_emb.weight"][int(second)] if "_task_emb.weight" in w else np.zeros(0, np.float32)
    return parameters(w), layers(w, "target."), e, np.array([1, 1, not second], np.float32)


# --- The parts --------------------------------------------------------------------------------------------------------


def test_simnorm():
    y = networks.simnorm(jnp.asarray(recorded()["simnorm/x"]), 8)
    np.testing.assert_allclose(y, recorded()["simnorm/y"], **TOLERANCE)


@pytest.mark.parametrize("name", ["normed", "mlp"])
def test_normed_layers_and_their_gradients(name: str):
    """The one layer ends in Mish, the stack in SimNorm."""
    theirs = part(name, "weight")
    translate = (lambda w: [layer(w, "")]) if name == "normed" else (lambda w: layers(w, ""))

    def run(params, x):
        if name == "normed":
            return jax.nn.mish(networks.norm(params[0], networks.linear(params[0], x, jnp.float32)))
        return networks.mlp(params, x, jnp.float32, 8)

    @quick
    def values(params, x, r):
        y, back = jax.vjp(run, params, x)
        return y, back(r)

    y, (gradient, x_gradient) = values(translate(theirs), *(recorded()[f"{name}/{what}"] for what in ("x", "r")))
    np.testing.assert_allclose(y, recorded()[f"{name}/y"], **TOLERANCE)
    np.testing.assert_allclose(x_gradient, recorded()[f"{name}/x_gradient"], **TOLERANCE)
    chex.assert_trees_all_close(gradient, translate(part(name, "gradient")), **TOLERANCE)


def test_scalars_over_bins():
    x, logits = (recorded()[f"twohot/{what}"] for what in ("x", "logits"))
    loss, back = quick(lambda x, y: (twohot.cross_entropy(y, x, LIMIT), twohot.decode(y, LIMIT)))(x[:, 0], logits)
    np.testing.assert_allclose(loss, recorded()["twohot/loss"][:, 0], **TOLERANCE)
    np.testing.assert_allclose(back, recorded()["twohot/back"][:, 0], **TOLERANCE)


def test_embeddings_are_cut_to_length_one():
    after = recorded()["embedding/after"]
    np.testing.assert_allclose(world_model.shortened(recorded()["embedding/before"]), after, **TOLERANCE)
    assert np.any(recorded()["embedding/before"] != after)


@functools.cache
def update(name: str):
    """Our terms and gradients where theirs were recorded."""
    made, (params, target, e, mask) = model(name), weights(name)
    rows, noise = part(name, "batch"), part(name, "noise")
    swap = lambda x: np.swapaxes(x, 0, 1)
    # Theirs has no action and no reward at the last frame, ours has, and reads neither.
    more = lambda x: np.concatenate([swap(x), np.zeros_like(swap(x)[:, :1])], axis=1)
    shape = (WINDOWS, TIME + 1)
    batch = Batch(swap(rows["obs"]), more(rows["action"]), more(rows["reward"])[..., 0], np.zeros(shape, bool), None)
    batch = batch._replace(termination=more(rows["terminated"])[..., 0] > 0, is_first=np.zeros(shape, bool))
    ahead, pair, policy, policy_pair = (noise[key] for key in sorted(noise))
    draws = Draws(swap(ahead), swap(policy), pair[:2], policy_pair[:2])

    def of_model(params, e):
        fixed = jax.lax.stop_gradient((params, e))
        known = world_model.targets(made, fixed[0], target, fixed[1], mask, GAMMAS[name], batch, draws)
        terms, z = world_model.losses(made, params, e, batch, known, 0.5)
        total = sum(SCALES[name] * term for name, term in terms.items())
        return total, (terms | {"total": total}, z, known)

    def of_policy(policy, z, alive, scale):
        loss, said = world_model.policy_loss(
            made, policy, params["q"], e, mask, z, alive, scale, draws, rho=0.5, entropy=1e-2
        )
        return loss, said

    @quick
    def values(params, e):
        gradient, (terms, z, known) = jax.grad(of_model, argnums=(0, 1), has_aux=True)(params, e)
        found = world_model.value_range(made, params["q"], params["policy"], e, mask, z[:, 0], draws)
        scale = 1.7 + 0.01 * (found - 1.7)
        (loss, _), climb = jax.value_and_grad(of_policy, has_aux=True)(params["policy"], z, known.alive, scale)
        return terms | {"pi": loss}, gradient, scale, climb

    return values(params, e)


SLOW = pytest.mark.slow  # the same functions again, in a program of their own
UPDATES = (pytest.param("task_0", marks=SLOW), "task_1", pytest.param("episodic", marks=SLOW))
PLANS = (("plan_1", 1), *(pytest.param(*more, marks=SLOW) for more in MORE_PLANS))


@pytest.mark.parametrize("name", UPDATES)
def test_terms_of_an_update(name: str):
    terms, _, scale, _ = update(name)
    theirs = part(name, "term")
    for ours in ("consistency", "reward", "value", "total", *(["termination"] if name == "episodic" else [])):
        np.testing.assert_allclose(terms[ours], theirs[f"{ours}_loss"], err_msg=ours, **TOLERANCE)
    np.testing.assert_allclose(scale, recorded()[f"{name}/scale"][0], **TOLERANCE)
    # Theirs counts the entropy's constant for dimensions that the second task does not have.
    unused = 0.5 * np.log(2 * np.pi) * (name == "task_1") * 2 * 1e-2 * np.mean(0.5 ** np.arange(TIME + 1))
    np.testing.assert_allclose(terms["pi"] - unused, theirs["pi_loss"], **TOLERANCE)


@pytest.mark.parametrize("name", UPDATES)
def test_gradients_of_an_update(name: str):
    _, (gradient, of_embedding), _, climb = update(name)
    theirs = part(name, "gradient")
    wanted = parameters(theirs)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient.pop("policy"))), "the model teaches no policy"
    chex.assert_trees_all_close(gradient, wanted, **TOLERANCE)
    if name != "episodic":
        rows = theirs["_task_emb.weight"]
        np.testing.assert_allclose(of_embedding, rows[int(name == "task_1")], **TOLERANCE)
    chex.assert_trees_all_close(climb, layers(part(name, "policy_gradient"), ""), **TOLERANCE)


@pytest.mark.parametrize(("name", "iterations"), PLANS)
def test_the_plan_on_given_noise(name: str, iterations: int):
    made, (params, _, e, mask) = model(name), weights(name)
    gamma = 0.97 if name == "plan_episodic" else GAMMAS["task_1" if name == "plan_1" else "task_0"]
    noise = [value for _, value in sorted(part(name, "noise").items())]
    policy, rounds = noise[:TIME], [noise[TIME + 3 * i : TIME + 3 * i + 3] for i in range(iterations)]
    samples, last, pair = (np.stack(x) for x in zip(*rounds, strict=True))
    given = Noise(np.stack(policy), samples, last, pair[:, :2], np.zeros(6, np.float32), np.zeros(3, np.float32))
    settings = Planner(TIME, iterations, 24, 4, 6, 0.5, 0.05, 2.0)

    @quick
    def run(params, obs, before):
        z = world_model.encode(made, params, e, obs)
        dream = world_model.dream(made, params, e, mask)
        return planner.plan(settings, dream, z, planner.shifted(before), mask, gamma, given)[1]

    mean = run(params, recorded()[f"{name}/obs"][0], recorded()[f"{name}/before"])
    np.testing.assert_allclose(mean, recorded()[f"{name}/mean"], **TOLERANCE)
