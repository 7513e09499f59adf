"""The pages of a run and of a comparison: one file each, whole in a browser whatever its colours and width."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from matplotlib.figure import Figure
from processes import ROOT
from test_report import TASKS, make_run

from mow_jax.report import compare as comparison
from mow_jax.report import comparing, curves, data, page, plotting, render
from mow_jax.report.__main__ import main
from mow_jax.report.render import Picture, Section


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two variants, two seeds each, of which one wins in everything."""
    folder = tmp_path_factory.mktemp("sweep")
    scores = {("mow", 0): 0.9, ("mow", 1): 0.8, ("one", 0): 0.5, ("one", 1): 0.3}
    for (variant, seed), score in scores.items():
        place = folder / variant / str(seed)
        place.mkdir(parents=True)
        make_run(place, seed, score)
        config = {"seed": seed, "suite": {"name": "gymnasium"}, "router": {"experts": 4 if variant == "mow" else 1}}
        (place / "config.json").write_text(json.dumps(config))
    order = [{"variant": variant} for variant in ("one", "mow")]  # not that of the alphabet
    (folder / "sweep.json").write_text(json.dumps(order))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_a_page_is_whole_in_a_browser_at_every_width_and_colour(kind: str, sweep: Path, tmp_path: Path):
    if kind == "run":
        assert main([f"--workdir={sweep / 'mow' / '0'}"]) == 0
        folder, figures = sweep / "mow" / "0" / "report", 15
    else:
        assert main([f"--compare={sweep}"]) == 0
        folder, figures = sweep / "comparison", 5
    alone = tmp_path / "alone.html"  # away from every file that lies beside it
    alone.write_bytes((folder / "index.html").read_bytes())
    assert alone.stat().st_size < 15_000_000
    assert not re.search(r"""(src|href|srcset)=["']?(https?:|//|[^d#"'][^a])|url\(|@import""", alone.read_text())
    with Browser(tmp_path / "profile", alone.as_uri()) as browser:
        browser.wait("document.images.length > 0 && [...document.images].every(image => image.complete)")
        grounds = set()
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                browser.look(scheme, width)
                chosen = "[...document.querySelectorAll('picture:has(source) img')].map(image => image.currentSrc)"
                first = "[...document.querySelectorAll('picture:has(source) img')].map(image => image.src)"
                same = "true" if scheme == "light" else "false"  # a picture chooses some time after the colours
                browser.wait(f"(JSON.stringify({chosen}) === JSON.stringify({first})) === {same}")
                browser.wait("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
                assert browser.ask("document.images.length") == figures
                assert browser.ask("document.documentElement.scrollWidth <= window.innerWidth"), (scheme, width)
                grounds.add((scheme, browser.ask("getComputedStyle(document.body).backgroundColor")))
                browser.picture(tmp_path / f"{kind}_{scheme}_{width}.png")
        assert grounds == {("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")}
        asked = "performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith('data:')).length"
        assert browser.ask(asked) == 0


def test_a_comparison_says_who_is_better_where_and_at_what_cost(sweep: Path, tmp_path: Path):
    folder = comparison.write([str(sweep)], str(tmp_path / "made"))
    text = (folder / "report.md").read_text().replace("\\", "")
    assert "| one | 2 | 200 | 0.400 [-0.871, 1.671] |" in text  # 0.5 and 0.3: 12.706 standard errors of 0.1
    assert text.index("| one | 2 |") < text.index("| mow | 2 |")  # as in the sweep's table
    assert "| router.experts | 1 | 4 |" in text and "| seed |" not in text
    assert "| mow | 1.000 | 1+1 (2) |" in text or "| mow | – | 1+1 (2) |" in text
    for picture in ("overview", "profile", "improvement", "curves", "clusters"):
        assert (folder / f"{picture}.png").exists() and (folder / f"{picture}.dark.png").exists()
    assert f"| one | 200 | 20 | {10 / 3600:.3f} |" in text
    assert "without its environments' workers; an evaluation counts at the rate of the line before it" in text


def test_runs_are_compared_by_one_kind_of_actions(tmp_path: Path, monkeypatch, capsys):
    """Two runs scored by samples, of which one has been scored by the best actions, too."""
    for variant, score in (("mow", 0.875), ("one", None)):
        place = put(tmp_path / variant / "0")
        results = json.loads((place / "results.json").read_text())
        kind = lambda name, results=results: results | {"protocol": {"evaluation": {"actions": name}}}
        (place / "results.json").write_text(json.dumps(kind("sampled")))
        if score:
            results["tasks"]["Pong"]["normalised"] = score
            (place / "best").mkdir()
            (place / "best" / "results.json").write_text(json.dumps(kind("best")))
    shown: dict = {}
    monkeypatch.setattr(comparison, "_sections", lambda groups, place: shown.update({place: groups}) or [])
    for more in ([], ["--actions=sampled"], ["--actions=best"]):
        assert main([f"--compare={tmp_path}", *more]) == 0
    own, sampled, best = (shown[tmp_path / place / "comparison"] for place in ("", "sampled", "best"))
    found = lambda groups: {e["variant"]: (e["actions"], e["tasks"]["Pong"]) for e in comparison.entries(groups)}
    assert found(own) == found(sampled) == {"mow": ("sampled", 0.75), "one": ("sampled", 0.75)}
    assert found(best) == {"mow": ("best", 0.875)}
    where = tmp_path / "one" / "0"
    assert f"--workdir={where} --actions=best --out={where / 'best'}" in best["one"][0].missing[-1]
    assert main([f"--workdir={where}", "--actions=best"]) == 2 and "--compare" in capsys.readouterr().err


def test_a_comparison_has_the_order_of_the_table_by_its_actions_and_the_first_variant_of_the_plan(tmp_path: Path):
    for variant in "abc":
        put(tmp_path / variant / "4", 4, v=variant)
    plan = lambda first, *names: [{"variant": name, "first": first, "place": "cdab".index(name)} for name in names]
    (tmp_path / "best").mkdir()
    (tmp_path / "sweep.json").write_text(json.dumps(plan("c", "b", "c", "a")))
    (tmp_path / "best" / "sweep.json").write_text(json.dumps([{"variant": name} for name in "bca"]))
    assert (
        list(comparison.read([str(tmp_path)])) == list(comparison.read([str(tmp_path)], "sampled")) == ["c", "a", "b"]
    )
    assert list(comparison.read([str(tmp_path)], "best")) == ["b", "c", "a"]
    (tmp_path / "sweep.json").write_text(json.dumps(plan("d", "b", "c", "a")))  # none of d's runs has begun
    groups = comparison.read([str(tmp_path)])
    assert {name: len(runs) for name, runs in groups.items()} == {"d": 0, "c": 1, "a": 1, "b": 1}
    said = (comparison.write([str(tmp_path)], None) / "report.md").read_text()
    assert "No differences: d, the first variant" in said and "| less " not in said
    assert "Against the first variant" not in said and "# --- a ---" not in said
    (tmp_path / "c" / "4" / "results.json").unlink()  # begun, not finished
    (tmp_path / "sweep.json").write_text(json.dumps(plan("c", "b", "a")))
    said = (comparison.write([str(tmp_path)], None) / "report.md").read_text()
    assert "No differences: c, the first variant" in said and "| less " not in said
    assert list(comparison.read([str(tmp_path)])) == ["c", "a", "b"]


def test_what_models_know_is_averaged_over_the_same_tasks_in_all_variants(tmp_path: Path):
    """Of "u" one run cannot say how it foresees Pong's rewards; "w" measures no pictures."""
    values = {("u", 3): (0.5, 0.25), ("u", 4): (None, 0.5), ("v", 3): (0.75, 0.5), ("w", 3): (0.125, None)}
    for (variant, seed), (correlation, ratio) in values.items():
        path = put(tmp_path / variant / str(seed), seed, v=variant) / "results.json"
        results = json.loads(path.read_text())
        for task, entry in results["diagnostics"].items():
            own = correlation if task == "Pong" else 0.875
            entry |= {"ratio": ratio, "reward_correlation": own, "termination_error": 0.5 if task == "Pong" else None}
        path.write_text(json.dumps(results))
    section = comparison._knowledge(comparison.read([str(tmp_path)]))
    assert section is not None and section.tables[0].rows == [
        ["u", "0.875", "0.375", "0.500"],
        ["v", "0.875", "0.500", "0.500"],
        ["w", "0.875", "–", "0.500"],
    ]
    assert section.text[1] == (
        f"Left out, as some run has none: reward correlation: Pong; calibration error of ends: {TASKS[1]}."
    )


def test_a_comparison_by_other_actions_says_that_evaluations_on_the_way_were_by_the_runs_own(tmp_path: Path):
    said = []
    for number, (own, kind) in enumerate((("sampled", "sampled"), ("best", "sampled"), ("best", None), (None, "best"))):
        folder = tmp_path / str(number)
        path = put(folder / "v" / "5", 5, **({"evaluation": {"actions": own}} if own else {})) / "results.json"
        results = json.loads(path.read_text())
        path.write_text(json.dumps(results | {"protocol": {"evaluation": {"actions": kind}} if kind else None}))
        said.append(comparison._acting(comparison.read([str(folder)])["v"]))
    assert ["configured" in text for text in said] == [False, True, False, False]
    assert all(("scored in the end" in text) is ("configured" not in text) for text in said)


def test_a_run_that_has_gone_on_in_a_copy_is_named(tmp_path: Path):
    for seed in (2, 3):
        put(tmp_path / "v" / str(seed), seed, train={"steps": 200}, model={"width": 6})
    longer = {"train": {"steps": 900, "schedule_steps": 200}, "model": {"width": 6}}
    put(tmp_path / "v" / "8", 3, **longer, evaluation={"episodes": 7})
    put(tmp_path / "v" / "9", 3, **longer | {"model": {"width": 8}})
    runs = comparison.read([str(tmp_path)])["v"]
    assert [any("no two runs" in text for text in run.missing) for run in runs] == [False, False, True, False]
    text = (comparison.write([str(tmp_path)], None) / "report.md").read_text().replace("\\", "")
    assert f"has the seed of {tmp_path / 'v' / '3'}, and" in text


def put(place: Path, seed: int = 0, **config: Any) -> Path:
    """A finished run in a folder, with such settings."""
    place.mkdir(parents=True)
    make_run(place, seed)
    (place / "config.json").write_text(json.dumps({"seed": seed, "suite": {"name": "toy"}} | config))
    return place


def test_runs_whose_folders_have_one_name_are_told_apart_by_those_above(tmp_path: Path):
    places = [put(tmp_path / name) for name in ("p/few/7", "p/many/7", "q/few/7", "q/far")]
    groups = comparison.read([*map(str, places), f"{places[1]}/../7"])  # one of them twice
    assert list(groups) == ["p/few/7", "many/7", "q/few/7", "far"]
    assert [[run.directory.resolve() for run in runs] for runs in groups.values()] == [[place] for place in places]


def test_variants_of_several_sweeps_are_one_where_their_settings_are(tmp_path: Path, monkeypatch):
    for sweep, rate in (("p", 1), ("q", 2)):
        for seed in (3, 4):
            put(tmp_path / sweep / "same" / str(seed), seed, log={"every": rate})
            put(tmp_path / sweep / "other" / str(seed), seed, optimizer={"lr": rate})
    put(tmp_path / "q" / "same" / "5", 5)
    put(tmp_path / "q" / "same" / "6" / "4", 6).rename(tmp_path / "r")
    (tmp_path / "q" / "same" / "6").rmdir()
    (tmp_path / "s" / "same").mkdir(parents=True)
    (tmp_path / "r").rename(tmp_path / "s" / "same" / "4")  # another seed in a folder of the same name
    shown: dict = {}
    monkeypatch.setattr(comparing, "cluster_maps", lambda runs, _: shown.update(runs))
    groups = comparison.read([str(tmp_path / sweep) for sweep in "pqs"])
    assert {name: len(runs) for name, runs in groups.items()} == {"p/other": 2, "same": 4, "q/other": 2}
    comparison._clusters(groups, tmp_path)
    assert len(shown) == 8 and {"p/other, 3", "same, p/same/4", "same, s/same/4", "same, 5"} <= shown.keys()


def test_runs_without_normalised_scores_are_compared_by_their_returns(tmp_path: Path):
    for variant, returns in (("few", [-150.0, -130.0]), ("many", [-170.0, -210.0])):
        for seed in (0, 1):
            path = put(tmp_path / variant / str(seed), seed) / "results.json"
            results = json.loads(path.read_text())
            for task in results["tasks"].values():
                task |= {"normalised": None, "returns": [returns[seed]]}
            path.write_text(json.dumps(results))
    text = (comparison.write([str(tmp_path)], None) / "report.md").read_text().replace("\\", "")
    assert "Mean returns, as no task has a normalised score" in text and "human" not in text
    row = next(line for line in text.splitlines() if line.startswith("| many | 2 |"))
    assert "| -190.000 [" in row and "| -50.000 [" in row and row.endswith(" -190.00 |")
    assert "at the reference" not in text and not (tmp_path / "comparison" / "profile.png").exists()
    assert (tmp_path / "comparison" / "overview.png").exists()


def test_a_run_that_lies_in_several_folders_counts_once(tmp_path: Path):
    for seed in (0, 1, 2):
        put(tmp_path / "all" / "mow" / str(seed), seed)
    shutil.copytree(tmp_path / "all", tmp_path / "copied")
    put(tmp_path / "copied" / "mow" / "3", 3)
    (tmp_path / "linked" / "mow").mkdir(parents=True)
    (tmp_path / "linked" / "mow" / "0").symlink_to(tmp_path / "all" / "mow" / "0")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "mow").symlink_to(tmp_path / "all" / "mow")
    (tmp_path / "copied" / "mow" / "1" / "results.json").unlink()  # the copy is older than the run
    groups = comparison.read([str(tmp_path / name) for name in ("copied", "all", "linked", "whole")])
    assert [run.config["seed"] for run in groups["mow"]] == [0, 1, 2, 3]
    assert [run.directory.parts[-3] for run in groups["mow"]] == ["copied", "all", "copied", "copied"]
    text = (comparison.write([str(tmp_path / "all"), str(tmp_path / "linked")], str(tmp_path / "page"))) / "report.md"
    said = text.read_text().replace("\\", "")
    assert "| mow | 3 |" in said and f"though {tmp_path / 'linked' / 'mow' / '0'} holds the same run again" in said


def test_runs_of_one_variant_that_differ_in_a_setting_show_it(tmp_path: Path):
    for seed, rate in enumerate((6, 6, 9)):
        put(tmp_path / "v" / str(seed), seed, model={"width": rate, "depth": 2})
    section = comparison._differences(comparison.read([str(tmp_path)]))
    assert section is not None and section.tables[0].rows == [["model.width", "6 or 9"]]


def test_a_variant_of_one_run_has_no_interval(tmp_path: Path):
    text = (comparison.write([str(put(tmp_path / "v" / "2").parents[1])], None) / "report.md").read_text()
    assert "| v | 1 | 200 | 0.750 | 0.750 | 0.750 |" in text


def test_results_of_other_steps_are_told(tmp_path: Path):
    for seed, step in enumerate((90, 1200, None)):  # metrics go to 200
        place = put(tmp_path / "v" / str(seed), seed)
        results = json.loads((place / "results.json").read_text())
        (place / "results.json").write_text(json.dumps(results | {"step": step}))
    text = (comparison.write([str(tmp_path)], None) / "report.md").read_text()
    assert "| v | 3 | 90–1,200 |" in text and text.count("has learned until") == 1
    assert "v/0: results.json: of step 90, and the run has learned until 200" in text


def test_a_comparison_says_where_runs_were_scored_by_different_numbers_of_episodes_or_at_other_steps(tmp_path: Path):
    for seed in (0, 1):
        put(tmp_path / "v" / str(seed), seed)
    path, said = tmp_path / "v" / "1" / "results.json", []
    results = json.loads(path.read_text())
    longer = {name: task | {"returns": [1.0] * 7} for name, task in results["tasks"].items()}
    for more in ({"step": 150}, {"tasks": longer}, {"commit": "4567def"}, {}):
        path.write_text(json.dumps(results | more))
        text = (comparison.write([str(tmp_path)], None) / "report.md").read_text().replace("\\", "")
        asked = ("v 150–200: what differs may be the steps'", "scored by 2 or 7 episodes", "v 0123abc or 4567def: what")
        said.append([question in text for question in asked])
    assert said == [[True, False, False], [False, True, False], [False, False, True], [False] * 3]


def test_schedules_of_other_lengths_are_a_difference_and_those_of_train_steps_none(tmp_path: Path):
    for name, scheduled in (("a", 0), ("b", 90), ("c", 45)):
        put(tmp_path / name, train={"steps": 90, "schedule_steps": scheduled})
    differing = lambda names: comparison._differences(comparison.read([str(tmp_path / name) for name in names]))
    assert differing("ab") is None
    assert differing("abc").tables[0].rows == [["train.schedule_steps", "90", "90", "45"]]


def test_several_folders_need_a_place_and_must_hold_runs(sweep: Path, tmp_path: Path, capsys):
    one, other = sweep / "mow" / "0", sweep / "one" / "0"
    assert main([f"--compare={one},{other}"]) == 2 and "--out=DIR" in capsys.readouterr().err
    assert main([f"--compare={tmp_path}"]) == 2 and "holds no run" in capsys.readouterr().err
    assert main([f"--workdir={one}", "--out=x"]) == 2 and "--compare" in capsys.readouterr().err
    # A variant's folder is its runs; other folders with runs in them are not.
    assert list(comparison.read([str(sweep / "one")])) == ["one"]
    assert comparison.read([str(sweep)])["one"][0].directory.name in [
        run.directory.name for run in comparison.read([str(sweep / "one"), str(sweep / "mow")])["one"]
    ]
    put(tmp_path / "named")
    assert main([f"--compare={tmp_path}"]) == 2 and "holds no run" in capsys.readouterr().err
    assert main([f"--compare={one}", "--follow"]) == 2 and "--workdir" in capsys.readouterr().err


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_curves_show_what_runs_did_however_far_an_interval_reaches(runs: int, sweep: Path, monkeypatch):
    series = [data.Series(np.arange(9), np.arange(9), value * np.arange(9.0)) for value in (1, -1, 3)[:runs]]
    one = data.read(str(sweep / "one" / "0"))
    group = [one._replace(metrics={f"episode/{one.tasks[0]}/return": line}) for line in series]
    figure = Figure()
    monkeypatch.setattr(comparing, "picture", lambda *_: contextlib.nullcontext(figure))
    assert comparing.curves({"one": group}, plotting.looks(["one"]), Path("unused.png"))
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert (-9 * (runs > 1) - 1 < low < 0.1) and 7.9 < high < 26
    assert len(axes.lines) == (1 if runs == 1 else runs + 1)
    assert len(axes.collections) == (runs == 3)


@pytest.mark.parametrize("first", [2, 12])  # of the short run's steps: among those of the others, or beyond them
def test_a_run_that_is_behind_cuts_no_other_s_curve(first: int, sweep: Path, monkeypatch):
    one = data.read(str(sweep / "one" / "0"))
    named = f"episode/{one.tasks[0]}/return"
    series = [data.Series(np.arange(9), np.arange(9), np.ones(9))] * 2
    series += [data.Series(first + np.arange(2), np.arange(2), np.ones(2))]
    figure = Figure()
    monkeypatch.setattr(comparing, "picture", lambda *_: contextlib.nullcontext(figure))
    group = [one._replace(metrics={named: line}) for line in series]
    assert comparing.curves({"one": group}, plotting.looks(["one"]), Path("unused.png"))
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() < 1]
    assert [line.get_xdata().tolist() for line in thin] == [line.step.tolist() for line in series]
    (mean,) = [line for line in figure.axes[0].lines if line.get_label() == "one"]
    assert mean.get_xdata()[[0, -1]].tolist() == [2, 3] if first == 2 else not len(mean.get_xdata())


@pytest.mark.parametrize(("kind", "last"), [("sampled", 0.9), ("–", 0.9), ("best", 0.4)])
def test_a_curve_ends_with_results_of_the_runs_own_kind_of_actions_alone(kind: str, last: float, tmp_path: Path):
    place = put(tmp_path / "v", evaluation={"actions": "sampled"})
    path, name = place / "results.json", data.read(str(place)).tasks[0]
    results = json.loads(path.read_text()) | {"step": 300, "protocol": {"evaluation": {"actions": kind}}}
    results["tasks"][name]["returns"] = [0.9]
    path.write_text(json.dumps(results))
    with (place / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 210, "update": 21, "seconds": 11.0, f"evaluation/{name}/return": 0.4}) + "\n")
    assert curves._evaluations(data.read(str(place)), "return", name)[-1, 1] == last


def test_the_tenth_seed_stands_behind_the_second(tmp_path: Path):
    for seed in (10, 2, 0):
        put(tmp_path / "v" / str(seed), seed)
    runs = comparison.read([str(tmp_path)])["v"]
    assert [run.directory.name for run in runs] == ["0", "2", "10"]
    runs = comparison.read([str(tmp_path / "v")])["v"]
    assert [run.directory.name for run in runs] == ["0", "2", "10"]


@pytest.mark.parametrize("measure", ["success", "normalised"])
def test_evaluations_are_drawn_as_they_are_where_a_run_has_several(measure: str, sweep: Path, monkeypatch):
    one = data.read(str(sweep / "one" / "0"))
    name = f"evaluation/{one.tasks[0]}/{measure}"
    made = lambda *values: one._replace(metrics={name: data.Series(*[1000.0 * np.arange(len(values))] * 2, values)})
    several, single = made(*map(np.float64, (0.1, 0.9, 0.2))), made(np.float64(0.5))
    figure = Figure()
    monkeypatch.setattr(comparing, "picture", lambda *_: contextlib.nullcontext(figure))
    looks, unused = plotting.looks(["m3po", "mow"]), Path("unused.png")
    assert not comparing.curves({"mow": [single]}, looks, unused, "evaluation")
    assert not comparing.curves({"m3po": [several]}, looks, unused)
    assert comparing.curves({"m3po": [several], "mow": [single]}, looks, unused, "evaluation")
    (axes,) = figure.axes
    dots = [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[0.1, 0.9, 0.2], [0.5]]
    thick = next(line for line in axes.lines if line.get_label() == "m3po")
    assert thick.get_ydata().max() > 0.85  # not smoothed


def test_a_variant_looks_the_same_in_every_figure_and_like_no_other(sweep: Path, tmp_path: Path, monkeypatch):
    """Twenty-three variants, of which every third has no results: figures of scores have fewer lines than curves."""
    run, names = data.read(str(sweep / "one" / "0")), [f"v{number}" for number in range(23)]
    groups = {name: [run._replace(results=None if i % 3 == 1 else run.results)] for i, name in enumerate(names)}
    figures = {}

    @contextlib.contextmanager
    def kept(path, *_):
        figures[path.stem] = Figure()
        yield figures[path.stem]

    monkeypatch.setattr(comparing, "picture", kept)
    comparison._sections(groups, tmp_path)
    look = lambda line: (line.get_color(), line._unscaled_dash_pattern)
    shown = {
        name: {line.get_label(): look(line) for line in figures[name].axes[0].lines if line.get_label() in names}
        for name in ("curves", "profile")
    }
    assert list(shown["curves"]) == names and len(set(shown["curves"].values())) == 23
    assert list(shown["profile"]) == [name for i, name in enumerate(names) if i % 3 != 1]
    assert shown["profile"].items() <= shown["curves"].items()
    rows = [line.get_color() for line in figures["improvement"].axes[0].lines if line.get_linewidth() == 3.0]
    assert rows == [colour for colour, _ in list(shown["profile"].values())[1:]]


def test_tasks_that_not_every_run_has_a_score_of_are_named(tmp_path: Path, monkeypatch):
    entries = [
        {"variant": "u", "seed": 0, "step": 9, "tasks": {"here": 0.5, "once": 0.25, "bare": None}},
        {"variant": "v", "seed": 0, "step": 9, "tasks": {"late": 1.0, "here": 0.75, "bare": None}},
    ]
    figure, looks = Figure(), plotting.looks("uv")
    monkeypatch.setattr(comparing, "picture", lambda *_: contextlib.nullcontext(figure))
    assert comparing.overview(entries, looks, tmp_path / "unused.png")
    assert figure.get_supxlabel() == "left out, as not every run has a score: once, bare, late"
    section = comparison._scores(entries, looks, tmp_path)
    assert section is not None and section.text[1].endswith("not every run has one: once, bare, late.")
    apart = comparison._scores([entries[0], entries[1] | {"tasks": {"late": 1.0}}], looks, tmp_path)
    assert apart is not None and "here, once, bare, late." in apart.text[0] and not apart.tables
    assert [picture.caption for picture in apart.pictures] == ["Every run, of its own tasks"]
    means = [line.get_xdata() for line in figure.axes[-1].lines if line.get_marker() == "."]
    assert means == [[0.375], [1.0]]
    whole = comparison._scores([entries[0] | {"tasks": {"here": 0.5}}] * 2, looks, tmp_path)
    assert whole is not None and len(whole.text) == 1


def test_the_performance_profile_by_hand():
    """The share of runs and tasks strictly above each of 241 scores, which hold all that runs have."""
    scores = np.array([[0.251, 1.001], [0.751, 6.6], [-0.5, 0.751]])
    places = comparing._thresholds([scores, np.zeros((2, 2))])
    assert (places[0], places[-1], len(places)) == (-0.5, pytest.approx(6.6), 241)
    expected = [(5 if x < 0.251 else 4 if x < 0.751 else 2 if x < 1.001 else 1) / 6 for x in places[:-1]]
    assert comparing._above(scores, places) == pytest.approx([*expected, 0])
    assert comparing._thresholds([np.full((3, 2), 0.5)])[[0, -1]] == pytest.approx([0, 1.2])  # chance and a human, too


def test_the_probability_of_improvement_by_hand():
    better, base = np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([[0.5, 0.0], [0.5, 1.0]])
    value, low, high = comparing.beats(better, base)  # task 0: 1; task 1: (1/2 + 0 + 1 + 1) / 4
    assert value == pytest.approx((1 + 0.625) / 2) and low < value < high
    assert comparing.beats(better[:1], base[:1]) == (0.75, 0.0, 1.0)


def test_a_page_claims_no_interval_of_few_runs_drawn_anew(tmp_path: Path, monkeypatch):
    """By them one cluster and one expert would beat MoW on the committed runs (0.69 [0.60, 0.77]), and do not."""
    looks = plotting.looks(("mow", "one"))
    monkeypatch.setattr(comparing, "overview", lambda *_: True)
    runs = [
        {"variant": path.parent.name, "seed": 0, "step": 9, "tasks": {name: task["normalised"] for name, task in tasks}}
        for path in sorted((ROOT / "results" / "toy13").glob("*/seed*.json"))
        if (tasks := json.loads(path.read_text())["tasks"].items())
    ]
    assert [run["variant"] for run in runs] == ["mow"] * 3 + ["one"] * 3
    variants = comparing.by_variant(runs)[1]
    value, *ends = comparing.beats(variants["one"], variants["mow"])
    assert value == pytest.approx(0.688, abs=5e-4) and ends == [0.0, 1.0]
    section = comparison._scores(runs, looks, tmp_path)
    assert section is not None and "IQM" in section.tables[0].columns and section.tables[0].rows[1][5] == "0.956"
    assert "+0.022 [-0.051, 0.095]" in section.tables[0].rows[1]
    assert section.text[-1].endswith("none shows a difference.")
    few, many = (comparison._drawn(runs * times, "Bars: 95%") for times in (1, 4))
    assert "95%" not in few and "too sure" in few and many == " Bars: 95%, where there are 10 runs or more."
    ten = comparison._scores(runs * 4, looks, tmp_path)
    assert ten is not None and ten.tables[0].columns[5] == "IQM [95%]" and "[" in ten.tables[0].rows[0][5]


def test_the_rand_index_says_nothing_where_there_is_one_way_to_group():
    one, other = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    assert comparison.rand_index(one, other) == pytest.approx((1 - 1 / 3) / (3 / 2 - 1 / 3))  # of 6 pairs 2, 1, both 1
    assert comparison.rand_index(one, one) == 1.0
    assert comparison.rand_index(np.arange(5), np.arange(5)) is None and comparison.rand_index(one * 0, one * 0) is None
    assert comparison.rand_index(np.arange(4), one * 0) == 0.0


def test_pictures_that_do_not_fit_are_named(tmp_path, monkeypatch):
    for name, size in {"figure.png": 60, "small.gif": 90, "large.gif": 600}.items():
        (tmp_path / name).write_bytes(bytes(size))
    section = Section(
        "A", pictures=[Picture("figure.png", "f")], galleries=[[Picture("large.gif", "l"), Picture("small.gif", "s")]]
    )
    monkeypatch.setattr(render, "MOST", 300)
    made = render.page("t", "s", [section], tmp_path)
    assert made.count("data:image/png") == 1 and made.count("data:image/gif") == 1
    assert "l: in large.gif, too large for this page" in made


def test_a_run_goes_on_while_a_process_trains_or_what_it_saved_is_not_evaluated(tmp_path):
    make_run(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"train": {"steps": 700}}))
    (tmp_path / "checkpoints" / "200.damaged").mkdir(parents=True)
    over = lambda: data.is_over(data.read(str(tmp_path)))
    assert over()
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not over(), "it was evaluated, and is resumed"
    assert over()
    (tmp_path / "checkpoints" / "300").mkdir()
    assert not over(), "stopped again later"
    (tmp_path / "config.json").write_text(json.dumps(saved | {"train": {"steps": 200}}))
    assert over()


@pytest.mark.parametrize(("every", "said"), [(0, True), (900, False)])
def test_a_page_gives_the_advice_of_an_only_evaluation(every, said, tmp_path):
    make_run(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"evaluation": {"every": every}}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    name = f"evaluation/{TASKS[1]}/reward_correlation"
    lines = [{key: value for key, value in line.items() if not key.endswith("/reward_correlation")} for line in lines]
    lines[-1][name] = -0.03
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = page._advice(data.read(str(tmp_path)))
    assert (
        any(f"Predicted rewards of {TASKS[1]} say nothing" in text for text in (found.notes if found else [])) == said
    )


def test_advice_stands_at_the_top_of_the_page(tmp_path):
    make_run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line[f"world/reconstruction/{TASKS[0]}"] = 900.0
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.write(data.read(str(tmp_path)))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "**The reconstruction of Pong is where it began" in text and text.index("## Advice") < text.index(
        "## Scores"
    )


@pytest.mark.parametrize("steps", [200, 900])
def test_a_run_that_is_followed_has_its_page_written_until_it_is_over(steps, tmp_path, monkeypatch, capsys):
    """At its end, or stopped at step 200 of more, as a sweep does after --minutes, and evaluated there."""
    make_run(tmp_path)
    (tmp_path / "checkpoints" / "200").mkdir(parents=True)
    results = (tmp_path / "results.json").read_bytes()
    (tmp_path / "results.json").unlink()
    config = {"seed": 0, "suite": {"name": "gymnasium"}, "train": {"steps": steps}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("mow_jax.report.__main__.EVERY", 0.05)
    made = tmp_path / "report" / "index.html"
    follower = threading.Thread(target=main, args=([f"--workdir={tmp_path}", "--follow"],))
    follower.start()
    deadline = time.monotonic() + 300
    while not made.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert 'http-equiv="refresh"' in made.read_text() and follower.is_alive()
    (tmp_path / "results.json").write_bytes(results)
    follower.join(300)
    assert not follower.is_alive() and 'http-equiv="refresh"' not in made.read_text()
