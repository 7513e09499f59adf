"""Meta-World's robot tasks. In: v3 task names. Out: Tasks of four continuous actions, and Environments.

`settings` are the keys of config.suite.metaworld. An episode is one of a task's goals; its number says which. Called
through envs.make.
"""

from __future__ import annotations

import atexit
import importlib.util
from typing import Any

import numpy as np

from mow_jax.envs import foreign, renderers
from mow_jax.envs.base import Replayed, needs, vector
from mow_jax.envs.foreign import own_code
from mow_jax.envs.suites import LISTS, METAWORLD, unknown
from mow_jax.seeding import generator, seed_of
from mow_jax.types import BadInput, Step, Task

ACTIONS = 4  # the hand's motion along three axes, and the gripper
NUMBERS = 39  # of the observation that Meta-World itself gives: hand and objects, now and a step before, and the goal
CHOICES = {
    "goal_order": ("shuffled", "ordered"),
    "turn": ("upright", "mirror", "none"),
    "render_quality": ("full", "fast"),
    "reward_version": ("v1", "v2"),
}
CAMERAS = ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")  # all tasks have these
LEAST = {"action_repeat": 1, "horizon": 1, "goals": 1}


def resolve(names: tuple[str, ...], settings: dict) -> list[Task]:
    """The Meta-World Tasks called `names`. Raises BadInput for an unknown one or an impossible setting."""
    for name in names:
        if name not in METAWORLD:
            raise unknown("Meta-World task", name, [*METAWORLD, *LISTS["metaworld"]])
    for field, allowed in CHOICES.items():
        if settings[field] not in allowed:
            raise BadInput(f"suite.metaworld.{field} is {settings[field]!r}: choose from {', '.join(allowed)}")
    if settings["camera"] not in CAMERAS:
        raise unknown("camera", settings["camera"], CAMERAS)
    for field, least in LEAST.items():
        if settings[field] < least:
            raise BadInput(f"suite.metaworld.{field} is {settings[field]}: choose {least} or more")
    if len(settings["camera_position"]) not in (0, 3):
        raise BadInput(f"suite.metaworld.camera_position is {settings['camera_position']}: give x, y, z, or ()")
    state = settings.get("observation") == "state"
    if not state:
        renderers.choose("Meta-World")
    task = Task("", "metaworld", False, ACTIONS, (True,) * ACTIONS, settings["horizon"], None, None)
    return [task._replace(name=name, numbers=NUMBERS * state) for name in names]


def check(tasks: list[Task]) -> None:
    """Raises BadInput where the simulator is missing or cannot draw."""
    if importlib.util.find_spec("metaworld") is None:
        needs("metaworld", "metaworld")  # raises: only what is missing is imported here, as mujoco loads a renderer
    if not tasks[0].numbers:
        renderers.refuse()


def make(task: Task, settings: dict) -> MetaWorld:
    """A new environment of `task`. Raises BadInput as `check` does."""
    check([task])
    return MetaWorld(task, settings)


class MetaWorld(Replayed):
    """One task: with the camera of `settings`, and Meta-World's own observation left aside; or that one, and nothing is
    rendered."""

    def __init__(self, task: Task, settings: dict):
        classes = needs("metaworld.env_dict", "metaworld").ALL_V3_ENVIRONMENTS
        self.task, self.settings = task, settings
        self.simulation = classes[task.name](reward_function_version=settings["reward_version"])
        _show_goals(self.simulation)
        # Meta-World counts simulated steps and refuses more; here the horizon counts agent steps.
        self.simulation.max_path_length = settings["horizon"] * settings["action_repeat"] + 1
        self.camera = None if task.numbers else _Camera(self.simulation, settings)

    def reset(self, seed: int, episode: int | None = None) -> np.ndarray:
        self.begin(seed, episode)
        self.time = 0
        goal = _goal(self.task.name, seed, episode, self.settings)
        self.simulation.seed(seed_of(self.settings["goal_seed"], self.task.name, "goal", goal))
        with own_code(f"{self.task.name}: reset"):
            self.simulation._freeze_rand_vec = False
            self.simulation.reset()  # sets the scene twice, for a goal that it draws each time: bodies of the first are
            self.simulation._freeze_rand_vec = True  # left, until both times are for one, as after set_task
            numbers, _ = self.simulation.reset()
        return self._frame(numbers)

    def step(self, action: Any) -> Step:
        step = self.advance(action)
        return step._replace(observation=self._frame(step.observation))

    def _frame(self, numbers: np.ndarray) -> np.ndarray:
        return self.camera.picture() if self.camera else vector(self.task, numbers, self.where())

    def advance(self, action: Any) -> Step:
        """Take the action action_repeat times; rewards add up, one success is enough."""
        if np.shape(action) != (ACTIONS,) or not np.all(np.abs(action) <= 1):
            raise ValueError(f"{self.task.name} takes {ACTIONS} numbers in [-1, 1], not {action}")
        self.note(action)
        self.time += 1
        reward, success = 0.0, False
        for _ in range(self.settings["action_repeat"]):
            with own_code(self.where()):
                numbers, part, _, _, info = self.simulation.step(np.asarray(action, np.float32))
            reward += foreign.reward(part, self.where())
            success |= bool(info["success"])
        over = self.time >= self.task.horizon or (success and self.settings["end_on_success"])
        return Step(numbers, reward, False, over, success=success)

    def close(self) -> None:
        if self.camera:
            self.camera.close()
        self.simulation.close()


def _show_goals(simulation: Any) -> None:
    """Multi-task mode: what metaworld's set_task does but for its pickled goal, which reset draws instead."""
    simulation._partially_observable = False
    del simulation.sawyer_observation_space  # cached for the other mode
    simulation._set_task_called = True
    simulation.seeded_rand_vec = True


def _goal(name: str, seed: int, episode: int | None, settings: dict) -> int:
    """The number of an episode's goal: in order, or by a new permutation in every cycle, so that none is missed."""
    goals = settings["goals"]
    if episode is None:
        return seed % goals
    cycle, place = divmod(episode, goals)
    if settings["goal_order"] == "ordered":
        return place
    return int(generator(settings["goal_seed"], name, "order", cycle).permutation(goals)[place])


class _Camera:
    """Renders a simulation."""

    def __init__(self, simulation: Any, settings: dict):
        import mujoco

        self.data, model = simulation.data, simulation.model
        self.camera = model.camera(settings["camera"]).id
        if settings["camera_position"]:
            model.cam_pos[self.camera] = settings["camera_position"]
        self.turn, fast = settings["turn"], settings["render_quality"] == "fast"
        # Of the buffers only the picture's corner is used; a shadow map alone takes 64 MB.
        model.vis.global_.offwidth = model.vis.global_.offheight = settings["image_size"]
        if fast:
            model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        self.renderer = mujoco.Renderer(model, settings["image_size"], settings["image_size"])
        atexit.register(self.close)  # mujoco's own destructors fail while the interpreter ends
        if fast:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self.renderer.scene.flags[flag] = False

    def picture(self) -> np.ndarray:
        """[image_size, image_size, 3] uint8. The corner cameras hang upside down: "upright" turns those by 180
        degrees; "mirror" only exchanges top and bottom, as much published code does."""
        self.renderer.update_scene(self.data, camera=self.camera)
        frame = self.renderer.render()
        up = self.data.cam_xmat[self.camera].reshape(3, 3)[2, 1]
        if self.turn == "upright" and up < 0:
            frame = frame[::-1, ::-1]
        elif self.turn == "mirror":
            frame = frame[::-1]
        return np.ascontiguousarray(frame)

    def close(self) -> None:
        atexit.unregister(self.close)
        self.renderer.render()  # makes its context the current one: what close frees is the current one's
        self.renderer.close()
