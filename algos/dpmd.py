"""DPMD: diffusion policy mirror descent.

Ma, Chen, Wang, Li, Dai 2025, "Efficient Online Reinforcement Learning for Diffusion Policy"
(arXiv 2502.00361). A step of policy mirror descent has the solution

    pi_new(a|s) ∝ pi(a|s) exp(Q(s, a) / alpha),

and weighted score matching fits a diffusion policy to it from samples of the present one.
For the next states s' of a batch:

    a'       best of 32 samples of the online policy by min_i Q_i, + 0.1 alpha z, clipped
    critic   y = 0.2 r + gamma (1 - end) min_i Q'_i(s', a')
    weight   w = exp(clip((q - mu) / sigma, +-3) / alpha),  q = min_i Q_i(s', a')
    policy   E[ w (eps(x_t, t, s') - z)² ],  x_t = sqrt(abar_t) a' + sqrt(1 - abar_t) z
    mu       <- mu + 0.001 (mean q - mu);  sigma likewise, with the deviation of q
    alpha    until the entropy of noise of std 0.1 alpha is -0.9 A

Policy and target networks move at every second update, alpha at every 250th. The target
policy acts, with the same choice among 32 by the online values and, while exploring, the
same noise. The rule of alpha sees no data: it is a schedule, from 5 over 1.65 at 50,000
updates to 0.984 from 150,000 on.

Defaults are those of the authors' code, mahaitongdae/diffusion_policy_online_rl a50cf41
(`code` below; `scripts/train_mujoco.py`), except for its faults, which the preset
`released` brings back:

* it has `q - mu / sigma` where (q - mu) / sigma is meant (`normalisation`);
* it applies every critic gradient twice, and takes q of the weight from the critics between
  the two steps (`double_critic_step`);
* it does not clip a' to the actions that can be taken (`clip_actions`).

Its steps come from 5 environments with one update for all, here from one with an update
each; all schedules count updates. Networks are those of `algos.parts.denoiser`: the code embeds
time in 16 numbers instead of 32, and starts with other weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.denoiser import Denoiser, best_of
from algos.parts.diffusion import Diffusion, linear_betas
from algos.parts.heads import Temperature, TwinCritic
from algos.parts.layers import scaled_normal_init
from algos.parts.optim import (
    adam,
    bellman_target,
    clone_frozen,
    fit_critic,
    per_replica_mean,
    polyak_,
    set_rate,
    step,
)
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng


@dataclass(frozen=True, kw_only=True)
class DPMDConfig(OffPolicyConfig):
    """Options of DPMD; `code` is mahaitongdae/diffusion_policy_online_rl a50cf41."""

    random_steps: int = option(30_000, "uniform random actions before learning (code)", low=0)
    reward_scale: float = option(0.2, "factor of the reward in the target (code)", low=1e-6)
    diffusion_steps: int = option(20, "steps T of the diffusion policy (code)", low=1)
    beta_scale: float = option(
        0.8, "factor of the betas that rise linearly from 1e-4 to 0.999 (code)", low=0.0, high=1.0
    )
    start_std: float = option(
        0.5, "std of the random start of sampling (code; the forward process ends at 1)", low=0.0
    )
    particles: int = option(32, "actions to choose from, everywhere (code)", low=1)
    normalisation: str = option(
        "standard",
        "of q in the weight: standard is (q - mu) / sigma, precedence is q - mu / sigma (code)",
        choices=("standard", "precedence"),
    )
    weight_clip: float = option(3.0, "bound of the normalised q (code)", low=0.0)
    statistics_rate: float = option(0.001, "rate of mu and sigma (code)", low=0.0, high=1.0)
    clip_actions: bool = option(True, "clip the target's action to [-1, 1] (code does not)")
    noise_scale: float = option(0.1, "std of the actions' noise by alpha (code)", low=1e-6)
    initial_alpha: float = option(5.0, "temperature alpha at the start (code)", low=1e-8)
    alpha_learning_rate: float = option(7e-3, "Adam of log alpha (code)", low=0.0)
    alpha_every: int = option(250, "updates for one of alpha (code)", low=1)
    entropy_per_action: float = option(-0.9, "target entropy per action coordinate (code)")
    policy_every: int = option(2, "updates for one of policy and targets (code)", low=1)
    hidden: int = option(256, "width of the three hidden layers (code)", low=1)
    learning_rate: float = option(3e-4, "Adam of the critics, the policy's at first (code)", low=0)
    final_rate: float = option(0.1, "the policy's last learning rate by its first (code)", low=0.0)
    decay_start: int = option(25_000, "policy updates before its rate falls (code)", low=0)
    decay_steps: int = option(50_000, "policy updates while its rate falls (code)", low=1)
    double_critic_step: bool = option(
        False, "apply each critic gradient again after the weights are taken (code does)"
    )


class RunningStatistics(nn.Module):
    """Exponential averages of mean and standard deviation of values, `[R]` each."""

    mean: Tensor
    std: Tensor

    def __init__(self, replicas: int, rate: float, device: torch.device) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.zeros(replicas, device=device))
        self.register_buffer("std", torch.ones(replicas, device=device))

    def update(self, values: Tensor) -> None:
        """Move towards the statistics of `values` `[R, B]`."""
        self.mean.lerp_(values.mean(-1), self.rate)
        self.std.lerp_(values.std(-1, correction=0), self.rate)


class DPMD(OffPolicyAgent):
    """Diffusion policy fitted to its own samples, weighted by exp(Q / alpha)."""

    title = "DPMD"
    paper = "Ma et al. 2025, Efficient Online Reinforcement Learning for Diffusion Policy"
    Config = DPMDConfig
    config: DPMDConfig
    presets = {
        # mahaitongdae/diffusion_policy_online_rl a50cf41
        "released": {
            "normalisation": "precedence",
            "double_critic_step": True,
            "clip_actions": False,
            "precision": "float32",
        },
        "quick": {"diffusion_steps": 10, "particles": 4, "hidden": 128, "batch_size": 128},
    }

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, obs_dim, action_dim = self.config, self.obs_dim, self.spaces.action_dim
        dtype, steps = self.dtype, c.diffusion_steps
        betas = c.beta_scale * linear_betas(steps, 1e-4, 0.999)
        self.diffusion = Diffusion(betas, self.device)
        self.actor = Denoiser(self.rng, obs_dim, action_dim, c.hidden, steps, dtype)
        self.critic = TwinCritic(
            self.rng, obs_dim, action_dim, [c.hidden] * 3, "mish", dtype, scaled_normal_init
        )
        self.actor_target = clone_frozen(self.actor)
        self.critic_target = clone_frozen(self.critic)
        self.temperature = Temperature(self.replicas, c.initial_alpha, self.device)
        self.statistics = RunningStatistics(self.replicas, c.statistics_rate, self.device)
        self.actor_optimizer = adam(self.actor.parameters(), c.learning_rate)
        self.critic_optimizer = adam(self.critic.parameters(), c.learning_rate)
        self.alpha_optimizer = adam(self.temperature.parameters(), c.alpha_learning_rate)

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Return the target policy's choice, with noise while exploring."""
        action = self.choose(self.actor_target, obs, rng)
        return self.perturb(action, rng) if explore else action

    def choose(self, actor: Denoiser, obs: Tensor, rng: ReplicaRng) -> Tensor:
        """Return the best of `particles` samples by the smaller online value, `[R, B, A]`."""
        c = self.config
        return best_of(
            actor, self.critic, self.diffusion, obs, c.particles, rng, start_std=c.start_std
        )

    def perturb(self, action: Tensor, rng: ReplicaRng) -> Tensor:
        """Return `action` plus Gaussian noise of std `noise_scale` alpha, not clipped."""
        std = self.config.noise_scale * self.temperature.value()[:, None, None]
        return action + std * rng.normal(*action.shape[1:])

    def phase(self) -> tuple[bool, bool]:
        """Whether policy and targets move at this update, and whether alpha does."""
        c, count = self.config, self.counters.updates - 1
        return count % c.policy_every == 0, count % c.alpha_every == 0

    def anneal(self) -> None:
        """Set the policy's learning rate."""
        set_rate(self.actor_optimizer, self.policy_rate())

    def learn(self) -> dict[str, Tensor]:
        """Take a critic step; the policy, alpha and the targets move at updates of their own."""
        moves_policy, moves_alpha = self.phase()
        (batch,) = self.sample()
        action = self.target_action(batch.next_obs)
        metrics = self.update_critic(batch, action)
        weight = self.weight(batch.next_obs, action)
        if self.config.double_critic_step:  # by the gradient of `update_critic`
            self.critic_optimizer.step()
        if moves_policy:
            self.update_policy(batch.next_obs, action, weight)
            polyak_(self.critic_target, self.critic, self.config.tau)
            polyak_(self.actor_target, self.actor, self.config.tau)
        metrics |= {"weight": weight.mean(-1), "alpha": self.temperature.value()}
        if moves_alpha:
            self.update_alpha()
        return metrics

    @torch.no_grad()
    def target_action(self, obs: Tensor) -> Tensor:
        """Return the action a' `[R, B, A]`: the online policy's choice with noise."""
        action = self.perturb(self.choose(self.actor, obs, self.rng), self.rng)
        return action.clamp_(-1.0, 1.0) if self.config.clip_actions else action

    def update_critic(self, batch: Batch, next_action: Tensor) -> dict[str, Tensor]:
        """Regress both heads onto the smaller target value of `next_action`.

        The metric `q` is in units of the reward, like that of every other method.
        """
        scale = self.config.reward_scale
        with torch.no_grad():
            value = self.critic_target(batch.next_obs, next_action).amin(1)
            scaled = batch._replace(reward=scale * batch.reward)
            y = bellman_target(scaled, value, self.config.discount)
        q = self.critic(batch.obs, batch.action)
        metrics = fit_critic(self.critic_optimizer, q, y)
        return metrics | {"q": metrics["q"] / scale}

    @torch.no_grad()
    def weight(self, obs: Tensor, action: Tensor) -> Tensor:
        """exp(clip(normalised q, +-3) / alpha), `[R, B]`; then mu and sigma take in q."""
        c, q = self.config, self.critic(obs, action).amin(1)
        mean, std = self.statistics.mean[:, None], self.statistics.std[:, None].clamp(min=1e-6)
        normal = (q - mean) / std if c.normalisation == "standard" else q - mean / std
        self.statistics.update(q)
        alpha = self.temperature.value()[:, None]
        return (normal.clamp_(-c.weight_clip, c.weight_clip) / alpha).exp_()

    def update_policy(self, obs: Tensor, action: Tensor, weight: Tensor) -> None:
        """Weighted denoising regression onto `action` `[R, B, A]`."""
        error = self.actor.squared_error(self.diffusion, action, obs, self.rng)
        step(self.actor_optimizer, per_replica_mean(weight.unsqueeze(-1) * error).sum())

    def policy_rate(self) -> float:
        """Return the policy's learning rate now: constant, then linear, then constant."""
        c = self.config
        done = (self.counters.updates - 1) // c.policy_every - c.decay_start
        share = min(max(done / c.decay_steps, 0.0), 1.0)
        return c.learning_rate * (1.0 - share * (1.0 - c.final_rate))

    def update_alpha(self) -> None:
        """One step of log alpha towards the target entropy of the actions' noise."""
        c, action_dim = self.config, self.spaces.action_dim
        variance = (c.noise_scale * self.temperature.value()).square()
        entropy = 0.5 * action_dim * (2.0 * math.pi * math.e * variance).log()
        gap = entropy - c.entropy_per_action * action_dim
        step(self.alpha_optimizer, (self.temperature.log_alpha * gap).sum())
