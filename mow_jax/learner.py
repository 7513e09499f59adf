"""The one place that compiles: the pure functions of a system as pmapped programs with donated state.

Replay batches and frames come in as numpy arrays [K, ...], metrics stay on the device until somebody reads them.
Parameters are replicated over the devices of all processes, tasks are dealt out to them (padded to equal counts). A
process feeds its own tasks: K is then their number, and arrays [devices, ...] are those of its own devices. Called by
train and evaluate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mow_jax import flops, processes, xla
from mow_jax.types import Batch, Shard, System, Task


class Learner:
    """A system's state on all local devices, and the compiled functions on it."""

    def __init__(self, system: System, tasks: list[Task], devices: list[Any] | None = None, *, seed: int):
        """Compiles nothing yet; `initialise` or `load` must set `state` before use. `seed`: of all that is drawn."""
        self.system, self.devices = system, devices or jax.local_devices()
        apart, me, local = processes.count(), processes.index(), len(self.devices)
        self.mine = processes.share(range(len(tasks)))
        # Tasks are dealt like cards: to the first device of every process, then to the second of every process, ...
        each = -(-len(tasks) // (local * apart))
        slots = me + apart * (np.arange(local)[:, None] + local * np.arange(each))  # [devices, K'] task of each slot
        self._valid = slots < len(tasks)
        slots = np.where(self._valid, slots, me)
        self._places = slots // apart  # ... and where it stands in `mine`
        # One device takes all tasks as they stand: `leaf[None]` is a view where `leaf[places]` would be a copy.
        as_they_stand = np.array_equal(self._places, np.arange(len(self.mine))[None])
        self._deal = None if as_they_stand else self._places
        self.order = self._places.ravel()  # of tasks, as `put` takes them; padded with one that is there
        mask = np.array([task.action_mask for task in tasks], bool)
        self._sharding = NamedSharding(Mesh(np.array(self.devices), ("device",)), PartitionSpec("device"))
        self._shard = self._put(Shard(slots.astype(np.int32), self._valid.astype(np.float32), mask[slots], seed=None))
        self.reseed(seed)
        # One program a function: a warm-up that learns as all else does compiles nothing of its own.
        functions = dict.fromkeys(update.function for update in system.updates.values())
        programs = {function: self.program(function, (0, None), donate=0) for function in functions}
        self._updates = {name: programs[update.function] for name, update in system.updates.items()}
        self._act = {
            explore: self.program(functools.partial(system.act, explore=explore), donate=1, alone=True)
            for explore in (True, False)
        }
        # What the world model says of the rows of windows, [K, B, T] each; None where the system has none.
        self.predictions = self.measure(system.predictions) if system.predictions else None
        self.state: Any  # set by `initialise` or `load`
        self.flop = 0  # in the matrix products of all updates so far, on this process's devices
        self._flop_of: dict[str, int] = {}  # ... of one, by name

    # State

    def reseed(self, seed: int) -> None:
        """The seed of all draws from now on; no program is compiled anew for it."""
        self.seed = np.uint32(seed)
        self._shard = self._shard._replace(seed=self._device_put(np.full(self._valid.shape, self.seed)))

    def initialise(self) -> None:
        """The state of a new run."""
        # Random numbers take XLA's CPU compiler half a minute to optimise, for nothing: this runs once.
        self.load(jax.jit(self.system.init, compiler_options=xla.options(self._platform, often=False))(self.seed))

    def load(self, state: Any) -> None:
        """Takes a single-copy state, e.g. a checkpoint's."""
        self.state = jax.tree.map(self.same, state)

    def snapshot(self) -> Any:
        """A single copy of the state, on the host."""
        return self.single(self.state)

    def single(self, tree: Any) -> Any:
        """A single copy of what is replicated over the devices, on the host."""
        return jax.tree.map(_first_copy, tree)

    def change(self, function: Callable, *values: Any) -> None:
        """The state becomes function(state, *values), by way of the host: for what is done now and then."""
        self.load(jax.jit(function)(self.snapshot(), *values))

    # Compiled functions

    def update(self, name: str, *batches: Batch) -> dict[str, jax.Array]:
        """One update of the system's updates[name] from dealt windows [K, B, T]; metrics stay on the device."""
        arguments = (self.state, *batches, self._shard)
        if name not in self._flop_of:
            self._flop_of[name] = self._count(self._updates[name], arguments)
        self.flop += self._flop_of[name]
        self.state, metrics = self._updates[name](*arguments)
        return metrics

    def _count(self, program: Any, arguments: tuple) -> int:
        """Operations of a program, 0 where that is not known; its trace is what the call compiles."""
        try:
            return len(self.devices) * flops.of(program.trace(*arguments).jaxpr)
        except (AttributeError, ValueError):  # a program over several processes, or a loop of unknown length
            return 0

    def act(
        self, acting: Any, observation: np.ndarray, is_first: np.ndarray, step: int, explore: bool
    ) -> tuple[np.ndarray, dict[str, np.ndarray], Any]:
        """For frames [K, E, S, S, 3]: actions [K, E] (or [K, E, A]), extras of the rows {name: [K, E, ...]}, and the
        new acting state (on the device). `explore`: as in training, else as scores are measured."""
        frames, first = self.deal((observation, is_first))
        acted = self._act[explore](self.state, acting, frames, first, self.same(np.int32(step)), self._shard)
        return self._gather(acted.action), jax.tree.map(self._gather, acted.extras), acted.acting

    def init_acting(self, envs: int) -> Any:
        """The acting state of `envs` environments a task at their start."""
        return self.deal(jax.tree.map(np.asarray, self.system.init_acting(len(self.mine), envs)))

    def load_acting(self, acting: Any) -> Any:
        """An acting state [K, E, ...] from the host, laid out on the devices."""
        return self.deal(acting)

    def save_acting(self, acting: Any) -> Any:
        """The acting state [K, E, ...] on the host."""
        return jax.tree.map(self._gather, acting)

    def measure(self, function: Callable) -> Callable[..., Any]:
        """`function(state, batch, *numbers, shard)` of one device as a function of a batch [K, B, ...] and numbers, its
        results [K, ...] on the host; of this process's tasks alone."""
        compute = self.program(function, alone=True, often=False)

        def measured(batch: Batch, *numbers: int) -> Any:
            places = (self.same(np.int32(number)) for number in numbers)
            return jax.tree.map(self._gather, compute(self.state, self.deal(batch), *places, self._shard))

        return measured

    # Layout

    @property
    def _platform(self) -> str:
        return self.devices[0].platform

    def program(
        self, function: Callable, out_axes: Any = 0, donate: int | tuple = (), alone: bool = False, often: bool = True
    ) -> Callable:
        """A function of one device's arrays as one program over all, argument `donate` overwritten in place; `alone`:
        over this process's devices, so that no other process has to take part; `often`: see xla.options."""
        if processes.count() > 1 and not alone:
            return processes.over_devices(function, out_axes=out_axes, donate_argnums=donate)
        mapped = processes.over_devices(function, self.devices, out_axes=out_axes)
        return jax.jit(mapped, donate_argnums=donate, compiler_options=xla.options(self._platform, often))

    def deal(self, tree: Any) -> Any:
        """Arrays [K, ...] dealt out to the devices as [devices, K', ...]. Nobody may change them from then on: devices
        read them late, and CPUs may go on using the very memory."""
        return self._put(jax.tree.map(lambda leaf: leaf[self._deal], tree))

    def put(self, tree: Any) -> Any:
        """As `deal`, of arrays [devices * K', ...] that have `order` already: of views, where `deal` would copy."""
        return self._put(jax.tree.map(lambda leaf: leaf.reshape(*self._places.shape, *leaf.shape[1:]), tree))

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


def abstract_state(system: System) -> Any:
    """Shapes and dtypes of a single copy of a system's state, without making one."""
    return jax.eval_shape(system.init, 0)


def _first_copy(leaf: jax.Array) -> np.ndarray:
    """What the first device of [devices, ...] has."""
    return np.asarray(leaf.addressable_shards[0].data)[0]
