"""DrQ-v2: deep deterministic policy gradients from pixels with random shifts.

Yarats, Fergus, Lazaric, Pinto 2021, "Mastering Visual Continuous Control: Improved
Data-Augmented Reinforcement Learning" (arXiv 2107.09645). With h = f(shift(image)), the
features of a shared encoder, sg for no gradient, and noise eps clipped to +-c:

    target   y = sum_{k<n} gamma^k r_{t+k} + gamma^n min_i Q'_i(h_{t+n}, mu(h_{t+n}) + eps)
    critic   sum_i E[ (Q_i(h, a) - y)² ], which trains f as well               (eq. 2-3)
    actor    E[ -min_i Q_i(sg h, mu(sg h) + eps) ]                             (eq. 4)
    noise    std falls linearly from 1.0 to 0.1                                (eq. 5)

There is no target encoder: the target critic reads the features of the present one. Both
critics share a trunk, the actor has its own.

Defaults are those of the authors' code, facebookresearch/drqv2 c0c650b, with the schedule of
its medium tasks, which rl-rep's Meta-World runs use too (haotiansun14/rl-rep d4dd78a). Over
500,000 steps, a million frames, the noise reaches 0.1 only at the end of such a run. The code
draws an episode first and then a step of it, from finished episodes only; here every stored
step with a complete window is as likely as another, of the running episode too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from algos.base.drq import DrQActor, DrQAgent, DrQConfig
from algos.parts.heads import TwinCritic
from algos.parts.layers import orthogonal_init
from algos.parts.optim import adam, bellman_target, clone_frozen, fit_critic, polyak_, step
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from algos.parts.vision import ConvEncoder, Trunk

# `cfgs/task/*.yaml` of the code, which names levels of difficulty. Medium is the default.
EASY = (
    *("cartpole-balance", "cartpole-balance-sparse", "cartpole-swingup", "cup-catch"),
    *("finger-spin", "hopper-stand", "pendulum-swingup", "walker-stand", "walker-walk"),
)
HARD = ("humanoid-stand", "humanoid-walk", "humanoid-run")
WALKER = {"n_step": 1, "batch_size": 512}


def _overrides() -> dict[str, Mapping[str, Any]]:
    """Options that the code sets by task."""
    hard = {"noise_steps": 2_000_000, "trunk_dim": 100, "learning_rate": 8e-5}
    values = {name: {"noise_steps": 100_000} for name in EASY} | dict.fromkeys(HARD, hard)
    for name in ("walker-stand", "walker-walk", "walker-run"):
        values[name] = {**values.get(name, {}), **WALKER}
    values["quadruped-run"] = {"replay_capacity": 100_000}
    return {f"dmc/{name}": options for name, options in values.items()}


class TrunkCritic(nn.Module):
    """Two action values per replica behind one trunk."""

    def __init__(
        self,
        rng: ReplicaRng,
        feature_dim: int,
        action_dim: int,
        trunk_dim: int,
        hidden: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(rng, feature_dim, trunk_dim, dtype)
        self.heads = TwinCritic(
            rng, trunk_dim, action_dim, [hidden, hidden], dtype=dtype, init=orthogonal_init
        )

    def forward(self, features: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Values `[R, 2, B]`; `frozen` passes gradients to the action alone."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            h = self.trunk(features)
        return self.heads(h, action, frozen)


class DrQv2(DrQAgent):
    """Deterministic policy and twin critics on augmented pixels."""

    title = "DrQ-v2"
    paper = "Yarats et al. 2021, Mastering Visual Continuous Control, arXiv 2107.09645"
    Config = DrQConfig
    config: DrQConfig
    presets = {
        # The defaults are the code's; float32 is what it computes in.
        "released": {"precision": "float32"},
        "quick": {"hidden": 256, "batch_size": 64, "noise_steps": 5_000},
    }
    task_overrides = _overrides()

    def make_vision(self) -> ConvEncoder:
        """Return the convolutions alone: actor and critic have trunks of their own."""
        return ConvEncoder(self.rng, self.spaces.obs_shape, self.dtype)

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, action_dim = self.config, self.spaces.action_dim
        sizes = (self.obs_dim, action_dim, c.trunk_dim, c.hidden, self.dtype)
        self.actor = DrQActor(self.rng, *sizes)
        self.critic = TrunkCritic(self.rng, *sizes)
        self.target = clone_frozen(self.critic)
        self.actor_optimizer = adam(self.actor.parameters(), c.learning_rate)
        self.critic_optimizer = adam(self.with_vision(self.critic), c.learning_rate)

    def learn(self) -> dict[str, Tensor]:
        """One step of critic and encoder, one of the actor, then the target critic."""
        (batch,) = self.sample()
        metrics = self.update_critic(batch) | self.update_actor(batch.obs.detach())
        polyak_(self.target, self.critic, self.config.tau)
        return metrics

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Regress both heads onto the n-step target (eq. 2-3)."""
        with torch.no_grad():
            action = self.noisy(self.actor(batch.next_obs))
            value = self.target(batch.next_obs, action).amin(1)
            y = bellman_target(batch, value, self.config.discount)
        q = self.critic(batch.obs, batch.action)
        return fit_critic(self.critic_optimizer, q, y)

    def update_actor(self, obs: Tensor) -> dict[str, Tensor]:
        """Raise the smaller value of the noisy action (eq. 4); `obs` are fixed features."""
        action = self.noisy(self.actor(obs))
        loss = -self.critic(obs, action, frozen=True).amin(1).mean(-1)
        step(self.actor_optimizer, loss.sum())
        std = torch.full_like(loss.detach(), self.noise_std())
        return {"actor_loss": loss.detach(), "noise_std": std}
