"""Every key of a run, its default and what it means: here those that all systems share, beside it a file a system.

`default(system)` is the system's setting at its paper's scale (26 Atari games; of the M3PO-style system Meta-World's 50
tasks); experiment files change it; `check()` refuses what cannot work. What lies below `build` and the systems' own
build and warm-up (docs/design.md) never sees the ConfigDict and takes plain keyword arguments. A system's file has
`add(config)`, `check(config)`, CHOICES, RANGES, BEFORE and LOCKED, and may have `check_new(config)`, `effective(config,
tasks)` and RENAMED.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mow_jax import checks
from mow_jax.types import BadInput

SYSTEMS = tuple(module.name for module in pkgutil.iter_modules(__path__))
FIRST = "mow"  # what experiment files that name no system mean, and runs from before there was a choice
ATARI_PROTOCOLS = {
    # Machado et al. 2018, as ALE v5 and STORM have it.
    "sticky": dict(sticky=0.25, noop_max=0),
    # IRIS, TWM, DreamerV3 on Atari 100k.
    "noop": dict(sticky=0.0, noop_max=30),
}


def default(system: str = FIRST) -> ConfigDict:
    """The full configuration of a system, by default at its paper's scale. Raises BadInput for one that is none."""
    config = ConfigDict()
    config.system = system  # what learns: a folder of mow_jax/systems; set here, as most keys depend on it
    config.seed = 0  # root of every random stream
    config.suite = _suite()
    config.train = ConfigDict(
        dict(
            steps=100_000,  # agent steps a task in all, warm-up included
            schedule_steps=0,  # steps that schedules refer to; 0: train.steps, in a resumed run what it has
            ratio=1.0,  # updates for each joint step; fractions accumulate exactly
            burst=1,  # joint steps collected before their updates are done
            envs=1,  # environments a task (E); a joint step adds E agent steps to every task
            overlap=True,  # learn while the environments step, from the joint steps before; False: one after the other
            init_from="",  # workdir of a run whose weights to start from
        )
    )
    config.replay = ConfigDict(
        dict(
            capacity=0,  # sample only the newest rows a task; 0: all of them
            chunk_rows=2048,  # rows a file
            device_mirror=False,  # keep a copy of the replay on the accelerator and gather windows there
        )
    )
    config.warmup = ConfigDict(
        dict(
            steps=1024,  # random agent steps a task
            hold=False,  # whether each is kept for a while, as rewards far away ask for; else drawn anew at every step
            updates=0,  # updates on that buffer before the policy acts, of systems that have such
        )
    )
    config.actors = ConfigDict(
        dict(
            workers=-1,  # environment processes; -1: as many as cores that it may use, 0: in the learner's own process
            timeout=60.0,  # seconds a worker may take for one joint step
            max_deaths=10,  # workers lost since a start, resume or evaluation began, before it saves and stops
        )
    )
    config.evaluation = ConfigDict(
        dict(
            episodes=20,  # a task
            rows=2000,  # fewest rows a task that the world model is judged on, by more episodes where those are short
            max_steps=0,  # longest evaluated episode in agent steps; 0: the task's own limit
            every=0,  # agent steps a task between evaluations during training; 0: only at the end
            parallel=5,  # environments a task
            actions="sampled",  # from the policy, as in training but for what only explores; "best": its likeliest
            seed=1_000_003,  # root of evaluation seeds, apart from training's
        )
    )
    config.checkpoint = ConfigDict(
        dict(
            every=2500,  # agent steps a task
            minutes=10.0,  # between saves during the warm-up
            keep=2,  # newest kept
            milestones=(),  # agent steps at which a checkpoint is saved that is never deleted
        )
    )
    config.log = ConfigDict(
        dict(
            every=100,  # updates between lines of metrics.jsonl
            tensorboard=True,
            wandb="",  # a Weights & Biases project; empty: not used
        )
    )
    of_system(system).add(config)
    return config


def _suite() -> ConfigDict:
    suite = ConfigDict()
    suite.name = "atari"  # or metaworld, toy, gymnasium
    suite.tasks = ("atari26",)  # task names, or the name of a list of tasks in envs/suites.py
    suite.observation = "pixels"  # or "state": vectors of numbers, of suites and for systems that have a use for them
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


# --- Systems ----------------------------------------------------------------------------------------------------------


def of_system(name: str) -> ModuleType:
    """The file with a system's own keys. Raises BadInput where there is none."""
    if name not in SYSTEMS:
        raise BadInput(f"config.system={name!r} is not allowed: use one of {', '.join(SYSTEMS)}")
    return importlib.import_module(f"{__name__}.{name}")


def of_saved(saved: dict[str, Any]) -> ConfigDict:
    """What a run's config.json means, for keys that it lacks as at its time. Raises what ml_collections does."""
    system = saved.get("system", FIRST)
    config = default(system)
    config.update(of_system(system).BEFORE)
    config.update(_renamed(saved, getattr(of_system(system), "RENAMED", {})))
    return config


def kept(saved: dict[str, Any], config: ConfigDict, words: list[str]) -> dict[str, Any]:
    """{key: value} that a run began with whose config.json, `saved`, is older than the key, where `config` has but the
    default that came with it, and no word of the command asks for it: the run goes on as it began."""
    before, held = checks.flat(of_system(config.system).BEFORE), checks.flat(saved)
    now, usual = checks.flat(config), checks.flat(default(config.system))
    asked = {word.partition("=")[0].removeprefix("--config.") for word in words}
    return {k: value for k, value in before.items() if k not in {*held, *asked} and now.get(k) == usual[k]}


def _renamed(saved: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A saved config with its keys as they are called now."""
    for old, new in names.items():
        (section, was), (_, now) = old.split("."), new.split(".")
        if was in saved.get(section, {}):
            own = {now if key == was else key: value for key, value in saved[section].items()}
            saved = {**saved, section: own}
    return saved


def effective(config: ConfigDict, tasks: int) -> dict[str, Any]:
    """{key: value} of what of a config makes a difference with so many tasks, by its system's `effective` if it has
    one."""
    own = getattr(of_system(config.system), "effective", None)
    return checks.scheduled(own(config, tasks) if own else checks.flat(config))


# --- Checks -----------------------------------------------------------------------------------------------------------

CHOICES = {
    "suite.image_size": (16, 32, 64, 128),
    "suite.observation": ("pixels", "state"),
    "evaluation.actions": ("sampled", "best"),
}
# Every number of a config has its interval, here or in the system's file: "[" and "]" take the end in, "(" and ")"
# leave it out. Each has an end: counts go into 32 bits, measures into float32, nothing waits for more than 24 days,
# and sizes far beyond any use are refused before anything is made of them.
RANGES = {
    "[1, 2147483647]": (
        "train.steps train.envs train.burst replay.chunk_rows warmup.steps evaluation.episodes evaluation.parallel"
        " checkpoint.every checkpoint.keep log.every suite.atari.frame_skip suite.atari.max_frames"
        " suite.metaworld.action_repeat suite.metaworld.horizon suite.gymnasium.action_repeat"
    ),
    "[0, 2147483647]": (
        "seed train.schedule_steps replay.capacity warmup.updates actors.max_deaths evaluation.rows evaluation.seed"
        " evaluation.max_steps evaluation.every suite.atari.noop_max suite.metaworld.goal_seed"
        " suite.gymnasium.max_steps"
    ),
    "[1, 1000000]": "suite.metaworld.goals",
    "[0, 1000000]": "train.ratio checkpoint.minutes",
    "(0, 2000000]": "actors.timeout",
    "[0, 1]": "suite.atari.sticky",
    "[-1, 2147483647]": "actors.workers",
    "[-1000000, 1000000]": "suite.metaworld.camera_position",
    "whole [1, 2147483647]": "checkpoint.milestones",
}
MOST_UPDATES = 2**31 - 1  # a state counts them in 32 bits


def check(config: ConfigDict) -> None:
    """Raises BadInput for the first setting that cannot work."""
    check_keys(config)
    own = of_system(config.system)
    checks.choices(config, CHOICES | own.CHOICES)
    checks.numbers(config, RANGES)
    checks.numbers(config, own.RANGES)
    if not all(isinstance(name, str) for name in config.suite.tasks):
        raise BadInput(f"suite.tasks={config.suite.tasks!r} must be names, e.g. \"('Pong','Boxing')\"")
    if config.suite.name == "atari" and config.suite.observation == "state":
        raise BadInput(
            "suite.observation='state': Atari games are seen as pixels only; choose 'pixels' or another suite"
        )
    _check_lengths(config)
    own.check(config)


def check_new(config: ConfigDict) -> None:
    """Raises BadInput for what only a run that begins must not have: one that has learned with it goes on, and acts."""
    # Its default, 0, becomes train.steps, which may be no more than the warm-up's.
    if 0 < config.train.schedule_steps <= config.warmup.steps and config.train.schedule_steps != config.train.steps:
        raise BadInput(
            f"train.schedule_steps={config.train.schedule_steps} leaves schedules no update: it must be more than"
            f" warmup.steps={config.warmup.steps}, or 0 for train.steps"
        )
    own = of_system(config.system)
    if hasattr(own, "check_new"):
        own.check_new(config)


def check_keys(config: ConfigDict) -> None:
    """Raises BadInput for a config that has other keys than its system's, or whose references lead nowhere."""
    if not isinstance(config.get("system"), str):
        raise BadInput("config.system is missing: an experiment file begins with config = mow_jax.config.default()")
    try:
        found = checks.flat(config.copy_and_resolve_references())
    except Exception as error:  # of ml_collections, or of the functions that references go through
        raise BadInput(f"a reference in this config cannot be resolved: {type(error).__name__}: {error}") from None
    if wrong := sorted(found.keys() ^ checks.flat(default(config.system)).keys()):
        raise BadInput(
            f"config.system={config.system!r} has other keys than this config ({wrong[0]}, ...): an experiment file"
            f" chooses the system, with default({config.system!r})"
        )


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
    steps = max(config.train.steps, config.train.schedule_steps)
    if (updates := config.warmup.updates + steps // each * config.train.ratio) > MOST_UPDATES:
        raise BadInput(
            f"warmup.updates={config.warmup.updates} and train.ratio={config.train.ratio} make {updates:.3g} updates in"
            f" {steps} steps, more than {MOST_UPDATES}: lower them"
        )
