"""Sweeps that share an experiment folder split its cells, and take over what a dead one left."""

import json
import os
import signal
import subprocess
import sys

import pytest

import algos
from runners.storage import lease
from runners.storage.lease import LeaseLost, holder
from runners.storage.rundir import RunDirectory, open_experiment
from runners.training.session import run_cell
from tests.helpers.runs import (
    ROOT,
    TINY,
    cell_of,
    files_of,
    load_fake,
    small_options,
    snapshot,
    wait_until,
)

CELLS = 4

# An algorithm file of a user: SAC that tells who begins which cell, and at its 50th step
# waits until as many sweeps as the file `sweeps` says have begun one.
MARKS = '''"""SAC that leaves marks."""

import os
import time
from pathlib import Path

from algos import sac

HERE = Path(__file__).parent


class Marks(sac.SAC):
    """SAC that leaves marks."""

    def __init__(self, spaces, config, seeds, device="cpu"):
        super().__init__(spaces, config, seeds, device)
        self.seeds, self.observed = seeds, 0

    def observe(self, transition):
        super().observe(transition)
        self.observed += 1
        if self.observed == 1:
            with (HERE / "marks").open("a") as file:
                file.write(f"{os.getppid()} {self.seeds[0]}\\n")
        if self.observed == 45:
            time.sleep(0.2)  # a checkpoint is due then
        while self.observed == 50 and self.sweeps() < int((HERE / "sweeps").read_text()):
            time.sleep(0.05)

    def sweeps(self):
        return len({line.split()[0] for line in (HERE / "marks").read_text().splitlines()})
'''


class Place:
    """A folder with an experiment, and the sweeps that work in it."""

    def __init__(self, folder, sweeps):
        folder.mkdir()
        self.folder, self.experiment = folder, folder / "e"
        (folder / "marks.py").write_text(MARKS)
        self.let(sweeps)

    def let(self, sweeps):
        (self.folder / "sweeps").write_text(str(sweeps))

    @property
    def marks(self):
        """Sweep (its fork server) and seed of each cell that was begun or resumed."""
        file = self.folder / "marks"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def sweep(self, name, prefix=()):
        """The real command with one worker, in a session of its own."""
        arguments = [f"--algos={self.folder / 'marks.py'}", "--tasks=mbbl/Pendulum"]
        arguments += [f"--experiment={self.experiment}", f"--seeds={CELLS}", "--steps=520"]
        arguments += ["--workers=1", "--checkpoint-seconds=0.1", "--no-report"]
        arguments += [*small_options("sac", "marks."), "--set=marks.random_steps=20"]
        with (self.folder / name).open("a") as log:
            return subprocess.Popen(
                [*prefix, sys.executable, "-m", "runners.sweep", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def log(self, name):
        return (self.folder / name).read_text()

    @property
    def cells(self):
        return sorted(self.experiment.glob("mbbl/Pendulum/*/seed-*"))

    def results(self):
        """Bytes of what a run is for, and the names of all files that are left."""
        return {cell.name: files_of(cell) for cell in self.cells}, snapshot(self.experiment).keys()

    def resumes(self):
        records = [json.loads((cell / "run.json").read_text()) for cell in self.cells]
        assert [record["status"] for record in records] == ["done"] * CELLS
        return [record["resumed"] for record in records]


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """What one undisturbed sweep leaves."""
    place = Place(tmp_path_factory.mktemp("shared") / "lone", sweeps=1)
    sweep = place.sweep("log")
    assert sweep.wait(300) == 0, place.log("log")
    assert len(place.cells) == CELLS
    return place.results()


def machines(folder):
    """Prefixes of two commands that see the same folder, but neither network nor kernel."""
    boot = folder / "boot_id"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    alone = ["unshare", "--net", "--mount", "--propagation=private"]
    other = ["sh", "-c", f'mount --bind {boot} {lease.BOOT_ID} && exec "$@"', "sh"]
    try:
        subprocess.run([*alone, *other, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces here: {getattr(error, 'stderr', None) or error}")
    return alone, [*alone, *other]


@pytest.fixture(params=["one machine", "two machines"])
def prefixes(request, tmp_path):
    """How to begin the commands of two sweeps."""
    return ([], []) if request.param == "one machine" else machines(tmp_path)


@pytest.mark.extended
def test_two_sweeps_split_the_cells(tmp_path, lone, prefixes):
    place = Place(tmp_path / "both", sweeps=2)
    sweeps = [place.sweep(name, prefix) for name, prefix in zip("ab", prefixes, strict=True)]
    assert [sweep.wait(300) for sweep in sweeps] == [0, 0], place.log("a") + place.log("b")
    begun = place.marks
    assert len(begun) == CELLS
    assert len({seed for _, seed in begun}) == CELLS  # no cell twice
    assert len({sweep for sweep, _ in begun}) == 2
    assert place.resumes() == [0] * CELLS
    assert place.results() == lone


def stands_saved(place):
    """Whether two sweeps have a cell each, and have saved it."""
    saved = [cell for cell in place.cells if any(cell.glob("checkpoint/step-*"))]
    return len(saved) == 2 and len({sweep for sweep, _ in place.marks}) == 2


def take_over(place, prefixes):
    """SIGKILL one of two sweeps and its worker; the other ends all cells, no third is needed."""
    first, second = (place.sweep(*pair) for pair in zip("ab", prefixes, strict=True))
    wait_until(lambda: stands_saved(place), 120, "two workers")
    held = {cell.name: holder(cell / "checkpoint").pid for cell in place.cells}
    (lost,) = (name for name, pid in held.items() if os.getpgid(pid) == first.pid)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(60)
    place.let(1)
    assert second.wait(400) == 0, place.log("b")
    begun = [seed for _, seed in place.marks]
    assert len(begun) == CELLS + 1
    assert len(set(begun)) == CELLS
    assert place.resumes() == [int(cell.name == lost) for cell in place.cells]


@pytest.mark.extended
def test_what_a_killed_sweep_left_is_taken_over(tmp_path, lone):
    place = Place(tmp_path / "both", sweeps=3)
    take_over(place, ([], []))
    assert place.results() == lone


@pytest.mark.slow
def test_what_a_machine_that_died_left_is_taken_over(tmp_path, lone):
    """After a minute without a beat; until then its cell is left alone."""
    place = Place(tmp_path / "both", sweeps=3)
    take_over(place, machines(tmp_path))
    assert place.results() == lone


# One process that loses its cell -------------------------------------------------------


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(algos, "load", load_fake)
    open_experiment(tmp_path / "e", TINY)
    return tmp_path / "e"


def hand_over(directory):
    """As if a process of another machine had taken the cell over."""
    (claim,) = directory.checkpoints.glob("claim-*")
    facts = json.loads(claim.read_bytes()) | {"token": "f" * 32, "boot": "of another machine"}
    claim.unlink()
    claim.with_name("claim-2").write_text(json.dumps(facts))


def test_rows_of_a_lost_cell_are_refused(experiment):
    directory = RunDirectory(cell_of(), experiment)
    with pytest.raises(LeaseLost):
        directory.restore({})  # it never had it
    assert directory.lock()
    directory.restore({})
    directory.append("train", ("env_step",), [[10]])
    hand_over(directory)
    before = snapshot(directory.path)
    for write in (
        lambda: directory.append("train", ("env_step",), [[20]]),
        lambda: directory.restore({}),
        directory.check,
    ):
        with pytest.raises(LeaseLost, match="another process has taken this cell over"):
            write()
    directory.unlock()
    assert snapshot(directory.path) == before


@pytest.mark.parametrize("step", [0, 35, 60])
def test_a_run_that_lost_its_cell_writes_nothing_more(experiment, step):
    """At the first report after a step: nothing but the claim of the new owner is there."""
    directory, seen = RunDirectory(cell_of(), experiment), []

    def report(progress):
        if progress.step >= step and not seen:
            hand_over(directory)
            seen.append(snapshot(experiment))

    assert run_cell(cell_of(), experiment, report=report) == "running"
    assert [snapshot(experiment)] == seen
    assert RunDirectory(cell_of(), experiment).status() == "running"
