"""How commands find their experiment file, and end where jax has no device or nothing draws."""

from __future__ import annotations

import pytest
from processes import ROOT, TINY, refused, run

from mow_jax import command
from mow_jax.types import BadInput


@pytest.mark.parametrize("variant", ["", ":one"])
def test_an_experiment_is_found_here_first_then_among_the_project_s(tmp_path, monkeypatch, variant):
    monkeypatch.chdir(tmp_path)
    own = f"experiments/toy.py{variant}"
    assert command.experiment_file(own) == f"{ROOT / 'experiments/toy.py'}{variant}"
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/toy.py").touch()
    assert command.experiment_file(own) == own
    (tmp_path / "mine.py").touch()
    assert command.experiment_file(f"mine.py{variant}") == f"mine.py{variant}"


TYPOS = {
    "experiments/toi.py": "did you mean experiments/toy.py?",
    "experiments/toy": "did you mean experiments/toy.py?",
    "toy.py": "did you mean experiments/toy.py?",
    "experiments/toy.yp:one": "did you mean experiments/toy.py?",
    "experiment/metaworld_mt5.py": "did you mean experiments/metaworld_mt50.py?",
    "/nowhere/atari62.py:x": "did you mean experiments/atari26.py?",
    "experiments": "choose from experiments/ablations.py",
    "": "choose from experiments/ablations.py",
    "../experiments/qqqq.py": "choose from experiments/ablations.py",
}


@pytest.mark.parametrize("given", TYPOS)
def test_a_file_that_does_not_exist_is_named_with_the_nearest_one(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as refusal:
        command.experiment_file(given)
    message = str(refusal.value)
    assert f"--config={given}:" in message and str(tmp_path) in message and TYPOS[given] in message


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections loads the file so
@pytest.mark.parametrize("file", sorted(path.name for path in command.EXPERIMENTS.glob("*.py")))
def test_a_variant_that_an_experiment_does_not_have_is_refused(file):
    with pytest.raises(BadInput) as refusal:
        command.settings([f"--config=experiments/{file}:wohle/Pong"])
    message = str(refusal.value)
    assert file in message or "wohle" in message, message
    assert "known: " in message or "no variants" in message, message
    assert "Traceback" not in message and "Error" not in message, message


def test_every_form_of_the_flag_is_looked_up_and_no_other(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = str(ROOT / "experiments/toy.py")
    given = [
        "x",
        "--config=experiments/toy.py",
        "-config",
        "experiments/toy.py",
        "--config.seed=1",
        "--",
        "--config=no",
    ]
    expected = ["x", f"--config={found}", "-config", found, "--config.seed=1", "--", "--config=no"]
    assert command._with_experiment(given) == expected
    assert command._with_experiment(["x", "--config"]) == ["x", "--config"]  # the parser says that it wants a value


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train", "sweep"])
def test_commands_refuse_a_file_that_does_not_exist(module, tmp_path):
    output = refused(module, "--config=experiments/demmo.py", f"--workdir={tmp_path / 'run'}")
    assert "experiments/demmo.py" in output and "did you mean experiments/demo.py?" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "cpu,nope", "CPU"])
def test_a_platform_that_is_not_there(platforms, tmp_path):
    workdir = tmp_path / "run"
    output = refused("train", f"--config={TINY}", f"--workdir={workdir}", JAX_PLATFORMS=platforms)
    assert f"JAX_PLATFORMS={platforms!r}" in output and "JAX_PLATFORMS=cpu" in output and not workdir.exists()
    assert platforms in refused("train", f"--config={TINY}", "--dry_run", JAX_PLATFORMS=platforms)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_renderer_that_is_not_there(workers, tmp_path):
    arguments = [f"--config={TINY}:metaworld", f"--workdir={tmp_path / 'run'}", f"--config.actors.workers={workers}"]
    output = refused("train", *arguments, MUJOCO_GL="nope")
    assert "MUJOCO_GL=nope" in output and "unset MUJOCO_GL" in output and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_reports_are_drawn_whatever_the_display(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nope")
    run("train", f"--config={TINY}", f"--workdir={tmp_path}")
    (tmp_path / "report" / "index.html").unlink()
    run("report", f"--workdir={tmp_path}")
    assert (tmp_path / "report" / "index.html").exists()
