"""Four Atari games with one small agent in minutes on a CPU: a first look, not a result.

    python -m mow_jax.train --config=experiments/quickstart.py --workdir=runs/quickstart      (or: make quickstart)

Hardware: two CPU cores, some four to five minutes once installed (results/quickstart).
Expected: random scores, recognisable reconstructions.
"""

from mow_jax.config import default


def get_config():
    """The Atari setting with a small model and a short schedule."""
    config = default()
    config.suite.tasks = ("Boxing", "Hero", "BattleZone", "Pong")
    config.train.update(steps=1024, ratio=0.5)
    config.warmup.update(steps=384, updates=120)
    config.batch.update(sequences=2, length=32)
    config.model.update(embedding=32, categoricals=16, classes=16, channels=8, width=128, head_width=128)
    config.model.update(layers=1, shared_layers=1, heads=4)
    config.router.update(experts=4, active=2)
    config.clustering.update(clusters=3, batches=4)
    config.optimizer.update(world_lr=1e-3, agent_lr=3e-4)
    config.agent.update(contexts=8, context=4, horizon=8, act_context=8, width=128)
    config.actors.workers = 0
    config.evaluation.update(episodes=2, parallel=2, max_steps=1000)
    config.checkpoint.every, config.log.every = 512, 25
    return config
