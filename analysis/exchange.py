"""Results in and out: `python -m analysis.exchange export | import-csv | import-tensorboard`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.data import tensorboard_logs
from analysis.data.experiment import RUN, Experiment
from analysis.data.importing import COLUMNS, ImportedError, Origin, add_runs, read_tidy
from analysis.data.load import load
from analysis.data.logs import ExperimentError
from runners.cells.errors import EXIT_USAGE
from runners.cells.files import write_atomic

COMMAND = "python -m analysis.exchange"
SUFFIXES = (".csv", ".parquet")
DEFAULT_WINDOW = 10_000
"""Steps over which training episodes are gathered where no experiment says otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except (ExperimentError, ImportedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def tidy(experiment: Experiment) -> pd.DataFrame:
    """Return all evaluation episodes of an experiment, with the columns `importing.COLUMNS`.

    A run without an evaluation has no row.
    """
    statuses = experiment.runs[[*RUN, "status"]]
    rows = experiment.evaluations.merge(statuses, on=RUN, how="left", validate="many_to_one")
    whole = dict.fromkeys(["seed", "env_step", "episode"], "int64")
    return rows.rename(columns={"label": "method"})[COLUMNS].astype(whole)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Move results in and out.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    out = commands.add_parser("export", help="write an experiment as one tidy table")
    out.add_argument("experiment", type=Path, help="experiment folder, such as results/quick")
    out.add_argument("--out", type=Path, required=True, metavar="FILE.csv|FILE.parquet")
    out.set_defaults(run=_export)

    table = commands.add_parser("import-csv", help="add the runs of a tidy table")
    table.add_argument("file", type=Path, help="a CSV or Parquet file as `export` writes it")
    table.set_defaults(run=_import_csv)

    logs = commands.add_parser("import-tensorboard", help="add runs of SB3 or CleanRL")
    logs.add_argument("folder", type=Path, help="each folder in it that holds event files is a run")
    logs.add_argument("--method", required=True, help="what to call the method")
    logs.add_argument("--task", required=True, help="task id, such as gym/Hopper-v5")
    logs.add_argument("--tag", help=f"scalar to read (default: {', '.join(tensorboard_logs.TAGS)})")
    logs.add_argument(
        "--every", type=int, metavar="STEPS", help="gather training episodes over so many steps"
    )
    logs.set_defaults(run=_import_tensorboard)

    for command in (table, logs):
        command.add_argument("--experiment", required=True, metavar="NAME", help="new or existing")
        command.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    return parser


def _export(options: argparse.Namespace) -> str:
    if options.out.suffix not in SUFFIXES:
        raise ImportedError(f"cannot write '{options.out}'; expected a name in .csv or .parquet")
    table = tidy(load(options.experiment))
    if options.out.suffix == ".csv":
        write_atomic(options.out, table.to_csv(index=False))
    else:
        write_atomic(options.out, table.to_parquet(index=False))
    return f"Written: {options.out} ({len(table):,} evaluation episodes)"


def _import_csv(options: argparse.Namespace) -> str:
    origin = Origin("a tidy table", {"file": options.file.name})
    return add_runs(read_tidy(options.file), options.results, options.experiment, origin)


def _import_tensorboard(options: argparse.Namespace) -> str:
    if options.every is not None and options.every < 1:
        raise ImportedError(f"--every {options.every}: expected a positive number of steps")
    logs = tensorboard_logs.read(options.folder, options.tag)
    folder = options.results / options.experiment
    known = (folder / "experiment.json").exists()
    every = options.every or (load(folder).protocol.eval_every if known else DEFAULT_WINDOW)
    table = logs.table(every).assign(task=options.task, method=options.method, status="done")
    what = "training episodes" if logs.training else "evaluations"
    origin = Origin(
        f"TensorBoard logs of {logs.framework}",
        {"tag": logs.tag, "values": what},
        dict(zip(logs.seeds, logs.runs, strict=True)),
    )
    return add_runs(table, options.results, options.experiment, origin)


if __name__ == "__main__":
    sys.exit(main())
