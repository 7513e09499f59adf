"""Bits flipped and ends cut off in every file that a run goes on from: found, and the file named."""

from __future__ import annotations

import collections
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT
from test_replay_properties import flip

from mow_jax import advice, build, logs
from mow_jax import workdir as workdirs
from mow_jax.checkpoint import Checkpoints
from mow_jax.replay import Replay
from mow_jax.systems.mow import clustering
from mow_jax.types import BadInput

WORKDIR = ROOT / "tests" / "data" / "workdir-0.1.0-sums.tar.gz"
EXTENTS = [3, pytest.param(1000, marks=pytest.mark.long)]
SEED = 5  # of the places


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The workdir of a run whose config.json is out of the way."""
    with tarfile.open(WORKDIR) as archive:
        archive.extractall(tmp_path_factory.mktemp("run"), filter="data")
        return tmp_path_factory.getbasetemp() / "run0"


def reading_checkpoint(run: Path) -> Callable[[], object]:
    checkpoints = Checkpoints(run / "checkpoints", keep=1)
    return lambda: checkpoints.load(32, {})


def reading_replay(run: Path) -> Callable[[], object]:
    config = workdirs.read(run)
    tasks = build.tasks(config)
    saved = json.loads((run / "checkpoints" / "32" / "host-0.json").read_text())["replay"]

    def read() -> None:
        replay = Replay(run / "replay", tasks, envs=1, image_size=16, chunk_rows=10, capacity=0, seed=0)
        replay.restore(saved)
        replay.close()

    return read


PARTS = {"checkpoints": reading_checkpoint, "replay": reading_replay}


def kept(path: Path) -> int:
    """Bytes of a file that say something: of the last chunk those of its two rows, of meta.json all but its \\n."""
    size = path.stat().st_size
    return {"000003.rows": size // 10 * 2, "meta.json": size - 1}.get(path.name, size)


@pytest.mark.parametrize("places", EXTENTS)
@pytest.mark.parametrize("part", PARTS)
def test_damage_in_any_file_is_found_and_named(run, part, places):
    read, draw = PARTS[part](run), random.Random(SEED)
    files = [path for path in sorted((run / part).rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(files) > 8
    tried: collections.Counter = collections.Counter()
    for path in files:
        whole, size = path.read_bytes(), kept(path)
        for place in {0, size - 1, *(draw.randrange(size) for _ in range(places))}:
            flip(path, place, 1 << draw.randrange(8))
            tried["bits"] += refused(read, path, whole)
        for length in {0, size - 1, *(draw.randrange(size) for _ in range(places // 10))}:
            path.write_bytes(whole[:length])
            tried["cuts"] += refused(read, path, whole)
    print(f"{part}: {tried['bits']} bits and {tried['cuts']} cuts in {len(files)} files")


@pytest.mark.parametrize("damage", [b"\0", b"{", b'{"seconds": "\xff"}', b"[]", b'{"step": 3}'])
def test_a_damaged_last_line_of_metrics_is_named(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "update": 1, "seconds": 2.5}\n' + damage + b"\n")
    metrics = logs.Metrics(tmp_path, tensorboard=False, wandb="")
    with pytest.raises(BadInput, match=r"line 2 of .*metrics.jsonl is damaged"):
        metrics.seconds()
    metrics.restore({"lines": 1})
    assert metrics.seconds() == 2.5
    metrics.close()


@pytest.mark.parametrize(
    "damage",
    [
        b'"updatf": 7',
        b'"update": null',
        b'"update": "7"',
        b'"update": 7, "world/total": [1]',
        b'"update": true',
        b"7",
    ],
)
def test_a_damaged_line_amid_metrics_is_left_out_and_named(tmp_path, capsys, damage):
    whole = b'{"step": 2, "update": 4, "seconds": 1.5, "world/total": null}'
    (tmp_path / "metrics.jsonl").write_bytes(whole + b'\n{"seconds": 2.0, ' + damage + b"}\n" + whole + b"\n")
    metrics = logs.Metrics(tmp_path, tensorboard=False, wandb="")
    watch = advice.Advice(["a"], 0)
    assert [watch.look(line) for line in metrics.lines()] == [[], []]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "line 2 of " in said and "metrics.jsonl is damaged: it is left out" in said
    metrics.close()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"cluster": [0]}'])
def test_a_damaged_table_is_named_before_a_save_touches_it(tmp_path, damage):
    path = tmp_path / "clusters.json"
    path.write_text(damage)
    with pytest.raises(BadInput, match=r"clusters.json is damaged .*remove it"):
        clustering.write_experts(path, np.zeros((2, 1), np.int32))
    assert path.read_text() == damage


def refused(read: Callable[[], object], path: Path, whole: bytes) -> int:
    """Reading says which file is not what it was; it is mended then."""
    with pytest.raises(BadInput) as refusal:
        read()
    path.write_bytes(whole)
    assert path.name in str(refusal.value), (refusal.value, path)
    return 1
