"""Remember whole episodes, and draw windows of consecutive steps from them.

Windows and padding follow PolyGRAD's code (marc-rigter/polygrad-world-models 62d0054,
`datasets/`). One step is a packed row (obs, reward, terminal, action), so that a window
of H steps is one gather. An episode is drawn from when it is over, never before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.parts.blocks import Ring
from algos.parts.normaliser import BatchMoments
from algos.parts.rng import ReplicaRng
from algos.parts.types import Array


class EpisodeMemory:
    """A ring of steps of one replica, with an index of the windows that may be drawn.

    A window may begin at steps 0 to min(L - 1, P - H) - 1 of an episode of L steps, and
    all such steps of all episodes are equally likely. P is `MAX_PATH_LENGTH`, but L for
    an episode cut by a time limit: its windows then end inside it. A window that runs
    past the end of a terminated episode repeats the last observation and action, with
    reward 0 and terminal 1.

    The ring overwrites its oldest steps; with a step goes the window that begins there.
    `moments` still count steps that were overwritten.

    Args:
        obs_dim: S.
        action_dim: A.
        capacity: steps kept.
        horizon: H, steps of a window.
        device: where the rows live.
        zero_padding: let windows run past a time limit as well, P as for other episodes,
            and fill them with zeros (a fault of the code for tasks shorter than P).
    """

    MAX_PATH_LENGTH = 1000  # P, the longest episode that the code knows

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        capacity: int,
        horizon: int,
        device: torch.device,
        zero_padding: bool = False,
    ) -> None:
        self.obs_dim, self.horizon, self.capacity = obs_dim, horizon, capacity
        self.zero_padding = zero_padding
        self.ring = Ring(1, capacity, obs_dim + 2 + action_dim, device)
        self.rows = self.ring.rows[0]
        self.moments = BatchMoments(self.rows.shape[1], device)
        self.episode = 0  # the step that the running episode began at
        # Window k of those that can be drawn begins at step `starts[k % capacity]` and its
        # episode ends with step `ends[k % capacity]`, for k from `first` to `last` - 1.
        self.starts = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.ends = torch.zeros_like(self.starts)
        self.first = self.last = 0
        # Whether a window begins in a slot of the ring; on the host, where `add` reads it.
        self.begins: NDArray[np.bool_] = np.zeros(capacity, bool)

    @classmethod
    def of(cls, config: Any, obs_dim: int, action_dim: int, device: torch.device) -> EpisodeMemory:
        """Make the memory that the options of PolyGRAD say."""
        sizes = (obs_dim, action_dim, config.replay_capacity, config.horizon)
        return cls(*sizes, device, config.truncated_padding == "zeros")

    def __len__(self) -> int:
        """Windows that can be drawn."""
        return self.last - self.first

    @property
    def total(self) -> int:
        """Steps ever added."""
        return self.ring.total

    def add(
        self,
        obs: Array,
        action: Array,
        reward: float,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Store one step; the last one of an episode opens its windows.

        Args:
            obs: `[S]`.
            action: `[A]`.
            reward: of this step.
            terminated: nothing follows.
            truncated: the episode was cut by a time limit.
        """
        slot = self.total % self.capacity
        if self.begins[slot]:
            self.begins[slot] = False
            self.first += 1
        row = np.concatenate([obs, [reward, terminated], action]).astype(np.float32)
        self.ring.append(row[None])
        if terminated or truncated:
            self._end_episode(terminated)

    def _end_episode(self, terminated: bool) -> None:
        length = self.total - self.episode
        inside = not (terminated or self.zero_padding)
        limit = length if inside else self.MAX_PATH_LENGTH
        stop = self.episode + min(length - 1, limit - self.horizon)
        stored = max(self.episode, self.total - self.capacity)
        self._open(torch.arange(stored, max(stored, stop)), self.total - 1)
        whole = torch.arange(stored, self.total, device=self.rows.device)
        self.moments.add(self.rows[whole % self.capacity])
        self.episode = self.total

    def _open(self, starts: Tensor, end: int | Tensor) -> None:
        """Make windows at `starts` drawable, all of episodes that end with step `end`."""
        slots = torch.arange(self.last, self.last + len(starts)) % self.capacity
        device = self.starts.device
        self.starts[slots.to(device)] = starts.to(device)
        self.ends[slots.to(device)] = torch.as_tensor(end, device=device)
        self.begins[(starts % self.capacity).cpu().numpy()] = True
        self.last += len(starts)

    def sample(self, count: int, rng: ReplicaRng) -> Tensor:
        """Draw `count` windows uniformly, raw rows `[1, count, H, S + 2 + A]`."""
        step, past = self.windows(count, rng)
        return end_rows(self.rows[step % self.capacity], past, self.obs_dim)

    def start_states(self, count: int, rng: ReplicaRng) -> Tensor:
        """Return the first observations of `count` windows drawn uniformly, `[1, count, S]`."""
        return self.rows[self.start_steps(count, rng) % self.capacity][..., : self.obs_dim]

    def windows(self, count: int, rng: ReplicaRng) -> tuple[Tensor, Tensor]:
        """Draw `count` windows uniformly as numbers of steps.

        Returns:
            Steps `[1, count, H]`, the last one of the episode for all after it, and which
            are after it.
        """
        window = self._draw(count, rng)
        start, end = self.starts[window].unsqueeze(-1), self.ends[window].unsqueeze(-1)
        step = start + torch.arange(self.horizon, device=start.device)
        return torch.minimum(step, end), step > end

    def start_steps(self, count: int, rng: ReplicaRng) -> Tensor:
        """Return the first steps `[1, count]` of `count` windows drawn uniformly."""
        return self.starts[self._draw(count, rng)]

    def _draw(self, count: int, rng: ReplicaRng) -> Tensor:
        return (self.first + rng.integers(len(self), count)) % self.capacity

    def state_dict(self) -> dict[str, Any]:
        """Return rows, windows that can be drawn, moments, and where the running episode began.

        The windows of one episode begin at consecutive steps, so they are told by the first of
        them, their number, and the last step of the episode: `[E]` each for E episodes.
        """
        window = torch.arange(self.first, self.last, device=self.starts.device) % self.capacity
        ends, counts = torch.unique_consecutive(self.ends[window], return_counts=True)
        firsts = self.starts[window[counts.cumsum(0) - counts]]
        return {
            "rows": self.ring.state_dict(),
            "windows": {"firsts": firsts, "counts": counts, "ends": ends},
            "episode": self.episode,
            "moments": self.moments.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory; what can be drawn keeps its order."""
        self.ring.load_state_dict(state["rows"])
        self.episode = int(state["episode"])
        self.moments.load_state_dict(state["moments"])
        self.first = self.last = 0
        self.begins[:] = False
        firsts, counts, ends = (state["windows"][k].cpu() for k in ("firsts", "counts", "ends"))
        # Window k of all is number k - (windows of earlier episodes) of its own.
        offset = firsts - (counts.cumsum(0) - counts)
        starts = torch.arange(int(counts.sum())) + offset.repeat_interleave(counts)
        self._open(starts, ends.repeat_interleave(counts))


def end_rows(rows: Tensor, past: Tensor, obs_dim: int) -> Tensor:
    """Fill windows that run past the end of their episode.

    Past the end stands the last row again: as it is where the task ended, but for the
    reward, and times its terminal flag, 0, where a time limit cut the episode.

    Args:
        rows: raw rows `[1, B, H, S + 2 + A]`, past the end the last of the episode.
        past: whether a row is past the end, `[1, B, H]`.
        obs_dim: S.
    """
    past, reward, terminal = past.unsqueeze(-1), obs_dim, obs_dim + 1
    rows = rows * torch.where(past, rows[..., terminal, None], 1.0)
    rows[..., reward, None] *= ~past
    return rows
