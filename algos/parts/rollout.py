"""Memory of an on-policy method: the steps since the last learning, and the sample behind each.

A Gaussian policy over the whole line draws a sample, and the environment gets it clamped to
[-1, 1]; log-probabilities are of the sample itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class RolloutSteps(NamedTuple):
    """A full rollout in order of time; `[R, T, S]`, `[R, T, A]` and `[R, T]`.

    Attributes:
        obs: normalised, as it was acted on.
        action: before clamping.
        next_obs: normalised, what followed in the same episode.
        reward: normalised.
        not_terminal: 0 where nothing follows, else 1.
        not_ended: 0 where the episode ended, for whatever reason, else 1.
    """

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor
    not_terminal: Tensor
    not_ended: Tensor


class Rollout:
    """The steps since the last learning, on the host until they are taken.

    Args:
        replicas: R.
        obs_dim: S.
        action_dim: A.
        length: T, steps of a full rollout.
    """

    def __init__(self, replicas: int, obs_dim: int, action_dim: int, length: int) -> None:
        self.widths = (obs_dim, action_dim, obs_dim, 1, 1, 1)
        self.rows = np.zeros((replicas, length, sum(self.widths)), np.float32)
        self.filled = 0

    @property
    def full(self) -> bool:
        """Whether there is a whole rollout to learn from."""
        return self.filled == self.rows.shape[1]

    def add(self, *columns: Array) -> None:
        """Store one step of every replica, columns in the order of `RolloutSteps`.

        A full rollout that nobody took is dropped: its policy is not the present one.
        """
        if self.full:
            self.filled = 0
        replicas = self.rows.shape[0]
        self.rows[:, self.filled] = np.concatenate(
            [column.reshape(replicas, -1) for column in columns], axis=1
        )
        self.filled += 1

    def take(self, device: torch.device) -> RolloutSteps:
        """Return the whole rollout on `device`; the next `add` begins another."""
        self.filled = 0
        rows = torch.tensor(self.rows, device=device)
        obs, action, next_obs, *flat = rows.split(self.widths, dim=-1)
        return RolloutSteps(obs, action, next_obs, *(column[..., 0] for column in flat))

    def state_dict(self) -> dict[str, Any]:
        """Return all rows, so that their size never changes, and how many are filled."""
        return {"rows": torch.from_numpy(self.rows), "filled": self.filled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.rows[...] = state["rows"].numpy()
        self.filled = int(state["filled"])


class DrawnAction:
    """The policy's last sample, which the environment got clamped.

    It is made and read within one environment step, between which no state is taken, so it is
    no part of the agent's state.
    """

    def __init__(self) -> None:
        self.sample: Array | None = None

    def keep(self, sample: Tensor) -> None:
        """Remember the sample `[R, N, A]` of one call of the policy."""
        self.sample = sample.to("cpu", copy=True).numpy()

    def of(self, action: Array) -> Array:
        """Return each replica's last sample if its `action` is what became of it, else `action`.

        Args:
            action: what the environment got, `[R, A]`.
        """
        if self.sample is None or self.sample.shape[1] != 1:
            return action
        sample = self.sample[:, 0]
        became = (sample.clip(-1.0, 1.0) == action).all(-1, keepdims=True)
        return np.where(became, sample, action)
