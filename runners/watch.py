"""Film a trained policy: `python -m runners.watch results/mine/gym/Ant-v5/sac/seed-0`.

The policy acts without exploration, in episodes of its own: their start states depend on
task and `--seed` alone. A film goes at the speed of the task; of a fast one not every step is
drawn. GIF always works; MP4 needs the extra `video`.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import envs
from algos.base.agent import Agent
from envs.parts.pixels import NoRendering, check_size, gl_problem
from runners.cells.errors import EXIT_OK, UserError, positive
from runners.cells.seeding import derive_seed
from runners.terminal.cli import Parser, check_device, run_main
from runners.terminal.options import add_run
from runners.training.process import setup_process
from runners.training.replica import make_env
from runners.training.trained import load_policy, read_cell

Frame = NDArray[np.uint8]
FPS = 30.0  # of a task that does not say

# ---------------------------------------------------------------- files


def write_gif(path: Path, frames: Iterable[Frame], size: int, fps: float) -> None:
    """Write a GIF that repeats; its frames last whole hundredths of a second.

    Args:
        path: ends in `.gif`.
        frames: images `[size, size, 3]`, at least one.
        size: of a side.
        fps: frames per second.
    """
    images = (Image.fromarray(frame) for frame in frames)
    duration = 10 * max(1, round(100.0 / fps))  # milliseconds
    next(images).save(path, save_all=True, append_images=images, duration=duration, loop=0)


def write_mp4(path: Path, frames: Iterable[Frame], size: int, fps: float) -> None:
    """Write H.264; arguments as for `write_gif`, but `size` is even."""
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(str(path), (size, size), fps=fps, macro_block_size=2)
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


@dataclass(frozen=True)
class Format:
    """A kind of film: what writes it, and the most frames per second that it is given."""

    write: Callable[[Path, Iterable[Frame], int, float], None]
    most: float


# Viewers slow a GIF of more than 50 frames per second down, and it is large.
FORMATS = {".gif": Format(write_gif, 25.0), ".mp4": Format(write_mp4, 60.0)}


def has_mp4() -> bool:
    """Whether the package that writes MP4 is installed."""
    return importlib.util.find_spec("imageio_ffmpeg") is not None


def check_out(path: Path) -> Path:
    """Return `path` if a film can be written there.

    Raises:
        UserError: one line with what can be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {path}: the name ends in one of {', '.join(FORMATS)}")
    if path.suffix.lower() == ".mp4" and not has_mp4():
        raise UserError(f"--out {path}: MP4 needs pip install -e '.[video]'; .gif works without")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    return path


# ---------------------------------------------------------------- episodes


def make_stage(task: str, size: int) -> gymnasium.Env[Any, Any]:
    """Return the environment of a task that draws images of `size` x `size` pixels.

    Raises:
        UserError: the task has no images, or this machine cannot draw.
    """
    wanted: dict[str, Any] = {"render_mode": "rgb_array", "width": size, "height": size}
    options = {name: value for name, value in wanted.items() if name in envs.task(task).options}
    try:
        with warnings.catch_warnings(action="ignore"):  # gymnasium says the same in more lines
            return make_env(task, **options)
    except ValueError as error:
        raise UserError(f"{task} cannot be filmed: {error}") from None


def play(
    agent: Agent,
    env: gymnasium.Env[Any, Any],
    seeds: Iterable[int],
    every: int = 1,
    report: Callable[[float, int, float | None], None] = lambda total, steps, success: None,
) -> Iterator[Frame]:
    """Images `[H, W, 3]` of an episode for each of `seeds`, first and last state included.

    Args:
        agent: acts without exploration.
        env: with actions in [-1, 1]; it draws.
        seeds: of the start states.
        every: steps from one image to the next.
        report: called after each episode with return, steps, and success if the task has it.

    Raises:
        UserError: an action is not finite, or this machine cannot draw.
    """
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        total, steps, success, over = 0.0, 0, None, False
        yield _image(env)
        while not over:
            action = agent.act(np.asarray(obs)[None, None], explore=False)[0, 0]
            if not np.isfinite(action).all():
                raise UserError(f"the policy's action at step {steps} is not finite: {action}")
            obs, reward, terminated, truncated, info = env.step(action.astype(np.float64))
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
            if "success" in info:
                success = max(success or 0.0, float(info["success"]))
            if over or steps % every == 0:
                yield _image(env)
        report(total, steps, success)


def _image(env: gymnasium.Env[Any, Any]) -> Frame:
    try:
        return np.asarray(env.render(), np.uint8)
    except NoRendering as error:
        raise UserError(str(error)) from None


# ---------------------------------------------------------------- the command


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.watch", str(__doc__))
    add_run(result)
    result.add_argument("--episodes", type=int, default=1, help="one after the other in the film")
    result.add_argument("--seed", type=int, default=0, help="chooses the start states")
    result.add_argument(
        "--out", type=Path, metavar="FILE", help="film, .gif or .mp4 (default: RUN/video)"
    )
    result.add_argument("--size", type=int, default=256, help="pixels of a side, an even number")
    result.add_argument(
        "--fps", type=float, help="steps per second (default: the task's own speed)"
    )
    result.add_argument("--algo", metavar="FILE", help="the run's .py file, if it is not ours")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    setup_process()
    positive("episodes", arguments.episodes)
    if arguments.fps is not None and not 0.1 <= arguments.fps <= 240.0:
        raise UserError(f"--fps {arguments.fps:g}: must be from 0.1 to 240")
    _check_size(arguments.size)
    device = check_device(arguments.device)
    run: Path = arguments.run
    cell = read_cell(run, arguments.algo)
    out = check_out(arguments.out or run / ("video.mp4" if has_mp4() else "video.gif"))
    if problem := gl_problem():
        raise UserError(f"cannot draw: {problem}")
    agent = load_policy(run, device, arguments.algo)
    env = make_stage(cell.task, arguments.size)
    kind = FORMATS[out.suffix.lower()]
    fps = arguments.fps or float(env.metadata.get("render_fps", FPS))
    every = math.ceil(fps / kind.most)
    seeds = [derive_seed("watch", cell.task, arguments.seed, i) for i in range(arguments.episodes)]
    frames = play(agent, env, seeds, every, _report)
    # Under another name until it is whole.
    partial = out.with_name(f".partial-{out.name}")
    try:
        kind.write(partial, frames, arguments.size, fps / every)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
        env.close()
    print(f"film: {out}")
    return EXIT_OK


def _check_size(size: int) -> None:
    try:
        check_size(size)
    except ValueError as error:
        raise UserError(f"--size {size}: {error}") from None
    if size % 2:
        raise UserError(f"--size {size}: must be even, as videos are")


def _report(total: float, steps: int, success: float | None) -> None:
    reached = "" if success is None else f", success {success:.0f}"
    print(f"return {total:.1f} in {steps} steps{reached}", flush=True)


if __name__ == "__main__":
    run_main(main)
