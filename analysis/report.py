"""The report of an experiment: `python -m analysis.report results/quick`."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.data.experiment import SUCCESS_MEASURES, Experiment
from analysis.data.load import load
from analysis.data.logs import ExperimentError
from analysis.data.provenance import (
    origins,
    protocol_text,
    report_command,
    status_line,
    sweep_commands,
    unfinished,
)
from analysis.data.scores import normalised_scores
from analysis.data.values import run_values
from analysis.drawing import curves, intervals, profiles, runtime
from analysis.drawing.tables import Table, markdown_text, seed_table, write_tables
from analysis.html import page as html
from analysis.statistics.run_statistics import RUN_STATISTICS
from runners.cells.errors import EXIT_USAGE
from runners.cells.files import write_atomic

SUCCESS_NOTE = (
    "An episode is a success (any step) if one of its steps reports it, and a success (last step) "
    "if its last one does."
)
SUCCESS_FIGURE = {"success": "Success rate (any step)"}
FIGURES = {
    "curves": "Learning curves",
    "runtime": "Run time",
    "iqm": "Aggregates over tasks",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 2 for a folder that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write tables, figures and a page of all to <experiment>/report/.",
    )
    parser.add_argument("experiment", type=Path, help="experiment folder, such as results/quick")
    parser.add_argument("--quiet", action="store_true", help="do not print the tables of results")
    options = parser.parse_args(arguments)
    try:
        experiment = load(options.experiment)
        build(experiment)
    except (ExperimentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    if not options.quiet:
        width = shutil.get_terminal_size((120, 24)).columns
        for table in [*success_tables(experiment), *return_tables(experiment)]:
            print(table.text(width))
        print(status_line(experiment))
        folder = options.experiment / "report"
        print(f"Report: {folder / 'README.md'}, {folder / 'index.html'}")
    return 0


def build(experiment: Experiment) -> None:
    """Write all files of the report into the experiment's folder `report`."""
    folder = experiment.path / "report"
    folder.mkdir(exist_ok=True)
    scores = normalised_scores(experiment)
    documents = all_tables(experiment, scores)
    for stem, tables in documents.items():
        write_tables(tables, folder / stem)
    if "success" in documents:
        curves.draw(experiment, folder / "success", "success")
    curves.draw(experiment, folder / "curves")
    runtime.draw(experiment, folder / "runtime")
    intervals.draw(experiment, scores, folder / "iqm")
    if len(scores.estimates) > 1:
        profiles.draw(experiment, scores, folder / "profiles")
    write_atomic(folder / "index.html", html.page(experiment, scores, documents))
    write_atomic(folder / "status.md", status_page(experiment))
    write_atomic(folder / "README.md", index_page(experiment, documents))


def all_tables(experiment: Experiment, scores: intervals.Scores) -> dict[str, list[Table]]:
    """Return the tables of each file of tables, by the file's name without its ending."""
    success = {"success": success_tables(experiment)} if experiment.success_tasks else {}
    return {
        **success,
        "returns": return_tables(experiment),
        "runtime": runtime.tables(experiment),
        "aggregate": [intervals.table(experiment, scores)],
    }


def return_tables(experiment: Experiment) -> list[Table]:
    """Return one table of returns for each statistic that the protocol reports."""
    return [
        seed_table(
            f"Return, {RUN_STATISTICS[statistic].text}",
            run_values(experiment, statistic),
            experiment.names,
            experiment.tasks,
            notice=experiment.protocol.notice,
            better="higher",
        )
        for statistic in experiment.protocol.reported
    ]


def success_tables(experiment: Experiment) -> list[Table]:
    """Return, for each reported statistic, the tables of both readings of success, in percent.

    They hold the tasks that report success; there is no table if none does.
    """
    return [
        seed_table(
            f"Success rate ({reading}) in percent, {RUN_STATISTICS[statistic].text}",
            _in_percent(run_values(experiment, statistic, measure)),
            experiment.names,
            experiment.success_tasks,
            notice=experiment.protocol.notice,
            better="higher",
            notes=[SUCCESS_NOTE],
        )
        for statistic in experiment.protocol.reported
        for measure, reading in SUCCESS_MEASURES.items()
        if experiment.success_tasks
    ]


def _in_percent(values: pd.DataFrame) -> pd.DataFrame:
    return values.assign(value=100 * values["value"])


def status_page(experiment: Experiment) -> str:
    """Write the page of all cells that are not done, with reasons."""
    rows = unfinished(experiment)
    head = [f"# Status of experiment {experiment.name}", "", *_notice(experiment)]
    if not rows:
        return "\n".join([*head, f"All done: {status_line(experiment)}", ""])
    table = [
        "| task | method | seeds | status | evaluations | reason |",
        "|---|---|---|---|---|---|",
    ]
    table += ["| " + " | ".join(markdown_text(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join([*head, status_line(experiment), "", *table, ""])


def index_page(experiment: Experiment, documents: dict[str, list[Table]]) -> str:
    """Write the index page: protocol, status, tables, figures, and where the runs come from."""
    parts = [
        f"# Experiment {experiment.name}",
        *[line for line in _notice(experiment) if line],
        protocol_text(experiment),
        f"{status_line(experiment)} Those that are not done: [status.md](status.md).",
    ]
    for stem, tables in documents.items():
        links = ", ".join(f"[{stem}{suffix}]({stem}{suffix})" for suffix in (".md", ".csv", ".tex"))
        shown = tables[: len(SUCCESS_MEASURES) if stem == "success" else 1]
        texts = [table.markdown().rstrip() for table in shown]
        parts += [f"## {stem.capitalize()}", *texts, f"Files: {links}."]
    parts.append("## Figures")
    success = SUCCESS_FIGURE if "success" in documents else {}
    for stem, title in {**success, **FIGURES}.items():
        parts.append(f"![{title}]({stem}.svg)\n\n{title}: [{stem}.svg]({stem}.svg), {stem}.png.")
    parts += ["## Where the runs come from", _provenance(experiment), _reproduce(experiment)]
    return "\n\n".join(parts) + "\n"


def _notice(experiment: Experiment) -> list[str]:
    notice = experiment.protocol.notice
    return [f"**{notice[0].upper()}{notice[1:]}.**", ""] if notice else []


def _provenance(experiment: Experiment) -> str:
    lines = [f"- {line}" for line in origins(experiment)]
    return "\n".join(lines) or "No cell has a readable manifest."


def _reproduce(experiment: Experiment) -> str:
    commands = "\n".join(f"    {command}" for command in sweep_commands(experiment))
    rebuild = f"To rebuild this page from the files: `{report_command(experiment)}`."
    if not commands:
        return f"The runs were imported; each `run.json` says from where. {rebuild}"
    return (
        "To run the same cells again, with the code above and in an empty folder:\n\n"
        f"{commands}\n\nEach cell's `run.json` holds every option and package version. {rebuild}"
    )


if __name__ == "__main__":
    sys.exit(main())
