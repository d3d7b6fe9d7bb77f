"""Show which actions a run's policy would take in its first state, at several stages of training.

    python -m runners.probe results/<experiment>/<suite>/<task>/<algo>/seed-0

The files of a run hold returns, not actions. So the run is repeated, which gives the same run
again, and at evenly spaced steps the policy is asked for actions without exploration, all in one
start state. `actions.csv` in the run directory has a row for each. The run takes as long as the
first time: this is for tasks like `toy/bandit`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runners.cells.cell import Cell
from runners.cells.errors import EXIT_OK, UserError, positive
from runners.cells.files import write_atomic
from runners.cells.seeding import derive_seed
from runners.cells.settings import RunSettings
from runners.storage.rundir import RunDirectory
from runners.terminal.cli import Parser, check_device, run_main
from runners.terminal.options import add_run
from runners.training.loop import Loop, Progress
from runners.training.process import setup_process
from runners.training.replica import make_env
from runners.training.trained import read_cell

Array = NDArray[Any]
FILE = "actions.csv"


def stages(steps: int, count: int, repeat: int) -> list[int]:
    """Environment steps at which to ask, `count` of them, evenly spaced, the last step included.

    Args:
        steps: length of the run.
        count: how many, at least 1.
        repeat: simulator steps for each agent step; stages fall on agent steps.
    """
    ends = np.linspace(0, steps, count + 1)[1:]
    return sorted({max(1, round(end / repeat)) * repeat for end in ends.tolist()})


def repeat_run(
    cell: Cell, folder: Path, count: int, actions: int, device: str
) -> tuple[dict[int, Array], str]:
    """Train a cell again in an empty folder and ask its policy for actions on the way.

    Args:
        cell: what to run.
        folder: where its files go.
        count: number of stages.
        actions: number of actions for each.
        device: cpu, cuda or cuda:N.

    Returns:
        For each environment step the actions `[actions, A]`; and the text of evaluations.csv.
    """
    directory = RunDirectory(cell, folder)
    directory.lock()
    seen: dict[int, Array] = {}

    def ask(progress: Progress) -> None:
        if progress.step in wanted and progress.step not in seen:
            # As if nobody had asked: the stream of the evaluations goes on where it was.
            streams = loop.agent.eval_rng.state_dict()
            seen[progress.step] = loop.agent.act(obs, explore=False)[0]
            loop.agent.eval_rng.load_state_dict(streams)

    loop = Loop((cell,), (directory,), RunSettings(device, float("inf")), report=ask)
    wanted = set(stages(cell.protocol.steps, count, loop.repeat))
    env = make_env(cell.task)
    start, _ = env.reset(seed=derive_seed("probe", cell.task, cell.seed))
    env.close()
    obs = np.repeat(start[None, None], actions, axis=1)
    try:
        loop.start()
        loop.run()
    finally:
        loop.close()
    return seen, directory.text["evaluations"]


def table(seen: dict[int, Array]) -> str:
    """`actions.csv`: a row for each action, in [-1, 1] whatever the task's own box."""
    size = next(iter(seen.values())).shape[1]
    lines = [",".join(["env_step", "sample", *(f"action_{i}" for i in range(size))])]
    for step, actions in sorted(seen.items()):
        for number, action in enumerate(actions.tolist()):
            lines.append(",".join([str(step), str(number), *(f"{a:.4f}" for a in action)]))
    return "\n".join(lines) + "\n"


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.probe", str(__doc__))
    add_run(result)
    result.add_argument("--stages", type=int, default=4, help="how often to ask, at the end too")
    result.add_argument("--actions", type=int, default=200, help="actions for each stage")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    setup_process()
    positive("stages", arguments.stages)
    positive("actions", arguments.actions)
    check_device(arguments.device)
    run, cell = arguments.run, read_cell(arguments.run)
    record = run / "run.json"
    if (status := json.loads(record.read_text())["status"]) != "done":
        raise UserError(f"{record}: the run is {status}; valid are runs that are done")
    with tempfile.TemporaryDirectory() as folder:
        seen, evaluations = repeat_run(
            cell, Path(folder), arguments.stages, arguments.actions, arguments.device
        )
    if evaluations != (run / "evaluations.csv").read_text():
        raise UserError(
            f"{run}: the run repeated here has other evaluations, so its actions are not this "
            "run's; repeat it with the versions and the machine of its run.json"
        )
    write_atomic(run / FILE, table(seen))
    print(f"file: {run / FILE}")
    return EXIT_OK


if __name__ == "__main__":
    run_main(main)
