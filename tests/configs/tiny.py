"""The smallest run with every phase, on toys; tiny.py:atari has two games, tiny.py:metaworld two robot tasks."""

from mow_jax.config import default


def get_config(variant="toy"):
    """Two tasks, two clusters, two experts."""
    config = default()
    config.suite.name = variant
    tasks = {"toy": ("catch", "grid"), "atari": ("Pong", "Boxing"), "metaworld": ("reach-v3", "drawer-close-v3")}
    config.suite.tasks = tasks[variant]
    config.suite.metaworld.update(render_quality="fast", horizon=20)
    config.suite.image_size = 16
    config.train.update(steps=64, envs=2)
    config.warmup.update(steps=24, updates=12)
    config.batch.update(sequences=2, length=8)
    config.model.update(
        embedding=8, categoricals=4, classes=4, channels=8, width=16, layers=1, shared_layers=1, heads=2, head_width=16
    )
    config.router.update(experts=2, active=1)
    config.clustering.update(clusters=2, batches=2)
    config.agent.update(contexts=4, context=3, horizon=3, act_context=4, width=16)
    config.actors.workers = 0
    config.evaluation.update(episodes=2, parallel=2, rows=0, every=0 if variant == "metaworld" else 40, max_steps=20)
    config.checkpoint.update(every=16, minutes=0.0)
    config.replay.chunk_rows = 10
    config.log.every = 3
    return config
