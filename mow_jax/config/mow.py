"""MoW's keys: their defaults are the paper's sizes for 26 Atari games, with the choices of docs/design.md."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mow_jax import checks
from mow_jax.types import BadInput


def add(config: ConfigDict) -> None:
    """Puts them beside the common ones."""
    config.warmup.updates = 5000  # world-model updates on the random buffer with one shared set of rows
    config.batch = ConfigDict(dict(sequences=4, length=64))  # B and T of a world-model batch, a task
    config.model = _model()
    config.router = ConfigDict(
        dict(
            mode="learned",  # "learned": re-selected at each update; "table": fixed by clusters.json
            experts=12,  # N_e
            active=2,  # n_k, experts a task
            margin=0.25,  # in units of 1 / N_e: how far a challenger must exceed an expert to replace it
            noise=0.0,  # scale of the Gumbel noise on the selection
            first="even",  # first selection: loads differ by one at most, or "scores" (the paper): highest scores alone
            rest=True,  # balanced experts are left in peace; False (the paper): scores and balance loss always speak
            gate="none",  # "straight_through": scale outputs by S / sg(S) so that all losses reach the router
            freeze=True,  # stop selecting once the temperature has reached tau_end
            tau_start=5.0,
            tau_end=1.0,
            anneal=0.2,  # fraction of all updates, warm-up included, over which tau falls
        )
    )
    config.clustering = ConfigDict(
        dict(
            method="agglomerative",  # or kmeans, spectral, shuffled, random, single, identity, file
            clusters=12,  # N_m, capped at the number of tasks
            vector="layer_mean",  # or layer_scalar, projection, module_projection: how a gradient becomes a vector
            projection=1024,  # length of a vector under "projection" and "module_projection"
            batches=16,  # M, batches averaged into a task's gradient
            table="",  # a clusters.json to use instead of clustering
        )
    )
    config.loss = ConfigDict(
        dict(
            dyn=0.5,
            rep=0.1,
            free_bits=1.0,  # nats, on the mean KL of a task
            reward=1.0,
            continuation=1.0,
            task=1.0,  # 0: no task head loss
            inverse=0.0,  # ours: latents must tell the actions between them, where these move little; 0: not asked
            balance=0.1,  # 0: no balance loss
            harmony="optimum",  # start of s_k: "optimum", "zero" (the paper's), or "off"
            mask_boundaries=True,  # attention and KL stop at an episode's start
        )
    )
    config.optimizer = ConfigDict(
        dict(
            world_lr=1e-4,
            world_eps=1e-12,  # harmony divides all gradients by L_k, so that STORM's 1e-8 would damp the small ones
            world_clip=100.0,  # global norm, in the same unit: ten times what harmony's gradients reach
            world_update_clip=1.0,  # of each parameter, in learning rates; 0: Adam's own bound, 7.3
            router_lr=1e-4,  # faster routers overshoot: all tasks leave an expert at once
            harmony_lr=1e-2,
            agent_lr=3e-5,
            agent_eps=1e-5,
            agent_clip=100.0,
        )
    )
    config.agent = _agent()


def _model() -> ConfigDict:
    return ConfigDict(
        dict(
            compute_dtype="auto",  # bfloat16 on accelerators, float32 on the CPU; or a dtype's name
            embedding=128,  # width of a task's embedding; 0: none
            categoricals=32,  # latent variables ...
            classes=32,  # ... and classes of each
            unimix=0.01,
            autoencoder="convolutions",  # or patches: matrix products, for small models on CPUs
            channels=32,  # of the first convolution, doubled by each further one; or of a patch
            norm="batch",  # in convolutions and the encoder of patches: batch, rms or none
            activation="relu",  # in autoencoders and heads: relu or silu
            posterior_scale=1.0,  # factor on the posterior's initial weights
            width=512,  # D of the temporal module
            layers=2,  # blocks of an expert Transformer; 0: an expert is its mixer alone
            shared_layers=2,  # blocks of the shared Transformer; 0: a linear layer (identity if n_k = 1)
            heads=8,  # attention heads
            dropout=0.1,  # in world-model updates only
            position_scale=0.1,  # deviation of the initial position vectors; at STORM's 1 they drown what is remembered
            head_width=512,  # hidden layers of reward, continuation and task heads
            reward="symlog",  # how a predicted one is read: symexp of the mean bin (STORM), or "mean": expectation
            zero_heads=False,  # start reward, continuation, actor and critic outputs at zero
        )
    )


def _agent() -> ConfigDict:
    return ConfigDict(
        dict(
            contexts=64,  # rollouts a task and update
            context=8,  # frames before a rollout starts
            horizon=16,  # imagined steps
            act_context=16,  # past steps that acting attends to
            act_on="posterior",  # "prior": blind to the current frame, as STORM
            width=512,  # hidden layers of actor and critics
            depth=2,
            gamma=0.985,
            lambda_=0.95,
            value="symlog",  # how a critic is read: symexp of the mean bin (STORM), or "mean": expectation
            entropy=3e-4,
            unimix=0.01,  # share of uniform actions in a policy of choices (DreamerV3): none is ever given up
            slow_decay=0.98,
            return_decay=0.99,
            return_init="first",  # start of the return scale: "first" or "zero" (STORM)
            return_scale="task",  # "shared": one scale for all tasks, of all their returns together
            bootstrap="next",  # value in the lambda return: V(s_{t+1}), or "current" (STORM's code)
            continuation="soft",  # predicted probability, or "hard" threshold (STORM)
            weights=True,  # weigh imagined steps by the cumulative continuation
        )
    )


# --- Checks -----------------------------------------------------------------------------------------------------------

CHOICES = {
    "router.mode": ("learned", "table"),
    "router.gate": ("none", "straight_through"),
    "router.first": ("even", "scores"),
    "clustering.method": (
        *("agglomerative", "kmeans", "spectral"),
        "shuffled",  # agglomerative's groups with other tasks in them, a control of the same sizes
        *("random", "single", "identity", "file"),
    ),
    "clustering.vector": ("layer_mean", "layer_scalar", "projection", "module_projection"),
    "loss.harmony": ("optimum", "zero", "off"),
    "model.compute_dtype": ("auto", "float32", "bfloat16"),
    "model.autoencoder": ("convolutions", "patches"),
    "model.norm": ("batch", "rms", "none"),
    "model.activation": ("relu", "silu"),
    "model.reward": ("symlog", "mean"),
    "agent.value": ("symlog", "mean"),
    "agent.act_on": ("posterior", "prior"),
    "agent.return_init": ("first", "zero"),
    "agent.return_scale": ("task", "shared"),
    "agent.bootstrap": ("next", "current"),
    "agent.continuation": ("soft", "hard"),
}
RANGES = {
    "[1, 1000000]": (
        "batch.sequences batch.length model.categoricals model.classes model.channels model.width"
        " model.heads model.head_width router.experts router.active clustering.clusters clustering.projection"
        " clustering.batches agent.contexts agent.context agent.horizon agent.act_context agent.width"
    ),
    "[0, 1000000]": "model.embedding",
    "[0, 1000]": "model.layers model.shared_layers agent.depth",
    "[0, 1e30]": (
        "router.margin router.noise loss.dyn loss.rep loss.free_bits loss.reward loss.continuation loss.task"
        " loss.inverse loss.balance model.posterior_scale model.position_scale agent.entropy"
        " optimizer.world_update_clip"
    ),
    "(0, 1e30]": (
        "router.tau_start router.tau_end optimizer.world_lr optimizer.world_eps optimizer.world_clip"
        " optimizer.router_lr optimizer.harmony_lr optimizer.agent_lr optimizer.agent_eps optimizer.agent_clip"
    ),
    "[0, 1]": "router.anneal agent.gamma agent.lambda_ agent.slow_decay agent.return_decay",
    "[0, 1)": "model.unimix model.dropout agent.unimix",
}


def check(config: ConfigDict) -> None:
    """Raises BadInput for the first of these settings that cannot work."""
    checks.pixels(config)
    router, model, clustering = config.router, config.model, config.clustering
    if router.active > router.experts:
        raise BadInput(
            f"router.active={router.active} experts a task cannot be chosen among router.experts={router.experts}:"
            f" lower router.active or raise router.experts"
        )
    if model.width % model.heads:
        raise BadInput(f"model.width={model.width} does not divide by model.heads={model.heads}: choose a divisor")
    if clustering.method == "file" and not clustering.table:
        raise BadInput("clustering.method='file' needs clustering.table=PATH of a clusters.json")
    _check_positions(config)
    checks.rows(config, max(config.batch.length, config.agent.context), "batch.length")


def check_new(config: ConfigDict) -> None:
    """Raises BadInput for what only a run that begins must not have."""
    for key, how in (("model.reward", config.model.reward), ("agent.value", config.agent.value)):
        if how == "mean" and not (config.model.zero_heads or config.train.init_from):
            # The outermost bins stand for 4.9e8: weights drawn at random make that a mean of thousands for long.
            raise BadInput(
                f"{key}='mean' reads thousands from a head that starts at random: set model.zero_heads=True too, or"
                f" {key}='symlog'"
            )


def _check_positions(config: ConfigDict) -> None:
    """Every position that a token can have in imagination or acting must be one that windows of the batch train (those
    behind the longest episode: `positions` of systems/mow/world_model.py)."""
    own, length, blind = config.agent, config.batch.length, config.agent.act_on == "prior"
    if own.context == 1 and not blind:
        raise BadInput(
            "agent.context=1 starts every rollout without a past, which acting has only at an episode's first step:"
            " use at least 2"
        )
    if blind and config.loss.mask_boundaries:
        raise BadInput(
            "agent.act_on='prior' needs loss.mask_boundaries=False: an episode's first step would have nothing to draw"
            " its latent from; set that, or agent.act_on='posterior'"
        )
    last = own.context - (not blind) + own.horizon
    if last >= length:
        raise BadInput(
            f"agent.context={own.context} and agent.horizon={own.horizon} imagine {last} tokens, and batch.length="
            f"{length} trains predictions from {length - 1}: raise batch.length to {last + 1} or lower agent.horizon"
        )
    if own.act_context > last:
        raise BadInput(
            f"agent.act_context={own.act_context} is longer than what the actor learns from: at most {last}, the tokens"
            f" that agent.context={own.context} and agent.horizon={own.horizon} imagine"
        )


# --- Older runs -------------------------------------------------------------------------------------------------------

# Keys that older runs' config.json lack, and the values that those runs had.
BEFORE = {
    "model": {"position_scale": 1.0, "autoencoder": "convolutions"},
    "optimizer": {"world_update_clip": 0.0},
    "agent": {"unimix": 0.0},
}
# Keys that a resumed run of other systems may change, and this one's may not.
LOCKED: tuple[str, ...] = ()


# --- What of a config has an effect -----------------------------------------------------------------------------------

GRADIENTS = "clustering.vector clustering.projection clustering.batches"  # what only clustering by gradients reads


def effective(config: ConfigDict, tasks: int) -> dict[str, Any]:
    """{key: value} of a config for so many tasks, with None for keys that change nothing beside the others: configs for
    which it is equal make one and the same run."""
    router, method = config.router, config.clustering.method
    count = {"single": 1, "identity": tasks}.get(method, min(config.clustering.clusters, tasks))
    experts = _used_experts(config, tasks)
    idle = _idle_routing(config, experts)
    clusters_alone = router.mode == "learned" or experts == 1  # no experts are grouped by the same method
    if method == "shuffled" and count == tasks - 1 and clusters_alone:
        method = "random"  # one pair by lot and the others alone, by both
    by_gradients = method in ("agglomerative", "kmeans", "spectral", "shuffled")
    one_way = count in (1, tasks) and clusters_alone and method != "file"
    if (one_way or config.clustering.table) and not config.train.init_from:
        idle += f" clustering.method {GRADIENTS}"
    elif not by_gradients:
        idle += f" {GRADIENTS}"
    elif config.clustering.vector not in ("projection", "module_projection"):
        idle += " clustering.projection"
    if tasks == 1:
        idle += " agent.return_scale loss.task"
    if config.loss.harmony == "off":
        idle += " optimizer.harmony_lr"
    own = {"clustering.clusters": count, "clustering.method": method, "router.experts": experts}
    return checks.flat(config) | own | dict.fromkeys(idle.split())


def _is_moved(config: ConfigDict) -> bool:
    """Whether the router can change its first selection. From balanced experts that are left in peace nothing moves it,
    and the balance loss pulls at none; those of a given table need not be balanced."""
    router = config.router
    free = router.mode == "learned" and router.active < router.experts and config.model.embedding > 0
    speaks = router.gate != "none" or router.first == "scores" or not router.rest or bool(config.clustering.table)
    return free and speaks


def _used_experts(config: ConfigDict, tasks: int) -> int:
    """N_e without experts that no task ever has: a selection that rests spreads tasks evenly, and a table has a group
    a task at most, then the next free experts."""
    router, clustering = config.router, config.clustering
    if config.train.init_from or _is_moved(config) or (router.mode == "learned" and clustering.table):
        return router.experts
    groups = 1 if clustering.method == "single" else tasks
    by_table = router.mode == "table" and not clustering.table
    return min(router.experts, max(groups, router.active) if by_table else tasks * router.active)


def _idle_routing(config: ConfigDict, experts: int) -> str:
    """Keys of the router that change nothing where so many experts are used."""
    router = config.router
    if _is_moved(config):
        return ""
    choice = router.mode == "learned" and router.active < experts
    gated = router.gate != "none" and router.mode == "learned" and experts > 1 and config.model.embedding > 0
    idle = "router.margin router.noise router.rest loss.balance"
    if not choice or config.model.embedding > 0:  # with nothing to route by the first selection is the last
        idle += " router.first"
    if not gated:  # gates reach the router until the freeze, and in table mode never
        idle += " router.gate router.freeze router.tau_start router.tau_end router.anneal optimizer.router_lr"
    return idle + " router.mode" * (experts == 1)
