"""Proximal policy optimisation (PPO), and simple policy optimisation (SPO) as an option.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), with
generalised advantages of Schulman et al. 2015 (arXiv 1506.02438). Every `rollout_steps`
steps, with V the critic, from the last step of the rollout backwards:

    delta_t = r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t)
    A_t     = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_{t+1}
    R_t     = A_t + V(s_t)

and then `epochs` passes over the rollout in random minibatches, with A normalised in each:

    rho     = pi(a|s) / pi_old(a|s)
    clip    E[ min(rho A, clip(rho, 1 +- eps) A) ]                              (eq. 7)
    spo     E[ rho A - |A| (rho - 1)² / (2 eps) ]
    value   0.5 E[ max((V - R)², (V_old + clip(V - V_old, +-eps) - R)²) ]
    loss    -policy + c_v value - c_e entropy                                   (eq. 9)

s_{t+1} is the state that followed, never that of a new episode: a time limit bootstraps.

Defaults are those of CleanRL's `ppo_continuous_action.py`, vwxyzjn/cleanrl fe8d8a03, one
environment. It takes a time limit for the end of the task: preset `cleanrl`. Its wrappers
that normalise observations and rewards are part of the agent here (`TransitionNormaliser`).

Preset `released` is the PPO of the DIPO and QVPO papers, of which no code is public: the
numbers of the README of BellmanTimeHut/DIPO c6d8d1b. Preset `spo` is Simple Policy
Optimization (Xie et al. 2025, ICML), MyRepositories-hub/Simple-Policy-Optimization 48c13fd
`mujoco/main.py`, where eight environments fill the rollout of 2048 steps that one fills here.

The policy is a Gaussian over the whole line. The environment gets its sample clamped to
[-1, 1]; ratios are of the sample itself, as CleanRL has it (`DrawnAction`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from algos.base.agent import Agent
from algos.base.offpolicy import Counters
from algos.parts.advantages import discounted_sum, standardise
from algos.parts.config import AgentConfig, OptionError, option
from algos.parts.gaussian_policy import TanhGaussianPolicy, set_gains
from algos.parts.layers import MLP, orthogonal_init
from algos.parts.normaliser import TransitionNormaliser
from algos.parts.optim import adam, per_replica_mean, step
from algos.parts.rng import ReplicaRng
from algos.parts.rollout import DrawnAction, Rollout, RolloutSteps
from algos.parts.types import Array, Spaces, Transition

# Hidden layers of the policy in SPO's code; its critic has the usual two.
DEEP = (256, 256, 128, 128, 64, 64)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(AgentConfig):
    """Options of PPO; `code` in a sentence is CleanRL's `ppo_continuous_action.py`."""

    batch_size: int = option(
        64, "transitions in a minibatch, at most the rollout (code: 2048 / 32)", low=2
    )
    precision: str = option(
        "float32",
        "arithmetic of the hidden layers where the machine has it; rounding to bfloat16 moves "
        "ratios by some percent",
        choices=("float32", "tf32", "bfloat16"),
    )
    rollout_steps: int = option(2048, "environment steps between two learnings (code)", low=2)
    epochs: int = option(10, "passes over a rollout (code)", low=1)
    objective: str = option(
        "clip", "policy objective: clip (PPO) or spo (Xie et al. 2025)", choices=("clip", "spo")
    )
    clip: float = option(0.2, "eps of the objective and of the value clip (code)", low=1e-6)
    value_clip: bool = option(True, "keep V within eps of its old value in the loss (code)")
    value_weight: float = option(0.5, "weight c_v of the value loss (code)", low=0.0)
    entropy_weight: float = option(0.0, "weight c_e of the entropy (code)", low=0.0)
    gae_lambda: float = option(0.95, "lambda of the advantages (code)", low=0.0, high=1.0)
    normalise_advantages: bool = option(True, "to mean 0, std 1 in each minibatch (code)")
    hidden: int = option(64, "width of the two hidden layers (code)", low=1)
    deep_policy: bool = option(
        False, "six hidden layers of 256 down to 64 in the policy (SPO's code) instead of two"
    )
    learning_rate: float = option(3e-4, "Adam of policy and critic (code)", low=0.0)
    adam_epsilon: float = option(1e-5, "epsilon of Adam (code)", low=0.0)
    anneal_steps: int = option(
        1_000_000,
        "steps over which the learning rate falls linearly to 0 (code: the budget); 0 is off",
        low=0,
    )
    max_grad_norm: float = option(
        0.5, "gradient norm over policy and critic together; 0 does not clip (code)", low=0.0
    )
    normalise_observations: bool = option(
        True, "by running mean and variance, then clipped to +-10 (code)"
    )
    normalise_rewards: bool = option(
        True, "by the running std of the discounted return, then clipped to +-10 (code)"
    )
    time_limit_terminal: bool = option(
        False, "treat a time limit as the end of the task (a fault of CleanRL's and SPO's code)"
    )

    def __post_init__(self) -> None:
        """Check that minibatches are of one size, so that every transition weighs the same."""
        if self.batch_size < self.rollout_steps and self.rollout_steps % self.batch_size:
            raise OptionError(
                f"option batch_size={self.batch_size}: rollout_steps={self.rollout_steps} is no "
                f"multiple of it"
            )


class Minibatch(NamedTuple):
    """Rows of a rollout with what the losses need, each `[R, B, ...]`.

    Attributes:
        obs: normalised, `[R, B, S]`.
        action: the policy's own sample before clamping, `[R, B, A]`.
        log_prob: log pi_old, `[R, B, 1]`.
        value: V_old, `[R, B, 1]`.
        advantage: A, `[R, B, 1]`.
        target: R, the return that V regresses onto, `[R, B, 1]`.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor


class PPO(Agent):
    """Gaussian policy, clipped ratios, generalised advantages; learns once per rollout."""

    title = "PPO"
    paper = "Schulman et al. 2017, Proximal Policy Optimization Algorithms, arXiv 1707.06347"
    Config = PPOConfig
    config: PPOConfig
    on_policy = True
    presets = {
        "cleanrl": {"time_limit_terminal": True},
        "released": {
            "hidden": 256,
            "batch_size": 256,
            "learning_rate": 7e-4,
            "entropy_weight": 0.01,
        },
        "spo": {
            "objective": "spo",
            "deep_policy": True,
            "batch_size": 512,
            "adam_epsilon": 1e-8,
            "anneal_steps": 10_000_000,
            "time_limit_terminal": True,
        },
        "quick": {"rollout_steps": 256, "anneal_steps": 0},
    }

    def __init__(
        self,
        spaces: Spaces,
        config: AgentConfig,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(spaces, config, seeds, device)
        self.obs_dim = math.prod(spaces.obs_shape)
        c, obs_dim, action_dim = self.config, self.obs_dim, spaces.action_dim
        dtype, two = self.dtype, [c.hidden] * 2
        layers = DEEP if c.deep_policy else two
        self.actor = TanhGaussianPolicy(self.rng, [obs_dim, *layers, action_dim], dtype)
        self.critic = MLP(self.rng, 1, [obs_dim, *two, 1], "tanh", dtype, orthogonal_init)
        set_gains(self.critic, last=1.0)
        # One optimiser, since the gradient norm is that of both networks together.
        weights = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = adam(weights, c.learning_rate, c.adam_epsilon)
        self.normaliser = TransitionNormaliser(
            self.replicas, obs_dim, c.discount, c.normalise_observations, c.normalise_rewards
        )
        self.rollout = Rollout(self.replicas, obs_dim, action_dim, c.rollout_steps)
        self.counters = Counters()
        self.drawn = DrawnAction()

    def act(self, obs: Array, explore: bool) -> Array:
        """See `Agent.act`; evaluation reads the running statistics and leaves them alone."""
        return super().act(self.normaliser.obs(obs.reshape(*obs.shape[:2], -1)), explore)

    def policy(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Return a sample while exploring, the mean in evaluation."""
        mean, log_std = self.actor(obs)
        if not explore:
            return mean
        sample = mean + log_std.exp() * rng.normal(*mean.shape[1:])
        self.drawn.keep(sample)
        return sample

    def observe(self, transition: Transition) -> None:
        """Store one normalised step with the sample that led to it."""
        t, replicas = transition, self.replicas
        ends = t.terminated | t.truncated
        terminal = ends if self.config.time_limit_terminal else t.terminated
        raw, raw_next = (x.reshape(replicas, 1, -1) for x in (t.obs, t.next_obs))
        obs = self.normaliser.obs(raw)
        # An observation enters the statistics after it was acted on: `act` leaves them alone.
        self.normaliser.add(raw[:, 0], t.reward, ends)
        next_obs, reward = self.normaliser.obs(raw_next), self.normaliser.reward(t.reward)
        self.rollout.add(obs, self.drawn.of(t.action), next_obs, reward, ~terminal, ~ends)
        self.counters.steps += 1

    def update(self) -> dict[str, Tensor]:
        """Do nothing until the rollout is full, then all epochs; metrics are means over them."""
        if not self.rollout.full:
            return {}
        self.counters.updates += 1
        self.anneal()
        rows = self.prepare(self.rollout.take(self.device))
        metrics = [self.learn(batch) for batch in self.minibatches(rows)]
        return {name: torch.stack([m[name] for m in metrics]).mean(0) for name in metrics[0]}

    def minibatches(self, rows: Tensor) -> Iterator[Minibatch]:
        """Yield all rows `[R, T, W]` of `prepare` in a new random order in every epoch."""
        widths = (self.obs_dim, self.spaces.action_dim, 1, 1, 1, 1)
        for _ in range(self.config.epochs):
            order = self.rng.uniform(rows.shape[1]).argsort(dim=-1, stable=True)
            shuffled = rows.gather(1, order.unsqueeze(-1).expand_as(rows))
            for part in shuffled.split(self.config.batch_size, dim=1):
                yield Minibatch(*part.split(widths, dim=-1))

    def anneal(self) -> None:
        """Set the learning rate: the full one in the first rollout, 0 after `anneal_steps`."""
        c = self.config
        done = (self.counters.steps - c.rollout_steps) / c.anneal_steps if c.anneal_steps else 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = c.learning_rate * max(0.0, 1.0 - done)

    @torch.no_grad()
    def prepare(self, rollout: RolloutSteps) -> Tensor:
        """Add old log-probabilities, values, advantages and returns to a full rollout.

        The policy has not changed since the first of its steps, so all its
        log-probabilities and values come from one pass.

        Returns:
            Columns of `Minibatch` side by side, `[R, T, W]`.
        """
        c = self.config
        log_prob = self.actor.log_prob(rollout.obs, rollout.action)
        value, next_value = (self.critic(x)[..., 0] for x in (rollout.obs, rollout.next_obs))
        delta = rollout.reward + c.discount * rollout.not_terminal * next_value - value
        advantage = discounted_sum(delta, c.discount * c.gae_lambda * rollout.not_ended)
        columns = torch.stack([log_prob, value, advantage, advantage + value], dim=-1)
        return torch.cat([rollout.obs, rollout.action, columns], dim=-1)

    def learn(self, batch: Minibatch) -> dict[str, Tensor]:
        """Do one step on a minibatch (eq. 9); return metrics `[R]`."""
        c = self.config
        log_ratio = self.actor.log_prob(batch.obs, batch.action) - batch.log_prob[..., 0]
        ratio = log_ratio.exp()
        advantage = batch.advantage[..., 0]
        if c.normalise_advantages:
            advantage = standardise(advantage)
        gain = surrogate(c.objective, ratio, advantage, c.clip).mean(-1)
        value = self.critic(batch.obs)
        error = value_error(value, batch.value, batch.target, c.clip if c.value_clip else math.inf)
        value_loss = 0.5 * per_replica_mean(error)
        entropy = self.actor.entropy()
        loss = -gain + c.value_weight * value_loss - c.entropy_weight * entropy
        step(self.optimizer, loss.sum(), self.replicas, c.max_grad_norm)
        with torch.no_grad():
            return {
                "policy_loss": -gain.detach(),
                "value_loss": value_loss.detach(),
                "value": per_replica_mean(value),
                "entropy": entropy.detach(),
                # The estimator of KL(old, new) that is never negative.
                "kl": (ratio - 1.0 - log_ratio).mean(-1),
                "clip_fraction": ((ratio - 1.0).abs() > c.clip).float().mean(-1),
            }


# ---------------------------------------------------------------- losses


def surrogate(objective: str, ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return what the policy maximises, element by element.

    Args:
        objective: `clip` is PPO's eq. 7; `spo` has its optimum at ratio 1 + clip sign(A)
            and a gradient everywhere else, back towards it too.
        ratio: rho.
        advantage: A, like `ratio`.
        clip: eps.
    """
    if objective == "spo":
        return ratio * advantage - advantage.abs() * (ratio - 1.0).square() / (2.0 * clip)
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def value_error(value: Tensor, old: Tensor, target: Tensor, clip: float) -> Tensor:
    """Return the squared error to `target`, the larger of V's and of V's within `clip` of `old`."""
    near = old + (value - old).clamp(-clip, clip)
    return torch.maximum((value - target).square(), (near - target).square())
