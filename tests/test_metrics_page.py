"""docs/metrics.md says what every number of a line of metrics means."""

from __future__ import annotations

import functools
import re
import runpy

import jax
import numpy as np
import pytest
from processes import ROOT, TINY

from mow_jax import build, meter, processes, replay
from mow_jax.types import BadInput, Shard

PAGE = (ROOT / "docs" / "metrics.md").read_text()


def documented() -> set[str]:
    """Names in the page's tables, without tasks and experts; "`/iqm`" after "`evaluation/mean`" is evaluation/iqm."""
    names, area = set(), ""
    for name in re.findall(
        r"`([a-z_]*/[a-z_/<>]*)`", "\n".join(line for line in PAGE.split("\n") if line.startswith("|"))
    ):
        area = name.partition("/")[0] or area
        names.add(re.sub(r"/<(task|expert|layer)>", "", f"{area}{name}" if name.startswith("/") else name))
    return names


def computed(variant: str) -> set[str]:
    """Names of what a system's updates say, from shapes alone."""
    config = runpy.run_path(str(ROOT / TINY))["get_config"](variant)
    if "gradients" in config.log:  # compiling that is too long for the tests' small runs
        config.log.gradients = True
    tasks = build.tasks(config)
    system, count = build.system(config, tasks), len(tasks)
    ids, mask = np.arange(count, dtype=np.int32), np.array([task.action_mask for task in tasks])
    shard, state = (
        Shard(ids, np.ones(count, np.float32), mask, np.zeros_like(ids, np.uint32)),
        jax.eval_shape(system.init, 0),
    )
    names: set[str] = set()
    for update in system.updates.values():
        drawn = lambda window: (count, window.batch or config.train.envs, window.length)
        empty = functools.partial(replay.empty, tasks[0], config.suite.image_size, system.extras)
        windows = [empty(drawn(window)) for window in update.windows.values()]

        def on_a_device(state, *windows, function=update.function):
            return function(state, *windows, shard)[1]

        lead = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), tree)
        run = processes.over_devices(on_a_device, jax.local_devices()[:1])
        names |= set(jax.eval_shape(run, lead(state), *map(lead, windows)))
    return names


@pytest.mark.parametrize("variant", ["toy", "scalezero", "m3po"])
def test_every_metric_of_an_update_has_its_entry(variant: str):
    names = computed(variant)
    assert names - documented() == set() and len(names) > 5
    assert ({"gradients/cosine", "gradients/opposed", "router/layers"} <= names) == (variant == "scalezero")


def test_every_timing_has_its_entry_and_rates_are_of_the_time_between():
    meters = meter.Meter(10, 100)
    now, busy, *rest = meters._before
    meters._before = (now - 200.0, busy - 100.0, *rest)  # long, beside what reading it takes
    line = meters.read(30, 140, 8000)
    assert line["time/updates_per_second"] == pytest.approx(0.1, rel=0.1)
    assert line["time/steps_per_second"] == pytest.approx(0.2, rel=0.1)
    assert line["time/flop_per_second"] == pytest.approx(40, rel=0.1)
    assert line["time/cores_busy"] == pytest.approx(0.5, rel=0.2) and line["time/memory_gb"] > 0.05
    assert set(line) - documented() == set()
    meters.start(30, 140, 8000)
    again = meters.read(30, 140, 8000)  # nothing since: an evaluation right behind a line
    assert {name: value for name, value in again.items() if "memory" not in name} == {
        name: value for name, value in line.items() if "memory" not in name
    }
    meters.start(30, 140, 8000)
    assert "time/flop_per_second" not in meters.read(30, 144, 8000)  # random steps count no operation


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "START:COUNT"),
        ("5:0", "START:COUNT"),
        ("a:1", "START:COUNT"),
        ("98:3", "the run has 100"),
        (":3", "START"),
    ],
)
def test_a_profile_that_is_none_is_refused(text: str, words: str, tmp_path):
    with pytest.raises(BadInput, match=words):
        meter.Trace(text, tmp_path, 100)


def test_a_profile_leaves_a_trace_of_its_updates(tmp_path):
    trace = meter.Trace("2:2", tmp_path / "profile", 10)
    step = jax.jit(lambda x: x + 1)
    state = step(np.zeros(3))
    for update in range(6):
        trace.before(update)
        assert trace._on == (update in (2, 3))
        state = step(state)
        trace.after(update, state)
        assert trace._on == (update == 2), "nothing of what comes between updates"
    trace.before(2)
    assert not trace._on, "once is enough"
    assert list((tmp_path / "profile").rglob("perfetto_trace.json.gz")) and list(
        (tmp_path / "profile").rglob("*.xplane.pb")
    )


def test_the_last_updates_can_be_traced_and_those_before_a_resumed_position_are_told_to_be_gone(tmp_path, capsys):
    assert meter.traced("98:2", 100) == (98, 100)
    trace = meter.Trace("3:2", tmp_path / "profile", 10)
    for update in (4, 5, 6):  # went on from update 4
        trace.before(update)
        trace.after(update, np.zeros(1))
    trace.close()
    assert not (tmp_path / "profile").exists()
    assert capsys.readouterr().out == "nothing is traced: update 3 lies before 4, where the run goes on\n"
