"""Show how a run's score function turns noise into the next frame.

    python -m runners.generate results/<experiment>/<suite>/<task>/<algo>/seed-0

The trained policy plays one episode. For some of its steps, spread evenly over it, the agent
draws the next frame given what it saw and did, and `generation.png` in the run directory shows
each drawing on its way from noise to a frame, beside the true next frame. `generation.csv` has
the squared error of each image. Diff-SR from pixels can do this.
"""

from __future__ import annotations

import argparse
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

import algos
import envs
from algos.parts.rng import ReplicaRng
from algos.parts.vision import FRAME
from runners.cells.cell import Cell
from runners.cells.errors import EXIT_OK, UserError, positive
from runners.cells.files import write_atomic
from runners.cells.grid import agent_for
from runners.cells.seeding import derive_seed
from runners.terminal.cli import Parser, check_device, run_main
from runners.terminal.options import add_run
from runners.training.process import setup_process
from runners.training.replica import make_env
from runners.training.trained import load_policy, read_cell

Array = NDArray[Any]

MOST = 64  # rows and columns of the figure
PANEL = 0.95  # inches
COLUMNS = ("state", "agent_step", "level", "error")


@runtime_checkable
class Generator(Protocol):
    """An agent that can draw next frames, as `algos.pixels.diffsr.PixelDiffSR`."""

    eval_rng: ReplicaRng

    def act(self, obs: Array, explore: bool) -> Array:
        """See `algos.base.agent.Agent.act`."""

    def generate(self, obs: Tensor, action: Tensor, shown: int, rng: ReplicaRng) -> Tensor:
        """Frames `[R, N, shown, 3, H, W]` uint8 on the way from noise to a next frame."""

    def shown_levels(self, shown: int) -> list[int]:
        """Noise levels of these frames, falling to 0."""


@dataclass(frozen=True)
class Steps:
    """Steps of an episode.

    Attributes:
        number: which, `[N]`.
        obs: `[N, 3 * k, H, W]` uint8.
        action: `[N, A]` float32.
        next_frame: `[N, 3, H, W]` uint8.
    """

    number: Array
    obs: Array
    action: Array
    next_frame: Array


def play(agent: Generator, cell: Cell, count: int) -> Steps:
    """One episode of the policy, and `count` of its steps, spread evenly from the first on."""
    env = make_env(cell.task, seed=derive_seed("generate", cell.task, cell.seed))
    rows: list[tuple[Array, Array, Array]] = []
    try:
        obs, _ = env.reset()
        ended = False
        while not ended:
            action = agent.act(obs[None, None], explore=False)[0, 0]
            next_obs, _, terminated, truncated, _ = env.step(action.astype(np.float64))
            rows.append((obs, action, next_obs[-FRAME:]))
            obs, ended = next_obs, terminated or truncated
    finally:
        env.close()
    number = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return Steps(number, *(np.stack(c) for c in zip(*(rows[n] for n in number), strict=True)))


def generate(agent: Generator, steps: Steps, frames: int, device: str) -> Array:
    """Drawings `[N, frames, 3, H, W]` uint8 from noise to the next frame of each step."""
    obs, action = (torch.from_numpy(a)[None].to(device) for a in (steps.obs, steps.action))
    return agent.generate(obs, action, frames, agent.eval_rng)[0].cpu().numpy()


def errors(drawn: Array, true: Array) -> Array:
    """Mean squared error `[N, frames]` to true frames `[N, 3, H, W]`, of values / 255."""
    gap = (drawn.astype(np.float32) - true[:, None].astype(np.float32)) / 255.0
    return np.square(gap).mean((2, 3, 4))


def draw(steps: Steps, drawn: Array, levels: Sequence[int], title: str) -> bytes:
    """Return the figure as PNG: a state a row, its true next frame, then the strip."""
    rows, columns = len(drawn), 1 + len(levels)
    figure = Figure(figsize=(PANEL * columns + 0.6, PANEL * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for n, row in enumerate(axes):
        row[0].set_ylabel(f"step {steps.number[n]}", fontsize=9)
        for axis, image in zip(row, [steps.next_frame[n], *drawn[n]], strict=True):
            axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, name in zip(axes[0], ["next frame", *map(str, levels)], strict=True):
        axis.set_title(name, fontsize=8)
    text = f"{title}: the next frame, and its drawing by noise level"
    figure.suptitle(textwrap.fill(text, int(13 * figure.get_figwidth())), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def table(steps: Steps, levels: Sequence[int], error: Array) -> str:
    """`generation.csv`: a row for each drawing and level."""
    lines = [",".join(COLUMNS)]
    for n, number in enumerate(steps.number):
        lines += [
            f"{n},{number},{level},{e:.6f}" for level, e in zip(levels, error[n], strict=True)
        ]
    return "\n".join(lines) + "\n"


def generator(run: Path, device: str) -> tuple[Cell, Generator]:
    """Return the cell of a run and its trained agent.

    Raises:
        UserError: one line if the run's agent cannot draw frames, or there is no run.
    """
    cell = read_cell(run)
    kind = agent_for(algos.load(cell.source), cell.task)
    if not hasattr(kind, "generate"):
        able = [name for name in algos.list_algos() if hasattr(_for_pixels(name), "generate")]
        sees = envs.task(cell.task).observation_kind
        raise UserError(
            f"{run}: {cell.algo} that sees {sees} draws no frames; "
            f"valid are {', '.join(able)} on tasks of pixels"
        )
    agent = load_policy(run, device)
    assert isinstance(agent, Generator)
    return cell, agent


def _for_pixels(name: str) -> type[Any] | None:
    return algos.versions(algos.load(name)).get("pixels")


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.generate", str(__doc__))
    add_run(result)
    result.add_argument("--frames", type=int, default=8, help="images from noise to frame")
    result.add_argument("--states", type=int, default=4, help="steps of the episode, one a row")
    return result


def check(arguments: argparse.Namespace) -> None:
    """Refuse sizes that make no figure."""
    if not 2 <= arguments.frames <= MOST:
        raise UserError(f"--frames {arguments.frames}: valid are 2 to {MOST}")
    if positive("states", arguments.states) > MOST:
        raise UserError(f"--states {arguments.states}: valid are 1 to {MOST}")
    check_device(arguments.device)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    setup_process()
    check(arguments)
    cell, agent = generator(arguments.run, arguments.device)
    steps = play(agent, cell, arguments.states)
    drawn = generate(agent, steps, arguments.frames, arguments.device)
    levels = agent.shown_levels(arguments.frames)
    error = errors(drawn, steps.next_frame)
    figure = draw(steps, drawn, levels, cell.name)
    write_atomic(arguments.run / "generation.png", figure)
    write_atomic(arguments.run / "generation.csv", table(steps, levels, error))
    print(f"mean squared error of the drawn frames: {error[:, -1].mean():.4f}")
    print(f"files: {arguments.run / 'generation.png'}, {arguments.run / 'generation.csv'}")
    return EXIT_OK


if __name__ == "__main__":
    run_main(main)
