"""Films of trained policies: what they show, how fast they go, and bad input."""

import dataclasses
import importlib.util
import shutil

import numpy as np
import pytest
from PIL import Image, ImageSequence

import envs
from runners import watch
from runners.cells.seeding import derive_seed
from runners.terminal.cli import run_main
from runners.training.replica import make_env
from runners.training.session import run_cell
from runners.training.trained import load_policy
from tests.helpers.runs import TINY, cell_of, load_fake

TASK = "dmc/cartpole-balance@action_repeat=50"  # 20 steps per episode, 2 per second
SIZE = 36  # no multiple of the blocks of a codec


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr("algos.load", load_fake)


def finished(folder, task):
    """The run directory of a run of `task` that has ended."""
    steps = 2 * envs.task(task).action_repeat
    rules = dataclasses.replace(
        TINY, steps=steps, eval_every=steps, eval_episodes=1, log_every=steps, random_steps=0
    )
    cell = cell_of(task=task, protocol=rules)
    assert run_cell(cell, folder) == "done"
    return cell.path(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("algos.load", load_fake)
        return finished(tmp_path_factory.mktemp("runs"), TASK)


def film(run, *arguments):
    assert watch.main([str(run), f"--size={SIZE}", *map(str, arguments)]) == 0


def drawn(run, seed, episodes):
    """What a film must show, from the policy and the environment alone."""
    agent = load_policy(run)
    env = make_env(TASK, render_mode="rgb_array", width=SIZE, height=SIZE)
    images, returns = [], []
    for i in range(episodes):
        obs, _ = env.reset(seed=derive_seed("watch", TASK, seed, i))
        images.append(env.render())
        total, over = 0.0, False
        while not over:
            action = agent.act(obs[None, None], explore=False)[0, 0]
            obs, reward, terminated, truncated, _ = env.step(action.astype(np.float64))
            total, over = total + reward, terminated or truncated
            images.append(env.render())
        returns.append(total)
    env.close()
    return np.stack(images), returns


def test_a_gif_shows_every_state_at_the_speed_of_the_task(run, tmp_path, capsys):
    out = tmp_path / "film.gif"
    film(run, "--episodes=2", "--seed=3", f"--out={out}")
    expected, returns = drawn(run, seed=3, episodes=2)
    said = capsys.readouterr().out.splitlines()
    assert said == [*(f"return {total:.1f} in 20 steps" for total in returns), f"film: {out}"]
    with Image.open(out) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        assert image.info["duration"] == 500  # milliseconds
        assert image.info["loop"] == 0
    assert len(frames) == len(expected) == 42
    wrong = np.abs(np.stack(frames).astype(int) - expected).mean((1, 2, 3))
    assert wrong.max() < 4.0  # of 255: a GIF has 256 colours
    assert np.abs(expected[0].astype(int) - expected[20]).mean() > 1.0  # something moves
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]


@pytest.mark.extended
def test_an_mp4_shows_every_state_at_the_speed_of_the_task(run):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")  # of the extra `test`
    film(run, "--fps=4")
    reader = ffmpeg.read_frames(str(run / "video.mp4"))  # where a film goes by default
    facts = next(reader)
    assert facts["size"] == (SIZE, SIZE)
    assert facts["fps"] == 4.0
    frames = np.stack([np.frombuffer(f, np.uint8).reshape(SIZE, SIZE, 3) for f in reader])
    expected, _ = drawn(run, seed=0, episodes=1)
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 8.0


def test_of_a_fast_film_only_some_states_are_drawn(run, tmp_path, monkeypatch):
    images = []
    draw = watch._image
    monkeypatch.setattr(watch, "_image", lambda env: images.append(0) or draw(env))
    film(run, "--fps=150", f"--out={tmp_path / 'film.gif'}")
    # A GIF takes 25 a second: states 0, 6, 12, 18, and 20, the last one.
    assert len(images) == 5
    with Image.open(tmp_path / "film.gif") as image:
        assert image.info["duration"] == 40


def test_pixels_are_watched_like_states(tmp_path, capsys):
    class Env:
        """Two steps of frames, with success at the first."""

        def reset(self, seed):
            self.t = 0
            return np.full((3, 4, 4), seed, np.uint8), {}

        def step(self, action):
            assert action.dtype == np.float64
            self.t += 1
            over = self.t == 2
            return np.full((3, 4, 4), self.t), 1.5, False, over, {"success": float(not over)}

        def render(self):
            return np.full((8, 8, 3), 10 * self.t, np.uint8)

    class Policy:
        def act(self, obs, explore):
            assert not explore
            seen.append((obs.shape, int(obs[0, 0, 0, 0, 0])))
            return np.zeros((1, 1, 2), np.float32)

    seen, reports = [], []
    images = list(watch.play(Policy(), Env(), [7, 9], report=lambda *r: reports.append(r)))
    assert [int(p[0, 0, 0]) for p in images] == [0, 10, 20] * 2
    assert seen == [((1, 1, 3, 4, 4), k) for k in (7, 1, 9, 1)]
    assert reports == [(3.0, 2, 1.0)] * 2  # success at any step


def refused(capsys, *arguments):
    """Run a command that must refuse; returns its one line."""
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: watch.main([str(a) for a in arguments]))
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--out=film.avi", "film.avi: the name ends in one of .gif, .mp4"),
        ("--out=nowhere/film.gif", "there is no folder nowhere"),
        ("--size=2000", "--size 2000: size is from 16 to 1024"),
        ("--size=33", "--size 33: must be even"),
        ("--episodes=0", "--episodes 0: must be at least 1"),
        ("--fps=nan", "--fps nan: must be from 0.1 to 240"),
        ("--device=tpu", "--device tpu: valid devices are"),
    ],
)
def test_bad_options_are_one_line(run, tmp_path, monkeypatch, capsys, option, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, run, option)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error:.*render_mode")  # a second line, outside pytest
def test_runs_that_cannot_be_filmed_are_one_line(run, tmp_path, monkeypatch, capsys):
    assert "no run here" in refused(capsys, tmp_path / "nothing")
    shutil.copytree(run, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "policy")
    assert "holds no trained policy" in refused(capsys, tmp_path / "empty")
    blind = finished(tmp_path, "mbbl/Pendulum")

    def no_image(*arguments, **options):
        raise ValueError("it has no image")

    with monkeypatch.context() as patched:
        patched.setattr(watch, "make_env", no_image)
        text = refused(capsys, blind)
    assert "mbbl/Pendulum cannot be filmed: it has no image" in text
    monkeypatch.setattr(watch, "gl_problem", lambda: "no GL library: install one")
    assert "cannot draw: no GL library" in refused(capsys, run, f"--out={tmp_path / 'x.gif'}")


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_a_film_that_breaks_off_leaves_no_file(run, tmp_path, monkeypatch, capsys, name):
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")
    agent = load_policy(run)
    acts = iter([np.zeros((1, 1, 1), np.float32), np.full((1, 1, 1), np.nan, np.float32)])
    monkeypatch.setattr(agent, "act", lambda obs, explore: next(acts))
    monkeypatch.setattr(watch, "load_policy", lambda *arguments: agent)
    text = refused(capsys, run, f"--size={SIZE}", f"--out={tmp_path / name}")
    assert "the policy's action at step 1 is not finite" in text
    assert not list(tmp_path.iterdir())


def test_without_ffmpeg_a_film_is_a_gif(run, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "imageio_ffmpeg" else find(name)
    )
    text = refused(capsys, run, f"--out={tmp_path / 'film.mp4'}")
    assert "pip install -e '.[video]'" in text
    assert ".gif works without" in text
    film(run)
    assert (run / "video.gif").is_file()
