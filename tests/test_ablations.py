"""Ablations: every variant is a run of its own or is refused, what is called idle changes nothing, and the parts that
only an ablation sets do what they say."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick
from ml_collections import ConfigDict
from processes import ROOT, TINY, refused, run

from mow_jax import build, config, summary
from mow_jax.checks import flat
from mow_jax.learner import abstract_state
from mow_jax.report import data
from mow_jax.systems.mow import actor_critic, clustering, router, world_model
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow.actor_critic import ActorCritic
from mow_jax.systems.mow.router import Routing
from mow_jax.systems.mow.types import Dream
from mow_jax.types import BadInput, Batch, Shard

FILE = ROOT / "experiments" / "ablations.py"
ABLATIONS = runpy.run_path(str(FILE))


@functools.cache
def variants(experiment: str) -> dict[str, ConfigDict | str]:
    """Every variant of the catalogue as its config, or as the reason why there is none."""
    made: dict[str, ConfigDict | str] = {}
    for name in ABLATIONS["catalogue"]():
        name = name.replace("=N", "=77")
        try:
            made[name] = ABLATIONS["get_config"](f"{experiment}/{name}")
        except BadInput as refusal:
            made[name] = str(refusal)
    return made


# --- Names ------------------------------------------------------------------------------------------------------------


ALWAYS = dict.fromkeys(
    ("grouping=agglomerative", "vector=layer_mean", "routing=learned", "act_on=posterior", "return_scale=task"), "mow"
)
ALWAYS |= {"grouping=single": "clusters=1", "no_balance_loss": "mow"}


@pytest.mark.parametrize(
    ("experiment", "count", "over_again"),
    [
        (
            "toy",
            5,
            {
                "active=2": "mow",
                "norm=rms": "mow",
                "grouping=shuffled": "grouping=random",
                **dict.fromkeys(("clusters=6", "clusters=12"), "clusters=each"),
            },
        ),
        (
            "toy13",
            13,
            {
                **dict.fromkeys(("clusters=12", "experts=6", "active=2", "norm=rms"), "mow"),
                "grouping=shuffled": "grouping=random",
            },
        ),
        (
            "atari_search",
            4,
            {
                **dict.fromkeys(("clusters=2", "active=1", "norm=batch"), "mow"),
                **dict.fromkeys(("clusters=6", "clusters=12"), "clusters=each"),
                "experts=12": "experts=6",  # of which four have a task
            },
        ),
    ],
)
def test_every_variant_is_a_run_of_its_own_or_is_refused(experiment: str, count: int, over_again: dict[str, str]):
    made, over_again = variants(experiment), ALWAYS | over_again
    if experiment == "atari_search":  # of two experts, and no sizes are known
        made = {name: found for name, found in made.items() if name not in (*ABLATIONS["EQUAL_SIZES"], "active=4")}
    assert {name for name, found in made.items() if isinstance(found, str)} == set(over_again)
    for name, other in over_again.items():
        assert f"{name!r} of experiments/{experiment}.py is {other!r} over again: with {count} tasks" in made[name]
    kept = {name: found for name, found in made.items() if not isinstance(found, str)}
    kept["grouping=file"].clustering.table = "clusters.json"
    for settings in kept.values():
        config.check(settings)
    effects = [json.dumps(config.effective(settings, count), default=list) for settings in kept.values()]
    assert len(set(effects)) == len(effects) >= 30


@pytest.mark.parametrize("experiment", ["metaworld_mt10", "metaworld_mt50", "metaworld_quickstart", "metaworld_reach"])
def test_variants_of_robots_can_be_run(experiment: str):
    """As those of toys and games above; a blind policy's horizon has room in the window."""
    for name in ("act_on=prior", "storm_embedding", "literal_router", "literal_harmony", "no_harmony"):
        config.check(ABLATIONS["get_config"](f"{experiment}/{name}"))


@pytest.mark.parametrize(
    ("variant", "meant"),
    [
        ("no_expert_transformers", {"model.layers": 0}),
        ("no_shared_transformer", {"model.shared_layers": 0}),
        ("no_task_loss", {"loss.task": 0.0}),
        ("no_harmony", {"loss.harmony": "off"}),
        ("literal_harmony", {"loss.harmony": "zero"}),
        ("act_on=prior", {"agent.act_on": "prior"}),
        ("norm=batch", {"model.norm": "batch"}),
        ("return_scale=shared", {"agent.return_scale": "shared"}),
        ("warmup=77", {"warmup.updates": 77}),
        ("clusters=6", {"clustering.clusters": 6}),
        ("clusters=each", {"clustering.method": "identity"}),
        ("grouping=spectral", {"clustering.method": "spectral"}),
        ("vector=projection", {"clustering.vector": "projection"}),
        ("experts=3", {"router.experts": 3}),
        ("active=1", {"router.active": 1}),
        ("routing=table", {"router.mode": "table"}),
    ],
)
def test_a_variant_changes_what_it_is_named_for(variant: str, meant: dict[str, Any]):
    """And nothing else but what goes with it."""
    with_it = {
        "no_harmony": {"optimizer.world_eps", "optimizer.world_clip"},
        "act_on=prior": {"loss.mask_boundaries"},
    }
    before = flat(ABLATIONS["get_config"]("toy13/mow"))
    after = flat(ABLATIONS["get_config"](f"toy13/{variant}"))
    changed = {key for key in before if before[key] != after[key]}
    assert {key: after[key] for key in meant} == meant
    assert changed - with_it.get(variant, set()) == set(meant)


def test_storm_with_an_embedding_is_storm_but_for_the_embedding():
    storm = flat(runpy.run_path(str(ROOT / "experiments" / "storm.py"))["get_config"]())
    for key, value in ABLATIONS["changes"]("storm_embedding", "toy13").items():
        assert storm[key] == value, key
    assert ABLATIONS["get_config"]("toy13/storm_embedding").model.embedding > storm["model.embedding"] == 0


def test_of_one_task_with_one_expert_no_number_of_experts_or_clusters_makes_another_run():
    made = variants("storm")
    for name in ABLATIONS["catalogue"]():
        if name.startswith(("clusters=", "experts=", "routing=")):
            assert f"{name!r} of experiments/storm.py is 'mow' over again: with 1 tasks" in made[name]
    assert not isinstance(made["norm=rms"], str) and not isinstance(made["no_expert_transformers"], str)


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("experts=4", ["'experts=4'", "experts=3", "warmup=N"]),
        ("toy/warmup=long", ["'warmup=long'", "warmup=N"]),
        ("toy/warmup=300", ["'warmup=300'", "'mow' over again"]),
        ("toy/clusters=each+grouping=random", ["'grouping=random' over again"]),
        ("quickstart/one", ["EQUAL_SIZES", "clusters=1+experts=1"]),
        ("atari26_scalezero/mow", ["another system", "scalezero"]),
        ("nowhere/mow", ["'nowhere'", "toy13"]),
        ("toy/table=", ["'table='", "table=FILE"]),
        ("table", ["'table'", "table=FILE"]),
        ("toy/table=by/hand.json+grouping=random", ["'table=by/hand.json' over again"]),  # a table overrules methods
        ("one/table=by/hand.json", ["experiment 'one' is not known"]),
        ("", ["''", "mow"]),
    ],
)
def test_what_is_no_variant_is_refused(variant: str, parts: list[str]):
    with pytest.raises(BadInput) as refusal:
        ABLATIONS["get_config"](variant)
    assert all(part in str(refusal.value) for part in parts), refusal.value


@pytest.mark.parametrize(
    ("variant", "tasks", "path"),
    [
        ("table=by_hand.json", 13, "by_hand.json"),
        ("table=toy/edited/by_hand.json", 13, "toy/edited/by_hand.json"),
        ("toy/table=/runs/x=1/clusters.json+routing=table", 5, "/runs/x=1/clusters.json"),
        ("toy/routing=table+table=../clusters.json", 5, "../clusters.json"),
    ],
)
def test_a_table_of_the_users_is_a_variant_by_its_path(variant: str, tasks: int, path: str):
    made = ABLATIONS["get_config"](variant)
    assert (made.clustering.method, made.clustering.table, len(build.tasks(made))) == ("file", path, tasks)
    assert made.router.mode == ("table" if "routing" in variant else "learned")
    config.check(made)


def test_the_command_refuses_a_variant_in_one_message(tmp_path):
    arguments = (f"--config={FILE}:toy/clusters=12", f"--workdir={tmp_path / 'new'}")
    assert "'clusters=each' over again" in refused("train", *arguments) and not (tmp_path / "new").exists()


@pytest.mark.parametrize("experiment", ["toy", "toy13"])
def test_one_model_and_one_of_a_part_have_as_many_parameters_as_mow(experiment: str):
    sizes = {}
    for name in ("mow", *ABLATIONS["EQUAL_SIZES"]):
        settings = variants(experiment)[name]
        state = abstract_state(build.system(settings, build.tasks(settings)))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves((state.params, state.actor, state.critic)))
    assert sizes["one"] == pytest.approx(sizes["mow"], rel=0.01)
    assert sizes["one_cluster"] == pytest.approx(sizes["mow"], rel=0.02)
    assert sizes["one_expert"] == pytest.approx(sizes["mow"], rel=0.02)
    if experiment == "toy13":
        assert sizes["mow"] == 1_837_776


def test_a_run_says_how_many_parameters_it_learns_and_how_many_of_them_one_task_uses(tmp_path):
    settings = variants("toy13")["mow"]
    system = build.system(settings, build.tasks(settings))
    summary.record_start(tmp_path, system)
    state, count = abstract_state(system), lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    agent = mow.agent(settings, build.tasks(settings), build.plan(settings))
    of_one = lambda state: world_model.gather(
        agent.world, state.params, {}, state.table, jnp.array([3]), jnp.zeros((13, 6))
    )
    rows = jax.eval_shape(of_one, state)
    used = count((rows.cluster, rows.experts, rows.shared, state.actor)) + count(state.critic) // 12
    assert data.sizes(tmp_path) == (1_837_776, used) and used < 500_000
    assert data.sizes(tmp_path / "nothing") == (None, None)


@pytest.mark.parametrize("experiment", ["toy", "toy13"])
def test_what_has_as_many_parameters_differs_by_its_part_and_by_widths_alone(experiment: str):
    base = config.checks.flat(variants(experiment)["mow"])
    part = {"clustering.method", "clustering.clusters"}, {"router.experts", "router.active"}
    for name, allowed in (("one", part[0] | part[1]), ("one_cluster", part[0]), ("one_expert", part[1])):
        made = config.checks.flat(variants(experiment)[name])
        changed = {key for key in base if base[key] != made[key]}
        assert changed & set().union(*part) == allowed
        assert changed - allowed <= {"model.channels", "model.width", "model.head_width", "agent.width"}


@pytest.mark.parametrize("experiment", ["toy", "toy13"])
def test_gates_are_open_for_a_fifth_of_the_updates_after_the_warm_up(experiment: str):
    settings = variants(experiment)["routing=gated"]
    plan = build.plan(settings)
    open_for = settings.router.anneal * plan.schedule_updates - plan.warmup_updates
    assert open_for >= 0.2 * (plan.schedule_updates - plan.warmup_updates)


# --- What is idle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "experts", "active"), [(5, 4, 2), (4, 6, 1)])
def test_nothing_moves_balanced_experts_that_are_left_in_peace(tasks: int, experts: int, active: int):
    """Why the balance loss and the router's margin, noise, freeze and temperature are idle by default."""
    rules = Routing(tasks=tasks, experts=experts, active=active, margin=0.0, noise=1.0, freeze=False)
    wild = np.random.default_rng(0).dirichlet(np.ones(experts), tasks).astype(np.float32)

    def made(rest: bool):
        """The first selection, the one after it by other scores, and the balance loss's pull at the scores."""
        own = dataclasses.replace(rules, rest=rest)
        first = router.first_selection(jnp.asarray(wild), active)
        chosen = router.select(own, jnp.roll(wild, 1, axis=1), first, 7, jax.random.key(1))
        pull = jax.grad(lambda scores: router.balance_loss(own, scores, first, 0))(wild)
        return first, chosen, jnp.abs(pull).max()

    first, chosen, pull = quick(lambda: made(True))()
    np.testing.assert_array_equal(chosen, first)
    assert pull == 0.0
    first, chosen, pull = quick(lambda: made(False))()  # the paper
    assert (chosen != first).any() and pull > 0.0


def test_experts_out_of_balance_do_not_rest_and_a_first_selection_by_no_scores_is_a_choice():
    """Why nothing of the router is idle beside a given table, and not the first selection without embeddings."""
    rules = Routing(tasks=4, experts=4, active=1, margin=0.5)
    table, wild = jnp.array([[2], [2], [2], [1]]), jnp.roll(jnp.eye(4) * 0.9 + 0.025, 1, axis=0)
    balance = lambda scores: router.balance_loss(rules, scores, table, 0)
    assert jnp.abs(quick(jax.grad(balance))(wild)).max() > 0
    for margin, moved in ((0.5, True), (4.0, False)):
        made = router.select(dataclasses.replace(rules, margin=margin), wild, table, 0, jax.random.key(0))
        assert bool((made != table).any()) == moved
    blind = dataclasses.replace(rules, embedding=0)
    alike = router.scores(blind, {}, 0)
    assert len({int(expert) for (expert,) in router.first_selection(alike, 1)}) == 4
    assert router.first_selection(alike, 1, "scores").tolist() == [[0]] * 4


@pytest.mark.parametrize(("tasks", "active"), [(4, 1), (1, 1), (3, 2)])
def test_experts_beyond_those_that_tasks_can_have_are_never_chosen(tasks: int, active: int):
    """Why their number is idle where the selection rests, and where a table is made."""
    rng = np.random.default_rng(tasks)
    most = tasks * active
    rules = Routing(tasks=tasks, experts=most + 5, active=active)

    def chosen(scores):
        first = router.first_selection(scores, active)
        return first, router.select(rules, jnp.roll(scores, 1, axis=1), first, 9, jax.random.key(0))

    first, later = quick(chosen)(rng.dirichlet(np.ones(most + 5), tasks).astype(np.float32))
    assert len(np.unique(first)) == most  # a task's own each, whichever they are
    np.testing.assert_array_equal(later, first)
    vectors = rng.normal(size=(tasks, 7))
    for method in ("agglomerative", "kmeans", "random", "identity"):
        given = None if method in ("random", "identity") else vectors
        made = lambda experts, given=given, method=method: clustering.expert_table(
            given, tasks, experts, active, method, 5
        )
        np.testing.assert_array_equal(made(tasks + 4), made(max(tasks, active)))


def test_the_papers_first_selection_is_of_the_highest_scores_alone():
    scores = jnp.array([[0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.3, 0.4]])
    assert router.first_selection(scores, 2, "scores").tolist() == [[3, 2], [3, 2]]
    assert router.first_selection(scores, 2).tolist() == [[3, 2], [0, 1]]


def test_what_of_a_config_is_idle():
    def differs(change: dict[str, Any], tasks: int = 5, **base: Any) -> bool:
        settings = ABLATIONS["get_config"]("toy/mow")
        settings.update_from_flattened_dict({key.replace("__", "."): value for key, value in base.items()})
        changed = settings.copy_and_resolve_references()
        changed.update_from_flattened_dict(change)
        return config.effective(settings, tasks) != config.effective(changed, tasks)

    kmeans, gated = {"clustering.method": "kmeans"}, dict(router__gate="straight_through")
    assert differs(kmeans) and not differs(kmeans, tasks=4) and not differs(kmeans, clustering__clusters=1)
    assert differs(kmeans, tasks=4, router__mode="table")  # the experts' table is of the gradients too
    assert differs(kmeans, tasks=4, train__init_from="run")
    assert not differs(kmeans, clustering__table="clusters.json")
    assert not differs({"clustering.projection": 9}) and differs(
        {"clustering.projection": 9}, clustering__vector="projection"
    )
    assert differs({"clustering.projection": 9}, clustering__vector="module_projection")
    assert not differs({"clustering.vector": "projection"}, clustering__method="random")
    for change in ({"loss.balance": 0.0}, {"router.margin": 0.0}, {"router.anneal": 0.5}):
        assert not differs(change) and differs(change, **gated) and differs(change, router__first="scores")
    # Where all experts are chosen tau still scales what the gates learn, until the freeze; a table has none to teach.
    every, table = dict(router__active=4, **gated), dict(router__mode="table")
    assert differs({"router.anneal": 0.5}, **every) and differs({"router.freeze": False}, **every)
    assert not differs({"router.gate": "straight_through"}, **table)
    assert not differs({"router.anneal": 0.5}, **table, **gated)
    assert not differs({"loss.balance": 0.0}, **table, **gated)
    assert not differs({"router.mode": "table"}, router__experts=1, router__active=1)
    blind, given = dict(model__embedding=0), dict(clustering__table="clusters.json")
    first, noise = {"router.first": "scores"}, {"router.noise": 0.5}
    assert differs(first, **blind) and not differs(noise, **blind) and not differs(noise, **blind, **given)
    assert not differs(first, **blind, router__active=3, router__experts=3)
    for change in (noise, {"optimizer.router_lr": 1.0}, {"router.tau_end": 2.0}):
        assert differs(change, **given) and not differs(change, **given, router__mode="table")
    # Experts that no task ever has: 5 tasks with one each, or a group a task at most.
    more, six, one = {"router.experts": 12}, dict(router__experts=6), dict(router__experts=6, router__active=1)
    assert differs(more, **six) and not differs(more, **one) and not differs(more, **one, **blind)
    for beside in (gated, dict(router__rest=False), dict(router__first="scores"), given, dict(train__init_from="run")):
        assert differs(more, **one, **beside)
    assert not differs(more, **six, **table) and differs({"router.experts": 3}, **six, **table)
    assert not differs(more, **six, **table, router__active=6)
    assert not differs({"router.experts": 3}, **six, **table, clustering__method="single")
    assert not differs(more, **one, **table, **given) and differs(more, **six, **table, **given)
    lot = dict(clustering__method="random")
    assert not differs({"clustering.method": "shuffled"}, **lot)
    for beside in (dict(clustering__clusters=3), table):
        assert differs({"clustering.method": "shuffled"}, **lot, **beside)
    assert differs({"train.schedule_steps": 500}) and not differs({"train.schedule_steps": 500}, train__steps=500)
    assert differs({"loss.task": 0.0}) and not differs({"loss.task": 0.0}, tasks=1)


# --- Parts that only an ablation sets ---------------------------------------------------------------------------------


def tiny(**changes: Any) -> tuple[algorithm.Agent, list, ConfigDict]:
    """The agent of the smallest config on five tasks."""
    settings = runpy.run_path(str(ROOT / TINY))["get_config"]()
    settings.suite.tasks = ("toy5",)
    settings.router.active = 2
    settings.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    config.check(settings)
    tasks = build.tasks(settings)
    return mow.agent(settings, tasks, build.plan(settings)), tasks, settings


def scales(shared: bool, dream: Dream, devices: int) -> np.ndarray:
    """P of all slots [devices, K'] after the first update on a dream [K, N, ...] dealt out with padding."""
    model = ActorCritic(
        features=4, action_size=2, discrete=True, clusters=1, width=4, return_scale="shared" if shared else "task"
    )
    count = len(dream.reward)
    ids = np.arange(-(-count // devices) * devices).reshape(devices, -1)
    valid, ids = ids < count, np.minimum(ids, count - 1)

    def run(dream, valid):
        actor, critic = actor_critic.init(model, jax.random.key(0))
        critic = jax.tree.map(lambda leaf: leaf[0], critic)
        embedding, mask = jnp.zeros(0), jnp.ones(2, bool)

        def one_task(dream, valid):
            return actor_critic.losses(model, actor, critic, critic, dream, embedding, jnp.nan, mask, valid)[1]

        return jax.vmap(one_task, axis_name="task")(dream, valid)

    dealt = jax.tree.map(lambda leaf: leaf[ids], dream)
    return np.asarray(quick(jax.vmap(run, axis_name="device"))(dealt, valid.astype(np.float32)))


def test_a_shared_return_scale_is_that_of_all_tasks_returns_together():
    """All steps but the first are behind an end: returns that count are first rewards, a thousandfold in task 0."""
    rng, shape = np.random.default_rng(0), (3, 8, 2)  # tasks, rollouts, steps
    reward = (rng.normal(size=shape) * np.array([1000.0, 1.0, 1.0])[:, None, None]).astype(np.float32)
    seen = rng.normal(size=(3, 8, 3, 4)).astype(np.float32)
    dream = Dream(seen[..., :2], seen[..., 2:], np.zeros(shape, np.int32), reward, np.zeros(shape, np.float32))
    first = np.sort(reward[..., 0].reshape(-1))  # the k-th smallest at k = floor(share N), counted from 1
    expected = first[int(0.95 * first.size) - 1] - first[int(0.05 * first.size) - 1]
    np.testing.assert_allclose(scales(True, dream, 1), np.full((1, 3), expected), rtol=1e-5)
    np.testing.assert_allclose(scales(True, dream, 2), np.full((2, 2), expected), rtol=1e-5)  # padding counts nothing
    (each,) = scales(False, dream, 1)
    assert each[0] > 100 * each[1:].max()


@pytest.mark.slow
def test_an_update_without_expert_transformers_by_the_papers_router_fits_together(tmp_path: Path):
    literal = {key.replace(".", "__"): value for key, value in ABLATIONS["NAMED"]["literal_router"].items()}
    agent, tasks, settings = tiny(model__layers=0, agent__return_scale="shared", router__experts=4, **literal)
    state = jax.tree.map(np.asarray, quick(functools.partial(algorithm.init, agent))(0))
    assert set(state.params["expert"]) == {"mixer"}
    ids, count = np.arange(len(tasks), dtype=np.int32), len(tasks)
    shard = Shard(
        ids, np.ones(count, np.float32), np.array([task.action_mask for task in tasks]), np.zeros_like(ids, np.uint32)
    )
    rng = np.random.default_rng(0)

    def windows(rows: int, length: int) -> Batch:
        shape = (count, rows, length)
        frames, no = rng.integers(0, 256, (*shape, 16, 16, 3), np.uint8), np.zeros(shape, bool)
        return Batch(frames, rng.integers(0, 2, shape).astype(np.int32), rng.normal(size=shape).astype("f4"), no, no)

    drawn = [(settings.batch.sequences, settings.batch.length), (settings.agent.contexts, settings.agent.context)]
    update = lambda _, state, *batches: algorithm.update(agent, state, *batches, shard)
    step = quick(jax.vmap(update, (0, None, None, None), axis_name="device"))
    before, chosen = state, [state.table.experts]
    for _ in range(4):
        state, metrics = jax.tree.map(
            lambda leaf: leaf[0], step(np.zeros(1), state, *(windows(*size) for size in drawn))
        )
        assert np.isfinite(metrics["world/gradient_norm"]) and not metrics["train/skipped"]
        chosen.append(state.table.experts)
    assert any((one != other).any() for one, other in itertools.pairwise(chosen))  # noise redraws the selection
    # What is written down is what is scored: the choice without noise.
    path, learner = tmp_path / "clusters.json", SimpleNamespace(state=state, single=lambda tree: tree)
    path.write_text(json.dumps({"experts": []}))
    mow.after_save(agent, learner, tmp_path)
    scores = router.scores(agent.world.routing, state.params["shared"], state.update)
    assert json.loads(path.read_text())["experts"] == router.reselect(scores, state.table.experts, 0.0).tolist()
    moved = jax.tree.map(
        lambda new, old: float(jnp.abs(new - old).max()), state.params["expert"], before.params["expert"]
    )
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.long
@pytest.mark.parametrize(
    "variant", ["storm_embedding", "literal_router", "no_expert_transformers", "grouping=spectral"]
)
def test_a_variant_trains_from_its_first_step_to_its_report(variant: str, tmp_path):
    short = [
        "train.steps=960",
        "warmup.updates=5",
        "evaluation.episodes=2",
        "evaluation.every=0",
        "clustering.batches=1",
    ]
    overrides = (f"--config.{change}" for change in short)
    run("train", f"--config={FILE}:toy/{variant}", f"--workdir={tmp_path}", *overrides)
    assert (tmp_path / "report" / "index.html").exists()
