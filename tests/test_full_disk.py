"""A disk that somebody fills at some moment of a run: one message, nothing lost, and with room again the run goes on.

The disk is a small one of its own (tmpfs in a mount namespace), so that the errors are the system's own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import TINY, assert_same_run, metrics, start, train

pytestmark = pytest.mark.long

SIZE = 40  # MB; a run takes 4, and wants to see what it may come to need
MOMENTS = {
    "a replay": lambda w: any((w / "replay").rglob("*.rows")),
    "the warm-up": lambda w: any(0 < line["update"] < 12 for line in metrics(w)),
    "a save": lambda w: any((w / "checkpoints").glob("temporary-*")),
    "training": lambda w: any(line["update"] > 15 for line in metrics(w)),
    "an evaluation": lambda w: (w / "checkpoints" / "64" / "manifest.json").exists(),
    "the report": lambda w: (w / "results.json").exists(),
}


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A folder with so many MB and no more."""
    script = f"mount -t tmpfs -o size={size}m tmpfs /mnt && echo mounted && exec sleep infinity"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    try:
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare: Linux with util-linux is needed")
    try:
        if not holder.stdout or holder.stdout.readline() != "mounted\n":
            pytest.skip("no mount namespaces here")
        yield Path(f"/proc/{holder.pid}/root/mnt")
    finally:
        holder.kill()
        holder.communicate()


def fill(folder: Path) -> None:
    """Until nothing fits."""
    with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(workdir)
    return workdir


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_fills_up_ends_a_run_with_one_message_and_loses_nothing(moment, whole):
    with small_disk(SIZE) as disk:
        workdir = disk / "run"
        process = start("train", f"--config={TINY}", f"--workdir={workdir}")
        deadline = time.monotonic() + 600
        while not MOMENTS[moment](workdir):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.001)
        fill(disk)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 2, output
        assert "Traceback" not in output and "Exception ignored" not in output, output
        _, message = output.split("error: ")
        assert len(message.splitlines()) == 1, message
        assert "free" in message and ("full" in message or "No space left" in message), message
        assert all(json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
        (disk / "filler").unlink()
        train(workdir)
        assert_same_run(whole, workdir)
        assert (workdir / "report" / "index.html").exists()
