"""The smallest run with every phase, on toys; tiny.py:atari has two games, tiny.py:metaworld two robot tasks;
tiny.py:scalezero is the smallest ScaleZero, tiny.py:m3po the smallest M3PO-style system."""

from mow_jax.config import default


def get_config(variant="toy"):
    """Two tasks, two clusters, two experts."""
    if variant == "scalezero":
        return scalezero()
    if variant == "m3po":
        return m3po()
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


def scalezero():
    """Two toys, two stages, few simulations; "stages" switch by their budget."""
    config = default("scalezero")
    config.suite.update(name="toy", tasks=("catch", "grid"), image_size=16)
    config.train.update(steps=64, envs=2, burst=2, ratio=1.0, overlap=True)
    config.warmup.steps = 24
    config.batch.update(windows=2, unroll=4, steps=2)
    config.model.update(width=16, layers=1, heads=2, experts=2, dropout=0.1, bins=21, patch=8)
    config.model.update(vit_width=16, vit_layers=1, vit_heads=2, vit_head_width=8, vit_hidden=16)
    config.search.update(simulations=4, context=3)
    config.stages.update(count=2, rank=2, first=8, every=8)
    config.actors.workers = 0
    config.evaluation.update(episodes=2, parallel=2, every=40, max_steps=20)
    config.checkpoint.update(every=16, minutes=0.0)
    config.replay.chunk_rows = 10
    config.log.every = 3
    return config


def m3po():
    """Two continuous toys seen as vectors, slices of four rows, a bonus on rewards with a critic of its own."""
    config = default("m3po")
    config.suite.update(name="toy", tasks=("slide", "slide_swap"), observation="state", image_size=16)
    config.train.update(steps=64, envs=2, burst=4)
    config.warmup.update(steps=24, updates=4)
    config.batch.update(windows=2, horizon=2)
    config.model.update(
        latent=16, embedding=3, encoder=8, hidden=8, channels=4, bins=11, value_functions=2, dropout=0.1
    )
    config.planner.update(horizon=2, iterations=2, samples=8, policy_samples=2, elites=3)
    config.fresh.update(share=0.5, epochs=2, minibatch=3)
    config.bonus.kind = "reward"
    config.actors.workers = 0
    config.evaluation.update(episodes=2, parallel=2, every=40, max_steps=8)
    config.checkpoint.update(every=16, minutes=0.0)
    config.replay.chunk_rows = 10
    config.log.every = 3
    return config
