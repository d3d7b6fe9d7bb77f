"""Environments whose velocities are hidden: a mask and a history around a fully observed one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from numpy.typing import NDArray

from envs.parts import registry
from envs.parts.pixels import FrameStack

Vector = NDArray[np.float64]
VectorEnv = gymnasium.Env[Vector, NDArray[np.floating[Any]]]


def make_masked(full: str, hidden: tuple[int, int], history: int, **options: Any) -> VectorEnv:
    """Build a partially observed environment.

    Args:
        full: task id of the fully observed environment, which has vector observations `[n]`.
        hidden: first hidden component and the one after the last.
        history: masked observations to show together.
        **options: passed on to the fully observed environment.

    Returns:
        An environment with observations `[history * (n - hidden)]`; rewards and ends are those of
        the fully observed one.
    """
    env = registry.make(full, **options)
    assert isinstance(env.observation_space, spaces.Box)
    low, high = env.observation_space.low, env.observation_space.high
    seen = np.delete(np.arange(low.size), slice(*hidden))
    space = spaces.Box(low[seen], high[seen], dtype=np.float64)
    return FrameStack(TransformObservation(env, lambda obs: obs[seen], space), history)
