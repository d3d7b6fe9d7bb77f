"""QSM: Q-score matching of a diffusion policy.

Psenka, Escontrela, Abbeel, Ma 2023, "Learning a Diffusion Model Policy from Rewards via
Q-Score Matching" (arXiv 2312.11752). The policy is a short reverse process over actions
whose noise predictor is regressed onto the gradient of the values, without ever
differentiating through a sampled action:

    Q target  y = r + gamma (1 - end) min_i Q'_i(s', a'),
              a' = clip(a0 + 0.1 z, +-1),  a0 ~ pi(.|s') of the online policy
    score     x = sqrt(abar_t) a + sqrt(1 - abar_t) z,  a from the memory,  t uniform
              E ‖ eps(x, t, s) + M_q ½ Σ_i ∇_x Q_i(s, x) ‖²
    action    x <- clip((x - beta_t / sqrt(1 - abar_t) eps(x, t, s)) / sqrt(1 - beta_t)
                        + [t > 0] sqrt(beta_t) temperature z, +-1),  t = T-1 .. 0

The gradient is that of the online critics AT THE NOISY ACTION, which may lie outside
[-1, 1]; no gradient flows through it; no factor of the noise level stands before it.

This is the authors' code for DeepMind Control, Alescontrela/score_matching_rl 2e77893,
with the sizes, rates and M_q of its run configuration (the defaults of its learner class
differ: critics of 256, policy of 3 x 256, M_q 1). It treats time limits correctly and
no fault is known in it. Its own history has T 15 and a temperature of 0.2 before the
present values, which a commit of 2024-12-06 calls those of the paper.

Three other algorithms are published under the same name, and are not this one:

* relax (happy-yan/DACER-Diffusion-with-Online-RL, mahaitongdae/diffusion_policy_online_rl):
  a Langevin-like sampler without time input, regressed on the gradient of min Q at the
  clean action, 20 steps, best of N;
* flow-rl (typoverflow/flow-rl): target -sigma_t ∇Q / (temperature mean|∇Q|) of the
  target critics, 20 steps, best of 10;
* DPPO (irom-princeton/dppo): gradient scale 10, memory of 25,000, 16 updates per step on
  batches of 1000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.diffusion import SCHEDULES, Diffusion
from algos.parts.heads import TwinCritic
from algos.parts.layers import MLP
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
class QSMConfig(OffPolicyConfig):
    """Options of QSM; `code` in a sentence is Alescontrela/score_matching_rl."""

    q_scale: float = option(
        50.0,
        "factor M_q of the values' gradient; larger is greedier (code; its README has 120 for "
        "quadruped_walk and humanoid_walk)",
        low=0.0,
    )
    diffusion_steps: int = option(5, "steps T of the diffusion policy (code; once 15)", low=1)
    noise_schedule: str = option(
        "vp", "schedule of the diffusion policy (code)", choices=tuple(SCHEDULES)
    )
    sampling_temperature: float = option(
        1.0, "factor of the noise while sampling (code; once 0.2)", low=0.0
    )
    exploration_noise: float = option(
        0.1, "std added to actions while exploring, then clipped (code)", low=0.0
    )
    target_noise: float = option(
        0.1, "std added to the target's action, then clipped (code)", low=0.0
    )
    hidden: int = option(512, "width of the two hidden layers, all networks (code)", low=1)
    actor_learning_rate: float = option(3e-4, "Adam of the policy at the start (code)", low=0.0)
    critic_learning_rate: float = option(3e-4, "Adam of the critics (code)", low=0.0)
    decay_steps: int = option(
        2_000_000, "updates over which the policy's rate falls to 0 by a cosine (code)", low=1
    )


def xavier_uniform_init(
    rng: ReplicaRng, copies: int, fan_in: int, fan_out: int
) -> tuple[Tensor, Tensor]:
    """Weight U(+-sqrt(6 / (fan_in + fan_out))), zero bias."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    weight = rng.uniform(copies, fan_in, fan_out, low=-bound, high=bound).flatten(0, 1)
    return weight, torch.zeros(weight.shape[0], 1, fan_out, device=weight.device)


class ScoreNet(nn.Module):
    """eps(x, t, s): learnable Fourier features of t, then two hidden layers of mish."""

    FREQUENCIES, TIME_HIDDEN = 32, 128

    def __init__(
        self, rng: ReplicaRng, obs_dim: int, action_dim: int, hidden: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.frequency = nn.Parameter(0.2 * rng.normal(1, self.FREQUENCIES))
        time_sizes = [2 * self.FREQUENCIES, self.TIME_HIDDEN, self.TIME_HIDDEN]
        self.time = MLP(rng, 1, time_sizes, "mish", init=xavier_uniform_init)
        sizes = [action_dim + obs_dim + self.TIME_HIDDEN, hidden, hidden, action_dim]
        self.net = MLP(rng, 1, sizes, "mish", dtype, xavier_uniform_init)

    def forward(self, x: Tensor, t: Tensor, obs: Tensor) -> Tensor:
        """Predicted noise `[R, B, A]` for `x` `[R, B, A]`, `t` `[R, B]`, `obs` `[R, B, S]`."""
        angle = 2.0 * math.pi * t.unsqueeze(-1) * self.frequency
        embedding = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1))
        return cast(Tensor, self.net(torch.cat([x, obs, embedding], dim=-1)))


class QSM(OffPolicyAgent):
    """Diffusion policy whose noise predictor follows the gradient of twin critics."""

    title = "QSM"
    paper = "Psenka et al. 2023, Learning a Diffusion Model Policy from Rewards via QSM"
    Config = QSMConfig
    config: QSMConfig
    presets = {
        # Alescontrela/score_matching_rl 2e77893 is what the defaults are; it has float32.
        "released": {"precision": "float32"},
        "quick": {"hidden": 128, "batch_size": 128},
    }

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, obs_dim, action_dim = self.config, self.obs_dim, self.spaces.action_dim
        dtype, hidden = self.dtype, [c.hidden, c.hidden]
        betas = SCHEDULES[c.noise_schedule](c.diffusion_steps)
        self.betas = betas.tolist()
        self.diffusion = Diffusion(betas, self.device)
        self.actor = ScoreNet(self.rng, obs_dim, action_dim, c.hidden, dtype)
        self.critic = TwinCritic(
            self.rng, obs_dim, action_dim, hidden, dtype=dtype, init=xavier_uniform_init
        )
        self.target = clone_frozen(self.critic)
        self.actor_optimizer = adam(self.actor.parameters(), c.actor_learning_rate)
        # The code has an Adam per critic; Adam acts on each weight alone, so one is the same.
        self.critic_optimizer = adam(self.critic.parameters(), c.critic_learning_rate)

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """One sample of the policy, with noise while exploring."""
        return self.noisy_action(obs, self.config.exploration_noise if explore else 0.0, rng)

    def noisy_action(self, obs: Tensor, std: float, rng: ReplicaRng) -> Tensor:
        """Return a sample of the policy plus Gaussian noise, clipped to [-1, 1], `[R, B, A]`."""
        action = self.draw(obs, rng)
        if std == 0.0:
            return action
        return action.add_(rng.normal(*action.shape[1:]), alpha=std).clamp_(-1.0, 1.0)

    @torch.no_grad()
    def draw(self, obs: Tensor, rng: ReplicaRng) -> Tensor:
        """One sample of the policy per state, `[R, B, A]` for `obs` `[R, B, S]`.

        The released sampler is not that of Ho et al. as in `Diffusion.reverse_step`: it
        clips the sample instead of the clean estimate, and adds noise of variance beta_t.
        """
        shape = (obs.shape[1], self.spaces.action_dim)
        x = rng.normal(*shape)
        for t in reversed(range(self.diffusion.steps)):
            beta = self.betas[t]
            epsilon = self.actor(x, torch.full_like(x[..., 0], t), obs)
            x = (x - beta / self.diffusion.noise[t] * epsilon) / math.sqrt(1.0 - beta)
            if t > 0:
                std = self.config.sampling_temperature * math.sqrt(beta)
                x = x.add_(rng.normal(*shape), alpha=std)
            x = x.clamp_(-1.0, 1.0)
        return x

    def phase(self) -> bool:
        """Every update does the same."""
        return True

    def anneal(self) -> None:
        """Set the policy's learning rate."""
        set_rate(self.actor_optimizer, self.actor_rate())

    def learn(self) -> dict[str, Tensor]:
        """Critics, their targets, then the policy with the new critics; one batch for all."""
        (batch,) = self.sample()
        metrics = self.update_critic(batch)
        polyak_(self.target, self.critic, self.config.tau)
        return metrics | self.update_score(batch)

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Regress both heads onto the value of a noisy action of the online policy."""
        with torch.no_grad():
            action = self.noisy_action(batch.next_obs, self.config.target_noise, self.rng)
            value = self.target(batch.next_obs, action).amin(1)
            y = bellman_target(batch, value, self.config.discount)
        q = self.critic(batch.obs, batch.action)
        return fit_critic(self.critic_optimizer, q, y)

    def update_score(self, batch: Batch) -> dict[str, Tensor]:
        """Regress the noise predictor onto the values' gradient at noisy actions."""
        size, action_dim = batch.action.shape[1:]
        t = self.rng.integers(self.diffusion.steps, size)
        noisy = self.diffusion.corrupt(batch.action, t, self.rng.normal(size, action_dim))
        target = self.score_target(batch.obs, noisy)
        loss = per_replica_mean((self.actor(noisy, t, batch.obs) - target).square())
        step(self.actor_optimizer, loss.sum())
        return {"actor_loss": loss.detach(), "score_norm": target.norm(dim=-1).mean(-1)}

    def score_target(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return what the predictor learns, -M_q ½ Σ_i ∇_a Q_i(s, a) `[R, B, A]`, a constant."""
        action = action.detach().requires_grad_()
        q = self.critic(obs, action, frozen=True).mean(1)
        (gradient,) = torch.autograd.grad(q.sum(), action)
        return -self.config.q_scale * gradient

    def actor_rate(self) -> float:
        """Return the policy's learning rate at this update: half a cosine from its start to 0."""
        done = min((self.counters.updates - 1) / self.config.decay_steps, 1.0)
        return self.config.actor_learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
