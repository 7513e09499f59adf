"""The loop: collect at random, warm up, then act and learn. What learns is the system that the config names.

`python -m mow_jax.train --config=experiments/NAME.py --workdir=DIR`; the same command on the same workdir resumes.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import command, evaluate, logs, preflight, processes, summary, workdir
from mow_jax.actors import WorkersFailed, warm_up_actions
from mow_jax.run import Run
from mow_jax.types import BadInput

MOST_SKIPPED = 20  # non-finite updates in a row


class Stopped(Exception):
    """The run was asked to stop, or cannot go on; its state is worth saving."""


def loop(run: Run) -> None:
    """All phases of a run. Raises Stopped where a saved run goes on exactly."""
    with logs.Progress("steps", run.config.train.steps, shown=not processes.index()) as progress:
        while True:
            if run.at.joint >= run.plan.warmup_joint and not run.at.warm:
                warm_up(run, progress)
            last = run.at.joint >= run.plan.joint_steps
            if last or not run.config.train.overlap:
                learn(run)
            check_stop(run)
            evaluate_and_save(run)
            if last:
                return
            collect(run)
            progress.update(run.steps, run.window.text(run.at.update))


def collect(run: Run) -> None:
    """One joint step: every environment of every task. With train.overlap the learner learns from the steps before it
    meanwhile; either way the order of everything is fixed."""
    extras: dict[str, np.ndarray] = {}
    if run.at.joint < run.plan.warmup_joint:
        action = warm_up_actions(run.config, run.at.joint, run.tasks)[run.learner.mine]
    else:
        seen = (run.actors.observation, run.actors.is_first, run.at.joint)
        action, extras, run.acting = run.learner.act(run.acting, *seen, explore=True)
    run.actors.send(action)
    if run.config.train.overlap:
        learn(run)
    row, episodes = run.actors.receive()
    run.append(row, extras)
    run.add_episodes(episodes)
    run.at.joint += 1
    draw_ahead(run)


def due(run: Run) -> tuple[int, int]:
    """Rounds of learning and updates that should be done by now: exact for fractional ratios."""
    if not run.at.warm:
        return 0, 0
    rounds = (run.at.joint - run.plan.warmup_joint) // run.config.train.burst
    after = int(rounds * run.config.train.burst * run.config.train.ratio + 1e-9)
    return rounds, run.plan.warmup_updates + after


def draw_ahead(run: Run) -> None:
    """Draws the windows of what is due next, while the devices still learn from those before."""
    rounds, updates = due(run)
    if run.at.round < rounds and "on_policy" in run.system.updates:
        run.draw("on_policy")
    elif run.at.update < updates:
        run.draw("training")


def learn(run: Run) -> None:
    """What is due: a round on the newest rows, where the system has one, and the updates."""
    rounds, updates = due(run)
    if run.at.round < rounds:
        if "on_policy" in run.system.updates:
            run.window.add(run.update("on_policy"), update=False)
        run.at.round = rounds
    while run.at.update < updates:
        count_update(run, run.update("training"))
        run.at.saved = -1  # what was saved at this joint step, where a stop was heard below, lacks the update
        # With train.overlap environments are under way. Several processes meet to ask, and wait for their devices.
        asked = processes.count() == 1 or run.at.update % 10 == 0
        if asked and run.at.update < updates and not run.config.train.overlap:
            check_stop(run)


def count_update(run: Run, metrics: dict) -> None:
    """Counts an update and writes a line now and then."""
    run.at.update += 1
    run.window.add(metrics)
    if run.at.update % run.config.log.every == 0:
        run.write_window()
        if run.window.most_skipped >= MOST_SKIPPED:
            run.fault = f"{MOST_SKIPPED} updates in a row were not finite: lower the learning rates (optimizer.*)"


def warm_up(run: Run, progress: logs.Progress) -> None:
    """Learns from the random buffer, as far as the system does, and lets it prepare for what comes."""
    if run.at.saved < run.at.joint:
        run.save()
    last_save, total = time.monotonic(), run.plan.warmup_updates
    while run.at.update < total:
        count_update(run, run.update("warmup"))
        progress.update(run.steps, f"warm-up {run.at.update:,}/{total:,}")
        check_stop(run)
        if processes.anywhere(time.monotonic() - last_save > 60 * run.config.checkpoint.minutes):
            run.save()
            last_save = time.monotonic()
    if run.system.after_warmup:
        run.save()  # what follows may compile for long, and hears no signal
        run.system.after_warmup(run.learner, run.replay, run.directory)
    run.at.warm = True
    run.save()


def evaluate_and_save(run: Run) -> None:
    """Checkpoints and evaluations, each once at its joint step; saved first, as an evaluation may be cut short."""
    last = run.at.joint >= run.plan.joint_steps
    due = run.at.evaluated < run.at.joint and (last or run.falls_due(run.config.evaluation.every))
    if run.at.saved < run.at.joint and (due or run.at_milestone or run.falls_due(run.config.checkpoint.every)):
        run.save()
    if due:
        rates, seen = run.rates(), run.inspect()
        results, films = evaluate.evaluate(run.config, run.learner, run.tasks, film=last, signals=run.signals)
        run.at.evaluated = run.at.joint  # only now: an evaluation that failed is still due when the run goes on
        evaluate.tell(results, run.learner, run.steps)
        run.write(evaluate.metrics(results) | seen, rates)
        if last:
            evaluate.write(results, films, run.steps, run.tasks, run.directory)
            run.save()


def check_stop(run: Run) -> None:
    """Raises Stopped once a signal to any process has asked for it, or learning cannot go on."""
    if processes.anywhere(bool(run.signals or run.fault)):
        raise Stopped(next(iter(run.signals), run.fault) or "another process was asked to stop")


def train(
    config: ConfigDict, directory: Path, heard: list[str], allowed: tuple[str, ...] = (), profile: str = ""
) -> bool:
    """Trains or resumes in a workdir, evaluates, writes the report. False: stopped, and saved, by a signal in `heard`.

    Raises BadInput, after saving, where learning or the environments cannot go on.
    """
    # With several processes a broken joint step leaves nothing that all could save together.
    saved = Stopped if processes.count() > 1 else (Stopped, WorkersFailed, evaluate.Interrupted)
    agreed = workdir.agree(directory, config, allowed)
    tasks, system = preflight.check(agreed, directory, profile)
    summary.refuse_too_large(agreed, system, tasks, directory)
    with (
        workdir.claim(directory, config, allowed) as config,
        contextlib.closing(Run(config, directory, heard, profile)) as run,
    ):
        workdir.write(directory, config)  # only now: a run that cannot begin leaves the folder to any other
        summary.record_start(directory, system)
        try:
            loop(run)
        except saved as reason:
            run.save()
            text = f"saved at step {run.steps}: the same command goes on from there"
            if run.fault or isinstance(reason, WorkersFailed):
                raise BadInput(f"{reason}\nStopped, and {text}") from None
            print(f"stopped ({reason}), {text}", flush=True)
            return False
    evaluate.write_report(directory)
    return True


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment file, e.g. experiments/toy.py.")
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one with a checkpoint is resumed.")
    _ALLOWED = flags.DEFINE_list("allow_config_change", [], "Config keys that a resumed run may change.")
    _DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print sizes and plans of one process, start nothing.")
    _PREEMPTED = flags.DEFINE_integer("preempted_exit_code", 0, "Exit code after SIGTERM or SIGINT.")
    _PROFILE = flags.DEFINE_string("profile", "", "START:COUNT, the updates to trace into WORKDIR/profile.")
    processes.define_flags()

    def main() -> int:
        """The command."""
        if not _DRY_RUN.value:
            processes.join()
        config, directory = workdir.settle(_CONFIG.value, _WORKDIR.value, dry_run=_DRY_RUN.value)
        if _DRY_RUN.value:
            return summary.dry_run(config, *preflight.check(config, directory, _PROFILE.value), directory)
        heard = command.on_stop()  # before the run is there: a signal that comes while it begins is not lost
        with processes.together():
            return 0 if train(config, directory, heard, tuple(_ALLOWED.value), _PROFILE.value) else _PREEMPTED.value

    command.run(main)
