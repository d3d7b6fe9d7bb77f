"""Runs that are killed at random moments and resumed end with the bytes of an undisturbed run."""

import contextlib
import json
import os
import random
import signal
import time

import pytest

import algos
import envs
from runners.storage.lease import holder
from tests.helpers.runs import (
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
from tests.helpers.selection import mostly_extended


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
    facts = envs.task(task)
    # Steps of the first evaluation, whose episodes may end early.
    within = max(1, int(0.9 * facts.max_episode_steps))
    within = min(within, 5) if facts.terminates else within
    places = ["train", "evaluation", "save"]
    chance.shuffle(places)
    for i in range(count):
        place = places[i % 3]
        visits = {"train": 1, "save": chance.randint(1, 4)}
        visits["evaluation"] = chance.randint(min(2, within), within)
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
# QVPO's evaluations take a second for every 50 steps, and are repeated after each kill.
FAST = [(algo, LONG[algo] if algo in ("sac", "diffsr") else "mbbl/Reacher") for algo in STATES]
FAST += [(algo, PIXEL_TASK) for algo in PIXELS]
KILLS = {(algo, PIXEL_TASK): 3 for algo in PIXELS if algo in STATES}  # five more from states
# One task of each suite.
STATE_TASKS = ("gym/Hopper-v5", "pomdp/Pendulum", "dmc/cartpole-balance", "toy/bandit")
DRAWER = "metaworld/drawer-close@size=16+frames=1+action_repeat=50"
FAST += [*(("sac", task) for task in STATE_TASKS), ("drqv2", DRAWER)]
SLOW = [(algo, task) for algo in LONG for task in ("mbbl/HalfCheetah", "mbbl/Ant")]
SLOW += [(algo, "mbbl/Reacher") for algo in STATES if algo not in LONG]


@pytest.mark.parametrize(("algo", "task"), mostly_extended(FAST, quick=[("sac", "gym/Hopper-v5")]))
def test_killed_runs_end_with_the_same_bytes(tmp_path, algo, task):
    chaos(tmp_path, algo, task, KILLS.get((algo, task), 5))


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


def victims(experiment):
    """Processes that run a cell now."""
    folders = experiment.glob("**/checkpoint")
    holders = [holder(folder) for folder in folders]
    return [found.pid for found in holders if found is not None and found.alive]


def kill_now(chance, sweep, experiment):
    """SIGKILL to a worker, to the sweep, or to all at once; True if a worker was hit."""
    workers = victims(experiment)
    place = chance.choice(["worker", "sweep", "both"])
    targets = {"worker": workers[:1], "sweep": [], "both": workers}[place]
    if place != "worker":
        sweep.signal(signal.SIGKILL)
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "names", "tasks"),
    [
        ("chaos", STATES, ("mbbl/Reacher", *STATE_TASKS)),
        ("chaos-pixels", PIXELS, (PIXEL_TASK, DRAWER)),
    ],
    ids=["states", "pixels"],
)
def test_fifty_kills_of_workers_and_sweeps_change_no_byte(tmp_path, protocol, names, tasks):
    """Every method on one task of every suite, in one sweep; whatever runs at the moment is hit."""
    chance = random.Random(protocol)
    arguments = [f"--protocol={protocol}", f"--tasks={','.join(tasks)}", "--workers=2"]
    arguments += [f"--algos={','.join(f'{name}@quick' for name in names)}", "--no-report"]
    arguments += ["--seeds=2", "--checkpoint-seconds=0.2"]
    for name in names:
        arguments += small_options(name, f"{name}.", tasks[0])

    def command(folder):
        return Forked("sweep", [*arguments, f"--experiment={folder}"], tmp_path / "log")

    def cells(folder):
        return {p.relative_to(folder): files_of(p) for p in folder.glob("**/seed-*")}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (first := command(whole)).wait(1200) == 0, first.output
    kills = []
    while True:
        sweep = command(killed)
        sweep.process.join(chance.uniform(0.5, 4.0))
        while sweep.process.exitcode is None and len(kills) < 50:
            kills.append(kill_now(chance, sweep, killed))
            sweep.process.join(chance.uniform(0.5, 2.0))
        if sweep.wait(1200) == 0:
            break
        assert sweep.process.exitcode in (1, -signal.SIGKILL), sweep.output
    assert len(kills) == 50
    assert set(kills) == {"worker", "sweep", "both"}
    assert cells(killed) == cells(whole)


# Signals to one run -------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    mostly_extended([signal.SIGTERM, signal.SIGINT], quick=[signal.SIGTERM]),
    ids=lambda n: n.name,
)
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


@pytest.mark.extended
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
