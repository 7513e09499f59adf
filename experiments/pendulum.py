"""Swing up a pendulum from its three numbers, on a CPU: the M3PO-style system (docs/m3po.md).

    python -m mow_jax.train --config=experiments/pendulum.py --workdir=runs/pendulum
    python -m mow_jax.train --config=experiments/pendulum.py:tdmpc2 --workdir=runs/pendulum_tdmpc2     (or :search)

Hardware: one CPU core, 12 to 14 minutes; ":search", with TD-MPC2's iterations and policy sequences and a quarter of its
samples, by arithmetic a third more. Expected: -143 (m3po) and -145 (tdmpc2), three seeds each (results/m3po). The score
is of 100 episodes, as in 20 one failure moves it by 70: evaluate the milestones afterwards (--step=8000 --out=DIR).
"""

from mow_jax import checks
from mow_jax.config import default
from mow_jax.config.m3po import PRESETS, preset


def get_config(variant="m3po"):
    """Small networks and few action sequences; the variant is a preset, or "search"."""
    checks.variant(__file__, variant, (*PRESETS, "search"))
    config = preset(default("m3po"), "m3po" if variant == "search" else variant)
    config.suite.update(name="gymnasium", tasks=("Pendulum-v1",), observation="state")
    config.train.update(steps=16_000, envs=4, ratio=2.0)
    config.warmup.update(steps=800, updates=400)
    config.batch.windows = 128
    config.model.update(latent=64, embedding=0, encoder=64, hidden=96, dropout=0.0, termination=False)
    config.planner.update(samples=128, policy_samples=8, elites=16, iterations=4)
    if variant == "search":
        config.planner.update(policy_samples=24, iterations=6)
    config.fresh.minibatch = 32
    config.optimizer.update(lr=1e-3, target_rate=0.02)
    config.actors.workers = 0
    config.evaluation.update(episodes=100, parallel=10)
    config.checkpoint.update(every=4000, milestones=(4000, 8000, 12_000))
    return config
