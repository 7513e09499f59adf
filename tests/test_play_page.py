"""The page of play and its server on a stage without a model: focus, answers that do not come, and a second page."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser
import numpy as np
import pytest

from mow_jax import envs, play
from mow_jax.types import BadInput


class Stage:
    """Counts steps; of two sides that look alike, or the first alone."""

    def __init__(self, dream: bool = True) -> None:
        self.time, self.dream, self.thread = 0, dream, threading.get_ident()

    def close(self) -> None:
        assert self.thread == threading.get_ident()

    def about(self) -> dict[str, Any]:
        actions = ["NOOP", "UP", "FIRE"]
        known = {"task": "count", "step": 7, "system": "blind", "actions": actions, "dimensions": 3, "numbers": 0}
        return known | {"experts": 0, "dream": self.dream}

    def reset(self) -> dict[str, Any]:
        self.time = 0
        return self.view(None)

    def step(self, action: Any) -> dict[str, Any]:
        self.time += 1
        return self.view(action)

    def view(self, action: Any) -> dict[str, Any]:
        assert self.thread == threading.get_ident(), "what draws by EGL answers to the thread alone that made it"
        side = {"frame": play.png(np.full((4, 4, 3), self.time, np.uint8)), "reward": 1.0, "total": self.time}
        shown = {"time": self.time, "ended": False, "action": action, "chosen": []}
        return shown | {"real": side} | ({"dream": side | {"continuation": 1.0}} if self.dream else {})


@pytest.fixture
def dream() -> bool:
    return True


@pytest.fixture
def address(dream: bool):
    stage = lambda: Stage(dream)
    server = play.serve(stage, 0)  # type: ignore[arg-type]
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
@pytest.mark.parametrize("dream", [True, False])
def test_a_page_without_a_dream_shows_the_game_alone_and_says_so(address: str, tmp_path: Path, dream: bool):
    text = "document.body.innerText"
    with browser.Browser(tmp_path / "profile", address) as page:
        ready(page)
        assert page.ask("document.getElementById('dream').checkVisibility()") == dream
        assert page.ask(f"{text}.includes('the model of blind imagines no pictures')") != dream
        assert page.ask(f"{text}.toLowerCase().split('dream').length - 1") == (3 if dream else 1)
        page.wait(f"{TIME} > 1 && document.getElementById('real').naturalWidth === 4")
        page.ask("document.getElementById('actor').click()")
        before = page.ask(TIME)
        page.wait(f"{TIME} > {before} + 1 && {ERROR} === ''")


class Actor:
    """A loaded agent whose system has no dreams: it knows how it was told to begin, and what it has seen since."""

    step = 7
    learner = SimpleNamespace(system=SimpleNamespace(name="blind", playable=None))

    def __init__(self, tasks: list, action: Any) -> None:
        self.tasks, self.action = tasks, action
        self.begun: list[int] = []

    def reset(self, task: str, seed: int) -> None:
        self.begun.append(seed)
        self.seen: list[np.ndarray] = []

    def act(self, seen: np.ndarray, task: str) -> Any:
        self.seen.append(seen)
        return self.action


def alone(*names: str, action: Any = 1, **suite: Any) -> play.Stage:
    """A stage of the first toy, whose episodes have the seeds 3, 4, ..."""
    settings = {"image_size": 16, **suite}
    tasks = envs.resolve("toy", names, settings)
    return play.Stage(envs.make(tasks[0], settings), Actor(tasks, action), names[0], 3)  # type: ignore[arg-type]


def test_a_game_without_a_dream_is_moved_by_keys_and_by_the_actor():
    stage = alone("catch", "grid")
    about = stage.about()
    assert (about["dream"], about["system"], about["actions"]) == (False, "blind", ["NOOP", "LEFT", "RIGHT"])
    views = [stage.step(action) for action in (None, None, "RIGHT", None, None)]
    assert [view["action"] for view in views] == ["LEFT", "LEFT", "RIGHT", "LEFT", "LEFT"]
    assert not any("dream" in view for view in views) and [view["time"] for view in views] == [1, 2, 3, 4, 5]
    assert views[-1]["ended"] and views[-1]["real"]["total"] == sum(view["real"]["reward"] for view in views)
    same = envs.make(stage.task, {"image_size": 16})
    assert play.png(same.reset(3)) != views[0]["real"]["frame"] == play.png(same.step(1).observation)
    # After the key the actor begins anew: what it remembered was not what had been done.
    assert stage.agent.begun == [3, 3] and len(stage.agent.seen) == 2
    assert stage.step("LEFT")["time"] == 0 and stage.step(None)["time"] == 1 and stage.agent.begun[2:] == [4]
    with pytest.raises(BadInput, match="blind has no experts"):
        stage.experts([0])
    with pytest.raises(BadInput, match="choose from NOOP, LEFT, RIGHT"):
        stage.step("UP")


def test_rewards_are_shown_as_scores_count_them(monkeypatch):
    """Not by their signs, where learning sees no more."""
    stage = alone("catch")
    step = stage.environment.step
    monkeypatch.setattr(stage.environment, "step", lambda action: step(action)._replace(reward=1.0, raw=400.0))
    views = [stage.step(None) for _ in range(3)]
    assert [view["real"]["reward"] for view in views] == [400.0] * 3 and views[-1]["real"]["total"] == 1200.0


def test_numbers_are_drawn_as_bars():
    stage = alone("slide", action=np.array([0.5, -1], np.float32), observation="state")
    view, about = stage.step(None), stage.about()
    assert view["action"] == [0.5, -1] and (about["actions"], about["dimensions"], about["numbers"]) == (None, 2, 5)
    assert stage.step([0.25, -0.25])["real"]["frame"] == play.png(play.picture(stage.frame))
    with pytest.raises(BadInput, match="give 2 numbers from -1 to 1"):
        stage.step([0.0, 2.0])
    rows = play.picture(np.array([1, -1, 0, 1e9], np.float32))[::2, :, 0] > 0
    drawn = [np.flatnonzero(row) for row in rows]
    assert [(row.min(), row.max()) for row in drawn] == [(32, 48), (16, 32), (32, 32), (32, 64)]
    frame = np.zeros((4, 4, 3), np.uint8)
    assert play.picture(frame) is frame


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
