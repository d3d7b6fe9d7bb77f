"""Small cells for launchers whose workers are started elsewhere, and a table that acts."""

import json

from runners.cells.settings import RunSettings
from runners.storage.rundir import RunDirectory, open_experiment
from runners.terminal.progress import View, make_console
from runners.training.worker import run_here
from tests.helpers.runs import TINY, cell_of, files_of, small_options

# SAC, and before each update lines of a test. Workers have no part in what a test patches.
AGENT = """
import os, time
from pathlib import Path
from algos.sac import SAC

here = Path(__file__).parent

class Mine(SAC):
    title = "Mine"

    def update(self):
        {lines}
        return super().update()
"""
PACED = "time.sleep(0.05 * (here / 'slow').exists())"


def cells_in(folder, lines=PACED, seeds=2):
    """The cells of an agent in a file of its own; also opens the experiment `e` for them."""
    file = folder / "mine.py"
    file.write_text(AGENT.format(lines=lines))
    sets = [text.removeprefix("--set=") for text in small_options("sac", "mine.")]
    open_experiment(folder / "e", TINY)
    return [cell_of(f"{file}@quick", "mbbl/Pendulum", seed, TINY, sets) for seed in range(seeds)]


def undisturbed(folder):
    """The files of the cells of `cells_in`, done here one after the other."""
    cells = cells_in(folder)
    for cell in cells:
        (end,) = run_here(
            (cell,), folder / "e", RunSettings(), lambda: False, lambda progress: None
        )
        assert end.status == "done", end
    return [files_of(cell.path(folder / "e")) for cell in cells]


def begun(cell, experiment):
    """Whether there is a checkpoint to go on from."""
    return any(RunDirectory(cell, experiment).checkpoints.glob("step-*"))


def record_of(cell, experiment):
    return json.loads((cell.path(experiment) / "run.json").read_text())


def statuses(cells, view):
    return [view.row(cell).status for cell in cells]


class Watched(View):
    """Does something at every look at the table."""

    def __init__(self, cells, at_refresh=lambda view: None):
        super().__init__(cells, make_console(), "test")
        self.at_refresh = at_refresh

    def refresh(self, final=False):
        self.at_refresh(self)
        super().refresh(final)
