"""The page to play a game and its dream on: what it answers, and that keys move both in a real browser."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

import browser
import pytest
from processes import finished, run

from mow_jax import play
from mow_jax.types import BadInput

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir():
    return finished()


@pytest.fixture(scope="module")
def address(workdir):
    server = play.serve(lambda: play.stage(workdir, "catch", 3), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def post(address: str, path: str, body: object, **headers: str) -> dict:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers, method="POST")
    return json.loads(urllib.request.urlopen(request, timeout=120).read())


def playing(address: str) -> Callable[..., dict]:
    """Calls of a page that has just been opened."""
    page = post(address, "/about", {})["page"]
    return lambda path, body: post(address, path, body | {"page": page})


def test_both_sides_start_alike_and_take_the_same_actions(address):
    about = post(address, "/about", {})
    assert about["task"] == "catch" and about["actions"] == ["NOOP", "LEFT", "RIGHT"]
    ask = playing(address)
    first = ask("/reset", {})
    assert first["time"] == 0 and first["action"] is None
    views = [ask("/step", {"action": action}) for action in ("LEFT", "RIGHT", None, None, None)]
    assert [view["action"] for view in views[:2]] == ["LEFT", "RIGHT"]
    assert [view["time"] for view in views] == [1, 2, 3, 4, 5]
    assert all(view["action"] in about["actions"] and 0 <= view["dream"]["continuation"] <= 1 for view in views)
    assert [view["ended"] for view in views] == [False] * 4 + [True] and abs(views[-1]["real"]["reward"]) == 1
    assert views[-1]["dream"]["total"] == pytest.approx(sum(view["dream"]["reward"] for view in views))
    assert ask("/step", {"action": "LEFT"})["time"] == 0, "an episode that has ended begins anew"


def test_experts_are_exchanged_while_it_runs(address):
    ask = playing(address)
    ask("/reset", {})
    assert [ask("/experts", {"experts": [e]})["chosen"] for e in (1, 0)] == [[1], [0]]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/step", {"action": "UP"}, "NOOP, LEFT, RIGHT"),
        ("/step", {"action": 7}, "NOOP, LEFT, RIGHT"),
        ("/experts", {"experts": [2]}, "from 0 to 1"),
        ("/experts", {"experts": [0, 1]}, "give 1 numbers"),
        ("/step", "no object", "error"),
    ],
)
def test_a_request_that_makes_no_sense_is_answered(address, path, body, said):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        playing(address)(path, body) if isinstance(body, dict) else post(address, path, body)
    assert refusal.value.code == 400 and said in refusal.value.read().decode()


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "localhostile", ""])
def test_other_hosts_names_are_not_answered(address, host):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        post(address, "/reset", {}, Host=host)


def test_another_site_s_page_can_do_nothing_here(address, workdir):
    """It could not read an answer, but its call would take the stage from the page that plays."""
    ask = playing(address)
    for origin in ("http://elsewhere.example", "null", address.replace("http", "https")):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            post(address, "/about", {}, Origin=origin)
    assert ask("/reset", {})["time"] == 0, "the page still plays"
    assert post(address, "/about", {}, Origin=address)["task"] == "catch"
    server = play.serve(lambda: play.stage(workdir, "catch", 3), 0)
    server.server_close()
    assert server.server_address[0] == "127.0.0.1"


def test_what_cannot_be_played_is_refused(workdir, tmp_path):
    with pytest.raises(BadInput, match="catch, grid"):
        play.stage(workdir, "Pong", 0)
    assert "--workdir=DIR_OR_FILE" in run("play", f"--workdir={workdir}", code=2)
    assert "no workdir" in run("play", f"--workdir={tmp_path}", "--task=catch", code=2)


def test_keys_move_the_dream(address, tmp_path):
    with browser.Browser(tmp_path / "profile", address) as page:
        page.wait("document.body.dataset.ready === 'yes'")
        frames = "[document.getElementById('real').src, document.getElementById('dream').src]"
        before = page.ask(frames)
        assert page.ask("document.getElementById('wait').checked"), "nothing moves before a key"
        page.press("ArrowRight")
        page.wait("document.body.dataset.time === '1'")
        after = page.ask(frames)
        assert before[0] != after[0]
        assert "action RIGHT" in page.ask("document.getElementById('realSays').textContent")
        for time in ("2", "3"):  # a model that has hardly learned may dream one frame twice
            page.press("ArrowRight")
            page.wait(f"document.body.dataset.time === '{time}'")
        assert page.ask(frames)[1] != before[1]
        page.ask("document.getElementById('actor').click()")
        page.wait("Number(document.body.dataset.time) >= 3")
        assert page.ask("document.getElementById('error').textContent") == ""
        page.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 5000
