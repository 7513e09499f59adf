"""The runs that a comparison sets side by side, by variant: found in folders, in the order of their sweeps, each once.

In: folders of runs or of sweeps. Out: Groups. Called by compare.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mow_jax import checks
from mow_jax.report import data, sweeps
from mow_jax.report.data import Run
from mow_jax.types import BadInput

Groups = dict[str, list[Run]]  # variant -> its runs
HIDDEN = ("seed", "checkpoint", "log", "actors")  # of the settings: not what a variant is


def read(places: list[str], actions: str = "") -> Groups:
    """The runs of folders: a run's own, of which each is a variant, a sweep's DIR/VARIANT, or all of a sweep DIR, in
    the order of its table of these actions; its first variant is there without runs, too. A variant of several sweeps
    is one where its settings are the same in all, and a run of one variant, settings and seed that lies in several
    places counts once. Raises BadInput."""
    found: dict[Path, list[Run]] = {}  # by the folder that a variant is named after
    swept: list[Path] = []
    for folder in {Path(place).resolve(): Path(place) for place in places}.values():
        if (folder / "config.json").is_file() or (folder / "metrics.jsonl").is_file():
            found[folder.resolve()] = [data.read(str(folder))]
            continue
        plan = _plan(folder, actions)
        place = lambda path, plan=plan: (_place(plan, path.parent.parent.name), path.parent.parent, *_seed(path))
        paths = sorted(folder.glob("*/*/metrics.jsonl"), key=place)
        first = [(folder / name).resolve() for name in plan[:1] if paths]
        paths = paths or sorted((p for p in folder.glob("*/metrics.jsonl") if p.parent.name.isdecimal()), key=_seed)
        if not paths:
            raise BadInput(
                f"{str(folder)!r} holds no run, and no DIR/VARIANT/SEED of a sweep: give folders of runs, of sweeps, or"
                " of a sweep's variants"
            )
        found |= {path: [] for path in first if path not in found}
        for path in paths:
            found.setdefault(path.parent.parent.resolve(), []).append(data.read(str(path.parent)))
        variants = dict.fromkeys([*first, *(path.parent.parent.resolve() for path in paths)])
        swept += [path for path in variants if path not in swept]
    _merge(found, swept)
    return dict(zip(named(list(found)), map(_once, found.values()), strict=True))


def _merge(found: dict[Path, list[Run]], swept: list[Path]) -> None:
    """Puts variants of one name and one setting, of several sweeps, under the first one's folder."""
    for name in dict.fromkeys(path.name for path in swept):
        first, *others = [path for path in swept if path.name == name]
        settings = {json.dumps(settings_of(run)) for path in (first, *others) for run in found[path]}
        for other in others if len(settings) == 1 else ():
            found[first] += found.pop(other)


def _once(runs: list[Run]) -> list[Run]:
    """A variant's runs, of those with the same settings and seed the one that came furthest; it says who is left out.

    Copies and links of a run are no further evidence, nor is the same run made twice."""
    kept: dict[Any, Run] = {}
    for run in runs:
        what = run.directory.resolve() if run.config is None else json.dumps([settings_of(run), run.config.get("seed")])
        first = kept.get(what)
        if first is None:
            kept[what] = run
            continue
        reach = lambda run: ((run.results or {}).get("step") or -1, run.lines[-1]["step"] if run.lines else -1)
        better, other = (run, first) if reach(run) > reach(first) else (first, run)
        note = f"counts once, though {other.directory} holds the same run again (settings and seed)"
        kept[what] = better._replace(missing=[*better.missing, note])
    return _resumed(list(kept.values()))


def _resumed(runs: list[Run]) -> list[Run]:
    """The runs; those say it that may be another one of the same seed which has gone on with some settings changed."""
    fixed = lambda run: {
        key: value
        for key, value in settings_of(run).items()
        if not any(f"{key}.".startswith(f"{free}.") for free in checks.FREE_ON_RESUME)
    }
    known: dict[str, Path] = {}
    for place, run in enumerate(runs):
        what = json.dumps([fixed(run), (run.config or {}).get("seed")], sort_keys=True)
        if run.config is not None and what in known:
            note = (
                f"has the seed of {known[what]}, and of its settings differ those alone that a run may change when it"
                " goes on: if one is a copy of the other, they are no two runs; leave one out"
            )
            runs[place] = run._replace(missing=[*run.missing, note])
        known.setdefault(what, run.directory)
    return runs


def named(folders: list[Path]) -> list[str]:
    """The folders' names, each with as many of the folders above before it as it takes to differ from the others."""
    depth = dict.fromkeys(folders, 1)
    name = lambda folder: "/".join(folder.parts[-depth[folder] :])
    while True:
        count = Counter(map(name, depth))
        alike = [folder for folder in depth if count[name(folder)] > 1 and depth[folder] < len(folder.parts)]
        if not alike:
            return list(map(name, folders))
        for folder in alike:
            depth[folder] += 1


def settings_of(run: Run) -> dict[str, Any]:
    """The settings that make a variant, flat; none of a run that does not say them."""
    flat = checks.scheduled(checks.flat(run.config or {}))
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{h}.") for h in HIDDEN)}


def _plan(folder: Path, actions: str) -> list[str]:
    """The folders of a sweep's variants in the order of its table, the one that others are compared with first; none
    where no sweep.json says it."""
    for place in dict.fromkeys((folder / actions, folder)):
        try:
            runs = json.loads((place / "sweep.json").read_text())
            names = [sweeps.reference(runs), *(run["variant"] for run in sweeps.in_order(runs))]
            return list(dict.fromkeys(name.replace("/", "_") for name in names))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    return []


def _seed(path: Path) -> tuple[int, str]:
    """What orders the seeds of a variant: 2 before 10, then what is no number."""
    name = path.parent.name
    return (int(name), "") if name.isdecimal() else (sys.maxsize, name)


def _place(plan: list[str], name: str) -> int:
    return plan.index(name) if name in plan else len(plan)
