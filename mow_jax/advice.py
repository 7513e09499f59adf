"""One line of advice, once, when a run goes wrong in a way that its metrics show; at length: docs/failures.md.

In: lines of metrics.jsonl as they are written. Out: sentences. Called by run while it learns, and by report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

PATIENCE = 3  # lines in a row that must show a failure
LONG = 10  # lines after which what has not moved stands still
TAKES_ALL, NOTHING = 0.999, 0.001  # shares of the tasks
STILL = 0.9  # of the first value: not learned
UNKNOWN = 0.1  # correlation of predicted and real rewards
FLOOR = 0.1  # of the first entropy
FLAT = 0.05  # of a return's size: no gain
FAR = 10.0  # times the largest return that was ever met
AWAY = 30.0  # times the loss that sigma should follow
KEPT = 0.7  # of what a return has gained: less is forgotten ...
CLEAR = 3.0  # ... where it falls by so many times its range while it was solved,
LEAST = 0.1  # a range taken to be at least so much of the gain
MEMORY = 100  # lines back to when it was


class Rule(NamedTuple):
    """A failure: its section in docs/failures.md, what it looks like, and which series of one task show it."""

    section: str
    text: str  # with {task} for a task's or expert's name
    names: tuple[str, ...]  # of metrics, {task} in place of the task
    holds: Callable[..., bool]  # (series of those names) -> whether it is so by now; a series has one value a line


def takes_all(*loads: list[float]) -> bool:
    """One expert has all tasks, and another one none, in the last lines."""
    last = np.array([load[-PATIENCE:] for load in loads])
    return last.shape[1] == PATIENCE and bool(((last >= TAKES_ALL).any(0) & (last <= NOTHING).any(0)).all())


def stands(values: list[float]) -> bool:
    """A loss that is after many lines what it was in the first."""
    return len(values) > LONG and min(values[-PATIENCE:]) >= STILL * values[0] > 0


def unknown(correlations: list[float]) -> bool:
    """Predicted rewards that at two evaluations in a row say nothing of the real ones."""
    return len(correlations) > 1 and max(np.abs(correlations[-2:])) < UNKNOWN


def unknown_at_end(correlations: list[float], updates: list[float]) -> bool:
    """The same of a run that is evaluated at its end alone, where it was a long one."""
    return len(updates) > LONG and abs(correlations[-1]) < UNKNOWN


def collapsed(entropies: list[float], returns: list[float]) -> bool:
    """A policy that has stopped exploring before its return has risen."""
    if len(returns) < 2 * PATIENCE or len(entropies) < PATIENCE or entropies[0] <= 0:
        return False
    early, late = np.mean(returns[:PATIENCE]), np.mean(returns[-PATIENCE:])
    still = late - early <= FLAT * max(abs(early), abs(late))
    return bool(still) and max(entropies[-PATIENCE:]) < FLOOR * entropies[0]


def forgotten(returns: list[float]) -> bool:
    """A return that had kept within a narrow range for a while, and for as long has now stood far below it."""
    if len(returns) < 3 * PATIENCE:
        return False
    first, late = min(returns[:PATIENCE]), max(returns[-PATIENCE:])
    windows = [returns[-MEMORY:][start:-PATIENCE] for start in range(PATIENCE)]
    lowest, highest = max((min(window), max(window)) for window in zip(*windows, strict=False))
    gain, spread = lowest - first, highest - lowest
    return gain > 0 and late < first + KEPT * gain and lowest - late > CLEAR * max(spread, LEAST * gain)


def explodes(imagined: list[float], returns: list[float]) -> bool:
    """Imagined returns far above whatever an episode has brought."""
    if not returns or len(imagined) < PATIENCE:
        return False
    least = min(np.abs(imagined[-PATIENCE:]))
    return bool(least > FAR) and least > FAR * max(np.abs(returns))  # most lines ask for no look at all returns


def runs_away(sigmas: list[float], losses: list[float]) -> bool:
    """A weight sigma that after many lines is nowhere near the loss that it should follow; ones: it is off."""
    if min(len(sigmas), len(losses)) <= LONG or set(sigmas[-PATIENCE:]) == {1.0}:
        return False
    ratio = np.array(sigmas[-PATIENCE:]) / np.maximum(losses[-PATIENCE:], 1e-9)
    return bool((ratio > AWAY).all() or (ratio < 1 / AWAY).all())


REWARDS = Rule(
    "Rewards are not predicted",
    "predicted rewards of {task} say nothing of the real ones; raise loss.reward, or train.ratio in a new run",
    ("evaluation/{task}/reward_correlation",),
    unknown,
)
RULES = (
    Rule(
        "Blurred reconstructions",
        "the reconstruction of {task} is where it began; raise optimizer.world_lr or model.channels",
        ("world/reconstruction/{task}",),
        stands,
    ),
    REWARDS,
    Rule(
        "Entropy collapse",
        "the policy of {task} has stopped exploring and its return stands still; raise agent.entropy",
        ("agent/entropy/{task}", "episode/{task}/return"),
        collapsed,
    ),
    Rule(
        "A solved task is forgotten, late",
        "{task} was learned and is lost again; lower optimizer.world_update_clip (MoW; 0 is none) or learn slower",
        ("episode/{task}/return",),
        forgotten,
    ),
    Rule(
        "Returns explode",
        "imagined returns of {task} are far above any that was met; lower optimizer.agent_lr or agent.gamma",
        ("agent/return/{task}", "episode/{task}/return"),
        explodes,
    ),
    Rule(
        "Harmonious weights run away",
        "sigma of {task} does not follow its loss; set loss.harmony='optimum', lower optimizer.harmony_lr",
        ("harmony/{task}", "world/total/{task}"),
        runs_away,
    ),
)
EXPERTS = Rule(
    "One set of experts for all tasks",
    "expert {task} has all tasks and another one none; lengthen router.anneal, or use router.mode='table'",
    ("router/load/",),
    takes_all,
)


class Advice:
    """Takes lines in order; each rule speaks once. Feeding it the lines of a run again brings it to where it was."""

    def __init__(self, tasks: list[str], warmup: int, fresh: bool = True, once: bool = False):
        """`warmup`: updates of the warm-up, of which only losses are looked at; `fresh`: learned from nothing, else a
        loss may well stay where it began, and a return has no gain to lose; `once`: evaluated at its end alone."""
        self._tasks, self._warmup = tasks, warmup
        self._rules = [rule for rule in RULES if fresh or rule.holds not in (stands, forgotten)]
        if once:
            self._rules.append(REWARDS._replace(names=(*REWARDS.names, "update"), holds=unknown_at_end))
        self._series: dict[str, list[float]] = {}
        self._said: set[str] = set()

    def look(self, line: dict) -> list[str]:
        """What the next line shows for the first time."""
        warm = line["update"] > self._warmup
        for name, value in line.items():
            if ("/" in name or name == "update") and value is not None and (warm or name.startswith("world/")):
                self._series.setdefault(name, []).append(value)
        found = [(rule, task) for rule in self._rules for task in self._tasks if self._shows(rule, task)]
        loads = {name: series for name, series in self._series.items() if name.startswith("router/load/")}
        # A single task leaves all experts but its own without one.
        if len(self._tasks) > 1 and loads and EXPERTS.section not in self._said and takes_all(*loads.values()):
            found.append((EXPERTS, max(loads, key=lambda name: loads[name][-1]).rpartition("/")[2]))
        new = []
        for rule, task in found:
            if rule.section not in self._said:
                self._said.add(rule.section)
                new.append(f"{rule.text.format(task=task)} (docs/failures.md: {rule.section})")
        return new

    def _shows(self, rule: Rule, task: str) -> bool:
        series = [self._series.get(name.format(task=task)) for name in rule.names]
        return rule.section not in self._said and None not in series and rule.holds(*series)
