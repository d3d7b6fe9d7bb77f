"""The report of an experiment: `python -m analysis.report results/quick`."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import curves, intervals, runtime
from analysis.files import write_atomic
from analysis.load import Experiment, ExperimentError, load
from analysis.stats import DESCRIPTIONS
from analysis.tables import Table, markdown_text, seed_table
from analysis.values import run_values

TEX_HEADER = "% Needs \\usepackage{booktabs}.\n\n"
FIGURES = {
    "curves": "Learning curves",
    "runtime": "Run time",
    "iqm": "Aggregates over tasks",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for a folder that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write tables, figures and an index page to <experiment>/report/.",
    )
    parser.add_argument("experiment", type=Path, help="experiment folder, such as results/quick")
    parser.add_argument("--quiet", action="store_true", help="do not print the return table")
    options = parser.parse_args(arguments)
    try:
        experiment = load(options.experiment)
        build(experiment)
    except (ExperimentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not options.quiet:
        width = shutil.get_terminal_size((120, 24)).columns
        for table in return_tables(experiment):
            print(table.text(width))
        print(status_line(experiment))
        print(f"Report: {options.experiment / 'report' / 'README.md'}")
    return 0


def build(experiment: Experiment) -> None:
    """Writes all files of the report into the experiment's folder `report`."""
    folder = experiment.path / "report"
    folder.mkdir(exist_ok=True)
    comparison = intervals.compare(experiment)
    documents = {
        "returns": return_tables(experiment),
        "runtime": runtime.tables(experiment),
        "aggregate": [intervals.table(experiment, comparison)],
    }
    for stem, tables in documents.items():
        _write_tables(tables, folder / stem)
    curves.draw(experiment, folder / "curves")
    runtime.draw(experiment, folder / "runtime")
    intervals.draw(experiment, comparison, folder / "iqm")
    write_atomic(folder / "status.md", status_page(experiment))
    write_atomic(folder / "README.md", index_page(experiment, documents))


def return_tables(experiment: Experiment) -> list[Table]:
    """Returns one table of returns for each statistic that the protocol reports."""
    return [
        seed_table(
            f"Return, {DESCRIPTIONS[statistic]}",
            run_values(experiment, statistic),
            experiment.names,
            experiment.tasks,
            notice=experiment.protocol.notice,
            better="high",
        )
        for statistic in experiment.protocol.reported
    ]


def status_line(experiment: Experiment) -> str:
    """Counts the cells by status on one line."""
    counts = experiment.runs["status"].value_counts().sort_index()
    parts = ", ".join(f"{number} {status}" for status, number in counts.items())
    return f"{len(experiment.runs)} cells: {parts}."


def status_page(experiment: Experiment) -> str:
    """Writes the page of all cells that are not done, with reasons."""
    runs = experiment.runs[experiment.runs["status"] != "done"]
    head = [f"# Status of experiment {experiment.name}", "", *_notice(experiment)]
    if runs.empty:
        return "\n".join([*head, f"All done: {status_line(experiment)}", ""])
    table = [
        "| task | method | seeds | status | evaluations | reason |",
        "|---|---|---|---|---|---|",
    ]
    keys = ["task", "label", "status", "reason", "evaluations"]
    for (task, label, status, reason, evaluations), group in runs.groupby(keys, sort=False):
        seeds = ", ".join(str(seed) for seed in group["seed"])
        cells = [task, label, seeds, status, evaluations, reason or "none given"]
        table.append("| " + " | ".join(markdown_text(str(cell)) for cell in cells) + " |")
    return "\n".join([*head, status_line(experiment), "", *table, ""])


def index_page(experiment: Experiment, documents: dict[str, list[Table]]) -> str:
    """Writes the index page: protocol, status, tables, pictures, and where the runs come from."""
    parts = [
        f"# Experiment {experiment.name}",
        *[line for line in _notice(experiment) if line],
        _protocol_text(experiment),
        f"{status_line(experiment)} Those that are not done: [status.md](status.md).",
    ]
    for stem, tables in documents.items():
        links = ", ".join(f"[{stem}{suffix}]({stem}{suffix})" for suffix in (".md", ".csv", ".tex"))
        parts += [f"## {stem.capitalize()}", tables[0].markdown().rstrip(), f"Files: {links}."]
    parts.append("## Figures")
    for stem, title in FIGURES.items():
        parts.append(f"![{title}]({stem}.svg)\n\n{title}: [{stem}.svg]({stem}.svg), {stem}.png.")
    parts += ["## Where the runs come from", _provenance(experiment), _reproduce(experiment)]
    return "\n\n".join(parts) + "\n"


def _write_tables(tables: list[Table], stem: Path) -> None:
    write_atomic(stem.with_suffix(".md"), "\n".join(table.markdown() for table in tables))
    tex = TEX_HEADER + "\n".join(table.latex() for table in tables)
    write_atomic(stem.with_suffix(".tex"), tex)
    tidy = pd.concat([table.tidy() for table in tables])
    write_atomic(stem.with_suffix(".csv"), tidy.to_csv(index=False, float_format="%.10g"))


def _notice(experiment: Experiment) -> list[str]:
    notice = experiment.protocol.notice
    return [f"**{notice[0].upper()}{notice[1:]}.**", ""] if notice else []


def _protocol_text(experiment: Experiment) -> str:
    protocol = experiment.protocol
    reported = ", then ".join(DESCRIPTIONS[statistic] for statistic in protocol.reported)
    text = (
        f"Protocol `{protocol.name}`: {protocol.steps:,} environment steps, an evaluation of "
        f"{protocol.eval_episodes} episodes every {protocol.eval_every:,} steps; reported value: "
        f"{reported}."
    )
    return f"{text} {protocol.note}".rstrip()


def _provenance(experiment: Experiment) -> str:
    """Lists code versions, machines and settings with the number of cells of each."""
    lines = []
    for column in ("code", "machine", "settings"):
        counts = experiment.runs.loc[experiment.runs[column] != "", column].value_counts()
        lines += [f"- {column}: {text} ({number} cells)" for text, number in counts.items()]
    return "\n".join(lines) or "No cell has a readable manifest."


def _reproduce(experiment: Experiment) -> str:
    """Gives the commands that run the same cells; a variant by options needs its own."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for label in experiment.labels:
        algo, _, variant = label.partition("@")
        parts = variant.split(",") if variant else []
        presets = [part for part in parts if "=" not in part]
        sets = tuple(f"--set {algo}.{part}" for part in parts if "=" in part)
        groups.setdefault(sets, []).append("@".join([algo, *presets]))
    rules, runs = experiment.protocol, experiment.runs
    tasks = ",".join(experiment.tasks)
    numbers = sorted(runs["seed"].unique())
    # A lone number would be read as a count.
    seeds = ",".join(str(number) for number in numbers) + ("," if len(numbers) == 1 else "")
    folder = f"results/{experiment.path.resolve().name}"
    commands = [
        f"    python -m runners.sweep --protocol {rules.name} --steps {rules.steps} "
        f"--algos {','.join(names)} --tasks {tasks} --seeds {seeds} "
        f"--experiment ./{folder} {' '.join(sets)}".rstrip()
        for sets, names in groups.items()
    ]
    return (
        "To run the same cells again, with the code above and in an empty folder:\n\n"
        + "\n".join(commands)
        + "\n\nEach cell's `run.json` holds every option and package version. To rebuild this page "
        f"from the files: `python -m analysis.report {folder}`."
    )


if __name__ == "__main__":
    sys.exit(main())
