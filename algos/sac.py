"""Soft actor-critic (SAC).

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv
1812.05905); equation numbers below are that paper's.

    Q target   y = r + gamma (1 - end) [ min_i Q'_i(s', a') - alpha log pi(a'|s') ]   (eq. 5-6)
    actor      E[ alpha log pi(a|s) - min_i Q_i(s, a) ], a reparameterised              (eq. 7-9)
    alpha      E[ -alpha (log pi(a|s) + target entropy) ]                              (eq. 18)

Defaults: two hidden layers of 256 ReLU, learning rate 3e-4 everywhere, batch 256,
tau 0.005 and a target entropy of minus the action dimension are the paper's Table 1;
the log std rescaled by tanh into [-5, 2] follows CleanRL (vwxyzjn/cleanrl fe8d8a03).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.heads import GaussianActor, Temperature, TwinCritic
from algos.parts.optim import adam, bellman_target, clone_frozen, fit_critic, polyak_, step
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng


@dataclass(frozen=True, kw_only=True)
class SACConfig(OffPolicyConfig):
    """Options of SAC."""

    hidden: int = option(256, "width of the two hidden layers (paper, Table 1)", low=1)
    learning_rate: float = option(3e-4, "Adam, all networks (paper, Table 1)", low=0.0)
    temperature: str = option(
        "learned",
        "entropy weight: learned (paper, eq. 18) or fixed at `initial_temperature`",
        choices=("learned", "fixed"),
    )
    initial_temperature: float = option(
        1.0, "entropy weight at the start (1.0: CleanRL, log alpha = 0)", low=1e-8
    )


class SAC(OffPolicyAgent):
    """Soft actor-critic with twin critics and a learned temperature."""

    title = "SAC"
    paper = "Haarnoja et al. 2018, Soft Actor-Critic Algorithms and Applications, arXiv 1812.05905"
    Config = SACConfig
    config: SACConfig
    observation_kinds = ("state", "pixels")
    presets = {
        # No code of the baseline in the QVPO and DIPO papers is public; DIPO's README
        # gives a fixed entropy weight of 0.2 (BellmanTimeHut/DIPO c6d8d1b).
        "released": {"temperature": "fixed", "initial_temperature": 0.2},
        "quick": {"hidden": 128, "batch_size": 128},
    }

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        config, obs_dim, action_dim = self.config, self.obs_dim, self.spaces.action_dim
        dtype = self.dtype
        hidden = [config.hidden, config.hidden]
        self.actor = GaussianActor(self.rng, obs_dim, action_dim, hidden, dtype=dtype)
        self.critic = TwinCritic(self.rng, obs_dim, action_dim, hidden, dtype=dtype)
        self.target = clone_frozen(self.critic)
        self.temperature = Temperature(self.replicas, config.initial_temperature, self.device)
        self.target_entropy = -float(action_dim)
        rate = config.learning_rate
        self.critic_optimizer = adam(self.with_vision(self.critic), rate)
        # One optimiser for both: no weight of one loss is in the other.
        self.actor_optimizer = adam(
            [*self.actor.parameters(), *self.temperature.parameters()], rate
        )

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Sample while exploring, the mean in evaluation."""
        return self.actor.sample(obs, rng)[0] if explore else self.actor.mean_action(obs)

    def phase(self) -> bool:
        """Every update does the same."""
        return True

    def learn(self) -> dict[str, Tensor]:
        """One step of critic, actor and temperature, then of the target critic."""
        (batch,) = self.sample()
        critic_metrics = self.update_critic(batch)
        actor_metrics = self.update_actor(batch.obs.detach())
        polyak_(self.target, self.critic, self.config.tau)
        return critic_metrics | actor_metrics

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Regress both heads onto the soft Bellman target (eq. 5-6)."""
        with torch.no_grad():
            action, log_prob = self.actor.sample(batch.next_obs, self.rng)
            soft = self.temperature.value()[:, None] * log_prob
            value = self.target(batch.next_obs, action).amin(1) - soft
            y = bellman_target(batch, value, self.config.discount)
        q = self.critic(batch.obs, batch.action)
        return fit_critic(self.critic_optimizer, q, y)

    def update_actor(self, obs: Tensor) -> dict[str, Tensor]:
        """Improve the policy (eq. 7-9); the same sample serves the temperature (eq. 18)."""
        action, log_prob = self.actor.sample(obs, self.rng)
        q = self.critic(obs, action, frozen=True).amin(1)
        learned = self.config.temperature == "learned"
        total, metrics = self.temperature.soft_policy_loss(
            q, log_prob, self.target_entropy, learned
        )
        step(self.actor_optimizer, total)
        return metrics
