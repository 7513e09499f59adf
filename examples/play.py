"""Plays one episode of a trained agent and writes it as a GIF.

python examples/play.py --workdir=runs/demo --task=catch --out=catch.gif
"""

from __future__ import annotations

import argparse

import imageio.v3 as imageio
import numpy as np

import mow_jax
from mow_jax.types import BadInput

PIXELS = 256  # about the side of the GIF
MILLISECONDS = 100  # each frame is shown


def play(workdir: str, task: str, seed: int, max_steps: int) -> tuple[list[np.ndarray], float]:
    """Frames [H, W, 3] uint8 and return of one episode, cut after `max_steps` agent steps."""
    agent, env = mow_jax.load_agent(workdir), mow_jax.make_env(workdir, task)
    agent.reset(task, seed=seed)
    frames, total, ended = [env.reset(seed)], 0.0, False
    while not ended and len(frames) <= max_steps:
        step = env.step(agent.act(frames[-1], task))
        frames.append(step.observation)
        total += step.reward
        ended = step.terminated or step.truncated
    env.close()
    return frames, total


def write_gif(path: str, frames: list[np.ndarray]) -> None:
    """Every frame enlarged by a whole factor, so that pixels stay pixels."""
    factor = max(1, PIXELS // max(frames[0].shape[:2]))
    film = np.stack(frames).repeat(factor, axis=1).repeat(factor, axis=2)
    imageio.imwrite(path, film, extension=".gif", duration=MILLISECONDS, loop=0)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Play one episode of a trained agent and write it as a GIF.")
    parser.add_argument("--workdir", required=True, help="folder of a run with a checkpoint")
    parser.add_argument("--task", required=True, help="one of the run's tasks, e.g. Pong")
    parser.add_argument("--out", default="episode.gif", help="the GIF to write")
    parser.add_argument("--seed", type=int, default=0, help="of the episode and of the sampled actions")
    parser.add_argument("--max_steps", type=int, default=1000, help="agent steps after which to stop")
    options = parser.parse_args()
    try:
        frames, total = play(options.workdir, options.task, options.seed, options.max_steps)
        write_gif(options.out, frames)
    except (BadInput, OSError) as error:
        parser.error(str(error))
    print(f"{options.task}: return {total:g} in {len(frames) - 1} steps, {options.out} written")


if __name__ == "__main__":
    main()
