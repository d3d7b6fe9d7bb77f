"""Gaussian policies that are not squashed, and whose std does not depend on the state.

PPO's has two tanh layers (CleanRL's `ppo_continuous_action.py`); PolyGRAD's has two layers with
LayerNorm and ELU and a mean in (-1, 1) (marc-rigter/polygrad-world-models 62d0054).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.layers import MLP, Layers, StackedLinear, StackedNorm, orthogonal_init
from algos.parts.rng import ReplicaRng


def set_gains(net: MLP, last: float) -> None:
    """Scale orthogonal layers: sqrt(2) before a tanh, `last` at the output (CleanRL)."""
    gains = [math.sqrt(2.0)] * (len(net.layers) - 1) + [last]
    with torch.no_grad():
        for index, gain in enumerate(gains):
            net.layers[index].weight.mul_(gain)


class TanhGaussianPolicy(nn.Module):
    """Gaussian whose mean is a tanh network and whose log std is a weight of its own.

    Args:
        rng: where initial weights come from.
        sizes: observation, hidden layers, action.
        dtype: arithmetic of the hidden layers.
    """

    def __init__(self, rng: ReplicaRng, sizes: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.net = MLP(rng, 1, sizes, "tanh", dtype, orthogonal_init)
        # Mean actions start near 0, so that the first samples spread evenly over the box.
        set_gains(self.net, last=0.01)
        replicas = len(rng.generators)
        self.log_std = nn.Parameter(torch.zeros(replicas, 1, sizes[-1], device=rng.device))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean `[R, B, A]` and the log std `[R, 1, A]`."""
        return self.net(obs), self.log_std

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return log pi(a|s) `[R, B]` of unclamped actions `[R, B, A]`."""
        z = (action - self.net(obs)) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy `[R]`, the same in every state."""
        return (self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum((1, 2))


class NormMLP(nn.Module):
    """Hidden layers of Linear -> LayerNorm -> ELU, then Linear: PolyGRAD's actor and critic."""

    EPS = 1e-3

    def __init__(self, rng: ReplicaRng, sizes: Sequence[int]) -> None:
        super().__init__()
        pairs = itertools.pairwise(sizes)
        self.layers = Layers(StackedLinear(rng, 1, i, o) for i, o in pairs)
        self.norms = Layers(StackedNorm(rng, size, self.EPS) for size in sizes[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[R, B, in]` to `[R, B, out]`; float32, as a policy step is 3e-5 per weight."""
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.elu(norm(layer(x)))
        return cast(Tensor, self.layers[-1](x))


class NormGaussianPolicy(nn.Module):
    """N(tanh(net(s)), std²) with std = exp(p) + `MIN_STD`, p a weight of its own.

    Args:
        rng: where initial weights come from.
        sizes: observation, hidden layers, action.
        initial_std: standard deviation at first.
    """

    MIN_STD = 0.1  # smallest standard deviation of the policy (PolyGRAD's code)

    def __init__(self, rng: ReplicaRng, sizes: Sequence[int], initial_std: float) -> None:
        super().__init__()
        self.net = NormMLP(rng, sizes)
        shape = (len(rng.generators), 1, sizes[-1])
        start = math.log(initial_std - self.MIN_STD)
        self.raw_std = nn.Parameter(torch.full(shape, start, device=rng.device))

    def forward(self, obs: Tensor) -> Tensor:
        """Return mean actions `[R, B, A]` of `obs` `[R, B, S]`."""
        return torch.tanh(self.net(obs))

    def std(self) -> Tensor:
        """Return the standard deviation `[R, 1, A]`."""
        return self.raw_std.exp() + self.MIN_STD

    def entropy(self) -> Tensor:
        """Return the entropy `[R]`, the same in every state."""
        return (self.std().log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum((1, 2))


def log_prob(action: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log density of independent Gaussians, summed over the last axis."""
    z = (action - mean) / std
    return (-0.5 * z.square() - std.log() - 0.5 * math.log(2.0 * math.pi)).sum(-1)
