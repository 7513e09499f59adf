"""Tasks as data: names, scores that mean 0 and 1, action sets, and the lists of tasks that have a name of their own.

Read by envs/__init__ and by each suite's module. To add a toy task or a list, add it here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from mow_jax.types import BadInput, Task


class AtariGame(NamedTuple):
    """One game of Atari 100k: the two scores that normalise it."""

    random: float
    human: float


# Random and human scores: the standard references of Atari 100k (Mnih et al. 2015 and Wang et al. 2016, as used since
# Kaiser et al. 2020).
ATARI = {
    "Alien": AtariGame(227.8, 7127.7),
    "Amidar": AtariGame(5.8, 1719.5),
    "Assault": AtariGame(222.4, 742.0),
    "Asterix": AtariGame(210.0, 8503.3),
    "BankHeist": AtariGame(14.2, 753.1),
    "BattleZone": AtariGame(2360.0, 37187.5),
    "Boxing": AtariGame(0.1, 12.1),
    "Breakout": AtariGame(1.7, 30.5),
    "ChopperCommand": AtariGame(811.0, 7387.8),
    "CrazyClimber": AtariGame(10780.5, 35829.4),
    "DemonAttack": AtariGame(152.1, 1971.0),
    "Freeway": AtariGame(0.0, 29.6),
    "Frostbite": AtariGame(65.2, 4334.7),
    "Gopher": AtariGame(257.6, 2412.5),
    "Hero": AtariGame(1027.0, 30826.4),
    "Jamesbond": AtariGame(29.0, 302.8),
    "Kangaroo": AtariGame(52.0, 3035.0),
    "Krull": AtariGame(1598.0, 2665.5),
    "KungFuMaster": AtariGame(258.5, 22736.3),
    "MsPacman": AtariGame(307.3, 6951.6),
    "Pong": AtariGame(-20.7, 14.6),
    "PrivateEye": AtariGame(24.9, 69571.3),
    "Qbert": AtariGame(163.9, 13455.0),
    "RoadRunner": AtariGame(11.5, 7845.0),
    "Seaquest": AtariGame(68.4, 42054.7),
    "UpNDown": AtariGame(533.4, 11693.2),
}


def _toy(name: str, actions: str, horizon: int, random: float, best: float) -> Task:
    """A discrete toy task; `actions` names what it can do: s(tay), l(eft), r(ight), u(p), d(own)."""
    return Task(name, "toy", True, 5, tuple(key in actions for key in "slrud"), horizon, random, best)


# Random: mean return of the uniform policy over the allowed actions. Best: mean return of the best policy. Both are
# derived in tests/test_envs.py: exactly, but for the random scores of slide (4,000,000 simulated episodes of one axis,
# standard error 0.001) and slide_sparse (4,000,000 episodes, 1.4% of them with a reward, standard error 0.00005).
TOY = {
    task.name: task
    for task in (
        _toy("catch", "slr", 5, -0.5, 1.0),
        _toy("catch_swap", "slr", 5, -0.5, 1.0),
        _toy("grid", "lrud", 20, -0.21257478495859533, 0.9166666666666666),
        _toy("wall", "slr", 3, -750.0, 0.0),
        _toy("cue", "lr", 5, 0.0, 1.0),
        _toy("catch_avoid", "slr", 5, 0.5, 1.0),
        _toy("catch_noise", "slr", 5, -0.5, 1.0),
        _toy("grid_swap", "lrud", 20, -0.21257478495859533, 0.9166666666666666),
        _toy("grid_far", "slrud", 12, 0.070428977152, 1.0),
        _toy("treasure", "lrud", 8, 64.67384338378906, 1000.0),
        _toy("cue_swap", "lr", 5, 0.0, 1.0),
        _toy("recall", "lr", 5, 0.0, 1.0),
        _toy("key", "lrud", 20, 0.16432914395818443, 1.0),
        Task("slide", "toy", False, 2, (True, True), 10, -3.521, -0.1875),
        Task("slide_swap", "toy", False, 2, (True, True), 10, -3.521, -0.1875),
        Task("slide_sparse", "toy", False, 2, (True, True), 10, 0.01695, 7.941358024691358),
    )
}

# The tasks of Meta-World v3; normalised scores are success rates, so no reference returns are needed.
METAWORLD = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-close-v3",
    "faucet-open-v3",
    "hammer-v3",
    "hand-insert-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "plate-slide-side-v3",
    "plate-slide-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "soccer-v3",
    "stick-pull-v3",
    "stick-push-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-close-v3",
    "window-open-v3",
)
MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)

TOY5 = ("catch", "catch_swap", "grid", "wall", "cue")
TOY13 = (*TOY5, "catch_avoid", "catch_noise", "grid_swap", "grid_far", "treasure", "cue_swap", "recall", "key")
# Suite -> name of a list -> its tasks.
LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "atari": {"atari26": tuple(ATARI)},
    "toy": {"toy5": TOY5, "toy13": TOY13},
    "metaworld": {"mt10": MT10, "mt50": METAWORLD},
}


def expand(suite: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks, with lists of tasks in their place."""
    lists = LISTS.get(suite, {})
    return tuple(name for given in names for name in lists.get(given, (given,)))


# Bytes of a worker process and of each environment in it, as measured (docs/protocol.md); others are small.
MEMORY = {"metaworld": (330_000_000, 170_000_000)}
MEMORY_OF_VECTORS = {"metaworld": (250_000_000, 25_000_000)}  # where nothing is rendered
MEMORY_OF_OTHERS = (200_000_000, 2_000_000)


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that proposes the known name nearest to `name`, or nothing where none is near."""
    names = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean {names[near[0]]!r}?" if near else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a `name` that is not `known`: with the nearest one, or all of them where none is near."""
    names = sorted(known)
    return BadInput(f"unknown {kind} {name!r}: {nearest(name, names) or 'choose from ' + ', '.join(names)}")
