"""Does the dream tell good actions from bad ones as the game does? Each action, held for a while, in both.

    python benchmarks/dream_ranks.py --workdir=RUN_OR_FILE [--moments=40] [--apart=12] [--draws=8] [--output=FILE]

At moments of the agent's own play of every task, `apart` steps after one another, each action that the task has is held
for as many steps as a rollout has: in the environment, put back to that moment each time (with the same chance to
come), and in dreams that begin with the frames up to it, a mean over `draws`. Returns are those that learning sees, up
to an end or a lost life. A dream need only be right where its policy goes: so far this has not told games that are
learned from others (results/atari_cpu). MoW with discrete actions only.
"""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import throughput
from absl import flags
from scipy import stats

from mow_jax import command, load
from mow_jax.envs import Environment, atari
from mow_jax.report import sweeps
from mow_jax.systems.mow import agent as algorithm
from mow_jax.types import BadInput, Batch, Step

OWN = -1  # in place of an action: the actor's own, drawn anew at every step


class Played(NamedTuple):
    """What one task's play gave at its M moments."""

    frames: np.ndarray  # [M, C, S, S, 3] up to the moment
    actions: np.ndarray  # [M, C], the last one not yet taken
    is_first: np.ndarray  # [M, C]
    own: np.ndarray  # [M] what the play brought from there on
    held: np.ndarray  # [M, A] what each action brought, NaN for those that the task does not have


def main(source: Path, moments: int, apart: int, draws: int, output: str | None) -> None:
    """Plays, dreams, prints a row a task."""
    if min(moments, apart, draws) < 1:
        raise BadInput(f"--moments={moments}, --apart={apart} and --draws={draws} must be at least 1")
    player = load.LoadedAgent(source, None)
    agent = throughput.agent_of(player.config, player.tasks)
    if not player.tasks[0].discrete:
        raise BadInput(f"{player.tasks[0].name} has continuous actions: none can be held in place of all others")
    if agent.imagination.act_on == "prior":
        raise BadInput("agent.act_on='prior': such a dream begins behind the action of the moment, which is not held")
    context, horizon = agent.imagination.context, agent.imagination.horizon
    anchor, atari.ANCHOR = atari.ANCHOR, apart  # a moment is put back hundreds of times: few steps to play again
    try:
        played = [play(player, source, task.name, moments, apart, context, horizon) for task in player.tasks]
    finally:
        atari.ANCHOR = anchor
    dreamed = dream(player, agent, played, draws)  # [K, M, 1 + A]
    rows, record = [], throughput.made() | {"source": source.name, "steps": horizon, "tasks": {}}
    for task, one, seen in zip(player.tasks, played, dreamed, strict=True):
        said = {"real": one.held, "dreamed": seen[:, 1:], "own": one.own, "dreamed_own": seen[:, 0]}
        known = agreement(one.held, seen[:, 1:])
        plain = lambda values: np.where(np.isfinite(values), values.round(4), None).tolist()
        record["tasks"][task.name] = known | {name: plain(values) for name, values in said.items()}
        number = lambda name, known=known: (
            "–" if known[name] is None else f"{known[name]:.2f} ± {known[name + '_error']:.2f}"
        )
        own = f"{one.own.mean():.2f} / {seen[:, 0].mean():.2f}"
        rows.append([task.name, f"{known['moments']} of {moments}", number("correlation"), number("gain"), own])
    columns = [
        "task",
        "moments that differ",
        "rank correlation",
        "of the best action's gain",
        "own play, real / dreamed",
    ]
    print(sweeps.markdown([columns, *rows]), end="")
    if output:
        Path(output).write_text(json.dumps(record, allow_nan=False) + "\n")


def agreement(real: np.ndarray, dreamed: np.ndarray) -> dict[str, Any]:
    """Of returns [M, A], NaN for actions that are not there: how many moments have actions that differ in reality, and
    over those the mean, with its standard error, of the rank correlation (0 where the dream tells none apart) and of
    the gain: what the dream's best action brings above a random one, as a share of what the best brings above it."""
    real, dreamed = (values[:, np.isfinite(real).all(0)] for values in (real, dreamed))
    differ = np.ptp(real, axis=1) > 0
    correlations, gains = [], []
    for truth, said in zip(real[differ], dreamed[differ], strict=True):
        correlations.append(stats.spearmanr(truth, said).statistic if np.ptp(said) > 0 else 0.0)
        chosen = truth[said == said.max()].mean()
        gains.append((chosen - truth.mean()) / (truth.max() - truth.mean()))
    known: dict[str, Any] = {"moments": int(differ.sum())}
    for name, values in (("correlation", correlations), ("gain", gains)):
        several = len(values) > 1
        known[name] = float(np.mean(values)) if several else None
        known[f"{name}_error"] = float(stats.sem(values)) if several else None
    return known


# --- The game ---------------------------------------------------------------------------------------------------------


def play(
    player: load.LoadedAgent, source: Path, name: str, moments: int, apart: int, context: int, horizon: int
) -> Played:
    """The agent's own play of a task, and what holding each action would have brought at moments of it."""
    mask = np.array(next(task for task in player.tasks if task.name == name).action_mask)
    with contextlib.closing(load.make_env(source, name)) as environment:
        seed, first = 0, True
        steps: list[tuple[np.ndarray, int, bool, Step]] = []
        saved: dict[int, dict] = {}
        frame = environment.reset(seed)
        player.reset(name, seed)
        while len(steps) < context + moments * apart + horizon:
            if len(steps) >= context and len(steps) % apart == 0 and len(saved) < moments:
                saved[len(steps)] = environment.state()
            action = player.act(frame, name)
            step = environment.step(action)
            steps.append((frame, action, first, step))
            frame, first = step.observation, step.terminated or step.truncated
            if first:
                seed += 1
                frame = environment.reset(seed)
                player.reset(name, seed)
        held = [
            [hold(environment, state, a, horizon) if mask[a] else np.nan for a in range(mask.size)]
            for state in saved.values()
        ]
    upto = lambda part: np.array([[steps[t][part] for t in range(m + 1 - context, m + 1)] for m in saved])
    own = [brought([step[3] for step in steps[m : m + horizon]]) for m in saved]
    return Played(upto(0), upto(1), upto(2), np.array(own), np.array(held))


def hold(environment: Environment, state: dict, action: int, horizon: int) -> float:
    """What an action brings that is taken `horizon` times from a saved state on."""
    environment.restore(state)
    steps: list[Step] = []
    while len(steps) < horizon and not (steps and (steps[-1].terminated or steps[-1].truncated)):
        steps.append(environment.step(action))
    return brought(steps)


def brought(steps: list[Step]) -> float:
    """The rewards of steps up to the first that ends what is continued."""
    ends = [t for t, step in enumerate(steps) if step.terminated or step.truncated or step.life_lost]
    return float(sum(step.reward for step in steps[: ends[0] + 1 if ends else None]))


# --- The dream --------------------------------------------------------------------------------------------------------


def dream(player: load.LoadedAgent, agent: algorithm.Agent, played: list[Played], draws: int) -> np.ndarray:
    """Mean dreamed returns [K, M, 1 + A]: of the actor's own actions, then of each held."""
    part = lambda name: np.stack([getattr(one, name) for one in played])
    nothing = np.zeros(part("actions").shape, np.float32)
    contexts = Batch(part("frames"), part("actions").astype(np.int32), nothing, nothing > 0, part("is_first"))
    compute = player.learner.measure(functools.partial(dreamed_return, agent))
    choices = range(OWN, len(player.tasks[0].action_mask))
    return np.stack([np.mean([compute(contexts, a, draw) for draw in range(draws)], 0) for a in choices], -1)


def dreamed_return(
    agent: algorithm.Agent, state: Any, contexts: Batch, action: Any, draw: Any, shard: Any
) -> jax.Array:
    """[K', M] rewards of rollouts in which a task can take one action alone, each by the chance that it is reached."""
    only = shard.mask & (jnp.arange(shard.mask.shape[-1]) == action)
    mask = jnp.where(only.any(-1, keepdims=True), only, shard.mask)
    rows = algorithm.gather(agent, state, shard)
    imagined = algorithm.imagine(agent, state._replace(update=draw), rows, contexts, shard._replace(mask=mask))
    goes_on = jnp.cumprod(imagined.continuation, -1)[..., :-1]
    reached = jnp.concatenate([jnp.ones_like(imagined.reward[..., :1]), goes_on], -1)
    return (imagined.reward * reached).sum(-1)


if __name__ == "__main__":
    _SOURCE = flags.DEFINE_string("workdir", None, "Folder of a run, or a file of mow_jax.export.", required=True)
    _MOMENTS = flags.DEFINE_integer("moments", 40, "Of each task's play.")
    _APART = flags.DEFINE_integer("apart", 12, "Steps between two.")
    _DRAWS = flags.DEFINE_integer("draws", 8, "Dreams of each action at each moment.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(lambda: main(Path(_SOURCE.value), _MOMENTS.value, _APART.value, _DRAWS.value, _OUTPUT.value))
