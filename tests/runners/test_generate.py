"""The figure of drawn frames: what is in it, what it reads, and bad input."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from runners import generate
from runners.cells.seeding import derive_seed
from runners.storage import checkpoint, manifest
from runners.storage.rundir import RunDirectory
from runners.terminal.cli import run_main
from runners.training.loop import make_agent
from runners.training.replica import make_env
from runners.training.trained import load_policy
from tests.helpers.runs import PIXEL_TASK, cell_of, load_fake, snapshot

SETS = ("latent_dim=8", "feature_dim=8", "trunk_dim=8", "psi_hidden=8", "zeta_hidden=8")


def saved(folder, cell):
    """The run directory of a run that ended at once."""
    directory = RunDirectory(cell, folder)
    directory.path.mkdir(parents=True)
    directory.write_manifest(manifest.build(cell, "cpu") | {"status": "done"})
    checkpoint.save(directory.policy, 0, make_agent((cell,), "cpu").policy_state())
    return directory.path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sets = [f"diffsr.{text}" for text in (*SETS, "noise_levels=10", "noise_schedule=vp")]
    return saved(tmp_path_factory.mktemp("runs"), cell_of("diffsr", PIXEL_TASK, sets=sets))


def rows_of(run):
    with (run / "generation.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_figure_shows_drawings_beside_the_true_next_frames(run, capsys):
    assert generate.main([str(run), "--frames=3", "--states=2"]) == 0
    assert str(run / "generation.png") in capsys.readouterr().out
    first = (run / "generation.png").read_bytes()
    with Image.open(run / "generation.png") as image:
        assert image.width > image.height  # four columns, two rows
    rows = rows_of(run)
    assert [row["agent_step"] for row in rows] == ["0"] * 3 + ["19"] * 3
    assert [row["level"] for row in rows] == ["10", "5", "0"] * 2
    # The same from the policy and the environment alone.
    agent, env = load_policy(run), make_env(PIXEL_TASK, seed=derive_seed("generate", PIXEL_TASK, 0))
    obs, seen = env.reset()[0], []
    for _ in range(20):
        action = agent.act(obs[None, None], explore=False)[0, 0]
        next_obs = env.step(action.astype(np.float64))[0]
        seen.append((obs, action, next_obs[-3:]))
        obs = next_obs
    env.close()
    obs, action, true = (np.stack(part) for part in zip(seen[0], seen[19], strict=True))
    drawn = agent.generate(*(torch.from_numpy(a)[None] for a in (obs, action)), 3, agent.eval_rng)
    error = ((drawn[0].numpy() / 255.0 - true[:, None] / 255.0) ** 2).mean((2, 3, 4))
    found = np.array([float(row["error"]) for row in rows]).reshape(2, 3)
    np.testing.assert_allclose(found, error, atol=1e-6)
    generate.main([str(run), "--frames=3", "--states=2"])
    assert (run / "generation.png").read_bytes() == first


def test_the_strip_is_in_the_figure():
    """Pixels of the figure: the true frame first, then the drawings from left to right."""
    steps = generate.Steps(np.array([7]), np.zeros(0), np.zeros(0), np.full((1, 3, 4, 4), 250))
    drawn = np.stack([np.full((3, 4, 4), 50 * n) for n in range(4)])[None]
    levels = [30, 20, 10, 0]
    png = generate.draw(steps, drawn.astype(np.uint8), levels, "a title that is rather long " * 6)
    with Image.open(io.BytesIO(png)) as image:
        grey = np.asarray(image.convert("L")).astype(int)
    row = grey[int(grey.shape[0] * 0.75)]
    runs = [v for v, n in _runs(row) if n > 60 and v != 255]
    assert runs == [250, 0, 50, 100, 150]


def _runs(row):
    """Values of a row of pixels with the number of their repetitions."""
    edges = np.flatnonzero(np.diff(row)) + 1
    return [(int(part[0]), len(part)) for part in np.split(row, edges)]


BAD = [
    (["--frames=1"], "--frames 1: valid are 2 to 64"),
    (["--frames=65"], "--frames 65: valid are 2 to 64"),
    (["--states=0"], "--states 0: must be at least 1"),
    (["--states=65"], "--states 65: valid are 1 to 64"),
    (["--device=foo"], "--device foo: valid devices are cpu"),
]


def refused(capsys, *arguments):
    """The one line of a command that must refuse."""
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: generate.main([str(a) for a in arguments]))
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(("arguments", "text"), BAD)
def test_bad_input_is_one_line(run, capsys, arguments, text):
    before = snapshot(run)
    assert text in refused(capsys, run, *arguments)
    assert snapshot(run) == before


def test_a_run_that_draws_no_frames_is_refused(tmp_path, capsys, monkeypatch):
    assert "no run here" in refused(capsys, tmp_path)
    monkeypatch.setattr("algos.load", load_fake)
    run = saved(tmp_path, cell_of())
    line = refused(capsys, run)
    assert "still that sees state draws no frames" in line
    assert "diffsr" in line
