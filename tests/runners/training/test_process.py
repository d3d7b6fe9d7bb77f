"""Processes that train compute on one thread, whatever the environment says."""

import os
import subprocess
import sys

import pytest
import torch

from runners import generate, probe, watch
from runners.cells.errors import UserError
from runners.cells.settings import RunSettings
from runners.training.worker import run_here
from tests.helpers.runs import ROOT, TINY, cell_of

COMMANDS = ("sweep", "train", "watch", "generate", "probe", "check", "training.worker")
ENDS_AT_LIBRARIES = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy"):
            print(name, os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"], flush=True)
            os._exit(0)

sys.meta_path.insert(0, Finder())
import runners.{command}
import torch
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_are_set_before_the_libraries_load(command):
    done = subprocess.run(
        [sys.executable, "-c", ENDS_AT_LIBRARIES.format(command=command)],
        env=os.environ | {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout in ("torch 1 1\n", "numpy 1 1\n")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("command", [watch, generate, probe])
def test_commands_compute_on_one_thread(command, tmp_path, two_threads):
    with pytest.raises(UserError):
        command.main([str(tmp_path / "none")])
    assert torch.get_num_threads() == 1


def test_runs_compute_on_one_thread(tmp_path, two_threads):
    cell = cell_of("sac", protocol=TINY)
    (end,) = run_here((cell,), tmp_path, RunSettings(), lambda: True, lambda progress: None)
    assert end.status == "stopped"
    assert torch.get_num_threads() == 1
