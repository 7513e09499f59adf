"""Writes DIR/report/: report.md with its pictures, and index.html, one file that has them all in it.

In: a data.Run. Called by python -m mow_jax.report, which also prints the tables on the terminal.
"""

from __future__ import annotations

import re
from pathlib import Path

from mow_jax import advice
from mow_jax.report import costs, curves, figures, knowledge, render, strips, tables
from mow_jax.report.data import Frames, Run, has, only_evaluated, pictured
from mow_jax.report.render import Picture, Section
from mow_jax.types import BadInput

# What a section is made of.
NEEDS = {
    "Scores": "results.json",
    "Learning curves": "return or success of episode/<task> or evaluation/<task> in metrics.jsonl",
    "What the world model knows": "diagnostics in results.json",
    "What the world model sees": "frames.npz",
    "Clusters and experts": "clusters.json",
    "Use of the experts": "router/load/<expert> or router/switches in metrics.jsonl",
    "Harmonious weights": "harmony/<task> in metrics.jsonl",
    "Losses": "metrics of updates in metrics.jsonl",
}
# Sections of runs whose config has such a key: others cannot have them.
ONLY_WITH = {
    "Clusters and experts": ("clustering", "table"),
    "Use of the experts": ("router", "experts"),
    "Harmonious weights": ("loss", "harmony"),
}
OF_PICTURES = ("What the world model knows", "What the world model sees")  # no sections of runs that saw vectors
# Of areas of metrics, where the area's name is not enough: a title, and how to read its curves, or some of them.
TITLES = {
    "world": "World model",
    "time": "Speed and memory",
    "acting": "Planner against policy",
    "fresh": "Rounds on fresh rows",
}
TEXTS = {
    "world/dormant": "Dormant: the share of hidden units of the feed-forward layers that hardly react to any token. A "
    "share that grows means that the model loses the means to learn anything new.",
    "world/latent_norm": "Latent norm: the size of what the encoder makes of a frame, task by task; it should stay "
    "where it begins.",
    "gradients": "Cosine: how far a task's gradient of what all tasks share points where the others' do, at "
    "evaluations: 1 the same way, 0 neither with nor against them, below 0 against them. Opposed: the share of pairs "
    "of tasks whose gradients point apart.",
    "search": "Of learned rows whose action was searched, which the weights of that time did; 0 before there are any. "
    "Entropy: of the searched policy, in nats; near 0 the search is sure, at the logarithm of the number of actions it "
    "says nothing. KL: what the policy head has still to learn from the searches. Agreement: the share of rows whose "
    "likeliest action is the same by search and head. Share: of the rows, those that were searched.",
    "stages": "Stage: what of the growing backbone learns: at 0 all of it, later the adapters of that number. Solved: "
    "how many tasks have reached the target and left the loss. Steps, score: when each did, and with what normalised "
    "score.",
    "router/layers": "Experts of two layers have only their number in common: their mean may look even where each "
    "layer has but one at work.",
    "acting": "Mean reward of a step in the newest rows, of environments that plan and of those that act by the bare "
    "policy. A planner that stays above shows what planning adds; where both meet, the policy has learned the plan.",
    "disagreement": "Model: the distance of the model-based from the model-free value of a step, in returns, before "
    "anything is learned from it. Heads: the deviation of the value functions among each other.",
    "bonus": "Size: how much the bonus for disagreement changes an advantage of deviation 1. Weight: its factor, which "
    "falls to 0. Turned: the share of advantages whose sign it changes; a clipped bonus turns none.",
    "fresh": "First moved: how far the ratio of probabilities is from 1 before the first step; more than rounding "
    "would mean that another policy has acted. Moved, clipped: the same over all minibatches, and the share outside "
    "the trust region. Step, replay step: how far a round, and the updates from replay before it, moved the policy's "
    "parameters; where the first is far below the second, bonus and trust region have no say. Going: the share of a "
    "round's steps until the policy was too far from what acted.",
}
ELSEWHERE = ("episode", "evaluation", "actors", "train", "router", "harmony")  # areas that other sections show


def write(run: Run, refresh: int = 0) -> Path:
    """Writes the report and returns its directory; `refresh`: seconds after which a browser reads the page again.
    Raises BadInput where it cannot be written."""
    directory = run.directory / "report"
    try:
        for part in ("strips", "episodes"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        sections = _sections(run, directory)
        kind = "An agent's evaluation in" if only_evaluated(run) else "Run"
        title, subtitle = f"{kind} {run.directory.resolve().name}", _subtitle(run)
        render.put(directory / "report.md", render.markdown(title, subtitle, sections))
        render.put(directory / "index.html", render.page(title, subtitle, sections, directory, refresh))
    except OSError as problem:
        raise BadInput(
            f"cannot write the report to {directory}: {problem.strerror or problem}; free it first"
        ) from None
    return directory


def _subtitle(run: Run) -> str:
    parts = [f"{len(run.tasks)} task{'s' * (len(run.tasks) != 1)}"] if run.tasks else []
    if run.config:
        parts = [f"suite {run.config['suite'].get('name')}", *parts, f"seed {run.config.get('seed')}"]
    if run.metrics:
        parts.append(f"{int(max(series.step[-1] for series in run.metrics.values())):,} agent steps a task")
        parts.append(f"{int(max(series.update[-1] for series in run.metrics.values())):,} updates")
    return ", ".join(parts)


def _sections(run: Run, directory: Path) -> list[Section]:
    sections = [
        _scores(run),
        _curves(run, directory),
        _knowledge(run, directory),
        _frames(run, directory),
        _clusters(run, directory),
        _router(run, directory),
        _harmony(run, directory),
        *(_losses(run, directory, area, TITLES.get(area, area.capitalize())) for area in _areas(run)),
        costs.section({run.directory.resolve().name: [run]}, of="run"),
        _protocol(run),
    ]
    made = {section.title: section for section in sections if section is not None}
    wanted = [title for title in NEEDS if title not in made and _could_have(run, title)]
    unmade = [f"{title}: needs {NEEDS[title]}" for title in wanted if title != "Losses" or not _areas(run)]
    first = [_advice(run), Section("Missing", run.missing + unmade) if run.missing or unmade else None]
    return [section for section in first if section is not None] + list(made.values())


def _advice(run: Run) -> Section | None:
    """What training said, or would have said, of failures that its metrics show."""
    if run.config is None or not run.lines:
        return None
    of = lambda section, key: run.config.get(section, {}).get(key, 0)
    seen = dict(fresh=not of("train", "init_from"), once=not of("evaluation", "every"))
    adviser = advice.Advice(run.tasks, of("warmup", "updates"), **seen)
    said = [text for line in run.lines for text in adviser.look(line)]
    return Section("Advice", notes=[text[0].upper() + text[1:] for text in said]) if said else None


def _areas(run: Run) -> list[str]:
    """Areas of metrics that have a section of their own, in the order of metrics.jsonl."""
    found = dict.fromkeys(name.partition("/")[0] for name in run.metrics if "/" in name)
    return [area for area in found if area not in ELSEWHERE]


def _could_have(run: Run, title: str) -> bool:
    if only_evaluated(run):
        return False
    if title in OF_PICTURES and not pictured(run.config):
        return False
    if title == "What the world model knows" and run.frames is not None:
        return _paints(run.frames)
    return title not in ONLY_WITH or has(run.config, *ONLY_WITH[title])


def _paints(frames: Frames) -> bool:
    """Whether the run's world model can be looked into: else only what was really seen has been kept."""
    return any(frames.get("imagined", task) is not None for task in frames.names)


def _scores(run: Run) -> Section | None:
    if run.results is None:
        return None
    text = (
        "Returns are means over evaluation episodes, ± their standard error. A normalised score is 0 for the random "
        "policy and 1 for the reference (a human for Atari, the best known score for toy tasks, the reward threshold "
        "for Gymnasium; for Meta-World it is the success rate). Mean and median are over the tasks' means, the "
        "interquartile mean (IQM) is over all episodes, where published ones are over the means of runs; its interval "
        "is a stratified bootstrap. At the reference: tasks whose score is 1 or more, for Atari games at human level."
    )
    if any(entry.get("stages") for entry in run.results["tasks"].values()):
        text += (
            " When solved: the normalised score with which a task reached the target and left the loss, and the step."
        )
    return Section("Scores", [text], [tables.aggregate(run.results), tables.scores(run.results)])


def _curves(run: Run, directory: Path) -> Section | None:
    if only_evaluated(run):
        return None
    pictures = [
        Picture(name, title)
        for kind, name, title in (
            ("return", "learning_curves.png", "Episode return of each task"),
            ("success", "success_curves.png", "Success of each task: the share of episodes that reached it"),
        )
        if curves.learning_curves(run, kind, directory / name)
    ]
    if not pictures:
        return None
    text = (
        "Episodes while the agent learned, a dot the mean of those that ended between two lines of metrics (log.every "
        "updates), the dots' moving average, and the evaluations. Where a dashed score lies far outside what was "
        "reached it is named at the panel's edge instead."
    )
    if not curves.returns_compare(run):
        text += (
            " An evaluation ends an episode at its success, where training goes on: its returns do not compare and are "
            "not drawn."
        )
    return Section("Learning curves", [text], pictures=pictures)


def _knowledge(run: Run, directory: Path) -> Section | None:
    if run.results is None or not run.results["diagnostics"]:
        return None
    diagnostics = run.results["diagnostics"]
    text = [
        "On the rows of the evaluation's episodes, which the model never trained on. Reward correlation: predicted "
        "against real rewards, 1 is perfect, 0 knows nothing of them. Reward AP: average precision at telling the rows "
        "whose reward is not the commonest one; in brackets what chance scores. A dash stands where rewards never "
        "vary or, for the precision, where most rows differ.",
        "Ends are terminations and lost lives, not time limits: the mean predicted probability, in brackets the real "
        "share; the mean probability on the rows that did end; and the expected calibration error over ten bins. As "
        "ends are rare, a model that never expects one has a small error too: the column before it tells.",
        "Nats of an action: how much worse the next latent is foreseen under other actions than the real ones. Near 0 "
        "the model ignores what is done; a dash stands where a system foresees no latents.",
        "The reconstruction ratio divides the model's squared pixel error by the error of one fixed picture, the mean "
        "of the task's frames. A model that paints only the mean background scores 1, so that what moves in a game "
        "counts; below 1 is better, 0 is perfect, above 1 the pictures are blurred or mixed up with another task's.",
        f"{sum(entry['ratio'] is not None and entry['ratio'] < 1 for entry in diagnostics.values())} of "
        f"{len(diagnostics)} tasks are below 1.",
    ]
    pictures = []
    if knowledge.curves(run, directory / "knowledge.png"):
        pictures.append(Picture("knowledge.png", "Over the evaluations; dashed: what says nothing"))
    if knowledge.reliability(run, directory / "terminations.png"):
        caption = "Predicted probability of an end against the share of rows that ended; dashed: perfect calibration"
        pictures.append(Picture("terminations.png", caption))
    return Section("What the world model knows", text, [tables.knowledge(diagnostics)], pictures)


def _frames(run: Run, directory: Path) -> Section | None:
    if run.frames is None:
        return None
    text = (
        "For each task: what was seen, what the autoencoder makes of it, and what the world model imagines from the "
        "given actions alone, once the context has ended. Context frames are faded; +1 is the first imagined frame."
    )
    if not _paints(run.frames):
        text = (
            "This system's world model paints no pictures: there is nothing reconstructed or imagined to show. For "
            "each task an evaluation episode as it was."
        )
    galleries = [_pictures(run.frames, task, number, directory) for number, task in enumerate(run.frames.names)]
    return Section("What the world model sees", [text], galleries=[gallery for gallery in galleries if gallery])


def _pictures(frames: Frames, task: str, number: int, directory: Path) -> list[Picture]:
    """Writes one task's strip and films."""
    name, start, made = f"{number:02d}-{safe(task)}", frames.imagined_from, []
    real, reconstructed, imagined = (frames.get(kind, task) for kind in ("real", "reconstructed", "imagined"))
    if real is not None and reconstructed is not None and imagined is not None:
        rows = strips.rows(real, reconstructed, imagined, start)
        strips.strip(rows, start, directory / "strips" / f"{name}.png")
        strips.strip_gif(rows, start, directory / "strips" / f"{name}.gif")
        made = [Picture(f"strips/{name}.png", task), Picture(f"strips/{name}.gif", f"{task}: the same, moving")]
    episode = frames.get("episode", task)
    if episode is not None:
        every = strips.episode_gif(episode, directory / "episodes" / f"{name}.gif")
        pace = f", one frame in {every}" if every > 1 else ""
        made.append(Picture(f"episodes/{name}.gif", f"{task}: an evaluation episode{pace}"))
    return made


def safe(name: str) -> str:
    """A task's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:80]


def _clusters(run: Run, directory: Path) -> Section | None:
    if run.clusters is None:
        return None
    used = len(set(run.clusters.cluster.tolist()))
    text = (
        f"Clusters in use: {used}; method {run.clusters.method!r}, seed {run.clusters.seed}. Tasks of a cluster share "
        "encoder, decoder, heads and critic; an expert is a temporal module, and a task mixes several."
    )
    pictures = []
    for kind, caption in (("cluster", "Tasks by cluster"), ("experts", "Tasks by experts, the first the strongest")):
        figures.similarity_map(run.clusters, kind, directory / f"map_{kind}.png")
        if run.clusters.similarity[kind] is None:
            caption += "; no similarity of gradients was measured for these"
        pictures.append(Picture(f"map_{kind}.png", caption))
    return Section("Clusters and experts", [text], [tables.sharing(run.clusters)], pictures)


def _router(run: Run, directory: Path) -> Section | None:
    if not figures.expert_use(run.metrics, directory / "expert_use.png"):
        return None
    text = (
        "How large a share of the tasks (of the tokens, where experts are chosen token by token) has each expert among "
        "its own, and how often a selection that lasts has changed. Few rows of strong colour mean that few experts do "
        "all the work; switches should fade out as the router cools."
    )
    pictures = [Picture("expert_use.png", "Expert use over training")]
    return Section("Use of the experts", [text, *_texts(run, "router")], pictures=pictures)


def _harmony(run: Run, directory: Path) -> Section | None:
    if not figures.harmony(run, directory / "harmony.png"):
        return None
    text = (
        "Sigma follows a task's loss, so that each task weighs about the same. A line that leaves the others shows a "
        "task whose loss grows or stalls."
    )
    return Section("Harmonious weights", [text], pictures=[Picture("harmony.png", "Sigma of each task")])


def _losses(run: Run, directory: Path, area: str, title: str) -> Section | None:
    if not figures.losses(run, area, directory / f"{area}.png"):
        return None
    caption = f"All metrics {area}/... over updates; of many tasks the thick line is the mean"
    return Section(title, _texts(run, area), pictures=[Picture(f"{area}.png", caption)])


def _texts(run: Run, area: str) -> list[str]:
    """How to read an area's curves, as far as the run has those that are told of."""
    begins = lambda name: any(f"{metric}/".startswith(f"{name}/") for metric in run.metrics)
    return [text for name, text in TEXTS.items() if name.partition("/")[0] == area and begins(name)]


def _protocol(run: Run) -> Section | None:
    return None if run.results is None else Section("Protocol", tables=[tables.protocol(run.results)])
