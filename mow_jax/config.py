"""Every key of a run, its default and what it means: the only file that names them all.

`default()` is the paper's setting for 26 Atari games; experiment files change it; `check()` refuses what cannot work.
Only train, evaluate and the experiment files see the ConfigDict; everything below takes plain keyword arguments.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from mow_jax import checks
from mow_jax.types import BadInput

ATARI_PROTOCOLS = {
    # Machado et al. 2018, as ALE v5 and STORM have it.
    "sticky": dict(sticky=0.25, noop_max=0),
    # IRIS, TWM, DreamerV3 on Atari 100k.
    "noop": dict(sticky=0.0, noop_max=30),
}


def default() -> ConfigDict:
    """The full configuration at paper scale (Atari 100k, 26 games)."""
    config = ConfigDict()
    config.seed = 0  # root of every random stream
    config.suite = _suite()
    config.train = ConfigDict(
        dict(
            steps=100_000,  # agent steps a task in all, warm-up included
            schedule_steps=0,  # steps that schedules refer to; 0: train.steps (a longer resumed run keeps the first)
            ratio=1.0,  # updates for each joint step; fractions accumulate exactly
            envs=1,  # environments a task (E); a joint step adds E agent steps to every task
            overlap=True,  # learn while the environments step, from the joint steps before; False: one after the other
            init_from="",  # workdir of a run whose weights to start from
        )
    )
    config.batch = ConfigDict(dict(sequences=4, length=64))  # B and T of a world-model batch, a task
    config.replay = ConfigDict(
        dict(
            capacity=0,  # sample only the newest rows a task; 0: all of them
            chunk_rows=2048,  # rows a file
            device_mirror=False,  # keep a copy of the replay on the accelerator and gather windows there
        )
    )
    config.model = _model()
    config.router = ConfigDict(
        dict(
            mode="learned",  # "learned": re-selected at each update; "table": fixed by clusters.json
            experts=12,  # N_e
            active=2,  # n_k, experts a task
            margin=0.25,  # in units of 1 / N_e: how far a challenger must exceed an expert to replace it
            noise=0.0,  # scale of the Gumbel noise on the selection
            gate="none",  # "straight_through": scale outputs by S / sg(S) so that all losses reach the router
            freeze=True,  # stop selecting once the temperature has reached tau_end
            tau_start=5.0,
            tau_end=1.0,
            anneal=0.2,  # fraction of all updates, warm-up included, over which tau falls
        )
    )
    config.clustering = ConfigDict(
        dict(
            method="agglomerative",  # or kmeans, spectral, random, single, identity, file
            clusters=12,  # N_m, capped at the number of tasks
            vector="layer_mean",  # or layer_scalar, projection: how a gradient becomes a vector
            projection=1024,  # length of the vector under "projection"
            batches=16,  # M, batches averaged into a task's gradient
            table="",  # a clusters.json to use instead of clustering
        )
    )
    config.warmup = ConfigDict(
        dict(
            steps=1024,  # random agent steps a task
            updates=5000,  # world-model updates on that buffer with one shared set of rows
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
            router_lr=1e-4,  # faster routers overshoot: all tasks leave an expert at once
            harmony_lr=1e-2,
            agent_lr=3e-5,
            agent_eps=1e-5,
            agent_clip=100.0,
        )
    )
    config.agent = _agent()
    config.actors = ConfigDict(
        dict(
            workers=-1,  # environment processes; -1: as many as cores, 0: in the learner's own process
            timeout=60.0,  # seconds a worker may take for one joint step
            max_deaths=10,  # workers lost in a run before it saves and stops
        )
    )
    config.evaluation = ConfigDict(
        dict(
            episodes=20,  # a task
            rows=2000,  # fewest rows a task that the world model is judged on, by more episodes where those are short
            max_steps=0,  # longest evaluated episode in agent steps; 0: the task's own limit
            every=0,  # agent steps a task between evaluations during training; 0: only at the end
            parallel=5,  # environments a task
            seed=1_000_003,  # root of evaluation seeds, apart from training's
        )
    )
    config.checkpoint = ConfigDict(
        dict(
            every=2500,  # agent steps a task
            minutes=10.0,  # between saves during the warm-up
            keep=2,  # newest kept
            milestones=(),  # agent steps whose checkpoint is never deleted
        )
    )
    config.log = ConfigDict(
        dict(
            every=100,  # updates between lines of metrics.jsonl
            tensorboard=True,
            wandb="",  # a Weights & Biases project; empty: not used
        )
    )
    return config


def _suite() -> ConfigDict:
    suite = ConfigDict()
    suite.name = "atari"  # or metaworld, toy, gymnasium
    suite.tasks = ("atari26",)  # task names, or the name of a list of tasks in envs/suites.py
    suite.image_size = 64  # pixels, a power of two from 16 to 128
    suite.atari = ConfigDict(
        dict(
            protocol="",  # a named preset that overrides the fields it names: "sticky" or "noop"
            sticky=0.25,  # probability, at every emulator frame, that the last action is repeated
            frame_skip=4,  # emulator frames an agent step
            max_pool=True,  # observe the pixel-wise maximum of the last two frames
            noop_max=0,  # up to so many no-op steps at an episode's start
            life_loss=True,  # a lost life ends the continuation (not the episode)
            full_actions=False,  # True: every game may use all 18 actions
            clip_reward=False,  # True: rewards become their sign
            max_frames=108_000,  # emulator frames after which an episode is truncated
        )
    )
    suite.metaworld = ConfigDict(
        dict(
            camera="corner2",
            camera_position=(0.75, 0.075, 0.7),  # metres, where the camera is moved to; (): as the model has it
            turn="upright",  # corner cameras hang upside down: "upright", "mirror" (top to bottom only) or "none"
            render_quality="full",  # "fast": no shadows, reflections and multisampling
            reward_version="v2",
            action_repeat=1,  # simulated steps an agent step
            horizon=500,  # agent steps after which an episode is truncated
            goals=50,  # a task has
            goal_seed=0,  # of the goals and their order
            goal_order="shuffled",  # every goal once before any comes again; or "ordered", as evaluation does
            end_on_success=False,  # as evaluation does
        )
    )
    suite.gymnasium = ConfigDict(
        dict(
            max_steps=0,  # truncate after so many agent steps; 0: the environment's own limit, or 1000
            action_repeat=1,
        )
    )
    return suite


def _model() -> ConfigDict:
    return ConfigDict(
        dict(
            compute_dtype="auto",  # bfloat16 on accelerators, float32 on the CPU; or a dtype's name
            embedding=128,  # width of a task's embedding; 0: none
            categoricals=32,  # latent variables ...
            classes=32,  # ... and classes of each
            unimix=0.01,
            channels=32,  # of the first convolution; doubled by each further one
            norm="batch",  # in convolutions: batch, rms or none
            activation="relu",  # in convolutions and heads: relu or silu
            posterior_scale=1.0,  # factor on the posterior's initial weights
            width=512,  # D of the temporal module
            layers=2,  # blocks of an expert Transformer
            shared_layers=2,  # blocks of the shared Transformer; 0: a linear layer (identity if n_k = 1)
            heads=8,  # attention heads
            dropout=0.1,  # in world-model updates only
            position_scale=0.1,  # deviation of the initial position vectors; at STORM's 1 they drown what is remembered
            head_width=512,  # hidden layers of reward, continuation and task heads
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
            entropy=3e-4,
            unimix=0.01,  # share of uniform actions in a policy of choices (DreamerV3): none is ever given up
            slow_decay=0.98,
            return_decay=0.99,
            return_init="first",  # start of the return scale: "first" or "zero" (STORM)
            bootstrap="next",  # value in the lambda return: V(s_{t+1}), or "current" (STORM's code)
            continuation="soft",  # predicted probability, or "hard" threshold (STORM)
            weights=True,  # weigh imagined steps by the cumulative continuation
        )
    )


# --- Checks -----------------------------------------------------------------------------------------------------------

CHOICES = {
    "router.mode": ("learned", "table"),
    "router.gate": ("none", "straight_through"),
    "clustering.method": ("agglomerative", "kmeans", "spectral", "random", "single", "identity", "file"),
    "clustering.vector": ("layer_mean", "layer_scalar", "projection"),
    "loss.harmony": ("optimum", "zero", "off"),
    "model.compute_dtype": ("auto", "float32", "bfloat16"),
    "model.norm": ("batch", "rms", "none"),
    "model.activation": ("relu", "silu"),
    "agent.act_on": ("posterior", "prior"),
    "agent.return_init": ("first", "zero"),
    "agent.bootstrap": ("next", "current"),
    "agent.continuation": ("soft", "hard"),
    "suite.image_size": (16, 32, 64, 128),
}
# Every number of a config has its interval here: "[" and "]" take the end in, "(" and ")" leave it out.
RANGES = {
    "[1, inf)": (
        "train.steps train.envs batch.sequences batch.length replay.chunk_rows model.categoricals model.classes"
        " model.channels model.width model.layers model.heads model.head_width router.experts router.active"
        " clustering.clusters clustering.projection clustering.batches warmup.steps agent.contexts agent.context"
        " agent.horizon agent.act_context agent.width evaluation.episodes evaluation.parallel checkpoint.every"
        " checkpoint.keep log.every suite.atari.frame_skip suite.atari.max_frames suite.metaworld.action_repeat"
        " suite.metaworld.horizon suite.metaworld.goals suite.gymnasium.action_repeat"
    ),
    "[0, inf)": (
        "train.schedule_steps train.ratio replay.capacity router.margin router.noise warmup.updates loss.dyn loss.rep"
        " loss.free_bits loss.reward loss.continuation loss.task loss.balance model.embedding model.shared_layers"
        " model.posterior_scale model.position_scale agent.depth agent.entropy actors.max_deaths evaluation.rows"
        " evaluation.max_steps evaluation.every checkpoint.minutes suite.atari.noop_max suite.gymnasium.max_steps"
    ),
    "(0, inf)": (
        "router.tau_start router.tau_end optimizer.world_lr optimizer.world_eps optimizer.world_clip"
        " optimizer.router_lr optimizer.harmony_lr optimizer.agent_lr optimizer.agent_eps optimizer.agent_clip"
        " actors.timeout"
    ),
    "[0, 1]": "router.anneal agent.gamma agent.lambda_ agent.slow_decay agent.return_decay suite.atari.sticky",
    "[0, 1)": "model.unimix model.dropout agent.unimix",
    "[-1, inf)": "actors.workers",
    "[0, 2147483647]": "seed evaluation.seed suite.metaworld.goal_seed",
    "(-inf, inf)": "suite.metaworld.camera_position",
    "whole [1, inf)": "checkpoint.milestones",
}


def check(config: ConfigDict) -> None:
    """Raises BadInput for the first setting that cannot work."""
    checks.choices(config, CHOICES)
    checks.numbers(config, RANGES)
    _check_sizes(config)
    _check_lengths(config)


def _check_sizes(config: ConfigDict) -> None:
    router, model, clustering = config.router, config.model, config.clustering
    if not all(isinstance(name, str) for name in config.suite.tasks):
        raise BadInput(f"suite.tasks={config.suite.tasks!r} must be names, e.g. \"('Pong','Boxing')\"")
    if router.active > router.experts:
        raise BadInput(
            f"router.active={router.active} experts a task cannot be chosen among router.experts={router.experts}:"
            f" lower router.active or raise router.experts"
        )
    if model.width % model.heads:
        raise BadInput(f"model.width={model.width} does not divide by model.heads={model.heads}: choose a divisor")
    if clustering.method == "file" and not clustering.table:
        raise BadInput("clustering.method='file' needs clustering.table=PATH of a clusters.json")


def _check_lengths(config: ConfigDict) -> None:
    each = config.train.envs
    for key in ("train.steps", "warmup.steps"):
        steps = checks.value(config, key)
        if steps % each:
            near = steps // each * each
            message = f"{key}={steps} is no multiple of train.envs={each}: use {near or each} or {near + each}"
            raise BadInput(message)
    if config.train.steps < config.warmup.steps:
        raise BadInput(
            f"train.steps={config.train.steps} includes the warm-up's warmup.steps={config.warmup.steps}:"
            " raise the first or lower the second"
        )
    _check_positions(config)
    rows, longest = config.warmup.steps // each, max(config.batch.length, config.agent.context)
    if rows < longest:
        raise BadInput(
            f"warmup.steps={config.warmup.steps} leaves {rows} rows an environment, fewer than the longest window"
            f" ({longest}): raise warmup.steps to {longest * each} or shorten batch.length"
        )
    newest = config.replay.capacity // each
    if config.replay.capacity and newest < longest:
        raise BadInput(f"replay.capacity={config.replay.capacity} holds no window of {longest} steps: raise it")


def _check_positions(config: ConfigDict) -> None:
    """Every position that a token can have in imagination or acting must be one that windows of the batch train."""
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
    if own.act_context > length:
        raise BadInput(
            f"agent.act_context={own.act_context} is longer than the windows that train it: at most batch.length="
            f"{length}"
        )


# --- Older runs -------------------------------------------------------------------------------------------------------

# Keys that older runs' config.json lack, and the values that those runs had.
BEFORE = {"model": {"position_scale": 1.0}, "agent": {"unimix": 0.0}}
