"""Thousands of runs: files read together, the Parquet copy, and the made-up experiment."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from analysis import bench
from analysis.data import cache, logs
from analysis.data.load import load
from analysis.data.logs import ExperimentError
from analysis.data.values import run_values
from runners.cells.schema import EVALUATION_COLUMNS, SUCCESS_COLUMNS
from tests.helpers.experiments import (
    EVALUATIONS_HEADER,
    SUCCESS_HEADER,
    write_experiment,
    write_run,
)

TASK = "mbbl/Ant-ET"
GOOD = f"{EVALUATIONS_HEADER}\n1000,0,0.1,5,\n1000,1,-2.5e-07,5,\n"


def read(files):
    return logs.read_logs(files, list(EVALUATION_COLUMNS), SUCCESS_COLUMNS)


def write_files(folder, texts):
    """Write one file per text; there is no file for None."""
    files = [folder / f"{number}.csv" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        if text is not None:
            file.write_text(text, newline="")
    return files


@pytest.mark.parametrize(
    "texts",
    [
        [GOOD, GOOD],
        [GOOD, None, "", EVALUATIONS_HEADER, f"{EVALUATIONS_HEADER}\n", GOOD],
        [GOOD + "2000,0,12", GOOD],
        [f"{EVALUATIONS_HEADER}\n1,0,nan,5,\n1,1,-inf,5,1\n1,2,,,\n", GOOD],
        [f"{SUCCESS_HEADER}\n1,0,1,5,1,0\n", f"{SUCCESS_HEADER}\n1,0,1,5,0,1\n"],
        [GOOD, f"{SUCCESS_HEADER}\n1,0,1,5,1,0\n", GOOD],
        [None, ""],
        [f'{EVALUATIONS_HEADER}\n1,0,"3.5",5,\n', GOOD],
        [GOOD.replace("\n", "\r\n"), GOOD],
    ],
    ids=["plain", "empty", "torn", "nan", "success", "mixed", "none", "quoted", "crlf"],
)
def test_many_files_are_read_like_each_alone(tmp_path, texts):
    files = write_files(tmp_path, texts)
    table, counts = read(files)
    alone = [read([file])[0] for file in files]
    assert counts.tolist() == [len(each) for each in alone]
    assert set(table.dtypes) == {np.dtype(float)}
    assert list(table.columns) == [*EVALUATION_COLUMNS, *SUCCESS_COLUMNS]
    expected = np.concatenate([each.to_numpy() for each in alone])
    np.testing.assert_array_equal(table.to_numpy(), expected)
    # And alone like by the rules for text.
    columns = list(table.columns)
    strict = [part for part, _ in logs._read_strictly(files, list(EVALUATION_COLUMNS), columns)]
    np.testing.assert_array_equal(expected, np.concatenate([part.to_numpy() for part in strict]))


def test_plain_files_are_parsed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "read_table", None)
    table, counts = read(write_files(tmp_path, [GOOD, None, GOOD + "2000,0,1"]))
    assert counts.tolist() == [2, 0, 2]
    assert table["return"].tolist() == [0.1, -2.5e-07] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # A line too long and one too short have together as many commas as two good ones.
        (f"{EVALUATIONS_HEADER}\n1,0,1,5,,\n1,1,1,5\n", "line 2: '1,0,1,5,,' does not fit"),
        (f"{EVALUATIONS_HEADER}\n1,0,1,5\n1,1,1,5,,\n", "line 2: '1,0,1,5' does not fit"),
        (f"{EVALUATIONS_HEADER}\n1,0,1,5,\n\n1,1,1,5,\n", "line 3: '' does not fit"),
        (f"{EVALUATIONS_HEADER}\n1,0,1,5,\n,1,1,5,\n", "line 3: env_step is empty"),
        (f"{EVALUATIONS_HEADER}\n1,0,fan,5,\n", "cannot be read as numbers"),
        (f"{EVALUATIONS_HEADER}\n1,0,1-1,5,\n", "cannot be read as numbers"),
        (f"{EVALUATIONS_HEADER},extra\n", "has the header"),
        ("step\n", "has the header 'step'"),
    ],
)
@pytest.mark.parametrize("batch", [2, 64])
def test_one_bad_file_among_many_is_named(tmp_path, monkeypatch, text, message, batch):
    """Also where it comes first in its batch, and pandas takes its first line for the rule."""
    monkeypatch.setattr(logs, "BATCH", batch)
    files = write_files(tmp_path, [GOOD, GOOD, text, GOOD, "worse\n"])
    with pytest.raises(ExperimentError, match=message) as error:
        read(files)
    assert str(files[2]) in str(error.value)


def test_episodes_need_not_stand_together(tmp_path):
    folder = write_experiment(tmp_path / "quick")
    cell = write_run(folder, TASK, "sac", 1, [1.0])
    write_run(folder, TASK, "sac", 0, [1.0])
    rows = ["2000,0,4,5,", "1000,0,1,5,", "2000,1,6,5,", "1000,1,inf,5,"]
    (cell / "evaluations.csv").write_text("\n".join([EVALUATIONS_HEADER, *rows, ""]))
    experiment = load(folder)
    assert experiment.runs["evaluations"].tolist() == [1, 2]
    curves = experiment.curves().query("seed == 1")
    assert curves["env_step"].tolist() == [1000, 2000]
    assert curves["return"].tolist() == pytest.approx([np.nan, 5.0], nan_ok=True)
    steps, results = experiment.run_curves()[TASK, "sac", 1]
    assert steps.tolist() == [1000, 2000]
    assert results[1] == 5.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An experiment of four runs that is large enough for a copy."""
    monkeypatch.setattr(cache, "SMALLEST", 0)
    folder = write_experiment(tmp_path / "quick")
    for seed in range(3):
        write_run(folder, TASK, "sac", seed, [1.0, 2.0, 3.0 + seed])
    write_run(folder, "metaworld/door-open", "sac", 0, [1.0, 2.0], success=[(1, 0), (2, 1)])
    load(folder)
    return folder


@pytest.fixture
def files_read(monkeypatch):
    """The evaluation files that are read from now on."""
    found = []

    def spy(files, columns, further):
        found.extend(file for file in files if file.name == "evaluations.csv")
        return logs.read_logs(files, columns, further)

    monkeypatch.setattr("analysis.data.load.read_logs", spy)
    return found


def assert_loads_like_new(folder, monkeypatch):
    loaded = load(folder)
    with monkeypatch.context() as context:
        context.setattr("analysis.data.cache._load", lambda store, nothing: nothing)
        fresh = load(folder)
    for name in ("runs", "evaluations", "timing"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(fresh, name))


def test_nothing_is_read_again_if_nothing_changed(folder, files_read):
    first, again = load(folder), load(folder)
    assert files_read == []
    pd.testing.assert_frame_equal(first.evaluations, again.evaluations)
    assert run_values(again, "last")["value"].dropna().tolist() == [3.0, 4.0, 5.0, 2.0]


def append(file):
    with file.open("a") as text:
        text.write("4000,0,7,5,\n")


def rewrite_in_place(file):
    """As many bytes and the same inode: the time of the change is another."""
    before = file.stat()
    file.write_text(file.read_text().replace("1000,", "1001,"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (file.stat().st_size, file.stat().st_ino) == (before.st_size, before.st_ino)


def replace(file):
    """As many bytes and the same time of the change: the inode is another."""
    before = file.stat()
    other = file.with_name("other")
    other.write_text(file.read_text().replace("1000,", "1001,"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("change", [append, rewrite_in_place, replace, remove])
def test_a_changed_file_is_read_again_and_no_other(folder, files_read, monkeypatch, change):
    changed = folder / TASK / "sac" / "seed-1" / "evaluations.csv"
    before = load(folder).evaluations
    change(changed)
    after = load(folder).evaluations
    assert files_read == [changed]
    assert len(after) != len(before) or not after.equals(before)
    load(folder)
    assert files_read == [changed]
    assert_loads_like_new(folder, monkeypatch)


def test_runs_come_and_go(folder, files_read, monkeypatch):
    new = write_run(folder, "gym/Ant-v5", "td3", 0, [1.0])
    load(folder)
    assert files_read == [new / "evaluations.csv"]
    shutil.rmtree(folder / TASK / "sac" / "seed-0")
    assert len(load(folder).evaluations) == 18
    assert files_read == [new / "evaluations.csv"]
    assert_loads_like_new(folder, monkeypatch)


def truncate(store):
    store.write_bytes(store.read_bytes()[:-20])


def overwrite(store):
    store.write_bytes(b"nothing of the kind")


def forget(store):
    """A Parquet file without the facts about the files."""
    pd.DataFrame({"env_step": [1.0]}).to_parquet(store)


def make_folder(store):
    store.unlink()
    store.mkdir()


@pytest.mark.parametrize("damage", [truncate, overwrite, forget, make_folder])
def test_a_damaged_copy_is_made_again_in_silence(folder, files_read, capfd, recwarn, damage):
    good = load(folder).evaluations
    damage(folder / cache.FOLDER / "evaluations.parquet")
    pd.testing.assert_frame_equal(load(folder).evaluations, good)
    assert len(files_read) == 4
    if damage is not make_folder:
        pd.testing.assert_frame_equal(load(folder).evaluations, good)
        assert len(files_read) == 4
    assert capfd.readouterr() == ("", "")
    assert not recwarn


def test_no_flipped_bit_gives_other_numbers(folder):
    good, store = load(folder).evaluations, folder / cache.FOLDER / "evaluations.parquet"
    data = store.read_bytes()
    for position in range(0, len(data), len(data) // 50):
        store.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        pd.testing.assert_frame_equal(load(folder).evaluations, good)


def test_a_copy_of_another_version_is_made_again(folder, files_read, monkeypatch):
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    load(folder)
    assert len(files_read) == 4


def test_a_copy_that_cannot_be_written_is_done_without(folder, files_read):
    good = load(folder).evaluations
    shutil.rmtree(folder / cache.FOLDER)
    (folder / cache.FOLDER).write_text("in the way")
    pd.testing.assert_frame_equal(load(folder).evaluations, good)
    assert len(files_read) == 4


def test_nothing_in_a_hidden_folder_is_a_run(folder):
    cells = load(folder).runs
    shutil.copytree(folder / TASK, folder / cache.FOLDER / "Ant-ET")
    pd.testing.assert_frame_equal(load(folder).runs, cells)


def test_small_experiments_have_no_copy(tmp_path):
    folder = write_experiment(tmp_path / "quick")
    write_run(folder, TASK, "sac", 0, [1.0])
    load(folder)
    assert not (folder / cache.FOLDER).exists()


def test_the_benchmark_measures_made_up_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "SMALLEST", 0)
    monkeypatch.setattr(bench, "EVALUATIONS", 5)
    folder = tmp_path / "runs"
    bench.write_experiment(folder, 3, 2, 2)
    figures = bench.measure(folder)
    assert set(figures) == {"first", "tables", "processor", "memory", "again", "changed"}
    assert all(figure > 0 for figure in figures.values())
    experiment = load(folder)
    assert len(experiment.runs) == 12
    assert len(experiment.success_tasks) == 1
    # One run has lost its last row, and the better method is better on every task.
    assert len(experiment.evaluations) == 12 * 50 - 1
    means = run_values(experiment, "last").groupby(["task", "label"])["value"].mean().unstack()
    assert (means["method1"] > means["method0"]).all()
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--runs", "100,7"])
    assert "no size '7'; expected some of 100, 1000, 10000" in capsys.readouterr().err
