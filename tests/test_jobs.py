"""What a sweep does with a run whose process has ended: it is finished, started again, evaluated, or it has failed."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from mow_jax import jobs, locks
from mow_jax.jobs import Job

STEPS = 56
# Programs in the place of train and evaluate; each leaves a line in told.txt, and none goes on for ever.
TELL = 'told = open("told.txt", "a+"); told.write("{}\\n"); told.seek(0); assert len(told.readlines()) < 5\n'
WRITE = 'import json; open("x/5/results.json", "w").write(json.dumps({{"step": {}}}))\n'


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch, signals_as_before):
    """In a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "PAUSE", 0.01)
    monkeypatch.setattr(jobs, "EVALUATE", "judge")


def programs(train: str = "", evaluate: str = "") -> None:
    Path("learn.py").write_text(TELL.format("train") + textwrap.dedent(train))
    Path("judge.py").write_text(TELL.format("evaluate") + textwrap.dedent(evaluate))


def told() -> list[str]:
    return Path("told.txt").read_text().split()


def job(**changes) -> Job:
    return Job("x", 5, Path("x/5"), ["learn"])._replace(**changes)


def run_at_its_end(evaluated: bool = True, results: int | None = None, checkpoints: tuple[int, ...] = (24, STEPS)):
    """The folder of a run of 56 steps that has learned to its end, with results of some step or none."""
    for step in checkpoints:
        Path("x/5/checkpoints", str(step)).mkdir(parents=True)
    Path("x/5/config.json").write_text(json.dumps({"train": {"steps": STEPS}}))
    line = {"step": STEPS, "update": 9, "seconds": 30.0}
    line |= {"evaluation/a/return": 1.0} if evaluated else {"world/loss": 1.0}
    Path("x/5/metrics.jsonl").write_text(json.dumps(line) + "\n")
    if results is not None:
        Path("x/5/results.json").write_text(json.dumps({"step": results}))


@pytest.mark.parametrize("results", [24, None])
def test_a_run_at_its_end_whose_results_are_of_another_step_or_gone_is_evaluated(results: int | None):
    run_at_its_end(results=results)
    programs(evaluate=WRITE.format(STEPS))
    assert jobs.run([job()], 1, lambda: None) == ([], False)
    assert told() == ["evaluate"] and jobs.finished(job()) == {"step": STEPS}


def test_a_run_killed_before_its_last_evaluation_goes_on_with_training():
    run_at_its_end(evaluated=False)
    programs(train=WRITE.format(STEPS))
    assert jobs.run([job()], 1, lambda: None) == ([], False) and told() == ["train"]


def test_an_evaluation_of_an_older_checkpoint_is_a_failure_and_not_repeated(capsys):
    run_at_its_end()
    programs(evaluate=WRITE.format(24))
    assert jobs.run([job()], 1, lambda: None) == ([job()], False) and told() == ["evaluate"]
    message = capsys.readouterr().err
    assert "step 24" in message and "56" in message and "mow_jax.train --workdir=x/5" in message


def test_a_training_that_does_nothing_is_a_failure_and_one_that_saves_is_started_again(capsys):
    run_at_its_end(evaluated=False, checkpoints=(8,))
    programs(
        train="""
        import pathlib
        here = pathlib.Path("x/5/checkpoints")
        if not (here / "16").exists():
            (here / "16").mkdir()
        else:
            print("nothing to do here")
        """
    )
    assert jobs.run([job()], 1, lambda: None) == ([job()], False) and told() == ["train", "train"]
    assert "nothing to do here" in capsys.readouterr().err


# Sends SIGTERM to the sweep, which passes it on.
STOP = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)\n"
AT_ONCE = "import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(143))\n"  # a second signal's


@pytest.mark.parametrize("program", [{"train": STOP}, {"train": AT_ONCE + STOP}, {"evaluate": STOP}])
def test_what_dies_of_the_signal_that_stops_the_sweep_goes_on_later(program: dict[str, str]):
    run_at_its_end(evaluated="evaluate" in program)
    programs(**program)
    assert jobs.run([job()], 1, lambda: None) == ([], True) and told() == list(program)


# A run that learns past its minutes, saves when it is told to and ends; or is killed before it has saved.
LEARN = """
import json, os, signal, sys, time
from pathlib import Path
def end(*_):
    (Path("x/5/checkpoints") / "48").mkdir()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
for step in range(32, 56, 8):
    with open("x/5/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "seconds": 1.5 * step}) + "\\n")
    time.sleep(0.2)
time.sleep(60)
"""


def test_a_run_is_told_to_save_when_its_minutes_are_over_and_then_evaluated():
    run_at_its_end(evaluated=False, checkpoints=(24,))
    Path("x/5/metrics.jsonl").write_text('{"step": 24, "seconds": 30.0}\n')
    programs(train=LEARN, evaluate=WRITE.format(48))
    assert jobs.run([job(minutes=1)], 1, lambda: None) == ([], False) and told() == ["train", "evaluate"]
    assert jobs.finished(job(minutes=1)) == {"step": 48} and jobs.finished(job(minutes=2)) is None


def test_what_was_learned_behind_the_newest_checkpoint_counts_for_nothing():
    """A run killed at step 48, after a minute and more, has saved what it had learned in half a minute: it goes on."""
    run_at_its_end(evaluated=False, checkpoints=(24,), results=24)
    lines = [{"step": 24, "seconds": 30.0}, {"step": 48, "seconds": 70.0}]
    Path("x/5/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    programs(train="import time; time.sleep(0.5)\n" + LEARN, evaluate=WRITE.format(48))
    timed = job(minutes=1)
    assert jobs.finished(timed) is None and not jobs.is_over(timed)
    assert jobs.run([timed], 1, lambda: None) == ([], False) and told() == ["train", "evaluate"]


SMI = """#!/bin/sh
echo "GPU 0: NVIDIA H200 (UUID: GPU-aa-1)"
echo "GPU 1: NVIDIA H200 (UUID: GPU-bb-2)"
"""


@pytest.mark.parametrize(
    ("named", "at_once", "own", "memory"),
    [
        (None, 2, ["GPU-aa-1", "GPU-bb-2"], None),
        (None, 5, ["GPU-aa-1", "GPU-bb-2", "GPU-aa-1", "GPU-bb-2", "GPU-aa-1"], "0.30"),
        ("3,5", 3, ["3", "5", "3"], "0.45"),
        ("", 2, [None, None], None),
    ],
)
def test_runs_at_once_have_gpus_or_shares_of_them(named, at_once, own, memory, tmp_path, monkeypatch):
    """Each run's process says what it sees; a machine with two GPUs, by what its driver's program lists."""
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in jobs.MEMORY:
        monkeypatch.delenv(name, raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    found = [jobs.on_gpus(jobs._gpus(), slot, at_once) for slot in range(at_once)]
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in found] == own
    assert {each.get("XLA_CLIENT_MEM_FRACTION") for each in found} == {memory}
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")
    assert all("XLA_CLIENT_MEM_FRACTION" not in jobs.on_gpus(["0"], slot, 9) for slot in range(9)), "the user's stays"


def test_a_run_beside_others_is_told_its_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    run_at_its_end(evaluated=False)
    programs(train="import os\nopen('seen', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\n" + WRITE.format(STEPS))
    assert jobs.run([job()], 2, lambda: None) == ([], False)
    assert Path("seen").read_text() == "7"


def test_a_run_that_another_sweep_has_just_begun_is_waited_for(monkeypatch):
    """Free when it was looked at, taken when its process asked; then the other one has gone."""
    run_at_its_end(evaluated=False)
    once = """
        from pathlib import Path
        if not Path("again").exists():
            Path("again").touch()
            raise SystemExit(2)
    """
    programs(train=textwrap.dedent(once) + WRITE.format(STEPS))
    asked = iter([False, True, True])
    monkeypatch.setattr(locks, "taken", lambda place: next(asked, False))
    assert jobs.run([job()], 1, lambda: None) == ([], False)
    assert told() == ["train", "train"] and jobs.finished(job()) == {"step": STEPS}


def test_what_dies_of_a_signal_of_others_has_failed():
    programs(train="import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert jobs.run([job()], 1, lambda: None) == ([job()], False)


def test_a_signal_reaches_the_process_that_is_just_being_started(monkeypatch):
    programs(train="import time; time.sleep(60)")
    start = jobs._start

    def slowly(*arguments):
        made = start(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return made

    monkeypatch.setattr(jobs, "_start", slowly)
    began = time.monotonic()
    assert jobs.run([job(), job(seed=6)], 1, lambda: None) == ([], True)
    assert time.monotonic() - began < 50


# Scores a run as mow_jax.evaluate does: by the actions that it is told, into the folder that it is told.
JUDGE = """
import json, sys
given = dict(word[2:].split("=") for word in sys.argv[1:])
kind = given.get("actions", "sampled")
results = {{"step": {}, "protocol": {{"evaluation": {{"actions": kind}}}}}}
json.dump(results, open(given.get("out", given["workdir"]) + "/results.json", "w"))
"""


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_of_one_kind_of_actions_is_scored_by_the_other_beside_its_own_results(trained: bool):
    own = {"step": STEPS, "protocol": {"evaluation": {"actions": "sampled"}}}
    run_at_its_end(evaluated=trained, checkpoints=(24, STEPS) if trained else (24,))
    Path("x/5/config.json").write_text(
        json.dumps({"train": {"steps": STEPS}, "evaluation": own["protocol"]["evaluation"]})
    )
    Path("x/5/best").mkdir()  # evaluate makes it
    if trained:
        Path("x/5/results.json").write_text(json.dumps(own))
    train = f"""
    import json, os
    os.mkdir("x/5/checkpoints/{STEPS}")
    open("x/5/results.json", "w").write(json.dumps({own}))
    with open("x/5/metrics.jsonl", "a") as lines:
        lines.write('{{"step": {STEPS}, "evaluation/a/return": 1.0}}\\n')
    """
    programs(train=train, evaluate=JUDGE.format(STEPS))
    best, sampled = job(actions="best"), job(actions="sampled")
    assert jobs.run([best, sampled], 1, lambda: None) == ([], False)
    assert told() == ["train"] * (not trained) + ["evaluate"]
    assert jobs.finished(sampled) == jobs.finished(job()) == own
    assert jobs.finished(best)["protocol"]["evaluation"]["actions"] == "best"


def test_own_results_that_were_replaced_by_the_other_kind_s_are_made_anew():
    run_at_its_end()
    other = {"step": STEPS, "protocol": {"evaluation": {"actions": "best"}}}
    Path("x/5/config.json").write_text(json.dumps({"train": {"steps": STEPS}, "evaluation": {"actions": "sampled"}}))
    Path("x/5/results.json").write_text(json.dumps(other))
    programs(evaluate=JUDGE.format(STEPS))
    assert jobs.finished(job()) == other and jobs.finished(job(actions="sampled")) is None
    assert jobs.run([job(actions="sampled")], 1, lambda: None) == ([], False) and told() == ["evaluate"]
    assert jobs.finished(job(actions="sampled")) == jobs.finished(job()) != other


def test_a_run_that_another_evaluation_has_finished_has_not_failed(capsys):
    """Two at once: this one's process ends with an error, after the other one's results."""
    run_at_its_end()
    programs(evaluate=WRITE.format(STEPS) + "raise SystemExit(2)")
    assert jobs.run([job()], 1, lambda: None) == ([], False) and told() == ["evaluate"]
    assert "failed" not in capsys.readouterr().err
