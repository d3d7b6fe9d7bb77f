"""DIPO: a diffusion policy that imitates actions moved up the critic's gradient.

Yang, Huang, Lei et al. 2023, "Policy Representation via Diffusion Probability Model for
Reinforcement Learning" (arXiv 2305.13122). The policy is a DDPM over actions, and every
transition keeps a second action a~, at first the one that was taken. In each update

    Q target   y = r + gamma (1 - end) min_i Q'_i(s', a'),  a' ~ pi'(.|s')
    K times    g = grad_a~ sum_batch min_i Q_i(s, a~),  clipped to norm ratio * A,
               a~ <- clip(a~ + Adam(g), +-1)                         (action gradient)
    memory     a~ replaces what the transition kept                  (`write_back`)
    policy     L = mean ‖ eps(sqrt(abar_t) a~ + sqrt(1-abar_t) z, t, s) - z ‖²

Adam starts afresh for every batch of actions. The clip is joint over all B x A numbers of a
replica and Adam divides by their size, so it hardly matters. Acting takes one sample, and
evaluation the mean chain from a random start.

Defaults are those of the authors' code, BellmanTimeHut/DIPO c6d8d1b; the per-task table
of its README, which the code does not apply by itself, is in `task_overrides`. Where
text and code disagree, each reading is an option:

* text replaces the actions in memory by the improved ones. Code means to, but copies them
  into a temporary array, so every action gradient starts from the action that was taken.
  Published numbers of DIPO come from that code: they are those of `write_back=False`, as
  in the preset `released`. With `write_back` an action moves on at every visit.
* code ends the bootstrap at a time limit; default here: it does not. Preset `released`.
* tables list two hidden layers; code has three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.denoiser import Denoiser
from algos.parts.diffusion import SCHEDULES, Diffusion
from algos.parts.frames import FrameReplay
from algos.parts.heads import TwinCritic
from algos.parts.layers import scaled_normal_init
from algos.parts.optim import (
    adam,
    bellman_target,
    clone_frozen,
    fit_critic,
    per_replica_mean,
    polyak_,
    step,
)
from algos.parts.replay import Batch, Replay
from algos.parts.rng import ReplicaRng
from algos.parts.types import Array, Transition


@dataclass(frozen=True, kw_only=True)
class DIPOConfig(OffPolicyConfig):
    """Options of DIPO; `code` in a sentence is BellmanTimeHut/DIPO `main.py`."""

    write_back: bool = option(
        True, "keep improved actions in memory (text; the released code does not)"
    )
    action_learning_rate: float = option(0.03, "Adam on the actions (code)", low=0.0)
    action_gradient_steps: int = option(20, "steps K of the action gradient (code)", low=0)
    action_grad_ratio: float = option(
        0.1, "gradient norm of a batch of actions over A; 0 does not clip (code)", low=0.0
    )
    diffusion_steps: int = option(100, "steps T of the diffusion policy (code)", low=1)
    noise_schedule: str = option(
        "cosine", "schedule of the diffusion policy (code)", choices=tuple(SCHEDULES)
    )
    eval_noise: bool = option(False, "keep the reverse process stochastic in evaluation (code)")
    hidden: int = option(256, "width of the three hidden layers (code)", low=1)
    actor_learning_rate: float = option(3e-4, "Adam of the policy (code)", low=0.0)
    critic_learning_rate: float = option(3e-4, "Adam of the critic (code)", low=0.0)
    adam_epsilon: float = option(1e-5, "epsilon of all three Adams (code)", low=0.0)
    max_grad_norm: float = option(
        2.0, "gradient norm of policy and critic; 0 does not clip (code)", low=0.0
    )
    actor_target_every: int = option(1, "updates between those of the target actor (code)", low=1)


class ActionMemory:
    """The action to imitate for every transition of a replay memory, in the same slot.

    Args:
        replay: where the observations are; it grows in step with this memory.
        replicas: R.
        action_dim: A.
        device: where the actions live.
    """

    def __init__(
        self, replay: Replay | FrameReplay, replicas: int, action_dim: int, device: torch.device
    ) -> None:
        self.replay = replay
        self.actions = torch.zeros(replicas, replay.capacity, action_dim, device=device)
        self.replica = torch.arange(replicas, device=device)[:, None]
        self.used = 0

    def add(self, action: Array) -> None:
        """Store the action `[R, A]` of the transition that `replay` took last."""
        slot = self.replay.last_slot()
        self.actions[self.replica[:, 0], slot] = torch.as_tensor(action, device=slot.device)
        self.used = max(self.used, int(slot.max()) + 1)

    def sample(self, batch_size: int, rng: ReplicaRng) -> tuple[Tensor, Tensor, Tensor]:
        """Slots `[R, B]`, uniform with replacement, their observations and actions."""
        index = self.replay.draw(batch_size, rng)
        slots = self.replay.slots(index).to(self.actions.device)
        return slots, self.replay.observations(index), self.actions[self.replica, slots]

    def replace(self, index: Tensor, action: Tensor) -> None:
        """Overwrite the slots `[R, B]` by `action` `[R, B, A]`; of equal slots the first counts.

        Rows of one slot differ by rounding at most, but which of several writes to one place
        comes last is open on a GPU.
        """
        first = (index[:, :, None] == index[:, None, :]).int().argmax(-1)
        self.actions[self.replica, index] = action[self.replica, first]

    def state_dict(self) -> dict[str, Tensor]:
        """Actions stored so far."""
        return {"actions": self.actions[:, : self.used]}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore them exactly."""
        self.used = state["actions"].shape[1]
        self.actions[:, : self.used] = state["actions"]


class DIPO(OffPolicyAgent):
    """Diffusion policy trained on actions moved up the critic's gradient."""

    title = "DIPO"
    paper = "Yang et al. 2023, Policy Representation via Diffusion Probability Model for RL"
    Config = DIPOConfig
    config: DIPOConfig
    observation_kinds = ("state", "pixels")
    presets = {
        "released": {
            "write_back": False,
            "time_limit_terminal": True,
            "precision": "float32",
        },
        "quick": {
            "diffusion_steps": 10,
            "action_gradient_steps": 5,
            "hidden": 128,
            "batch_size": 128,
        },
    }
    # README of the released code, for the v3 tasks. Humanoid takes Humanoid-v3's.
    task_overrides = {
        f"gym/{task}-v{version}": options
        for version in (4, 5)
        for task, options in {
            "Ant": {"max_grad_norm": 0.8},
            "HalfCheetah": {
                "action_grad_ratio": 0.08,
                "action_gradient_steps": 40,
                "actor_target_every": 2,
            },
            "Hopper": {"max_grad_norm": 1.0, "action_grad_ratio": 0.3},
            "Humanoid": {},
            "Walker2d": {"action_grad_ratio": 0.08},
        }.items()
    }

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, obs_dim, action_dim = self.config, self.obs_dim, self.spaces.action_dim
        dtype = self.dtype
        steps, hidden = c.diffusion_steps, [c.hidden] * 3
        self.memory = ActionMemory(self.replay, self.replicas, action_dim, self.device)
        self.diffusion = Diffusion(SCHEDULES[c.noise_schedule](steps), self.device)
        self.actor = Denoiser(self.rng, obs_dim, action_dim, c.hidden, steps, dtype)
        self.critic = TwinCritic(
            self.rng, obs_dim, action_dim, hidden, "mish", dtype, scaled_normal_init
        )
        self.actor_target = clone_frozen(self.actor)
        self.critic_target = clone_frozen(self.critic)
        self.actor_optimizer = adam(self.actor.parameters(), c.actor_learning_rate, c.adam_epsilon)
        self.critic_optimizer = adam(
            self.with_vision(self.critic), c.critic_learning_rate, c.adam_epsilon
        )

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """One sample while exploring; the mean chain from a random start in evaluation."""
        noisy = explore or self.config.eval_noise
        return self.actor.sample(self.diffusion, obs, 1, rng, noisy)[:, :, 0]

    def observe(self, transition: Transition) -> None:
        """See `Agent.observe`; the action goes into both memories."""
        super().observe(transition)
        self.memory.add(transition.action)

    def phase(self) -> bool:
        """Whether the target actor moves at this update."""
        return self.counters.updates % self.config.actor_target_every == 0

    def learn(self) -> dict[str, Tensor]:
        """Critic, then actions, then the policy on them, then both target networks."""
        (batch,) = self.sample()
        metrics = self.update_critic(batch)
        index, seen, action = self.memory.sample(self.config.batch_size, self.rng)
        obs = self.see(seen)
        improved = self.improve(obs, action)
        if self.config.write_back:
            self.memory.replace(index, improved)
        metrics |= self.imitate(obs, improved)
        metrics["action_change"] = per_replica_mean((improved - action).abs())
        polyak_(self.critic_target, self.critic, self.config.tau)
        if self.phase():
            polyak_(self.actor_target, self.actor, self.config.tau)
        return metrics

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Regress both heads onto the value of one sample of the target policy."""
        with torch.no_grad():
            action = self.actor_target.sample(self.diffusion, batch.next_obs, 1, self.rng)
            value = self.critic_target(batch.next_obs, action[:, :, 0]).amin(1)
            y = bellman_target(batch, value, self.config.discount)
        q = self.critic(batch.obs, batch.action)
        return fit_critic(self.critic_optimizer, q, y, self.replicas, self.config.max_grad_norm)

    def improve(self, obs: Tensor, action: Tensor) -> Tensor:
        """K steps of Adam on the actions `[R, B, A]` up min(Q1, Q2), free of gradients."""
        c = self.config
        improved = nn.Parameter(action.clone())
        optimizer = adam([improved], c.action_learning_rate, c.adam_epsilon)
        limit = c.action_grad_ratio * action.shape[-1]
        for _ in range(c.action_gradient_steps):
            q = self.critic(obs, improved, frozen=True).amin(1)
            step(optimizer, -q.sum(), self.replicas, limit)
            with torch.no_grad():
                improved.clamp_(-1.0, 1.0)
        return improved.detach()

    def imitate(self, obs: Tensor, action: Tensor) -> dict[str, Tensor]:
        """One Adam step of the policy on the denoising loss of `action` `[R, B, A]`."""
        loss = per_replica_mean(self.actor.squared_error(self.diffusion, action, obs, self.rng))
        step(self.actor_optimizer, loss.sum(), self.replicas, self.config.max_grad_norm)
        return {"actor_loss": loss.detach()}
