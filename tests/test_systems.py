"""The seam between the house and its systems: one record. A fake system goes through the whole of it."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from processes import ROOT, TINY, assert_same_run, digests, metrics, replay_files

from mow_jax import build, evaluate, load, load_agent, logs, mirror, summary, train, workdir
from mow_jax import config as keys
from mow_jax.report.__main__ import main as report
from mow_jax.run import Run
from mow_jax.types import Acted, AfterEvaluation, BadInput, System, Update, Window


class State(NamedTuple):
    update: Any
    seen: Any  # [K] sum of all notes that updates have drawn
    newest: Any  # [] sum of those that on-policy rounds have seen
    best: Any  # [K] score of the last evaluation


class Acting(NamedTuple):
    age: Any  # [K, E]


def fake(config: ConfigDict, tasks: list, plan) -> System:
    """It walks to the right, numbers the steps of an episode, and learns to add those numbers up."""
    count = len(tasks)

    def act(state, acting, observation, is_first, step, shard, explore):
        age = jnp.where(is_first, 1.0, acting.age + 1)
        return Acted(jnp.full(is_first.shape, 1 + explore, jnp.int32), {"age": age}, Acting(age))

    def learn(state, batch, shard):
        own = jnp.zeros(count).at[shard.ids].add(shard.valid * batch.extras["age"].sum((1, 2)))
        seen = state.seen + jax.lax.psum(own, "device")
        total = {"sum/total": seen, "train/skipped_in_row": jnp.int32(0)}
        return state._replace(update=state.update + 1, seen=seen), total

    def fresh(state, batch, shard):
        own = (shard.valid[:, None, None] * batch.extras["age"]).sum()
        newest = state.newest + jax.lax.psum(own, "device")
        return state._replace(newest=newest), {"fresh/rows": newest}

    return System(
        name=config.system,
        init=lambda seed: State(jnp.int32(0), jnp.zeros(count), jnp.zeros(()), jnp.zeros(count)),
        init_acting=lambda tasks, envs: Acting(jnp.zeros((tasks, envs))),
        act=act,
        updates={
            "training": Update(learn, {"sums": Window(config.rows.batch, 4)}),
            "on_policy": Update(fresh, {"fresh": Window(0, config.train.burst)}),
            "inspection": Update(
                lambda state, batch, shard: (state, {"look/seen": state.seen}), {"look": Window(2, 4)}
            ),
        },
        extras={"age": ("float32", ())},
        after_evaluation=AfterEvaluation(
            lambda state, normalised, step: state._replace(best=normalised),
            lambda state: {"memory": {"best": state.best}},
        ),
    )


def add(config: ConfigDict) -> None:
    config.rows = ConfigDict(dict(batch=2))


@pytest.fixture(autouse=True, scope="module")
def _installed():
    """The fake stands where a system's folder and its keys would."""
    own = dict(add=add, CHOICES={}, RANGES={"[1, inf)": "rows.batch"}, check=lambda config: None, BEFORE={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "SYSTEMS", (*keys.SYSTEMS, "fake"))
        patch.setitem(sys.modules, "mow_jax.config.fake", SimpleNamespace(**own, LOCKED=("evaluation",)))
        patch.setitem(sys.modules, "mow_jax.systems.fake", SimpleNamespace())
        patch.setitem(sys.modules, "mow_jax.systems.fake.build", SimpleNamespace(system=fake))
        yield


def settings(**training: Any) -> ConfigDict:
    config = keys.default("fake")
    config.suite.update(name="toy", tasks=("catch", "grid"), image_size=16)
    config.train.update(dict(steps=48, envs=2, burst=4) | training)
    config.warmup.steps = 16
    config.evaluation.update(episodes=2, parallel=2, max_steps=10, every=20)
    config.actors.workers = 0
    config.checkpoint.update(every=8, keep=9)
    config.replay.chunk_rows = 10
    config.log.update(every=4, tensorboard=False)
    return config


def trained(directory: Path, config: ConfigDict) -> Path:
    assert train.train(config, directory, [])
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory, _installed):
    """A run of the fake from begin to end."""
    return trained(tmp_path_factory.mktemp("fake") / "whole", settings())


def test_a_system_trains_evaluates_and_is_loaded_by_its_record_alone(whole, capsys, tmp_path):
    config, _, learner, step = load.restore(whole)
    state = learner.snapshot()
    assert (config.system, step, int(state.update)) == ("fake", 48, 16)
    written = [name for line in metrics(whole) for name in line]
    assert {"sum/total", "sum/total/catch", "fresh/rows"} <= set(written)
    results = json.loads((whole / "results.json").read_text())
    assert state.best.tolist() == pytest.approx([task["normalised"] for task in results["tasks"].values()])
    assert {"look/seen", "look/seen/catch"} <= set(written)
    remembered = [task["memory"]["best"] for task in results["tasks"].values()]
    assert remembered == state.best.tolist() and "memory/best/catch" in written
    assert results["diagnostics"] == {}
    agent = load_agent(whole)
    agent.reset("grid")
    assert agent.act(np.zeros((16, 16, 3), np.uint8), "grid") == 1, "to be scored it does not explore"
    evaluate.main(whole, tmp_path / "scored", 3, None, random=False)  # other tests compare with what the run has left
    assert "evaluation at step 48" in capsys.readouterr().out
    assert report([f"--workdir={whole}"]) == 0
    page = (whole / "report" / "report.md").read_text()
    assert "Sum" in page and "Harmonious" not in page and "clusters.json" not in page


def rows_of(directory: Path) -> dict[str, np.ndarray]:
    """{stream: [rows] of what acting has stored}, from the files."""
    record = np.dtype((np.void, 16 * 16 * 3 + 4 + 4 + 1 + 1 + 4))
    found: dict[str, list] = {}
    for name, content in replay_files(directory).items():
        rows = np.frombuffer(content, record).view(np.uint8).reshape(-1, record.itemsize)
        found.setdefault(name.rpartition("/")[0], []).append(rows[:, -4:].copy().view(np.float32)[:, 0])
    return {stream: np.concatenate(parts)[:24] for stream, parts in found.items()}


def test_extras_come_back_from_replay_and_are_zero_where_nothing_acted(whole):
    for stream, ages in rows_of(whole).items():
        assert not ages[:8].any(), f"random rows of {stream} have extras"
        assert ages[8] == 1 or stream.startswith("grid"), "acting begins with an age of its own"
        assert (ages[8:] > 0).all() and set(np.diff(ages[8:])) <= {1.0, *(1 - ages[8:])}


def test_rounds_see_every_row_after_the_warm_up_once(whole):
    _, _, learner, _ = load.restore(whole)
    last = 8 + (24 - 8) // 4 * 4
    assert float(learner.snapshot().newest) == sum(ages[8:last].sum() for ages in rows_of(whole).values())


def test_it_goes_on_exactly_where_it_was_stopped(whole, tmp_path):
    assert train.train(settings(steps=32), tmp_path / "run", [])
    changed = settings()
    changed.evaluation.episodes = 3
    with pytest.raises(BadInput, match="evaluation.episodes: 2 -> 3"):
        train.train(changed, tmp_path / "run", [])
    trained(tmp_path / "run", settings())
    assert replay_files(tmp_path / "run") == replay_files(whole)
    one, other = (load.restore(path)[2].snapshot() for path in (whole, tmp_path / "run"))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert digests(tmp_path / "run").keys() == digests(whole).keys()


@pytest.mark.slow
@pytest.mark.parametrize("joint", [10, 24])
def test_a_run_asked_to_stop_where_an_evaluation_is_due_makes_it_when_it_goes_on(whole, tmp_path, monkeypatch, joint):
    collect_one, stopped = train.collect, []

    def asked(run: Run) -> None:
        collect_one(run)
        if run.at.joint == joint and not stopped:
            run.signals.append("SIGTERM")
            stopped.append(run.at.evaluated)

    monkeypatch.setattr(train, "collect", asked)
    assert not train.train(settings(), tmp_path / "run", [])
    trained(tmp_path / "run", settings())
    assert stopped[0] < joint
    assert_same_run(whole, tmp_path / "run")


class Older(NamedTuple):
    age: Any
    last: Any = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("acting", "said"),
    [
        (
            lambda tasks, envs: Acting(np.zeros((tasks, envs, 3), np.float32)),
            "float32 [2] there and float32 [2, 3] here",
        ),
        (lambda tasks, envs: Acting(np.zeros((tasks, envs), np.int32)), "float32 [2] there and int32 [2] here"),
        (lambda tasks, envs: Older(np.zeros((tasks, envs), np.float32)), "another version of its system"),
    ],
)
def test_what_shapes_acting_stays_in_a_saved_run_though_it_is_allowed_to_change(
    whole, tmp_path, monkeypatch, acting, said
):
    """Shapes of the state's arrays find other keys; of what environments are acted by nothing else would tell."""
    run, build_of_fake = shutil.copytree(whole, tmp_path / "run"), sys.modules["mow_jax.systems.fake.build"]
    made = lambda *given: fake(*given)._replace(init_acting=acting)
    monkeypatch.setattr(build_of_fake, "system", made)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    changed = settings(steps=64)
    changed.rows.batch = 3
    with pytest.raises(BadInput, match=re.escape(said)) as refusal:
        train.train(changed, run, [], allowed=("rows",))
    assert ("whatever --allow_config_change says" in str(refusal.value)) == ("there and" in said)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_stop_is_heard_between_the_updates_of_a_round_and_leaves_no_trace(tmp_path, monkeypatch):
    """At joint steps that are saved anyway, the last one too: once a round's updates are done, its own checkpoint is
    made though one of the same step, for the stop, is there."""
    config = settings(overlap=False, ratio=1.5, steps=32)
    config.evaluation.every = 0
    whole, run, moments = trained(tmp_path / "whole", config), tmp_path / "run", [4, 11]
    count_update, made = train.count_update, []

    def asked(run: Run, metrics: dict) -> None:
        count_update(run, metrics)
        if run.at.update in moments:
            moments.remove(run.at.update)
            run.signals.append("SIGTERM")
            made.append((run.at.joint, run.at.update))

    monkeypatch.setattr(train, "count_update", asked)
    for _ in range(2):
        assert not train.train(config, run, [])
        kept = json.loads((run / "checkpoints" / str(2 * made[-1][0]) / "host-0.json").read_text())
        assert (kept["position"]["joint"], kept["position"]["update"]) == made[-1], "not one update more"
    trained(run, config)
    assert made == [(12, 4), (16, 11)]
    assert_same_run(whole, run)


def test_with_environments_under_way_a_stop_is_heard_when_they_are_back(tmp_path, monkeypatch):
    updates: list[int] = []
    count_update = train.count_update
    monkeypatch.setattr(train, "count_update", lambda *given: updates.append(0) or count_update(*given))
    heard: list[str] = []
    monkeypatch.setattr(logs.Window, "add", lambda *_, **__: heard.append("SIGTERM"))
    assert not train.train(settings(), tmp_path / "run", heard)
    assert len(updates) == 4, "the whole round"


@pytest.mark.slow
def test_gymnasium_environments_go_on_exactly_too(tmp_path, capsys):
    """Of three actions each, as the fake walks by the second and third; that MoW learns from others is a long test."""
    config = settings()
    config.suite.update(name="gymnasium", tasks=("MountainCar-v0", "Acrobot-v1"))
    whole = trained(tmp_path / "whole", config)
    parts = config.copy_and_resolve_references()
    parts.train.steps = 32
    trained(tmp_path / "run", parts)
    trained(tmp_path / "run", config)
    assert "resumed from step 32" in capsys.readouterr().out
    assert replay_files(tmp_path / "run") == replay_files(whole)
    found = json.loads((whole / "results.json").read_text())["tasks"]
    assert found.keys() == set(config.suite.tasks) and all(task["normalised"] is not None for task in found.values())


def test_the_copy_on_the_device_has_the_extras_too(whole, tmp_path):
    config = settings()
    config.replay.device_mirror = True
    trained(tmp_path / "run", config)
    assert all(metrics(tmp_path / "run")[i] == line for i, line in enumerate(metrics(whole)))


def collect(run: Run, joint_steps: int, every: int) -> None:
    """Rows without learning, and a checkpoint every so many."""
    for _ in range(joint_steps):
        row, _ = run.actors.step(np.ones((2, 2), np.int32))
        run.append(row, {"age": np.full((2, 2), run.at.joint, np.float32)})
        run.at.joint += 1
        if run.at.joint % every == 0:
            run.save()


def test_a_copy_on_the_device_begins_with_what_a_pruned_replay_still_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "FILL", 4)
    config = settings(steps=80)
    config.replay.update(device_mirror=True, capacity=22, chunk_rows=3)
    config.checkpoint.keep = 1
    run = Run(config, tmp_path / "run", [])
    collect(run, 30, 15)
    run.close()
    assert "000000.rows" not in {path.name for path in (tmp_path / "run").rglob("*.rows")}
    run = Run(config, tmp_path / "run", [])
    collect(run, 2, 15)
    indices = run.replay.indices(5, 4, 0, "sums")
    assert indices[..., 1].min() >= 21
    copied, read = run._mirror.gather(indices, 4), run.learner.deal(run.replay.gather(indices, 4))
    jax.tree.map(np.testing.assert_array_equal, copied, read)
    run.close()


@pytest.mark.parametrize(
    ("capacity", "chunk", "every", "keep", "milestones"),
    [(10, 3, 8, 1, ()), (12, 4, 14, 2, (14,)), (26, 7, 6, 3, (6, 24)), (0, 9, 20, 2, (20,))],
)
def test_the_replay_is_never_larger_than_was_said(tmp_path, capacity, chunk, every, keep, milestones):
    config, largest = settings(steps=100), 0
    config.replay.update(capacity=capacity, chunk_rows=chunk)
    config.checkpoint.update(every=every, keep=keep, milestones=milestones)
    run = Run(config, tmp_path / "run", [])
    for _ in range(50):
        collect(run, 1, every // 2)
        largest = max(largest, sum(path.stat().st_size for path in tmp_path.rglob("*.rows")))
    run.close()
    said = summary.replay_bytes(config, run.system, run.tasks)
    a_chunk = chunk * (16 * 16 * 3 + 14) * 4  # of all four streams
    assert largest <= said <= largest + (capacity > 0) * a_chunk and said % a_chunk == 0
    assert run.checkpoints.steps()[: len(milestones)] == list(milestones)


def test_a_milestone_is_loaded_without_its_rows_and_no_run_goes_on_from_it(tmp_path):
    config = settings(steps=100)
    config.replay.update(capacity=16, chunk_rows=4)
    config.checkpoint.update(keep=1, milestones=(10,))
    run = Run(config, tmp_path, [])
    workdir.write(tmp_path, config)
    collect(run, 38, 5)
    left = replay_files(tmp_path)
    assert load.restore(tmp_path, 10)[-1] == 10
    shutil.rmtree(tmp_path / "checkpoints" / "70")
    with pytest.raises(BadInput, match="000000.rows is missing .*checkpoint.keep checkpoints, not for milestones"):
        run._begin()
    assert replay_files(tmp_path) == left, "whoever finds the newer checkpoint again goes on from it"
    run.close()


@pytest.mark.parametrize(
    ("envs", "milestones", "found"), [(2, (9, 20, 21), [10, 20, 22]), (6, (1, 25, 36), [6, 30, 36])]
)
def test_a_milestone_is_saved_by_the_joint_step_that_reaches_it(tmp_path, monkeypatch, envs, milestones, found):
    """Whatever `checkpoint.every` is; each is kept, and nothing else is but the newest."""
    config, saved = settings(steps=48, envs=envs), []
    config.warmup.steps = 12
    config.checkpoint.update(every=40, keep=1, milestones=milestones)
    config.evaluation.every = 0
    monkeypatch.setattr(
        evaluate, "evaluate", lambda *_, **__: ({"tasks": {}, "diagnostics": {}, "aggregate": None}, {})
    )
    monkeypatch.setattr(evaluate, "write", lambda *_: None)
    monkeypatch.setattr(Run, "save", lambda run: saved.append(run.steps) or setattr(run.at, "saved", run.at.joint))
    with contextlib.closing(Run(config, tmp_path, [])) as run:
        keeps = run.checkpoints._milestones
        for run.at.joint in range(48 // envs + 1):
            train.evaluate_and_save(run)
    assert sorted({*found, 42 if envs == 6 else 40, 48}) == sorted(set(saved)) and keeps == set(found)


def test_each_update_draws_its_own_windows(tmp_path):
    config = settings(steps=100)
    with contextlib.closing(Run(config, tmp_path, [])) as run:
        collect(run, 20, 99)
        drawn = []
        for run.at.update in (3, 4, 3):
            drawn.append(jax.tree.map(np.asarray, run.sample(Window(5, 4), "sums")))
            expected = run.learner.deal(run.replay.gather(run.replay.indices(5, 4, run.at.update, "sums"), 4))
            jax.tree.map(np.testing.assert_array_equal, drawn[-1], expected)
    np.testing.assert_array_equal(drawn[0].observation, drawn[2].observation)
    assert np.any(drawn[0].observation != drawn[1].observation)


def test_a_run_that_ends_while_tasks_are_grouped_keeps_its_warm_up(tmp_path):
    for before in (0, 3):
        with contextlib.closing(Run(settings(steps=24), tmp_path, [])) as run:
            assert (run.at.update, run.at.warm) == (before, False)
            run.learner._updates["warmup"] = run.learner._updates["training"]
            updates = run.system.updates | {"warmup": run.system.updates["training"]}
            run.system = run.system._replace(updates=updates, after_warmup=lambda *_: 1 / 0)
            run.plan = run.plan._replace(warmup_updates=3)
            with pytest.raises(ZeroDivisionError):
                train.loop(run)


@pytest.mark.parametrize("overlap", [True, False])
def test_learning_that_fails_in_the_last_updates_is_seen_before_the_run_ends(tmp_path, monkeypatch, overlap):
    config = settings(steps=16, overlap=overlap)
    monkeypatch.setattr(train, "learn", lambda run: setattr(run, "fault", "not finite" * (run.at.joint == 8)))
    monkeypatch.setattr(train, "evaluate_and_save", lambda run: None)
    with contextlib.closing(Run(config, tmp_path, [])) as run, pytest.raises(train.Stopped, match="not finite"):
        train.loop(run)
    assert run.at.joint == 8


@pytest.mark.parametrize(
    ("training", "rounds", "mirror", "devices"),
    [
        (dict(burst=1), False, False, 1),
        pytest.param(dict(burst=4), True, True, 1, marks=pytest.mark.slow),
        pytest.param(dict(burst=1, ratio=2.0), False, True, 2, marks=pytest.mark.slow),
        pytest.param(dict(burst=2, ratio=0.5, overlap=False), False, False, 2, marks=pytest.mark.slow),
    ],
)
def test_windows_drawn_ahead_are_those_that_an_update_would_draw(
    tmp_path, monkeypatch, training, rounds, mirror, devices
):
    config, here, update, ready = settings(steps=32, **training), jax.local_devices()[:devices], Run.update, []
    config.replay.device_mirror = mirror

    def without_rounds(*arguments):
        made = fake(*arguments)
        return made._replace(updates={"training": made.updates["training"]})

    if not rounds:
        monkeypatch.setattr(sys.modules["mow_jax.systems.fake.build"], "system", without_rounds)
    monkeypatch.setattr(jax, "local_devices", lambda: here)
    monkeypatch.setattr(Run, "update", lambda run, name: ready.append((name, run._drawn[0])) or update(run, name))
    ahead = trained(tmp_path / "ahead", config)
    first = [name for name, moment in ready if moment]
    assert first == ["on_policy" if rounds else "training"] * (
        8 // max(training["burst"], 1 / training.get("ratio", 1))
    )
    monkeypatch.setattr(train, "draw_ahead", lambda run: None)
    plain = trained(tmp_path / "plain", config)
    assert not any(moment for _, moment in ready[len(ready) // 2 :])
    assert_same_run(plain, ahead)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda config: config.update(system="nothing"),
            r"system='nothing' is not allowed: use one of m3po, mow, scalezero, fake$",
        ),
        (lambda config: config.update(system="mow"), r"default\('mow'\)"),
        (lambda config: config.warmup.update(updates=3), "warmup.updates=3: fake"),
        (lambda config: config.train.update(burst=0), "train.burst=0"),
        (lambda config: config.rows.update(batch=0), "rows.batch=0"),
    ],
)
def test_what_a_system_does_not_have_is_refused(tmp_path, change, said: str):
    config = settings()
    change(config)
    with pytest.raises(BadInput, match=said):
        train.train(config, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_there_was_a_choice_is_the_first_systems(tmp_path):
    saved = keys.default().to_dict()
    del saved["system"]
    (tmp_path / "config.json").write_text(json.dumps(saved, default=list))
    assert workdir.read(tmp_path).system == keys.FIRST


def test_weights_start_runs_of_the_same_system_only(whole, tmp_path):
    config = settings(init_from=str(whole), steps=16)
    trained(tmp_path / "run", config)
    assert float(load.restore(tmp_path / "run")[2].snapshot().newest) > 0
    other = keys.default()
    other.suite.update(name="toy", tasks=("catch",), image_size=16)
    other.train.init_from = str(whole)
    with pytest.raises(BadInput, match="a run of fake, this is one of mow"):
        train.train(other, tmp_path / "other", [])


# --- The rules that keep it so ----------------------------------------------------------------------------------------

NAMES = sorted(path.stem for path in (ROOT / "mow_jax" / "config").glob("*.py") if path.stem != "__init__")
HOUSE = [
    path
    for path in sorted((ROOT / "mow_jax").rglob("*.py"))
    if path.relative_to(ROOT / "mow_jax").parts[0] not in ("systems", "config")
]


def test_every_system_has_a_folder_and_a_file_of_keys():
    folders = {path.name for path in (ROOT / "mow_jax" / "systems").iterdir() if (path / "build.py").exists()}
    assert folders == set(NAMES) and NAMES


def named(source: str) -> list[str]:
    """Systems that a source text names: in quotes, or by importing their folder or keys."""
    return [
        name
        for name in NAMES
        if re.search(rf"""["']{name}["']|(systems|config)(\.| import ){name}\b|\bsystem *== *["']""", source)
    ]


@pytest.mark.parametrize("path", HOUSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_house_names_no_system(path: Path):
    assert named(path.read_text()) == []


@pytest.mark.parametrize("name", NAMES)
def test_no_system_names_another(name: str):
    own = [ROOT / "mow_jax" / "config" / f"{name}.py", *(ROOT / "mow_jax" / "systems" / name).rglob("*.py")]
    assert len(own) > 3
    assert {str(path): others for path in own if (others := set(named(path.read_text())) - {name})} == {}


@pytest.mark.parametrize(
    "source",
    [
        'if config.system == "mow":',
        "x = 'mow'",
        "from mow_jax.systems.mow import agent",
        "from mow_jax.config import mow",
    ],
)
def test_a_name_would_be_seen(source: str):
    assert "mow" in named(source)


def test_the_record_stays_small():
    assert len(System._fields) <= 18 and len(System._fields) - len(System._field_defaults) == 5


def test_what_acting_said_of_a_frame_is_not_kept_with_the_next_episodes_where_a_worker_was_lost(tmp_path):
    run = Run(settings(), tmp_path / "run", [])
    row, _ = run.actors.step(np.ones((2, 2), np.int32))
    assert not run.actors.lost.any()
    run.actors.lost[1, 0] = True
    run.append(row, {"age": np.full((2, 2), 7, np.float32)})
    assert run.replay.gather(run.replay.newest(1), 1).extras["age"].squeeze().tolist() == [[7, 7], [0, 7]]
    run.close()


@pytest.mark.parametrize("variant", ["toy", "scalezero", "m3po"])
def test_runs_that_differ_in_the_seed_have_the_same_programs(variant: str):
    """What programs are closed over knows no seed: they are given it with the shard."""
    made = []
    for seed in (0, 8):
        settings = runpy.run_path(str(ROOT / TINY))["get_config"](variant)
        settings.seed = seed
        own = importlib.import_module(f"mow_jax.systems.{settings.system}.build")
        given = (settings, build.tasks(settings), build.plan(settings))
        made.append(own.agent(*given[: own.agent.__code__.co_argcount]))
    assert made[0] == made[1]
