"""Three robot tasks of Meta-World with one small agent in minutes on a CPU: a first look, not a result.

    python -m mow_jax.train --config=experiments/metaworld_quickstart.py --workdir=runs/metaworld_quickstart

Hardware: two CPU cores, no GPU.
Expected: recognisable reconstructions; success as by chance (no run was kept).
"""

from mow_jax.config import default


def get_config():
    """The Meta-World setting with a small model, fast rendering and a short schedule."""
    config = default()
    config.suite.name = "metaworld"
    config.suite.tasks = ("reach-v3", "drawer-close-v3", "window-open-v3")
    config.suite.metaworld.render_quality = "fast"
    config.train.update(steps=1000, ratio=0.5)
    config.warmup.update(steps=500, updates=120)
    config.batch.update(sequences=2, length=32)
    config.model.update(
        embedding=32,
        categoricals=16,
        classes=16,
        channels=8,
        width=128,
        layers=1,
        shared_layers=1,
        heads=4,
        head_width=128,
    )
    config.router.update(experts=4, active=2)
    config.clustering.update(clusters=3, batches=4)
    config.optimizer.update(world_lr=1e-3, agent_lr=3e-4)
    config.agent.update(contexts=8, context=4, horizon=8, act_context=8, width=128)
    config.evaluation.update(episodes=2, parallel=2)
    config.checkpoint.every = 500
    config.log.every = 25
    return config
