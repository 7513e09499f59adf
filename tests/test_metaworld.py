"""Meta-World's tasks: goals, pictures, success, exact restoring. A long test goes through all 50."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, TINY, metrics, start
from system import needs_renderer

from mow_jax import build, envs, workers
from mow_jax.config import default
from mow_jax.envs import metaworld, renderers
from mow_jax.envs.metaworld import _goal
from mow_jax.envs.suites import METAWORLD
from mow_jax.replay import Replay
from mow_jax.types import BadInput


def settings_of(**changes) -> dict:
    """The default protocol in fast rendering, with changes."""
    config = default()
    config.suite.name = "metaworld"
    return build.env_settings(config) | {"render_quality": "fast"} | changes


def environment_of(name: str, **changes) -> envs.Environment:
    """One task's environment. Skips the test where nothing draws it."""
    settings = settings_of(**changes)
    (task,) = envs.resolve("metaworld", (name,), settings)
    needs_renderer()
    return envs.make(task, settings)


def play(environment: envs.Environment, steps: int, seed: int) -> list[tuple]:
    """What random actions bring: frames as bytes, rewards and flags."""
    draw = np.random.default_rng(seed)
    made = [environment.step(draw.uniform(-1, 1, 4).astype(np.float32)) for _ in range(steps)]
    return [(step.observation.tobytes(), *step[1:]) for step in made]


def test_lists_hold_the_benchmark_s_tasks():
    needs_renderer()  # metaworld imports one
    mt10, mt50 = ([t.name for t in envs.resolve("metaworld", (name,), settings_of())] for name in ("mt10", "mt50"))
    from metaworld.env_dict import MT10_V3, MT50_V3  # after resolve, which chooses how mujoco renders

    assert set(mt50) == set(MT50_V3) and len(mt50) == 50
    assert mt10 == list(MT10_V3)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("reach-v2", {}, "unknown Meta-World task 'reach-v2': did you mean 'reach-v3'?"),
        ("reach-v3", {"render_quality": "good"}, "choose from full, fast"),
        ("reach-v3", {"action_repeat": 0}, "choose 1 or more"),
        ("reach-v3", {"camera": "corner7"}, "unknown camera 'corner7': did you mean"),
        ("reach-v3", {"camera_position": (1.0,)}, "give x, y, z"),
    ],
)
def test_bad_settings_are_named(name, changes, message):
    with pytest.raises(BadInput, match=message.replace("?", r"\?")):
        environment_of(name, **changes).close()


@pytest.mark.parametrize(
    "variables",
    [
        {"MUJOCO_GL": "nope"},
        {"MUJOCO_GL": "off"},
        {"MUJOCO_GL": "glfw", "DISPLAY": "", "WAYLAND_DISPLAY": ""},
        {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"},
        {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "nope"},
    ],
    ids=str,
)
def test_what_cannot_draw_is_named(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    renderers._trial.cache_clear()
    settings = settings_of()
    (task,) = envs.resolve("metaworld", ("reach-v3",), settings)
    with pytest.raises(BadInput) as refusal:
        envs.make(task, settings)
    message = str(refusal.value)
    assert f"MUJOCO_GL={variables['MUJOCO_GL']} (" in message and ("unset" in message or "libosmesa6" in message)
    assert "\n" not in message
    renderers._trial.cache_clear()


def test_training_shuffles_the_goals_and_misses_none_evaluation_takes_them_in_order():
    settings = settings_of(goals=50)
    cycle = lambda number: [_goal("reach-v3", 0, 50 * number + i, settings) for i in range(50)]
    assert sorted(cycle(0)) == sorted(cycle(1)) == list(range(50)) and cycle(0) != cycle(1) != list(range(50))
    ordered = settings | {"goal_order": "ordered"}
    assert [_goal("reach-v3", 0, i, ordered) for i in range(55)] == [*range(50), *range(5)]


def test_goals_are_distinct_and_the_same_for_training_and_evaluation():
    environment = environment_of("reach-v3", goal_order="ordered")
    goals = []
    for episode in range(50):
        environment.reset(episode + 7, episode)
        goals.append(tuple(environment.simulation._target_pos))
    environment.reset(0, 3)
    assert len(set(goals)) == 50 and tuple(environment.simulation._target_pos) == goals[3]
    environment.close()


def assert_as_after_set_task(name: str):
    """The same numbers and rewards, bit for bit, as the benchmark's own way to the goal gives them."""
    envs.resolve(
        "metaworld", (name,), settings_of()
    )  # chooses the renderer, for which mujoco looks when it is imported
    settings = settings_of(observation="state")
    (task,) = envs.resolve("metaworld", (name,), settings)
    ours, benchmark = envs.make(task, settings), importlib.import_module("metaworld")
    theirs = benchmark.env_dict.ALL_V3_ENVIRONMENTS[name]()
    for episode in (3, 0):
        first = ours.reset(5, episode)
        goal = {"rand_vec": ours.simulation._last_rand_vec, "env_cls": type(theirs), "partially_observable": False}
        theirs.set_task(benchmark.types.Task(name, pickle.dumps(goal)))
        np.testing.assert_array_equal(first, np.float32(theirs.reset()[0]), err_msg=name)
        for action in np.random.default_rng(episode).uniform(-1, 1, (6, 4)).astype(np.float32):
            numbers, reward, *_ = theirs.step(action)
            step = ours.step(action)
            np.testing.assert_array_equal(step.observation, np.float32(numbers), err_msg=name)
            assert step.reward == pytest.approx(reward, rel=1e-12), name
    ours.close(), theirs.close()


@pytest.mark.parametrize("name", ["window-open-v3", "dial-turn-v3", "reach-v3"])
def test_a_reset_is_what_the_benchmark_s_set_task_and_reset_are(name):
    assert_as_after_set_task(name)


@pytest.mark.long
def test_the_resets_of_all_50_tasks_are_the_benchmark_s():
    for name in METAWORLD:
        assert_as_after_set_task(name)


def test_the_picture_is_upright_and_not_mirrored():
    made = {turn: environment_of("reach-v3", turn=turn) for turn in ("upright", "mirror", "none")}
    frames = {turn: environment.reset(0, 0) for turn, environment in made.items()}
    assert np.array_equal(frames["upright"], frames["none"][::-1, ::-1])
    assert np.array_equal(frames["mirror"], frames["none"][::-1])
    assert red_column(frames["upright"]) and not red_column(frames["none"]) and not red_column(frames["mirror"])
    for environment in made.values():
        environment.close()


def red_column(frame: np.ndarray) -> bool:
    """Whether the robot stands at the picture's left, its column going down to the lower edge."""
    red, green, _ = frame[40:60, :8].astype(float).mean((0, 1))
    return red > 2 * green


def test_repeat_horizon_and_success():
    once, twice = environment_of("reach-v3"), environment_of("reach-v3", action_repeat=2, horizon=3)
    once.reset(0, 0), twice.reset(0, 0)
    action = np.array([0.5, 1.0, -0.2, 0.0], np.float32)
    singles = [once.step(action) for _ in range(6)]
    doubles = [twice.step(action) for _ in range(3)]
    assert [d.reward for d in doubles] == pytest.approx([singles[i].reward + singles[i + 1].reward for i in (0, 2, 4)])
    assert np.array_equal(doubles[2].observation, singles[5].observation)
    assert [d.truncated for d in doubles] == [False, False, True] and not any(d.terminated for d in doubles)
    once.close(), twice.close()


@pytest.mark.parametrize("ends", [False, True])
def test_a_reached_goal_is_a_success_and_ends_evaluation_alone(ends):
    environment = environment_of("reach-v3", end_on_success=ends)
    environment.reset(0, 0)
    for _ in range(60):
        way = environment.simulation._target_pos - environment.simulation.tcp_center
        step = environment.step(np.append(np.clip(10 * way, -1, 1), 0).astype(np.float32))
        if step.success:
            break
    assert step.success and step.truncated is ends and not step.terminated
    environment.close()


def test_actions_outside_are_refused():
    environment = environment_of("reach-v3")
    environment.reset(0, 0)
    for action in (np.zeros(3, np.float32), np.array([0, 0, 0, 1.5], np.float32)):
        with pytest.raises(ValueError, match="4 numbers in"):
            environment.step(action)
    environment.close()


def test_a_share_is_closed_once_however_often_it_is_asked_for():
    needs_renderer()
    settings = settings_of()
    share = workers.Share(np.zeros((2, 64, 64, 3), np.uint8))
    share.open(envs.resolve("metaworld", ("reach-v3", "door-open-v3"), settings), settings)
    share.begin([(0, 0), (1, 0)])
    share.close()
    share.close()


CLOSING = """
import sys

sys.path.insert(0, "tests")
from test_metaworld import environment_of
made = [environment_of(name) for name in ("reach-v3", "door-open-v3", "drawer-close-v3")]
before = [environment.reset(0, 0).tobytes() for environment in made]
made[0].close()
after = [environment.reset(0, 0).tobytes() for environment in made[1:]]
print(after == before[1:] and len(set(before)) == 3)
"""


def test_closing_one_environment_leaves_the_pictures_of_the_others():
    needs_renderer("osmesa")
    own = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": "osmesa"}
    run = subprocess.run(
        [sys.executable, "-c", CLOSING], env=own, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.stdout.strip() == "True" and not run.stderr, run.stderr


@pytest.mark.long
def test_all_50_tasks_start_step_render_and_restore_exactly():
    frames = set()
    for name in METAWORLD:
        environment, other = environment_of(name), environment_of(name)
        first = environment.reset(1, 3)
        model = environment.simulation.model
        assert sorted(model.camera(number).name for number in range(model.ncam)) == sorted(metaworld.CAMERAS), name
        assert red_column(first), name
        play(environment, 10, seed=0)
        state = environment.state()
        other.reset(9, 7)
        play(other, 5, seed=5)
        other.restore(state)
        assert play(environment, 5, seed=1) == play(other, 5, seed=1), name
        assert np.array_equal(environment.reset(1, 3), first), name
        frames.add(first.tobytes())
        environment.close(), other.close()
    assert len(frames) == 50


def worker_of(process: subprocess.Popen, number: int) -> int:
    """The process id of one of a run's environment workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"mow_jax.workers" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return workers[number]


def wait_for_update(process: subprocess.Popen, workdir: Path, update: int) -> None:
    while not any(line["update"] >= update for line in metrics(workdir)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.long
def test_a_killed_and_a_hanging_worker_are_replaced_and_counted(tmp_path):
    needs_renderer()
    options = ["--config.actors.workers=2", "--config.actors.timeout=5", "--config.train.steps=160"]
    process = start("train", f"--config={TINY}:metaworld", f"--workdir={tmp_path}", *options)
    wait_for_update(process, tmp_path, 18)
    os.kill(worker_of(process, 0), signal.SIGKILL)
    wait_for_update(process, tmp_path, 30)
    os.kill(worker_of(process, 1), signal.SIGSTOP)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "exit status -9" in output and "did not answer in time" in output and "loss 2 of 10" in output
    assert metrics(tmp_path)[-2]["actors/deaths"] == 2  # the last line is the evaluation's
    assert metrics(tmp_path)[-1]["step"] == 160
    found = json.loads((tmp_path / "results.json").read_text())
    assert all(len(task["success"]) == 2 for task in found["tasks"].values())
    replay = Replay(tmp_path / "replay", build.tasks(tiny()), image_size=16, envs=2, seed=0, chunk_rows=10, capacity=0)
    replay.restore({"rows": 80})
    rows = replay.gather(replay.indices(1, 80, 0, "all"), 80)
    assert rows.is_first[..., 1:].any() and np.isfinite(rows.reward).all() and not rows.termination.any()
    assert (rows.observation.reshape(2, 80, -1).max(-1) > 0).all()


def tiny():
    """The tiny run's config on Meta-World."""
    return runpy.run_path(str(ROOT / TINY))["get_config"]("metaworld")
