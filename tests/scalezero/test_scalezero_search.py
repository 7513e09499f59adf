"""The search on table models: best action and Q by exhaustive search, masks at every depth, place in the batch."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import quick

from mow_jax import xla
from mow_jax.systems.scalezero import search
from mow_jax.systems.scalezero.search import Noise, Search

ROOTS, WIDE, DEPTH, ACTIONS, GAMMA = 8, 6, 3, 3, 0.9
SIMULATIONS = {"puct": 600, "gumbel": 24}
FORBIDDEN = 1000.0  # the reward of an action that does not exist: one visit of it shows in every Q above


def table() -> tuple[np.ndarray, np.ndarray]:
    """Next state and reward [S, A]: DEPTH layers of WIDE states, then an end that leads to itself and gives nothing."""
    rng = np.random.default_rng(5)
    following = np.full((DEPTH * WIDE + 1, ACTIONS), DEPTH * WIDE)
    reward = np.zeros((DEPTH * WIDE + 1, ACTIONS), np.float32)
    for layer in range(DEPTH):
        rows = slice(layer * WIDE, (layer + 1) * WIDE)
        reward[rows] = rng.normal(size=(WIDE, ACTIONS))
        if layer < DEPTH - 1:
            following[rows] = (layer + 1) * WIDE + rng.integers(WIDE, size=(WIDE, ACTIONS))
    return following, reward


FOLLOWING, REWARD = table()
MASK = np.array([[True] * 3] * 4 + [[True, True, False]] * 2 + [[False, True, True]] * 2)
STATES = np.array([0, 1, 2, 3, 4, 5, 0, 1], np.int32)


def exhaustive(state: int, mask: np.ndarray, depth: int = DEPTH) -> np.ndarray:
    """Q [A] of the best play for `depth` steps."""
    if depth == 0:
        return np.zeros(ACTIONS)
    after = [exhaustive(FOLLOWING[state, a], mask, depth - 1)[mask].max() for a in range(ACTIONS)]
    return np.where(mask, REWARD[state] + GAMMA * np.array(after), -np.inf)


# [ROOTS, S, A] Q of every state by that, under the root's mask.
QS = np.array([[exhaustive(s, mask, DEPTH - s // WIDE) for s in range(DEPTH * WIDE + 1)] for mask in MASK])


@functools.cache
def searching(method: str, simulations: int | None = None):
    """One program for all tests."""
    setup = Search(simulations=simulations or SIMULATIONS[method], method=method, gamma=GAMMA, considered=ACTIONS)

    @functools.partial(jax.jit, compiler_options=xla.options("cpu", often=True))
    def run(states, mask, noise, logits, values):
        def follow(action, node):
            reward = jnp.where(mask[jnp.arange(len(mask)), action], jnp.array(REWARD)[node, action], FORBIDDEN)
            node = jnp.array(FOLLOWING)[node, action]
            at = jnp.arange(len(node)), node
            return reward, jnp.ones(len(node)), logits[at], values[at], node

        start = jnp.zeros((len(states), ACTIONS)), jnp.zeros(len(states)), states
        return search.search(setup, follow, *start, mask, noise, 1.0)

    def given(*inputs, informed: bool = False):
        """The model's policy and values below the root say nothing, or they are those of the best play."""
        qs = QS if informed else np.zeros_like(QS)
        known = np.float32(np.maximum(10 * qs, -1e9)), np.float32(qs.max(-1))
        return jax.tree.map(np.asarray, run(*inputs, *known))

    return given


def drawn(seed: int) -> Noise:
    """Noise [ROOTS, A]."""
    draw = jax.jit(jax.vmap(lambda key, mask: search.noise(Search(), key, mask, 1)))
    return jax.tree.map(lambda x: np.asarray(x)[:, 0], draw(jax.random.split(jax.random.key(seed), ROOTS), MASK))


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_the_best_action_and_its_q_are_those_of_exhaustive_search(method: str):
    """PUCT with a model that knows nothing, 600 simulations: Q is a mean over visits, the first of which go elsewhere,
    and within 0.3 of the best (rewards deviate by 1). Gumbel, which trusts its model, with one that knows all below the
    root, 24 simulations: its action may be one whose Q is 0.15 less.
    """
    quiet = jax.tree.map(np.zeros_like, drawn(0))
    found = searching(method)(STATES, MASK, quiet, informed=method == "gumbel")
    best = np.array([exhaustive(state, mask) for state, mask in zip(STATES, MASK, strict=True)])
    of = lambda action: np.take_along_axis(best, action[:, None], -1)[:, 0]
    assert (of(found.action) >= best.max(-1) - {"puct": 0, "gumbel": 0.15}[method]).all()
    np.testing.assert_array_equal(found.policy.argmax(-1), found.action)
    np.testing.assert_allclose(found.policy.sum(-1), 1, rtol=1e-5)
    q = np.take_along_axis(found.q, found.action[:, None], -1)[:, 0]
    np.testing.assert_allclose(q, best.max(-1), atol=0.3)


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_actions_that_do_not_exist_are_never_visited_at_any_depth(method: str):
    found = searching(method)(STATES, MASK, drawn(1))
    assert not found.visits[~MASK].any() and not found.policy[~MASK].any()
    assert found.visits.sum(-1).tolist() == [SIMULATIONS[method]] * ROOTS
    assert np.take_along_axis(MASK, found.action[:, None], -1).all()
    assert found.q.max() < 10 and found.value.max() < 10  # below the root one visit would bring in hundreds


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_visits_do_not_depend_on_the_place_in_the_batch_nor_on_who_else_is_in_it(method: str):
    run, noise = searching(method), drawn(2)
    found = run(STATES, MASK, noise)
    turned = lambda tree: jax.tree.map(lambda x: x[::-1].copy(), tree)
    again = run(*(turned(x) for x in (STATES, MASK, noise)))
    jax.tree.map(np.testing.assert_array_equal, turned(again), found)
    # Half of the roots are replaced by others.
    half = lambda x, y: np.concatenate([x[:4], y[4:]])
    other = drawn(3)
    mixed = run(half(STATES, STATES[::-1]), MASK, jax.tree.map(half, noise, other))
    first = lambda tree: jax.tree.map(lambda x: x[:4], tree)
    jax.tree.map(np.testing.assert_array_equal, first(mixed), first(found))
    different = run(STATES, MASK, other)
    assert (different.visits != found.visits).any(), "noise must matter"


@pytest.mark.parametrize("method", ["puct", "gumbel"])
@pytest.mark.parametrize("dying", [0, 2])
def test_a_lost_life_is_worth_what_it_gives_and_not_the_fresh_life_behind_it(method: str, dying: int):
    """Three actions for ever: one loses the life, behind which a fresh one of value 10 begins, two keep 9."""
    setup = Search(simulations=30, method=method, gamma=0.997)

    def follow(action, node):
        dies = action == dying
        value = jnp.where(dies, 10.0, 9.0)
        return jnp.where(dies, 0.5, 0.0), 1.0 - dies, jnp.zeros((1, 3)), value, node

    start = jnp.zeros((1, 3)), jnp.array([9.0]), jnp.zeros(1)
    found = jax.jit(lambda: search.search(setup, follow, *start, jnp.ones((1, 3), bool), None))()
    assert found.action[0] != dying and found.policy[0, dying] < 0.2
    if found.visits[0, dying]:
        np.testing.assert_allclose(found.q[0, dying], 0.5, rtol=1e-6)


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_share_of_noise_temperature_and_exploration_are_puct_s_alone(method: str):
    """So that gumbel's actions are drawn when they are scored by samples as they are in training."""
    follow = lambda action, node: (action * 1.0, node, node[:, None] + jnp.zeros(3), node, node)

    def program(warmth: float, **keys: float) -> str:
        setup = Search(simulations=2, method=method, **keys)  # type: ignore[arg-type]
        noise = Noise(*jnp.ones((3, 1, 3)))
        start = jnp.zeros((1, 3)), jnp.zeros(1), jnp.ones(1)
        return str(jax.make_jaxpr(lambda: search.search(setup, follow, *start, MASK[:1], noise, warmth))())

    other = dict(fraction=0.0, c1=0.5, c2=0.5, alpha=0.5)
    assert (program(1.0) == program(0.25, **other)) == (method == "gumbel")


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_differences_far_below_the_value_range_teach_nothing(method: str):
    """Rewards of one step, drawn as noise of a given size, and nothing else: only large ones move the policy."""
    setup, actions = Search(simulations=24, method=method), 6
    start, mask = (jnp.zeros((1, actions)), jnp.zeros(1), jnp.zeros(1) - 1), jnp.ones((1, actions), bool)
    extra = None if method == "puct" else Noise(*jnp.zeros((3, 1, actions)))

    @quick
    def policy(size):
        reward = size * jax.random.uniform(jax.random.key(0), (actions,))
        nothing = lambda node: 0 * node
        follow = lambda action, node: (
            jnp.where(node < 0, reward[action], 0.0),
            nothing(node),
            jnp.zeros((1, actions)),
            nothing(node),
            nothing(node),
        )
        return search.search(setup, follow, *start, mask, extra).policy.max()

    assert policy(1e-4) < 0.25 and policy(1.0) > 0.4


def by_the_rule(setup: Search, state: int, mask: np.ndarray, noise: Noise, qs: np.ndarray) -> np.ndarray:
    """Visits [A] of one root of the table by the rule of docs/scalezero.md, written with lists."""
    softmax = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    prior = (1 - setup.fraction) * softmax(np.where(mask, 0.0, -1e9)) + setup.fraction * noise.dirichlet
    edges: list[dict] = []  # of the tree, all that were tried
    node = lambda state, prior, raw: dict(state=state, prior=prior, raw=raw, value=raw, visits=1, below={})
    root = node(state, prior, 0.0)

    def choose(at: dict) -> int:
        worth = lambda edge: edge["reward"] + GAMMA * edge["to"]["value"]
        known = {a: worth(edge) for a, edge in at["below"].items()}
        mean = (at["raw"] + sum(known.values())) / (1 + len(known))
        low, high = (min(map(worth, edges)), max(map(worth, edges))) if edges else (0.0, 0.0)
        c = setup.c1 + np.log((at["visits"] + setup.c2 + 1) / setup.c2)
        score = np.full(ACTIONS, -np.inf)
        for a in np.flatnonzero(mask):
            scaled = (known.get(a, mean) - low) / max(high - low, setup.value_range) if edges else 0.0
            count = at["below"][a]["count"] if a in known else 0
            score[a] = min(max(scaled, 0), 1) + at["prior"][a] * c * np.sqrt(at["visits"]) / (1 + count)
        return int((score + 1e-6 * noise.ties).argmax())

    for _ in range(setup.simulations):
        path, at = [], root
        while not path or path[-1][1]["count"]:
            a = choose(at)
            if a not in at["below"]:
                s = FOLLOWING[at["state"], a]
                seen = np.where(mask, np.maximum(10 * qs[s], -1e9), -1e9)
                made = dict(reward=float(REWARD[at["state"], a]), count=0, to=node(s, softmax(seen), qs[s].max()))
                at["below"][a] = made
                edges.append(made)
            path.append((at, at["below"][a]))
            at = at["below"][a]["to"]
        gain = path[-1][1]["to"]["value"]
        for parent, edge in reversed(path):
            gain = edge["reward"] + GAMMA * gain
            parent["value"] = (parent["value"] * parent["visits"] + gain) / (parent["visits"] + 1)
            parent["visits"] += 1
            edge["count"] += 1
    return np.array([root["below"].get(a, {"count": 0})["count"] for a in range(ACTIONS)])


@pytest.mark.parametrize("seed", [4, 5])
def test_every_visit_is_the_rule_s(seed: int):
    noise, run = drawn(seed), searching("puct", 15)
    noise = noise._replace(ties=np.float32(noise.ties.argsort(-1).argsort(-1)))  # further apart than rounding
    for informed in (False, True):
        found = run(STATES, MASK, noise, informed=informed)
        qs = QS if informed else np.zeros_like(QS)
        setup = Search(simulations=15, gamma=GAMMA)
        each = [by_the_rule(setup, STATES[i], MASK[i], Noise(*(x[i] for x in noise)), qs[i]) for i in range(ROOTS)]
        np.testing.assert_array_equal(found.visits, each)


def test_actions_are_drawn_by_visits_at_their_temperature():
    roots, prior = 4000, np.log([0.6, 0.3, 0.1])
    setup = Search(simulations=10, fraction=0.0)
    nothing = lambda *shape: jnp.zeros((roots, *shape))
    follow = lambda action, node: (nothing(), nothing() + 1, nothing(3), nothing(), node)
    gumbel = jax.random.gumbel(jax.random.key(0), (roots, 3))
    noise, mask = Noise(nothing(3), nothing(3), gumbel), jnp.ones((roots, 3), bool)
    start = nothing(3) + prior, nothing(), nothing()
    run = quick(lambda warmth: search.search(setup, follow, *start, mask, noise, warmth))
    for warmth in (1.0, 0.5, 0.25):
        found = run(warmth)
        assert (found.visits == found.visits[0]).all() and found.visits[0].min() > 0
        expected = np.asarray(found.visits[0], np.float64) ** (1 / warmth)
        share = np.bincount(found.action, minlength=3) / roots
        np.testing.assert_allclose(share, expected / expected.sum(), atol=0.03)


@pytest.mark.slow
def test_with_few_simulations_gumbel_tries_what_puct_never_sees():
    """18 actions, no prior, 12 simulations, rewards of one step that deviate by 0.1: figures of docs/scalezero.md."""
    roots, actions = 512, 18
    reward = jax.random.normal(jax.random.key(0), (roots, actions)) / 10
    mask = jnp.ones((roots, actions), bool)

    def found(method: str) -> tuple[float, float]:
        setup = Search(simulations=12, method=method)
        extra = search.noise(setup, jax.random.key(1), mask[0], roots)
        zeros = lambda *shape: jnp.zeros((roots, *shape))

        def follow(action, node):
            return (
                jnp.where(node < 0, reward[jnp.arange(roots), action], 0.0),
                zeros(),
                zeros(actions),
                zeros(),
                node * 0,
            )

        @functools.partial(jax.jit, compiler_options=xla.options("cpu", often=True))
        def run():
            return search.search(setup, follow, zeros(actions), zeros(), zeros() - 1, mask, extra)

        it = run()
        favourite = np.asarray(it.policy).argmax(-1) == np.asarray(reward).argmax(-1)
        return float((it.visits > 0).sum(-1).mean()), float(favourite.mean())

    puct, gumbel = found("puct"), found("gumbel")
    assert puct[0] < 4 < 11 < gumbel[0]
    assert puct[1] < 0.2 < 0.6 < gumbel[1]


def test_noise_is_a_distribution_over_what_exists():
    noise = drawn(4)
    np.testing.assert_allclose(noise.dirichlet.sum(-1), 1, rtol=1e-5)
    assert not noise.dirichlet[~MASK].any() and (noise.ties < 1).all()


def test_the_temperature_falls_in_a_line():
    setup = Search(temperature=0.25, temperature_start=1.0, temperature_updates=100)
    at = [float(search.temperature(setup, update)) for update in (0, 50, 100, 1000)]
    np.testing.assert_allclose(at, [1.0, 0.625, 0.25, 0.25])
    assert float(search.temperature(Search(), 0)) == 0.25
