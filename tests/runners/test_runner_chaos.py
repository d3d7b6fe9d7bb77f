"""Runs that are killed at random moments and resumed end with the bytes of an undisturbed run."""

import json
import random
import signal
import time

import pytest
from runner_helpers import (
    CHAOS,
    CHAOS_PIXELS,
    PIXEL_TASK,
    Forked,
    cell_of,
    files_of,
    group_members,
    small_options,
    spawn,
    wait_until,
)

import algos
import envs


def rules_for(task):
    return CHAOS_PIXELS if envs.task(task).observation_kind == "pixels" else CHAOS


def cell_folder(algo, task, experiment):
    sets = [text.removeprefix("--set=") for text in small_options(algo, f"{algo}.", task)]
    cell = cell_of(f"{algo}@quick", task, protocol=rules_for(task), sets=sets)
    return cell.path(experiment)


def train_arguments(algo, task, experiment, seconds=0.1):
    arguments = [f"--algo={algo}@quick", f"--task={task}", f"--protocol={rules_for(task).name}"]
    arguments += [f"--experiment={experiment}", f"--checkpoint-seconds={seconds}"]
    return arguments + small_options(algo, task=task)


def moments(algo, task, count):
    """Seeded kills: in training, in the middle of an evaluation, while saving."""
    chance = random.Random(f"{algo} {task}")
    within = int(0.9 * envs.task(task).max_episode_steps)  # of the first evaluation
    places = ["train", "evaluation", "save"]
    chance.shuffle(places)
    for i in range(count):
        place = places[i % 3]
        visits = {"train": 1, "evaluation": chance.randint(2, within), "save": chance.randint(1, 4)}
        # Later and later, so that the run gets through all its phases.
        low, high = 50 * i // count, 50 * (i + 1) // count
        step = 0 if place == "evaluation" else chance.randint(low + 1, high)
        yield place, step * envs.task(task).action_repeat, visits[place]


def chaos(tmp_path, algo, task, count):
    whole = Forked("train", train_arguments(algo, task, tmp_path / "whole"), tmp_path / "log")
    assert whole.wait() == 0, whole.output
    expected = files_of(cell_folder(algo, task, tmp_path / "whole"))
    assert expected["evaluations.csv"].count(b"\n") == 5
    assert expected["train.csv"].count(b"\n") >= 2  # it has learned

    # A checkpoint at every step, so that a kill planned for a save always happens.
    arguments = train_arguments(algo, task, tmp_path / "chaos", seconds=0)
    folder = cell_folder(algo, task, tmp_path / "chaos")
    for plan in moments(algo, task, count):
        killed = Forked("train", arguments, tmp_path / "log", plan)
        assert killed.wait() == -signal.SIGKILL, (plan, killed.output)
        assert json.loads((folder / "run.json").read_text())["status"] == "running"
    last = Forked("train", arguments, tmp_path / "log")
    assert last.wait() == 0, last.output
    assert files_of(folder) == expected
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["resumed"]) == ("done", count)


# Some agents learn from whole episodes; those of Reacher have 50 steps.
PIXELS = [name for name in algos.list_algos() if "pixels" in algos.versions(algos.load(name))]
STATES = [name for name in algos.list_algos() if "state" in algos.versions(algos.load(name))]
LONG = {"sac": "mbbl/HalfCheetah", "diffsr": "mbbl/Ant", "qvpo": "mbbl/HalfCheetah"}
FAST = [(algo, LONG.get(algo, "mbbl/Reacher")) for algo in STATES]
FAST += [(algo, PIXEL_TASK) for algo in PIXELS]
SLOW = [(algo, task) for algo in LONG for task in ("mbbl/HalfCheetah", "mbbl/Ant")]
SLOW += [(algo, "mbbl/Reacher") for algo in STATES if algo not in LONG]


@pytest.mark.parametrize(("algo", "task"), FAST)
def test_killed_runs_end_with_the_same_bytes(tmp_path, algo, task):
    chaos(tmp_path, algo, task, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "task"), SLOW)
def test_killed_commands_end_with_the_same_bytes(tmp_path, algo, task):
    """The real command line, killed from outside after random times, at least five times."""
    chance = random.Random(f"{algo} {task} outside")
    arguments = [
        f"--algo={algo}@quick",
        f"--task={task}",
        "--steps=1000",
        "--checkpoint-seconds=0.1",
    ]
    arguments += small_options(algo)
    if hasattr(algos.load(algo).Config, "random_steps"):
        arguments.append("--set=random_steps=50")

    def command(name):
        return spawn(
            "runners.train", [*arguments, f"--experiment={tmp_path / name}"], tmp_path / "log"
        )

    def folder(name):
        (found,) = (tmp_path / name / task).glob("*/seed-0")
        return found

    assert command("whole").wait(600) == 0
    length = json.loads((folder("whole") / "run.json").read_text())["wall_seconds"]
    kills = 0
    while True:
        process = command("chaos")
        run = tmp_path / "chaos" / task
        before = {path: path.stat().st_mtime_ns for path in run.glob("*/*/run.json")}

        def started(run=run, before=before, process=process):
            now = {path: path.stat().st_mtime_ns for path in run.glob("*/*/run.json")}
            return now != before or process.poll() is not None

        wait_until(started, 120, "the run to start")
        # The first ones come early, in the random steps; later ones get further.
        time.sleep(chance.uniform(0.05, 0.05 + 0.08 * (1 + kills) * length))
        if kills == 6 or process.poll() is not None:
            break
        process.kill()
        process.wait(60)
        kills += 1
    assert process.wait(600) == 0, (tmp_path / "log").read_text()
    assert kills >= 5
    assert files_of(folder("chaos")) == files_of(folder("whole"))
    record = json.loads((folder("chaos") / "run.json").read_text())
    assert record["status"] == "done"
    assert record["resumed"] >= 2  # the first kills may come before the first checkpoint


# Signals to one run -------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    algo, task = "sac", "mbbl/HalfCheetah"
    arguments = train_arguments(algo, task, tmp_path / "e")
    folder = cell_folder(algo, task, tmp_path / "e")
    first = Forked("train", arguments, tmp_path / "log")
    wait_until(lambda: (folder / "run.json").exists(), what="the run to start")
    first.signal(number)
    assert first.wait() == 75, first.output
    assert "stopped" in first.output
    assert "saved; run the same command to go on" in first.output
    assert "Traceback" not in first.output
    assert list((folder / "checkpoint").glob("step-*/manifest.json"))
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    second = Forked("train", arguments, tmp_path / "log")
    assert second.wait() == 0, second.output
    whole = Forked("train", train_arguments(algo, task, tmp_path / "whole"), tmp_path / "log")
    assert whole.wait() == 0, whole.output
    assert files_of(folder) == files_of(cell_folder(algo, task, tmp_path / "whole"))
    assert json.loads((folder / "run.json").read_text())["resumed"] == 1


# Sweeps -------------------------------------------------------------------------------

ALGO, TASK = "sac", "mbbl/Pendulum"


def sweep_arguments(experiment):
    arguments = [
        f"--algos={ALGO}@quick",
        f"--tasks={TASK}",
        "--seeds=3",
        "--workers=2",
        "--no-report",
    ]
    arguments += [f"--experiment={experiment}", "--checkpoint-seconds=0.1", "--steps=500"]
    return [*arguments, *small_options(ALGO, "sac."), "--set=sac.random_steps=50"]


def sweep_files(experiment):
    folders = sorted((experiment / TASK).glob("*/seed-*"))
    return {folder.name: files_of(folder) for folder in folders}


def statuses(experiment):
    records = (experiment / TASK).glob("*/seed-*/run.json")
    return sorted(json.loads(file.read_text())["status"] for file in records)


def runs(experiment, number):
    """Whether some run was resumed `number` times and a second one has saved its state."""
    records = [json.loads(f.read_text()) for f in (experiment / TASK).glob("*/*/run.json")]
    saved = list((experiment / TASK).glob("*/seed-*/checkpoint/step-*"))
    return len(saved) >= 2 and any(record["resumed"] == number for record in records)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Files of a sweep that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = Forked("sweep", sweep_arguments(folder / "e"), folder / "log")
    assert sweep.wait(300) == 0, sweep.output
    files = sweep_files(folder / "e")
    assert len(files) == 3
    return files


def test_a_killed_sweep_leaves_no_process_and_goes_on(tmp_path, undisturbed):
    """The real command line: SIGKILL reaches the sweep alone, its workers are orphans."""
    experiment = tmp_path / "e"
    sweep = spawn("runners.sweep", sweep_arguments(experiment), tmp_path / "log")
    wait_until(lambda: runs(experiment, 0), 120, "two workers")
    assert len(group_members(sweep.pid)) >= 4
    sweep.kill()
    sweep.wait(60)
    wait_until(lambda: not group_members(sweep.pid), 60, "the workers to end")
    assert "done" not in statuses(experiment)
    again = Forked("sweep", sweep_arguments(experiment), tmp_path / "log")
    assert again.wait(300) == 0, again.output
    assert sweep_files(experiment) == undisturbed
    assert statuses(experiment) == ["done"] * 3


def test_a_sweep_that_is_asked_to_stop_saves_all_cells(tmp_path, undisturbed):
    experiment = tmp_path / "e"
    for resumed, number in enumerate((signal.SIGINT, signal.SIGTERM)):
        sweep = Forked("sweep", sweep_arguments(experiment), tmp_path / "log")
        wait_until(lambda resumed=resumed: runs(experiment, resumed), what="two workers")
        sweep.signal(number)
        assert sweep.wait() == 75, sweep.output
        assert "stopped and saved; run the same command to go on" in sweep.output
        assert "Traceback" not in sweep.output
        assert "failed" not in sweep.output
        assert set(statuses(experiment)) == {"running"}
    last = Forked("sweep", sweep_arguments(experiment), tmp_path / "log")
    assert last.wait(300) == 0, last.output
    assert sweep_files(experiment) == undisturbed


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_every_process_and_saves(tmp_path, undisturbed):
    import os

    experiment = tmp_path / "e"
    sweep = spawn("runners.sweep", sweep_arguments(experiment), tmp_path / "log")
    wait_until(lambda: runs(experiment, 0), 120, "two workers")
    os.killpg(sweep.pid, signal.SIGINT)
    assert sweep.wait(120) == 75
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    wait_until(lambda: not group_members(sweep.pid), 60, "the workers to end")
    again = spawn("runners.sweep", sweep_arguments(experiment), tmp_path / "log")
    assert again.wait(300) == 0
    assert sweep_files(experiment) == undisturbed
