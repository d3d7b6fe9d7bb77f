"""Runs from pixels: files, disk, what is refused, and the policy that a finished run keeps."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import algos
import envs
from algos.parts.blocks import Rows
from runners import sweep, train
from runners.bench import pixels as bench_pixels
from runners.cells.errors import UserError
from runners.cells.grid import make_cells, resolve, unsupported
from runners.cells.protocols import METAWORLD
from runners.cells.settings import RunSettings
from runners.storage.rundir import RunDirectory, open_experiment
from runners.terminal.cli import run_main
from runners.terminal.machine import check_disk, frame_bytes
from runners.training.estimate import estimate
from runners.training.loop import Interrupted, Loop
from runners.training.session import run_cell
from runners.training.trained import load_policy, read_cell
from tests.helpers.runs import CHAOS_PIXELS, PIXEL_TASK, TINY, cell_of, load_fake, small_options

GIB = 1 << 30


def pixel_cell(algo="drqv2", **rules):
    sets = [text.removeprefix("--set=") for text in small_options(algo, f"{algo}.", PIXEL_TASK)]
    protocol = dataclasses.replace(CHAOS_PIXELS, **rules)
    return cell_of(f"{algo}@quick", PIXEL_TASK, protocol=protocol, sets=sets)


def large_memory(cell, capacity=100_000):
    return dataclasses.replace(cell, config={**cell.config, "replay_capacity": capacity})


def test_random_steps_are_those_of_the_simulator_whatever_the_action_repeat():
    steps = {}
    for task in ("metaworld/hammer", "metaworld/hammer@action_repeat=4"):
        steps[task] = resolve(algos.load("drqv2"), task, METAWORLD, "", {}).random_steps
    assert list(steps.values()) == [2_000, 1_000]  # agent steps of 4,000 frames


def test_options_of_a_task_hold_for_it_with_settings_too():
    config = resolve(algos.load("drqv2"), "dmc/walker-walk@pixels+size=64", METAWORLD, "", {})
    assert (config.n_step, config.batch_size) == (1, 512)


def test_one_spelling_of_a_task_is_one_cell():
    tasks = ["metaworld/hammer@frames=1+size=64", "metaworld/hammer@size=64+frames=1"]
    cells = make_cells(["drqv2"], [*tasks, "metaworld/hammer@size=84"], [0], METAWORLD)
    assert [cell.task for cell in cells] == [tasks[1], "metaworld/hammer"]


@pytest.mark.parametrize(
    ("algo", "task", "reason"),
    [
        ("drqv2", "mbbl/Pendulum", "drqv2 takes pixels observations, mbbl/Pendulum gives state"),
        ("ppo", "metaworld/hammer", "ppo takes state observations, metaworld/hammer gives pixels"),
        ("sac", "metaworld/hammer", None),
        ("diffsr", "metaworld/hammer", None),
        ("diffsr", "dmc/cheetah-run", None),
    ],
)
def test_what_an_agent_takes(algo, task, reason):
    assert unsupported(cell_of(algo, task, protocol=METAWORLD)) == reason


def test_a_sweep_takes_what_fits_its_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(sweep, "dry_run", lambda cells, *_: seen.extend(c.algo for c in cells) or 0)
    fits = {name for name in algos.list_algos() if "pixels" in algos.versions(algos.load(name))}
    assert sweep.main(["--dry-run", "--protocol=metaworld"]) == 0
    assert set(seen) == fits
    assert {"drqv2", "diffsr"} <= fits
    assert "ppo" not in fits


def test_a_missing_gl_library_is_one_line_with_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "runners.terminal.machine.gl_problem", lambda: "no GL library: apt-get install it"
    )
    for main, arguments in (
        (train.main, ["--algo=drqv2", "--task=metaworld/hammer"]),
        (sweep.main, ["--algos=drqv2", "--tasks=metaworld/hammer"]),
    ):
        with pytest.raises(SystemExit) as left:
            run_main(lambda main=main, arguments=arguments: main(arguments))
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error == "error: --tasks metaworld/hammer: no GL library: apt-get install it\n"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        run_main(lambda: train.main(["--algo=drqv2", "--task=metaworld/drawer-clos"]))
    assert "did you mean 'metaworld/drawer-close'?" in capsys.readouterr().err


# ---------------------------------------------------------------- disk


def test_a_million_frames_need_22_gigabytes_and_are_refused_where_they_do_not_fit(monkeypatch):
    (cell,) = make_cells(["drqv2"], ["metaworld/hammer"], [0], METAWORLD)
    # 500,000 agent steps, and one frame more for each of 2,000 episodes.
    assert frame_bytes(cell) == (500_000 + 2_000 + 1) * 84 * 84 * 3
    full = dataclasses.replace(METAWORLD, steps=3_000_000)
    (cell,) = make_cells(["drqv2"], ["metaworld/hammer"], [0], full)
    assert 21e9 < frame_bytes(cell) == 1_000_000 * 84 * 84 * 3 < 22e9
    usage = type("Usage", (), {"free": 19 * GIB})
    monkeypatch.setattr("runners.terminal.machine.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"19456 MB free on its disk, 20387 MB needed"):
        check_disk(Path("results/x"), frame_bytes(cell))
    assert frame_bytes(cell_of("sac")) == 0


def test_the_estimate_counts_frames_once(monkeypatch):
    monkeypatch.setattr("runners.training.estimate.PROBE_SECONDS", 0.01)
    short, long = (
        estimate(large_memory(pixel_cell(steps=steps, eval_every=steps)), "cpu")
        for steps in (200_000, 600_000)
    )
    assert 0 < short.seconds < long.seconds
    # 8,000 agent steps in episodes of 20: a frame each, one more per episode, and twice what
    # belongs to a step (action, reward, end, age, start of a window).
    frames, facts = 8_000 * 1.05 * 20 * 20 * 3, 8_000 * 25
    assert long.disk - short.disk == pytest.approx(frames + 2 * facts, rel=0.05)


# ---------------------------------------------------------------- files


def test_frames_lie_in_blocks_that_later_checkpoints_only_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Rows, "SIZE", 16)
    cell = large_memory(pixel_cell(), 200)
    open_experiment(tmp_path / "e", cell.protocol)
    directory = RunDirectory(cell, tmp_path / "e")
    directory.lock()
    loop = Loop((cell,), (directory,))
    loop.start()
    for _ in range(30):
        loop.train_step()
    loop.save()
    blocks = directory.checkpoints / "blocks"
    before = {path.name: path.stat().st_mtime_ns for path in blocks.iterdir()}
    assert len(before) == 2  # 30 steps of two episodes are 32 frames
    for _ in range(20):
        loop.train_step()
    loop.save()
    after = {path.name: path.stat().st_mtime_ns for path in blocks.iterdir()}
    assert len(after) == 3
    assert before.items() <= after.items()
    frames = loop.agent.replay.parts[0].rows
    assert all(block.array.flags.writeable is False for block in frames.blocks.values())
    loop.close()


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_damaged_block_is_refused(tmp_path, monkeypatch, on_disk):
    monkeypatch.setattr(Rows, "SIZE", 16)
    cell = pixel_cell()
    calls = iter(range(40))
    with pytest.raises(Interrupted):
        run_cell(
            cell, tmp_path, RunSettings(frames_on_disk=on_disk), lambda: next(calls, None) is None
        )
    (block, *_) = (cell.path(tmp_path) / "checkpoint" / "blocks").iterdir()
    values = bytearray(block.read_bytes())
    values[5] ^= 1
    block.write_bytes(values)
    with pytest.raises(ValueError, match=r"damaged .*another checksum.*to start the cell again"):
        run_cell(cell, tmp_path)


def test_success_columns_are_there_where_a_task_reports_success(tmp_path):
    task = "metaworld/drawer-close@size=16+frames=1+action_repeat=50"
    rules = dataclasses.replace(TINY, steps=100, random_steps=50, eval_every=100)
    cell = cell_of("drqv2@quick", task, protocol=rules)
    assert run_cell(cell, tmp_path) == "done"
    header, *rows = (cell.path(tmp_path) / "evaluations.csv").read_text().splitlines()
    assert header == "env_step,episode,return,length,success,final_success"
    assert [row.split(",")[3] for row in rows] == ["10", "10"]
    assert all(row.rsplit(",", 2)[1] in "01" for row in rows)
    record = json.loads((cell.path(tmp_path) / "run.json").read_text())
    facts = record["task_facts"]
    assert (facts["size"], facts["shadows"], facts["camera"]) == (16, False, "corner4")
    assert facts["action_repeat"] == 50
    assert envs.task(task).reports_success


# ---------------------------------------------------------------- policies


def test_a_finished_run_keeps_the_policy_it_was_judged_by(tmp_path, monkeypatch):
    cell = pixel_cell()
    kept = {}
    evaluate = Loop.evaluate

    def watch(loop):
        evaluate(loop)
        obs = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 20, 20), np.uint8)
        kept["obs"], kept["action"] = obs, loop.agent.act(obs, explore=False)

    monkeypatch.setattr(Loop, "evaluate", watch)
    assert run_cell(cell, tmp_path) == "done"
    run = cell.path(tmp_path)
    assert not (run / "checkpoint").exists()
    assert read_cell(run).identity == cell.identity
    agent = load_policy(run)
    np.testing.assert_array_equal(agent.act(kept["obs"], explore=False), kept["action"])
    assert len(agent.replay) == 0


def test_a_stopped_run_has_the_policy_of_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("algos.load", load_fake)
    cell, calls = cell_of("still"), iter(range(30))
    with pytest.raises(Interrupted):
        run_cell(cell, tmp_path, should_stop=lambda: next(calls, None) is None)
    assert load_policy(cell.path(tmp_path)).counters.steps > 0


def test_runs_without_a_policy_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("algos.load", load_fake)
    with pytest.raises(UserError, match=r"no run here \(no run.json\)"):
        load_policy(tmp_path)
    cell = cell_of("still")
    assert run_cell(cell, tmp_path) == "done"
    run = cell.path(tmp_path)
    for file in (run / "policy").rglob("*.json"):
        file.write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        load_policy(run)
    for folder in (run / "policy").iterdir():
        folder.rename(run / folder.name)
    with pytest.raises(UserError, match=r"no trained policy \(no policy/, no checkpoint/\)"):
        load_policy(run)
    (run / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run.json: cannot be read"):
        read_cell(run)


def test_an_algorithm_of_ones_own_has_to_be_named_again(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text((algos.FOLDER / "_template.py").read_text())
    cell = cell_of(f"{file}@quick", protocol=TINY)
    assert run_cell(cell, tmp_path / "e") == "done"
    run = cell.path(tmp_path / "e")
    with pytest.raises(UserError, match=r"made by mine.py; give its path with --algo"):
        load_policy(run)
    agent = load_policy(run, source=str(file))
    assert agent.act(np.zeros((1, 1, 3), np.float32), explore=False).shape == (1, 1, 1)


# ---------------------------------------------------------------- benchmark


def test_the_benchmark_measures_what_it_says(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench_pixels, "TASKS", ("dmc/cartpole-balance@pixels+size=20",))
    monkeypatch.setattr(bench_pixels, "machine_facts", lambda device: {"name": "m", "gflops": RATE})
    monkeypatch.setattr("runners.bench.timing.BURST_SECONDS", 1e-4)
    monkeypatch.setattr("runners.bench.timing.WARM_UP_SECONDS", 1e-3)
    file = tmp_path / "pixels.json"
    arguments = ["--algos=drqv2", "--size=20", "--preset=quick", "--repeats=3", "--frames=1000"]
    assert bench_pixels.main([*arguments, f"--json={file}"]) == 0
    out = capsys.readouterr().out
    assert "dmc/cartpole-balance@pixels+size=20" in out
    result = json.loads(file.read_text())
    (environment,), replays, (agent,) = (result[k] for k in ("environments", "replays", "agents"))
    assert environment["share"] > 0
    assert [row["place"] for row in replays] == ["disk", "memory"]
    frames = 1000 * 84 * 84 * 3
    assert frames < 1e9 * replays[0]["disk_gb"] < 1.05 * frames
    assert (agent["algo"], agent["batch"], agent["size"]) == ("drqv2", 64, 20)
    assert agent["sample_share"] > 0
    assert agent["gflop"] > 0


def test_frames_of_the_benchmark_differ():
    replay = bench_pixels.filled_replay(1_000, 16, None)
    rows = replay.parts[0].rows
    frames = rows.gather(np.arange(rows.total))
    assert rows.total == 1_000
    assert len(np.unique(frames.reshape(len(frames), -1), axis=0)) > 990


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algos=ppo"], "--algos ppo: it takes no pixels observations"),
        (["--size=8"], "--size 8: from 16 to 1024"),
        (["--frames=10"], "--frames 10: at least 1000"),
        (["--repeats=0"], "--repeats 0: must be at least 1"),
        (["--algos=drqv2", "--preset=quik"], "did you mean quick?"),
    ],
)
def test_bad_input_of_the_benchmark_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as left:
        run_main(lambda: bench_pixels.main(arguments))
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


RATE = {"float32": 100.0, "tf32": 100.0, "bfloat16": 400.0}
