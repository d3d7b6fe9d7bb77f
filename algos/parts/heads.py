"""Build the values and policies that several methods share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.layers import MLP, Initialiser, SampleMLP, uniform_init
from algos.parts.rng import ReplicaRng


class TwinCritic(nn.Module):
    """Two action values per replica, Q1 and Q2, each an MLP of (action, obs)."""

    def __init__(
        self,
        rng: ReplicaRng,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: str = "relu",
        dtype: torch.dtype = torch.float32,
        init: Initialiser = uniform_init,
    ) -> None:
        super().__init__()
        self.net = SampleMLP(rng, 2, action_dim, [obs_dim, *hidden, 1], activation, dtype, init)

    def forward(self, obs: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Return both values `[R, 2, B]` of `obs` `[R, B, S]` and `action` `[R, B, A]`."""
        return cast(Tensor, self.net(action, obs, frozen)).view(obs.shape[0], 2, -1)

    def minimum(self, obs: Tensor, actions: Tensor) -> Tensor:
        """min(Q1, Q2) `[R, B, K]` of K actions `[R, B, K, A]` per state, without gradients."""
        q = self.net.many(actions, self.net.condition(obs))
        return q.view(obs.shape[0], 2, *actions.shape[1:3]).amin(1)


class GaussianActor(nn.Module):
    """Tanh-squashed Gaussian policy, log std rescaled by tanh into [-5, 2]."""

    LOG_STD_LOW, LOG_STD_HIGH = -5.0, 2.0

    def __init__(
        self,
        rng: ReplicaRng,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: str = "relu",
        dtype: torch.dtype = torch.float32,
        init: Initialiser = uniform_init,
    ) -> None:
        super().__init__()
        self.net = MLP(rng, 1, [obs_dim, *hidden, 2 * action_dim], activation, dtype, init)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std before squashing, `[R, B, A]` each."""
        mean, raw = self.net(obs).chunk(2, dim=-1)
        half = 0.5 * (self.LOG_STD_HIGH - self.LOG_STD_LOW)
        return mean, self.LOG_STD_LOW + half * (torch.tanh(raw) + 1.0)

    def sample(self, obs: Tensor, rng: ReplicaRng) -> tuple[Tensor, Tensor]:
        """Draw actions `[R, B, A]` by reparameterisation, with log pi `[R, B]`."""
        mean, log_std = self(obs)
        noise = rng.normal(*mean.shape[1:])
        pre = mean + log_std.exp() * noise
        log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 - tanh(u)^2) in the form that is exact for large |u|.
        log_slope = 2.0 * (math.log(2.0) - pre - F.softplus(-2.0 * pre))
        return torch.tanh(pre), (log_normal - log_slope).sum(-1)

    def mean_action(self, obs: Tensor) -> Tensor:
        """Return the squashed mean `[R, B, A]`, used in evaluation."""
        return torch.tanh(self(obs)[0])


def epsilon_greedy(action: Tensor, chance: float, rng: ReplicaRng) -> Tensor:
    """Each action of `[R, B, A]`, or with this chance a uniform one in its place."""
    random = rng.uniform(*action.shape[1:], low=-1.0, high=1.0)
    greedy = rng.uniform(action.shape[1], 1) >= chance
    return torch.where(greedy, action, random)


class Temperature(nn.Module):
    """Entropy weight alpha, one per replica, fixed or learned as exp(log_alpha)."""

    def __init__(self, replicas: int, initial: float, device: torch.device) -> None:
        super().__init__()
        start = torch.full((replicas,), math.log(initial), device=device)
        self.log_alpha = nn.Parameter(start)

    def value(self) -> Tensor:
        """Alpha `[R]`, without gradient."""
        return self.log_alpha.detach().exp()

    def loss(self, log_prob: Tensor, target_entropy: float) -> Tensor:
        """Sum over replicas of E[-alpha (log pi + target entropy)]; `log_prob` is `[R, B]`."""
        gap = (log_prob.detach() + target_entropy).mean(-1)
        return -(self.log_alpha.exp() * gap).sum()

    def soft_policy_loss(
        self, q: Tensor, log_prob: Tensor, target_entropy: float, learned: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Policy loss E[alpha log pi - Q] and, if alpha is learned, its own, to be minimised.

        Args:
            q: values of the policy's actions, `[R, B]`.
            log_prob: of these actions, `[R, B]`.
            target_entropy: that alpha steers to.
            learned: whether alpha moves.

        Returns:
            The sum over replicas and losses, and the metrics of soft actor-critic, `[R]` each.
        """
        alpha = self.value()
        loss = (alpha[:, None] * log_prob - q).mean(-1)
        total = loss.sum()
        if learned:
            total = total + self.loss(log_prob, target_entropy)
        entropy = -log_prob.detach().mean(-1)
        return total, {"actor_loss": loss.detach(), "entropy": entropy, "temperature": alpha}
