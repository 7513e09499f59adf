"""Environments do what the protocol says: scores, determinism, exact restore, masks, ends, and refusals that help."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

from mow_jax import config, envs
from mow_jax.envs import atari, renderers, suites
from mow_jax.envs.base import Environment
from mow_jax.types import BadInput, Task

TOYS = tuple(suites.TOY)
DISCRETE_TOYS = suites.LISTS["toy"]["toy13"]
# Toys with a distractor: the place in `numbers` of the one that changes the picture and nothing else.
DISTRACTORS = {"catch_noise": 2, "recall": 2}


def settings_of(suite: str, image_size: int = 32, **changes) -> dict:
    keys = config.default().suite.get(suite, config.ConfigDict()).to_dict()
    return {**keys, "image_size": image_size, **changes}


def environment_of(suite: str, name: str, **changes) -> Environment:
    settings = settings_of(suite, **changes)
    return envs.make(envs.resolve(suite, (name,), settings)[0], settings)


def random_action(task: Task, random: np.random.Generator):
    if task.discrete:
        return int(random.choice(np.flatnonzero(task.action_mask)))
    return random.uniform(-1, 1, task.action_size).astype(np.float32)


def play(environment: Environment, steps: int, seed: int = 0) -> list:
    """What random actions bring, down to the pixels; stops at the episode's end."""
    random = np.random.default_rng(seed)
    record = []
    for _ in range(steps):
        step = environment.step(random_action(environment.task, random))
        record.append((step.observation.tobytes(), *step[1:]))
        if step.terminated or step.truncated:
            break
    return record


# --- toy ---


def exact_scores(environment: Environment, starts: list[dict]) -> tuple[float, float]:
    """Mean returns of the uniform and of the best policy over `starts`, by trying every action in every state."""
    task, values = environment.task, {}

    def value(state: dict) -> tuple[float, float]:
        key = repr(state)
        if key not in values:
            outcomes = []
            for action in np.flatnonzero(task.action_mask):
                environment.restore(state)
                step = environment.step(int(action))
                ended = step.terminated or step.truncated
                later = (0.0, 0.0) if ended else value(environment.state())
                outcomes.append((step.reward + later[0], step.reward + later[1]))
            values[key] = float(np.mean([uniform for uniform, _ in outcomes])), max(best for _, best in outcomes)
        return values[key]

    uniform, best = np.mean([value(start) for start in starts], axis=0)
    return uniform, best


def without_distractor(environment: Environment, value: int = 0) -> dict:
    """The state with `value` for the distractor, whose values can be too many to try; a test below lets them vary."""
    state = environment.state()
    if environment.task.name in DISTRACTORS:
        state["numbers"][DISTRACTORS[environment.task.name]] = value
    return state


@pytest.mark.parametrize("name", DISCRETE_TOYS)
def test_toy_scores_are_exact_and_met_by_the_uniform_policy(name: str):
    environment = environment_of("toy", name, image_size=16)
    starts, returns = {}, []
    for seed in range(3000):
        environment.reset(seed)
        start = without_distractor(environment)
        starts[repr(start)] = start
        returns.append(sum(step[1] for step in play(environment, 20, seed)))
    uniform, best = exact_scores(environment, list(starts.values()))
    assert (environment.task.random_score, environment.task.reference_score) == pytest.approx((uniform, best), abs=1e-9)
    # Every start is equally likely: only then does the mean over distinct starts mean something.
    assert np.mean(returns) == pytest.approx(uniform, abs=4 * np.std(returns) / len(returns) ** 0.5)


@pytest.mark.parametrize(("name", "direction"), [("slide", 1), ("slide_swap", -1)])
def test_slide_scores(name: str, direction: int):
    environment = environment_of("toy", name, image_size=16)
    uniform, best = [], []
    for seed in range(2000):
        environment.reset(seed)
        uniform.append(sum(step[1] for step in play(environment, 10, seed)))
        environment.reset(seed)
        best.append(0.0)
        for _ in range(10):
            x, y, goal_x, goal_y = environment.state()["numbers"]
            towards = np.clip(np.array([goal_x - x, goal_y - y]) / 3, -1, 1).astype(np.float32)
            best[-1] += environment.step(direction * towards).reward
    # Full speed ahead leaves max(d - 3t, 0) of a distance d whose density is 2 (12 - d) / 144.
    expected = -sum((12 - 3 * t) ** 3 / (3 * 144) for t in range(1, 5)) / 12
    assert environment.task.reference_score == pytest.approx(expected)
    assert np.mean(best) == pytest.approx(expected, abs=4 * np.std(best) / 2000**0.5)
    positions, returns = np.random.default_rng(0).random((2, 400_000)) * 12, 0.0
    random = np.random.default_rng(1)
    for _ in range(10):
        positions[0] = np.clip(positions[0] + random.uniform(-3, 3, 400_000), 0, 12)
        returns -= np.abs(positions[0] - positions[1]).mean() / 12
    assert environment.task.random_score == pytest.approx(returns, abs=0.015)
    assert np.mean(uniform) == pytest.approx(returns, abs=4 * np.std(uniform) / 2000**0.5)


def test_sparse_slide_scores():
    """Full speed ahead is near after t steps where both distances are below 1 + 3t; they are 5 + 3s with s the sum of
    two uniform numbers. Of uniform episodes few see a reward at all."""
    environment, best = environment_of("toy", "slide_sparse", image_size=16), []
    starts = []
    for seed in range(2000):
        environment.reset(seed)
        starts.append(environment.state()["numbers"])
        best.append(0.0)
        for _ in range(10):
            x, y, goal_x, goal_y = environment.state()["numbers"]
            towards = np.clip(np.array([goal_x - x, goal_y - y]) / 3, -1, 1).astype(np.float32)
            best[-1] += environment.step(towards).reward
    s = np.clip((1 + 3 * np.arange(1, 11) - 5) / 3, 0, 2)
    near = np.where(s < 1, s**2 / 2, 1 - (2 - s) ** 2 / 2)
    assert environment.task.reference_score == pytest.approx((near**2).sum())
    assert np.mean(best) == pytest.approx((near**2).sum(), abs=4 * np.std(best) / 2000**0.5)
    apart = np.abs(np.array(starts)[:, :2] - np.array(starts)[:, 2:])
    assert apart.min() >= 5 and apart.max() <= 11 and apart.mean() == pytest.approx(8, abs=0.1)
    assert {tuple(side) for side in np.array(starts)[:, :2] < 6} == set(itertools.product([False, True], repeat=2))
    random, n = np.random.default_rng(0), 200_000
    places = np.concatenate([3 * random.random((2, n)), 8 + 3 * random.random((2, n))])  # one corner stands for all
    returns, met = np.zeros(n), np.zeros(n, bool)
    for _ in range(10):
        places[:2] = np.clip(places[:2] + random.uniform(-3, 3, (2, n)), 0, 12)
        close = np.abs(places[:2] - places[2:]).max(0) < 1
        returns, met = returns + close, met | close
    assert met.mean() <= 0.02
    assert environment.task.random_score == pytest.approx(returns.mean(), abs=4 * returns.std() / n**0.5)


def test_catch_and_its_twin_look_alike_and_move_oppositely():
    catch, twin = (environment_of("toy", name) for name in ("catch", "catch_swap"))
    swap = {0: 0, 1: 2, 2: 1}
    differed = False
    for seed in range(20):
        assert np.array_equal(catch.reset(seed), twin.reset(seed))
        actions = np.random.default_rng(seed).integers(3, size=5).tolist()
        for action in actions:
            ours, theirs = catch.step(action), twin.step(swap[action])
            assert np.array_equal(ours.observation, theirs.observation) and ours[1:] == theirs[1:]
        catch.reset(seed), twin.reset(seed)
        differed |= [catch.step(a).reward for a in actions] != [twin.step(a).reward for a in actions]
    assert differed


@pytest.mark.parametrize(
    "names", [("catch", "catch_swap", "catch_avoid"), ("grid", "grid_swap"), ("cue", "cue_swap")], ids="-".join
)
def test_tasks_that_share_pictures_have_equal_first_frames_and_unequal_rules(names: tuple[str, ...]):
    group = [environment_of("toy", name) for name in names]
    outcomes = [[] for _ in names]
    for seed in range(20):
        first = group[0].reset(seed)
        for environment, record in zip(group, outcomes, strict=True):
            assert np.array_equal(environment.reset(seed), first)
            record.append([step[1] for step in play(environment, 20, seed)])
    assert all(one != other for index, one in enumerate(outcomes) for other in outcomes[:index])


@pytest.mark.parametrize(
    ("name", "twin", "sign"), [("catch", "catch_avoid", -1), ("cue", "cue_swap", -1), ("catch", "catch_noise", 1)]
)
def test_the_same_actions_bring_the_same_or_the_opposite_rewards(name: str, twin: str, sign: int):
    one, other = environment_of("toy", name), environment_of("toy", twin)
    for seed in range(20):
        one.reset(seed), other.reset(seed)
        ours, theirs = play(one, 20, seed), play(other, 20, seed)
        assert [step[1] for step in ours] == [sign * step[1] for step in theirs]
        assert twin == "catch_noise" or [step[0] for step in ours] == [step[0] for step in theirs]


def test_grid_swap_undoes_what_grid_does():
    grid, swapped = environment_of("toy", "grid"), environment_of("toy", "grid_swap")
    opposite = {1: 2, 2: 1, 3: 4, 4: 3}
    for seed in range(20):
        grid.reset(seed), swapped.reset(seed)
        for action in np.random.default_rng(seed).integers(1, 5, size=20).tolist():
            ours, theirs = grid.step(action), swapped.step(opposite[action])
            assert np.array_equal(ours.observation, theirs.observation) and ours[1:] == theirs[1:]
            if ours.terminated:
                break


@pytest.mark.parametrize("name", DISTRACTORS)
def test_a_distractor_changes_the_picture_and_nothing_else(name: str):
    environment = environment_of("toy", name)
    index = DISTRACTORS[name]
    for seed in range(20):
        pictures, outcomes, distractors = set(), set(), set()
        for other in range(8):
            environment.reset(other)
            distractor = environment.state()["numbers"][index]
            environment.reset(seed)
            environment.restore(without_distractor(environment, distractor))
            episode = play(environment, 20, seed)
            distractors.add(distractor)
            pictures.add(repr([step[0] for step in episode]))
            outcomes.add(repr([step[1:] for step in episode]))
        assert len(outcomes) == 1 and len(pictures) == len(distractors) > 1


def test_the_blocks_of_catch_noise_hide_neither_ball_nor_paddle():
    catch, noise = environment_of("toy", "catch", image_size=16), environment_of("toy", "catch_noise", image_size=16)
    blocks = set()
    for seed in range(50):
        frames = [(catch.reset(seed), noise.reset(seed))]
        frames += [(catch.step(action).observation, noise.step(action).observation) for action in (0, 1, 2, 1, 0)]
        for plain, noisy in frames:
            seen = plain.any(-1)
            assert np.array_equal(plain[seen], noisy[seen])
            blocks.add((noisy * ~seen[..., None]).tobytes())
    assert len(blocks) > 100


def test_recall_asks_for_both_colours_by_frames_that_do_not_tell_them():
    environment = environment_of("toy", "recall")
    asking, answers = set(), {}
    for seed in range(60):
        frames = [environment.reset(seed), *(environment.step(1).observation for _ in range(2))]
        asking.add(environment.step(1).observation.tobytes())
        first = environment.step(1)
        second = environment.step(1)
        asking.add(first.observation.tobytes())
        shown = frames[0].tobytes(), frames[1].tobytes()
        answers.setdefault(shown, set()).add((first.reward, second.reward))
    assert len(asking) == 2, "one picture for each question, whatever was shown"
    assert sorted(answers.values(), key=repr) == [{(-0.5, -0.5)}, {(-0.5, 0.5)}, {(0.5, -0.5)}, {(0.5, 0.5)}]


def test_the_door_of_key_pays_only_with_the_key():
    environment = environment_of("toy", "key")
    environment.restore({"time": 0, "numbers": [2, 2, 0, 3, 0]})  # above the door, the key in the top row
    rewards = [environment.step(action) for action in (4, 3, 3, 3, 1, 2, 4, 4, 4)]
    assert [step.reward for step in rewards] == [0.0] * 8 + [1.0]
    assert [step.terminated for step in rewards] == [False] * 8 + [True]


def test_cue_can_be_known_from_the_first_frame_only():
    environment = environment_of("toy", "cue")
    episodes = {}
    for seed in range(20):
        first = environment.reset(seed).tobytes()
        episodes[first] = [environment.step(1).observation.tobytes() for _ in range(4)]
    assert len(episodes) == 2
    one, other = episodes.values()
    assert one == other


@pytest.mark.parametrize("name", DISCRETE_TOYS)
@pytest.mark.parametrize("image_size", [32, 64])
def test_a_larger_toy_is_the_same_picture(name: str, image_size: int):
    small, large = environment_of("toy", name, image_size=16), environment_of("toy", name, image_size=image_size)
    small.reset(3), large.reset(3)
    for (frame, *rest), (big, *big_rest) in zip(play(small, 20), play(large, 20), strict=True):
        picture = np.frombuffer(big, np.uint8).reshape(image_size, image_size, 3)
        factor = image_size // 16
        grown = np.frombuffer(frame, np.uint8).reshape(16, 16, 3).repeat(factor, 0).repeat(factor, 1)
        assert np.array_equal(grown, picture) and rest == big_rest


# --- all suites ---

# Pong beyond its first anchor; Qbert, whose emulator state is incomplete; Amidar, black at first.
RESTORED = [
    *(("toy", name, 2) for name in TOYS),
    ("atari", "Pong", 510),
    ("atari", "Qbert", 40),
    ("atari", "Amidar", 30),
    ("gymnasium", "CartPole-v1", 5),
    ("gymnasium", "Pendulum-v1", 20),
]

CHILD = """
import hashlib, io, json, sys
import numpy as np
sys.path.insert(0, "tests")
from test_envs import environment_of, play
for line in sys.stdin:
    suite, name, scalars, arrays = json.loads(line)
    environment = environment_of(suite, name)
    environment.restore({**scalars, **np.load(io.BytesIO(bytes.fromhex(arrays)), allow_pickle=False)})
    print(hashlib.sha256(repr(play(environment, 60, seed=2)).encode()).hexdigest())
"""


def test_an_episode_goes_on_exactly_in_another_process():
    lines, expected = [], []
    for suite, name, steps in RESTORED:
        environment = environment_of(suite, name)
        environment.reset(7)
        play(environment, steps, seed=1)
        state = environment.state()
        arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        stored = io.BytesIO()
        np.savez(stored, **arrays)
        scalars = {key: value for key, value in state.items() if key not in arrays}
        lines.append(json.dumps([suite, name, scalars, stored.getvalue().hex()]))
        expected.append(hashlib.sha256(repr(play(environment, 60, seed=2)).encode()).hexdigest())
        environment.close()
    child = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=Path(__file__).parent.parent, input="\n".join(lines), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    named = zip(RESTORED, child.stdout.split(), strict=True)
    assert dict(named) == dict(zip(RESTORED, expected, strict=True))


@pytest.mark.parametrize(
    ("suite", "name"), [*(("toy", n) for n in TOYS), ("atari", "Qbert"), ("gymnasium", "Acrobot-v1")]
)
def test_an_episode_is_a_function_of_its_seed_and_actions(suite: str, name: str):
    environment = environment_of(suite, name)
    first = environment.reset(5)
    episode = play(environment, 60)
    others = set()
    for seed in (6, 7, 8):
        frame = environment.reset(seed)
        others.add((frame.tobytes(), repr(play(environment, 120, seed=0))))
    assert len(others) > 1, "the seed changes nothing"
    assert np.array_equal(environment.reset(5), first)
    assert play(environment, 60) == episode


# --- Atari ---


def bare_episode(name: str, seed: int, settings: dict, actions: list[int]) -> list:
    """The same episode on an ALE that draws its own sticky actions and reports its own lives."""
    import ale_py
    from ale_py import roms

    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", settings["sticky"])
    ale.setInt("random_seed", seed)
    ale.setInt("max_num_frames_per_episode", settings["max_frames"])
    ale.loadROM(roms.get_rom_path(atari._games()[name]))
    ale.reset_game()
    while not ale.getScreenRGB().any():
        ale.act(0)
    lives, record = ale.lives(), []
    for action in actions:
        reward, screens = 0, []
        while len(screens) < settings["frame_skip"] and not ale.game_over():
            reward += ale.act(action)
            screens.append(ale.getScreenRGB())
        picture = np.max(screens[-2:], axis=0) if settings["max_pool"] else screens[-1]
        picture = cv2.resize(picture, (settings["image_size"],) * 2, interpolation=cv2.INTER_AREA)
        over = ale.game_over(with_truncation=False)
        lost, lives = ale.lives() < lives, ale.lives()
        record.append((picture.tobytes(), float(reward), over, ale.game_truncated() and not over, lost))
        if ale.game_over():
            break
    return record


def assert_equals_bare(name: str, steps: int, **changes) -> list:
    settings = settings_of("atari", **changes)
    environment = environment_of("atari", name, **changes)
    environment.reset(11)
    episode = [step[:5] for step in play(environment, steps)]
    random = np.random.default_rng(0)
    actions = [random_action(environment.task, random) for _ in range(steps)]
    assert episode == bare_episode(name, 11, settings, actions)
    return episode


@pytest.mark.parametrize(
    ("name", "changes", "losses"),
    [
        ("Breakout", {}, 5),
        ("DemonAttack", {}, 4),  # reports 1 life at reset, 4 from the next frame on
        ("Amidar", {}, 4),  # reports 0 lives at reset
        ("Pong", {"frame_skip": 1, "max_pool": False, "sticky": 0.5, "max_frames": 601}, None),
    ],
)
def test_an_episode_is_that_of_the_bare_emulator(name: str, changes: dict, losses: int | None):
    episode = assert_equals_bare(name, 2000, **changes)
    _, _, terminated, truncated, _ = episode[-1]
    if losses:
        assert terminated and not truncated and sum(step[4] for step in episode) == losses
    else:
        assert truncated and not terminated and len(episode) == 601


MINIMAL = {  # sizes of ALE's minimal action sets
    18: "Alien BankHeist BattleZone Boxing ChopperCommand Frostbite Hero Jamesbond Kangaroo Krull PrivateEye"
    " RoadRunner Seaquest",
    14: "KungFuMaster",
    10: "Amidar",
    9: "Asterix CrazyClimber MsPacman",
    8: "Gopher",
    7: "Assault",
    6: "DemonAttack Pong Qbert UpNDown",
    4: "Breakout",
    3: "Freeway",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", suites.ATARI)
def test_each_of_the_26_games(name: str):
    environment = environment_of("atari", name, image_size=64)
    game = suites.ATARI[name]
    assert name in MINIMAL[sum(environment.task.action_mask)].split()
    assert (environment.task.random_score, environment.task.reference_score) == (game.random, game.human)
    assert environment.reset(0).max() > 50
    episode = assert_equals_bare(name, 620, image_size=64)  # past the first anchor, where the episode lasts
    assert len({step[0] for step in episode}) > 10


def test_atari_time_limit_and_horizon():
    environment = environment_of("atari", "Pong", max_frames=42)
    environment.reset(0)
    episode = play(environment, 100)
    assert environment.task.horizon == len(episode) == 11
    assert episode[-1][2:4] == (False, True) and not any(step[3] for step in episode[:-1])
    assert environment_of("atari", "Pong").task.horizon == 27_000


def test_atari_actions_are_ales_and_masked():
    environment = environment_of("atari", "Freeway")
    assert np.flatnonzero(environment.task.action_mask).tolist() == [0, 2, 5]  # no-op, up, down
    environment.reset(0)
    with pytest.raises(ValueError, match=r"Freeway has no action 3: choose one of \[0, 2, 5\]"):
        environment.step(3)
    everything = environment_of("atari", "Freeway", full_actions=True)
    assert everything.task.action_size == 18 and all(everything.task.action_mask)
    everything.reset(0)
    everything.step(17)


def test_atari_switches():
    switches = {"clip_reward": True, "life_loss": False}
    plain, switched = (environment_of("atari", "Qbert", **changes) for changes in ({}, switches))
    plain.reset(3), switched.reset(3)
    raw, changed = play(plain, 400), play(switched, 400)
    assert [np.sign(step[1]) for step in raw] == [step[1] for step in changed]
    assert max(step[1] for step in raw) >= 25 and any(step[4] for step in raw)
    assert not any(step[4] for step in changed)


def test_the_noop_protocol():
    environment = environment_of("atari", "MsPacman", protocol="noop")
    starts = {environment.reset(seed).tobytes() for seed in range(8)}
    assert len(starts) > 3
    frames = []
    for seed in range(40):
        environment.reset(seed)
        frames.append(environment.ale.getEpisodeFrameNumber())
    assert 1 <= min(frames) < 6 and 25 < max(frames) <= 30
    # Not sticky: what is done is the action asked for, whatever the seed of the episode.
    environment.reset(0)
    state = environment.state()
    environment.restore(state)
    one = play(environment, 30)
    environment.restore({**state, "seed": 1})
    assert play(environment, 30) == one


# --- gymnasium ---

OWN_FILE = """
    import gymnasium, numpy as np
    from gymnasium.spaces import Box, Discrete

    class Grey(gymnasium.Env):
        '''Shows its last action as a shade of grey, and pays it.'''

        def __init__(self, action_space):
            self.action_space = action_space
            self.observation_space = Box(0, 255, (40, 30), np.uint8)

        def reset(self, seed=None, options=None):
            return np.zeros((40, 30), np.uint8), {}

        def step(self, action):
            value = float(np.sum(action))
            return np.full((40, 30), 100 + 10 * value, np.uint8), value, False, False, {}

    for name, space, limit in (
        ("Shift-v0", Discrete(3, start=-1), 6),
        ("Pair-v0", Box(np.array([0, -2]), np.array([4, 2]), dtype=np.float32), None),
        ("Many-v0", gymnasium.spaces.MultiDiscrete([2, 2]), None),
        ("Endless-v0", Box(-np.inf, np.inf, (1,)), None),
    ):
        gymnasium.register("own/" + name, Grey, max_episode_steps=limit, kwargs={"action_space": space})

    class Blind(Grey):
        def __init__(self):
            super().__init__(Discrete(2))
            self.observation_space = Box(-1, 1, (4,))

    gymnasium.register("own/Blind-v0", Blind)
"""


@pytest.fixture(scope="module", autouse=True)
def own_file(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_environments.py").write_text(textwrap.dedent(OWN_FILE))
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def own(name: str) -> str:
    return f"own_environments:own/{name}-v0"


def test_tasks_of_gymnasium_share_the_widest_action_set():
    cart, acrobot = envs.resolve("gymnasium", ("CartPole-v1", "Acrobot-v1"), settings_of("gymnasium"))
    assert (cart.action_mask, acrobot.action_mask) == ((True, True, False), (True, True, True))
    assert (cart.horizon, cart.random_score, cart.reference_score) == (500, None, 475.0)
    cart_alone = environment_of("gymnasium", "CartPole-v1")
    assert cart_alone.task.action_size == 2
    assert len(np.unique(cart_alone.reset(0).reshape(-1, 3), axis=0)) > 3
    with pytest.raises(ValueError, match="no action 2"):
        cart_alone.step(2)


def test_an_own_environment_from_one_file():
    environment = environment_of("gymnasium", own("Shift"))
    assert not environment.reset(0).any()
    step = environment.step(2)
    assert step.reward == 1.0 and step.observation.shape == (32, 32, 3) and (step.observation == 110).all()
    assert [environment.step(action).reward for action in (0, 1)] == [-1.0, 0.0]
    assert [environment.step(1).truncated for _ in range(3)] == [False, False, True]


def test_gymnasium_repeats_scales_and_cuts():
    environment = environment_of("gymnasium", own("Pair"), action_repeat=2, max_steps=3)
    assert (environment.task.action_size, environment.task.discrete, environment.task.horizon) == (2, False, 3)
    environment.reset(0)
    steps = [environment.step(np.array(action, np.float32)) for action in ([-1, 1], [0, 0], [1, 1])]
    assert [step.reward for step in steps] == [2 * 2, 2 * 2, 2 * 6]
    assert [(step.terminated, step.truncated) for step in steps] == [(False, False), (False, False), (False, True)]
    assert environment_of("gymnasium", own("Pair"), action_repeat=3).task.horizon == 334
    environment.reset(0)
    with pytest.raises(ValueError, match=r"takes numbers in \[-1, 1\]"):
        environment.step(np.array([0, 1.5], np.float32))


# --- refusals ---


@pytest.mark.parametrize(
    ("suite", "names", "changes", "message"),
    [
        ("atary", ("Pong",), {}, "unknown suite 'atary': did you mean 'atari'?"),
        ("atari", (), {}, "suite.tasks is empty"),
        ("atari", ("Pnog",), {}, "unknown Atari game 'Pnog': did you mean 'Pong'?"),
        ("atari", ("upndown",), {}, "did you mean 'UpNDown'?"),
        ("atari", ("atari27",), {}, "did you mean 'atari26'?"),
        ("atari", ("Pong", "Boxing", "Pong"), {}, "names Pong more than once"),
        ("atari", ("Pong",), {"protocol": "stiky"}, "did you mean 'sticky'?"),
        ("atari", ("Pong",), {"sticky": 1.5}, "suite.atari.sticky is 1.5: choose from 0 to 1"),
        ("atari", ("Pong",), {"frame_skip": 0}, "suite.atari.frame_skip is 0"),
        ("toy", ("quark",), {}, "choose from catch, catch_avoid, catch_noise, catch_swap, cue, cue_swap, grid,"),
        ("toy", ("toy5", "catch"), {}, "names catch more than once"),
        ("toy", ("catch", "slide"), {}, "mixes discrete actions (catch) with continuous ones (slide)"),
        ("toy", ("catch",), {"image_size": 24}, "image_size 24 does not fit"),
        ("gymnasium", ("CartPol-v1",), {}, "unknown environment 'CartPol-v1': did you mean 'CartPole-v1'?"),
        ("gymnasium", ("nowhere:Thing-v0",), {}, "No module named 'nowhere'"),
        ("gymnasium", ("a:b:c",), {}, "environment 'a:b:c' cannot be made"),
        ("gymnasium", (own("Many"),), {}, "only Discrete and bounded Box"),
        ("gymnasium", (own("Endless"),), {}, "only Discrete and bounded Box"),
        ("gymnasium", (own("Blind"),), {}, "has no picture"),
        ("gymnasium", ("CartPole-v1",), {"action_repeat": 0}, "suite.gymnasium.action_repeat is 0: choose 1 or more"),
    ],
)
def test_bad_input_is_named_and_mended(suite: str, names: tuple, changes: dict, message: str):
    with pytest.raises(BadInput) as refused:
        envs.resolve(suite, names, settings_of(suite, **changes))
    assert message in str(refused.value)


def test_what_drawing_changes_is_the_same_after_a_restore():
    """Taxi turns its car when it is drawn."""
    pytest.importorskip("pygame")
    (task,) = envs.resolve("gymnasium", ("Taxi-v4",), settings_of("gymnasium"))
    one, other = (envs.make(task, settings_of("gymnasium")) for _ in range(2))
    one.reset(0)
    for action in (2, 3, 2, 0):
        seen = one.step(action).observation
    np.testing.assert_array_equal(other.restore(one.state()), seen)
    for action in (3, 1):
        np.testing.assert_array_equal(other.step(action).observation, one.step(action).observation)


@pytest.mark.parametrize(("name", "drawn"), [("InvertedPendulum-v5", True), ("CartPole-v1", False)])
def test_gymnasium_s_mujoco_has_a_renderer_chosen_or_is_refused(name: str, drawn: bool, monkeypatch):
    asked = []
    monkeypatch.setattr(renderers, "choose", asked.append)
    monkeypatch.setattr(renderers, "refuse", lambda: (_ for _ in ()).throw(BadInput("cannot draw")))
    with pytest.raises(BadInput, match="cannot draw") if drawn else contextlib.nullcontext():
        envs.resolve("gymnasium", (name,), settings_of("gymnasium"))
    assert asked == ["MuJoCo"] * drawn


def test_roms_that_nobody_can_play_alone_are_no_games():
    known = [name.replace("_", "") for name in map(str.lower, atari._games())]
    assert "qbert" in known and not {"combat", "joust", "mazecraze", "warlords"} & set(known)


def test_a_missing_simulator_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    atari._games.cache_clear()
    monkeypatch.setitem(sys.modules, "ale_py.roms", None)
    with pytest.raises(BadInput, match=r"pip install 'mow_jax\[atari\]'"):
        envs.resolve("atari", ("Pong",), settings_of("atari"))


@pytest.mark.parametrize(("name", "size", "masks"), [("toy5", 5, 3), ("toy13", 13, 4)])
def test_lists_expand_in_place(name: str, size: int, masks: int):
    tasks = envs.resolve("toy", (name,), settings_of("toy"))
    assert [task.name for task in tasks] == list(suites.LISTS["toy"][name]) == list(DISCRETE_TOYS[:size])
    assert {task.action_size for task in tasks} == {5}
    assert len({task.action_mask for task in tasks}) == masks
