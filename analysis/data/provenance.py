"""Where the runs of an experiment come from, what became of them, and how to run them again."""

import shlex
from collections.abc import Sequence
from itertools import chain
from typing import cast

from analysis.data.experiment import Experiment
from analysis.data.importing import IMPORT_NOTE, IMPORTED, is_imported
from analysis.statistics.run_statistics import RUN_STATISTICS


def protocol_text(experiment: Experiment) -> str:
    """Say by which protocol the runs were made."""
    protocol = experiment.protocol
    reported = ", then ".join(RUN_STATISTICS[statistic].text for statistic in protocol.reported)
    text = (
        f"Protocol `{protocol.name}`: {protocol.steps:,} environment steps, an evaluation of "
        f"{protocol.eval_episodes} episodes every {protocol.eval_every:,} steps; reported value: "
        f"{reported}."
    )
    others = [label for label in experiment.labels if is_imported(label)]
    if others and protocol.name != IMPORTED:
        text = f"{text} {IMPORT_NOTE}: {', '.join(others)}."
    return f"{text} {protocol.note}".rstrip()


def unfinished(experiment: Experiment) -> list[tuple[str, str, str, str, int, str]]:
    """List the cells that are not done, seeds with the same fate together.

    Returns:
        One row per group: task, label, seeds, status, number of evaluations, reason.
    """
    runs = experiment.runs[experiment.runs["status"] != "done"]
    keys = ["task", "label", "status", "reason", "evaluations"]
    rows = []
    for key, group in runs.groupby(keys, sort=False):
        task, label, status, reason, evaluations = cast("tuple[str, str, str, str, int]", key)
        seeds = ", ".join(str(seed) for seed in group["seed"])
        rows.append((task, label, seeds, status, evaluations, reason or "none given"))
    return rows


def status_line(experiment: Experiment) -> str:
    """Count the cells by status on one line."""
    counts = experiment.runs["status"].value_counts().sort_index()
    parts = ", ".join(f"{number} {status}" for status, number in counts.items())
    return f"{len(experiment.runs)} cells: {parts}."


def origins(experiment: Experiment) -> list[str]:
    """List code versions, machines and settings with the number of cells of each."""
    lines = []
    for column in ("code", "machine", "settings"):
        counts = experiment.runs.loc[experiment.runs[column] != "", column].value_counts()
        lines += [f"{column}: {text} ({number} cells)" for text, number in counts.items()]
    return lines


def sweep_commands(experiment: Experiment) -> list[str]:
    """Give the commands that run the same cells; a variant by options needs its own.

    Imported runs are not of this suite, which cannot run them again.
    """
    protocol = experiment.protocol
    runs = experiment.runs[~experiment.runs["label"].map(is_imported)]
    labels = [label for label in experiment.labels if not is_imported(label)]
    tasks = [task for task in experiment.tasks if task in set(runs["task"])]
    seeds = sorted(runs["seed"].unique())
    target = f"./{folder(experiment)}"
    return [
        shell(arguments)
        for arguments in sweep_arguments(
            labels, tasks, seeds, protocol.name, protocol.steps, target
        )
    ]


def sweep_arguments(
    labels: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    protocol: str,
    steps: int,
    target: str,
) -> list[list[str]]:
    """Give what follows `python` to run a grid of cells, once for each set of options.

    Args:
        labels: method labels, `<algo>[@<preset>,<option>=<value>,...]`.
        tasks: task ids.
        seeds: seed indices.
        protocol: name of the protocol.
        steps: length of a run in environment steps.
        target: what `--experiment` takes.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for label in labels:
        algo, _, variant = label.partition("@")
        parts = variant.split(",") if variant else []
        presets = [part for part in parts if "=" not in part]
        sets = [("--set", f"{algo}.{part}") for part in parts if "=" in part]
        groups.setdefault(tuple(chain(*sets)), []).append("@".join([algo, *presets]))
    # A lone number would be read as a count.
    numbers = ",".join(str(seed) for seed in seeds) + ("," if len(seeds) == 1 else "")
    length = ["--protocol", protocol, "--steps", str(steps)]
    cells = ["--tasks", ",".join(tasks), "--seeds", numbers, "--experiment", target]
    return [
        ["-m", "runners.sweep", *length, "--algos", ",".join(names), *cells, *sets]
        for sets, names in groups.items()
    ]


def shell(arguments: Sequence[str]) -> str:
    """Write arguments of Python as a command line."""
    return shlex.join(["python", *arguments])


def report_command(experiment: Experiment) -> str:
    """Give the command that builds the report from the files."""
    return f"python -m analysis.report {folder(experiment)}"


def folder(experiment: Experiment) -> str:
    """Return the experiment's folder in a checkout, whatever the folder it was loaded from."""
    return f"results/{experiment.path.resolve().name}"
