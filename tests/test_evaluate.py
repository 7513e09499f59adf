"""What a score says of itself."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from processes import ROOT, environment

from mow_jax import build, config, diagnostics, evaluate, logs, processes
from mow_jax.actors import random_actions
from mow_jax.episodes import Books, Episode
from mow_jax.report import data, tables
from mow_jax.types import BadInput


def acting() -> dict:
    """What MoW says of its acting."""
    settings = config.default()
    settings.suite.update(name="toy", tasks=("catch",))
    return build.system(settings, build.tasks(settings)).protocol


@pytest.mark.parametrize("suite", ["atari", "metaworld", "toy", "gymnasium"])
def test_a_protocol_has_every_field_of_its_suite_and_of_the_evaluation(suite: str):
    settings = config.default()
    settings.suite.name = suite
    own = settings.suite.get(suite, {})
    made = evaluate.protocol(settings, acting())
    assert {"name", "observation", "image_size", *own} == made["suite"].keys()
    assert {*settings.evaluation, "actions"} - {"every"} == made["evaluation"].keys()
    assert made["agent"].keys() == {"act_context", "act_on", "unimix"}
    assert made["model"] == {"compute_dtype": "float32"}, "what auto stands for here"


def test_fields_of_one_name_are_kept_apart_in_results_and_report():
    settings = config.default()
    settings.suite.name = "gymnasium"
    settings.suite.gymnasium.max_steps, settings.evaluation.max_steps = 70, 20
    settings.evaluation.seed, settings.seed = 5, 6
    rows = dict(tables.protocol({"protocol": evaluate.protocol(settings, acting()), "step": 64}).rows)
    assert (rows["suite.max_steps"], rows["evaluation.max_steps"]) == ("70", "20")
    assert (rows["evaluation.seed"], rows["train.seed"], rows["step"]) == ("5", "6", "64")


def test_older_results_with_one_level_are_still_shown():
    rows = dict(tables.protocol({"protocol": {"sticky": 0.25, "suite": "atari"}, "commit": "0123abc"}).rows)
    assert rows == {"sticky": "0.25", "suite": "atari", "commit": "0123abc"}


def test_what_is_known_stands_under_its_own_heads(capsys):
    """A column of the report has one here, in its order, but for the count of rows."""
    numbers = dict(zip(tables.knowledge({}).columns[2:], range(1, 8), strict=True))
    values = [numbers[name] / 8 for name in numbers]
    known = dict(reward_correlation=values[0], reward_precision=values[1], reward_base=0.0, termination_share=0.0)
    known |= dict(termination_predicted=values[2], termination_at_ends=values[3], termination_error=values[4])
    known |= dict(action_nats=values[5], ratio=values[6], rows=10)
    evaluate.print_table({"tasks": {}, "diagnostics": {"Pong": known}, "aggregate": None}, 1)
    printed = capsys.readouterr().out.partition("what the world model knows")[2].splitlines()
    (row,) = ([cell.strip() for cell in line.split("│")[1:-1]] for line in printed if "Pong" in line)
    heads = [line.split("┃")[1:-1] for line in printed if "┃" in line]
    heads = [" ".join(part.strip() for part in parts).strip() for parts in zip(*heads, strict=True)]
    found = dict(zip(heads, row, strict=True))
    assert found["action nats"] == f"{values[5]:.3f}" and found["recon ratio"] == f"{values[6]:.3f}"
    assert found["calibration error"] == f"{values[4]:.3f}" and "" not in heads


class Played:
    """Environments whose episodes take 2 steps in the first task and 3 in the second; those of `lost` are lost."""

    def __init__(self, envs: int, lost: tuple[int, ...] = ()):
        self.observation, self.is_first, self._envs, self._step, self._lost = None, None, envs, 0, lost

    def step(self, action) -> tuple[None, list[Episode]]:
        self._step += 1
        ended = [task for task, length in enumerate((2, 3)) if not self._step % length]
        index = lambda task: self._step // (2, 3)[task] - 1
        return None, [
            Episode(task, env, index(task), 1.0, 2, None, False, self._step in self._lost)
            for task in ended
            for env in range(self._envs)
        ]

    def close(self) -> None:
        pass


def test_a_lost_episode_is_no_score_and_draws_are_evaluations_own(monkeypatch):
    """Those of step 2 are lost: others are played in their place. Nobody explores, and steps count from a number that
    training does not reach."""
    settings, asked, named = config.default(), [], []
    settings.suite.update(name="toy", tasks=("catch", "grid"))
    settings.evaluation.update(episodes=2, parallel=1, max_steps=7)
    for name in ("evaluation", "random"):
        play = lambda config, tasks, parallel, name: named.append(name) or Played(parallel, lost=(2,))
        monkeypatch.setattr(evaluate, "actors", play)
        if name == "random":
            found = evaluate.play_random(settings, build.tasks(settings))
            assert min(episode.index for episode in found if episode.task == 0) == 1 and len(found) == 40
            continue
        act = lambda acting, *seen, explore: asked.append((seen[-1], explore)) or (None, {}, acting)
        learner = SimpleNamespace(init_acting=lambda envs: 0, act=act)
        found = evaluate.play(settings, learner, build.tasks(settings), None)
        assert [(episode.task, episode.index) for episode in found] == [(0, 1), (0, 2), (1, 0), (1, 1)]
    assert named == ["evaluation", "random"] and not any(explore for _, explore in asked)
    first = asked[0][0]
    assert [step for step, _ in asked] == [*range(first, first + len(asked))] and first > 10**6


def test_evaluation_plays_by_its_own_settings_and_seeds(monkeypatch):
    settings, given = config.default(), {}
    settings.seed = 6
    settings.suite.update(name="metaworld", tasks=("reach-v3",))
    settings.evaluation.update(seed=5, max_steps=70)
    monkeypatch.setattr(evaluate, "Actors", lambda tasks, own, **options: given.update(options, own=own))
    evaluate.actors(settings, [], 3, "evaluation")
    assert {key: given[key] for key in ("envs", "seed", "name", "max_steps")} == {
        **{"envs": 3, "seed": 11, "name": "evaluation", "max_steps": 70},
    }
    training = build.env_settings(settings)
    differing = {key: value for key, value in given["own"].items() if value != training[key]}
    assert differing == {"goal_order": "ordered", "end_on_success": True}


@pytest.mark.parametrize("envs", [1, 3])
def test_parallel_episodes_are_numbered_apart(envs: int):
    """Meta-World's goals go by these numbers: each once."""
    books = Books([("root", env) for env in range(2 * envs)], envs)
    numbers = lambda later: [number for _, number in books.starts(slice(None), later)]
    assert numbers(0) == 2 * [*range(envs)] and numbers(1) == 2 * [*range(envs, 2 * envs)]
    assert len({seed for later in (0, 1) for seed, _ in books.starts(slice(None), later)}) == 4 * envs


def test_progress_counts_steps_too(monkeypatch, capsys):
    """2 environments a task play 5 episodes, so that one of them has 3, of 7 steps at most: 21 steps, were all as long.
    Where no episode ends for long, a line says how far it is."""
    settings = config.default()
    settings.suite.update(name="toy", tasks=("catch", "grid"))
    settings.evaluation.update(episodes=5, parallel=2, max_steps=7)
    monkeypatch.setattr(logs, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(evaluate, "actors", lambda config, tasks, parallel, name: Played(parallel))
    learner = SimpleNamespace(init_acting=lambda envs: 0, act=lambda acting, *seen, explore: (None, {}, acting + 1))
    episodes = evaluate.play(settings, learner, build.tasks(settings), None)
    assert [(episode.task, episode.index, episode.env) for episode in episodes[:5]] == [
        *((0, index, env) for index in (0, 1) for env in (0, 1)),
        (0, 2, 0),
    ]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("step ")[2] for line in lines] == [f"{n} of at most 21" for n in range(1, 10)]
    done = [0, 2, 4, 6, 6, 9, 9, 9, 10]  # after each of the 9 steps
    assert [line.split()[:2] for line in lines] == [["evaluation", f"{count}/10"] for count in done]


class Counted:
    """Of diagnostics.Rows what playing needs: how many rows count."""

    def __init__(self):
        self.counts, self._open = np.zeros(2, int), np.zeros((2, 3), int)

    def add(self, row) -> None:
        self._open += 1

    def settle(self, task: int, env: int, counts: bool) -> None:
        self.counts[task] += counts * self._open[task, env]
        self._open[task, env] = 0


@pytest.mark.parametrize(("more", "seed"), [(0, 0), (0, 1), (0, 2), (0, 3), (40, 0)])
def test_rows_of_episodes_beyond_a_share_count_where_rows_are_short_alone(more: int, seed: int):
    """Random walks, three environments a task, some done long before others: as many rows as the scored episodes have
    are enough, whoever is done first; of more than that a few episodes are played on."""
    settings = config.default()
    settings.suite.update(name="toy", tasks=("grid", "grid_swap"))
    settings.actors.workers = 0
    settings.evaluation.update(episodes=12, parallel=3, rows=0)
    tasks = build.tasks(settings)
    actions = lambda step: random_actions(np.random.default_rng([seed, step]), tasks, 3)
    learner = SimpleNamespace(
        init_acting=lambda envs: 0, act=lambda acting, seen, first, step, explore: (actions(step), {}, acting)
    )
    scored = [sum(e.length for e in evaluate.play(settings, learner, tasks, None) if e.task == k) for k in (0, 1)]
    settings.evaluation.rows = min(scored) + more
    rows = Counted()
    evaluate.play(settings, learner, tasks, rows)
    if more:
        assert rows.counts.min() >= min(scored) + more
    else:
        assert rows.counts.tolist() == scored


# --- A folder that cannot be written ----------------------------------------------------------------------------------


def nobody_s_powers(folder: Path) -> list[str]:
    """The start of a command that keeps to a folder's permissions; skips the test where even root without its
    privilege to ignore them can write there."""
    every = ([], ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"])
    for start in every:
        if start and shutil.which(start[0]) is None:
            continue
        if subprocess.run([*start, "touch", folder / "trial"], capture_output=True, check=False).returncode:
            if start and subprocess.run([*start, "true"], capture_output=True, check=False).returncode:
                continue
            return start
        (folder / "trial").unlink()
    pytest.skip("permissions do not hold for this user")


@pytest.fixture
def sealed(tmp_path):
    """A run's folder that nobody may write into."""
    with tarfile.open(ROOT / "tests" / "data" / "workdir-0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    places = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    yield tmp_path / "run"
    for place in places:
        place.chmod(0o755)


@pytest.mark.long  # two commands of a workdir of its own; test_command.py has places without permission in little
def test_a_folder_that_is_read_only_is_refused_first_and_evaluated_into_another(sealed, tmp_path):
    start = [*nobody_s_powers(sealed), sys.executable, "-m", "mow_jax.evaluate", f"--workdir={sealed}", "--episodes=1"]
    ask = lambda *more: subprocess.run(
        [*start, *more], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=400, check=False
    )
    before = {path: path.read_bytes() for path in sealed.rglob("*") if path.is_file()}
    answer = ask()
    assert answer.returncode == 2 and answer.stdout == "", answer
    assert answer.stderr.count("error: ") == 1 and "Traceback" not in answer.stderr
    assert f"cannot write into {sealed}: Permission denied" in answer.stderr and "evaluation " not in answer.stderr
    answer = ask(f"--out={tmp_path / 'out'}")
    assert answer.returncode == 0 and "evaluation at step 32" in answer.stdout, answer
    assert sorted(os.listdir(tmp_path / "out")) == ["frames.npz", "results.json"]
    assert before == {path: path.read_bytes() for path in sealed.rglob("*") if path.is_file()}


# --- A crash on the way -----------------------------------------------------------------------------------------------

RESULTS = {"tasks": {"catch": {"returns": [0.5], "normalised": None}}, "diagnostics": {}, "aggregate": None}


def write(directory: Path, step: int) -> None:
    """What an evaluation after `step` steps leaves: every pixel of its film tells the step."""
    settings = config.default()
    settings.suite.update(name="toy", tasks=("catch",))
    films = {"imagined_from": np.array(0), "episode/0": np.full((2, 8, 8, 3), step, np.uint8)}
    evaluate.write(RESULTS, films, step, build.tasks(settings), directory)


def found(directory: Path) -> tuple[int | None, int | None]:
    """The steps that results and frames are of, as a report reads them; None where there are none yet."""
    if not any((directory / name).exists() for name in data.SOURCES):
        return None, None
    run = data.read(str(directory))
    film = run.frames and run.frames.get("episode", "catch")
    return run.results and run.results["step"], None if film is None else int(film[-1, -1, -1, -1])


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(evaluate, "print_table", lambda *_: None)


def test_results_are_the_last_that_is_written_whenever_a_run_is_killed(quiet, tmp_path, monkeypatch):
    """What lies on the disk at every moment: after half of each array file, and around every renaming."""
    seen, renamed, packed = [], Path.replace, np.savez_compressed
    look = lambda: seen.append(found(tmp_path))

    def replace(path, target):
        look()
        renamed(path, target)
        look()

    def pack(path, **arrays):
        Path(path).write_bytes(b"PK, and no more")
        look()
        packed(path, **arrays)
        look()

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(np, "savez_compressed", pack)
    write(tmp_path, 4)
    write(tmp_path, 9)
    assert seen == [
        *[(None, None)] * 3,  # packing
        *[(None, 4)] * 2,
        *[(4, 4)] * 4,
        *[(4, 9)] * 2,
        (9, 9),
    ]
    assert sorted(os.listdir(tmp_path)) == ["frames.npz", "results.json"]


@pytest.mark.parametrize("broken", ["savez", "savez_compressed"])
def test_frames_that_cannot_be_written_leave_the_evaluation_undone_and_its_scores_printed(
    broken, quiet, tmp_path, monkeypatch, capsys
):
    write(tmp_path, 4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:

        def full(path, **_):
            Path(path).write_bytes(b"PK, and no more")
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(np, broken, full)
        with pytest.raises(BadInput, match=r"results\.json and .*: No space left on device; .*[Ff]ree"):
            write(tmp_path, 7)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert json.loads(capsys.readouterr().out) == {"step": 7} | RESULTS
    write(tmp_path, 7)
    assert found(tmp_path) == (7, 7) and sorted(os.listdir(tmp_path)) == ["frames.npz", "results.json"]


def test_two_evaluations_of_a_run_at_once_leave_each_other_s_frames_alone(quiet, tmp_path, monkeypatch):
    """The second begins and ends while the first gathers its parts."""
    whole = processes.gather

    def first(value):
        if value is None:  # all parts are there
            monkeypatch.setattr(processes, "gather", whole)
            write(tmp_path, 9)
        return [value]

    monkeypatch.setattr(processes, "gather", first)
    write(tmp_path, 4)
    assert found(tmp_path) == (4, 4) and sorted(os.listdir(tmp_path)) == ["frames.npz", "results.json"]


def test_means_over_some_of_the_tasks_say_so(capsys):
    task = {"returns": [2.0], "random": 0.0, "reference": 4.0, "normalised": 0.5, "success": [True]}
    task["success_interval"] = [0.2, 1.0]
    results = {"tasks": {"a": task, "b": task, "c": task | {"normalised": None}}, "diagnostics": {}}
    results["aggregate"] = {"mean": 0.5, "median": 0.5, "iqm": 0.5, "interval": None}
    for count, said in ((3, "over 2 of 3 tasks"), (2, "over all tasks")):
        held = results | {"tasks": dict(list(results["tasks"].items())[:count])}
        assert tables.aggregate(held).columns[0] == said
        evaluate.print_table(held, 9)
        assert said in capsys.readouterr().out


def test_a_part_that_another_process_cannot_write_ends_all_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gather", lambda fault: [fault, [errno.EDQUOT, "Disk quota exceeded"]])
    with pytest.raises(OSError, match="Disk quota exceeded"):
        diagnostics.write_frames(tmp_path, {"episode/0": np.zeros((1, 1, 1, 3), np.uint8)}, [])
    assert not list(tmp_path.iterdir())
