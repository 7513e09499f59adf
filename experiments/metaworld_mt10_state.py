"""The ten tasks of MT10 from Meta-World's own 39 numbers, with the M3PO-style system (docs/m3po.md); or three of them.

    python -m mow_jax.train --config=experiments/metaworld_mt10_state.py --workdir=runs/metaworld_mt10_state
    python -m mow_jax.train --config=experiments/metaworld_mt10_state.py:tdmpc2 --workdir=runs/metaworld_mt10_tdmpc2
    python -m mow_jax.train --config=experiments/metaworld_mt10_state.py:three --workdir=runs/metaworld_three_state

`:three` has the tasks of experiments/metaworld_reach.py:three. Beside that run its curves say what the observation is
worth, not what the system is: it sees the goal among its numbers where the other has to find two pixels, plays 36,000
agent steps a task (144,000 simulated) in four environments where the other plays 13,000 (52,000) in one, and takes 4
updates a joint step (of four agent steps a task) where the other takes 1.5 (of one). It is scored by its plan's mean,
the other by sampled actions. Both repeat an action four times for episodes of 125 agent steps.
Hardware: an accelerator, and a host that simulates 80 environments; "three": one CPU core, 1.5 hours
(results/m3po). Sizes: --dry_run. The ten tasks have not been run.
"""

import runpy
from pathlib import Path

from mow_jax import checks
from mow_jax.config.m3po import PRESETS

HERE = Path(__file__).parent


def of(name):
    """What another experiment file has."""
    return runpy.run_path(str(HERE / f"{name}.py"))


def get_config(variant="m3po"):
    """experiments/metaworld_mt50_state.py for ten tasks; "three": for three, with a small model for a CPU."""
    checks.variant(__file__, variant, (*PRESETS, "three"))
    config = of("metaworld_mt50_state")["get_config"]("m3po" if variant == "three" else variant)
    config.suite.tasks = ("mt10",)
    config.batch.windows = 32
    if variant != "three":
        return config
    config.suite.tasks = of("metaworld_reach")["TASKS"]["three"]
    config.suite.metaworld.update(action_repeat=4, horizon=125)
    config.train.update(steps=36_000, envs=4, ratio=4.0)
    config.warmup.update(steps=2000, updates=2000)
    config.batch.windows = 64
    config.model.update(latent=128, embedding=16, encoder=128, hidden=128, dropout=0.0)
    config.planner.update(samples=128, policy_samples=8, elites=16, iterations=4)
    config.fresh.update(minibatch=32, kl=0.05)
    config.optimizer.update(lr=1e-3, target_rate=0.02)
    config.actors.workers = 0  # one core does all of it, and its time is all that is counted
    config.evaluation.update(episodes=50, parallel=5, every=12_000)
    config.checkpoint.every = 4000
    return config
