"""What can be known before a run starts is refused then: one message, and the workdir as it was."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import resource
import runpy
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mow_jax import checks, config, preflight, summary, train, workdir
from mow_jax.envs import renderers
from mow_jax.types import BadInput

TINY = Path(__file__).parent / "configs" / "tiny.py"
# Texts that the suites or preflight judge, not a list of choices.
FREE_TEXT = {"system", "suite.name", "train.init_from", "clustering.table", "log.wandb", "suite.atari.protocol"}
FREE_TEXT |= {f"suite.metaworld.{key}" for key in ("camera", "turn", "render_quality", "reward_version", "goal_order")}


def tiny(changes: dict | None = None):
    settings = runpy.run_path(str(TINY))["get_config"]()
    settings.update_from_flattened_dict(changes or {})
    return settings


def refused(changes: dict, directory: Path, parts: list[str]) -> None:
    """The run is refused with all `parts` in the message, and leaves no folder."""
    with pytest.raises(BadInput) as refusal:
        train.train(tiny(changes), directory, [])
    assert all(part in str(refusal.value) for part in parts), refusal.value
    assert not directory.exists()


SYSTEMS = [module.name for module in pkgutil.iter_modules(config.__path__)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_number_has_one_range_and_every_text_its_choices(system: str):
    own = config.of_system(system)
    ranged = " ".join([*config.RANGES.values(), *own.RANGES.values()]).split()
    assert len(ranged) == len(set(ranged))
    numbers, texts = set(), set()
    for key, value in checks.flat(config.default(system)).items():
        if isinstance(value, str):
            texts.add(key)
        elif not isinstance(value, bool) and key != "suite.tasks":
            numbers.add(key)
    assert numbers == set(ranged) | {"suite.image_size"}
    endless = [keys for interval, keys in (config.RANGES | own.RANGES).items() if "inf" in interval]
    assert endless in ([], ["stages.target"])
    assert texts - FREE_TEXT == (config.CHOICES | own.CHOICES).keys() - {"suite.image_size"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.ratio", float("nan")),
        ("train.ratio", float("inf")),
        ("agent.gamma", 1.5),
        ("agent.lambda_", 2.0),
        ("agent.unimix", 2.0),
        ("agent.unimix", 1.0),
        ("model.dropout", -0.1),
        ("loss.reward", float("nan")),
        ("loss.dyn", -1.0),
        ("evaluation.max_steps", -5),
        ("model.head_width", 0),
        ("agent.width", -3),
        ("checkpoint.milestones", ("a",)),
        ("checkpoint.milestones", (16, 2.5)),
        ("checkpoint.milestones", (-1,)),
        ("checkpoint.milestones", (True,)),
        ("suite.metaworld.camera_position", (0.0, float("inf"), 1.0)),
        ("suite.metaworld.goals", 0),
        ("suite.gymnasium.max_steps", -1),
        ("suite.atari.sticky", 1.5),
        ("router.tau_end", 0.0),
        ("router.anneal", 1.01),
        ("actors.workers", -2),
        ("actors.timeout", 0.0),
        ("seed", 2**31),
        ("evaluation.seed", -1),
        ("optimizer.agent_eps", float("-inf")),
        ("train.ratio", 1e308),
        ("train.ratio", 2e6),
        ("train.steps", 10**400),
        ("train.schedule_steps", 10**400),
        ("warmup.updates", 2**31),
        ("checkpoint.every", 10**12),
        ("checkpoint.milestones", (16, 10**30)),
        ("actors.timeout", 1e7),
        ("actors.timeout", 2147484.0),
        ("batch.sequences", 10**18),
        ("model.width", 10**9),
        ("model.layers", 10**5),
        ("suite.metaworld.goals", 10**9),
        ("optimizer.world_clip", 1e38),
    ],
)
def test_a_number_out_of_its_range_is_refused(key: str, value, tmp_path):
    refused({key: value}, tmp_path / "run", [f"{key}={value!r}", " in "])


@pytest.mark.parametrize(
    ("system", "key", "value"),
    [
        ("scalezero", "search.simulations", 10**12),
        ("scalezero", "stages.first", 2**33),
        ("scalezero", "model.vit_layers", 10**6),
        ("m3po", "planner.samples", 10**12),
        ("m3po", "planner.iterations", 10**6),
        ("m3po", "model.log_std_max", 1e3),
        ("m3po", "discount.divisor", 1e300),
    ],
)
def test_other_systems_numbers_end_too(system: str, key: str, value):
    made = config.default(system)
    made.update_from_flattened_dict({key: value})
    with pytest.raises(BadInput, match=re.escape(f"{key}={value!r} is not allowed")):
        config.check(made)


def test_the_ends_of_a_range_are_in_it_or_not_as_written():
    for interval, inside, outside in (
        ("[0, 1)", (0, 0.999), (1, -1e-9)),
        ("(0, inf)", (1e-300, 1e300), (0, float("inf"))),
        ("[-1, 3]", (-1, 3), (3.001, float("nan"), True)),
        ("whole [1, inf)", (1, 10**12), (0, 1.0)),
    ):
        for number in inside:
            checks.numbers(ConfigDict({"x": number}), {interval: "x"})
        for number in outside:
            with pytest.raises(BadInput):
                checks.numbers(ConfigDict({"x": number}), {interval: "x"})


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"suite.tasks": ("catch", "gird")}, ["gird", "grid"]),
        ({"suite.tasks": (1,)}, ["(1,)", "names"]),
        ({"suite.tasks": ()}, ["empty"]),
        ({"suite.name": "toys"}, ["toys", "toy"]),
        ({"suite.name": "tasks"}, ["unknown suite 'tasks'"]),
        ({"suite.name": "image_size", "suite.tasks": ("catch",)}, ["unknown suite 'image_size'", "choose from atari"]),
        ({"suite.name": "observation"}, ["unknown suite 'observation'"]),
        ({"suite.name": ""}, ["unknown suite ''", "choose from atari"]),
        ({"clustering.table": "{no json"}, ["cannot be read as a task table"]),
        ({"clustering.table": "[1, 2]"}, ["cannot be read as a task table"]),
        ({"clustering.table": '{"tasks": ["catch"], "cluster": [0], "experts": [[0]]}'}, ["no row for grid"]),
        (
            {"clustering.table": '{"tasks": ["catch", "grid"], "cluster": [0, 2], "experts": [[0], [1]]}'},
            ["0..1", "[0, 2]"],
        ),
        (
            {"clustering.table": '{"tasks": ["catch", "grid"], "cluster": [0, 1], "experts": [[0, 1], [1, 0]]}'},
            ["experts", "(2, 1)"],
        ),
        ({"clustering.table": "/nowhere/clusters.json"}, ["/nowhere/clusters.json"]),
        ({"router.mode": "learnt"}, ["learnt", "learned, table"]),
        ({"suite.image_size": 50}, ["50", "16, 32, 64, 128"]),
        ({"model.heads": 3}, ["model.heads=3", "16"]),
        ({"train.steps": 65}, ["65", "64", "66"]),
        ({"warmup.steps": 4}, ["warmup.steps=4", "16"]),
        ({"train.init_from": "nothing"}, ["nothing", "config.json"]),
        ({"train.steps": 2 * 10**9}, ["replay", "replay.capacity"]),
        ({"warmup.updates": 2**31 - 1}, ["updates", "2147483647", "lower"]),
        ({"train.schedule_steps": 10**9, "train.ratio": 9.5}, ["train.ratio=9.5", "4.75e+09 updates"]),
        ({"train.schedule_steps": 24}, ["train.schedule_steps=24", "more than warmup.steps=24", "0 for train.steps"]),
        ({"train.schedule_steps": 3, "train.ratio": 0.1}, ["train.schedule_steps=3"]),
        ({"suite.image_size": 128, "batch.sequences": 10**6}, ["an update draws", "GB of replay", "config.batch"]),
        ({"suite.image_size": 128, "agent.contexts": 10**6}, ["an update draws", "memory"]),
        ({"suite.name": "metaworld", "suite.tasks": ("push-v3",), "suite.metaworld.camera": "corner9"}, ["corner9"]),
        ({"evaluation.parallel": 10**9, "evaluation.episodes": 10**9}, ["memory", "evaluation.parallel"]),
    ],
)
def test_what_does_not_fit_is_refused_before_the_warm_up(changes: dict, parts: list[str], tmp_path):
    if (text := changes.get("clustering.table", "/")) and not text.startswith("/"):
        (tmp_path / "table.json").write_text(text)
        changes = {"clustering.table": str(tmp_path / "table.json")}
        parts = [*parts, "table.json"]
    refused(changes, tmp_path / "run", parts)


@pytest.mark.parametrize("text", ["x", "5", "4:0", "-1:3", "1:" + "9" * 5000, "40:4", "0:1000000"])
def test_a_profile_that_cannot_be_is_refused_first(text: str, tmp_path):
    with pytest.raises(BadInput, match=f"--profile={text[:5]}"):
        train.train(tiny(), tmp_path / "run", [], profile=text)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("there", ["", "raise AttributeError('np.float_ was\\nremoved')"])
def test_an_account_that_cannot_be_used_is_refused_first(there: str, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "wandb.py").write_text(there or "raise ImportError('no such package')")
    monkeypatch.syspath_prepend(tmp_path)
    refused({"log.wandb": "lab"}, tmp_path / "run", ["log.wandb is 'lab'", "pip install wandb", "Error: n"])


def test_a_renderer_or_simulator_that_is_missing_is_known_first(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(renderers, "_fault", lambda backend: f"no {backend} here")
    robots = {"suite.name": "metaworld", "suite.tasks": ("push-v3",)}
    refused(robots, tmp_path / "run", ["cannot render with MUJOCO_GL=osmesa (no osmesa here)"])
    monkeypatch.setitem(sys.modules, "metaworld", None)
    refused(robots, tmp_path / "run", ["metaworld cannot be imported", "mow_jax[metaworld]"])


@pytest.mark.parametrize("given", [None, ""])
def test_a_workdir_without_a_name_is_none(given):
    with pytest.raises(BadInput, match="--workdir=DIR"):
        workdir.settle(tiny(), given, dry_run=False)
    with pytest.raises(BadInput, match="--workdir=DIR"):
        workdir.settle(None, given, dry_run=True)
    assert workdir.settle(tiny(), given, dry_run=True)[1] == Path("runs")  # where sizes are told, nothing is written


def test_a_source_without_a_checkpoint_is_refused_before_anything_runs(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    workdir.write(source, tiny())
    refused({"train.init_from": str(source)}, tmp_path / "run", [str(source), "no checkpoint"])


def test_a_resumed_run_needs_no_table_and_no_source(tmp_path):
    settings = tiny({"clustering.table": "gone.json", "train.init_from": "gone"})
    with pytest.raises(BadInput):
        preflight.check(settings, tmp_path)
    workdir.write(tmp_path, settings)
    tasks, _ = preflight.check(settings, tmp_path)
    assert [task.name for task in tasks] == ["catch", "grid"]


def test_a_folder_without_a_config_belongs_to_nobody(tmp_path):
    with workdir.claim(tmp_path / "run", tiny(), ()):
        pass  # the run could not begin
    agreed = workdir.agree(tmp_path / "run", tiny({"seed": 5}), ())
    workdir.write(tmp_path / "run", agreed)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 5
    with pytest.raises(BadInput, match="seed: 5 -> 0"):
        workdir.agree(tmp_path / "run", tiny(), ())


def test_what_a_start_that_failed_has_left_is_the_runs_own(tmp_path):
    for name in ("replay", "tensorboard", "wandb"):
        (tmp_path / name).mkdir()
    for name in (".lock", "metrics.jsonl", "config.tmp"):
        (tmp_path / name).write_text("")
    workdir.agree(tmp_path, tiny(), ())
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match=r"other things \('thesis.tex'\)"):
        workdir.agree(tmp_path, tiny(), ())


LOST = {
    "metrics alone": (["metrics.jsonl"], []),
    "results alone": (["results.json"], []),
    "both, as in a repository": (["metrics.jsonl", "results.json"], []),
    "a save that was never complete": (["metrics.jsonl"], ["temporary-40", "temporary-old-24"]),
    "a checkpoint under another name": (["metrics.jsonl"], ["kept-40"]),
}


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("case", LOST)
def test_the_records_of_a_run_without_its_checkpoints_are_not_begun_over(case: str, configured: bool, tmp_path):
    records, folders = LOST[case]
    if configured:
        workdir.write(tmp_path, tiny())
    for name in records:
        (tmp_path / name).write_text('{"step": 40}\n')
    for name in ("replay", *(f"checkpoints/{folder}" for folder in folders)):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "replay" / "0.rows").write_text("rows")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = "holds other things" if "results.json" in records and not configured else "bring its checkpoints folder back"
    with pytest.raises(BadInput, match=said):
        train.train(tiny(), tmp_path, [])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("", []),
        ("", ["temporary-24"]),
        ("{}\n", ["24"]),
        ("{}\n", ["replaced-24", "temporary-24"]),
        ("{}\n", ["damaged-24-1"]),
    ],
)
def test_a_run_killed_before_its_first_checkpoint_or_in_a_save_is_not_taken_for_one_that_lost_them(
    text: str, folders: list[str], tmp_path
):
    workdir.write(tmp_path, tiny())
    (tmp_path / "metrics.jsonl").write_text(text)
    for name in folders:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    workdir.agree(tmp_path, tiny(), ())


def test_a_config_that_cannot_be_written_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        with pytest.raises(BadInput, match="config.json: File too large"):
            workdir.write(tmp_path, tiny())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_before_a_key_goes_on_as_it_began(tmp_path, monkeypatch):
    """By the command that began it, whatever the key's default is; another value is refused or allowed as ever."""
    workdir.write(tmp_path, tiny())
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["optimizer"]["world_update_clip"], saved["agent"]["unimix"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    agreed = workdir.agree(tmp_path, tiny(), ())
    assert (agreed.optimizer.world_update_clip, agreed.agent.unimix) == (0.0, 0.0)
    agreed = workdir.agree(tmp_path, tiny(), ("optimizer",))
    assert (agreed.optimizer.world_update_clip, agreed.agent.unimix) == (1.0, 0.0)
    with pytest.raises(BadInput, match="optimizer.world_update_clip: 0.0 -> 0.5"):
        workdir.agree(tmp_path, tiny({"optimizer.world_update_clip": 0.5}), ())
    monkeypatch.setattr("sys.argv", ["train", "--config.optimizer.world_update_clip=1.0"])
    with pytest.raises(BadInput, match="optimizer.world_update_clip: 0.0 -> 1.0"):
        workdir.agree(tmp_path, tiny(), ())


def test_a_schedule_that_is_given_is_taken_refused_or_allowed(tmp_path):
    agreed = lambda steps, schedule, allowed=(): workdir.agree(
        tmp_path, tiny({"train.steps": steps, "train.schedule_steps": schedule}), allowed
    )
    workdir.write(tmp_path, agreed(96, 0))
    assert agreed(200, 0).train.schedule_steps == agreed(200, 96).train.schedule_steps == 96
    with pytest.raises(
        BadInput, match=r"train.schedule_steps: 96 -> 120\n(.|\n)*--allow_config_change=train.schedule_steps"
    ):
        agreed(200, 120)
    workdir.write(tmp_path, agreed(200, 120, ("train.schedule_steps",)))
    assert agreed(300, 0).train.schedule_steps == 120


def test_a_run_of_random_steps_alone_has_the_schedule_of_its_steps(tmp_path):
    config.check(workdir.agree(tmp_path, tiny({"train.steps": 24}), ()))


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.ratio", 0.25), ("train.ratio", 0), ("train.burst", 5), ("warmup.steps", 26), ("warmup.updates", 0)],
)
def test_what_updates_are_counted_by_stays_once_a_run_has_saved(key: str, value, tmp_path):
    """By the first step: at another ratio thousands of updates would be due at once, or none until the run ends."""
    workdir.write(tmp_path, tiny())
    for allowed in ((key,), ("train", "warmup"), (key, "seed")):
        assert workdir.agree(tmp_path, tiny({key: value, "seed": 3}), (*allowed, "seed")).seed == 3
    (tmp_path / "checkpoints" / "24").mkdir(parents=True)
    for allowed in ((), (key,), ("train", "warmup")):
        with pytest.raises(BadInput) as refusal:
            workdir.agree(tmp_path, tiny({key: value}), allowed)
        said = str(refusal.value)
        assert f"{key}: " in said and f"-> {value}" in said and f"train.init_from={tmp_path}" in said
        assert "--allow_config_change=" not in said, "no way that would be refused again"
    workdir.agree(tmp_path, tiny({"train.steps": 96, "optimizer.world_lr": 1e-5}), ("optimizer",))


def test_files_that_go_while_they_are_counted_are_no_error(tmp_path, monkeypatch):
    """As where another run deletes a checkpoint: one file goes once it has been looked at, one just before."""
    run, look = tmp_path / "run", os.stat
    (run / "checkpoints" / "8").mkdir(parents=True)
    (run / "checkpoints" / "8" / "arrays").write_bytes(bytes(300))
    (run / "checkpoints" / "8" / "manifest").write_bytes(bytes(50))

    def deleting(path, **options):
        found = look(path, **options) if Path(path).name == "arrays" else None
        if Path(path).name in ("arrays", "manifest"):
            os.unlink(path)
        return found or look(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", deleting)
        assert summary.used(run) == 300
    assert summary.used(run) == summary.used(tmp_path / "none") == 0
