"""Play a task and the world model's dream of it side by side, in a browser on this machine.

    python -m mow_jax.play --workdir=DIR_OR_FILE --task=NAME [--seed=0] [--port=0]

Both start from the same real frame and get the same actions, from the keyboard or from the actor; the dream sees no
other real frame. Experts can be exchanged while it runs. Systems whose model imagines no pictures show the task alone.
Serves localhost only.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image

from mow_jax import command, load
from mow_jax.types import BadInput, Playable, Task

PAGE = Path(__file__).with_name("play.html")
HOST = "127.0.0.1"
SEEDS = 2**32  # that an environment can be reset with, from 0
_SIDES = ("UP", "RIGHT", "LEFT", "DOWN")
_CORNERS = ("UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT")
# ALE's eighteen actions, in its order.
ATARI = ("NOOP", "FIRE", *_SIDES, *_CORNERS, *(side + "FIRE" for side in (*_SIDES, *_CORNERS)))
NAMES = {"atari": ATARI, "toy": ("NOOP", "LEFT", "RIGHT", "UP", "DOWN")}


# --- The stages -------------------------------------------------------------------------------------------------------


class Stage:
    """A real episode, alone; every method returns what the page shows."""

    def __init__(self, environment: Any, agent: load.LoadedAgent, name: str, seed: int):
        self.environment, self.agent, self.seed = environment, agent, seed
        self.place = [task.name for task in agent.tasks].index(name)
        self.task: Task = agent.tasks[self.place]
        self.names, self.chosen = action_names(self.task), list[int]()
        self.reset()

    def close(self) -> None:
        """Ends the environment."""
        self.environment.close()

    def about(self) -> dict[str, Any]:
        """What does not change."""
        known = [task for task, mask in zip(self.names, self.task.action_mask, strict=False) if mask]
        return {
            "task": self.task.name,
            "step": self.agent.step,
            "system": self.agent.learner.system.name,
            "actions": known if self.task.discrete else None,
            "dimensions": self.task.action_size,
            "numbers": self.task.numbers,
            "experts": 0,
            "dream": False,
        }

    def experts(self, _: list[int]) -> dict[str, Any]:
        """Raises BadInput: there are none that could be exchanged."""
        raise BadInput(f"{self.agent.learner.system.name} has no experts to exchange here")

    def reset(self) -> dict[str, Any]:
        """A new episode."""
        self.frame, self.time, self.total = self.environment.reset(self.seed), 0, 0.0
        self.seed = (self.seed + 1) % SEEDS
        self.ended = self.followed = False
        return self._view(None, 0.0) | self._imagined(None)

    def step(self, action: Any) -> dict[str, Any]:
        """One step by a name of `names` or numbers in [-1, 1]; None: the actor's own.

        Raises BadInput for an action that the task does not have.
        """
        if self.ended:
            return self.reset()
        chosen = self._choose() if action is None else self._given(action)
        step = self.environment.step(int(chosen) if self.task.discrete else chosen)
        beside = self._imagined(chosen)
        self.frame, self.time, self.followed = step.observation, self.time + 1, action is None
        self.ended = step.terminated or step.truncated
        reward = float(step.reward if step.raw is None else step.raw)  # what scores count, whatever learning sees
        self.total += reward
        return self._view(chosen, reward) | beside

    def _choose(self) -> np.ndarray:
        """The actor's own action. Where another took the one before, it begins anew, as at the episode's start."""
        if not self.followed:
            self.agent.reset(self.task.name, (self.seed - 1) % SEEDS)  # the seed of this episode
        return np.asarray(self.agent.act(self.frame, self.task.name))

    def _given(self, action: Any) -> np.ndarray:
        """The action that a request means."""
        if not self.task.discrete:
            size = self.task.action_size
            if not isinstance(action, list) or len(action) != size or not all(-1 <= x <= 1 for x in action):
                raise BadInput(f"{action!r} is no action: give {size} numbers from -1 to 1")
            return np.array(action, np.float32) * np.array(self.task.action_mask, np.float32)
        allowed = [name for name, mask in zip(self.names, self.task.action_mask, strict=False) if mask]
        if action not in allowed:
            raise BadInput(f"{action!r} is no action of {self.task.name}: choose from {', '.join(allowed)}")
        return np.asarray(self.names.index(action), np.int32)

    def _imagined(self, _: np.ndarray | None) -> dict[str, Any]:
        """What is shown beside the episode, after an action or, for None, at the start."""
        return {}

    def _view(self, action: np.ndarray | None, reward: float) -> dict[str, Any]:
        said = None if action is None else self.names[int(action)] if self.task.discrete else action.round(2).tolist()
        shown = {"time": self.time, "ended": self.ended, "action": said, "chosen": self.chosen}
        return shown | {"real": {"frame": png(picture(self.frame)), "reward": reward, "total": self.total}}


class DreamStage(Stage):
    """A real episode and its dream, which its actor acts in."""

    def __init__(self, environment: Any, agent: load.LoadedAgent, name: str, seed: int, world: Playable):
        self.world, self.state = world, world.scored(agent.learner.snapshot())
        pure = (self.world.rows, self.world.see, self.world.choose, self.world.move)
        self._rows, self._see, self._act, self._move = map(jax.jit, pure)
        self._own = self._rows(self.state, [task.name for task in agent.tasks].index(name))
        super().__init__(environment, agent, name, seed)
        self.chosen = self.world.chosen(self.state, self.place) if self.world.chosen else []

    def about(self) -> dict[str, Any]:
        return super().about() | {"experts": self.world.experts, "dream": True}

    def experts(self, chosen: list[int]) -> dict[str, Any]:
        """Lets the task use other experts from now on. Raises BadInput for ones that do not exist."""
        count = self.world.experts
        if self.world.exchange is None or not all(isinstance(e, int) and 0 <= e < count for e in chosen):
            raise BadInput(f"experts {chosen} are not possible: give numbers from 0 to {count - 1}")
        self.state, self.chosen = self.world.exchange(self.state, self.place, chosen), chosen
        self._own = self._rows(self.state, self.place)
        return {"chosen": chosen}

    def _choose(self) -> np.ndarray:
        return np.asarray(self._act(self._own, self.dream, np.array(self.task.action_mask), self._key(1)))

    def _imagined(self, action: np.ndarray | None) -> dict[str, Any]:
        """The dream from the episode's first frame, or a step further."""
        if action is None:
            reward, continuation, self.dreamed = 0.0, 1.0, 0.0
            self.dream, imagined = self._see(self._own, self.frame, self._key(0))
        else:
            self.dream, reward, continuation, imagined = self._move(self._own, self.dream, action, self._key(2))
        self.dreamed += float(reward)
        pixels = (np.asarray(imagined, np.float32) * 255).round().astype(np.uint8)
        said = {"reward": float(reward), "continuation": float(continuation), "total": self.dreamed}
        return {"dream": said | {"frame": png(pixels)}}

    def _key(self, use: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.seed), 3 * self.time + use)


def stage(source: Path, name: str, seed: int) -> Stage:
    """A stage for a run's task, with a dream where its system's model can be played in.

    Raises BadInput for a source that is none, or a task that it does not know.
    """
    environment, agent = load.make_env(source, name), load.LoadedAgent(source, None)
    world = agent.learner.system.playable
    if world is None:
        return Stage(environment, agent, name, seed)
    return DreamStage(environment, agent, name, seed, world)


def action_names(task: Task) -> list[str]:
    """Names of the choices; numbers where the suite has none."""
    return list(NAMES.get(task.suite, [str(i) for i in range(task.action_size)]))


def picture(seen: np.ndarray) -> np.ndarray:
    """A frame as it is; of a vector a bar a number, from the middle, to the left where it is negative: for 1
    half as long as there is room, and never longer than that."""
    if seen.ndim == 3:
        return seen
    ends, across = (seen / (1 + np.abs(seen)))[:, None], np.linspace(-1, 1, 65)
    bars = (across * np.sign(ends) >= 0) & (np.abs(across) <= np.abs(ends))
    lines = np.stack([bars, np.zeros_like(bars)], 1).reshape(-1, len(across))
    return np.repeat(lines[..., None], 3, 2).astype(np.uint8) * 255


def png(frame: np.ndarray) -> str:
    """A frame as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# --- The server -------------------------------------------------------------------------------------------------------


def serve(make: Callable[[], Stage], port: int) -> ThreadingHTTPServer:
    """A server on localhost, at any free port for 0; the caller runs and closes it. One page plays, the last that asked
    /about: what that gave as "page" goes with every other call.

    The stage is made, called and closed in one thread of its own: what draws by EGL answers no other one.
    """
    turns = ThreadPoolExecutor(1, "stage")
    stage = turns.submit(make).result()
    lock, newest = threading.Lock(), ""

    def about(_: dict) -> dict[str, Any]:
        nonlocal newest
        newest = secrets.token_hex(8)  # no number: a page of an earlier server may still be open
        return stage.about() | {"page": newest}

    calls: dict[str, Callable[[dict], dict]] = {
        "/about": about,
        "/reset": lambda _: stage.reset(),
        "/step": lambda asked: stage.step(asked.get("action")),
        "/experts": lambda asked: stage.experts(asked.get("experts", [])),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, "text/html", PAGE.read_bytes()) if self.path == "/" else self.send_error(404)

        def do_POST(self) -> None:
            """Answers the page's calls in JSON, others with 404."""
            # Another site's page could reach this port, under a name of its own too: only ours is answered.
            host = self.headers.get("Host", "")
            ours = host.split(":")[0] in (HOST, "localhost") and self.headers.get("Origin") in (None, f"http://{host}")
            if not ours or self.path not in calls:
                return self.send_error(404)
            try:
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
                with lock:
                    if self.path != "/about" and asked.get("page") != newest:
                        answer, code = {"error": "another page has taken over; reload this one to play here"}, 409
                    else:
                        answer, code = turns.submit(calls[self.path], asked).result(), 200
            except (BadInput, ValueError, TypeError, AttributeError) as problem:
                answer, code = {"error": str(problem)}, 400
            self._answer(code, "application/json", json.dumps(answer).encode())

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind + "; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            """Nothing: a line a step would drown the terminal."""

    class Server(ThreadingHTTPServer):
        def server_close(self) -> None:
            """Ends the stage, too."""
            super().server_close()
            turns.submit(stage.close).result()
            turns.shutdown()

    try:
        return Server((HOST, port), Handler)
    except OSError as error:
        raise BadInput(f"--port={port} cannot be used ({error.strerror}): give another, or 0 for any") from None


if __name__ == "__main__":
    _SOURCE = flags.DEFINE_string("workdir", None, "Folder of a run, or a file of mow_jax.export.")
    _TASK = flags.DEFINE_string("task", None, "One of its tasks.")
    _SEED = flags.DEFINE_integer(
        "seed", 0, "Of the first episode; each further one has the next.", lower_bound=0, upper_bound=SEEDS - 1
    )
    _PORT = flags.DEFINE_integer("port", 0, "0: any free one.", lower_bound=0, upper_bound=65535)

    def main() -> None:
        """The command."""
        if not _SOURCE.value or not _TASK.value:
            raise BadInput("give --workdir=DIR_OR_FILE and --task=NAME")
        source, task = Path(_SOURCE.value), _TASK.value
        server = serve(lambda: stage(source, task, _SEED.value), _PORT.value)
        print(f"open http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()

    command.run(main)
