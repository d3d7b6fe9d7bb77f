"""Normalisers: numbers in units of their own mean and standard deviation.

All of them compute (x - center) / scale, and differ in the data that `center` and `scale`
describe: one step of every replica at a time (PPO), batches of rows (PolyGRAD), or the recent
batches of something that drifts (PolyGRAD's latents of frames). Sums are float64.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Values = TypeVar("Values", Tensor, Array)


class Normaliser(Generic[Values]):
    """Rows in units of `scale`, counted from `center`.

    Args:
        center: mean of each column, `[..., width]`.
        scale: standard deviation of each column, like `center`.
    """

    def __init__(self, center: Values, scale: Values) -> None:
        self.center: Values = center
        self.scale: Values = scale

    def normalise(self, rows: Values) -> Values:
        """(rows - center) / scale for whole rows or their first columns, `[..., <= width]`."""
        columns = slice(rows.shape[-1])
        return (rows - self.center[..., columns]) / self.scale[..., columns]

    def unnormalise(self, rows: Values) -> Values:
        """Invert `normalise`."""
        columns = slice(rows.shape[-1])
        return rows * self.scale[..., columns] + self.center[..., columns]


class BatchMoments(Normaliser[Tensor]):
    """Mean and standard deviation of all rows so far, updated by a batch of rows at a time.

    The update is that of Chan, Golub and LeVeque 1983: its cost is that of the batch, and it
    agrees with the two-pass formula over all rows.

    Args:
        width: columns of a row.
        device: where the tables live.
    """

    EPSILON = 1e-6  # keeps a constant column finite: it becomes 0, and comes back as it was

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.mean)  # sum of squared deviations
        self._publish()

    def add(self, rows: Tensor) -> None:
        """Take in `rows` `[N, width]`."""
        rows, size = rows.double(), len(rows)
        total = self.count + size
        mean = rows.mean(0)
        shift = mean - self.mean
        self.square += (rows - mean).square().sum(0) + shift.square() * (self.count * size / total)
        self.mean += shift * (size / total)
        self.count = total
        self._publish()

    def _publish(self) -> None:
        self.center = self.mean.float()
        self.scale = torch.ones_like(self.center)  # until there are data
        if self.count:
            self.scale = (self.square / self.count).sqrt().float() + self.EPSILON

    def state_dict(self) -> dict[str, Any]:
        """Return the count and both sums."""
        return {"count": self.count, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the count and both sums."""
        self.count = int(state["count"])
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self._publish()


class DriftingMoments(Normaliser[Tensor]):
    """Mean and standard deviation of latents that drift, as exponential averages over batches.

    A coordinate that its KL has switched off has means that hardly vary. Its scale is at least
    `FLOOR`, or what is left in it would be stretched to the size of the others.

    Args:
        width: coordinates of a latent.
        rate: weight of a new batch.
        device: where the tables live.
    """

    FLOOR = 0.1  # the prior's standard deviation is 1

    def __init__(self, width: int, rate: float, device: torch.device) -> None:
        super().__init__(torch.zeros(width, device=device), torch.ones(width, device=device))
        self.rate = rate
        # Of values and of their squares; they begin at 0, so `weight` is what they lack of 1.
        self.average = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.weight = 0.0

    def add(self, latents: Tensor) -> None:
        """Take in `latents` `[N, width]`."""
        latents = latents.double()
        moments = torch.stack([latents.mean(0), latents.square().mean(0)])
        self.average.lerp_(moments, self.rate)
        self.weight += self.rate * (1.0 - self.weight)
        self._publish()

    def _publish(self) -> None:
        mean, square = self.average / self.weight
        self.center = mean.float()
        variance = (square - mean.square()).clamp(min=self.FLOOR**2)
        self.scale = variance.sqrt().float()

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and their weight."""
        return {"average": self.average, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages and their weight."""
        self.average.copy_(state["average"])
        self.weight = float(state["weight"])
        if self.weight:
            self._publish()


class StepMoments(Normaliser[Array]):
    """Running mean and standard deviation of every replica's own samples, one at a time.

    They start as in Gymnasium, at mean 0 and variance 1 with the weight of 1e-4 samples, and
    follow its order of operations. `center` and `scale` are `[R, 1, size]`.

    Args:
        replicas: R.
        size: numbers of a sample.
    """

    EPSILON = 1e-8  # added to the variance (Gymnasium)

    def __init__(self, replicas: int, size: int) -> None:
        self.mean: Array = np.zeros((replicas, size))
        self.var: Array = np.ones((replicas, size))
        self.count = 1e-4
        self._publish()

    def add(self, x: Array) -> None:
        """Take in one sample per replica, `[R, size]`."""
        total = self.count + 1.0
        gap = x - self.mean
        self.mean = self.mean + gap / total
        self.var = (self.var + gap**2 / total) * (self.count / total)
        self.count = total
        self._publish()

    def _publish(self) -> None:
        self.center, self.scale = self.mean[:, None], np.sqrt(self.var + self.EPSILON)[:, None]

    def state_dict(self) -> dict[str, Any]:
        """Return both moments and the count."""
        return {"mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both moments and the count."""
        self.mean, self.var, self.count = state["mean"], state["var"], state["count"]
        self._publish()


class TransitionNormaliser:
    """Gymnasium's NormalizeObservation and NormalizeReward, inside the agent.

    Args:
        replicas: R.
        obs_dim: S.
        discount: of the return whose standard deviation is the unit of rewards.
        observations: whether observations are normalised.
        rewards: whether rewards are.
    """

    LIMIT = 10.0

    def __init__(
        self, replicas: int, obs_dim: int, discount: float, observations: bool, rewards: bool
    ) -> None:
        self.discount = discount
        self.normalise_observations, self.normalise_rewards = observations, rewards
        self.observations = StepMoments(replicas, obs_dim)
        self.returns = StepMoments(replicas, 1)
        self.running: Array = np.zeros((replicas, 1))  # discounted return of the present episode

    def add(self, obs: Array, reward: Array, ends: Array) -> None:
        """Take in one step: `obs` `[R, S]`, `reward` and `ends` `[R]`."""
        self.observations.add(obs)
        self.running = self.discount * self.running + reward[:, None]
        self.returns.add(self.running)
        self.running = self.running * ~ends[:, None]

    def obs(self, obs: Array) -> Array:
        """Return normalised observations, float32, of `[R, N, S]`."""
        if not self.normalise_observations:
            return obs
        return self.observations.normalise(obs).clip(-self.LIMIT, self.LIMIT).astype(np.float32)

    def reward(self, reward: Array) -> Array:
        """Return rewards `[R]` in units of the return's standard deviation; their mean stays."""
        if not self.normalise_rewards:
            return reward
        return (reward / self.returns.scale[:, 0, 0]).clip(-self.LIMIT, self.LIMIT)

    def state_dict(self) -> dict[str, Any]:
        """Return both moments and the running return."""
        parts = {"observations": self.observations, "returns": self.returns}
        return {name: part.state_dict() for name, part in parts.items()} | {"running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.observations.load_state_dict(state["observations"])
        self.returns.load_state_dict(state["returns"])
        self.running = state["running"]
