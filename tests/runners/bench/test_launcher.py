"""Many tiny cells through the local launcher: all end, and nothing piles up in this process."""

import multiprocessing
import os
from pathlib import Path

import pytest

from runners.bench import launcher as bench_load
from runners.bench.launcher import Load
from runners.storage.experiment_status import read_status
from runners.terminal.progress import Row
from tests.helpers.runs import cell_of


def children():
    """Processes that this one has started and that are no zombies."""
    mine = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            mine.append(file.parent.name)
    return set(mine)


@pytest.mark.extended
def test_sixty_tiny_cells_leave_nothing_behind(tmp_path, monkeypatch, signal_handlers):
    monkeypatch.setattr(bench_load, "LOAD", bench_load.LOAD.with_steps(100))
    bench_load.measure(2, 2, tmp_path / "first")  # starts the server that forks, which stays
    processes, files = children(), len(os.listdir("/proc/self/fd"))
    load = bench_load.measure(60, 2, tmp_path / "load")
    assert load.ended == {"done": 60}
    assert {cell.status for cell in read_status(tmp_path / "load").cells} == {"done"}
    assert children() == processes
    assert multiprocessing.active_children() == []
    assert len(os.listdir("/proc/self/fd")) == files
    assert load.tables > 2
    assert load.gap_seconds >= 0.1
    assert "60 cells on 2 workers: 60 done" in str(load)


def test_overhead_is_what_the_cells_did_not_take():
    load = Load(2, {"done": 3, "failed": 1}, 10.0, 16.0, 5, 0.5, 2**20, 3 * 2**20)
    assert load.overhead == 1.0 - 16.0 / 20.0
    assert "overhead 20.0% of the workers' time" in str(load)
    assert "1.0 MiB after a tenth of the time, 3.0 at the end" in str(load)
    assert "4 cells on 2 workers: 3 done, 1 failed" in str(load)


def test_a_row_that_has_ended_keeps_its_rate_but_not_its_history():
    row = Row(cell_of("sac"))
    row.begin()
    for step in range(1, 200):
        row.update(step, None)
    rate = row.rate
    row.end("done", None)
    assert row.rate == rate
    assert len(row._marks) == 2
    row.begin()  # once more, from an earlier step
    row.update(5, None)
    assert row.rate is None
