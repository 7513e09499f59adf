"""tiny.py with hardly a parameter: what tests/data keeps of each version."""

from mow_jax.config import default


def get_config():
    """Two toy tasks, 32 agent steps."""
    config = default()
    config.suite.name, config.suite.tasks, config.suite.image_size = "toy", ("catch", "grid"), 16
    config.train.update(steps=32)
    config.warmup.update(steps=12, updates=2)
    config.batch.update(sequences=2, length=8)
    config.model.update(
        embedding=2, categoricals=2, classes=2, channels=1, width=4, layers=1, shared_layers=1, heads=1, head_width=4
    )
    config.router.update(experts=2, active=1)
    config.clustering.update(clusters=2, batches=2)
    config.agent.update(contexts=4, context=3, horizon=3, act_context=4, width=4)
    config.actors.workers = 0
    config.evaluation.update(episodes=1, parallel=1, rows=0, max_steps=20)
    config.checkpoint.update(every=16, minutes=0.0, keep=1)
    config.replay.chunk_rows = 10
    config.log.update(every=10, tensorboard=False)
    return config
