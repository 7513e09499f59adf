"""Observations that are vectors of numbers: what every suite gives, through workers and replay."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from processes import ROOT, environment

from mow_jax import build, envs
from mow_jax.actors import Actors, random_actions
from mow_jax.config import default
from mow_jax.envs.base import vector
from mow_jax.replay import Replay
from mow_jax.types import BadInput


def made(suite: str, *names: str, **changes) -> tuple[list, dict]:
    """Tasks and settings of a suite whose tasks are seen as vectors."""
    config = default("m3po")
    config.suite.update(name=suite, tasks=names, observation="state", image_size=16)
    config.suite.get(suite, config.suite.gymnasium).update(changes)
    return build.tasks(config), build.env_settings(config)


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_go_from_environments_to_replay_and_back(workers: int, tmp_path):
    tasks, settings = made("toy", "slide", "slide_sparse")
    actors = Actors(tasks, settings, envs=2, seed=0, name="train", workers=workers)
    replay = Replay(tmp_path / "r", tasks, envs=2, image_size=16, chunk_rows=7, capacity=0, seed=0)
    draw, rows = np.random.default_rng(0), []
    for _ in range(12):
        row, _ = actors.step(random_actions(draw, tasks, 2))
        replay.append(row)
        rows.append(row)
    actors.close()
    seen = np.stack([row.observation for row in rows], 2)
    assert seen.shape == (2, 2, 12, 5) and seen.dtype == np.float32
    found = replay.gather(replay.newest(12), 12)
    np.testing.assert_array_equal(found.observation, seen)
    np.testing.assert_array_equal(found.reward, np.stack([row.reward for row in rows], 2))
    # The share of the time, block and target; a first row begins a new episode.
    np.testing.assert_allclose(seen[0, 0, :10, 0], np.arange(10) / 10, rtol=1e-6)
    x, goal = 16 * seen[0, 0, :, 1:3], 16 * seen[0, 0, :, 3:]
    np.testing.assert_allclose(rows[0].reward[0, 0], -np.abs(x[1] - goal[1]).sum() / 24, rtol=1e-5)
    with pytest.raises(BadInput, match="numbers = 5, this run has 7"):
        Replay(tmp_path / "r", [t._replace(numbers=7) for t in tasks], **OTHER)
    with pytest.raises(BadInput, match="image_size = None, this run has 16"):
        Replay(tmp_path / "r", [t._replace(numbers=0) for t in tasks], **OTHER)


OTHER = dict(envs=2, image_size=16, chunk_rows=7, capacity=0, seed=0)


def test_narrower_tasks_are_padded_to_the_widest():
    tasks, settings = made("toy", "catch", "cue", "grid", "catch_noise")
    assert [task.numbers for task in tasks] == [5] * 4
    for task, own in zip(tasks, (3, 2, 5, 3), strict=True):
        first = envs.make(task, settings).reset(3)
        assert first.shape == (5,) and not first[own:].any()


def test_pendulum_is_its_own_three_numbers_and_is_not_drawn():
    (task,), settings = made("gymnasium", "Pendulum-v1")
    assert task.numbers == 3 and task.picture == "its observation, 3 numbers"
    environment, bare = envs.make(task, settings), gymnasium.make("Pendulum-v1")
    np.testing.assert_array_equal(environment.reset(5), bare.reset(seed=5)[0])
    assert environment.environment.render_mode is None
    for push in (0.5, -1.0):
        step, expected = environment.step(np.array([push], np.float32)), bare.step(np.array([2 * push], np.float32))
        np.testing.assert_array_equal(step.observation, expected[0])
        assert step.reward == pytest.approx(expected[1])
    state = environment.state()
    other = envs.make(task, settings)
    other.restore(state)
    again = [one.step(np.array([0.1], np.float32)).observation for one in (environment, other)]
    np.testing.assert_array_equal(*again)


class Broken(gymnasium.Env):
    """Says three numbers and gives what it is told to."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    given: object = None

    def __init__(self, space: gymnasium.Space):
        self.observation_space = space

    def reset(self, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return Broken.given, 0.0, False, False, {}


BOX = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
SPACES = {"Vector": BOX, "Table": gymnasium.spaces.Box(-1, 1, (3, 2), np.float32)}
for name, space in SPACES.items():
    gymnasium.register(f"Broken{name}-v0", Broken, kwargs=dict(space=space))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.array([0.0, np.nan, 1.0]), "its numbers must be finite"),
        (np.array([0.0, 1e300, 1.0]), "its numbers must be finite"),
        (np.zeros(4), "where its space says numbers (3,)"),
        (np.full(3, -np.inf), "its numbers must be finite"),
        ([[0.0], [1.0, 2.0], [3.0]], "where its space says numbers (3,)"),
        ([10**400, 0, 0], "where its space says numbers (3,)"),
        ("hello", "where its space says numbers (3,)"),
        (None, "where its space says numbers (3,)"),
    ],
)
def test_what_is_no_vector_as_said_is_one_message(given, said: str):
    (task,), settings = made("gymnasium", "BrokenVector-v0")
    environment = envs.make(task, settings)
    environment.reset(0)
    Broken.given = np.ones(3, np.float32)
    environment.step(np.zeros(1, np.float32))
    Broken.given = given
    with pytest.raises(BadInput) as refusal:
        environment.step(np.zeros(1, np.float32))
    message = str(refusal.value)
    assert said in message and "BrokenVector-v0: step 2 of an episode gave the observation" in message
    assert "\n" not in message


def test_a_long_vector_is_told_in_short():
    (task,), _ = made("toy", "slide")
    with pytest.raises(BadInput) as refusal:
        vector(task._replace(numbers=5000), np.linspace(0, 1e39, 5000), "somewhere")
    assert str(refusal.value).startswith("somewhere gave the observation") and len(str(refusal.value)) < 600
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("before", [None, "osmesa"])
def test_states_leave_the_renderer_to_tasks_that_are_drawn_later(before, monkeypatch):
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if before:
        monkeypatch.setenv("MUJOCO_GL", before)
    (task,), settings = made("toy", "slide")
    envs.make(task, settings).reset(0, 0)
    assert os.environ.get("MUJOCO_GL") == before


def test_observations_that_are_no_vectors_are_refused():
    with pytest.raises(BadInput, match="BrokenTable-v0 has observations .* no vector of numbers"):
        made("gymnasium", "BrokenTable-v0")


# In a process of its own, where the only renderer that may be asked is broken.
METAWORLD = """
import numpy as np
from test_vectors import made
from mow_jax import envs

(task,), settings = made("metaworld", "reach-v3", action_repeat=2, horizon=3)
environment = envs.make(task, settings)
assert task.numbers == 39 and environment.camera is None
first = environment.reset(0, 4)
assert first.shape == (39,) and first[-3:].any(), "the goal is among them"
steps = [environment.step(np.array([1, 0, 0, 0], np.float32)) for _ in range(3)]
assert steps[-1].truncated and not steps[-1].terminated and steps[-1].observation[0] != first[0]
np.testing.assert_array_equal(envs.make(task, settings).reset(0, 4), first)
"""


# The same of gymnasium's own: a cheetah of 17 numbers and 6 joints, and a cart of 4 numbers that is pushed by up to 3.
MUJOCO = """
import gymnasium
import numpy as np
from test_vectors import made
from mow_jax import envs
from mow_jax.actors import Actors, random_actions

tasks, settings = made("gymnasium", "HalfCheetah-v5", "InvertedPendulum-v5")
assert [(task.numbers, task.action_size, task.discrete) for task in tasks] == 2 * [(17, 6, False)]
assert [task.action_mask for task in tasks] == [6 * (True,), (True, *5 * (False,))]
actors, draw = Actors(tasks, settings, envs=1, seed=0, name="train", workers=0), np.random.default_rng(0)
rows = [actors.step(random_actions(draw, tasks, 1))[0] for _ in range(3)]
actors.close()
assert rows[0].observation.shape == (2, 1, 17) and all(np.isfinite(row.reward).all() for row in rows)
assert not any(row.observation[1, :, 4:].any() or row.action[1, :, 1:].any() for row in rows)
for task, numbers, joints, most in zip(tasks, (17, 4), (6, 1), (1, 3)):
    environment, bare = envs.make(task, settings), gymnasium.make(task.name)
    first = environment.reset(5)
    np.testing.assert_array_equal(first[:numbers], bare.reset(seed=5)[0].astype(np.float32))
    for push in (0.25, -0.5):
        step = environment.step(np.full(6, push, np.float32))
        seen, reward, terminated, *_ = bare.step(np.full(joints, most * push, np.float32))
        np.testing.assert_array_equal(step.observation[:numbers], seen.astype(np.float32))
        assert step.observation.shape == (17,) and not step.observation[numbers:].any()
        assert abs(step.reward - reward) < 1e-6 and step.terminated == terminated
"""


def alone(code: str, backend: str) -> None:
    """Runs code in a process of its own: mujoco looks once for a renderer, when it is imported."""
    own = environment()
    path = f"{own['PYTHONPATH']}:{ROOT / 'tests'}"
    broken = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": "nope", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], env=own | broken, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["osmesa", "nope"])
def test_metaworld_is_its_own_numbers_and_needs_no_renderer(backend: str):
    if importlib.util.find_spec("metaworld") is None:
        pytest.skip("metaworld is not installed")
    alone(METAWORLD, backend)


@pytest.mark.slow
def test_mujoco_s_tasks_of_unequal_widths_are_padded_to_the_widest():
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("mujoco is not installed")
    alone(MUJOCO, "nope")
