"""Advice while training: each failure is named once when it has come, healthy runs hear nothing, real runs hear it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable

import pytest
from processes import ROOT, finished, run

from mow_jax.advice import EXPERTS, RULES, Advice

Line = Callable[[int], dict[str, float]]  # the n-th line's numbers


def healthy(n: int) -> dict[str, float]:
    """A run that learns: losses fall, sigma follows, the return rises as the entropy falls."""
    loss = 1000.0 / (n + 1) + 5
    numbers = {"world/reconstruction/a": loss, "world/total/a": loss + 2, "harmony/a": loss + 3}
    numbers |= {"agent/entropy/a": 1.6 / (n + 1), "agent/return/a": 0.5 * n, "episode/a/return": float(n)}
    return numbers | {"evaluation/a/reward_correlation": 0.3 + 0.03 * n, "router/load/0": 1.0, "router/load/1": 0.5}


FAILURES: dict[str, Line] = {
    "One set of experts for all tasks": lambda n: {"router/load/1": 0.0},
    "Blurred reconstructions": lambda n: {"world/reconstruction/a": 1000.0 - n},
    "Rewards are not predicted": lambda n: {"evaluation/a/reward_correlation": -0.05},
    "Entropy collapse": lambda n: {"agent/entropy/a": 1.6 if n == 0 else 0.01, "episode/a/return": -1.0},
    "A solved task is forgotten, late": lambda n: {
        "agent/entropy/a": 1.0,
        "episode/a/return": 9.0 + 0.1 * (n % 2) if 4 < n < 12 else 2.0,
    },
    "Returns explode": lambda n: {"agent/return/a": -50.0 * n},
    "Harmonious weights run away": lambda n: {"harmony/a": 1.0 + 0.01 * n},
}


def heard(line: Line, lines: int = 20, warmup: int = 0, tasks=("a", "b"), **options: bool) -> list[str]:
    advice = Advice(list(tasks), warmup, **options)
    return [text for n in range(lines) for text in advice.look({"step": n, "update": n + 1, "seconds": 0.0, **line(n)})]


def test_a_run_that_learns_hears_nothing():
    assert heard(healthy) == []
    assert heard(lambda n: dict.fromkeys(healthy(n))) == []  # nulls of a run that skips updates


@pytest.mark.parametrize("section", FAILURES)
def test_a_failure_is_named_once(section: str):
    (said,) = heard(lambda n: healthy(n) | FAILURES[section](n))
    assert said.endswith(f"(docs/failures.md: {section})") and re.search(r"\b(of a|a was|expert 0)\b", said)
    assert f"\n## {section}\n" in (ROOT / "docs" / "failures.md").read_text()


def test_all_rules_are_tried_here():
    assert {rule.section for rule in (*RULES, EXPERTS)} == set(FAILURES)


def test_what_is_no_failure():
    alone = lambda **numbers: heard(lambda n: healthy(n) | {k.replace("__", "/"): v for k, v in numbers.items()})
    assert alone(router__load__0=1.0, router__load__1=1.0) == []  # all experts for all tasks
    assert alone(harmony__a=1.0) == []  # switched off
    taken = FAILURES["One set of experts for all tasks"]
    assert heard(lambda n: healthy(n) | taken(n), tasks=["a"]) == []  # a single task, which has but its own
    assert heard(lambda n: healthy(n) | {"world/reconstruction/a": 5.0}, fresh=False) == []  # began with weights
    assert heard(lambda n: healthy(n) | {"router/load/1": 0.0}, warmup=20) == []  # one expert's warm-up
    last = lambda n: {"router/load/1": 0.0 if n % 3 else 0.5}
    assert heard(lambda n: healthy(n) | last(n)) == []  # now and then
    assert heard(lambda n: healthy(n) | {"agent/entropy/a": -1.0, "episode/a/return": 0.0}) == []  # continuous actions


def test_a_return_is_forgotten_where_it_had_kept_and_stays_away():
    told = lambda *returns: len(heard(lambda n: {"episode/a/return": returns[n]}, len(returns)))
    rose, kept = [-5.0, -4.0, 1.0], [7.0, 7.2, 7.1]
    assert told(*rose, *kept, 0.0, 3.0, 2.0) == 1
    assert told(*rose, *kept, *kept, *[6.9] * 150, 0.0, 3.0, 2.0) == 1, "long after"
    assert told(*rose, *kept, 0.0, 3.0, 7.0, 2.0, 1.0) == 0, "for a line or two"
    assert told(*rose, *kept, 5.0, 6.0, 5.0) == 0, "not far"
    assert told(*rose, 9.0, 4.0, 7.0, 0.0, 2.0, 1.0) == 0, "no further than it had swayed"
    assert told(*rose, *kept, 0.0, 3.0) == 0, "too early to tell"
    assert told(*[0.0] * 6, -0.01, -0.02, -0.01) == told(*[-100.0] * 3, *[-150.0] * 100, *[-160.0] * 3) == 0, "no gain"
    assert told(0.0, 0.0, 1.0, *[8.0] * 6, 5.5, 5.5, 5.5) == 1 > told(0.0, 0.0, 1.0, *[8.0] * 6, 5.7, 5.7, 5.7)
    forgets = lambda n: {"episode/a/return": [0.0, 0.0, 1.0, *[8.0] * 6, 2.0, 2.0, 2.0][n]}
    assert len(heard(forgets, 12)) == 1 and heard(forgets, 12, fresh=False) == []


def test_the_only_evaluation_counts_where_it_is_at_the_end_of_a_long_run():
    blind = FAILURES["Rewards are not predicted"](0)

    def once(last: int, warmup: int = 0, seen: dict[str, float] = blind, **options: bool) -> list[str]:
        """What a run hears that is evaluated in its last line alone."""
        none = {"evaluation/a/reward_correlation": None}
        line = lambda n: healthy(n) | (seen if n == last else none)
        return heard(line, last + 1, warmup, **options)

    (said,) = once(12, once=True)
    assert said.endswith("(docs/failures.md: Rewards are not predicted)")
    assert once(12) == [], "another one is to come"
    assert once(6, once=True) == [], "it has hardly learned"
    assert once(18, warmup=15, once=True) == [], "most of it was the warm-up"
    assert once(12, seen={"evaluation/a/reward_correlation": 0.4}, once=True) == []


def test_lines_read_again_bring_it_to_where_it_was():
    """A resumed run reads its lines and says nothing again."""
    line = lambda n: healthy(n) | FAILURES["Returns explode"](n)
    lines = [{"step": n, "update": n + 1, **line(n)} for n in range(12)]
    first, again = Advice(["a"], 0), Advice(["a"], 0)
    assert len([text for each in lines for text in first.look(each)]) == 1
    for each in lines[:8]:
        again.look(each)
    assert [text for each in lines[8:] for text in again.look(each)] == []


@pytest.mark.long
def test_a_run_that_goes_wrong_in_many_ways_is_told_so(tmp_path):
    """A world model that does not learn, of rewards nothing, sigmas that stay behind, a greedy actor, all tasks on
    one expert."""
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"tasks": ["catch", "grid"], "cluster": [0, 1], "experts": [[0], [0]]}))
    changes = ["optimizer.world_lr=1e-9", "loss.harmony=zero", "optimizer.harmony_lr=1e-3", "loss.reward=0.0"]
    changes += ["optimizer.agent_lr=0.3", "agent.entropy=0.0", "agent.unimix=0.0", "model.zero_heads=True"]
    changes += ["router.experts=3", "router.mode=table", f"clustering.table={table}", "train.steps=240", "log.every=3"]
    changes += ["evaluation.every=80", "evaluation.max_steps=10"]
    tmp_path = tmp_path / "run"
    output = run(
        "train", "--config=tests/configs/tiny.py", f"--workdir={tmp_path}", *(f"--config.{c}" for c in changes)
    )
    said = re.findall(r"^advice: .*\(docs/failures.md: (.*)\)$", output, re.MULTILINE)
    assert len(set(said)) == len(said)
    assert set(FAILURES) - {"Returns explode", "A solved task is forgotten, late"} <= set(said), output
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    learned = [line for line in lines if "world/gradient_norm" in line]
    for before, line in itertools.pairwise(learned):
        if line["update"] - before["update"] == 3 and line["time/updates_per_second"]:
            flop = line["time/flop_per_second"] / line["time/updates_per_second"]
            assert flop > 1e6  # of one update, whichever it is


@pytest.mark.long
def test_a_run_whose_imagined_returns_explode_is_told_so(tmp_path):
    """Weights of a run that has hardly begun, of whose rewards the mean over all bins is read: it is thousands."""
    changes = [f"train.init_from={finished()}", "model.reward=mean", "train.steps=120", "log.every=3"]
    words = [f"--config.{change}" for change in changes]
    output = run("train", "--config=tests/configs/tiny.py", f"--workdir={tmp_path}", *words)
    assert re.search(r"^advice: .*\(docs/failures.md: Returns explode\)$", output, re.MULTILINE), output
