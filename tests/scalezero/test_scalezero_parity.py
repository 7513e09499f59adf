"""Numbers recorded from LightZero's public code (benchmarks/scalezero_reference.py) come out of our functions.

Reads tests/fixtures/scalezero_parity.npz, or the file that SCALEZERO_PARITY_FIXTURE names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recording
from compiled import quick

from mow_jax.systems.scalezero import stages, targets, world_model
from mow_jax.systems.scalezero.encoder import VisionTransformer
from mow_jax.systems.scalezero.mixture import FeedForward, Mixture
from mow_jax.systems.scalezero.stages import Stages
from mow_jax.systems.scalezero.transformer import Transformer
from mow_jax.systems.scalezero.types import Prediction
from mow_jax.systems.scalezero.world_model import Head, Outputs

recorded = functools.partial(recording.recorded, "scalezero")
part = functools.partial(recording.part, "scalezero")
TOLERANCE = dict(atol=1e-4, rtol=1e-4)


# --- PyTorch's parameters as our pytrees; linear, so that gradients come over the same way ----------------------------


def linear(w: dict, name: str) -> dict:
    bias = {"bias": w[f"{name}.bias"]} if f"{name}.bias" in w else {}
    return {"kernel": w[f"{name}.weight"].T} | bias


def norm(w: dict, name: str) -> dict:
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def mixture(w: dict, name: str = "", experts: str = "experts") -> dict:
    count = len({key.split("experts.")[1].split(".")[0] for key in w if f"{experts}." in key})
    stack = lambda one: np.stack([w[f"{experts}.{i}.{one}.weight"].T for i in range(count)])
    made = {one: stack(one) for one in ("w1", "w2", "w3")}
    made |= {"shared_in": linear(w, f"{name}shared_expert.0"), "shared_out": linear(w, f"{name}shared_expert.2")}
    return made | {"gate": w[f"{name}gate.weight"].T}


def dense(w: dict, name: str, experts: str) -> dict:
    del experts
    return {"in": linear(w, f"{name}0"), "out": linear(w, f"{name}2")}


def stack(w: dict, layer: Callable) -> dict:
    made = {"last_norm": norm(w, "ln_f")}
    for i in range(sum(key.endswith("ln1.bias") for key in w)):
        block = f"blocks.{i}"
        names = {"query": "query", "key": "key", "value": "value", "out": "proj"}
        made[f"attention_{i}"] = {ours: linear(w, f"{block}.attn.{theirs}") for ours, theirs in names.items()}
        made |= {f"norm_{i}": norm(w, f"{block}.ln1"), f"second_norm_{i}": norm(w, f"{block}.ln2")}
        made[f"feed_forward_{i}"] = layer(w, f"{block}.feed_forward.", f"{block}.experts")
    return made


def vit(w: dict) -> dict:
    made = {
        "positions": w["pos_embedding"][0],
        "class_token": w["cls_token"][0],
        "patch_norm": norm(w, "to_patch_embedding.1"),
        "patches": linear(w, "to_patch_embedding.2"),
        "token_norm": norm(w, "to_patch_embedding.3"),
        "last_norm": norm(w, "transformer.norm"),
        "last": linear(w, "last_linear"),
        "latent_norm": norm(w, "final_norm"),
    }
    for i in range(2):
        attention, forward = (f"transformer.layers.{i}.{j}" for j in range(2))
        made |= {f"norm_{i}": norm(w, f"{attention}.norm"), f"second_norm_{i}": norm(w, f"{forward}.net.0")}
        made |= {f"attention_{i}_qkv": linear(w, f"{attention}.to_qkv")}
        made |= {f"attention_{i}_out": linear(w, f"{attention}.to_out.0")}
        made |= {f"in_{i}": linear(w, f"{forward}.net.1"), f"out_{i}": linear(w, f"{forward}.net.4")}
    return made


def head(w: dict) -> dict:
    made = {
        "LayerNorm_0": norm(w, "0"),
        "Dense_0": linear(w, "1"),
        "LayerNorm_1": norm(w, "2"),
        "Dense_1": linear(w, "4"),
    }
    return made | ({"LayerNorm_2": norm(w, "5")} if "5.weight" in w else {})


# --- The parts --------------------------------------------------------------------------------------------------------


def causal(x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool)), (len(x), x.shape[1], x.shape[1]))


def transformer(layers: int, layer: Callable) -> Callable:
    module = Transformer(layers, 2, layer)
    return lambda params, x: module.apply({"params": params}, x, causal(x))[0]


def simple(module: Any) -> Callable:
    return lambda params, x: module.apply({"params": params}, x)


experts = functools.partial(Mixture, 4, 1, 1, "topk")
sparse = functools.partial(stack, layer=mixture)
PARTS: dict[str, tuple[Callable, Callable]] = {
    "moe_1": (mixture, simple(Mixture(4, 1, 1, "topk"))),
    "moe_2": (mixture, simple(Mixture(4, 2, 1, "topk"))),
    "block": (sparse, transformer(1, experts)),
    "stack": (sparse, transformer(2, experts)),
    "dense_stack": (functools.partial(stack, layer=dense), transformer(2, FeedForward)),
    "vit": (vit, lambda params, x: VIT.apply({"params": params}, x.transpose(0, 2, 3, 1))),
    "head_policy": (head, simple(Head(6, False, jnp.float32))),
    "head_value": (head, simple(Head(101, False, jnp.float32))),
    "head_latent": (head, simple(Head(16, True, jnp.float32))),
}
VIT = VisionTransformer(16, 4, 20, 2, 3, 8, 28)


@pytest.mark.parametrize("name", PARTS)
def test_output_and_gradients_are_the_reference_s(name: str):
    translate, run = PARTS[name]
    params, x = translate(part(name, "weight")), recorded()[f"{name}/x"]

    @quick
    def values(params, x, r):
        y, back = jax.vjp(run, params, x)
        return y, back(r)

    y, (gradient, x_gradient) = values(params, x, recorded()[f"{name}/r"])
    np.testing.assert_allclose(y, recorded()[f"{name}/y"], **TOLERANCE)
    np.testing.assert_allclose(x_gradient, recorded()[f"{name}/x_gradient"], **TOLERANCE)
    # An expert without tokens has no gradient there, and zeros here.
    theirs = {key: np.zeros_like(w) for key, w in part(name, "weight").items()} | part(name, "gradient")
    chex.assert_trees_all_close(gradient, translate(theirs), **TOLERANCE)


def test_a_cache_says_what_the_whole_sequence_says():
    module = Transformer(2, 2, experts)

    @quick
    def run(params, x):
        cache, said = None, []
        for start, end in ((0, 7), (7, 8), (8, 10)):
            mask = causal(x)[:, start:end, :end]
            y, cache = module.apply({"params": params}, x[:, start:end], mask, cache)
            said.append(y)
        return jnp.concatenate(said, 1)

    y = run(sparse(part("stack", "weight")), recorded()["cached_stack/x"])
    np.testing.assert_allclose(y, recorded()["cached_stack/y"], **TOLERANCE)


RULES = Stages(count=3, rank=4, alpha=2.0)


@quick
def adapted(params, x, r, stage):
    """Output and gradients of a linear map with adapters."""

    def run(params):
        merged = stages.merge(RULES, params, stage)["backbone"]["attention_0"]["query"]
        return x @ merged["kernel"] + merged["bias"]

    y, back = jax.vjp(run, params)
    return y, back(r)[0]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_linear_map_with_adapters_at_each_stage(stage: int):
    name = f"lora_{stage}"

    def translate(w: dict) -> dict:
        pair = lambda one: np.stack([w[f"adapters.{j}.lora_{one}"].T for j in range(2)])
        scales = [w["base_weight_scale.logit"], *(w[f"adapter_scales.{j}.logit"] for j in range(2))]
        adapter = {"down": pair("A"), "up": pair("B"), "scale": np.array(scales)}
        return {
            "backbone": {"attention_0": {"query": linear(w, "")}},
            "adapters": {"attention_0/query/kernel": adapter},
        }

    rename = lambda arrays: {f".{key}" if key in ("weight", "bias") else key: value for key, value in arrays.items()}

    params, x, r = translate(rename(part(name, "weight"))), recorded()[f"{name}/x"], recorded()[f"{name}/r"]
    y, gradient = adapted(params, x, r, jnp.int32(stage))
    np.testing.assert_allclose(y, recorded()[f"{name}/y"], **TOLERANCE)
    zeros = {key: np.zeros_like(w) for key, w in part(name, "weight").items()}
    chex.assert_trees_all_close(gradient, translate(rename(zeros | part(name, "gradient"))), **TOLERANCE)

    # And which of them learn; the bias as its matrix.
    learns = stages.trainable(RULES, params, jnp.int32(stage), np.zeros(1, bool))
    whole = jax.tree.map(lambda on, leaf: np.broadcast_to(on, leaf.shape), learns, params)
    theirs = {key: np.full_like(zeros[key], flag, np.float32) for key, flag in part(name, "learns").items()}
    chex.assert_trees_all_equal(whole, translate(rename(theirs)))


def test_scalars_and_their_categories():
    theirs = {key.removeprefix("scalar/"): value for key, value in recorded().items() if key.startswith("scalar/")}

    @quick
    def values(x, logits):
        coded = {"categories": targets.categories(x, 101), "smoothed": targets.categories(x, 101, 0.1)}
        return coded | {"squashed": targets.squash(x), "back": targets.scalar(logits)}

    ours = values(theirs["x"], theirs["logits"])
    for name in ("squashed", "categories", "smoothed"):
        np.testing.assert_allclose(ours[name], theirs[name], err_msg=name, **TOLERANCE)
    # Theirs takes a difference of numbers near 500 in float32, which leaves 1e-4 of it.
    np.testing.assert_allclose(ours["back"], theirs["back"][:, 0], atol=1e-3, rtol=1e-3)


def test_loss_terms_of_a_task():
    logits, target, term = (part("loss", what) for what in ("logits", "target", "term"))
    one = lambda x: jnp.asarray(x)[None]  # a task
    prediction = Prediction(one(logits["logits_policy"]), one(logits["logits_value"]))
    outputs = Outputs(prediction, one(logits["logits_rewards"]), one(logits["logits_observations"]))
    batch, time = target["reward"].shape
    is_first = np.zeros((1, batch, time + 1), bool)
    is_first[..., -1] = True  # theirs has no row behind the window
    latent = one(np.concatenate([target["latent"][:, 1:], target["latent"][:, :1]], axis=1))
    values = (one(target["reward"]), one(target["value"]), np.ones((1, batch, time)), one(target["policy"]))
    terms = quick(functools.partial(world_model.losses, smoothing=0.1))(
        outputs, latent, *values, is_first, np.zeros((1, batch, time), bool)
    )
    for name, value in terms.items():
        np.testing.assert_allclose(value[0], term[name], err_msg=name, **TOLERANCE)
    scales = dict(latent=10, reward=1, value=0.5, policy=1, entropy=-1e-2)
    total = sum(scale * float(terms[name][0]) for name, scale in scales.items())
    np.testing.assert_allclose(total, term["total"], **TOLERANCE)
