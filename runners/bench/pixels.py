"""What seeing costs on this machine: environments, the memory of frames, and updates from pixels.

    python -m runners.bench.pixels --algos drqv2,sac

Everything in one thread and in one process; what is compared is timed in turns. An environment
is set beside what it cannot do without: the simulator's own steps and one image by
`mujoco.Renderer` with the same fast settings. Agents are measured with their default options
at one size of images; `--preset quick` takes that preset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import algos
import envs
from algos.parts.frames import FrameReplay
from algos.parts.rng import ReplicaRng
from algos.parts.types import Spaces
from runners.bench.record import add_arguments, check_arguments, machine_facts, table, write_record
from runners.bench.timing import Call, in_turns
from runners.bench.work import learning_period, learning_step, ready_agent
from runners.cells.errors import EXIT_OK, UserError, nearest
from runners.storage import checkpoint
from runners.terminal.cli import Parser, run_main
from runners.training.estimate import peak_bytes, random_transition
from runners.training.process import setup_process

TASKS = (
    "metaworld/drawer-close@size=64",
    "metaworld/drawer-close",
    "dmc/cheetah-run@pixels+size=64",
    "dmc/cheetah-run@pixels",
)
FRAMES, ACTION_DIM = 3, 4
STORED = 600  # steps in an agent's memory before its updates are timed
REPLAY_FRAMES, REPLAY_BATCH = 5_000, 256
SAVE_EVERY = 20_000  # frames between checkpoints while a large memory is filled


@dataclass(frozen=True)
class EnvironmentCost:
    """One step of an environment and what it needs at least; medians."""

    task: str
    step_ms: float
    raw_ms: float  # simulator steps and one image, without the environment
    share: float  # raw over step, paired
    frames_per_second: float


@dataclass(frozen=True)
class ReplayCost:
    """Drawing one batch of 84 x 84 stacks."""

    place: str  # memory, or disk once a checkpoint holds the frames
    frames: int
    batch: int
    ms: float
    samples_per_second: float
    disk_gb: float  # of the checkpoint, 10^9 bytes
    resident_gb: float  # most that the process had so far


@dataclass(frozen=True)
class PixelCost:
    """An update of one agent and the share of it that goes into drawing its batch."""

    algo: str
    precision: str
    size: int
    batch: int
    update_ms: float
    updates_per_second: float
    sample_ms: float  # NaN where drawing is not apart from learning
    sample_share: float
    gflop: float
    rate_fraction: float  # of the machine's rate of matrix products


def simulator(env: Any) -> tuple[Any, Any]:
    """Return the MuJoCo model and data of an environment for pixels."""
    base = env.unwrapped
    return (base.model, base.data) if hasattr(base, "model") else (base._model, base._data)


def measure_environment(task_id: str, repeats: int) -> EnvironmentCost:
    """Time steps of a task in turns with the simulator and `mujoco.Renderer` alone."""
    # Late: `envs` chooses the GL library, which must come first.
    import mujoco

    env, task = envs.make(task_id, seed=0), envs.task(task_id)
    env.reset()
    model, data = simulator(env)
    action = np.zeros(task.action_dim)
    before = data.time
    env.step(action)
    steps = round((data.time - before) / model.opt.timestep)
    height, width = task.obs_shape[1:]
    # What `envs.parts.pixels.Camera` sets for a fast image, on the model that it draws.
    kept = model.vis.quality.offsamples, model.vis.quality.shadowsize
    model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
    renderer = mujoco.Renderer(model, height, width)
    model.vis.quality.offsamples, model.vis.quality.shadowsize = kept
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = False
    camera = "corner4" if task.suite == "metaworld" else 0
    own = mujoco.MjData(model)

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    def raw() -> None:
        mujoco.mj_step(model, own, steps)
        renderer.update_scene(own, camera)
        renderer.render()

    seconds = in_turns({"step": step, "raw": raw}, repeats, torch.device("cpu"))
    renderer.close()
    env.close()
    share = median(r / s for r, s in zip(seconds["raw"], seconds["step"], strict=True))
    step_s, raw_s = median(seconds["step"]), median(seconds["raw"])
    return EnvironmentCost(task_id, 1e3 * step_s, 1e3 * raw_s, share, 1.0 / step_s)


def filled_replay(frames: int, size: int, folder: Path | None) -> FrameReplay:
    """Return a memory with that many frames, all different, in episodes of 250 steps.

    Args:
        frames: how many, at least 1,000.
        size: side of a frame.
        folder: where to save a checkpoint every `SAVE_EVERY` frames, so that the frames leave
            main memory; None keeps them in it.
    """
    spaces, rng = Spaces((3 * FRAMES, size, size), ACTION_DIM), np.random.default_rng(0)
    replay = FrameReplay(spaces, 1, frames, torch.device("cpu"), n_step=3)
    some = [random_transition(spaces, rng) for _ in range(50)]
    for k in range(frames - frames // 250):  # each episode has one frame more than steps
        step = replace(some[k % 50], truncated=np.array([k % 250 == 249]))
        step.next_obs[0, -1, 0, :8] = np.frombuffer(k.to_bytes(8, "little"), np.uint8)
        replay.add(step)
        if folder is not None and k % SAVE_EVERY == SAVE_EVERY - 1:
            checkpoint.save(folder, k, replay.state_dict())
    if folder is not None:
        checkpoint.save(folder, frames, replay.state_dict())
    return replay


def measure_replay(
    repeats: int, frames: int = REPLAY_FRAMES, size: int = 84, folder: Path | None = None
) -> list[ReplayCost]:
    """Time batches from frames in a checkpoint, and in memory if they are few.

    Args:
        repeats: samples of each time.
        frames: in the memory.
        size: side of a frame.
        folder: where the checkpoint goes for a while; by default the system's place for such.
    """
    rng, cpu = ReplicaRng([0], torch.device("cpu")), torch.device("cpu")
    with TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        replays = {"disk": filled_replay(frames, size, place)}
        if frames <= SAVE_EVERY:
            replays["memory"] = filled_replay(frames, size, None)
        calls = {name: partial(r.sample, REPLAY_BATCH, rng) for name, r in replays.items()}
        seconds = in_turns(dict(calls), repeats, cpu)
        disk = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    resident = peak_bytes()
    return [
        ReplayCost(
            name,
            frames,
            REPLAY_BATCH,
            1e3 * median(times),
            REPLAY_BATCH / median(times),
            disk / 1e9 if name == "disk" else 0.0,
            resident / 1e9,
        )
        for name, times in seconds.items()
    ]


def measure_agent(
    algo: str,
    size: int,
    repeats: int,
    device: torch.device,
    rate: dict[str, float],
    preset: str = "",
    stored: int = STORED,
) -> PixelCost:
    """Time updates of one agent, in turns with drawing its batches."""
    spaces = Spaces((3 * FRAMES, size, size), ACTION_DIM)
    agent: Any = ready_agent(algo, device, stored, spaces, preset)
    step = learning_step(agent)
    while not step():  # whatever an agent does before it learns
        pass
    period, gflop = learning_period(agent)
    learnings = 0

    def whole_period() -> None:
        nonlocal learnings
        learnings = sum(step() for _ in range(period))

    batch = agent.config.batch_size
    # PolyGRAD draws windows and encodes them at once, so nothing can be told apart there.
    replay = getattr(agent, "replay", None)
    calls: dict[str, Call] = {"update": whole_period}
    if replay is not None:
        calls["sample"] = lambda: replay.sample(batch, agent.rng)
    seconds = in_turns(calls, repeats, device)
    update = [s / max(1, learnings) for s in seconds["update"]]
    draws = seconds.get("sample", [math.nan])
    share = median(s / u for s, u in zip(draws, update, strict=False))
    gflop *= period / max(1, learnings)
    precision = agent.arithmetic
    return PixelCost(
        algo,
        precision,
        size,
        batch,
        1e3 * median(update),
        1.0 / median(update),
        1e3 * median(draws),
        share,
        gflop,
        gflop / min(update) / rate[precision],
    )


def environment_table(costs: Sequence[EnvironmentCost]) -> str:
    """Environments, one a row."""
    form = "{task}|{step_ms:.2f}|{raw_ms:.2f}|{share:.0%}|{frames_per_second:.0f}"
    head = "task|ms/step|ms of simulator and image|share|frames/s"
    return table(head, (form.format(**asdict(cost)).split("|") for cost in costs))


def replay_table(costs: Sequence[ReplayCost]) -> str:
    """Memories of frames, one a row."""
    form = "{place}|{frames:,}|{batch}|{ms:.1f}|{samples_per_second:.0f}"
    form += "|{disk_gb:.2f}|{resident_gb:.2f}"
    head = "place|frames|batch|ms/batch|samples/s|GB on disk|GB resident"
    return table(head, (form.format(**asdict(cost)).split("|") for cost in costs))


def agent_table(costs: Sequence[PixelCost]) -> str:
    """Agents, one a row."""
    form = "{algo}|{precision}|{size}|{batch}|{update_ms:.0f}|{updates_per_second:.2f}"
    form += "|{sample_ms:.1f}|{sample_share:.1%}|{gflop:.1f}|{rate_fraction:.0%}"
    head = "agent|precision|size|batch|ms/update|updates/s|ms/draw|of update|GFLOP|of rate"
    return table(head, (form.format(**asdict(cost)).split("|") for cost in costs))


def parser() -> Parser:
    """Build the parser of the command."""
    result = Parser("runners.bench.pixels", str(__doc__))
    add_arguments(result, repeats=15)
    result.add_argument("--size", type=int, default=84, help="side of an image in pixels")
    result.add_argument("--preset", default="", metavar="NAME", help="preset of the agents")
    result.add_argument(
        "--frames", type=int, default=REPLAY_FRAMES, help="frames of 84 x 84 in the memory"
    )
    return result


def check_pixels(options: Any) -> None:
    """Check the arguments that this benchmark has alone.

    Raises:
        UserError: one line.
    """
    if options.frames < 1_000:
        raise UserError(f"--frames {options.frames}: at least 1000")
    if not 16 <= options.size <= 1024:
        raise UserError(f"--size {options.size}: from 16 to 1024")
    for name in options.algos if options.preset else ():
        presets = algos.versions(algos.load(name))["pixels"].presets
        if options.preset not in presets:
            valid, hint = ", ".join(presets), nearest(options.preset, presets)
            raise UserError(f"--preset {options.preset}: presets of {name} are {valid}{hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print each table when it is ready, and write the numbers if asked to."""
    options = parser().parse_args(argv)
    check_arguments(options, "pixels")
    check_pixels(options)
    setup_process()
    device = torch.device(options.device)
    machine = machine_facts(device)
    print(f"{machine['name']}, torch {torch.__version__}, one thread")

    environments = [measure_environment(task, options.repeats) for task in TASKS]
    print(f"\nEnvironments\n{environment_table(environments)}")
    replays = measure_replay(options.repeats, options.frames)
    print(f"\nMemory of 84 x 84 frames, stacks of {FRAMES}, 3-step\n{replay_table(replays)}")
    agents = []
    for name in options.algos:
        agents.append(
            measure_agent(
                name, options.size, options.repeats, device, machine["gflops"], options.preset
            )
        )
        torch.cuda.empty_cache()
    print(f"\nUpdates\n{agent_table(agents)}")
    tables: dict[str, Sequence[Any]] = {
        "environments": environments,
        "replays": replays,
        "agents": agents,
    }
    write_record(options.json, machine, tables)
    return EXIT_OK


if __name__ == "__main__":
    run_main(main)
