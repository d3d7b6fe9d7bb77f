"""One cell in this process: evaluation, repeats, files, locks, ends."""

import dataclasses
import json
import math

import gymnasium
import numpy as np
import pytest
import torch

import algos
import envs
from algos.parts.types import Spaces
from envs.parts import registry
from envs.parts.registry import Task
from runners.cells.errors import UserError
from runners.cells.settings import RunSettings
from runners.storage import checkpoint
from runners.storage.checkpoint import CheckpointError
from runners.storage.rundir import RunDirectory, open_experiment
from runners.training import replica
from runners.training import session as run_module
from runners.training.loop import Interrupted, Loop
from runners.training.replica import make_env
from runners.training.session import run_cell
from tests.helpers.runs import (
    FAKES,
    TINY,
    Forked,
    Slow,
    Still,
    cell_of,
    files_of,
    load_fake,
    snapshot,
    wait_until,
)
from tests.helpers.selection import mostly_extended


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(algos, "load", load_fake)


@pytest.fixture
def experiment(tmp_path):
    open_experiment(tmp_path / "e", TINY)
    return tmp_path / "e"


def run(cell, experiment, **options):
    status = run_cell(cell, experiment, **options)
    return status, RunDirectory(cell, experiment).read_manifest()


def stop_after(calls):
    """Says stop at the given call and ever after."""
    seen = iter(range(10**9))
    return lambda: next(seen) >= calls


def interrupt(cell, experiment, calls=30, **options):
    with pytest.raises(Interrupted):
        run_cell(cell, experiment, should_stop=stop_after(calls), **options)
    return RunDirectory(cell, experiment)


# A task with a repeat of two and a success that does not last --------------------------


class Blink(gymnasium.Env):
    """Ends after 10 steps; success only in the step whose number is the start's class."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (3,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lucky, self.t = int(self.np_random.integers(2)) * 4, 0
        return np.array([self.lucky, 0.0]), {}

    def step(self, action):
        self.t += 1
        info = {"success": float(self.t == self.lucky)}
        obs = np.array([self.lucky, self.t], float)
        return obs, float(action[0]), False, self.t == 10, info

    def snapshot(self):
        return {"own": np.array([self.lucky, self.t])}

    def restore(self, arrays):
        self.lucky, self.t = (int(value) for value in arrays["own"])


@pytest.fixture
def blink(monkeypatch):
    entry = Task(
        id="test/Blink",
        obs_shape=(2,),
        action_dim=3,
        max_episode_steps=10,
        terminates=False,
        source="none",
        gymnasium_id="test/Blink-v0",
        entry_point="none",
        action_repeat=2,
    )
    monkeypatch.setitem(registry._TASKS, entry.id, entry)
    real = envs.make

    def make(task, seed=None):
        if task != entry.id:
            return real(task, seed=seed)
        env = Blink()
        if seed is not None:
            registry._seed(env, seed)
        return env

    monkeypatch.setattr(envs, "make", make)
    return entry


def rows_of(directory, name):
    header, *lines = (directory / name).read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def test_steps_count_simulator_steps(blink, experiment):
    rules = dataclasses.replace(TINY, steps=61, eval_every=20, log_every=25)
    cell = cell_of(task=blink.id, protocol=rules)
    assert run(cell, experiment)[0] == "done"
    evaluations = rows_of(cell.path(experiment), "evaluations.csv")
    assert [int(row["env_step"]) for row in evaluations[::2]] == [20, 40, 60, 62]
    train = rows_of(cell.path(experiment), "train.csv")
    assert [int(row["env_step"]) for row in train] == [26, 50]
    # The agent took one step for every two of the simulator.
    assert [float(row["steps"]) for row in train] == [13.0, 25.0]
    assert {row["length"] for row in evaluations} == {"10"}


def test_success_at_any_step_counts(blink, experiment):
    rules = dataclasses.replace(TINY, eval_episodes=8)
    cell = cell_of(task=blink.id, protocol=rules)
    run(cell, experiment)
    rows = rows_of(cell.path(experiment), "evaluations.csv")
    reached = []
    for row in rows:
        env = Blink()
        axes = ("eval", blink.id, 0, int(row["env_step"]), int(row["episode"]))
        env.reset(seed=replica.derive_seed(*axes))
        reached.append("1" if env.lucky else "0")
    assert [row["success"] for row in rows] == reached
    assert set(reached) == {"0", "1"}


def test_tasks_without_success_leave_it_empty(experiment):
    cell = cell_of()
    run(cell, experiment)
    assert {row["success"] for row in rows_of(cell.path(experiment), "evaluations.csv")} == {""}


def test_actions_are_mapped_onto_the_box(blink):
    env = make_env(blink.id)
    env.reset(seed=0)
    for action, expected in ((-1.0, -2.0), (0.0, 0.0), (0.5, 1.0)):
        assert env.step(np.full(3, action))[1] == pytest.approx(expected)


# Evaluation ---------------------------------------------------------------------------


def evaluation_starts(monkeypatch, cell, experiment):
    starts = []
    original = Still.act

    def act(agent, obs, explore):
        if not explore and (not starts or starts[-1][0] != agent.counters.steps):
            starts.append((agent.counters.steps, obs.tobytes()))
        return original(agent, obs, explore)

    with monkeypatch.context() as patch:
        patch.setattr(Still, "act", act)
        run(cell, experiment)
    return starts


def test_every_algorithm_meets_the_same_evaluation_episodes(experiment, monkeypatch):
    still = evaluation_starts(monkeypatch, cell_of(), experiment)
    rare = evaluation_starts(monkeypatch, cell_of("rare"), experiment)
    other = evaluation_starts(monkeypatch, cell_of("rare", seed=1), experiment)
    assert still == rare
    assert len(set(still)) == 3
    assert not {obs for _, obs in rare} & {obs for _, obs in other}


@pytest.mark.parametrize("task", ["mbbl/Pendulum", "mbbl/Hopper-ET", "mbbl/HalfCheetah-O01"])
def test_a_batch_of_episodes_equals_one_at_a_time(tmp_path, task):
    rules = dataclasses.replace(TINY, steps=30, eval_every=30, eval_episodes=3)
    cell = cell_of(task=task, protocol=rules)
    assert run_cell(cell, tmp_path) == "done"
    rows = rows_of(cell.path(tmp_path), "evaluations.csv")
    facts = envs.task(task)
    agent = Still(Spaces(facts.obs_shape, facts.action_dim), Still.Config(), [0])
    for i, row in enumerate(rows):
        env = make_env(task)
        obs, _ = env.reset(seed=replica.derive_seed("eval", task, 0, 30, i))
        total, length, ended = 0.0, 0, False
        while not ended:
            action = agent.act(obs[None, None], explore=False)[0, 0].astype(np.float64)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, length, ended = total + float(reward), length + 1, terminated or truncated
        assert (row["return"], row["length"]) == (repr(total), str(length))


@pytest.mark.parametrize("algo", ["still", "sac"])
def test_evaluating_more_often_does_not_change_training(tmp_path, algo):
    rows = []
    for every, episodes in ((60, 1), (7, 3)):
        rules = dataclasses.replace(TINY, eval_every=every, eval_episodes=episodes)
        sets = ["sac.hidden=8", "sac.batch_size=8"] if algo == "sac" else []
        cell = cell_of(algo, protocol=rules, sets=sets)
        assert run_cell(cell, tmp_path / str(every)) == "done"
        rows.append((cell.path(tmp_path / str(every)) / "train.csv").read_bytes())
    assert rows[0] == rows[1]
    assert rows[0].count(b"\n") > 4


def test_the_same_cell_gives_the_same_bytes_and_another_seed_others(tmp_path):
    folders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cell = cell_of(seed=seed)
        run_cell(cell, tmp_path / name)
        folders.append(files_of(cell.path(tmp_path / name)))
    assert folders[0] == folders[1]
    assert folders[0]["evaluations.csv"] != folders[2]["evaluations.csv"]


# Ends ---------------------------------------------------------------------------------


def test_a_finished_cell_is_not_run_again(experiment, monkeypatch):
    cell = cell_of()
    status, record = run(cell, experiment)
    assert (status, record["status"], record["reason"]) == ("done", "done", None)
    assert not RunDirectory(cell, experiment).checkpoints.exists()
    before = snapshot(experiment)

    def never(*arguments):
        raise AssertionError("a finished cell was started")

    monkeypatch.setattr(run_module, "Loop", never)
    assert run_cell(cell, experiment) == "done"
    assert snapshot(experiment) == before


def test_a_cell_that_another_process_ended_before_the_lock_is_left_alone(experiment, monkeypatch):
    cell = cell_of()
    lock = RunDirectory.lock

    def late(directory):
        monkeypatch.setattr(RunDirectory, "lock", lock)
        run_cell(cell, experiment)
        files.update(csv_files())
        return lock(directory)

    def csv_files():
        found = snapshot(cell.path(experiment)).items()
        return {name: value for name, value in found if name.endswith("csv")}

    files = {}
    monkeypatch.setattr(RunDirectory, "lock", late)
    assert run_cell(cell, experiment) == "done"
    assert csv_files() == files


@pytest.mark.parametrize(
    ("algo", "status", "reason"),
    [
        ("raises", "failed", "ValueError: two lines with [/bold] markup (runs.py:"),
        ("cannotstart", "failed", "MemoryError: too large (runs.py:"),
        ("notfinite", "diverged", "loss not finite at step 10"),
        ("badaction", "diverged", "evaluation action is not finite at step 20"),
    ],
)
def test_a_bad_cell_says_why_and_is_tried_again(experiment, monkeypatch, algo, status, reason):
    cell = cell_of(algo)
    ended, record = run(cell, experiment)
    assert (ended, record["status"]) == (status, status)
    assert record["reason"].startswith(reason)
    assert run(cell, experiment)[0] == status
    monkeypatch.setitem(FAKES, algo, Still)
    ended, record = run(cell, experiment)
    assert (ended, record["status"], record["reason"]) == ("done", "done", None)
    good = cell_of("still")
    run(good, experiment)
    assert record["steps"] == 60
    assert len(rows_of(cell.path(experiment), "evaluations.csv")) == 6


def test_an_action_that_is_not_finite_in_training_diverges(experiment, monkeypatch):
    class Bad(Still):
        def policy(self, obs, explore, rng):
            return super().policy(obs, explore, rng) * math.nan

    monkeypatch.setitem(FAKES, "bad", Bad)
    status, record = run(cell_of("bad"), experiment)
    assert (status, record["reason"]) == ("diverged", "action is not finite at step 0")


def test_a_disk_that_fills_up_keeps_the_checkpoint(experiment, monkeypatch):
    cell = cell_of()
    interrupt(cell, experiment)
    with monkeypatch.context() as patch:

        def full(*arguments):
            raise OSError(28, "No space left on device")

        patch.setattr(checkpoint, "_write_checkpoint", full)
        status, record = run(cell, experiment, settings=RunSettings(checkpoint_seconds=0))
    assert status == "failed"
    assert "No space left on device" in record["reason"]
    status, record = run(cell, experiment)
    assert (status, record["resumed"]) == ("done", 2)
    same_as_uninterrupted(cell, experiment)


def test_a_kill_before_the_last_words_loses_nothing(experiment, monkeypatch):
    """Killed between the end of training and `done`, a run has its checkpoint still."""
    cell = cell_of()
    interrupt(cell, experiment)

    class Kill(BaseException):
        pass

    original = RunDirectory.write_manifest

    def write(directory, record):
        if record["status"] == "done":
            raise Kill
        original(directory, record)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_manifest", write)
        with pytest.raises(Kill):
            run_cell(cell, experiment)
    assert list(RunDirectory(cell, experiment).checkpoints.glob("step-*"))
    status, record = run(cell, experiment)
    assert (status, record["resumed"]) == ("done", 2)
    same_as_uninterrupted(cell, experiment)


# Going on -----------------------------------------------------------------------------


def same_as_uninterrupted(cell, experiment):
    whole = experiment.parent / "whole"
    assert run_cell(cell, whole) == "done"
    assert files_of(cell.path(experiment)) == files_of(cell.path(whole))


@pytest.mark.parametrize("algo", ["still", "rare"])
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.extended), 9, 50])
def test_stops_anywhere_change_nothing(experiment, algo, every):
    """In evaluations too: with 201 steps each, most stops of 50 calls fall there."""
    cell = cell_of(algo, protocol=dataclasses.replace(TINY, steps=40))
    evaluation = 201
    for calls in range(0, 2 * evaluation if every == 50 else 40, every):
        try:
            run_cell(cell, experiment, should_stop=stop_after(calls))
        except Interrupted:
            continue
        break
    run_cell(cell, experiment)
    same_as_uninterrupted(cell, experiment)


def test_a_stop_in_an_evaluation_repeats_it_whole(experiment):
    cell = cell_of("dreams")
    directory = interrupt(cell, experiment, 20 + 100)
    assert (directory.path / "evaluations.csv").read_bytes() == b""
    assert checkpoint.load(directory.checkpoints).state["step"] == 20
    assert run(cell, experiment)[1]["resumed"] == 1
    same_as_uninterrupted(cell, experiment)


def test_metrics_of_an_earlier_update_are_logged_after_a_resume(experiment):
    """An agent that learns at every seventh step: step 10 is logged with the metrics of 7."""
    cell = cell_of("rare")
    interrupt(cell, experiment, 8)
    run_cell(cell, experiment)
    first = rows_of(cell.path(experiment), "train.csv")[0]
    assert (first["env_step"], first["steps"]) == ("10", "7.0")
    same_as_uninterrupted(cell, experiment)


DAMAGES = {
    "cut": lambda data: data[:-7],
    "cut to nothing": lambda data: b"",
    "garbage": lambda data: data + b"40,0,\x00\xff",
    "row of the future": lambda data: data + b"40,0,1.0,2,\n",
    "other text": lambda data: b"env_step\n1\n",
}


@pytest.mark.parametrize("name", ["evaluations.csv", "train.csv"])
@pytest.mark.parametrize(
    "damage", mostly_extended([*DAMAGES, "missing"], quick=["garbage", "missing"])
)
def test_damaged_csv_files_are_repaired(experiment, name, damage):
    cell = cell_of()
    directory = interrupt(cell, experiment, 201 + 35)
    file = directory.path / name
    assert file.read_bytes().count(b"\n") > 2
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert run(cell, experiment)[1]["resumed"] == 1
    same_as_uninterrupted(cell, experiment)


def test_a_csv_file_removed_during_the_run_is_whole_at_the_end(experiment):
    cell = cell_of()

    def report(progress):
        if progress.step == 45:
            (cell.path(experiment) / "train.csv").unlink()

    run_cell(cell, experiment, report=report)
    same_as_uninterrupted(cell, experiment)


def test_rows_without_a_checkpoint_are_written_again(experiment):
    cell = cell_of()
    directory = interrupt(cell, experiment, 201 + 35)
    checkpoint.remove(directory.checkpoints)
    status, record = run(cell, experiment)
    assert (status, record["resumed"]) == ("done", 0)
    same_as_uninterrupted(cell, experiment)


def test_a_damaged_checkpoint_changes_nothing(experiment):
    cell = cell_of()
    directory = interrupt(cell, experiment)
    (file,) = directory.checkpoints.glob("step-*/tensors.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    before = snapshot(experiment)
    with pytest.raises(CheckpointError, match=r"damaged .*remove .* to start the cell again"):
        run_cell(cell, experiment)
    assert snapshot(experiment) == before


def test_a_checkpoint_has_all_streams_and_the_simulator(experiment):
    cell = cell_of("sac", sets=["sac.hidden=8", "sac.batch_size=8"])
    state = checkpoint.load(interrupt(cell, experiment).checkpoints).state
    assert {"rng", "eval_rng", "replay", "actor", "critic_optimizer"} <= state["agent"].keys()
    (seed,) = state["replicas"]
    assert seed["env"]
    assert seed["files"].keys() == {"evaluations", "train", "timing"}


def test_clocks_go_on_after_a_resume(experiment):
    cell = cell_of()
    directory = interrupt(cell, experiment, 201 + 35)
    before = directory.read_manifest()
    assert before["status"] == "running"
    _, record = run(cell, experiment)
    assert record["wall_seconds"] >= before["wall_seconds"]
    assert record["started"] == before["started"]
    eval_seconds = [float(row["eval"]) for row in rows_of(cell.path(experiment), "timing.csv")]
    assert eval_seconds == sorted(eval_seconds)
    assert len(eval_seconds) == 3


# Locks and other people's folders -------------------------------------------------------


def test_a_locked_cell_is_left_alone(experiment):
    cell = cell_of()
    first = RunDirectory(cell, experiment)
    assert first.lock()
    before = snapshot(experiment)
    assert run_cell(cell, experiment) == "running"
    assert snapshot(experiment).keys() == before.keys()
    first.unlock()
    assert run_cell(cell, experiment) == "done"


def test_two_processes_on_one_cell(tmp_path):
    arguments = ["--algo=sac", "--task=mbbl/Pendulum", "--protocol=tiny", "--steps=6000"]
    arguments += ["--set=hidden=8", "--set=batch_size=8", f"--experiment={tmp_path}/e"]
    first = Forked("train", arguments, tmp_path / "first")
    (cell,) = [cell_of("sac", sets=["sac.hidden=8", "sac.batch_size=8"])]
    file = cell.path(tmp_path / "e") / "run.json"
    wait_until(file.exists, what="the first process")
    second = Forked("train", arguments, tmp_path / "second")
    assert second.wait() == 75
    assert "another process is running this cell" in second.output
    assert json.loads(file.read_text())["status"] == "running"
    first.signal(15)
    assert first.wait() == 75


def test_a_run_of_other_values_is_named_and_kept(experiment):
    cell = cell_of(sets=["still.discount=0.5"])
    run(cell, experiment)
    other = dataclasses.replace(cell, config={**cell.config, "discount": 0.25})
    before = snapshot(experiment)
    with pytest.raises(UserError, match=r"other values .discount=0.5, not 0.25.; choose another"):
        run_cell(other, experiment)
    assert snapshot(experiment) == before


CORRUPT = ["", "{", "[]", "null", '"done"', "{}", '{"format": 1}', '{"format": 9}', "\udcff"]


@pytest.mark.parametrize("text", CORRUPT, ids=ascii)
def test_a_corrupt_manifest_is_refused_and_results_kept(experiment, text):
    cell = cell_of()
    run(cell, experiment)
    file = cell.path(experiment) / "run.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    before = snapshot(experiment)
    with pytest.raises(UserError) as caught:
        run_cell(cell, experiment)
    assert str(cell.path(experiment)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(experiment) == before


def test_the_manifest_tells_what_ran(experiment):
    cell = cell_of(sets=["still.discount=0.5"])
    _, record = run(cell, experiment)
    assert record["config"]["discount"] == 0.5
    assert record["protocol"] == json.loads(json.dumps(TINY.manifest()))
    assert record["threads"] == 1
    assert record["packages"]["torch"] == torch.__version__
    assert record["task_facts"]["max_episode_steps"] == 201
    assert record["code"].keys() == {"version", "commit", "dirty"}
    assert record["machine"]["cores"] > 0


def test_checkpoints_come_by_the_clock(experiment, monkeypatch):
    saves = []
    monkeypatch.setattr(Loop, "save", lambda self: saves.append(self.step))
    monkeypatch.setitem(FAKES, "still", Slow)
    rules = dataclasses.replace(TINY, steps=20)
    run_cell(cell_of(protocol=rules), experiment, RunSettings(checkpoint_seconds=0.3))
    assert 1 <= len(saves) <= 4
    saves.clear()
    run_cell(cell_of(protocol=rules, seed=1), experiment, RunSettings(checkpoint_seconds=math.inf))
    assert saves == []
