"""The one place that compiles: the pure functions of agent.py and inspection.py as pmapped programs with donated state.

Replay batches and frames come in as numpy arrays [K, ...], metrics stay on the device until somebody reads them.
Parameters are replicated over the devices of all processes, tasks are dealt out to them (padded to equal counts). A
process feeds its own tasks: K is then their number, and arrays [devices, ...] are those of its own devices. Called by
train and evaluate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mow_jax import agent as algorithm
from mow_jax import inspection, processes
from mow_jax.agent import Agent
from mow_jax.models import imagination
from mow_jax.types import ActState, Batch, Shard, Table, Task, TrainState


class Learner:
    """A TrainState on all local devices, and the compiled functions on it."""

    def __init__(self, agent: Agent, tasks: list[Task], devices: list[Any] | None = None):
        """Compiles nothing yet; `initialise` or `load` must set `state` before use."""
        self.agent, self.devices = agent, devices or jax.local_devices()
        apart, me, local = processes.count(), processes.index(), len(self.devices)
        self.mine = processes.share(range(len(tasks)))
        # Tasks are dealt like cards: to the first device of every process, then to the second of every process, ...
        each = -(-len(tasks) // (local * apart))
        slots = me + apart * (np.arange(local)[:, None] + local * np.arange(each))  # [devices, K'] task of each slot
        self._valid = slots < len(tasks)
        slots = np.where(self._valid, slots, me)
        self._places = slots // apart  # ... and where it stands in `mine`
        mask = np.array([task.action_mask for task in tasks], bool)
        shard = Shard(slots.astype(np.int32), self._valid.astype(np.float32), mask[slots])
        self._sharding = NamedSharding(Mesh(np.array(self.devices), ("device",)), PartitionSpec("device"))
        self._shard = self._put(shard)
        self._update = self._agent_program(algorithm.update, (0, None), donate=0)
        self._warmup_update = self._agent_program(algorithm.warmup_update, (0, None), donate=0)
        self._act = self._agent_program(algorithm.act, 0, donate=1, alone=True)
        self._predictions = self._agent_program(inspection.predictions, alone=True)
        self.state: TrainState  # set by `initialise` or `load`

    # State

    def initialise(self) -> None:
        """The state of a new run."""
        # Random numbers take XLA's CPU compiler half a minute to optimise, for nothing: this runs once.
        options = {"xla_backend_optimization_level": 0} if self._on_cpu else None
        self.load(jax.jit(functools.partial(algorithm.init, self.agent), compiler_options=options)())

    def load(self, state: TrainState) -> None:
        """Takes a single-copy state, e.g. a checkpoint's."""
        self.state = jax.tree.map(self.same, state)

    def snapshot(self) -> TrainState:
        """A single copy of the state, on the host."""
        return jax.tree.map(_first_copy, self.state)

    def end_warmup(self, table: Table, copy_rows: bool) -> None:
        """Sets the task table, copies warm rows, restarts the optimiser."""
        table = Table(np.asarray(table.cluster, np.int32), np.asarray(table.experts, np.int32))
        finish = functools.partial(algorithm.end_warmup, self.agent, copy_rows=copy_rows)
        self.load(jax.jit(finish)(self.snapshot(), table))

    @property
    def table(self) -> Table:
        """The task table in force, on the host."""
        return jax.tree.map(_first_copy, self.state.table)

    # Compiled functions

    def update(self, batch: Batch, contexts: Batch) -> dict[str, jax.Array]:
        """One whole update from dealt windows [K, B, T] and contexts [K, N, C]; metrics stay on the device."""
        self.state, metrics = self._update(self.state, batch, contexts, self._shard)
        return metrics

    def warmup_update(self, batch: Batch) -> dict[str, jax.Array]:
        """One update of the world model alone, from dealt windows [K, B, T]."""
        self.state, metrics = self._warmup_update(self.state, batch, self._shard)
        return metrics

    def act(self, acting: ActState, observation: np.ndarray, is_first: np.ndarray, step: int):
        """Actions [K, E] (or [K, E, A]) for frames [K, E, S, S, 3], and the new contexts (on the device)."""
        frames, first = self.deal((observation, is_first))
        action, acting = self._act(self.state, acting, frames, first, self.same(np.int32(step)), self._shard)
        return self._gather(action), acting

    def init_acting(self, envs: int) -> ActState:
        """Empty contexts for `envs` environments a task."""
        make = functools.partial(imagination.init_acting, self.agent.imagination, self.agent.world)
        return self.deal(jax.tree.map(np.asarray, make(len(self.mine), envs)))

    def load_acting(self, acting: ActState) -> ActState:
        """Contexts [K, E, ...] from the host, laid out on the devices."""
        return self.deal(acting)

    def save_acting(self, acting: ActState) -> ActState:
        """Contexts [K, E, ...] on the host."""
        return jax.tree.map(self._gather, acting)

    def task_gradients(self, batches: Iterable[Batch], vector: str, size: int) -> dict[str, dict[str, np.ndarray]]:
        """Per-task gradient vectors by part and layer, [K, V], mean over the batches, on the host."""
        return self._mean(functools.partial(algorithm.task_gradients, vector=vector, size=size), batches)

    def row_losses(self, batches: Iterable[Batch]) -> np.ndarray:
        """L_k [K, N_m] of each task on every cluster row, mean over the batches; see inspection.row_losses."""
        return self._mean(inspection.row_losses, batches)

    def _mean(self, function: Callable, batches: Iterable[Batch]) -> Any:
        """The mean over batches of what a function says of each, [K, ...] on the host."""
        compute = self._agent_program(function, alone=True)
        draws = [
            jax.tree.map(self._gather, compute(self.state, self.deal(batch), self.same(np.int32(i)), self._shard))
            for i, batch in enumerate(batches)
        ]
        return jax.tree.map(lambda *parts: np.mean(parts, axis=0), *draws)

    def predictions(self, batch: Batch) -> dict[str, np.ndarray]:
        """What the world model says of the rows of windows, [K, B, T] each; see inspection.predictions."""
        return jax.tree.map(self._gather, self._predictions(self.state, self.deal(batch), self._shard))

    def open_loop(self, batch: Batch, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Reconstructed and imagined frames [K, B, T, S, S, 3] uint8 of windows; see inspection.open_loop."""
        compute = self._agent_program(functools.partial(inspection.open_loop, context=context), alone=True)
        return jax.tree.map(self._gather, compute(self.state, self.deal(batch), self._shard))

    # Layout

    @property
    def _on_cpu(self) -> bool:
        return self.devices[0].platform == "cpu"

    def program(self, function: Callable, out_axes: Any = 0, donate: int | tuple = (), alone: bool = False) -> Callable:
        """A function of one device's arrays as one program over all, argument `donate` overwritten in place; `alone`:
        over this process's devices, so that no other process has to take part."""
        if processes.count() > 1 and not alone:
            return jax.pmap(function, "device", out_axes=out_axes, donate_argnums=donate)
        mapped = jax.pmap(function, axis_name="device", devices=self.devices, out_axes=out_axes)
        # On CPUs level 1 compiles in half the time of the default and runs as fast.
        options = {"xla_backend_optimization_level": 1} if self._on_cpu else None
        return jax.jit(mapped, donate_argnums=donate, compiler_options=options)

    def _agent_program(self, function: Callable, *arguments: Any, **options: Any) -> Callable:
        """The same for a function of agent.py or inspection.py."""
        return self.program(functools.partial(function, self.agent), *arguments, **options)

    def deal(self, tree: Any) -> Any:
        """Arrays [K, ...] dealt out to the devices as [devices, K', ...]."""
        return self._put(jax.tree.map(lambda leaf: leaf[self._places], tree))

    def same(self, value: Any) -> jax.Array:
        """One value for all devices, [devices, ...]."""
        return self._device_put(np.broadcast_to(value, (len(self.devices), *np.shape(value))))

    def _gather(self, leaf: jax.Array) -> np.ndarray:
        """[devices, K', ...] back to [K, ...] on the host."""
        host = np.asarray(leaf)
        rows = np.empty((len(self.mine), *host.shape[2:]), host.dtype)
        rows[self._places[self._valid]] = host[self._valid]
        return rows

    def _put(self, tree: Any) -> Any:
        return jax.tree.map(self._device_put, tree)

    def _device_put(self, leaf: Any) -> jax.Array:
        return jax.device_put(leaf, self._sharding)


def abstract_state(agent: Agent) -> TrainState:
    """Shapes and dtypes of a single copy of an agent's state, without making one."""
    return jax.eval_shape(functools.partial(algorithm.init, agent))


def _first_copy(leaf: jax.Array) -> np.ndarray:
    """What the first device of [devices, ...] has."""
    return np.asarray(leaf.addressable_shards[0].data)[0]
