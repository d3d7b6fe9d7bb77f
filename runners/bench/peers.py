"""The same methods in other libraries, trained in turns with ours."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

import envs
from runners.bench.loop import training_loop
from runners.bench.timing import BATCH, timed

SB3_TASK, SB3_STEPS, SB3_WARM_UP = "gym/HalfCheetah-v5", 200, 200
SB3_ALGOS = ("sac", "td3")


@dataclass(frozen=True)
class AgainstSB3:
    """An algorithm here and in Stable-Baselines3, trained in turns, without evaluation."""

    algo: str
    task: str
    ours: float  # median steps per second
    theirs: float
    ratio: float
    version: str  # of Stable-Baselines3


def sb3_agent(algo: str, task: str, device: str) -> Any:
    """Stable-Baselines3's agent with the same sizes: one update of 256 per step, 256-256."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.noise import NormalActionNoise

    env = envs.make(task, seed=0)
    options: dict[str, Any] = {"batch_size": BATCH, "policy_kwargs": {"net_arch": [256, 256]}}
    options |= {"train_freq": 1, "gradient_steps": 1, "learning_starts": SB3_WARM_UP // 2}
    if algo == "td3":
        still = np.zeros(envs.task(task).action_dim)
        options["action_noise"] = NormalActionNoise(still, still + 0.1)
    return getattr(sb3, algo.upper())("MlpPolicy", env, device=device, seed=0, **options)


def against_sb3(
    algo: str, repeats: int, device: str, task: str = SB3_TASK, steps: int = SB3_STEPS
) -> AgainstSB3:
    """Train both agents in turns on the same task.

    After the random steps of both, `steps` of each are timed `repeats` times.
    """
    theirs = sb3_agent(algo, task, device)
    with training_loop(algo, task, device, SB3_WARM_UP // 2, 1) as ours:

        def run_ours(count: int = steps) -> None:
            for _ in range(count):
                ours.train_step()

        def run_theirs(count: int = steps) -> None:
            theirs.learn(count, reset_num_timesteps=False)

        calls = (run_ours, run_theirs)
        for call in calls:
            call(SB3_WARM_UP)
        place = torch.device(device)
        turns = [[timed(call, 1, place) for call in calls] for _ in range(repeats)]
    theirs.get_env().close()
    mine, other = (steps / median(column) for column in zip(*turns, strict=True))
    version = importlib.metadata.version("stable-baselines3")
    return AgainstSB3(algo, task, mine, other, mine / other, version)


def describe(sb3: AgainstSB3) -> str:
    """Return a comparison with Stable-Baselines3 in one line."""
    return (
        f"{sb3.algo} on {sb3.task}, training alone: {sb3.ours:.0f} steps/s here, "
        f"{sb3.theirs:.0f} in Stable-Baselines3 {sb3.version}, ratio {sb3.ratio:.2f}"
    )
