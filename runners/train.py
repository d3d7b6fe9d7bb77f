"""Train one cell in this process: `python -m runners.train --algo sac --task mbbl/Hopper-ET`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import algos
from runners.cells.errors import EXIT_AGAIN, EXIT_FAILED, EXIT_OK, UserError
from runners.cells.grid import make_cells, parse_entry, unsupported
from runners.cells.protocols import get_protocol
from runners.storage.rundir import open_experiment
from runners.terminal.cli import Parser, check_device, run_main
from runners.terminal.options import (
    add_common,
    check_common,
    check_disk,
    check_drawing,
    experiment_path,
    frame_bytes,
    options_text,
    settings_of,
)
from runners.terminal.progress import View, make_console
from runners.training.loop import Progress
from runners.training.tracking import check_sinks
from runners.training.worker import StopFlag, run_here


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.train", str(__doc__), epilog=options_text(algos.list_algos()))
    result.add_argument("--algo", required=True, help="ALGO or ALGO@PRESET; ALGO may be a .py file")
    result.add_argument("--task", required=True, help="task id, for example mbbl/HalfCheetah")
    result.add_argument("--seed", default="0", help="seed index")
    result.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="option of the agent"
    )
    add_common(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    protocol = get_protocol(arguments.protocol).with_steps(arguments.steps)
    algo = algos.name_of(parse_entry(arguments.algo)[0])
    for text in arguments.set:
        if not all(text.partition("=")):
            raise UserError(f"--set {text}: expected OPTION=VALUE")
    sets = [f"{algo}.{text}" for text in arguments.set]
    if not arguments.seed.isdecimal():
        raise UserError(
            f"--seed {arguments.seed}: expected one number, 0 or more; runners.sweep takes several"
        )
    (cell,) = make_cells([arguments.algo], [arguments.task], [int(arguments.seed)], protocol, sets)
    reason = unsupported(cell)
    if reason is not None:
        raise UserError(f"--task {cell.task}: {reason}")
    device = check_device(arguments.device)
    check_common(arguments)
    check_drawing([cell])
    experiment = experiment_path(arguments, protocol)
    check_disk(experiment, frame_bytes(cell))
    settings = settings_of(arguments, device, check_sinks(arguments.track))
    open_experiment(experiment, protocol)
    console = make_console()
    with View([cell], console, cell.name) as view:
        row = view.row(cell)
        row.begin()

        def report(progress: Progress) -> None:
            row.update(progress.step, progress.returns[0])
            row.reason = progress.notice
            view.refresh()

        with StopFlag() as stop:
            (end,) = run_here((cell,), experiment, settings, stop, report)
        if end.status == "refused":
            raise UserError(str(end.reason))
        row.end(end.status, end.reason)
    console.print(f"files: {cell.path(experiment)}", soft_wrap=True)
    codes = {"done": EXIT_OK, "stopped": EXIT_AGAIN, "elsewhere": EXIT_AGAIN}
    return codes.get(end.status, EXIT_FAILED)


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
