"""Everything one run holds: environments, replay, learner, logs, and where it stands; begun, saved and restored here.

A checkpoint has all of it, so that a run stopped at any moment goes on exactly from its last checkpoint. Used by train.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from ml_collections import ConfigDict

from mow_jax import build, logs, summary, transfer
from mow_jax.actors import Actors
from mow_jax.checkpoint import Checkpoints
from mow_jax.learner import Learner
from mow_jax.mirror import Mirror
from mow_jax.replay import Replay
from mow_jax.types import ActState, Batch


@dataclasses.dataclass
class Position:
    """How far a run is."""

    joint: int = 0  # joint steps taken
    update: int = 0  # updates done, warm-up included
    warm: bool = False  # the warm-up is over and the table set
    saved: int = -1  # joint step of the last checkpoint
    evaluated: int = -1  # joint step of the last evaluation


class Run:
    """The objects of one run in a locked workdir."""

    def __init__(self, config: ConfigDict, directory: Path):
        """Prints the first screen, then begins or resumes. Raises BadInput where something cannot work."""
        self.config, self.directory = config, directory
        self.tasks, self.plan = build.tasks(config), build.plan(config)
        self.names = [task.name for task in self.tasks]
        self.agent = build.agent(config, self.tasks)
        summary.refuse_too_large(config, self.agent, self.tasks, directory)
        logs.first_screen(summary.rows(config, self.agent, self.tasks, directory))
        suite = dict(envs=config.train.envs, seed=config.seed)
        self.actors = Actors(self.tasks, build.env_settings(config), name="train", **suite, **config.actors.to_dict())
        rows = dict(chunk_rows=config.replay.chunk_rows, capacity=config.replay.capacity)
        self.replay = Replay(directory / "replay", self.tasks, image_size=config.suite.image_size, **suite, **rows)
        keep = dict(keep=config.checkpoint.keep, milestones=config.checkpoint.milestones)
        self.checkpoints = Checkpoints(directory / "checkpoints", **keep)
        self.metrics = logs.Metrics(directory, tensorboard=config.log.tensorboard, wandb=config.log.wandb)
        self.window = logs.Window(self.names)
        self.learner, self.at = Learner(self.agent, self.tasks), Position()
        self.stop, self.fault = "", ""  # the signal, or the fault in learning, for which the run should stop
        self._begin()
        mirror = (self.learner, self.replay, config.train.envs, self.plan.joint_steps)
        self._mirror = Mirror(*mirror) if config.replay.device_mirror else None

    @property
    def steps(self) -> int:
        """Agent steps a task."""
        return self.at.joint * self.config.train.envs

    def append(self, row: Batch) -> None:
        """A joint step's row [K, E, ...] into the replay."""
        self.replay.append(row)
        if self._mirror:
            self._mirror.append(row)

    def sample(self, batch: int, length: int, name: str) -> Batch:
        """This update's windows [K, batch, length] for the purpose `name`, dealt out to the devices."""
        indices = self.replay.indices(batch, length, self.at.update, name)
        if self._mirror:
            return self._mirror.gather(indices, length)
        return self.learner.deal(self.replay.gather(indices, length))

    def write(self, values: dict[str, float]) -> None:
        """A line of metrics.jsonl."""
        self.metrics.write(self.steps, self.at.update, time.monotonic() - self._started, values)

    def save(self) -> None:
        """A checkpoint of everything, named by the agent steps a task."""
        self.replay.sync()
        self.at.saved = self.at.joint
        host = {
            "position": dataclasses.asdict(self.at),
            "actors": self.actors.state(),
            "acting": self.learner.save_acting(self.acting)._asdict(),
            "replay": self.replay.state(),
            "window": self.window.state(),
            "metrics": self.metrics.state(),
        }
        self.checkpoints.save(self.steps, self.learner.snapshot(), host)
        newest = self.config.replay.capacity // self.config.train.envs
        if newest:
            self.replay.prune(self.checkpoints.steps()[0] // self.config.train.envs - newest)

    def close(self) -> None:
        """Ends workers, closes files."""
        for part in (self.actors, self.replay, self.metrics):
            part.close()

    def _begin(self) -> None:
        """From the newest valid checkpoint, else from nothing."""
        self.checkpoints.recover()
        try:
            step, state, host = self.checkpoints.load(None, self.learner.abstract_state())
        except FileNotFoundError:
            self._begin_anew()
            return
        self.learner.load(state)
        self.at = Position(**host["position"])
        self.actors.restore(host["actors"])
        self.acting = self.learner.load_acting(ActState(**host["acting"]))
        self.replay.restore(host["replay"])
        self.metrics.restore(host["metrics"])
        self.window.restore(host["window"])
        self._started = time.monotonic() - self.metrics.seconds()
        print(f"resumed from step {step} (update {self.at.update})", flush=True)

    def _begin_anew(self) -> None:
        self.learner.initialise()
        transfer.init_from(self.config, self.learner)
        self.acting = self.learner.init_acting(self.config.train.envs)
        self.replay.restore({"rows": 0})
        self.metrics.restore({})
        self._started = time.monotonic()
