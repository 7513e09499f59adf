"""Metrics are whole lines without NaN that can be cut back; what is shown says what is meant."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pty
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mow_jax import logs
from mow_jax.logs import Metrics, Progress
from mow_jax.types import BadInput

ROOT = Path(__file__).resolve().parent.parent


def make_metrics(workdir: Path, **changes) -> Metrics:
    return Metrics(workdir, **({"tensorboard": False, "wandb": ""} | changes))


def lines(workdir: Path) -> list[dict]:
    def refuse(literal: str):
        raise AssertionError(f"{literal} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_line_can_be_read_at_once_and_has_no_nan(tmp_path):
    metrics = make_metrics(tmp_path)
    metrics.write(5, 2, 1.23456, {"loss/a": 0.5, "loss/b": math.nan, "loss/c": -math.inf})
    assert lines(tmp_path) == [
        {"step": 5, "update": 2, "seconds": 1.235, "loss/a": 0.5, "loss/b": None, "loss/c": None},
    ]
    metrics.close()


def test_a_run_that_goes_on_forgets_what_it_wrote_after_its_checkpoint(tmp_path):
    first = make_metrics(tmp_path)
    first.write(1, 1, 0.0, {"x": 1})
    state = first.state()
    first.write(2, 2, 0.0, {"x": 2})
    first.close()
    second = make_metrics(tmp_path)
    second.restore(state)
    second.write(3, 3, 0.0, {"x": 3})
    assert [line["x"] for line in lines(tmp_path)] == [1, 3]
    second.restore({})
    second.write(4, 4, 0.0, {"x": 4})
    assert [line["x"] for line in lines(tmp_path)] == [4]
    second.close()


def test_lost_metrics_are_named_and_not_made_up(tmp_path, capsys):
    metrics = make_metrics(tmp_path)
    metrics.write(1, 1, 0.0, {"x": 1})
    count, size = metrics.state()["lines"], (tmp_path / "metrics.jsonl").stat().st_size
    metrics.restore({"lines": count + 7})
    metrics.close()
    assert (tmp_path / "metrics.jsonl").stat().st_size == size
    assert "lost 7 lines" in capsys.readouterr().err


def events(workdir: Path) -> list[Event]:
    """All TensorBoard records, in order: each is a length of 8 bytes, 4 bytes of check sum, the event, 4 bytes more."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_shows_the_same_numbers_and_forgets_as_well(tmp_path):
    metrics = make_metrics(tmp_path, tensorboard=True)
    metrics.write(5, 2, 0.0, {"loss/a": 0.5, "loss/b": math.nan})
    version, start, event = events(tmp_path)
    metrics.close()
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (SessionLog.START, 5)
    assert event.step == 5
    numbers = {value.tag: value.simple_value for value in event.summary.value}
    assert numbers["loss/a"] == 0.5 and math.isnan(numbers["loss/b"])


def test_without_being_asked_there_is_only_the_jsonl(tmp_path):
    metrics = make_metrics(tmp_path)
    metrics.write(1, 1, 0.0, {"x": 1})
    metrics.close()
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_wandb_is_told_when_asked(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(log=lambda *a, **k: calls.append((a, k)), finish=lambda: calls.append("finish"))
    fake = SimpleNamespace(init=lambda **keywords: calls.append(keywords) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        metrics = make_metrics(tmp_path, wandb="mow")
        metrics.write(5, 2, 0.0, {"loss/a": 0.5})
        metrics.close()
    first, log, finish, second = calls[:4]
    assert first["project"] == "mow" and first["id"] == second["id"], "a workdir is one run, however often started"
    assert log == (({"step": 5, "loss/a": 0.5},), {"step": 2}) and finish == "finish"


def test_wandb_that_is_not_installed_is_bad_input(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInput, match="log.wandb is 'mow'.*pip install wandb"):
        make_metrics(tmp_path, wandb="mow")


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_what_wandb_raises_is_one_message(call, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ConnectionError("no answer from\napi.example")

    run = SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)
    fake = SimpleNamespace(init=lambda **_: run)
    setattr(fake if call == "init" else run, call, fails)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(BadInput) as refusal, contextlib.closing(make_metrics(tmp_path, wandb="mow")) as metrics:
        metrics.write(5, 2, 0.0, {"loss/a": 0.5})
    message = str(refusal.value)
    assert "ConnectionError: no answer from api.example" in message and "WANDB_MODE=offline" in message


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_is_bad_input_and_leaves_whole_lines(tmp_path, tensorboard):
    metrics = make_metrics(tmp_path, tensorboard=tensorboard)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    written = 0
    try:
        with pytest.raises(BadInput, match=r"cannot write .* \(File too large\): free disk space"):  # noqa: PT012
            while True:
                metrics.write(written, written, 0.0, {"a/name": written})
                written += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    metrics.close()
    assert [line["step"] for line in lines(tmp_path)][:written] == list(range(written))
    assert not tensorboard or [event.step for event in events(tmp_path)][2:] == list(range(written))


def test_an_unusable_workdir_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write .*Not a directory"):
        make_metrics(tmp_path / "file" / "run")


def test_progress_without_a_terminal_is_a_line_every_ten_seconds(capsys, monkeypatch):
    seconds = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: seconds)
    with Progress("training", 1000) as progress:
        for done in range(500, 525):  # a run that goes on from step 500, one step a second
            progress.update(done, f"updates {done}")
            seconds += 1
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "training  500/1,000  updates 500"
    assert second == "training  510/1,000  1 steps/s  ETA 0:08:10  updates 510"
    assert third.startswith("training  520/1,000  1 steps/s  ETA 0:08:00")


def test_progress_tells_of_the_end_at_once(capsys):
    with Progress("training", 3) as progress:
        for done in range(4):
            progress.update(done, "")
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["0/3", "3/3"]


ON_A_TERMINAL = """
from mow_jax.logs import Progress
with Progress("training", 50) as progress:
    for done in range(51):
        progress.update(done, "loss [0.5]")
"""


def test_progress_on_a_terminal_stays_in_one_line():
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", ON_A_TERMINAL], stderr=slave, env=environment, check=True, timeout=60)
    shown = os.read(master, 100_000).decode()
    os.close(slave)
    os.close(master)
    assert "50/50" in shown and "ETA 0:00:00" in shown and "loss [0.5]" in shown
    assert shown.count("\n") == 1


def test_tables_show_texts_as_they_are_and_whole(capsys):
    long = "word " * 60
    logs.first_screen([("extra", "mow_jax[atari] :smile:"), ("long", long)])
    logs.table("Scores", ["task", "return"], [("Pong", 20.5), ("[bold]", "-")])
    shown = capsys.readouterr().out
    assert "mow_jax[atari] :smile:" in shown and "[bold]" in shown
    assert shown.count("word") == 60
    assert max(map(len, shown.splitlines())) <= logs.PLAIN_WIDTH
    pong = next(line for line in shown.splitlines() if "Pong" in line)
    assert pong.split() == ["│", "Pong", "│", "20.5", "│"]


def test_a_mean_is_over_the_updates_that_have_the_number():
    """As where the warm-up ends between two lines, with a checkpoint among them."""
    window = logs.Window(["a", "b"])
    said = lambda **values: {"train/skipped_in_row": 0, "world/total": 6.0, **values}
    for _ in range(7):
        window.add(said())
    window.add({"fresh/rows": 5.0}, update=False)
    window.add(said(**{"agent/return": np.array([1.0, 3.0])}))
    state = json.loads(json.dumps(window.state(), default=np.ndarray.tolist))
    window = logs.Window(["a", "b"])
    window.restore(state | {"sums": {name: np.array(total) for name, total in state["sums"].items()}})
    window.add(said(**{"agent/return": np.array([2.0, 4.0]), "router/switches": 3}))
    line = window.flush()
    assert (line["agent/return"], line["agent/return/a"], line["agent/return/b"]) == (2.5, 1.5, 3.5)
    assert (line["world/total"], line["fresh/rows"], line["router/switches"]) == (6.0, 5.0, 3.0)
    window.add(said(**{"agent/return": np.array([8.0, 8.0])}))
    assert window.flush()["agent/return"] == 8.0


@pytest.mark.parametrize(("others", "rows"), [({"others": {"fresh/rows": 2}}, 5.0), ({}, 2.5)])
def test_the_one_count_of_older_checkpoints_goes_on(others, rows):
    window = logs.Window(["a"])
    sums = {"train/skipped_in_row": 0.0, "world/total": 12.0, "fresh/rows": 10.0}
    window.restore({"sums": sums, "updates": 4, "episodes": {}, "last": "", **others})
    window.add({"train/skipped_in_row": 0, "world/total": 13.0})
    line = window.flush()
    assert (line["world/total"], line["fresh/rows"]) == (5.0, rows)


def test_what_processes_noted_is_joined():
    assert logs.joined([{"a": [1.0]}, {"a": [2.0], "b": [3.0]}]) == {"a": [1.0, 2.0], "b": [3.0]}


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00:00"), (3723.4, "1:02:03"), (360_000, "100:00:00")])
def test_durations(seconds, text):
    assert logs.duration(seconds) == text
