"""A trained agent in a few lines: `load_agent`, `make_env`, and `restore` for whoever wants its learner.

All take a run's workdir or a file of mow_jax.export. Nothing loaded is a pickle, and no file imports a module.
"""

from __future__ import annotations

import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from mow_jax import build, envs, workdir
from mow_jax.checkpoint import Checkpoints
from mow_jax.config import check
from mow_jax.learner import Learner, abstract_state
from mow_jax.types import BadInput, System, Task, frame

FORMAT = 1  # of exported files, raised when one of a new version means something else to an old one


def restore(
    directory: Path, step: int | None = None, changes: dict[str, Any] | None = None
) -> tuple[ConfigDict, list[Task], Learner, int]:
    """Config, tasks, learner and step of a run's checkpoint (None: the newest valid one), or of an exported agent;
    `changes` to its config by key."""
    config = settings(directory)
    config.update_from_flattened_dict(changes or {})
    check(config)
    tasks = build.tasks(config)
    learner = Learner(build.system(config, tasks), tasks, seed=config.seed)
    if directory.is_file():
        found, state = read(directory, learner.system)
        if step not in (None, found):
            raise BadInput(f"{directory} holds the agent of step {found}, not of {step}: leave the step out")
        learner.load(state)
        return config, tasks, learner, found
    try:
        found, state, _ = Checkpoints(directory / "checkpoints", keep=1).load(step, abstract_state(learner.system))
    except FileNotFoundError:
        raise BadInput(f"{directory} has no checkpoint yet: train it first") from None
    learner.load(state)
    return config, tasks, learner, found


def settings(directory: Path) -> ConfigDict:
    """The config of a run or of an exported agent, of which nothing has been imported yet."""
    if not directory.is_file():
        return workdir.read(directory)
    config = read_config(directory)
    _refuse_imports(config, directory)
    return config


def _refuse_imports(config: ConfigDict, file: Path) -> None:
    """Raises BadInput where a file, which may be another's, names a module that this program has not imported itself:
    gymnasium imports what stands before the colon of `module:Id-v0`."""
    for task in config.suite.tasks if config.suite.name == "gymnasium" else ():
        module, colon, _ = task.partition(":")
        if colon and module not in sys.modules:
            raise BadInput(
                f"{file} plays {task!r}, for which the module {module!r} would be imported, and a file of others shall"
                f" run nothing: where you trust it, import {module} before you load it, or use the run's --workdir"
            )


# --- The file that mow_jax.export writes ------------------------------------------------------------------------------


def arrays(state: Any, system: System) -> dict[str, Any]:
    """{"params['cluster']['prior']['kernel']": array, ...} of what a file holds of a state."""
    wanted = system.exported or state._fields
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {_name(path): leaf for path, leaf in leaves if path[0].name in wanted}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path).removeprefix(".")


def read_config(path: Path) -> ConfigDict:
    """The settings of an exported agent. Raises BadInput where the file is none, or is of a later version."""
    return workdir.from_saved(_header(path, _read(path, []))["config"], path)


def _header(path: Path, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the file says of itself. Raises BadInput where that is another program's, or of a later version."""
    try:
        header = json.loads(bytes(found["header"]))
        if header["format"] > FORMAT:
            made = header["versions"].get("mow_jax", "later")
            raise BadInput(f"{path} was written by mow_jax {made}, which this version cannot read: update mow_jax")
        return {"config": header["config"], "step": int(header["step"])}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_agent(path, error) from None


def _no_agent(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is no exported agent, or a damaged one ({error}): write it with python -m mow_jax.export")


def read(file: Path, system: System) -> tuple[int, Any]:
    """Step and state of an exported agent; what the file does not hold (optimisers) is zero.

    Raises BadInput where the file is damaged or has other arrays.
    """
    like = abstract_state(system)
    wanted = arrays(like, system)
    found = _read(file)
    said = lambda leaf: "missing" if leaf is None else f"{leaf.dtype} {leaf.shape}"
    for name in (found | wanted).keys() - {"header"}:
        there, here = said(found.get(name)), said(wanted.get(name))
        if there != here:
            raise BadInput(
                f"{file} does not fit this version: {name} is {there} there and {here} here; export it anew from its"
                " workdir, or use the version that wrote it"
            )
    leaves = [
        found.get(_name(path), np.zeros(leaf.shape, leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    ]
    return _header(file, found)["step"], jax.tree.unflatten(jax.tree.structure(like), leaves)


def _read(path: Path, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of the file by name, all of them for None; every byte is checked by the zip's own sums."""
    try:
        with path.open("rb") as file:
            held = np.load(file, allow_pickle=False)
            if isinstance(held, np.ndarray):
                raise ValueError("it holds one array, as of numpy.save")
            with held:
                return {name: held[name] for name in ["header", *(held.files if names is None else names)]}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _no_agent(path, error) from None


# --- Playing ----------------------------------------------------------------------------------------------------------


class LoadedAgent:
    """A trained agent for one environment at a time: `reset(task, seed)`, then `act(observation, task)`."""

    def __init__(self, directory: Path, step: int | None):
        self.config, self.tasks, self.learner, self.step = restore(directory, step)
        self._names = [task.name for task in self.tasks]
        dtype, shape = frame(self.tasks[0], self.config.suite.image_size)
        self._frames = np.zeros((len(self.tasks), 1, *shape), dtype)
        self._start = self.learner.save_acting(self.learner.init_acting(1))
        self._acting = jax.tree.map(np.copy, self._start)
        self._first = np.ones((len(self.tasks), 1), bool)
        self._clock = [0] * len(self.tasks)

    def reset(self, task: str, seed: int = 0) -> None:
        """Begins an episode of `task`; `seed` decides the sampled actions."""
        k = self._index(task)
        self._first[k] = True
        self._keep(k, self._start)  # a first frame alone need not make a system forget the episode before
        self._clock[k] = seed * 1_000_003

    def act(self, observation: np.ndarray, task: str) -> Any:
        """The action for a uint8 frame [H, W, 3] of any size, or for a vector where the run saw such: what
        `make_env(...).step` takes."""
        k = self._index(task)
        self._frames[k, 0] = self._fitted(np.asarray(observation))
        acting = self.learner.load_acting(self._acting)
        seen = (self._frames, self._first, self._clock[k] % 2**31)
        action, _, acting = self.learner.act(acting, *seen, explore=False)
        self._keep(k, self.learner.save_acting(acting))
        self._first[k], self._clock[k] = False, self._clock[k] + 1
        return int(action[k, 0]) if self.tasks[k].discrete else action[k, 0]

    def _fitted(self, observation: np.ndarray) -> np.ndarray:
        """The observation as the run saw them. Raises BadInput for one of another kind."""
        count, size = self.tasks[0].numbers, self.config.suite.image_size
        if count:
            if observation.shape != (count,) or observation.dtype.kind not in "fiu":
                raise BadInput(
                    f"an observation is numbers [{count}], not {observation.dtype} {list(observation.shape)}"
                )
            return observation
        if observation.ndim != 3 or observation.shape[-1] != 3 or observation.dtype != np.uint8:
            raise BadInput(f"an observation is uint8 [H, W, 3], not {observation.dtype} {list(observation.shape)}")
        same = observation.shape[:2] == (size, size)
        return observation if same else cv2.resize(observation, (size, size), interpolation=cv2.INTER_AREA)

    def _keep(self, k: int, acting: Any) -> None:
        """Takes over the acting state of task k, the one that has moved on."""
        for mine, new in zip(jax.tree.leaves(self._acting), jax.tree.leaves(acting), strict=True):
            mine[k] = new[k]

    def _index(self, task: str) -> int:
        if task not in self._names:
            raise BadInput(f"this agent does not know {task!r}; its tasks: {', '.join(self._names)}")
        return self._names.index(task)


def load_agent(directory: str | Path, step: int | None = None) -> LoadedAgent:
    """The agent of a run's newest checkpoint, or of agent step `step`; or that of an exported file."""
    return LoadedAgent(Path(directory), step)


def make_env(directory: str | Path, task: str) -> envs.Environment:
    """An environment of one of a run's tasks, exactly as the run had it."""
    config = settings(Path(directory))
    found = {t.name: t for t in build.tasks(config)}
    if task not in found:
        raise BadInput(f"the run in {directory} has no task {task!r}; its tasks: {', '.join(found)}")
    return envs.make(found[task], build.env_settings(config))
