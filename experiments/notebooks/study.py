"""What the notebooks share: the experiment that they look at, random experience, warm-ups, runs trained on the spot.

With NOTEBOOK_TINY=WORKDIR in the environment, a finished run of tests/configs/tiny.py, everything is as small as can
be, and nothing to be learned: that run is looked at where another one would be trained.
"""

import functools
import hashlib
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from mow_jax import build, xla
from mow_jax.actors import Actors, random_actions
from mow_jax.learner import Learner
from mow_jax.replay import Replay
from mow_jax.seeding import generator
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow import warmup

ROOT = Path(__file__).resolve().parents[2]
TINY = "NOTEBOOK_TINY" in os.environ
TOYS = ROOT / ("tests/configs/tiny.py" if TINY else "experiments/toy.py")  # an experiment that trains in minutes
MANY = ROOT / ("tests/configs/tiny.py" if TINY else "experiments/toy13.py")  # one with tasks enough to be grouped
RUNS = Path(os.environ.get("NOTEBOOK_RUNS", tempfile.gettempdir() + "/mow_jax_notebooks"))  # trained here, kept
# What a run has compiled, a notebook that looks into it need not compile again.
COMPILED = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(RUNS / "compiled"))
jax.config.update("jax_compilation_cache_dir", COMPILED)
# Here and in the runs: of what learns for a minute, compiling is the longer part.
FLAGS = (f"--{name}={str(value).lower()}" for name, value in xla.OLDER_GENERATOR.items())
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*os.environ.get("XLA_FLAGS", "").split(), *FLAGS]))


class Study:
    """An experiment's learner, before it has acted, with a buffer of random experience."""

    def __init__(self, file, **changes):
        """`changes`: {key with __ for the dots: value} of the experiment's config."""
        self.config = runpy.run_path(str(file))["get_config"]()
        self.config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
        self.tasks = build.tasks(self.config)
        self.names = [task.name for task in self.tasks]
        self.agent = mow.agent(self.config, self.tasks, build.plan(self.config))
        record, devices = mow.record(self.config, self.tasks, self.agent), jax.local_devices()[:1]
        self.learner = Learner(record, self.tasks, devices, seed=self.config.seed)
        # Random numbers take XLA's CPU compiler half a minute to optimise, for nothing.
        quick = functools.partial(jax.jit, compiler_options=xla.options(jax.default_backend(), often=False))
        self._init = quick(functools.partial(algorithm.init, self.agent))
        self._gradients = {}  # compiled, by the reductions that are asked for
        self._folder = None  # of the buffer

    def begin(self, seed):
        """New weights and a new buffer of random experience; the warm-up is at its beginning."""
        self._warmed = 0
        self.learner.reseed(seed)
        self.learner.load(jax.tree.map(np.asarray, self._init(self.learner.seed)))
        each = dict(envs=self.config.train.envs, seed=seed)
        self.replay = Replay(
            self._new_folder(), self.tasks, **each, image_size=self.config.suite.image_size, chunk_rows=256, capacity=0
        )
        self.replay.restore({"rows": 0})
        settings = dict(self.config.actors.to_dict(), workers=0)
        actors = Actors(self.tasks, build.env_settings(self.config), name="study", **each, **settings)
        for step in range(self.config.warmup.steps // self.config.train.envs):
            action = random_actions(generator(seed, "random", step), self.tasks, self.config.train.envs)
            self.replay.append(actors.step(action)[0])
        actors.close()

    def _new_folder(self):
        """An empty folder for a buffer; it is removed with the next one, or as the process ends."""
        if self._folder:
            self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory(prefix="mow_jax_buffer_")
        return self._folder.name

    def warm(self, updates):
        """So many more world-model updates on the buffer, each on windows of its own, as in a run."""
        batch = self.config.batch
        for _ in range(updates):
            windows = self.replay.sample(batch.sequences, batch.length, self._warmed, "world")
            self.learner.update("warmup", self.learner.deal(windows))
            self._warmed += 1

    def vectors(self):
        """{part: {layer: [K, V]}}: the tasks' gradients now, as runs cluster by them."""
        vector = self.config.clustering.vector
        return self.reductions((vector,))[vector]

    def reductions(self, vectors):
        """{vector: {part: {layer: [K, V]}}}: the same in several of the reductions `clustering.vector`, of one backward
        pass."""
        if vectors not in self._gradients:
            function = functools.partial(
                warmup.inspection.reduced_gradients,
                self.agent,
                vectors=vectors,
                size=self.config.clustering.projection,
            )
            self._gradients[vectors] = self.learner.measure(function)
        batch, count = self.config.batch, self.config.clustering.batches
        drawn = [self.replay.sample(batch.sequences, batch.length, i, "gradients") for i in range(count)]
        found = [self._gradients[vectors](windows, i) for i, windows in enumerate(drawn)]
        return jax.tree.map(lambda *parts: np.mean(parts, axis=0), *found)


def inside_episodes(replay, count, length, drawn=400):
    """Windows [K, count, length], of so many drawn those that stay in one episode longest; and which of their rows do,
    [K, count, length] bool."""
    windows = replay.sample(drawn, length, 0, "films")
    ended = np.array(windows.is_first)
    ended[:, :, 0] = False
    inside = np.cumsum(ended, axis=2) == 0
    longest = np.argsort(-inside.sum(2), axis=1, kind="stable")[:, :count]
    kept = jax.tree.map(lambda rows: np.stack([own[best] for own, best in zip(rows, longest, strict=True)]), windows)
    return kept, np.stack([own[best] for own, best in zip(inside, longest, strict=True)])


def experience(config, tasks, directory, position):
    """The buffer of a run that is over, at a position that its last checkpoint names; nothing is written into it."""
    sizes = dict(image_size=config.suite.image_size, **config.replay.to_dict())
    del sizes["device_mirror"]
    replay = Replay(directory / "replay", tasks, envs=config.train.envs, seed=config.seed, **sizes)
    replay.restore(position)
    return replay


def train(name, *changes, file=None):
    """The workdir of a run of the experiment (TOYS, or the `file`), trained here if it has not been: `changes` are
    "key=value". Where all is tiny, the run that is there, unless a `file` is asked for."""
    if TINY and file is None:
        return Path(os.environ["NOTEBOOK_TINY"])
    file = file or TOYS
    directory = RUNS / f"{'tiny_' * TINY}{name}_{_mark(file, changes)}"
    if not (directory / "results.json").exists():
        words = [f"--config={file}", f"--workdir={directory}", *(f"--config.{change}" for change in changes)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "mow_jax.train", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return directory


def _mark(file, changes):
    """A few letters that other changes, another experiment file, another table's text or other code would make others.
    (Not the commit: that has notebooks in it, which change as they are saved.)"""
    given = dict(change.split("=", 1) for change in changes)
    table = Path(given["clustering.table"]).read_text() if given.get("clustering.table") else ""
    code = [*sorted((ROOT / "mow_jax").rglob("*.py")), *sorted((ROOT / "experiments").glob("*.py")), Path(file)]
    texts = [path.read_bytes() for path in code if path.is_file()]
    told = repr((file.name if isinstance(file, Path) else file, changes, table, texts))
    return hashlib.sha256(told.encode()).hexdigest()[:8]
