"""Evaluation: episodes of the policy on fresh seeds, scores, and a look into the world model.

`python -m mow_jax.evaluate --workdir=DIR` needs only the workdir; train calls `evaluate` during and after a run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from mow_jax import build, command, diagnostics, files, load, logs, processes, summary, workdir
from mow_jax.actors import Actors, Episode, random_actions
from mow_jax.learner import Learner
from mow_jax.report import scores, tables
from mow_jax.seeding import generator, seed_of
from mow_jax.types import BadInput, System, Task

# Settings of evaluation: goals come in order, and an episode that has succeeded is over. (Scores are of raw rewards,
# whatever learning sees.)
DIFFERENT = {"goal_order": "ordered", "end_on_success": True}
# Heads of tables.knowledge that leave room for names of tasks in 100 columns.
KNOWLEDGE = ["task", "reward\ncorr", "reward AP\n(chance)", "ends said\n(real)", "at\nends", "calibration\nerror"]
KNOWLEDGE += ["action\nnats", "recon\nratio"]


class Interrupted(Exception):
    """An evaluation was asked to stop: it is to be done again."""


def evaluate(
    config: ConfigDict,
    learner: Learner,
    tasks: list[Task],
    film: bool = False,
    random: bool = False,
    signals: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Plays `evaluation.episodes` a task; what results.json holds, and with `film` this process's part of frames.npz.

    `random`: measure the uniform policy of every task whose score is not known, not only where a normalised score
    needs it. Raises Interrupted once one of `signals` has been heard; not with several processes, which would have to
    meet to ask, and play at their own speeds.
    """
    mine = processes.share(tasks)
    longest = window(learner.system)
    rows = diagnostics.Rows(learner.predictions, len(mine), longest) if learner.predictions else None
    recorder = diagnostics.Recorder(len(mine)) if film and not mine[0].numbers else None  # vectors are no film
    episodes = play(config, learner, mine, rows, recorder, signals)
    unknown = [t for t in mine if t.random_score is None and (random or t.reference_score is not None)]
    uniform = play_random(config, unknown, signals) if unknown else []
    played: dict[str, Any] = {}
    for k, task in enumerate(mine):
        by_chance = [e for e in uniform if unknown[e.task] is task]
        played[task.name] = task_result(task, [e for e in episodes if e.task == k], by_chance)
    results: dict[str, Any] = {"tasks": together(played, tasks), "protocol": protocol(config, learner.system.protocol)}
    results |= {"versions": summary.versions(), "commit": summary.commit()}
    normalised = {name: r["runs"] for name, r in results["tasks"].items() if r["runs"]}
    succeed = any("success" in r for r in results["tasks"].values())
    results["aggregate"] = scores.aggregate(normalised, successes=succeed) if normalised else None
    results["diagnostics"] = {}
    if rows is not None:
        results["diagnostics"] = together(dict(zip([task.name for task in mine], rows.numbers(), strict=True)), tasks)
    for result in results["tasks"].values():
        del result["runs"]
    recall(results, learner)
    return results, diagnostics.films(learner, recorder.clips(), longest) if recorder else {}


def tell(results: dict[str, Any], learner: Learner, step: int) -> None:
    """Tells the system, where it wants to know, what an evaluation after `step` agent steps a task has found."""
    if learner.system.after_evaluation:
        learner.change(learner.system.after_evaluation.learn, normalised(results), np.int32(step))
        recall(results, learner)


def recall(results: dict[str, Any], learner: Learner) -> None:
    """Puts what the system remembers of a task beside its score: {"stages": {"steps": 5000, "score": 0.93}}."""
    after = learner.system.after_evaluation
    for area, numbers in learner.single(after.remembers(learner.state)).items() if after else ():
        for k, result in enumerate(results["tasks"].values()):
            of_task = {name: float(values[k]) for name, values in numbers.items()}
            if any(of_task.values()):
                result[area] = of_task


def together(own: dict[str, Any], tasks: list[Task]) -> dict[str, Any]:
    """What every process says of its own tasks, by name, in the order of all."""
    everyone = {name: value for part in processes.gather(own) for name, value in part.items()}
    return {task.name: everyone[task.name] for task in tasks}


def write(results: dict[str, Any], films: dict[str, np.ndarray], step: int, tasks: list[Task], directory: Path) -> None:
    """Prints the tables, then writes frames.npz and, last of all, results.json, each whole or not at all (process 0
    what is global): who finds results finds everything that belongs to them.

    Raises BadInput where that fails; the results are then printed, so that no score is lost.
    """
    content, path = json.dumps({"step": step} | results, indent=1) + "\n", directory / "results.json"
    if not processes.index():
        print_table(results, step)
    try:
        if films:
            diagnostics.write_frames(directory, films, tasks)
        if not processes.index():
            with files.whole(path) as temporary:
                temporary.write_text(content)
    except OSError as error:
        if not processes.index():
            print(content, flush=True)
        raise BadInput(
            f"cannot write {path} and what lies beside it: {error.strerror}; what it should hold is printed above. Free"
            " space or make the folder writable, then give the same command again"
        ) from None


# --- Playing ----------------------------------------------------------------------------------------------------------


def play(
    config: ConfigDict,
    learner: Learner,
    tasks: list[Task],
    rows: diagnostics.Rows | None,
    recorder: diagnostics.Recorder | None = None,
    signals: Sequence[str] = (),
) -> list[Episode]:
    """`evaluation.episodes` episodes of every task; `rows` gets all that is played, `recorder` too. Where those are
    short, more are played until `evaluation.rows` rows of every task count."""
    settings = config.evaluation
    parallel = min(settings.parallel, settings.episodes)
    acting = learner.init_acting(parallel)
    finished: list[Episode] = []
    longest = max(settings.max_steps or task.horizon for task in tasks)
    # Each environment has its share of a task's episodes, so that short ones are not favoured.
    open_share = np.tile([len(range(env, settings.episodes, parallel)) for env in range(parallel)], (len(tasks), 1))
    with (
        contextlib.closing(actors(config, tasks, parallel, "evaluation")) as environments,
        counting("evaluation", open_share) as progress,
    ):
        most = longest * int(open_share.max())
        # Far from the joint steps whose draws training has seen.
        first = step = seed_of(settings.seed, config.seed, "act") // 4
        wants_rows = lambda task=slice(None): rows is not None and rows.counts[task].min() < settings.rows
        # Whether a task's rows are short is known once its shares are played: before, short episodes would get more.
        short = lambda task: not open_share[task].any() and wants_rows(task)
        while open_share.any() or wants_rows():
            _refuse_to_go_on(signals)
            seen = (environments.observation, environments.is_first, step)
            action, _, acting = learner.act(acting, *seen, explore=False)
            row, episodes = environments.step(action)
            before = len(finished)
            if rows is not None:
                rows.add(row)
            if recorder is not None:
                recorder.add(row)
            for episode in episodes:
                counts = bool(open_share[episode.task, episode.env]) and not episode.lost
                if rows is not None:
                    wanted = short(episode.task) and not episode.lost
                    rows.settle(episode.task, episode.env, counts or wanted)
                if counts:
                    open_share[episode.task, episode.env] -= 1
                    finished.append(episode)
            if open_share.any() or len(finished) > before:  # else only rows are still wanted
                progress.update(len(finished), f"step {step - first + 1:,} of at most {most:,}")
            step += 1
    return sorted(finished, key=lambda e: (e.task, e.index * parallel + e.env))


def window(system: System) -> int:
    """Rows that the world model is asked about at once: as many as in training, where its places were learned."""
    longest = max(window.length for window in system.updates["training"].windows.values())
    return min(longest, diagnostics.LONGEST_WINDOW)


def actors(config: ConfigDict, tasks: list[Task], parallel: int, name: str) -> Actors:
    """Evaluation environments, seeded apart from training's."""
    settings = config.evaluation
    options = dict(envs=parallel, seed=settings.seed + config.seed, name=name, max_steps=settings.max_steps)
    return Actors(tasks, env_settings(config), **options, **config.actors.to_dict())


def _refuse_to_go_on(signals: Sequence[str]) -> None:
    if signals and processes.count() == 1:
        raise Interrupted(signals[0])


def play_random(config: ConfigDict, tasks: list[Task], signals: Sequence[str] = ()) -> list[Episode]:
    """`evaluation.episodes` of uniform actions a task, at least 20."""
    left = np.full(len(tasks), max(20, config.evaluation.episodes))
    finished: list[Episode] = []
    draws = [generator(config.evaluation.seed, config.seed, "random", task.name) for task in tasks]
    with (
        contextlib.closing(actors(config, tasks, 1, "random")) as environments,
        counting("uniform policy", left) as progress,
    ):
        while left.any():
            _refuse_to_go_on(signals)
            actions = [random_actions(draw, [task], 1)[0] for draw, task in zip(draws, tasks, strict=True)]
            for episode in environments.step(np.stack(actions))[1]:
                if left[episode.task] and not episode.lost:
                    left[episode.task] -= 1
                    finished.append(episode)
            progress.update(len(finished))
    return finished


def counting(title: str, left: np.ndarray) -> logs.Progress:
    """A progress line of the episodes that are left to play; with several processes the first shows its own."""
    return logs.Progress(title, int(left.sum()), shown=not processes.index(), unit="episodes")


# --- Scores -----------------------------------------------------------------------------------------------------------


def task_result(task: Task, episodes: list[Episode], by_chance: list[Episode]) -> dict[str, Any]:
    """Returns, lengths, success where it exists, and the normalised score of one task; `by_chance` are episodes of the
    uniform policy, where those were played."""
    returns = [episode.ret for episode in episodes]
    measured = float(np.mean([episode.ret for episode in by_chance])) if by_chance else None
    random = task.random_score if task.random_score is not None else measured
    result: dict[str, Any] = {"returns": returns, "lengths": [episode.length for episode in episodes]}
    result |= {"random": random, "reference": task.reference_score, "normalised": None, "runs": []}
    if success := [episode.success for episode in episodes if episode.success is not None]:
        result |= {"success": success, "success_interval": scores.success_interval(success)}
        result["runs"] = [float(flag) for flag in success]
        if by_chance:
            result["random_success"] = float(np.mean([episode.success for episode in by_chance]))
    elif random is not None and task.reference_score not in (None, random):  # equal ones leave no scale
        result["runs"] = [scores.normalise(r, random, task.reference_score) for r in returns]
    if result["runs"]:
        result["normalised"] = float(np.mean(result["runs"]))
    return result


def protocol(config: ConfigDict, own: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a score depends on beside the weights, parts of the config apart: suite, evaluation, training, and what is
    the system's `own`."""
    settings = config.evaluation.to_dict()
    del settings["every"]
    train = {"seed": config.seed, "steps": config.train.steps, "envs": config.train.envs}
    found = {"suite": {"name": config.suite.name, **env_settings(config)}, "evaluation": settings, "train": train}
    for section, values in own.items():
        found[section] = found.get(section, {}) | values
    return found


def env_settings(config: ConfigDict) -> dict[str, Any]:
    """Training's settings, but for those of DIFFERENT that the suite has."""
    settings = build.env_settings(config)
    return settings | {key: value for key, value in DIFFERENT.items() if key in settings}


def metrics(results: dict[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation by the names of metrics.jsonl."""
    line: dict[str, float] = {}
    for name, result in results["tasks"].items():
        line[f"evaluation/{name}/return"] = float(np.mean(result["returns"]))
        if result["normalised"] is not None:
            line[f"evaluation/{name}/normalised"] = result["normalised"]
        if "success" in result:
            line[f"evaluation/{name}/success"] = float(np.mean(result["success"]))
        for area, numbers in result.items():
            if isinstance(numbers, dict):  # what the system remembers of the task
                line |= {f"{area}/{kind}/{name}": value for kind, value in numbers.items()}
    line |= diagnostics.metrics(results["diagnostics"])
    total = {name: (results["aggregate"] or {}).get(name) for name in ("mean", "median", "iqm")}
    return line | {f"evaluation/{name}": value for name, value in total.items() if value is not None}


def normalised(results: dict[str, Any]) -> np.ndarray:
    """Normalised scores [K] float32, NaN where a task has none."""
    found = (result["normalised"] for result in results["tasks"].values())
    return np.array([np.nan if score is None else score for score in found], np.float32)


def print_table(results: dict[str, Any], step: int) -> None:
    """The tables a person reads."""
    number = lambda x: "-" if x is None else f"{x:,.4g}"
    columns, rows = ["task", "return", "random", "reference", "normalised"], []
    succeeds = any("success" in r for r in results["tasks"].values())
    for name, r in results["tasks"].items():
        row = [name, number(np.mean(r["returns"])), *(number(r[key]) for key in ("random", "reference", "normalised"))]
        rows.append(row + [scores.success_text(r)] * succeeds)
    logs.table(f"evaluation at step {step:,}", columns + ["success [95%]"] * succeeds, rows)
    if results["diagnostics"]:
        known = [[name, *cells] for name, _, *cells in tables.knowledge(results["diagnostics"]).rows]  # no row counts
        logs.table("what the world model knows", KNOWLEDGE, known)
    if results["aggregate"]:
        a = results["aggregate"]
        means = f"{tables.over(results)}: mean {a['mean']:.4f}  median {a['median']:.4f}"
        print(f"{means}  IQM over episodes {scores.iqm_text(a, 4)}", flush=True)


# --- The command ------------------------------------------------------------------------------------------------------


def write_report(directory: Path) -> None:
    """The report of a run, after its end, by process 0."""
    from mow_jax.report import data, page  # draws with matplotlib, which takes a second to import

    if not processes.index():
        print(f"report: {page.write(data.read(str(directory)))}", flush=True)
    processes.wait("report written")  # jax leaves the last one only some seconds to end


def main(
    source: Path | None,
    out: Path | None,
    episodes: int | None,
    step: int | None,
    random: bool,
    actions: str | None = None,
) -> None:
    """Evaluates a checkpoint or an exported agent: results.json, frames.npz and the table."""
    if source is None:
        raise BadInput("give --workdir=DIR of a run, or a file of mow_jax.export")
    directory = _place(source, out)
    given = {"evaluation.episodes": episodes, "evaluation.actions": actions}
    changes = {key: value for key, value in given.items() if value is not None}
    config, tasks, learner, found = load.restore(source, step, changes)
    write(*evaluate(config, learner, tasks, film=True, random=random), found, tasks, directory)


def _place(source: Path, out: Path | None) -> Path:
    """The folder to write into, made if need be. Raises BadInput where that cannot be, or would cost results."""
    if out is None and source.is_file():
        raise BadInput(f"--workdir={source} is a file, which cannot hold results: give a folder as well, --out=DIR")
    if out is not None and out != source and (out / "config.json").exists():
        raise BadInput(f"--out={out} is the folder of a run, whose results would be lost: name another one")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--out={out} cannot be made: {error.strerror}") from None
    workdir.try_writing(out or source)
    return out or source


if __name__ == "__main__":
    _SOURCE = flags.DEFINE_string("workdir", None, "Folder of the run, or a file of mow_jax.export.")
    _OUT = flags.DEFINE_string("out", None, "Folder for results.json and frames.npz; default the run's own.")
    _EPISODES = flags.DEFINE_integer("episodes", None, "Episodes a task; default as configured.")
    _ACTIONS = flags.DEFINE_string("actions", None, 'Score "sampled" or the "best" actions; default as configured.')
    _STEP = flags.DEFINE_integer("step", None, "Agent steps of the checkpoint; default the newest.")
    _RANDOM = flags.DEFINE_bool("random", False, "Play the uniform policy too, where its score is not known.")

    def run() -> None:
        """The command."""
        source, out = (Path(flag.value) if flag.value else None for flag in (_SOURCE, _OUT))
        main(source, out, _EPISODES.value, _STEP.value, _RANDOM.value, _ACTIONS.value)

    command.run(run)
