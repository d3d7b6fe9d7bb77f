"""Replay transitions uniformly, with a replica axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from algos.parts.blocks import Ring
from algos.parts.rng import ReplicaRng
from algos.parts.types import Spaces, Transition


class Batch(NamedTuple):
    """Transitions drawn from memory.

    Attributes:
        obs: `[R, B, obs_dim]`, or uint8 images.
        action: `[R, B, action_dim]` in [-1, 1].
        reward: `[R, B, 1]`, of n steps if the memory is one of n-step returns.
        next_obs: like `obs`, n steps later.
        not_terminal: `[R, B, 1]`, 0 where nothing follows and elsewhere discount^(n - 1),
            which is 1 for single steps.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    not_terminal: Tensor


class Replay:
    """A ring of packed rows (obs, action, reward, next_obs, not_terminal).

    One row per transition makes a batch one gather instead of five.

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
        self.ring = Ring(replicas, capacity, sum(self.widths), device)
        self.capacity = capacity
        self.time_limit_terminal = time_limit_terminal
        # `len(self)` for a captured update, in which a number of Python never changes.
        self.stored = None if device.type == "cpu" else torch.tensor(0, device=device)

    def __len__(self) -> int:
        """Transitions stored per replica."""
        return len(self.ring)

    @property
    def rows(self) -> Tensor:
        """The whole ring, `[R, capacity, width]`."""
        return self.ring.rows

    def add(self, step: Transition) -> None:
        """Store one transition of every replica."""
        replicas = self.rows.shape[0]
        ends = step.terminated | step.truncated if self.time_limit_terminal else step.terminated
        parts = (step.obs, step.action, step.reward, step.next_obs, ~ends)
        self.ring.append(
            np.concatenate([np.asarray(p, np.float32).reshape(replicas, -1) for p in parts], axis=1)
        )
        self._count()

    def _count(self) -> None:
        if self.stored is not None:
            self.stored.fill_(len(self))

    def last_slot(self) -> Tensor:
        """Slot of the newest step, `[R]`."""
        slot = (self.ring.total - 1) % self.capacity
        return torch.full((self.rows.shape[0],), slot, device=self.rows.device)

    def slots(self, index: Tensor) -> Tensor:
        """Slots, from 0 to `capacity` - 1, of drawn steps `[R, B]`."""
        return index

    def draw(self, batch_size: int, rng: ReplicaRng) -> Tensor:
        """Return steps `[R, B]`, uniform with replacement."""
        if self.stored is None:
            return rng.integers(len(self), batch_size)
        return rng.integers(1 << 62, batch_size) % self.stored

    def gather(self, index: Tensor) -> Tensor:
        """Rows `[R, B, width]` of steps `[R, B]`."""
        replicas, _, width = self.rows.shape
        if replicas > 1:
            start = torch.arange(replicas, device=self.rows.device) * self.capacity
            index = index + start[:, None]
        rows = self.rows.view(-1, width).index_select(0, index.reshape(-1))
        return rows.view(replicas, -1, width)

    def observations(self, index: Tensor) -> Tensor:
        """Observations `[R, B, obs_dim]` of steps `[R, B]`."""
        return self.gather(index)[..., : self.widths[0]]

    def sample(self, batch_size: int, rng: ReplicaRng, count: int = 1) -> list[Batch]:
        """Draw `count` batches, uniformly and with replacement."""
        rows = self.gather(self.draw(count * batch_size, rng))
        batches = rows.unflatten(1, (count, batch_size)).unbind(1)
        return [Batch(*batch.split(self.widths, dim=-1)) for batch in batches]

    def state_dict(self) -> dict[str, Any]:
        """Rows as blocks that a checkpoint writes once, but for the newest."""
        return self.ring.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ring exactly."""
        self.ring.load_state_dict(state)
        self._count()
