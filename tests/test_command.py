"""How commands find and run their experiment file, and end where a place cannot be used, jax has no device or nothing
draws."""

from __future__ import annotations

import errno
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from processes import ROOT, TINY, environment, finished, refused, run

from mow_jax import command, config, envs, evaluate, export, load, play, sweep, train, workdir
from mow_jax.report import __main__ as report
from mow_jax.types import BadInput, Step


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


# Of a file that has `default`: what get_config does in its last line, what the message says beside the line's number.
RAISING = {
    "[][3]": ["IndexError: list index out of range"],
    "raise KeyError('Pongg')": ["KeyError: Pongg"],
    "int('four')": ["ValueError: invalid literal", "'four'"],
    "b'\\xff'.decode()": ["UnicodeDecodeError", "0xff"],
    "open('/nowhere/sizes.json')": ["FileNotFoundError", "/nowhere/sizes.json"],
    "import no_such_module": ["ModuleNotFoundError: No module named 'no_such_module'"],
    "raise SystemExit(3)": ["SystemExit: 3"],
    "raise ValueError(\"'a' is not 'b'\")": ["ValueError: 'a' is not 'b'"],
    "raise StopIteration": ["StopIteration"],
    "raise Exception('one\\ntwo\\n\\nthe end\\n')": ["Exception: the end"],
    "raise type('Own', (BaseException,), {})('x' * 9999)": ["Own: xxx", "x ..."],
    "(again := lambda: again())()": ["RecursionError"],
    "config.model.width = 'wide'": ["TypeError", "wide", "<class 'int'>"],
    "config.modell.width = 3": ['AttributeError: \'modell\'. Did you mean "model" instead of "modell"?'],
    "default('nope')": ["config.system='nope' is not allowed"],
    "__import__('ast').literal_eval('1 +')": ["SyntaxError", "<unknown>"],
}


def mistaken(text: str | bytes, directory: Path, variant: str = "") -> str:
    """The one line that refuses a file of this text, without what it says of the file."""
    file = directory / "mine.py"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BadInput) as refusal:
        command.settings([f"--config={file}{variant}", "--config.seed=3"])
    message = str(refusal.value)
    start = f"--config={file}{variant}"
    assert message.startswith(start) and "\n" not in message and "Traceback" not in message, message
    return message.removeprefix(start)


@pytest.mark.parametrize("last", RAISING)
def test_whatever_an_experiment_file_raises_is_one_line_with_its_place(last, tmp_path):
    text = f"from mow_jax.config import default\n\n\ndef get_config():\n    config = default()\n    {last}\n"
    said = mistaken(text, tmp_path)
    assert said.startswith(", line 6: ") and all(part in said for part in RAISING[last]) and len(said) < 500, said


@pytest.mark.parametrize(
    ("text", "variant", "said"),
    [
        ("x = 1\ndef get_config(:\n", "", ", line 2: SyntaxError: invalid syntax"),
        ("\n\n  x = 1", "", ", line 3: IndentationError: unexpected indent"),
        (b"# \xc3\xa9\nx = '\xff'\n", "", "SyntaxError: (unicode error)"),
        (b"x = 1\n\0", "", "source code string cannot contain null bytes"),
        ("raise OSError('gone')", "", ", line 1: OSError: gone"),
        ("", "", ": it has no function get_config()"),
        ("get_config = 5", "", ": it has no function get_config()"),
        ("def get_config(): ...", "", ": get_config() returned NoneType, not a ConfigDict"),
        ("def get_config(): return 'toy'", "", ": get_config() returned str, not a ConfigDict"),
        (
            "from ml_collections import FrozenConfigDict as get_config",
            "",
            ": get_config() returned FrozenConfigDict, not a ConfigDict",
        ),
        ("def get_config(): ...", ":one", ": this experiment has no variants, leave out the colon"),
        ("def get_config(size): ...", "", ": this experiment has variants only, name one"),
        ("def get_config(size):\n    return {}[size]", ":one", ", line 2: KeyError: one"),
    ],
)
def test_a_file_that_is_no_experiment_is_one_line(text, variant, said, tmp_path):
    assert said in mistaken(text, tmp_path, variant)


def test_what_an_experiment_file_prints_or_imports_is_its_own_affair(tmp_path, capsys):
    file = tmp_path / "mine.txt"  # of any name
    lines = ["from __future__ import annotations", "import dataclasses, pathlib", "from mow_jax.config import default"]
    lines += ["@dataclasses.dataclass", "class Sizes:", "    width: int = 32", "print(pathlib.Path(__file__).name)"]
    lines += ["def get_config(variant='7'):", "    config = default()", "    config.seed = int(variant)"]
    lines += ["    config.model.width = Sizes().width", "    return config"]
    file.write_text("\n".join(lines))
    found = command.settings([f"--config={file}:12", "--config.train.steps=96"])
    assert (found.seed, found.model.width, found.train.steps, found.is_locked) == (12, 32, 96, True)
    assert capsys.readouterr().out == "mine.txt\n"
    with pytest.raises(BadInput, match="widht"):
        command.settings([f"--config={file}", "--config.model.widht=3"])


def without(key: str) -> ConfigDict:
    found = config.default()
    with found.unlocked():
        del found[key]
    return found


def dangling() -> ConfigDict:
    found = config.default()
    found.seed = 1
    found.train.steps = 64 // found.get_ref("seed")
    found.seed = 0
    return found


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (lambda: ConfigDict({"width": 3}), "config.system is missing"),
        (lambda: ConfigDict({"system": 3}), "config.system is missing"),
        (lambda: ConfigDict({"system": "mow"}), "other keys"),
        (lambda: without("system"), "config.system is missing"),
        (lambda: without("evaluation"), "evaluation.actions"),
        (dangling, "ZeroDivisionError"),
    ],
)
def test_a_config_of_other_keys_is_refused_before_any_is_read(made, part, tmp_path):
    with pytest.raises(BadInput, match=part):
        workdir.settle(made(), str(tmp_path / "run"), dry_run=False)


@pytest.mark.slow
def test_a_file_that_ends_the_program_is_refused_by_the_command(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\n\ndef get_config():\n    sys.exit()\n")
    output = refused("train", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
    assert "mine.py, line 4: SystemExit" in output and not (tmp_path / "run").exists()


# --- Places that cannot be used ---------------------------------------------------------------------------------------


def told(main, capsys) -> str:
    """The one line with which a command ends."""
    assert command.guarded(main) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message


def looped(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def filed(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "below"


@pytest.mark.parametrize(
    ("place", "use", "advice"),
    [
        (lambda folder: folder / "absent", Path.read_text, "restore it"),
        (lambda folder: folder / ("n" * 256), Path.touch, "name a shorter one"),
        (lambda folder: folder, Path.read_bytes, "a file is needed"),
        (filed, Path.mkdir, "a part of this path is a file"),
        (filed, lambda place: place.with_name("new").rename(place), "a part of this path is a file"),
        (looped, os.listdir, "name another place"),
        (lambda folder: bytes(folder / "absent"), os.rmdir, "restore it"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line_with_what_to_do(place, use, advice, tmp_path, capsys):
    message = told(lambda: use(place(tmp_path)), capsys)
    assert str(tmp_path) in message and "cannot be used" in message and advice in message


@pytest.mark.parametrize(
    "bug",
    [
        lambda: os.close(9999),
        lambda: os.fdopen(9999),
        lambda: (_ for _ in ()).throw(OSError("no more")),
        lambda: (Path(command.__file__).parent / "gone.json").read_text(),
        lambda: os.scandir(Path(command.__file__).parent / "report" / ".." / "envs" / "gone"),
    ],
)
def test_a_mistake_of_the_program_s_own_keeps_its_traceback(bug):
    with pytest.raises(OSError):
        command.guarded(bug)


def tiny() -> ConfigDict:
    return runpy.run_path(str(ROOT / TINY))["get_config"]()


COMMANDS = {
    "train": lambda place: train.train(tiny(), Path(place), []),
    "evaluate": lambda place: evaluate.main(Path(place), None, None, None, False),
    "evaluate --out": lambda place: evaluate.main(Path("run"), Path(place), None, None, False),
    "export, play": lambda place: load.restore(Path(place)),
    "export --out": lambda place: export.write(Path(place), tiny(), NO_LEARNER, 1),  # type: ignore[arg-type]
    "report": lambda place: report.main([f"--workdir={place}"]),
    "report --compare": lambda place: report.main([f"--compare={place}"]),
    "report --reproduce": lambda place: report.main([f"--reproduce={place}"]),
    "report --scores": lambda place: report.main([f"--scores={place}"]),
    "sweep": lambda place: sweep.main([f"--config={ROOT / TINY}", "--jobs=0", f"--workdir={place}"]),
    "sweep --config": lambda place: sweep.main([f"--config={place}", "--jobs=0", "--workdir=sweep"]),
}
NO_LEARNER = SimpleNamespace(snapshot=lambda: None, system=None)
PLACES = [(called, kind) for called in COMMANDS for kind in ("long", "forbidden", "below a file")]
PLACES.remove(("train", "below a file"))  # found by its lock, after seconds: test_bad_input.py


@pytest.mark.parametrize(("called", "kind"), PLACES)
def test_every_command_says_in_one_line_that_a_place_cannot_be_used(called, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "arrays", lambda *_: {})
    (tmp_path / "letter").write_text("dear")
    place = {"long": "n" * 300, "forbidden": "secret/run", "below a file": "letter/run"}[kind]
    forbid = lambda call: (
        lambda path, *args, **options: refuse(path) if str(path).startswith("secret") else call(path, *args, **options)
    )
    for name in ("stat", "mkdir") if kind == "forbidden" else ():
        monkeypatch.setattr(os, name, forbid(getattr(os, name)))
    message = told(lambda: COMMANDS[called](place), capsys)
    assert place[:6] in message and (tmp_path / "letter").read_text() == "dear"


def refuse(path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


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
    shutil.copytree(finished(), tmp_path / "run")
    (tmp_path / "run" / "report" / "index.html").unlink()
    run("report", f"--workdir={tmp_path / 'run'}")
    assert (tmp_path / "run" / "report" / "index.html").exists()


HEADERS = {
    "a number": np.float64(3),
    "no JSON": np.frombuffer(b"{", np.uint8),
    "no text": np.frombuffer(b"\xff\xfe", np.uint8),
    "a list": np.frombuffer(b"[1]", np.uint8),
    "other names": np.frombuffer(b'{"weights": 1}', np.uint8),
    "no number": np.frombuffer(b'{"format": "1", "config": {}, "step": 1}', np.uint8),
}


@pytest.mark.parametrize("case", [*HEADERS, "one array", "one array of a number", "no header"])
def test_a_file_of_arrays_that_is_no_agent_is_said_to_be_none(case: str, tmp_path):
    file = tmp_path / "agent.npz"
    with file.open("wb") as opened:
        if case.startswith("one array"):
            np.save(opened, np.float32(1) if case.endswith("number") else np.zeros((2, 3), np.uint8))
        else:
            np.savez(opened, **{"header": HEADERS[case]} if case in HEADERS else {"weights": np.zeros(3)})
    for ask in (load.settings, load.load_agent, lambda path: load.make_env(path, "catch")):
        with pytest.raises(BadInput, match=r"agent.npz is no exported agent, or a damaged one \(.*mow_jax.export"):
            ask(file)


class Seeds:
    """In the place of an environment and an agent: what they are begun with."""

    def __init__(self):
        self.environment, self.agent = list[int](), list[int]()
        self.tasks = envs.resolve("toy", ("catch",), {"image_size": 16})

    def reset(self, seed, more=None):
        (self.environment if more is None else self.agent).append(seed if more is None else more)
        return np.zeros((16, 16, 3), np.uint8)

    def act(self, frame, task):
        return 0

    def step(self, action):
        return Step(np.zeros((16, 16, 3), np.uint8), 0.0, True, False)


def test_the_seed_after_the_last_one_is_the_first():
    seeds = Seeds()
    stage = play.Stage(seeds, seeds, "catch", 2**32 - 2)
    for _ in range(3):
        stage.step(None)  # which ends
        stage.step(None)  # begins the next
    assert seeds.environment == [2**32 - 2, 2**32 - 1, 0, 1] and seeds.agent == [2**32 - 2, 2**32 - 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2**32, -1])
def test_a_seed_that_no_environment_takes_is_refused(seed: int):
    assert "seed" in refused("play", "--workdir=results/atari_cpu/agent.npz", "--task=Pong", f"--seed={seed}")


def test_a_locale_without_our_signs_ends_nothing(tmp_path: Path):
    """A table's dash in a terminal and files of ASCII: written whole, and printed as far as it can be."""
    code = (
        "from pathlib import Path; from mow_jax import command, sweep; table = Path('table.md');"
        "raise SystemExit(command.guarded(lambda: (sweep._put(table, '\\u2013 7\\n'),"
        " print(table.read_text(encoding='utf-8')))[0]))"
    )
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment() | plain, capture_output=True, check=False
    )
    assert done.returncode == 0 and done.stdout.strip() == b"? 7", done.stderr
    assert (tmp_path / "table.md").read_bytes() == "\u2013 7\n".encode()
