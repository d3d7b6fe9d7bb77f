"""Twin delayed deep deterministic policy gradient (TD3).

Fujimoto, van Hoof and Meger 2018, "Addressing Function Approximation Error in
Actor-Critic Methods" (arXiv 1802.09477), Algorithm 1 line by line:

    exploration  a = mu(s) + N(0, sigma)
    smoothing    a' = clip(mu'(s') + clip(N(0, sigma'), +-c), +-1)
    Q target     y = r + gamma (1 - end) min_i Q'_i(s', a')
    actor        E[ -Q_1(s, mu(s)) ], with both target networks, every d updates

Defaults are those of the authors' code, sfujim/TD3 34770cc, which differ from the paper's
(networks of 400 and 300, learning rate 1e-3, batch 100): preset `paper`. That code treats
a time limit as any other step, so `released` differs only in float32 products and in its
25,000 random steps, which here are the protocol's. One fault it keeps and this file does
not: a fall in the very step of the time limit counts as the time limit.

Preset `mbbl` is the TD3 behind MBBL's tables, WilsonWangTHU/mbbl-rlkit 7fa5c1a: a time
limit ends the task, and 1,000 steps come before learning (there those of the untrained
policy, here uniform ones).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.heads import TwinCritic
from algos.parts.layers import MLP
from algos.parts.optim import adam, bellman_target, clone_frozen, fit_critic, polyak_, step
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng


@dataclass(frozen=True, kw_only=True)
class TD3Config(OffPolicyConfig):
    """Options of TD3; `code` in a sentence is sfujim/TD3 `main.py` and `TD3.py`."""

    hidden: int = option(256, "width of the hidden layers (code; paper: 400, 300)", low=1)
    second_hidden: int = option(0, "width of the second hidden layer; 0 is `hidden`", low=0)
    learning_rate: float = option(3e-4, "Adam of actor and critic (code; paper: 1e-3)", low=0.0)
    exploration_noise: float = option(
        0.1,
        "std sigma of the noise while exploring, the action range being [-1, 1] (paper)",
        low=0.0,
    )
    target_noise: float = option(0.2, "std sigma' of the target's noise (paper)", low=0.0)
    target_clip: float = option(0.5, "bound c of the target's noise (paper)", low=0.0)
    policy_every: int = option(2, "critic updates d for one of the actor (paper)", low=1)


class TD3(OffPolicyAgent):
    """Deterministic policy, twin critics, smoothed targets, delayed actor."""

    title = "TD3"
    paper = (
        "Fujimoto et al. 2018, Addressing Function Approximation Error in Actor-Critic Methods, "
        "arXiv 1802.09477"
    )
    Config = TD3Config
    config: TD3Config
    observation_kinds = ("state", "pixels")
    presets = {
        "released": {"random_steps": 25_000, "precision": "float32"},
        "paper": {
            "hidden": 400,
            "second_hidden": 300,
            "learning_rate": 1e-3,
            "batch_size": 100,
            # And 10,000 random steps, the default; 1,000 where episodes can end early.
        },
        "mbbl": {
            "hidden": 400,
            "second_hidden": 300,
            "learning_rate": 1e-3,
            "random_steps": 1_000,
            "time_limit_terminal": True,
        },
        "quick": {"hidden": 128, "batch_size": 128},
    }

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, obs_dim, action_dim = self.config, self.obs_dim, self.spaces.action_dim
        dtype, hidden = self.dtype, [c.hidden, c.second_hidden or c.hidden]
        self.actor = MLP(self.rng, 1, [obs_dim, *hidden, action_dim], dtype=dtype)
        self.critic = TwinCritic(self.rng, obs_dim, action_dim, hidden, dtype=dtype)
        self.actor_target = clone_frozen(self.actor)
        self.critic_target = clone_frozen(self.critic)
        self.actor_optimizer = adam(self.actor.parameters(), c.learning_rate)
        self.critic_optimizer = adam(self.with_vision(self.critic), c.learning_rate)

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Return the policy's action, with Gaussian noise while exploring."""
        action = torch.tanh(self.actor(obs))
        if not explore:
            return action
        return action + self.config.exploration_noise * rng.normal(*action.shape[1:])

    def phase(self) -> bool:
        """Whether actor and target networks move at this update."""
        return self.counters.updates % self.config.policy_every == 0

    def learn(self) -> dict[str, Tensor]:
        """Take a critic step; at every d-th also one of the actor and of both target networks."""
        (batch,) = self.sample()
        metrics = self.update_critic(batch)
        if self.phase():
            self.update_actor(batch.obs.detach())
            polyak_(self.critic_target, self.critic, self.config.tau)
            polyak_(self.actor_target, self.actor, self.config.tau)
        return metrics

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Regress both heads onto the smaller value of the smoothed target action."""
        with torch.no_grad():
            value = self.critic_target(batch.next_obs, self.target_action(batch.next_obs)).amin(1)
            y = bellman_target(batch, value, self.config.discount)
        q = self.critic(batch.obs, batch.action)
        return fit_critic(self.critic_optimizer, q, y)

    @torch.no_grad()
    def target_action(self, obs: Tensor) -> Tensor:
        """Return the target policy's action with clipped noise, `[R, B, A]` in [-1, 1]."""
        c = self.config
        action = torch.tanh(self.actor_target(obs))
        noise = c.target_noise * self.rng.normal(*action.shape[1:])
        return (action + noise.clamp_(-c.target_clip, c.target_clip)).clamp_(-1.0, 1.0)

    def update_actor(self, obs: Tensor) -> None:
        """Raise the first critic's value of the policy's action."""
        q = self.critic(obs, torch.tanh(self.actor(obs)), frozen=True)[:, 0]
        step(self.actor_optimizer, -q.mean(-1).sum())
