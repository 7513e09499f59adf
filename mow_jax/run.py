"""Everything one run holds: environments, replay, learner, logs, and where it stands; begun, saved and restored here.

A checkpoint has all of it, so that a run stopped at any moment goes on exactly from its last checkpoint. Each process
of a job has its own tasks' environments and replay; process 0 writes what is global. Used by train.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mow_jax import advice, build, logs, meter, processes, summary, transfer
from mow_jax.actors import Actors, Episode
from mow_jax.checkpoint import SECONDS, Checkpoints
from mow_jax.learner import Learner, abstract_state
from mow_jax.mirror import Mirror
from mow_jax.replay import Replay
from mow_jax.types import BadInput, Batch, Window


@dataclasses.dataclass
class Position:
    """How far a run is."""

    joint: int = 0  # joint steps taken
    update: int = 0  # updates done, warm-up included
    round: int = 0  # rounds of learning done, of systems that learn on-policy
    warm: bool = False  # the warm-up is over
    saved: int = -1  # joint step of the last checkpoint
    evaluated: int = -1  # joint step of the last evaluation


class Run:
    """The objects of one run in a locked workdir."""

    def __init__(self, config: ConfigDict, directory: Path, signals: list[str], profile: str = ""):
        """Prints the first screen, then begins or resumes. `signals`: where those that ask the run to stop are added;
        `profile`: "START:COUNT", the updates to trace.
        Raises BadInput where something cannot work."""
        self.config, self.directory, self.signals = config, directory, signals
        self.tasks, self.plan = build.tasks(config), build.plan(config)
        self.names = [task.name for task in self.tasks]
        self.mine = processes.share(self.tasks)  # this process plays and stores its own tasks only
        self.system = build.system(config, self.tasks)
        if not processes.index():
            logs.first_screen(summary.rows(config, self.system, self.tasks, directory))
        suite = dict(envs=config.train.envs, seed=config.seed)
        self.actors = Actors(self.mine, build.env_settings(config), name="train", **suite, **config.actors.to_dict())
        rows = dict(chunk_rows=config.replay.chunk_rows, capacity=config.replay.capacity, names=self.names)
        rows |= dict(image_size=config.suite.image_size, extras=self.system.extras)
        with processes.first_alone("replay opened"):
            self.replay = Replay(directory / "replay", self.mine, **suite, **rows)
        # A milestone means the joint step that reaches it: none need end exactly there.
        self._milestones = {-(-step // config.train.envs) * config.train.envs for step in config.checkpoint.milestones}
        keep = dict(keep=config.checkpoint.keep, milestones=tuple(self._milestones))
        self.checkpoints = Checkpoints(directory / "checkpoints", **keep)
        logging = dict(tensorboard=config.log.tensorboard, wandb=config.log.wandb)
        self.metrics = None if processes.index() else logs.Metrics(directory, **logging)
        self.window = logs.Window(self.names)
        self.learner, self.at = Learner(self.system, self.tasks, seed=config.seed), Position()
        own = f"process-{processes.index()}" if processes.count() > 1 else ""  # jax wants one trace a folder
        self.trace = meter.Trace(profile, directory / "profile" / own, self.plan.warmup_updates + self.plan.updates)
        seen = dict(fresh=not config.train.init_from, once=not config.evaluation.every)
        self.advice = advice.Advice(self.names, self.plan.warmup_updates, **seen)
        self.fault = ""  # in learning, for which the run should stop
        self._drawn: tuple[tuple, list[Batch]] = (), []  # windows of the next update, and the moment they are for
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        self.meter = meter.Meter(self.at.update, self.steps)
        mirror = (self.learner, self.replay, config.train.envs, self.plan.joint_steps)
        self._mirror = Mirror(*mirror) if config.replay.device_mirror else None

    @property
    def steps(self) -> int:
        """Agent steps a task."""
        return self.at.joint * self.config.train.envs

    @property
    def at_milestone(self) -> bool:
        """Whether the last joint step has reached one of checkpoint.milestones."""
        return self.steps in self._milestones

    def falls_due(self, every: int) -> bool:
        """Whether a multiple of `every` agent steps lies in the last joint step."""
        return 0 < every <= self.steps and self.steps // every > (self.steps - self.config.train.envs) // every

    def append(self, row: Batch, extras: dict[str, np.ndarray]) -> None:
        """A joint step's row [K, E, ...] into the replay, with the extras of acting: zeros where there are none, or
        where a worker was lost and the row is not of the frame that was acted on."""
        lost = lambda rank: self.actors.lost.reshape(*row.reward.shape, *[1] * (rank - 2))
        said = {name: np.where(lost(x.ndim), 0, x) for name, x in extras.items()}
        row = row._replace(extras=self.replay.empty(row.reward.shape).extras | said)
        self.replay.append(row)
        if self._mirror:
            self._mirror.append(row)

    def sample(self, window: Window, name: str) -> Batch:
        """This update's windows [K, B, T] for the purpose `name`, dealt out to the devices."""
        if window.batch:
            indices = self.replay.indices(window.batch, window.length, self.at.update, name)
        else:
            indices = self.replay.newest(window.length)
        if self._mirror:
            return self._mirror.gather(indices, window.length)
        return self.learner.put(self.replay.gather(indices, window.length, self.learner.order))

    def draw(self, name: str) -> None:
        """Draws the windows of update `name` and keeps them for it; early, while the devices still work on another."""
        draws = self.system.updates[name].windows.items()
        with jax.profiler.TraceAnnotation(f"windows of {name}"):
            self._drawn = self._moment(name), [self.sample(window, stream) for stream, window in draws]

    def update(self, name: str) -> dict[str, Any]:
        """One update of the system, on the windows that it draws; metrics."""
        self.trace.before(self.at.update)
        if self._drawn[0] != self._moment(name):
            self.draw(name)
        (_, windows), self._drawn = self._drawn, ((), [])
        metrics = self.learner.update(name, *windows)
        self.trace.after(self.at.update, self.learner.state)
        return metrics

    def inspect(self) -> dict[str, float]:
        """What the system's inspection says of windows drawn for it alone, by the names of metrics.jsonl."""
        looks = self.system.updates.get("inspection")
        if not looks or self.replay.rows < max(window.length for window in looks.windows.values()):
            return {}
        windows = [self.sample(window, name) for name, window in looks.windows.items()]
        return logs.named(self.learner.update("inspection", *windows), self.names)

    def _moment(self, name: str) -> tuple:
        """All that windows depend on but the seed: what was drawn at another moment is not what `name` draws now."""
        return name, self.at.update, self.replay.rows

    def add_episodes(self, episodes: list[Episode]) -> None:
        """This process's finished episodes, for the next line of metrics."""
        self.window.add_episodes(episodes, [task.name for task in self.mine])

    def write_window(self) -> None:
        """What updates and episodes of all processes have said since the last line, as the next one."""
        line = self.window.flush(processes.gather)
        self.write(line | {"actors/deaths": sum(processes.gather(self.actors.deaths))})

    def rates(self) -> dict[str, float]:
        """What the run costs since the last line."""
        return self.meter.read(self.at.update, self.steps, self.learner.flop)

    def write(self, values: dict[str, float], rates: dict[str, float] | None = None) -> None:
        """A line of metrics.jsonl; `rates`: those of before, where an evaluation lay in between."""
        if self.metrics:
            seconds = time.monotonic() - self._started
            line = self.metrics.write(self.steps, self.at.update, seconds, values | (rates or self.rates()))
            for sentence in self.advice.look(line):
                print(f"advice: {sentence}", flush=True)
        self.meter.start(self.at.update, self.steps, self.learner.flop)

    def save(self) -> None:
        """A checkpoint of everything, named by the agent steps a task."""
        self.replay.sync()
        self.at.saved = self.at.joint
        acting = self.learner.save_acting(self.acting)._asdict()
        host: dict[str, Any] = {
            "position": dataclasses.asdict(self.at),
            "actors": self.actors.state(),
            "acting": {"tasks": {t.name: {key: x[k] for key, x in acting.items()} for k, t in enumerate(self.mine)}},
            "replay": self.replay.state(),
            "window": self.window.state(),
        }
        if self.metrics:
            host |= {"metrics": self.metrics.state(), SECONDS: time.monotonic() - self._started}
        self.checkpoints.save(self.steps, self.learner.snapshot(), host)
        if self.system.after_save and self.at.warm and not processes.index():
            self.system.after_save(self.learner, self.directory)
        newest = self.config.replay.capacity // self.config.train.envs
        if newest:
            # Milestones are there to be evaluated, which takes no replay: a resume begins at one of the newest.
            oldest = self.checkpoints.steps()[-self.config.checkpoint.keep :][0]
            self.replay.prune(oldest // self.config.train.envs - newest)

    def close(self) -> None:
        """Ends workers, closes files."""
        for part in (self.trace, self.actors, self.replay, self.metrics):
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
        step, state, parts = self.checkpoints.load(found, abstract_state(self.system))
        self.learner.load(state)
        self.at = Position(**parts[0]["position"])
        self._restore_tasks(parts)
        self._started = time.monotonic()
        if self.metrics:
            self.metrics.restore(parts[0]["metrics"])
            # Older checkpoints do not say it: what was learned since the last line is then lost.
            self._started -= parts[0][SECONDS] if SECONDS in parts[0] else self.metrics.seconds()
            for line in self.metrics.lines():
                self.advice.look(line)  # said already
            print(f"resumed from step {step} (update {self.at.update})", flush=True)

    def _restore_tasks(self, parts: list[dict]) -> None:
        """Gives this process its tasks' share of what all processes saved; process 0 has what is counted in all."""
        together = lambda name, key: {task: kept for part in parts for task, kept in part[name].get(key, {}).items()}
        counted = not processes.index()
        deaths = sum(part["actors"]["deaths"] for part in parts) if counted else 0
        self.actors.restore({"deaths": deaths, "tasks": together("actors", "tasks")})
        acting = together("acting", "tasks")
        self._check_acting(acting)
        self.replay.restore(parts[0]["replay"] | {"sums": together("replay", "sums")})
        kind = type(self.system.init_acting(1, 1))
        rows = ([acting[task.name][key] for task in self.mine] for key in kind._fields)
        self.acting = self.learner.load_acting(kind(*map(np.stack, rows)))
        episodes = logs.joined(part["window"]["episodes"] for part in parts) if counted else {}
        self.window.restore(parts[0]["window"] | {"episodes": episodes})

    def _check_acting(self, saved: dict[str, dict[str, np.ndarray]]) -> None:
        """Raises BadInput where what environments were acted by, arrays [E, ...] by task and name, has other shapes."""
        said = lambda array: f"{array.dtype} {list(array.shape)}"
        for name, leaf in self.system.init_acting(1, self.config.train.envs)._asdict().items():
            for task in self.mine:
                if name not in saved.get(task.name, {}):
                    raise BadInput(
                        f"{self.directory} was saved by another version of its system, which acts by other things"
                        f" than {name}: go on with the commit that origin.json names there, or begin a run in another"
                        f" --workdir with train.init_from={self.directory}"
                    )
                there, here = said(saved[task.name][name]), said(leaf[0])
                if there != here:
                    raise BadInput(
                        f"{self.directory} does not fit this config: {name}, by which {task.name} is acted, is {there}"
                        f" there and {here} here. Keys that shape it, such as how far acting looks back (its context)"
                        " or ahead (a planner's horizon), stay in a saved run, whatever --allow_config_change says:"
                        " keep them, or begin a run in another --workdir with"
                        f" train.init_from={self.directory}"
                    )

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
