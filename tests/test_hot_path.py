"""Between the second update and the last nothing is compiled, sent unasked, or read but by the logger."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import jax.monitoring
import numpy as np
import pytest
from compiled import hastily
from processes import ROOT, TINY

from mow_jax import logs, train
from mow_jax.learner import Learner

WARM = 2  # updates that may compile


class Unread:
    """A metric that only the logger may look at."""

    reader = False

    def __init__(self, value: jax.Array):
        self._value = value

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        assert Unread.reader, "a metric was read outside the logger"
        return np.asarray(self._value)

    def __bool__(self) -> bool:
        raise AssertionError("a metric decided something")

    __float__ = __int__ = __bool__


@pytest.mark.slow
def test_a_run_compiles_sends_and_reads_nothing_between_its_updates(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("tiny", ROOT / TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.evaluation.every = 0
    update, fold, updates, compiled = Learner.update, logs.Window._fold, [], []
    last = 20 - 1  # the plan's updates after the warm-up, but for one: evaluation comes after the last

    def watched(self, name, *windows):
        if name != "training":
            return update(self, name, *windows)
        updates.append(len(compiled))
        if len(updates) == WARM + 1:
            jax.config.update("jax_transfer_guard_host_to_device", "disallow")
        if len(updates) == last:
            jax.config.update("jax_transfer_guard_host_to_device", "allow")
        return jax.tree.map(Unread, update(self, name, *windows))

    def read(self):
        monkeypatch.setattr(Unread, "reader", True)
        fold(self)
        monkeypatch.setattr(Unread, "reader", False)

    def note(event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    devices = jax.local_devices()[:4]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)  # a sharded learner that compiles faster than all eight
    monkeypatch.setattr(Learner, "update", watched)
    monkeypatch.setattr(logs.Window, "_fold", read)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with hastily():
            assert train.train(config, tmp_path / "run", [])
    finally:
        jax.config.update("jax_transfer_guard_host_to_device", "allow")
        jax.monitoring.clear_event_listeners()
    assert len(updates) == last + 1 and updates[0] > 0
    assert updates[WARM] == updates[last], "something was compiled after the second update"
