"""The papers' tables and figures: `python -m analysis.figures diffsr-table1`.

Each is drawn from the runs there are. What is missing shows as a hole, and the command prints how
to run it; `--run-missing` runs it.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from analysis.data.experiment import Experiment
from analysis.data.kept import kept_experiments
from analysis.data.load import load
from analysis.data.logs import ExperimentError
from analysis.data.provenance import shell
from analysis.drawing.tables import Table, write_tables
from analysis.papers import (
    figure_bandit,
    figure_curves,
    figure_generation,
    figure_hours,
    figure_table,
)
from analysis.papers.coverage import Coverage, cover, unused
from analysis.papers.targets import TARGETS, Kind, Target
from runners.cells.errors import EXIT_AGAIN, EXIT_USAGE, nearest

Draw = Callable[[Coverage, Path], None]
MakeTables = Callable[[Coverage], list[Table]]

DRAW: Mapping[Kind, Draw] = {
    "curves": figure_curves.draw,
    "hours": figure_hours.draw,
    "generation": figure_generation.draw,
    "bandit": figure_bandit.draw,
}
"""What draws a kind of target; a table has no figure."""

TABLES: Mapping[Kind, MakeTables] = {
    "table": figure_table.tables,
    "curves": figure_table.measured_tables,
    "hours": figure_hours.tables,
    "bandit": figure_bandit.tables,
}
"""What makes the tables of a kind of target; the generation figure has none."""


class UnknownTarget(ValueError):
    """A name that is none of the targets; the message is one line for the user."""


class SweepFailed(Exception):
    """A command that should run missing cells could not; the message is one line for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    It is 2 for bad input, and that of the sweep where `--run-missing` was stopped or had failures.
    """
    options = _parser().parse_args(arguments)
    try:
        targets = [_target(name) for name in options.figures]
        if options.list:
            _print_list(targets or list(TARGETS.values()), options)
            return 0
        if not targets:
            raise UnknownTarget(f"no figure named; valid figures are {', '.join(TARGETS)}")
        code = 0
        for target in targets:
            code = max(code, _make(target, options))
        return code
    except (UnknownTarget, ExperimentError, SweepFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def build(coverage: Coverage, stem: Path) -> list[Path]:
    """Write the files of a target, holes included.

    Args:
        coverage: the runs there are.
        stem: path of the files without their endings.

    Returns:
        The files.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    kind, files = coverage.target.kind, []
    if kind in DRAW:
        DRAW[kind](coverage, stem)
        files += [stem.with_suffix(suffix) for suffix in figure_curves.SUFFIXES]
    if kind in TABLES:
        write_tables(TABLES[kind](coverage), stem)
        files += [stem.with_suffix(suffix) for suffix in (".md", ".tex", ".csv")]
    return files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures",
        description="Make the papers' tables and figures from the runs there are.",
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="names that --list gives")
    parser.add_argument("--list", action="store_true", help="say what there is and what it needs")
    parser.add_argument(
        "--experiment",
        action="append",
        type=Path,
        default=[],
        help="folder of an experiment, or its name in --results; may be given several times; "
        "default: all that the repository keeps, and the one that missing cells run in",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: RESULTS/figures")
    parser.add_argument("--run-missing", action="store_true", help="run the cells that are missing")
    return parser


def _target(name: str) -> Target:
    if name not in TARGETS:
        raise UnknownTarget(
            f"unknown figure {name!r}: valid figures are {', '.join(TARGETS)}"
            f"{nearest(name, TARGETS)}"
        )
    return TARGETS[name]


def _print_list(targets: Sequence[Target], options: argparse.Namespace) -> None:
    experiments = _experiments(options)
    for target in targets:
        coverage = _cover(target, experiments, options)
        print(f"{target.name}: {target.title}; {target.paper}")
        print(f"    needs {target.needs()}")
        print(f"    {coverage.status}")


def _make(target: Target, options: argparse.Namespace) -> int:
    """Draw a target, after running what it lacks if that is asked for; return the exit code."""
    coverage, code = _cover(target, _experiments(options), options), 0
    print(f"{target.name}: {target.title}; {target.paper}")
    print(f"needs {target.needs()}")
    if options.run_missing:
        code = _run(coverage.commands())
        coverage = _cover(target, _experiments(options), options)
        code = max(code, _run(coverage.tool_commands()))
    print(coverage.status)
    if options.experiment:
        for name in unused(target, _experiments(options)):
            print(f"not used: {name}; expected protocol {target.protocol.name}")
    commands = [*coverage.commands(), *coverage.tool_commands()]
    if commands:
        print("to run the rest:", *(f"    {shell(command)}" for command in commands), sep="\n")
    out = options.out or options.results / "figures"
    print("files:", *(str(file) for file in build(coverage, out / target.name)))
    return code


def _experiments(options: argparse.Namespace) -> list[Experiment]:
    """Load the experiments that the user names, else those that the repository keeps.

    One that is named and that `--run-missing` will make need not be there yet.
    """
    if not options.experiment:
        return kept_experiments(options.results)
    paths = [_path(path, options.results) for path in options.experiment]
    return [load(path) for path in paths if path.exists() or not options.run_missing]


def _path(path: Path, results: Path) -> Path:
    """Return the folder of an experiment: a bare name is one of the results."""
    return path if path.exists() or len(path.parts) > 1 else results / path


def _cover(
    target: Target, experiments: Sequence[Experiment], options: argparse.Namespace
) -> Coverage:
    """Find a target's runs, also in the folder that the missing ones are run in."""
    destination = _destination(target, experiments, options)
    folders = {experiment.path.resolve() for experiment in experiments}
    there = (destination / "experiment.json").exists() and destination.resolve() not in folders
    more = [load(destination)] if there and any(destination.glob("*/*/*/seed-*")) else []
    return cover(target, [*experiments, *more], destination)


def _destination(
    target: Target, experiments: Sequence[Experiment], options: argparse.Namespace
) -> Path:
    """Return the folder that missing cells should run in.

    It is the first experiment that the user names and that has the target's protocol, or is not
    there yet; else the results' folder that a sweep of the protocol has by default.
    """
    fitting = {
        experiment.path
        for experiment in experiments
        if (experiment.protocol.name, experiment.protocol.steps)
        == (target.protocol.name, target.steps)
    }
    for path in (_path(path, options.results) for path in options.experiment):
        if path in fitting or not path.exists():
            return path
    return options.results / target.protocol.name


def _run(commands: Sequence[Sequence[str]]) -> int:
    """Run commands of Python one after the other; return the highest exit code.

    Raises:
        SweepFailed: one refused its input.
    """
    code = 0
    for command in commands:
        print(f"running: {shell(command)}", flush=True)
        done = subprocess.run([sys.executable, *command], check=False).returncode
        if done == EXIT_USAGE:
            raise SweepFailed(f"refused: {shell(command)}")
        code = max(code, done)
        if done == EXIT_AGAIN:  # Stopped and saved.
            break
    return code


if __name__ == "__main__":
    sys.exit(main())
