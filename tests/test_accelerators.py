"""What GPUs and TPUs would make of an update in bfloat16, read off its program: nothing is compiled."""

from __future__ import annotations

import functools
import math
import runpy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import ROOT
from tiny_agent import BATCH, CONTEXTS, SHARD, TASK_LIST, tiny_settings

from mow_jax import build, replay
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow import imagination
from mow_jax.types import Shard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def traced() -> tuple[Any, Any]:
    """The jaxpr of a whole update of one device, and the state's shapes."""
    settings = tiny_settings()
    settings.model.compute_dtype = "bfloat16"
    settings.router.gate = "straight_through"  # so that scores and gates have gradients
    agent = mow.agent(settings, TASK_LIST, build.plan(settings))
    state = jax.eval_shape(functools.partial(algorithm.init, agent), 0)
    lead = lambda leaf: jax.ShapeDtypeStruct((1, *np.shape(leaf)), leaf.dtype)
    arguments = jax.tree.map(lead, (state, BATCH, CONTEXTS, SHARD))
    update = jax.vmap(functools.partial(algorithm.update, agent), axis_name="device")
    return jax.make_jaxpr(update)(*arguments).jaxpr, state


@pytest.fixture(scope="module")
def program(traced: tuple[Any, Any]) -> Any:
    return traced[0]


def inner(equation: Any) -> Iterator[Any]:
    """The programs inside an equation."""
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            yield getattr(value, "jaxpr", value)


def equations(jaxpr: Any) -> Iterator[Any]:
    """All of a program, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for part in inner(equation):
            yield from equations(part)


def test_products_in_float32_are_exact(program):
    """At jax's default GPUs would round their factors to TF32, TPUs to bfloat16."""
    products = [equation for equation in equations(program) if equation.primitive.name == "dot_general"]
    single = [equation for equation in products if equation.invars[0].aval.dtype == jnp.float32]
    assert 0 < len(single) < len(products) / 2, "most are in bfloat16"
    exact = (jax.lax.Precision.HIGHEST,) * 2
    assert [str(equation) for equation in single if equation.params["precision"] != exact] == []


def programs(variant: str) -> Iterator[tuple[str, Any]]:
    """Of a system in bfloat16 the jaxpr of each kind of update and of acting to learn."""
    settings = runpy.run_path(str(ROOT / "tests" / "configs" / "tiny.py"))["get_config"](variant)
    settings.model.compute_dtype = "bfloat16"
    tasks = build.tasks(settings)
    system, count, envs = build.system(settings, tasks), len(tasks), settings.train.envs
    here = lambda *shape, dtype=np.float32: jax.ShapeDtypeStruct((1, *shape), dtype)
    lead = lambda tree: jax.tree.map(lambda leaf: here(*leaf.shape, dtype=leaf.dtype), tree)
    mask = here(count, tasks[0].action_size, dtype=bool)
    shard = Shard(here(count, dtype=np.int32), here(count), mask, here(count, dtype=np.uint32))
    state = jax.eval_shape(system.init, 0)
    empty = functools.partial(replay.empty, tasks[0], settings.suite.image_size, system.extras)
    for name, each in system.updates.items():
        windows = [lead(empty((count, window.batch or envs, window.length))) for window in each.windows.values()]
        update = jax.vmap(each.function, axis_name="device")
        yield name, jax.make_jaxpr(update)(lead(state), *windows, shard).jaxpr
    acting = lead(jax.eval_shape(lambda: system.init_acting(count, envs)))
    frames = empty((count, envs)).observation
    seen = here(*frames.shape, dtype=frames.dtype), here(count, envs, dtype=bool), here(dtype=np.int32)
    act = jax.vmap(functools.partial(system.act, explore=True), axis_name="device")
    yield "act", jax.make_jaxpr(act)(lead(state), acting, *seen, shard).jaxpr


@pytest.mark.parametrize("variant", ["toy", "scalezero", "m3po"])
def test_every_system_sums_in_float32_and_multiplies_float32_exactly(variant):
    """M3PO's gradients multiply a float32 by a bfloat16, which is as exact as its factors."""
    exact, found = (jax.lax.Precision.HIGHEST,) * 2, set()
    for name, program in programs(variant):
        for equation in equations(program):
            kind, dtypes = equation.primitive.name, [str(each.aval.dtype) for each in equation.invars]
            found.add((kind, dtypes[0])) if dtypes else None
            assert kind != "reduce_sum" or dtypes[0] != "bfloat16", (name, str(equation))
            if kind == "dot_general" and dtypes == ["float32", "float32"]:
                assert equation.params["precision"] == exact, (name, str(equation))
    assert {("reduce_sum", "float32"), ("dot_general", "float32"), ("dot_general", "bfloat16")} <= found


def operations(product: Any) -> int:
    (contracted, _), _ = product.params["dimension_numbers"]
    shape = product.invars[0].aval.shape
    return 2 * product.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def test_products_in_float32_are_small(traced):
    """What is kept in float32 meets a number once a task: the router sees one vector of each, a row's gradient is a sum
    over tasks, decoding is one sum. So no such product has more operations than two a task for each number of the
    largest parameter, and none uses one of its own numbers more often, as a layer over all steps of a batch would."""
    program, state = traced
    products = [equation for equation in equations(program) if equation.primitive.name == "dot_general"]
    tasks, reused = len(TASK_LIST), {"float32": 0.0, "bfloat16": 0.0}
    largest = max(leaf.size for leaf in jax.tree.leaves((state.params, state.actor, state.critic)))
    for product in products:
        dtype, count = product.invars[0].aval.dtype.name, operations(product)
        sizes = [variable.aval.size for variable in (*product.invars, *product.outvars)]
        reused[dtype] = max(reused[dtype], count / 2 / max(sizes))
        assert dtype != "float32" or (count <= 2 * tasks * largest and count <= 2 * tasks * max(sizes)), str(product)
    assert reused["float32"] <= tasks < reused["bfloat16"]


def test_sums_are_taken_in_float32(program):
    """Gradients of biases and of the factors and shifts of norms among them."""
    sums = [equation for equation in equations(program) if equation.primitive.name == "reduce_sum"]
    dtypes = {equation.invars[0].aval.dtype.name for equation in sums}
    assert "float32" in dtypes and "bfloat16" not in dtypes


def cast_inside(jaxpr: Any, arguments: list[Any]) -> Iterator[str]:
    """Which of these arguments of a program it casts to bfloat16."""
    for equation in jaxpr.eqns:
        given = [i for i, variable in enumerate(equation.invars) if any(variable is one for one in arguments)]
        if given and equation.primitive.name == "convert_element_type" and equation.params["new_dtype"] == jnp.bfloat16:
            yield str(equation)
        for part in inner(equation):
            if len(part.invars) == len(equation.invars):
                yield from cast_inside(part, [part.invars[i] for i in given])


def test_no_loop_casts_its_weights_anew_at_every_step(program):
    loops = [equation for equation in equations(program) if equation.primitive.name == "scan"]
    bodies = [(loop.params["jaxpr"].jaxpr, loop.params["num_consts"]) for loop in loops]
    imagining = [(body, count) for body, count in bodies if count > 5]
    assert len(imagining) == 2, "contexts are encoded in one loop, rollouts imagined in another"
    for body, count in bodies:
        assert list(cast_inside(body, body.invars[:count])) == []


def test_sums_are_taken_in_one_order(program):
    """A GPU adds up in any order what a scatter sends to one place. Rows' gradients are products; what is left sends
    numbers of each task to the task's own place, and zeros from the padding."""
    scatters = [equation for equation in equations(program) if equation.primitive.name.startswith("scatter")]
    repeated = {str(each.outvars[0].aval.shape) for each in scatters if not each.params["unique_indices"]}
    tasks, embedding = len(TASK_LIST), tiny_settings().model.embedding
    assert repeated == {str((1, tasks)), str((1, tasks, tasks)), str((1, tasks, embedding))}


def test_rollouts_attend_to_no_more_than_their_part_has_written(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [imagination._parts(horizon) for horizon in (1, 2, 15)] == [[(0, 1)], [(0, 1), (1, 2)], [(0, 7), (7, 15)]]
