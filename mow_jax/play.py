"""Play a task and the world model's dream of it side by side, in a browser on this machine.

    python -m mow_jax.play --workdir=DIR_OR_FILE --task=NAME [--seed=0] [--port=0]

Both start from the same real frame and get the same actions, from the keyboard or from the actor; the dream sees no
other real frame. Experts can be exchanged while it runs. Serves localhost only.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from mow_jax import command, load
from mow_jax.agent import Agent
from mow_jax.models import actor_critic, imagination, router, world_model
from mow_jax.models.world_model import ROW_AXES, Rows
from mow_jax.types import ActState, BadInput, Task, TrainState

PAGE = Path(__file__).with_name("play.html")
HOST = "127.0.0.1"
_SIDES = ("UP", "RIGHT", "LEFT", "DOWN")
_CORNERS = ("UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT")
# ALE's eighteen actions, in its order.
ATARI = ("NOOP", "FIRE", *_SIDES, *_CORNERS, *(side + "FIRE" for side in (*_SIDES, *_CORNERS)))
NAMES = {"atari": ATARI, "toy": ("NOOP", "LEFT", "RIGHT", "UP", "DOWN")}


# --- Pure functions of one task ---------------------------------------------------------------------------------------


def task_rows(agent: Agent, state: TrainState, task: int) -> Rows:
    """One task's rows of the parameters."""
    scores = router.scores(agent.world.routing, state.params["shared"], state.update)
    ids = jnp.array([task], jnp.int32)
    rows = world_model.gather(agent.world, state.params, state.statistics, state.table, ids, scores)
    alone = lambda part, axis: part if axis is None else jax.tree.map(lambda leaf: leaf[0], part)
    return Rows(*map(alone, rows, ROW_AXES))


def see(agent: Agent, rows: Rows, frame: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The latent [1, Z] of a real frame [S, S, 3], and what the decoder makes of it."""
    posterior, _ = world_model.encode(agent.world, rows, frame[None, None], key)
    return posterior.z[:, 0], picture(agent, rows, posterior.z[:, 0])


def picture(agent: Agent, rows: Rows, z: jax.Array) -> jax.Array:
    """The frame [S, S, 3] in 0..1 of a latent [1, Z]."""
    return world_model.decode(agent.world, rows, z[:, None])[0][0, 0].clip(0, 1)


def choose(agent: Agent, actor: Any, rows: Rows, z, hidden, mask, key) -> jax.Array:
    """The actor's action for a latent [1, Z] and the hidden state [1, D] before it."""
    features = actor_critic.features(z, hidden, rows.embedding)
    pi = actor_critic.policy(agent.behaviour, actor, features, mask)
    return actor_critic.executed(agent.behaviour, actor_critic.sample(agent.behaviour, key, pi, mask))[0]


def move(agent: Agent, rows: Rows, acting: ActState, z, action, key):
    """One step of the dream: context, latent, hidden state, reward, continuation, frame."""
    made = imagination.dream_step(agent.world, rows, acting, z, action[None], key)
    return *made, picture(agent, rows, made[1])


# --- The two stages ---------------------------------------------------------------------------------------------------


class Stage:
    """A real episode and its dream; every method returns what the page shows."""

    def __init__(self, source: Path, name: str, seed: int):
        """Raises BadInput for a source that is none, or a task that it does not know."""
        self.environment = load.make_env(source, name)
        _, tasks, learner, self.trained = load.restore(source)
        self.place = [task.name for task in tasks].index(name)
        self.task: Task = tasks[self.place]
        self.agent, self.state, self.seed = learner.agent, learner.snapshot(), seed
        self.names = action_names(self.task)
        compiled = lambda function: jax.jit(functools.partial(function, self.agent))
        self._rows, self._see, self._choose, self._move = map(compiled, (task_rows, see, choose, move))
        self.experts(np.asarray(self.state.table.experts)[self.place].tolist())
        self.reset()

    def about(self) -> dict[str, Any]:
        """What does not change."""
        routing = self.agent.world.routing
        known = [task for task, mask in zip(self.names, self.task.action_mask, strict=False) if mask]
        return {
            "task": self.task.name,
            "step": self.trained,
            "actions": known if self.task.discrete else None,
            "dimensions": self.task.action_size,
            "experts": routing.experts,
        }

    def experts(self, chosen: list[int]) -> dict[str, Any]:
        """Lets the task use other experts from now on. Raises BadInput for ones that do not exist."""
        count, active = self.agent.world.routing.experts, self.agent.world.routing.active
        if len(chosen) != active or not all(isinstance(e, int) and 0 <= e < count for e in chosen):
            raise BadInput(f"experts {chosen} are not possible: give {active} numbers from 0 to {count - 1}")
        table = np.array(self.state.table.experts)
        table[self.place] = chosen
        self.state = self.state._replace(table=self.state.table._replace(experts=table))
        self._own, self.chosen = self._rows(self.state, self.place), chosen
        return {"chosen": chosen}

    def reset(self) -> dict[str, Any]:
        """A new episode, and a dream of it from its first frame."""
        self.frame, self.time = self.environment.reset(self.seed), 0
        self.seed += 1
        self.totals = {"real": 0.0, "dream": 0.0}
        self.z, imagined = self._see(self._own, self._small(self.frame), self._key(0))
        self.acting = imagination.init_acting(self.agent.imagination, self.agent.world, 1, 1)
        self.acting = jax.tree.map(lambda x: x[0], self.acting)
        self.hidden = np.zeros((1, self.agent.world.width), np.float32)
        self.ended = False
        return self._view(imagined, None, {"reward": 0.0}, {"reward": 0.0, "continuation": 1.0})

    def step(self, action: Any) -> dict[str, Any]:
        """One step of both by a name of `names` or numbers in [-1, 1]; None: the actor's own, chosen in the dream.

        Raises BadInput for an action that the task does not have.
        """
        if self.ended:
            return self.reset()
        mask = np.array(self.task.action_mask)
        if action is None:
            chosen = np.asarray(self._choose(self.state.actor, self._own, self.z, self.hidden, mask, self._key(1)))
        else:
            chosen = self._given(action)
        step = self.environment.step(int(chosen) if self.task.discrete else chosen)
        made = self._move(self._own, self.acting, self.z, chosen, self._key(2))
        self.acting, self.z, self.hidden, reward, continuation, imagined = made
        self.frame, self.time = step.observation, self.time + 1
        self.ended = step.terminated or step.truncated
        self.totals["real"] += float(step.reward)
        self.totals["dream"] += float(reward[0])
        dream = {"reward": float(reward[0]), "continuation": float(continuation[0])}
        return self._view(imagined, chosen, {"reward": float(step.reward)}, dream)

    def _given(self, action: Any) -> np.ndarray:
        """The action that a request means."""
        if not self.task.discrete:
            size = self.task.action_size
            if not isinstance(action, list) or len(action) != size or not all(-1 <= x <= 1 for x in action):
                raise BadInput(f"{action!r} is no action: give {size} numbers from -1 to 1")
            return np.array(action, np.float32)
        allowed = [name for name, mask in zip(self.names, self.task.action_mask, strict=False) if mask]
        if action not in allowed:
            raise BadInput(f"{action!r} is no action of {self.task.name}: choose from {', '.join(allowed)}")
        return np.asarray(self.names.index(action), np.int32)

    def _view(self, imagined, action, real: dict, dream: dict) -> dict[str, Any]:
        said = None if action is None else self.names[int(action)] if self.task.discrete else action.round(2).tolist()
        shown = {"time": self.time, "ended": self.ended, "action": said, "chosen": self.chosen}
        pixels = (np.asarray(imagined, np.float32) * 255).round().astype(np.uint8)
        real |= {"frame": png(self.frame), "total": self.totals["real"]}
        return shown | {"real": real, "dream": dream | {"frame": png(pixels), "total": self.totals["dream"]}}

    def _small(self, frame: np.ndarray) -> np.ndarray:
        size = self.agent.world.image_size
        assert frame.shape == (size, size, 3), frame.shape
        return frame

    def _key(self, use: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.seed), 3 * self.time + use)


def action_names(task: Task) -> list[str]:
    """Names of the choices; numbers where the suite has none."""
    return list(NAMES.get(task.suite, [str(i) for i in range(task.action_size)]))


def png(frame: np.ndarray) -> str:
    """A frame as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# --- The server -------------------------------------------------------------------------------------------------------


def serve(stage: Stage, port: int) -> ThreadingHTTPServer:
    """A server on localhost, at any free port for 0; the caller runs and closes it."""
    lock = threading.Lock()
    calls: dict[str, Callable[[dict], dict]] = {
        "/about": lambda _: stage.about(),
        "/reset": lambda _: stage.reset(),
        "/step": lambda asked: stage.step(asked.get("action")),
        "/experts": lambda asked: stage.experts(asked.get("experts", [])),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, "text/html", PAGE.read_bytes()) if self.path == "/" else self.send_error(404)

        def do_POST(self) -> None:
            """Answers the page's calls in JSON, others with 404."""
            # Another site's page could reach this port under a name of its own: only ours is answered.
            if self.headers.get("Host", "").split(":")[0] not in (HOST, "localhost") or self.path not in calls:
                return self.send_error(404)
            try:
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
                with lock:
                    answer, code = calls[self.path](asked), 200
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

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise BadInput(f"--port={port} cannot be used ({error.strerror}): give another, or 0 for any") from None


if __name__ == "__main__":
    _SOURCE = flags.DEFINE_string("workdir", None, "Folder of a run, or a file of mow_jax.export.")
    _TASK = flags.DEFINE_string("task", None, "One of its tasks.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of the first episode; each further one has the next.", lower_bound=0)
    _PORT = flags.DEFINE_integer("port", 0, "0: any free one.", lower_bound=0, upper_bound=65535)

    def main() -> None:
        """The command."""
        if not _SOURCE.value or not _TASK.value:
            raise BadInput("give --workdir=DIR_OR_FILE and --task=NAME")
        server = serve(Stage(Path(_SOURCE.value), _TASK.value, _SEED.value), _PORT.value)
        print(f"open http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()

    command.run(main)
