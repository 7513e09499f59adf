"""What is too large for a machine's disk and memory, which others use as well."""

from __future__ import annotations

import json
import resource
import runpy
import subprocess
from pathlib import Path

import pytest
from processes import ROOT, TINY

from mow_jax import build, files, origin, processes, summary
from mow_jax.types import BadInput

GB = 1 << 30


def machine(root: Path, available: str, **files: str) -> Path:
    """A root folder whose system says so much of its memory, and of the groups of /job/step."""
    told = {
        "proc/meminfo": f"MemTotal: 64 kB\nMemFree: {3 * GB >> 10} kB\n{available}",
        "proc/self/cgroup": "0::/job/step\n",
    }
    for name, text in (
        told | {f"sys/fs/cgroup/{name.replace('__', '/')}": text for name, text in files.items()}
    ).items():
        path = root / (name.replace("memory_", "memory."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_is_what_the_system_and_every_group_above_leave(tmp_path):
    much = f"MemAvailable: {8 * GB >> 10} kB\n"
    assert summary.free_memory(machine(tmp_path / "no groups", much)) == 8 * GB
    assert summary.free_memory(machine(tmp_path / "an old kernel", "")) == 3 * GB
    limits = dict(
        job__memory_max=f"{2 * GB}\n",
        job__memory_stat=f"anon {GB // 4}\nfile {5 * GB}\nshmem {GB // 4}\n",
        job__step__memory_max="max\n",
    )
    assert summary.free_memory(machine(tmp_path / "a job's", much, **limits)) == 3 * GB // 2
    limits |= dict(job__step__memory_max=f"{GB}\n", job__step__memory_stat=f"anon {2 * GB}\n")
    assert summary.free_memory(machine(tmp_path / "over its limit", much, **limits)) == 0


def test_a_disk_must_hold_all_tasks_and_memory_those_of_this_machine_s_processes(tmp_path, monkeypatch):
    config = runpy.run_path(str(ROOT / TINY))["get_config"]()
    tasks = build.tasks(config)
    system = build.system(config, tasks)
    monkeypatch.setattr(processes, "share", lambda items: list(items)[:1])
    disk = summary.replay_bytes(config, system, tasks) + 9 * summary.state_bytes(system)
    monkeypatch.setattr(summary, "free_disk", lambda _: disk)
    memory = summary.state_bytes(system) + summary.environments_bytes(config, tasks[:1])[-1]
    monkeypatch.setattr(summary, "free_memory", lambda: memory)
    summary.refuse_too_large(config, system, tasks, tmp_path)
    monkeypatch.setattr(processes, "neighbours", lambda: 2)
    with pytest.raises(BadInput, match="memory are free|are free: lower"):
        summary.refuse_too_large(config, system, tasks, tmp_path)
    checkpoints = (config.checkpoint.keep + 1 + len(config.checkpoint.milestones)) * summary.state_bytes(system)
    of_one = summary.replay_bytes(config, system, tasks[:1])
    monkeypatch.setattr(summary, "free_disk", lambda _: checkpoints + of_one)
    with pytest.raises(BadInput, match="of replay and"):
        summary.refuse_too_large(config, system, tasks, tmp_path)


def test_a_copy_of_replay_must_fit_a_device(tmp_path, monkeypatch):
    config = runpy.run_path(str(ROOT / TINY))["get_config"]()
    tasks = build.tasks(config)
    system = build.system(config, tasks)
    monkeypatch.setattr(summary, "free_disk", lambda _: 10**15)
    monkeypatch.setattr(summary, "free_memory", lambda: 10**10)
    config.train.steps, config.replay.chunk_rows = 10**8, 10**6
    summary.refuse_too_large(config, system, tasks, tmp_path)
    config.replay.device_mirror = True
    assert summary.mirror_bytes(config, system, tasks[:1]) > 10**8 * 16 * 16 * 3
    with pytest.raises(BadInput, match=r"replay.device_mirror takes [\d.]+ GB of a device's memory"):
        summary.refuse_too_large(config, system, tasks, tmp_path)


def test_a_process_names_the_commit_that_it_was_started_at(tmp_path, monkeypatch):
    """However long it has run when it writes it down."""
    before = summary.commit()
    monkeypatch.setattr(origin, "_git", lambda *words: subprocess.CompletedProcess(words, 0, b"0123456789ab\n"))
    assert origin.commit().startswith("0123456789ab+") and summary.commit() == before
    monkeypatch.setattr(summary, "learned", lambda *_, **__: 3)
    summary.record_start(tmp_path, None)
    assert json.loads((tmp_path / "origin.json").read_text())[0]["commit"] == before


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_that_would_come_to_open_more_files_than_it_may_is_refused_first(resumed, tmp_path, monkeypatch):
    """As 400 environments of 50 robots do, whose 10,000 files met the limit after hours."""
    config = runpy.run_path(str(ROOT / TINY))["get_config"]()
    tasks = build.tasks(config)
    system = build.system(config, tasks)
    monkeypatch.setattr(summary, "free_disk", lambda _: 10**15)
    monkeypatch.setattr(summary, "free_memory", lambda: 10**12)
    config.train.update(envs=6, steps=6 * 41)
    config.replay.chunk_rows = 4
    opened = 2 * 6 * (11 + 1) + summary.OTHER_FILES  # 41 rows are 11 files, and one is written
    if resumed:
        (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, opened))
    summary.refuse_too_large(config, system, tasks, tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, opened - 1))
    with pytest.raises(
        BadInput, match=f"{opened} files open, 144 of them replay's, .*ulimit -Hn.* is {opened - 1}"
    ) as no:
        summary.refuse_too_large(config, system, tasks, tmp_path)
    assert ("raise it or replay.chunk_rows=4," in str(no.value)) != resumed
    assert ("chunk_rows" in str(no.value)) != resumed
    monkeypatch.setattr(processes, "share", lambda items: list(items)[:1])
    summary.refuse_too_large(config, system, tasks, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, resource.RLIM_INFINITY))
    assert files.most_open() > 10**18


def test_files_of_a_pruned_replay_are_those_that_are_kept():
    config = runpy.run_path(str(ROOT / TINY))["get_config"]()
    config.train.update(envs=4, steps=4000)
    assert summary.kept_rows(config) == 1000
    config.replay.update(capacity=40, chunk_rows=5)
    config.checkpoint.update(every=10, keep=2)
    assert summary.kept_rows(config) == 10 + 2 * 3 + 4
