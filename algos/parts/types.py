"""Define what agents and memories exchange with the runner: spaces and transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Spaces:
    """What an agent may know of its task before the first step.

    Attributes:
        obs_shape: shape of one observation: `(n,)`, or `(3 * frames, H, W)` of pixels.
        action_dim: number of action coordinates; every one lies in [-1, 1].
    """

    obs_shape: tuple[int, ...]
    action_dim: int

    @property
    def pixels(self) -> bool:
        """Whether observations are images."""
        return len(self.obs_shape) == 3


@dataclass(frozen=True)
class Transition:
    """One environment step of every replica, as the runner hands it over.

    Attributes:
        obs: observation before the step, `[R, *obs_shape]` float32, uint8 if pixels.
        action: the agent's action, `[R, action_dim]` float32 in [-1, 1].
        reward: `[R]` float32, unscaled.
        next_obs: observation after the step (never that of a new episode), like `obs`.
        terminated: `[R]` bool, the episode ended by the task's rules: nothing follows.
        truncated: `[R]` bool, the episode was cut by a time limit: values bootstrap.
    """

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    terminated: Array
    truncated: Array
