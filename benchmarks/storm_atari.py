"""The public STORM code learns the game of one of our experiments: same sizes, steps, updates, environment, evaluation.

    PYTHON benchmarks/storm_atari.py --reference=DIR --workdir=DIR [--config=experiments/atari_cpu.py:Boxing]
        [--rates=ours] [--config.seed=0] [--config.key=value ...]

PYTHON has torch, what the public code imports (einops, tensorboardX, yacs, tqdm, colorama, opencv) and mow_jax;
--reference is your own checkout of that code. Its networks, losses, replay, loop of training and way of acting are its
own; from the experiment come widths, heads, batches, contexts, horizon, steps and the game under its protocol, with the
same seeds of episodes. It has as many classes as categoricals, 21 for the experiment's 32 of 16, and convolutions for
eyes: with 6 channels in the first it has as many parameters as atari_cpu.py:Boxing within 1%. It learns from the end of
warmup.steps on, once a step. What it does not do is resume. Writes results.json into --workdir.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags
from storm_reference import on_cpu

from mow_jax import build, command, evaluate, summary
from mow_jax.actors import Actors, Episode
from mow_jax.types import BadInput

PAST = 16  # steps that the public code acts on


def main(config: ConfigDict, reference: Path, workdir: Path, channels: int, latents: int, rates: str) -> None:
    """Learns, evaluates, writes results.json."""
    if not (reference / "sub_models" / "world_models.py").is_file():
        raise BadInput(f"--reference={reference} is no checkout of STORM: sub_models/world_models.py is not there")
    if len(tasks := build.tasks(config)) > 1:
        raise BadInput(f"STORM learns one game, the experiment has {len(tasks)}: name one, as atari_cpu.py:Boxing")
    workdir.mkdir(parents=True, exist_ok=True)
    if config.train.ratio != 1 or config.suite.image_size != 64:
        raise BadInput("the public code learns once a step, from 64 x 64 pixels: train.ratio=1, suite.image_size=64")
    if (workdir / "results.json").exists():
        raise BadInput(f"{workdir} has a results.json already: name another --workdir")
    sys.path.insert(0, str(reference.resolve()))
    os.chdir(workdir)  # where the public code puts its checkpoints
    begun, used = time.time(), time.process_time()
    agent, model = networks(config, sum(tasks[0].action_mask), channels, latents, rates)
    game = Game(config, tasks)
    learn(config, game, agent, model)
    learned = time.process_time() - used
    episodes = play(config, tasks, agent, model)
    result = evaluate.task_result(tasks[0], episodes, [])
    record = {"task": tasks[0].name, **result, "training": [[e.ret, e.length] for e in game.ended]}
    record |= {"parameters": count(agent, model), "updates": config.train.steps - config.warmup.steps, "rates": rates}
    record |= {"processor_seconds": learned, "wall_seconds": time.time() - begun, "commit": summary.commit()}
    record |= {"torch": torch.__version__, "config": config.to_dict(), "channels": channels, "latents": latents}
    Path("results.json").write_text(json.dumps(record, indent=1, default=list) + "\n")
    print(f"{tasks[0].name}: {np.mean(result['returns']):.1f}, normalised {result['normalised']:.2f}")


def networks(config: ConfigDict, actions: int, channels: int, latents: int, rates: str) -> tuple[Any, Any]:
    """The public actor-critic and world model at the experiment's sizes, in float32, and its learning rates or ours."""
    from agents import ActorCriticAgent
    from sub_models import world_models

    def with_channels(kind: Any) -> Any:
        return lambda **sizes: kind(**sizes | {"stem_channels": channels})

    # What the checkout has as numbers in its code.
    world_models.EncoderBN = with_channels(world_models.EncoderBN)
    world_models.DecoderBN = with_channels(world_models.DecoderBN)
    world_models.WorldModel.stoch_dim = property(lambda self: latents, lambda self, value: None)
    own, sizes = config.agent, config.model
    longest = max(config.batch.length, own.context + own.horizon + 1, PAST)
    layers = sizes.layers + sizes.shared_layers
    model = world_models.WorldModel(3, actions, longest, sizes.width, layers, sizes.heads)
    returns = own.gamma, own.lambda_, own.entropy
    agent = ActorCriticAgent(latents**2 + sizes.width, own.depth, own.width, actions, *returns)
    for module, rate in ((model, config.optimizer.world_lr), (agent, config.optimizer.agent_lr)):
        module.use_amp, module.tensor_dtype = False, torch.float32
        module.scaler = torch.amp.GradScaler("cpu", enabled=False)
        if rates == "ours":
            module.optimizer.param_groups[0]["lr"] = rate
    return agent, model


def count(*modules: Any) -> int:
    """Parameters that are learned, without the slow critic."""
    named = (pair for module in modules for pair in module.named_parameters())
    return sum(value.numel() for name, value in named if not name.startswith("slow_critic"))


class Game:
    """The training environment of a run of ours, called as the public loop calls its own; remembers ended episodes."""

    def __init__(self, config: ConfigDict, tasks: list[Any]):
        steps = dict(envs=1, seed=config.seed, name="train", workers=0)
        self.actors = Actors(tasks, build.env_settings(config), **steps)
        self.choices = np.flatnonzero(tasks[0].action_mask)
        self.draw = np.random.default_rng(config.seed)
        self.ended: list[Episode] = []

    @property
    def action_space(self) -> Game:
        """Draws an action."""
        return self

    def sample(self) -> np.ndarray:
        """A uniform one, [1]."""
        return self.draw.integers(len(self.choices), size=1)

    def reset(self) -> tuple[np.ndarray, dict]:
        """The first frame [1, 64, 64, 3]."""
        return self.actors.observation[0], {"episode_frame_number": np.zeros(1, int)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """A step; behind an episode's last the frame is the next one's first."""
        row, episodes = self.actors.step(self.choices[action][None])
        self.ended += episodes
        over, last = self.actors.is_first[0], row.termination[0]
        info = {"episode_frame_number": np.zeros(1, int), "life_loss": last & ~over}
        return self.actors.observation[0], row.reward[0], over & last, over & ~last, info


class Silent:
    """A logger that keeps nothing: what counts is in `Game.ended`."""

    def log(self, tag: str, value: Any) -> None:
        """Nothing."""


def learn(config: ConfigDict, game: Game, agent: Any, model: Any) -> None:
    """The public loop, from its first step to its last; the weights it ends with stay in the working directory."""
    import train
    from replay_buffer import ReplayBuffer
    from utils import seed_np_torch

    seed_np_torch(config.seed)
    train.args = argparse.Namespace(n="of_the_loop")
    train.build_vec_env = lambda *_, **__: game
    steps, own, batch = config.train.steps, config.agent, config.batch
    with contextlib.closing(game.actors):
        train.joint_train_world_model_agent(
            env_name=config.suite.tasks[0],
            max_steps=steps,
            num_envs=1,
            image_size=64,
            replay_buffer=ReplayBuffer((64, 64, 3), 1, steps, config.warmup.steps, store_on_gpu=False),
            world_model=model,
            agent=agent,
            train_dynamics_every_steps=1,
            train_agent_every_steps=1,
            batch_size=batch.sequences,
            demonstration_batch_size=0,
            batch_length=batch.length,
            imagine_batch_size=own.contexts,
            imagine_demonstration_batch_size=0,
            imagine_context_length=own.context,
            imagine_batch_length=own.horizon,
            save_every_steps=steps,
            seed=config.seed,
            logger=Silent(),
        )
    torch.save([model.state_dict(), agent.state_dict()], "weights.pth")


@torch.no_grad()
def play(config: ConfigDict, tasks: list[Any], agent: Any, model: Any) -> list[Episode]:
    """`evaluation.episodes`, as many in each environment, with the public code's way of acting: on the prior behind the
    last 16 steps, whatever episode those are of."""
    model.eval(), agent.eval()
    parallel, choices = config.evaluation.parallel, np.flatnonzero(tasks[0].action_mask)
    frames: deque[torch.Tensor] = deque(maxlen=PAST)
    actions: deque[np.ndarray] = deque(maxlen=PAST)
    left, finished = np.full(parallel, config.evaluation.episodes // parallel), []
    with contextlib.closing(evaluate.actors(config, tasks, parallel, "evaluation")) as environments:
        while left.any():
            action = np.zeros(parallel, int)
            if actions:
                latent = model.encode_obs(torch.cat(list(frames), dim=1))
                taken = torch.Tensor(np.stack(list(actions), axis=1))
                action = agent.sample_as_env_action(torch.cat(model.calc_last_dist_feat(latent, taken), dim=-1))
            seen = torch.Tensor(environments.observation[0]).permute(0, 3, 1, 2)[:, None] / 255
            frames.append(seen)
            actions.append(action)
            for episode in environments.step(choices[action][None])[1]:
                if left[episode.env]:
                    left[episode.env] -= 1
                    finished.append(episode)
    return finished


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/atari_cpu.py:Boxing", "An experiment of one game.")
    _REFERENCE = flags.DEFINE_string("reference", None, "Your checkout of the public STORM code.", required=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder for results.json and the weights.", required=True)
    _CHANNELS = flags.DEFINE_integer("channels", 6, "Of the first convolution.", lower_bound=1)
    _LATENTS = flags.DEFINE_integer("latents", 21, "Categoricals, and classes of each.", lower_bound=2)
    _RATES = flags.DEFINE_enum(
        "rates", "own", ["own", "ours"], "Whose learning rates: 1e-4 and 3e-5, or the experiment's."
    )

    def run() -> None:
        """The command."""
        if not torch.cuda.is_available():
            on_cpu()
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        places = Path(_REFERENCE.value), Path(_WORKDIR.value)
        main(_CONFIG.value, *places, _CHANNELS.value, _LATENTS.value, _RATES.value)

    command.run(run)
