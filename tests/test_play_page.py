"""The page of play and its server on a stage without a model: focus, answers that do not come, and a second page."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest

from mow_jax import play


class Stage:
    """Counts steps; of two sides that look alike."""

    def __init__(self) -> None:
        self.time = 0

    def about(self) -> dict[str, Any]:
        actions = ["NOOP", "UP", "FIRE"]
        return {"task": "count", "step": 7, "actions": actions, "dimensions": 3, "experts": 0}

    def reset(self) -> dict[str, Any]:
        self.time = 0
        return self.view(None)

    def step(self, action: Any) -> dict[str, Any]:
        self.time += 1
        return self.view(action)

    def view(self, action: Any) -> dict[str, Any]:
        side = {"frame": play.png(np.full((4, 4, 3), self.time, np.uint8)), "reward": 1.0, "total": self.time}
        shown = {"time": self.time, "ended": False, "action": action, "chosen": []}
        return shown | {"real": side, "dream": side | {"continuation": 1.0}}


@pytest.fixture
def address():
    server = play.serve(Stage(), 0)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


TIME = "Number(document.body.dataset.time)"
WAITS = "document.getElementById('wait').checked"
ERROR = "document.getElementById('error').textContent"


def ready(page: browser.Browser) -> None:
    page.wait("document.body.dataset.ready === 'yes'")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["ArrowUp", " "])
def test_keys_move_the_game_after_a_click_on_whatever_there_is(address: str, tmp_path: Path, key: str):
    with browser.Browser(tmp_path / "profile", address) as page:
        ready(page)
        page.ask("document.getElementById('wait').click()")  # nothing moves between keys
        for clicked in ("wait", "wait", "reset", "rate"):
            page.ask(f"(() => {{ const it = document.getElementById('{clicked}'); it.focus(); it.click(); }})()")
            if clicked == "rate":
                page.ask("document.getElementById('rate').dispatchEvent(new Event('change'))")
            if clicked == "reset":
                page.wait(f"{TIME} === 0")
            if page.ask(WAITS):
                before = page.ask(TIME)
                page.press(key)
                page.wait(f"{TIME} === {before} + 1")
                assert page.ask(WAITS), "the key was for the game"


@pytest.mark.slow
def test_an_answer_that_does_not_come_is_told_of_and_does_not_end_the_game(address: str, tmp_path: Path):
    with browser.Browser(tmp_path / "profile", address) as page:
        ready(page)
        page.ask("window.reached = fetch, window.fetch = async () => { throw new TypeError('cable cut'); }, 0")
        page.ask("document.getElementById('actor').click()")
        page.wait(f"{ERROR}.includes('cable cut')")
        page.ask("window.fetch = async () => new Response('no JSON'), 0")
        page.wait(f"{ERROR}.includes('no answer') && !{ERROR}.includes('cable')")
        before = page.ask(TIME)
        page.ask("window.fetch = window.reached, 0")
        page.wait(f"{TIME} > {before} + 1 && {ERROR} === ''")
