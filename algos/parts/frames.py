"""Replay images: each frame is stored once, and stacked when it is sampled.

An observation is a stack of the last few frames, so consecutive observations share all but
one. The memory keeps the newest frame of each and, beside it, what was done there: the
action, its reward, and whether the task ended. As in DrQ-v2 (facebookresearch/drqv2 c0c650b,
`replay_buffer.py`) the first frame of an episode stands in for those before it, and the
returns are of n steps:

    reward = sum_{k<n} discount^k r_{t+k},  bootstrapped at o_{t+n} by discount^n

Windows of n steps that a time limit would cut are not drawn; an end of the task makes them
shorter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from algos.parts.blocks import Rows
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from algos.parts.types import Array, Spaces, Transition
from algos.parts.vision import FRAME

FACTS = ("action", "reward", "ends", "age", "starts")  # arrays in step with the frames


class FrameReplay:
    """Frames and steps of R replicas.

    Args:
        spaces: observations are uint8 stacks `[3 * frames, H, W]`, oldest frame first.
        replicas: R.
        capacity: frames kept per replica.
        device: where batches go; the frames stay in main memory or on disk.
        discount: of the n-step returns.
        n_step: n.
        time_limit_terminal: take a time limit for the end of the task.
    """

    def __init__(
        self,
        spaces: Spaces,
        replicas: int,
        capacity: int,
        device: torch.device,
        discount: float = 0.99,
        n_step: int = 1,
        time_limit_terminal: bool = False,
    ) -> None:
        self.capacity, self.device = capacity, device
        self.parts = [
            _Frames(spaces, capacity, discount, n_step, time_limit_terminal)
            for _ in range(replicas)
        ]

    def __len__(self) -> int:
        """Return steps that can be drawn, of the replica that has fewest."""
        return min(part.drawable for part in self.parts)

    def add(self, step: Transition) -> None:
        """Store one transition of every replica."""
        for r, part in enumerate(self.parts):
            part.add(
                step.obs[r],
                step.action[r],
                float(step.reward[r]),
                step.next_obs[r],
                bool(step.terminated[r]),
                bool(step.truncated[r]),
            )

    def last_slot(self) -> Tensor:
        """Slot of the newest step, `[R]`."""
        return torch.tensor([part.slot(part.step) for part in self.parts])

    def slots(self, index: Tensor) -> Tensor:
        """Slots, from 0 to `capacity` - 1, of steps `[R, B]`; each step has one of its own."""
        return index % self.capacity

    def draw(self, batch_size: int, rng: ReplicaRng) -> Tensor:
        """Numbers of steps `[R, B]` on the host, uniform with replacement."""
        # The count of drawable steps is one of each replica's own.
        draws = rng.integers(1 << 62, batch_size).cpu().numpy()
        return torch.from_numpy(
            np.stack([part.pick(d) for part, d in zip(self.parts, draws, strict=True)])
        )

    def batch(self, index: Tensor) -> Batch:
        """Return the n-step transitions that begin at steps `[R, B]`; images are uint8."""
        rows = [part.transitions(k) for part, k in zip(self.parts, index.numpy(), strict=True)]
        return Batch(*(self._stack(column) for column in zip(*rows, strict=True)))

    def observations(self, index: Tensor, offset: int = 0) -> Tensor:
        """Stacks seen `offset` steps after steps `[R, B]` of the same episode, uint8."""
        return self._stack(
            [part.stacks(k + offset) for part, k in zip(self.parts, index.numpy(), strict=True)]
        )

    def frames(self, index: Tensor, offset: int = 0) -> Tensor:
        """Single frames `[R, B, 3, H, W]` `offset` steps after steps `[R, B]`, uint8."""
        pairs = zip(self.parts, index.numpy(), strict=True)
        return self._stack([part.rows.gather(numbers + offset) for part, numbers in pairs])

    def _stack(self, arrays: list[Array] | tuple[Array, ...]) -> Tensor:
        joined = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
        return torch.from_numpy(joined).to(self.device)

    def sample(self, batch_size: int, rng: ReplicaRng, count: int = 1) -> list[Batch]:
        """Draw `count` batches, uniformly and with replacement."""
        return [self.batch(self.draw(batch_size, rng)) for _ in range(count)]

    def state_dict(self) -> dict[str, Any]:
        """Frames as blocks that a checkpoint writes once, and all the rest."""
        return {str(r): part.state_dict() for r, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory exactly."""
        for r, part in enumerate(self.parts):
            part.load_state_dict(state[str(r)])


class _Frames:
    """The memory of one replica; steps and frames share their numbers.

    Step k leads from frame k to frame k + 1. The last frame of an episode has no step.
    """

    def __init__(
        self, spaces: Spaces, capacity: int, discount: float, n_step: int, limit_ends: bool
    ) -> None:
        channels, height, width = spaces.obs_shape
        self.stack = channels // FRAME
        self.capacity, self.discount, self.n_step = capacity, discount, n_step
        self.limit_ends = limit_ends
        self.rows = Rows((FRAME, height, width), np.uint8, capacity)
        self.action = np.zeros((capacity, spaces.action_dim), np.float32)
        self.reward = np.zeros(capacity, np.float32)
        self.ends = np.zeros(capacity, bool)  # the task ended with this step
        self.age = np.zeros(capacity, np.int64)  # steps since the episode's first frame
        # Steps from which a window can be drawn, in order: a queue in a ring.
        self.starts = np.zeros(capacity, np.int64)
        self.head = self.count = 0
        self.between = True  # no episode is under way

    @property
    def step(self) -> int:
        """Number of the newest step."""
        return self.rows.total - 2

    @property
    def drawable(self) -> int:
        """Number of steps that can be drawn."""
        return self.count - self.head

    def slot(self, number: int | Array) -> Any:
        """Where the facts of a step or frame are."""
        return number % self.capacity

    def add(
        self, obs: Array, action: Array, reward: float, next_obs: Array, ended: bool, cut: bool
    ) -> None:
        """Store a step and the frame that it leads to."""
        if self.between:
            self._push(obs, 0)
        step = self.rows.total - 1
        slot, age = self.slot(step), int(self.age[self.slot(step)])
        ended = ended or (cut and self.limit_ends)
        self.action[slot], self.reward[slot], self.ends[slot] = action, reward, ended
        self._push(next_obs, age + 1)
        self.between = ended or cut
        # A window that ends with this step; if the task ended, all shorter ones too.
        last = step if ended else step - self.n_step + 1
        for start in range(max(step - self.n_step + 1, step - age), last + 1):
            self.starts[self.slot(self.count)] = start
            self.count += 1

    def _push(self, stack: Array, age: int) -> None:
        self.age[self.slot(self.rows.total)] = age
        self.rows.append(stack[-FRAME:])
        oldest = self.rows.total - self.capacity
        while self.head < self.count and self._first_frame(self.head) < oldest:
            self.head += 1

    def _first_frame(self, place: int) -> int:
        """Return the oldest frame that the window at this place of the queue reads."""
        start = int(self.starts[self.slot(place)])
        return start - min(int(self.age[self.slot(start)]), self.stack - 1)

    def pick(self, draws: Array) -> Array:
        """Return steps for uniform integers far larger than their number."""
        return self.starts[self.slot(self.head + draws % self.drawable)]

    def stacks(self, number: Array) -> Array:
        """Observations `[B, 3 * stack, H, W]` at frames `[B]`."""
        back = np.arange(self.stack - 1, -1, -1)
        age = self.age[self.slot(number)]
        frames = self.rows.gather(number[:, None] - np.minimum(back, age[:, None]))
        return frames.reshape(len(number), -1, *frames.shape[-2:])

    def transitions(self, start: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Fields of a `Batch` for windows that begin at steps `[B]`."""
        total = np.zeros(len(start), np.float32)
        weight = np.ones(len(start), np.float32)  # discount^k, 0 beyond the end of the task
        last = start.copy()
        for k in range(self.n_step):
            alive = weight > 0.0
            slot = self.slot(np.where(alive, start + k, start))
            total += weight * self.reward[slot]
            last = np.where(alive, start + k, last)
            more = alive & ~self.ends[slot]
            weight = np.where(more, weight * np.float32(self.discount), np.float32(0.0))
        # What follows weighs discount^n, of which the agents' targets multiply in one factor.
        follows = weight / np.float32(self.discount) if self.discount else weight
        return (
            self.stacks(start),
            self.action[self.slot(start)],
            total[:, None],
            self.stacks(last + 1),
            follows[:, None],
        )

    def state_dict(self) -> dict[str, Any]:
        """Frames and facts."""
        used = min(self.rows.total, self.capacity)
        facts = {name: torch.from_numpy(getattr(self, name)[:used].copy()) for name in FACTS}
        numbers = {"head": self.head, "count": self.count, "between": self.between}
        return {"frames": self.rows.state_dict(), **facts, **numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.rows.load_state_dict(state["frames"])
        for name in FACTS:
            values = state[name].numpy()
            getattr(self, name)[: len(values)] = values
        self.head, self.count = int(state["head"]), int(state["count"])
        self.between = bool(state["between"])
