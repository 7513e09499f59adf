"""The page of play and its server on a stage without a model: focus, answers that do not come, and a second page."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
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


def post(address: str, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    """Code and content of an answer."""
    request = urllib.request.Request(address + path, json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())


def test_only_the_page_that_was_opened_last_plays(address: str):
    first, second = (post(address, "/about")[1]["page"] for _ in range(2))
    assert first != second and post(address, "/reset", page=second)[1]["time"] == 0
    for path, body in (("/step", {"page": first, "action": "UP"}), ("/reset", {"page": first}), ("/reset", {})):
        code, said = post(address, path, **body)
        assert code == 409 and "another page has taken over" in said["error"]
    assert post(address, "/step", page=second, action="UP")[1]["time"] == 1


@pytest.mark.slow
def test_a_page_says_that_another_has_taken_over_and_stops(address: str, tmp_path: Path):
    with browser.Browser(tmp_path / "profile", address) as page:
        ready(page)
        page.ask("window.calls = 0, window.reached = fetch, 0")
        page.ask("window.fetch = (...given) => { window.calls++; return window.reached(...given); }, 0")
        page.wait(f"{TIME} > 1")
        newest = post(address, "/about")[1]["page"]
        page.wait(f"{ERROR}.includes('another page has taken over')")
        calls = page.ask("window.calls")
        page.press("ArrowUp")
        time.sleep(0.5)  # four steps, were its loop to go on
        assert page.ask("window.calls") == calls and "taken over" in page.ask(ERROR)
        assert post(address, "/reset", page=newest)[0] == 200
