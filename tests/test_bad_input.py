"""Bad input ends with exit code 2 and one message that names the value, what is allowed and what to do."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from pathlib import Path

import processes
import pytest
from processes import TINY, digests, replay_files, run, start, train

pytestmark = pytest.mark.slow

TRAIN_CASES = {
    "unknown key": (["--config.model.widht=3"], ["widht", "width"]),
    "wrong type": (["--config.train.steps=many"], ["many"]),
    "a value": (["--config.router.active=5"], ["router.active=5", "router.experts=2"]),  # others: test_preflight.py
    "stray word": (["fast"], ["fast", "--name=value"]),
}


def refused(output: str, parts: list[str]) -> None:
    """One message, no traceback, with all `parts` in it."""
    assert "Traceback" not in output, output
    message = output[output.index("error: ") :]
    for part in parts:
        assert part in message, output


@pytest.mark.parametrize("case", TRAIN_CASES)
def test_train_refuses(case, tmp_path):
    overrides, parts = TRAIN_CASES[case]
    refused(train(tmp_path / "run", *overrides, code=2), parts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return shutil.copytree(processes.finished(), tmp_path_factory.mktemp("finished") / "run")


def test_a_workdir_of_another_config_shows_the_keys_and_stays(finished):
    before = digests(finished), replay_files(finished), (finished / "config.json").read_text()
    output = train(finished, "--config.model.width=32", "--config.seed=7", code=2)
    refused(output, ["model.width: 16 -> 32", "seed: 0 -> 7", "--allow_config_change=model.width,seed"])
    assert before == (digests(finished), replay_files(finished), (finished / "config.json").read_text())


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(finished, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", finished, copy], check=True)
    newest, older = sorted(map(int, digests(copy)))[::-1]
    damage(copy / "checkpoints" / str(newest))
    output = train(copy)
    assert f"checkpoint {newest} is damaged" in output and f"resumed from step {older}" in output
    assert digests(copy) == digests(finished)
    for step in digests(copy):
        damage(copy / "checkpoints" / step)
    refused(train(copy, code=2), ["no valid checkpoint"])
    refused(run("evaluate", f"--workdir={copy}", code=2), ["no valid checkpoint"])


def damage(checkpoint: Path) -> None:
    """Flips a byte in the largest file."""
    largest = max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_table_that_does_not_fit_is_refused(finished, tmp_path):
    table = json.loads((finished / "clusters.json").read_text())
    table["cluster"][0] = 9
    path = tmp_path / "clusters.json"
    path.write_text(json.dumps(table))
    refused(train(tmp_path / "run", f"--config.clustering.table={path}", code=2), [str(path), "0..1", "9"])
    assert not (tmp_path / "run").exists()


def test_weights_of_other_sizes_are_refused_before_anything_runs(finished, tmp_path):
    output = train(tmp_path / "run", f"--config.train.init_from={finished}", "--config.model.width=32", code=2)
    refused(output, [str(finished), "does not fit", " there, ", "the sizes of that one"])
    assert "steps " not in output and not (tmp_path / "run").exists()


def test_places_that_are_no_workdir(finished, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(train(tmp_path / "file" / "run", code=2), [str(tmp_path / "file")])
    refused(train(tmp_path / "file", code=2), [str(tmp_path / "file")])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    refused(train(tmp_path / "other", code=2), ["letter.txt"])
    refused(run("evaluate", f"--workdir={tmp_path / 'nothing'}", code=2), ["nothing", "config.json"])
    refused(run("evaluate", f"--workdir={finished}", "--step=5", code=2), ["5", "64"])
    refused(run("evaluate", "--workdri=x", code=2), ["workdri"])


@pytest.mark.parametrize("limit", [pytest.param(limit, marks=pytest.mark.long) for limit in (5_000, 20_000, 200_000)])
def test_a_full_disk_is_one_message_and_loses_nothing(limit, finished, tmp_path):
    workdir = tmp_path / "run"
    # A limited process would leave half-written programs in the cache that the tests share.
    process = start("train", f"--config={TINY}", f"--workdir={workdir}", JAX_ENABLE_COMPILATION_CACHE="false")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))  # long before it has imported anything
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 2, output
    refused(output, [str(workdir)])
    train(workdir)  # with room again, the same command goes on
    assert digests(workdir) == digests(finished)


@pytest.mark.parametrize(("limit", "printed"), [(100, False), (4000, True)])
def test_an_evaluation_that_cannot_be_written_is_refused_first_or_printed(limit, printed, finished, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", finished, copy], check=True)
    before = (copy / "results.json").read_text()
    # 100 episodes a task: results of more than the limit, frames shared with the environments of less.
    process = start("evaluate", f"--workdir={copy}", "--episodes=100", JAX_ENABLE_COMPILATION_CACHE="false")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 2, output
    refused(output, [str(copy), "File too large"])
    assert (copy / "results.json").read_text() == before
    assert ("evaluation at step 64" in output) == printed  # the table
    if printed:
        found, _ = json.JSONDecoder().raw_decode(output, output.index('{\n "step"'))
        assert [len(task["returns"]) for task in found["tasks"].values()] == [100, 100]
