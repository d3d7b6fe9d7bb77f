"""Uniform replay memory with a replica axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from algos.agent import Spaces, Transition
from algos.rng import ReplicaRng


class Batch(NamedTuple):
    """Transitions drawn from memory.

    Attributes:
        obs: `[R, B, obs_dim]`.
        action: `[R, B, action_dim]` in [-1, 1].
        reward: `[R, B, 1]`.
        next_obs: `[R, B, obs_dim]`.
        not_terminal: `[R, B, 1]`, 0 where nothing follows and 1 elsewhere.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    not_terminal: Tensor


class Replay:
    """A ring of packed rows (obs, action, reward, next_obs, not_terminal).

    One row per transition makes a batch one gather instead of five. Memory is taken
    from the machine as rows are written, not when the ring is made.

    Args:
        spaces: sizes of observation and action.
        replicas: R.
        capacity: transitions kept per replica.
        device: where the rows live.
        time_limit_terminal: store a time limit as the end of the task, as some
            released code does; the values of such states no longer bootstrap.
    """

    def __init__(
        self,
        spaces: Spaces,
        replicas: int,
        capacity: int,
        device: torch.device,
        time_limit_terminal: bool = False,
    ) -> None:
        obs_dim = int(np.prod(spaces.obs_shape))
        self.widths = [obs_dim, spaces.action_dim, 1, obs_dim, 1]
        self.rows = torch.zeros(replicas, capacity, sum(self.widths), device=device)
        self.capacity = capacity
        self.time_limit_terminal = time_limit_terminal
        self.total = 0

    def __len__(self) -> int:
        """Transitions stored per replica."""
        return min(self.total, self.capacity)

    def add(self, step: Transition) -> None:
        """Store one transition of every replica."""
        replicas = self.rows.shape[0]
        ends = step.terminated | step.truncated if self.time_limit_terminal else step.terminated
        parts = (step.obs, step.action, step.reward, step.next_obs, ~ends)
        row = np.concatenate(
            [np.asarray(p, np.float32).reshape(replicas, -1) for p in parts], axis=1
        )
        self.rows[:, self.total % self.capacity] = torch.from_numpy(row).to(self.rows.device)
        self.total += 1

    def sample(self, batch_size: int, rng: ReplicaRng, count: int = 1) -> list[Batch]:
        """Draw `count` batches, uniformly and with replacement."""
        replicas, _, width = self.rows.shape
        index = rng.integers(len(self), count * batch_size)
        if replicas > 1:
            start = torch.arange(replicas, device=self.rows.device) * self.capacity
            index = index + start[:, None]
        rows = self.rows.view(-1, width).index_select(0, index.reshape(-1))
        batches = rows.view(replicas, count, batch_size, width).unbind(1)
        return [Batch(*batch.split(self.widths, dim=-1)) for batch in batches]

    def state_dict(self) -> dict[str, Any]:
        """Rows written so far and their number."""
        return {"rows": self.rows[:, : len(self)], "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ring exactly."""
        self.total = int(state["total"])
        self.rows[:, : len(self)] = state["rows"]
