"""Everything one run holds: environments, replay, learner, logs, and where it stands; begun, saved and restored here.

A checkpoint has all of it, so that a run stopped at any moment goes on exactly from its last checkpoint. Each process
of a job has its own tasks' environments and replay; process 0 writes what is global. Used by train.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mow_jax import build, clustering, logs, processes, summary, transfer
from mow_jax.actors import Actors, Episode
from mow_jax.checkpoint import Checkpoints
from mow_jax.learner import Learner, abstract_state
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
        self.mine = processes.share(self.tasks)  # this process plays and stores its own tasks only
        self.agent = build.agent(config, self.tasks)
        if not processes.index():
            logs.first_screen(summary.rows(config, self.agent, self.tasks, directory))
        suite = dict(envs=config.train.envs, seed=config.seed)
        self.actors = Actors(self.mine, build.env_settings(config), name="train", **suite, **config.actors.to_dict())
        rows = dict(chunk_rows=config.replay.chunk_rows, capacity=config.replay.capacity, names=self.names)
        with processes.first_alone("replay opened"):
            self.replay = Replay(directory / "replay", self.mine, image_size=config.suite.image_size, **suite, **rows)
        keep = dict(keep=config.checkpoint.keep, milestones=config.checkpoint.milestones)
        self.checkpoints = Checkpoints(directory / "checkpoints", **keep)
        logging = dict(tensorboard=config.log.tensorboard, wandb=config.log.wandb)
        self.metrics = None if processes.index() else logs.Metrics(directory, **logging)
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

    def add_episodes(self, episodes: list[Episode]) -> None:
        """This process's finished episodes, for the next line of metrics."""
        self.window.add_episodes(episodes, [task.name for task in self.mine])

    def write_window(self) -> None:
        """What updates and episodes of all processes have said since the last line, as the next one."""
        line = self.window.flush(processes.gather)
        self.write(line | {"actors/deaths": sum(processes.gather(self.actors.deaths))})

    def write(self, values: dict[str, float]) -> None:
        """A line of metrics.jsonl."""
        if self.metrics:
            self.metrics.write(self.steps, self.at.update, time.monotonic() - self._started, values)

    def save(self) -> None:
        """A checkpoint of everything, named by the agent steps a task."""
        self.replay.sync()
        self.at.saved = self.at.joint
        acting = self.learner.save_acting(self.acting)._asdict()
        host = {
            "position": dataclasses.asdict(self.at),
            "actors": self.actors.state(),
            "acting": {"tasks": {t.name: {key: x[k] for key, x in acting.items()} for k, t in enumerate(self.mine)}},
            "replay": self.replay.state(),
            "window": self.window.state(),
        }
        if self.metrics:
            host["metrics"] = self.metrics.state()
        self.checkpoints.save(self.steps, self.learner.snapshot(), host)
        table = self.directory / "clusters.json"
        if self.at.warm and table.exists() and not processes.index():
            clustering.write_experts(table, self.learner.table.experts)
        newest = self.config.replay.capacity // self.config.train.envs
        if newest:
            self.replay.prune(self.checkpoints.steps()[0] // self.config.train.envs - newest)

    def close(self) -> None:
        """Ends workers, closes files."""
        for part in (self.actors, self.replay, self.metrics):
            if part:
                part.close()

    def _begin(self) -> None:
        """From the newest valid checkpoint, whatever processes and devices saved it, else from nothing."""
        with processes.first_alone("checkpoint read"):
            found = None if processes.index() else self._newest()
        found = processes.from_first(found)
        if found is None:
            self._begin_anew()
            return
        step, state, parts = self.checkpoints.load(found, abstract_state(self.agent))
        self.learner.load(state)
        self.at = Position(**parts[0]["position"])
        self._restore_tasks(parts)
        self._started = time.monotonic()
        if self.metrics:
            self.metrics.restore(parts[0]["metrics"])
            self._started -= self.metrics.seconds()
            print(f"resumed from step {step} (update {self.at.update})", flush=True)

    def _restore_tasks(self, parts: list[dict]) -> None:
        """Gives this process its tasks' share of what all processes saved; process 0 has what is counted in all."""
        together = lambda name, key: {task: kept for part in parts for task, kept in part[name].get(key, {}).items()}
        counted = not processes.index()
        deaths = sum(part["actors"]["deaths"] for part in parts) if counted else 0
        self.actors.restore({"deaths": deaths, "tasks": together("actors", "tasks")})
        self.replay.restore(parts[0]["replay"] | {"sums": together("replay", "sums")})
        acting = together("acting", "tasks")
        rows = ([acting[task.name][key] for task in self.mine] for key in ActState._fields)
        self.acting = self.learner.load_acting(ActState(*map(np.stack, rows)))
        episodes = logs.joined(part["window"]["episodes"] for part in parts) if counted else {}
        self.window.restore(parts[0]["window"] | {"episodes": episodes})

    def _newest(self) -> int | None:
        self.checkpoints.recover()
        try:
            return self.checkpoints.newest(set_aside=True)
        except FileNotFoundError:
            return None

    def _begin_anew(self) -> None:
        self.learner.initialise()
        transfer.init_from(self.config, self.learner)
        self.acting = self.learner.init_acting(self.config.train.envs)
        self.replay.restore({"rows": 0})
        if self.metrics:
            self.metrics.restore({})
        self._started = time.monotonic()
