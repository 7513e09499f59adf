"""Atari 2600 games on the bare emulator. In: indices of ALE's 18 actions. Out: area-resized RGB frames.

`settings` are the keys of config.suite.atari, each a field of the protocol. Called through envs.make.
A reset goes back to a saved start (7 ms): loading the ROM anew, which ALE needs for a new seed, takes 100 ms.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

from mow_jax.config import ATARI_PROTOCOLS
from mow_jax.envs.base import Environment, needs, refuse_end
from mow_jax.envs.suites import ATARI, LISTS, unknown
from mow_jax.types import BadInput, Step, Task

ACTIONS = 18
NOOP = 0
ANCHOR = 500  # steps; a restored episode replays at most so many, 0.3 s
BLACK_FRAMES = 600  # how long a game may show nothing before it starts
LIMITS = {"sticky": (0, 1), "frame_skip": (1, 100), "noop_max": (0, 1000), "max_frames": (1, 10**9)}


def resolve(names: tuple[str, ...], settings: dict) -> list[Task]:
    """The games called `names`, in CamelCase ("UpNDown"): any that ale_py ships, the 26 of Atari 100k with scores.

    Raises BadInput for an unknown game or protocol, or a protocol field out of range.
    """
    protocol = protocol_of(settings)
    games = _games()
    for name in names:
        if name not in games:
            raise unknown("Atari game", name, [*games, *LISTS["atari"]])
    return [_task(name, protocol) for name in names]


def make(task: Task, settings: dict) -> Environment:
    """A new emulator with the game `task`."""
    return Atari(task, protocol_of(settings), settings["image_size"])


def protocol_of(settings: dict) -> dict:
    """The settings with the fields that the preset in settings["protocol"] names put over them."""
    preset = settings["protocol"]
    if preset and preset not in ATARI_PROTOCOLS:
        raise unknown("suite.atari.protocol", preset, ATARI_PROTOCOLS)
    protocol = {**settings, **ATARI_PROTOCOLS.get(preset, {})}
    for field, (low, high) in LIMITS.items():
        if not low <= protocol[field] <= high:
            raise BadInput(f"suite.atari.{field} is {protocol[field]}: choose from {low} to {high}")
    return protocol


@functools.cache
def _games() -> dict[str, str]:
    """CamelCase names of the games that ale_py ships and can play, and its own names for them. (Four are for two
    players alone, and loading one ends the process.)"""
    roms, interface = needs("ale_py.roms", "atari"), needs("ale_py", "atari").ALEInterface
    known = [name for name in roms.get_all_rom_ids() if interface.isSupportedROM(roms.get_rom_path(name))]
    return {"".join(part[:1].upper() + part[1:] for part in name.split("_")): name for name in known}


def _task(name: str, protocol: dict) -> Task:
    minimal = _minimal_actions(name)
    mask = tuple(protocol["full_actions"] or action in minimal for action in range(ACTIONS))
    horizon = -(-protocol["max_frames"] // protocol["frame_skip"])
    scores = ATARI.get(name)
    return Task(name, "atari", True, ACTIONS, mask, horizon, scores and scores.random, scores and scores.human)


@functools.cache
def _minimal_actions(name: str) -> frozenset[int]:
    return frozenset(action.value for action in _load(name).getMinimalActionSet())


def _load(name: str, max_frames: int = 0) -> Any:
    """An emulator without sticky actions, at the start of the game `name`. Takes 0.1 s."""
    ale_py = needs("ale_py", "atari")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it prints a banner for each instance
    ale = ale_py.ALEInterface()
    # The seed serves sticky actions only, which class Atari draws. Left unset, it would be the time of day.
    ale.setInt("random_seed", 0)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("max_num_frames_per_episode", max_frames)
    ale.loadROM(needs("ale_py.roms", "atari").get_rom_path(_games()[name]))
    ale.reset_game()
    return ale


class Atari(Environment):
    """One game under one protocol.

    Sticky actions are drawn here, in the way of ALE (Machado et al. 2018): from the same generator with the same seed,
    at every emulator frame, so that an episode is bit for bit that of an ALE which was given repeat_action_probability
    and random_seed. ALE itself would take the seed only while it loads a ROM.
    """

    def __init__(self, task: Task, protocol: dict, image_size: int):
        cv2.setNumThreads(1)  # workers share the cores already
        self.task = task
        self.protocol = protocol
        self.image_size = image_size
        self.ale = _load(task.name, protocol["max_frames"])
        self.current, self.previous = self.ale.getScreenRGB(), self.ale.getScreenRGB()
        self._leave_black()
        self.starts = self._starts()

    def _leave_black(self) -> None:
        """Wait, doing nothing, until something can be seen: 2 frames in Amidar, none in the 25 other games."""
        for _ in range(BLACK_FRAMES):
            if self.current.any():
                break
            self.ale.act(NOOP)
            self._look()

    def _starts(self) -> list[tuple[Any, np.ndarray, int]]:
        """Emulator, screen (which is no part of its state) and lives after 0, 1, ... noop_max idle frames."""
        starts = []
        for _ in range(self.protocol["noop_max"] + 1):
            starts.append((self.ale.cloneState(include_rng=True), self.current.copy(), self.ale.lives()))
            self.ale.act(NOOP)
            self._look()
        return starts

    def _look(self) -> None:
        self.previous, self.current = self.current, self.previous
        self.ale.getScreenRGB(self.current)

    def reset(self, seed: int, episode: int | None = None) -> np.ndarray:
        """Begin an episode after 1 to noop_max idle emulator frames (Mnih et al. 2015), or none if noop_max is 0.

        The first frame is a single one, not a maximum of two, as in ALE's and STORM's environments.
        """
        random = np.random.Generator(np.random.Philox(seed))
        most = self.protocol["noop_max"]
        emulator, screen, lives = self.starts[random.integers(1, most + 1) if most else 0]
        self._enter(emulator, seed, NOOP, lives)
        return self._resize(screen)

    def _enter(self, emulator: Any, seed: int, action: int, lives: int) -> None:
        """Go to an emulator's state by a way that leaves no trace of where we were, and remember it for `state`.

        ALE's states lack something that Qbert reads (by all signs, the value left on the data bus): after restoreState
        alone its memory differs from the first frame on. Starting the game over first brings that to a fixed value.
        """
        self.ale.restoreState(self.starts[0][0])
        self.ale.reset_game()
        self.ale.restoreState(emulator)
        self.seed, self.action, self.lives = seed, action, lives
        # Where ALE's generator would be: it draws twice at each frame, once a player.
        self.random = np.random.RandomState(seed)
        self._draw(self.ale.getEpisodeFrameNumber())
        serialised = np.frombuffer(emulator.serialize(), np.uint8)
        self.anchor = {"emulator": serialised, "seed": seed, "action": action, "lives": lives}
        self.since: list[int] = []

    def _draw(self, frames: int) -> np.ndarray:
        """Which of the next `frames` repeat the action before, [frames] bool."""
        draws = self.random.randint(2**32, size=(frames, 2), dtype=np.uint32)
        return draws[:, 0] < self.protocol["sticky"] * 2**32

    def step(self, action: int) -> Step:
        """Do the action for frame_skip frames, fewer at the game's end; rewards add up."""
        if not (0 <= action < ACTIONS and self.task.action_mask[action]):
            allowed = np.flatnonzero(self.task.action_mask).tolist()
            raise ValueError(f"{self.task.name} has no action {action}: choose one of {allowed}")
        if len(self.since) == ANCHOR:
            self._enter(self.ale.cloneState(include_rng=True), self.seed, self.action, self.lives)
        self.since.append(int(action))
        reward, frames = self._emulate(int(action))
        pooled = self.protocol["max_pool"] and frames > 1
        terminated = self.ale.game_over(with_truncation=False)
        lives_before, self.lives = self.lives, self.ale.lives()
        return Step(
            observation=self._resize(np.maximum(self.previous, self.current) if pooled else self.current),
            reward=float(np.sign(reward) if self.protocol["clip_reward"] else reward),
            terminated=terminated,
            truncated=self.ale.game_truncated() and not terminated,
            # The count may rise, too: Amidar's and DemonAttack's in the first frames, and when a life is won.
            life_lost=self.protocol["life_loss"] and self.lives < lives_before,
            raw=float(reward),
        )

    def _emulate(self, action: int) -> tuple[int, int]:
        """Returns the sum of rewards and the number of frames."""
        reward, frames = 0, 0
        for repeats in self._draw(self.protocol["frame_skip"]):
            if not repeats:
                self.action = action
            reward += self.ale.act(self.action)
            self._look()
            frames += 1
            if self.ale.game_over():
                break
        return reward, frames

    def _resize(self, picture: np.ndarray) -> np.ndarray:
        return cv2.resize(picture, (self.image_size, self.image_size), interpolation=cv2.INTER_AREA)

    def state(self) -> dict:
        """The emulator of at most ANCHOR steps ago, and the actions since."""
        return {**self.anchor, "since": np.array(self.since, np.int32)}

    def restore(self, state: dict) -> None:
        emulator = needs("ale_py", "atari").ALEState(np.asarray(state["emulator"], np.uint8).tobytes())
        self._enter(emulator, int(state["seed"]), int(state["action"]), int(state["lives"]))
        for action in state["since"]:
            refuse_end(self.step(action), f"{self.task.name}: step {len(self.since)} since its saved emulator")
