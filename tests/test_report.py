"""The report: known scores to four digits, every picture of a run, and one clear message for each kind of bad input."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import own_git

from mow_jax import checks, config, evaluate
from mow_jax.report import costs, curves, data, figures, plotting, scores, strips, tables
from mow_jax.report import page as pages
from mow_jax.report.__main__ import main

TASKS = ["Pong", "a:b/c|<i>$x$"]  # the second is what a Gymnasium id may look like, and worse
SIZE, LENGTH, START = 16, 6, 2


def film(task: int, count: int) -> np.ndarray:
    """[count, SIZE, SIZE, 3]: a bright dot that walks over a dark ground."""
    frames = np.full((count, SIZE, SIZE, 3), 40 * (task + 1), np.uint8)
    for moment in range(count):
        frames[moment, 5, 2 * moment % SIZE] = 250
    return frames


def lines() -> list[dict]:
    """metrics.jsonl of 20 updates: everything the report looks for, one value null."""
    entries = []
    for update in range(1, 21):
        entry = {"step": update * 10, "update": update, "seconds": 0.5 * update, "world/reconstruction": 900.0 / update}
        entry |= {"agent/entropy": None if update == 3 else 1.0, "router/switches": 20 - update}
        entry |= {f"router/load/{expert}": 0.5 for expert in range(3)}
        for task in TASKS:
            entry |= {f"harmony/{task}": 1000.0 / update, f"episode/{task}/return": float(update)}
            if update % 8 == 0:
                looked = {"reward_correlation": 0.04 * update, "reconstruction_ratio": 1.0 / update}
                entry |= {f"evaluation/{task}/{name}": value for name, value in looked.items()}
        entries.append(entry)
    return entries


@pytest.fixture
def workdir(tmp_path):
    """A finished run of two tasks."""
    return make_run(tmp_path)


def make_run(path: Path, seed: int = 3, score: float = 0.75) -> Path:
    """The files of a finished run of two tasks in a folder."""
    similarity = {"cluster": [[1.0, 0.3], [0.3, 1.0]], "experts": None}
    clusters = {"tasks": TASKS, "cluster": [1, 0], "experts": [[0, 1], [2, 1]], "method": "kmeans", "seed": 0}
    results = {
        "tasks": {
            "Pong": {"returns": [4.0, 6.0], "normalised": score, "random": -20.7, "reference": 14.6},
            TASKS[1]: {"returns": [1.0, 2.0], "success": [True, False], "normalised": None},
        },
        "aggregate": {"mean": 0.75, "median": 0.75, "iqm": 0.75, "interval": [0.7, 0.8]},
        "diagnostics": {
            "Pong": {"reconstruction_error": 2.0, "mean_frame_error": 8.0, "ratio": 0.25},  # as older versions wrote it
            TASKS[1]: {
                **{"rows": 2400, "reward_correlation": 0.875, "reward_precision": 0.625, "reward_base": 0.0417},
                **{"termination_share": 0.0125, "termination_predicted": 0.025, "termination_at_ends": 0.8125},
                **{"termination_error": 0.0375, "termination_bins": [[0.01, 0.0, 2340], [0.7, 0.5, 60]], "ratio": 0.5},
            },
        },
        "protocol": {"suite": {"sticky": 0.25, "max_steps": 7}, "evaluation": {"max_steps": 9}},
        "step": 200,
        "commit": "0123abc",
        "versions": {"numpy": np.__version__},
    }
    arrays = {"names": np.array(TASKS), "imagined_from": np.array(START)}
    for task in range(len(TASKS)):
        arrays |= {f"{kind}/{task}": film(task, LENGTH) for kind in ("real", "reconstructed", "imagined")}
    arrays["episode/0"] = film(0, 12)  # the second task finished none
    (path / "config.json").write_text(json.dumps({"seed": seed, "suite": {"name": "gymnasium"}}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines()))
    (path / "clusters.json").write_text(json.dumps(clusters | {"similarity": similarity}))
    (path / "results.json").write_text(json.dumps(results))
    np.savez(path / "frames.npz", **arrays)
    return path


def test_storm_seeds_give_the_published_aggregate(capsys):
    assert main(["--scores"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["games"]) == 26
    for name, published in {"mean": 1.2221, "median": 0.4246, "iqm": 0.5611}.items():
        assert result[name] == pytest.approx(published, abs=5e-5)
    low, high = result["interval"]
    assert low < result["iqm"] < high and high - low < 0.2
    assert result["superhuman"] == sum(score >= 1 for score in result["games"].values()) == 9


def test_aggregate_by_hand():
    result = scores.aggregate({"a": [0.0, 3.0, 9.0], "b": [2.0, 1.0, 3.0], "c": []})
    assert result["mean"] == 3.0 and result["median"] == 3.0  # the tasks' means are 4 and 2
    assert result["iqm"] == pytest.approx((1 + 2 + 3 + 3) / 4)  # all runs together, one cut off at each end
    assert scores.aggregate({"c": []}) == {"mean": None, "median": None, "iqm": None, "interval": None}


def test_bootstrap_draws_inside_each_task():
    """Tasks without spread leave nothing to chance, however far they lie apart; a plain bootstrap would mix them."""
    assert scores.aggregate({"a": [0.0] * 5, "b": [1.0] * 5})["interval"] == [0.5, 0.5]


def test_the_bootstrap_s_interval_is_of_95_in_100():
    """Of fifty runs at 0 and fifty at 1 the IQM is (B - 25) / 50, B binomial: 0.5 +- 1.96 / 10."""
    np.testing.assert_allclose(scores.aggregate({"a": [0.0, 1.0] * 50})["interval"], [0.3, 0.7], atol=0.03)


def test_a_success_rate_s_interval_is_wilson_s():
    np.testing.assert_allclose(scores.success_interval([True] * 2 + [False] * 18), [0.0279, 0.3010], atol=1e-4)
    np.testing.assert_allclose(scores.success_interval([False] * 50), [0.0, 0.0713], atol=1e-4)


def test_single_runs_have_no_interval(tmp_path, capsys):
    alone = scores.aggregate({"a": [0.25], "b": [0.75], "c": []})
    assert alone == {"mean": 0.5, "median": 0.5, "iqm": 0.5, "interval": None} and scores.iqm_text(alone) == "0.500"
    file = tmp_path / "scores.json"
    file.write_text('{"Boxing": [12.1], "Pong": [-20.7]}')
    assert main([f"--scores={file}"]) == 0
    assert json.loads(capsys.readouterr().out)["interval"] is None
    result = dict(returns=[1.0], random=0.0, reference=2.0, normalised=0.5)
    evaluate.print_table({"tasks": {"a": result}, "diagnostics": {}, "aggregate": alone}, 40)
    assert capsys.readouterr().out.splitlines()[-1].endswith("IQM over episodes 0.5000")


def test_score_file_with_one_game_and_unequal_seeds(tmp_path, capsys):
    file = tmp_path / "scores.json"
    file.write_text('{"Pong": [14.6, -20.7], "Boxing": [12.1]}')
    assert main([f"--scores={file}"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["games"] == pytest.approx({"Pong": 0.5, "Boxing": 1.0}) and said["mean"] == pytest.approx(0.75)
    assert said["iqm"] is said["interval"] is None, "Pong would count twice"


@pytest.mark.parametrize("rate", [0.1, 0.8])
def test_successes_have_no_interquartile_mean(rate: float, capsys):
    """Of pooled 0 and 1 it is 0 or 1, whatever the rate."""
    found = {"success": [index < 50 * rate for index in range(50)]}
    entry = {"returns": [0.0] * 50, "random": None, "reference": None, "normalised": rate} | found
    total = scores.aggregate({"reach": [float(flag) for flag in found["success"]]}, successes=True)
    assert total == {"mean": rate, "median": rate, "iqm": None, "interval": None}
    results = {"tasks": {"reach": entry}, "aggregate": total, "diagnostics": {}}
    evaluate.print_table(results, 40)
    assert capsys.readouterr().out.splitlines()[-1].endswith("IQM over episodes –")
    assert "evaluation/iqm" not in evaluate.metrics(results) and evaluate.metrics(results)["evaluation/mean"] == rate
    old = data.read(str(Path(__file__).parents[1] / "results" / "metaworld_reach" / "three")).results
    assert old["aggregate"]["iqm"] is old["aggregate"]["interval"] is None and old["aggregate"]["mean"] == 0.56


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "not a score file"),
        ("[1, 2]", "holds no scores"),
        ('{"pong": [1]}', "did you mean 'Pong'"),
        ('{"ms_pacman": [1]}', "did you mean 'MsPacman'"),
        ('{"Pong": []}', "give a list"),
        ('{"Pong": 3}', "give a list"),
        ('{"Pong": [1, "2"]}', "finite numbers"),
        ('{"Pong": [true]}', "finite numbers"),
        ('{"Pong": [NaN]}', "NaN"),
        ('{"Pong": [1], "Pong": [2]}', "twice"),
        (f'{{"Pong": [1{400 * "0"}]}}', "finite numbers"),
        (None, "cannot read"),
    ],
)
def test_bad_score_files_end_with_one_message(tmp_path, capsys, content, words):
    file = tmp_path / "scores.json"
    if content is not None:
        file.write_text(content)
    assert main([f"--scores={file}"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and words in output.err and str(file) in output.err and output.err.count("\n") == 1


def test_report_of_a_whole_run(workdir, capsys):
    assert main([f"--workdir={workdir}"]) == 0
    printed = capsys.readouterr().out
    page, text = ((workdir / "report" / name).read_text() for name in ("index.html", "report.md"))
    assert "Missing" not in page and "missing" not in printed
    shown = re.findall(r"!\[.*?\]\(([^)]+)\)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown)) == 9 + 1 + 2 * 2 + 1  # figures, a second map, two strips a task, one episode
    within = [base64.b64decode(data) for data in re.findall(r'<img src="data:image/\w+;base64,([^"]+)"', page)]
    assert within == [(workdir / "report" / name).read_bytes() for name in shown]
    assert page.count("<source srcset=") == 10  # every figure once more for dark pages
    for name in shown:
        with Image.open(workdir / "report" / name) as picture:
            assert min(picture.size) > 100 and len(set(picture.convert("L").getextrema())) == 2
    assert "<i>" not in page and "a:b/c|&lt;i&gt;$x$" in page
    assert f"| {workdir.name} | 200 | 20 | {10 / 3600:.3f} |" in text.replace("\\", "") and "0 of 1 |" in text
    assert "Core-hours and memory" in text and "Means over runs" not in text
    cells = (
        "0.750",
        "0.250",
        "50%",
        "0.700 to 0.800",
        "14.60",
        "0.875",
        "0.625 (0.042)",
        "2.50% (1.25%)",
        "0.812",
        "0.037",
    )
    for cell in cells:
        assert cell in page and cell in text and cell in printed


def say_of_layers(workdir: Path, layers: int) -> None:
    """Adds to a run what a mixture in each layer says, a dormant share and the cosines of an evaluation."""
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for entry in entries:
        entry |= {f"router/layers/{n}/{expert}": (n == expert) * 0.75 for n in range(layers) for expert in range(3)}
        entry |= {"world/dormant": 0.25} | {f"world/latent_norm/{task}": 4.0 for task in TASKS}
    entries[-1] |= {f"gradients/cosine/{task}": -0.125 for task in TASKS} | {"gradients/opposed": 1.0}
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.mark.parametrize("layers", [1, 12])
def test_experts_have_a_map_a_layer_where_there_are_several(layers: int, workdir):
    say_of_layers(workdir, layers)
    loads = figures._loads(data.read(str(workdir)).metrics)
    named = [f"layer {n}: share of the tokens" for n in range(layers)] if layers > 1 else []
    assert list(loads)[1:] == named and all(list(load) == [0, 1, 2] for load in loads.values())
    for n, title in enumerate(named):
        shares = [series.value[-1] for series in loads[title].values()]
        assert shares == [0.75 * (n == expert) for expert in range(3)]


def test_layers_make_the_figure_of_experts_longer(workdir):
    say_of_layers(workdir, 2)
    assert figures.expert_use(data.read(str(workdir)).metrics, workdir / "use.png")
    with Image.open(workdir / "use.png") as picture:
        assert picture.height > 0.75 * picture.width, "three maps"


def test_curves_are_explained_where_a_run_has_them(workdir):
    before = data.read(str(workdir))
    say_of_layers(workdir, 1)
    after = data.read(str(workdir))
    assert pages._texts(before, "world") == pages._texts(before, "gradients") == pages._texts(after, "agent") == []
    section = pages._losses(after, workdir, "gradients", "Gradients")
    assert "1 the same way" in section.text[0] and (workdir / section.pictures[0].path).exists()
    assert pages._texts(before, "router") == [] and "only their number" in pages._texts(after, "router")[0]
    dormant, norm = pages._texts(after, "world")
    assert "hardly react" in dormant and "where it begins" in norm


def test_dots_of_learning_curves_are_said_to_be_means(workdir, monkeypatch):
    shown = []
    monkeypatch.setattr(curves, "legend_above", lambda figure, handles, names, size: shown.extend(handles))
    section = pages._curves(data.read(str(workdir)), workdir)
    assert (
        "the mean of those that ended between two lines" in section.text[0] and "Every episode" not in section.text[0]
    )
    dots = [line.get_label() for line in shown if line.get_marker() == "."]
    assert dots and all("mean" in label and "between two lines" in label for label in dots)


@pytest.mark.parametrize(
    ("name", "count", "columns"), [("mow", 2, 2), ("mow", 7, 5), ("clusters=3+grouping=some", 8, 3)]
)
def test_a_legend_is_as_wide_as_its_figure_at_most(name: str, count: int, columns: int, tmp_path):
    with plotting.picture(tmp_path / "made.png", 7.5, 3.0) as figure:
        drawn = [axes.plot([0, 1], [0, 1])[0] for axes in plotting.panels(figure, 3, 3)]
        plotting.legend_above(figure, drawn[:1] * count, [name] * count)
    (legend,) = figure.legends
    around = legend.get_window_extent()
    assert around.x0 >= 0 and around.x1 <= figure.bbox.width and around.y1 <= figure.bbox.height
    assert legend._ncols == columns and (figure.get_figheight() > 3.0) == (count > columns)


def test_searches_have_a_section_that_says_how_to_read_them(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    named = {f"search/{name}/{task}": 0.5 for name in ("entropy", "kl", "agreement", "share") for task in TASKS}
    assert "search" not in pages._areas(data.read(str(workdir)))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line | named) + "\n" for line in lines))
    run = data.read(str(workdir))
    assert "search" in pages._areas(run)
    (text,) = pages._texts(run, "search")
    assert "near 0 the search is sure" in text and "likeliest action is the same" in text


def test_what_a_run_cost_by_hand(workdir):
    """Two cores were busy for five seconds, then one for five more."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"time/cores_busy": 2.0 if line["seconds"] <= 5 else 1.0, "time/memory_gb": line["update"] / 8}
        line["time/updates_per_second"] = 2.0
    run = data.read(str(workdir))._replace(lines=lines)
    speed = {name: data.Series(*[np.array([line[name] for line in lines])] * 3) for name in lines[0] if "time/" in name}
    (table,) = costs.section({"mine": [run._replace(metrics=speed)]}, of="run").tables
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert (cells["run"], cells["agent steps a task"], cells["updates"]) == ("mine", "200", "20")
    assert cells["core-hours"] == f"{15 / 3600:.3f}" and cells["hours"] == f"{10 / 3600:.3f}"
    assert (cells["GB of memory"], cells["updates a second"]) == ("2.50", "2.00")
    kept = run._replace(metrics={"time/cores_busy": speed["time/cores_busy"]})  # as thinned files have it
    begun = kept._replace(results=None, lines=lines[:1])
    said = costs.section({"mine": [kept, begun]}, of="variant")
    cells = dict(zip(said.tables[0].columns, said.tables[0].rows[0], strict=True))
    assert cells["core-hours"] == f"{15 / 3600:.3f}" and cells["agent steps a task"] == "200"
    assert said.text[0].endswith("1 that are not at their end are left out.")


@pytest.mark.parametrize(("scores", "said"), [([1.0, 0.999, 2.5, None], "2 of 3"), ([None], "–"), ([-0.5], "0 of 1")])
def test_tasks_at_human_level_are_counted_among_those_that_have_a_score(scores: list, said: str):
    tasks = {str(number): {"normalised": score, "success": []} for number, score in enumerate(scores)}
    table = tables.aggregate({"tasks": tasks, "aggregate": {"mean": 1.0, "median": 1.0, "iqm": 1.0}})
    assert dict(zip(table.columns, table.rows[0], strict=True))["at the reference"] == said


def test_nothing_of_a_report_is_written_in_place(workdir, tmp_path):
    """Whoever has a file of the report open, another writer of it or a browser, goes on reading what it opened."""
    names = ["index.html", "report.md", "learning_curves.png", "learning_curves.dark.png"]
    names += ["strips/00-Pong.png", "strips/00-Pong.gif", "episodes/00-Pong.gif"]
    (tmp_path / "held").mkdir()
    for number, name in enumerate(names):
        path = workdir / "report" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
        os.link(path, tmp_path / "held" / str(number))
    run = data.read(str(workdir))
    few = {name: series for name, series in run.metrics.items() if name.startswith("episode")}
    pages.write(run._replace(clusters=None, metrics=few))
    assert {path.read_text() for path in (tmp_path / "held").iterdir()} == {"old"}
    assert not list((workdir / "report").rglob("*.tmp*"))


@pytest.mark.parametrize(("suite", "drawn"), [("gymnasium", {"return", "success"}), ("metaworld", {"success"})])
def test_returns_of_evaluations_that_end_at_a_success_are_not_drawn(workdir, suite: str, drawn: set[str]):
    settings = {"name": suite, "metaworld": {"end_on_success": False}}
    (workdir / "config.json").write_text(json.dumps({"seed": 3, "suite": settings}))
    run = data.read(str(workdir))
    assert {kind for kind in ("return", "success") if len(curves._evaluations(run, kind, TASKS[1]))} == drawn
    (text,) = pages._curves(run, workdir).text
    assert ("do not compare" in text) == (suite == "metaworld")


def test_a_task_solved_on_the_way_has_its_score_then_beside_the_one_at_the_end():
    entry = {"returns": [0.5], "success": [], "random": 0.0, "reference": 1.0, "normalised": 0.5}
    solved = entry | {"stages": {"steps": 5000.0, "score": 0.93}}
    assert tables.scores({"tasks": {"cue": entry}}).columns[-1] == "normalised"
    table = tables.scores({"tasks": {"catch": solved, "cue": entry}})
    assert table.columns[-3:] == ["normalised", "when solved", "at step"]
    assert [row[-3:] for row in table.rows] == [["0.500", "0.930", "5,000"], ["0.500", "–", "–"]]


def test_diagnostics_of_an_older_version_show_dashes(workdir):
    path = workdir / "results.json"
    results = json.loads(path.read_text())
    del results["diagnostics"][TASKS[1]]
    path.write_text(json.dumps(results))
    assert main([f"--workdir={workdir}"]) == 0
    text = (workdir / "report" / "report.md").read_text()
    assert f"| Pong | {'– | ' * 7}0.250 |" in text and "terminations.png" not in text and "knowledge.png" in text


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "clusters.json", "results.json", "frames.npz"])
def test_an_absent_file_is_named_with_the_command_that_makes_it(workdir, capsys, name):
    (workdir / name).unlink()
    assert main([f"--workdir={workdir}"]) == 0
    wanted = rf"{re.escape(name)}: .*python -m mow_jax\.(train|evaluate)"
    assert re.search(rf"missing: {wanted}", capsys.readouterr().out)
    assert re.search(wanted, (workdir / "report" / "index.html").read_text())


def test_an_exported_agents_evaluation_misses_nothing(workdir, capsys):
    for name in ("config.json", "metrics.jsonl", "clusters.json"):
        (workdir / name).unlink()
    assert main([f"--workdir={workdir}"]) == 0
    page = (workdir / "report" / "index.html").read_text()
    assert "missing" not in capsys.readouterr().out and "Missing" not in page
    assert f"An agent&#x27;s evaluation in {workdir.name}" in page and "What the world model sees" in page
    assert "Learning curves" not in page


def test_a_line_that_is_still_being_written_is_left_out(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 210, "upd')
    assert main([f"--workdir={workdir}"]) == 0
    assert "200 agent steps a task, 20 updates" in (workdir / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"architectures": ["another program"]}'),
        ("metrics.jsonl", "no json\n"),
        ("metrics.jsonl", '{"step": 1, "update": 1, "world/loss": NaN}\n'),
        ("clusters.json", '{"tasks": ["Pong", "Boxing"], "cluster": [0], "experts": [[0], [1]]}'),
        ("results.json", '{"tasks": {"Pong": {"returns": ["high"]}}}'),
        ("results.json", '{"tasks": {"a": {}}, "diagnostics": {"a": {"termination_bins": [[0.1, 0.2]]}}}'),
        ("frames.npz", "no archive"),
    ],
)
def test_a_damaged_file_ends_with_one_message(workdir, capsys, name, content):
    (workdir / name).write_text(content)
    assert main([f"--workdir={workdir}"]) == 2
    error = capsys.readouterr().err
    assert str(workdir / name) in error and error.count("\n") == 1
    assert not (workdir / "report").exists()


def test_a_directory_that_is_no_workdir_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file", ""):
        assert main([f"--workdir={place}"]) == 2
        assert "no workdir" in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file"]


def test_a_report_that_cannot_be_written_ends_with_one_message(workdir, capsys):
    (workdir / "report").write_text("in the way")
    assert main([f"--workdir={workdir}"]) == 2
    assert "cannot write the report" in capsys.readouterr().err


def test_strips_show_the_very_pixels(tmp_path):
    """Enlarged with nearest neighbour, and imagination lined up with reality whether or not it includes the context."""
    real, imagined = film(0, LENGTH), film(1, LENGTH)
    whole = strips.rows(real, real, imagined, START)
    np.testing.assert_array_equal(whole["imagined"], strips.rows(real, real, imagined[START:], START)["imagined"])
    np.testing.assert_array_equal(whole["imagined"][START:], imagined[START:])
    strips.strip(whole, START, tmp_path / "strip.png")
    sheet = np.asarray(Image.open(tmp_path / "strip.png"))
    top, left = strips.HEADER + 2 * (128 + strips.GAP), strips.LABEL + (LENGTH - 1) * (128 + strips.GAP)
    np.testing.assert_array_equal(sheet[top : top + 128 : 8, left : left + 128 : 8, :3], imagined[-1])
    assert strips.episode_gif(film(0, 2 * strips.LONGEST), tmp_path / "episode.gif") == 2


def test_names_at_line_ends_keep_order_distance_and_room():
    heights = np.sort(np.random.default_rng(0).uniform(0.4, 0.5, 20))
    places = plotting.spread(heights, 0.03)
    assert np.diff(places).min() >= 0.03 - 1e-9 and places.min() >= 0 and places.max() <= 1
    np.testing.assert_allclose(plotting.spread(np.array([0.1, 0.9]), 0.03), [0.1, 0.9])
    assert np.diff(plotting.spread(np.zeros(50), 0.03)).min() > 0  # too many for the gap: equal shares


def test_moving_average_keeps_a_level_and_calms_noise():
    np.testing.assert_allclose(plotting.smooth(np.full(100, 3.0)), 3.0)
    noise = np.random.default_rng(0).normal(size=300)
    assert plotting.smooth(noise).std() < 0.5 * noise.std()


def test_the_report_runs_without_jax_and_without_pyplot(workdir):
    code = (
        "import sys; from mow_jax.report.__main__ import main; assert main(sys.argv[1:]) == 0;"
        "sys.exit(str({'jax', 'flax', 'matplotlib.pyplot'} & set(sys.modules)) if"
        " {'jax', 'flax', 'matplotlib.pyplot'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, f"--workdir={workdir}"], check=True, timeout=120)


def test_the_commands_that_make_a_run_again(workdir, tmp_path_factory, capsys, monkeypatch):
    """They are a script; its copy of config.json is a run at its beginning, with all of its settings, also where it was
    committed after the code that made it, to which the script goes back."""
    settings = config.default()
    settings.update_from_flattened_dict({"agent.entropy": 0.5, "suite.tasks": ("Boxing", "Pong")})
    (workdir / "config.json").write_text(json.dumps(settings.to_dict(), default=list))
    checkout = tmp_path_factory.mktemp("checkout")
    git = lambda *words: subprocess.check_output(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=checkout, text=True, env=own_git()
    ).strip()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "the code")
    made = git("rev-parse", "--short=12", "HEAD")
    start = {"commit": f"{made}+1f2e3d", "python": "3.11.7", "versions": {"mow_jax": "0.2.0", "jax": "0.10.2"}}
    start |= {"machine": "2 cores, 1 x cpu", "command": "train.py --config=x.py --workdir=r"}
    (workdir / "origin.json").write_text(json.dumps([start, start | {"commit": "4567def"}]))
    shutil.copytree(workdir, checkout / "results" / "run")
    git("add", "results")
    git("commit", "-q", "-m", "its results")
    monkeypatch.chdir(checkout)
    assert main(["--reproduce=results/run"]) == 0
    script = capsys.readouterr().out
    for line in (
        f"git checkout {made}",
        r"pip install -e '.\[all\]' jax==0.10.2",
        "taskset -c 0-1 python -m mow_jax.train --workdir=again",
    ):
        assert re.search(f"^{line}$", script, re.MULTILINE), script
    assert "# Files differed" in script and "Not exactly this run: it was resumed at other commits, 4567def" in script
    lines = [line for line in script.splitlines() if line.startswith(("mkdir", "cp", "test", "git"))]
    subprocess.run(["bash", "-ec", "\n".join(lines)], check=True)
    assert not (checkout / "results").exists()
    saved = json.loads((checkout / "again" / "config.json").read_text())
    assert checks.flat(config.of_saved({**saved, "suite": {**saved["suite"], "tasks": ("Boxing", "Pong")}})) | {
        "checkpoint.milestones": []
    } == checks.flat(settings) | {"checkpoint.milestones": []}


def test_the_commands_say_where_they_do_not_make_the_same_run(workdir, tmp_path, capsys, monkeypatch):
    """Another's weights, an end before the end, other packages, changed settings; a table that is gone is put back."""
    settings = config.default()
    changed = {"clustering.method": "file", "clustering.table": "by hand/own.json", "train.steps": 50_000}
    settings.update_from_flattened_dict(changed | {"train.init_from": "runs/parent"})
    (workdir / "config.json").write_text(json.dumps(settings.to_dict(), default=list))
    results = json.loads((workdir / "results.json").read_text()) | {"step": 1_200}
    (workdir / "results.json").write_text(json.dumps(results))
    start = {
        "commit": "0123abc",
        "python": "3.11.7",
        "versions": {"jax": "0.10.2"},
        "machine": "m",
        "command": "train.py",
    }
    again = start | {"versions": {"jax": "0.12.0"}, "command": "train.py --allow_config_change=agent.entropy"}
    (workdir / "origin.json").write_text(json.dumps([start, again]))
    assert main([f"--reproduce={workdir}"]) == 0
    script = capsys.readouterr().out
    for why in (
        "other versions of packages",
        "config.json has the last ones",
        "weights of runs/parent",
        "1,200 of 50,000",
    ):
        assert re.search(f"^# Not exactly this run: .*{why}", script, re.MULTILINE), script
    with (workdir / "metrics.jsonl").open("a") as lines:  # the results are those of an earlier checkpoint
        lines.write(json.dumps({"step": 50_000, "update": 9, "seconds": 9.0}) + "\n")
    assert main([f"--reproduce={workdir}"]) == 0 and "it ended at" not in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    aside, line = (line for line in script.splitlines() if line.startswith(("cp ", "test -e")) and "clusters" in line)
    assert script.index(aside) < script.index("git checkout") < script.index(line)
    subprocess.run(["bash", "-ec", aside], check=True)
    for left in (None, "edited since"):  # what lies there is not overwritten
        if left:
            Path("by hand/own.json").write_text(left)
        subprocess.run(["bash", "-ec", line], check=True)
        assert Path("by hand/own.json").read_text() == (left or (workdir / "clusters.json").read_text())
    (workdir / "origin.json").write_text(json.dumps([start]))
    (workdir / "config.json").write_text(json.dumps(config.default().to_dict(), default=list))
    (workdir / "results.json").unlink()
    assert main([f"--reproduce={workdir}"]) == 0 and "Not exactly" not in capsys.readouterr().out


def test_a_run_that_does_not_say_what_it_came_from_is_refused(workdir, capsys):
    for content, words in (
        (None, "not there"),
        ("[{}]", "does not name"),
        ("no json", "cannot be read"),
        ("[]", "name"),
    ):
        if content is not None:
            (workdir / "origin.json").write_text(content)
        assert main([f"--reproduce={workdir}"]) == 2
        assert words in capsys.readouterr().err
    assert main([f"--reproduce={workdir / 'nowhere'}"]) == 2 and "no workdir" in capsys.readouterr().err
