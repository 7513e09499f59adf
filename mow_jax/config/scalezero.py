"""ScaleZero's keys: their defaults are the setting of the paper's runs for Atari games (docs/scalezero.md)."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mow_jax import checks
from mow_jax.types import BadInput


def add(config: ConfigDict) -> None:
    """Puts them beside the common ones."""
    config.suite.atari.clip_reward = True  # in training; 101 bins end at 2,364
    config.train.update(
        envs=8,
        burst=20,  # joint steps between rounds of learning: 160 steps a task ...
        ratio=4.0,  # ... and then 80 updates
        steps=400_000,
        overlap=False,
    )
    config.warmup.update(steps=160, updates=0)
    config.evaluation.actions = "best"  # of a search without noise; "sampled": drawn as docs/protocol.md says
    config.log.gradients = False  # cosines of the tasks' gradients at evaluations: an update's time and a compilation
    config.batch = ConfigDict(
        dict(
            windows=19,  # B, a task
            unroll=10,  # H, steps of a window that are learned
            steps=5,  # n of the value target: a window has H + n rows
        )
    )
    config.model = _model()
    config.search = ConfigDict(
        dict(
            simulations=50,
            context=4,  # L, steps before the newest frame that acting and search attend to; less than batch.unroll
            method="puct",  # or "gumbel": learns from few simulations
            gamma=0.997,
            # c1 to temperature_updates are of "puct" alone: "gumbel" draws by noise at the root, at no temperature.
            c1=1.25,
            c2=19652.0,
            value_range=0.01,  # smaller ranges of Q count as this one: of a tree, or, in "gumbel", of a node's actions
            alpha=0.3,  # Dirichlet noise on the root's prior ...
            fraction=0.25,  # ... of which it is this share; 0: none
            temperature=0.25,  # actions are drawn by visits^(1 / temperature) ...
            temperature_start=0.25,  # ... from this one at first
            temperature_updates=0,  # ... falling in a line over so many updates
            considered=16,  # actions that "gumbel" tries at the root
        )
    )
    config.loss = ConfigDict(
        dict(
            latent=10.0,
            reward=1.0,
            value=0.5,
            policy=1.0,
            entropy=1e-4,  # of the policy, a bonus
            continuation=1.0,  # of the end that the search must foresee; 0: none, every action leads on
            smoothing=0.0,  # share of the uniform in the categories of value and reward
        )
    )
    config.optimizer = ConfigDict(dict(lr=1e-4, decay=1e-4, clip=5.0, target_rate=0.05))
    config.stages = ConfigDict(
        dict(
            count=1,  # S; 1: no adapters
            rank=64,
            alpha=32.0,
            first=50_000,  # updates before the first switch
            every=20_000,  # updates after which a stage ends in any case
            target=1.0,  # normalised score at which a task is solved; inf: none ever is, stages end by their budget
            keep=0.0,  # weight of a solved task in the loss; 0: it leaves, as released
        )
    )


def _model() -> ConfigDict:
    return ConfigDict(
        dict(
            compute_dtype="auto",  # float32 on CPUs, else bfloat16
            width=768,  # D
            layers=8,
            heads=24,
            feed_forward="mixture",  # or "dense": multi-task UniZero
            experts=8,  # N_e
            active=1,  # k, experts a token
            shared=1,  # experts that are always on: in "dense" layers all there is
            gate_norm="topk",  # softmax over the chosen: with active=1 the gate learns nothing; "all": over all
            encoder="vit",  # or "convolution"
            patch=8,  # pixels of a patch's side
            vit_width=768,
            vit_layers=6,  # 12, with vit_heads=12 and vit_hidden=3072: "base"
            vit_heads=6,
            vit_head_width=64,
            vit_hidden=2048,
            channels=32,  # of the convolution encoder's first block
            dropout=0.1,
            bins=101,  # whole numbers around zero on MuZero's scale
        )
    )


# --- Checks -----------------------------------------------------------------------------------------------------------

CHOICES = {
    "model.compute_dtype": ("auto", "float32", "bfloat16"),
    "model.feed_forward": ("mixture", "dense"),
    "model.gate_norm": ("topk", "all"),
    "model.encoder": ("vit", "convolution"),
    "search.method": ("puct", "gumbel"),
}
RANGES = {
    "whole [1, 1000000]": (
        "batch.windows batch.unroll batch.steps model.width model.heads model.experts model.active model.patch"
        " model.vit_width model.vit_heads model.vit_head_width model.vit_hidden model.channels search.context"
        " search.considered stages.rank"
    ),
    "whole [1, 1000]": "model.layers model.vit_layers stages.count",
    "whole [1, 10000]": "search.simulations",
    "whole [1, 2147483647]": "stages.first stages.every",
    "whole [0, 1000]": "model.shared",
    "whole [0, 2147483647]": "search.temperature_updates",
    "whole [3, 1000001]": "model.bins",
    "[0, 1)": "model.dropout loss.smoothing",
    "[0, 1]": "search.gamma search.fraction stages.keep",
    "(0, 1]": "optimizer.target_rate",
    "[0, 1e30]": (
        "loss.latent loss.reward loss.value loss.policy loss.entropy loss.continuation optimizer.decay search.c1"
    ),
    "(0, 1e30]": (
        "search.c2 search.value_range search.alpha search.temperature search.temperature_start optimizer.lr"
        " optimizer.clip stages.alpha"
    ),
    "(-inf, inf]": "stages.target",
}


def check(config: ConfigDict) -> None:
    """Raises BadInput for the first of these settings that cannot work."""
    checks.pixels(config)
    model, size = config.model, config.suite.image_size
    if config.search.context >= config.batch.unroll:
        raise BadInput(
            f"search.context={config.search.context} needs positions that windows of batch.unroll={config.batch.unroll}"
            f" steps do not train: at most {config.batch.unroll - 1}"
        )
    if model.width % model.heads:
        raise BadInput(f"model.width={model.width} does not divide by model.heads={model.heads}: choose a divisor")
    if model.feed_forward == "mixture" and model.active > model.experts:
        raise BadInput(f"model.active={model.active} cannot be chosen among model.experts={model.experts}: lower it")
    if model.feed_forward == "dense" and not model.shared:
        raise BadInput("model.shared=0 leaves dense layers without a unit: use 1 or more")
    if model.encoder == "vit" and size % model.patch:
        raise BadInput(f"suite.image_size={size} does not divide by model.patch={model.patch}: choose a divisor")
    if not model.bins % 2:
        raise BadInput(f"model.bins={model.bins} has no middle: use an odd number, such as {model.bins + 1}")
    checks.rows(config, config.batch.unroll + config.batch.steps, "batch.unroll or batch.steps")


# --- Older runs -------------------------------------------------------------------------------------------------------

# Keys that older runs' config.json lack, and the values that those runs had.
BEFORE: dict[str, dict[str, Any]] = {"loss": {"continuation": 0.0}}
# Keys that a resumed run of other systems may change, and this one's may not: stages depend on evaluations.
LOCKED: tuple[str, ...] = ("evaluation",)
